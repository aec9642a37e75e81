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
from yxanul.data.columns import LIST, TEXT
from yxanul.data.documents import NOT_A_RECORD, NOT_UTF8, Finding

BYTE_ORDER_MARK = "\ufeff"
NOT_UTF8_INSIDE = "\udcff"  # no UTF-8 can hold it, so that whatever contains it is dropped as not UTF-8


class Slice(NamedTuple):
    """Of a text or jsonl file bytes start to stop (None: to the end), of parquet row groups."""

    path: str
    form: str
    start: int = 0
    stop: int | None = None
    bytes: int = 0


class Record(NamedTuple):
    values: dict[str, Any] | None  # None: there is a problem
    place: str
    problem: str = ""


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


# --- text ------------------------------------------------------------------------------------------------------------


def text_findings(piece: Slice, split: str) -> Iterator[Finding]:
    """`split` is "" (a file is a document), "lines" or "blank-lines"."""
    if not split:
        with open_bytes(piece.path) as file:
            yield _decoded(file.read(), piece.path, 0)
        return
    for offset, text in (_lines if split == "lines" else _paragraphs)(piece):
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
        if behind and not ours:
            return
        if line.strip():
            if ours:
                begun = begun if lines else offset
                lines.append(line)
            continue
        if lines:
            yield begun, b"".join(lines)
        if behind:
            return
        lines, ours = [], True
    if lines:
        yield begun, b"".join(lines)


# --- records ---------------------------------------------------------------------------------------------------------


def _jsonl_records(piece: Slice, _: list[str]) -> Iterator[Record]:
    for offset, line in _lines(piece):
        found = _decoded(line, piece.path, offset)
        if found.problem:
            yield Record(None, found.place, found.problem)
            continue
        try:
            values = json.loads(found.text)
        except (ValueError, RecursionError):
            values = None
        yield Record(values, found.place) if isinstance(values, dict) else Record(None, found.place, NOT_A_RECORD)


def _json_records(piece: Slice, _: list[str]) -> Iterator[Record]:
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
        place = f"{piece.path}, record {number}"
        yield Record(record, place) if isinstance(record, dict) else Record(None, place, NOT_A_RECORD)


def _csv_records(piece: Slice, _: list[str]) -> Iterator[Record]:
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
    pyarrow = pyarrow_for(path)
    with open_parquet(path) as file:
        return {field.name: _arrow_kind(pyarrow, field.type) for field in file.schema_arrow}


def _arrow_kind(pyarrow: Any, kind: Any) -> str:
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return TEXT
    return LIST if types.is_list(kind) or types.is_large_list(kind) else str(kind)


def _parquet_records(piece: Slice, names: list[str]) -> Iterator[Record]:
    assert piece.stop is not None
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


RECORDS: dict[str, Callable[[Slice, list[str]], Iterator[Record]]] = {
    "jsonl": _jsonl_records,
    "json": _json_records,
    "csv": _csv_records,
    "parquet": _parquet_records,
}
