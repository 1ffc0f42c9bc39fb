"""The decision process: reset, transition, reward. Pure functions over packed batches (DESIGN.md section 5)."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.cost import CostModel
from trbert.measure.latency import LatencyTable
from trbert.packed.batch import PackedBatch
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import advance, check_points, enter
from trbert.shapes import DocFloat, DocIndex, Kept, Logits, SampleMasks
from trbert.tasks.classification import gold_log_likelihood

Price = Literal["flops", "latency", "tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerms:
    """What a trajectory is paid for.

    Attributes:
        penalty: λ, the price of cost, in nats per unreduced document.
        keep_ratios: ρ_t, fractions of the original tokens that each point may keep free of charge.
        price: "flops" charges each stage's share of the document's FLOPs; "latency" its share of the document's time,
            as measured; "tokens" the kept fraction, every point alike, as the paper does.
        latency: the measured times, where they are the price.

    Raises:
        InputError: A penalty below 0, a ratio that is no fraction, or a price of time without a table.
    """

    penalty: float
    keep_ratios: tuple[float, ...]
    price: Price = "flops"
    latency: LatencyTable | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < math.inf:
            raise InputError(f"penalty must be 0 or more nats, and is {self.penalty}: the task's own is 1 at most")
        if not all(0 <= ratio <= 1 for ratio in self.keep_ratios):
            raise InputError(f"keep_ratios must be fractions from 0 to 1, and are {self.keep_ratios}: 0 frees nothing")
        if self.price == "latency" and self.latency is None:
            raise InputError("price 'latency' needs a latency table, and there is none: measure or load one")


@dataclass(frozen=True, slots=True)
class State:
    """Trajectories on their way: one document of the batch is one trajectory.

    Attributes:
        batch: states entering the reduction point `point`, or finished ones.
        point: which decision comes next, 0 the first; `len(points)` when the episode is over.
        kept: tokens of each trajectory left after each past point.
    """

    batch: PackedBatch
    point: int
    kept: Kept


@dataclass(frozen=True, slots=True)
class Dynamics:
    """The environment's laws: a frozen encoder, where tokens may be dropped, and what is paid.

    The encoder's mode is the caller's: in evaluation mode a document's rewards differ by its actions alone.
    """

    encoder: Encoder
    points: tuple[int, ...]
    terms: RewardTerms
    cost: CostModel
    num_points: int = field(init=False)

    def __post_init__(self) -> None:
        check_points(self.points, len(self.encoder.layers))
        if len(self.terms.keep_ratios) != len(self.points):
            raise InputError(
                f"keep_ratios must be one for each of the points {self.points}, and are {self.terms.keep_ratios}: "
                "give as many ratios as points"
            )
        table, layers = self.terms.latency, len(self.encoder.layers)
        if table is not None and table.layers != layers:
            raise InputError(
                f"a latency table must be of a model of {layers} layers, and is of one of {table.layers}: "
                "pass the table of this model, or let it be measured"
            )
        object.__setattr__(self, "num_points", len(self.points))

    def reset(self, tokens: Tokens) -> State:
        """Returns the states entering the first reduction point."""
        batch = enter(self.encoder, tokens, self.points)
        return State(batch, 0, batch.lengths.new_zeros(0, len(batch)))

    def transition(self, state: State, masks: SampleMasks, gates: Float[Tensor, " kept"] | None = None) -> State:
        """Returns what the masks (True = keep) lead to: gather, then run to the next point or to the end.

        With K rows of masks each trajectory branches into K, which share all that came before; trajectory d of row
        s becomes number `s · docs + d`. Protected tokens are kept whatever the masks say. Gates, if any, multiply the
        kept tokens' states.
        """
        keep = masks | state.batch.protected
        batch = advance(self.encoder, state.batch, keep, state.point, self.points, gates=gates)
        kept = torch.cat([state.kept.repeat(1, masks.shape[0]), batch.lengths[None]])
        return State(batch, state.point + 1, kept)

    def charges(self, lengths: DocIndex, kept: Shaped[Tensor, "points docs"]) -> Float[Tensor, "points docs"]:
        """Returns max(0, c_t(n_t) − c_t(ρ_t·n)) of each point t, a fraction of the unreduced document's price.

        Args:
            lengths: n, original tokens of each document.
            kept: n_t, tokens left after each point; need not be whole, and may carry a gradient.
        """
        ratios = torch.tensor(self.terms.keep_ratios, device=lengths.device)[:, None]
        if self.terms.price == "tokens":
            paid = (kept / lengths - ratios) / len(self.points)
        else:
            of = self.terms.latency if self.terms.price == "latency" and self.terms.latency else self.cost
            paid = of.price(self.points, kept.float(), lengths) - of.price(self.points, ratios * lengths, lengths)
        return paid.clamp(min=0)

    def charge(self, lengths: DocIndex, kept: Shaped[Tensor, "points docs"]) -> DocFloat:
        """Returns what a document is charged in all: Σ_t max(0, c_t(n_t) − c_t(ρ_t·n))."""
        return self.charges(lengths, kept).sum(0)

    def penalties(self, dials: DocFloat) -> DocFloat:
        """Returns λ·e^(−dial): a trajectory under a lower dial is to be cheaper, and pays more for what it keeps."""
        return self.terms.penalty * (-dials).exp()

    def returns(
        self,
        lengths: DocIndex,
        kept: Kept,
        logits: Logits,
        labels: DocIndex,
        dials: DocFloat | None = None,
    ) -> Float[Tensor, "points docs"]:
        """Returns log p(y) − λ·e^(−dial) · Σ_{s≥t} charge_s: what is still to come at each point t, in nats.

        What a trajectory was charged before t does not depend on what it decides at t: left out, it adds no noise.

        Args:
            lengths: original tokens of each finished trajectory's document.
            kept: its tokens left after each point.
            logits: what the head says of it.
            labels: the class of its document.
            dials: of each trajectory; 0 when None.
        """
        fidelity = gold_log_likelihood(logits, labels)
        penalties = self.penalties(torch.zeros_like(fidelity) if dials is None else dials)
        to_come = self.charges(lengths, kept).flip(0).cumsum(0).flip(0)
        return fidelity - penalties * to_come

    def reward(self, state: State, logits: Logits, labels: DocIndex) -> DocFloat:
        """Returns R = log p(y) − λ · charge of finished trajectories, in nats: the return at the first point.

        Args:
            state: finished trajectories.
            logits: what the head says of them.
            labels: the class of each trajectory's document.
        """
        return self.returns(state.batch.original_lengths, state.kept, logits, labels)[0]
