"""The third stage of learning: encoder and selector together. No Ray."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from envs.dynamics import Dynamics
from envs.rollout import Draw, sample_trajectories
from trbert.dial import log_costs, some_of
from trbert.keyed import keyed_uniform
from trbert.measure.evaluate import evaluate
from trbert.packed.batch import PackedBatch
from trbert.selection.policy import Policy
from trbert.selection.reduction import reduced_forward
from trbert.selection.selectors import PolicySelector, Selector
from trbert.shapes import Logits
from trbert.tasks.examples import Examples
from tune.learning.objectives import distillation_loss
from tune.learning.select_stage import drawn_dials, select_loss
from tune.learning.steps import ALONE, Keeper, Learner, Progress, Team, autocast, step_in_budget
from tune.settings import ComputeSettings, JointSettings, SelectSettings

SCOUTED = 16
"""Documents that the cost of a dial is measured on."""
SCOUTINGS = 10
"""How often in the stage: its dials move while the model learns."""


@dataclass(frozen=True, slots=True)
class Joint:
    """The joint stage's loss, on trajectories of any selector.

    Each document runs `samples` trajectories and one more. Of a selector that learns, the first are drawn and carry
    the gradient of its decisions, the further one is thresholded as in deployment, at a speed-up of its own (or with
    all tokens), so that the model stays good along its whole dial. A rule only thresholds: every trajectory has a
    speed-up of its own. All of them carry the task loss: gold labels and the teacher's distribution.
    """

    dynamics: Dynamics
    selector: Selector
    select: SelectSettings
    settings: JointSettings
    dtype: str
    temperature: float | None

    @property
    def trajectories(self) -> int:
        """Of each document."""
        return self.settings.samples + (1 if self.settings.fastest else 0)

    @property
    def dials(self) -> tuple[float, ...]:
        """The dials whose costs are measured: every third of the selector's, its last among them."""
        return self.selector.dials[::-3][::-1]

    def costs(self, some: Examples) -> Float[Tensor, " dials"]:
        """Returns log(1 / speed-up) of those dials on some documents, as the model now is."""
        encoder, cost, points = self.dynamics.encoder, self.dynamics.cost, self.dynamics.points

        def speed_up_at(dial: float) -> float:
            return evaluate(encoder, cost, self.selector, some.tokens, some.labels, points, dial).speed_up

        with autocast(encoder.device, self.dtype):
            return torch.from_numpy(log_costs(speed_up_at, self.dials))

    def loss(
        self, part: Examples, draw: Draw, costs: Float[Tensor, " dials"]
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Returns the mean loss of some documents, and what to tell of it."""
        if isinstance(self.selector, PolicySelector):
            return self._learned(self.selector.policy, part, draw, costs)
        samples = self.trajectories
        many = part.tokens.take(torch.arange(len(part.labels), device=part.labels.device).repeat(samples))
        labels = part.labels.repeat(samples)
        with autocast(self.dynamics.encoder.device, self.dtype):
            dials = self.thresholded(draw, costs, samples)
            points = self.dynamics.points
            batch = reduced_forward(self.dynamics.encoder, self.selector, many, points, dials.flatten(), labels).batch
        task, _ = self._task(batch, part, samples)
        return task, {"task": float(task.detach())}

    def _learned(
        self, policy: Policy, part: Examples, draw: Draw, costs: Float[Tensor, " dials"]
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        drawn = drawn_dials(self.select, draw, self.settings.samples)
        dials = torch.cat([drawn, self.thresholded(draw, costs, 1)]) if self.settings.fastest else drawn
        deployed = torch.arange(len(dials), device=dials.device) >= len(drawn)
        with autocast(self.dynamics.encoder.device, self.dtype):
            rollout = sample_trajectories(
                self.dynamics, policy, part.tokens, draw, dials, deployed, temperature=self.temperature
            )
        task, logits = self._task(rollout.state.batch, part, len(dials))
        labels = part.labels.repeat(len(dials))
        learned, reward = select_loss(self.dynamics, rollout, logits, labels, drawn, self.select)
        return task + learned, {"reward": reward, "task": float(task.detach())}

    def thresholded(self, draw: Draw, costs: Float[Tensor, " dials"], samples: int) -> Float[Tensor, "samples docs"]:
        """Returns dials whose speed-ups are alike in log from 1x to the fastest; some of the last keep all tokens."""
        docs = draw.documents
        sample = torch.arange(samples, device=docs.device)[:, None]
        share = keyed_uniform(draw.seed, draw.version, docs[None], 1, sample).cpu().numpy()
        cheapest, dearest = max(-math.log(self.settings.fastest), float(costs[0])), float(costs[-1])
        found = np.interp(cheapest + share * (dearest - cheapest), costs.numpy(), self.dials)
        dials = torch.from_numpy(found).to(docs.device, torch.float32)
        keeps_all = keyed_uniform(draw.seed, draw.version, docs, 2) < self.settings.keep_all
        dials[-1].masked_fill_(keeps_all, self.selector.keep_all)
        return dials

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
    team: Team = ALONE,
) -> None:
    """Stage 3: encoder and selector learn together, on every trajectory of `Joint`.

    Args:
        joint: what is learned.
        train: the documents.
        compute: how the machine is used.
        seed: keys the order of documents and all that is drawn.
        progress: told each step's losses.
        keeper: takes the stage's state now and then.
        team: the processes that learn together; what is drawn for a document does not depend on who draws it.
    """
    settings = joint.settings
    if settings.documents == 0:
        return
    encoder, device = joint.dynamics.encoder, joint.dynamics.encoder.device
    encoder.model.eval()  # dropout would come between a reward and its actions
    steps = math.ceil(settings.documents / settings.batch_size)
    groups: list[dict[str, Any]] = [{"params": list(encoder.model.parameters()), "lr": settings.learning_rate}]
    policy = joint.selector.policy.parameters() if isinstance(joint.selector, PolicySelector) else ()
    if weights := [*policy, *encoder.fusion.parameters()]:
        groups.append({"params": weights, "lr": settings.policy_learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    costs = torch.zeros(len(joint.dials), dtype=torch.float64)
    learner = Learner(optimizer, steps, warm_up=0.1, keeper=keeper, carried=[costs])
    few, every = some_of(train, SCOUTED), max(1, steps // SCOUTINGS)
    seen: dict[str, float] = {}

    def loss(documents: Tensor, version: int) -> Tensor:
        part = train.take(documents, device)
        value, told = joint.loss(part, Draw(seed=seed, version=version, documents=documents.to(device)), costs)
        seen.update(told)
        return value * len(documents)

    lengths = train.tokens.lengths * joint.trajectories
    for step, documents in learner.batches(len(train.tokens), settings.batch_size, seed + 1):
        if settings.fastest and step % every == 0:
            costs.copy_(joint.costs(few))
        # Versions continue after the select stage's, so that no draw is used twice.
        of_step = partial(loss, version=1_000_000 + step)
        value = step_in_budget(optimizer, documents, lengths, compute.tokens_per_batch, of_step, team)
        progress({"step": float(step + 1), "steps": float(steps), "loss": value, **seen})


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
