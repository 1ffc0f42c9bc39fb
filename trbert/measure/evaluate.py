"""Quality, cost and throughput of a model over a split, reduced or not."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from trbert.encoder import Encoder
from trbert.measure.cost import CostModel, speed_up
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reduced, reduced_forward
from trbert.selection.selectors import Selector
from trbert.shapes import DocIndex, Kept, Logits
from trbert.tasks.classification import accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How one model does on one split at one dial.

    Attributes:
        quality: accuracy, a fraction.
        speed_up: Σ unreduced FLOPs / Σ reduced FLOPs, without padding.
        kept: fraction of all original tokens left after each point.
        docs_per_second: measured on this machine, tokenisation excluded.
    """

    quality: float
    speed_up: float
    kept: tuple[float, ...]
    docs_per_second: float


def within_budget(documents: Tensor, lengths: DocIndex, tokens_per_batch: int) -> Iterator[Tensor]:
    """Yields the documents in their order, at most `tokens_per_batch` tokens (or one document) at a time.

    Args:
        documents: indices into `lengths`.
        lengths: tokens of every document.
        tokens_per_batch: most tokens at once.
    """
    start, used = 0, 0
    for end, length in enumerate(lengths[documents].tolist()):
        if used + length > tokens_per_batch and end > start:
            yield documents[start:end]
            start, used = end, 0
        used += length
    if start < len(documents):
        yield documents[start:]


def batches_by_length(lengths: DocIndex, tokens_per_batch: int) -> Iterator[Tensor]:
    """Yields document indices, longest documents first, at most `tokens_per_batch` tokens (or one document) a batch.

    A packed row needs no equal lengths; the order only brings an out-of-memory error early.
    """
    return within_budget(torch.argsort(lengths, descending=True, stable=True), lengths, tokens_per_batch)


@torch.inference_mode()
def unreduced_logits(encoder: Encoder, tokens: Tokens, tokens_per_batch: int = 16384) -> Logits:
    """Returns the plain model's logits of every document, packed."""
    parts, order = [], []
    for documents in batches_by_length(tokens.lengths, tokens_per_batch):
        parts.append(encoder.unreduced_logits(tokens.take(documents).to(encoder.device)).float().cpu())
        order.append(documents)
    return _restore(parts, order)


Forward = Callable[[Tensor], Reduced]
"""Runs the documents of these indices through the reduced model."""


@torch.no_grad()
def reduced_logits(
    encoder: Encoder, forward: Forward, lengths: DocIndex, tokens_per_batch: int = 16384
) -> tuple[Logits, Kept]:
    """Returns the reduced model's logits of every document, and its kept counts [points, docs]."""
    parts, counts, order = [], [], []
    for documents in batches_by_length(lengths, tokens_per_batch):
        reduced = forward(documents)
        parts.append(encoder.logits(reduced.batch).float().cpu())
        counts.append(reduced.kept.cpu().T)
        order.append(documents)
    return _restore(parts, order), _restore(counts, order).T


def forward_at(
    encoder: Encoder, selector: Selector, tokens: Tokens, labels: DocIndex, points: tuple[int, ...], dial: float
) -> Forward:
    """Returns what runs documents of a split as the selector decides at one dial."""

    def forward(documents: Tensor) -> Reduced:
        part, gold = tokens.take(documents).to(encoder.device), labels[documents].to(encoder.device)
        return reduced_forward(encoder, selector, part, points, dial, gold)

    return forward


def evaluate(
    encoder: Encoder,
    cost: CostModel,
    selector: Selector,
    tokens: Tokens,
    labels: DocIndex,
    points: tuple[int, ...],
    dial: float,
    tokens_per_batch: int = 16384,
) -> Evaluation:
    """Returns quality, cost and throughput of the reduced model at one dial."""
    forward = forward_at(encoder, selector, tokens, labels, points, dial)
    return evaluate_forward(encoder, cost, forward, tokens, labels, points, selector.name, tokens_per_batch)


def evaluate_forward(
    encoder: Encoder,
    cost: CostModel,
    forward: Forward,
    tokens: Tokens,
    labels: DocIndex,
    points: tuple[int, ...],
    selector_name: str,
    tokens_per_batch: int = 16384,
) -> Evaluation:
    """Returns the same for masks that come from elsewhere than a selector's dial; its name says what they cost."""
    started = time.perf_counter()
    logits, kept = reduced_logits(encoder, forward, tokens.lengths, tokens_per_batch)
    seconds = time.perf_counter() - started
    lengths = tokens.lengths.cpu()
    flops = cost.reduced(lengths, kept, points, selector_name)
    return Evaluation(
        quality=accuracy(logits, labels),
        speed_up=speed_up(cost.unreduced(lengths), flops),
        kept=tuple((kept.sum(1) / lengths.sum()).tolist()),
        docs_per_second=len(tokens) / seconds,
    )


def evaluate_unreduced(encoder: Encoder, tokens: Tokens, labels: DocIndex, tokens_per_batch: int = 16384) -> Evaluation:
    """Returns quality and throughput of the plain model, packed."""
    started = time.perf_counter()
    logits = unreduced_logits(encoder, tokens, tokens_per_batch)
    seconds = time.perf_counter() - started
    return Evaluation(quality=accuracy(logits, labels), speed_up=1.0, kept=(), docs_per_second=len(tokens) / seconds)


def _restore(parts: list[Tensor], order: list[Tensor]) -> Shaped[Tensor, "docs columns"]:
    values = torch.cat(parts)
    restored = torch.empty_like(values)
    restored[torch.cat(order)] = values
    return restored
