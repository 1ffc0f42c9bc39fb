"""The third stage of learning: encoder and selector together. No Ray."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from envs.dynamics import Dynamics
from envs.rollout import Draw, sample_trajectories
from trbert.keyed import keyed_uniform
from trbert.packed import PackedBatch
from trbert.policy import Policy
from trbert.reduction import reduced_forward
from trbert.selectors import PolicySelector, Selector
from trbert.shapes import Logits
from tune.learner import Keeper, Learner, autocast, step_in_budget
from tune.objectives import distillation_loss
from tune.settings import ComputeSettings, JointSettings, SelectSettings
from tune.stages import Examples, Progress, drawn_dials, select_loss


@dataclass(frozen=True, slots=True)
class Joint:
    """The joint stage's loss, on trajectories of any selector.

    Each document runs `samples` trajectories and one more. Of a selector that learns, the first are drawn and carry
    the gradient of its decisions, the further one is thresholded as in deployment, at a dial of its own (or with all
    tokens), so that the model stays good along its whole dial. A rule only thresholds: every trajectory has a dial of
    its own. All of them carry the task loss: gold labels and the teacher's distribution.
    """

    dynamics: Dynamics
    selector: Selector
    select: SelectSettings
    settings: JointSettings
    dtype: str
    temperature: float | None

    def loss(self, part: Examples, draw: Draw) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Returns the mean loss of some documents, and what to tell of it."""
        if isinstance(self.selector, PolicySelector):
            return self._learned(self.selector.policy, part, draw)
        samples = self.settings.samples + 1
        many = part.tokens.take(torch.arange(len(part.labels), device=part.labels.device).repeat(samples))
        labels = part.labels.repeat(samples)
        with autocast(self.dynamics.encoder.device, self.dtype):
            dials = rule_dials(self.selector, self.settings, draw, samples)
            points = self.dynamics.points
            batch = reduced_forward(self.dynamics.encoder, self.selector, many, points, dials.flatten(), labels).batch
        task, _ = self._task(batch, part, samples)
        return task, {"task": float(task.detach())}

    def _learned(self, policy: Policy, part: Examples, draw: Draw) -> tuple[Float[Tensor, ""], dict[str, float]]:
        dials, deployed = joint_dials(self.select, self.settings, draw)
        with autocast(self.dynamics.encoder.device, self.dtype):
            rollout = sample_trajectories(
                self.dynamics, policy, part.tokens, draw, dials, deployed, temperature=self.temperature
            )
        task, logits = self._task(rollout.state.batch, part, len(dials))
        labels, drawn = part.labels.repeat(len(dials)), dials[: self.settings.samples]
        learned, reward = select_loss(self.dynamics, rollout, logits, labels, drawn, self.select)
        return task + learned, {"reward": reward, "task": float(task.detach())}

    def _task(self, batch: PackedBatch, part: Examples, samples: int) -> tuple[Float[Tensor, ""], Logits]:
        with autocast(self.dynamics.encoder.device, self.dtype):
            logits = self.dynamics.encoder.logits(batch)
        return task_loss(logits, part.labels.repeat(samples), part.teacher_logits, samples, self.settings), logits


def train_jointly(
    joint: Joint,
    train: Examples,
    compute: ComputeSettings,
    seed: int,
    progress: Progress,
    keeper: Keeper | None = None,
) -> None:
    """Stage 3: encoder and selector learn together, on every trajectory of `Joint`.

    Args:
        joint: what is learned.
        train: the documents.
        compute: how the machine is used.
        seed: keys the order of documents and all that is drawn.
        progress: told each step's losses.
        keeper: takes the stage's state now and then.
    """
    settings = joint.settings
    if settings.documents == 0:
        return
    encoder, device = joint.dynamics.encoder, joint.dynamics.encoder.device
    encoder.model.eval()  # dropout would come between a reward and its actions
    steps = math.ceil(settings.documents / settings.batch_size)
    groups: list[dict[str, Any]] = [{"params": list(encoder.model.parameters()), "lr": settings.learning_rate}]
    if isinstance(joint.selector, PolicySelector):
        weights = list(joint.selector.policy.parameters())
        groups.append({"params": weights, "lr": settings.policy_learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    learner = Learner(optimizer, steps, warm_up=0.1, keeper=keeper)
    seen: dict[str, float] = {}

    def loss(documents: Tensor, version: int) -> Tensor:
        part = train.take(documents, device)
        value, told = joint.loss(part, Draw(seed=seed, version=version, documents=documents.to(device)))
        seen.update(told)
        return value * len(documents)

    lengths = train.tokens.lengths
    for step, documents in learner.batches(len(train.tokens), settings.batch_size, seed + 1):
        # Versions continue after the select stage's, so that no draw is used twice.
        of_step = partial(loss, version=1_000_000 + step)
        value = step_in_budget(optimizer, documents, lengths, compute.tokens_per_batch, of_step)
        progress({"step": float(step + 1), "steps": float(steps), "loss": value, **seen})


def joint_dials(
    select: SelectSettings, settings: JointSettings, draw: Draw
) -> tuple[Float[Tensor, "samples docs"], Bool[Tensor, " samples"]]:
    """Returns the dial of every trajectory of a selector that learns, and which threshold instead of drawing."""
    docs = draw.documents
    drawn = drawn_dials(select, draw, settings.samples)
    if not settings.dial_range:
        return drawn, torch.zeros(settings.samples, dtype=torch.bool, device=docs.device)
    dial = (2 * keyed_uniform(draw.seed, draw.version, docs, 1) - 1) * settings.dial_range
    dials = torch.cat([drawn, dial.masked_fill(_keeps_all(settings, draw), torch.inf)[None]])
    deployed = torch.zeros(len(dials), dtype=torch.bool, device=docs.device)
    deployed[-1] = True
    return dials, deployed


def rule_dials(selector: Selector, settings: JointSettings, draw: Draw, samples: int) -> Float[Tensor, "samples docs"]:
    """Returns the dial of every trajectory of a rule that counts: fractions alike in log, from its cheapest to 1."""
    sample = torch.arange(samples, device=draw.documents.device)[:, None]
    share = keyed_uniform(draw.seed, draw.version, draw.documents[None], 3, sample)
    dials = selector.dials[0] ** share
    dials[-1].masked_fill_(_keeps_all(settings, draw), selector.keep_all)
    return dials


def _keeps_all(settings: JointSettings, draw: Draw) -> Bool[Tensor, " docs"]:
    """Returns the documents whose further trajectory keeps all tokens."""
    return keyed_uniform(draw.seed, draw.version, draw.documents, 2) < settings.keep_all


def task_loss(
    logits: Float[Tensor, "trajectories classes"],
    labels: Int[Tensor, " trajectories"],
    teacher_logits: Logits | None,
    samples: int,
    settings: JointSettings,
) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy against the labels and, for its share, against the teacher's distribution."""
    gold = nn.functional.cross_entropy(logits.float(), labels)
    if teacher_logits is None or settings.distillation == 0:
        return gold
    soft = distillation_loss(logits, teacher_logits.repeat(samples, 1), settings.temperature)
    return (1 - settings.distillation) * gold + settings.distillation * soft
