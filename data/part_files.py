"""One part of a source becomes a folder of ids, lengths and digests: the work of `data prepare`, done by any process.

    preparer = Preparer(job)
    preparer.write(task, folder, report)       # `folder` appears when it is whole, or not at all

    tokens.bin     ids of the documents, each with its end-of-text id
    documents.bin  DOCUMENT records: tokens, bytes, held out or not
    digests.bin    16 bytes of every document's text, by which exact duplicates are found
    counts.json    what was dropped, and why
Not here: reading sources (sources.py), dropping duplicates and making bins of the parts (assembly.py).
"""

import contextlib
import hashlib
import json
import os
import shutil
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yxanul.bad_input import BadInput
from yxanul.data.bin_writer import sync_folder, write_json
from yxanul.data.bins import dtype_for
from yxanul.data.cutting import LONG, cut, decode_long
from yxanul.data.decontamination import Contaminated
from yxanul.data.documents import Part, is_held_out
from yxanul.data.sources import Source
from yxanul.data.tokenizers import Tokenizer

TOKENS, RECORDS, DIGESTS, COUNTS = "tokens.bin", "documents.bin", "digests.bin", "counts.json"
DOCUMENT = np.dtype([("tokens", "<i8"), ("bytes", "<u4"), ("held_out", "u1")])
RECORD = struct.Struct("<qIB")  # the same
DIGEST = np.dtype("S16")
FEW_TOKENS, CONTAMINATED = "too few tokens", "contaminated"

# Characters that are encoded together: 16 times as many took more memory and were no faster; a document counts 64 more
BATCH_CHARACTERS = 1 << 18
# Ids of a raw source that one task reads: documents that begin among them
RAW_TOKENS = 1 << 25

Report = Callable[[int, int], None]  # documents and tokens since the last call


class Task(NamedTuple):
    name: str
    spec: str  # the source's, for messages
    part: Part
    begins: tuple[int, int] | None  # of a raw source: the documents that begin in this range of ids


@dataclass(frozen=True)
class Job:
    """What every part is prepared with."""

    tokenizer: Tokenizer
    held_out: float
    min_tokens: int
    contaminated: Contaminated | None  # a text that shares words with the evaluation texts

    @property
    def dtype(self) -> np.dtype:
        return dtype_for(self.tokenizer.vocabulary_size)


class _Prepared(NamedTuple):
    text: str
    held_out: bool
    ids: np.ndarray  # the end-of-text id included


def tasks_of(source: Source, name: str) -> list[Task]:
    """A text source's parts; a raw file, which is one part, is cut into several tasks. Their names sort as they do."""
    tasks = []
    for index, part in enumerate(source.parts()):
        own = f"{name}-{index:06d}"
        if not source.is_tokens:
            tasks.append(Task(own, source.spec, part, None))
            continue
        count = len(part.tokens())
        for number, first in enumerate(range(0, count, RAW_TOKENS)):
            begins = (first, min(first + RAW_TOKENS, count))
            tasks.append(Task(f"{own}-{number:06d}", source.spec, part, begins))
    return tasks


