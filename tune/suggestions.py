"""Which configuration is tried next: Optuna's suggestions, without those that are close to one that has lost."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from ray.tune import ExperimentAnalysis, Tuner
from ray.tune.search import Searcher

from trbert.errors import RunFolderError
from trbert.wording import reason
from tune.runs.study import CURVE, GUESS, INTERRUPTED, REJECTED, TRIAL, is_finite, open_study

Curve = list[tuple[float, float]]
"""The quality and the cost of one trained model at each of its dials."""
NEAR = 0.05
"""Two values are close if they differ by at most this fraction of their range; in log if the range is."""
TRIES = 20
"""How often Optuna is asked for one configuration. The last answer is never rejected: a small space may be used up."""
_OPEN = (TrialState.RUNNING, TrialState.WAITING)


class FreshSearch(Searcher):
    """Asks Optuna for configurations, and asks again if one is close to a finished trial that has lost.

    A trial has lost if other trials dominate every point of its curve: for each of its points, another trial has a
    point that is at least as good and as cheap, and better or cheaper. A rejected configuration is reported to Optuna
    as failed, so that Optuna learns nothing from it.

    Everything that is known stands in the study's file, and in this object nothing but the open study. So Ray Tune
    saves nothing of it, and a search that goes on after a crash makes a new one from the same file.

    Args:
        path: the study's file.
        space: Optuna's distributions by name.
        guesses: configurations to try first; they are never rejected.
        seed: the seed of Optuna's sampler.
        say: is called with a line if something of the file is lost.
        known: the trials that Ray Tune has on record. What the study has begun for other trials is given up, and a
            guess among it is tried again.

    Raises:
        RunFolderError: The file is not the record of such a search.
    """

    def __init__(
        self,
        path: Path,
        space: dict[str, Any],
        guesses: Sequence[dict[str, Any]],
        *,
        seed: int,
        say: Callable[[str], None],
        known: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self._space = space
        self._most = math.inf
        self._study, self._storage = open_study(path, space, seed, say)
        self._take_up(known)
        tried = [each.params for each in self._study.get_trials(deepcopy=False) if _was_tried(each)]
        for guess in guesses:
            if guess not in tried:
                self._study.enqueue_trial(guess, user_attrs={GUESS: True})

    def __reduce__(self) -> tuple[Any, ...]:
        """Leaves everything out of Ray Tune's own files, which are pickles: the driver opens the study again."""
        return object.__new__, (type(self),)

    def _take_up(self, known: Sequence[Any]) -> None:
        """Brings the study and the trials that Ray Tune knows in line, after a process has ended at any moment."""
        for trial in known:
            if trial.is_finished() and trial.last_result:
                self.on_trial_complete(trial.trial_id, trial.last_result)
        alive = {trial.trial_id for trial in known if trial.status != "TERMINATED"}
        for each in self._study.get_trials(deepcopy=False, states=_OPEN):
            if each.user_attrs.get(TRIAL) not in alive:
                self._mark(each, INTERRUPTED, True)
                self._storage.set_trial_state_values(each._trial_id, TrialState.FAIL)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Takes the number of trials that may run at once. Ray Tune's own count is not right after every crash."""
        self._most = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns the configuration of a new trial; None while as many trials run as may."""
        if (asked := self._newest(trial_id)) is not None:
            return dict(asked.params)
        if len(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))) >= self._most:
            return None
        trial = self._study.ask(fixed_distributions=self._space)
        for _ in range(TRIES - 1):
            if GUESS in trial.user_attrs or not self._lost_before(trial.params):
                break
            trial.set_user_attr(REJECTED, True)
            self._study.tell(trial, state=TrialState.FAIL)
            trial = self._study.ask(fixed_distributions=self._space)
        trial.set_user_attr(TRIAL, trial_id)
        return dict(trial.params)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Writes the result of a trial that has ended into the study."""
        trial, values, result = self._newest(trial_id), _values(result), result or {}
        if trial is not None and trial.state == TrialState.COMPLETE:
            return  # it was told before a crash, and Ray Tune forgot
        if trial is not None and trial.state == TrialState.RUNNING:
            if values is None:
                self._study.tell(trial.number, state=TrialState.FAIL)
                return
            self._mark(trial, CURVE, _curve(result))
            self._study.tell(trial.number, values)
        elif values is not None and result.get("config", {}).keys() == self._space.keys():
            # It had failed and was started again, or what the study knew of it is lost.
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=result["config"],
                    distributions=self._space,
                    values=values,
                    user_attrs={TRIAL: trial_id, CURVE: _curve(result)},
                )
            )

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Does nothing: what is known stands in the study."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: what is known stands in the study."""

    def _newest(self, trial_id: str) -> FrozenTrial | None:
        """Returns the study's trial for one of Ray Tune; None if there is none."""
        found = [each for each in self._study.get_trials(deepcopy=False) if each.user_attrs.get(TRIAL) == trial_id]
        return found[-1] if found else None

    def _mark(self, trial: FrozenTrial, name: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial._trial_id, name, value)

    def _lost_before(self, config: Mapping[str, Any]) -> bool:
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        finished = [(each.params, _points(each)) for each in done if each.user_attrs.get(CURVE)]
        points = [point for _, curve in finished for point in curve]
        return any(
            self._near(config, other) and all(any(_dominates(point, own) for point in points) for own in curve)
            for other, curve in finished
        )

    def _near(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return all(distance(one[name], other[name], kind) <= NEAR for name, kind in self._space.items())


def known_trials(place: str) -> list[Any]:
    """Returns the trials that Ray Tune has on record in a folder or URI; [] if it was stopped before it had any.

    Raises:
        RunFolderError: Its record is damaged.
    """
    if not Tuner.can_restore(place):
        return []
    try:
        return list(ExperimentAnalysis(place).trials)
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"Ray Tune's record of the trials, the newest experiment_state file in {place}, is damaged "
            f"({reason(error)}): remove this file, and resume again; then the search goes on from an older record, "
            "or begins its trials anew"
        ) from error
    except ValueError:
        return []  # there is no record yet


def _was_tried(trial: FrozenTrial) -> bool:
    return TRIAL in trial.user_attrs and INTERRUPTED not in trial.user_attrs


def _values(result: Mapping[str, Any] | None) -> list[float] | None:
    """Returns quality and cost of a result; None if it has none, or if one of them is not finite."""
    found: list[Any] = [(result or {}).get(name) for name in ("quality", "cost")]
    return [float(value) for value in found] if all(map(is_finite, found)) else None


def _curve(result: Mapping[str, Any]) -> list[list[float]]:
    return [[float(value) for value in point] for point in result.get("curve", ()) if all(map(is_finite, point))]


def _points(trial: FrozenTrial) -> Curve:
    return [(quality, cost) for quality, cost in trial.user_attrs[CURVE]]


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
