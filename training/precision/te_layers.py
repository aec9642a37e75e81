"""Transformer Engine's fused modules in the place of a finished model's layers, and the plain names of what they hold.

    library = load(on_gpu)                                    # Transformer Engine, or why it cannot be had here
    modules = swap(model, library, fuse_accumulation=False)   # in place: the same weights
    plain_names("model.layers.0.mlp.fc1_weight")              # ...gate_proj.weight and ...up_proj.weight

A layer keeps its class and its forward. Its first norm becomes LayerNormLinear and gives q, k and v side by side; its
second norm vanishes into LayerNormMLP. Embeddings, factors, the last norm, head and loss stay ours. Evaluation and
generation use our own attention, which knows masks and caches.
Not here: FP8 and its state (transformer_engine.py), which shapes and settings it can take (policy.py).
"""

import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yxanul.bad_input import BadInput
from yxanul.modeling_yxanul import YxanulAttention
from yxanul.training.precision.policy import TE_ACTIVATIONS

KNOWN_TO_LOAD = "2.20.2 beside torch 2.11 (CUDA 13.0, Python 3.12)"

# A fused model's parameter -> the plain model's that lie in it, one below the other in equal parts
PLAIN_NAMES = {
    "input_layernorm.layer_norm_weight": ["input_layernorm.weight"],
    "input_layernorm.q_weight": ["self_attn.q_proj.weight"],
    "input_layernorm.k_weight": ["self_attn.k_proj.weight"],
    "input_layernorm.v_weight": ["self_attn.v_proj.weight"],
    "mlp.layer_norm_weight": ["post_attention_layernorm.weight"],
    "mlp.fc1_weight": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
    "mlp.fc2_weight": ["mlp.down_proj.weight"],
}


class Library(NamedTuple):
    """Transformer Engine, as far as we use it."""

    modules: ModuleType  # transformer_engine.pytorch
    recipes: ModuleType  # transformer_engine.common.recipe
    rope: ModuleType  # transformer_engine.pytorch.attention.rope


def load(on_gpu: bool) -> Library:
    if not on_gpu:
        raise BadInput("precision=te is for GPUs: take precision=auto here, or precision=bf16 on a GPU.")
    try:
        import transformer_engine.pytorch as modules
        from transformer_engine.common import recipe as recipes
        from transformer_engine.pytorch.attention import rope
    except (ImportError, OSError, RuntimeError, AssertionError) as error:  # also: its three packages do not match
        raise BadInput(
            f"precision=te needs Transformer Engine, which cannot be imported ({str(error).partition(chr(10))[0]}): "
            f"pip install 'yxanul[te]' (known to load: {KNOWN_TO_LOAD}), or take precision=bf16."
        ) from None
    return Library(modules, recipes, rope)


def plain_names(name: str) -> list[str]:
    for ending, plain in PLAIN_NAMES.items():
        if name.endswith(f".{ending}"):
            return [name.removesuffix(ending) + one for one in plain]
    return [name]


class _Columns(nn.Module):
    """Stands for q_proj, k_proj or v_proj: cuts its part out of what LayerNormLinear gives."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, together: Tensor) -> Tensor:
        return together[..., self.start : self.stop]


class _Angles:
    """RoPE's angles as its kernel wants them, (T, 1, 1, d) in fp32: one table for all layers."""

    def __init__(self, rotary: Any) -> None:
        self._rotary, self._table = rotary, torch.empty(0)

    def __call__(self, length: int) -> Tensor:
        frequencies = self._rotary.inv_freq
        if len(self._table) < length or self._table.device != frequencies.device:
            positions = torch.arange(length, device=frequencies.device, dtype=torch.float)
            half = torch.outer(positions, frequencies.float())
            self._table = torch.cat((half, half), -1)[:, None, None]
        return self._table[:length]


