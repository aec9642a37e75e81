"""Micro-batches are the plan's rows in the plan's order, whoever asks for them and however."""

import multiprocessing
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from yxanul.data.bins import open_bin
from yxanul.data.plan import Phase, Plan, Source, Stage
from yxanul.data.stream import Stream
from yxanul.training.loader import MicroBatches, document_bounds, loader

IN_PROCESS = SimpleNamespace(
    dataloader_num_workers=0,
    dataloader_pin_memory=False,
    dataloader_persistent_workers=False,
    dataloader_prefetch_factor=None,
)


@pytest.fixture
def stream(bins):
    """Two phases of other lengths and rows, of a bin of documents."""
    token_bin = open_bin(bins / "language/train")
    source = Source("language", token_bin.tokens)
    stage = Stage("one", (source,), (Phase(16, 12, steps=4), Phase(32, 6, steps=4)))
    return Stream(Plan([stage]), {"language": token_bin}, seed=3)


@pytest.fixture
def packed(bins):
    token_bin = open_bin(bins / "packed")
    stage = Stage("one", (Source("packed", token_bin.rows * 32, row_length=32),), (Phase(32, 4, steps=8),))
    return Stream(Plan([stage]), {"packed": token_bin}, seed=3)


def get(stream, number, rank=0, processes=1, accumulation=1, document_mask=False):
    return MicroBatches(stream, rank, processes, accumulation, document_mask).__getitems__(number)


@pytest.mark.parametrize("processes, accumulation", [(1, 1), (2, 1), (1, 6), (3, 2)])
def test_the_parts_of_all_ranks_in_order_are_the_step(stream, processes, accumulation):
    for step in (0, 3, 4, 7):
        parts = [
            get(stream, step * accumulation + micro, rank, processes, accumulation)
            for micro in range(accumulation)
            for rank in range(processes)
        ]
        whole = stream.batch(step, 0, stream.plan.at(step).rows)
        assert np.array_equal(torch.cat([part["input_ids"] for part in parts]), whole.input_ids)
        assert np.array_equal(torch.cat([part["shift_labels"] for part in parts]), whole.targets)


def test_every_part_knows_the_targets_of_its_whole_step(packed):
    counted = [int((packed.batch(step, 0, 4).targets >= 0).sum()) for step in range(8)]
    assert min(counted) < 4 * 32
    for step, targets in enumerate(counted):
        parts = [get(packed, step * 2 + micro, rank, 2, 2) for micro in range(2) for rank in range(2)]
        assert [part["targets_in_step"] for part in parts] == [targets] * 4


def test_bounds_of_documents_come_with_a_document_mask_alone(stream):
    plain, masked = get(stream, 5), get(stream, 5, document_mask=True)
    assert set(plain) == {"input_ids", "shift_labels", "targets_in_step"}
    assert set(masked) == {*plain, "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
    bounds = masked["cu_seq_lens_q"]
    assert bounds is masked["cu_seq_lens_k"] and bounds.dtype == torch.int32
    assert masked["max_length_q"] == masked["max_length_k"] == 32 >= int(bounds.diff().max())
    begins = {place for place, token in enumerate(masked["input_ids"].flatten().tolist()) if token == 0}
    assert begins and set(bounds.tolist()) == begins | {32 * row for row in range(7)}


def test_bounds_are_padded_with_the_end_to_sizes_that_are_few():
    rows = np.array([[5, 0, 7, 8], [1, 2, 3, 4]])
    assert document_bounds(rows == 0).tolist() == [0, 1, 4, 8, 8]
    assert document_bounds(rows == 9).tolist() == [0, 4, 8]
    assert document_bounds(np.ones((2, 4), bool)).tolist() == list(range(9))
    random = np.random.default_rng(0)
    sizes = {len(document_bounds(random.integers(0, 500, (16, 2048)) == 0)) for _ in range(20)}
    assert sizes == {16 * 8 + 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_every_micro_batch_once_in_order(stream, workers):
    args = SimpleNamespace(**vars(IN_PROCESS) | {"dataloader_num_workers": workers})
    batches = MicroBatches(stream, 1, 2, 3, False)
    given = list(loader(batches, args))
    assert len(given) == len(batches) == 8 * 3
    for number, batch in enumerate(given):
        assert torch.equal(batch["input_ids"], batches.__getitems__(number)["input_ids"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_reaches_a_worker_takes_no_batch(stream, number):
    args = SimpleNamespace(**vars(IN_PROCESS) | {"dataloader_num_workers": 1})
    batches = MicroBatches(stream, 0, 1, 1, False)
    given = iter(loader(batches, args))
    next(given)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    assert len(list(given)) == len(batches) - 1


def test_loading_draws_nothing_from_the_random_state_that_dropout_uses(stream):
    before = torch.random.get_rng_state()
    next(iter(loader(MicroBatches(stream, 0, 1, 1, False), IN_PROCESS)))
    assert torch.equal(torch.random.get_rng_state(), before)
