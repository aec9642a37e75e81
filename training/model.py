"""The model that a run begins with: random weights from its seed, or those of another checkpoint."""

from typing import Any

import torch
from transformers import set_seed

from yxanul.bad_input import BadInput
from yxanul.modeling_yxanul import YxanulForCausalLM
from yxanul.training.config import RunConfig


def build(config: RunConfig, with_weights: bool = True) -> Any:
    """fp32, whatever the precision: master weights. The same on every rank. `with_weights`: those of init_from."""
    shape = config.shape().config
    set_seed(config.seed)
    if config.init_from is None or not with_weights:
        return YxanulForCausalLM(shape)
    loaded: Any
    try:
        loaded = YxanulForCausalLM.from_pretrained(
            config.init_from,
            config=shape,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(f"init_from={config.init_from} cannot be loaded: {reason}") from None
    model, report = loaded
    lost = [*report["missing_keys"], *report["unexpected_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if lost:
        raise BadInput(
            f"init_from={config.init_from} does not fit the model: {', '.join(sorted(lost)[:3])} ({len(lost)} in all) "
            "are missing there or here, or of another size; take its own shape (leave `model` out)."
        )
    return model


def build_on_meta(config: RunConfig) -> Any:
    with torch.device("meta"):
        return YxanulForCausalLM(config.shape().config)
