"""Queries with their documents: how they are read from tables of pairs, and what is refused."""

import math

import pytest

from trbert.data.splits import load_splits
from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.rows import Columns, Table

TASK = TASKS["reranking"]
COLUMNS = TASK.columns()
PAIRS = [("q", "a", 1), ("r", "c", 0), ("q", "b", 0), ("r", "d", 1), ("r", "e", 0)]


def table(pairs, origin="a.csv", **more):
    queries, documents, labels = zip(*pairs, strict=True)
    values = {"query": list(queries), "document": list(documents), "label": list(labels)}
    return Table(origin, values | more)


def read(pairs, columns=COLUMNS, renames=None, **others):
    return TASK.read({"train": table(pairs), **others}, columns, renames)


def test_a_row_is_a_query_with_all_its_documents_wherever_they_stand():
    reading = read(PAIRS)
    rows = reading.rows["train"]
    assert reading.labels == ()
    assert rows.inputs == (("q", "r"), (["a", "b"], ["c", "d", "e"]))
    assert rows.places == ("row 0 of a.csv", "row 1 of a.csv")
    assert rows.targets.tolist() == [[1, 0, -100], [0, 1, 0]]
    assert reading.notes == ()


@pytest.mark.parametrize(
    ("yes", "no"), [(1, 0), (True, False), ("1", "0"), ("True", "false"), (2.0, 0.0), ("3", 0), (" 0.5 ", "0.0")]
)
def test_relevance_is_a_number_or_a_boolean_in_any_writing(yes, no):
    reading = read([("q", "a", yes), ("q", "b", no)])
    assert reading.rows["train"].targets.tolist() == [[1, 0]]


def test_grades_are_divided_by_the_highest_one_of_train():
    test = table([("q", "a", 8), ("q", "b", 1), ("q", "c", 0)], "b.csv")
    reading = read([("q", "a", 1), ("q", "b", 4), ("q", "c", 0.5)], test=test)
    assert reading.rows["train"].targets.tolist() == [[0.25, 1, 0.125]]
    assert reading.rows["test"].targets.tolist() == [[1, 0.25, 0]]
    assert reading.notes == (
        "grades are divided by the highest one of train, 4",
        "test: grades above the highest one of train, 4, count as that one (1 of them)",
    )


def test_queries_without_a_relevant_document_are_left_out_and_counted():
    reading = read([*PAIRS, ("s", "f", 0), ("s", "g", 0)])
    assert reading.rows["train"].inputs[0] == ("q", "r")
    assert reading.notes == ("train: 1 of 3 queries left out, because none of their documents is relevant",)


def test_queries_of_train_have_the_relevant_documents_and_others_up_to_a_limit_in_their_order():
    pairs = [("q", f"d{number}", int(number in (3, 70))) for number in range(80)]
    whole = read([*pairs, *PAIRS[1:2], *PAIRS[3:]]).rows["train"]
    rows, told = TASK.learned_from(whole)
    assert len(whole.inputs[1][0]) == 80
    assert rows.inputs[1][0] == [*(f"d{number}" for number in range(31)), "d70"]
    assert [rows.inputs[1][0][place] for place in rows.targets[0].nonzero()[0]] == ["d3", "d70"]
    assert len(rows.inputs[1][1]) == 3
    assert (rows.targets[1] >= 0).sum() == 3
    assert (rows.places, rows.targets.shape) == (whole.places, (2, 32))
    assert told == [
        "train: 1 queries have more than 32 documents: of these, the relevant ones are used first, and then the others "
        "in their order, up to 32"
    ]
    assert TASK.learned_from(rows) == (rows, [])


