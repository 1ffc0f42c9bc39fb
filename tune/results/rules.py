"""The free rules on the teacher: rules that need no training, as a yardstick for models that were trained."""

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
"""The dials at which the free rules are evaluated: fractions of the tokens that are left after the last point."""


def free_points(prepared: Prepared, settings: Settings, points: tuple[int, ...]) -> list[Point]:
    """Returns the points of the free rules on the teacher, along their dials, measured on validation and on test.

    Args:
        prepared: the teacher and the examples.
        settings: of the run.
        points: the reduction points of the rules.
    """
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
