"""Several processes that learn a stage as one, through Ray Train: the teacher's, or a trial's joint stage."""

import contextlib
import posixpath
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow.fs
import ray
import torch
from numpy.typing import NDArray
from ray import train
from ray.train import torch as train_torch
from torch import nn

from trbert.encoder import Encoder
from trbert.selection.reduction import Reducer
from trbert.tasks import Task
from trbert.tasks.examples import Examples
from tune.checkpoints import StateKeeper, newest_state, report_to_train
from tune.learning.model import Model
from tune.learning.prepare import Prepared, arrays_of, rebuilt
from tune.learning.select_stage import flatten, load_flat
from tune.learning.steps import Keeper, Progress, StageTimeout, Team, pick_device
from tune.learning.teacher_stage import train_teacher
from tune.planner import bundle
from tune.settings import ComputeSettings, Settings, TeacherSettings

REPORT_S = 10.0
"""Seconds between two reports of a team."""
FAILURES = 20
"""Deaths of its processes that a stage outlives: on spot machines they are no fault of anybody's."""


@runtime_checkable
class TeamStage(Protocol):
    """What a team learns; travels to each of its processes, and so is small, or made of references."""

    @property
    def name(self) -> str:
        """The stage's name, as its states carry it."""

    def learn(self, team: Team, progress: Progress, keeper: Keeper) -> None:
        """Runs the stage in this process of the team."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamPlan:
    """Where and on what a team learns.

    Attributes:
        size: processes.
        gpus: each has a GPU of its own: two processes cannot talk over NCCL from one.
        storage: folder or URI that all machines share, for its states.
        run: name of the stage's folder there: a team that starts under it goes on from what is left in it.
    """

    size: int
    gpus: bool
    storage: str
    run: str


def learn_together(
    stage: TeamStage,
    plan: TeamPlan,
    parameters: Sequence[nn.Parameter],
    seconds: float | None = None,
    told: Progress | None = None,
    callbacks: Sequence[Any] = (),
) -> None:
    """Has a team learn a stage, and puts what it learned into these parameters, in the order of the stage's optimiser.

    A process that dies takes the team down with it, which starts again from its last state.

    Args:
        stage: what is learned.
        plan: where.
        parameters: learn in place.
        seconds: after which learning stops, and what it has learned stands.
        told: is told each step of the team's first process.
        callbacks: of Ray Train.
    """
    trainer = train_torch.TorchTrainer(
        _learn,
        train_loop_config={"stage": stage, "seconds": seconds, "told": told},
        scaling_config=train.ScalingConfig(
            num_workers=plan.size,
            use_gpu=plan.gpus,
            resources_per_worker=bundle(float(plan.gpus)),
        ),
        run_config=train.RunConfig(
            name=plan.run,
            storage_path=plan.storage,
            failure_config=train.FailureConfig(max_failures=FAILURES),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
        ),
    )
    found = newest_state(trainer.fit().checkpoint)
    if found is None:
        raise RuntimeError(f"the {plan.size} learners of {plan.run} left no state that is whole in {plan.storage}")
    with torch.no_grad():
        for parameter, weights in zip(parameters, found.state["weights"], strict=False):  # what it carries comes last
            parameter.copy_(weights)
    _forget(plan)


def _forget(plan: TeamPlan) -> None:
    """Deletes a finished stage's states, which are large."""
    files, path = pyarrow.fs.FileSystem.from_uri(plan.storage)
    files.delete_dir(posixpath.join(path, plan.run))


def _learn(config: dict[str, Any]) -> None:
    """What each process of a team runs."""
    context = train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())
    device = train_torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    stage: TeamStage = config["stage"]
    keeper = StateKeeper(stage.name, newest_state(train.get_checkpoint()), report_to_train, team, device)
    with contextlib.suppress(StageTimeout):
        stage.learn(team, _TeamProgress(stage.name, team, device, config["seconds"], config["told"]), keeper)
    keeper.finish()


class _TeamProgress:
    """Reports for the team now and then; raises in all of its processes once its time is over."""

    def __init__(
        self, stage: str, team: Team, device: torch.device, seconds: float | None, told: Progress | None
    ) -> None:
        self.stage, self.team, self.device, self.seconds, self.told = stage, team, device, seconds, told
        self.started = self.last = time.monotonic()

    def __call__(self, step: dict[str, float]) -> None:
        now = time.monotonic()
        if self.told is not None and self.team.rank == 0:
            self.told(step)
        if self.team.agreed(now - self.last > REPORT_S, self.device):
            self.last = now
            train.report({"stage": self.stage, "share": step["step"] / step["steps"], "loss": step["loss"]})
        late = self.seconds is not None and now - self.started > self.seconds
        if self.seconds is not None and self.team.agreed(late, self.device):
            raise StageTimeout


@dataclass(frozen=True, slots=True, kw_only=True)
class JointStage:
    """A trial's joint stage.

    Attributes:
        prepared: what all trials share.
        settings: of the trial.
        policy: what select left, as one vector.
    """

    prepared: "ray.ObjectRef[Prepared]"
    settings: Settings
    policy: NDArray[Any]
    name: str = "joint"

    def learn(self, team: Team, progress: Progress, keeper: Keeper) -> None:
        """Runs the joint stage in this process of the team."""
        torch.set_num_threads(self.settings.compute.threads or 1)
        prepared = ray.get(self.prepared)
        model = Model(prepared, self.settings)
        load_flat(model.policy, self.policy)
        model.join(prepared.train, progress, keeper, team)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStage:
    """The teacher's training.

    Attributes:
        task: what is predicted.
        config: the plain model's Hugging Face configuration.
        weights: where it starts.
        train: the examples.
        settings: of the stage.
        compute: how the machine is used.
        seed: of the run.
    """

    task: Task
    config: Any
    weights: "ray.ObjectRef[dict[str, NDArray[Any]]]"
    train: "ray.ObjectRef[Examples]"
    settings: TeacherSettings
    compute: ComputeSettings
    seed: int
    name: str = "teacher"

    def learn(self, team: Team, progress: Progress, keeper: Keeper) -> None:
        """Trains the teacher in this process of the team."""
        torch.set_num_threads(self.compute.threads or 1)
        plain = rebuilt(self.task, self.config, ray.get(self.weights), pick_device(self.compute.device))
        reducer = Reducer(encoder=Encoder(plain), task=self.task)
        train_teacher(reducer, ray.get(self.train), self.settings, self.compute, self.seed, progress, keeper, team)


def teach_together(
    plan: TeamPlan,
    reducer: Reducer,
    examples: Examples,
    settings: TeacherSettings,
    compute: ComputeSettings,
    seed: int,
    told: Progress,
) -> None:
    """`train_teacher`, by a team."""
    plain = reducer.encoder.plain
    stage = TeacherStage(
        task=reducer.task,
        config=plain.config,
        weights=ray.put(arrays_of(plain)),
        train=ray.put(examples),
        settings=settings,
        compute=compute,
        seed=seed,
    )
    learn_together(stage, plan, list(plain.parameters()), told=told)
    plain.eval()


def join_together(
    model: Model, prepared: "ray.ObjectRef[Prepared]", plan: TeamPlan, seconds: float | None, callbacks: Sequence[Any]
) -> None:
    """`Model.join`, by a team."""
    if model.settings.joint.documents == 0:
        return
    stage = JointStage(prepared=prepared, settings=model.settings, policy=flatten(model.policy))
    learn_together(stage, plan, model.parameters, seconds, callbacks=callbacks)
