"""A run's table: stored exactly, refused with its line, shown."""

import dataclasses
import doctest
import os
import shlex

import numpy as np
import pytest

from trbert.errors import InputError, RunFolderError
from tune.results import table as table_module
from tune.results.front import Point, mark_front
from tune.results.table import read_front, table, write_front


def test_what_is_written_is_read_again_exactly(tmp_path, at, small_front):
    points = [
        *small_front(),
        at(
            1 / 3,
            0.1 + 0.2,
            penalty=1e-17,
            keep_ratios=(0.1, 2 / 3),
            kept=(1.0,),
            points=(1,),
            drop=-0.1,
            drop_interval=(-1 / 3, 0.1),
        ),
    ]
    write_front(tmp_path / "front.csv", points)
    assert read_front(tmp_path / "front.csv") == tuple(points)
    assert os.listdir(tmp_path) == ["front.csv"]


def test_the_columns_are_the_fields_of_a_point_in_order(tmp_path, at):
    write_front(tmp_path / "front.csv", [at(0.5, 2.0)])
    header, row = (tmp_path / "front.csv").read_text().splitlines()
    assert header.split(",") == [field.name for field in dataclasses.fields(Point)]
    assert row == "1,policy,0.0,0;2,,,0.5,0.49,,,2.0,,,,False,models/1"


def test_numpy_numbers_are_written_as_numbers(tmp_path, at):
    write_front(tmp_path / "front.csv", [at(np.float64(0.5), np.float64(2.0), kept=(np.float64(0.25),))])
    assert read_front(tmp_path / "front.csv") == (at(0.5, 2.0, kept=(0.25,)),)


def test_a_failed_write_leaves_the_old_front_and_nothing_beside_it(tmp_path, monkeypatch, at, small_front):
    path = tmp_path / "front.csv"
    write_front(path, [at(0.5, 2.0)])
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_front(path, small_front())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["front.csv"]


def test_a_missing_run_and_an_unfinished_search_say_what_to_do(tmp_path):
    with pytest.raises(RunFolderError, match=r"run folder .*gone does not exist: pass one that tune/search\.py wrote"):
        read_front(tmp_path / "gone" / "front.csv")
    remedy = rf"the search has not finished: resume it with python tune/search\.py --resume {tmp_path}$"
    with pytest.raises(RunFolderError, match=remedy):
        read_front(tmp_path / "front.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("speed_up_test", "fast", 1),
            "lacks speed_up_test and has 'fast': pass a run of this",
        ),
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
        (lambda text: text.replace("0.896", "0.896,1"), r"line 3 must have 16 cells, and has 17"),
        (lambda text: text.replace("1.0", "-1.0", 1), r"line 2: speed_up_validation must be positive, and is -1\.0"),
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


def test_the_table_shows_the_front_and_the_rules_at_equal_cost(small_front):
    assert table(small_front()).splitlines() == [
        "model           selector  dial  points  quality (test)  drop  95 % interval  FLOPs speed-up  docs/s     kept",
        "models/teacher  none         –       –           89.0%   0.0              –           1.00x       –        –",
        "models/1        policy    -0.5     0,2           88.6%   0.4    -0.6 to 1.5           3.00x     321  50% 25%",
        "models/2        policy    -1.5     0,2           88.0%   1.0     0.0 to 2.0           5.00x       –        –",
        "models/1        policy      -3     0,2           84.0%   5.0              –           9.00x       –        –",
        "teacher         random     0.1     0,2           40.0%     –              –          10.00x       –        –",
        "",
        "quality (test) at equal cost",
        "speed-up  trained  first  random  trained ahead by",
        # first: .8 − .1·1/4; random: .6 − .2·1/8, …
        "   3.00x    88.6%  77.5%   57.5%              11.1",
        "   5.00x    88.0%  72.5%   52.5%              15.5",
        "   9.00x    84.0%      –   42.5%              41.5",
    ]


def test_the_table_shows_the_teacher_even_off_the_front_and_everything_when_asked(at, unreduced, small_front):
    points = mark_front([at(0.95, 2.0), unreduced(0.9)])
    assert [line.split()[0] for line in table(points).splitlines()] == ["model", "models/teacher", "models/1"]
    lines = table(small_front(), every=True).split("\n\n")[0].splitlines()
    assert len(lines) == 1 + len(small_front())
    assert lines[0].endswith("quality (validation)  FLOPs (validation)  on front")
    assert [line.endswith("*") for line in lines[1:]].count(True) == sum(point.on_front for point in small_front())


def test_the_table_has_no_minus_zero(unreduced):
    assert "-0.0" not in table(mark_front([dataclasses.replace(unreduced(0.9), drop=-0.01)]))


def test_the_examples_run():
    failed, tried = doctest.testmod(table_module)
    assert failed == 0
    assert tried >= 6


