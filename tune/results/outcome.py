"""The outcome of a finished trial: figures that it saves beside its model, and that the run's report reads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trbert.measure.evaluate import Evaluation
from tune.results.front import Point
from tune.results.table import read_points, write_front
from tune.settings import Settings, from_json, to_json

_RECORD, _POINTS = "trial.json", "points.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        settings: of the model.
        points: the model's points along its dial, measured on validation; without the trial's number.
        deployed: the model on validation at its default dial, with thresholded masks.
        sampled: the model on validation with masks that are drawn, as in training; None if there was no time for it.
    """

    settings: Settings
    points: tuple[Point, ...]
    deployed: Evaluation
    sampled: Evaluation | None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes an outcome as two files in a folder."""
    write_front(folder / _POINTS, outcome.points)
    record = {
        "settings": to_json(outcome.settings),
        "deployed": asdict(outcome.deployed),
        "sampled": None if outcome.sampled is None else asdict(outcome.sampled),
    }
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def read_outcome(folder: Path) -> Outcome:
    """Returns the outcome that `write_outcome` wrote.

    Raises:
        InputError: Another version wrote its points or its settings.
    """
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    return Outcome(
        settings=from_json(record["settings"]),
        points=read_points(folder / _POINTS),
        deployed=_evaluation(record["deployed"]),
        sampled=None if record["sampled"] is None else _evaluation(record["sampled"]),
    )


def _evaluation(values: dict[str, Any]) -> Evaluation:
    return Evaluation(**{**values, "kept": tuple(values["kept"])})
