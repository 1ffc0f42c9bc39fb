"""Measures a model on a split for as long as there is time, how long a pass takes, and where a dial should count."""

import math
import time

import numpy as np
import torch

from trbert.measure.cost import CostModel, speed_up
from trbert.measure.evaluate import Evaluation, Forward, evaluate_forward, forward_at, predict, unreduced_outputs
from trbert.selection.outputs import Reduced
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import Selector
from trbert.tasks.examples import Examples
from tune.budget import Clock
from tune.learning.steps import autocast

STEEPNESSES = (1.0, 1 / 3, 1 / 8, 3.0, 8.0)
"""How many times as much as at the first point a dial may count at the last one. Equal ones come first, for a tie."""
_PROBED = (1.0, 3.0, 9.0)
"""The dials, up and down, at which steepnesses are compared."""


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


def balance_dials(
    reducer: Reducer,
    cost: CostModel,
    selector: Selector,
    policy: Policy,
    examples: Examples,
    tokens_per_batch: int,
    clock: Clock,
) -> None:
    """Sets how much the dial counts at each point: so that at the same cost the outputs are as faithful as can be.

    From one point to the next the factors rise or fall by one ratio; the largest is 1. Dials below 0 have another ratio
    than those above. Compared is the mean fidelity over the logarithm of the cost, on straight lines between a few
    dials.

    Args:
        reducer: the model, at its points.
        cost: its FLOPs.
        selector: decides by the policy.
        policy: its factors are set in place.
        examples: of training; the policy is not chosen by them, only the path of its dial.
        tokens_per_batch: the most tokens of a batch.
        clock: the time for it.

    Raises:
        StageTimeout: The clock's time was over before that. The factors of a side that was not measured are 1 then.
    """
    num_points = len(reducer.points)
    if num_points < 2:
        return
    ones = [1.0] * num_points
    sides = {"below": ones, "above": ones}

    def at(dial: float) -> tuple[float, float]:
        """Returns the logarithm of the cost, and the mean fidelity in nats."""
        found = predict(reducer, watched(forward_at(reducer, selector, dial), clock), examples, tokens_per_batch)
        lengths = examples.tokens.lengths
        flops = cost.reduced(lengths, found.kept, reducer.points, selector)
        fidelity = reducer.task.fidelity(found.outputs, examples).mean()
        return -math.log(speed_up(cost.unreduced(lengths), flops)), float(fidelity)

    try:
        policy.weigh_dials(**sides)
        start = at(0.0)
        for side, sign in (("above", 1.0), ("below", -1.0)):
            end, means = at(sign * selector.keep_all), {}
            for steepness in STEEPNESSES:
                policy.weigh_dials(**{**sides, side: _factors(steepness, num_points)})
                means[steepness] = _mean_height([start, *(at(sign * dial) for dial in _PROBED), end])
            sides[side] = _factors(max(means, key=lambda each: means[each]), num_points)
    finally:
        policy.weigh_dials(**sides)


def _factors(steepness: float, num_points: int) -> list[float]:
    """Returns the factors of all points, of which the largest is 1, and the last is `steepness` times the first."""
    powers = [steepness ** (point / (num_points - 1)) for point in range(num_points)]
    return [power / max(powers) for power in powers]


def _mean_height(points: list[tuple[float, float]]) -> float:
    """Returns the mean height of the line through these points, from left to right."""
    across, height = np.array(sorted(points)).T
    width = across[-1] - across[0]
    return float(np.trapezoid(height, across) / width) if width > 0 else float(height.mean())
