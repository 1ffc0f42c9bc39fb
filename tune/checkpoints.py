"""States of a stage, saved with a checksum while it learns; a process that replaces a dead one continues from there."""

import hashlib
import json
import posixpath
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
from ray import train, tune

from trbert.disk.files import named
from trbert.errors import RunFolderError
from tune.budget import Clock
from tune.learning.steps import ALONE, Team

STATE, MANIFEST = "state.pt", "manifest.json"
EVERY_S = 90.0
"""Seconds between two states. A trial loses at most this much work with a machine, and the time to notice the loss."""


@dataclass(frozen=True, slots=True)
class StageState:
    """The state of a stage after some step.

    Attributes:
        stage: the stage's name: "teacher", "select" or "joint".
        state: what `Learner.state` returned, and what the stage's keeper saves beside it.
        key: a digest of what the stage learns from: the data, the model and the settings.
        spent: the seconds that the trial, or the team or the teacher, had used by then, with those of its processes
            that died before.
    """

    stage: str
    state: dict[str, Any]
    key: str
    spent: float = 0.0


Report = Callable[[dict[str, Any], Path | None], None]
"""A function that reports metrics, and a folder as checkpoint, or None without one."""


class StateKeeper:
    """A `Keeper` that saves a stage's state in checkpoints.

    Args:
        stage: the name of the stage.
        found: the state that an earlier process left, of this stage or of another; None if there is none.
        report: takes metrics and a checkpoint. Every process of a team calls it; only the first one has a checkpoint.
        key: a digest of what the stage learns from; it is saved with each state.
        team: the processes that learn together.
        device: where the team's tensors are; the processor by default.
        clock: counts the seconds that are saved with each state; None counts those of this keeper.
        beside: what is saved with each state of this stage, in types that `torch.load(weights_only=True)` can read.
    """

    def __init__(
        self,
        stage: str,
        found: StageState | None,
        report: Report,
        key: str,
        team: Team = ALONE,
        device: torch.device | None = None,
        clock: Clock | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        self._beside = dict(beside or {})
        self._stage, self._found, self._report, self._key = stage, found, report, key
        self._team, self._device = team, device or torch.device("cpu")
        self._clock = clock or Clock(used=found.spent if found is not None else 0.0)
        self._last = time.monotonic()
        self._state: Callable[[], dict[str, Any]] | None = None

    def load(self) -> dict[str, Any] | None:
        """Returns the state that an earlier process left, or None if that process did not end in this stage."""
        if self._found is None or self._found.stage != self._stage:
            return None
        if self._team.rank:  # the random state that was saved is that of the first process
            return self._found.state | {"random": [torch.get_rng_state()]}
        return self._found.state

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Saves the state, if the last saved one is older than `EVERY_S`."""
        self._state = state
        if self._team.agreed(time.monotonic() - self._last > EVERY_S, self._device):
            self._write(state())

    def finish(self) -> None:
        """Saves the stage's last state, marked as finished even if the stage ran out of time."""
        if self._state is not None:
            state = self._state()
            self._write(state | {"step": state["steps"], "share": state["step"] / state["steps"]})

    def _write(self, state: dict[str, Any]) -> None:
        told = {"stage": self._stage, "share": state["step"] / state["steps"]}
        if self._team.rank:
            self._report(told, None)
        else:
            with tempfile.TemporaryDirectory() as folder:
                own = StageState(self._stage, state | self._beside, self._key, self._clock.used())
                write_state(Path(folder), own)
                self._report(told, Path(folder))
        self._last = time.monotonic()


def report_to_tune(told: dict[str, Any], folder: Path | None) -> None:
    """Reports to Ray Tune; called within a trial."""
    tune.report(told, checkpoint=tune.Checkpoint.from_directory(str(folder)) if folder else None)


def report_to_train(told: dict[str, Any], folder: Path | None) -> None:
    """Reports to Ray Train; called within one of its workers."""
    train.report(told, checkpoint=train.Checkpoint.from_directory(str(folder)) if folder else None)


class StateFolder:
    """A folder of checkpoints, for a stage that runs in neither a trial nor a team. It holds the last two.

    Args:
        place: the folder, as a path or a URI.
    """

    def __init__(self, place: str) -> None:
        self._files, self._path = pyarrow.fs.FileSystem.from_uri(place)

    def newest(self, key: str) -> StageState | None:
        """Returns the newest undamaged state, or None if there is none. See `newest_state`."""
        found = self._checkpoints()
        return newest_state(found[-1], key) if found else None

    def report(self, told: dict[str, Any], folder: Path | None) -> None:
        """Copies a checkpoint into this folder, and deletes those that are no longer needed.

        Args:
            told: ignored; it makes this method a `Report`.
            folder: the checkpoint to copy.
        """
        found = self._checkpoints()
        number = int(found[-1].path.rpartition("_")[2]) + 1 if found else 0
        target = posixpath.join(self._path, f"checkpoint_{number:06d}")
        with named(target):
            self._files.create_dir(target)
            pyarrow.fs.copy_files(str(folder), target, destination_filesystem=self._files)
        if found:
            forget_elders(found[-1])

    def delete(self) -> None:
        """Deletes the folder, because a finished stage does not need it."""
        if self._checkpoints():
            self._files.delete_dir(self._path)

    def _checkpoints(self) -> list[train.Checkpoint]:
        return _checkpoints(self._files, self._path)


def write_state(folder: Path, found: StageState) -> None:
    """Writes a state, and a manifest with its checksum."""
    with (folder / STATE).open("wb") as file:  # given a path, torch reports a full disk as a corrupt stream
        torch.save(found.state, file)
    manifest = {"stage": found.stage, "sha256": _digest(folder / STATE), "key": found.key, "spent": found.spent}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def newest_state(checkpoint: train.Checkpoint | None, key: str) -> StageState | None:
    """Returns the newest undamaged state of a trial or of a team, or None if there is none.

    Args:
        checkpoint: the newest checkpoint; older ones lie beside it.
        key: a digest of what the stage learns from.

    Raises:
        RunFolderError: The state was learned from something else.
    """
    if checkpoint is None:
        return None
    for each in (checkpoint, *_elders(checkpoint)):
        with each.as_directory() as folder:
            if (found := _read(Path(folder))) is not None:
                if found.key != key:
                    raise RunFolderError(
                        "a state must be of the data, the model and the settings that are learned from, and "
                        f"{each.path} is of others: remove it, or start the search again under another --name"
                    )
                return found
    return None


def forget_elders(checkpoint: train.Checkpoint) -> None:
    """Deletes the checkpoints that are older than this one, because states are large."""
    files: pyarrow.fs.FileSystem = checkpoint.filesystem
    for elder in _elders(checkpoint):
        files.delete_dir(elder.path)


def _elders(checkpoint: train.Checkpoint) -> list[train.Checkpoint]:
    """Returns the checkpoints that are older than this one and still exist, the newest first."""
    beside = _checkpoints(checkpoint.filesystem, posixpath.dirname(checkpoint.path))
    return [each for each in reversed(beside) if each.path < checkpoint.path]


def _checkpoints(files: pyarrow.fs.FileSystem, folder: str) -> list[train.Checkpoint]:
    """Returns a folder's checkpoints, the oldest first."""
    found = files.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    names = sorted(each.base_name for each in found if each.base_name.startswith("checkpoint_"))
    return [train.Checkpoint(posixpath.join(folder, name), files) for name in names]


def _read(folder: Path) -> StageState | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        stage, key, spent = str(manifest["stage"]), str(manifest["key"]), float(manifest["spent"])
        whole = _digest(folder / STATE) == manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # The state may have been written on a GPU, and this machine may have none.
    state = torch.load(folder / STATE, weights_only=True, map_location="cpu") if whole else None
    return None if state is None else StageState(stage, state, key, spent)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
