"""The model that is exported: a run's final/, a folder, or a name on the Hub; what is none of these is refused.

source = open_source("runs/demo/final")
source.config, source.tokenizer, source.model        # the model in fp32, loaded when it is asked for
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.hub_reach import offline_where_no_hub_is
from yxanul.hub_export.subject import CONFIG, find_subject, read_object

# What a tokenizer and generation are made of, beside the weights
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
WANTED = ("config.json", "*.safetensors", "*.safetensors.index.json", *BESIDE)


class Source:
    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.graphs: dict[str, Any] = {}  # in ONNX, fp32 and fp16: onnx, mobile and web are made of the same

    @cached_property
    def config(self) -> Any:
        from yxanul import YxanulConfig

        try:
            return YxanulConfig.from_pretrained(self.folder)
        except (ValueError, OSError, TypeError) as error:
            raise BadInput(f"{self.folder / 'config.json'}: {_first_line(error)}") from None

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder)
        except Exception as error:  # the `tokenizers` library raises a bare Exception
            raise BadInput(f"the tokenizer of {self.folder} cannot be loaded: {_first_line(error)}") from None

    @cached_property
    def model(self) -> Any:
        import torch
        from safetensors import SafetensorError

        from yxanul.modeling_yxanul import YxanulForCausalLM

        try:
            return YxanulForCausalLM.from_pretrained(self.folder, config=self.config, dtype=torch.float32).eval()
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise BadInput(f"the weights of {self.folder} cannot be loaded: {_first_line(error)}") from None

    @cached_property
    def revision(self) -> str:
        from yxanul.evaluation.text_model import folder_hash

        return folder_hash(self.folder)

    @cached_property
    def parameters(self) -> int:
        return self.model.num_parameters()

    @property
    def file_name(self) -> str:
        """What files that are made of it are called."""
        path = Path(self.name)
        known = [part for part in path.absolute().parts if part not in ("final", "checkpoints")]
        return re.sub(r"[^\w.-]+", "-", path.name if "/" in self.name and not path.exists() else known[-1])


def open_source(text: str) -> Source:
    import yxanul

    yxanul.register()  # else the tokenizer's loader looks for the code that came with the weights
    subject = find_subject(text if Path(text).exists() else str(_download(text)))
    if subject.is_adapter:
        raise BadInput(f"{text} is an adapter, not a model: `yxanul merge {text} --out MERGED`, then export MERGED.")
    kind = read_object(subject.folder / CONFIG).get("model_type")
    if kind != "yxanul":
        raise BadInput(f"{text} is a model of the type {kind}, and only models of the type yxanul are exported here.")
    return Source(text, subject.folder)


def _download(name: str) -> Path:
    """Without code or pickles. The address and the access token are huggingface_hub's affair."""
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    offline_where_no_hub_is()
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except hub.HFValidationError:
        raise BadInput(f"{name} is no folder here, and no name on the Hub, which is MODEL or OWNER/MODEL.") from None
    except hub.GatedRepoError:
        raise BadInput(f"{name} is gated: accept its terms on the Hub, then set HF_TOKEN to your token.") from None
    except hub.RepositoryNotFoundError:
        raise BadInput(f"{name} is no folder here, and none on the Hub that you may read (HF_TOKEN?).") from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        raise BadInput(f"{name} is no folder here, and the Hub cannot be reached (it is not in the cache).") from None


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") + "."
