"""The front: marked by its law, stored exactly, shown, picked from, copied out."""

import dataclasses
import doctest
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trbert.errors import DamagedCheckpoint, InputError, RunFolderError
from tune import pareto
from tune.pareto import (
    Point,
    draw,
    export,
    free_at_cost,
    main,
    mark_front,
    pareto_front,
    pick,
    read_front,
    table,
    write_front,
)

ROOT = Path(__file__).resolve().parents[2]


def at(quality, speed_up, **changes):
    """A trained point; its quality on test is one point below validation."""
    values = {"trial": "1", "selector": "policy", "dial": 0.0, "points": (0, 2), "model": "models/1"} | changes
    return Point(quality_validation=quality, speed_up=speed_up, **{"quality_test": quality - 0.01} | values)


def unreduced(quality, trial="teacher"):
    return at(quality, 1.0, trial=trial, selector="none", dial=None, points=(), model=f"models/{trial}", drop=0.0)


def rule(name, quality, speed_up, points=(0, 2)):
    return at(quality, speed_up, trial="free", selector=name, dial=0.1, points=points, model="", quality_test=quality)


def small_front():
    return mark_front(
        [
            unreduced(0.9),
            at(0.896, 3.0, dial=-0.5, kept=(0.5, 0.25), drop=0.4, docs_per_second=321.4),
            at(0.89, 5.0, dial=-1.5, trial="2", model="models/2", drop=1.0),
            at(0.85, 9.0, dial=-3.0, drop=5.0),
            at(0.8, 4.0, quality_test=None),
            rule("first", 0.8, 2.0),
            rule("first", 0.7, 6.0),
            rule("random", 0.6, 2.0),
            rule("random", 0.4, 10.0),
        ]
    )


@pytest.fixture
def run(tmp_path):
    """A finished run's folder, as the search leaves it."""
    folder = tmp_path / "run"
    for name in ("teacher", "1", "2"):
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "model.safetensors").write_bytes(b"weights of " + name.encode())
        (folder / "models" / name / "config.json").write_text(json.dumps({"model_type": "trbert", "dial": 0.0}))
    write_front(folder / "front.csv", small_front())
    return folder


def some_points(seed):
    """Few distinct values, so that ties and duplicates abound."""
    draw_one = random.Random(seed)
    return [
        at(
            draw_one.randrange(8) / 8,
            1 + draw_one.randrange(8) / 2,
            trial=str(draw_one.randrange(4)),
            model=draw_one.choice(["", "models/1"]),
        )
        for _ in range(draw_one.randrange(1, 50))
    ]


def dominates(a, b):
    better = (a.quality_validation > b.quality_validation) or (a.speed_up > b.speed_up)
    return better and a.quality_validation >= b.quality_validation and a.speed_up >= b.speed_up


def place(point):
    return point.quality_validation, point.speed_up


@pytest.mark.parametrize("seed", range(40))
def test_no_member_of_the_front_is_dominated_and_every_other_point_is_or_repeats_a_member(seed):
    points = some_points(seed)
    front = [points[index] for index in pareto_front(points)]
    assert not any(dominates(other, member) for member in front for other in points)
    places = [place(member) for member in front]
    assert len(set(places)) == len(places)
    for point in points:
        assert place(point) in places or any(dominates(member, point) for member in front)


@pytest.mark.parametrize("seed", range(20))
def test_the_front_does_not_depend_on_the_order_of_points(seed):
    points = some_points(seed)
    front = [points[index] for index in pareto_front(points)]
    shuffled = random.Random(seed).sample(points, len(points))
    assert [shuffled[index] for index in pareto_front(shuffled)] == front


@pytest.mark.parametrize("seed", range(20))
def test_marking_the_front_again_changes_nothing(seed):
    once = mark_front(some_points(seed))
    assert mark_front(once) == once
    members = [point for point in once if point.on_front]
    assert mark_front(members) == tuple(members)


def test_the_front_by_hand_slowest_first():
    points = [at(0.7, 3.0), at(0.9, 1.0), at(0.8, 4.0), at(0.8, 2.0), at(0.9, 0.98)]
    assert pareto_front(points) == [1, 2]
    assert pareto_front([]) == []


def test_a_free_rule_that_is_better_takes_a_trained_point_off_the_front():
    trained, free = mark_front([at(0.8, 3.0), rule("first", 0.81, 3.0)])
    assert (trained.on_front, free.on_front) == (False, True)


