"""How a message names what it found."""

import os
import shlex
import shutil
import subprocess

import pytest

from trbert.wording import (
    briefly_listed,
    cell,
    did_you_mean,
    first_line,
    listed,
    pasted,
    printable,
    python_text,
    reason,
    shown,
    the_first,
)


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


HOSTILE = [
    "\x1b[31m red",
    "a\nb\rc",
    "\u202egnp.exe",
    "it's \x07",
    "back\\slash \x00".replace("\x00", "\x01"),
    "\udcff",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_pasted_path_shows_no_control_character_and_is_the_path_in_a_shell(path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    word = pasted(path)
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert os.fsdecode(done.stdout) == path


@pytest.mark.parametrize(
    "text", [*HOSTILE, "$(touch x)", "`touch x`", '"; touch x; "', "!!", "x\\", "“; touch x”", "ü 'q'"]
)
def test_a_literal_to_paste_is_the_text_in_python_and_nothing_in_a_shell(text, tmp_path):
    literal = python_text(text)
    assert eval(literal) == text
    assert literal.isprintable()
    assert not set(literal[1:-1]) & set('"$`!“”')
    for shell in filter(shutil.which, ("bash", "sh", "zsh")):
        done = subprocess.run([shell, "-c", f"printf %s {literal}"], capture_output=True, cwd=tmp_path, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    assert os.listdir(tmp_path) == []


def test_what_a_terminal_would_act_on_is_shown_as_an_escape():
    assert printable("\x1b[2J\u202e\n\t\u2028ü") == "\\x1b[2J\\u202e\\n\\t\\u2028ü"
    assert printable("\udcff\x9b") == "\\udcff\\x9b"
    assert cell("\n" * 1000) == ("\\n" * 50)[:97] + "..."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(22, "it is a pipe"), "it is a pipe"),
        (KeyError("settings"), "settings is missing"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        (ValueError("x" * 300), "x" * 197 + "..."),
    ],
)
def test_a_reason_is_a_few_words(error, told):
    assert reason(error) == told
