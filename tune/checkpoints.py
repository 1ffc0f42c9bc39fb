"""What a stage leaves while it learns, so that one started after its death goes on: checksummed, the last two kept."""

import hashlib
import json
import posixpath
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
from ray import train, tune

from tune.learning.steps import ALONE, Team

STATE, MANIFEST = "state.pt", "manifest.json"
EVERY_S = 90.0
"""Seconds between two states: what a lost machine costs a trial, beside the time to notice it."""


@dataclass(frozen=True, slots=True)
class StageState:
    """The state of a stage after some step, as `Learner.state` gives it."""

    stage: str
    state: dict[str, Any]


Report = Callable[[dict[str, Any], Path | None], None]
"""Tells Ray some metrics, with a folder as checkpoint."""


class StateKeeper:
    """Keeps a stage's state in checkpoints.

    Args:
        stage: whose state it is.
        found: what an earlier life left.
        report: hands a checkpoint to Ray; of a team, its first process alone has one, and all report alike.
        team: the processes that learn together.
        device: of the team's tensors.
    """

    def __init__(
        self,
        stage: str,
        found: StageState | None,
        report: Report,
        team: Team = ALONE,
        device: torch.device | None = None,
    ) -> None:
        self._stage, self._found, self._report = stage, found, report
        self._team, self._device = team, device or torch.device("cpu")
        self._last = time.monotonic()
        self._state: Callable[[], dict[str, Any]] | None = None

    def load(self) -> dict[str, Any] | None:
        """Returns the state that this stage left, if it was in this stage that the process died."""
        if self._found is None or self._found.stage != self._stage:
            return None
        if self._team.rank:  # the random numbers in it are the first process's
            return self._found.state | {"random": [torch.get_rng_state()]}
        return self._found.state

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Writes the state, if the last one is old enough."""
        self._state = state
        if self._team.agreed(time.monotonic() - self._last > EVERY_S, self._device):
            self._write(state())

    def finish(self) -> None:
        """Writes the stage's last state as that of a finished stage, however it ended."""
        if self._state is not None:
            state = self._state()
            self._write(state | {"step": state["steps"]})

    def _write(self, state: dict[str, Any]) -> None:
        told = {"stage": self._stage, "share": state["step"] / state["steps"]}
        if self._team.rank:
            self._report(told, None)
        else:
            with tempfile.TemporaryDirectory() as folder:
                write_state(Path(folder), StageState(self._stage, state))
                self._report(told, Path(folder))
        self._last = time.monotonic()


def report_to_tune(told: dict[str, Any], folder: Path | None) -> None:
    """Tells Ray Tune, from within a trial."""
    tune.report(told, checkpoint=tune.Checkpoint.from_directory(str(folder)) if folder else None)


def report_to_train(told: dict[str, Any], folder: Path | None) -> None:
    """Tells Ray Train, from within one of its workers."""
    train.report(told, checkpoint=train.Checkpoint.from_directory(str(folder)) if folder else None)


class StateFolder:
    """A folder of checkpoints for a stage that runs in neither a trial nor a team; the last two are kept.

    Args:
        place: folder or URI.
    """

    def __init__(self, place: str) -> None:
        self._files, self._path = pyarrow.fs.FileSystem.from_uri(place)

    def newest(self) -> StageState | None:
        """Returns the newest state that is whole."""
        found = self._checkpoints()
        return newest_state(found[-1]) if found else None

    def report(self, told: dict[str, Any], folder: Path | None) -> None:
        """Copies a checkpoint here."""
        found = self._checkpoints()
        number = int(found[-1].path.rpartition("_")[2]) + 1 if found else 0
        target = posixpath.join(self._path, f"checkpoint_{number:06d}")
        self._files.create_dir(target)
        pyarrow.fs.copy_files(str(folder), target, destination_filesystem=self._files)
        if found:
            forget_elders(found[-1])

    def delete(self) -> None:
        """Deletes the folder: a finished stage needs none."""
        if self._checkpoints():
            self._files.delete_dir(self._path)

    def _checkpoints(self) -> list[train.Checkpoint]:
        return _checkpoints(self._files, self._path)


def write_state(folder: Path, found: StageState) -> None:
    """Writes a state and what tells whether it is whole."""
    with (folder / STATE).open("wb") as file:  # by a path, torch tells of a full disk as of a corrupt stream
        torch.save(found.state, file)
    manifest = {"stage": found.stage, "sha256": _digest(folder / STATE)}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def newest_state(checkpoint: train.Checkpoint | None) -> StageState | None:
    """Returns the state in the newest checkpoint of a trial or team that is whole, or None where there is none.

    Args:
        checkpoint: the newest; those before it lie beside it.
    """
    if checkpoint is None:
        return None
    for each in (checkpoint, *_elders(checkpoint)):
        with each.as_directory() as folder:
            if (found := _read(Path(folder))) is not None:
                return found
    return None


def forget_elders(checkpoint: train.Checkpoint) -> None:
    """Deletes the checkpoints before this one, a trial's last: states are large, and a finished trial needs none."""
    files: pyarrow.fs.FileSystem = checkpoint.filesystem
    for elder in _elders(checkpoint):
        files.delete_dir(elder.path)


def _elders(checkpoint: train.Checkpoint) -> list[train.Checkpoint]:
    """Returns the checkpoints before this one that are still there, the newest first."""
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
        stage, whole = str(manifest["stage"]), _digest(folder / STATE) == manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # To where every machine has memory: it may have been written on a GPU, and be taken up without one.
    return StageState(stage, torch.load(folder / STATE, weights_only=True, map_location="cpu")) if whole else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
