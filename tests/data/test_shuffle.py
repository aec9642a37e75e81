"""The stateless shuffle is a bijection, depends on nothing but index, size and key, and looks random."""

import numpy as np
import pytest

from yxanul.data.shuffle import permute


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 65537])
@pytest.mark.parametrize("key", [(0,), (1, 2, 3)])
def test_every_index_has_its_own_place(n, key):
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


def test_a_place_depends_on_its_own_index_alone():
    assert np.array_equal(permute(np.arange(500, 600), 1000, (3,)), permute(np.arange(1000), 1000, (3,))[500:600])


def test_neighbouring_keys_give_other_orders():
    orders = [permute(np.arange(1000), 1000, (seed, source, epoch)) for seed, source, epoch in [(0, 0, 1), (0, 1, 0)]]
    assert (orders[0] == orders[1]).mean() < 0.01


def test_order_is_uncorrelated_with_the_index_and_with_the_next():
    places = permute(np.arange(200_000), 200_000, (1,))
    assert abs(np.corrcoef(np.arange(200_000), places)[0, 1]) < 0.01
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.01


def test_the_order_of_today_is_the_order_of_tomorrow():
    """A resumed run reads on where an older version stopped: these numbers must never change."""
    assert permute(np.arange(8), 1_000_003, (7, 1, 2)).tolist() == [
        666253,
        339132,
        334981,
        347499,
        815784,
        238160,
        225925,
        60502,
    ]
