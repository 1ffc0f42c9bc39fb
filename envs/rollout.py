"""Sample trajectories of many documents through the dynamics, sharing prefixes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.dynamics import Dynamics, State
from trbert.errors import InputError
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
        masks: the decision at each point over the tokens that entered it, [rows, total], one row a branch: all
            `samples` branch at the first point, but for siblings, which part at the last.
        log_prob: log π of each trajectory's decisions at each point, summed over unprotected tokens; carries the
            policy's gradient. Siblings share the decisions before the last point.
        mean_log_prob: the same divided by the tokens entering the point, as the paper's code has it.
        entropy: of each trajectory's decisions, summed over points and unprotected tokens.
    """

    state: State
    masks: tuple[Bool[Tensor, "_rows _total"], ...]
    log_prob: Float[Tensor, "points samples docs"]
    mean_log_prob: Float[Tensor, "points samples docs"]
    entropy: Float[Tensor, "samples docs"]


def sample_trajectories(
    dynamics: Dynamics,
    policy: Policy,
    tokens: Tokens,
    draw: Draw,
    dials: Float[Tensor, "samples docs"],
    deployed: Bool[Tensor, " samples"] | None = None,
    forced: Bool[Tensor, " total"] | None = None,
    siblings: int = 1,
) -> Rollout:
    """Returns `samples` trajectories of every document; what they share is run once.

    That is what precedes the first point, and with siblings also what lies between it and the last: a tree of
    samples / siblings decisions at the first point, each with `siblings` at the last. Sample s and s + samples /
    siblings are siblings.

    Args:
        dynamics: the decision process.
        policy: gives the keep logits; its gradient enters `log_prob`.
        tokens: the documents.
        draw: keys the randomness.
        dials: offset on the keep logits of each trajectory; +inf keeps all. Before the last point siblings follow the
            first of them.
        deployed: samples that threshold, as deployment does, instead of drawing.
        forced: first-point decision of the last sample over all tokens, kept to at later points (imitation).
        siblings: trajectories that part only at the last point; 1: all part at the first.

    Raises:
        InputError: Siblings that do not divide the samples, or with a single point.
    """
    samples, docs = dials.shape
    last = dynamics.num_points - 1
    if siblings > 1 and (last == 0 or samples % siblings):
        raise InputError(
            f"siblings must divide the samples and have two points or more, and are {siblings} of {samples} samples "
            f"at {last + 1} point(s): use 1, at which all part at the first point"
        )
    state = dynamics.reset(tokens)
    masks: list[Tensor] = []
    log_prob, mean, entropy = [], [], torch.zeros(samples, docs, device=dials.device)
    for point in range(dynamics.num_points):
        rows = samples // siblings if point == 0 else siblings if point == last else 1
        logits = policy.logits(state.batch, point)
        decided, shifted = _decide(state.batch, logits, point, rows, draw, dials, deployed, forced)
        weights = ~state.batch.protected
        summed = _per_trajectory(bernoulli_log_prob(shifted, decided) * weights, state.batch, docs)
        log_prob.append(_each_sample(summed, samples))
        mean.append(_each_sample(summed / state.batch.lengths.view(-1, docs), samples))
        finite = shifted.clamp(-1000, 1000)  # an infinite dial would make 0 · ∞ of its entropy, and of every gradient
        entropies = _per_trajectory(bernoulli_entropy(finite) * weights, state.batch, docs)
        entropy = entropy + _each_sample(entropies, samples)
        decided = decided | state.batch.protected
        masks.append(decided)
        state = dynamics.transition(state, decided)
    return Rollout(
        state=state,
        masks=tuple(masks),
        log_prob=torch.stack(log_prob),
        mean_log_prob=torch.stack(mean),
        entropy=entropy,
    )


def _decide(
    batch: PackedBatch,
    logits: Tensor,
    point: int,
    rows: int,
    draw: Draw,
    dials: Tensor,
    deployed: Tensor | None,
    forced: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns masks and the logits they were drawn from, both [rows, total]."""
    samples, docs = dials.shape
    document = batch.documents % docs
    branch = torch.arange(rows, device=dials.device)[:, None]
    sample = branch * (len(batch) // docs) + (batch.documents // docs)[None]
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


def _per_trajectory(values: Tensor, batch: PackedBatch, docs: int) -> Float[Tensor, "rows parents docs"]:
    """Returns sums over each trajectory's tokens of [rows, total] values."""
    rows = values.shape[0]
    return values.new_zeros(rows, len(batch)).index_add(1, batch.documents, values).view(rows, -1, docs)


def _each_sample(values: Float[Tensor, "rows parents docs"], samples: int) -> Float[Tensor, "samples docs"]:
    """Returns every sample's value; siblings that have not parted yet have the same."""
    distinct = values.flatten(0, 1)
    return distinct.repeat(samples // len(distinct), 1)
