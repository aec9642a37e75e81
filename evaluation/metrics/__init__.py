"""The metrics of the benchmarks, each a folder that `evaluate.load` takes by its path, and a class of its own."""

import importlib
from typing import Any

from yxanul.bad_input import BadInput

CLASSES = {
    "multiple_choice": "MultipleChoice",
    "exact_match": "ExactMatch",
    "gsm8k": "Gsm8k",
    "pass_at_k": "PassAtK",
    "bits_per_byte": "BitsPerByte",
}


def load_metric(name: str) -> Any:
    try:
        module = importlib.import_module(f"yxanul.evaluation.metrics.{name}.{name}")
    except ImportError as error:
        if error.name not in ("evaluate", "datasets"):
            raise
        raise BadInput(f'benchmarks need the package {error.name}: pip install "yxanul[evaluate]".') from None
    return getattr(module, CLASSES[name])(keep_in_memory=True)
