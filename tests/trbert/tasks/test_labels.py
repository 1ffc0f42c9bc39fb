"""Labels: one type over all splits, names and places, -1, new names, and what does not look like classes."""

import re

import pytest

from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.labels import MANY
from trbert.tasks.rows import Columns, Table

COLUMNS = Columns(("text",), "label")


def table(split, labels, names=None, **more):
    """Returns a table of different texts with these labels."""
    texts = [f"{split} {row}" for row in range(len(labels))]
    return Table(f"{split}.csv", {"text": texts, "label": labels}, names, "labels.json" if names else "", **more)


def read(train, renames=None, names=None, **others):
    """Returns what is read of splits with these labels. All of them have the names, if there are any."""
    tables = {split: table(split, labels, names) for split, labels in {"train": train, **others}.items()}
    return TASKS["classification"].read(tables, COLUMNS, renames)


def named(reading, split):
    """Returns the name of the class of each row of a split."""
    return [reading.labels[target] for target in reading.rows[split].targets]


def refused(*arguments, **options):
    """Returns the message, without what test_bad_rows.py asks of the messages on single rows."""
    with pytest.raises(InputError) as caught:
        read(*arguments, **options)
    return str(caught.value).removesuffix("; or pass --skip-bad-rows, which leaves such rows out")


# One type.


@pytest.mark.parametrize(
    ("train", "test", "names"),
    [
        (["0", "1", "10"], [1, 10, 0], ("0", "1", "10")),
        ([0, 1, 10], ["1", "10", "0"], ("0", "1", "10")),
        ([0.0, 1.0, 10.0], ["1", "10", "0"], ("0", "1", "10")),
        (["True", "False"], [True, False], ("False", "True")),
    ],
)
def test_labels_of_another_type_in_another_split_become_strings(train, test, names):
    reading = read(train, test=test)
    assert reading.labels == names
    assert named(reading, "test") == [str(label) for label in test]


def test_labels_of_two_types_in_one_table_are_refused():
    assert refused([0, "1"], test=["1"]) == (
        "labels in column 'label' of train.csv must be of one type, and are integers (row 0: 0) and strings "
        "(row 1: '1'): write all of them in the same way"
    )


def test_labels_stay_as_they_are_written():
    reading = read(["01", "1", "1E2", "100", "12345678901234567890123", "12345678901234567890124"] * 2)
    assert reading.labels == ("01", "1", "100", "1E2", "12345678901234567890123", "12345678901234567890124")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10.0", "2.0", "1.5"], ("1.5", "2.0", "10.0")),
        (["nan", "2", "10"], ("10", "2", "nan")),
        (["2", "10", "x"], ("10", "2", "x")),
    ],
)
def test_labels_that_are_all_numbers_are_in_the_order_of_their_values(labels, names):
    assert read(labels * 2).labels == names


# Names of the source.


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["neg", "pos"], ["pos", "neg"]),
        (["0", "1"], ["1", "0"]),
        ([0, 1], ["1", "0"]),
        ([0, 1], ["pos", "neg"]),
        (["neg", "pos"], [1, 0]),
        (["0.0", "1.0"], [1, 0]),
        ([False, True], [1, 0]),
    ],
)
def test_a_label_is_a_name_or_a_place_in_the_names(train, test):
    reading = read(train, test=test, names=("neg", "pos"))
    assert reading.labels == ("neg", "pos")
    assert named(reading, "train") == ["neg", "pos"]
    assert named(reading, "test") == ["pos", "neg"]


def test_names_that_are_numbers_are_names_where_all_labels_are_names():
    stars = ("1", "2", "3")
    assert named(read(["1", "2", "3"], names=stars), "train") == ["1", "2", "3"]
    # 0 is no name, so that all are places, in test as well.
    reading = read(["0", "1", "2"], test=["1", "2"], names=stars)
    assert named(reading, "train") == ["1", "2", "3"]
    assert named(reading, "test") == ["2", "3"]


@pytest.mark.parametrize(("labels", "odd"), [([0, 1, 2], "2"), (["0", "1", "2"], "'2'"), ([0, 1, -2], "-2")])
def test_a_place_beyond_the_names_is_refused(labels, odd):
    assert refused(labels, names=("neg", "pos")) == (
        f"label {odd} of train.csv must be the index of one of the 2 names in labels.json: correct the row or the names"
    )


