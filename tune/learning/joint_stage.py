"""The third stage of learning, joint: encoder and selector learn together."""

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
from trbert.tasks.examples import Examples, Outputs
from tune.budget import Clock
from tune.learning.select_stage import select_loss
from tune.learning.steps import ALONE, Keeper, Learner, Progress, Team, autocast, step_in_budget
from tune.settings import DISTILLATION, ComputeSettings, JointSettings, SelectSettings

SCOUTED = 8
"""The number of documents on which the costs of the dials are measured."""
SCOUTINGS, SCOUT_EVERY = 10, 200
"""At most how many times in the stage these costs are measured, and the fewest documents between two measurements.

The costs change while the model learns. A measurement takes as long as learning from 10 to 15 documents. Ten of them
would be a fifth of a stage of 700 documents.
"""
FIRST_VERSION = 1_000_000
"""The policy version of the stage's first step, which keys its draws. The select stage's versions lie below it."""


@dataclass(frozen=True, slots=True)
class Joint:
    """The loss of the joint stage, for any selector.

    Each document has `samples` trajectories and, unless `fastest` is 0, one more. If the selector learns, the first
    `samples` are drawn, and carry the gradient of its decisions. The last one is thresholded, as in use. Its
    dial is drawn, so that it has any speed-up, or keeps all tokens. So the model stays good along its whole dial. A
    rule draws no masks: all of its trajectories are thresholded, each at a dial that is drawn for it. Every trajectory
    has the task loss, against the targets and the teacher's outputs.

    Attributes:
        dynamics: the decision process of the model that learns.
        selector: decides which tokens to keep.
        select: settings of the policy gradient.
        settings: of the joint stage.
        dtype: arithmetic, as `compute.dtype`.
        temperature: τ of relaxed decisions; None does not relax them.
        gold: the share of the targets in the task loss of a labelled document, as `gold_share` says.
    """

    dynamics: Dynamics
    selector: Selector
    select: SelectSettings
    settings: JointSettings
    dtype: str
    temperature: float | None
    gold: float

    @property
    def trajectories(self) -> int:
        """The number of trajectories of each document."""
        return self.settings.samples + (1 if self.settings.fastest else 0)

    def curve(self, some: Examples) -> DialCurve:
        """Returns what the selector's dials cost on some examples with the model's present weights."""
        reducer, cost = self.dynamics.reducer, self.dynamics.cost

        def speed_up_at(dial: float) -> float:
            return evaluate(reducer, cost, self.selector, some, dial).speed_up

        with autocast(reducer.encoder.device, self.dtype):
            return DialCurve.measured(speed_up_at, self.selector.dials)

    def loss(self, part: Examples, draw: Draw, curve: DialCurve) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Returns the mean loss of some examples, and the figures to report about it."""
        if self.selector.learns:
            return self._learned(part, draw, curve)
        reducer, samples = self.dynamics.reducer, self.trajectories
        many = part.repeat(samples)
        with autocast(reducer.encoder.device, self.dtype):
            dials = self.thresholded(draw, curve, samples)
            finished = reducer.run(self.selector, many.tokens, dials.flatten(), many)
            outputs = reducer.outputs(finished)
        task = self.task_loss(outputs, many)
        return task, {"task": float(task.detach())}

    def _learned(self, part: Examples, draw: Draw, curve: DialCurve) -> tuple[Float[Tensor, ""], dict[str, float]]:
        reducer, samples = self.dynamics.reducer, self.settings.samples
        device = reducer.encoder.device
        drawn = torch.zeros(samples, len(part.tokens), device=device)
        dials = torch.cat([drawn, self.thresholded(draw, curve, 1)]) if self.settings.fastest else drawn
        deployed = torch.arange(len(dials), device=device) >= samples
        with autocast(device, self.dtype):
            rollout = sample_trajectories(
                self.dynamics,
                self.selector.policy,
                part.tokens,
                draw,
                dials,
                deployed,
                temperature=self.temperature,
                tokens_per_decision=self.select.tokens_per_decision,
            )
            outputs = reducer.outputs(rollout.state)
        task = self.task_loss(outputs, part.repeat(len(dials)))
        learned, reward = select_loss(self.dynamics, rollout, outputs, part, samples, self.select)
        return task + learned, {"reward": reward, "task": float(task.detach())}

    def task_loss(self, outputs: Outputs, examples: Examples) -> Float[Tensor, ""]:
        """Returns the mean task loss: against the targets with the share `gold`, and against the teacher's outputs."""
        task, temperature = self.dynamics.task, self.settings.temperature
        return task.learning_loss(outputs, examples, self.gold, temperature).mean()

    def thresholded(self, draw: Draw, curve: DialCurve, samples: int) -> Float[Tensor, "samples docs"]:
        """Returns dials whose speed-ups are uniform in log from 1x to `fastest`.

        In the last row, a fraction `keep_all` of the documents keeps all tokens instead.
        """
        docs = draw.documents
        sample = torch.arange(samples, device=docs.device)[:, None]
        share = keyed_uniform(draw.seed, draw.version, docs[None], 1, sample).cpu().numpy()
        cheapest = max(-math.log(self.settings.fastest), float(curve.log_costs[0]))
        dearest = float(curve.log_costs[-1])
        wanted = cheapest + share * (dearest - cheapest)
        found = curve.dial_at(wanted.astype("float64"))
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
    clock: Clock | None = None,
) -> None:
    """Stage 3: trains encoder, selector and fusion together, in place, on the loss of `Joint`.

    Args:
        joint: the loss, with the model that learns.
        train: the training examples.
        compute: how the machine is used.
        seed: the key of the order of examples and of everything that is drawn.
        progress: is called with the losses of each step.
        keeper: saves the stage's state from time to time; None saves nothing.
        team: the processes that learn together; what is drawn for a document is the same in any process.
        clock: of the stage; the learning rate has fallen to 0 when its time is over. None has no limit. Processes that
            learn together have none, because their rates must be equal.
    """
    settings, reducer = joint.settings, joint.dynamics.reducer
    if settings.documents == 0:
        return
    model, device = reducer.encoder.plain, reducer.encoder.device
    model.eval()  # with dropout a reward would depend on more than the actions
    batch_size = train.count_of(settings.batch_size)
    steps = math.ceil(train.count_of(settings.documents) / batch_size)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": settings.learning_rate}]
    own = (joint.selector.policy, reducer.fusion, reducer.exits)
    if weights := [parameter for module in own for parameter in module.parameters()]:
        groups.append({"params": weights, "lr": settings.policy_learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    dials = joint.selector.dials
    costs = torch.zeros(len(dials), dtype=torch.float64)  # a tensor, so that the stage's state holds it
    learner = Learner(optimizer, steps, warm_up=0.1, keeper=keeper, carried=[costs], clock=clock)
    few, every = train.spread(SCOUTED), max(1, steps // SCOUTINGS, SCOUT_EVERY // settings.batch_size)
    seen: dict[str, float] = {}

    def loss(chosen: Tensor, version: int) -> Tensor:
        part = train.take(chosen).to(device)
        draw = Draw(seed=seed, version=version, documents=train.documents(chosen).to(device))
        value, told = joint.loss(part, draw, DialCurve(dials, costs.numpy()))
        seen.update(told)
        return value * len(chosen)

    lengths = train.lengths * joint.trajectories
    for step, chosen in learner.batches(len(train), batch_size, seed + 1):
        if settings.fastest and step % every == 0:
            costs.copy_(torch.from_numpy(joint.curve(few).log_costs))
        # These versions differ from the select stage's, so that no draw is used twice.
        of_step = partial(loss, version=FIRST_VERSION + step)
        value = step_in_budget(optimizer, chosen, lengths, compute.tokens_of_pass, of_step, team)
        progress({"step": float(step + 1), "steps": float(steps), "loss": value, **seen})


def gold_share(distillation: float | None, passes: float, unlabelled: bool) -> float:
    """Returns the share of the label in the task loss of a labelled document; the teacher's outputs have the rest.

    It is (1 − distillation) · min(1, 2 / passes). The labels of few documents that are seen often are learned by heart:
    on IMDB, a joint stage that saw each of 4,000 labelled documents twelve times lost more than one that saw each of
    them twice.

    Args:
        distillation: the share of the teacher's outputs where each document is seen twice or less. None is
            `DISTILLATION`. With unlabelled documents it is 1: on IMDB, labels were worse than the teacher's outputs
            alone.
        passes: how often the stage sees each document, labelled or not.
        unlabelled: whether there are documents without a label.

    Example:
        >>> [gold_share(None, passes, False) for passes in (0.5, 2.0, 4.0, 20.0)]
        [0.5, 0.5, 0.25, 0.05]
        >>> gold_share(None, 2.0, True), gold_share(0.5, 4.0, True)
        (0.0, 0.25)
    """
    if distillation is None:
        distillation = 1.0 if unlabelled else DISTILLATION
    return (1 - distillation) * 2 / max(2.0, passes)
