"""The FP8 layer: near fp32, equal to rounding by hand, the same under autocast, checkpointing, compile and LoRA.

The rounding by hand knows nothing of torch's float8 types. On a GPU the products are `torch._scaled_mm`'s, which
is held against ours here, with the layouts that a GPU asks for. Whole runs in FP8: test_fp8_runs.py.
"""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from yxanul.training.precision import native_fp8
from yxanul.training.precision.native_fp8 import Fp8Linear, enable_fp8
from yxanul.training.precision.policy import read_policy

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def rounded(values, mantissa, smallest_exponent, largest):
    """To the nearest number of so many bits, scaled so that the largest entry is the largest number."""
    values = values.double()
    scale = largest / values.abs().amax()
    exponents = (values * scale).abs().clamp(min=2.0**-60).log2().floor().clamp(min=smallest_exponent)
    steps = 2.0 ** (exponents - mantissa)
    return ((values * scale / steps).round() * steps).clamp(-largest, largest) / scale


def e4m3(values):
    return rounded(values, 3, -6, 448.0)


def e5m2(values):
    return rounded(values, 2, -14, 57344.0)


@pytest.fixture
def in_fp8():
    """`in_fp8(model, **changes of the policy)`: a copy of the model, its linear layers in FP8."""

    def make(model, **changes):
        model = copy.deepcopy(model).train()
        enable_fp8(model, read_policy(changes, ""))
        return model

    return make


@pytest.fixture
def layer():
    """128 -> 208, by the name of a layer's part."""
    torch.manual_seed(0)
    linear = nn.Linear(128, 208, bias=False)
    nn.init.normal_(linear.weight, std=0.02)
    return nn.ModuleDict({"down_proj": linear})


def step(layer, x, grad):
    """Output, and gradients of input and weights."""
    x = x.clone().requires_grad_()
    y = layer["down_proj"](x)
    weight = layer["down_proj"].weight
    x_grad, weight_grad = torch.autograd.grad(y, (x, weight), grad.to(y.dtype))
    return y.detach(), x_grad, weight_grad


def errors(found, expected):
    return [float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(found, expected, strict=True)]


@pytest.fixture
def batch():
    """`batch(tokens)`: input and gradient; tokens in two rows."""

    def make(tokens=96, dtype=torch.float32):
        torch.manual_seed(1)
        return torch.randn(2, tokens // 2, 128).to(dtype), torch.randn(2, tokens // 2, 208).to(dtype) * 1e-4

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [96, 2, 82])  # a GPU needs multiples of 16
def test_output_and_gradients_are_near_fp32(layer, in_fp8, batch, tokens, dtype):
    x, grad = batch(tokens, dtype)
    found, exact = step(in_fp8(layer), x, grad), step(layer, x.float(), grad.float())
    assert [tensor.dtype for tensor in found] == [dtype, dtype, torch.float32]
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in exact]
    for error, usual in zip(errors(found, exact), (0.04, 0.06, 0.06), strict=True):
        assert 0.5 * usual < error < 1.3 * usual


@pytest.mark.parametrize(
    "changes, of_gradient",
    [({}, e5m2), ({"gradients": "e4m3"}, e4m3), ({"weight_gradient": "bf16"}, e5m2)],
    ids=["hybrid", "e4m3 both ways", "weight gradient in high precision"],
)
def test_they_equal_rounding_by_hand(layer, in_fp8, batch, changes, of_gradient):
    x, grad = batch(82)
    weight = layer["down_proj"].weight.detach()
    found = step(in_fp8(layer, **changes), x, grad)
    high = "weight_gradient" in changes
    of_weight = (grad, x) if high else (of_gradient(grad), e4m3(x))
    left, right = (tensor.reshape(-1, tensor.shape[-1]).double() for tensor in of_weight)
    expected = e4m3(x) @ e4m3(weight).t(), of_gradient(grad) @ e4m3(weight), left.t() @ right
    assert max(errors(found, expected)) < 1e-5


