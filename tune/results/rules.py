"""The free rules on the teacher: rules that need no training, as a yardstick for models that were trained."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.measure.evaluate import Evaluation
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import Selector, free_selectors, points_for
from trbert.tasks.examples import Examples
from tune.budget import Clock, StageTimeout
from tune.learning.measuring import evaluate_in_time
from tune.learning.prepare import Prepared
from tune.learning.steps import autocast, pick_device
from tune.results.front import FREE, Point
from tune.settings import ComputeSettings

FREE_DIALS = (0.04, 0.12, 0.35)
"""The dials at which the free rules are evaluated: fractions of the tokens that are left after the last point."""
BY_IMPORTANCE = (0.12, 0.35, 0.04)
"""The same dials, in the order in which they are measured. Time may be over before the last one."""


def free_points(
    prepared: Prepared, compute: ComputeSettings, points: tuple[int, ...], clock: Clock | None = None
) -> list[Point]:
    """Returns the points of the free rules on the teacher, along their dials, measured on validation.

    `rules_on_test` measures them on test, at the end of a search.

    Args:
        prepared: the teacher and the examples.
        compute: how the machine is used.
        points: the reduction points of the rules.
        clock: the points for which there is no time are left out; None leaves out none.
    """
    rules, found = _Rules(prepared, compute, clock or Clock()), {}
    with suppress(StageTimeout):
        for dial in BY_IMPORTANCE:
            for selector in free_selectors():
                own = points_for(selector, points)
                measured = rules.measure(selector, own, dial, prepared.validation)
                found[selector.name, dial] = Point(
                    trial=FREE,
                    selector=selector.name,
                    dial=dial,
                    points=own,
                    quality_validation=measured.quality,
                    speed_up_validation=measured.speed_up,
                    kept=measured.kept,
                )
    keys = [(selector.name, dial) for selector in free_selectors() for dial in FREE_DIALS]
    return [found[key] for key in keys if key in found]


def rules_on_test(
    points: Sequence[Point], prepared: Prepared, compute: ComputeSettings, clock: Clock | None = None
) -> tuple[list[Point], dict[int, list[Any]]]:
    """Returns the points of a run with those of the free rules measured on test, as far as there is time.

    It also returns what the measured rules say of each example, by the indices of their points.

    Args:
        points: of the run.
        prepared: the teacher and the examples.
        compute: how the machine is used.
        clock: the points for which there is no time stay as they are; None leaves out none.
    """
    rules, tested, answers = _Rules(prepared, compute, clock or Clock()), list(points), {}
    selectors = {selector.name: selector for selector in free_selectors()}
    with suppress(StageTimeout):
        for index in _in_order(points):
            point = points[index]
            assert point.dial is not None
            measured = rules.measure(selectors[point.selector], point.points, point.dial, prepared.test)
            tested[index] = replace(
                point, quality_test=measured.quality, speed_up_test=measured.speed_up, kept=measured.kept
            )
            answers[index] = measured.decoded
    return tested, answers


def _in_order(points: Sequence[Point]) -> Iterator[int]:
    """Yields the indices of the free rules' points to measure: those of the front first, and then dial by dial."""
    free = [i for i, point in enumerate(points) if point.trial == FREE and point.quality_test is None]
    yield from sorted(free, key=lambda i: (not points[i].on_front, BY_IMPORTANCE.index(points[i].dial or 0.0)))


class _Rules:
    """Measures the free rules on the teacher.

    Args:
        prepared: the teacher.
        compute: how the machine is used.
        clock: counts the time.
    """

    def __init__(self, prepared: Prepared, compute: ComputeSettings, clock: Clock) -> None:
        self._device = pick_device(compute.device)
        self._task, self._compute, self._clock = prepared.task, prepared.watched(compute), clock
        self._encoder = Encoder(prepared.plain(self._device))

    def measure(self, selector: Selector, points: tuple[int, ...], dial: float, split: Examples) -> Evaluation:
        """Returns what a rule achieves on a split.

        Raises:
            StageTimeout: The time is over before that.
        """
        reducer = Reducer(encoder=self._encoder, task=self._task, points=points)
        tokens = self._compute.tokens_of_pass
        with autocast(self._device, self._compute.evaluation):
            return evaluate_in_time(reducer, CostModel.of(reducer), selector, split, dial, tokens, self._clock)
