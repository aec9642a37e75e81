"""Muon moves the layers' matrices as its definition says, AdamW moves the rest, and a skipped step moves nothing."""

import pytest
import torch

from yxanul.training import muon
from yxanul.training.muon import Muon, orthogonalised
from yxanul.training.optimizers import build_optimizer


def reference_step(weight, gradient, buffer, rate, decay, momentum=0.95):
    """One matrix at a time, in float64, as the papers write it."""
    buffer = momentum * buffer + (1 - momentum) * gradient
    x = (1 - momentum) * gradient + momentum * buffer
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    size = 0.2 * max(weight.shape) ** 0.5
    return weight * (1 - rate * decay) - rate * size * x, buffer


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_three_steps_are_those_of_the_definition(shape):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for _ in range(3)]  # of one shape: computed together
    expected = [(weight.detach().double(), torch.zeros(shape, dtype=torch.float64)) for weight in weights]
    optimizer = Muon(weights, [], 0.02, weight_decay=0.3, lr=1e-3, fused=True)
    for _ in range(3):
        for index, weight in enumerate(weights):
            weight.grad = torch.randn(shape)
            expected[index] = reference_step(expected[index][0], weight.grad.double(), expected[index][1], 0.02, 0.3)
        optimizer.step()
    for weight, (wanted, _) in zip(weights, expected, strict=True):
        assert torch.allclose(weight.double(), wanted, atol=2e-5)


def test_it_is_torchs_muon_to_the_rounding_of_bf16():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(64, 96)) for _ in range(2))
    gradient = torch.randn(64, 96)
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    Muon([ours], [], 0.02, lr=1e-3, fused=True).step()
    torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_singular_values_end_near_one():
    values = torch.linalg.svdvals(orthogonalised(torch.randn(4, 48, 96)))
    assert values.min() > 0.5 and values.max() < 1.3


def test_a_step_has_the_size_of_one_of_adamw():
    torch.manual_seed(0)
    for shape in ((64, 64), (32, 128), (128, 32)):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape)
        Muon([weight], [], 1.0, lr=1e-3, fused=True).step()
        assert 0.1 < weight.square().mean().sqrt() < 0.3


@pytest.mark.parametrize("layout", ["plain-tied", "factorised-tied", "factorised-untied"])
def test_every_parameter_is_in_one_group_and_muon_has_the_layers_matrices(tiny_model, layout, small_config):
    model = tiny_model(layout)
    optimizer = build_optimizer(model, small_config(optimizer="muon", matrix_learning_rate=0.01))
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    (matrices,) = [group for group in optimizer.param_groups if "momentum" in group]
    assert len(matrices["params"]) == 7 * model.config.num_hidden_layers and matrices["lr"] == 0.01
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 2e-3}


@pytest.mark.parametrize("bad", [float("nan"), 1e30])
def test_a_skipped_step_leaves_weights_and_state_as_they_were(tiny_model, random_ids, small_config, bad):
    model = tiny_model()
    optimizer = build_optimizer(model, small_config(optimizer="muon"))

    def step(factor, found_inf):
        (model(random_ids(), labels=random_ids()).loss * factor).backward()
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        optimizer.zero_grad()

    step(1.0, 0.0)
    weights = [parameter.clone() for parameter in model.parameters()]
    states = [{key: value.clone() for key, value in state.items()} for state in optimizer.state.values()]
    step(bad, 1.0)
    assert all(torch.equal(one, other) for one, other in zip(weights, model.parameters(), strict=True))
    for one, other in zip(states, optimizer.state.values(), strict=True):
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    step(1.0, 0.0)
    assert not torch.equal(weights[-1], list(model.parameters())[-1])


def test_no_gradient_no_step():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    Muon([weight], [], 1.0, lr=1e-3, fused=True).step()
    assert torch.equal(weight, torch.ones(4, 4))


@pytest.mark.parametrize("width", [64, 128, 256])
def test_a_rate_changes_a_matrix_by_the_same_share_at_every_width(width):
    """Why a rate carries over: weights begin with entries of 0.02, and a step at rate r has some of 0.2 r."""
    torch.manual_seed(0)
    for shape in (width, width), (3 * width, width), (width // 2, width):
        weight = torch.nn.Parameter(0.02 * torch.randn(shape))
        before, weight.grad = weight.detach().clone(), torch.randn(shape)
        Muon([weight], [], 0.01, weight_decay=0.0, lr=1e-3, fused=True).step()
        share = float((weight.detach() - before).norm() / before.norm())
        assert share == pytest.approx(0.2 * 0.01 / 0.02, rel=0.2)


@pytest.mark.parametrize("processes", [2, 3, 4, 5])
def test_processes_share_the_matrices_out_without_a_gap(processes, monkeypatch):
    """Three matrices, so that some process has fewer, or none."""
    matrices, parts = torch.randn(3, 16, 24), []
    monkeypatch.setattr(muon.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(muon.dist, "get_world_size", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(muon.dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(muon.dist, "all_gather_into_tensor", lambda whole, mine: parts.append(mine))
        muon.shared_out(matrices)
    together = torch.cat(parts)
    assert torch.allclose(together[:3], orthogonalised(matrices), atol=1e-6) and not together[3:].any()
