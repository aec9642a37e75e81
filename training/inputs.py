"""Opens what a run reads, and checks before any work starts that bins, held-out bins, tokenizer and model agree.

Not here: making what is missing (preparing.py).
"""

from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.configuration_yxanul import YxanulConfig
from yxanul.data.bins import TokenBin, open_bin
from yxanul.data.chat_templates import load_chat_tokenizer
from yxanul.data.plan import Plan
from yxanul.data.stream import Stream
from yxanul.data.tokenizers import load_tokenizer
from yxanul.evaluation.bits_per_byte import HeldOut
from yxanul.evaluation.zero_shot import WATCHED, find_task
from yxanul.training.config import RunConfig
from yxanul.training.gates import FEWEST_DOCUMENTS
from yxanul.training.held_out_conversations import HeldOutConversations
from yxanul.training.teacher import check_teacher


def check_inputs(config: RunConfig, plan: Plan, shape: YxanulConfig) -> None:
    """As far as they are there; what the recipe's data section will make need not be."""
    check_teacher(config)
    names = [*plan.source_names, *config.validation.values()]
    missing = [name for name in names if not Path(name).is_dir()]
    for name in missing:
        if not any(Path(name).is_relative_to(made) for made in config.data):
            raise _not_there(name)
    _check_lengths(plan, shape)
    if not missing:
        open_held_out(config, plan, open_stream(config, plan, shape), shape, rows=1)


def open_stream(config: RunConfig, plan: Plan, shape: YxanulConfig) -> Stream:
    _check_lengths(plan, shape)
    fingerprint = load_tokenizer(config.tokenizer).fingerprint if config.tokenizer else None
    bins = {name: _open(name, fingerprint, shape) for name in plan.source_names}
    for token_bin in bins.values():
        _check_conversations(config, token_bin)
    first, *others = bins.values()
    for other in others:
        _check_same_tokenizer(first, other)
    _check_origin(config, first)
    check_teacher(config, first)
    return Stream(plan, bins, config.seed)


def _check_origin(config: RunConfig, token_bin: TokenBin) -> None:
    """Weights that a run begins with know the ids of their own tokenizer alone."""
    if config.init_from is None:
        return
    try:
        own = load_tokenizer(config.init_from)
    except BadInput:  # weights without a tokenizer
        return
    theirs = token_bin.manifest["tokenizer"]
    is_grown = config.tokenizer is not None and load_tokenizer(config.tokenizer).extends(own)
    if own.fingerprint != theirs["fingerprint"] and not is_grown:
        raise BadInput(
            f"{token_bin.folder} was made with the tokenizer {theirs['name']}, which is not that of init_from="
            f"{config.init_from}: set tokenizer={config.init_from}, and make bins with it under other names."
        )


def _check_conversations(config: RunConfig, token_bin: TokenBin) -> None:
    if not token_bin.is_conversations:
        return
    if config.tokenizer is None:
        raise BadInput(f"{token_bin.folder} holds conversations: set tokenizer to the one with their chat template.")
    if not config.document_mask:
        raise BadInput(f"{token_bin.folder} holds several conversations in a row: set document_mask: true.")
    if load_chat_tokenizer(config.tokenizer).template_digest != token_bin.manifest["chat_template"]:
        raise BadInput(
            f"{token_bin.folder} was made with another chat template than that of {config.tokenizer}: make it again, "
            "under another name."
        )


def _check_lengths(plan: Plan, shape: YxanulConfig) -> None:
    for stage in plan.stages:
        for phase in stage.phases:
            if phase.length > shape.max_position_embeddings:
                raise BadInput(
                    f"stage {stage.name}: length {phase.length} is above the model's max_position_embeddings="
                    f"{shape.max_position_embeddings}: shorten the phase, or set model_config.max_position_embeddings="
                    f"{phase.length}."
                )


def open_held_out(config: RunConfig, plan: Plan, stream: Stream, shape: YxanulConfig, rows: int) -> dict[str, HeldOut]:
    length = config.validation_length or max(phase.length for stage in plan.stages for phase in stage.phases)
    length = min(length, shape.max_position_embeddings)
    first = next(iter(stream.bins.values()))
    held_out = {}
    for domain, folder in config.validation.items():
        token_bin = _open(folder, None, shape)
        _check_same_tokenizer(first, token_bin)
        _check_conversations(config, token_bin)
        kind: Any = HeldOutConversations if token_bin.is_conversations else HeldOut
        held_out[domain] = kind(
            token_bin,
            length=length,
            rows=rows,
            max_tokens=config.validation_tokens,
            document_mask=config.document_mask,
        )
    _check_gates(config, held_out)
    return held_out


def _check_gates(config: RunConfig, held_out: dict[str, HeldOut]) -> None:
    """With so few documents no change is ever proved, and the run would find out at the end of a stage."""
    for stage, gate in config.gates().items():
        for task, _ in gate.holds:
            find_task(task)
            if config.tokenizer is None and task.partition("=")[0] in WATCHED:
                raise config.wrong(f"stage {stage}, gate: {task} is asked in words: set tokenizer, as the bins' was.")
        for domain in (gate.domain, *gate.known):
            documents = held_out[domain].documents
            if documents < FEWEST_DOCUMENTS:
                raise BadInput(
                    f"stage {stage}, gate: {config.validation[domain]} gives {documents} held-out documents within "
                    f"validation_tokens={config.validation_tokens:,}, and a gate needs {FEWEST_DOCUMENTS} at least, a "
                    "few dozen to prove small changes: raise validation_tokens, or hold out more text."
                )


def _open(folder: str, fingerprint: str | None, shape: YxanulConfig) -> TokenBin:
    if not Path(folder).is_dir():
        raise _not_there(folder)
    token_bin = open_bin(folder, fingerprint)
    vocabulary = token_bin.manifest["tokenizer"]["vocabulary_size"]
    if vocabulary > shape.vocab_size:
        raise BadInput(
            f"{folder} was made with a tokenizer of {vocabulary:,} ids, the model has vocab_size="
            f"{shape.vocab_size:,}: set model_config.vocab_size={vocabulary}, or take another tokenizer."
        )
    return token_bin


def _not_there(folder: str) -> BadInput:
    return BadInput(
        f"the bin {folder}, a source or validation text of the recipe, is not there: make it with `yxanul data "
        "prepare`, or say under `data` how it is made."
    )


def _check_same_tokenizer(first: TokenBin, other: TokenBin) -> None:
    one, two = first.manifest["tokenizer"], other.manifest["tokenizer"]
    if one["fingerprint"] != two["fingerprint"]:
        raise BadInput(
            f"{first.folder} and {other.folder} were made with different tokenizers ({one['name']} and {two['name']}"
            "): prepare one of them again."
        )


def load_fast_tokenizer(config: RunConfig) -> Any:
    """transformers' own, to be saved beside the weights: its tokenizer.json as it is.

    A class of a model's name, such as GPT2Tokenizer (SmolLM2 has it), takes vocabulary and merges alone, and puts its
    own pre-tokenizer before them: what is saved would be another tokenizer than that of the bins.
    """
    if config.tokenizer is None:
        return None
    from transformers import PreTrainedTokenizerFast

    path = Path(config.tokenizer)
    return PreTrainedTokenizerFast.from_pretrained(path.parent if path.is_file() else config.tokenizer)
