"""The first two stages of learning: teacher, select. No Ray."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.dynamics import Dynamics
from envs.rollout import Draw, Rollout, sample_trajectories
from trbert.encoder import Encoder
from trbert.keyed import keyed_uniform
from trbert.measure.evaluate import within_budget
from trbert.selection.policy import Policy
from trbert.selection.saliency import most_salient, saliency
from trbert.shapes import Logits
from trbert.tasks.examples import Examples
from tune.learning.objectives import imitation_loss, leave_one_out_advantages, mean_advantages, policy_gradient_loss
from tune.learning.steps import (
    Keeper,
    Learner,
    Progress,
    accumulate_gradient,
    autocast,
    check_finite,
    halved,
    shuffled_batches,
)
from tune.settings import ComputeSettings, SelectSettings

_IMITATION_RATE = 1e-2
"""Of the warm start, whose gradients are exact: higher than what suits a long run of sampled ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutItem:
    """One piece of a select step: which trajectories to sample. The same item gives the same gradient anywhere.

    Attributes:
        index: place in the step; gradients are summed in this order.
        version: policy version, which keys the draw.
        documents: indices into the training split.
        guided: the last sample of each document imitates saliency.
    """

    index: int
    version: int
    documents: tuple[int, ...]
    guided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemGradient:
    """What sampling an item gives back: a gradient, summed over its documents, and means over its trajectories."""

    index: int
    gradient: NDArray[np.float32]
    reward: float
    charge: float
    kept: float
    entropy: float
    seconds: float


@runtime_checkable
class GradientSource(Protocol):
    """Computes the gradients of a step's items, here or on other machines."""

    def gradients(self, weights: NDArray[np.float32], items: Sequence[RolloutItem]) -> list[ItemGradient]:
        """Returns the items' gradients in item order, for the policy with these weights."""


class Sampler:
    """Samples trajectories of an item with the frozen encoder, and differentiates the policy on them.

    The whole of a rollout worker but Ray: trials without workers call it in their own process.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        policy: Policy,
        train: Examples,
        settings: SelectSettings,
        compute: ComputeSettings,
        seed: int,
        temperature: float | None = None,
    ) -> None:
        self.dynamics, self.policy, self.train = dynamics, policy, train
        self.settings, self.compute, self.seed, self.temperature = settings, compute, seed, temperature

    def gradients(self, weights: NDArray[np.float32], items: Sequence[RolloutItem]) -> list[ItemGradient]:
        """Returns the items' gradients, computed here one after the other."""
        return [self.gradient(weights, item) for item in items]

    def gradient(self, weights: NDArray[np.float32], item: RolloutItem) -> ItemGradient:
        """Returns the gradient of one item for the policy with these weights."""
        started = time.perf_counter()
        load_flat(self.policy, weights)
        tokens = self.train.tokens.lengths * self.settings.samples
        parts: list[tuple[int, NDArray[np.float32], dict[str, float]]] = []
        for documents in within_budget(torch.tensor(item.documents), tokens, self.compute.tokens_per_batch):
            parts += halved(partial(self._differentiate, item=item), documents)
        sizes = [size for size, _, _ in parts]
        means = {name: float(np.average([told[name] for _, _, told in parts], weights=sizes)) for name in parts[0][2]}
        gradient: NDArray[np.float32] = np.sum([each for _, each, _ in parts], axis=0, dtype=np.float32)
        return ItemGradient(index=item.index, gradient=gradient, seconds=time.perf_counter() - started, **means)

    def _differentiate(self, documents: Tensor, item: RolloutItem) -> tuple[int, NDArray[np.float32], dict[str, float]]:
        """Returns how many of an item's documents these are, their summed gradient, and means over them."""
        part = self.train.take(documents, self.dynamics.encoder.device)
        rollout, logits, dials = self._sample(part, documents, item)
        labels = part.labels.repeat(len(dials))
        loss, reward = select_loss(self.dynamics, rollout, logits, labels, dials, self.settings)
        if rollout.counts is not None:
            loss = loss + nn.functional.cross_entropy(logits.float(), labels)
        gradient = torch.autograd.grad(loss * len(documents), list(self.policy.parameters()))
        state = rollout.state
        lengths = state.batch.original_lengths
        told = {
            "reward": reward,
            "charge": float(self.dynamics.charge(lengths, state.kept).mean()),
            "kept": float(state.kept[-1].sum() / lengths.sum()),
            "entropy": float((rollout.entropy / part.tokens.lengths).mean()),
        }
        return len(documents), torch.cat([g.flatten() for g in gradient]).float().cpu().numpy(), told

    def _sample(self, part: Examples, documents: Tensor, item: RolloutItem) -> tuple[Rollout, Logits, Tensor]:
        """Returns finished trajectories, what the head says of them, and their dials."""
        device, settings = self.dynamics.encoder.device, self.settings
        draw = Draw(seed=self.seed, version=item.version, documents=documents.to(device))
        dials = drawn_dials(settings, draw, settings.samples)
        forced = self._salient_mask(part) if item.guided else None
        with autocast(device, self.compute.dtype), _frozen(self.dynamics.encoder):
            rollout = sample_trajectories(
                self.dynamics, self.policy, part.tokens, draw, dials, forced=forced, temperature=self.temperature
            )
            logits = self.dynamics.encoder.logits(rollout.state.batch)
        return rollout, logits, dials

    def _salient_mask(self, part: Examples) -> Tensor:
        """The paper's guided sample: the k most salient tokens, k = round Σ p at the first point."""
        states, scores = saliency(self.dynamics.encoder, part.tokens, part.labels, self.dynamics.points)
        with torch.no_grad():
            entering = states[0]
            expected = self.policy.logits(entering, 0, torch.zeros_like(part.labels)[None].float())[0].sigmoid()
            keep = expected.new_zeros(len(entering)).index_add(0, entering.documents, expected).round()
        return most_salient(entering, scores, keep)[0]