def test_points_are_shown_in_the_order_of_their_cost_on_test_beside_the_rules_there(at, unreduced, rule):
    # On test the first two change places; the rule goes from 3x (80 %) to 7x (70 %) there.
    first, second = at(0.89, 2.0, trial="7", speed_up_test=6.0), at(0.88, 4.0, trial="8", speed_up_test=3.0)
    rules = [dataclasses.replace(rule("first", q, x), speed_up_test=x + 1) for q, x in ((0.8, 2.0), (0.7, 6.0))]
    shown, against = table(mark_front([unreduced(0.9), first, second, *rules])).split("\n\n")
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert [row[-3] for row in rows] == ["1.00x", "3.00x", "6.00x", "7.00x"]
    assert [line.split() for line in against.splitlines()[2:]] == [
        ["3.00x", "87.0%", "80.0%", "7.0"],
        ["6.00x", "88.0%", "72.5%", "15.5"],  # three quarters of the way: .8 - .1 · 3/4
    ]


def test_only_measured_points_of_the_front_are_set_beside_the_rules(at, unreduced, rule):
    behind, unmeasured = at(0.7, 2.0, trial="2"), at(0.6, 9.0, quality_test=None)
    points = mark_front(
        [unreduced(0.9), behind, at(0.8, 4.0), unmeasured, rule("first", 0.5, 2.0), rule("first", 0.4, 6.0)]
    )
    assert [point.on_front for point in points] == [True, False, True, True, False, False]
    against = table(points).split("\n\n")[1]
    assert [line.split()[0] for line in against.splitlines()[2:]] == ["4.00x"]


@pytest.mark.parametrize(("rate", "shown"), [(99.94, "99.9"), (100.0, "100"), (7.25, "7.2"), (1234.5, "1234")])
def test_documents_a_second_have_a_decimal_below_a_hundred(at, rate, shown):
    line = table([dataclasses.replace(at(0.9, 2.0, docs_per_second=rate), on_front=True)]).splitlines()[1]
    assert line.split()[-2] == shown


def test_all_points_are_shown_with_what_validation_says_of_them(at, unreduced):
    lines = table(mark_front([unreduced(0.9), at(0.8, 2.0, speed_up_test=3.0)]), every=True).splitlines()
    assert lines[2].split()[-3:] == ["80.0%", "2.00x", "*"]
    assert "79.0%" in lines[2]
    assert "3.00x" in lines[2]


def test_a_comparison_that_would_be_empty_says_why(at, unreduced, rule):
    points = mark_front([unreduced(0.9), at(0.8, 4.0), rule("first", 0.5, 2.0), rule("first", 0.4, 3.0)])
    assert table(points).split("\n\n")[1:] == [
        "quality (test) at equal cost\n"
        "no comparison can be made, because no rule was measured at the speed-up of a trained model"
    ]


def test_the_baselines_are_the_last_lines_of_the_table_and_no_points(small_front, standing):
    front, told, _ = table(small_front(), standing=standing()).split("\n\n")
    plain = table(small_front()).split("\n\n")[0]
    assert [line.split() for line in front.splitlines()[:-2]] == [line.split() for line in plain.splitlines()]
    empty = "     –              –               –       –        –"
    assert front.splitlines()[-2:] == [
        f"commonest answer  –            –       –           50.0%{empty}",
        f"TF-IDF + LR       –            –       –           80.0%{empty}",
    ]
    assert told == "test has 500 rows; the 95 % interval of the teacher's quality is 6.3 points wide"
    lines = table(small_front(), every=True, standing=standing()).split("\n\n")[0].splitlines()
    assert [line.split()[-1] for line in lines[-2:]] == ["–", "–"]
    assert [line.split()[-2] for line in lines[-2:]] == ["50.0%", "80.0%"]


def test_a_table_is_no_front_where_the_teacher_knows_nothing(small_front, standing):
    above, front, *_ = table(small_front(), standing=standing(ahead=0.0)).split("\n\n")
    assert above.startswith("no front: the teacher is not clearly better than the commonest answer (85.0 % against")
    assert "a speed-up without a drop means nothing: check the labels, and train the teacher longer" in above
    assert front.startswith("model ")


def test_a_linear_model_that_is_better_is_told_of_under_the_table(small_front, standing):
    shown = table(small_front(), standing=standing(behind=-0.1))
    assert not shown.startswith("no front")
    assert (
        "\na linear model of the same tokens, TF-IDF + LR, does better than the teacher (80.0 % against 85.0 %" in shown
    )


def test_a_command_to_paste_quotes_its_path(tmp_path):
    run = tmp_path / "my runs" / "it's"
    run.mkdir(parents=True)
    with pytest.raises(RunFolderError) as raised:
        read_front(run / "front.csv")
    assert str(raised.value).endswith(f"python tune/search.py --resume {shlex.quote(str(run))}")


def test_rules_that_were_not_measured_on_test_are_compared_on_validation(at, unreduced, rule):
    points = mark_front([unreduced(0.9), at(0.85, 3.0), at(0.7, 9.0, quality_test=None)])
    rules = [dataclasses.replace(rule("first", q, s), quality_test=None) for q, s in ((0.8, 2.0), (0.6, 4.0))]
    shown = table([*points, *rules])
    assert shown.endswith("\n\n1 point of the front was not measured on test")
    assert "quality (validation) at equal cost\n" in shown
    assert "3.00x    85.0%  70.0%" in shown
