"""Teams: several processes that learn a stage together, through Ray Train; the teacher's or a trial's joint stage."""

import json
import math
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

from trbert import errors
from trbert.encoder import Encoder
from trbert.errors import TrbertError
from trbert.packed.declared import Declaration, declaration_of
from trbert.selection.reduction import Reducer
from trbert.tasks import Task
from trbert.tasks.examples import Examples
from tune.budget import Clock, StageTimeout
from tune.checkpoints import StateKeeper, newest_state, report_to_train
from tune.learning.model import Model
from tune.learning.prepare import Prepared, arrays_of, load_arrays, rebuilt
from tune.learning.steps import Keeper, Progress, Team, fix_algorithms, pick_device
from tune.learning.teacher_stage import train_teacher
from tune.processes.planner import bundle
from tune.runs.places import below
from tune.settings import ComputeSettings, Settings, TeacherSettings

REPORT_S = 10.0
"""Seconds between two reports of a team."""
FAILURES = 20
"""How many deaths of its processes a stage survives. Spot machines are taken away often, which is not an error."""


@runtime_checkable
class TeamStage(Protocol):
    """The stage that a team learns. It is sent to each process, so it must be small, or hold references."""

    @property
    def name(self) -> str:
        """The stage's name, which is saved in its states."""

    @property
    def key(self) -> str:
        """A digest of what the stage learns from, which is saved in its states."""

    def learn(self, team: Team, progress: Progress, keeper: Keeper) -> None:
        """Runs the stage in this process of the team."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamPlan:
    """The resources of a team, and the folder for its states.

    Attributes:
        size: the number of processes.
        gpus: whether each process has a whole GPU. Two processes on one GPU cannot communicate over NCCL.
        storage: a folder or URI that all machines share, for the states.
        run: the name of the stage's folder in `storage`; a team continues from the states that it finds there.
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
) -> float | None:
    """Runs a stage in a team of processes, and copies the weights that it learned into `parameters`.

    It returns the fraction of the steps that were taken, or None if all were.

    If a process dies, Ray stops the whole team and starts it again from its last state. After an error that the user
    can put right the team is started once more, and then ends at once: Ray cannot be told not to start it.

    Args:
        stage: the stage to learn.
        plan: the resources of the team, and the folder for its states.
        parameters: the parameters that learn, in the order of the stage's optimiser; they are changed in place.
        seconds: after this time the stage stops, and keeps what it has learned; None sets no limit. The time that
            processes used which died counts too.
        told: is called with the figures of each step, in the team's first process.
        callbacks: callbacks for Ray Train.

    Raises:
        TrbertError: The stage raised it in one of the processes.
    """
    mistake = _Mistake(below(plan.storage, plan.run))
    trainer = train_torch.TorchTrainer(
        _learn,
        train_loop_config={"stage": stage, "seconds": seconds, "told": told, "mistake": mistake},
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
    found = newest_state(trainer.fit().checkpoint, stage.key)
    if (error := mistake.read()) is not None:
        _forget(plan)
        raise error
    if found is None:
        raise RuntimeError(f"the {plan.size} learners of {plan.run} left no undamaged state in {plan.storage}")
    with torch.no_grad():
        # The state may hold carried tensors after the weights; zip leaves them out.
        for parameter, weights in zip(parameters, found.state["weights"], strict=False):
            parameter.copy_(weights)
    _forget(plan)
    share = float(found.state.get("share", 1.0))
    return share if share < 1 else None


@dataclass(frozen=True, slots=True)
class _Mistake:
    """The error that the user can put right and that ended a team, in a file that all its processes share.

    Attributes:
        place: the team's folder, as a path or a URI.
    """

    place: str

    def write(self, error: TrbertError) -> None:
        """Keeps the error for the processes that are started after it."""
        files, path = self._file()
        with files.open_output_stream(path) as stream:
            stream.write(json.dumps([type(error).__name__, str(error)]).encode())

    def read(self) -> TrbertError | None:
        """Returns the error, or None if there was none."""
        files, path = self._file()
        if files.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
            return None
        with files.open_input_stream(path) as stream:
            kind, message = json.loads(stream.read())
        made: TrbertError = getattr(errors, kind, TrbertError)(message)
        return made

    def _file(self) -> tuple[pyarrow.fs.FileSystem, str]:
        files, path = pyarrow.fs.FileSystem.from_uri(self.place)
        return files, posixpath.join(path, "mistake.json")


def _forget(plan: TeamPlan) -> None:
    """Deletes the states of a finished stage, because they are large."""
    files, path = pyarrow.fs.FileSystem.from_uri(below(plan.storage, plan.run))
    files.delete_dir(path)


def _learn(config: dict[str, Any]) -> None:
    """Runs a stage in one process of a team; Ray Train calls this in each of them."""
    mistake: _Mistake = config["mistake"]
    if mistake.read() is not None:
        return
    context = train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())
    device = train_torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    stage: TeamStage = config["stage"]
    found = newest_state(train.get_checkpoint(), stage.key)
    seconds: float | None = config["seconds"]
    clock = Clock(math.inf if seconds is None else seconds, used=0.0 if found is None else found.spent)
    keeper = StateKeeper(stage.name, found, report_to_train, stage.key, team, device, clock)
    try:
        stage.learn(team, _TeamProgress(stage.name, team, device, clock, config["told"]), keeper)
    except StageTimeout:
        pass  # what was learned until now is kept
    except TrbertError as error:
        mistake.write(error)
        raise
    keeper.finish()


