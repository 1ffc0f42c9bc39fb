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
TODAY = {
    "seed": 0,
    "select": {"points": [0, 2], "documents": 6000, "penalty": 1.0},
    "joint": {"documents": 32000},
    "compute": {"threads": 2},
}
SETS = {"toy": {"targets": (2.0, 4.0), "must": ((2.0, 0.0), (4.0, 20.0)), "aim": ((8.0, 1.0),)}}
RUN = {"settings": TODAY, "date": "2026-11-25", "machine": "here, 2 threads", "penalty": 0.25}


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
        path.write_text(json.dumps({"unit": name, **RUN, **unit}))
    return tmp_path


def add(folder, name, **unit):
    path = folder / "quality" / f"{name.replace(' ', '_')}.json"
    path.write_text(json.dumps({"unit": name, **RUN, **unit}))


def lines(folder, wanted=None):
    write_report(folder, folder / "quality", SETS, known(folder) | (wanted or {}))
    return (folder / "quality.md").read_text().splitlines()


def line(folder, start, wanted=None):
    return next(one for one in lines(folder, wanted) if one.startswith(start))


def known(folder):
    """Returns the settings that each unit ran with, as those of today."""
    ran = (json.loads(path.read_text()) for path in folder.glob("quality/*/*.json"))
    return {unit["unit"]: unit["settings"] for unit in ran}


def test_the_report_says_what_held_what_was_not_reached_and_who_won(folder):
    write_report(folder, folder / "quality", SETS, known(folder))
    text = (folder / "quality.md").read_text()
    assert "| toy | must: ≤ 0 | 2x | +0.00 [+0.00, +0.00] | 2.10x | yes | yes | 1 |" in text
    assert "| toy | must: ≤ 20 | 4x | +12.50" in text  # 14 − 12 of 16
    assert "| toy | aim: ≤ 1 | 8x | – | – | not reached | – | 1 |" in text
    assert "The teacher has 75.00 %. TF-IDF" in text
    assert "81.25 %. The teacher matches it: -6.25 [-" in text
    # At 2.1x the rule is its 4x point, which is faster and better than its own at 2x. At 4.2x that counts again.
    assert "* first: 2x tie +12.5, 4x tie +0.0" in text
    assert "* truncate (retrained): 2x tie -12.5, 4x not run" in text
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


def test_seeds_are_judged_together_at_their_mean_speed_up(folder):
    points = [point(14, 2.1, 2.0), point(12, 3.9, 4.0)]
    add(folder, "toy/policy seed 1", points=points, keep_all=point(14, 1.0), training_seconds=1.0)
    row = line(folder, "| toy | must: ≤ 20 | 4x")
    assert row.startswith("| toy | must: ≤ 20 | 4x | +12.50 [")
    assert row.split(" | ")[4] == "4.05x"
    assert row.endswith(" | 2 |")


@pytest.mark.parametrize(("right", "verdict"), [(2, "is above"), (11, "matches"), (16, "**is below**")])
def test_a_teacher_is_set_beside_tfidf_by_the_interval_of_their_difference(right, verdict, folder):
    path = folder / "quality" / "toy" / "teacher.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tfidf": point(right, 1.0)}))
    write_report(folder, folder / "quality", SETS, known(folder))
    assert f"The teacher {verdict} it:" in (folder / "quality.md").read_text()


def test_a_rule_is_compared_with_the_teacher_where_its_own_unreduced_model_is_worse(folder):
    write_report(folder, folder / "quality", SETS, known(folder))
    row = next(line for line in (folder / "quality.md").read_text().splitlines() if line.startswith("| first |"))
    assert "25.00 (+50.00" in row  # 12 − 4 of 16, the teacher's 12 and not its own 8


def ablation(folder, name, right, settings=TODAY):
    own = {"settings": settings, "keep_all": point(14, 1.0), "training_seconds": 1.0}
    add(folder, f"toy/ablation {name}", points=[point(right, 2.0, 2.0)], documents=DOCUMENTS, **own)


def test_an_ingredient_that_the_code_no_longer_has_is_said_to_be_dropped(folder):
    ablation(folder, "base", 0)
    ablation(folder, "gone", 16)
    there = known(folder)
    del there["toy/ablation gone"]
    write_report(folder, folder / "quality", SETS, there | {"toy/ablation base": {"joint": {"documents": 5}, **TODAY}})
    text = (folder / "quality.md").read_text()
    assert "| base | 0.00 @ 2.00x | 87.50 | 1 | 2026-11-25, here |" in text
    assert "| gone (dropped) | 100.00 (+100.00 [+100.00, +100.00]) @ 2.00x | 87.50 | 1 | 2026-11-25, here |" in text


