"""Entities of hand-written tags in each scheme, and their F1 score."""

import pytest

from trbert.tasks.words.entities import entities, f1, follows_scheme, misfit, orphans, scheme_of


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", set()),
        ("B-PER I-PER O B-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),
        ("B-PER B-PER I-PER", {("PER", 0, 0), ("PER", 1, 2)}),
        ("B-PER I-LOC", {("PER", 0, 0), ("LOC", 1, 1)}),
        ("O I-PER I-PER", {("PER", 1, 2)}),
        ("B-new-york I-new-york", {("new-york", 0, 1)}),
    ],
    ids=["none", "two", "touching", "another type", "not begun", "a hyphen"],
)
def test_entities_of_bio(tags, expected):
    assert entities(tags.split()) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-PER I-PER O I-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),
        ("I-PER B-PER I-PER", {("PER", 0, 0), ("PER", 1, 2)}),
        ("I-PER I-LOC", {("PER", 0, 0), ("LOC", 1, 1)}),
    ],
    ids=["two", "parted by B", "another type"],
)
def test_entities_of_iob1(tags, expected):
    assert entities(tags.split()) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER E-PER S-LOC", {("PER", 0, 2), ("LOC", 3, 3)}),
        ("S-PER S-PER O", {("PER", 0, 0), ("PER", 1, 1)}),
        ("B-PER S-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("B-PER E-PER I-PER", {("PER", 0, 1), ("PER", 2, 2)}),
        ("E-PER E-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("B-PER O", {("PER", 0, 0)}),
        ("B-PER I-PER L-PER U-LOC", {("PER", 0, 2), ("LOC", 3, 3)}),
    ],
    ids=["two", "touching", "never ended, touching", "after an end", "ends alone", "never ended", "BILOU"],
)
def test_entities_of_bioes(tags, expected):
    assert entities(tags.split()) == expected


def test_letters_without_types_are_entities_of_one_type():
    assert entities(["B", "I", "O", "B"]) == {("", 0, 1), ("", 3, 3)}


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    # Of 4 found, 3 are true; of 6 true ones, 3 are found: 2 · 3/4 · 1/2 / (3/4 + 1/2) = 0.6.
    assert f1(right=3, predicted=4, true=6) == pytest.approx(0.6)
    assert f1(right=0, predicted=0, true=0) == 0.0


@pytest.mark.parametrize(
    ("tags", "follows"),
    [
        ("O B-PER I-PER", True),
        ("O I-PER", True),
        ("O S-PER", True),
        ("O B I", True),
        ("NOUN VERB", False),
        ("O X", False),
        ("B-PER I-PER", False),
        ("B I", False),
        ("0 1", False),
    ],
)
def test_a_scheme_is_recognised_from_the_tags(tags, follows):
    assert follows_scheme(tags.split()) is follows


@pytest.mark.parametrize(
    ("tags", "wrong"),
    [
        ("O B-PER I-PER E-PER S-PER", None),
        ("O B-PER PER", "PER"),
        ("O B-PER B-", "B-"),
        ("O B-PER I", "I"),
        ("O B-PER X-PER", "X-PER"),
        ("O O-PER I-PER", "O-PER"),
        ("O B I", None),
        ("O B-PER I-PER L-PER U-PER", None),
        ("O B-PER L-PER S-PER", "L-PER"),
        ("O B I E U", "U"),
    ],
)
def test_a_tag_that_does_not_fit_the_scheme_is_found(tags, wrong):
    assert misfit(tags.split()) == wrong


@pytest.mark.parametrize(
    ("sequence", "scheme"),
    [
        ("B-PER I-PER O", "BIO"),
        ("B-PER O B-LOC", "BIO"),
        ("I-PER B-PER O I-LOC", "IOB1"),
        ("O I-PER", "IOB1"),
        ("B-PER E-PER", "BIOES"),
        ("O S-PER", "BIOES"),
        ("B-PER L-PER", "BILOU"),
    ],
)
def test_a_scheme_has_its_name(sequence, scheme):
    assert scheme_of([sequence.split()]) == scheme


@pytest.mark.parametrize(
    ("tags", "count"),
    [("B-PER I-PER", 0), ("O I-PER I-PER", 1), ("B-PER I-LOC", 1), ("S-PER I-PER", 1), ("O E-PER", 1), ("B-X E-X", 0)],
)
def test_words_that_continue_what_was_not_begun_are_counted(tags, count):
    assert orphans(tags.split()) == count
