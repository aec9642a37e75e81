"""In an epoch each token but a bin's first, and a tail that is counted, is a target exactly once.

Whatever the lengths, the mixture, the stages, the number of processes, and wherever the run was stopped.
"""

import math
from fractions import Fraction

import numpy as np
import pytest

from yxanul.data.plan import Phase, Plan, Source, Stage
from yxanul.data.stream import Stream, micro_batch_rows

SIZES = {"a": 61_441 + 700, "b": 24_577 + 5, "c": 12_289}  # whole blocks of 6,144, one token more, and a tail
CURRICULA = {
    "system 2": [(8, 768, 4), (768, 8, 4), (1536, 4, 4), (2048, 3)],
    "short to long": [(64, 96, 5), (256, 24, 3), (768, 8)],
    "one length": [(2048, 3)],
    "very short": [(8, 96, 64), (16, 48)],
}


def source(name, weight=None):
    return Source(name, SIZES[name], weight)


def targets_of(plan, stream, steps, processes=1, accumulation=1):
    """Every target that the steps read, over all ranks and micro-batches."""
    for step in steps:
        rows = plan.at(step).rows
        for micro in range(accumulation):
            for rank in range(processes):
                part = micro_batch_rows(rows, micro, rank, processes, accumulation)
                yield stream.batch(step, part.start, part.stop).targets.reshape(-1)


def bins_of(counting_bin):
    """Ids tell bin and position: a starts at 0, b at 1,000,000, c at 2,000,000."""
    return {name: counting_bin(size, index * 1_000_000) for index, (name, size) in enumerate(SIZES.items())}


def expected_in_an_epoch(plan, name):
    start = list(SIZES).index(name) * 1_000_000
    return np.arange(start + 1, start + SIZES[name] - plan.tails()[name])


@pytest.mark.parametrize("curriculum", CURRICULA)
@pytest.mark.parametrize("names", ["a", "abc"])
def test_two_epochs_hold_each_token_twice(curriculum, names, counting_bin):
    phases = tuple(Phase(*phase) for phase in CURRICULA[curriculum])
    plan = Plan([Stage("one", tuple(map(source, names)), phases, epochs=Fraction(2))])
    bins = bins_of(counting_bin)
    seen = np.concatenate(list(targets_of(plan, Stream(plan, bins, seed=3), range(plan.steps))))
    expected = np.sort(np.concatenate([expected_in_an_epoch(plan, name) for name in names]))
    ids, counts = np.unique(seen[: 2 * len(expected)], return_counts=True)
    assert np.array_equal(ids, expected) and (counts == 2).all()
    step = plan.at(plan.steps - 1).phase.step_tokens
    assert len(seen) - 2 * len(expected) < math.lcm(step, plan.block)  # the rounding of the last phase


def test_an_epoch_that_two_stages_share_holds_each_token_once(counting_bin):
    """Weighted stages at other lengths: the second goes on in each source where the first left it."""
    a, b = source("a", Fraction(7, 10)), source("b", Fraction(3, 10))
    plan = Plan(
        [
            Stage("short", (a, b), (Phase(8, 768, 2), Phase(768, 8)), tokens=6144 * 5),
            Stage("long", (b, a), (Phase(1536, 4),), tokens=6144 * 4),
        ]
    )
    seen = np.concatenate(list(targets_of(plan, Stream(plan, bins_of(counting_bin), seed=3), range(plan.steps))))
    assert len(seen) == len(np.unique(seen)) == 6144 * 9


@pytest.mark.parametrize("processes, accumulation", [(2, 1), (3, 1), (8, 1), (4, 2), (1, 8)])
def test_the_order_is_the_same_for_every_number_of_processes(processes, accumulation, counting_bin):
    phases = (Phase(8, 768, 8), Phase(768, 24))
    plan = Plan([Stage("one", (source("a"), source("b")), phases, epochs=Fraction(1))])
    stream = Stream(plan, bins_of(counting_bin), seed=3)
    alone = list(targets_of(plan, stream, range(plan.steps)))
    shared = np.concatenate(list(targets_of(plan, stream, range(plan.steps), processes, accumulation)))
    assert np.array_equal(np.concatenate(alone), shared)


def test_a_step_does_not_depend_on_how_the_run_got_there(counting_bin):
    phases = tuple(Phase(*phase) for phase in CURRICULA["system 2"])
    plan = Plan([Stage("one", tuple(map(source, "abc")), phases, epochs=Fraction(3))])
    stream = Stream(plan, bins_of(counting_bin), seed=3)
    walked = list(targets_of(plan, stream, range(plan.steps)))
    for step in (0, 3, 4, 9, plan.steps - 1):
        fresh = Stream(Plan(list(plan.stages)), bins_of(counting_bin), seed=3)
        assert np.array_equal(next(targets_of(plan, fresh, [step])), walked[step])
