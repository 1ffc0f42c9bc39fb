"""Several labels a text: what it reads of tables, its threshold, its micro F1."""

import math
import re

import numpy as np
import pytest
import torch
import transformers

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from trbert.tasks.rows import Columns, Rows, Table

TASK = TASKS["multi_label"]
COLUMNS = Columns(("text",), "labels")


def table(labels, origin="a.jsonl", **more):
    return Table(origin, {"text": [f"a{row}" for row in range(len(labels))], "labels": labels}, **more)


def read(**labels):
    return TASK.read({split: table(own, f"{split}.jsonl") for split, own in labels.items()}, COLUMNS)


def examples_of(targets):
    targets = torch.tensor(targets)
    return Examples.of_documents(Tokens.from_lists([[7]] * len(targets), None), targets)


def test_lists_of_labels_become_a_row_of_zeros_and_ones_for_each_text():
    reading = read(train=[["b"], [], ["c", "b"], ["a"]], test=[["c"]])
    assert reading.labels == ("a", "b", "c")
    assert reading.rows["train"].targets.tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert reading.rows["test"].targets.tolist() == [[0, 0, 1]]


def test_a_split_without_labels_is_not_used():
    reading = read(train=[["b"], ["a"]], validation=[["-1"], ["-1"]], test=[None, None])
    assert [*reading.rows] == ["train"]
    assert reading.notes == (
        "test is not used: its 2 labels are all empty",
        "validation is not used: its 2 labels are all -1, which stands for secret ones",
    )


def test_rows_with_a_secret_label_are_left_out_and_counted_once():
    reading = read(train=[["b"], ["a"]], test=[["a"], ["-1", "-1"], [], ["b", "-1"]])
    assert reading.rows["test"].inputs == (("a0", "a2"),)
    assert reading.rows["test"].targets.tolist() == [[1, 0], [0, 0]]
    assert reading.notes == ("test: 2 rows left out that are labelled -1, which stands for a missing label",)


def test_labels_of_several_types_are_refused():
    told = r"^labels in column 'labels' of train\.jsonl must be of one type, and are integers \(row 0: \[1\]\) and "
    with pytest.raises(InputError, match=told):
        read(train=[[1], ["1", "x"], ["x"]])


def test_a_label_that_only_rows_without_labels_have_is_none():
    named = table([[0], [1], [2, -1]], target_names=("no", "yes", "maybe"), names_origin="labels.json")
    reading = TASK.read({"train": named}, COLUMNS)
    assert reading.labels == ("no", "yes")
    assert reading.rows["train"].targets.tolist() == [[1, 0], [0, 1]]


def test_a_split_whose_texts_have_no_labels_is_used():
    reading = read(train=[["b"], ["a"]], test=[[], []])
    assert reading.rows["test"].targets.tolist() == [[0, 0], [0, 0]]
    assert reading.notes == ()


def test_a_rows_stratum_is_its_rarest_label_and_one_of_its_own_where_it_has_none():
    assert read(train=[["b"], [], ["c", "b"], ["b", "a"]]).rows["train"].strata.tolist() == [1, 3, 2, 0]


def test_numbers_are_places_in_the_names_of_the_source():
    named = table([[1], [0, 1], []], target_names=("no", "yes"), names_origin="labels.json")
    reading = TASK.read({"train": named}, COLUMNS)
    assert reading.labels == ("no", "yes")
    assert reading.rows["train"].targets.tolist() == [[0, 1], [1, 1], [0, 0]]


def test_labels_get_new_names_and_those_of_one_name_are_one():
    reading = TASK.read({"train": table([["a", "b"], ["c"]])}, COLUMNS, {"b": "a"})
    assert reading.labels == ("a", "c")
    assert reading.rows["train"].targets.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("a", r"row 1 of a\.jsonl must have a list of labels in column 'labels', and has 'a': write a list"),
        (None, r"row 1 of a\.jsonl must have a list of labels in column 'labels', and has None: write a list"),
        ([None], r"row 1 of a\.jsonl must have a list of labels of one type, strings or integers, in column"),
        (["a", None], r"row 1 of a\.jsonl must have a list of labels of one type, strings or integers, in column"),
        (["a", 1], r"row 1 of a\.jsonl must have a list of labels of one type"),
        ([" "], r"row 1 of a\.jsonl must have a list of labels of one type"),
        ([["a"]], r"row 1 of a\.jsonl must have a list of labels of one type"),
    ],
)
def test_a_cell_that_is_no_list_of_labels_is_refused_with_its_row(cell, told):
    with pytest.raises(InputError, match=told):
        TASK.read({"train": table([["a"], cell, ["b"]])}, COLUMNS)


