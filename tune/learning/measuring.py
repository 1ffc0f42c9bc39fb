"""Measures a model on a split for as long as there is time, and how long an unreduced pass takes."""

import math
import time

import torch

from trbert.measure.cost import CostModel
from trbert.measure.evaluate import Evaluation, Forward, evaluate_forward, forward_at, unreduced_outputs
from trbert.selection.outputs import Reduced
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import Selector
from trbert.tasks.examples import Examples
from tune.budget import Clock
from tune.learning.steps import autocast


def evaluate_in_time(
    reducer: Reducer,
    cost: CostModel,
    selector: Selector,
    examples: Examples,
    dial: float,
    tokens_per_batch: int,
    clock: Clock,
) -> Evaluation:
    """Returns what `trbert.measure.evaluate.evaluate` returns, if there is enough time for it.

    Raises:
        StageTimeout: The clock's time was over before the last batch.
    """
    forward = watched(forward_at(reducer, selector, dial), clock)
    return evaluate_forward(reducer, cost, selector, examples, forward, tokens_per_batch)


def watched(forward: Forward, clock: Clock) -> Forward:
    """Returns the same function, which raises `StageTimeout` before a batch if the clock's time is over."""

    def checked(chosen: torch.Tensor, part: Examples) -> Reduced:
        clock.check()
        return forward(chosen, part)

    return checked


def pass_seconds(reducer: Reducer, examples: Examples, dtype: str, count: int = 16) -> float:
    """Returns the measured seconds of an unreduced pass of one example of mean length, on this process's threads.

    It is the faster of two passes over a few examples, which are spread over the split.

    Args:
        reducer: the model.
        examples: the examples of a split.
        dtype: arithmetic, as `compute.evaluation`.
        count: about how many documents to time.
    """
    few, best = examples.spread(count), math.inf
    with autocast(reducer.encoder.device, dtype):
        for _ in range(2):  # the first pass is slower, because it warms up
            started = time.perf_counter()
            unreduced_outputs(reducer, few)
            best = min(best, time.perf_counter() - started)
    return best * float(examples.lengths.double().mean()) / float(few.lengths.sum())
