"""One part of a source becomes a folder of ids, lengths and digests: the work of `data prepare`, done by any process.

    preparer = job.preparer()
    preparer.write(task, folder, report)       # `folder` appears when it is whole, or not at all

    tokens.bin     ids of the documents, each with its end-of-text id
    records.bin    DOCUMENT records: tokens, bytes, held out or not, and a digest by which exact duplicates are found
    counts.json    what was dropped, and why
Not here: reading sources (sources.py), dropping duplicates and making bins of the parts (assembly.py).
"""

import hashlib
import os
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yxanul.bad_input import BadInput
from yxanul.data.bin_writer import BinWriter, PackedBinWriter
from yxanul.data.bins import dtype_for
from yxanul.data.cutting import LONG, cut, decode_long
from yxanul.data.decontamination import Contaminated
from yxanul.data.documents import Document, Part, is_held_out
from yxanul.data.grouping import grouped
from yxanul.data.sources import Source
from yxanul.data.tokenizers import Tokenizer
from yxanul.data.whole_files import whole_folder, write_json

TOKENS, RECORDS, COUNTS = "tokens.bin", "records.bin", "counts.json"
DIGEST = np.dtype("S16")
DOCUMENT = np.dtype([("tokens", "<i8"), ("bytes", "<u4"), ("held_out", "u1"), ("digest", DIGEST)])
RECORD = struct.Struct("<qIB16s")  # the same
FEW_TOKENS, CONTAMINATED = "too few tokens", "contaminated"

# Characters that are encoded together: 16 times as many took more memory and were no faster; a document counts 64 more
BATCH_CHARACTERS = 1 << 18
# Ids of a raw source that one task reads: documents that begin among them
RAW_TOKENS = 1 << 25
SEARCHED_AT_ONCE = 1 << 20  # ids, for the end of a document that goes on in the next task's range
REPORTED_AT_ONCE = 1 << 16  # ids: a few reports a second

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
        """Of a part's ids."""
        return dtype_for(self.tokenizer.vocabulary_size)

    def preparer(self) -> "Preparer":
        return Preparer(self)

    def writer(self, folder: Path, row_length: int | None, shard_tokens: int) -> BinWriter:
        if row_length is None:
            return BinWriter(folder, self.dtype, shard_tokens)
        return PackedBinWriter(folder, self.dtype, shard_tokens, row_length, self.tokenizer.end_of_text_id)

    def facts(self) -> dict[str, Any]:
        """What a bin's manifest says besides."""
        return {}


class Prepared(NamedTuple):
    text: str
    held_out: bool
    ids: np.ndarray  # the end-of-text id left out
    bytes: int | None = None  # None: those of the text


def tasks_of(source: Source, name: str) -> list[Task]:
    """A text source's parts; a raw file, which is one part, is cut into several tasks. Their names sort as they do."""
    tasks = []
    for index, part in enumerate(source.parts()):
        ranges: list[tuple[int, int] | None] = [None]
        if source.is_tokens:
            count = len(part.tokens())
            ranges = [(first, min(first + RAW_TOKENS, count)) for first in range(0, count, RAW_TOKENS)]
        for number, begins in enumerate(ranges):
            tasks.append(Task(f"{name}-{index:06d}-{number:06d}", source.spec, part, begins))
    return tasks


