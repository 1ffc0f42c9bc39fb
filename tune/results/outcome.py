"""The outcome of a finished trial: figures that it saves beside its model, and that the run's report reads."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trbert.disk.files import read_plain
from trbert.errors import InputError
from trbert.measure.evaluate import Evaluation
from trbert.wording import reason
from tune.results.front import Point
from tune.results.table import read_points, write_front
from tune.settings import Settings, from_json, to_json

_RECORD, _POINTS = "trial.json", "points.csv"
_LARGEST = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        settings: of the model. If its joint stage was undone, they have no documents for that stage.
        points: the model's points along its dial, measured on validation; without the trial's number.
        deployed: the model on validation at its default dial, with thresholded masks.
        sampled: the model on validation with masks that are drawn, as in training; None if there was no time for it.
        undone: whether the model is the one before its joint stage, because that one is better on validation.
    """

    settings: Settings
    points: tuple[Point, ...]
    deployed: Evaluation
    sampled: Evaluation | None
    undone: bool = False


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes an outcome as two files in a folder."""
    write_front(folder / _POINTS, outcome.points)
    record = {
        "settings": to_json(outcome.settings),
        "deployed": _figures(outcome.deployed),
        "sampled": None if outcome.sampled is None else _figures(outcome.sampled),
        "undone": outcome.undone,
    }
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def read_outcome(folder: Path) -> Outcome:
    """Returns the outcome that `write_outcome` wrote.

    Raises:
        InputError: A file is missing or damaged, or another version wrote its points or its settings.
    """
    path = folder / _RECORD
    try:
        record = json.loads(read_plain(path, _LARGEST))
        deployed = _evaluation(record["deployed"])
        sampled = None if record["sampled"] is None else _evaluation(record["sampled"])
        saved = {**record["settings"]}
        if type(undone := record["undone"]) is not bool:
            raise TypeError(f"undone is {undone!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} must hold what a trial measured, and does not ({reason(error)}), so that its model cannot be "
            "reported: copy the trial's folder back, or search again"
        ) from error
    points = read_points(folder / _POINTS)
    return Outcome(settings=from_json(saved), points=points, deployed=deployed, sampled=sampled, undone=undone)


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the values of the fields of an evaluation, without what it was computed from."""
    return asdict(replace(evaluation, decoded=[]))


def _evaluation(values: Any) -> Evaluation:
    """Returns an evaluation from the values of its fields.

    Raises:
        ValueError: A value is no finite number.
        TypeError: A name is unknown or missing, or a value is of another type.
    """
    found = Evaluation(**{**values, "kept": tuple(values["kept"])})
    for value in (found.quality, found.speed_up, found.docs_per_second, *found.kept):
        if not math.isfinite(value):
            raise ValueError(f"it has {value!r} in place of a number")
    return found
