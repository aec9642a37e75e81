"""Tables of cards and checks."""

import json
import re
from collections.abc import Iterable
from typing import Any


def grid(heads: Iterable[Any], rows: Iterable[Iterable[Any]]) -> list[str]:
    heads = list(heads)
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]


def quoted(value: Any) -> str:
    """What a model was asked or said, in one cell."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = re.sub(r"\s+", " ", text)[:120].replace("|", "\\|").replace("<", "&lt;")
    return text.replace("`", "'")
