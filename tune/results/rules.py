"""What the rules that need nothing learned achieve on the teacher: what a user could have without this project."""

from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.measure.evaluate import evaluate
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import free_selectors, points_for
from tune.learning.prepare import Prepared
from tune.learning.steps import autocast, pick_device
from tune.results.front import FREE, Point
from tune.settings import Settings

FREE_DIALS = (0.04, 0.12, 0.35)
"""Kept fractions at which the free rules are evaluated."""


def free_points(prepared: Prepared, settings: Settings, points: tuple[int, ...]) -> list[Point]:
    """Returns what the free rules achieve on the teacher along their dials, on validation and on test."""
    device = pick_device(settings.compute.device)
    encoder = Encoder(prepared.plain(device))
    found = []
    for selector in free_selectors():
        reducer = Reducer(encoder=encoder, task=prepared.task, points=points_for(selector, points))
        cost = CostModel.of(reducer)
        for dial in FREE_DIALS:
            with autocast(device, settings.compute.evaluation):
                validation, test = (
                    evaluate(reducer, cost, selector, split, dial, settings.compute.tokens_per_batch)
                    for split in (prepared.validation, prepared.test)
                )
            found.append(
                Point(
                    trial=FREE,
                    selector=selector.name,
                    dial=dial,
                    points=reducer.points,
                    quality_validation=validation.quality,
                    quality_test=test.quality,
                    speed_up_validation=validation.speed_up,
                    speed_up_test=test.speed_up,
                    kept=test.kept,
                )
            )
    return found
