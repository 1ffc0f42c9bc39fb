"""Quality, cost and throughput of a model over a split, reduced or not."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from trbert.measure.cost import CostModel, speed_up
from trbert.selection.reduction import ReducedPass, Reducer
from trbert.selection.selectors import Selector
from trbert.shapes import Kept
from trbert.tasks.examples import Examples, Outputs

TOKENS_PER_BATCH = 16384
"""Most tokens at once, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How one model does on one split at one dial.

    Attributes:
        quality: a fraction, of the task's metric.
        speed_up: Σ unreduced FLOPs / Σ reduced FLOPs, without padding.
        kept: fraction of all original tokens left after each point.
        docs_per_second: measured on this machine, tokenisation excluded.
    """

    quality: float
    speed_up: float
    kept: tuple[float, ...]
    docs_per_second: float


def within_budget(
    chosen: Int[Tensor, " chosen"], lengths: Int[Tensor, " examples"], tokens_per_batch: int
) -> Iterator[Tensor]:
    """Yields the examples in their order, at most `tokens_per_batch` tokens (or one example) at a time.

    Args:
        chosen: indices into `lengths`.
        lengths: tokens of every example.
        tokens_per_batch: most tokens at once.
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
    """Yields example indices, longest examples first, at most `tokens_per_batch` tokens (or one example) a batch.

    A packed row needs no equal lengths; the order only brings an out-of-memory error early.
    """
    return within_budget(torch.argsort(lengths, descending=True, stable=True), lengths, tokens_per_batch)


Forward = Callable[[Tensor, Examples], ReducedPass]
"""Runs some examples of a split, given their indices and themselves, through the reduced model."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model says of a split.

    Attributes:
        outputs: of the head, in the split's order.
        decoded: what a user reads of each example.
        kept: tokens of each document left after each point.
        seconds: that the forward passes took.
    """

    outputs: Outputs
    decoded: list[Any]
    kept: Kept
    seconds: float


@torch.inference_mode()
def unreduced_outputs(reducer: Reducer, examples: Examples, tokens_per_batch: int = TOKENS_PER_BATCH) -> Outputs:
    """Returns the plain model's outputs on a split, packed."""
    parts, order = [], []
    for chosen in batches_by_length(examples.lengths, tokens_per_batch):
        part = examples.take(chosen).to(reducer.encoder.device)
        parts.append(reducer.unreduced_outputs(part.tokens).float().cpu())
        order.append(examples.output_rows(chosen))
    return _restored(parts, order)


@torch.no_grad()
def predict(
    reducer: Reducer, forward: Forward, examples: Examples, tokens_per_batch: int = TOKENS_PER_BATCH
) -> Predictions:
    """Returns what the reduced model says of a split."""
    started = time.perf_counter()
    outputs, rows, counts, documents = [], [], [], []
    for chosen in batches_by_length(examples.lengths, tokens_per_batch):
        finished = forward(chosen, examples.take(chosen).to(reducer.encoder.device))
        outputs.append(reducer.outputs(finished).float().cpu())
        rows.append(examples.output_rows(chosen))
        counts.append(finished.kept.cpu().T)
        documents.append(examples.documents(chosen))
    seconds = time.perf_counter() - started
    restored = _restored(outputs, rows)
    decoded = reducer.task.decode(restored, examples)
    return Predictions(restored, decoded, _restored(counts, documents).T, seconds)


def forward_at(reducer: Reducer, selector: Selector, dial: float) -> Forward:
    """Returns what runs examples as the selector decides at one dial."""

    def forward(_: Tensor, part: Examples) -> ReducedPass:
        return reducer.run(selector, part.tokens, dial, part)

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
    """Returns the same for masks that come from elsewhere than a selector's dial; the selector says what they cost."""
    found = predict(reducer, forward, examples, tokens_per_batch)
    lengths = examples.tokens.lengths.cpu()
    flops = cost.reduced(lengths, found.kept, reducer.points, selector)
    return Evaluation(
        quality=reducer.task.quality(found.decoded, examples),
        speed_up=speed_up(cost.unreduced(lengths), flops),
        kept=tuple((found.kept.sum(1) / lengths.sum()).tolist()),
        docs_per_second=len(examples.tokens) / found.seconds,
    )


def evaluate_unreduced(reducer: Reducer, examples: Examples, tokens_per_batch: int = TOKENS_PER_BATCH) -> Evaluation:
    """Returns quality and throughput of the plain model, packed."""
    started = time.perf_counter()
    outputs = unreduced_outputs(reducer, examples, tokens_per_batch)
    seconds = time.perf_counter() - started
    quality = reducer.task.quality(reducer.task.decode(outputs, examples), examples)
    return Evaluation(quality=quality, speed_up=1.0, kept=(), docs_per_second=len(examples.tokens) / seconds)


def _restored(parts: list[Tensor], order: list[Tensor]) -> Tensor:
    """Returns rows in a split's order, each part's being those that `order` names."""
    values = torch.cat(parts)
    restored = torch.empty_like(values)
    restored[torch.cat(order)] = values
    return restored
