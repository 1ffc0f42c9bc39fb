"""The decision process: reset, transition, reward. Pure functions over packed batches (docs/architecture.md)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from trbert.errors import InputError
from trbert.measure.cost import CostModel
from trbert.measure.latency import LatencyTable
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import ReducedPass, Reducer, check_points
from trbert.shapes import DocFloat, DocIndex, Kept, SampleMasks
from trbert.tasks import Task
from trbert.tasks.examples import Examples, Outputs

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
class Dynamics:
    """The environment's laws: a frozen model, where tokens may be dropped, and what is paid.

    The model's mode is the caller's: in evaluation mode a document's rewards differ by its actions alone.
    """

    reducer: Reducer
    terms: RewardTerms
    cost: CostModel

    def __post_init__(self) -> None:
        points, layers = self.points, len(self.reducer.encoder.layers)
        check_points(points, layers)
        if len(self.terms.keep_ratios) != len(points):
            raise InputError(
                f"keep_ratios must be one for each of the points {points}, and are {self.terms.keep_ratios}: "
                "give as many ratios as points"
            )
        table = self.terms.latency
        if table is not None and table.layers != layers:
            raise InputError(
                f"a latency table must be of a model of {layers} layers, and is of one of {table.layers}: "
                "pass the table of this model, or let it be measured"
            )

    @property
    def points(self) -> tuple[int, ...]:
        """The reduction points."""
        return self.reducer.points

    @property
    def num_points(self) -> int:
        """Decisions of an episode."""
        return len(self.points)

    @property
    def task(self) -> Task:
        """What the model predicts, and is paid for."""
        return self.reducer.task

    def reset(self, tokens: Tokens) -> ReducedPass:
        """Returns the pass at the first reduction point."""
        return self.reducer.enter(tokens)

    def transition(
        self, state: ReducedPass, masks: SampleMasks, gates: Float[Tensor, " kept"] | None = None
    ) -> ReducedPass:
        """Returns what the masks (True = keep) lead to: gather, then run to the next point or to the end.

        With K rows of masks each trajectory branches into K, which share all that came before; trajectory d of row
        s becomes number `s · docs + d`. Protected tokens are kept whatever the masks say. Gates, if any, multiply the
        kept tokens' states.
        """
        return self.reducer.advance(state, masks | state.batch.protected, gates)

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

    def returns(self, examples: Examples, kept: Kept, outputs: Outputs) -> Float[Tensor, "points examples"]:
        """Returns fidelity − λ · Σ_{s≥t} charge_s: what is still to come at each point t, in nats, of each example.

        What a trajectory was charged before t does not depend on what it decides at t: left out, it adds no noise. An
        example of several documents is charged as they cost together: the mean of their charges, each weighed by its
        share of the example's unreduced price.

        Args:
            examples: the trajectories, with their targets.
            kept: tokens of each document left after each point.
            outputs: what the head says of them.
        """
        fidelity = self.task.fidelity(outputs, examples)
        charges = self.of_examples(examples, self.charges(examples.tokens.lengths, kept))
        to_come = charges.flip(0).cumsum(0).flip(0)
        return fidelity - self.terms.penalty * to_come

    def of_examples(
        self, examples: Examples, charges: Float[Tensor, "points docs"]
    ) -> Float[Tensor, "points examples"]:
        """Returns the charges of examples, from those of their documents."""
        price = self.cost.unreduced(examples.tokens.lengths)
        share = price / examples.per_example(price)[examples.owner]
        return examples.per_example(charges * share.to(charges.dtype))

    def reward(self, examples: Examples, kept: Kept, outputs: Outputs) -> Float[Tensor, " examples"]:
        """Returns R = fidelity − λ · charge of finished trajectories, in nats: the return at the first point."""
        return self.returns(examples, kept, outputs)[0]
