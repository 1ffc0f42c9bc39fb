"""What a trial leaves for the report: it is read again as it was written, and what is none is refused."""

import dataclasses
import json
import re

import pytest

from trbert.errors import InputError
from trbert.measure.evaluate import Evaluation
from tune.results.front import UNNUMBERED, Point
from tune.results.outcome import Outcome, read_outcome, write_outcome
from tune.settings import Settings, override


@pytest.fixture
def outcome():
    """An outcome of two dials, whose numbers have no short decimal form."""
    settings = override(
        Settings(),
        {"select.points": (0, 3), "select.keep_ratios": (0.1, 2 / 3), "select.penalty": 0.1 + 0.2, "model": "ünï"},
    )
    known = {
        "trial": UNNUMBERED,
        "selector": "policy",
        "points": (0, 3),
        "penalty": 0.1 + 0.2,
        "keep_ratios": (0.1, 2 / 3),
    }
    points = (
        Point(dial=-1.5, quality_validation=1 / 3, speed_up_validation=5.2, kept=(0.5, 1 / 7), **known),
        Point(dial=1000.0, quality_validation=0.9, speed_up_validation=0.85, kept=(1.0, 1.0), **known),
    )
    deployed = Evaluation(quality=2 / 3, speed_up=10 / 3, kept=(0.5, 0.25), docs_per_second=321.4)
    return Outcome(
        settings=settings, points=points, deployed=deployed, sampled=dataclasses.replace(deployed, quality=0.125)
    )


@pytest.mark.parametrize("undone", [False, True])
def test_an_outcome_that_was_written_is_read_again_exactly(outcome, undone, tmp_path):
    outcome = dataclasses.replace(outcome, undone=undone)
    write_outcome(tmp_path, outcome)
    assert read_outcome(tmp_path) == outcome
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points.csv", "trial.json"]


def test_what_was_measured_with_drawn_masks_and_as_deployed_is_not_mixed_up(outcome, tmp_path):
    write_outcome(tmp_path, outcome)
    record = json.loads((tmp_path / "trial.json").read_text(encoding="utf-8"))
    assert (record["deployed"]["quality"], record["sampled"]["quality"]) == (2 / 3, 0.125)
    found = read_outcome(tmp_path)
    assert (found.deployed.quality, found.sampled.quality) == (2 / 3, 0.125)


def test_points_of_other_columns_are_refused(outcome, tmp_path):
    write_outcome(tmp_path, outcome)
    path = tmp_path / "points.csv"
    path.write_text(path.read_text().replace("kept", "left", 1))
    told = rf"^{re.escape(str(path))} must have the columns trial,.*, and lacks kept and has 'left': pass a run of this"
    with pytest.raises(InputError, match=told):
        read_outcome(tmp_path)


def test_settings_of_another_version_are_refused(outcome, tmp_path):
    write_outcome(tmp_path, outcome)
    path = tmp_path / "trial.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["settings"]["select"]["dial_range"] = 2.0
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=r"^there is no setting 'select\.dial_range'"):
        read_outcome(tmp_path)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: "", "Expecting value"),
        (lambda text: text[: len(text) // 2], ""),
        (lambda text: "[" * 100_000, "it is nested too deeply"),
        (lambda text: "null", ""),
        (lambda text: "{}", "deployed is missing"),
        (lambda text: text.replace('"docs_per_second"', '"docs"'), ""),
        (lambda text: text.replace("321.4", '"fast"', 1), ""),
        (lambda text: text.replace("321.4", "NaN", 1), "it has nan in place of a number"),
        (lambda text: text.replace('"settings": {', '"settings": 3, "x": {'), ""),
    ],
)
def test_a_damaged_record_is_named_with_what_is_lost(outcome, tmp_path, damage, why):
    write_outcome(tmp_path, outcome)
    path = tmp_path / "trial.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError) as raised:
        read_outcome(tmp_path)
    told = str(raised.value)
    assert told.startswith(f"{path} must hold what a trial measured, and does not (")
    assert why in told
    assert told.endswith("its model cannot be reported: copy the trial's folder back, or search again")


def test_a_record_that_is_gone_is_named(outcome, tmp_path):
    for name in ("trial.json", "points.csv"):
        write_outcome(tmp_path, outcome)
        (tmp_path / name).unlink()
        with pytest.raises(InputError, match=rf"{name} must .* \(No such file or directory\)"):
            read_outcome(tmp_path)
