"""Selectors: they decide which tokens go on. `policy` and `gumbel` learn; the others are rules.

A selector is deterministic: its decision about a document depends on that document alone. It has one dial. For a
selector that learns, the dial is an offset on the keep logits. For a rule, the dial is the fraction of a document's
original tokens that is left after the last reduction point. A new selector is one class in this file.
"""

import math
from abc import ABC, abstractmethod
from numbers import Real
from typing import ClassVar, Literal

import torch

from trbert.errors import InputError
from trbert.keyed import keyed_uniform
from trbert.packed.batch import PackedBatch
from trbert.selection.policy import Policy
from trbert.shapes import DocFloat, TokenFloat, TokenMask

Evidence = Literal["attention", "saliency"]
"""What a rule may read of each token: the attention that it received in the layer before, or its saliency."""


SELECTORS: dict[str, type["Selector"]] = {}
"""Every selector by its name, in the order in which they are defined."""


class Selector(ABC):
    """Decides at a reduction point which of the remaining tokens go on.

    A subclass that sets `name` is added to `SELECTORS`.

    Attributes:
        name: its name in settings, results and checkpoints.
        learns: whether policy heads decide. The select stage trains them, and the cost model counts them.
        relaxed: whether its heads learn by gradients through relaxed masks. Otherwise they learn from rewards.
        needs: what it reads beside the states: "attention", which its cost includes; "saliency", for which the targets
            must be known; or None.
        first_point: the first layer on whose input it can drop tokens.
        dials: settings of the dial that cover its front, the cheapest first.
        keep_all: the dial at which it keeps every token.
        default_dial: the dial where the user sets none.

    Args:
        policy: the heads of a selector that learns. For a rule, a policy without heads.
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

    def check_dial(self, dial: object) -> None:
        """Checks that the selector takes this dial.

        Raises:
            InputError: The dial is no number, or is not finite.
        """
        if not isinstance(dial, Real) or not math.isfinite(dial):
            raise InputError(
                f"the dial of {self.name!r} must be a finite number, and is {dial!r}: its default is "
                f"{self.default_dial:g}"
            )

    @abstractmethod
    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dials: DocFloat, evidence: TokenFloat | None
    ) -> TokenMask:
        """Returns the keep mask (True = keep) of the tokens that enter a reduction point.

        Args:
            batch: the remaining tokens.
            point: the number of the reduction point; 0 is the first.
            num_points: the number of reduction points.
            dials: the dial of each document.
            evidence: for each token the value that `needs` names; None where it names none.
        """


class PolicySelector(Selector):
    """Keeps a token whose keep logit, dial included, is at least 0: its probability is one half or more."""

    name = "policy"
    learns = True
    # The dials in the middle are half a nat apart. After minutes of training a policy is unsure, so its logits are
    # small, and two nats of dial take it from a speed-up of 2 to one of 8. A long joint stage makes the policy
    # confident, so its logits are large. The dials at both ends are there for such models: after 32,000 documents, a
    # dial of +6 still ran more than twice as fast as the unreduced model, and a policy for answers in texts kept nearly
    # all tokens at a dial of -5.
    dials = (-24.0, -16.0, -11.0, -8.0, *(step / 2 for step in range(-10, 13)), 8.0, 11.0, 16.0, 24.0)
    keep_all = 1000.0  # far above the size of any logit
    default_dial = 0.0

    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dials: DocFloat, evidence: TokenFloat | None
    ) -> TokenMask:
        """Returns the mask logit ≥ 0, with all protected tokens kept."""
        return (self.policy.logits(batch, point, dials[None])[0] >= 0) | batch.protected


class GumbelSelector(PolicySelector):
    """Decides as `PolicySelector`, but its heads learn by gradients through relaxed masks.

    Transkimmer (Guan et al., ACL 2022) learns in this way.
    """

    name = "gumbel"
    relaxed = True


class CountSelector(Selector):
    """Keeps the k tokens of each document that have the highest scores: k = ⌈dial^((t+1)/T) · n⌉ at point t of T.

    n is the document's original length. The kept fraction falls by the same factor at each point, and is `dial` after
    the last one.
    """

    dials = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75)
    keep_all = 1.0
    default_dial = 0.1

    def check_dial(self, dial: object) -> None:
        """Checks that the dial is a fraction.

        Raises:
            InputError: The dial is no number, or is not from 0 to 1.
        """
        if not isinstance(dial, Real) or not 0 <= float(dial) <= 1:
            raise InputError(
                f"the dial of {self.name!r} must be a fraction of a document's tokens from 0 to 1, and is {dial!r}: "
                f"its default is {self.default_dial:g}"
            )

    @abstractmethod
    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns a score for each token. Scores are compared within a document only; the highest are kept."""

    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dials: DocFloat, evidence: TokenFloat | None
    ) -> TokenMask:
        """Returns a mask that keeps the highest scores of each document. Protected tokens are kept in any case."""
        fractions = dials.double() ** ((point + 1) / num_points)
        # 0.3 · 50 tokens are 15. Rounding errors may make it a little more than 15, which must not become 16.
        wanted = (fractions * batch.original_lengths.double() - 1e-4).ceil().long()
        scores = self.scores(batch, evidence).masked_fill(batch.protected, torch.inf)
        return (rank_in_document(batch, scores) < wanted[batch.documents]) | batch.protected


