"""`yxanul merge RUN_OR_ADAPTER --out FOLDER`: a LoRA adapter and its base become one model, which needs no PEFT.

The base is the one that the adapter names. Not here: training adapters (lora.py).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import answer
from yxanul.data.tokenizers import check_free
from yxanul.run_folder import RunFolder

CONFIG = "adapter_config.json"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="yxanul merge", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("adapter", type=Path, help="a run's folder, or one with an adapter")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the model")
    options = parser.parse_args(arguments)
    merge(options.adapter, options.out)
    answer(f"{options.out} loads with from_pretrained.")
    return 0


def merge(adapter: Path, out: Path) -> None:
    run = RunFolder(adapter)
    folder = run.final if run.final.is_dir() else adapter
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{folder} has no {CONFIG}: name the folder of a LoRA adapter, or of a finished run with lora.")
    check_free(out)
    base = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]

    import torch
    from transformers import AutoTokenizer

    try:
        from peft import PeftModel
    except ImportError:
        raise BadInput('merging needs PEFT: pip install "yxanul[lora]".') from None

    from yxanul.data.whole_files import whole_folder
    from yxanul.modeling_yxanul import YxanulForCausalLM

    try:
        model: Any = YxanulForCausalLM.from_pretrained(base, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(f"{folder / CONFIG}: its base {base} cannot be loaded: {reason}") from None
    merged: Any = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    with whole_folder(out) as partial:
        merged.save_pretrained(partial)
        if (folder / "tokenizer.json").is_file():
            AutoTokenizer.from_pretrained(folder).save_pretrained(partial)
