"""Files on a disk: which of them a path means, and how they are cut into slices that can be read apart.

A path is a file, a folder (files with known endings, hidden ones left out) or a pattern such as `data/*.txt`. Lines
of plain files are cut by bytes (a line belongs to the slice that holds its first byte), parquet by row groups; what
cannot be cut is one slice. Small slices are read together. Not here: what stands in the files (formats.py).
"""

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

from yxanul.bad_input import BadInput
from yxanul.data.columns import NULL, Columns, kind_of
from yxanul.data.documents import Finding
from yxanul.data.formats import RECORDS, Slice, open_parquet, parquet_kinds, readable, text_findings

PART_BYTES = 64 * 2**20
RECORD_ENDINGS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
# What counts as text in a folder; a file that is named, or met by a pattern, is read as text whatever its ending
TEXT_ENDING = re.compile(
    r"\.(txt|text|md|markdown|rst|tex|org|adoc|html|htm|py|pyi|c|h|cc|cpp|hpp|cu|java|kt|scala|js|jsx|ts|tsx|go|rs|rb|"
    r"php|lua|pl|r|jl|hs|ml|swift|sh|sql|css|toml|yaml|yml|ini|cfg)"
)
COMPRESSED = (".gz", ".zst")
COLUMNS_FROM = 100  # records that are looked at to learn which columns a file has

Item = TypeVar("Item")


@dataclass(frozen=True)
class FileSlices:
    """Reads slices of files one after the other."""

    slices: tuple[Slice, ...]
    columns: tuple[Columns, ...]  # one for each slice: files of one source may differ
    split: str = ""

    def findings(self) -> Iterator[Finding]:
        for piece, columns in zip(self.slices, self.columns, strict=True):
            with readable(piece.path):
                if piece.form == "text":
                    yield from text_findings(piece, self.split)
                    continue
                for record, place, problem in RECORDS[piece.form](piece, columns.used()):
                    yield columns.finding(record, place) if record is not None else Finding("", place, problem)


def readers_of(spec: str, paths: list[str], columns: Columns, split: str) -> list[FileSlices]:
    """The readers of these files, each about PART_BYTES of input."""
    forms = {path: _form(path) for path in paths}
    if columns != Columns() and set(forms.values()) == {"text"}:
        raise BadInput(f"{spec}: columns are of jsonl, json, csv and parquet files; here are text files alone.")
    if split and "text" not in forms.values():
        raise BadInput(f"{spec}: split= cuts text files, and there are none.")
    chosen = {path: columns if form == "text" else _resolved(path, form, columns) for path, form in forms.items()}
    slices = [piece for path, form in forms.items() for piece in _cut(path, form, split)]
    return [
        FileSlices(group, tuple(chosen[piece.path] for piece in group), split)
        for group in grouped(slices, lambda piece: piece.bytes, PART_BYTES)
    ]


def grouped(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> list[tuple[Item, ...]]:
    """Neighbours together until the next would pass the limit; no item is cut."""
    groups: list[tuple[Item, ...]] = []
    members: list[Item] = []
    total = 0
    for item in items:
        if members and total + size(item) > limit:
            groups.append(tuple(members))
            members, total = [], 0
        members.append(item)
        total += size(item)
    return [*groups, tuple(members)] if members else groups


def matching_files(location: str) -> list[str]:
    """What a path, a folder or a pattern means, sorted by name."""
    location = os.path.expanduser(location)  # behind `raw:` the shell does not
    if os.path.isfile(location):
        return [location]
    if os.path.isdir(location):
        files = [path for path in _walk(location) if _is_known(_ending(path))]
        if not files:
            met = ", ".join(sorted({Path(path).suffix or "(none)" for path in _walk(location)})) or "no files at all"
            raise BadInput(f"{location} holds no file of a known ending but {met}; name a pattern such as *.foo.")
        return files
    files = sorted(path for path in glob.glob(location, recursive=True) if os.path.isfile(path))
    if not files:
        raise BadInput(f"{location} does not exist; a source is a path, hf:owner/name, raw:FILE or builtin:NAME.")
    return files


def identity_of(paths: Iterable[str]) -> dict[str, Any]:
    """Changes when a file is added, removed or written."""
    digest, count, total = hashlib.sha256(), 0, 0
    for path in paths:
        facts = os.stat(path)
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        count, total = count + 1, total + facts.st_size
    return {"files": count, "bytes": total, "names_sizes_times": digest.hexdigest()}


def _walk(folder: str) -> Iterator[str]:
    met = set()  # links are followed, in a circle only once
    for directory, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_unlisted):
        if os.path.realpath(directory) in met:
            folders.clear()
            continue
        met.add(os.path.realpath(directory))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(directory, name) for name in sorted(names) if not name.startswith("."))


def _refuse_unlisted(error: OSError) -> None:
    raise BadInput(f"{error.filename} cannot be listed: {error.strerror}.")


def _is_known(ending: str) -> bool:
    return ending in RECORD_ENDINGS or TEXT_ENDING.fullmatch(ending) is not None


def _ending(path: str) -> str:
    name = path.lower()
    for compressed in COMPRESSED:
        name = name.removesuffix(compressed)
    return os.path.splitext(name)[1]


def _form(path: str) -> str:
    form = RECORD_ENDINGS.get(_ending(path), "text")
    if form == "parquet" and path.lower().endswith(COMPRESSED):
        raise BadInput(f"{path}: parquet is compressed inside and is read as it is; unpack the file first.")
    return form


def _resolved(path: str, form: str, columns: Columns) -> Columns:
    if form == "parquet":
        return columns.resolved(parquet_kinds(path), path)
    with readable(path):
        records = (record for record, _, _ in RECORDS[form](Slice(path, form), []) if record is not None)
        kinds: dict[str, str] = {}
        for record in islice(records, COLUMNS_FROM):
            kinds |= {name: kind_of(value) for name, value in record.items() if kinds.get(name, NULL) == NULL}
    return columns.resolved(kinds, path) if kinds else columns  # without records nobody will ask for them


def _cut(path: str, form: str, split: str) -> Iterator[Slice]:
    if form == "parquet":
        yield from _row_groups(path)
        return
    size = os.path.getsize(path)
    by_lines = form == "jsonl" or (form == "text" and split)
    if not by_lines or path.lower().endswith(COMPRESSED):
        yield Slice(path, form, 0, None, size)
        return
    borders = [*range(0, size, PART_BYTES), size]
    for start, stop in pairwise(borders):
        yield Slice(path, form, start, stop, stop - start)


def _row_groups(path: str) -> Iterator[Slice]:
    with open_parquet(path) as file:
        sizes = [file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups)]
    for group in grouped(range(len(sizes)), sizes.__getitem__, PART_BYTES):
        yield Slice(path, "parquet", group[0], group[-1] + 1, sum(sizes[index] for index in group))