@pytest.mark.parametrize("order", [1, -1])
def test_of_equal_points_the_saved_model_stays(order):
    points = [unreduced(0.8), rule("first", 0.8, 1.0)][::order]
    assert [point.trial for point in mark_front(points) if point.on_front] == ["teacher"]


def test_a_point_must_be_finite_and_its_speed_up_positive():
    with pytest.raises(InputError, match=r"^quality_validation must be a finite number, and is nan$"):
        at(float("nan"), 2.0)
    with pytest.raises(InputError, match=r"^kept must be a finite number, and is inf$"):
        at(0.5, 2.0, kept=(0.5, float("inf")))
    with pytest.raises(InputError, match=r"^speed_up must be positive, and is 0\.0$"):
        at(0.5, 0.0)


def test_what_is_written_is_read_again_exactly(tmp_path):
    points = [
        *small_front(),
        at(1 / 3, 0.1 + 0.2, penalty=1e-17, keep_ratios=(0.1, 2 / 3), kept=(1.0,), points=(1,), drop=-0.1),
    ]
    write_front(tmp_path / "front.csv", points)
    assert read_front(tmp_path / "front.csv") == tuple(points)
    assert os.listdir(tmp_path) == ["front.csv"]


def test_the_columns_are_the_fields_of_a_point_in_order(tmp_path):
    write_front(tmp_path / "front.csv", [at(0.5, 2.0)])
    header, row = (tmp_path / "front.csv").read_text().splitlines()
    assert header.split(",") == [field.name for field in dataclasses.fields(Point)]
    assert row == "1,policy,0.0,0;2,,,0.5,0.49,,2.0,,,False,models/1"


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    write_front(tmp_path / "front.csv", [at(np.float64(0.5), np.float64(2.0), kept=(np.float64(0.25),))])
    assert read_front(tmp_path / "front.csv") == (at(0.5, 2.0, kept=(0.25,)),)


def test_a_failed_write_leaves_the_old_front_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "front.csv"
    write_front(path, [at(0.5, 2.0)])
    before = path.read_bytes()

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_front(path, small_front())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["front.csv"]


def test_a_missing_run_and_an_unfinished_search_say_what_to_do(tmp_path):
    with pytest.raises(RunFolderError, match=r"run folder .*gone does not exist: pass one that tune/search\.py wrote"):
        read_front(tmp_path / "gone" / "front.csv")
    remedy = rf"search not finished: resume with python tune/search\.py --resume {tmp_path}$"
    with pytest.raises(RunFolderError, match=remedy):
        read_front(tmp_path / "front.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("speed_up", "speedup", 1), "lacks speed_up and has 'speedup': pass a run of this"),
        (lambda text: text.replace("trial,selector", "selector,trial", 1), "has them in another order or twice"),
        (lambda text: "", "lacks trial, "),
        (lambda text: text.splitlines()[0] + "\n", "must hold at least one point"),
        (
            lambda text: text.replace("0.896", "good"),
            r"line 3: quality_validation must be a finite number, and is 'good'",
        ),
        (
            lambda text: text.replace("0.896", "nan"),
            r"line 3: quality_validation must be a finite number, and is 'nan'",
        ),
        (lambda text: text.replace("0.896", ""), r"line 3: quality_validation must be a finite number, and is ''"),
        (
            lambda text: text.replace("0;2", "0;x", 1),
            r"line 3: points must be whole numbers joined by ';', and is '0;x'",
        ),
        (lambda text: text.replace("True", "yes", 1), r"line 2: on_front must be True or False, and is 'yes'"),
        (lambda text: text.replace("0.896", "0.896,1"), r"line 3 must have 14 cells, and has 15"),
        (lambda text: text.replace("1.0", "-1.0", 1), r"line 2: speed_up must be positive, and is -1\.0"),
        (lambda text: text.replace("teacher", '"teacher', 1), r"must be a csv file as tune/search\.py writes it"),
    ],
)
def test_a_front_that_is_none_is_named_with_its_line(run, change, message):
    path = run / "front.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_front(path)