def test_a_label_that_a_list_holds_twice_is_refused():
    told = (
        "row 1 of a.jsonl must have each label once in column 'labels', and has 'b' 2 times: correct the row, or write "
        "the labels that the text has, and no flags; or pass --skip-bad-rows, which leaves such rows out"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        TASK.read({"train": table([["a"], ["b", "a", "b"]])}, COLUMNS)


@pytest.mark.parametrize("lists", [[[0, 1, 0, 0], [1, 0, 1, 0]], [[0.0, 1.0]], [["1", "0"]], [[True, False]]])
def test_lists_of_0_and_1_for_each_label_are_refused_with_the_way_out(lists):
    told = r"^a\.jsonl must have lists of labels in column 'labels', and each has \d flags of 0 and 1, such as .*"
    with pytest.raises(InputError, match=told):
        TASK.read({"train": table(lists * 2)}, COLUMNS)


def test_lists_of_0_and_1_of_several_lengths_are_numbers_of_labels():
    assert read(train=[[0], [0, 1], []]).rows["train"].targets.tolist() == [[1, 0], [1, 1], [0, 0]]


# A column for each label.


FLAGS = TASK.columns("text", "toxic,rude,threat")


def flags(*rows, origin="a.csv"):
    columns = dict(zip(("toxic", "rude", "threat"), zip(*rows, strict=True), strict=True))
    return Table(origin, {"text": [f"t{row}" for row in range(len(rows))], **columns}, others=("id",))


@pytest.mark.parametrize(
    "rows", [[(1, 0, 0), (0, 0, 1), (1, 1, 0)], [("1", "0", "0"), (False, "0.0", 1.0), ("True",) * 2 + (0,)]]
)
def test_columns_of_0_and_1_are_labels_by_their_names_and_in_their_order(rows):
    reading = TASK.read({"train": flags(*rows), "test": flags((0, 0, 0), (0, 1, 0))}, FLAGS)
    assert reading.labels == ("toxic", "rude", "threat")
    assert reading.rows["train"].targets.tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 0]]
    assert reading.rows["test"].targets.tolist() == [[0, 0, 0], [0, 1, 0]]


def test_a_column_of_which_no_training_row_has_a_1_is_no_label():
    reading = TASK.read({"train": flags((1, 0, 0), (0, 0, 1))}, FLAGS)
    assert reading.labels == ("toxic", "threat")
    assert reading.notes == ("classes left out that no training row has: 'rude' (named in --label-column)",)


@pytest.mark.parametrize("cell", [2, None, "yes", 0.5, ""])
def test_a_flag_that_is_neither_0_nor_1_is_refused(cell):
    with pytest.raises(
        InputError, match=r"^row 1 of a\.csv must have 0 or 1 in column 'rude', and has .*not read: 'id'"
    ):
        TASK.read({"train": flags((1, 0, 0), (1, cell, 0), (0, 1, 1))}, FLAGS)


def test_columns_that_are_all_0_are_refused():
    with pytest.raises(InputError, match="must have labels in column 'toxic', 'rude', 'threat', and all are 0: set"):
        TASK.read({"train": flags((0, 0, 0), (0, 0, 0))}, FLAGS)


@pytest.mark.parametrize("named", ["a,a", "a,", ",a", "a, "])
def test_the_columns_of_the_labels_have_different_names(named):
    with pytest.raises(
        InputError, match=r"^--label-column must name one column, or a different one for each label, and"
    ):
        TASK.columns("text", named)


def test_another_task_takes_one_column_of_labels():
    with pytest.raises(
        InputError, match=r"^--label-column must name one column for task regression, and is 'a,b': name"
    ):
        TASKS["regression"].columns("text", "a,b")


# Faults.


