"""Forms of RMSNorm and RoPE that the model does not use; `choices.py` times them beside those that it uses.

Run: not by itself. Gradients are written out by hand where autograd's own chain makes more temporaries.
Not here: the model's forms (`modeling_yxanul.py`), a second derivative, dtypes other than fp32.

Shapes: B batch, T time, H heads, d head size, D hidden.
"""

import torch
from torch import Tensor


class NormWithOwnBackward(torch.autograd.Function):
    """Llama's RMSNorm with its gradient in seven passes over the hidden states where autograd makes eleven."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse_rms = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
        normalised = hidden * inverse_rms
        ctx.save_for_backward(hidden, weight, inverse_rms, normalised)
        return normalised * weight

    @staticmethod
    def backward(ctx, gradient: Tensor):
        hidden, weight, inverse_rms, normalised = ctx.saved_tensors
        d_weight = (gradient * normalised).sum(tuple(range(gradient.dim() - 1)))
        d_normalised = gradient * weight
        d_inverse = (d_normalised * hidden).sum(-1, keepdim=True)
        d_mean_square = d_inverse * -0.5 * inverse_rms.pow(3)
        d_hidden = d_normalised.mul_(inverse_rms).add_(hidden * (d_mean_square / hidden.shape[-1] * 2))
        return d_hidden, d_weight, None


class RotateWithOwnBackward(torch.autograd.Function):
    """RoPE that writes both halves into one output; its gradient is the turn backwards."""

    @staticmethod
    def forward(ctx, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(states, cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (first, second), rotated = states.chunk(2, dim=-1), torch.empty_like(states)
    one, other = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=one).sub_(second * sin)
    torch.mul(second, cos, out=other).add_(first * sin)
    return rotated


def rotate_addcmul(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    one = torch.addcmul(first * cos, second, sin, value=-1)
    return torch.cat((one, torch.addcmul(second * cos, first, sin)), dim=-1)


def rotate_roll(states: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Whole tables (cos, cos) and (-sin, sin)."""
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * signed_sin
