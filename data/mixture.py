"""Which source a block comes from, by quota: deterministic, exact over the long run, and found without counting.

Of two sources the first gets block i when floor((i + 1) w) > floor(i w); of more, the first against all others, then
the second against the rest, and so on. Weights are whole numbers, so nothing drifts at a billion blocks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Mixture:
    def __init__(self, weights: Sequence[int]) -> None:
        """`weights` are positive whole numbers; only their proportions count."""
        self.weights = tuple(weights)
        self._rests = [sum(self.weights[index:]) for index in range(len(self.weights))]

    def draw(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each block's number: its source, and how many blocks that source gave before it."""
        sources = np.empty(len(blocks), dtype=np.int64)
        numbers = np.empty(len(blocks), dtype=np.int64)
        # Weights of many digits, such as thirds as floats, take Python's own integers
        is_large = max(self.weights) * self._rests[0] >= 1 << 63
        open_blocks, places = np.arange(len(blocks)), np.asarray(blocks, dtype=object if is_large else np.int64)
        for source, (weight, rest) in enumerate(zip(self.weights, self._rests, strict=True)):
            given = _share(places, weight, rest)
            mine = _share(places + 1, weight, rest) > given
            sources[open_blocks[mine]] = source
            numbers[open_blocks[mine]] = given[mine]
            open_blocks, places = open_blocks[~mine], (places - given)[~mine]
        return sources, numbers

    def counts(self, blocks: int) -> list[int]:
        """How many of the first `blocks` each source gives."""
        counts = []
        for weight, rest in zip(self.weights, self._rests, strict=True):
            counts.append(_share(blocks, weight, rest))
            blocks -= counts[-1]
        return counts


def _share(places: Any, weight: int, rest: int) -> Any:
    """floor(places x weight / rest), of a number or of an array."""
    return places // rest * weight + places % rest * weight // rest