def test_lists_that_are_all_empty_are_refused():
    with pytest.raises(InputError, match="must have labels in column 'labels', and all its lists are empty"):
        read(train=[[], []])


def test_a_label_without_training_rows_is_refused():
    with pytest.raises(InputError, match="'d'"):
        read(train=[["a"], ["b"]], test=[["a", "d"]])


def test_columns_of_targets_take_the_order_of_the_head():
    rows = Rows((("x", "y"),), np.array([[1, 0], [1, 1]]), np.array([0, 1]))
    assert TASK.renumbered(rows, np.array([2, 0]), ("b", "c", "a")).targets.tolist() == [[0, 0, 1], [1, 0, 1]]


def test_the_loss_is_the_sum_over_labels_in_nats():
    outputs, examples = torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), examples_of([[1, 0], [0, 1]])
    expected = [math.log(2) + math.log(1 + math.exp(2)), math.log(1 + math.exp(-1)) + math.log(2)]
    assert TASK.loss(outputs, examples).tolist() == pytest.approx(expected)


def test_the_prior_is_the_sum_of_the_labels_entropies():
    examples = examples_of([[1, 0], [0, 0], [1, 0], [0, 1]])
    quarter = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert TASK.prior(examples) == pytest.approx(math.log(2) + quarter)


def test_micro_f1_counts_all_labels_of_all_texts_together():
    examples = examples_of([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    decoded = [[0], [0, 2], []]  # two hits; three given, three wanted
    assert TASK.quality(decoded, examples) == pytest.approx(2 * 2 / (3 + 3))
    assert TASK.correct(decoded, examples) == pytest.approx([2 / 3, 2 / 3, 1.0])
    # Label 0: one hit; given twice, wanted once. Label 1 is wanted once and never given. Label 2 is right.
    assert TASK.figures(decoded, examples) == {"macro F1": pytest.approx((2 / 3 + 0 + 1) / 3)}


def test_where_there_are_no_labels_and_none_is_given_nothing_is_wrong():
    examples = examples_of([[0, 0], [0, 0]])
    assert TASK.quality([[], []], examples) == 1.0
    assert TASK.figures([[], []], examples) == {}


def test_labels_are_the_outputs_above_zero():
    assert TASK.decode(torch.tensor([[0.1, -1.0], [0.0, -0.1], [3.0, 2.0]]), examples_of([[0, 0]] * 3)) == [
        [0],
        [],
        [0, 1],
    ]


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_best_of_all(seed):
    draw = torch.Generator().manual_seed(seed)
    examples = examples_of((torch.rand(30, 4, generator=draw) < 0.3).long().tolist())
    outputs = (torch.randn(30, 4, generator=draw) + 2 * examples.targets).round(decimals=1)  # some are equal
    threshold = TASK.threshold(outputs, examples)

    def quality(at):
        return TASK.quality(TASK.decode(outputs - at, examples), examples)

    others = [quality(value - 0.05) for value in outputs.unique().tolist()]
    assert quality(threshold) == pytest.approx(max(others))


def test_a_threshold_below_all_outputs_gives_all_labels():
    examples = examples_of([[1, 1], [1, 1]])
    outputs = torch.tensor([[-3.0, -2.0], [-5.0, -4.0]])
    assert TASK.decode(outputs - TASK.threshold(outputs, examples), examples) == [[0, 1], [0, 1]]


@pytest.mark.parametrize("problem", ["single_label_classification", "regression"])
def test_a_model_of_another_problem_is_refused(problem):
    config = transformers.BertConfig(problem_type=problem)
    with pytest.raises(InputError, match=f"problem_type {problem}"):
        TASK.check_config(config)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(InputError, match="a row of 3 numbers for each document"):
        TASK.check_targets(examples_of([[1, 0]]), 3)
    with pytest.raises(InputError, match="a row of 2 numbers for each document"):
        TASK.check_targets(examples_of([1, 0]), 2)


def test_what_is_said_of_the_rows():
    reading = read(train=[["b"], [], ["c", "b"], ["a"]], test=[["c"]])
    assert TASK.counts(reading.rows, reading.labels) == [
        "train: 4 rows of 3 labels, 1.0 a row: 'b' 2, 'a' 1, 'c' 1",
        "test: no row of 2 of 3 labels: 'a', 'b'",
    ]
