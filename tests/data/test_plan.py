"""The plan's arithmetic: budgets, phases, rounding, division among ranks, and what it refuses."""

from fractions import Fraction

import pytest

from yxanul.bad_input import BadInput
from yxanul.data.plan import Phase, Plan, Source, Stage, block_length

BIN = Source("bin", 1_000_001)


def stage(*phases, name="one", sources=(BIN,), **budget):
    return Stage(name, tuple(sources), tuple(Phase(*phase) for phase in phases), **budget)


def test_steps_are_computed_from_tokens_and_the_last_phase_takes_the_rest():
    plan = Plan([stage((512, 8, 10), (1024, 4), tokens=100 * 4096)])
    assert plan.block == 1024 and plan.steps == 100 and plan.tokens == 100 * 4096
    assert (plan.at(9).length, plan.at(10).length) == (512, 1024)
    assert plan.at(10).first_token == plan.at(10).tokens_before == 10 * 4096
    assert plan.phase_steps == [range(10), range(10, 100)] and plan.at(99).first_token == 99 * 4096


def test_steps_are_computed_from_epochs_over_whole_blocks():
    plan = Plan([stage((100, 10), sources=[Source("bin", 10_001)], epochs=Fraction(3))])
    assert plan.steps == 30 and plan.epochs(0) == {"bin": 3.0}


def test_without_weights_every_source_is_read_equally_often():
    sources = [Source("large", 90_001), Source("small", 10_001)]
    plan = Plan([stage((100, 10), sources=sources, epochs=Fraction(2))])
    assert plan.epochs(0) == {"large": 2.0, "small": 2.0}


def test_weights_share_the_budget():
    sources = [Source("a", 90_001, Fraction(3, 4)), Source("b", 10_001, Fraction(1, 4))]
    plan = Plan([stage((100, 10), sources=sources, tokens=80_000)])
    assert plan.epochs(0) == {"a": 60_000 / 90_000, "b": 2.0}


def test_a_budget_in_steps_counts_the_phases_before():
    plan = Plan([stage((512, 8, 10), (1024, 4), steps=25)])
    assert plan.steps == 25


def test_a_phase_ends_with_a_block_and_the_rounding_is_told():
    plan = Plan([stage((8, 8192, 10), (768, 256, 10), (1536, 128), tokens=10**8)])
    assert plan.block == 1536
    first = plan.roundings[0]
    assert (first.length, first.asked, first.steps) == (8, 10, 12)  # 65,536 tokens a step, 1,536 a block
    assert all(plan.at(step).first_token % 1536 == 0 for step in (0, 12, 22))


def test_tokens_before_never_jump():
    plan = Plan([stage((512, 8, 7), (1024, 4), tokens=10**5), stage((256, 4), steps=9, name="two")])
    for step in range(plan.steps - 1):
        here, following = plan.at(step), plan.at(step + 1)
        assert following.tokens_before - here.tokens_before == here.length * here.rows
    assert plan.stage_steps[1] == range(plan.steps - 9, plan.steps)


def test_a_later_stage_goes_on_where_an_earlier_one_left_a_source():
    sources = [Source("bin", 10_001)]
    plan = Plan([stage((100, 10), sources=sources, steps=4), stage((100, 10), sources=sources, steps=3, name="two")])
    assert plan.blocks_before == [{"bin": 0}, {"bin": 40}]


def test_tails_are_counted():
    assert Plan([stage((1024, 4), steps=1)]).tails() == {"bin": 1_000_000 % 1024}


def test_a_million_steps_are_found_at_once():
    plan = Plan([stage((2**power, 2**15 // 2**power, 100_000), name=f"s{power}") for power in range(3, 13)])
    assert plan.steps == 1_000_000 and plan.at(999_999).length == 4096


@pytest.mark.parametrize("step", [-1, 10])
def test_steps_outside_of_the_plan_are_refused(step):
    with pytest.raises(IndexError, match=f"step {step} is outside of 0..9"):
        Plan([stage((1024, 4), steps=10)]).at(step)


def test_rows_must_divide_among_processes_and_accumulation():
    plan = Plan([stage((1024, 6), steps=4)])
    plan.check_division(processes=3, accumulation=2)
    with pytest.raises(BadInput, match="rows=6 does not divide by 2 processes x 2 accumulation; 4 or 8 would"):
        plan.check_division(processes=2, accumulation=2)


@pytest.mark.parametrize("lengths, block", [([8, 768, 1536, 2048], 6144), ([256], 256), ([512, 1536, 2048], 6144)])
def test_blocks_are_the_least_common_multiple(lengths, block):
    assert block_length(lengths) == block


@pytest.mark.parametrize(
    "lengths, message",
    [
        ([512, 1000, 2048], "the least common multiple 256,000, above 65,536: length 1024 in place of 1000 would do"),
        ([1_000_000], "length 65536 in place of 1000000 would do|powers of two would do: .65536."),
        ([1001, 1999, 4093], r"powers of two would do: \[1024, 2048, 4096\]"),
    ],
)
def test_awkward_lengths_are_refused_with_nearby_ones(lengths, message):
    with pytest.raises(BadInput, match=message):
        block_length(lengths)


@pytest.mark.parametrize(
    "stages, message",
    [
        ([stage((8, 8))], "stage one has no budget"),
        ([stage((8, 8), tokens=100, steps=4)], "tokens and steps are both given"),
        ([stage((8, 8, 4), tokens=100)], "tokens and the size of every phase are given"),
        ([stage((8, 8), (16, 8), tokens=100)], "only its last phase may go without"),
        ([stage((8, 8, 10), (16, 8), tokens=100)], "its budget leaves nothing for length 16"),
        ([stage((2048, 8, 1), sources=[Source("bin", 2048)])], "bin has 2,048 tokens, not one block of 2,048"),
        ([stage((8, 8, 1), sources=[Source("bin", 999), Source("bin", 999)])], "names the source bin twice"),
        (
            [
                stage(
                    (8, 8), sources=[Source("a", 999, Fraction(1)), Source("b", 999, Fraction(1))], epochs=Fraction(1)
                )
            ],
            "epochs and weights exclude each other",
        ),
        ([stage((8, 8, 1), sources=[Source("a", 999, Fraction(1)), Source("b", 999)])], "every source a weight"),
        (
            [stage((8, 8, 1), sources=[Source("a", 99, row_length=16)])],
            "length 8 would cut the rows of a, packed at 16",
        ),
    ],
)
def test_impossible_plans_name_the_stage_and_the_mend(stages, message):
    with pytest.raises(BadInput, match=message):
        Plan(stages)
