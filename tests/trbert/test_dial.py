"""The dial's curve by hand: costs that never fall, and the dial of a cost."""

import doctest
import math

import numpy as np
import pytest

from trbert import dial
from trbert.dial import DialCurve


@pytest.fixture
def curve():
    """8x at −2, 4x at −1, 1x at 2."""
    return DialCurve((-2.0, -1.0, 2.0), np.log([1 / 8, 1 / 4, 1.0]))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(dial).attempted
    assert doctest.testmod(dial).failed == 0


def test_costs_never_fall_along_the_dials_by_hand():
    # At the second dial a few documents happen to be faster than at the first: its cost stays that of the first.
    speed_ups = {-1.0: 4.0, 0.0: 5.0, 1.0: 2.0, 2.0: 1.0}
    curve = DialCurve.measured(speed_ups.__getitem__, tuple(speed_ups))
    assert curve.dials == (-1.0, 0.0, 1.0, 2.0)
    assert curve.log_costs.tolist() == [-math.log(4), -math.log(4), -math.log(2), 0.0]


def test_dials_between_near_costs_are_not_measured():
    asked = []
    curve = DialCurve.measured(lambda dial: asked.append(dial) or 2.0, [-1.0, 0.5, 3.0])
    assert asked == [-1.0, 3.0]
    assert curve.dials == (-1.0, 0.5, 3.0)
    assert curve.log_costs.tolist() == [-math.log(2)] * 3


def test_a_steep_part_is_measured_at_every_dial_and_a_flat_part_at_its_ends():
    asked = []

    def speed_up_at(dial):
        asked.append(dial)
        return {3.0: 8.0, 4.0: 4.0, 5.0: 2.0}.get(dial, 16.0 if dial < 3 else 1.0)

    curve = DialCurve.measured(speed_up_at, tuple(float(dial) for dial in range(20)))
    assert len(asked) == len(set(asked)) < 12
    assert {2.0, 3.0, 4.0, 5.0, 6.0} <= set(asked)
    assert curve.log_costs.tolist() == [-math.log(16)] * 3 + [-math.log(8), -math.log(4), -math.log(2)] + [0.0] * 14


def test_a_dial_that_is_not_measured_lies_between_its_neighbours():
    # 1.2x and 1x are near, so that nothing between them is measured.
    curve = DialCurve.measured({0.0: 1.2, 4.0: 1.0}.__getitem__, (0.0, 1.0, 4.0))
    assert curve.log_costs.tolist() == pytest.approx([-math.log(1.2), -0.75 * math.log(1.2), 0.0])


def test_the_log_of_the_cost_is_on_a_straight_line_between_dials_by_hand(curve):
    # √2 times 4 is halfway from 4 to 8 in its logarithm; 2 is halfway from 1 to 4.
    assert float(curve.dial_at(-math.log(4 * math.sqrt(2)))) == pytest.approx(-1.5)
    assert float(curve.dial_at(-math.log(2))) == pytest.approx(0.5)
    # A third of the way from 4x to 1x: 4^(2/3).
    assert float(curve.dial_at(-math.log(4) * 2 / 3)) == pytest.approx(0.0)


def test_the_dials_of_the_measured_costs_are_the_measured_ones(curve):
    assert curve.dial_at(curve.log_costs).tolist() == pytest.approx([-2.0, -1.0, 2.0])
    assert curve.dial_at(np.log([[1 / 8], [1.0]])).tolist() == [[-2.0], [2.0]]


def test_beyond_the_ends_is_the_first_or_the_last_dial(curve):
    assert curve.dial_at(np.log([1 / 100, 2.0])).tolist() == [-2.0, 2.0]


def test_a_curve_reaches_the_speed_ups_between_its_ends(curve):
    assert [curve.reaches(speed_up) for speed_up in (0.9, 1.0, 3.0, 8.0, 8.1)] == [False, True, True, True, False]


def test_a_speed_up_that_no_dial_has_because_of_its_ends_is_not_reached():
    # The dearest dial still runs twice as fast: the plain model is out of its reach.
    curve = DialCurve.measured({-1.0: 4.0, 1.0: 2.0}.__getitem__, (-1.0, 1.0))
    assert not curve.reaches(1.0)
    assert curve.reaches(2.0)
