"""Rows that cannot be read: refused, or left out and counted."""

from dataclasses import replace

import pytest

from trbert.errors import InputError
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


def test_bad_rows_are_left_out_counted_and_the_first_one_is_told():
    kept, found, (note,) = read_rows("train", TABLE, SKIPPING, range(4), number)
    assert (kept, found) == ([0, 2], [1, 3])
    assert note.startswith("train: 2 bad rows left out (--skip-bad-rows); the first one: row 1 of a.csv must")


def test_rows_that_are_all_right_have_no_note():
    assert read_rows("train", TABLE, SKIPPING, [0, 2], number) == ([0, 2], [1, 3], [])


def test_a_table_of_bad_rows_is_refused():
    with pytest.raises(InputError, match=r"a\.csv must have a row that can be read, and all 2 are bad: row 1"):
        read_rows("train", TABLE, SKIPPING, [1, 3], number)
