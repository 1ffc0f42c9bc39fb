"""The formula and the simulation of a select stage on many workers, where both can be known by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from saturation import Constants, Trouble, saturation, simulated_step_seconds, step_seconds

PLAIN = Constants(item=1.0, handle=0.001, publish=0.1, fetch=0.2, learn=0.3)
NONE = Trouble()


@pytest.mark.parametrize(("workers", "items", "waves"), [(1, 8, 8), (3, 8, 3), (8, 8, 1), (100, 8, 1)])
def test_a_step_is_as_many_waves_as_items_need(workers, items, waves) -> None:
    expected = 0.1 + waves * 1.2 + 0.3
    assert step_seconds(PLAIN, workers, items) == pytest.approx(expected)
    # The learner hands out one after the other, which the formula leaves out of what is not its bottleneck.
    assert simulated_step_seconds(PLAIN, workers, items, NONE) == pytest.approx(expected, abs=items * 0.001)


def test_beyond_what_the_learner_can_handle_more_workers_do_nothing() -> None:
    slow = Constants(item=1.0, handle=0.05, publish=0.0, fetch=0.0, learn=0.0)
    assert step_seconds(slow, 400, 400) == pytest.approx(20.0)
    assert simulated_step_seconds(slow, 400, 400, NONE) == pytest.approx(21.0, abs=0.1)  # and the last item's second
    assert saturation(slow, 400) == 20


def test_of_a_late_item_the_second_copy_counts() -> None:
    # Every item is slow: its copy, after three usual times, is slow too, and the first is back at five.
    always = Trouble(slow_share=1.0, slow_factor=5.0)
    assert simulated_step_seconds(PLAIN, 8, 4, always) == pytest.approx(0.1 + 5 * 1.2 + 0.3, abs=0.05)
    # One in fifty is fifty times as slow: with copies a step costs four usual times at most, now and then eight.
    rare = Trouble(slow_share=0.02, slow_factor=50.0)
    assert simulated_step_seconds(PLAIN, 16, 8, rare, steps=400) < 0.1 + 2.5 * 1.2 + 0.3


def test_a_dead_actor_costs_its_notice_and_the_item_again() -> None:
    # An hour of an actor has one death, a step of 64 items .02: then 5 s are lost, and what was done, .6 s in mean.
    few = Trouble(deaths_per_hour=1.0)
    deaths_a_step = 64 * 1.2 / 3600
    spare = [simulated_step_seconds(PLAIN, 80, 64, trouble, steps=4000) for trouble in (NONE, few)]
    assert spare[1] - spare[0] == pytest.approx(deaths_a_step * 5.6, rel=0.25)
    # Without an actor to spare each step has a second wave until the dead one stands again.
    tight = [simulated_step_seconds(PLAIN, 64, 64, trouble, steps=4000) for trouble in (NONE, few)]
    assert tight[1] - tight[0] > 2 * (spare[1] - spare[0])


def test_the_same_seed_gives_the_same_simulation() -> None:
    trouble = Trouble(slow_share=0.1, deaths_per_hour=20.0)
    times = [simulated_step_seconds(PLAIN, 16, 32, trouble, seed=seed) for seed in (1, 1, 2)]
    assert times[0] == times[1] != times[2]
