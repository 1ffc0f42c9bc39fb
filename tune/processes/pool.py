"""A pool of rollout actors: other processes sample the items of a step. No item is lost, and none is counted twice."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import ObjectLostError, RayActorError

from trbert.errors import OutOfMemory
from tune.budget import Clock
from tune.learning.model import Model
from tune.learning.prepare import Prepared
from tune.learning.select_stage import ItemGradient, RolloutItem
from tune.learning.steps import fix_algorithms
from tune.settings import Settings

ITEM_DEADLINE_S = 300.0
"""Seconds after which a call is given up and its actor is replaced. A network that is cut raises no error."""
LATE = 3.0
"""An item is late after so many times the mean seconds of an item, and at least 1 s. An idle actor then gets it too."""
REST_S = 1.0
"""Seconds between two attempts to reach an actor that Ray is restarting."""
MOST_LOST = 5
"""An item is given up after so many actors that ended while they sampled it. Machines that are lost are not so many.

Ray does not say why an actor ended that it starts again. So many ends over one item have one likely cause, memory.
"""
POLL_S = 0.2
"""Seconds between two checks for late items and for calls to give up."""


class RolloutActor:
    """A process that holds the frozen encoder; each call computes the policy gradient of one item.

    Args:
        prepared: what all trials share.
        settings: of the trial.
    """

    def __init__(self, prepared: Prepared, settings: Settings) -> None:
        torch.set_num_threads(settings.compute.threads or 1)
        fix_algorithms(settings.compute)
        self.sampler = Model(prepared, settings).sampler(prepared.train)

    def ready(self) -> None:
        """Returns once the actor has started. Items are given only to actors that have answered this call."""

    def gradient(self, weights: NDArray[np.float32], item: RolloutItem) -> ItemGradient:
        """Returns the item's gradient for the policy with these weights."""
        return self.sampler.gradient(weights, item)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """What a pool has done so far.

    Attributes:
        asked: the number of items of all steps.
        done: the number of items whose result was counted; each item counts once.
        repeated: how often an item was given to another actor, because its actor was dead, out of reach or late.
        ignored: the number of results that came after their item was counted.
        workers: the number of actors that are running, as far as is known.
        waiting_s: the seconds that the learner waited for results.
    """

    asked: int = 0
    done: int = 0
    repeated: int = 0
    ignored: int = 0
    workers: int = 0
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A call that an actor is working on.

    Attributes:
        worker: the number of the actor.
        item: the item that it samples; None if it is starting.
        step: the step of the item.
        since: when the call was made, on the monotonic clock.
    """

    worker: int
    item: RolloutItem | None
    step: int
    since: float


class RolloutPool:
    """A `GradientSource` whose actors may die and return at any time.

    An item's trajectories depend on the item alone, because its draw is keyed. An item that is sampled twice gives the
    same result twice, and the result that comes first is counted. Results are returned in the order of the items, so
    that a step is the same with any number of actors. Ray restarts an actor that dies wherever there is room; it gets
    items again once it has started.

    Args:
        prepared_ref: what all trials share; each actor builds its frozen encoder from it.
        settings: of the trial.
        num_workers: the number of actors.
        cpus: processors of each actor.
        gpus: GPUs of each actor; may be a fraction.
        deadline: seconds that a call may take.
        actor: the class of the actors.
        clock: counts the time of the stage; None sets no limit.
    """

    def __init__(
        self,
        prepared_ref: "ray.ObjectRef[Prepared]",
        settings: Settings,
        num_workers: int,
        cpus: float = 1.0,
        gpus: float = 0.0,
        deadline: float = ITEM_DEADLINE_S,
        actor: type[Any] = RolloutActor,
        clock: Clock | None = None,
    ) -> None:
        # Ray restarts a dead actor without limit. It does not repeat its calls: the pool gives a lost item to an idle
        # actor.
        remote: Any = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=cpus, num_gpus=gpus)(actor)
        self._start: Callable[[], Any] = lambda: remote.remote(prepared_ref, settings)
        self._deadline, self._clock = deadline, clock or Clock()
        self._calls: dict[ray.ObjectRef[ItemGradient | None], _Call] = {}
        self._idle: list[int] = []
        self._resting: dict[int, float] = {}
        self._step = self._asked = self._counted = self._repeated = self._ignored = 0
        self._waiting_s = self._working_s = 0.0
        self._lost: dict[int, int] = {}
        self._waiting: deque[RolloutItem] = deque()
        self._done: dict[int, ItemGradient] = {}
        self._actors = [self._start() for _ in range(num_workers)]
        for worker in range(num_workers):
            self._get_ready(worker)

    def gradients(self, weights: NDArray[np.float32], items: Sequence[RolloutItem]) -> list[ItemGradient]:
        """Returns the gradients of the items in their order. Each is counted once, even if actors die meanwhile.

        Raises:
            StageTimeout: The time of the stage is over before all of them have come.
            OutOfMemory: `MOST_LOST` actors ended while they sampled the same item.
        """
        started = time.monotonic()
        weights_ref = ray.put(weights)
        self._step += 1
        self._asked += len(items)
        self._waiting, self._done, self._lost = deque(items), {}, {}
        while len(self._done) < len(items):
            self._clock.check()
            self._wake()
            self._hand_out(weights_ref)
            if not self._calls:  # all actors are being restarted
                time.sleep(POLL_S)
                continue
            for ref in ray.wait(list(self._calls), timeout=POLL_S)[0]:
                self._take(ref)
            self._give_up()
        self._waiting_s += time.monotonic() - started
        return [self._done[item.index] for item in items]

    def statistics(self) -> PoolStatistics:
        """Returns what the pool has done so far."""
        unready = {call.worker for call in self._calls.values() if call.item is None}
        return PoolStatistics(
            asked=self._asked,
            done=self._counted,
            repeated=self._repeated,
            ignored=self._ignored,
            workers=len(self._actors) - len(unready) - len(self._resting),
            waiting_s=self._waiting_s,
        )

    def close(self) -> None:
        """Ends the actors."""
        for actor in self._actors:
            ray.kill(actor)

    def _get_ready(self, worker: int) -> None:
        call = _Call(worker=worker, item=None, step=self._step, since=time.monotonic())
        self._calls[self._actors[worker].ready.remote()] = call

    def _wake(self) -> None:
        """Calls `ready` on actors whose `REST_S` is over."""
        for worker, until in list(self._resting.items()):
            if time.monotonic() > until:
                del self._resting[worker]
                self._get_ready(worker)

    def _hand_out(self, weights_ref: "ray.ObjectRef[NDArray[np.float32]]") -> None:
        """Gives idle actors the items that no actor has, and then the items that are late."""
        while self._idle and (item := self._next()) is not None:
            worker = self._idle.pop()
            ref = self._actors[worker].gradient.remote(weights_ref, item)
            self._calls[ref] = _Call(worker=worker, item=item, step=self._step, since=time.monotonic())

    def _next(self) -> RolloutItem | None:
        if self._waiting:
            return self._waiting.popleft()
        late = self._late()
        self._repeated += late is not None
        return late

    def _late(self) -> RolloutItem | None:
        """Returns a late item of this step that only one actor has, or None if there is none."""
        if self._counted == 0:
            return None
        patience = max(1.0, LATE * self._working_s / self._counted)
        running = [call for call in self._calls.values() if call.item is not None and call.step == self._step]
        for call in running:
            alone = sum(other.item == call.item for other in running) == 1
            if alone and time.monotonic() - call.since > patience:
                return call.item
        return None

    def _take(self, ref: "ray.ObjectRef[ItemGradient | None]") -> None:
        call = self._calls.pop(ref)
        try:
            result = ray.get(ref)
        except (RayActorError, ObjectLostError) as error:
            if getattr(error, "actor_init_failed", False):
                raise
            self._resting[call.worker] = time.monotonic() + REST_S
            self._count_lost(call)
            self._lose(call)
            return
        self._idle.append(call.worker)
        if result is None:
            return
        if call.step != self._step or result.index in self._done:
            self._ignored += 1
            return
        self._done[result.index] = result
        self._counted += 1
        self._working_s += time.monotonic() - call.since

    def _count_lost(self, call: _Call) -> None:
        """Raises OutOfMemory if too many actors ended while they sampled the item of this call."""
        if call.item is None or call.step != self._step:
            return
        lost = self._lost[call.item.index] = self._lost.get(call.item.index, 0) + 1
        if lost >= MOST_LOST:
            raise OutOfMemory(
                f"a rollout worker must have enough memory for an item of work, and {lost} workers ended over the same "
                "one, most likely because memory ran out: lower --set select.item_documents=4 or --set "
                "select.samples=4, cut the documents shorter with --max-length, or use fewer --num-rollout-workers"
            )

    def _give_up(self) -> None:
        """Replaces the actors whose call has taken longer than the deadline."""
        for ref, call in list(self._calls.items()):
            if time.monotonic() - call.since > self._deadline:
                del self._calls[ref]
                ray.kill(self._actors[call.worker])
                self._actors[call.worker] = self._start()
                self._get_ready(call.worker)
                self._lose(call)

    def _lose(self, call: _Call) -> None:
        """Puts the item of a lost call back in the queue, unless it is counted already or another actor has it too."""
        item = call.item
        if item is None or call.step != self._step or item.index in self._done:
            return
        if any(other.item == item and other.step == call.step for other in self._calls.values()):
            return
        self._repeated += 1
        self._waiting.appendleft(item)
