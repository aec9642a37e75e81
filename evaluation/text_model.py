"""A causal model with its tokenizer as benchmarks see them: how text becomes ids, how much fits, what comes before.

    subject = load("runs/demo/final")                  # a folder or a name on the Hub, ours or not
    subject.pair("Question: 1+1?\nAnswer:", " 2")      # ids of the context, ids of the continuation

The ids are lm-eval's, with one exception: where tokens cross spaces (SuperBPE), context and continuation are encoded
apart (`boundary`), for the cut through joint ids falls inside of a word and characters are lost.
Not here: scores (scoring.py), generation (generation.py).
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from yxanul.bad_input import BadInput
from yxanul.data.hub_reach import offline_where_no_hub_is

LONGEST_BY_DEFAULT = 2048  # lm-eval's, where neither config nor tokenizer says
TOKENIZER_FILES = "tokenizer*", "vocab*", "*.model", "*.tiktoken"
UNSAID = 10**18  # transformers writes 10**30 for "no limit"
CROSSES_SPACES = re.compile(r"[!-~][\s\u0120\u010a\u2581]+[A-Za-z]")  # byte-level BPE writes a space as U+0120


class TextModel:
    def __init__(self, model: Any, tokenizer: Any, device: torch.device, revision: str = "") -> None:
        if tokenizer is None or tokenizer.eos_token_id is None:
            raise BadInput(
                "the model's tokenizer names no end-of-text token, and a text without context must begin behind one: "
                "set eos_token in its tokenizer_config.json."
            )
        self.model, self.tokenizer, self.device, self.revision = model, tokenizer, device, revision
        self.end_id: int = tokenizer.eos_token_id
        self.prefix_id: int = self.end_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self._prefix = tokenizer.decode(self.prefix_id)
        self.shares_rows: bool | None = None  # scoring.py finds out
        self.is_ours = model.config.model_type == "yxanul"

    @cached_property
    def longest(self) -> int:
        """Tokens that the model takes."""
        config = self.model.config.get_text_config()
        for name in ("n_positions", "max_position_embeddings", "n_ctx"):
            if getattr(config, name, None) is not None:
                return int(getattr(config, name))
        limit = self.tokenizer.model_max_length
        return LONGEST_BY_DEFAULT if limit is None or limit > UNSAID else int(limit)

    @cached_property
    def boundary(self) -> str:
        """lm-eval's rule ("joint"), or "apart"."""
        words = set(self.tokenizer.get_vocab()) - set(self.tokenizer.get_added_vocab())
        return "apart" if any(CROSSES_SPACES.search(word) for word in words) else "joint"

    def encode(self, text: str) -> list[int]:
        """With the special tokens that the tokenizer adds, unless the text begins with one."""
        special = {"add_special_tokens": False} if text.startswith(self._prefix) else {}
        return self.tokenizer.encode(text, verbose=False, **special)

    def encode_bare(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, verbose=False, add_special_tokens=False)

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        if not bare:
            ids = self.encode_bare(continuation)
            return (ids[:1], ids[1:]) if ids[:1] == [self.prefix_id] else ([self.prefix_id], ids)
        before = self.encode(bare)
        if self.boundary == "apart":
            return before, self.encode_bare(continuation)
        after = self.encode(bare + continuation)[len(before) :]  # none, if one token ends the context and holds it
        return before, after or self.encode_bare(continuation)

    def text(self, text: str) -> tuple[list[int], list[int]]:
        """A whole text as a continuation of nothing."""
        return [self.prefix_id], self.encode(text)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Nothing is learnt, no dropout; afterwards every module is in the mode in which it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():  # FSDP2 does not work in inference mode
            yield
    finally:
        for module in training:
            module.training = True


def processes() -> Any:
    """accelerate's state of them. Without an accelerator it must be told so, or each process believes itself alone."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())


def load(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> TextModel:
    """On this process's device."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import yxanul

    if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise BadInput(f"{name} is no folder here, and no name on the Hub, which is MODEL or OWNER/MODEL.")
    if not Path(name, "config.json").exists() and Path(name, "final").is_dir():
        raise BadInput(f"{name} is a run, and the model is in its final/: give {Path(name, 'final')}.")
    yxanul.register()
    if not Path(name).is_dir():
        offline_where_no_hub_is()
    elif not any(found for pattern in TOKENIZER_FILES for found in Path(name).glob(pattern)):
        raise BadInput(f"{name} has no tokenizer: save the model's own there, with save_pretrained.")
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadInput(f"{name} cannot be loaded as a causal model with its tokenizer: {reason}.") from None
    device = processes().device
    return TextModel(model.to(device), tokenizer, device, revision_of(name, revision))


def revision_of(name: str, revision: str | None = None) -> str:
    """The commit on the Hub, or a hash of all files."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    file = cached_file(name, "config.json", revision=revision)
    return extract_commit_hash(str(file), None) or folder_hash(Path(name))


OF_TRAINING = ("optimizer.", "rank-", "trainer_state.", "scales.", "COMPLETE")


def folder_hash(folder: Path) -> str:
    """Of all that decides what a model says: weights, configuration, code, tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith(OF_TRAINING):
            with file.open("rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"
