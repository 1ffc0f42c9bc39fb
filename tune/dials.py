"""How cheap a model is at each setting of its dial, found on a few documents."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trbert.cost import CostModel
from trbert.encoder import Encoder
from trbert.evaluate import evaluate
from trbert.selectors import Selector
from tune.stages import Examples


def some_of(split: Examples, documents: int) -> Examples:
    """Returns about so many documents from all over a split, whose rows may lie in order of their classes."""
    every = max(1, len(split.labels) // documents)
    return split.take(torch.arange(0, len(split.labels), every), torch.device("cpu"))


def log_costs(
    encoder: Encoder,
    cost: CostModel,
    selector: Selector,
    split: Examples,
    points: tuple[int, ...],
    dials: Sequence[float],
) -> NDArray[np.float64]:
    """Returns log(1 / speed-up) on a split at each of the dials, which rise, and so do they."""
    costs = [
        -np.log(evaluate(encoder, cost, selector, split.tokens, split.labels, points, dial).speed_up) for dial in dials
    ]
    rising: NDArray[np.float64] = np.maximum.accumulate(costs)
    return rising
