"""Random numbers keyed by what they are for."""

import pytest
import torch
from torch.testing import assert_close

from trbert.keyed import keyed_uniform

MASK = (1 << 64) - 1


def by_hand(*keys):
    """Returns the same number in Python's own integers."""
    state = 0
    for key in keys:
        state = (state + 0x9E3779B97F4A7C15 + key) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return (state >> 40) * 2.0**-24


def test_one_key_gives_the_first_output_of_splitmix64_seeded_with_it():
    # The published generator: seed 0 gives 0xE220A8397B1DCDAF, seed 1234567 gives 6457827717110365317.
    assert keyed_uniform(0).item() == 0xE220A8 / 2**24
    assert keyed_uniform(1234567).item() == (6457827717110365317 >> 40) / 2**24


def test_known_values_stay():
    # Whoever changes these changes every trajectory of every seed.
    assert keyed_uniform(7, 0, torch.arange(4), 2).tolist() == [by_hand(7, 0, key, 2) for key in range(4)]
    assert keyed_uniform(7, 0, 3, 2).item() == 5715456 / 2**24


def test_numbers_are_uniform():
    sample = keyed_uniform(11, torch.arange(300)[:, None], torch.arange(300)).double()
    assert sample.min() >= 0
    assert sample.max() < 1
    # 90,000 numbers: standard errors of the first moments are about 0.001.
    for power in (1, 2, 3, 4):
        assert abs(sample.pow(power).mean() - 1 / (power + 1)) < 0.004
    counts = torch.histc(sample, 20, 0, 1)
    assert ((counts - 4500) ** 2 / 4500).sum() < 43.8  # chi², 19 degrees of freedom: 0.1 % lies beyond


def test_neighbouring_keys_are_uncorrelated():
    sample = keyed_uniform(11, torch.arange(300)[:, None], torch.arange(300)).double() - 0.5
    for shifted in (sample[1:] * sample[:-1], sample[:, 1:] * sample[:, :-1], sample * sample.T):
        off_diagonal = shifted[~torch.eye(*shifted.shape, dtype=torch.bool)]
        assert abs(off_diagonal.mean() * 12) < 0.015


def test_the_order_of_keys_matters():
    assert keyed_uniform(1, 2) != keyed_uniform(2, 1)
    assert keyed_uniform(1, 2) != keyed_uniform(1, 2, 0)
    assert keyed_uniform(0) != keyed_uniform(0, 0)


def test_a_number_depends_on_its_key_alone_whatever_the_shape():
    rows, columns = torch.tensor([3, 5, 8]), torch.tensor([0, 7])
    grid = keyed_uniform(4, rows[:, None], columns)
    assert grid.shape == (3, 2)
    assert grid.dtype == torch.float32
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert grid[i, j] == keyed_uniform(4, int(row), int(column)) == by_hand(4, int(row), int(column))
    assert torch.equal(keyed_uniform(4, rows.flip(0)[:, None], columns), grid.flip(0))


@pytest.mark.parametrize("key", [-1, 2**40, -(2**62)])
def test_large_and_negative_keys_are_keys_as_well(key):
    assert keyed_uniform(3, key).item() == by_hand(3, key & MASK)


def test_the_callers_own_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    keyed_uniform(1, torch.arange(3))
    assert_close(torch.get_rng_state(), before)


def test_plain_keys_give_a_number_where_it_is_wanted():
    assert keyed_uniform(1, 2, device="meta").device.type == "meta"
    assert keyed_uniform(1, torch.arange(3, device="meta")).device.type == "meta"
