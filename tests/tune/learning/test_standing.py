"""What is said of a teacher beside its baselines."""

import pickle
from dataclasses import replace

import pytest

from trbert.errors import InputError
from tune.learning.standing import COMMONEST, LINEAR, figures, precision, remarks


def test_a_teacher_that_stands_well_has_no_remark(standing):
    assert not standing().knows_nothing
    assert remarks(standing()) == []
    assert figures(standing()) == [
        "commonest answer: 50.0 % on validation, 50.0 % on test",
        "TF-IDF + LR: 80.0 % on validation, 80.0 % on test",
    ]


@pytest.mark.parametrize(("ahead", "nothing"), [(0.05, False), (0.04, True), (0.0, True), (-0.3, True)])
def test_a_teacher_knows_nothing_unless_it_is_two_standard_errors_above_the_commonest_answer(standing, ahead, nothing):
    assert standing(ahead=ahead, error=0.02).knows_nothing is nothing


LONGER = "train the teacher longer (--set teacher.epochs=N with a larger --budget), or with more rows"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"ahead": 0.0},
            "the teacher is not clearly better than the commonest answer (85.0 % against 50.0 % on test), so that a "
            f"speed-up without a drop means nothing: check the labels, and {LONGER}",
        ),
        (
            {"known": 0.0},
            "the teacher predicts its training labels no better than their frequencies do, so that the search cannot "
            f"tell a good selection from a bad one: check the labels, and {LONGER}",
        ),
        (
            {"known": -1.0, "ahead": 0.0},
            "the teacher is not clearly better than the commonest answer (85.0 % against 50.0 % on test) and predicts "
            "its training labels no better than their frequencies do, so that a speed-up without a drop means nothing: "
            f"check the labels, and {LONGER}",
        ),
        (
            {"behind": -0.1},
            "a linear model of the same tokens, TF-IDF + LR, does better than the teacher "
            f"(80.0 % against 85.0 % on test): {LONGER}",
        ),
        (
            {"ahead": 0.0, "trained": False},
            "the teacher is not clearly better than the commonest answer (85.0 % against 50.0 % on test), so that a "
            "speed-up without a drop means nothing: match the labels with --label-map, pass a better model, or train "
            "this one again (--new-head)",
        ),
        (
            {"ahead": 0.0, "trained": False, "has_head": False},
            "the teacher is not clearly better than the commonest answer (85.0 % against 50.0 % on test), so that a "
            "speed-up without a drop means nothing: pass another model, or texts that differ more",
        ),
    ],
)
def test_each_fault_of_a_teacher_is_one_sentence_with_its_remedy(standing, changes, told):
    assert remarks(standing(**changes)) == [told]


def test_a_linear_model_that_is_hardly_better_is_not_told_of(standing):
    assert remarks(standing(behind=-0.03)) == []  # the standard error is .02


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (500, "test has 500 rows; the 95 % interval of the teacher's quality is 6.3 points wide"),
        (
            200,
            "test has 200 rows, so that one row is 0.5 points; the 95 % interval of the teacher's quality is 6.3",
        ),
        (201, "test has 201 rows; "),
        (1, "test has 1 row, so that one row is 100.0 points; "),
        (25_000, "test has 25,000 rows; the 95 % interval of the teacher's quality is 6.3 points wide"),
    ],
)
def test_few_test_rows_are_told_of(standing, rows, told):
    (line,) = precision(replace(standing(), test_rows=rows))
    assert line.startswith(told)


def test_where_all_resamples_are_alike_there_is_no_interval(standing):
    assert precision(replace(standing(), interval=0.0)) == [
        "test has 500 rows; the teacher does equally well on each of them, so that they give no 95 % interval of its "
        "quality: for an interval, add test rows"
    ]


def test_a_linear_model_of_fewer_rows_says_so(standing):
    capped = replace(standing(), train_rows=2000)
    assert [line.partition("; it ")[2] for line in figures(capped)] == [
        "learned from 800 of 2,000 training rows",
        "learned from 800 of 2,000 training rows",
    ]
    assert precision(capped)[2] == "TF-IDF + LR learned from 800 of 2,000 training rows"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": 1.5}, r"^test must be a finite number from 0 to 1, and is the float 1\.5$"),
        ({"known": float("nan")}, "^known must be a finite number, and is the float nan$"),
        ({"interval": -0.1}, r"^interval must be a finite number from 0 to 1, and is the float -0\.1$"),
        ({"test_rows": 0}, r"^test_rows must be above 0 and below 2\^63, and is the int 0$"),
        ({"baselines": ()}, f"^baselines must be {COMMONEST}, or this and then "),
    ],
)
def test_figures_that_cannot_be_are_refused(standing, changes, message):
    with pytest.raises(InputError, match=message):
        replace(standing(), **changes)
    with pytest.raises(InputError, match=r"^name must be one of commonest answer, TF-IDF \+ LR, and is "):
        replace(standing().baselines[0], name="mine")


def test_a_standing_crosses_processes(standing):
    assert pickle.loads(pickle.dumps(standing())) == standing()
    assert [each.name for each in standing().baselines] == [COMMONEST, LINEAR]
