"""What a user gave and we cannot use: one sentence that names the file, the field and the mend."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Its text is shown to the user as it is, without a traceback."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """For a key, preset, stage ... that does not exist: names the nearest one that does, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
    return BadInput(f"unknown {kind} {name!r}: {hint}")
