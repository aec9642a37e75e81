"""A shuffle of range(n) that is a pure function of (index, n, key): no state, no table, any size; numpy only.

A Feistel network permutes the next power of four; a value that falls outside of range(n) is sent through again until
it falls inside (cycle walking), fewer than four times on average. No cryptography.
"""

import numpy as np

_ROUNDS = 6


def permute(indices: np.ndarray, n: int, key: tuple[int, ...]) -> np.ndarray:
    """Where each index goes under the permutation of range(n) that `key` names."""
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    half, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    # SeedSequence hashes the numbers of the key: neighbours, such as two epochs, have nothing in common
    round_keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    places = np.asarray(indices).astype(np.uint64)
    outside = np.arange(len(places))
    while len(outside):
        values = places[outside]
        left, right = values >> half, values & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right, round_key) & mask)
        values = (left << half) | right
        places[outside] = values
        outside = outside[values >= np.uint64(n)]
    return places.astype(np.int64)


def _mix(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Multiply and shift, modulo 2**64; the constants are those of splitmix64."""
    values = (values ^ key) * np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(29)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(32))
