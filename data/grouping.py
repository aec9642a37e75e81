"""Neighbours together, in groups of about one size: slices into parts, texts into batches for a tokenizer.

An encoding takes many times the memory of its text, so few should be alive at a time.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
TEXTS_AT_ONCE = 1 << 20  # characters


def grouped(items: Iterable[Item], size: Callable[[Item], int], limit: int = TEXTS_AT_ONCE) -> Iterator[list[Item]]:
    """A group ends before the item that would take it past the limit; no item is cut."""
    group: list[Item] = []
    total = 0
    for item in items:
        if group and total + size(item) > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield group
