"""The decision process: reset, transition and reward, as functions of packed batches (docs/architecture.md)."""

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
    """The constants of the reward.

    Attributes:
        penalty: λ, the price of an unreduced document, in nats; 0 or more.
        keep_ratios: ρ_t, the fraction of the original tokens that each reduction point may keep free of charge.
        price: what is charged for the layers between two points. "flops" charges their share of the document's FLOPs.
            "latency" charges their share of the document's measured time. "tokens" charges the kept fraction, with the
            same weight at every point, as the paper does.
        latency: the measured times; needed for the price "latency" only.

    Raises:
        InputError: The penalty is below 0, a ratio is no fraction, or the price is "latency" and there is no table.
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
    """The decision process of one model: its transitions, and the reward of its trajectories.

    The caller puts the model into evaluation mode. Without dropout, a document's rewards differ by its actions alone.

    Attributes:
        reducer: the model, and the points at which it may drop tokens.
        terms: the constants of the reward.
        cost: the FLOPs of the model.
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
        """The reduction points, as layer indices."""
        return self.reducer.points

    @property
    def num_points(self) -> int:
        """The number of reduction points, and so of decisions in an episode."""
        return len(self.points)

    @property
    def task(self) -> Task:
        """The task of the model; the reward pays for how well it is done."""
        return self.reducer.task

    def reset(self, tokens: Tokens) -> ReducedPass:
        """Returns a pass over these documents, at the first reduction point."""
        return self.reducer.enter(tokens)

    def transition(
        self, state: ReducedPass, masks: SampleMasks, gates: Float[Tensor, " kept"] | None = None
    ) -> ReducedPass:
        """Returns the pass after the tokens that the masks drop, at the next reduction point or at the end.

        The kept tokens are gathered, and then the layers up to the next point run on them. Protected tokens are kept
        whatever the masks say.

        Args:
            state: the pass at a reduction point.
            masks: which tokens to keep (True = keep). With K rows of masks each trajectory branches into K, which share
                everything before this point; trajectory d under row s becomes number `s · docs + d`.
            gates: factors for the states of the kept tokens; None changes no state.
        """
        return self.reducer.advance(state, masks | state.batch.protected, gates)

    def charges(self, lengths: DocIndex, kept: Shaped[Tensor, "points docs"]) -> Float[Tensor, "points docs"]:
        """Returns max(0, c_t(n_t) − c_t(ρ_t·n)) of each point t, as a fraction of the unreduced document's price.

        Here c_t(m) is the price of the layers between point t and the next one, on m tokens.

        Args:
            lengths: n, the number of original tokens of each document.
            kept: n_t, the number of tokens left after each point; may be fractional, and may carry a gradient.
        """
        ratios = torch.tensor(self.terms.keep_ratios, device=lengths.device)[:, None]
        if self.terms.price == "tokens":
            paid = (kept / lengths - ratios) / len(self.points)
        else:
            of = self.terms.latency if self.terms.price == "latency" and self.terms.latency else self.cost
            paid = of.price(self.points, kept.float(), lengths) - of.price(self.points, ratios * lengths, lengths)
        return paid.clamp(min=0)

    def charge(self, lengths: DocIndex, kept: Shaped[Tensor, "points docs"]) -> DocFloat:
        """Returns the charge of each document over all points: Σ_t max(0, c_t(n_t) − c_t(ρ_t·n))."""
        return self.charges(lengths, kept).sum(0)

    def returns(self, examples: Examples, kept: Kept, outputs: Outputs) -> Float[Tensor, "points examples"]:
        """Returns the return of each example at each point t: fidelity − λ · Σ_{s≥t} charge_s, in nats.

        The charges before t are left out. They do not depend on the decision at t, and would only add noise. The charge
        of an example with several documents is the mean of their charges, in which each document counts by its share
        of the example's unreduced price.

        Args:
            examples: the examples whose documents went through the process, with their targets.
            kept: the number of tokens of each document that are left after each point.
            outputs: what the head says about the examples.
        """
        fidelity = self.task.fidelity(outputs, examples)
        charges = self.of_examples(examples, self.charges(examples.tokens.lengths, kept))
        to_come = charges.flip(0).cumsum(0).flip(0)
        return fidelity - self.terms.penalty * to_come

    def of_examples(
        self, examples: Examples, charges: Float[Tensor, "points docs"]
    ) -> Float[Tensor, "points examples"]:
        """Returns the charges of examples, computed from the charges of their documents."""
        price = self.cost.unreduced(examples.tokens.lengths)
        share = price / examples.per_example(price)[examples.owner]
        return examples.per_example(charges * share.to(charges.dtype))

    def reward(self, examples: Examples, kept: Kept, outputs: Outputs) -> Float[Tensor, " examples"]:
        """Returns the reward R = fidelity − λ · charge of finished trajectories, in nats: the return at point 0."""
        return self.returns(examples, kept, outputs)[0]
