"""Texts of a table: which rows have one."""

import pytest

from trbert.errors import InputError
from trbert.tasks.rows import Table
from trbert.tasks.texts import check_texts, is_blank, is_missing, written_rows

UNSEEN = ["", "   ", "\n\t", "\u200b\ufeff", "\u00a0\u3000", "\x00\x1b", "\u2060\u200e", "\u00ad"]


@pytest.mark.parametrize("text", UNSEEN)
def test_a_text_without_a_character_that_can_be_seen_is_blank(text):
    assert is_blank(text)
    assert not is_blank(f"{text}.")


@pytest.mark.parametrize("text", ["\U0001fa77", "\U0001fae9", "\U0001fbff", "\ue000"])
def test_a_character_of_a_newer_unicode_or_of_private_use_can_be_seen(text):
    assert not is_blank(text)


@pytest.mark.parametrize("value", [None, float("nan"), *UNSEEN])
def test_a_cell_is_missing_where_it_holds_nothing(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", ["NA", "null", "nan", "None", "0", 0, 0.0, False, []])
def test_a_cell_that_holds_something_is_not_missing(value):
    assert not is_missing(value)


def test_rows_have_a_text_in_every_column():
    table = Table("a.csv", {"one": ["a", None, "c", "d", float("nan")], "two": ["a", "b", "\u200b", "d", "e"]})
    assert written_rows(table, ["one"]) == [0, 2, 3]
    assert written_rows(table, ["one", "two"]) == [0, 3]


def test_a_message_on_the_wrong_column_names_those_that_are_not_read():
    table = Table("a.csv", {"text": [1, 2]}, others=("id", "body"))
    with pytest.raises(InputError, match=r"set --text-column to the column of the texts \(not read: 'id', 'body'\)$"):
        check_texts(table, ["text"], 0)


def test_bytes_among_texts_are_refused_with_their_row():
    table = Table("a.parquet", {"text": ["a", b"b"]})
    told = "row 1 of a.parquet must have a string in column 'text', and has the bytes b'b': write it as a string"
    with pytest.raises(InputError, match=f"^{told}"):
        check_texts(table, ["text"], 1)


def test_lists_of_words_are_refused_with_the_way_out():
    table = Table("a.parquet", {"text": [["a", "b"], ["c"]]})
    with pytest.raises(
        InputError, match=r"join the words of each row to one text, or set --text-column to the column of"
    ):
        check_texts(table, ["text"], 0)