def test_bytes_that_are_no_text_are_no_front(run):
    (run / "front.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="must be a csv file"):
        read_front(run / "front.csv")


@pytest.mark.parametrize(
    ("bounds", "model", "dial"),
    [
        ({"max_drop": 0.0}, "models/teacher", None),
        # .9 − .896 is .4 points plus a rounding error.
        ({"max_drop": 0.4}, "models/1", -0.5),
        ({"max_drop": 1.0}, "models/2", -1.5),
        ({"max_drop": 100.0}, "models/1", -3.0),
        ({"min_speedup": 1.0}, "models/teacher", None),
        ({"min_speedup": 3.5}, "models/2", -1.5),
        ({"min_speedup": 2.0, "max_drop": 1.0}, "models/1", -0.5),
    ],
)
def test_a_drop_picks_the_fastest_and_a_speed_up_the_best(bounds, model, dial):
    chosen = pick(small_front(), **bounds)
    assert (chosen.model, chosen.dial) == (model, dial)


def test_a_pick_reads_validation_and_never_test():
    lucky = at(0.85, 9.0, quality_test=0.99, drop=-9.0)
    sure = at(0.899, 2.0, quality_test=0.5, drop=40.0)
    assert pick(mark_front([unreduced(0.9), lucky, sure]), max_drop=0.5).speed_up == sure.speed_up


def test_drops_are_from_the_best_unreduced_model_which_may_be_a_joint_one_with_all_tokens():
    points = [unreduced(0.9), unreduced(0.92, trial="1"), at(0.91, 2.0), at(0.9, 3.0)]
    assert pick(mark_front(points), max_drop=1.0).speed_up == 2.0


def test_only_saved_models_on_the_front_are_picked():
    points = mark_front([unreduced(0.9), at(0.895, 3.0), at(0.89, 4.0), rule("first", 0.892, 5.0)])
    assert [point.on_front for point in points] == [True, True, False, True]
    assert pick(points, max_drop=5.0) == points[1]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (
            {"min_speedup": 20.0},
            "no saved model of the front is at least 20x faster; "
            "the nearest: models/1 at dial -3 (drop 5.0, 9.00x): relax the bound",
        ),
        (
            {"min_speedup": 6.0, "max_drop": 2.0},
            "no saved model of the front drops at most 2 points on validation and is at least 6x faster; the nearest: "
            "models/2 at dial -1.5 (drop 1.0, 5.00x) and models/1 at dial -3 (drop 5.0, 9.00x): relax the bound",
        ),
        ({}, "a pick needs a bound, and none is given: pass max_drop (points), min_speedup, or both"),
        ({"max_drop": -1.0}, "max_drop must be 0 or more percentage points, and is -1.0"),
        ({"max_drop": float("nan")}, "max_drop must be 0 or more percentage points, and is nan"),
        ({"min_speedup": 0.0}, "min_speedup must be a positive number of times, and is 0.0"),
    ],
)
def test_a_pick_that_is_none_names_the_nearest_there_is(bounds, message):
    with pytest.raises(InputError) as raised:
        pick(small_front(), **bounds)
    assert str(raised.value) == message


def test_a_drop_that_nothing_meets_names_the_least():
    points = mark_front([unreduced(0.92, trial="1"), at(0.9, 2.0), at(0.8, 4.0)])
    with pytest.raises(InputError, match=r"the nearest: models/1 at dial 0 \(drop 2\.0, 2\.00x\)"):
        pick(points, max_drop=1.0)


def test_a_front_without_a_saved_model_says_so():
    with pytest.raises(InputError, match="must hold an unreduced model and a saved one"):
        pick(mark_front([rule("first", 0.8, 2.0)]), max_drop=1.0)


def test_a_free_rule_at_equal_cost_by_hand():
    points = [rule("first", 0.8, 2.0), rule("first", 0.7, 6.0), rule("random", 0.1, 4.0), at(0.99, 4.0)]
    # A quarter of the way from 2x to 6x.
    assert free_at_cost(points, 3.0, "first") == pytest.approx(0.775)
    assert free_at_cost(points, 2.0, "first") == 0.8
    assert free_at_cost(points, 6.0, "first") == 0.7
    assert free_at_cost(points, 6.1, "first") is None
    assert free_at_cost(points, 1.9, "first") is None
    assert free_at_cost(points, 3.0, "attention") is None
    assert free_at_cost(points, 4.0, "random") == 0.1


def test_a_free_rule_has_a_line_for_each_choice_of_points_and_the_higher_counts():
    low = [rule("first", 0.5, 2.0, points=(0, 2)), rule("first", 0.5, 8.0, points=(0, 2))]
    high = [rule("first", 0.9, 2.0, points=(1, 3)), rule("first", 0.7, 4.0, points=(1, 3))]
    assert free_at_cost(low + high, 3.0, "first") == pytest.approx(0.8)
    assert free_at_cost(low + high, 5.0, "first") == pytest.approx(0.5)


def test_a_free_rule_on_validation_ignores_what_test_measured():
    points = [
        dataclasses.replace(rule("first", 0.8, 2.0), quality_test=0.3),
        dataclasses.replace(rule("first", 0.6, 4.0), quality_test=None),
    ]
    assert free_at_cost(points, 3.0, "first", split="validation") == pytest.approx(0.7)
    assert free_at_cost(points, 3.0, "first") is None