def drawn_dials(settings: SelectSettings, draw: Draw, samples: int) -> Float[Tensor, "samples docs"]:
    """Returns the dials of drawn trajectories: one for all samples of a document, 0 without a range of them."""
    docs = draw.documents
    if not settings.dial_range:
        return torch.zeros(samples, len(docs), device=docs.device)
    dials = (2 * keyed_uniform(draw.seed, draw.version, docs, 0) - 1) * settings.dial_range
    return dials.expand(samples, -1).contiguous()


def select_loss(
    dynamics: Dynamics,
    rollout: Rollout,
    logits: Float[Tensor, "trajectories classes"],
    labels: Int[Tensor, " trajectories"],
    dials: Float[Tensor, "samples docs"],
    settings: SelectSettings,
) -> tuple[Float[Tensor, ""], float]:
    """Returns the policy's loss on finished trajectories, meaned over them, and their mean reward.

    Of drawn decisions it is the policy gradient's. Of relaxed ones it is the price of what they keep: the task's own
    loss is the caller's, and reaches the policy through the gates.

    Args:
        dynamics: the decision process.
        rollout: finished trajectories, the first `samples` of which count.
        logits: what the head says of them.
        labels: the class of each trajectory's document.
        dials: of the trajectories that count.
        settings: of the select stage.
    """
    samples, docs = dials.shape
    counted = samples * docs
    lengths, kept = rollout.state.batch.original_lengths[:counted], rollout.state.kept[:, :counted]
    logits, labels = logits[:counted], labels[:counted]
    returns = dynamics.returns(lengths, kept, logits.detach(), labels, dials.flatten()).view(-1, samples, docs)
    reward = float(returns[0].mean())
    if rollout.counts is not None:
        charge = dynamics.charge(lengths, rollout.counts[:, :samples].flatten(1))
        return (dynamics.penalties(dials.flatten()) * charge).mean(), reward
    advantage = leave_one_out_advantages if settings.baseline == "leave-one-out" else mean_advantages
    advantages = advantage(returns if settings.reward_to_go else returns[:1])
    lengths = lengths[:docs]
    if settings.token_average:
        loss = policy_gradient_loss(rollout.mean_log_prob[:, :samples], advantages, torch.ones_like(lengths))
    else:
        loss = policy_gradient_loss(rollout.log_prob[:, :samples], advantages, lengths)
    return loss, reward