class TeAttention(YxanulAttention):
    """Made of a YxanulAttention by `swap`, never constructed."""

    attend: Any
    turn: Any
    angles: _Angles

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        is_plain_causal = attention_mask is None and past_key_values is None and kwargs.get("position_ids") is None
        if not (self.training and is_plain_causal):
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        parts: Any = self.q_proj, self.k_proj, self.v_proj
        widths = [part.stop - part.start for part in parts]
        # one cut, one gradient of it; three columns would each fill a whole one
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in hidden_states.split(widths, -1))
        angles = self.angles(hidden_states.shape[1])
        q, k = (self.turn(states, angles, tensor_format="bshd", fused=True) for states in (q, k))
        return self.o_proj(self.attend(q, k, v)), None


def swap(model: Any, library: Library, fuse_accumulation: bool) -> dict[str, Any]:
    """In place; the new modules, by their names. The model's parameters are the plain ones, but for gate over up."""
    angles = _Angles(model.model.rotary_emb)
    swapped: dict[str, Any] = {}
    for index, layer in enumerate(model.model.layers):
        norm_and_qkv = _norm_and_qkv(model.config, layer, library.modules)
        o_proj, mlp = _o_and_mlp(model.config, layer, library.modules, fuse_accumulation)
        _make_te_attention(layer.self_attn, library, angles)
        layer.self_attn.o_proj, layer.input_layernorm, layer.mlp = o_proj, norm_and_qkv, mlp
        layer.post_attention_layernorm = nn.Identity()
        place = f"model.layers.{index}"
        swapped |= {f"{place}.input_layernorm": norm_and_qkv, f"{place}.self_attn.o_proj": o_proj, f"{place}.mlp": mlp}
    return swapped


# On no device: their own random weights would cost time and move the run's random state
COMMON = {"bias": False, "params_dtype": torch.float32, "device": "meta"}


def _norm_and_qkv(config: Any, layer: Any, te: Any) -> nn.Module:
    parts = {"q": config.query_width, "k": config.key_width, "v": config.key_width}
    fused = te.LayerNormLinear(
        config.hidden_size,
        sum(parts.values()),
        eps=config.rms_norm_eps,
        normalization="RMSNorm",
        zero_centered_gamma=False,
        parameters_split=parts,
        **COMMON,
    )
    fused.layer_norm_weight = layer.input_layernorm.weight
    for name in parts:
        setattr(fused, f"{name}_weight", getattr(layer.self_attn, f"{name}_proj").weight)
    return fused


def _o_and_mlp(config: Any, layer: Any, te: Any, fuse_accumulation: bool) -> tuple[nn.Module, nn.Module]:
    fuse = {"fuse_wgrad_accumulation": fuse_accumulation}
    o_proj = te.Linear(config.query_width, config.hidden_size, **fuse, **COMMON)
    o_proj.weight = layer.self_attn.o_proj.weight
    mlp = te.LayerNormMLP(
        config.hidden_size,
        config.intermediate_size,
        eps=config.rms_norm_eps,
        normalization="RMSNorm",
        zero_centered_gamma=False,
        activation=TE_ACTIVATIONS[config.hidden_act],
        **fuse,
        **COMMON,
    )
    mlp.layer_norm_weight = layer.post_attention_layernorm.weight
    mlp.fc1_weight = nn.Parameter(torch.cat((layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight)).detach())
    mlp.fc2_weight = layer.mlp.down_proj.weight
    return o_proj, mlp


def _make_te_attention(attention: Any, library: Library, angles: _Angles) -> None:
    config = attention.config
    stop = 0
    for name, width in (("q", config.query_width), ("k", config.key_width), ("v", config.key_width)):
        start, stop = stop, stop + width
        setattr(attention, f"{name}_proj", _Columns(start, stop))
    attention.__class__ = TeAttention
    attention.turn, attention.angles = library.rope.apply_rotary_pos_emb, angles
    attention.attend = library.modules.DotProductAttention(
        config.num_attention_heads,
        config.head_dim,
        num_gqa_groups=config.num_key_value_heads,
        attention_dropout=config.attention_dropout,
        qkv_format="bshd",
        attn_mask_type="causal",
        softmax_scale=1 / math.sqrt(config.head_dim),
    )
