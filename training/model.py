"""The model that a run begins with: random weights from its seed, or those of another checkpoint."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging

from yxanul.bad_input import BadInput
from yxanul.modeling_yxanul import YxanulForCausalLM
from yxanul.training.config import RunConfig
from yxanul.training.lora import add_adapters


def build(config: RunConfig, with_weights: bool = True) -> Any:
    """fp32, whatever the precision: master weights. The same on every rank. `with_weights`: those of init_from."""
    model = _built(config, with_weights or bool(config.lora))
    if config.lora:
        _adapt(model, config)
    return model


def _adapt(model: Any, config: RunConfig) -> None:
    assert config.init_from is not None
    own = replace(config, model=config.init_from, model_config={}).shape().config.vocab_size
    if model.config.vocab_size != own:
        raise config.wrong(
            f"lora learns no new tokens: keep model_config.vocab_size={own} and a template that adds none, such as "
            "user-assistant, or train all weights."
        )
    add_adapters(model, config.lora, config.init_from, config.recipe)


def _built(config: RunConfig, with_weights: bool) -> Any:
    shape = config.shape().config
    set_seed(config.seed)
    if config.init_from is None or not with_weights:
        return YxanulForCausalLM(shape)
    rows = own = shape.vocab_size
    with suppress(BadInput):  # what is wrong with init_from is said below
        own = replace(config, model=config.init_from, model_config={}).shape().config.vocab_size
    shape.vocab_size = min(rows, own)
    loaded: Any
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its own report of what does not fit; ours is below
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
    finally:
        logging.set_verbosity(verbosity)
    model, report = loaded
    lost = [*report["missing_keys"], *report["unexpected_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if lost:
        raise BadInput(
            f"init_from={config.init_from} does not fit the model: {', '.join(sorted(lost)[:3])} ({len(lost)} in all) "
            "are missing there or here, or of another size; take its own shape (leave `model` out)."
        )
    if rows > own:  # new tokens begin as the mean of all, so that none is likely or strange from the start
        model.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            for table in {id(part): part for part in _tables(model)}.values():
                table[own:] = table[:own].mean(0)
    return model


def _tables(model: Any) -> list[torch.nn.Parameter]:
    """Those with a row for each token; a factorised head that is tied has none of its own."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = len(modules[0].weight)
    return [parameter for module in modules for parameter in module.parameters() if len(parameter) == rows]


def build_on_meta(config: RunConfig) -> Any:
    with torch.device("meta"):
        model = YxanulForCausalLM(config.shape().config)
        if config.lora:
            _adapt(model, config)
    return model
