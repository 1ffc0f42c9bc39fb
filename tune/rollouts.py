"""A pool of rollout actors: samples a step's items in other processes, loses none and counts none twice."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayActorError

from tune.prepare import Prepared
from tune.settings import Settings
from tune.stages import ItemGradient, RolloutItem
from tune.training import Model

ITEM_DEADLINE_S = 300.0
"""Seconds after which an item is taken from its actor: a network partition raises nothing."""


class RolloutActor:
    """Holds the frozen encoder and computes the policy gradient of one item a call."""

    def __init__(self, prepared: Prepared, settings: Settings) -> None:
        torch.set_num_threads(settings.compute.threads or 1)
        self.sampler = Model(prepared, settings).sampler(prepared.train.examples())

    def gradient(self, weights: NDArray[np.float32], item: RolloutItem) -> ItemGradient:
        """Returns the item's gradient for the policy with these weights."""
        return self.sampler.gradient(weights, item)


class RolloutPool:
    """A `GradientSource` over restartable actors.

    An item's trajectories depend on the item alone (its draw is keyed), so that an item that was requeued gives what
    it would have given. Results return in item order: any number of workers gives the same step.

    Args:
        prepared_ref: what all trials share; each actor builds its frozen encoder from it.
        settings: of the trial.
        num_workers: actors.
        cpus: processors of each.
        gpus: GPUs of each, a fraction allowed.
        deadline: seconds an item may take.
    """

    def __init__(
        self,
        prepared_ref: "ray.ObjectRef[Prepared]",
        settings: Settings,
        num_workers: int,
        cpus: float = 1.0,
        gpus: float = 0.0,
        deadline: float = ITEM_DEADLINE_S,
    ) -> None:
        # Restarted as often as it dies; its calls are not, since a lost item goes to whichever actor is idle.
        remote: Any = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=cpus, num_gpus=gpus)(RolloutActor)
        self._start = lambda: remote.remote(prepared_ref, settings)
        self._actors = [self._start() for _ in range(num_workers)]
        self._deadline = deadline
        self.repeated = 0

    def gradients(self, weights: NDArray[np.float32], items: Sequence[RolloutItem]) -> list[ItemGradient]:
        """Returns the items' gradients in item order; an item lost with its actor is sampled again."""
        weights_ref = ray.put(weights)
        waiting = deque(items)
        idle = list(range(len(self._actors)))
        running: dict[ray.ObjectRef[ItemGradient], tuple[int, RolloutItem, float]] = {}
        done: dict[int, ItemGradient] = {}
        while len(done) < len(items):
            while waiting and idle:
                worker, item = idle.pop(), waiting.popleft()
                ref = self._actors[worker].gradient.remote(weights_ref, item)
                running[ref] = (worker, item, time.monotonic())
            ready, _ = ray.wait(list(running), timeout=1.0)
            for ref in ready:
                worker, item, _started = running.pop(ref)
                idle.append(worker)
                try:
                    done[item.index] = ray.get(ref)
                except RayActorError:
                    self._requeue(item, waiting)
                    time.sleep(0.5)  # the actor is being restarted; asking at once only fails again
            for ref, (worker, item, started) in list(running.items()):
                if time.monotonic() - started > self._deadline:
                    del running[ref]
                    ray.kill(self._actors[worker])
                    self._actors[worker] = self._start()
                    idle.append(worker)
                    self._requeue(item, waiting)
        return [done[item.index] for item in items]

    def _requeue(self, item: RolloutItem, waiting: deque[RolloutItem]) -> None:
        self.repeated += 1
        waiting.appendleft(item)

    def close(self) -> None:
        """Ends the actors."""
        for actor in self._actors:
            ray.kill(actor)