def test_what_ran_with_other_settings_than_todays_is_marked(folder):
    wanted = {**TODAY, "select": {**TODAY["select"], "points": (0, 2)}, "compute": {"threads": 1}}
    ablation(folder, "base", 8)
    ablation(folder, "old", 8, {**TODAY, "select": {**TODAY["select"], "points": [1, 3]}})
    today = {f"toy/ablation {name}": wanted for name in ("base", "old")}
    text = "\n".join(lines(folder, today | {"toy/first seed 0": {**TODAY, "seed": 1}}))
    assert "| base | 50.00 @ 2.00x" in text
    assert "| old * | 50.00" in text
    assert "| policy | " in text
    assert "| first * | " in text
    assert "* first *: 2x" in text


def test_a_rival_is_said_to_be_out_of_reach_only_beyond_its_fastest(folder):
    slow = {"points": [point(8, 2.0, 2.0)], "keep_all": point(8, 1.0)}
    add(folder, "toy/slow seed 0", **slow)
    add(folder, "toy/default seed 0", **slow, default=point(8, 5.0))
    add(folder, "toy/far seed 0", points=[point(4, 9.0, 4.0)], keep_all=point(8, 1.0))
    assert line(folder, "* slow").endswith(", 4x alone")
    assert line(folder, "* default").endswith(", 4x win +23.8")  # faster than the policy's point, if at no target
    # At 2.1x: of the teacher's 12 at 1x and its 4 at 9x a mixture, (1/2.1 − 1/9) / (1 − 1/9) of it the teacher.
    assert line(folder, "* far").split(": ")[1].startswith("2x win +42.")


def test_a_target_that_the_rival_alone_has_is_said_to_be_its_own(folder):
    path = folder / "quality" / "toy" / "policy_seed_0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"points": [point(14, 2.1, 2.0)]}))
    assert line(folder, "* first").endswith(", 4x rival alone")
    assert line(folder, "* truncate").endswith(", 4x –")


def test_verdicts_are_of_all_seeds_together(folder):
    add(folder, "toy/policy seed 1", points=[point(0, 2.1, 2.0)], keep_all=point(14, 1.0), training_seconds=1.0)
    assert line(folder, "How far").startswith("How far the policy (mean of 2) is ahead of each rival")
    assert line(folder, "* first").startswith("* first: 2x loss -31.2")  # (14 + 0) / 2 of 16, of a rule that has 12


def test_what_began_at_another_teacher_than_the_sets_is_marked(folder):
    one = {"points": [point(8, 2.0, 2.0)], "keep_all": point(12, 1.0)}
    add(folder, "toy/same seed 0", **one, teacher=12 / 16, machine="elsewhere")
    add(folder, "toy/other seed 0", **one, teacher=11 / 16)
    add(folder, "toy/before seed 0", **one)
    add(folder, "toy/away seed 0", **one, machine="elsewhere")
    add(folder, "toy/truncate 4x seed 0", points=[point(8, 4.0, 4.0)], machine="elsewhere")
    text = "\n".join(lines(folder, {"toy/other seed 0": {**TODAY, "seed": 1}}))
    for row in ("same", "other * †", "before", "away †", "truncate (retrained)"):
        assert f"| {row} | " in text
    assert "* away †: 2x" in text
    assert line(folder, "| same").endswith("| 2026-11-25, elsewhere |")


def test_what_has_not_run_is_listed(folder):
    text = "\n".join(lines(folder, {"toy/policy seed 1": TODAY, "toy/random seed 0": TODAY}))
    assert text.endswith("## Not run yet\n\n* toy: policy seed 1, random seed 0")


