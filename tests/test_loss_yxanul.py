"""The chunked loss is the loss: its value and both gradients against torch's own, on finished logits."""

import pytest
import torch
from torch._dynamo.utils import counters

from yxanul.loss_yxanul import _chunked_loss, apply_softcap, cross_entropy, linear_cross_entropy

OPTIONS = [{}, {"z_loss": 1e-2}, {"softcap": 3.0}, {"z_loss": 1e-2, "softcap": 3.0}]


def inputs(rows=37, rank=6, vocabulary=53, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(rows, rank, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = (
        (torch.randn(vocabulary, rank, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()
    )
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[3] = targets[rows - 2] = -100
    return latent, weight, targets


def plain_loss(latent, weight, targets, z_loss=0.0, softcap=None):
    """Written with torch's own cross entropy alone."""
    logits = latent @ weight.T
    if softcap:
        logits = torch.tanh(logits / softcap) * softcap
    counted = targets != -100
    z_part = z_loss * logits[counted].logsumexp(-1).square().mean()
    return torch.nn.functional.cross_entropy(logits[counted], targets[counted]) + z_part


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_pass_gradcheck_in_fp64(options):
    latent, weight, targets = inputs()
    loss = lambda z, w: linear_cross_entropy(z, w, targets, chunk_rows=8, **options).loss  # noqa: E731
    assert torch.autograd.gradcheck(loss, (latent, weight))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chunk_rows", [1, 8, 64])
@pytest.mark.parametrize("vocabulary_multiple", [1, 128])
def test_value_and_gradients_equal_the_plain_loss(options, chunk_rows, vocabulary_multiple):
    latent, weight, targets = inputs()
    sizes = {"chunk_rows": chunk_rows, "vocabulary_multiple": vocabulary_multiple}
    ours = linear_cross_entropy(latent, weight, targets, **sizes, **options).loss
    plain = plain_loss(latent, weight, targets, **options)
    torch.testing.assert_close(ours, plain, rtol=1e-13, atol=0)
    for one, other in zip(
        torch.autograd.grad(ours, (latent, weight)), torch.autograd.grad(plain, (latent, weight)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


def test_compiled_it_is_the_same_and_one_graph_serves_all_numbers_of_rows():
    torch.compiler.reset()
    options = {"z_loss": 1e-2, "softcap": 3.0, "return_correct": True, "entropy_every": 4, "vocabulary_multiple": 128}
    before = counters["stats"]["unique_graphs"]
    for rows in (37, 64, 5):  # chunks of 32 and 5, of 32, of 5
        latent, weight, targets = inputs(rows=rows, dtype=torch.float32)
        results = [
            linear_cross_entropy(latent, weight, targets, chunk_rows=32, compiled=compiled, **options)
            for compiled in (False, True)
        ]
        gradients = [torch.autograd.grad(result.loss, (latent, weight)) for result in results]
        for eager, compiled in zip((*results[0], *gradients[0]), (*results[1], *gradients[1]), strict=True):
            torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == before + 1


@pytest.mark.parametrize("options", OPTIONS)
def test_the_loss_of_finished_logits_is_the_same(options):
    latent, weight, targets = inputs()
    logits = apply_softcap(latent @ weight.T, options.get("softcap"))
    from_logits = cross_entropy(logits, targets, z_loss=options.get("z_loss", 0.0))
    chunked = linear_cross_entropy(latent, weight, targets, **options)
    torch.testing.assert_close(from_logits.loss, chunked.loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(from_logits.token_losses, chunked.token_losses, rtol=1e-12, atol=1e-14)


def test_token_losses_are_each_targets_cross_entropy_and_zero_where_ignored():
    latent, weight, targets = inputs(rows=36)
    result = linear_cross_entropy(latent.view(4, 9, 6), weight, targets.view(4, 9), z_loss=1e-2)
    expected = torch.nn.functional.cross_entropy(latent @ weight.T, targets, reduction="none", ignore_index=-100)
    torch.testing.assert_close(result.token_losses, expected.detach().view(4, 9))
    assert not result.token_losses.requires_grad and result.token_losses.view(-1)[3] == 0


@pytest.mark.parametrize("softcap", [None, 0.5], ids=["", "capped until many are equal"])
@pytest.mark.parametrize("chunk_rows", [1, 8, 64])
@pytest.mark.parametrize("vocabulary_multiple", [1, 128])
def test_token_correct_says_where_the_target_is_the_first_of_the_largest_logits(
    softcap, chunk_rows, vocabulary_multiple
):
    """All logits are below 0, which padding would have; ids 20 and 40 are the same, and 20 comes first."""
    latent, weight, targets = inputs(rows=90, dtype=torch.float32, scale=20.0)
    latent, weight = latent.detach().abs(), -weight.detach().abs()
    weight[20] = weight[40] = -1e-3
    targets[10:40:2], targets[11:40:2] = 20, 40
    logits = apply_softcap(latent @ weight.T, softcap)
    expected = (logits.argmax(-1) == targets) & (targets != -100)
    assert expected[10:40:2].all() and not expected[11:40:2].any() and not expected[targets == -100].any()
    sizes = {"chunk_rows": chunk_rows, "vocabulary_multiple": vocabulary_multiple}
    chunked = linear_cross_entropy(
        latent.view(9, 10, 6), weight, targets.view(9, 10), softcap=softcap, return_correct=True, **sizes
    )
    assert chunked.token_correct.dtype == torch.bool and torch.equal(chunked.token_correct, expected.view(9, 10))
    from_logits = cross_entropy(logits.view(9, 10, 53), targets.view(9, 10), return_correct=True)
    assert torch.equal(from_logits.token_correct, expected.view(9, 10))
    unasked = linear_cross_entropy(latent, weight, targets, softcap=softcap, **sizes)
    assert unasked.token_correct is cross_entropy(logits, targets).token_correct is None
    assert torch.equal(unasked.token_losses.view(9, 10), chunked.token_losses)


def test_an_ignored_id_that_is_the_largest_logit_is_not_correct():
    latent, weight = torch.ones(3, 2), torch.tensor([[5.0, 5.0], [1.0, 1.0]])
    for result in (
        linear_cross_entropy(latent, weight, torch.tensor([0, 1, 0]), ignore_index=0, return_correct=True),
        cross_entropy(latent @ weight.T, torch.tensor([0, 1, 0]), ignore_index=0, return_correct=True),
    ):
        assert not result.token_correct.any()


def test_gradients_are_the_same_with_and_without_token_correct():
    latent, weight, targets = inputs()
    one, other = (linear_cross_entropy(latent, weight, targets, return_correct=asked) for asked in (False, True))
    assert not other.token_correct.requires_grad
    gradients = [torch.autograd.grad(result.loss, (latent, weight)) for result in (one, other)]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("needs", [(False, True, True), (True, False, False), (True, True, True)])
def test_the_operator_is_what_its_registrations_say(needs):
    latent, weight, targets = inputs()
    arguments = (latent, weight, targets.clamp(min=0), torch.ones(37).double() / 37, 1e-2, 3.0, 8, 53, *needs)
    # compiled steps are in invariants/test_graphs.py
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(_chunked_loss, arguments, test_utils=checks)


def test_token_weights_make_a_weighted_mean():
    latent, weight, targets = inputs()
    weights = torch.linspace(0, 2, len(targets), dtype=torch.float64)
    each = torch.nn.functional.cross_entropy(latent @ weight.T, targets, reduction="none", ignore_index=-100)
    expected = (each * weights).sum() / weights[targets != -100].sum()
    for result in (
        linear_cross_entropy(latent, weight, targets, token_weights=weights, chunk_rows=8),
        cross_entropy(latent @ weight.T, targets, token_weights=weights),
    ):
        torch.testing.assert_close(result.loss, expected)
    ours = torch.autograd.grad(linear_cross_entropy(latent, weight, targets, token_weights=weights).loss, latent)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(expected, latent)[0])


@pytest.mark.parametrize("num_items", [7, torch.tensor(7)])
def test_num_items_is_the_divisor(num_items):
    latent, weight, targets = inputs()
    total = plain_loss(latent, weight, targets) * (targets != -100).sum()
    torch.testing.assert_close(linear_cross_entropy(latent, weight, targets, num_items=num_items).loss, total / 7)
    torch.testing.assert_close(cross_entropy(latent @ weight.T, targets, num_items=num_items).loss, total / 7)


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0)])
def test_nothing_to_learn_is_zero_and_no_nan(num_items):
    latent, weight, targets = inputs()
    result = linear_cross_entropy(latent, weight, torch.full_like(targets, -100), num_items=num_items)
    result.loss.backward()
    assert result.loss == 0 and not latent.grad.any() and not weight.grad.any()


def test_extreme_logits_neither_overflow_nor_vanish():
    latent, weight, targets = inputs(dtype=torch.float32, scale=1e3)
    result = linear_cross_entropy(latent, weight, targets)
    torch.testing.assert_close(result.loss, plain_loss(latent.double(), weight.double(), targets).float())
    result.loss.backward()
    assert latent.grad.isfinite().all() and weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [0.0, 1.0], ids=["table around 0", "rows with a mean, as trained ones have"])
def test_low_precision_is_no_worse_than_the_plain_loss_in_the_same_dtype(dtype, shared):
    """Against fp64 on the same rounded inputs; a tenth of slack for the noise of rounding."""
    latent, weight, targets = inputs(rows=64, rank=32, vocabulary=3001, dtype=dtype, scale=0.3)
    weight = (weight.detach() + shared).requires_grad_()
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in (latent, weight)]
    exact = torch.autograd.grad(plain_loss(*exact_inputs, targets), exact_inputs)

    def errors(loss):
        gradients = torch.autograd.grad(loss, (latent, weight))
        return [((g.double() - e).norm() / e.norm()).item() for g, e in zip(gradients, exact, strict=True)]

    counted = targets != -100
    naive = torch.nn.functional.cross_entropy((latent @ weight.T).float()[counted], targets[counted])
    for ours, plain in zip(errors(linear_cross_entropy(latent, weight, targets).loss), errors(naive), strict=True):
        assert ours <= 1.1 * plain


def test_autocast_computes_in_its_dtype_and_keeps_fp32_gradients_of_the_weights():
    latent, weight, targets = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(latent, weight, targets).loss
    loss.backward()
    expected = linear_cross_entropy(latent.detach().bfloat16(), weight.detach().bfloat16(), targets).loss
    assert loss == expected and weight.grad.dtype == torch.float32


def test_only_wanted_gradients_are_made():
    latent, weight, targets = inputs()
    (d_latent,) = torch.autograd.grad(linear_cross_entropy(latent, weight.detach(), targets).loss, latent)
    (d_weight,) = torch.autograd.grad(linear_cross_entropy(latent.detach(), weight, targets).loss, weight)
    both = torch.autograd.grad(linear_cross_entropy(latent, weight, targets).loss, (latent, weight))
    assert torch.equal(d_latent, both[0]) and torch.equal(d_weight, both[1])
    with torch.no_grad():
        assert not linear_cross_entropy(latent, weight, targets).loss.requires_grad


def test_a_kept_graph_gives_the_same_gradients_again():
    latent, weight, targets = inputs()
    loss = linear_cross_entropy(latent, weight, targets).loss * 3
    first = torch.autograd.grad(loss, (latent, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (latent, weight))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_logits_of_all_rows_never_exist():
    """Nothing that the loss allocates is larger than one chunk's buffer."""
    latent, weight, targets = inputs(rows=512, rank=4, vocabulary=1000, dtype=torch.float32)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profiler:
        linear_cross_entropy(latent, weight, targets, chunk_rows=16, return_correct=True).loss.backward()
    assert max(event.self_cpu_memory_usage for event in profiler.events()) == 16 * 1000 * 4


@pytest.mark.parametrize("target", [-1, 53, 60])
def test_a_target_outside_of_the_vocabulary_is_refused(target):
    latent, weight, targets = inputs()
    targets[0] = target
    for multiple in (1, 128):
        with pytest.raises(IndexError, match=f"target {target} is outside of the vocabulary of 53"):
            linear_cross_entropy(latent, weight, targets, vocabulary_multiple=multiple)


def test_a_second_derivative_is_refused():
    latent, weight, targets = inputs()
    loss = linear_cross_entropy(latent, weight, targets).loss
    with pytest.raises(RuntimeError, match="no second derivative; return_logits=True takes one that has"):
        torch.autograd.grad(loss, latent, create_graph=True)


def test_shapes_come_through_on_meta():
    latent, weight, targets = (tensor.to("meta") for tensor in inputs())
    assert linear_cross_entropy(latent, weight, targets).token_losses.shape == targets.shape
