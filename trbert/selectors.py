"""The family of rules that decide which tokens go on: first, random, attention, policy.

A rule is deterministic: what it decides for a document depends on that document alone. It has one dial: for the
policy an offset on the keep logits, for the others (which count) the fraction of the original tokens that is left
after the last reduction point. A new rule is one class and one line in `FREE_SELECTORS` or the caller.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from trbert.errors import InputError
from trbert.keyed import keyed_uniform
from trbert.packed import PackedBatch
from trbert.policy import Policy
from trbert.shapes import TokenFloat, TokenMask


class Selector(ABC):
    """Decides, at a reduction point, which of the remaining tokens go on.

    Attributes:
        name: as results and checkpoints call it.
        needs_attention: the rule reads the attention received in the layer before, which it is charged for.
        dials: settings, cheapest first, that cover the rule's own front.
    """

    name: ClassVar[str]
    needs_attention: ClassVar[bool] = False
    dials: ClassVar[tuple[float, ...]]

    @abstractmethod
    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dial: float, received: TokenFloat | None
    ) -> TokenMask:
        """Returns the keep mask (True = keep) of the tokens entering reduction point `point`.

        Args:
            batch: the remaining tokens.
            point: which reduction point, 0 the first.
            num_points: how many there are.
            dial: the rule's dial.
            received: attention received in the layer before, where the rule needs it.
        """


class PolicySelector(Selector):
    """Keeps a token whose learned logit plus the dial is at least 0 (probability one half)."""

    name = "policy"
    dials = tuple(step / 2 for step in range(-10, 7))

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dial: float, received: TokenFloat | None
    ) -> TokenMask:
        """Returns σ(logit + dial) ≥ ½, protected tokens kept."""
        return (self.policy.logits(batch, point) + dial >= 0) | batch.protected


class CountSelector(Selector):
    """Keeps the k highest scores of each document, k = ⌈dial^((t+1)/T) · n⌉ at point t of T, n its original length.

    So the kept fraction falls by the same factor at each point, to `dial` after the last.
    """

    dials = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75)

    @abstractmethod
    def scores(self, batch: PackedBatch, point: int, received: TokenFloat | None) -> TokenFloat:
        """Returns how much each token is worth keeping, compared within its document only."""

    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dial: float, received: TokenFloat | None
    ) -> TokenMask:
        """Returns the mask of each document's highest scores; protected tokens come first, however few are wanted."""
        fraction = dial ** ((point + 1) / num_points)
        # Less a hair: 0.3 · 50 tokens are 15, and rounding must not make them 16.
        wanted = (fraction * batch.original_lengths.double() - 1e-6).ceil().long()
        scores = self.scores(batch, point, received).masked_fill(batch.protected, torch.inf)
        return (rank_in_document(batch, scores) < wanted[batch.documents]) | batch.protected


class FirstSelector(CountSelector):
    """Keeps the first tokens of the text."""

    name = "first"

    def scores(self, batch: PackedBatch, point: int, received: TokenFloat | None) -> TokenFloat:
        """Returns minus the position."""
        return -batch.positions.float()


class RandomSelector(CountSelector):
    """Keeps tokens at random places, the same ones at every point."""

    name = "random"

    def scores(self, batch: PackedBatch, point: int, received: TokenFloat | None) -> TokenFloat:
        """Returns numbers keyed by the document's length and the token's position."""
        return keyed_uniform(batch.original_lengths[batch.documents], batch.positions)


class AttentionSelector(CountSelector):
    """Keeps the tokens that received most attention in the layer before, as PoWER-BERT does (Goyal et al. 2020)."""

    name = "attention"
    needs_attention = True

    def scores(self, batch: PackedBatch, point: int, received: TokenFloat | None) -> TokenFloat:
        """Returns the attention received."""
        if received is None:
            raise InputError("the attention rule needs a layer before its first reduction point: use points >= 1")
        return received


FREE_SELECTORS: tuple[Selector, ...] = (FirstSelector(), RandomSelector(), AttentionSelector())


def points_for(selector: Selector, points: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the reduction points at which a rule can stand: attention exists from layer 1 on."""
    if not selector.needs_attention:
        return points
    return tuple(sorted({max(1, point) for point in points}))


def rank_in_document(batch: PackedBatch, scores: TokenFloat) -> torch.Tensor:
    """Returns each token's rank within its document by falling score, 0 the highest; ties keep their order.

    Example:
        two documents with scores (1, 3) and (2,) have ranks (1, 0) and (0,).
    """
    by_score = torch.argsort(scores, descending=True, stable=True)
    order = by_score[torch.argsort(batch.documents[by_score], stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(order.numel(), device=order.device)
    return ranks - batch.offsets[:-1][batch.documents]
