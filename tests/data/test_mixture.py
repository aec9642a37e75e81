"""A mixture is exact over the long run, and any block's source is found without counting the blocks before."""

import numpy as np
import pytest

from yxanul.data.mixture import Mixture

WEIGHTS = [[1], [1, 1], [5, 4, 1], [3, 3, 3, 1], [10**6, 1], [7, 1, 92], [3333333333333333, 6666666666666667]]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_source_gives_its_blocks_in_order_and_none_twice(weights):
    sources, numbers = Mixture(weights).draw(np.arange(5000))
    for source in range(len(weights)):
        assert numbers[sources == source].tolist() == list(range((sources == source).sum()))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_never_stray_by_more_than_a_block_for_each_source_before(weights):
    sources, _ = Mixture(weights).draw(np.arange(5000))
    for source, weight in enumerate(weights):
        exact = np.arange(1, 5001) * (weight / sum(weights))
        assert abs(np.cumsum(sources == source) - exact).max() <= source + 1


@pytest.mark.parametrize("weights", WEIGHTS)
def test_counts_are_those_of_the_drawn_blocks(weights):
    mixture = Mixture(weights)
    sources, _ = mixture.draw(np.arange(5000))
    for blocks in (0, 1, 17, 999, 5000):
        assert mixture.counts(blocks) == np.bincount(sources[:blocks], minlength=len(weights)).tolist()


def test_weights_of_many_digits_do_not_overflow_far_out():
    mixture = Mixture([3333333333333333, 6666666666666667])
    far = 10**12
    _, numbers = mixture.draw(np.array([far]))
    sources, _ = mixture.draw(np.array([far]))
    assert numbers[0] == mixture.counts(far)[sources[0]]


def test_a_whole_cycle_is_exact_and_far_blocks_do_not_overflow():
    mixture = Mixture([999_983, 17, 500_000])
    assert mixture.counts(1_500_000 * 10**6) == [999_983 * 10**6, 17 * 10**6, 500_000 * 10**6]
    far = 1_500_000 * 10**9 + np.arange(4)
    sources, numbers = mixture.draw(far)
    near_sources, near_numbers = mixture.draw(np.arange(4))
    assert sources.tolist() == near_sources.tolist()
    assert (numbers - near_numbers).tolist() == [mixture.weights[source] * 10**9 for source in sources]
