"""What the report of quality computes: drops with their intervals, hypervolumes, verdicts, from units' files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from quality_report import drop, hypervolume, write_report


def test_a_drop_is_the_difference_of_accuracies_in_points():
    correct = np.array([[True, False, False, False]])
    reference = np.array([[True, True, True, False]])
    assert drop(correct, reference)[0] == 50.0


def test_a_drops_interval_is_the_paired_bootstraps():
    # 100 documents, of which the reduced model loses 20 and gains none: a binomial share of .2, deviation 4 points.
    reference = np.ones((1, 100), dtype=np.bool_)
    correct = reference.copy()
    correct[0, :20] = False
    mean, low, high = drop(correct, reference)
    assert mean == pytest.approx(20.0)
    assert low == pytest.approx(20 - 1.96 * 4, abs=1.5)
    assert high == pytest.approx(20 + 1.96 * 4, abs=1.5)


def test_documents_that_both_get_wrong_add_no_width():
    wrong = np.zeros((1, 50), dtype=np.bool_)
    assert drop(wrong, wrong) == (0.0, 0.0, 0.0)


def test_seeds_are_averaged_before_documents_are_resampled():
    # Two seeds that lose opposite halves: every document loses one half, so that no resample differs.
    reference = np.ones((2, 10), dtype=np.bool_)
    correct = np.array([[True] * 5 + [False] * 5, [False] * 5 + [True] * 5])
    assert drop(correct, reference) == (50.0, 50.0, 50.0)


def test_hypervolume_is_the_area_between_front_and_reference():
    # From 1x to 2x at .9, from 2x to 4x at .8, above .7: 1·.2 + 2·.1.
    assert hypervolume([(4.0, 0.8), (2.0, 0.9)], quality=0.7) == pytest.approx(0.4)


def test_dominated_points_and_points_below_the_reference_add_nothing():
    front = [(2.0, 0.9), (4.0, 0.8)]
    assert hypervolume([*front, (1.5, 0.85), (3.0, 0.75), (7.0, 0.6)], quality=0.7) == hypervolume(front, quality=0.7)


def test_what_is_faster_than_the_fastest_counts_as_the_fastest():
    assert hypervolume([(20.0, 0.8)], quality=0.7, fastest=8.0) == pytest.approx(7 * 0.1)


DOCUMENTS = 16
TODAY = {"seed": 0, "select": {"points": [0, 2]}, "compute": {"threads": 2}}
SETS = {"toy": {"targets": (2.0, 4.0), "must": ((2.0, 0.0), (4.0, 20.0)), "aim": ((8.0, 1.0),)}, "20news": {}}


def point(right, speed_up, target=None):
    bits = np.packbits(np.arange(DOCUMENTS) < right).tobytes().hex()
    return {"target": target, "dial": 0.0, "quality": right / DOCUMENTS, "speed_up": speed_up, "correct": bits}


@pytest.fixture
def folder(tmp_path):
    documents = {"train": 9, "validation": 9, "test": DOCUMENTS}
    units = {
        "toy/teacher": {"points": [point(12, 1.0)], "tfidf": point(13, 1.0), "documents": documents},
        # Its own unreduced model is better than the teacher, and is what drops are counted from.
        "toy/policy seed 0": {
            "points": [point(14, 2.1, 2.0), point(12, 4.2, 4.0)],
            "keep_all": point(14, 1.0),
            "training_seconds": 10.0,
        },
        "toy/first seed 0": {
            "points": [point(4, 2.0, 2.0), point(12, 4.0, 4.0)],
            "keep_all": point(8, 1.0),
            "training_seconds": 5.0,
        },
        "toy/truncate 2x seed 0": {"points": [point(16, 2.2, 2.0)]},
    }
    for name, unit in units.items():
        path = tmp_path / "quality" / f"{name.replace(' ', '_')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"unit": name, "settings": TODAY, **unit}))
    return tmp_path


def known(folder):
    return {json.loads(path.read_text())["unit"]: TODAY for path in folder.glob("quality/*/*.json")}


def test_the_report_says_what_held_what_was_not_reached_and_who_won(folder):
    write_report(folder, folder / "quality", SETS, known(folder))
    text = (folder / "quality.md").read_text()
    assert "| toy | must: ≤ 0 | 2x | +0.00 [+0.00, +0.00] | 2.10x | yes | yes | 1 |" in text
    assert "| toy | must: ≤ 20 | 4x | +12.50" in text  # 14 − 12 of 16
    assert "| toy | aim: ≤ 1 | 8x | – | – | not reached | – | 1 |" in text
    assert "Teacher 75.00 %; it matches TF-IDF" in text
    assert "has 81.25 %: -6.25 [-" in text
    # At 2.1x the rule is its 4x point for 2 of 21 documents: (½ − 1/2.1) / (½ − ¼). Right are 4 + 8 · 2/21 of 16.
    # At 4.2x it has nothing as fast, and its 4x counts.
    assert "* first: 2x win +57.7, 4x tie +0.0" in text
    assert "* truncate (retrained): 2x" in text
    assert "4x alone" in text
    assert (folder / "quality.png").stat().st_size > 1000


def test_what_was_asked_is_read_where_test_is_really_as_fast(folder):
    path = folder / "quality" / "toy" / "policy_seed_0.json"
    slower = {"points": [point(14, 1.9, 2.0), point(12, 3.9, 4.0)]}
    path.write_text(json.dumps(json.loads(path.read_text()) | slower))
    write_report(folder, folder / "quality", SETS, known(folder))
    text = (folder / "quality.md").read_text()
    assert "| toy | must: ≤ 0 | 2x | +12.50" in text
    assert "| 3.90x | **no** | no | 1 |" in text
    assert "| toy | must: ≤ 20 | 4x | – | – | not reached | – | 1 |" in text


@pytest.mark.parametrize(("right", "verdict"), [(2, "is above"), (11, "matches"), (16, "**is below**")])
def test_a_teacher_is_set_beside_tfidf_by_the_interval_of_their_difference(right, verdict, folder):
    path = folder / "quality" / "toy" / "teacher.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tfidf": point(right, 1.0)}))
    write_report(folder, folder / "quality", SETS, known(folder))
    assert f"it {verdict} TF-IDF" in (folder / "quality.md").read_text()


def test_a_rule_is_compared_with_the_teacher_where_its_own_unreduced_model_is_worse(folder):
    write_report(folder, folder / "quality", SETS, known(folder))
    row = next(line for line in (folder / "quality.md").read_text().splitlines() if line.startswith("| first |"))
    assert "25.00 (+50.00" in row  # 12 − 4 of 16, the teacher's 12 and not its own 8


def ablation(folder, name, right, settings=TODAY):
    own = {"settings": {"joint": {"documents": 5}, **settings}, "keep_all": point(14, 1.0), "training_seconds": 1.0}
    unit = {"unit": f"toy/ablation {name}", "points": [point(right, 2.0, 2.0)], **own}
    (folder / "quality" / "toy" / f"{name}.json").write_text(json.dumps(unit))


def test_an_ingredient_that_the_code_no_longer_has_is_said_to_be_dropped(folder):
    ablation(folder, "base", 8)
    ablation(folder, "gone", 10)
    there = known(folder)
    del there["toy/ablation gone"]
    write_report(folder, folder / "quality", SETS, there | {"toy/ablation base": {"joint": {"documents": 5}, **TODAY}})
    text = (folder / "quality.md").read_text()
    assert "| base | 50.00 @ 2.00x | 87.50 | 1 |" in text
    assert "| gone (dropped) | 62.50 (+12.50) @ 2.00x | 87.50 | 1 |" in text


def test_what_ran_with_other_settings_than_todays_is_marked(folder):
    wanted = {"joint": {"documents": 5}, **TODAY, "select": {"points": (0, 2)}, "compute": {"threads": 1}}
    ablation(folder, "base", 8)
    ablation(folder, "old", 8, {**TODAY, "select": {"points": [1, 3]}})
    today = known(folder) | {f"toy/ablation {name}": wanted for name in ("base", "old")}
    write_report(folder, folder / "quality", SETS, today | {"toy/first seed 0": {**TODAY, "seed": 1}})
    text = (folder / "quality.md").read_text()
    assert "| base | 50.00 @ 2.00x" in text
    assert "| old * | 50.00" in text
    assert "| policy | " in text
    assert "| first * | " in text


def test_a_rival_is_said_to_be_out_of_reach_only_beyond_its_fastest(folder):
    unit = {"unit": "toy/gumbel seed 0", "settings": TODAY, "points": [point(8, 4.0, 4.0)], "keep_all": point(8, 1.0)}
    (folder / "quality" / "toy" / "gumbel.json").write_text(json.dumps(unit))
    write_report(folder, folder / "quality", SETS, known(folder))
    lines = (folder / "quality.md").read_text().splitlines()
    assert next(line for line in lines if line.startswith("* gumbel")) == "* gumbel: 4x win +25.0"
    assert next(line for line in lines if line.startswith("* truncate")).endswith(", 4x alone")


def test_what_began_at_another_teacher_than_the_sets_is_marked(folder):
    for name, teacher in (("same", 12 / 16), ("other", 11 / 16)):
        own = {"settings": TODAY, "teacher": teacher, "keep_all": point(12, 1.0)}
        unit = {"unit": f"toy/{name} seed 0", "points": [point(8, 2.0, 2.0)], **own}
        (folder / "quality" / "toy" / f"{name}.json").write_text(json.dumps(unit))
    there = known(folder) | {"toy/same seed 0": TODAY, "toy/other seed 0": {**TODAY, "seed": 1}}
    write_report(folder, folder / "quality", SETS, there)
    text = (folder / "quality.md").read_text()
    assert "| same | " in text
    assert "| other * † | " in text
