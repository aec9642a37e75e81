"""One GGUF file of a plain Llama, written with nothing but the `gguf` package: shape, tokenizer, template, tensors.

    write_gguf(file, llama, tokenizer_of(source), "Q8_0")      # f32, f16, bf16, Q8_0, Q4_0; returns what was done else

Norms stay in fp32; the table and the head of a 4-bit file are Q8_0, since every token passes through them; a matrix
whose rows are no multiple of 32 stays in f16. Not here: K-quants (llama_cpp.py), what is refused (gguf.py).
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yxanul.bad_input import BadInput
from yxanul.data.tokenizers import gguf_pre_tokenizer, load_tokenizer
from yxanul.hub_export.llama import padded
from yxanul.hub_export.source import Source

BLOCK = 32  # numbers of a row that share a scale, in Q8_0 and Q4_0
K_BLOCK = 256  # in K-quants
QUANTIZED = {"Q8_0": "Q8_0", "Q4_0": "Q8_0"}  # with the type of its table and head
GENERATION = re.compile(r"(\{%-?\s*)(end)?generation(\s*-?%\})")  # transformers' and trl's own tag; jinja has no such


class GgufTokenizer(NamedTuple):
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special_ids: dict[str, int]
    adds_bos: bool
    adds_eos: bool
    chat_template: str | None


def tokenizer_of(source: Source) -> GgufTokenizer:
    """Refuses what a GGUF file cannot say, with the rule."""
    import gguf

    tokenizer, name = source.tokenizer, source.name
    ours = load_tokenizer(source.folder)
    pre = gguf_pre_tokenizer(ours)
    content = json.loads(ours.backend.to_str())
    rows = source.config.vocab_size
    if ours.vocabulary_size > rows:
        raise BadInput(f"the tokenizer {name} has {ours.vocabulary_size:,} ids and the model only {rows:,} rows.")
    tokens, types = [f"[PAD{index}]" for index in range(rows)], [int(gguf.TokenType.UNUSED)] * rows
    for token, index in content["model"]["vocab"].items():
        tokens[index], types[index] = token, int(gguf.TokenType.NORMAL)
    for added in content["added_tokens"]:
        for rule in ("lstrip", "rstrip", "single_word"):
            if added[rule]:
                raise BadInput(
                    f"the tokenizer {name} cannot go to GGUF: its token {added['content']!r} has {rule}=true, and "
                    "GGUF's added tokens have no such rule."
                )
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    special = {each: getattr(tokenizer, f"{each}_token_id") for each in ("bos", "eos", "pad", "unk")}
    if special["eos"] is None:
        raise BadInput(
            f"the tokenizer {name} cannot go to GGUF: it names no end-of-text token; set eos_token in its "
            "tokenizer_config.json."
        )
    adds_bos, adds_eos = _around(tokenizer, name)
    merges = [each if isinstance(each, str) else " ".join(each) for each in content["model"]["merges"]]
    template = tokenizer.chat_template
    if isinstance(template, str):
        template = GENERATION.sub(lambda tag: f"{tag[1]}{'endif' if tag[2] else 'if true'}{tag[3]}", template)
    known = {each: index for each, index in special.items() if index is not None}
    return GgufTokenizer(pre, tokens, types, merges, known, adds_bos, adds_eos, template)


def _around(tokenizer: Any, name: str) -> tuple[bool, bool]:
    """Does the tokenizer put its bos before a text, its eos behind it?"""
    bare, whole = tokenizer("x", add_special_tokens=False).input_ids, tokenizer("x").input_ids
    for before in ([], [tokenizer.bos_token_id]):
        for after in ([], [tokenizer.eos_token_id]):
            if whole == before + bare + after:
                return bool(before), bool(after)
    raise BadInput(
        f"the tokenizer {name} cannot go to GGUF: it puts {tokenizer.decode(whole)!r} around 'x', and GGUF knows "
        "bos before a text and eos behind it alone."
    )


def write_gguf(file: Path, llama: Any, tokenizer: GgufTokenizer, kind: str, *, pad_to: int = 1) -> list[str]:
    """Returns what could not be done as asked. `pad_to` widens the feed-forward blocks with zeros, which is exact."""
    import gguf

    config, types = llama.config, gguf.GGMLQuantizationType
    notes: list[str] = []
    block = BLOCK if kind in QUANTIZED else pad_to
    width = -(-config.intermediate_size // block) * block
    if width != config.intermediate_size:
        notes.append(f"the feed-forward width {config.intermediate_size} was filled up with zeros to {width}: exact")
    writer = gguf.GGUFWriter(str(file), "llama")
    _write_shape(writer, config, width, file.stem)
    writer.add_file_type(gguf.LlamaFileType[("ALL_" if kind == "f32" else "MOSTLY_") + kind.upper()])
    if kind in QUANTIZED:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    kept: set[int] = set()
    for name, weight in llama.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = _interleaved(name, padded(name, weight, width).numpy(), config)
        wanted = types["F32" if values.ndim == 1 else kind.upper()]
        if wanted.name in QUANTIZED:
            if "embed_tokens" in name or "lm_head" in name:
                wanted = types[QUANTIZED[kind]]
            if values.shape[-1] % BLOCK:
                kept.add(values.shape[-1])
                wanted = types["F16"]
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target is not None
        writer.add_tensor(target, gguf.quants.quantize(np.ascontiguousarray(values), wanted), raw_dtype=wanted)
    if kept:
        widths = ", ".join(map(str, sorted(kept)))
        notes.append(f"matrices of width {widths} stay in f16: {kind} wants a multiple of {BLOCK}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return notes


def _write_shape(writer: Any, config: Any, width: int, name: str) -> None:
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(width)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _write_tokenizer(writer: Any, tokenizer: GgufTokenizer) -> None:
    writer.add_tokenizer_model("gpt2")  # llama.cpp's word for byte-level BPE
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    for name, index in tokenizer.special_ids.items():
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(tokenizer.adds_eos)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _interleaved(name: str, weight: np.ndarray, config: Any) -> np.ndarray:
    """RoPE turns pairs: the two halves of a head here, neighbours in ggml."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    pairs = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, pairs, -1).swapaxes(1, 2).reshape(weight.shape)
