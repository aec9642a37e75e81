"""Yxanul: small language models (100 to 600 M parameters) and the lab that makes them, on Hugging Face's libraries.

Light on purpose: names load on their first use, which also tells the Auto classes about the family; `register()` does
that alone.
"""

from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "YxanulConfig": "configuration_yxanul",
    "YxanulModel": "modeling_yxanul",
    "YxanulPreTrainedModel": "modeling_yxanul",
    "YxanulForCausalLM": "modeling_yxanul",
    "YxanulForSequenceClassification": "modeling_yxanul",
    "YxanulForTokenClassification": "modeling_yxanul",
    "YxanulForQuestionAnswering": "modeling_yxanul",
}

__all__ = ["__version__", "register", *_HOMES]


def register() -> None:
    """Make AutoConfig and the AutoModel classes know the family, so that its checkpoints need no trust flag."""
    import transformers
    from transformers.models.auto import modeling_auto

    from yxanul import modeling_yxanul
    from yxanul.configuration_yxanul import YxanulConfig

    # Trainer's label smoothing shifts the labels only of classes that stand here
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[YxanulConfig.model_type] = "YxanulForCausalLM"
    transformers.AutoConfig.register(YxanulConfig.model_type, YxanulConfig, exist_ok=True)
    for auto_class, home in modeling_yxanul.AUTO_MAP.items():
        if auto_class != "AutoConfig":
            model_class = getattr(modeling_yxanul, home.rpartition(".")[2])
            getattr(transformers, auto_class).register(YxanulConfig, model_class, exist_ok=True)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'yxanul' has no attribute {name!r}")
    import importlib

    register()
    return getattr(importlib.import_module(f"yxanul.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