class FirstSelector(CountSelector):
    """Keeps the first tokens of the text."""

    name = "first"

    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns minus the position of each token."""
        return -batch.positions.float()


class RandomSelector(CountSelector):
    """Keeps tokens at random positions. The positions do not change from point to point."""

    name = "random"

    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns random numbers that depend on the document's length and the token's position alone."""
        return keyed_uniform(batch.original_lengths[batch.documents], batch.positions)


class AttentionSelector(CountSelector):
    """Keeps the tokens that received the most attention in the layer before, as PoWER-BERT (Goyal et al. 2020) does."""

    name = "attention"
    needs = "attention"
    first_point = 1  # before layer 0 there is no attention

    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns the attention that each token received."""
        if evidence is None:
            raise InputError("the attention rule needs a layer before its first reduction point: use points >= 1")
        return evidence


class SaliencySelector(CountSelector):
    """Keeps the tokens that matter most to the loss against the true target.

    It is an upper reference only. It cannot be deployed, because in use there is no target.
    """

    name = "saliency"
    needs = "saliency"

    def scores(self, batch: PackedBatch, evidence: TokenFloat | None) -> TokenFloat:
        """Returns the saliency of each token (`trbert.selection.saliency`)."""
        if evidence is None:
            raise InputError(
                "the saliency rule needs the documents' labels, and there are none: use another selector, for this one "
                "serves as a reference only"
            )
        return evidence


def selector_of(name: str, policy: Policy) -> Selector:
    """Returns the selector of this name.

    Args:
        name: one of `SELECTORS`.
        policy: the heads of a selector that learns. A rule does not read it.

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
    """Returns the rules that need neither training nor targets, so that they work on any model."""
    nothing = Policy(1, 0)
    return [rule(nothing) for rule in SELECTORS.values() if not rule.learns and rule.needs != "saliency"]


def points_for(selector: type[Selector] | Selector, points: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the reduction points for a selector: each point before its `first_point` is moved there.

    Example:
        >>> points_for(AttentionSelector, (0, 3))
        (1, 3)
    """
    return tuple(sorted({max(selector.first_point, point) for point in points}))


def rank_in_document(batch: PackedBatch, scores: TokenFloat) -> torch.Tensor:
    """Returns the rank of each token within its document; 0 has the highest score. Equal scores keep their order.

    Example:
        >>> from trbert.packed.batch import start_batch
        >>> from trbert.packed.tokens import Tokens
        >>> batch = start_batch(Tokens.from_lists([[7, 8], [9]], None), torch.zeros(3, 4))
        >>> rank_in_document(batch, torch.tensor([1.0, 3.0, 2.0]))
        tensor([1, 0, 0])
    """
    by_score = torch.argsort(scores, descending=True, stable=True)
    order = by_score[torch.argsort(batch.documents[by_score], stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(order.numel(), device=order.device)
    return ranks - batch.offsets[:-1][batch.documents]
