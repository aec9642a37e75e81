"""`yxanul merge RUN_OR_ADAPTER --out FOLDER`: a LoRA adapter and its base become one model, which needs no PEFT.

    yxanul merge runs/lora --out models/merged
    yxanul merge runs/lora/final --out models/merged

The base is the one that the adapter names, in full precision, also where the adapter learnt above a quantised one.
Not here: training adapters (lora.py).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.hub_reach import offline_where_no_hub_is
from yxanul.data.progress import answer, say
from yxanul.data.tokenizers import check_free
from yxanul.run_folder import RunFolder
from yxanul.shell import command

CONFIG = "adapter_config.json"


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    learnt_above = merge(options.adapter, options.out)
    if learnt_above != "full":
        say(
            f"the adapter learnt above a base in {learnt_above}; it was merged into the base in full precision, which "
            "is near what it learnt above, and not the same: evaluate the merged model."
        )
    answer(f"{options.out} loads with from_pretrained.")
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("merge", __doc__)
    parser.add_argument("adapter", type=Path, help="a run's folder, or one with an adapter")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the model")
    return parser


def merge(adapter: Path, out: Path) -> str:
    """Returns what the adapter learnt above: full, nf4 or int8."""
    run = RunFolder(adapter)
    folder = run.final if run.final.is_dir() else adapter
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{folder} has no {CONFIG}: name the folder of a LoRA adapter, or of a finished run with lora.")
    check_free(out)
    base = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise BadInput(f"{folder / CONFIG} names no base: write a folder or Hub name at base_model_name_or_path.")

    import torch
    from transformers import AutoTokenizer
    from transformers.trainer_utils import align_special_tokens

    try:
        from peft import PeftModel
    except ImportError:
        raise BadInput('merging needs PEFT: pip install "yxanul[lora]".') from None

    from yxanul.data.whole_files import whole_folder
    from yxanul.modeling_yxanul import YxanulForCausalLM
    from yxanul.training.lora import learnt_above

    if not Path(base).is_dir():
        offline_where_no_hub_is()
    try:
        model: Any = YxanulForCausalLM.from_pretrained(base, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(f"{folder / CONFIG}: its base {base} cannot be loaded: {reason}") from None
    try:
        merged: Any = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:  # of another shape; of a computed head
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadInput(f"{folder} cannot be merged into {base}: {reason}.") from None
    with whole_folder(out) as partial:
        own = next((place for place in (folder, Path(base)) if (place / "tokenizer.json").is_file()), None)
        if own:
            tokenizer = AutoTokenizer.from_pretrained(own)
            align_special_tokens(merged, tokenizer)  # as training did: generation stops where its template ends
            tokenizer.save_pretrained(partial)
        merged.save_pretrained(partial)
    return learnt_above(folder)