def test_the_table_shows_the_front_and_the_rules_at_equal_cost():
    assert table(small_front()).splitlines() == [
        "model           selector  dial  points  quality (test)  drop  FLOPs speed-up  docs/s     kept",
        "models/teacher  none         –       –           89.0%   0.0           1.00x       –        –",
        "models/1        policy    -0.5     0,2           88.6%   0.4           3.00x     321  50% 25%",
        "models/2        policy    -1.5     0,2           88.0%   1.0           5.00x       –        –",
        "models/1        policy      -3     0,2           84.0%   5.0           9.00x       –        –",
        "teacher         random     0.1     0,2           40.0%     –          10.00x       –        –",
        "",
        "quality (test) at equal cost",
        "speed-up  policy  first  random  policy ahead by",
        # first: .8 − .1·1/4; random: .6 − .2·1/8, …
        "   3.00x   88.6%  77.5%   57.5%             11.1",
        "   5.00x   88.0%  72.5%   52.5%             15.5",
        "   9.00x   84.0%      –   42.5%             41.5",
    ]


def test_the_table_shows_the_teacher_even_off_the_front_and_everything_when_asked():
    points = mark_front([at(0.95, 2.0), unreduced(0.9)])
    assert [line.split()[0] for line in table(points).splitlines()] == ["model", "models/teacher", "models/1"]
    lines = table(small_front(), every=True).split("\n\n")[0].splitlines()
    assert len(lines) == 1 + len(small_front())
    assert lines[0].endswith("quality (validation)  on front")
    assert [line.endswith("*") for line in lines[1:]].count(True) == sum(point.on_front for point in small_front())


def test_the_table_has_no_minus_zero():
    assert "-0.0" not in table(mark_front([dataclasses.replace(unreduced(0.9), drop=-0.01)]))


