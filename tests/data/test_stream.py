"""Rows of a step: shifted targets, packed rows, documents told apart, and the same however they are asked for."""

import numpy as np
import pytest

from yxanul.data.plan import Phase, Plan, Source, Stage
from yxanul.data.stream import IGNORED, Stream, micro_batch_rows, restarting_positions


def plan_of(length, rows, sources, steps=4):
    return Plan([Stage("one", tuple(sources), (Phase(length, rows),), steps=steps)])


@pytest.mark.parametrize("length", [8, 1024])
def test_targets_are_the_tokens_behind(length, counting_bin):
    stream = Stream(plan_of(length, 4, [Source("a", 9001)]), {"a": counting_bin(9001)}, seed=1)
    batch = stream.batch(2, 0, 4)
    assert batch.input_ids.shape == batch.targets.shape == (4, length)
    assert np.array_equal(batch.targets, batch.input_ids + 1)


@pytest.mark.parametrize("length, rows", [(8, 96), (96, 8), (768, 2)])
def test_parts_of_a_step_are_the_parts_of_its_rows(length, rows, counting_bin):
    stream = Stream(plan_of(length, rows, [Source("a", 40_001)]), {"a": counting_bin(40_001)}, seed=1)
    whole = stream.batch(3, 0, rows).input_ids
    for first, last in [(0, 1), (1, rows), (rows // 2, rows // 2 + 1)]:
        assert np.array_equal(stream.batch(3, first, last).input_ids, whole[first:last])


def test_another_seed_and_another_epoch_give_another_order(counting_bin):
    plan, bins = plan_of(16, 10, [Source("a", 1601)], steps=20), {"a": counting_bin(1601)}
    first = [Stream(plan, bins, seed=1).batch(step, 0, 10).input_ids for step in range(20)]
    assert not np.array_equal(first[0], Stream(plan, bins, seed=2).batch(0, 0, 10).input_ids)
    assert not np.array_equal(np.concatenate(first[:10]), np.concatenate(first[10:]))
    assert np.array_equal(np.sort(np.concatenate(first[:10]), axis=0), np.sort(np.concatenate(first[10:]), axis=0))


def test_packed_rows_keep_their_length_and_padding_is_no_target(packed_counting_bin):
    """Row r holds tokens 1000 r, 1000 r + 1, ...; of its 16 targets the first 16 - r % 5 are real."""
    stream = Stream(plan_of(16, 4, [Source("a", 160, row_length=16)]), {"a": packed_counting_bin(10, 16)}, seed=1)
    batch = stream.batch(1, 0, 4)
    for inputs, targets in zip(batch.input_ids, batch.targets, strict=True):
        row, real = inputs[0] // 1000, 16 - inputs[0] // 1000 % 5
        assert inputs.tolist() == list(range(row * 1000, row * 1000 + 16))
        assert targets[:real].tolist() == (inputs[:real] + 1).tolist()
        assert (targets[real:] == IGNORED).all()


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_the_targets_of_a_step_are_all_but_padding(rows, packed_counting_bin):
    """A block is a row of 16; the epoch of 10 rows ends within a step."""
    stream = Stream(
        plan_of(16, rows, [Source("a", 160, row_length=16)], 12), {"a": packed_counting_bin(10, 16)}, seed=1
    )
    counted = [int((stream.batch(step, 0, rows).targets != IGNORED).sum()) for step in range(12)]
    assert [stream.targets(step) for step in range(12)] == counted
    assert sum(counted) < 12 * rows * 16


def test_the_targets_of_a_step_that_is_part_of_a_block(packed_counting_bin):
    """The other stage's length makes blocks of 48: three packed rows, so that a step of two cuts them."""
    packed = Stage("one", (Source("a", 144, row_length=16),), (Phase(16, 2),), steps=12)
    other = Stage("two", (Source("b", 96, row_length=48),), (Phase(48, 1),), steps=2)
    bins = {"a": packed_counting_bin(9, 16), "b": packed_counting_bin(2, 48)}
    stream = Stream(Plan([packed, other]), bins, seed=1)
    assert stream.plan.block == 48
    for step in range(stream.plan.steps):
        rows = stream.plan.at(step).rows
        assert stream.targets(step) == (stream.batch(step, 0, rows).targets != IGNORED).sum()


def test_the_targets_of_a_mixture_with_packed_rows(packed_counting_bin, counting_bin):
    sources = [Source("a", 160, row_length=16), Source("b", 1601)]
    stream = Stream(plan_of(16, 5, sources, 20), {"a": packed_counting_bin(10, 16), "b": counting_bin(1601)}, seed=1)
    counted = [int((stream.batch(step, 0, 5).targets != IGNORED).sum()) for step in range(20)]
    assert [stream.targets(step) for step in range(20)] == counted
    assert len(set(counted)) > 2


def test_without_padding_every_token_of_a_step_is_a_target(counting_bin):
    stream = Stream(plan_of(16, 5, [Source("b", 1601)]), {"b": counting_bin(1601)}, seed=1)
    assert stream.targets(3) == 5 * 16


@pytest.mark.parametrize("processes, accumulation", [(1, 1), (2, 1), (3, 1), (8, 1), (2, 3), (1, 24), (4, 2)])
def test_the_union_over_ranks_and_micro_batches_is_the_step(processes, accumulation):
    parts = [
        row
        for micro in range(accumulation)
        for rank in range(processes)
        for row in micro_batch_rows(24, micro, rank, processes, accumulation)
    ]
    assert parts == list(range(24))


def test_positions_restart_at_the_end_of_text_before_a_document():
    ids = np.array([[5, 5, 0, 7, 7, 0, 0, 9], [0, 1, 2, 3, 4, 5, 6, 7]])
    assert restarting_positions(ids, 0).tolist() == [[0, 1, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
