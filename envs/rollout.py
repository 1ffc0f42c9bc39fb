"""Sample trajectories of many documents through the dynamics, sharing prefixes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.dynamics import Dynamics
from trbert.keyed import keyed_uniform
from trbert.packed.batch import PackedBatch
from trbert.packed.tokens import Tokens
from trbert.selection.policy import Policy, bernoulli_log_prob
from trbert.selection.reduction import ReducedPass


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What keys the randomness of a rollout: the same key gives the same trajectories in any batch, on any worker."""

    seed: int
    version: int
    documents: Int[Tensor, " docs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Finished trajectories; number `s · docs + d` is sample s of document d.

    Attributes:
        state: the finished state.
        masks: the decision at each point over the tokens that entered it: [samples, total] at the first, where the
            samples branch, [1, total] after it.
        log_prob: log π of each trajectory's decisions at each point, summed over unprotected tokens; carries the
            policy's gradient.
        mean_log_prob: the same divided by the tokens entering the point, as the paper's code has it.
        counts: tokens left after each point, with a gradient, of relaxed decisions; else None.
    """

    state: ReducedPass
    masks: tuple[Bool[Tensor, "_rows _total"], ...]
    log_prob: Float[Tensor, "points samples docs"]
    mean_log_prob: Float[Tensor, "points samples docs"]
    counts: Float[Tensor, "points samples docs"] | None = None


def sample_trajectories(
    dynamics: Dynamics,
    policy: Policy,
    tokens: Tokens,
    draw: Draw,
    dials: Float[Tensor, "samples docs"],
    deployed: Bool[Tensor, " samples"] | None = None,
    forced: Bool[Tensor, " total"] | None = None,
    temperature: float | None = None,
) -> Rollout:
    """Returns `samples` trajectories of every document; what precedes the first point is run once.

    With a temperature τ the decisions are relaxed (straight-through Gumbel-softmax of two classes, Jang et al. 2017):
    the same masks are drawn, tokens are dropped as ever, and each kept token's state is multiplied by a gate that is 1
    and has the gradient of σ((logit + logistic noise) / τ). A gradient of the outcome so reaches the policy through
    the tokens that were kept, and one of the cost through all.

    Args:
        dynamics: the decision process.
        policy: gives the keep logits; its gradient enters `log_prob`.
        tokens: the documents.
        draw: keys the randomness.
        dials: of each trajectory; +inf keeps all.
        deployed: samples that threshold, as deployment does, instead of drawing; their gates have no gradient.
        forced: first-point decision of the last sample over all tokens, kept to at later points (imitation).
        temperature: τ of relaxed decisions; None does not relax.
    """
    samples, docs = dials.shape
    state = dynamics.reset(tokens)
    masks: list[Tensor] = []
    log_prob, mean, counts = [], [], []
    still = torch.ones(len(state.batch.hidden), device=dials.device)  # 1, with the gradient of having come so far
    for point in range(dynamics.num_points):
        batch = state.batch
        logits = policy.logits(batch, point, dials.view(samples if point == 0 else 1, -1))
        decided, uniform = _decide(batch, logits, point, draw, samples, deployed, forced)
        weights = ~batch.protected
        summed = _per_trajectory(bernoulli_log_prob(logits, decided) * weights, batch, docs)
        log_prob.append(summed)
        mean.append(summed / batch.lengths.view(-1, docs))
        decided = decided | batch.protected
        masks.append(decided)
        gates = None
        if temperature is not None:
            finite = logits.clamp(-1000, 1000)  # an infinite dial would make 0 · ∞ of a relaxed gradient
            through = _straight_through(batch, finite, decided, uniform, temperature, docs, deployed)
            counts.append(_per_trajectory(still * through, batch, docs))
            gates, still = through[decided], (still * through)[decided]
        state = dynamics.transition(state, decided, gates)
    return Rollout(
        state=state,
        masks=tuple(masks),
        log_prob=torch.stack(log_prob),
        mean_log_prob=torch.stack(mean),
        counts=torch.stack(counts) if counts else None,
    )


def _decide(
    batch: PackedBatch,
    logits: Float[Tensor, "rows total"],
    point: int,
    draw: Draw,
    samples: int,
    deployed: Tensor | None,
    forced: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns masks, and the uniform numbers that drew them, both [rows, total]."""
    docs = len(draw.documents)
    document = batch.documents % docs
    sample = _sample_of(batch, docs, len(logits))
    uniform = keyed_uniform(draw.seed, draw.version, draw.documents[document], sample, point, batch.positions)
    masks = uniform < logits.sigmoid()
    if deployed is not None:
        masks = torch.where(deployed[sample], logits >= 0, masks)
    if forced is not None:
        starts = _starts(batch, docs)
        keep = forced[starts[document] + batch.positions]
        masks = torch.where(sample == samples - 1, keep, masks)
    return masks, uniform


def _straight_through(
    batch: PackedBatch,
    logits: Float[Tensor, "rows total"],
    decided: Tensor,
    uniform: Tensor,
    temperature: float,
    docs: int,
    deployed: Tensor | None,
) -> Float[Tensor, "rows total"]:
    """Returns the decisions as numbers, with the gradient of σ((logit + noise) / τ) where they were drawn freely."""
    # u < σ(l) exactly where l − logit(u) > 0, and −logit(u) is logistic noise.
    relaxed = ((logits - uniform.logit(1e-6)) / temperature).sigmoid()
    free = (~batch.protected)[None].expand_as(decided)
    if deployed is not None:
        free = free & ~deployed[_sample_of(batch, docs, len(logits))]
    hard = decided.to(relaxed.dtype)
    return torch.where(free, hard + (relaxed - relaxed.detach()), hard)


def _sample_of(batch: PackedBatch, docs: int, rows: int) -> Int[Tensor, "rows total"]:
    """Returns the sample that each decision belongs to: rows are samples until they have parted."""
    branch = torch.arange(rows, device=batch.documents.device)[:, None]
    return branch * (len(batch) // docs) + (batch.documents // docs)[None]


def _starts(batch: PackedBatch, docs: int) -> Tensor:
    lengths = batch.original_lengths[:docs]
    return lengths.cumsum(0) - lengths


def _per_trajectory(values: Tensor, batch: PackedBatch, docs: int) -> Float[Tensor, "samples docs"]:
    """Returns sums over each trajectory's tokens of [rows, total] values."""
    rows = values.shape[0]
    return values.new_zeros(rows, len(batch)).index_add(1, batch.documents, values).view(-1, docs)
