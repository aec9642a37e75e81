"""Target `gguf`: files for llama.cpp, Ollama, LM Studio and others; each read back by transformers, and by llama.cpp.

Types f32, f16, bf16, Q8_0 and Q4_0 need the `gguf` package alone; Q4_K_M, Q5_K_M and Q6_K need llama-cpp-python.
Beside the files lie the tokenizer's own, for clients that read no tokenizer from GGUF, and an Ollama Modelfile.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.hub_export import llama_cpp
from yxanul.hub_export.bare import BareTransformers, LlamaCpp
from yxanul.hub_export.gguf_file import K_BLOCK, tokenizer_of, write_gguf
from yxanul.hub_export.llama import copy_beside, merged, why_not_llama
from yxanul.hub_export.ollama import modelfile
from yxanul.hub_export.source import Source
from yxanul.hub_export.verify import Artefact, Limits

LIMITS = {
    "f32": Limits(1e-4, 1e-4, 1e-5, True, "the same numbers, summed in another order"),
    "f16": Limits(None, 0.01, 0.001, False, "weights rounded to 11 bits"),
    "bf16": Limits(None, 0.03, 0.005, False, "weights rounded to 8 bits, and in llama.cpp activations too"),
    "Q8_0": Limits(None, 0.05, 0.005, False, "8 bits, a scale for 32 weights; llama.cpp rounds activations alike"),
    "Q4_0": Limits(None, 0.50, 0.05, False, "4 bits, a scale for 32 weights; llama.cpp rounds activations to 8"),
    "Q6_K": Limits(None, 0.08, 0.01, False, "6.6 bits; llama.cpp rounds activations to 8"),
    "Q5_K_M": Limits(None, 0.15, 0.02, False, "5.7 bits; llama.cpp rounds activations to 8"),
    "Q4_K_M": Limits(None, 0.40, 0.05, False, "4.8 bits; llama.cpp rounds activations to 8"),
}
TYPES, DEFAULT = tuple(LIMITS), ("f16", "Q8_0", "Q4_0")
K_QUANTS = ("Q6_K", "Q5_K_M", "Q4_K_M")
NEEDS = {"gguf": "export"}
UNREAD = "no client here reads this tokenizer from GGUF: llama.cpp does (pip install llama-cpp-python)"
AS_GPT2 = "transformers cuts the text of every such GGUF file as GPT-2 does: give it the tokenizer beside the file"


def check(source: Source, types: Sequence[str]) -> None:
    config = source.config
    if reason := why_not_llama(config, "gguf"):
        raise BadInput(reason)
    if config.hidden_act != "silu":
        raise BadInput(
            f"gguf: the model's feed-forward block is a GEGLU (hidden_act={config.hidden_act}), and llama.cpp's Llama "
            "computes SwiGLU alone; export it to llama or onnx."
        )
    rope_type = config.rope_parameters["rope_type"]
    if rope_type != "default":
        raise BadInput(f"gguf: rope_type={rope_type} is not written by this exporter; export it to llama or onnx.")
    tokenizer_of(source)
    wanted = [kind for kind in types if kind in K_QUANTS]
    if wanted and not llama_cpp.is_installed():
        raise BadInput(
            f"gguf: {', '.join(wanted)} need llama.cpp's own quantiser: pip install llama-cpp-python (it is compiled, "
            "ten minutes of one core), or take Q8_0 or Q4_0."
        )


def write(source: Source, folder: Path, types: Sequence[str]) -> Iterator[Artefact]:
    llama, tokenizer = merged(source), tokenizer_of(source)
    copy_beside(source, folder)
    for kind in types:
        file = folder / f"{source.file_name}-{kind}.gguf"
        if kind in K_QUANTS:
            whole = folder / "whole.gguf"
            notes = write_gguf(whole, llama, tokenizer, "f32", pad_to=K_BLOCK)
            llama_cpp.quantize(whole, file, kind)
            whole.unlink()
            if source.config.hidden_size % K_BLOCK:
                notes.append(
                    f"the width {source.config.hidden_size} is no multiple of {K_BLOCK}: llama.cpp takes other types "
                    "for its matrices"
                )
        else:
            notes = write_gguf(file, llama, tokenizer, kind)
        if tokenizer.pre != "gpt-2" and not llama_cpp.is_installed():
            notes.append(UNREAD)
        yield Artefact(file, f"gguf {kind}", _clients(file, source, tokenizer.pre), LIMITS[kind], tuple(notes))
    passed = [file for kind in types if (file := folder / f"{source.file_name}-{kind}.gguf").exists()]
    if passed:
        text = modelfile(passed[-1].name, source.tokenizer, source.config.max_position_embeddings)
        (folder / "Modelfile").write_text(text, encoding="utf-8")


def _clients(file: Path, source: Source, pre: str) -> list[Any]:
    excuses = {} if pre == "gpt-2" else {"tokenizer": AS_GPT2}
    clients: list[Any] = [partial(BareTransformers, file, excuses=excuses)]
    if llama_cpp.is_installed():
        clients.append(partial(LlamaCpp, file, min(source.config.max_position_embeddings, 512)))
    return clients
