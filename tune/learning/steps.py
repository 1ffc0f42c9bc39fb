"""What the three stages of learning have in common.

Precision, batches within a token budget and within memory, the optimiser step, its schedule, teams of processes, and
continuing from a saved state.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from trbert.errors import Diverged, InputError
from trbert.measure.evaluate import within_budget
from trbert.measure.halving import halved
from trbert.measure.timing import paired_ratio, take_turns
from tune.budget import Clock
from tune.settings import ComputeSettings

Progress = Callable[[dict[str, float]], None]
"""A function that is called after each step with its figures. It raises `StageTimeout` to stop the stage."""

Loss = Callable[[Tensor], Tensor]
"""A function of document indices that returns the *sum* of the documents' losses."""
_WORTH_ROUNDING = 1.2
"""How many times as fast as float32 bfloat16 must be for "auto" to take it."""


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[None]:
    """Returns the context in which training runs: in bfloat16 if dtype says so, or if it is "auto" and that is faster.

    Args:
        device: where the model is.
        dtype: "float32", "bfloat16" or "auto".
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, dtype))


def uses_bfloat16(device: torch.device, dtype: str) -> bool:
    """Returns whether `autocast` uses bfloat16."""
    return dtype == "bfloat16" or (dtype == "auto" and has_fast_bfloat16(device))


@cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Returns whether the device multiplies bfloat16 matrices faster than float32 ones. A processor is timed, once.

    The list of its instructions does not say which is faster. With the same AVX-512 instructions for bfloat16, a
    product took these multiples of the time in float32:

    * 0.33 on a Zen 5;
    * 1.7 on an Emerald Rapids, in a virtual machine that hid its AMX instructions.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    found = torch.cpu.get_capabilities()
    if not (found.get("amx_bf16", False) or found.get("avx512_bf16", False)):
        return False  # without these instructions torch converts to float32 and back
    return bfloat16_speed_up() > _WORTH_ROUNDING


def bfloat16_speed_up() -> float:
    """Returns how many times as fast as in float32 a matrix product of training's size is in bfloat16.

    The two are timed in turns, and each pair of neighbouring turns is compared.
    """

    def product(dtype: torch.dtype) -> Callable[[], object]:
        return partial(nn.functional.linear, torch.ones(512, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype))

    runs = {"float32": [product(torch.float32)], "bfloat16": [product(torch.bfloat16)]}
    with torch.autocast("cpu", enabled=False), torch.inference_mode():
        seconds = take_turns(runs, 8, torch.device("cpu"))
    return paired_ratio(seconds["float32"], seconds["bfloat16"]).median


def fix_algorithms(compute: ComputeSettings) -> None:
    """Makes torch choose, in this process, algorithms that always add in the same order, if the settings say so."""
    if compute.deterministic:
        # A GPU needs this before its first matrix product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def pick_device(name: str) -> torch.device:
    """Returns the named device. "auto" is the first GPU, or the processor if there is no GPU.

    Raises:
        InputError: The name is a GPU's, and torch finds no GPU. Or it is neither a GPU's nor the processor's.
    """
    if name.partition(":")[0] not in ("auto", "cpu", "cuda"):
        raise InputError(f"compute.device must be 'auto', 'cpu' or 'cuda', and is {name!r}: leave it out for 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"compute.device is {name}, and torch finds no GPU here: install a torch with CUDA and "
            "its driver, or set compute.device=cpu"
        )
    return torch.device(name)


def shuffled_batches(documents: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yields `steps` batches of document indices. An epoch has every document once, and each epoch has a new order."""
    queue = torch.empty(0, dtype=torch.long)
    epoch = 0
    for _ in range(steps):
        while len(queue) < batch_size:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            queue = torch.cat([queue, torch.randperm(documents, generator=generator)])
            epoch += 1
        yield queue[:batch_size]
        queue = queue[batch_size:]


def accumulate_gradient(parameters: Sequence[nn.Parameter], documents: Tensor, loss: Loss) -> float:
    """Adds the gradient of the documents' summed loss to the parameters' `grad`, and returns the loss.

    When memory runs out, each half of the documents is tried by itself. Nothing is added twice, because a gradient is
    added only when it is complete.
    """

    def differentiated(part: Tensor) -> tuple[float, tuple[Tensor | None, ...]]:
        value = loss(part)
        return float(value.detach()), torch.autograd.grad(value, parameters, allow_unused=True)

    total = 0.0
    for value, gradients in halved(differentiated, documents):
        total += value
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return total


def check_finite(number: float, what: str) -> None:
    """Raises Diverged unless a number of a training step is finite; otherwise the step would ruin every weight.

    Args:
        number: the loss or the gradient's norm.
        what: the name of the number in the error message.
    """
    if not math.isfinite(number):
        raise Diverged(
            f"{what} must be finite, and is {number}: lower the learning rate of the stage (teacher.learning_rate, "
            "select.learning_rate or joint.learning_rate), or train in float32 (--set compute.dtype=float32)"
        )


