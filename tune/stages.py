"""The three stages of learning: teacher, select, joint. No Ray."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
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
from trbert.packed import Tokens
from trbert.policy import Policy
from trbert.saliency import most_salient, saliency
from trbert.shapes import DocIndex, Logits
from tune.learner import autocast, linear_schedule, shuffled_batches, step_in_budget
from tune.objectives import (
    distillation_loss,
    imitation_loss,
    leave_one_out_advantages,
    mean_advantages,
    policy_gradient_loss,
    sibling_advantages,
)
from tune.settings import ComputeSettings, JointSettings, SelectSettings, TeacherSettings

Progress = Callable[[dict[str, float]], None]
"""Called after each step with what it measured; may raise to stop."""


@dataclass(frozen=True, slots=True)
class Examples:
    """A split, ready for the model.

    Attributes:
        tokens: the documents.
        labels: each document's class.
        teacher_logits: the teacher's word on each, where distillation needs it.
    """

    tokens: Tokens
    labels: DocIndex
    teacher_logits: Logits | None = None

    def take(self, documents: Tensor, device: torch.device) -> "Examples":
        """Returns the named documents, on the device."""
        teacher = None if self.teacher_logits is None else self.teacher_logits[documents].to(device)
        return Examples(self.tokens.take(documents).to(device), self.labels[documents].to(device), teacher)


def train_teacher(
    encoder: Encoder,
    train: Examples,
    settings: TeacherSettings,
    compute: ComputeSettings,
    seed: int,
    progress: Progress,
) -> None:
    """Fine-tunes the unreduced model on gold labels, packed, with dropout."""
    torch.manual_seed(seed)
    encoder.model.train()
    steps = max(1, math.ceil(settings.epochs * len(train.tokens) / settings.batch_size))
    optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=settings.learning_rate, weight_decay=0.01, fused=True)
    schedule = linear_schedule(optimizer, steps, warm_up=0.1)
    device = encoder.device

    def loss(documents: Tensor) -> Tensor:
        part = train.take(documents, device)
        with autocast(device, compute.dtype):
            logits = encoder.unreduced_logits(part.tokens)
        return nn.functional.cross_entropy(logits.float(), part.labels, reduction="sum")

    lengths = train.tokens.lengths
    for step, documents in enumerate(shuffled_batches(len(train.tokens), settings.batch_size, steps, seed)):
        value = step_in_budget(optimizer, documents, lengths, compute.tokens_per_batch, loss)
        schedule.step()
        progress({"step": float(step + 1), "steps": float(steps), "loss": value})
    encoder.model.eval()


def training_seconds(encoder: Encoder, train: Examples, dtype: str, threads: int, documents: int = 16) -> float:
    """Returns the measured seconds of one unreduced training pass of one document, on so many threads."""
    part = train.take(torch.arange(min(documents, len(train.tokens))), encoder.device)
    parameters = list(encoder.model.parameters())
    best, before = math.inf, torch.get_num_threads()
    torch.set_num_threads(threads)
    for _ in range(3):  # the first warms up
        started = time.perf_counter()
        with autocast(encoder.device, dtype):
            loss = nn.functional.cross_entropy(encoder.unreduced_logits(part.tokens).float(), part.labels)
        torch.autograd.grad(loss, parameters, allow_unused=True)
        best = min(best, time.perf_counter() - started)
    torch.set_num_threads(before)
    mean = float(train.tokens.lengths.double().mean()) * len(part.tokens) / float(part.tokens.lengths.sum())
    return best / len(part.tokens) * mean


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
        self, dynamics: Dynamics, policy: Policy, train: Examples, settings: SelectSettings, dtype: str, seed: int
    ) -> None:
        self.dynamics, self.policy, self.train = dynamics, policy, train
        self.settings, self.dtype, self.seed = settings, dtype, seed

    def gradients(self, weights: NDArray[np.float32], items: Sequence[RolloutItem]) -> list[ItemGradient]:
        """Returns the items' gradients, computed here one after the other."""
        return [self.gradient(weights, item) for item in items]

    def gradient(self, weights: NDArray[np.float32], item: RolloutItem) -> ItemGradient:
        """Returns the gradient of one item for the policy with these weights."""
        started = time.perf_counter()
        load_flat(self.policy, weights)
        documents = torch.tensor(item.documents)
        part = self.train.take(documents, self.dynamics.encoder.device)
        rollout, rewards = self._sample(part, documents, item)
        loss = select_loss(rollout, rewards, part.tokens.lengths, self.settings, self.settings.siblings)
        loss = loss * len(item.documents)
        gradient = torch.autograd.grad(loss, list(self.policy.parameters()))
        state = rollout.state
        lengths = state.batch.original_lengths
        return ItemGradient(
            index=item.index,
            gradient=torch.cat([g.flatten() for g in gradient]).float().cpu().numpy(),
            reward=float(rewards.mean()),
            charge=float(self.dynamics.charge(lengths, state.kept).mean()),
            kept=float(state.kept[-1].sum() / lengths.sum()),
            entropy=float((rollout.entropy.detach() / part.tokens.lengths).mean()),
            seconds=time.perf_counter() - started,
        )

    def _sample(self, part: Examples, documents: Tensor, item: RolloutItem) -> tuple[Rollout, Tensor]:
        device = self.dynamics.encoder.device
        draw = Draw(seed=self.seed, version=item.version, documents=documents.to(device))
        dials = torch.zeros(self.settings.samples, len(documents), device=device)
        forced = self._salient_mask(part) if item.guided else None
        with autocast(device, self.dtype), _frozen(self.dynamics.encoder):
            rollout = sample_trajectories(
                self.dynamics, self.policy, part.tokens, draw, dials, forced=forced, siblings=self.settings.siblings
            )
            logits = self.dynamics.encoder.logits(rollout.state.batch)
            labels = part.labels.repeat(self.settings.samples)
            rewards = self.dynamics.reward(rollout.state, logits, labels)
        return rollout, rewards.view(self.settings.samples, -1).detach()

    def _salient_mask(self, part: Examples) -> Tensor:
        """The paper's guided sample: the k most salient tokens, k = round Σ p at the first point."""
        states, scores = saliency(self.dynamics.encoder, part.tokens, part.labels, self.dynamics.points)
        with torch.no_grad():
            entering = states[0]
            expected = self.policy.logits(entering, 0).sigmoid()
            keep = expected.new_zeros(len(entering)).index_add(0, entering.documents, expected).round()
        return most_salient(entering, scores, keep)[0]


