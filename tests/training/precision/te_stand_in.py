"""Stands for Transformer Engine where there is none: its names, its constructors' signatures, plain torch on a CPU.

    LIBRARY     what yxanul.training.precision.te_layers.load would give

Inside `autocast` it rounds to FP8 and keeps delayed scaling's state as Transformer Engine 2.20 does (scales from the
largest entry of the history, renewed at the end of a region and of a backward pass), outside it computes as it comes.
`LOG` counts what was used. Not here: speed, kernels, what we do not use. test_transformer_engine.py holds it against
the real one where that can be imported.
"""

import enum
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional

LOG = Counter()
ACTIVE = []  # regions, innermost last
REGISTERED = {"scaling_fwd": [], "scaling_bwd": []}


class Format(enum.Enum):
    E4M3 = (torch.float8_e4m3fn, torch.float8_e4m3fn)
    HYBRID = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass
class DelayedScaling:
    fp8_format: Format = Format.HYBRID
    amax_history_len: int = 1024
    amax_compute_algo: str = "max"


@dataclass
class Float8CurrentScaling:
    fp8_format: Format = Format.HYBRID


@dataclass
class Float8BlockScaling:
    fp8_format: Format = Format.E4M3


class autocast:  # noqa: N801 - its name there
    def __init__(self, enabled=True, calibrating=False, recipe=None, amax_reduction_group=None):
        assert enabled and not calibrating
        self.recipe, self.group, self.first = recipe, amax_reduction_group, True

    def __enter__(self):
        assert not ACTIVE, "regions do not nest here"
        ACTIVE.append(self)
        LOG["regions"] += 1

    def __exit__(self, *_):
        ACTIVE.clear()
        if torch.is_grad_enabled():
            renew("scaling_fwd", self.group)


class State:
    """DelayedScalingRecipeState."""

    def __init__(self, direction, recipe, tensors):
        self.dtype = recipe.fp8_format.value[direction == "scaling_bwd"]
        self.scale = torch.ones(tensors)
        self.amax_history = torch.zeros(recipe.amax_history_len, tensors)


def renew(direction, group):
    for state in REGISTERED[direction]:
        if group is not None:
            torch.distributed.all_reduce(state.amax_history[0], torch.distributed.ReduceOp.MAX, group)
            LOG["reductions"] += 1
        largest = state.amax_history.amax(0)
        fitting = torch.finfo(state.dtype).max / largest
        state.scale.copy_(torch.where((largest > 0) & largest.isfinite(), fitting, state.scale))
        state.amax_history.copy_(state.amax_history.roll(-1, 0))
        state.amax_history[0] = 0


def rounded(values, state, slot, dtype):
    """To FP8 and back; without a state by current scaling."""
    amax, most = values.abs().amax().float(), torch.finfo(dtype).max
    scale = most / amax.clamp(min=1e-30)
    if state is not None:
        state.amax_history[0, slot] = amax
        scale = state.scale[slot].clone()
    return ((values.float() * scale).clamp(-most, most).to(dtype).float() / scale).to(values.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, module, number, parameter):
        region = ACTIVE[-1] if ACTIVE else None
        ctx.states = ctx.dtypes = None
        if region:
            ctx.dtypes, ctx.states = region.recipe.fp8_format.value, module.states()
            x = rounded(x, ctx.states[0], 3 * number, ctx.dtypes[0])
            weight = rounded(weight, ctx.states[0], 3 * number + 1, ctx.dtypes[0])
        ctx.save_for_backward(x, weight)
        ctx.number, ctx.fused = number, parameter if module.fuse_wgrad_accumulation else None
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        if ctx.dtypes:
            grad = rounded(grad, ctx.states[1], 2 * ctx.number, ctx.dtypes[1])
        grad_weight = grad.flatten(0, -2).T @ x.flatten(0, -2)
        if ctx.fused is not None:
            ctx.fused.main_grad += grad_weight
            grad_weight = None
        return grad @ weight, grad_weight, None, None, None


