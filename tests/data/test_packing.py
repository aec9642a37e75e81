"""Packing: nothing lost, nothing cut that fits, little padding, and rows that say what precedes them."""

import numpy as np
import pytest

from yxanul.data.packing import fill_rows, pack

END = 0


def documents_of(lengths, seed=0):
    """Ids of documents of these lengths, the end-of-text id included."""
    draws = np.random.default_rng(seed)
    return [np.append(draws.integers(1, 60_000, length - 1), END).astype(np.uint16) for length in lengths]


def random_lengths(seed):
    draws = np.random.default_rng(seed)
    return draws.integers(1, int(draws.integers(2, 90)), int(draws.integers(1, 60))), int(draws.integers(2, 33))


@pytest.mark.parametrize("seed", range(60))
def test_every_token_is_in_one_row_once_and_no_document_that_fits_is_cut(seed):
    lengths, row_length = random_lengths(seed)
    pieces = pack(lengths, row_length)
    covered = [np.zeros(length, int) for length in lengths]
    used = np.zeros((int(pieces.row.max()) + 1, row_length), int)
    for document, start, length, row, place in zip(*pieces, strict=True):
        covered[document][start : start + length] += 1
        used[row, place : place + length] += 1
    assert all((count == 1).all() for count in covered)
    assert used.max() == 1
    real = used.sum(axis=1)
    assert all((row[:count] == 1).all() for row, count in zip(used, real, strict=True)), "padding comes last"
    counts = np.bincount(pieces.document, minlength=len(lengths))
    assert (counts == -(-lengths // row_length)).all(), "as few pieces as can be"


@pytest.mark.parametrize("seed", range(20))
def test_rows_hold_the_documents_and_what_precedes_them(seed):
    lengths, row_length = random_lengths(seed)
    documents = documents_of(lengths, seed)
    pieces = pack(lengths, row_length)
    stored = fill_rows(pieces, documents, row_length, END)
    assert stored.shape == (pieces.row.max() + 1, row_length + 1)
    for document, start, length, row, place in zip(*pieces, strict=True):
        assert (stored[row, 1 + place : 1 + place + length] == documents[document][start : start + length]).all()
        if place == 0:
            assert stored[row, 0] == (documents[document][start - 1] if start else END)
        else:
            assert stored[row, place] == END
    real = np.bincount(pieces.row, pieces.length)
    assert all((row[1 + int(count) :] == END).all() for row, count in zip(stored, real, strict=True))


def test_the_rest_of_a_cut_document_comes_first_in_its_row():
    pieces = pack(np.array([3, 10]), 7)  # 10 = 7 + 3, and 3 + 3 share the second row
    assert pieces.row.tolist() == [0, 0, 1]
    assert pieces.document.tolist() == [1, 0, 1]
    assert pieces.place.tolist() == [0, 3, 0]
    assert pieces.start.tolist() == [7, 0, 0]


def test_rows_follow_the_first_document_in_them():
    lengths = np.random.default_rng(1).integers(1, 300, 500)
    pieces = pack(lengths, 256)
    first = np.full(pieces.row.max() + 1, len(lengths))
    np.minimum.at(first, pieces.row, pieces.document)
    assert (np.diff(first) >= 0).all()


@pytest.mark.parametrize("typical, spread, row_length, most", [(520, 1.05, 2048, 0.001), (180, 0.6, 256, 0.01)])
def test_padding_is_small(typical, spread, row_length, most):
    lengths = np.random.default_rng(0).lognormal(np.log(typical), spread, 30_000).astype(int).clip(16, 50_000)
    rows = pack(lengths, row_length).row.max() + 1
    assert 0 <= 1 - lengths.sum() / (rows * row_length) < most


def test_a_document_of_exactly_a_row_and_one_of_a_token():
    assert pack(np.array([8, 1]), 8).length.tolist() == [8, 1]
    assert pack(np.array([], dtype=int), 8).row.tolist() == []
