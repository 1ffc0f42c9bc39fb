"""The file study.log of a run: Optuna's record of the configurations that were tried, which optuna-dashboard opens."""

import io
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from trbert.disk.files import kind_of
from trbert.errors import RunFolderError
from trbert.wording import cut, reason

NAME = "trbert"
"""The study's name in its file."""
DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
"""Of quality and cost."""
TRIAL, CURVE, GUESS, REJECTED, INTERRUPTED = "trial", "curve", "guess", "rejected", "interrupted"
"""The user attributes of a trial: Ray Tune's name of it, its points of quality and cost, and what became of it."""


def open_study(
    path: Path, space: Mapping[str, BaseDistribution], seed: int, say: Callable[[str], None]
) -> tuple[optuna.Study, JournalStorage]:
    """Returns the study in a file, and the storage that writes it. The file is made if there is none.

    One process at a time may have the study open. The file holds JSON alone, and nothing in it is run.

    Args:
        path: the file.
        space: the distributions that configurations are drawn from, by name.
        seed: the seed of the sampler of a new study. A study that is continued goes on with other draws.
        say: is called with a line if the end of the file is lost.

    Raises:
        RunFolderError: The file is not the record of such a search.
    """
    path = Path(os.path.abspath(path))
    if os.path.lexists(path):
        _remove_damaged_end(path, say)
    stale = path.with_name(f"{path.name}.lock")  # of a process that was killed: Optuna would wait for it
    stale.unlink(missing_ok=True)
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        study = optuna.create_study(
            storage=storage,
            study_name=NAME,
            directions=DIRECTIONS,
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )
        trials = study.get_trials()
        _check(tuple(study.directions) == DIRECTIONS, "a study of more quality and less cost", study.directions)
        for trial in trials:
            _check_trial(trial, space)
    except OSError:
        raise
    except Exception as error:  # whatever Optuna raises from a file that others have written
        raise RunFolderError(
            f"{path} must be Optuna's record of this search, and is not ({reason(error)}): "
            "move it away and resume again; then the search suggests as if nothing had been tried before"
        ) from error
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(trials))
    return study, storage


def _remove_damaged_end(path: Path, say: Callable[[str], None]) -> None:
    """Removes what follows the last whole line. A process that was killed while it wrote leaves a part of a line."""
    if path.is_symlink() or not path.is_file():
        raise RunFolderError(f"{path} must be a file of this search, and is {kind_of(path)}: remove it")
    content, end, whole = path.read_bytes(), 0, 0
    for line in io.BytesIO(content):
        if not _is_entry(line):
            break
        end, whole = end + len(line), whole + 1
    if end < len(content):
        os.truncate(path, end)
        say(f"{path} was cut off or damaged in line {whole + 1}: the search goes on with the {whole} lines before it")


def _is_entry(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _check_trial(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> None:
    """Checks what suggestions are made from.

    Raises:
        ValueError: Something is not what a search writes.
    """
    what, given = f"trial {trial.number}: ", trial.user_attrs
    if trial.state == TrialState.COMPLETE or TRIAL in given:
        _check(trial.distributions == dict(space), f"{what}the space of this search", trial.distributions)
    if trial.state == TrialState.COMPLETE:
        _check(_is_pair(trial.values), f"{what}a finite quality and cost", trial.values)
    if TRIAL in given:
        _check(isinstance(given[TRIAL], str), f"{what}a text as {TRIAL!r}", given[TRIAL])
    if CURVE in given:
        curve = given[CURVE]
        pairs = isinstance(curve, list) and all(_is_pair(point) for point in curve)
        _check(pairs, f"{what}a list of qualities and costs as {CURVE!r}", curve)
    for name in {GUESS, REJECTED, INTERRUPTED} & given.keys():
        _check(given[name] is True, f"{what}true as {name!r}", given[name])


def _is_pair(found: object) -> bool:
    return isinstance(found, list) and len(found) == 2 and all(is_finite(value) for value in found)


def is_finite(value: object) -> bool:
    """Returns whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(holds: bool, wanted: str, found: Any) -> None:
    if not holds:
        raise ValueError(f"{wanted} must stand in it, and {cut(found)} does")