def test_places_among_names_are_refused():
    assert refused(["neg", "pos", "1"], names=("neg", "pos")) == (
        "label '1' of train.csv must be one of the names in labels.json, 'neg', 'pos': correct the row or the names"
    )


def test_each_split_is_read_with_its_own_names():
    tables = {"train": table("train", [0, 1], ("neg", "pos")), "test": table("test", [0, 1], ("pos", "neg"))}
    assert named(TASKS["classification"].read(tables, COLUMNS), "test") == ["pos", "neg"]


def test_names_of_another_split_read_that_split_alone():
    tables = {"train": table("train", ["neg", "pos"]), "test": table("test", [1, 0], ("neg", "pos"))}
    assert named(TASKS["classification"].read(tables, COLUMNS), "test") == ["pos", "neg"]
    tables = {"train": table("train", [0, 1]), "test": table("test", [1, 0], ("neg", "pos"))}
    assert TASKS["classification"].read(tables, COLUMNS).labels == ("0", "1")


def test_class_names_without_rows_are_left_out_and_the_others_keep_their_order():
    reading = read([2, 0, 2], test=[0, 2], names=("z", "unused", "a", "too"))
    assert reading.labels == ("z", "a")
    assert named(reading, "test") == ["z", "a"]
    assert reading.notes == ("classes left out that no training row has: 'unused', 'too' (named in labels.json)",)


def test_a_named_class_with_test_rows_alone_is_refused_with_a_way_out():
    assert refused([0, 1], test=[2, 2, 0], names=("neg", "pos", "other")) == (
        "label 'other' of test.csv must have training rows, and has none in train.csv: add some, remove its 2 rows, or "
        "give them another class (--label-map other=CLASS)"
    )
    assert named(read([0, 1], {"other": "neg"}, test=[2, 0], names=("neg", "pos", "other")), "test") == ["neg", "neg"]


def test_a_name_that_is_only_spelled_alike_is_asked_for_and_not_pasted():
    told = refused(["positive", "negative"], test=["postive"])
    assert " (did you mean 'positive'?): " in told
    assert told.endswith("(--label-map postive=CLASS)")


def test_a_number_that_is_written_otherwise_in_test_is_named():
    told = refused(["0", "1"], test=["1.0", "0.0"])
    assert told.endswith(
        "(did you mean '1'?): add some, remove its 1 rows, or give them another class (--label-map 1.0=1,0.0=0)"
    )


# -1.


@pytest.mark.parametrize("missing", [-1, -1.0, "-1"])
def test_rows_labelled_minus_one_are_left_out_and_counted(missing):
    labels = ["0", "1"] if isinstance(missing, str) else [0, 1]
    reading = read(labels, validation=[missing, *labels, missing], test=[missing] * 3)
    assert named(reading, "validation") == ["0", "1"]
    assert list(reading.rows) == ["train", "validation"]
    assert reading.notes == (
        "test is not used: its 3 labels are all -1, which stands for secret ones",
        "validation: 2 rows left out that are labelled -1, which stands for a missing label",
    )


def test_minus_one_is_a_class_like_others_where_train_has_it():
    reading = read([-1, 0, 1], validation=[-1, -1], test=["1", "-1"])
    assert reading.labels == ("-1", "0", "1")
    assert named(reading, "validation") == ["-1", "-1"]
    assert named(reading, "test") == ["1", "-1"]
    assert reading.notes == ()


def test_minus_one_is_no_class_in_train_where_the_source_names_the_classes():
    reading = read([-1, 0, 1], test=[-1, 1], names=("neg", "pos"))
    assert reading.labels == ("neg", "pos")
    assert named(reading, "train") == ["neg", "pos"]
    assert reading.rows["train"].inputs == (("train 1", "train 2"),)
    assert named(reading, "test") == ["pos"]
    assert reading.notes == (
        "train: 1 rows left out that are labelled -1, which stands for a missing label",
        "test: 1 rows left out that are labelled -1, which stands for a missing label",
    )
    assert refused([-1, -1], names=("neg", "pos")) == (
        "train.csv must have labels in column 'label', and its 2 labels are all -1, which stands for missing ones: "
        "set --label-column to the column of the classes"
    )


