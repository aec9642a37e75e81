"""Makes the tokenizer and the token bins that a recipe wants and that are not there yet, as its `data` section says.

    tokenizer: bins/demo/tokenizer
    data:
      tokenizer: {kind: bpe, vocabulary: 2048, sources: [builtin:language], held_out: 0.05}
      bins/demo/language: {sources: [builtin:language], held_out: 0.05}     # bins train and held_out in that folder

For conversations (data/conversation_bins.py): a tokenizer with a chat template, and what is learnt.

      tokenizer: {from: runs/demo/final, template: chatml}     # one that is trained here may have a template too
      bins/chat: {sources: [builtin:math], conversations: answers, pack: 256}

What is there is left alone, but its bins must be of the recipe's tokenizer. Killed at any moment, the next start goes
on. Of several processes on a machine the first prepares and the others wait for it.
Not here: the work (data/prepare.py, data/tokenizer_command.py), what stands in for an entry at toy size (scale.py).
"""

import argparse
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.bins import find_bins, open_bin
from yxanul.data.chat_templates import DEFAULT, OWN, load_chat_tokenizer, make_chat_tokenizer, template_text
from yxanul.data.conversation_bins import LEARN
from yxanul.data.data_command import usable_cores
from yxanul.data.prepare import prepare
from yxanul.data.progress import say
from yxanul.data.sources import open_source
from yxanul.data.tokenizer_command import DEFAULT_DIGITS, train
from yxanul.data.tokenizers import load_tokenizer
from yxanul.training.cast import cast, check_limits
from yxanul.training.config import RunConfig
from yxanul.training.launch.processes import environment

TOKENIZER = "tokenizer"
PATIENCE = 60.0  # seconds in which nobody prepares before a waiting process gives up: they start at different times
# of an entry: what `yxanul data prepare` takes, or `yxanul tokenizer train`
ENTRY = {"sources": "list[str]", "held_out": "float"}
BINS = ENTRY | {"pack": "int", "min_tokens": "int", "decontaminate": "list[str]", "strict": "bool", "stand_in": "str"}
BINS |= {"conversations": "str"}
OF_TOKENIZER = ENTRY | {"kind": "str", "vocabulary": "int", "transition": "int", "digits": "str", "limit_bytes": "int"}
CHAT_TOKENIZER = {"from": "str", "template": "str"}
OF_TOKENIZER |= {"template": "str"}
NEEDED = ("kind", "vocabulary", "sources", "from")
LIMITS: dict[str, dict[str, Any]] = {
    "held_out": {"at_least": 0, "below": 1},
    "kind": {"choices": DEFAULT_DIGITS},
    "digits": {"choices": ("single", "groups")},
    "conversations": {"choices": LEARN},
}


def prepare_missing(data: dict[str, Any], tokenizer: str | None) -> None:
    """`data` and `tokenizer` are a recipe's; its bins are folders as seen from here."""
    if not data:
        return
    if tokenizer is None:
        raise BadInput("data: bins need a tokenizer: set `tokenizer` to its folder or its name.")
    entries = checked_entries(data, tokenizer)

    def missing() -> list[Path]:
        return [folder for folder in entries if not folder.exists()]

    if missing():
        first = next(iter(entries))
        lock = first.with_name(f"{first.name}.preparing")
        if os.environ.get("LOCAL_RANK", "0") == "0":
            with _locked(lock):
                _make({folder: entries[folder] for folder in missing()}, tokenizer)
        else:
            _wait(missing, lock)
    fingerprint = load_tokenizer(tokenizer).fingerprint
    for folder, entry in entries.items():
        for token_bin in find_bins(folder) if "sources" in entry and "kind" not in entry else []:
            open_bin(token_bin, fingerprint)


def checked_entries(data: dict[str, Any], tokenizer: str | None) -> dict[Path, dict[str, Any]]:
    """By folder; the tokenizer's first, for the bins need it."""
    entries: dict[Path, dict[str, Any]] = {}
    if TOKENIZER in data and tokenizer is not None:
        folder = Path(tokenizer)
        entries[folder] = checked_entry(TOKENIZER, data[TOKENIZER])
        if folder.is_dir():
            _check_template(folder, entries[folder])
    return entries | {Path(name): checked_entry(name, given) for name, given in data.items() if name != TOKENIZER}


