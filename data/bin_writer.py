"""Writes token bins in one pass: hashes while it writes, and writes the manifest last, so a folder with one is whole.

`BinWriter` lays documents one behind the other; `PackedBinWriter` puts them into rows first (packing.py).
Not here: where documents come from (assembly.py), the names and types of the files (bins.py).
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from yxanul.data.bins import BYTES, DOCUMENTS, FORMAT, INDEX_DTYPES, MANIFEST, ROWS, VERSION, token_file
from yxanul.data.packing import fill_rows, pack
from yxanul.data.whole_files import write_json

# Ids that are packed together: a multiple of it would pad less, and this is below 0.1 % already
PACKED_AT_ONCE = 1 << 24


class BinWriter:
    """Documents come as ids that end with the end-of-text id; how many bytes their text has is told beside them."""

    layout: Any = "stream"
    index_names: tuple[str, ...] = (DOCUMENTS, BYTES)

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int) -> None:
        folder.mkdir()
        self._folder, self._dtype, self._shard_tokens = folder, dtype, shard_tokens
        self._indexes = {name: _HashedFile(folder / name) for name in self.index_names}
        self._shard: _HashedFile | None = None
        self._files: dict[str, dict[str, Any]] = {}
        self._stored = 0
        self.tokens = self.documents = self.bytes = 0

    def add_tokens(self, ids: np.ndarray) -> None:
        """Any number of ids, of a document or of many; `add_documents` says later where they end."""
        while len(ids):
            if self._shard is None:
                self._shard = _HashedFile(self._folder / token_file(len(self._files)))
            room = self._shard_tokens - self._stored % self._shard_tokens
            self._shard.write(np.ascontiguousarray(ids[:room], self._dtype))
            self._stored += min(room, len(ids))
            ids = ids[room:]
            if self._stored % self._shard_tokens == 0:
                self._close_shard()

    def add_documents(self, lengths: np.ndarray, byte_lengths: np.ndarray) -> None:
        """Lengths in tokens, end of text included, of the documents whose ids were added since the last call."""
        ends = self.tokens + np.cumsum(lengths, dtype=np.int64)
        self._count(lengths, byte_lengths)
        self._index(DOCUMENTS, ends)
        self._index(BYTES, byte_lengths)

    def finish(self, **facts: Any) -> dict[str, Any]:
        """Puts everything on the disk, the manifest last; `facts` are the fields that only the caller knows."""
        if self._shard:
            self._close_shard()
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self._dtype.name,
            "layout": self.layout,
            **self.counts(),
            **facts,
            "files": self._files | {name: index.close() for name, index in self._indexes.items()},
        }
        write_json(self._folder / MANIFEST, manifest)
        return manifest

    def counts(self) -> dict[str, int]:
        return {"tokens": self.tokens, "documents": self.documents, "bytes": self.bytes}

    def _count(self, lengths: np.ndarray, byte_lengths: np.ndarray) -> None:
        self.tokens += int(lengths.sum(dtype=np.int64))
        self.documents += len(lengths)
        self.bytes += int(byte_lengths.sum(dtype=np.int64))

    def _index(self, name: str, values: np.ndarray) -> None:
        self._indexes[name].write(values.astype(INDEX_DTYPES[name]))

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._files[token_file(len(self._files))] = self._shard.close()
        self._shard = None


class PackedBinWriter(BinWriter):
    """Collects about 16 million ids of whole documents, packs them into rows, and goes on."""

    index_names: tuple[str, ...] = (DOCUMENTS, BYTES, ROWS)

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int, row_length: int, end_of_text_id: int) -> None:
        super().__init__(folder, dtype, shard_tokens)
        self.layout = {"packed": row_length}
        self._row_length, self._end_of_text_id = row_length, end_of_text_id
        self._ids: list[np.ndarray] = []
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting_tokens = self._rows = 0

    def add_tokens(self, ids: np.ndarray) -> None:
        self._ids.append(ids)

    def add_documents(self, lengths: np.ndarray, byte_lengths: np.ndarray) -> None:
        self._waiting.append((lengths, byte_lengths))
        self._waiting_tokens += int(lengths.sum(dtype=np.int64))
        self._count(lengths, byte_lengths)
        if self._waiting_tokens >= PACKED_AT_ONCE:
            self._pack()

    def finish(self, **facts: Any) -> dict[str, Any]:
        if self._waiting:
            self._pack()
        return super().finish(rows=self._rows, **facts)

    def _take_waiting(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        lengths, byte_lengths = (
            np.concatenate(column).astype(np.int64) for column in zip(*self._waiting, strict=True)
        )
        documents = np.split(np.concatenate(self._ids), np.cumsum(lengths)[:-1])
        self._ids, self._waiting, self._waiting_tokens = [], [], 0
        return lengths, byte_lengths, documents

    def _store(self, rows: np.ndarray, real: np.ndarray) -> None:
        super().add_tokens(rows.reshape(-1))
        self._rows += len(rows)
        self._index(ROWS, real)

    def _pack(self) -> None:
        lengths, byte_lengths, documents = self._take_waiting()
        pieces = pack(lengths, self._row_length)
        stored_before = self._stored
        stored = fill_rows(pieces, documents, self._row_length, self._end_of_text_id)
        self._store(stored, np.bincount(pieces.row, weights=pieces.length))

        last = pieces.start + pieces.length == lengths[pieces.document]
        ends = (pieces.row * (self._row_length + 1) + 1 + pieces.place + pieces.length)[last]
        self._index(DOCUMENTS, stored_before + ends)
        self._index(BYTES, byte_lengths[pieces.document[last]])


class _HashedFile:
    """A new file that is written once, from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, values: np.ndarray) -> None:
        data = values.view(np.uint8).data
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    def close(self) -> dict[str, Any]:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}
