"""What stands in a file: text (whole, or cut at blank lines or lines), and records of jsonl, json, csv and parquet.

Bytes that are not UTF-8 spoil their own document alone. gzip is read by the standard library, zstd by pyarrow. Not
here: which files there are (files.py), how a record becomes a text (columns.py).
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from yxanul.bad_input import BadInput
from yxanul.data.columns import LIST, TEXT, Columns
from yxanul.data.documents import NOT_A_RECORD, NOT_UTF8, Finding

BYTE_ORDER_MARK = "\ufeff"
NOT_UTF8_INSIDE = "\udcff"  # no UTF-8 can hold it, so that whatever contains it is dropped as not UTF-8


class Slice(NamedTuple):
    """Of a text or jsonl file bytes start to stop (None: to the end), of parquet row groups."""

    path: str
    form: str
    columns: Columns
    split: str = ""  # of text: "" (a file is a document), "lines" or "blank-lines"
    start: int = 0
    stop: int | None = None
    bytes: int = 0

    def findings(self) -> Iterator[Finding]:
        with readable(self.path):
            if self.form == "text":
                yield from _text_findings(self)
                return
            for record in RECORDS[self.form](self):
                yield record if isinstance(record, Finding) else self.columns.finding(record.values, record.place)


class Record(NamedTuple):
    values: dict[str, Any]
    place: str


Records = Iterator[Record | Finding]


def pyarrow_for(what: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput(f'{what} needs pyarrow: pip install "yxanul[data]".') from None
    return pyarrow


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns what a broken file makes of its reader into one sentence."""
    try:
        yield
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None


def open_bytes(path: str) -> IO[bytes]:
    if path.lower().endswith(".gz"):
        return gzip.open(path)  # type: ignore[return-value]
    if path.lower().endswith(".zst"):
        return io.BufferedReader(pyarrow_for(path).CompressedInputStream(path, "zstd"))
    return open(path, "rb")


def in_lines(place: str) -> str:
    """Of `FILE, byte N` the line, counted only where somebody is told; another place as it is."""
    path, _, offset = place.rpartition(", byte ")
    if not path:
        return place
    number, read = 1, 0
    with open_bytes(path) as file:
        while read < int(offset):
            read += len(file.readline())
            number += 1
    return f"{path}, line {number}"


# --- text ------------------------------------------------------------------------------------------------------------


def _text_findings(piece: Slice) -> Iterator[Finding]:
    if not piece.split:
        with open_bytes(piece.path) as file:
            yield _decoded(file.read(), piece.path, 0)
        return
    for offset, text in (_lines if piece.split == "lines" else _paragraphs)(piece):
        yield _decoded(text.rstrip(b"\r\n"), piece.path, offset)


def _decoded(text: bytes, path: str, offset: int) -> Finding:
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        return Finding("", f"{path}, byte {offset + error.start}", NOT_UTF8)
    return Finding(decoded if offset else decoded.removeprefix(BYTE_ORDER_MARK), f"{path}, byte {offset}")


def _lines(piece: Slice) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank and whose first byte is in the slice, with its offset."""
    for offset, line in _lines_from(piece.path, piece.start):
        if piece.stop is not None and offset >= piece.stop:
            return
        if line.strip():
            yield offset, line


def _lines_from(path: str, start: int) -> Iterator[tuple[int, bytes]]:
    """Every line whose first byte is at `start` or behind it."""
    with open_bytes(path) as file:
        offset = start
        if start:
            file.seek(start - 1)
            offset += len(file.readline()) - 1
        for line in file:
            yield offset, line
            offset += len(line)


def _paragraphs(piece: Slice) -> Iterator[tuple[int, bytes]]:
    """What stands between blank lines; it belongs to the slice that holds the first byte of the blank line before."""
    begun, ours = 0, piece.start == 0
    lines: list[bytes] = []
    for offset, line in _lines_from(piece.path, piece.start):
        behind = piece.stop is not None and offset >= piece.stop
        if not line.strip():
            if lines:
                yield begun, b"".join(lines)
            lines, ours = [], not behind
        elif ours:
            begun = begun if lines else offset
            lines.append(line)
        if behind and not ours:
            return
    if lines:
        yield begun, b"".join(lines)


# --- records ---------------------------------------------------------------------------------------------------------


def _jsonl_records(piece: Slice) -> Records:
    for offset, line in _lines(piece):
        found = _decoded(line, piece.path, offset)
        if found.problem:
            yield found
            continue
        try:
            values = json.loads(found.text)
        except (ValueError, RecursionError):
            values = None
        yield _record(values, found.place)


def _record(values: Any, place: str) -> Record | Finding:
    return Record(values, place) if isinstance(values, dict) else Finding("", place, NOT_A_RECORD)


def _json_records(piece: Slice) -> Records:
    with open_bytes(piece.path) as file:
        text = file.read().decode("utf-8-sig", "surrogateescape")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{piece.path} is no JSON: {error}; one record a line belongs into a .jsonl file.") from None
    if not isinstance(values, list):
        raise BadInput(
            f"{piece.path} must hold a list of records; it holds {type(values).__name__}. Of a folder, "
            "name the files that you mean, such as 'notes/**/*.md'."
        )
    for number, record in enumerate(values, 1):
        yield _record(record, f"{piece.path}, record {number}")


def _csv_records(piece: Slice) -> Records:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default, 128 KiB, is shorter than many an article
    with (
        open_bytes(piece.path) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        rows = csv.reader(text, strict=True)  # else an open quote swallows the rest of the file in silence
        names = next(rows, [])
        for row in rows:
            if row:
                yield Record(dict(zip(names, row, strict=False)), f"{piece.path}, line {rows.line_num}")


def open_parquet(path: str) -> Any:
    pyarrow = pyarrow_for(path)
    try:
        # a row group may be gigabytes: read it a piece at a time
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} cannot be read as parquet: {str(error).rstrip('.')}.") from None


def parquet_kinds(path: str) -> dict[str, str]:
    """What each column holds."""
    with open_parquet(path) as file:
        return {field.name: _arrow_kind(field.type) for field in file.schema_arrow}


def _arrow_kind(kind: Any) -> str:
    name = str(kind.value_type if str(kind).startswith("dictionary<") else kind)
    if name in ("string", "large_string", "string_view"):
        return TEXT
    return LIST if name.startswith(("list<", "large_list<")) else name


def _parquet_records(piece: Slice) -> Records:
    assert piece.stop is not None
    names = piece.columns.used()
    with open_parquet(piece.path) as file:
        row = sum(file.metadata.row_group(index).num_rows for index in range(piece.start))
        groups = range(piece.start, piece.stop)
        try:
            for batch in file.iter_batches(256, row_groups=groups, columns=names, use_threads=False):
                columns = [_python_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    row += 1
                    yield Record(dict(zip(batch.schema.names, values, strict=True)), f"{piece.path}, row {row}")
        except pyarrow_for(piece.path).ArrowException as error:
            raise BadInput(f"{piece.path} cannot be read behind row {row}: {error}.") from None


def _python_values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # raised for the whole column; one by one shows which
        return [_python_value(scalar) for scalar in column]


def _python_value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NOT_UTF8_INSIDE


RECORDS: dict[str, Callable[[Slice], Records]] = {
    "jsonl": _jsonl_records,
    "json": _json_records,
    "csv": _csv_records,
    "parquet": _parquet_records,
}
