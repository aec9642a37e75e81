"""Target `onnx`: the model with its cache for ONNX Runtime and transformers.js, laid out as the latter asks for it.

    onnx/model.onnx  model_fp16.onnx  model_quantized.onnx (int8)  model_q4.onnx  model_q4f16.onnx
    config.json (model_type llama says how to call it)   tokenizer.json   tokenizer_config.json (with the template)

Factorised embeddings, GEGLU and learned positions need no twin elsewhere: the graph holds what the model computes.
"""

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.whole_files import write_json
from yxanul.hub_export.onnx_client import OnnxRuntime
from yxanul.hub_export.onnx_graph import onnx_graph, save
from yxanul.hub_export.source import Source
from yxanul.hub_export.verify import Artefact, Limits

# Each type's file and its name in transformers.js, which takes q8 where a browser has no GPU
FILES = {
    "fp32": ("model.onnx", "fp32"),
    "fp16": ("model_fp16.onnx", "fp16"),
    "int8": ("model_quantized.onnx", "q8"),
    "q4": ("model_q4.onnx", "q4"),
    "q4f16": ("model_q4f16.onnx", "q4f16"),
}
TYPES = tuple(FILES)
DEFAULT = ("fp32", "fp16", "int8", "q4")
NEEDS = {"onnx": "export", "onnxscript": "export", "onnxruntime": "export"}
LIMITS = {
    "fp32": Limits(1e-4, 1e-4, 1e-5, True, "the same computation in fp32, in another order"),
    "fp16": Limits(None, 0.02, 0.002, False, "weights and activations of 11 bits"),
    "int8": Limits(None, 0.2, 0.02, False, "weights, with a scale a column, and activations of 8 bits"),
    "q4": Limits(None, 0.4, 0.05, False, "weights of 4 bits with a scale for 32"),
    "q4f16": Limits(None, 0.4, 0.05, False, "weights of 4 bits with a scale for 32, activations of 11 bits"),
}
LARGEST = 2**31 - 2**20  # bytes of one protobuf message


def check(source: Source, types: Sequence[str]) -> None:
    for kind in types:
        size = source.parameters * (2 if kind.endswith("16") else 4)
        if size > LARGEST:
            raise BadInput(
                f"onnx: {kind} of {source.parameters:,} parameters is made from a graph of {size / 1e9:.1f} GB, and "
                "an ONNX file holds 2 GB: take --types fp16,q4f16, or another target."
            )
    template = source.tokenizer.chat_template
    if template and not isinstance(template, str) and "chat_template" not in _tokenizer_config(source):
        raise BadInput("onnx: the tokenizer has several chat templates, and one is expected: keep one.")


def write(source: Source, folder: Path, types: Sequence[str]) -> Iterator[Artefact]:
    write_beside(source, folder, types)
    for kind in types:
        model = "fp16" if kind.endswith("16") else "fp32"
        if model not in source.graphs:  # of another target, perhaps
            source.graphs[model] = onnx_graph(copy.deepcopy(source.model).half() if model == "fp16" else source.model)
        path = folder / "onnx" / FILES[kind][0]
        save(source.graphs[model], kind, path)
        clients = [partial(OnnxRuntime, path, folder, config=source.config, batch=batch) for batch in (1, 3)]
        yield Artefact(path, f"onnx {kind}", clients, LIMITS[kind])


def write_beside(source: Source, folder: Path, types: Sequence[str]) -> None:
    """What transformers.js reads beside the graph."""
    names = [FILES[kind][1] for kind in types]
    config = source.config.to_dict()
    for name in ("auto_map", "embedding_rank", "learned_position_embeddings", "transformers_version"):
        config.pop(name, None)
    config |= {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "use_cache": True,
        "transformers.js_config": {
            "dtype": "fp32" if "fp32" in names else names[0],
            "device_config": {"wasm": {"dtype": "q8" if "q8" in names else names[0]}},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    template = source.tokenizer.chat_template
    settings = _tokenizer_config(source) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", settings | ({"chat_template": template} if template else {}))
    tokenizer = json.loads((source.folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = _without_digits(tokenizer.get("pre_tokenizer"))
    write_json(folder / "tokenizer.json", tokenizer)
    if (source.folder / "generation_config.json").is_file():
        shutil.copyfile(source.folder / "generation_config.json", folder / "generation_config.json")


def _without_digits(step: Any) -> Any:
    """transformers.js takes 0 to 9 alone for digits; the same split written as a pattern it reads as `tokenizers`."""
    if not isinstance(step, dict):
        return step
    if step["type"] == "Sequence":
        return step | {"pretokenizers": [_without_digits(each) for each in step["pretokenizers"]]}
    if step["type"] == "Digits":
        pattern = r"\p{N}" if step["individual_digits"] else r"\p{N}+"
        return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return step


def _tokenizer_config(source: Source) -> dict[str, Any]:
    path = source.folder / "tokenizer_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
