"""What a finished trial leaves beside its model, and the run's report reads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trbert.measure.evaluate import Evaluation
from tune.results.front import Point
from tune.results.table import read_points, write_front
from tune.settings import Settings, from_json, to_json

_RECORD, _POINTS = "trial.json", "points.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        settings: of the model.
        points: the model along its dial, on validation; not numbered yet.
        deployed: at its default dial, on validation.
        sampled: the same where masks are drawn, as in training.
    """

    settings: Settings
    points: tuple[Point, ...]
    deployed: Evaluation
    sampled: Evaluation


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes an outcome's two files."""
    write_front(folder / _POINTS, outcome.points)
    record = {
        "settings": to_json(outcome.settings),
        "deployed": asdict(outcome.deployed),
        "sampled": asdict(outcome.sampled),
    }
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def read_outcome(folder: Path) -> Outcome:
    """Returns the outcome that `write_outcome` wrote.

    Raises:
        InputError: Its points or its settings are none of this version.
    """
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    deployed, sampled = (
        Evaluation(**{**record[name], "kept": tuple(record[name]["kept"])}) for name in ("deployed", "sampled")
    )
    return Outcome(
        settings=from_json(record["settings"]),
        points=read_points(folder / _POINTS),
        deployed=deployed,
        sampled=sampled,
    )
