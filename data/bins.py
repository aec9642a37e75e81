"""Token bins: folders of ids that are read in place, however large, and that know their tokenizer, counts and hashes.

    token_bin = open_bin("bins/books/train")      # compares every file's size with the manifest, reads no token
    ids = token_bin.read(0, 2049)                 # across files; a view of the disk where one file holds them all

    tokens-00000.bin ...  ids, uint16 where the vocabulary fits, else uint32, little endian; every file but the last
                          holds the same number of them
    documents.idx         uint64: where each document ends, its end-of-text token included
    bytes.idx             uint32: the length of each document's text in UTF-8 bytes
    rows.idx              uint32, packed layout only (packing.py): how many tokens of each row are real
    marks.idx             uint8, of conversations only (conversation_bins.py): which tokens are learnt, or begin one
    manifest.json         written last, so a folder without one is no bin
Not here: making bins from text (prepare.py, bin_writer.py), the order in which training reads them (stream.py).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from yxanul.bad_input import BadInput

FORMAT, VERSION = "yxanul-tokens", 1
MANIFEST, DOCUMENTS, BYTES, ROWS, MARKS = "manifest.json", "documents.idx", "bytes.idx", "rows.idx", "marks.idx"
INDEX_DTYPES: dict[str, np.dtype] = {
    DOCUMENTS: np.dtype("<u8"),
    BYTES: np.dtype("<u4"),
    ROWS: np.dtype("<u4"),
    MARKS: np.dtype("u1"),
}
LEARNT, BEGINS = 1, 2  # of marks.idx


def token_file(number: int) -> str:
    return f"tokens-{number:05d}.bin"


def dtype_for(vocabulary_size: int) -> np.dtype:
    """The smallest unsigned integers that hold every id."""
    for dtype in (np.dtype("<u2"), np.dtype("<u4")):
        if vocabulary_size <= np.iinfo(dtype).max + 1:
            return dtype
    raise BadInput(f"a vocabulary of {vocabulary_size:,} ids is above what a token bin holds (uint32).")


class TokenBin:
    """An open bin. A file is mapped when it is first read, once in every process; pickling leaves the maps behind."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.dtype = np.dtype(manifest["dtype"])
        self.documents: int = manifest["documents"]
        self.end_of_text_id: int = manifest["tokenizer"]["end_of_text_id"]
        layout = manifest["layout"]
        self.row_length: int | None = None if layout == "stream" else layout["packed"]
        sizes = [entry["bytes"] for name, entry in manifest["files"].items() if name.startswith("tokens-")]
        self.tokens = sum(sizes) // self.dtype.itemsize  # ids that can be read; a packed bin's padding counts here
        self.rows = 0 if self.row_length is None else self.tokens // (self.row_length + 1)
        self.is_conversations = MARKS in manifest["files"]
        self._file_tokens = max(sizes) // self.dtype.itemsize if self.tokens else 1
        self._maps: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start .. stop - 1, read-only where they lie in one file."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"{self.folder} has {self.tokens:,} tokens; {start:,} to {stop:,} was asked for")
        parts = []
        while start < stop:
            number, offset = divmod(start, self._file_tokens)
            parts.append(self._mapped(token_file(number))[offset : offset + stop - start])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, self.dtype)])

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Pieces of one length as an array (pieces, length): one index array for each file, for many short pieces."""
        gathered = np.empty((len(starts), length), self.dtype)
        numbers, offsets = np.divmod(starts, self._file_tokens)
        crossing = offsets + length > self._file_tokens
        for piece in np.flatnonzero(crossing):
            gathered[piece] = self.read(int(starts[piece]), int(starts[piece]) + length)
        for number in np.unique(numbers[~crossing]):
            here = np.flatnonzero((numbers == number) & ~crossing)
            gathered[here] = self._mapped(token_file(int(number)))[offsets[here, None] + np.arange(length)]
        return gathered

    @property
    def document_ends(self) -> np.ndarray:
        return self._mapped(DOCUMENTS)

    @property
    def document_bytes(self) -> np.ndarray:
        return self._mapped(BYTES)

    @property
    def row_lengths(self) -> np.ndarray:
        """Of a packed bin: real tokens of every row, padding is behind them. Of conversations: learnt ones."""
        return self._mapped(ROWS)

    @property
    def marks(self) -> np.ndarray:
        """Of conversations: for each stored id LEARNT, BEGINS, or neither."""
        return self._mapped(MARKS)

    def _mapped(self, name: str) -> np.ndarray:
        if name not in self._maps:
            dtype = INDEX_DTYPES.get(name, self.dtype)
            count = self.manifest["files"][name]["bytes"] // dtype.itemsize
            # An empty file cannot be mapped. A plain view, because np.memmap's own slices cost a microsecond each
            self._maps[name] = np.asarray(np.memmap(self.folder / name, dtype, "r")) if count else np.empty(0, dtype)
        return self._maps[name]


def open_bin(folder: str | Path, tokenizer_fingerprint: str | None = None) -> TokenBin:
    """Refuses a bin of another tokenizer, and one whose files do not have the sizes that its manifest says."""
    folder = Path(folder)
    manifest = _read_manifest(folder)
    try:
        maker, files = manifest["tokenizer"], manifest["files"]
        if tokenizer_fingerprint not in (None, maker["fingerprint"]):
            raise BadInput(
                f"{folder} was made with another tokenizer ({maker['name']}, fingerprint {maker['fingerprint']}; "
                f"wanted is {tokenizer_fingerprint}): use that tokenizer, or prepare the text again with this one."
            )
        for name, entry in files.items():
            file = folder / name
            if not file.is_file():
                raise _damaged(folder, f"{name} is missing")
            if (size := file.stat().st_size) != entry["bytes"]:
                raise _damaged(folder, f"{name} has {size:,} bytes, its manifest says {entry['bytes']:,}")
        token_bin = TokenBin(folder, manifest)
        _check_counts(token_bin)
    except BadInput:
        raise
    except KeyError as error:
        raise _damaged(folder / MANIFEST, f"{error.args[0]} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:  # somebody wrote into it
        raise _damaged(folder / MANIFEST, repr(error)) from None
    return token_bin


def find_bins(folder: str | Path) -> list[Path]:
    """The folder itself, or the bins that `data prepare` put into it."""
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return [folder]
    inside = sorted(file.parent for file in folder.glob(f"*/{MANIFEST}"))
    if not inside:
        raise BadInput(f"{folder} is no token bin: it has no {MANIFEST}; make one with `yxanul data prepare`.")
    return inside


def verify_bin(folder: str | Path) -> int:
    """Compares every file with the sha256 in the manifest; returns the bytes read."""
    token_bin = open_bin(folder)
    files = token_bin.manifest["files"]
    for name, entry in files.items():
        found = file_digest(token_bin.folder / name)
        if found != entry["sha256"]:
            raise BadInput(
                f"{folder} was edited or damaged: the sha256 of {name} is {found}, its manifest says "
                f"{entry['sha256']}; copy or prepare the bin again."
            )
    return sum(entry["bytes"] for entry in files.values())


def file_digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        inside = [path.name for path in find_bins(folder)]
        raise BadInput(f"{folder} holds bins ({', '.join(inside)}), and is none: name one of them.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise BadInput(f"{file} is not the manifest of a token bin of version {VERSION}: prepare the text again.")
    return manifest


def _check_counts(token_bin: TokenBin) -> None:
    """What the manifest says must agree with itself, so that no reader falls off the end of a file."""
    manifest, folder = token_bin.manifest, token_bin.folder
    maker, files = manifest["tokenizer"], manifest["files"]
    if not 0 <= maker["end_of_text_id"] < maker["vocabulary_size"] <= np.iinfo(token_bin.dtype).max + 1:
        raise _damaged(
            folder,
            f"{manifest['dtype']} cannot hold the {maker['vocabulary_size']:,} ids of its tokenizer, or its end of "
            f"text, id {maker['end_of_text_id']:,}, is none of them",
        )
    counts = {DOCUMENTS: token_bin.documents, BYTES: token_bin.documents}
    stored = manifest["tokens"]
    if token_bin.row_length is not None:
        counts[ROWS] = manifest["rows"]
        stored = manifest["rows"] * (token_bin.row_length + 1)
    if token_bin.is_conversations:
        counts[MARKS] = stored
    wrong = [name for name, count in counts.items() if files[name]["bytes"] != count * INDEX_DTYPES[name].itemsize]
    sizes = [entry["bytes"] for name, entry in files.items() if name.startswith("tokens-")]
    if wrong or stored != token_bin.tokens or len(set(sizes[:-1])) > 1 or sizes[-1:] > sizes[:1]:
        what = ", ".join(wrong) or "tokens"
        raise _damaged(folder, f"the counts in its {MANIFEST} do not fit the sizes of its files ({what})")


def _damaged(place: Path, what: str) -> BadInput:
    return BadInput(f"{place} is damaged: {what}; copy or prepare the bin again.")
