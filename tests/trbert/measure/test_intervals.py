"""Intervals of a quality by resampling: of which examples, how wide, and of pairs."""

import doctest

import numpy as np
import pytest
import torch

from trbert.measure import intervals
from trbert.measure.intervals import interval, resamples
from trbert.packed.tokens import Tokens
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples


def documents(targets):
    return Examples.of_documents(Tokens.from_lists([[2]] * len(targets), None), torch.as_tensor(targets))


def test_the_examples_run():
    failed, tried = doctest.testmod(intervals)
    assert failed == 0
    assert tried >= 3


def test_a_resample_is_as_large_as_the_split_and_each_example_is_as_likely():
    times = np.concatenate([*resamples(20)])
    assert times.shape == (1000, 20)
    assert set(times.sum(1)) == {20.0}
    # The mean over 1,000 resamples has a standard error of 1/32.
    assert times.mean(0) == pytest.approx([1.0] * 20, abs=0.15)
    assert times.max() > 2


def test_blocks_change_nothing_but_the_memory(monkeypatch):
    (whole,) = resamples(6, count=10)
    monkeypatch.setattr(intervals, "_BLOCK", 18)
    blocks = [*resamples(6, count=10)]
    assert [len(each) for each in blocks] == [3, 3, 3, 1]
    assert np.array_equal(np.concatenate(blocks), whole)


def test_the_seed_decides_the_resamples():
    first, again, other = (np.concatenate([*resamples(9, seed, 5)]) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_interval_of_an_accuracy_is_as_wide_as_the_binomials():
    task, examples = TASKS["classification"], documents([0] * 300 + [1] * 100)
    low, high = interval(task.qualities([0] * 400, examples, resamples(400)))
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert (low, high) == (pytest.approx(0.75 - half, abs=0.006), pytest.approx(0.75 + half, abs=0.006))


def test_the_interval_of_a_correlation_is_as_wide_as_fishers():
    # arctanh of the correlation of 400 pairs of Gaussians has a standard error of about 1/√397. Ranks need 1.06 of it.
    draw = np.random.default_rng(0)
    numbers = draw.standard_normal(400)
    given = 0.8 * numbers + 0.6 * draw.standard_normal(400)
    task = TASKS["regression"]
    found = task.qualities(given.tolist(), documents(torch.tensor(numbers)), resamples(400))
    low, high = (np.arctanh(each) for each in interval(found))
    assert high - low == pytest.approx(2 * 1.96 * 1.06**0.5 / 397**0.5, rel=0.2)


def test_what_two_models_have_in_common_is_no_part_of_the_interval_of_their_difference():
    task, examples = TASKS["classification"], documents([0] * 300 + [1] * 100)
    both, one = [0] * 400, [0] * 398 + [1] * 2  # the other one is right on two more
    pairs = [task.qualities(each, examples, resamples(400)) for each in (both, one)]
    low, high = interval(pairs[1] - pairs[0])
    assert 0 <= low < 2 / 400 < high <= 6 / 400
