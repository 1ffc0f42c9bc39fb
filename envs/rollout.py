"""Rollouts: several sampled trajectories of each of many documents, in one packed batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from envs.dynamics import Dynamics
from trbert.keyed import keyed_uniform
from trbert.packed.batch import PackedBatch
from trbert.packed.tokens import Tokens
from trbert.selection.policy import Policy, bernoulli_log_prob
from trbert.selection.reduction import ReducedPass


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The key of a rollout's random numbers: the same key gives the same trajectories in any batch, on any worker.

    Attributes:
        seed: the seed of the training.
        version: the version of the policy; each step of training has its own.
        documents: the index of each document in its split.
    """

    seed: int
    version: int
    documents: Int[Tensor, " docs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Finished trajectories; trajectory `s · docs + d` is sample s of document d.

    Attributes:
        state: the finished pass of all trajectories.
        masks: the decisions at each point, over the tokens that entered it (True = keep). They have the shape
            [samples, total] at the first point, where the samples branch, and [1, total] at later points.
        log_prob: log π of each trajectory's decisions at each point, in nats, summed over unprotected tokens; carries
            the policy's gradient.
        mean_log_prob: `log_prob` divided by the number of tokens that entered the point, as in the paper's code.
        counts: the number of tokens left after each point, with a gradient; None unless decisions are relaxed.
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
    tokens_per_decision: int | None = None,
) -> Rollout:
    """Returns `samples` trajectories of every document. The layers before the first point run once for all of them.

    Neighbouring tokens may share a decision: those of one block of positions are drawn together, with the mean of
    their logits. There are fewer decisions to share a reward, so each one's part in it is told sooner.

    With a temperature τ the decisions are relaxed (straight-through Gumbel-softmax of two classes, Jang et al. 2017).
    The same masks are drawn, and the same tokens are dropped. In addition, each kept token's state is multiplied by a
    gate whose value is 1 and whose gradient is that of σ((logit + logistic noise) / τ). So a loss of the outputs
    reaches the policy through the kept tokens, and a loss of the counts reaches it through all tokens.

    Args:
        dynamics: the decision process.
        policy: gives the keep logits; `log_prob` carries its gradient.
        tokens: the documents.
        draw: the key of the random numbers.
        dials: the dial of each trajectory, an offset on its keep logits; +inf keeps all tokens.
        deployed: which samples threshold their logits, as in use, instead of drawing; their gates have no gradient.
        forced: a mask over all tokens (True = keep) for the last sample to follow at every point; None forces nothing.
        temperature: τ of relaxed decisions, above 0; None does not relax them.
        tokens_per_decision: how many neighbouring positions share a drawn decision. Only free tokens that are still
            there take part. A deployed sample has a decision for each token. None is 1.
    """
    samples, docs = dials.shape
    together = tokens_per_decision or 1
    state = dynamics.reset(tokens)
    masks: list[Tensor] = []
    log_prob, mean, counts = [], [], []
    # The product of each remaining token's gates: its value is 1, and its gradient counts the token.
    still = torch.ones(len(state.batch.hidden), device=dials.device)
    for point in range(dynamics.num_points):
        batch = state.batch
        logits = policy.logits(batch, point, dials.view(samples if point == 0 else 1, -1))
        thresholded, weights, blocks = logits >= 0, ~batch.protected, batch.positions // together
        if together > 1:
            logits, weights = _shared(batch, logits, blocks)
        decided, uniform = _decide(batch, logits, thresholded, blocks, point, draw, samples, deployed, forced)
        summed = _per_trajectory(bernoulli_log_prob(logits, decided) * weights, batch, docs)
        log_prob.append(summed)
        mean.append(summed / batch.lengths.view(-1, docs))
        decided = decided | batch.protected
        masks.append(decided)
        gates = None
        if temperature is not None:
            finite = logits.clamp(-1000, 1000)  # with an infinite dial the relaxed gradient would be 0 · ∞
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


def _shared(
    batch: PackedBatch, logits: Float[Tensor, "rows total"], blocks: Int[Tensor, " total"]
) -> tuple[Float[Tensor, "rows total"], Float[Tensor, " total"]]:
    """Returns the mean logit of the free tokens that share each token's decision, and its part of that decision.

    The parts of the tokens that share a decision add up to 1; that of a protected token is 0.
    """
    free = (~batch.protected).to(logits.dtype)
    # Blocks are numbered along the row. Finding the distinct ones would make a GPU wait.
    begins = (blocks.diff() != 0) | (batch.documents.diff() != 0)
    number = nn.functional.pad(begins.cumsum(0), (1, 0))
    counts = torch.zeros_like(free).index_add_(0, number, free).clamp(min=1)
    own = logits.masked_fill(batch.protected, 0)  # not a product: with an infinite dial that is inf · 0
    sums = torch.zeros_like(logits).index_add(1, number, own)
    return (sums / counts).index_select(1, number), free / counts.index_select(0, number)


def _decide(
    batch: PackedBatch,
    logits: Float[Tensor, "rows total"],
    thresholded: Bool[Tensor, "rows total"],
    blocks: Int[Tensor, " total"],
    point: int,
    draw: Draw,
    samples: int,
    deployed: Tensor | None,
    forced: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns the masks, and the uniform random numbers that they were drawn with, both [rows, total]."""
    docs = len(draw.documents)
    document = batch.documents % docs
    sample = _sample_of(batch, docs, len(logits))
    uniform = keyed_uniform(draw.seed, draw.version, draw.documents[document], sample, point, blocks)
    masks = uniform < logits.sigmoid()
    if deployed is not None:
        masks = torch.where(deployed[sample], thresholded, masks)
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
    """Returns the decisions as 0 and 1; those that were drawn freely have the gradient of σ((logit + noise) / τ)."""
    # u < σ(l) exactly where l − logit(u) > 0, and −logit(u) is logistic noise.
    relaxed = ((logits - uniform.logit(1e-6)) / temperature).sigmoid()
    free = (~batch.protected)[None].expand_as(decided)
    if deployed is not None:
        free = free & ~deployed[_sample_of(batch, docs, len(logits))]
    hard = decided.to(relaxed.dtype)
    return torch.where(free, hard + (relaxed - relaxed.detach()), hard)


def _sample_of(batch: PackedBatch, docs: int, rows: int) -> Int[Tensor, "rows total"]:
    """Returns the sample of each decision: its row at the first point, its document's number at later points."""
    branch = torch.arange(rows, device=batch.documents.device)[:, None]
    return branch * (len(batch) // docs) + (batch.documents // docs)[None]


def _starts(batch: PackedBatch, docs: int) -> Tensor:
    lengths = batch.original_lengths[:docs]
    return lengths.cumsum(0) - lengths


def _per_trajectory(values: Tensor, batch: PackedBatch, docs: int) -> Float[Tensor, "samples docs"]:
    """Returns the sums of [rows, total] values over the tokens of each trajectory."""
    rows = values.shape[0]
    return values.new_zeros(rows, len(batch)).index_add(1, batch.documents, values).view(-1, docs)
