"""Makes the tokenizer and the token bins that a recipe wants and that are not there yet, as its `data` section says.

    tokenizer: bins/demo/tokenizer
    data:
      tokenizer: {kind: bpe, vocabulary: 2048, sources: [builtin:language], held_out: 0.05}
      bins/demo/language: {sources: [builtin:language], held_out: 0.05}     # bins train and held_out in that folder

What is there is left alone, but its bins must be of the recipe's tokenizer. Killed at any moment, the next start goes
on. Of several processes on a machine the first prepares and the others wait for it.
Not here: the work (data/prepare.py, data/tokenizer_command.py).
"""

import argparse
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.bins import find_bins, open_bin
from yxanul.data.data_command import usable_cores
from yxanul.data.prepare import prepare
from yxanul.data.progress import say
from yxanul.data.tokenizer_command import DEFAULT_DIGITS, train
from yxanul.data.tokenizers import load_tokenizer
from yxanul.training.cast import cast, check_limits
from yxanul.training.launch.processes import environment

TOKENIZER = "tokenizer"
PATIENCE = 60.0  # seconds in which nobody prepares before a waiting process gives up: they start at different times
SHARE = {"at_least": 0, "below": 1}


@dataclass(frozen=True, kw_only=True)
class TokenizerEntry:
    """As `yxanul tokenizer train` takes them."""

    kind: str = field(metadata={"choices": sorted(DEFAULT_DIGITS)})
    vocabulary: int
    sources: list[str]
    held_out: float = field(default=0.0, metadata=SHARE)
    transition: int | None = None
    digits: str | None = field(default=None, metadata={"choices": ("single", "groups", None)})
    limit_bytes: int | None = None

    def make(self, folder: Path, tokenizer: str) -> None:
        train(argparse.Namespace(**self.__dict__, source=self.sources, out=folder))


@dataclass(frozen=True, kw_only=True)
class BinsEntry:
    """As `yxanul data prepare` takes them."""

    sources: list[str]
    held_out: float = field(default=0.0, metadata=SHARE)
    pack: int | None = None
    min_tokens: int = 0
    decontaminate: list[str] = field(default_factory=list)
    strict: bool = False

    def make(self, folder: Path, tokenizer: str) -> None:
        settings = {name: value for name, value in self.__dict__.items() if name != "sources"}
        with environment({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}):  # workers are the parallelism
            manifests = prepare(self.sources, tokenizer, folder, workers=usable_cores(), **settings)
        counts = [f"{manifest['tokens']:,} tokens {name}" for name, manifest in manifests.items()]
        say(f"{folder}: {', '.join(counts)}")


Entry = TypeVar("Entry", TokenizerEntry, BinsEntry)


def prepare_missing(data: dict[str, Any], tokenizer: str | None) -> None:
    """`data` and `tokenizer` are a recipe's; its bins are folders as seen from here."""
    if not data:
        return
    if tokenizer is None:
        raise BadInput("data: bins need a tokenizer: set `tokenizer` to its folder or its name.")
    entries: dict[Path, TokenizerEntry | BinsEntry] = {}
    if TOKENIZER in data:  # first, for the bins need it
        entries[Path(tokenizer)] = _entry(TokenizerEntry, TOKENIZER, data[TOKENIZER])
    entries |= {Path(name): _entry(BinsEntry, name, given) for name, given in data.items() if name != TOKENIZER}

    def missing() -> list[Path]:
        return [folder for folder in entries if not folder.exists()]

    if missing():
        first = next(iter(entries))
        lock = first.with_name(f"{first.name}.preparing")
        if os.environ.get("LOCAL_RANK", "0") == "0":
            with _locked(lock):
                for folder in missing():
                    with _named(folder):
                        entries[folder].make(folder, tokenizer)
        else:
            _wait(missing, lock)
    fingerprint = load_tokenizer(tokenizer).fingerprint
    for folder, entry in entries.items():
        if isinstance(entry, BinsEntry):
            for token_bin in find_bins(folder):
                open_bin(token_bin, fingerprint)


def _entry(kind: type[Entry], name: str, given: Any) -> Entry:
    where = f"data: {name}"
    if not isinstance(given, dict):
        raise BadInput(f"{where} must hold 'key: value' lines; it holds {given!r}.")
    known = {known.name: known for known in fields(kind)}
    for key in given:
        if key not in known:
            raise BadInput(f"{where}: {unknown_name('key', str(key), known)}")
    for key, about in known.items():
        if key not in given and about.default is MISSING and about.default_factory is MISSING:
            raise BadInput(f"{where}: {key} is missing.")
    values = {key: cast(key, value, _annotation(known[key].type), where) for key, value in given.items()}
    for key, value in values.items():
        check_limits(key, value, known[key].metadata, where)
    return kind(**values)


def _annotation(declared: Any) -> str:
    return declared.__name__ if type(declared) is type else str(declared)


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Says which entry it was whose sources or sizes are wrong."""
    say(f"{folder} is not there yet: it is made now.")
    try:
        yield
    except BadInput as error:
        raise BadInput(f"data: {folder}: {error}") from None


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """The lock ends with the process, however that ends; on several machines with one disk the first prepares."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _wait(missing: Callable[[], list[Path]], lock: Path) -> None:
    somebody_at = time.monotonic()
    while wanted := missing():
        if _is_locked(lock):
            somebody_at = time.monotonic()
        elif time.monotonic() - somebody_at > PATIENCE:
            raise BadInput(
                f"data: nobody prepares {wanted[0]} any more: see what the first process says, and start again; what "
                "was finished is kept."
            )
        time.sleep(0.5)


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # somebody has it, or nobody can
        return True
    return False
