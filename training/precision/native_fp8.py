"""A linear layer that trains in FP8 on `torch._scaled_mm`, put in the place of `nn.Linear` in a finished model.

    enable_fp8(model, policy)      # in place: the same modules, names and parameters, so nothing of it is ever saved

Each tensor is scaled by its own largest entry at the moment of its use, so there is no state either. Evaluation and
generation take the plain path. Not here: which layers (policy.py), weights that are kept in FP8, scales per row.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from yxanul.training.precision.policy import ALIGNMENT, LINEARS, Policy

FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
# 57344 / 1e-30, its inverse, and the product of two inverses' factors are ordinary fp32 numbers; less counts as 0
SMALLEST_AMAX = 1e-30
# the second form is a layer that LoRA has wrapped
NAME = re.compile(rf"(?:^|\.)({'|'.join(LINEARS)})_proj(?:\.base_layer)?$")


def quantise(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """FP8 numbers, and what to multiply them by. One infinity or NaN makes all NaN, which the step's guard sees.

    Clamped, because rounding can lead past the largest number, where a cast gives NaN or infinity.
    """
    largest = torch.finfo(dtype).max
    scale = largest / values.abs().amax().float().clamp(min=SMALLEST_AMAX)
    return (values.float() * scale).clamp(-largest, largest).to(dtype), scale.reciprocal()


def multiply(rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], dtype: torch.dtype, fast: bool) -> Tensor:
    """A GPU takes the first row by row and the second column by column. `fast` sums with fewer bits."""
    (left, left_scale), (right, right_scale) = rows, columns
    left, right = left.contiguous(), right.t().contiguous().t()
    if left.device.type == "cpu":  # the same sums; torch's own kernel took a thousand times as long on a CPU with AMX
        with torch.autocast("cpu", enabled=False):
            return ((left.float() @ right.float()) * (left_scale * right_scale)).to(dtype)
    return torch._scaled_mm(left, right, left_scale, right_scale, out_dtype=dtype, use_fast_accum=fast)


class _Fp8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gradients: torch.dtype, weight_gradient_in_fp8: bool) -> Tensor:
        small_x, small_weight = quantise(x, FORMATS["e4m3"]), quantise(weight, FORMATS["e4m3"])
        ctx.save_for_backward(*(small_x if weight_gradient_in_fp8 else (x, x)), *small_weight)
        ctx.gradients, ctx.weight_gradient_in_fp8, ctx.weight_dtype = gradients, weight_gradient_in_fp8, weight.dtype
        small_weight = (small_weight[0].t(), small_weight[1])
        return multiply(small_x, small_weight, x.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = gradients
        x, x_scale, weight, weight_scale = ctx.saved_tensors
        small, scale = quantise(grad, ctx.gradients)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = multiply((small, scale), (weight, weight_scale), grad.dtype, fast=False)
        if ctx.needs_input_grad[1] and ctx.weight_gradient_in_fp8:
            grad_weight = multiply((small.t(), scale), (x, x_scale), ctx.weight_dtype, fast=False)
        elif ctx.needs_input_grad[1]:
            grad_weight = (grad.t() @ x).to(ctx.weight_dtype)
        return grad_x, grad_weight, None, None


class Fp8Linear(nn.Linear):
    """Made of an nn.Linear without bias by `enable_fp8`, never constructed."""

    gradients: torch.dtype
    weight_gradient_in_fp8: bool

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return nn.functional.linear(x, self.weight)
        if torch.is_autocast_enabled(x.device.type):  # it does not reach into an autograd function
            x = x.to(torch.get_autocast_dtype(x.device.type))
        flat = x.reshape(-1, self.in_features)
        tokens = flat.shape[0]  # the inner dimension of the weights' gradient, which must be a multiple as well
        if tokens % ALIGNMENT:
            flat = nn.functional.pad(flat, (0, 0, 0, -tokens % ALIGNMENT))
        y = _Fp8Product.apply(flat, self.weight, self.gradients, self.weight_gradient_in_fp8)
        return y[:tokens].view(*x.shape[:-1], self.out_features)


def enable_fp8(model: nn.Module, policy: Policy) -> None:
    torch.compiler.allow_in_graph(_Fp8Product)  # torch 2.11 would trace into it, and lose its gradients
    for name, module in model.named_modules():
        found = NAME.search(name)
        if found and type(module) is nn.Linear and policy[found[1]] == "fp8":
            module.__class__ = Fp8Linear
            module.gradients = FORMATS[policy["gradients"]]  # type: ignore[assignment]
            module.weight_gradient_in_fp8 = policy["weight_gradient"] == "fp8"
