"""Learning on packed documents, step by step: precision, token budget, memory, schedule, what goes on after a death."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from trbert.errors import Diverged, InputError
from trbert.measure.evaluate import within_budget
from trbert.measure.timing import paired_ratio, take_turns

Result = TypeVar("Result")
Progress = Callable[[dict[str, float]], None]
"""Called after each step with what it measured; raises `StageTimeout` to stop."""


class StageTimeout(Exception):
    """The stage has had its time; what it learned so far stands."""


Loss = Callable[[Tensor], Tensor]
"""A function of document indices that returns their *summed* loss."""
_WORTH_ROUNDING = 1.2
"""How many times as fast bfloat16 must be, to be taken unasked."""


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[None]:
    """Returns the context in which training runs: bfloat16 where asked for, or where "auto" finds it the faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, dtype))


def uses_bfloat16(device: torch.device, dtype: str) -> bool:
    """Returns whether `autocast` takes bfloat16."""
    return dtype == "bfloat16" or (dtype == "auto" and has_fast_bfloat16(device))


@cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Returns whether the device multiplies bfloat16 matrices faster than float32 ones; a processor is timed, once.

    That a processor has instructions for it does not tell: with AVX-512's dot products a product took a third of the
    time of a float32 one on a Zen 5, and 1.7 times as long on an Emerald Rapids whose AMX a virtual machine hid.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    found = torch.cpu.get_capabilities()
    if not (found.get("amx_bf16", False) or found.get("avx512_bf16", False)):
        return False  # without them torch converts to float32 and back
    return bfloat16_speed_up() > _WORTH_ROUNDING


def bfloat16_speed_up() -> float:
    """Returns how many times as fast a product of matrices of training's size is in bfloat16, in paired turns."""

    def product(dtype: torch.dtype) -> Callable[[], object]:
        return partial(nn.functional.linear, torch.ones(512, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype))

    runs = {"float32": [product(torch.float32)], "bfloat16": [product(torch.bfloat16)]}
    with torch.autocast("cpu", enabled=False), torch.inference_mode():
        seconds = take_turns(runs, 8, torch.device("cpu"))
    return paired_ratio(seconds["float32"], seconds["bfloat16"]).median


def pick_device(name: str) -> torch.device:
    """Returns the named device; "auto" is the first GPU where there is one.

    Raises:
        InputError: It is a GPU, and torch finds none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"compute.device is {name}, which torch must find, and it finds no GPU here: install a torch with CUDA and "
            "its driver, or set compute.device=cpu"
        )
    return torch.device(name)


def shuffled_batches(documents: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yields `steps` batches of document indices, every document once an epoch, in an order of its own each epoch."""
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
    """Adds the gradient of the summed loss to the parameters' `grad`, and returns the loss.

    When memory runs out the documents are halved; nothing is added twice, since a gradient is added whole or not
    at all.
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


def halved(act: Callable[[Tensor], Result], documents: Tensor) -> Iterator[Result]:
    """Yields what an act makes of some documents: of all at once, or of halves of them where memory runs out."""
    found = _attempt(act, documents)
    if found is not None:
        yield found[0]
        return
    torch.cuda.empty_cache()
    middle = len(documents) // 2
    yield from halved(act, documents[:middle])
    yield from halved(act, documents[middle:])


def _attempt(act: Callable[[Tensor], Result], documents: Tensor) -> tuple[Result] | None:
    """Returns the result, or None where memory ran out and the documents can be halved.

    They are halved by the caller: where the error is caught it still holds all that the attempt had computed.
    """
    try:
        return (act(documents),)
    except torch.OutOfMemoryError:
        if len(documents) == 1:
            raise
        return None


def check_finite(number: float, what: str) -> None:
    """Raises Diverged unless a number of a training step is finite: a step along it would ruin every weight."""
    if not math.isfinite(number):
        raise Diverged(
            f"{what} must be finite, and is {number}: lower the learning rate, or train in float32 "
            "(--set compute.dtype=float32)"
        )


@dataclass(frozen=True, slots=True)
class Team:
    """Processes that learn as one: each takes its share of a step's documents, and all step along the whole gradient.

    Attributes:
        rank: of this process.
        size: processes; of more than one, torch.distributed's default group is the team.
    """

    rank: int = 0
    size: int = 1

    def share(self, documents: Tensor) -> Tensor:
        """Returns this process's part of some documents, which may be none."""
        return documents[self.rank :: self.size]

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Puts the team's summed gradient into each parameter's `grad`, and returns its summed loss."""
        if self.size == 1:
            return loss
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor([loss])])
        torch.distributed.all_reduce(flat)
        *parts, total = flat.split([*(p.numel() for p in parameters), 1])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return float(total)

    def agreed(self, wanted: bool, device: torch.device) -> bool:
        """Returns what the first process wants: clocks differ, and all must do the same."""
        if self.size == 1:
            return wanted
        word = torch.tensor(float(wanted), device=device)
        torch.distributed.broadcast(word, src=0)
        return bool(word)


ALONE = Team()


@runtime_checkable
class Keeper(Protocol):
    """Where a stage leaves its state now and then, so that a process started after its death goes on from there."""

    def load(self) -> dict[str, Any] | None:
        """Returns the state that this stage left, if it left one."""

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Takes the state after a step, if it is time to."""


