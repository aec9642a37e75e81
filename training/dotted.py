"""Keys with dots reach inside settings: `stages.language.phases.0.rows`.

A part is a mapping's key, or a list entry's `name` or number (from 0). Not here: what the settings are (config.py).
"""

from typing import Any

from yxanul.bad_input import BadInput, unknown_name


def assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Mappings on the way are made; list entries must be there."""
    *parts, last = key.split(".")
    place: Any = values
    for depth, part in enumerate(parts):
        inside = _index(place, part, ".".join(parts[:depth]))
        if isinstance(place, dict) and place.get(inside) is None:
            place[inside] = {}
        place = place[inside]
    place[_index(place, last, ".".join(parts))] = value


def flatten(value: Any, key: str) -> dict[str, Any]:
    """Every value by its dotted key; a list whose entries have names also gives their order."""
    flat: dict[str, Any] = {}
    if isinstance(value, list):
        names = _names(value)
        if any(not name.isdigit() for name in names):
            flat[key] = ", ".join(names)
        value = dict(zip(names, value, strict=True))
    if not isinstance(value, dict):
        return {key: value}
    for part, entry in value.items():
        flat |= flatten(entry, f"{key}.{part}")
    return flat


def _index(place: Any, part: str, path: str) -> Any:
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise BadInput(f"command line: {path} is {place!r}; there is no {part!r} inside.")
    names = _names(place)
    if part not in names and part.isdigit() and int(part) < len(names):
        return int(part)
    if part not in names:
        raise BadInput(f"command line: {unknown_name(f'entry of {path}', part, names)}")
    return names.index(part)


def _names(entries: list[Any]) -> list[str]:
    return [
        str(entry["name"]) if isinstance(entry, dict) and "name" in entry else str(number)
        for number, entry in enumerate(entries)
    ]
