"""The page of the tasks: the policy stands beside its best rival, and a loss is called one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from tasks_report import _against

SPREAD = [-0.01, 0.0, 0.01]


def unit(mark="", **points):
    """A row: for each target, such as at_2, the quality there."""
    found = [
        {
            "target": float(name.removeprefix("at_")),
            "speed_up": 2.04,
            "quality": quality,
            "resampled": [quality + noise for noise in SPREAD],
        }
        for name, quality in points.items()
    ]
    return {"mark": mark, "points": found}


def lines(**units):
    return [*_against({"toy": {"teacher": {}} | units}, {"toy": {"targets": (2.0, 3.0)}})][2:]


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (0.9, "+5.00 [+5.00, +5.00] | win |"),
        (0.8, "-5.00 [-5.00, -5.00] | **loss** |"),
        (0.85, "+0.00 [+0.00, +0.00] | tie |"),
    ],
)
def test_the_policy_is_beside_the_best_of_its_rivals(own, told):
    units = {"policy": unit(at_2=own), "first": unit(at_2=0.7), "tr-bert": unit(at_2=0.85)}
    assert lines(**units)[0] == f"| toy | 2x | `tr-bert` at 2.04x, policy at 2.04x | {told}"


def test_a_speed_up_that_one_side_reaches_is_no_comparison():
    assert lines(policy=unit(at_2=0.8), first=unit(at_3=0.7)) == [
        "| toy | 2x | – | – | policy alone |",
        "| toy | 3x | – | – | rival alone |",
    ]
    assert lines(policy=unit(" *"), first=unit())[0] == "| toy * | 2x | – | – | none reaches it |"


def test_another_policy_is_no_rival_and_a_policy_without_rivals_has_no_row():
    assert lines(policy=unit(at_2=0.8), **{"policy-unprotected": unit(at_2=0.9)}) == []


def test_a_row_of_other_settings_marks_the_comparison():
    assert lines(policy=unit(at_2=0.8), first=unit(" *", at_2=0.7))[0].startswith("| toy * | 2x |")
