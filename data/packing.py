"""Whole documents into rows of one length, best fit decreasing: nothing is dropped, and only what is longer than a row
is cut.

    pieces = pack(lengths, 2048)       # who lies where; `fill_rows` then lays the ids down

A row is stored as length + 1 ids: first the one before it (what its first target is predicted from), then documents,
each with its end-of-text token, then padding. So a row's inputs are row[:-1] and its targets row[1:].
Padding is below 0.1 % at 2,048 tokens a row on every corpus we measured (docs/LOG.md).
Not here: order (rows follow the first document in them; the stream shuffles), files (bin_writer.py).
"""

import bisect
from typing import NamedTuple

import numpy as np


class Pieces(NamedTuple):
    """One entry per piece of a document, as the rows hold them; all int64."""

    document: np.ndarray
    start: np.ndarray  # inside the document
    length: np.ndarray
    row: np.ndarray
    place: np.ndarray  # inside the row


def pack(lengths: np.ndarray, row_length: int) -> Pieces:
    lengths = np.asarray(lengths, dtype=np.int64)
    whole_rows, rest_length = np.divmod(lengths, row_length)

    # Pieces that fill a row by themselves
    document = np.repeat(np.arange(len(lengths)), whole_rows)
    row = np.arange(len(document), dtype=np.int64)
    first_row = np.repeat(np.cumsum(whole_rows) - whole_rows, whole_rows)
    start = (row - first_row) * row_length

    # What is left of every document, longest first, into the fullest row that still has room
    rest = np.flatnonzero(rest_length)
    rest = rest[np.argsort(-rest_length[rest], kind="stable")]
    rest_row = _best_fit(rest_length[rest].tolist(), row_length) + len(document)

    return _in_order(
        np.concatenate([document, rest]),
        np.concatenate([start, whole_rows[rest] * row_length]),
        np.concatenate([np.full(len(document), row_length, dtype=np.int64), rest_length[rest]]),
        np.concatenate([row, rest_row]),
    )


def fill_rows(pieces: Pieces, documents: list[np.ndarray], row_length: int, end_of_text_id: int) -> np.ndarray:
    """Ids as stored: (rows, row_length + 1)."""
    rows = int(pieces.row.max()) + 1
    stored = np.full((rows, row_length + 1), end_of_text_id, dtype=documents[0].dtype)
    flat = stored.reshape(-1)
    targets = pieces.row * (row_length + 1) + 1 + pieces.place
    columns = (pieces.document, pieces.start, pieces.length, pieces.place, targets)
    for document, start, length, place, target in zip(*(column.tolist() for column in columns), strict=True):
        flat[target : target + length] = documents[document][start : start + length]
        if start and not place:
            flat[target - 1] = documents[document][start - 1]
    return stored


def _best_fit(sizes: list[int], row_length: int) -> np.ndarray:
    """Row of every size, sizes falling. Rows with equal room are alike, so only the distinct rooms are searched."""
    rows_with_room: dict[int, list[int]] = {}
    distinct_rooms: list[int] = []
    row_of = np.empty(len(sizes), dtype=np.int64)
    rows = 0
    for piece, size in enumerate(sizes):
        position = bisect.bisect_left(distinct_rooms, size)
        if position == len(distinct_rooms):
            row, room = rows, row_length
            rows += 1
        else:
            room = distinct_rooms[position]
            candidates = rows_with_room[room]
            row = candidates.pop()
            if not candidates:
                del rows_with_room[room], distinct_rooms[position]
        row_of[piece] = row
        room -= size
        if room in rows_with_room:
            rows_with_room[room].append(row)
        elif room:
            rows_with_room[room] = [row]
            bisect.insort(distinct_rooms, room)
    return row_of


def _in_order(document: np.ndarray, start: np.ndarray, length: np.ndarray, row: np.ndarray) -> Pieces:
    """Rows by the first document in them; inside a row, the rest of a cut document first: it can then follow the id
    that really precedes it. (The second cut document of a row follows an end of text, as if it began there.)"""
    first_document = np.full(int(row.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_document, row, document)
    number = np.empty_like(first_document)
    number[np.argsort(first_document, kind="stable")] = np.arange(len(first_document))
    row = number[row]

    order = np.lexsort((document, start == 0, row))
    document, start, length, row = document[order], start[order], length[order], row[order]
    before = np.cumsum(length) - length
    row_begins = np.searchsorted(row, row)  # for each piece, the first piece of its row
    return Pieces(document, start, length, row, before - before[row_begins])
