"""How fast a select stage is on so many rollout workers: a formula, and a simulation with stragglers and deaths."""

import heapq
import math
import random
from dataclasses import dataclass

from tune.pool import LATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What a step is made of, in seconds, as measured.

    Attributes:
        item: one actor's work on one item.
        handle: the learner's work on one item: handing it out, taking its gradient.
        publish: putting the new weights where actors fetch them.
        fetch: until an actor has an item and its weights, and the learner its gradient, beside the work.
        learn: the optimiser's step.
    """

    item: float
    handle: float
    publish: float
    fetch: float
    learn: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What befalls actors.

    Attributes:
        slow_share: of items that take `slow_factor` times as long.
        slow_factor: how much longer.
        deaths_per_hour: of each actor.
        notice_s: until its death is known.
        restart_s: until another stands in its place.
    """

    slow_share: float = 0.0
    slow_factor: float = 5.0
    deaths_per_hour: float = 0.0
    notice_s: float = 5.0
    restart_s: float = 30.0


def step_seconds(constants: Constants, workers: int, items: int) -> float:
    """Returns the seconds of an undisturbed step, T = publish + max(I · handle, ⌈I / W⌉ · (item + fetch)) + learn.

    Example:
        >>> step_seconds(Constants(item=1.0, handle=0.01, publish=0.1, fetch=0.0, learn=0.1), workers=4, items=8)
        2.2
    """
    waves = math.ceil(items / workers)
    return (
        constants.publish + max(items * constants.handle, waves * (constants.item + constants.fetch)) + constants.learn
    )


def saturation(constants: Constants, items: int) -> int:
    """Returns the workers beyond which a step gets no faster: as many as items, or as keep the learner busy.

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

    An actor takes the next item when the learner comes round to it. An item that takes `LATE` times as long as usual is
    given to an idle actor too, and the first result counts. A dead actor's item goes back into the queue once its death
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
            continue  # its first copy came back in time
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
