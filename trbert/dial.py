"""How cheap a model is at each setting of its dial, found on a few documents."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trbert.tasks.examples import Examples


def some_of(split: Examples, documents: int) -> Examples:
    """Returns about so many documents from all over a split, whose rows may lie in order of their classes."""
    every = max(1, len(split.labels) // documents)
    return split.take(torch.arange(0, len(split.labels), every), torch.device("cpu"))


def log_costs(speed_up_at: Callable[[float], float], dials: Sequence[float]) -> NDArray[np.float64]:
    """Returns log(1 / speed-up) at each of the dials, which rise, and so do they."""
    rising: NDArray[np.float64] = np.maximum.accumulate([-np.log(speed_up_at(dial)) for dial in dials])
    return rising
