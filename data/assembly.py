"""Finished parts become bins, in the order of the parts: exact duplicates are dropped, the first one stays.

One process, one pass; it copies about as fast as sha256 goes. Memory: a few parts of a megabyte each, and 16 bytes a
document while duplicates are looked for.
Not here: making the parts (part_files.py), what is kept when it is interrupted (prepare.py).
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from yxanul.bad_input import BadInput
from yxanul.data.bin_writer import BinWriter
from yxanul.data.part_files import COUNTS, DIGEST, DOCUMENT, RECORDS, TOKENS, Job
from yxanul.data.progress import Progress

TRAIN, HELD_OUT = "train", "held_out"
DUPLICATE = "duplicate"
TOKENIZER_FACTS = ("name", "fingerprint", "vocabulary_size", "end_of_text_id")
CHUNK_DOCUMENTS, CHUNK_TOKENS = 1 << 14, 1 << 22


class NothingLeft(BadInput):
    """No finished part is worth keeping either."""


def assemble(
    sources: list[tuple[str, list[Path]]],
    folder: Path,
    job: Job,
    row_length: int | None,
    shard_tokens: int,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """`sources` are specs with their finished parts. Writes folder/train and, if wanted, folder/held_out; returns the
    manifests. A held-out bin of text is never packed: it is there to compare documents one by one."""
    writers = {TRAIN: job.writer(folder / TRAIN, row_length, shard_tokens)}
    if job.held_out:
        writers[HELD_OUT] = job.writer(folder / HELD_OUT, None, shard_tokens)
    duplicates = _Duplicates([part for _, own in sources for part in own])
    dropped: Counter[str] = Counter()
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in writers}
    for spec, own in sources:
        before = {name: writer.counts() for name, writer in writers.items()}
        for part in own:
            dropped.update(json.loads((part / COUNTS).read_text(encoding="utf-8")))
            for documents, ids in _chunks(part, job.dtype):
                keep = duplicates.keep(documents["digest"])
                dropped[DUPLICATE] += int(len(keep) - keep.sum())
                held_out = documents["held_out"].astype(bool)
                _add(writers[TRAIN], documents, ids, keep & ~held_out)
                if job.held_out:
                    _add(writers[HELD_OUT], documents, ids, keep & held_out)
            progress.end_part()
        for name, writer in writers.items():
            own_counts = {key: writer.counts()[key] - before[name][key] for key in ("documents", "tokens", "bytes")}
            told[name].append({"spec": spec} | own_counts)
    dropped = Counter({reason: count for reason, count in sorted(dropped.items()) if count})
    if not writers[TRAIN].documents:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "nothing"
        raise NothingLeft(f"no training document is left (dropped: {reasons}): give more text or loosen the filters.")
    maker = {name: getattr(job.tokenizer, name) for name in TOKENIZER_FACTS}
    return {
        name: writer.finish(tokenizer=maker, source=told[name], dropped=dict(dropped), **job.facts())
        for name, writer in writers.items()
    }


def _add(writer: BinWriter, documents: np.ndarray, ids: np.ndarray, keep: np.ndarray) -> None:
    kept = documents[keep]
    if len(kept):
        writer.add_tokens(ids if keep.all() else ids[np.repeat(keep, documents["tokens"])])
        writer.add_documents(kept["tokens"], kept["bytes"])


def _chunks(part: Path, dtype: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A part piece by piece, DOCUMENT records and ids: a few million of these, or one document if that is longer."""
    with (part / TOKENS).open("rb") as tokens, (part / RECORDS).open("rb") as records:
        while len(documents := np.fromfile(records, DOCUMENT, CHUNK_DOCUMENTS)):
            ends = np.cumsum(documents["tokens"], dtype=np.int64)
            first = 0
            while first < len(documents):
                before = int(ends[first - 1]) if first else 0
                last = max(first + 1, int(np.searchsorted(ends, before + CHUNK_TOKENS, "right")))
                yield documents[first:last], np.fromfile(tokens, dtype, int(ends[last - 1]) - before)
                first = last


class _Duplicates:
    """Tells which documents are the first with their text, when it is asked about all of them in order.

    Sorted in place, 16 bytes a document are enough to find the digests that occur more than once; only these are kept.
    """

    def __init__(self, parts: list[Path]) -> None:
        files = [part / RECORDS for part in parts]
        digests = np.empty(sum(file.stat().st_size for file in files) // DOCUMENT.itemsize, DIGEST)
        filled = 0
        for file in files:
            own = np.fromfile(file, DOCUMENT)["digest"]
            digests[filled : filled + len(own)] = own
            filled += len(own)
        digests.sort()
        self._repeated = _repeated(digests)
        self._seen = np.zeros(len(self._repeated), bool)

    def keep(self, digests: np.ndarray) -> np.ndarray:
        keep = np.ones(len(digests), bool)
        if not len(self._repeated):
            return keep
        places = np.searchsorted(self._repeated, digests)
        places[places == len(self._repeated)] = 0
        suspects = np.flatnonzero(self._repeated[places] == digests)
        keep[suspects] = False
        numbers, first = np.unique(places[suspects], return_index=True)
        new = ~self._seen[numbers]
        keep[suspects[first[new]]] = True
        self._seen[numbers] = True
        return keep


def _repeated(digests: np.ndarray) -> np.ndarray:
    """Those of the sorted digests that are there twice or more, once; by pieces, so that masks stay small."""
    found = [digests[:0]]
    step = 1 << 20
    for start in range(0, len(digests) - 1, step):
        piece = digests[start : start + step + 1]
        found.append(np.unique(piece[1:][piece[1:] == piece[:-1]]))
    return np.unique(np.concatenate(found))