class _TeamProgress:
    """Reports the team's progress every `REPORT_S` seconds; raises `StageTimeout` in all of them when time is over."""

    def __init__(self, stage: str, team: Team, device: torch.device, clock: Clock, told: Progress | None) -> None:
        self.stage, self.team, self.device, self.clock, self.told = stage, team, device, clock, told
        self.last = time.monotonic()

    def __call__(self, step: dict[str, float]) -> None:
        now = time.monotonic()
        if self.told is not None and self.team.rank == 0:
            self.told(step)
        if self.team.agreed(now - self.last > REPORT_S, self.device):
            self.last = now
            train.report({"stage": self.stage, "share": step["step"] / step["steps"], "loss": step["loss"]})
        if math.isfinite(self.clock.seconds) and self.team.agreed(self.clock.left() < 0, self.device):
            raise StageTimeout


@dataclass(frozen=True, slots=True, kw_only=True)
class JointStage:
    """The joint stage of a trial, as a team learns it.

    Attributes:
        prepared: what all trials share.
        settings: of the trial.
        policy: the policy after the select stage: its state dict, as arrays.
        key: `Prepared.fingerprint`.
        name: the stage's name.
    """

    prepared: "ray.ObjectRef[Prepared]"
    settings: Settings
    policy: dict[str, NDArray[Any]]
    key: str
    name: str = "joint"

    def learn(self, team: Team, progress: Progress, keeper: Keeper) -> None:
        """Runs the joint stage in this process of the team."""
        torch.set_num_threads(self.settings.compute.threads or 1)
        fix_algorithms(self.settings.compute)
        prepared = ray.get(self.prepared)
        model = Model(prepared, self.settings)
        load_arrays(model.policy, self.policy)
        model.join(prepared.train, progress, keeper, team)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStage:
    """The teacher's training, as a team does it.

    Attributes:
        family: the declaration of the encoder's family, or None; before `config`, as in `Prepared`.
        task: what is predicted.
        config: the plain model's Hugging Face configuration.
        weights: the plain model's weights before the training.
        train: the training examples.
        settings: of the stage.
        compute: how the machine is used.
        seed: of the run.
        key: a digest of the examples, the weights and the settings.
        name: the stage's name.
    """

    family: Declaration | None = None
    task: Task
    config: Any
    weights: "ray.ObjectRef[dict[str, NDArray[Any]]]"
    train: "ray.ObjectRef[Examples]"
    settings: TeacherSettings
    compute: ComputeSettings
    seed: int
    key: str
    name: str = "teacher"

    def learn(self, team: Team, progress: Progress, keeper: Keeper) -> None:
        """Trains the teacher in this process of the team."""
        torch.set_num_threads(self.compute.threads or 1)
        fix_algorithms(self.compute)
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
    key: str,
    seconds: float | None = None,
) -> float | None:
    """Does the same as `train_teacher`, in a team of processes.

    It returns the fraction of the steps that were taken in the given seconds, or None if all were. The key is that of
    `TeacherStage`.
    """
    plain = reducer.encoder.plain
    stage = TeacherStage(
        family=declaration_of(plain.config),
        task=reducer.task,
        config=plain.config,
        weights=ray.put(arrays_of(plain)),
        train=ray.put(examples),
        settings=settings,
        compute=compute,
        seed=seed,
        key=key,
    )
    share = learn_together(stage, plan, list(plain.parameters()), seconds, told)
    plain.eval()
    return share


def join_together(
    model: Model, prepared: "ray.ObjectRef[Prepared]", plan: TeamPlan, seconds: float | None, callbacks: Sequence[Any]
) -> float | None:
    """Does the same as `Model.join`, in a team of processes; returns what `learn_together` does."""
    if model.settings.joint.documents == 0:
        return None
    stage = JointStage(
        prepared=prepared, settings=model.settings, policy=arrays_of(model.policy), key=model.fingerprint
    )
    return learn_together(stage, plan, model.parameters, seconds, callbacks=callbacks)
