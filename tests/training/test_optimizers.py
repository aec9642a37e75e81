"""Learning rates waste no step and end where they should; AdamW decays matrices and nothing else."""

import math

import pytest

from yxanul.bad_input import BadInput
from yxanul.training.optimizers import build_optimizer, learning_rates

PEAK = 2e-3
KINDS = ["constant", "linear", "cosine", "warmup_stable_decay"]


@pytest.fixture
def rates(small_config):
    """`rates(**changes)`: of all 20 steps; `code` are learning-rate keys of the second stage's own."""

    def make(code=None, code_rows=4, **changes):
        config = small_config(**({"warmup_steps": 0} | changes))
        config.stages[1].update(code or {})
        config.stages[1]["phases"][0]["rows"] = code_rows
        plan = config.plan()
        rate = learning_rates(config, plan)
        return [rate(step) for step in range(plan.steps)]

    return make


@pytest.mark.parametrize("warmup", [0, 1, 7, 19])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_learns_the_peak_is_reached_and_it_rises_before_it_falls(rates, kind, warmup):
    values = rates(lr_scheduler_type=kind, warmup_steps=warmup)
    assert len(values) == 20 and min(values) > 0
    assert max(values) == PEAK
    top = values.index(PEAK)
    assert top == max(0, warmup - 1)
    assert values[:top] == sorted(values[:top]) and values[top:] == sorted(values[top:], reverse=True)


def test_a_warm_up_of_four_steps_is_at_the_peak_in_the_fourth(rates):
    assert rates(warmup_steps=4)[:4] == pytest.approx([PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK])


def test_linear_would_be_zero_at_the_step_behind_the_last(rates):
    assert rates(lr_scheduler_type="linear") == pytest.approx([PEAK * (1 - step / 20) for step in range(20)])


def test_cosine_is_at_half_of_its_peak_halfway(rates):
    values = rates(lr_scheduler_type="cosine", warmup_steps=4)
    assert values[12] == pytest.approx(PEAK / 2)
    assert values[8] == pytest.approx(PEAK * (1 + math.sqrt(0.5)) / 2)


def test_warmup_stable_decay_stays_and_then_falls_linearly(rates):
    values = rates(lr_decay=0.25, warmup_steps=2)
    assert values[1:16] == [PEAK] * 15
    assert values[15:] == pytest.approx([PEAK * (1 - step / 5) for step in range(5)])


def test_a_warm_up_that_reaches_into_the_decay_shortens_it(rates):
    assert rates(lr_decay=0.25, warmup_steps=18)[17:] == pytest.approx([PEAK, PEAK, PEAK / 2])


@pytest.mark.parametrize("kind", KINDS[1:])
def test_lr_end_is_what_is_left_of_the_peak(rates, kind):
    to_zero, to_a_half = rates(lr_scheduler_type=kind), rates(lr_scheduler_type=kind, lr_end=0.5)
    assert to_a_half == pytest.approx([(value + PEAK) / 2 for value in to_zero])


@pytest.mark.parametrize("tokens, steps", [(1, 1), (256, 1), (257, 2), (1280, 5)])
def test_a_warm_up_in_tokens_takes_the_steps_that_eat_them(rates, tokens, steps):
    assert rates(warmup_steps=None, warmup_tokens=tokens) == rates(warmup_steps=steps)


def test_a_stage_has_a_schedule_over_its_own_steps_and_the_others_keep_the_runs(rates):
    values = rates({"learning_rate": 8e-4, "lr_scheduler_type": "linear"}, lr_scheduler_type="cosine")
    assert values[:12] == rates(lr_scheduler_type="cosine")[:12]
    assert values[12:] == pytest.approx([8e-4 * (1 - step / 8) for step in range(8)])


def test_a_stage_takes_what_it_does_not_say_from_the_run(rates):
    values = rates({"learning_rate": 8e-4}, lr_scheduler_type="linear", warmup_steps=2)
    assert values[12:14] == pytest.approx([4e-4, 8e-4])


def test_a_stages_warm_up_in_tokens_counts_from_its_first(rates):
    values = rates({"warmup_tokens": 1024}, code_rows=8)  # 512 tokens in a step, 4 steps
    assert values[12:14] == pytest.approx([PEAK / 2, PEAK])


def test_a_stages_warm_up_in_steps_replaces_the_runs_in_tokens(rates):
    values = rates({"warmup_steps": 2}, warmup_steps=None, warmup_tokens=1024)
    assert values[:4] == pytest.approx([PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK])
    assert values[12:14] == pytest.approx([PEAK / 2, PEAK])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"warmup_steps": 20}, "the run: a warm-up of 20 steps leaves nothing of its 20: shorten it."),
        ({"warmup_steps": None, "warmup_tokens": 5120}, "the run: a warm-up of 20 steps leaves nothing of its 20"),
        ({"code": {"warmup_steps": 8}}, "stage code: a warm-up of 8 steps leaves nothing of its 8: shorten it."),
    ],
)
def test_a_warm_up_as_long_as_its_schedule_is_refused(rates, changes, message):
    with pytest.raises(BadInput, match=message):
        rates(**changes)


def test_the_scheduler_may_ask_for_the_step_behind_the_last(small_config):
    config = small_config()
    rate = learning_rates(config, config.plan())
    assert rate(20) == rate(19)


@pytest.fixture
def groups(tiny_model, small_config):
    """`groups(layout)`: the decaying and the other parameters by name, each as often as AdamW has it."""

    def make(layout):
        model = tiny_model(layout)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        optimizer = build_optimizer(model, small_config(weight_decay=0.3))
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
        return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups], names

    return make


def test_every_parameter_is_optimised_exactly_once(groups, layout):
    (decaying, others), names = groups(layout)
    assert sorted(decaying + others) == sorted(names.values())


@pytest.mark.parametrize("layout", ["plain-tied", "factorised-tied", "factorised-untied", "learned-positions"])
def test_norms_and_embedding_tables_do_not_decay_and_matrices_do(groups, layout):
    (decaying, others), _ = groups(layout)
    kinds = ("norm.weight", "embed_tokens.weight", "embed_positions.weight")
    assert all(name.endswith(("proj.weight", "lm_head.weight")) for name in decaying)
    assert all(name.endswith(kinds) for name in others)
    assert "model.norm.weight" in others and "model.embed_tokens.weight" in others
    assert "model.layers.0.mlp.down_proj.weight" in decaying