class Preparer:
    _ends_documents = True  # with the end-of-text id

    def __init__(self, job: Job) -> None:
        self._job, self._tokenizer, self._dtype = job, job.tokenizer, job.dtype
        self._end = np.array([job.tokenizer.end_of_text_id], job.dtype).tobytes()

    def write(self, task: Task, folder: Path, report: Report) -> None:
        try:
            with whole_folder(folder) as partial:
                self._write_files(task, partial, report)
        except OSError:
            if not folder.exists():  # else a worker of a killed run was faster, with the same files
                raise

    def _write_files(self, task: Task, folder: Path, report: Report) -> None:
        counts: Counter[str] = Counter()
        done, done_tokens = 0, 0  # since the last report
        prepared = self._raw_documents(task, counts) if task.begins else self._text_documents(task, counts)
        with (folder / TOKENS).open("wb") as tokens, (folder / RECORDS).open("wb") as records:
            for document in prepared:
                if len(document.ids) < self._job.min_tokens:
                    counts[FEW_TOKENS] += 1
                    continue
                utf8 = document.text.encode()
                if len(utf8) >= 1 << 32:
                    raise BadInput(f"{task.spec}: a document has {len(utf8):,} bytes; 4 GiB is the most, cut it.")
                tokens.write(document.ids.data)
                if self._ends_documents:
                    tokens.write(self._end)
                digest = hashlib.blake2b(utf8, digest_size=DIGEST.itemsize).digest()
                size = len(utf8) if document.bytes is None else document.bytes
                count = len(document.ids) + self._ends_documents
                records.write(RECORD.pack(count, size, document.held_out, digest))
                done, done_tokens = done + 1, done_tokens + count
                if done_tokens >= REPORTED_AT_ONCE:
                    report(done, done_tokens)
                    done, done_tokens = 0, 0
            report(done, done_tokens)
            for file in (tokens, records):
                file.flush()
                os.fsync(file.fileno())
        write_json(folder / COUNTS, dict(counts))

    def _text_documents(self, task: Task, counts: Counter[str]) -> Iterator[Prepared]:
        """In the order of the part; short documents are encoded together, a long one slice by slice."""
        kept = self._kept(task.part.documents(counts), counts)
        for batch in grouped(kept, lambda document: len(document[0]) + 64, BATCH_CHARACTERS):
            texts = [text for text, _ in batch]
            if len(texts[0]) > LONG:  # and so alone in its batch
                ids = [np.concatenate([self._ids([piece])[0] for piece in cut(texts[0], self._tokenizer)])]
            else:
                ids = self._ids(texts)
            for (text, held_out), own in zip(batch, ids, strict=True):
                yield Prepared(text, held_out, own)

    def _kept(self, documents: Iterable[Document], counts: Counter[str]) -> Iterator[tuple[str, bool]]:
        """Texts, and whether they are held out; only training documents must keep away from the evaluation texts."""
        for text, group in documents:
            held_out = is_held_out(group, self._job.held_out)
            if not held_out and self._job.contaminated is not None and self._job.contaminated(text):
                counts[CONTAMINATED] += 1
            else:
                yield text, held_out

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        """Through array("I"), which takes 16 ns for a Python int; numpy takes 40."""
        return [np.array(array("I", ids), self._dtype) for ids in self._tokenizer.encode_batch(texts)]

    def _raw_documents(self, task: Task, counts: Counter[str]) -> Iterator[Prepared]:
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
            for _, held_out in self._kept([Document(text, text)], counts):
                yield Prepared(text, held_out, ids.astype(self._dtype))


def _documents_between(tokens: np.ndarray, end_of_text_id: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Where the documents that begin in first .. last - 1 lie, their end-of-text id left out; empty ones are none."""
    before = max(first - 1, 0)
    ends = (np.flatnonzero(tokens[before:last] == end_of_text_id) + before).tolist()
    if not first:
        ends.insert(0, -1)  # the file's first document begins as if behind an end of text
    if ends and ends[-1] + 1 < last:
        ends.append(_next_end(tokens, end_of_text_id, last))
    for end, next_end in pairwise(ends):
        if next_end > end + 1:
            yield end + 1, next_end


def _next_end(tokens: np.ndarray, end_of_text_id: int, start: int) -> int:
    """The first end of text at or behind `start`, or of the file."""
    for place in range(start, len(tokens), SEARCHED_AT_ONCE):
        found = np.flatnonzero(tokens[place : place + SEARCHED_AT_ONCE] == end_of_text_id)
        if len(found):
            return place + int(found[0])
    return len(tokens)
