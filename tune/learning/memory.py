"""The memory of a search: what its processes need, how many trials fit at once, and whether memory ended a process."""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trbert.errors import InputError
from trbert.measure.halving import is_out_of_memory
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import selector_class
from trbert.tasks.examples import Examples
from tune.learning.steps import autocast
from tune.settings import Settings

PROCESS_BYTES = 5e8
"""The memory of a process that has imported torch, transformers and Ray, and holds no model."""
RAY_BYTES = 3e8
"""The memory of Ray's own processes on a machine."""
RAY_SHARE = 0.05
"""The fraction of a machine's memory that must stay free. Ray ends processes of a machine that has less."""
ALLOCATED = 1.15
"""The memory that a pass takes from the system, as a multiple of the tensors that it keeps for the backward pass.

With a BERT of 6 layers of 384 units, on a processor, passes took 1.10 to 1.15 times as much.
"""
WIDEST = 131072
"""The most tokens of a pass on a GPU: 64 documents of 256 tokens, with 8 trajectories each."""
REMEDY = "--set joint.batch_size=8, --set compute.tokens_per_batch=4096 or a shorter --max-length needs less memory"
"""What a user can do about too little memory."""
_KILLED = ("Worker exit type: SYSTEM_ERROR", "worker process has died", "worker died unexpectedly")
_EVICTED = ("low on memory", "NODE_OUT_OF_MEMORY")
_NODE = ("node has died", "node is dead", "node was terminated", "node died")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The most memory that the processes of a trial need, in bytes.

    Attributes:
        learner: of a process in which the encoder learns.
        sampler: of a process that only runs the encoder, such as a rollout worker.
    """

    learner: float
    sampler: float

    def of_trial(self, workers: int, learners: int) -> float:
        """Returns what the processes of a trial need together.

        Args:
            workers: the number of its rollout workers.
            learners: the number of processes that share its joint stage. If there are several, they are processes of
                their own.
        """
        others = workers + (learners > 1)
        return learners * self.learner + others * self.sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What the memory of a pass depends on.

    Attributes:
        parameters: the number of the encoder's weights, with its head.
        layers: the number of its layers.
        token_bytes: what a pass keeps of each token until the backward pass, in bytes.
        lengths: the number of tokens of each training example, the largest first.
        documents: the number of training documents.
    """

    parameters: int
    layers: int
    token_bytes: float
    lengths: Tensor
    documents: int

    def heaviest(self, together: int, times: int, budget: int) -> int:
        """Returns the most tokens of a pass.

        Args:
            together: about how many documents a step has.
            times: the number of trajectories of each.
            budget: the most tokens of a pass; a single example may have more.
        """
        examples = max(1, round(together * len(self.lengths) / self.documents))
        return times * max(int(self.lengths[0]), min(int(self.lengths[:examples].sum()), budget // times))

    def needs(self, settings: Settings, budget: int) -> Needs:
        """Returns what the processes of a trial need if a pass has at most this many tokens.

        It is PROCESS_BYTES + 4 · 4 · parameters + bytes of a token · tokens. Weights, gradients and the two averages of
        AdamW have four bytes for each parameter. The tokens are those of the heaviest pass, where all trajectories keep
        all tokens. Real trajectories drop tokens, so that they need less. A pass without a backward pass keeps at most
        what one layer keeps.

        Args:
            settings: of the run.
            budget: the most tokens of a pass.
        """
        joint, select = settings.joint, settings.select
        trained = 0
        if joint.documents:
            trained = self.heaviest(joint.batch_size, joint.samples + (joint.fastest > 0), budget)
        if selector_class(settings.selector).relaxed:
            trained = max(trained, self.heaviest(select.documents_of_item("cpu"), select.samples, budget))
        alone = self.token_bytes / self.layers * max(int(self.lengths[0]), min(int(self.lengths.sum()), budget))
        return Needs(
            learner=PROCESS_BYTES + 16 * self.parameters + max(alone, self.token_bytes * trained),
            sampler=PROCESS_BYTES + 4 * self.parameters + alone,
        )


def footprint(reducer: Reducer, taught: Examples, lengths: Tensor, dtype: str) -> Footprint:
    """Returns what the memory of a pass depends on. Passes over the longest document, and over two of it, measure it.

    The difference is what a pass keeps of that document. The rest, such as weights rounded to bfloat16, does not grow.

    Args:
        reducer: the model.
        taught: the training examples as the teacher reads them. It has positions for no longer ones.
        lengths: the number of tokens of each training example, as the trained models read it.
        dtype: arithmetic, as `compute.dtype`.
    """
    longest = taught.tokens.lengths.argmax()
    one, two = (taught.tokens.take(longest.repeat(times)).to(reducer.encoder.device) for times in (1, 2))
    of_one, of_two = (_kept_bytes(reducer, tokens, dtype) for tokens in (one, two))
    return Footprint(
        parameters=sum(each.numel() for each in reducer.encoder.plain.parameters()),
        layers=len(reducer.encoder.layers),
        token_bytes=ALLOCATED * (of_two - of_one) / int(one.lengths.sum()),
        lengths=lengths.cpu().sort(descending=True).values,
        documents=len(taught.tokens),
    )


def _kept_bytes(reducer: Reducer, tokens: Tokens, dtype: str) -> int:
    """Returns the bytes of the tensors that a pass over some documents keeps for the backward pass."""
    kept: dict[int, tuple[int, Tensor]] = {}  # the tensors are held, so that no two have the same address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.enable_grad(), hooks, autocast(reducer.encoder.device, dtype):
        reducer.unreduced_outputs(tokens).sum()
    return sum(size for size, _ in kept.values())


def reserved(total: float, parameters: int) -> float:
    """Returns the bytes of a machine's memory that trials must leave free: for Ray and for what the trials share."""
    return RAY_BYTES + RAY_SHARE * total + 4 * parameters


def fitting(usable: float, trial: float, wanted: int) -> int:
    """Returns how many trials can run at once: those wanted, or fewer if memory is for no more, but at least one.

    Example:
        >>> fitting(usable=5e9, trial=2.3e9, wanted=4)
        2
    """
    return max(1, min(wanted, int(usable // trial)))


def wide_budget(found: Footprint, settings: Settings, crew: tuple[int, int], trials: int, usable: float) -> int:
    """Returns the most tokens of a pass on a GPU: more than elsewhere, if all trials still fit into memory at once.

    A GPU is busy only with many tokens. But to run more trials at once makes it busy, too.

    Args:
        found: what the memory of a pass depends on.
        settings: of the run. If they say how many tokens a pass has at most, it has no more.
        crew: the numbers of rollout workers and of learners of a trial.
        trials: how many trials are to run at once.
        usable: the bytes that trials should take.
    """
    least = budget = settings.compute.tokens_of_pass
    if settings.compute.tokens_per_batch is None:
        budget = WIDEST
    while budget > least and trials * found.needs(settings, budget).of_trial(*crew) > usable:
        budget //= 2
    return budget


def fitting_budget(
    found: Footprint, settings: Settings, budget: int, crew: tuple[int, int], usable: float, free: float
) -> int:
    """Returns the most tokens of a pass with which a trial fits into memory: `budget`, or fewer.

    Args:
        found: what the memory of a pass depends on.
        settings: of the run.
        budget: the tokens that a pass has if memory allows it.
        crew: the numbers of rollout workers and of learners of a trial.
        usable: the bytes that trials should take.
        free: the bytes that are free.

    Raises:
        InputError: Not even a trial with the smallest passes fits into the memory that is free.
    """
    least = found.needs(settings, 1).of_trial(*crew)
    if least > free:
        raise InputError(
            f"a trial needs at least {least / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: cut the "
            "documents shorter (--max-length), use a smaller model or fewer --num-rollout-workers, or free some memory"
        )
    most = usable if least <= usable else free
    while found.needs(settings, budget).of_trial(*crew) > most:
        budget //= 2
    return budget


def let_go() -> None:
    """Returns to the system the memory that this process has freed. The C library would keep most of it."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have no such function
        if trim is not None:
            trim(0)


def memory_ended(error: object) -> str | None:
    """Returns in words how too little memory ended a process, or None if something else ended it.

    Neither the kernel nor Ray says for sure why a process was killed. It is told by the text of Ray's error.

    Args:
        error: what Ray raised, or what the process raised itself.
    """
    text = str(error)
    if any(each in text for each in _EVICTED):
        return "was ended by Ray, because its machine had hardly any memory left"
    if any(each in text for each in _NODE):
        return None
    if any(each in text for each in _KILLED):
        return "was killed, most likely because memory ran out"
    cause: Any = getattr(error, "cause", None) or error
    full = isinstance(cause, BaseException) and is_out_of_memory(cause)
    return "failed because memory ran out" if full else None