def _check_template(folder: Path, entry: dict[str, Any]) -> None:
    """What was made with another template is not taken in silence."""
    asked = entry.get("template", DEFAULT if "from" in entry else None)
    if asked is None or asked == OWN:
        return
    if template_text(asked, folder) != load_chat_tokenizer(folder).template:
        raise BadInput(
            f"data: {TOKENIZER}: {folder} is there already, with another chat template than {asked}: give the "
            "tokenizer and the bins other folders, or remove these."
        )


def with_room_for_new_tokens(config: RunConfig) -> RunConfig:
    """A tokenizer that grew out of that of init_from, as a template may make it grow, wants rows in the model."""
    if config.init_from is None or not Path(config.tokenizer or "").is_dir() or "vocab_size" in config.model_config:
        return config
    try:
        tokenizer, own = load_tokenizer(str(config.tokenizer)), load_tokenizer(config.init_from)
    except BadInput:  # weights without a tokenizer; what else is wrong is said where it is read
        return config
    size = tokenizer.vocabulary_size
    if size <= config.shape().config.vocab_size or not tokenizer.extends(own):
        return config
    return replace(config, model_config=config.model_config | {"vocab_size": size})


def checked_entry(name: str, given: Any) -> dict[str, Any]:
    where = f"data: {name}"
    if not isinstance(given, dict):
        raise BadInput(f"{where} must hold 'key: value' lines; it holds {given!r}.")
    types = BINS if name != TOKENIZER else CHAT_TOKENIZER if "from" in given else OF_TOKENIZER
    for key in given:
        if key not in types:
            raise BadInput(f"{where}: {unknown_name('key', str(key), types)}")
    for key in NEEDED:
        if key in types and key not in given:
            raise BadInput(f"{where}: {key} is missing.")
    entry = {key: cast(key, value, types[key], where) for key, value in given.items()}
    for key, value in entry.items():
        check_limits(key, value, LIMITS.get(key, {}), where)
    return entry


def _make(entries: dict[Path, dict[str, Any]], tokenizer: str) -> None:
    for folder, entry in entries.items():  # all that can be wrong is said before hours of work
        with _named(folder, entry, tokenizer):
            for spec in entry.get("sources", ()):
                open_source(spec, conversations="conversations" in entry)
            for spec in entry.get("decontaminate", ()):
                open_source(spec)
    for folder, entry in entries.items():
        say(f"{folder} is not there yet: it is made now.")
        with _named(folder, entry, tokenizer):
            if "from" in entry:
                make_chat_tokenizer(entry["from"], entry.get("template", DEFAULT), folder)
                continue
            if "kind" in entry:
                unset = dict.fromkeys(("transition", "digits", "limit_bytes"))
                plain = folder.with_name(f"{folder.name}-plain") if "template" in entry else folder
                if not plain.exists():  # a kill between the two
                    train(argparse.Namespace(**{"held_out": 0.0} | unset | entry, source=entry["sources"], out=plain))
                if plain != folder:
                    make_chat_tokenizer(str(plain), entry["template"], folder)
                continue
            settings = {key: value for key, value in entry.items() if key != "stand_in"}
            with environment({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}):  # workers are parallel
                manifests = prepare(settings.pop("sources"), tokenizer, folder, workers=usable_cores(), **settings)
            counts = [f"{manifest['tokens']:,} tokens {name}" for name, manifest in manifests.items()]
            dropped = [f"{count:,} {reason}" for reason, count in manifests["train"]["dropped"].items()]
            say(f"{folder}: {', '.join(counts)}" + (f"; {', '.join(dropped)}" if dropped else ""))


@contextlib.contextmanager
def _named(folder: Path, entry: dict[str, Any], tokenizer: str) -> Iterator[None]:
    """Says which entry it was whose sources or sizes are wrong, and what to do where the Hub is out of reach."""
    try:
        yield
    except BadInput as error:
        mend = ""
        if str(error).startswith("hf:") and "cannot be opened" in str(error):
            given = [(key, entry[key]) for key in ("held_out", "pack", "min_tokens", "conversations") if key in entry]
            flags = "".join(f" --{key.replace('_', '-')} {value}" for key, value in given)
            mend = (
                f" Without a network: make {folder} where there is one, with `yxanul data prepare --tokenizer "
                f"{tokenizer} --out {folder}{flags}` and a --source for each, and copy it here; or run with --scale "
                "tiny."
            )
        raise BadInput(f"data: {folder}: {error}{mend}") from None


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