def select_loss(
    rollout: Rollout, rewards: Tensor, lengths: Tensor, settings: SelectSettings, siblings: int = 1
) -> Float[Tensor, ""]:
    """Returns the policy's loss on finished trajectories, meaned over documents."""
    if siblings > 1:
        shared, parted = sibling_advantages(rewards, siblings)
        advantages = torch.stack([shared] * (len(rollout.log_prob) - 1) + [parted])
    else:
        advantage = leave_one_out_advantages if settings.baseline == "leave-one-out" else mean_advantages
        advantages = advantage(rewards)[None]
    if settings.token_average:
        loss = policy_gradient_loss(rollout.mean_log_prob, advantages, torch.ones_like(lengths))
    else:
        loss = policy_gradient_loss(rollout.log_prob, advantages, lengths)
    if settings.entropy:
        loss = loss - settings.entropy * (rollout.entropy / lengths).mean()
    return loss


def train_policy(
    policy: Policy, source: GradientSource, documents: int, settings: SelectSettings, seed: int, progress: Progress
) -> None:
    """Stage 2: policy gradient with the encoder frozen, synchronous.

    Args:
        policy: learns in place.
        source: computes gradients; one call a step.
        documents: size of the training split.
        settings: of the stage.
        seed: keys the order of documents.
        progress: told each step's means.
    """
    steps = max(1, math.ceil(settings.documents / settings.step_documents))
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    schedule = linear_schedule(optimizer, steps, warm_up=0.02)
    for step, chosen in enumerate(shuffled_batches(documents, settings.step_documents, steps, seed)):
        items = [
            RolloutItem(index=i, version=step, documents=tuple(d.tolist()), guided=step < settings.guided_share * steps)
            for i, d in enumerate(chosen.split(settings.item_documents))
        ]
        results = source.gradients(flatten(policy), items)
        gradient: NDArray[np.float32] = np.sum([result.gradient for result in results], axis=0, dtype=np.float32)
        load_flat_gradient(policy, gradient / np.float32(len(chosen)))
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
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
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    steps = math.ceil(count / settings.step_documents)
    device = dynamics.encoder.device
    for documents in shuffled_batches(len(train.tokens), settings.step_documents, steps, seed):
        part = train.take(documents, device)
        with autocast(device, compute.dtype):
            states, scores = saliency(dynamics.encoder, part.tokens, part.labels, dynamics.points)
            targets = most_salient(states[0], scores, 0.5 * part.tokens.lengths)
        weights = (~states[0].protected).float()
        losses = [
            imitation_loss(policy.logits(state, point), targets[point], weights) for point, state in enumerate(states)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()


def train_jointly(
    dynamics: Dynamics,
    policy: Policy,
    train: Examples,
    select: SelectSettings,
    settings: JointSettings,
    compute: ComputeSettings,
    seed: int,
    progress: Progress,
) -> None:
    """Stage 3: encoder and policy learn together, through sampled masks and through deployed ones.

    Each document runs `samples` drawn trajectories, which carry the policy gradient, and one thresholded as in
    deployment at a dial of its own (or with all tokens), so that the model stays good along its whole dial. All of
    them carry the task loss: gold labels and the teacher's distribution.
    """
    if settings.documents == 0:
        return
    encoder, device = dynamics.encoder, dynamics.encoder.device
    encoder.model.eval()  # no dropout: a document's rewards differ by its actions alone
    steps = math.ceil(settings.documents / settings.batch_size)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(encoder.model.parameters()), "lr": settings.learning_rate},
            {"params": list(policy.parameters()), "lr": settings.policy_learning_rate, "weight_decay": 0.0},
        ],
        weight_decay=0.01,
        fused=True,
    )
    schedule = linear_schedule(optimizer, steps, warm_up=0.1)
    seen: dict[str, float] = {}

    def loss(documents: Tensor, version: int) -> Tensor:
        part = train.take(documents, device)
        draw = Draw(seed=seed, version=version, documents=documents.to(device))
        dials, deployed = _joint_dials(settings, draw)
        with autocast(device, compute.dtype):
            rollout = sample_trajectories(dynamics, policy, part.tokens, draw, dials, deployed)
            logits = encoder.logits(rollout.state.batch)
        labels = part.labels.repeat(len(dials))
        task = _task_loss(logits, labels, part.teacher_logits, len(dials), settings)
        rewards = dynamics.reward(rollout.state, logits.detach(), labels).view(len(dials), -1)
        drawn = slice(0, settings.samples)
        sampled = Rollout(
            state=rollout.state,
            masks=rollout.masks,
            log_prob=rollout.log_prob[:, drawn],
            mean_log_prob=rollout.mean_log_prob[:, drawn],
            entropy=rollout.entropy[drawn],
        )
        policy_loss = select_loss(sampled, rewards[drawn], part.tokens.lengths, select)
        seen.update(reward=float(rewards[drawn].mean()), task=float(task.detach()))
        return (task + policy_loss) * len(documents)

    lengths = train.tokens.lengths
    for step, documents in enumerate(shuffled_batches(len(train.tokens), settings.batch_size, steps, seed + 1)):
        # Versions continue after the select stage's, so that no draw is used twice.
        of_step = partial(loss, version=1_000_000 + step)
        value = step_in_budget(optimizer, documents, lengths, compute.tokens_per_batch, of_step)
        schedule.step()
        progress({"step": float(step + 1), "steps": float(steps), "loss": value, **seen})


