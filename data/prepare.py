"""From sources to token bins: fast, resumable, and the same files whatever the number of processes.

    prepare(["notes/", "hf:owner/name"], "gpt2", "bins/notes", held_out=0.01, workers=8)

makes bins/notes/train and bins/notes/held_out. Until then the work is in bins/notes.partial: parts/ holds finished
parts, then train/ and held_out/ are written, then parts/ goes, then the folder gets its name. Killed at any moment,
the same call goes on from there; with other settings it refuses to.
Not here: what happens to a part (part_files.py), to all of them (assembly.py), the command line (data_command.py).
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.assembly import HELD_OUT, TRAIN, NothingLeft, assemble
from yxanul.data.bins import FORMAT, MANIFEST, VERSION, dtype_for
from yxanul.data.chat_templates import load_chat_tokenizer
from yxanul.data.conversation_bins import ConversationJob
from yxanul.data.decontamination import WORDS_IN_A_ROW, Contaminated
from yxanul.data.documents import check_share
from yxanul.data.locks import only_process
from yxanul.data.part_files import Job, tasks_of
from yxanul.data.progress import Progress, say
from yxanul.data.sources import Source, open_source, split_spec
from yxanul.data.tokenizers import Tokenizer, load_tokenizer
from yxanul.data.whole_files import sync_folder, write_json
from yxanul.data.workers import do_tasks

SHARD_TOKENS = 1 << 28
SETTINGS, LOCK, PARTS, USED_PARTS = "settings.json", "lock", "parts", "used-parts"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare(
    sources: Sequence[str],
    tokenizer: str,
    out: str | Path,
    *,
    held_out: float = 0.0,
    pack: int | None = None,
    workers: int = 1,
    min_tokens: int = 0,
    decontaminate: Sequence[str] = (),
    strict: bool = False,
    conversations: str | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, dict[str, Any]]:
    """Returns the manifests of the bins, by their names. `conversations`: the sources hold some, and of these the
    answers are learnt, or everything (conversation_bins.py)."""
    _check_place(str(out), sources)
    out = Path(os.path.abspath(out))
    partial = out.with_name(f"{out.name}.partial")
    check(out, held_out, pack, workers, min_tokens)
    if conversations is not None and pack is None:
        raise BadInput("conversations are packed into rows: say with pack how many tokens a row holds.")
    loaded = load_tokenizer(tokenizer) if conversations is None else load_chat_tokenizer(tokenizer)
    opened = [open_source(spec, strict, conversations is not None) for spec in sources]
    _check_ids_fit(opened, loaded)
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "sources": [source.identity for source in opened],
        "tokenizer": {"name": loaded.name, "fingerprint": loaded.fingerprint},
        "held_out": held_out,
        "pack": pack,
        "min_tokens": min_tokens,
        "decontaminate": [open_source(spec).identity for spec in decontaminate],
        "strict": strict,
        "conversations": conversations,
        "shard_tokens": shard_tokens,
    }
    job = Job(loaded, held_out, min_tokens, _contaminated(decontaminate))
    if conversations is not None:
        assert pack is not None
        job = ConversationJob(loaded, held_out, min_tokens, job.contaminated, pack, conversations)
        settings |= job.facts()
    try:
        with only_process(partial / LOCK, f"at work in {partial}"):
            _begin(partial, settings)
            try:
                if (partial / PARTS).exists():
                    named_parts = _make_parts(partial, opened, job, workers)
                    make_bins(partial, named_parts, job, pack, shard_tokens)
            except BadInput as error:
                if isinstance(error, NothingLeft) or _is_empty(partial):
                    shutil.rmtree(partial)
                raise
            return give_name(partial, out)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise BadInput(
            f"no room is left on the disk for {partial}: finished parts are kept; make room and run the same again."
        ) from None


def _check_place(out: str, sources: Sequence[str]) -> None:
    if "://" in out:
        raise BadInput(f"--out {out} must be a local folder: prepare there, then `yxanul data publish` it.")
    for spec in sources:
        folder = Path(split_spec(spec)[0])
        if folder.is_dir() and Path(os.path.abspath(out)).is_relative_to(folder.resolve()):
            raise BadInput(f"--out {out} lies inside of the source {folder}, which would read it: give another --out.")


def check(out: Path, held_out: float, pack: int | None, workers: int, min_tokens: int) -> None:
    if out.exists():
        raise BadInput(f"{out} exists already: give another --out, or remove it.")
    check_share(held_out)
    if pack is not None and not 2 <= pack < 1 << 32:
        raise BadInput(f"--pack {pack} must be at least 2: it is how many tokens a row holds.")
    if workers < 1:
        raise BadInput(f"--workers {workers} must be at least 1.")
    if min_tokens < 0:
        raise BadInput(f"--min-tokens {min_tokens} must be at least 0.")


def _check_ids_fit(sources: list[Source], tokenizer: Tokenizer) -> None:
    """A raw file whose numbers are too small was not written with this tokenizer, or not with this width."""
    needed = dtype_for(tokenizer.vocabulary_size)
    for source in sources:
        for part in source.parts() if source.is_tokens else ():
            dtype = part.tokens().dtype
            if dtype.itemsize < needed.itemsize:
                raise BadInput(
                    f"{source.spec}: {dtype.name} cannot hold the {tokenizer.vocabulary_size:,} ids of "
                    f"{tokenizer.name}: give dtype={needed.name}, or the tokenizer that wrote the file."
                )
            head = part.tokens()[: 1 << 16]
            if dtype.itemsize == 2 and len(head) > 3 and head[::2].any() and not head[1::2].any():
                raise BadInput(f"{source.spec} looks like uint32, for every second id is 0: give dtype=uint32.")


def _contaminated(specs: Sequence[str]) -> Contaminated | None:
    if not specs:
        return None
    contaminated = Contaminated(list(specs))
    if contaminated.too_short:
        say(f"{contaminated.too_short:,} evaluation texts have less than {WORDS_IN_A_ROW} words: they cannot be met.")
    return contaminated


def _begin(partial: Path, settings: dict[str, Any]) -> None:
    """Settings without parts/ mean that the bins are finished, so parts/ comes first."""
    if not (partial / SETTINGS).exists() or _is_empty(partial):
        (partial / PARTS).mkdir(exist_ok=True)
        write_json(partial / SETTINGS, settings)
        return
    earlier = json.loads((partial / SETTINGS).read_text(encoding="utf-8"))
    settings = json.loads(json.dumps(settings))  # as a file gives them back
    different = [
        f"{key} was {_short(earlier.get(key))}, is now {_short(settings.get(key))}"
        for key in settings
        if earlier.get(key) != settings[key]
    ]
    if different:
        raise BadInput(
            f"{partial} was begun with other settings ({'; '.join(different)}): repeat them, or remove {partial}."
        )


def _is_empty(partial: Path) -> bool:
    """No part is finished, so nothing is lost by beginning again."""
    parts = partial / PARTS
    return parts.exists() and all(folder.suffix == ".partial" for folder in parts.iterdir())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _make_parts(partial: Path, sources: list[Source], job: Job, workers: int) -> list[tuple[str, list[Path]]]:
    """Those that are not there yet; returns all of them under their source's spec."""
    parts = partial / PARTS
    for leftover in parts.glob("*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)  # a worker of the killed run may still write there
    tasks = [tasks_of(source, f"{number:03d}") for number, source in enumerate(sources)]
    everything = [(task, parts / task.name) for own in tasks for task in own]
    todo = [(task, folder) for task, folder in everything if not folder.exists()]
    with Progress("tokens", len(everything), len(everything) - len(todo)) as progress:
        if todo:
            do_tasks(todo, job, workers, progress)
    return [(source.spec, [parts / task.name for task in own]) for source, own in zip(sources, tasks, strict=True)]


def make_bins(
    partial: Path, named_parts: list[tuple[str, list[Path]]], job: Job, pack: int | None, shard_tokens: int
) -> None:
    for name in (TRAIN, HELD_OUT):  # of an attempt that was killed
        if (partial / name).exists():
            shutil.rmtree(partial / name)
    with Progress("bins", sum(len(own) for _, own in named_parts), 0) as progress:
        assemble(named_parts, partial, job, pack, shard_tokens, progress)
    sync_folder(partial)
    (partial / PARTS).rename(partial / USED_PARTS)


def give_name(partial: Path, out: Path) -> dict[str, dict[str, Any]]:
    """The bins are whole. The parts go, and one rename makes the result visible."""
    used = partial / USED_PARTS
    shutil.rmtree(used, ignore_errors=True)
    if used.exists():  # a worker of a killed run wrote there once more before it noticed
        time.sleep(1)
        shutil.rmtree(used)
    if out.exists():  # an empty folder would be replaced in silence
        raise BadInput(f"{out} came into being meanwhile: remove it and run the same again.")
    (partial / LOCK).unlink(missing_ok=True)  # datatrove's tasks have none
    partial.rename(out)
    sync_folder(out.parent)
    return {
        file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob(f"*/{MANIFEST}"))
    }
