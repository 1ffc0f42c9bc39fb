"""One number between quality and cost: how cheap a model is along its dial, and which dial is how cheap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class DialCurve:
    """The cost of a model at several settings of its dial.

    Between two measured dials the log of the cost is on a straight line, and so is its inverse.

    Attributes:
        dials: rising settings, the cheapest first.
        log_costs: log(1 / speed-up) at each of them, never falling; 0 is the unreduced model's cost.
    """

    dials: tuple[float, ...]
    log_costs: Float64[np.ndarray, " dials"]

    @classmethod
    def measured(cls, speed_up_at: Callable[[float], float], dials: Sequence[float]) -> "DialCurve":
        """Returns the curve through the speed-ups at these dials.

        A dial that is measured as cheaper than a lower one counts as dear as that one: the curve never falls.

        Example:
            >>> curve = DialCurve.measured(lambda dial: 4.0 if dial < 0 else 1.0, (-1.0, 1.0))
            >>> curve.reaches(2.0), curve.reaches(5.0)
            (True, False)
        """
        costs: Float64[np.ndarray, " dials"] = np.maximum.accumulate([-np.log(speed_up_at(dial)) for dial in dials])
        return cls(tuple(dials), costs)

    def reaches(self, speed_up: float) -> bool:
        """Returns whether some dial between the first and the last has this speed-up."""
        return bool(self.log_costs[0] <= -np.log(speed_up) <= self.log_costs[-1])

    def dial_at(self, log_costs: float | NDArray[np.float64]) -> Float64[np.ndarray, "..."]:
        """Returns the dials that cost so much, log(1 / speed-up); beyond the ends the first or the last dial.

        Example:
            >>> curve = DialCurve((-1.0, 1.0), np.log([0.25, 1.0]))
            >>> float(curve.dial_at(np.log(0.5)))
            0.0
        """
        dials: Float64[np.ndarray, ...] = np.asarray(np.interp(log_costs, self.log_costs, self.dials))
        return dials