def _joint_dials(settings: JointSettings, draw: Draw) -> tuple[Tensor, Tensor]:
    """Returns the dial of every trajectory [samples, docs], and which samples threshold instead of drawing."""
    docs = draw.documents
    drawn = torch.zeros(settings.samples, len(docs), device=docs.device)
    if not settings.dial_range:
        return drawn, torch.zeros(settings.samples, dtype=torch.bool, device=docs.device)
    dial = (2 * keyed_uniform(draw.seed, draw.version, docs, 1) - 1) * settings.dial_range
    keep_all = keyed_uniform(draw.seed, draw.version, docs, 2) < settings.keep_all
    dials = torch.cat([drawn, dial.masked_fill(keep_all, torch.inf)[None]])
    deployed = torch.zeros(len(dials), dtype=torch.bool, device=docs.device)
    deployed[-1] = True
    return dials, deployed


def _task_loss(
    logits: Float[Tensor, "trajectories classes"],
    labels: Int[Tensor, " trajectories"],
    teacher_logits: Logits | None,
    samples: int,
    settings: JointSettings,
) -> Float[Tensor, ""]:
    gold = nn.functional.cross_entropy(logits.float(), labels)
    if teacher_logits is None or settings.distillation == 0:
        return gold
    soft = distillation_loss(logits, teacher_logits.repeat(samples, 1), settings.temperature)
    return (1 - settings.distillation) * gold + settings.distillation * soft


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
    parameters = [parameter for parameter in encoder.model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
