"""Target `llama`: the model as a plain LlamaForCausalLM, for all that knows Llama: transformers, vLLM.

A factorised embedding becomes the full table (computed in fp64): the same logits to 1e-5, more bytes. GEGLU stays, by
hidden_act. What no Llama can compute is refused: learned positions, a soft cap on the logits.
"""

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.hub_export.bare import BareTransformers
from yxanul.hub_export.source import BESIDE, Source
from yxanul.hub_export.verify import Artefact, Limits

TYPES = DEFAULT = ("f32",)
NEEDS: dict[str, str] = {}
LIMITS = Limits(
    logits=1e-5, error=1e-5, bits_per_byte=1e-5, greedy=True, reason="the same computation in fp32, in another order"
)

# Both raise "Only silu is supported" for other activations, by their Llama's source
NO_GEGLU = "vLLM and SGLang serve Llamas with SwiGLU alone, and this one has a GEGLU; transformers and TGI take it"

TABLE, PROJECTION, HEAD = "model.embed_tokens.weight", "model.embed_proj.weight", "lm_head.weight"
SAME_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
    "max_position_embeddings",
    "rope_parameters",
    "rms_norm_eps",
    "initializer_range",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


def why_not_llama(config: Any, target: str = "llama") -> str | None:
    """The reason why no Llama computes the same."""
    if config.learned_position_embeddings:
        return (
            f"{target}: the model adds learned positions to its embeddings (learned_position_embeddings), and a Llama "
            "has RoPE alone; export it to onnx, or train without them."
        )
    if config.final_logit_softcapping is not None:
        return (
            f"{target}: the model caps its logits (final_logit_softcapping={config.final_logit_softcapping:g}), and a "
            "Llama does not; export it to onnx, or train without."
        )
    return None


def check(source: Source, types: Sequence[str]) -> None:
    if reason := why_not_llama(source.config):
        raise BadInput(reason)


def merged(source: Source) -> Any:
    """As LlamaForCausalLM in fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{name: getattr(source.config, name) for name in SAME_FIELDS}, dtype="float32")
    state = {name: weight.detach() for name, weight in source.model.state_dict().items()}
    state = {name: weight for name, weight in state.items() if not name.startswith("lm_head.")}
    if PROJECTION in state:
        state[TABLE] = (state[TABLE].double() @ state.pop(PROJECTION).double().T).float()
    state[HEAD] = state[TABLE] if config.tie_word_embeddings else source.model.lm_head.weight.detach()
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    with torch.device("cpu"):  # the only values that no checkpoint holds: RoPE's frequencies
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    model.generation_config = source.model.generation_config
    return model.eval()


def padded(name: str, weight: Any, width: int) -> Any:
    """Exact: a unit whose gate and up rows are zero gives act(0) * 0, and zeros in its column of down_proj."""
    from torch.nn.functional import pad

    if name.endswith(("gate_proj.weight", "up_proj.weight")):
        return pad(weight, (0, 0, 0, width - weight.shape[0]))
    if name.endswith("down_proj.weight"):
        return pad(weight, (0, width - weight.shape[1]))
    return weight


def write(source: Source, folder: Path, types: Sequence[str]) -> Iterator[Artefact]:
    merged(source).save_pretrained(folder)
    copy_beside(source, folder)
    notes = () if source.config.hidden_act == "silu" else (NO_GEGLU,)
    yield Artefact(folder, "llama", [partial(BareTransformers, folder)], LIMITS, notes)


def copy_beside(source: Source, folder: Path) -> None:
    """The tokenizer and generation's settings, as they are; what is there stays."""
    for name in BESIDE:
        if (source.folder / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source.folder / name, folder / name)
