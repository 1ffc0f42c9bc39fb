"""The last lines of a search: where its results lie, and the command that picks a model."""

import shlex
from pathlib import Path

import pytest

from tune.results.ending import _paths
from tune.results.front import mark_front, pick
from tune.runs.folder import RunFolder

FOLDER = RunFolder(Path("runs/mine"))


def test_the_hint_to_pick_quotes_the_path(small_front, standing):
    run = RunFolder(Path("my runs/it's"))
    assert _paths(run, small_front(), standing()).splitlines() == [
        "front     my runs/it's/front.csv",
        "picture   my runs/it's/front.png",
        "models    my runs/it's/models",
        f"pick one  python tune/pareto.py {shlex.quote(str(run.path))} --max-drop 0.5",
    ]


def test_where_no_trained_model_is_on_the_front_none_is_offered(unreduced, rule, at):
    points = mark_front([unreduced(0.9), rule("first", 0.8, 3.0), at(0.8, 2.0)])
    assert _paths(FOLDER, points, None).splitlines()[-1] == (
        "pick one  no trained model of the front is faster than the unreduced one (models/1 is saved all the same): "
        "search again with a larger --budget, or with more rows for training and validation"
    )


@pytest.mark.parametrize(("quality", "bound"), [(0.9, "0.5"), (0.896, "0.5"), (0.883, "1.7"), (0.8, "10")])
def test_the_hint_to_pick_has_a_bound_that_a_model_meets(unreduced, at, quality, bound):
    points = mark_front([unreduced(0.9), at(quality, 2.0)])
    hint = _paths(FOLDER, points, None).splitlines()[-1]
    assert hint.endswith(f" --max-drop {bound}")
    assert pick(points, max_drop=float(bound)) == points[1]
