"""Tables of words and tags, and each way in which they can be wrong."""

import numpy as np
import pytest

from trbert.errors import InputError
from trbert.tasks.rows import Columns, Table
from trbert.tasks.words.tags import NO_TAG, read_tags, written_rows

COLUMNS = Columns(("tokens",), "tags", words=True)
WORDS, TAGS = [["Ann", "runs"], ["Rome"]], [["B-PER", "O"], ["B-LOC"]]


def table(words, tags, origin="train.jsonl", **more):
    return Table(origin, {"tokens": words, "tags": tags}, **more)


def read(words, tags, renames=None, test=None, **more):
    tables = {"train": table(words, tags, **more)}
    if test is not None:
        tables["test"] = table(*test, origin="test.jsonl")
    return read_tags(tables, COLUMNS, renames)


def refusal(*given, **more):
    """Returns the message, without what test_bad_rows.py asks of the messages on single rows."""
    with pytest.raises(InputError) as found:
        read(*given, **more)
    return str(found.value).removesuffix("; or pass --skip-bad-rows, which leaves such rows out")


def test_tags_become_numbers_padded_alike_in_every_split():
    reading = read(WORDS, TAGS, test=([["a", "b", "c"]], [["O", "O", "B-PER"]]))
    assert reading.labels == ("B-LOC", "B-PER", "O")
    train, test = reading.rows["train"], reading.rows["test"]
    assert train.inputs == (tuple(WORDS),)
    assert train.targets.tolist() == [[1, 2, NO_TAG], [0, NO_TAG, NO_TAG]]
    assert test.targets.tolist() == [[2, 2, 1]]
    assert train.names == test.names == reading.labels
    assert reading.notes == ()


def test_integers_are_places_in_the_names_or_tags_themselves():
    names = ("O", "B-PER", "B-MISC", "B-LOC")
    named = read(WORDS, [[1, 0], [3]], target_names=names, names_origin="labels.json")
    assert named.labels == ("O", "B-PER", "B-LOC")  # those that train has, in the order of the names
    assert named.rows["train"].targets[0].tolist() == [1, 0]
    assert read(WORDS, [[10, 2], [2]]).labels == ("2", "10")


def test_tags_of_several_types_are_refused_where_the_source_names_none():
    told = refusal([["a", "b"], ["c"]], [["NOUN", "1"], [1]])
    assert told.startswith("labels in column 'tags' of train.jsonl must be of one type, and are strings (row 0: ")


def test_blanks_around_a_tag_make_no_other_tag():
    reading = read([*WORDS, ["Oslo"]], [*TAGS, [" B-LOC "]])
    assert reading.labels == ("B-LOC", "B-PER", "O")
    assert reading.rows["train"].targets[2].tolist() == [0, NO_TAG]


def test_a_sample_keeps_the_share_of_rows_with_another_tag_than_the_commonest():
    reading = read([["a"], ["b", "c"], ["d"]], [["O"], ["B-X", "O"], ["O"]])
    assert reading.rows["train"].strata.tolist() == [0, 1, 0]


def test_tags_can_get_other_names():
    reading = read(WORDS, TAGS, renames={"B-LOC": "B-PLACE"})
    assert reading.labels == ("B-PER", "B-PLACE", "O")
    assert refusal(WORDS, TAGS, renames={"B-LOK": "O"}) == (
        "--label-map must name labels that rows have, and 'B-LOK' is none of them (did you mean 'B-LOC'?): the labels "
        "are 'B-LOC', 'B-PER', 'O'"
    )


def test_renumbered_rows_keep_their_names_and_take_those_of_the_others():
    rows = read(WORDS, TAGS).rows["train"]
    other = rows.renumbered(np.array([2, 1, 0]), ("LABEL_0", "LABEL_1", "LABEL_2", "B-ORG"))
    assert other.targets.tolist() == [[1, 0], [2, NO_TAG]]
    assert other.names == ("O", "B-PER", "B-LOC", "B-ORG")
    assert other.take(np.array([1])).names == other.names


def test_rows_without_a_word_are_left_out():
    reading = read([*WORDS, [], None], [*TAGS, [], None])
    assert len(reading.rows["train"]) == 2
    assert reading.notes == ("train: 2 rows without a word left out",)


def test_a_split_without_tags_is_not_used():
    reading = read(WORDS, TAGS, test=([["a"]], [None]))
    assert list(reading.rows) == ["train"]
    assert reading.notes == ("test is not used: it has no tags",)


