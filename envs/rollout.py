"""Sample trajectories of many documents through the dynamics, sharing prefixes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.dynamics import Dynamics, State
from trbert.keyed import keyed_uniform
from trbert.packed import PackedBatch, Tokens
from trbert.policy import Policy, bernoulli_entropy, bernoulli_log_prob


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
        masks: the decision at each point over the tokens that entered it: [samples, total] at the first point,
            [1, total] of the branched row afterwards.
        log_prob: log π of each trajectory, summed over points and unprotected tokens; carries the policy's gradient.
        mean_log_prob: the same with each point's sum divided by the tokens entering it, as the paper's code has it.
        entropy: summed likewise.
    """

    state: State
    masks: tuple[Bool[Tensor, "_rows _total"], ...]
    log_prob: Float[Tensor, "samples docs"]
    mean_log_prob: Float[Tensor, "samples docs"]
    entropy: Float[Tensor, "samples docs"]


def sample_trajectories(
    dynamics: Dynamics,
    policy: Policy,
    tokens: Tokens,
    draw: Draw,
    dials: Float[Tensor, "samples docs"],
    deployed: Bool[Tensor, " samples"] | None = None,
    forced: Bool[Tensor, " total"] | None = None,
) -> Rollout:
    """Returns `samples` trajectories of every document; what precedes the first point is run once.

    Args:
        dynamics: the decision process.
        policy: gives the keep logits; its gradient enters `log_prob`.
        tokens: the documents.
        draw: keys the randomness.
        dials: offset on the keep logits of each trajectory; +inf keeps all.
        deployed: samples that threshold, as deployment does, instead of drawing.
        forced: first-point decision of the last sample over all tokens, kept to at later points (imitation).
    """
    samples, docs = dials.shape
    state = dynamics.reset(tokens)
    masks: list[Tensor] = []
    total = torch.zeros(samples, docs, device=dials.device)
    mean, entropy = total, total
    for point in range(dynamics.num_points):
        logits = policy.logits(state.batch, point)
        decided, shifted = _decide(state.batch, logits, point, draw, dials, deployed, forced)
        weights = ~state.batch.protected
        entering = state.batch.lengths.view(-1, docs)
        log_prob = _per_trajectory(bernoulli_log_prob(shifted, decided) * weights, state.batch, samples)
        total = total + log_prob
        mean = mean + log_prob / entering
        finite = shifted.clamp(-1000, 1000)  # an infinite dial would make 0 · ∞ of its entropy, and of every gradient
        entropy = entropy + _per_trajectory(bernoulli_entropy(finite) * weights, state.batch, samples)
        decided = decided | state.batch.protected
        masks.append(decided)
        state = dynamics.transition(state, decided)
    return Rollout(state=state, masks=tuple(masks), log_prob=total, mean_log_prob=mean, entropy=entropy)


def _decide(
    batch: PackedBatch,
    logits: Tensor,
    point: int,
    draw: Draw,
    dials: Tensor,
    deployed: Tensor | None,
    forced: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns masks and the logits they were drawn from, both [rows, total]."""
    samples, docs = dials.shape
    document = batch.documents % docs
    rows = samples if point == 0 else 1
    sample = torch.arange(samples, device=dials.device)[:, None] if point == 0 else (batch.documents // docs)[None]
    shifted = logits + dials[sample, document]
    uniform = keyed_uniform(draw.seed, draw.version, draw.documents[document], sample, point, batch.positions)
    masks = uniform.expand(rows, -1) < shifted.sigmoid()
    if deployed is not None:
        masks = torch.where(deployed[sample], shifted >= 0, masks)
    if forced is not None:
        starts = _starts(batch, docs)
        keep = forced[starts[document] + batch.positions]
        masks = torch.where(sample == samples - 1, keep, masks)
    return masks, shifted


def _starts(batch: PackedBatch, docs: int) -> Tensor:
    lengths = batch.original_lengths[:docs]
    return lengths.cumsum(0) - lengths


def _per_trajectory(values: Tensor, batch: PackedBatch, samples: int) -> Tensor:
    """Returns sums over each trajectory's tokens of [rows, total] values, as [samples, docs]."""
    rows = values.shape[0]
    sums = values.new_zeros(rows, len(batch)).index_add(1, batch.documents, values)
    return sums.view(samples, -1)