@pytest.mark.parametrize("left, right", [(E4M3, E4M3), (E5M2, E4M3)])
def test_the_product_is_that_of_torchs_own_kernel(left, right):
    torch.manual_seed(0)
    a, b = native_fp8.quantise(torch.randn(32, 48), left), native_fp8.quantise(torch.randn(48, 16), right)
    kernels = torch._scaled_mm(a[0], b[0].t().contiguous().t(), a[1], b[1], out_dtype=torch.float32)
    torch.testing.assert_close(native_fp8.multiply(a, b, torch.float32, fast=False), kernels, rtol=1e-5, atol=1e-5)


class Products(TorchDispatchMode):
    """Looks at what torch's kernel is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._scaled_mm.default:
            left, right = args[:2]
            assert left.is_contiguous() and right.t().is_contiguous()
            assert not any(side % 16 for side in (*left.shape, *right.shape))
            self.seen.append((left.dtype, right.dtype, args[-1] is True))  # sums with fewer bits
        return function(*args, **(kwargs or {}))


def test_a_gpu_gets_the_layouts_sizes_and_formats_that_it_takes(layer, in_fp8, batch, monkeypatch):
    multiply = native_fp8.multiply

    def elsewhere(rows, columns, dtype, fast):
        """On a device that is no CPU: what it computes does not matter."""
        left, right = ([tensor.to("meta") for tensor in operand] for operand in (rows, columns))
        return torch.zeros(multiply(left, right, dtype, fast).shape, dtype=dtype)

    monkeypatch.setattr(native_fp8, "multiply", elsewhere)
    with Products() as products:
        step(in_fp8(layer), *batch(82))
    assert products.seen == [(E4M3, E4M3, True), (E5M2, E4M3, False), (E5M2, E4M3, False)]


@pytest.mark.parametrize("value", [0.0, 1e-40])
def test_zeros_and_numbers_too_small_for_fp32_give_zeros(layer, in_fp8, batch, value):
    x, grad = batch()
    y, x_grad, weight_grad = step(in_fp8(layer), torch.full_like(x, value), torch.full_like(grad, value))
    assert not y.any() and not x_grad.any() and not weight_grad.any()


def test_small_and_large_numbers_keep_their_precision(layer, in_fp8, batch):
    x, grad = batch()
    exact = step(layer, x, grad)
    for factor in (1e-20, 1e20):
        y, x_grad, weight_grad = step(in_fp8(layer), x * factor, grad / factor)
        assert max(errors((y / factor, x_grad * factor, weight_grad), exact)) < 0.08


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_comes_out_so_and_the_steps_guard_sees_it(layer, in_fp8, batch, value):
    x, grad = batch()
    x[0, 3, 5] = value
    y, _, weight_grad = step(in_fp8(layer), x, grad)
    assert not y[0, 3].isfinite().any() and not weight_grad[:, 5].isfinite().any()


def test_a_cast_never_leads_past_the_largest_number():
    for dtype in (E4M3, E5M2):
        for seed in range(200):
            torch.manual_seed(seed)
            small, scale = native_fp8.quantise(torch.randn(64) * 10.0 ** (seed % 40 - 20), dtype)
            assert small.float().isfinite().all() and scale.isfinite()


def test_autocasts_dtype_is_the_outputs(layer, in_fp8, batch):
    x, grad = batch()
    with torch.autocast("cpu", torch.bfloat16):
        y, _, weight_grad = step(in_fp8(layer), x, grad)
        plain = layer["down_proj"](x)
    assert y.dtype == plain.dtype == torch.bfloat16 and weight_grad.dtype == torch.float32


def test_evaluation_and_generation_are_those_of_the_plain_model(tiny_model, in_fp8, random_ids):
    plain = tiny_model("factorised-tied", initializer_range=0.2)
    model = in_fp8(plain)
    ids = random_ids(2, 16)
    assert model(ids, labels=ids).loss != plain.train()(ids, labels=ids).loss
    assert torch.equal(model.eval()(ids).logits, plain.eval()(ids).logits)
    options = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), plain.generate(ids, **options))


def test_the_swap_leaves_names_parameters_and_the_saved_files_as_they_were(tiny_model, tmp_path):
    model = tiny_model("factorised-tied")
    before, addresses = dict(model.state_dict()), [parameter.data_ptr() for parameter in model.parameters()]
    model.save_pretrained(tmp_path / "before")
    enable_fp8(model, read_policy({"k": "bf16"}, ""))
    in_fp8 = {name for name, module in model.named_modules() if isinstance(module, Fp8Linear)}
    assert len(in_fp8) == 6 * 3 and not any("k_proj" in name or "head" in name for name in in_fp8)
    assert before.keys() == model.state_dict().keys()
    assert addresses == [parameter.data_ptr() for parameter in model.parameters()]
    model.save_pretrained(tmp_path / "after")
    for file in (tmp_path / "before").iterdir():
        assert file.read_bytes() == (tmp_path / "after" / file.name).read_bytes(), file.name


def gradients(model, ids, forward=None):
    model.zero_grad()
    (model if forward is None else forward)(ids, labels=ids).loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def test_checkpointing_of_activations_changes_nothing(tiny_model, in_fp8, random_ids):
    model, ids = in_fp8(tiny_model(initializer_range=0.2)), random_ids(2, 16)
    plain = gradients(model, ids)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert torch.equal(gradients(model, ids), plain)


@pytest.mark.parametrize("rows", [2, 3], ids=["even", "ragged"])
def test_a_compiled_model_is_one_graph_and_computes_the_same(tiny_model, in_fp8, random_ids, rows):
    torch.compiler.reset()
    model, ids = in_fp8(tiny_model(initializer_range=0.2, num_hidden_layers=1)), random_ids(rows, 24)
    plain = gradients(model, ids)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(model, ids, compiled), plain, rtol=0, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("when", ["before", "after"])
def test_lora_trains_around_frozen_layers_in_fp8(tiny_model, random_ids, when):
    peft = pytest.importorskip("peft")
    model, ids = tiny_model(initializer_range=0.2), random_ids(2, 16)
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    policy = read_policy({}, "")
    if when == "before":
        enable_fp8(model, policy)
    adapted = peft.get_peft_model(model, lora).train()
    if when == "after":
        enable_fp8(adapted, policy)
    assert sum(isinstance(module, Fp8Linear) for module in adapted.modules()) == 7 * 3
    in_fp8 = gradients(adapted, ids)
    assert {name.split(".")[-3] for name, weight in adapted.named_parameters() if weight.requires_grad} <= {
        "lora_A",
        "lora_B",
    }
    for module in adapted.modules():
        if isinstance(module, Fp8Linear):
            module.__class__ = nn.Linear
    plain = gradients(adapted, ids)
    cosine = nn.functional.cosine_similarity(in_fp8, plain, dim=0)
    assert 0.97 < cosine < 0.99999


def test_gradients_along_a_run_point_where_those_of_fp32_point(tiny_model, in_fp8):
    """On the same weights and batches, every third step; a single probe proves nothing."""
    from yxanul import YxanulForCausalLM

    plain: YxanulForCausalLM = tiny_model("factorised-tied", hidden_size=96, intermediate_size=144).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=3e-3)
    generator, cosines = torch.Generator().manual_seed(0), []
    for number in range(60):
        starts, steps = (torch.randint(1, high, (8, 1), generator=generator) for high in (131, 4))
        ids = (starts + steps * torch.arange(32)) % 131  # rows that count by 1, 2 or 3
        if number % 3 == 0:
            cosine = nn.functional.cosine_similarity(gradients(in_fp8(plain), ids), gradients(plain, ids), dim=0)
            cosines.append(float(cosine))
        loss = gradients(plain, ids)
        optimizer.step()
    assert torch.tensor(cosines).median() > 0.98, cosines
    assert plain(ids, labels=ids).loss < 3.5 and loss.isfinite().all()
