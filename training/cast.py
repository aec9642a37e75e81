"""A setting's value, checked and turned into its field's type: one place for YAML, the command line and every field.

`cast("seed", "2e9", "int | None", "run.yaml")` is 2000000000: YAML 1.1 reads 2e9 as text. Types are given as the text
of an annotation, because those of `TrainingArguments` are read from source.
"""

import math
import operator
from collections.abc import Mapping
from typing import Any

from yxanul.bad_input import BadInput, unknown_name

KINDS = {
    "dict": "'key: value' lines",
    "list": "a list",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text (a number or a word such as yes in quotes)",
}
LIMITS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


def cast(name: str, value: Any, annotation: str, where: str) -> Any:
    """`where` is the file, or 'command line'."""
    types = [part.partition("[")[0] for part in annotation.split(" | ")]
    if value is None:
        if "None" in types:
            return None
        raise BadInput(f"{where}: {name} is empty: delete the line to keep the default.")
    for kind in KINDS:
        if kind in types and (done := _as(kind, value)) is not None:
            if "str]" in annotation:
                _check_texts(name, done, where)
            return done
    wanted = " or ".join(text for kind, text in KINDS.items() if kind in types)
    raise BadInput(f"{where}: {name}={value!r} must be {wanted}.")


def check_limits(name: str, value: Any, limits: Mapping[str, Any], where: str) -> None:
    for word in value if isinstance(value, list) else [value]:
        if "choices" in limits and word not in limits["choices"]:
            raise BadInput(f"{where}: {unknown_name(name, word, limits['choices'])}")
    for limit, holds in LIMITS.items():
        if value is not None and limit in limits and not holds(value, limits[limit]):
            raise BadInput(f"{where}: {name}={value} must be {limit.replace('_', ' ')} {limits[limit]}.")


def _as(kind: str, value: Any) -> Any:
    """The value as that kind, None if it cannot be."""
    if kind == "list" and isinstance(value, str):
        return [value]
    if kind in ("int", "float"):
        return _number(value, whole=kind == "int")
    return value if isinstance(value, {"dict": dict, "list": list, "bool": bool, "str": str}[kind]) else None


def _number(value: Any, whole: bool) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int) and whole:
        return value
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or (whole and number != int(number)):
        return None
    return int(number) if whole else number


def _check_texts(name: str, values: Any, where: str) -> None:
    for entry, value in values.items() if isinstance(values, dict) else enumerate(values, 1):
        if not isinstance(value, str):
            raise BadInput(f"{where}: {name}, {entry} must be {KINDS['str']}; it is {value!r}.")
