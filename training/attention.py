"""Which kernel attends in a run, and why: `attention: auto | sdpa | varlen | flex_attention | flash_attention_2 to 4`.

    attention = resolve_attention(config)      # refuses what cannot be had
    attention.install(model)                   # in training and in evaluation

`auto` takes torch's SDPA without a mask where rows are one text. With a document mask a GPU takes kernels that skip
what the mask hides; on a CPU, SDPA with a dense mask is exact and serves. `varlen` is torch's own such kernel, entered
among transformers' attention functions here, so the model's code knows nothing of it. Nothing is ever fetched from the
Hub.
Not here: which documents a batch has (loader.py), Transformer Engine's own attention.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_flash_attn_4_available

from yxanul.bad_input import BadInput
from yxanul.training.config import RunConfig
from yxanul.training.training_arguments import is_on_gpu, uses_bf16

# newest first: is it installed (not: could it be fetched), and the oldest GPUs that transformers gives it
FLASH = {
    "flash_attention_4": (is_flash_attn_4_available, (9, 0)),
    "flash_attention_3": (is_flash_attn_3_available, (8, 0)),
    "flash_attention_2": (is_flash_attn_2_available, (8, 0)),
}
LARGEST_HEAD = 256  # of flash attention's kernels, torch's own included; sizes are multiples of 8
# torch 2.13 wants to be told of fewer key than query heads; 2.11 has the same kernel and no such word
WITH_GQA = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


@dataclass(frozen=True)
class Attention:
    name: str
    reason: str
    warning: str = ""

    def sentences(self) -> list[str]:
        return [f"attention: {self.name} ({self.reason}).", *filter(None, [self.warning])]

    def install(self, model: Any) -> None:
        if self.name == "sdpa":  # as models are built
            return
        model.set_attn_implementation(self.name)
        if self.name != "flex_attention":
            model.register_forward_pre_hook(_tell_documents, with_kwargs=True)


def resolve_attention(config: RunConfig) -> Attention:
    asked, on_gpu = config.attention, is_on_gpu(config)
    if config.precision == "te" and asked in ("auto", "sdpa"):
        return Attention("sdpa", "in evaluation; Transformer Engine's own kernels in training")
    if config.precision == "te":
        raise BadInput(f"attention={asked}: precision=te has kernels of its own: take attention=auto.")
    if not on_gpu:
        if asked not in ("auto", "sdpa"):
            raise BadInput(f"attention={asked} is for GPUs, and this run is on a CPU: take attention=sdpa, or auto.")
        mask = "a dense mask, which is exact" if config.document_mask else f"no mask, {_backend(config)}"
        return Attention("sdpa", mask)
    if asked == "auto":
        return _fastest(config)
    missing = _missing(asked, config)
    if missing:
        raise BadInput(f"attention={asked} {missing}: take attention=auto.")
    warning = ""
    if asked == "sdpa" and config.document_mask:
        warning = (
            "ATTENTION=SDPA WITH A DOCUMENT MASK: a dense mask on the GPU, which computes what it hides and loses the "
            "fast kernels; attention=auto has one that does not."
        )
    return Attention(asked, "asked for", warning)


def _fastest(config: RunConfig) -> Attention:
    if not config.document_mask:
        return Attention("sdpa", f"no mask, {_backend(config)}")
    reasons = {name: _missing(name, config) for name in ("varlen", "flash_attention_2", "flex_attention")}
    found = next((name for name, missing in reasons.items() if not missing), None)
    if found is None:
        raise BadInput(
            f"document_mask on this GPU: attention=varlen {reasons['varlen']}, and attention=flex_attention "
            f"{reasons['flex_attention']}: change that, or take attention=sdpa, whose dense mask is slow."
        )
    return Attention(
        found, f"varlen {reasons['varlen']}" if reasons["varlen"] else "torch's own, document by document"
    )


def _missing(name: str, config: RunConfig) -> str:
    """What speaks against a kernel on this GPU, as the end of a sentence; nothing if it can be had."""
    shape: Any = config.shape().config
    if name == "sdpa":
        return ""
    if name == "flex_attention":
        return "has no dropout: set model_config.attention_dropout=0" if shape.attention_dropout else ""
    if name == "varlen" and not config.document_mask:
        return "tells documents apart, and this run has no document_mask"
    if name in FLASH:
        is_installed, capability = FLASH[name]
        if not is_installed():
            return "is not installed, and nothing is fetched from the Hub"
        if torch.cuda.get_device_capability() < capability:
            return f"needs a GPU of compute capability {capability[0]}.{capability[1]}"
    if not uses_bf16(config):
        return "computes in bf16, and this run in fp32"
    if shape.head_dim > LARGEST_HEAD or shape.head_dim % 8:
        return f"takes heads of up to {LARGEST_HEAD} in multiples of 8, and this model has head_dim={shape.head_dim}"
    if shape.attention_dropout and name != "flash_attention_2":
        return "has no dropout: set model_config.attention_dropout=0"
    return ""


def _backend(config: RunConfig) -> str:
    """What torch says it would run for the longest rows of the plan."""
    shape: Any = config.shape().config
    device = "cuda" if is_on_gpu(config) else "cpu"
    length = max(phase.length for stage in config.plan().stages for phase in stage.phases)
    kind = torch.bfloat16 if uses_bf16(config) else torch.float32
    q, k = (
        torch.empty(1, heads, length, shape.head_dim, device=device, dtype=kind, requires_grad=True)
        for heads in (shape.num_attention_heads, shape.num_key_value_heads)
    )
    options: dict[str, Any] = {"enable_gqa": shape.num_attention_heads != shape.num_key_value_heads}
    chosen = SDPBackend(torch._fused_sdp_choice(q, k, k, None, shape.attention_dropout, True, **options))
    return f"torch's kernel {chosen.name.lower()}"


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(B, H, T, d) and (B, K, T, d) in, (B, T, H, d) out. Without documents, as while it generates, it is SDPA."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    flat = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)} | WITH_GQA  # causal
    bounds: Any = (cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
    attended: Any = varlen_attn(flat[0], flat[1], flat[2], *bounds, **options)
    return attended.view(query.shape[0], query.shape[2], *attended.shape[1:]), None


def _varlen_mask(*arguments: Any, use_vmap: bool = False, **options: Any) -> Tensor | None:
    """None where the model knows the documents, which it says by a mask function of its own."""
    return None if use_vmap else sdpa_mask(*arguments, **options)


AttentionInterface.register("varlen", varlen_attention)
AttentionMaskInterface.register("varlen", _varlen_mask)


def _tell_documents(module: nn.Module, arguments: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Evaluation gives positions that restart, and may wait for the device; training brings the bounds along."""
    positions = kwargs.get("position_ids")
    others = (kwargs.get(name) for name in ("cu_seq_lens_q", "attention_mask", "past_key_values"))
    if positions is None or any(other is not None for other in others):
        return arguments, kwargs
    begins = (positions.flatten() == 0).nonzero().flatten()
    bounds = nn.functional.pad(begins, (0, 1), value=positions.numel()).int()
    length = positions.shape[1]
    told = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": length, "max_length_k": length}
    return arguments, kwargs | told