def test_a_split_is_not_used_whose_rows_with_a_text_are_all_secret():
    tables = {"train": table("train", [0, 1]), "test": table("test", [1, -1])}
    tables["test"].values["text"][0] = " "
    reading = TASKS["classification"].read(tables, COLUMNS)
    assert list(reading.rows) == ["train"]
    assert reading.notes[-1] == "test is not used: its 1 labels are all -1, which stands for secret ones"


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_a_split_whose_labels_are_all_empty_is_not_used(missing):
    reading = read(["a", "b"], test=[missing] * 3)
    assert list(reading.rows) == ["train"]
    assert reading.notes == ("test is not used: its 3 labels are all empty",)
    assert refused([missing] * 2).startswith("row 0 of train.csv must have a label in column 'label', and has none")


# New names.


def test_labels_are_renamed_and_merged_as_strings():
    reading = read([0, 1, 2], {"0": "bad", "1": "good", "2": "good"}, test=[2, 0])
    assert reading.labels == ("bad", "good")
    assert named(reading, "test") == ["good", "bad"]


def test_new_names_are_given_at_once():
    assert named(read(["a", "b"], {"a": "b", "b": "a"}), "train") == ["b", "a"]


def test_labels_of_two_types_in_one_table_can_be_renamed():
    assert named(read([0, "neg", 1], {"0": "neg", "1": "pos"}), "train") == ["neg", "neg", "pos"]


def test_names_of_the_source_are_renamed_and_keep_their_order():
    reading = read([0, 1, 2], {"very bad": "bad"}, names=("very bad", "good", "bad"))
    assert reading.labels == ("bad", "good")
    assert named(reading, "train") == ["bad", "good", "bad"]


def test_minus_one_can_get_a_name():
    reading = read([0, 1], {"-1": "0"}, test=[-1, -1])
    assert named(reading, "test") == ["0", "0"]
    reading = read([0, 1, -1], {"-1": "unknown"}, test=[-1], names=("neg", "pos"))
    assert reading.labels == ("neg", "pos", "unknown")
    assert named(reading, "test") == ["unknown"]


def test_a_new_name_for_a_label_that_no_row_has_is_refused():
    assert refused(["positive", "negative"], {"postive": "pos"}) == (
        "--label-map must name labels that rows have, and 'postive' is none of them (did you mean 'positive'?): "
        "the labels are 'negative', 'positive'"
    )
    # A name of the source counts, with rows or without.
    assert read([0, 1], {"other": "rest"}, names=("neg", "pos", "other")).labels == ("neg", "pos")


def test_one_class_that_is_left_by_renaming_is_refused():
    assert refused(["a", "b"], {"a": "b"}).startswith("train.csv must have rows of at least two classes, and all have")


# Names that are nearly equal.


def test_nearly_equal_names_are_kept_apart_and_told():
    reading = read(["pos", "Pos", "pos ", "pos", "neg"])
    assert reading.labels == ("Pos", "neg", "pos", "pos ")
    assert reading.notes == (
        "class names that differ by case, blanks or Unicode form alone are kept apart: 'Pos', 'pos', 'pos '. "
        "To make them one, pass --label-map 'Pos=pos,pos =pos'",
    )
    assert read(["pos", "Pos", "pos ", "pos", "neg"], {"Pos": "pos", "pos ": "pos"}).labels == ("neg", "pos")


@pytest.mark.parametrize(
    "pair", [("caf\u00e9", "cafe\u0301"), ("a b", "a\u00a0b"), ("stra\u00dfe", "STRASSE"), ("x", "x\u200b")]
)
def test_names_of_another_unicode_form_are_nearly_equal(pair):
    (note,) = read(["other", *pair]).notes
    assert note.startswith("class names that differ by case, blanks or Unicode form alone are kept apart: ")


def test_a_name_that_a_map_on_the_command_line_cannot_hold_is_told_with_a_file():
    (note,) = read(["a,b", "A,B", "c"]).notes
    assert note.endswith('To make them one, pass --label-map with a JSON file such as {"old": "new"}')


