"""Questions of tables: the forms of answers, where they are found, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from trbert.data.splits import load_splits
from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.rows import Table

TASK = TASKS["question_answering"]
CONTEXT = "In 1990 it rained in Rome. The war began in 1990."
QUESTION = "When did the war begin?"


def read(*answers, question=QUESTION, context=CONTEXT, skip_bad=False, **others):
    """Returns what is read of rows with one context and these answers."""
    columns = replace(TASK.columns(), skip_bad=skip_bad)
    values = {"question": [question] * len(answers), "context": [context] * len(answers), "answers": list(answers)}
    return TASK.read({"train": Table("a.jsonl", values, others=("title",)), **others}, columns)


def texts(reading, split="train"):
    """Returns the answers of each row as they are cut from its context."""
    rows = reading.rows[split]
    return [
        [context[start:end] for start, end in own.tolist() if start >= 0]
        for context, own in zip(rows.inputs[1], rows.targets, strict=True)
    ]


@pytest.mark.parametrize(
    "cell",
    [
        {"text": ["Rome", "war"], "answer_start": [21, 31]},
        [{"text": "Rome", "answer_start": 21}, {"text": "war", "answer_start": 31}],
        ["Rome", "war"],
        {"text": ["Rome", "war"]},
        {"text": ["Rome", "war"], "answer_start": [21.0, 31.0]},
    ],
)
def test_answers_are_read_in_each_of_their_forms(cell):
    reading = read(cell)
    assert texts(reading) == [["Rome", "war"]]
    assert reading.rows["train"].targets.tolist() == [[[21, 25], [31, 34]]]
    assert reading.labels == ()


@pytest.mark.parametrize("cell", [[], {"text": [], "answer_start": []}, "", {"text": [""], "answer_start": [-1]}])
def test_a_cell_without_a_text_means_that_there_is_no_answer(cell):
    rows = read("Rome", cell).rows["train"]
    assert rows.targets.tolist() == [[[21, 25]], [[-1, -1]]]
    assert rows.strata.tolist() == [1, 0]
    assert rows.names == ("no answer",)
    assert read("Rome").rows["train"].names == ()


def test_an_answer_without_a_start_is_found_in_the_sentence_with_most_words_of_the_question():
    reading = read("1990")
    assert reading.rows["train"].targets[0, 0].tolist() == [44, 48]
    assert read("1990", question="When did it rain?").rows["train"].targets[0, 0].tolist() == [3, 7]
    assert reading.notes == (
        "train: 1 rows do not say where an answer stands, so that it is searched for; of several places, the sentence "
        "with most words of the question is taken",
    )


def test_a_start_at_which_the_answer_does_not_stand_is_moved_to_the_nearest_place_and_counted():
    reading = read({"text": ["1990"], "answer_start": [5]}, {"text": ["1990"], "answer_start": [40]}, "Rome")
    assert reading.rows["train"].targets[:2, 0].tolist() == [[3, 7], [44, 48]]
    assert reading.notes[1] == (
        "train: 2 rows have an answer_start at which the answer does not stand: the nearest place is taken at which it "
        "does"
    )
    # A start below 0 counts from the end in Python, and is not meant so.
    assert read({"text": ["1990"], "answer_start": [-5]}).rows["train"].targets[0, 0].tolist() == [3, 7]


def test_an_answer_that_is_not_in_its_context_is_refused_with_file_and_row():
    with pytest.raises(InputError) as caught:
        read("Rome", {"text": ["Paris"], "answer_start": [21]})
    assert str(caught.value) == (
        "row 1 of a.jsonl must have its answers in its context, letter for letter, and the answer 'Paris' is not in "
        "it: correct the answer or the context, or set --text-column to the columns of the question and of the "
        "context, in this order (not read: 'title'); or pass --skip-bad-rows, which leaves such rows out"
    )


def test_bad_rows_are_left_out_and_counted_if_the_user_wants_that():
    reading = read("Rome", "Paris", "war", 3, skip_bad=True)
    assert texts(reading) == [["Rome"], ["war"]]
    (note,) = [note for note in reading.notes if "skip-bad-rows" in note]
    assert note.startswith("train: 2 bad rows left out (--skip-bad-rows); the first one: row 1 of a.jsonl must have")


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (3, "has the int 3"),
        ([["Rome"]], "has the list ['Rome']"),
        ({"start": 21}, "has the dict {'start': 21}"),
        ([{"answer_start": 21}], "has the list [{'answer_start': 21}]"),
        ({"text": ["Rome"], "answer_start": [1.5]}, "has the float 1.5 as an answer_start, which is no whole number"),
        ({"text": ["Rome"], "answer_start": ["21"]}, "has the str '21' as an answer_start, which is no whole number"),
        ({"text": ["Rome", "war"], "answer_start": [21]}, "has 2 texts with 1 answer_start"),
    ],
)
def test_answers_of_another_form_are_refused(cell, told):
    with pytest.raises(InputError) as caught:
        read("Rome", cell)
    assert str(caught.value).startswith("row 1 of a.jsonl must have its answers in column 'answers' as a text, a list")
    assert f"and {told}: correct the row, or set --label-column to the column of the answers" in str(caught.value)


@pytest.mark.parametrize(("cell", "shown"), [(None, "the NoneType None"), (float("nan"), "the float nan")])
def test_an_empty_cell_beside_answers_is_refused_or_left_out(cell, shown):
    with pytest.raises(InputError) as caught:
        read("Rome", cell)
    assert f"and has {shown}: write [] for a question without an answer, or correct the row" in str(caught.value)
    assert str(caught.value).endswith("; or pass --skip-bad-rows, which leaves such rows out")
    rows = read("Rome", cell, skip_bad=True).rows["train"]
    assert (rows.places, rows.names) == (("row 0 of a.jsonl",), ())


def test_a_train_split_in_which_no_question_has_an_answer_is_refused():
    with pytest.raises(InputError, match=r"^a.jsonl must have questions with an answer in column 'answers', and none"):
        read([], [])


def test_a_split_that_says_nothing_of_answers_is_not_used():
    test = Table("b.jsonl", {"question": [QUESTION], "context": [CONTEXT], "answers": [None]})
    reading = read("Rome", test=test)
    assert set(reading.rows) == {"train"}
    assert "test is not used: it has no answers" in reading.notes
    none = Table("b.jsonl", {"question": [QUESTION], "context": [CONTEXT], "answers": [[]]})
    assert len(read("Rome", test=none).rows["test"]) == 1


def test_a_blank_question_is_left_out_and_counted():
    values = {"question": [" ", QUESTION], "context": [CONTEXT] * 2, "answers": ["Rome"] * 2}
    reading = TASK.read({"train": Table("a.jsonl", values)}, TASK.columns())
    assert len(reading.rows["train"]) == 1
    assert "train: 1 empty texts left out" in reading.notes


def test_all_splits_have_room_for_as_many_answers():
    test = Table("b.jsonl", {"question": [QUESTION], "context": [CONTEXT], "answers": [["Rome", "war", "1990"]]})
    rows = read("Rome", test=test).rows
    assert [part.targets.shape for part in rows.values()] == [(1, 3, 2), (1, 3, 2)]
    assert np.array_equal(rows["train"].targets[0, 1:], [[-1, -1]] * 2)


@pytest.mark.parametrize("column", ["question", "question,context,title"])
def test_another_number_of_text_columns_than_two_is_refused(column):
    with pytest.raises(InputError) as caught:
        TASK.columns(column)
    assert str(caught.value) == (
        f"--text-column must name the columns of the question and of its context, and is {column!r}: write "
        "question,context"
    )


def test_a_label_map_is_refused():
    with pytest.raises(InputError, match=r"^--label-map must rename labels, and answers are no labels: leave it out$"):
        TASK.read({}, TASK.columns(), {"a": "b"})


def test_the_counts_say_what_has_no_answer_and_which_contexts_stand_in_train():
    test = Table("b.jsonl", {"question": ["Where?"], "context": [CONTEXT], "answers": ["Rome"]})
    reading = read("Rome", [], test=test)
    assert TASK.counts(reading.rows, ()) == [
        "train: 2 questions, 1 of them without an answer, on 1 contexts",
        "test: 1 questions, 0 of them without an answer, on 1 contexts",
        "test: 1 of its 1 contexts stand in train, too, with other questions, so that any quality on them may be too "
        "high: split by context to avoid it",
    ]


def test_questions_about_one_context_stay_on_one_side_of_a_hold_out(tmp_path):
    lines = [
        {"question": f"q{row}", "context": f"w{row // 4} x", "answers": "x" if row % 2 else []} for row in range(120)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    splits = load_splits(str(tmp_path / "a.jsonl"), task=TASK)
    parts = [set(part.inputs[1]) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert [len(splits.validation), len(splits.test)] == [24, 12]
    assert not any("stand in train, too" in note for note in splits.notes)
