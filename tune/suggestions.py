"""Which configuration is tried next: Optuna's suggestions, without those that are close to one that has lost."""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

Curve = list[tuple[float, float]]
"""The quality and the cost of one trained model at each of its dials."""
NEAR = 0.05
"""Two values are close if they differ by at most this fraction of their range; in log if the range is."""
TRIES = 20
"""How often Optuna is asked for one configuration. The last answer is never rejected: a small space may be used up."""


class FreshSearch(Searcher):
    """Asks Optuna for configurations, and asks again if one is close to a finished trial that has lost.

    A trial has lost if other trials dominate every point of its curve: for each of its points, another trial has a
    point that is at least as good and as cheap, and better or cheaper. A rejected configuration is reported to Optuna
    as failed, so that Optuna learns nothing from it.

    Args:
        space: Optuna's distributions by name.
        points_to_evaluate: configurations to try first; they are never rejected.
        seed: the seed of Optuna's sampler.
    """

    def __init__(self, space: dict[str, Any], points_to_evaluate: list[dict[str, Any]], seed: int) -> None:
        super().__init__()
        self._space, self._first = space, len(points_to_evaluate)
        self._optuna = OptunaSearch(
            space=space,
            metric=["quality", "cost"],
            mode=["max", "min"],
            points_to_evaluate=points_to_evaluate,
            seed=seed,
        )
        self._asked: dict[str, tuple[str, dict[str, Any]]] = {}  # each trial's name in Optuna, and its configuration
        self._finished: list[tuple[dict[str, Any], Curve]] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns the configuration of a new trial."""
        if trial_id in self._asked:
            return self._asked[trial_id][1]
        for attempt in range(TRIES):
            name = f"{trial_id}/{attempt}"
            config: dict[str, Any] | None = self._optuna.suggest(name)
            if config is None:
                return None
            last = len(self._asked) < self._first or attempt + 1 == TRIES
            if last or not self._lost_before(config):
                self._asked[trial_id] = (name, config)
                return config
            self._optuna.on_trial_complete(name, error=True)
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Takes the result of a finished trial, and passes it on to Optuna."""
        name, config = self._asked[trial_id]
        if result and "curve" in result:
            self._finished.append((config, [(quality, cost) for quality, cost in result["curve"]]))
        self._optuna.on_trial_complete(name, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Writes everything that a resumed search needs."""
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        """Reads what `save` wrote. It is a pickle, as Ray's own files of a run are, so resume only runs you trust."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))

    def _lost_before(self, config: Mapping[str, Any]) -> bool:
        points = [point for _, curve in self._finished for point in curve]
        return any(
            self._near(config, other) and all(any(_dominates(point, own) for point in points) for own in curve)
            for other, curve in self._finished
        )

    def _near(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return all(distance(one[name], other[name], kind) <= NEAR for name, kind in self._space.items())


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def distance(one: Any, other: Any, kind: Any) -> float:
    """Returns the distance of two values, as a fraction of their range. Two different categories are 1 apart.

    Example:
        >>> distance(1.0, 10.0, FloatDistribution(0.1, 10.0, log=True))
        0.5
    """
    if not isinstance(kind, FloatDistribution):
        return float(one != other)
    scale = math.log if kind.log else float
    return abs(scale(one) - scale(other)) / (scale(kind.high) - scale(kind.low))