# What does not look like classes.


@pytest.mark.parametrize("kind", [str, int, lambda row: f"0.{row}37", lambda row: f"some text {row}"])
def test_labels_of_which_most_stand_once_are_refused(kind):
    labels = [kind(row) for row in range(20)] + [kind(100)] * 10
    assert re.fullmatch(
        r"labels in column 'label' of train.csv must be classes, and 20 of 30 rows have one that no other row has, "
        r"such as .*, as ids, texts and numbers to regress do: set --label-column to the column of the classes"
        + ("" if "some" in str(labels[0]) else ", or pass --task regression"),
        refused(labels),
    )


def test_few_rows_and_half_of_the_rows_may_stand_alone():
    assert len(read([f"c{row}" for row in range(MANY)]).labels) == MANY
    assert len(read([f"c{row}" for row in range(20)] + ["a"] * 20).labels) == 21
    assert len(read(list(range(30)), names=tuple(map(str, range(30)))).labels) == 30


def test_different_fractions_are_classes_where_the_user_wants_that():
    assert len(read([f"{row / 10}" for row in range(30)] * 4).labels) == 30
    assert len(read([f"{row}.0" for row in range(30)] * 4).labels) == 30


def test_a_message_on_the_wrong_column_names_those_that_are_not_read():
    tables = {"train": table("train", ["a", "a"], others=("kind",))}
    with pytest.raises(InputError, match=r"set --label-column to the column of the classes \(not read: 'kind'\)$"):
        TASKS["classification"].read(tables, COLUMNS)


def test_a_dash_beside_names_is_a_missing_label():
    reading = read(["yes", "no", "-", "maybe", "-"], test=["yes", "-"])
    assert reading.labels == ("maybe", "no", "yes")
    assert named(reading, "train") == ["yes", "no", "maybe"]
    assert reading.notes == (
        "train: 2 rows left out that are labelled -, which stands for a missing label",
        "test: 1 rows left out that are labelled -, which stands for a missing label",
    )


@pytest.mark.parametrize("train", [["+", "-", "+"], ["-", "yes", "-"], ["1", "-", "2"], ["-", "!", "yes"]])
def test_a_dash_beside_signs_or_numbers_is_a_class(train):
    assert set(read(train).labels) == set(train)


def test_a_dash_becomes_a_class_by_a_new_name():
    assert read(["yes", "no", "-"], {"-": "undecided"}).labels == ("no", "undecided", "yes")


def test_lists_of_labels_are_refused_with_the_rule():
    assert refused([[0, 1], [1]]).endswith(
        "has the list [0, 1]: set --label-column to the column of the classes, or pass the --task that has such labels"
    )


# Labels of absurd size.


def test_a_label_as_long_as_a_text_is_refused_and_shown_cut():
    told = refused(["a", "b", "x" * 10**6])
    assert told == (
        "row 2 of train.csv must have a label of at most 1,000 characters in column 'label', and has one of 1,000,000, "
        f"'{'x' * 56}...: set --label-column to the column of the classes"
    )


@pytest.mark.parametrize(
    ("options", "where"),
    [({"names": ("a", "b" * 1001)}, "labels.json"), ({"renames": {"b": "b" * 1001}}, "--label-map")],
)
def test_a_class_name_as_long_as_a_text_is_refused(options, where):
    labels = [0, 1] if "names" in options else ["a", "b"]
    assert refused(labels, **options) == (
        f"the name of a class must have at most 1,000 characters, and '{'b' * 56}... has 1,001: give it a shorter name "
        f"in {where}"
    )


@pytest.mark.parametrize("label", [10**400, "9" * 900, "1" + "0" * 900])
def test_a_number_of_hundreds_of_digits_is_no_place_in_the_names(label):
    assert "must be the index of one of the 2 names in labels.json" in refused(
        [type(label)(0), type(label)(1), label], names=("a", "b")
    )


def test_numbers_of_any_size_are_classes():
    labels = [f"1e{exponent}" for exponent in range(99_990, 100_020)] * 2
    assert len(read(labels).labels) == 30
