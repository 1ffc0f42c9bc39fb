"""The dial: one number between quality and cost. This file relates a model's dial to its cost, in both directions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

NEAR = 0.25
"""Costs whose logarithms differ by no more are near: no dial between two such dials is measured."""


@dataclass(frozen=True, slots=True, eq=False)
class DialCurve:
    """The cost of a model at several settings of its dial.

    Between two measured dials, the logarithm of the cost is taken to be linear in the dial.

    Attributes:
        dials: the settings, rising; the cheapest is first.
        log_costs: log(1 / speed-up) at each setting, never falling; 0 is the cost of the unreduced model.
    """

    dials: tuple[float, ...]
    log_costs: Float64[np.ndarray, " dials"]

    @classmethod
    def measured(cls, speed_up_at: Callable[[float], float], dials: Sequence[float]) -> "DialCurve":
        """Returns the curve through the speed-ups at these dials.

        The first and the last dial are measured. Between two dials whose costs are not near, the middle one is measured
        as well, and so on. So a range of dials with one cost, such as those that keep everything, takes two passes. The
        other dials have the costs on the straight line between their measured neighbours.

        The curve never falls. A dial that was measured to be cheaper than a lower dial gets the cost of the lower one.

        Args:
            speed_up_at: measures the speed-up at a dial.
            dials: the settings, rising.

        Example:
            >>> curve = DialCurve.measured(lambda dial: 4.0 if dial < 0 else 1.0, (-1.0, 1.0))
            >>> curve.reaches(2.0), curve.reaches(5.0)
            (True, False)
        """
        costs, last = {}, len(dials) - 1
        for end in (0, last):
            costs[end] = -np.log(speed_up_at(dials[end]))
        ranges = [(0, last)]
        while ranges:
            low, high = ranges.pop()
            if high - low > 1 and costs[high] - costs[low] > NEAR:
                middle = (low + high) // 2
                costs[middle] = -np.log(speed_up_at(dials[middle]))
                ranges += [(low, middle), (middle, high)]
        places = sorted(costs)
        rising = np.maximum.accumulate([costs[place] for place in places])
        return cls(tuple(dials), np.interp(dials, [dials[place] for place in places], rising))

    def reaches(self, speed_up: float) -> bool:
        """Returns whether this speed-up lies between that of the first dial and that of the last."""
        return bool(self.log_costs[0] <= -np.log(speed_up) <= self.log_costs[-1])

    def dial_at(self, log_costs: float | NDArray[np.float64]) -> Float64[np.ndarray, "..."]:
        """Returns the dials that have these costs. For a cost beyond an end of the curve it is the dial at that end.

        Args:
            log_costs: log(1 / speed-up), one or many.

        Example:
            >>> curve = DialCurve((-1.0, 1.0), np.log([0.25, 1.0]))
            >>> float(curve.dial_at(np.log(0.5)))
            0.0
        """
        dials: Float64[np.ndarray, ...] = np.asarray(np.interp(log_costs, self.log_costs, self.dials))
        return dials