# Faults.


def test_a_row_with_another_number_of_tags_than_of_words_is_refused():
    assert refusal(WORDS, [["B-PER", "O"], ["O", "O"]]) == (
        "row 1 of train.jsonl must have a tag for each word, and has 1 words and 2 tags: correct the row, or set "
        "--text-column and --label-column to columns that belong together"
    )


def test_a_tag_that_train_lacks_is_refused():
    assert refusal(WORDS, TAGS, test=([["a"], ["b", "c"]], [["O"], ["O", "B-PERS"]])) == (
        "the tag of word 1 of row 1 of test.jsonl must be one that a row of train.jsonl has, and is 'B-PERS' (did you "
        "mean 'B-PER'?): add training rows with it, remove the row, or give the tag another name with --label-map"
    )


@pytest.mark.parametrize("word", ["", " ", "\u200b"])
def test_an_empty_word_is_refused(word):
    assert refusal([["Ann", word], ["Rome"]], TAGS) == (
        "word 1 of row 0 of train.jsonl must have a character that can be seen, and is "
        f"{word!r}: remove it together with its tag"
    )


@pytest.mark.parametrize("wrong", ["B-", "PER", "Q-PER"])
def test_a_tag_outside_the_scheme_of_the_others_is_refused(wrong):
    assert refusal(WORDS, [["B-PER", "O"], [wrong]]) == (
        "the tag of word 0 of row 1 of train.jsonl must be O, or B-, I-, E- or S- and a type, as other tags are that "
        f"mark entities, and is {wrong!r}: correct the tag, or rename it with --label-map"
    )


def test_words_that_are_no_list_are_refused():
    assert refusal(["Ann runs", "Rome"], TAGS) == (
        "row 0 of train.jsonl must have a list of words in column 'tokens', and has the str 'Ann runs': write its "
        "words as a list, or set --text-column to the column of the words"
    )


def test_a_word_that_is_no_string_is_refused():
    assert refusal([["Ann", 3], ["Rome"]], TAGS) == (
        "word 1 of row 0 of train.jsonl must be a string, and is the int 3: write it in quotes, or set --text-column "
        "to the column of the words"
    )


def test_tags_that_are_no_list_are_refused():
    assert refusal(WORDS, [["B-PER", "O"], "B-LOC"]) == (
        "row 1 of train.jsonl must have a list of tags in column 'tags', and has the str 'B-LOC': write a tag for each "
        "of its words, or set --label-column to the column of the tags"
    )


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        (None, "the NoneType None"),
        (" ", "the str ' '"),
        (-1, "the int -1"),
        (True, "the bool True"),
        (0.5, "the float 0.5"),
    ],
)
def test_what_is_no_tag_is_refused(tag, told):
    assert refusal(WORDS, [["B-PER", tag], ["B-LOC"]]) == (
        f"the tag of word 1 of row 0 of train.jsonl must be a string or a whole number from 0 on, and is {told}: "
        "correct the row, or set --label-column to the column of the tags"
    )


@pytest.mark.parametrize(
    ("tag", "rule"),
    [
        (2, "must be the index of one of the 2 names in labels.json, and is 2"),
        ("I-PER", "must be one of the names in labels.json, 'O', 'B-PER' (did you mean 'B-PER'?), and is 'I-PER'"),
    ],
)
def test_a_tag_that_is_not_among_the_names_is_refused(tag, rule):
    kind = {int: [[1, 0], [tag]], str: [["B-PER", "O"], [tag]]}[type(tag)]
    assert refusal(WORDS, kind, target_names=("O", "B-PER"), names_origin="labels.json") == (
        f"the tag of word 0 of row 1 of train.jsonl {rule}: correct the row or the names"
    )


def test_a_single_tag_is_refused():
    assert refusal(WORDS, [["O", "O"], ["O"]]) == (
        "train.jsonl must have words of at least two tags, and all have 'O' in column 'tags': set --label-column to "
        "the column of the tags"
    )


def test_words_instead_of_tags_are_refused():
    words = [[f"w{number}" for number in range(1001)]]
    assert refusal(words, words) == (
        "train.jsonl must have at most 1,000 different tags in column 'tags', and has 1,001, such as 'w0': set "
        "--label-column to the column of the tags"
    )


def test_a_table_without_a_word_is_refused():
    with pytest.raises(InputError, match=r"^train.jsonl must have words in column 'tokens', and its 1 rows have none:"):
        written_rows(table([[]], [[]]), "tokens")
