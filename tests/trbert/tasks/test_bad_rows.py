"""Rows that cannot be read: refused, or left out and counted."""

from dataclasses import replace

import pytest

from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.rows import Columns, Table

TABLE = Table("a.csv", {"text": ["1", "x", "3", "y"]})
COLUMNS = Columns.named("text", "")
SKIPPING = replace(COLUMNS, skip_bad=True)


def number(row):
    text = TABLE.values["text"][row]
    if not text.isdigit():
        raise InputError(f"row {row} of a.csv must have a number, and has {text!r}: correct it")
    return int(text)


def test_the_first_bad_row_is_refused_with_what_leaves_it_out():
    with pytest.raises(InputError, match=r"row 1 of a\.csv must .*: correct it; or pass --skip-bad-rows, which"):
        read_rows("train", TABLE, COLUMNS, range(4), number)


def test_where_all_rows_are_bad_leaving_them_out_is_no_remedy():
    with pytest.raises(InputError, match=r"row 1 of a\.csv must .*: correct it$"):
        read_rows("train", TABLE, COLUMNS, [1, 3], number)


def test_bad_rows_are_left_out_counted_and_the_first_one_is_told():
    kept, found, (note,) = read_rows("train", TABLE, SKIPPING, range(4), number)
    assert (kept, found) == ([0, 2], [1, 3])
    assert note.startswith("train: 2 bad rows left out (--skip-bad-rows); the first one: row 1 of a.csv must")


def test_rows_that_are_all_right_have_no_note():
    assert read_rows("train", TABLE, SKIPPING, [0, 2], number) == ([0, 2], [1, 3], [])


def test_a_table_of_bad_rows_is_refused():
    with pytest.raises(InputError, match=r"a\.csv must have a row that can be read, and all 2 are bad: row 1"):
        read_rows("train", TABLE, SKIPPING, [1, 3], number)


# The tasks.

TEXTS = ["a", "b", "c", "d", "e"]
CASES = {
    "a text that is no string": ("classification", ["a", 3, "c", "d", "e"], list("xyxyx"), "must have a string"),
    "no label": ("classification", TEXTS, ["x", None, "y", "x", "y"], "must have a label"),
    "a label that is no class": ("classification", TEXTS, ["x", ["y"], "y", "x", "y"], "must have a string, an"),
    "no list": ("multi_label", TEXTS, [["x"], "y", ["y"], [], ["x", "y"]], "must have a list of labels"),
    "a label in a list": ("multi_label", TEXTS, [["x"], [None], ["y"], [], ["x", "y"]], "must have a list of labels"),
    "a second text": ("multi_label", ["a", ["b"], "c", "d", "e"], [["x"], ["y"]] * 2 + [["y"]], "must have a string"),
    "no number": ("regression", TEXTS, [1.0, "two", 3, 4, 5], "must have a number"),
    "infinite": ("regression", TEXTS, [1.0, float("inf"), 3, 4, 5], "must have a number"),
    "tags and words": ("tagging", [["a", "b"]] * 5, [["x", "y"], ["x"]] + [["y", "x"]] * 3, "must have a tag for each"),
    "an empty word": ("tagging", [["a"], [""], ["c"], ["d"], ["e"]], [["x"], ["y"]] * 2 + [["x"]], "word 0"),
    "a word that is none": ("tagging", [["a"], [3], ["c"], ["d"], ["e"]], [["x"], ["y"]] * 2 + [["x"]], "word 0"),
    "words that are no list": ("tagging", [["a"], "b", ["c"], ["d"], ["e"]], [["x"], ["y"]] * 2 + [["x"]], "a list of"),
    "a tag that is none": ("tagging", [["a"]] * 5, [["x"], [None], ["y"], ["x"], ["y"]], "the tag of word 0 of row 1"),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def bad(request):
    """A task, a table of which row 1 is bad, its columns, and what the message says of it."""
    name, texts, labels, told = request.param
    task = TASKS[name]
    return task, Table("a.jsonl", {"in": texts, "out": labels}), task.columns("in", "out"), told


def test_every_task_refuses_a_bad_row_by_file_and_row_with_the_option(bad):
    task, table, columns, told = bad
    with pytest.raises(
        InputError, match=r"row 1 of a\.jsonl.*; or pass --skip-bad-rows, which leaves .* out$"
    ) as found:
        task.read({"train": table}, columns)
    assert told in str(found.value)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_task_leaves_a_bad_row_out_of_any_split_and_counts_it(split, bad):
    task, table, columns, told = bad
    good = [0, 2, 3, 4]
    other = Table("b.jsonl", {name: [column[row] for row in good] for name, column in table.values.items()})
    tables = {"train": other, split: table}
    reading = task.read(tables, replace(columns, skip_bad=True))
    assert reading.rows[split].inputs == (tuple(table.values["in"][row] for row in good),)
    assert [len(rows) for rows in reading.rows.values()] == [4] * len(tables)
    (note,) = reading.notes
    assert note.startswith(f"{split}: 1 bad rows left out (--skip-bad-rows); the first one: ")
    assert "row 1 of a.jsonl" in note
    assert told in note


def test_bad_texts_and_bad_labels_are_counted_apart():
    values = {"text": ["a", 3, "c", "d", "e"], "label": ["x", "y", None, "y", "x"]}
    columns = replace(Columns.named("text", "label"), skip_bad=True)
    reading = TASKS["classification"].read({"train": Table("a.jsonl", values)}, columns)
    assert reading.rows["train"].inputs == (("a", "d", "e"),)
    assert [note.split(";")[0] for note in reading.notes] == ["train: 1 bad rows left out (--skip-bad-rows)"] * 2


def test_tags_that_contradict_each_others_scheme_are_refused_even_so():
    values = {"tokens": [["a"], ["b"], ["c"]], "tags": [["O"], ["B-PER"], ["PER"]]}
    columns = replace(TASKS["tagging"].columns(), skip_bad=True)
    with pytest.raises(InputError, match=r"the tag of word 0 of row 2 of a\.jsonl must be O, or B-, I-, E- or S- and"):
        TASKS["tagging"].read({"train": Table("a.jsonl", values)}, columns)
