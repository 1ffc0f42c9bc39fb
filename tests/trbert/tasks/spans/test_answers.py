"""Answers as SQuAD's official script compares them: expected numbers by hand."""

import pytest

from trbert.tasks.spans.answers import best, exact_match, f1, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  U.S. Senate!", "us senate"),
        ("a Another AN the\tend", "another end"),
        ("don't", "dont"),
        ("A.", ""),
        ("«Paris»", "«paris»"),  # only the punctuation of ASCII is left out, as in the official script
    ],
)
def test_a_text_is_normalised_as_in_the_official_script(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("said", "true", "expected"),
    [
        ("red house", "the red car", 0.5),  # one word of two, and one of two
        ("red red house", "red", 0.5),  # a word counts as often as both have it: 1 of 3 and 1 of 1
        ("house", "car", 0.0),
        ("", "", 1.0),
        ("the", "", 1.0),
        ("house", "", 0.0),
        ("", "house", 0.0),
    ],
)
def test_f1_is_of_the_words_that_both_answers_have(said, true, expected):
    assert f1(said, true) == expected


def test_of_several_true_answers_the_one_that_fits_best_counts():
    assert best(f1, "red house", ["blue car", "red car"]) == 0.5
    assert best(exact_match, "red car", ["blue car", "The red car."]) == 1.0


def test_true_answers_that_are_nothing_but_articles_do_not_count():
    assert best(f1, "", ["the", "red"]) == 0.0
    assert best(f1, "", ["the"]) == 1.0
