"""The third stage of learning: encoder and selector together. No Ray."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from envs.dynamics import Dynamics
from envs.rollout import Draw, sample_trajectories
from trbert.dial import DialCurve
from trbert.keyed import keyed_uniform
from trbert.measure.evaluate import evaluate
from trbert.selection.selectors import Selector
from trbert.tasks import Task
from trbert.tasks.examples import Examples, Outputs
from tune.learning.select_stage import select_loss
from tune.learning.steps import ALONE, Keeper, Learner, Progress, Team, autocast, step_in_budget
from tune.settings import ComputeSettings, JointSettings, SelectSettings

SCOUTED = 16
"""Documents that the cost of a dial is measured on."""
SCOUTINGS = 10
"""How often in the stage: its dials move while the model learns."""
FIRST_VERSION = 1_000_000
"""Keys the draws of the stage's first step; the select stage's steps are keyed by their own numbers, below it."""


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

    def curve(self, some: Examples) -> DialCurve:
        """Returns what those dials cost on some examples, as the model now is."""
        reducer, cost = self.dynamics.reducer, self.dynamics.cost

        def speed_up_at(dial: float) -> float:
            return evaluate(reducer, cost, self.selector, some, dial).speed_up

        with autocast(reducer.encoder.device, self.dtype):
            return DialCurve.measured(speed_up_at, self.dials)

    def loss(self, part: Examples, draw: Draw, curve: DialCurve) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Returns the mean loss of some examples, and what to tell of it."""
        if self.selector.learns:
            return self._learned(part, draw, curve)
        reducer, samples = self.dynamics.reducer, self.trajectories
        many = part.repeat(samples)
        with autocast(reducer.encoder.device, self.dtype):
            dials = self.thresholded(draw, curve, samples)
            finished = reducer.run(self.selector, many.tokens, dials.flatten(), many)
            outputs = reducer.outputs(finished)
        task = task_loss(reducer.task, outputs, many, self.settings)
        return task, {"task": float(task.detach())}

    def _learned(self, part: Examples, draw: Draw, curve: DialCurve) -> tuple[Float[Tensor, ""], dict[str, float]]:
        reducer, samples = self.dynamics.reducer, self.settings.samples
        device = reducer.encoder.device
        drawn = torch.zeros(samples, len(part.tokens), device=device)
        dials = torch.cat([drawn, self.thresholded(draw, curve, 1)]) if self.settings.fastest else drawn
        deployed = torch.arange(len(dials), device=device) >= samples
        with autocast(device, self.dtype):
            rollout = sample_trajectories(
                self.dynamics, self.selector.policy, part.tokens, draw, dials, deployed, temperature=self.temperature
            )
            outputs = reducer.outputs(rollout.state)
        task = task_loss(reducer.task, outputs, part.repeat(len(dials)), self.settings)
        learned, reward = select_loss(self.dynamics, rollout, outputs, part, samples, self.select)
        return task + learned, {"reward": reward, "task": float(task.detach())}

    def thresholded(self, draw: Draw, curve: DialCurve, samples: int) -> Float[Tensor, "samples docs"]:
        """Returns dials whose speed-ups are alike in log from 1x to the fastest; some of the last keep all tokens."""
        docs = draw.documents
        sample = torch.arange(samples, device=docs.device)[:, None]
        share = keyed_uniform(draw.seed, draw.version, docs[None], 1, sample).cpu().numpy()
        cheapest = max(-math.log(self.settings.fastest), float(curve.log_costs[0]))
        dearest = float(curve.log_costs[-1])
        found = curve.dial_at(cheapest + share * (dearest - cheapest))
        dials = torch.from_numpy(found).to(docs.device, torch.float32)
        keeps_all = keyed_uniform(draw.seed, draw.version, docs, 2) < self.settings.keep_all
        dials[-1].masked_fill_(keeps_all, self.selector.keep_all)
        return dials


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
    settings, reducer = joint.settings, joint.dynamics.reducer
    if settings.documents == 0:
        return
    model, device = reducer.encoder.plain, reducer.encoder.device
    model.eval()  # dropout would come between a reward and its actions
    steps = math.ceil(settings.documents / settings.batch_size)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": settings.learning_rate}]
    if weights := [*joint.selector.policy.parameters(), *reducer.fusion.parameters()]:
        groups.append({"params": weights, "lr": settings.policy_learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    costs = torch.zeros(len(joint.dials), dtype=torch.float64)  # a tensor, so that a resumed stage finds it again
    learner = Learner(optimizer, steps, warm_up=0.1, keeper=keeper, carried=[costs])
    few, every = train.spread(SCOUTED), max(1, steps // SCOUTINGS)
    seen: dict[str, float] = {}

    def loss(chosen: Tensor, version: int) -> Tensor:
        part = train.take(chosen).to(device)
        draw = Draw(seed=seed, version=version, documents=train.documents(chosen).to(device))
        value, told = joint.loss(part, draw, DialCurve(joint.dials, costs.numpy()))
        seen.update(told)
        return value * len(chosen)

    lengths = train.lengths * joint.trajectories
    for step, chosen in learner.batches(len(train), settings.batch_size, seed + 1):
        if settings.fastest and step % every == 0:
            costs.copy_(torch.from_numpy(joint.curve(few).log_costs))
        # Versions continue after the select stage's, so that no draw is used twice.
        of_step = partial(loss, version=FIRST_VERSION + step)
        value = step_in_budget(optimizer, chosen, lengths, compute.tokens_per_batch, of_step, team)
        progress({"step": float(step + 1), "steps": float(steps), "loss": value, **seen})


def task_loss(task: Task, outputs: Outputs, examples: Examples, settings: JointSettings) -> Float[Tensor, ""]:
    """Returns the mean loss against the targets and, for its share, against the teacher's outputs."""
    gold = task.loss(outputs, examples).mean()
    if examples.teacher is None or settings.distillation == 0:
        return gold
    soft = task.distil(outputs, examples.teacher, examples, settings.temperature).mean()
    return (1 - settings.distillation) * gold + settings.distillation * soft