class _EndOfBackward(torch.autograd.Function):
    """Before a pass's first module, so behind all others in the backward pass."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        renew("scaling_bwd", ctx.group)
        return grad, None


class Base(nn.Module):
    fuse_wgrad_accumulation = False

    def __init__(self):
        super().__init__()
        self.fp8_meta = {}

    def get_extra_state(self):
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state):
        pass

    def add(self, name, *shape, params_dtype, device):
        setattr(self, name, nn.Parameter(torch.empty(*shape, dtype=params_dtype, device=device)))

    def init_fp8_metadata(self, num_gemms=1):
        recipe = ACTIVE[-1].recipe
        if isinstance(recipe, DelayedScaling) and not self.fp8_meta:
            for direction, tensors in (("scaling_fwd", 3), ("scaling_bwd", 2)):
                state = State(direction, recipe, tensors * num_gemms)
                self.fp8_meta[direction] = state
                REGISTERED[direction].append(state)

    def states(self):
        return [self.fp8_meta.get(direction) for direction in ("scaling_fwd", "scaling_bwd")]

    def begin(self, x, num_gemms, is_first_microbatch):
        LOG[type(self).__name__] += 1
        LOG[f"first: {is_first_microbatch}"] += 1
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if ACTIVE:
            self.init_fp8_metadata(num_gemms)
            if ACTIVE[-1].first:
                x, ACTIVE[-1].first = _EndOfBackward.apply(x, ACTIVE[-1].group), False
        return x

    def product(self, x, weight, number=0, parameter=None):
        return _Product.apply(x, weight.to(x.dtype), self, number, parameter)


class Linear(Base):
    def __init__(
        self, in_features, out_features, *, fuse_wgrad_accumulation=False, bias=True, params_dtype=None, device="cuda"
    ):
        super().__init__()
        assert not bias
        self.fuse_wgrad_accumulation = fuse_wgrad_accumulation
        self.add("weight", out_features, in_features, params_dtype=params_dtype, device=device)

    def forward(self, inp, is_first_microbatch=None):
        return self.product(self.begin(inp, 1, is_first_microbatch), self.weight, 0, self.weight)


class LayerNormLinear(Base):
    def __init__(
        self,
        in_features,
        out_features,
        eps=1e-5,
        *,
        bias=True,
        normalization="LayerNorm",
        params_dtype=None,
        parameters_split=None,
        zero_centered_gamma=False,
        device="cuda",
    ):
        super().__init__()
        assert not bias and normalization == "RMSNorm" and not zero_centered_gamma
        assert sum(parameters_split.values()) == out_features
        self.eps, self.names = eps, [f"{name}_weight" for name in parameters_split]
        self.add("layer_norm_weight", in_features, params_dtype=params_dtype, device=device)
        for name, rows in parameters_split.items():
            self.add(f"{name}_weight", rows, in_features, params_dtype=params_dtype, device=device)

    def forward(self, inp, is_first_microbatch=None):
        x = self.begin(inp, 1, is_first_microbatch)
        x = functional.rms_norm(x, x.shape[-1:], self.layer_norm_weight.to(x.dtype), self.eps)
        return self.product(x, torch.cat([getattr(self, name) for name in self.names]))


class LayerNormMLP(Base):
    def __init__(
        self,
        hidden_size,
        ffn_hidden_size,
        eps=1e-5,
        *,
        bias=True,
        normalization="LayerNorm",
        activation="gelu",
        fuse_wgrad_accumulation=False,
        params_dtype=None,
        zero_centered_gamma=False,
        device="cuda",
    ):
        super().__init__()
        assert not bias and normalization == "RMSNorm" and not zero_centered_gamma
        self.eps, self.fuse_wgrad_accumulation = eps, fuse_wgrad_accumulation
        gelu = lambda values: functional.gelu(values, approximate="tanh")  # noqa: E731
        self.activation = {"swiglu": functional.silu, "geglu": gelu}[activation]
        place = {"params_dtype": params_dtype, "device": device}
        self.add("layer_norm_weight", hidden_size, **place)
        self.add("fc1_weight", 2 * ffn_hidden_size, hidden_size, **place)
        self.add("fc2_weight", hidden_size, ffn_hidden_size, **place)

    def forward(self, inp, is_first_microbatch=None):
        x = self.begin(inp, 2, is_first_microbatch)
        x = functional.rms_norm(x, x.shape[-1:], self.layer_norm_weight.to(x.dtype), self.eps)
        gate, up = self.product(x, self.fc1_weight, 0, self.fc1_weight).chunk(2, -1)
        return self.product(self.activation(gate) * up, self.fc2_weight, 1, self.fc2_weight)


class DotProductAttention(Base):
    def __init__(
        self,
        num_attention_heads,
        kv_channels,
        num_gqa_groups=None,
        attention_dropout=0.0,
        qkv_format="sbhd",
        attn_mask_type="causal",
        *,
        softmax_scale=None,
    ):
        super().__init__()
        assert qkv_format == "bshd" and attn_mask_type == "causal"
        self.shape, self.groups = (num_attention_heads, kv_channels), num_gqa_groups
        self.dropout, self.scale = attention_dropout, softmax_scale

    def forward(self, query_layer, key_layer, value_layer):
        LOG["DotProductAttention"] += 1
        assert query_layer.shape[2:] == self.shape and key_layer.shape[2] == value_layer.shape[2] == self.groups
        q, k, v = (states.transpose(1, 2) for states in (query_layer, key_layer, value_layer))
        options = {"is_causal": True, "enable_gqa": True, "scale": self.scale, "dropout_p": self.dropout}
        return functional.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)


def apply_rotary_pos_emb(
    t, freqs, tensor_format="sbhd", start_positions=None, interleaved=False, fused=False, cu_seqlens=None
):
    LOG["fused RoPE"] += fused
    assert tensor_format == "bshd" and not interleaved and freqs.dtype == torch.float32
    assert freqs.shape == (t.shape[1], 1, 1, t.shape[-1])
    angles = freqs.transpose(0, 1)
    first, second = t.float().chunk(2, -1)
    return (t.float() * angles.cos() + torch.cat((-second, first), -1) * angles.sin()).to(t.dtype)


def is_fp8_block_scaling_available(return_reason=False):
    return True, ""


def forget():
    """As a new process begins."""
    LOG.clear()
    ACTIVE.clear()
    for states in REGISTERED.values():
        states.clear()


MODULES = SimpleNamespace(
    Linear=Linear,
    LayerNormLinear=LayerNormLinear,
    LayerNormMLP=LayerNormMLP,
    DotProductAttention=DotProductAttention,
    autocast=autocast,
    is_fp8_block_scaling_available=is_fp8_block_scaling_available,
)
RECIPES = SimpleNamespace(
    Format=Format,
    DelayedScaling=DelayedScaling,
    Float8CurrentScaling=Float8CurrentScaling,
    Float8BlockScaling=Float8BlockScaling,
)
LIBRARY = (MODULES, RECIPES, SimpleNamespace(apply_rotary_pos_emb=apply_rotary_pos_emb))