def train_policy(
    policy: Policy,
    source: GradientSource,
    documents: int,
    settings: SelectSettings,
    seed: int,
    progress: Progress,
    keeper: Keeper | None = None,
) -> None:
    """Stage 2: policy gradient with the encoder frozen, synchronous.

    Args:
        policy: learns in place.
        source: computes gradients; one call a step.
        documents: size of the training split.
        settings: of the stage.
        seed: keys the order of documents.
        progress: told each step's means.
        keeper: takes the stage's state now and then.

    Raises:
        Diverged: A gradient is not finite; the policy is as it was.
    """
    steps = max(1, math.ceil(settings.documents / settings.step_documents))
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    learner = Learner(optimizer, steps, warm_up=0.02, keeper=keeper)
    for step, chosen in learner.batches(documents, settings.step_documents, seed):
        items = [
            RolloutItem(index=i, version=step, documents=tuple(d.tolist()), guided=step < settings.guided_share * steps)
            for i, d in enumerate(chosen.split(settings.item_documents))
        ]
        results = source.gradients(flatten(policy), items)
        gradient: NDArray[np.float32] = np.sum([result.gradient for result in results], axis=0, dtype=np.float32)
        load_flat_gradient(policy, gradient / np.float32(len(chosen)))
        check_finite(float(nn.utils.clip_grad_norm_(policy.parameters(), 1.0)), "the policy's gradient norm")
        optimizer.step()
        means = {
            name: float(np.mean([getattr(result, name) for result in results]))
            for name in ("reward", "charge", "kept", "entropy", "seconds")
        }
        progress({"step": float(step + 1), "steps": float(steps), **means})


def warm_start(
    policy: Policy, dynamics: Dynamics, train: Examples, settings: SelectSettings, compute: ComputeSettings, seed: int
) -> None:
    """Lets the policy imitate saliency: at every point, keep the half of the tokens that matters most."""
    count = min(settings.warm_start_documents, len(train.tokens))
    if count == 0:
        return
    parameters, device = list(policy.parameters()), dynamics.encoder.device
    optimizer = torch.optim.Adam(parameters, lr=_IMITATION_RATE)
    steps = math.ceil(count / settings.step_documents)

    def loss(documents: Tensor) -> Tensor:
        """Summed over tokens and points, as parts of a step add up."""
        part = train.take(documents, device)
        with autocast(device, compute.dtype):
            states, scores = saliency(dynamics.encoder, part.tokens, part.labels, dynamics.points)
            targets = most_salient(states[0], scores, 0.5 * part.tokens.lengths)
        weights = (~states[0].protected).float()
        dials = torch.zeros(1, len(documents), device=device)
        losses = [
            imitation_loss(policy.logits(state, point, dials)[0], targets[point], weights)
            for point, state in enumerate(states)
        ]
        return torch.stack(losses).sum() * weights.sum()

    for documents in shuffled_batches(len(train.tokens), settings.step_documents, steps, seed):
        optimizer.zero_grad()
        for part in within_budget(documents, train.tokens.lengths, compute.tokens_per_batch):
            accumulate_gradient(parameters, part, loss)
        free = (~train.tokens.take(documents).protected).sum().clamp(min=1).to(device)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(free)
        optimizer.step()


def flatten(policy: Policy) -> NDArray[np.float32]:
    """Returns the policy's weights as one vector."""
    return torch.cat([p.detach().flatten() for p in policy.parameters()]).float().cpu().numpy()


def load_flat(policy: Policy, weights: NDArray[np.float32]) -> None:
    """Sets the policy's weights from one vector."""
    # Ray hands out read-only arrays, which torch does not take.
    nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()).to(_device(policy)), policy.parameters())


def load_flat_gradient(policy: Policy, gradient: NDArray[np.float32]) -> None:
    """Sets the policy's gradient from one vector."""
    parts = torch.from_numpy(gradient).to(_device(policy)).split([p.numel() for p in policy.parameters()])
    for parameter, part in zip(policy.parameters(), parts, strict=True):
        parameter.grad = part.view_as(parameter).clone()


def _device(policy: Policy) -> torch.device:
    return next(policy.parameters()).device


@contextmanager
def _frozen(encoder: Encoder) -> Iterator[None]:
    """Within it the encoder's weights take no gradient, while the policy's logits still do."""
    own = (*encoder.model.parameters(), *encoder.fusion.parameters())
    parameters = [parameter for parameter in own if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