@dataclass(frozen=True, slots=True)
class Team:
    """Processes that learn together: each takes a share of a step's documents, and all apply the summed gradient.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes. Several processes form the default group of torch.distributed.
    """

    rank: int = 0
    size: int = 1

    def share(self, documents: Tensor) -> Tensor:
        """Returns this process's share of some documents; it may be empty."""
        return documents[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of the team's values, in place; it is the same in every process."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Replaces each parameter's `grad` by its sum over the team, and returns the loss summed over the team."""
        if self.size == 1:
            return loss
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.sum(torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor([loss])]))
        *parts, total = flat.split([*(p.numel() for p in parameters), 1])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return float(total)

    def agreed(self, wanted: bool, device: torch.device) -> bool:
        """Returns the first process's answer in every process: their clocks differ, and all must do the same.

        Args:
            wanted: this process's answer.
            device: where the team's tensors are.
        """
        if self.size == 1:
            return wanted
        word = torch.tensor(float(wanted), device=device)
        torch.distributed.broadcast(word, src=0)
        return bool(word)


ALONE = Team()
"""The team of a process that learns alone."""


@runtime_checkable
class Keeper(Protocol):
    """Saves the state of a stage from time to time. A process that replaces a dead one continues from that state."""

    def load(self) -> dict[str, Any] | None:
        """Returns the saved state of this stage, or None if there is none."""

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Saves the state after a step, if the last saved one is old enough; `state` is called only then."""


class Learner:
    """The optimiser of a stage, its schedule, and the number of steps that are done.

    If the keeper holds a state, the learner continues from it, as if the process had never stopped.

    Args:
        optimizer: of the weights that learn, at their highest learning rates.
        steps: the number of steps of the stage.
        warm_up: the fraction of the steps in which the learning rate rises; after that it falls to 0.
        keeper: saves states, and may hold the state of a process that died; None saves nothing.
        carried: tensors other than the weights that later steps depend on; they are saved too.
        clock: if its time will be over before the last step, the learning rate has fallen to 0 by then; None has no
            limit.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        steps: int,
        warm_up: float,
        keeper: Keeper | None = None,
        carried: Sequence[Tensor] = (),
        clock: Clock | None = None,
    ) -> None:
        self.optimizer, self.steps, self.step, self._keeper, self._carried = optimizer, steps, 0, keeper, carried
        self._clock = clock or Clock()
        self._began = self._clock.used()
        self._schedule = linear_schedule(optimizer, steps, warm_up, self._time_left)
        if keeper is not None and (state := keeper.load()) is not None:
            self._take_up(state)

    def batches(self, documents: int, batch_size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
        """Yields the number and the documents of each step that is not done yet. The caller then does the step."""
        if self.step < self.steps:
            self._keep()  # the caller may stop after the first step, and never return here
        for step, chosen in enumerate(shuffled_batches(documents, batch_size, self.steps, seed)):
            if step < self.step:
                continue
            yield step, chosen
            self._schedule.step()
            self.step = step + 1
            self._keep()

    def _time_left(self) -> float:
        """Returns the fraction of the stage's time that is left."""
        seconds = self._clock.seconds - self._began
        return max(0.0, self._clock.left() / seconds) if 0 < seconds < math.inf else 1.0

    def _keep(self) -> None:
        if self._keeper is not None:
            self._keeper.keep(self.state)

    def state(self) -> dict[str, Any]:
        """Returns everything that later steps depend on, in types that `torch.load(weights_only=True)` can read."""
        return {
            "step": self.step,
            "steps": self.steps,
            "began": self._began,
            "weights": [weight.detach() for weight in self._weights],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])],
        }

    def _take_up(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for weight, saved in zip(self._weights, state["weights"], strict=True):
                weight.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        cpu, *gpus = state["random"]
        torch.set_rng_state(cpu.cpu())
        if len(gpus) == torch.cuda.device_count():  # on a different machine other random numbers are drawn
            torch.cuda.set_rng_state_all([gpu.cpu() for gpu in gpus])
        self.step, self._began = state["step"], state["began"]

    @property
    def _weights(self) -> list[Tensor]:
        return [*(weight for group in self.optimizer.param_groups for weight in group["params"]), *self._carried]


def step_in_budget(
    optimizer: torch.optim.Optimizer,
    documents: Tensor,
    lengths: Tensor,
    tokens_per_batch: int,
    loss: Loss,
    team: Team = ALONE,
) -> float:
    """Takes one optimiser step on the documents' mean loss, and returns that loss.

    Args:
        optimizer: of the weights that learn.
        documents: the indices of the step's documents, for the whole team.
        lengths: the lengths of all documents of the split, in tokens.
        tokens_per_batch: the largest number of tokens in one pass.
        loss: returns the summed loss of some documents.
        team: the processes that share the step.

    Raises:
        Diverged: The loss or its gradient is not finite. The weights are left as they were.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    total = 0.0
    for part in within_budget(team.share(documents), lengths, tokens_per_batch):
        total += accumulate_gradient(parameters, part, loss)
    total = team.add_up(parameters, total)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.div_(len(documents))
    check_finite(total, "a step's loss")
    check_finite(float(nn.utils.clip_grad_norm_(parameters, 1.0)), "a step's gradient norm")
    optimizer.step()
    return total / len(documents)


def linear_schedule(
    optimizer: torch.optim.Optimizer, steps: int, warm_up: float, time_left: Callable[[], float] = lambda: 1.0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Returns a schedule: linear warm-up over the given fraction of the steps, then linear decay to 0.

    A stage that is cut while its learning rate is high ends with noisy weights. So the decay follows the time, where
    the time will be over before the steps are done.

    Args:
        optimizer: of the weights that learn, at their highest learning rates.
        steps: the number of steps.
        warm_up: the fraction of the steps, and of the time, in which the rate rises.
        time_left: returns the fraction of the stage's time that is left.
    """
    rising = max(1, round(warm_up * steps))

    def factor(step: int) -> float:
        by_steps = (steps - step) / max(1, steps - rising)
        by_time = time_left() / (1 - warm_up)
        return min((step + 1) / rising, max(0.0, by_steps), by_time)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