class Preparer:
    def __init__(self, job: Job) -> None:
        self._job, self._tokenizer = job, job.tokenizer
        self._dtype = job.dtype
        self._end = np.array([job.tokenizer.end_of_text_id], job.dtype)

    def write(self, task: Task, folder: Path, report: Report) -> None:
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            self._write_files(task, partial, report)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
            raise
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # else a worker of a killed run was faster, with the same files
                raise
            shutil.rmtree(partial)
        sync_folder(folder.parent)

    def _write_files(self, task: Task, folder: Path, report: Report) -> None:
        counts: Counter[str] = Counter()
        prepared = self._raw_documents(task, counts) if task.begins else self._text_documents(task, counts)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context((folder / name).open("wb")) for name in (TOKENS, RECORDS, DIGESTS)]
            tokens, records, digests = files
            for document in prepared:
                if len(document.ids) <= self._job.min_tokens:
                    counts[FEW_TOKENS] += 1
                    continue
                utf8 = document.text.encode()
                if len(utf8) >= 1 << 32:
                    raise BadInput(f"{task.spec}: a document has {len(utf8):,} bytes; 4 GiB is the most, cut it.")
                tokens.write(document.ids.data)
                records.write(RECORD.pack(len(document.ids), len(utf8), document.held_out))
                digests.write(hashlib.blake2b(utf8, digest_size=DIGEST.itemsize).digest())
                report(1, len(document.ids))
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        write_json(folder / COUNTS, dict(counts))

    def _text_documents(self, task: Task, counts: Counter[str]) -> Iterator[_Prepared]:
        """In the order of the part; short documents are encoded together, a long one slice by slice."""
        batch: list[tuple[str, bool]] = []
        characters = 0
        for document in task.part.documents(counts):
            held_out = self._holds_out(document.group)
            if self._is_dropped(document.text, held_out, counts):
                continue
            if len(document.text) > LONG:
                yield from self._encoded(batch)
                batch, characters = [], 0
                slices = [self._ids([piece])[0] for piece in cut(document.text, self._tokenizer)]
                yield _Prepared(document.text, held_out, np.concatenate([*slices, self._end]))
                continue
            batch.append((document.text, held_out))
            characters += len(document.text) + 64
            if characters >= BATCH_CHARACTERS:
                yield from self._encoded(batch)
                batch, characters = [], 0
        yield from self._encoded(batch)

    def _encoded(self, batch: list[tuple[str, bool]]) -> Iterator[_Prepared]:
        ids = self._ids([text for text, _ in batch], ending=True)
        return (_Prepared(text, held_out, own) for (text, held_out), own in zip(batch, ids, strict=True))

    def _ids(self, texts: list[str], ending: bool = False) -> list[np.ndarray]:
        """Through array("I"), which takes 16 ns for a Python int; numpy takes 40."""
        lists = self._tokenizer.encode_batch(texts)
        if ending:
            for ids in lists:
                ids.append(self._tokenizer.end_of_text_id)
        return [np.frombuffer(array("I", ids), np.uint32).astype(self._dtype) for ids in lists]

    def _raw_documents(self, task: Task, counts: Counter[str]) -> Iterator[_Prepared]:
        assert task.begins
        tokens = task.part.tokens()
        for start, stop in _documents_between(tokens, self._tokenizer.end_of_text_id, *task.begins):
            ids = np.asarray(tokens[start:stop])
            if int(ids.max()) >= self._tokenizer.vocabulary_size:
                raise BadInput(
                    f"{task.spec}: id {int(ids.max()):,} at place {start + int(ids.argmax()):,} is not in the "
                    f"vocabulary of {self._tokenizer.name} ({self._tokenizer.vocabulary_size:,} ids): give the "
                    "tokenizer that wrote the file, or the right dtype=."
                )
            text = decode_long(ids, self._tokenizer)
            held_out = self._holds_out(text)
            if not self._is_dropped(text, held_out, counts):
                yield _Prepared(text, held_out, np.concatenate([ids.astype(self._dtype), self._end]))

    def _holds_out(self, group: str) -> bool:
        return self._job.held_out > 0 and is_held_out(group, self._job.held_out)

    def _is_dropped(self, text: str, held_out: bool, counts: Counter[str]) -> bool:
        """Only training documents must keep away from the evaluation texts."""
        if held_out or self._job.contaminated is None or not self._job.contaminated(text):
            return False
        counts[CONTAMINATED] += 1
        return True


def _documents_between(tokens: np.ndarray, end_of_text_id: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Where the documents that begin in first .. last - 1 lie, their end-of-text id left out; empty ones are none."""
    start = first
    if first:  # the document that runs into this range belongs to the one before
        start = _next_end(tokens, end_of_text_id, first - 1, last - 1) + 1
    while start < last:
        stop = _next_end(tokens, end_of_text_id, start, len(tokens))
        if stop > start:
            yield start, stop
        start = stop + 1


def _next_end(tokens: np.ndarray, end_of_text_id: int, start: int, limit: int) -> int:
    """The first end of text at or behind `start`; `limit` where there is none before it."""
    step = 1 << 10
    while start < limit:
        found = np.flatnonzero(tokens[start : min(start + step, limit)] == end_of_text_id)
        if len(found):
            return start + int(found[0])
        start += step
        step = min(2 * step, 1 << 22)
    return limit


def read_counts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / COUNTS).read_text(encoding="utf-8"))
