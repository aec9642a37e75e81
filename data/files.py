"""Files on a disk: which of them a path means, and how they are cut into slices that can be read apart.

A path is a file, a folder (files with known endings, hidden ones left out) or a pattern such as `data/*.txt`. Lines
of plain files are cut by bytes (a line belongs to the slice that holds its first byte), parquet by row groups; what
cannot be cut is one slice. Small slices are read together. Not here: what stands in the files (formats.py).
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.columns import NULL, Columns, kind_of
from yxanul.data.documents import Chain
from yxanul.data.formats import RECORDS, Record, Slice, open_parquet, parquet_kinds, readable
from yxanul.data.grouping import grouped

PART_BYTES = 64 * 2**20
RECORD_ENDINGS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
# What counts as text in a folder; a file that is named, or met by a pattern, is read as text whatever its ending
TEXT_ENDING = re.compile(
    r"\.(txt|text|md|markdown|rst|tex|org|adoc|html|htm|py|pyi|c|h|cc|cpp|hpp|cu|java|kt|scala|js|jsx|ts|tsx|go|rs|rb|"
    r"php|lua|pl|r|jl|hs|ml|swift|sh|sql|css|toml|yaml|yml|ini|cfg)"
)
COMPRESSED = (".gz", ".zst")
COLUMNS_FROM = 100  # records that are looked at to learn which columns a file has


def readers_of(spec: str, paths: list[str], columns: Columns, split: str) -> list[Chain]:
    """The readers of these files, each about PART_BYTES of input."""
    forms = {path: _form(path) for path in paths}
    if columns != Columns() and set(forms.values()) == {"text"}:
        raise BadInput(f"{spec}: columns are of jsonl, json, csv and parquet files; here are text files alone.")
    if split and "text" not in forms.values():
        raise BadInput(f"{spec}: split= cuts text files, and there are none.")
    whole = [Slice(path, form, _resolved(path, form, columns), split) for path, form in forms.items()]
    slices = [piece for file in whole for piece in _cut(file)]
    return [Chain(tuple(group)) for group in grouped(slices, lambda piece: piece.bytes, PART_BYTES)]


def matching_files(location: str) -> list[str]:
    """What a path, a folder or a pattern means, sorted by name."""
    location = os.path.expanduser(location)  # behind `raw:` the shell does not
    if os.path.isfile(location):
        return [location]
    if os.path.isdir(location):
        endings = {path: _ending(path) for path in _walk(location)}
        files = [path for path, end in endings.items() if end in RECORD_ENDINGS or TEXT_ENDING.fullmatch(end)]
        if not files:
            met = ", ".join(sorted({Path(path).suffix or "(none)" for path in endings})) or "no files at all"
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
    """The columns of this file: those of one source may differ."""
    if form == "text":
        return columns
    if form == "parquet":
        return columns.resolved(parquet_kinds(path), path)
    with readable(path):
        records = (record for record in RECORDS[form](Slice(path, form, columns)) if isinstance(record, Record))
        kinds: dict[str, str] = {}
        for values, _ in islice(records, COLUMNS_FROM):
            kinds |= {name: kind_of(value) for name, value in values.items() if kinds.get(name, NULL) == NULL}
    return columns.resolved(kinds, path) if kinds else columns  # without records nobody will ask for them


def _cut(file: Slice) -> Iterator[Slice]:
    if file.form == "parquet":
        with open_parquet(file.path) as parquet:
            groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
            sizes = [group.total_byte_size for group in groups]
        for members in grouped(range(len(sizes)), sizes.__getitem__, PART_BYTES):
            yield file._replace(start=members[0], stop=members[-1] + 1, bytes=sum(sizes[index] for index in members))
        return
    size = os.path.getsize(file.path)
    by_lines = file.form == "jsonl" or (file.form == "text" and file.split)
    if not by_lines or file.path.lower().endswith(COMPRESSED):
        yield file._replace(bytes=size)
        return
    for start, stop in pairwise([*range(0, size, PART_BYTES), size]):
        yield file._replace(start=start, stop=stop, bytes=stop - start)
