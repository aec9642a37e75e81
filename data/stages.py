"""Reads a plan's stages from a recipe's YAML, and the sizes of their bins from disk.

    stages:
      - name: language
        sources:
          - {bin: bins/wikipedia, weight: 3}                      # weights are relative; left out: by size
          - {bin: bins/books, weight: 1, tokens: 2.5e9}           # tokens: expected, where the bin is not there yet
        tokens: 1.0e9                                             # or epochs, or steps
        phases:
          - {length: 512, rows: 64, steps: 5000}                  # or tokens
          - {length: 2048, rows: 32}                              # the last one takes what is left

Every unknown key is fatal, with the nearest name. Not here: gates and learning rates, which training reads.
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.bins import open_bin
from yxanul.data.plan import Phase, Source, Stage
from yxanul.data.remote import fetch

STAGE_KEYS = ("name", "sources", "tokens", "epochs", "steps", "phases")
SOURCE_KEYS = ("bin", "weight", "tokens")
PHASE_KEYS = ("length", "rows", "steps", "tokens")


def read_stages(entries: Any, folder: Path = Path(), other_keys: Iterable[str] = ()) -> list[Stage]:
    """`entries` is the list under `stages`; bins are looked for below `folder`; `other_keys` are somebody else's."""
    if not isinstance(entries, list) or not entries:
        raise BadInput("stages must be a list of at least one stage.")
    stages = [_stage(entry, index, folder, tuple(other_keys)) for index, entry in enumerate(entries)]
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"two stages are called {name!r}: give each its own name.")
    return stages


def _stage(entry: Any, index: int, folder: Path, other_keys: tuple[str, ...]) -> Stage:
    where = f"stage {entry.get('name', index + 1)}" if isinstance(entry, dict) else f"stage {index + 1}"
    _check_keys(entry, (*STAGE_KEYS, *other_keys), ("name", "sources", "phases"), where)
    return Stage(
        name=str(entry["name"]),
        sources=_each(entry["sources"], lambda source: _source(source, folder, where), f"{where}, sources"),
        phases=_each(entry["phases"], lambda phase: _phase(phase, where), f"{where}, phases"),
        tokens=_whole(entry.get("tokens"), f"{where}, tokens"),
        epochs=_fraction(entry.get("epochs"), f"{where}, epochs"),
        steps=_whole(entry.get("steps"), f"{where}, steps"),
    )


def _source(entry: Any, folder: Path, where: str) -> Source:
    _check_keys(entry, SOURCE_KEYS, ("bin",), f"{where}, source")
    path = fetch(entry["bin"]) if "://" in str(entry["bin"]) else folder / str(entry["bin"])
    weight = _fraction(entry.get("weight"), f"{where}, {entry['bin']}, weight")
    if path.is_dir():
        bin_ = open_bin(path)
        tokens = bin_.rows * bin_.row_length if bin_.row_length else bin_.tokens
        return Source(str(path), tokens, weight, bin_.row_length)
    expected = _whole(entry.get("tokens"), f"{where}, {entry['bin']}, tokens")
    if expected is None:
        mend = "make it with `yxanul data prepare`, or give its tokens."
        raise BadInput(f"{where}: the bin {path} is not there; {mend}")
    return Source(str(path), expected, weight)


def _phase(entry: Any, where: str) -> Phase:
    _check_keys(entry, PHASE_KEYS, ("length", "rows"), f"{where}, phase")
    values = {key: _whole(entry.get(key), f"{where}, phase, {key}") for key in PHASE_KEYS}
    if values["steps"] is not None and values["tokens"] is not None:
        raise BadInput(f"{where}, length {values['length']}: steps and tokens are both given; leave one out.")
    return Phase(**values)  # type: ignore[arg-type]


def _each(entries: Any, read: Callable[[Any], Any], where: str) -> tuple[Any, ...]:
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{where} must be a list of at least one entry.")
    return tuple(read(entry) for entry in entries)


def _check_keys(entry: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise BadInput(f"{where} must hold 'key: value' lines; it holds {entry!r}.")
    for key in entry:
        if key not in known:
            raise BadInput(f"{where}: {unknown_name('key', str(key), known)}")
    for key in needed:
        if entry.get(key) is None:
            raise BadInput(f"{where}: {key} is missing.")


def _fraction(value: Any, where: str) -> Fraction | None:
    """Numbers as YAML gives them: 1e9 and 0.3 too, the first of which YAML takes for a string."""
    if value is None:
        return None
    try:
        number = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise BadInput(f"{where} must be a number; it is {value!r}.") from None
    if number <= 0:
        raise BadInput(f"{where} must be above 0; it is {value}.")
    return number


def _whole(value: Any, where: str) -> int | None:
    number = _fraction(value, where)
    if number is None:
        return None
    if number.denominator != 1:
        raise BadInput(f"{where} must be a whole number; it is {value}.")
    return int(number)
