"""Equal texts: which rows have them, what is said of them, and what is left when they are dropped."""

from dataclasses import replace

import numpy as np
import pytest

from trbert.data.duplicates import duplicate_notes, text_groups, without_duplicates
from trbert.errors import InputError
from trbert.tasks.rows import Rows


def rows(texts, labels=None, second=None):
    """Returns rows of these texts, all of class 0 unless labels are given."""
    labels = np.array([0] * len(texts) if labels is None else labels)
    return Rows((tuple(texts),) if second is None else (tuple(texts), tuple(second)), labels, labels)


def test_a_group_is_the_first_row_of_its_text():
    assert text_groups(rows(["a", "b", " a\n", "A", "b"])).tolist() == [0, 1, 0, 3, 1]


def test_pairs_are_equal_where_both_texts_are():
    assert text_groups(rows(["a", "a", "a", "b"], second=["x", "y", "x ", "x"])).tolist() == [0, 1, 0, 3]


def test_rows_that_stay_together_are_no_duplicates():
    own = replace(rows(["a", "b", "c", "b"], second=["x", "x", "y", "x"]), together=1)
    assert text_groups(own).tolist() == [0, 0, 2, 0]
    found, notes = without_duplicates({"train": own})
    assert found["train"].inputs[0] == ("a", "b", "c")
    assert notes == ["train: 1 of 4 rows left out that repeat the text of a row before"]


def test_nothing_is_said_of_texts_that_all_differ():
    splits = {"train": rows(["a", "b"]), "validation": rows(["c"]), "test": rows(["d"])}
    assert duplicate_notes(splits) == []
    found, notes = without_duplicates(splits)
    assert notes == []
    assert {split: own.inputs for split, own in found.items()} == {split: own.inputs for split, own in splits.items()}


def test_each_kind_is_counted():
    splits = {
        "train": rows(["a", "b", "a", "a ", "c"], [0, 1, 0, 1, 0]),
        "validation": rows(["d", "d", "b"], [0, 0, 1]),
        "test": rows(["c", "c", "e"], [1, 0, 0]),
    }
    remedy = "pass --drop-duplicates to leave them out"
    assert duplicate_notes(splits) == [
        f"train: 2 of 5 rows repeat the text of another row: {remedy}",
        "validation: 1 of 3 rows have a text that also stands in train, so that any accuracy on them says little: "
        + remedy,
        "test: 2 of 3 rows have a text that also stands in train, so that any accuracy on them says little: " + remedy,
        "2 texts stand with more than one label, such as 'a': no model can be right on all these rows",
    ]
    found, notes = without_duplicates(splits)
    assert {split: own.inputs[0] for split, own in found.items()} == {
        "train": ("a", "b", "c"),
        "validation": ("d",),
        "test": ("e",),
    }
    assert found["train"].targets.tolist() == [0, 1, 0]
    assert notes == [
        "train: 2 of 5 rows left out that repeat the text of a row before",
        "validation: 1 of 3 rows left out that repeat the text of a row before",
        "validation: 1 of 3 rows left out whose text also stands in train",
        "test: 2 of 3 rows left out whose text also stands in train",
        "2 texts stand with more than one label, such as 'a': the first one counts",
    ]


def test_targets_of_several_numbers_are_compared_whole():
    marks = np.array([[0, 1], [0, 1], [0, 1], [0, 2]])
    own = Rows((("a", "a", "b", "b"),), marks, np.zeros(4, dtype=np.int64))
    assert duplicate_notes({"train": own})[-1].startswith("1 text stands with more than one label, such as 'b'")


def test_a_split_that_stands_in_train_altogether_cannot_be_dropped():
    told = (
        "test must have a text that is not in train, and all its 2 rows have one that is: pass other rows as test, or "
        "leave out --drop-duplicates"
    )
    with pytest.raises(InputError) as caught:
        without_duplicates({"train": rows(["a", "b"]), "test": rows(["b", "a"])})
    assert str(caught.value) == told


def test_a_class_that_would_lose_its_last_row_is_told():
    with pytest.raises(InputError) as caught:
        without_duplicates({"train": rows(["a", "b", "b", "a"], [0, 0, 1, 1])})
    assert str(caught.value) == (
        "train must keep a row of each class, and --drop-duplicates leaves out the 2 rows of one, whose texts stand "
        "before with another label, such as 'b': correct these labels"
    )


def test_a_group_of_numbers_may_lose_its_last_row():
    numbers = np.array([[1.0, 1.0], [2.0, 1.0], [9.0, 1.0]], dtype=np.float32)
    train = Rows((("a", "b", "a"),), numbers, np.array([0, 1, 2]))
    found, _ = without_duplicates({"train": train})
    assert found["train"].targets[:, 0].tolist() == [1, 2]
