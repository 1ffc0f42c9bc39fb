"""Quality, cost and throughput of a model on a split, reduced or not."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from trbert.measure.cost import CostModel, speed_up
from trbert.measure.halving import halved
from trbert.selection.outputs import Reduced, reduced_outputs
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import Selector
from trbert.shapes import Kept
from trbert.tasks.examples import Examples, Outputs

TOKENS_PER_BATCH = 16384
"""The most tokens of a batch, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured of one model on one split at one dial.

    Attributes:
        quality: the value of the task's metric, from 0 to 1.
        speed_up: Σ unreduced FLOPs / Σ reduced FLOPs, without padding.
        kept: the fraction of all original tokens that were left after each point.
        docs_per_second: the throughput on this machine, without the time for tokenisation.
        decoded: for each example what a user reads. Further measures and intervals are computed from it.
    """

    quality: float
    speed_up: float
    kept: tuple[float, ...]
    docs_per_second: float
    decoded: list[Any] = field(default_factory=list, repr=False, compare=False)


def within_budget(
    chosen: Int[Tensor, " chosen"], lengths: Int[Tensor, " examples"], tokens_per_batch: int
) -> Iterator[Tensor]:
    """Yields the chosen examples in batches, in their order.

    Args:
        chosen: the examples, as indices into `lengths`.
        lengths: the number of tokens of every example.
        tokens_per_batch: the most tokens of a batch. A longer example is a batch of its own.
    """
    start, used = 0, 0
    for end, length in enumerate(lengths[chosen].tolist()):
        if used + length > tokens_per_batch and end > start:
            yield chosen[start:end]
            start, used = end, 0
        used += length
    if start < len(chosen):
        yield chosen[start:]


def batches_by_length(lengths: Int[Tensor, " examples"], tokens_per_batch: int) -> Iterator[Tensor]:
    """Yields all examples in batches, as indices, the longest examples first.

    A packed row does not need documents of equal length. The order only makes an out-of-memory error come early.

    Args:
        lengths: the number of tokens of each example.
        tokens_per_batch: the most tokens of a batch. A longer example is a batch of its own.
    """
    return within_budget(torch.argsort(lengths, descending=True, stable=True), lengths, tokens_per_batch)


Forward = Callable[[Tensor, Examples], Reduced]
"""Runs some examples of a split through the reduced model. It takes their indices in the split, and the examples."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions of a model for a split.

    Attributes:
        outputs: the outputs of the head, in the order of the split.
        decoded: for each example what a user reads, such as its class index.
        kept: the number of tokens of each document that were left after each point.
        seconds: how long the forward passes took.
    """

    outputs: Outputs
    decoded: list[Any]
    kept: Kept
    seconds: float


@torch.inference_mode()
def unreduced_outputs(reducer: Reducer, examples: Examples, tokens_per_batch: int = TOKENS_PER_BATCH) -> Outputs:
    """Returns the outputs of the plain model for a split, computed on packed rows.

    When memory runs out, each half of a batch is tried by itself.

    Raises:
        OutOfMemory: There is too little memory for one document.
    """

    def act(chosen: Tensor) -> tuple[Outputs, Tensor]:
        part = examples.take(chosen).to(reducer.encoder.device)
        return reducer.unreduced_outputs(part.tokens).float().cpu(), examples.output_rows(chosen)

    batches = batches_by_length(examples.lengths, tokens_per_batch)
    parts, order = zip(*(found for chosen in batches for found in halved(act, chosen)), strict=True)
    return _restored(parts, order)


@torch.no_grad()
def predict(
    reducer: Reducer, forward: Forward, examples: Examples, tokens_per_batch: int = TOKENS_PER_BATCH
) -> Predictions:
    """Returns the predictions of the reduced model for a split.

    When memory runs out, each half of a batch is tried by itself.

    Raises:
        OutOfMemory: There is too little memory for one document.
    """
    started = time.perf_counter()

    def act(chosen: Tensor) -> tuple[Outputs, Tensor, Tensor, Tensor]:
        found = forward(chosen, examples.take(chosen).to(reducer.encoder.device))
        outputs, kept = found.outputs.float().cpu(), found.kept.cpu().T
        return outputs, examples.output_rows(chosen), kept, examples.documents(chosen)

    batches = batches_by_length(examples.lengths, tokens_per_batch)
    found = (each for chosen in batches for each in halved(act, chosen))
    outputs, rows, counts, documents = zip(*found, strict=True)
    seconds = time.perf_counter() - started
    restored = _restored(outputs, rows)
    decoded = reducer.task.decode(restored, examples)
    return Predictions(restored, decoded, _restored(counts, documents).T, seconds)


def forward_at(reducer: Reducer, selector: Selector, dial: float) -> Forward:
    """Returns a function that runs examples through the reduced model with a selector at one dial."""

    def forward(_: Tensor, part: Examples) -> Reduced:
        return reduced_outputs(reducer, selector, part.tokens, dial, part)

    return forward


def evaluate(
    reducer: Reducer,
    cost: CostModel,
    selector: Selector,
    examples: Examples,
    dial: float,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Evaluation:
    """Returns quality, cost and throughput of the reduced model at one dial."""
    return evaluate_forward(reducer, cost, selector, examples, forward_at(reducer, selector, dial), tokens_per_batch)


def evaluate_forward(
    reducer: Reducer,
    cost: CostModel,
    selector: Selector,
    examples: Examples,
    forward: Forward,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Evaluation:
    """Returns quality, cost and throughput of the reduced model for any way to run it.

    Args:
        reducer: the model.
        cost: its cost model.
        selector: says which parts of the decision cost something.
        examples: the split.
        forward: runs examples; its masks may come from elsewhere than from the selector at one dial.
        tokens_per_batch: the most tokens of a batch.
    """
    found = predict(reducer, forward, examples, tokens_per_batch)
    lengths = examples.tokens.lengths.cpu()
    flops = cost.reduced(lengths, found.kept, reducer.points, selector)
    return Evaluation(
        quality=reducer.task.quality(found.decoded, examples),
        speed_up=speed_up(cost.unreduced(lengths), flops),
        kept=tuple((found.kept.sum(1) / lengths.sum()).tolist()),
        docs_per_second=len(examples.tokens) / found.seconds,
        decoded=found.decoded,
    )


def evaluate_unreduced(reducer: Reducer, examples: Examples, tokens_per_batch: int = TOKENS_PER_BATCH) -> Evaluation:
    """Returns quality and throughput of the plain model, computed on packed rows."""
    started = time.perf_counter()
    outputs = unreduced_outputs(reducer, examples, tokens_per_batch)
    seconds = time.perf_counter() - started
    decoded = reducer.task.decode(outputs, examples)
    return Evaluation(
        quality=reducer.task.quality(decoded, examples),
        speed_up=1.0,
        kept=(),
        docs_per_second=len(examples.tokens) / seconds,
        decoded=decoded,
    )


def _restored(parts: tuple[Tensor, ...], order: tuple[Tensor, ...]) -> Tensor:
    """Returns all rows in the order of the split. `order` says for each part which rows of the split it holds."""
    values = torch.cat(parts)
    restored = torch.empty_like(values)
    restored[torch.cat(order)] = values
    return restored