def test_queries_that_are_held_out_of_train_keep_all_their_documents(tmp_path):
    lines = ["query,document,label", *(f"q{row // 40},d{row},{int(row % 40 == 0)}" for row in range(40 * 20))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    splits = load_splits(str(tmp_path / "a.csv"), task=TASK)
    assert {len(own) for own in splits.train.inputs[1]} == {32}
    assert {len(own) for part in (splits.validation, splits.test) for own in part.inputs[1]} == {40}
    assert sum("have more than 32 documents" in note for note in splits.notes) == 1


def test_a_pair_that_stands_in_several_rows_counts_once_with_its_highest_grade():
    reading = read([*PAIRS, ("q", "a", 0), ("r", "d", 1), ("r", "e", 2)])
    assert reading.rows["train"].inputs == (("q", "r"), (["a", "b"], ["c", "d", "e"]))
    assert reading.rows["train"].targets.tolist() == [[0.5, 0, -100], [0, 0.5, 1]]
    assert reading.notes[0] == (
        "train: 3 rows left out that repeat the query and the document of a row before: the highest grade of a pair "
        "counts"
    )


def test_equal_queries_of_two_splits_do_not_contradict_each_other(tmp_path):
    for name, pairs in (("train", PAIRS), ("test", [PAIRS[0], PAIRS[2]])):
        lines = ["query,document,label", *(",".join(map(str, pair)) for pair in pairs), "s,f,1", "s,g,0"]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    notes = load_splits(str(tmp_path), task=TASK).notes
    assert any("test: 2 of 2 rows have a text that also stands in train" in note for note in notes)
    assert not any("more than one label" in note for note in notes)


def test_pairs_with_a_blank_text_are_left_out():
    reading = read([*PAIRS, ("q", " ", 1), ("", "x", 1)])
    assert reading.rows["train"].inputs[1] == (["a", "b"], ["c", "d", "e"])
    assert reading.notes == ("train: 2 empty texts left out",)


def test_pairs_of_a_test_split_that_are_in_train_are_left_out():
    marked = table(PAIRS, "b.csv", in_train=[True, False, True, False, False])
    assert read(PAIRS, test=marked).rows["test"].inputs == (("r",), (["c", "d", "e"],))


@pytest.mark.parametrize("secret", [None, "", -1])
def test_a_split_without_labels_is_not_used(secret):
    reading = read(PAIRS, test=table([("q", "a", secret)], "b.csv"))
    assert [*reading.rows] == ["train"]
    assert "test is not used: its 1 labels are all" in reading.notes[0]


@pytest.mark.parametrize("cell", ["good", None, math.nan, "inf", -1, "-0.5", [1], "1e31", 10**400])
def test_what_is_no_grade_is_refused_with_its_row(cell):
    with pytest.raises(InputError, match=r"^row 1 of a\.csv must have a grade in column 'label'.*--label-map") as told:
        read([("q", "a", 1), ("q", "b", cell)])
    assert "--skip-bad-rows" in str(told.value)


def test_bad_grades_are_left_out_where_the_user_wants_that():
    columns = Columns(COLUMNS.inputs, COLUMNS.target, skip_bad=True)
    reading = read([*PAIRS, ("q", "x", "good")], columns)
    assert reading.rows["train"].inputs[1] == (["a", "b"], ["c", "d", "e"])
    assert reading.notes[0].startswith("train: 1 bad rows left out (--skip-bad-rows); the first one: row 5 of a.csv")


def test_a_map_of_labels_makes_words_grades():
    reading = read([("q", "a", "yes"), ("q", "b", "no")], renames={"yes": "1", "no": "0"})
    assert reading.rows["train"].targets.tolist() == [[1, 0]]


def test_a_new_name_for_a_label_that_no_row_has_is_refused():
    told = r"^--label-map must name labels that rows have, and 'yeah' is none of them.*: the labels are 'no', 'yes'$"
    with pytest.raises(InputError, match=told):
        read([("q", "a", "yes"), ("q", "b", "no")], renames={"yes": "1", "no": "0", "yeah": "1"})


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_a_relevant_document_is_refused(split):
    tables = {"test": table(PAIRS), "train": table(PAIRS)} | {split: table([("q", "a", 0), ("q", "b", 0)], "b.csv")}
    with pytest.raises(InputError, match=r"^b\.csv must have a relevant document, .* set --label-column"):
        TASK.read(tables, COLUMNS)


def test_train_without_two_grades_for_any_query_is_refused_as_where_columns_are_swapped():
    swapped = TASK.columns("document,query")
    with pytest.raises(
        InputError, match=r"^a\.csv must have a query .*\(--text-column query,document would swap them\)"
    ):
        read(PAIRS, swapped)


@pytest.mark.parametrize("name", ["reranking", "listwise_reranking"])
def test_two_columns_of_texts_are_needed(name):
    with pytest.raises(InputError, match=rf"--text-column .* task {name}, and is 'text': write query,document"):
        TASKS[name].columns("text")
    with pytest.raises(InputError, match="--text-column"):
        TASK.columns("a,b,c")
