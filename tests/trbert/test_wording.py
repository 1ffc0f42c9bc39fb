"""How a message names what it found."""

import shlex

import pytest

from trbert.wording import briefly_listed, did_you_mean, first_line, listed, pasted, shown, the_first


def test_names_are_listed_in_quotes():
    assert listed(["text", 3]) == "'text', 3"
    assert listed([]) == ""


def test_the_nearest_name_is_hinted_at():
    assert did_you_mean("texts", ["label", "text"]) == " (did you mean 'text'?)"
    assert did_you_mean("sentence", ["label", "text"]) == ""
    assert did_you_mean("text", ["LABEL", "TEXT"]) == " (did you mean 'TEXT'?)"


def test_ten_names_are_listed_each_cut_to_60_characters():
    assert briefly_listed(["a", "b"]) == "'a', 'b'"
    assert briefly_listed(["x" * 59]) == f"'{'x' * 56}..."
    assert briefly_listed(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert briefly_listed(range(11)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1 more"


def test_as_many_texts_are_listed_as_are_asked_for():
    assert the_first(2, iter(["a", "b"])) == "a, b"
    assert the_first(2, iter(["a", "b", "c", "d"])) == "a, b and 2 more"


def test_of_an_error_its_first_line_is_told_or_its_class():
    assert first_line(ValueError("\n no such file \nat line 3")) == "no such file"
    assert first_line(KeyError()) == "KeyError"


def test_a_value_is_shown_with_its_type_and_cut_to_60_characters():
    assert shown(3) == "the int 3"
    assert shown("x" * 58) == f"the str '{'x' * 58}'"  # 60 with its quotes
    # 61 with its quotes: 57 of them, and three dots.
    assert shown("x" * 59) == f"the str '{'x' * 56}..."


@pytest.mark.parametrize("path", ["runs/search", "a b#%41,'ü", "-x/y", "--help"])
def test_a_pasted_path_is_one_word_that_is_no_option(path):
    (word,) = shlex.split(pasted(path))
    assert word.removeprefix("./") == path
    assert not word.startswith("-")