def picture(points, path):
    """What is drawn, caught on its way to the file."""
    from matplotlib.figure import Figure

    caught = []
    save = Figure.savefig

    def catch(self, *args, **kwargs):
        caught.append(self)
        save(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", catch)
        draw(points, path)
    return caught[0]


def test_the_picture_is_drawn_whole_in_the_size_of_a_page(tmp_path):
    figure = picture(small_front(), tmp_path / "front.png")
    content = (tmp_path / "front.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    assert (width, height) == (1200, 800)
    assert os.listdir(tmp_path) == ["front.png"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "teacher: 89.0 %",
        "front, as chosen on validation",
        "model 1: drops at layers 0, 2",
        "model 2: drops at layers 0, 2",
        "rule: first",
        "rule: random",
    ]
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1x", "2x", "4x", "8x"]


def test_the_picture_joins_the_trained_points_of_the_front_on_test_quality(tmp_path):
    (axes,) = picture(small_front(), tmp_path / "front.png").axes
    (line,) = [line for line in axes.lines if line.get_label().startswith("front")]
    np.testing.assert_allclose(line.get_xydata(), [[3.0, 88.6], [5.0, 88.0], [9.0, 84.0]])
    (first,) = [line for line in axes.lines if line.get_label() == "rule: first"]
    np.testing.assert_allclose(first.get_xydata(), [[2.0, 80.0], [6.0, 70.0]])


def test_rules_far_below_do_not_press_the_front_flat(tmp_path):
    points = mark_front([unreduced(0.9), at(0.89, 3.0), rule("random", 0.05, 4.0), rule("random", 0.1, 2.0)])
    (axes,) = picture(points, tmp_path / "front.png").axes
    assert axes.get_ylim()[0] > 70


@pytest.mark.parametrize("points", [[unreduced(0.9)], [at(0.9, 2.0)], [rule("first", 0.5, 2.0)]])
def test_a_picture_of_a_single_point_can_be_drawn(tmp_path, points):
    draw(mark_front(points), tmp_path / "front.png")


def test_a_picture_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs a point measured on test, and none of 1 is"):
        draw([at(0.9, 2.0, quality_test=None)], tmp_path / "front.png")


def test_an_exported_model_carries_its_dial_and_the_run_stays_as_it_was(run, tmp_path):
    point = pick(small_front(), max_drop=1.0)
    out = tmp_path / "new" / "picked"
    export(run, point, out)
    assert json.loads((out / "config.json").read_text()) == {"model_type": "trbert", "dial": -1.5}
    assert (out / "model.safetensors").read_bytes() == b"weights of 2"
    assert json.loads((run / "models" / "2" / "config.json").read_text())["dial"] == 0.0
    assert os.listdir(out.parent) == ["picked"]


def test_an_exported_teacher_is_a_plain_copy(run, tmp_path):
    export(run, small_front()[0], tmp_path / "out")
    kept = (run / "models" / "teacher" / "config.json").read_bytes()
    assert (tmp_path / "out" / "config.json").read_bytes() == kept


def test_an_export_takes_an_empty_folder_and_refuses_a_full_one(run, tmp_path):
    point = pick(small_front(), max_drop=1.0)
    out = tmp_path / "out"
    out.mkdir()
    export(run, point, out)
    for taken in (out, run / "front.csv"):
        with pytest.raises(RunFolderError, match="exists already: pass --out with a new or empty folder"):
            export(run, point, taken)
    with pytest.raises(RunFolderError, match="lies inside the model's own folder"):
        export(run, point, run / "models" / "2" / "sub" / "out")


def test_an_export_below_a_file_says_so(run):
    with pytest.raises(RunFolderError, match=r"cannot be written \(.*\): pass --out with a folder of your own"):
        export(run, pick(small_front(), max_drop=1.0), run / "front.csv" / "out")


def test_an_export_that_breaks_off_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(pareto.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(run, pick(small_front(), max_drop=1.0), tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("config", [None, "{", "[]"])
def test_a_damaged_model_is_not_exported(run, tmp_path, config):
    path = run / "models" / "2" / "config.json"
    path.unlink() if config is None else path.write_text(config)
    with pytest.raises(DamagedCheckpoint, match=r"config\.json"):
        export(run, pick(small_front(), max_drop=1.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_free_rule_is_no_model_to_export(run, tmp_path):
    with pytest.raises(InputError, match="must be a saved model to be exported, and is 'first' of 'free'"):
        export(run, rule("first", 0.5, 2.0), tmp_path / "out")


def test_the_command_shows_the_table(run, capsys):
    assert main([str(run)]) == 0
    assert capsys.readouterr() == (table(small_front()) + "\n", "")
    assert main([str(run), "--all"]) == 0
    assert capsys.readouterr().out == table(small_front(), every=True) + "\n"


def test_the_command_picks_and_says_how_to_load(run, capsys):
    assert main([str(run), "--max-drop", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"picked  {run}/models/2 at dial -1.5: 88.0% on test (drop 1.0 points), 89.0% on validation, 5.00x in FLOPs",
        f'load    trbert.load("{run}/models/2", dial=-1.5)',
    ]
    assert main([str(run), "--min-speedup", "1"]) == 0
    last = f'load    transformers.AutoModelForSequenceClassification.from_pretrained("{run}/models/teacher")'
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_the_command_exports(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(run), "--max-drop", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [f"copied  to {out}", f'load    trbert.load("{out}")']
    assert json.loads((out / "config.json").read_text())["dial"] == -1.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "error: --out needs a pick: add --max-drop, --min-speedup, or both"),
        (["--max-drop", "few"], "error: argument --max-drop: invalid float value: 'few': see tune/pareto.py --help"),
        (["--max", "1"], "error: unrecognized arguments: --max 1: see tune/pareto.py --help"),
        (["--min-speedup", "20"], "error: no saved model of the front is at least 20x faster; the nearest"),
    ],
)
def test_the_users_mistakes_are_one_line_and_exit_code_2(run, capsys, words, message):
    assert main([str(run), *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith(message)
    assert told.count("\n") == 1


def test_a_missing_run_is_one_line_and_exit_code_2_with_a_traceback_when_verbose(tmp_path, capsys):
    assert main([str(tmp_path / "gone")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: run folder ")
    assert told.count("\n") == 1
    assert main([str(tmp_path / "gone"), "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err


def script(*words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_the_script_runs_from_anywhere(run, tmp_path):
    done = script(str(ROOT / "tune" / "pareto.py"), str(run), "--max-drop", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(table(small_front()))
    missing = script(str(ROOT / "tune" / "pareto.py"), "gone", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.count("\n") == 1


def test_the_table_needs_neither_ray_nor_torch_nor_matplotlib(run, tmp_path):
    source = (
        "import sys; sys.modules.update(ray=None, torch=None, matplotlib=None, numpy=None); "
        f"from tune.pareto import main; sys.exit(main([{str(run)!r}]))"
    )
    done = script("-c", source, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_examples_run():
    failed, tried = doctest.testmod(pareto)
    assert failed == 0
    assert tried > 10
