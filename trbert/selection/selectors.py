"""What decides which tokens go on: policy, gumbel, and the rules first, random, attention, saliency.

A selector is deterministic: what it decides for a document depends on that document alone. It has one dial. For a
selector that learns, the dial is an offset on the keep logits. For a rule, which counts, the dial is the fraction of
the original tokens that is left after the last reduction point. A new selector is one class in this file.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch

from trbert.errors import InputError
from trbert.keyed import keyed_uniform
from trbert.packed.batch import PackedBatch
from trbert.selection.policy import Policy
from trbert.shapes import DocFloat, TokenFloat, TokenMask

Evidence = Literal["attention", "saliency"]
"""What a rule reads beside the states: attention received in the layer before, or the saliency of each token."""


SELECTORS: dict[str, type["Selector"]] = {}
"""Every selector by its name, in the order in which they are defined."""


class Selector(ABC):
    """Decides, at a reduction point, which of the remaining tokens go on. A class with a name joins `SELECTORS`.

    Attributes:
        name: as results and checkpoints call it.
        learns: its decisions come from policy heads, which it pays for and which the select stage trains.
        relaxed: its heads learn by gradients through relaxed masks, not from rewards.
        needs: evidence that it reads: attention, which is charged for; or saliency, which needs the targets.
        first_point: the first layer at which it can stand.
        dials: settings, cheapest first, that cover its own front.
        keep_all: the dial at which it keeps every token.
        default_dial: where it stands unless told otherwise.

    Args:
        policy: the heads of a selector that learns; without heads for a rule.
    """

    name: ClassVar[str]
    learns: ClassVar[bool] = False
    relaxed: ClassVar[bool] = False
    needs: ClassVar[Evidence | None] = None
    first_point: ClassVar[int] = 0
    dials: ClassVar[tuple[float, ...]]
    keep_all: ClassVar[float]
    default_dial: ClassVar[float]

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            SELECTORS[cls.name] = cls

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def check_dial(self, dial: float) -> None:
        """Raises InputError unless the rule can stand at this dial."""
        if not math.isfinite(dial):
            raise InputError(
                f"the dial of {self.name!r} must be a finite number, and is {dial!r}: its default is "
                f"{self.default_dial:g}"
            )

    @abstractmethod
    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dials: DocFloat, evidence: TokenFloat | None
    ) -> TokenMask:
        """Returns the keep mask (True = keep) of the tokens entering reduction point `point`.

        Args:
            batch: the remaining tokens.
            point: which reduction point, 0 the first.
            num_points: how many there are.
            dials: the rule's dial, one a document.
            evidence: what the rule needs of each token.
        """


class PolicySelector(Selector):
    """Keeps a token whose learned logit, dial included, is at least 0 (probability one half)."""

    name = "policy"
    learns = True
    # Steps of half a nat. A policy that was trained for minutes is unsure: it goes from 2x to 8x within two nats.
    # A long joint stage makes the policy confident, so its logits are large. The last dials are there for such models:
    # after 32,000 documents, a dial of +6 still ran more than twice as fast as the unreduced model.
    dials = (*(step / 2 for step in range(-10, 13)), 8.0, 11.0, 16.0, 24.0)
    keep_all = 1000.0  # no logit comes near
    default_dial = 0.0

    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dials: DocFloat, evidence: TokenFloat | None
    ) -> TokenMask:
        """Returns σ(logit) ≥ ½, protected tokens kept."""
        return (self.policy.logits(batch, point, dials[None])[0] >= 0) | batch.protected


class GumbelSelector(PolicySelector):
    """The same heads, learned by gradients through relaxed masks as in Transkimmer (Guan et al., ACL 2022)."""

    name = "gumbel"
    relaxed = True


class CountSelector(Selector):
    """Keeps the k highest scores of each document, k = ⌈dial^((t+1)/T) · n⌉ at point t of T, n its original length.

    So the kept fraction falls by the same factor at each point, to `dial` after the last.
    """

    dials = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75)
    keep_all = 1.0
    default_dial = 0.1

    def check_dial(self, dial: float) -> None:
        """Raises InputError unless the dial is a fraction."""
        if not 0 <= dial <= 1:
            raise InputError(
                f"the dial of {self.name!r} must be a fraction of a document's tokens from 0 to 1, and is {dial!r}: "
                f"its default is {self.default_dial:g}"
            )

    @abstractmethod
    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns how much each token is worth keeping, compared within its document only."""

    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dials: DocFloat, evidence: TokenFloat | None
    ) -> TokenMask:
        """Returns the mask of each document's highest scores; protected tokens come first, however few are wanted."""
        fractions = dials.double() ** ((point + 1) / num_points)
        # Less a hair: 0.3 · 50 tokens are 15, and rounding must not make them 16.
        wanted = (fractions * batch.original_lengths.double() - 1e-4).ceil().long()
        scores = self.scores(batch, evidence).masked_fill(batch.protected, torch.inf)
        return (rank_in_document(batch, scores) < wanted[batch.documents]) | batch.protected


class FirstSelector(CountSelector):
    """Keeps the first tokens of the text."""

    name = "first"

    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns minus the position."""
        return -batch.positions.float()


class RandomSelector(CountSelector):
    """Keeps tokens at random places, the same ones at every point."""

    name = "random"

    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns numbers keyed by the document's length and the token's position."""
        return keyed_uniform(batch.original_lengths[batch.documents], batch.positions)


class AttentionSelector(CountSelector):
    """Keeps the tokens that received most attention in the layer before, as PoWER-BERT does (Goyal et al. 2020)."""

    name = "attention"
    needs = "attention"
    first_point = 1  # attention exists from layer 1 on

    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns the attention received."""
        if evidence is None:
            raise InputError("the attention rule needs a layer before its first reduction point: use points >= 1")
        return evidence


class SaliencySelector(CountSelector):
    """Keeps the tokens that matter most to the loss of the *label*: an upper reference, which nobody can deploy."""

    name = "saliency"
    needs = "saliency"

    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns the first-order change of the loss if a token stopped here (`trbert.selection.saliency`)."""
        if evidence is None:
            raise InputError("the saliency rule needs the documents' labels, and there are none: it is for reference")
        return evidence


def selector_of(name: str, policy: Policy) -> Selector:
    """Returns the selector of this name; those that learn decide by the policy.

    Raises:
        InputError: There is no such selector.
    """
    return selector_class(name)(policy)


def selector_class(name: str) -> type[Selector]:
    """Returns the class of the selector of this name.

    Raises:
        InputError: There is no such selector.
    """
    if name not in SELECTORS:
        raise InputError(f"selector must be one of {', '.join(SELECTORS)}, and is {name!r}: 'policy' is the default")
    return SELECTORS[name]


def free_selectors() -> list[Selector]:
    """Returns the rules that need neither training nor targets: a user could have them today."""
    nothing = Policy(1, 0)
    return [rule(nothing) for rule in SELECTORS.values() if not rule.learns and rule.needs != "saliency"]


def points_for(selector: type[Selector] | Selector, points: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the reduction points at which a selector can stand."""
    return tuple(sorted({max(selector.first_point, point) for point in points}))


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