class Learner:
    """An optimiser, its schedule, and the steps taken: what it left with a keeper goes on as if nothing had happened.

    Args:
        optimizer: of the weights that learn, at their highest learning rates.
        steps: of the stage.
        warm_up: share of them in which the learning rate rises; then it falls to 0.
        keeper: may hold the state of a process that died, which is taken up here; None keeps nothing.
        carried: tensors beside the weights that the steps to come depend on.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        steps: int,
        warm_up: float,
        keeper: Keeper | None = None,
        carried: Sequence[Tensor] = (),
    ) -> None:
        self.optimizer, self.steps, self.step, self._keeper, self._carried = optimizer, steps, 0, keeper, carried
        self._schedule = linear_schedule(optimizer, steps, warm_up)
        if keeper is not None and (state := keeper.load()) is not None:
            self._take_up(state)

    def batches(self, documents: int, batch_size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
        """Yields the number and the documents of each step still to come; the step is whatever is done with them."""
        if self.step < self.steps:
            self._keep()  # it may be stopped after its first step, and not come back here
        for step, chosen in enumerate(shuffled_batches(documents, batch_size, self.steps, seed)):
            if step < self.step:
                continue
            yield step, chosen
            self._schedule.step()
            self.step = step + 1
            self._keep()

    def _keep(self) -> None:
        if self._keeper is not None:
            self._keeper.keep(self.state)

    def state(self) -> dict[str, Any]:
        """Returns all that the steps still to come depend on, in what `torch.load(weights_only=True)` reads."""
        return {
            "step": self.step,
            "steps": self.steps,
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
        if len(gpus) == torch.cuda.device_count():  # else it goes on elsewhere, with other numbers
            torch.cuda.set_rng_state_all([gpu.cpu() for gpu in gpus])
        self.step = state["step"]

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
    """Takes one optimiser step on the documents' mean loss, and returns it.

    Args:
        optimizer: of the weights that learn.
        documents: of the step, for the whole team.
        lengths: of all documents, in tokens.
        tokens_per_batch: most tokens at once.
        loss: summed over documents.
        team: shares the documents out.

    Raises:
        Diverged: The loss or its gradient is not finite; the weights are as they were.
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


def linear_schedule(optimizer: torch.optim.Optimizer, steps: int, warm_up: float) -> torch.optim.lr_scheduler.LambdaLR:
    """Returns a schedule: linear warm-up over the given share of the steps, then linear decay to 0."""
    rising = max(1, round(warm_up * steps))

    def factor(step: int) -> float:
        return min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
