"""What a trial leaves while it learns, so that one started after its death goes on: checksummed, the last two kept."""

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
from ray import tune

STATE, MANIFEST = "state.pt", "manifest.json"
EVERY_S = 90.0
"""Seconds between two states: what a lost machine costs a trial, beside the time to notice it."""


@dataclass(frozen=True, slots=True)
class StageState:
    """The state of a stage after some step, as `Learner.state` gives it."""

    stage: str
    state: dict[str, Any]


class TrialKeeper:
    """Keeps a stage's state in the trial's checkpoints.

    Args:
        stage: whose state it is.
        found: what an earlier life of the trial left.
    """

    def __init__(self, stage: str, found: StageState | None) -> None:
        self._stage, self._found = stage, found
        self._last = time.monotonic()
        self._state: Callable[[], dict[str, Any]] | None = None

    def load(self) -> dict[str, Any] | None:
        """Returns the state that this stage left, if it was in this stage that the trial died."""
        return self._found.state if self._found is not None and self._found.stage == self._stage else None

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Writes the state, if the last one is old enough."""
        self._state = state
        if time.monotonic() - self._last > EVERY_S:
            self._write(state())

    def finish(self) -> None:
        """Writes the stage's last state as that of a finished stage, however it ended."""
        if self._state is not None:
            state = self._state()
            self._write(state | {"step": state["steps"]})

    def _write(self, state: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_state(Path(folder), StageState(self._stage, state))
            told = {"stage": self._stage, "share": state["step"] / state["steps"]}
            tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))
        self._last = time.monotonic()


def write_state(folder: Path, found: StageState) -> None:
    """Writes a state and what tells whether it is whole."""
    torch.save(found.state, folder / STATE)
    manifest = {"stage": found.stage, "sha256": _digest(folder / STATE)}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def newest_state(checkpoint: tune.Checkpoint | None) -> StageState | None:
    """Returns the state in a trial's newest checkpoint that is whole, or None where there is none.

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


def forget_elders(checkpoint: tune.Checkpoint) -> None:
    """Deletes the checkpoints before a trial's last: states are large, and a finished trial needs none."""
    files: pyarrow.fs.FileSystem = checkpoint.filesystem
    for elder in _elders(checkpoint):
        files.delete_dir(elder.path)


def _elders(checkpoint: tune.Checkpoint) -> list[tune.Checkpoint]:
    """Returns the checkpoints before this one that are still there, the newest first."""
    parent, name = posixpath.split(checkpoint.path)
    files: pyarrow.fs.FileSystem = checkpoint.filesystem
    names = [found.base_name for found in files.get_file_info(pyarrow.fs.FileSelector(parent))]
    elders = sorted((each for each in names if each.startswith("checkpoint_") and each < name), reverse=True)
    return [tune.Checkpoint(posixpath.join(parent, elder), files) for elder in elders]


def _read(folder: Path) -> StageState | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        stage, whole = str(manifest["stage"]), _digest(folder / STATE) == manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return StageState(stage, torch.load(folder / STATE, weights_only=True)) if whole else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
