"""A pool of rollout actors: samples a step's items in other processes, loses none and counts none twice."""

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

from tune.learning.model import Model
from tune.learning.prepare import Prepared
from tune.learning.select_stage import ItemGradient, RolloutItem
from tune.settings import Settings

ITEM_DEADLINE_S = 300.0
"""Seconds after which a call is given up and its actor replaced: a network partition raises nothing."""
LATE = 3.0
"""How many times an item's usual seconds one may run, and at least a second, before an idle actor is given it too."""
REST_S = 1.0
"""Seconds between two questions to an actor that is being restarted."""
POLL_S = 0.2
"""Seconds between two looks at the clock."""


class RolloutActor:
    """Holds the frozen encoder and computes the policy gradient of one item a call."""

    def __init__(self, prepared: Prepared, settings: Settings) -> None:
        torch.set_num_threads(settings.compute.threads or 1)
        self.sampler = Model(prepared, settings).sampler(prepared.train)

    def ready(self) -> None:
        """Answers once the actor stands, so that no item waits for one that is not there."""

    def gradient(self, weights: NDArray[np.float32], item: RolloutItem) -> ItemGradient:
        """Returns the item's gradient for the policy with these weights."""
        return self.sampler.gradient(weights, item)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """What a pool has done so far.

    Attributes:
        asked: items of all steps.
        done: items counted, each once.
        repeated: items that were given to a second actor, the first being dead, out of reach or late.
        ignored: results of items that were counted already.
        workers: actors that stood when last heard of.
        waiting_s: seconds that the learner waited for results.
    """

    asked: int = 0
    done: int = 0
    repeated: int = 0
    ignored: int = 0
    workers: int = 0
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What an actor is doing: an item of some step, or only getting ready."""

    worker: int
    item: RolloutItem | None
    step: int
    since: float


class RolloutPool:
    """A `GradientSource` over actors that come and go.

    An item's trajectories depend on the item alone (its draw is keyed), so that one sampled a second time gives what
    it would have given: whichever result comes first is counted. Results return in item order: any number of workers
    gives the same step. An actor that dies is restarted wherever there is room, and works again once it stands.

    Args:
        prepared_ref: what all trials share; each actor builds its frozen encoder from it.
        settings: of the trial.
        num_workers: actors.
        cpus: processors of each.
        gpus: GPUs of each, a fraction allowed.
        deadline: seconds that a call may take.
        actor: what does the work.
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
    ) -> None:
        # Restarted as often as it dies; its calls are not, since a lost item goes to whichever actor is idle.
        remote: Any = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=cpus, num_gpus=gpus)(actor)
        self._start: Callable[[], Any] = lambda: remote.remote(prepared_ref, settings)
        self._deadline = deadline
        self._calls: dict[ray.ObjectRef[ItemGradient | None], _Call] = {}
        self._idle: list[int] = []
        self._resting: dict[int, float] = {}
        self._step = self._asked = self._counted = self._repeated = self._ignored = 0
        self._waiting_s = self._working_s = 0.0
        self._waiting: deque[RolloutItem] = deque()
        self._done: dict[int, ItemGradient] = {}
        self._actors = [self._start() for _ in range(num_workers)]
        for worker in range(num_workers):
            self._get_ready(worker)

    def gradients(self, weights: NDArray[np.float32], items: Sequence[RolloutItem]) -> list[ItemGradient]:
        """Returns the items' gradients in item order, each counted once, whatever became of the actors."""
        started = time.monotonic()
        weights_ref = ray.put(weights)
        self._step += 1
        self._asked += len(items)
        self._waiting, self._done = deque(items), {}
        while len(self._done) < len(items):
            self._wake()
            self._hand_out(weights_ref)
            if not self._calls:  # all actors rest
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
        """Asks actors that have rested whether they stand again."""
        for worker, until in list(self._resting.items()):
            if time.monotonic() > until:
                del self._resting[worker]
                self._get_ready(worker)

    def _hand_out(self, weights_ref: "ray.ObjectRef[NDArray[np.float32]]") -> None:
        """Gives idle actors what nobody has, then what somebody has had for too long."""
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
        """Returns an item of this step that one actor alone has, for much longer than items usually take."""
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

    def _give_up(self) -> None:
        """Replaces actors that have had a call for longer than any may take."""
        for ref, call in list(self._calls.items()):
            if time.monotonic() - call.since > self._deadline:
                del self._calls[ref]
                ray.kill(self._actors[call.worker])
                self._actors[call.worker] = self._start()
                self._get_ready(call.worker)
                self._lose(call)

    def _lose(self, call: _Call) -> None:
        """Puts a call's item back in the queue, unless it is counted or with another actor too."""
        item = call.item
        if item is None or call.step != self._step or item.index in self._done:
            return
        if any(other.item == item and other.step == call.step for other in self._calls.values()):
            return
        self._repeated += 1
        self._waiting.appendleft(item)