@pytest.fixture
def whole_front(folder):
    """A folder with two separate models, one of one penalty, and one whose dials were drawn, that is run no more."""

    def ran(select, joint, **more):
        return {**TODAY, "select": {**TODAY["select"], "documents": select, **more}, "joint": {"documents": joint}}

    whole = {"keep_all": point(13, 0.9), "default": point(16, 7.0)}
    one, many = [point(13, 2.0, 2.0), point(4, 4.0, 4.0)], [point(12, 4.0, 4.0), point(4, 2.0, 2.0)]
    budget = {**whole, "training_seconds": 10.0}
    add(folder, "toy/separate penalty 1", points=one, settings=ran(4, 6, penalty=0.5), **budget)
    add(folder, "toy/separate penalty 2", points=many, settings=ran(4, 6, penalty=2.0), **budget)
    drawn = {"settings": ran(8, 7, dial_range=1.5), "training_seconds": 12.0}
    add(folder, "toy/conditioned", points=[point(12, 4.0, 4.0)], **whole, **drawn)
    add(folder, "toy/one penalty", points=[point(13, 4.0, 4.0)], **whole, settings=ran(8, 7), training_seconds=None)
    add(folder, "toy/policy seed 1", points=[point(12, 4.0, 4.0)], **budget)
    known_today = known(folder)
    del known_today["toy/conditioned"]
    write_report(folder, folder / "quality", SETS, known_today)
    return (folder / "quality.md").read_text()


def test_one_model_is_set_beside_separate_ones_at_the_same_targets(whole_front):
    # Above 12 of 16 less 5 points, .7: separate .1125·1 + .05·2 where each has two points and its unreduced model.
    assert "| separate models, all their dials | 0.2125 | 1.000 | 2.00 | 20 | 2.00 | 2026-11-25, here |" in whole_front
    # One penalty has .1125 up to 4x, more than both together, at 15 documents to their 10.
    assert "| one penalty | 0.3375 | 1.588 | 1.50 | – | – | 2026-11-25, here |" in whole_front
    assert "* one penalty: held. It covers 158.8 %." in whole_front
    assert "a penalty of its own, from 0.5 to 2?" in whole_front
    seeds = "the policy's 2 seeds, of 38,000\ndocuments each, have 0.1500 to 0.2975."
    assert seeds in whole_front


def test_a_model_whose_dials_were_drawn_stays_in_the_comparison_as_dropped(whole_front):
    # .05 from 1x to 4x of the separate models' .2125; at their dial 0 alone these have .3 from 1x to 7x, 1.8.
    assert "| conditioned (dropped) | 0.1500 | 0.706 | 1.50 | 12 | 1.20 | 2026-11-25, here |" in whole_front
    assert "* conditioned (dropped): **missed**. It covers 70.6 %. Of the separate\n" in whole_front
    assert "  models, each at its dial 0 alone, it covers 8.3 %.\n  Its dials were drawn from ±1.5" in whole_front
    assert whole_front.count("Its dials were drawn") == 1


@pytest.mark.parametrize(("more", "said"), [({}, ""), ({"dial_range": 1.5}, ", dials drawn from ±1.5")])
def test_the_policys_recipe_names_drawn_dials_where_it_had_them(more, said, folder):
    settings = {**TODAY, "select": {**TODAY["select"], **more}}
    add(folder, "toy/policy seed 0", points=[point(14, 2.1, 2.0)], keep_all=point(14, 1.0), settings=settings)
    assert line(folder, "The policy: ") == f"The policy: points (0, 2), penalty 0.25 nats{said};"


def test_long_documents_are_set_beside_their_teacher(tmp_path):
    sets = {"20news-512": {**SETS["toy"], "targets": (2.0,)}}
    (tmp_path / "quality" / "20news-512").mkdir(parents=True)
    teacher = {"points": [point(8, 1.0) | {"gflops": 2.0}], "tfidf": point(8, 1.0)}
    documents = {"train": 9, "validation": 9, "test": DOCUMENTS}
    add(tmp_path, "20news-512/teacher", **teacher, documents=documents)
    longer = {"points": [point(16, 4.0, 4.0) | {"gflops": 1.0}], "keep_all": point(16, 1.0), "teacher": 9 / 16}
    for name, length in (("long 1024", 1024), ("long 512", 512)):
        add(tmp_path, f"20news-512/{name}", **longer, settings={**TODAY, "data": {"max_length": length}})
    write_report(tmp_path, tmp_path / "quality", sets, known(tmp_path))
    text = (tmp_path / "quality.md").read_text().splitlines()
    shorter, row = (one for one in text if " tokens | " in one)
    assert shorter.startswith("| 512 tokens | ")
    assert row.startswith("| 1024 tokens | 1.00 | 0.50 | 100.00 | +50.00 [+")
    assert row.endswith("] | 56.25 |")
