"""A bad step changes nothing but a counter: no weight, no moment, no mean, no logged loss."""

import math

import pytest
import torch

from yxanul.training.guard import KNOWN_AFTER, MEAN_OVER, StepGuard
from yxanul.training.optimizers import build_optimizer

BAD = [math.nan, math.inf]
CPU = torch.device("cpu")


@pytest.fixture
def guard():
    return StepGuard(10.0, CPU)


def judge(guard, *norms):
    return [guard.judge(torch.tensor(norm)).item() for norm in norms]


def settled(guard):
    assert sum(judge(guard, *[2.0] * KNOWN_AFTER)) == 0
    return guard


def mean(guard):
    return guard.values[0].item()


@pytest.mark.parametrize("norm", BAD)
def test_a_norm_that_is_not_finite_is_bad_from_the_first_step_on(guard, norm):
    assert judge(guard, norm, 1.0) == [1.0, 0.0]


def test_a_norm_far_above_the_mean_is_bad(guard):
    assert judge(settled(guard), 20.1, 20.0, 0.0) == [1.0, 0.0, 0.0]


def test_no_finite_norm_is_bad_before_the_mean_is_known(guard):
    norms = [2.0] * (KNOWN_AFTER - 1) + [1e6]
    assert judge(guard, *norms) == [0.0] * KNOWN_AFTER


def test_bad_steps_do_not_make_the_mean_known(guard):
    judge(guard, *[math.nan] * KNOWN_AFTER)
    assert judge(guard, 1.0, 1e6) == [0.0, 0.0]


def test_with_skip_above_0_only_what_is_not_finite_is_bad():
    never = settled(StepGuard(0.0, CPU))
    assert judge(never, 1e30, math.inf, math.nan) == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("norm", [*BAD, 1e6])
def test_a_bad_norm_leaves_the_mean_as_it_was(guard, norm):
    settled(guard)
    before = mean(guard)
    assert judge(guard, norm) == [1.0]
    assert mean(guard) == before == 2.0


def test_the_mean_is_that_of_all_norms_at_first_and_follows_them_later(guard):
    judge(guard, 1.0, 2.0, 6.0)
    assert mean(guard) == pytest.approx(3.0)
    judge(guard, *[3.0] * MEAN_OVER)
    judge(guard, 13.0)
    assert mean(guard) == pytest.approx(3.0 + 10 / MEAN_OVER)


def test_bad_steps_are_counted_in_the_whole_run_and_in_a_row(guard):
    judge(guard, math.nan, math.nan, 1.0, math.inf)
    assert guard.values[2:4].tolist() == [3.0, 1.0]
    judge(guard, math.nan)
    assert guard.values[2:4].tolist() == [4.0, 2.0]


def test_the_losses_of_a_bad_step_are_not_counted(guard):
    for losses, norm in (([1.0, 0.5], 1.0), ([math.nan, 2.0], math.nan), ([9.0], math.inf), ([0.25], 1.0)):
        for loss in losses:
            guard.add_loss(torch.tensor(loss))
        guard.judge(torch.tensor(norm))
    assert guard.values[4:].tolist() == [1.75, 2.0]


def test_clearing_the_losses_clears_nothing_else(guard):
    judge(settled(guard), math.nan)
    guard.clear_losses()
    assert guard.values[4:].tolist() == [0.0, 0.0]
    assert guard.values[2:4].tolist() == [1.0, 1.0] and mean(guard) == 2.0


def test_a_guard_with_the_values_of_another_judges_like_it(guard):
    judge(settled(guard), math.nan)
    other = StepGuard(10.0, CPU)
    other.values.copy_(guard.values)
    assert judge(other, 20.1) == judge(guard, 20.1) == [1.0]
    assert torch.equal(other.values, guard.values)


def step(model, optimizer, ids, found_inf, spoil=1.0):
    optimizer.zero_grad()
    (model(ids, labels=ids).loss * spoil).backward()
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()


def everything(model, optimizer):
    states = [state[key] for state in optimizer.state.values() for key in sorted(state)]
    return [tensor.clone() for tensor in (*model.parameters(), *states)]


@pytest.mark.parametrize("spoil", BAD)
def test_a_bad_step_leaves_weights_moments_and_step_count_to_the_bit(tiny_model, small_config, random_ids, spoil):
    model = tiny_model().train()
    optimizer = build_optimizer(model, small_config())
    step(model, optimizer, random_ids(), 0.0)
    before = everything(model, optimizer)
    step(model, optimizer, random_ids(seed=1), 1.0, spoil)
    assert all(torch.equal(one, other) for one, other in zip(before, everything(model, optimizer), strict=True))
    step(model, optimizer, random_ids(seed=1), 0.0)
    assert not any(torch.equal(one, other) for one, other in zip(before, everything(model, optimizer), strict=True))


def test_a_first_step_that_is_bad_leaves_the_weights(tiny_model, small_config, random_ids):
    model = tiny_model().train()
    optimizer = build_optimizer(model, small_config())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step(model, optimizer, random_ids(), 1.0, math.nan)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert not any(state["step"] or state["exp_avg"].any() for state in optimizer.state.values())
