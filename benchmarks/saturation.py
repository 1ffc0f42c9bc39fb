"""Predicts the time of a select step on many rollout workers: a formula, and a simulation of slow items and deaths."""

import heapq
import math
import random
from dataclasses import dataclass

from tune.processes.pool import LATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What a step is made of, in measured seconds.

    Attributes:
        item: an actor's work on one item.
        handle: the learner's work on one item: it hands the item out and takes its gradient.
        publish: the learner puts the new weights where actors fetch them.
        fetch: an item's way to an actor, with the weights, and the gradient's way back; without the work on it.
        learn: a step of the optimiser.
    """

    item: float
    handle: float
    publish: float
    fetch: float
    learn: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong with actors.

    Attributes:
        slow_share: the fraction of items that take `slow_factor` times as long as usual.
        slow_factor: how many times as long a slow item takes.
        deaths_per_hour: how often an actor dies.
        notice_s: seconds from a death until it is noticed.
        restart_s: seconds from then until another actor has taken its place.
    """

    slow_share: float = 0.0
    slow_factor: float = 5.0
    deaths_per_hour: float = 0.0
    notice_s: float = 5.0
    restart_s: float = 30.0


def step_seconds(constants: Constants, workers: int, items: int) -> float:
    """Returns the seconds of an undisturbed step: T = publish + max(I · handle, ⌈I / W⌉ · (item + fetch)) + learn.

    Example:
        >>> step_seconds(Constants(item=1.0, handle=0.01, publish=0.1, fetch=0.0, learn=0.1), workers=4, items=8)
        2.2
    """
    waves = math.ceil(items / workers)
    return (
        constants.publish + max(items * constants.handle, waves * (constants.item + constants.fetch)) + constants.learn
    )


def saturation(constants: Constants, items: int) -> int:
    """Returns the number of workers beyond which a step gets no faster.

    It is the number of items, or the number of workers that keep the learner busy, whichever is smaller.

    Example:
        >>> saturation(Constants(item=1.0, handle=0.01, publish=0.1, fetch=0.0, learn=0.1), items=64)
        64
        >>> saturation(Constants(item=1.0, handle=0.05, publish=0.1, fetch=0.0, learn=0.1), items=64)
        20
    """
    return min(items, math.ceil((constants.item + constants.fetch) / constants.handle))


def simulated_step_seconds(
    constants: Constants, workers: int, items: int, trouble: Trouble, steps: int = 50, seed: int = 0
) -> float:
    """Returns the mean seconds of a step in a simulation of the pool: its queue, its second copies, its restarts.

    The learner serves one actor at a time. An item that takes `LATE` times as long as usual is also given to an idle
    actor, and the first result counts. A dead actor's item goes back into the queue once its death
    is noticed.
    """
    draw = random.Random(seed)
    clock = 0.0
    stands_at = [0.0] * workers
    for _ in range(steps):
        clock = _step(constants, items, trouble, draw, clock + constants.publish, stands_at) + constants.learn
    return clock / steps


def _step(
    constants: Constants, items: int, trouble: Trouble, draw: random.Random, start: float, stands_at: list[float]
) -> float:
    """Runs one step from its start, and returns when its last item is counted."""
    usual = constants.item + constants.fetch
    actors = [(max(start, at), worker) for worker, at in enumerate(stands_at)]
    heapq.heapify(actors)
    waiting = [(start, item) for item in range(items)]
    heapq.heapify(waiting)
    counted: dict[int, float] = {}
    learner = start
    while waiting:
        ready, item = heapq.heappop(waiting)
        if counted.get(item, math.inf) <= ready:
            continue  # its first copy was back before the second one was handed out
        free, worker = heapq.heappop(actors)
        begin = max(free, ready, learner)
        learner = begin + constants.handle
        seconds = usual * (trouble.slow_factor if draw.random() < trouble.slow_share else 1.0)
        death = draw.expovariate(trouble.deaths_per_hour / 3600) if trouble.deaths_per_hour else math.inf
        if death < seconds:
            heapq.heappush(actors, (begin + death + trouble.notice_s + trouble.restart_s, worker))
            heapq.heappush(waiting, (begin + death + trouble.notice_s, item))
            continue
        counted[item] = min(counted.get(item, math.inf), begin + seconds)
        heapq.heappush(actors, (begin + seconds, worker))
        if seconds > LATE * usual and item not in [each for _, each in waiting]:
            heapq.heappush(waiting, (begin + LATE * usual, item))
    for at, worker in actors:
        stands_at[worker] = at
    return max(max(counted.values()), learner)
