"""Intervals of a split's quality: how far it would be another one if other examples had been drawn."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from trbert.tasks.task import Times

RESAMPLES = 1000
"""The number of resamples of a split."""
_BLOCK = 4_000_000
"""The most numbers of a block of resamples, so that a block takes tens of megabytes."""


def resamples(examples: int, seed: int = 0, count: int = RESAMPLES) -> Iterator[Times]:
    """Yields how often each resample of a split holds each of its examples, in blocks of resamples.

    A resample is as large as the split, and each of its examples is drawn from all of the split: this is the bootstrap
    (Efron, Annals of Statistics 1979). The same seed gives the same resamples. So the qualities of two models on them
    are pairs, and the interval of their difference leaves out what is hard or easy for both.

    Args:
        examples: the number of examples of the split.
        seed: draws the resamples.
        count: the number of resamples.

    Example:
        >>> (block,) = resamples(4, count=2)
        >>> block.sum(1)
        array([4., 4.])
    """
    draw, most = np.random.default_rng(seed), max(1, _BLOCK // examples)
    for start in range(0, count, most):
        rows = min(most, count - start)
        drawn = draw.integers(examples, size=(rows, examples)) + examples * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * examples)
        yield counts.reshape(rows, examples).astype(np.float64)


def interval(values: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """Returns the ends of the 95 % interval of what was computed on each resample.

    They are the percentiles 2.5 and 97.5.

    Example:
        >>> interval(np.arange(1001.0))
        (25.0, 975.0)
    """
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
