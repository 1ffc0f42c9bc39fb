"""TREC folders: which pairs they give, and which lines are refused."""

import gzip
import re

import pytest

from trbert.data.readers import Format
from trbert.data.sources import read_source
from trbert.data.splits import load_splits
from trbert.errors import InputError
from trbert.tasks import TASKS

TASK = TASKS["reranking"]
FILES = {
    "queries.tsv": "q1\twho was it\nq2\twhere is it\n",
    "collection.tsv": "d1\tit was me\nd2\tit is here\nd3\tnothing\n",
    "qrels.train.tsv": "q1 0 d1 2\nq1\t0\td3\t0\n\nq2 0 d2 1\nq2 0 d1 -2\n",
}


@pytest.fixture
def folder(tmp_path):
    """A function: changed files -> a folder with them; None takes a file away."""

    def write(**changes):
        named = {name.replace("__", "."): content for name, content in changes.items()}
        for name, content in (FILES | named).items():
            if content is not None:
                (tmp_path / name).write_text(content)
        return tmp_path

    return write


def read(folder, columns=TASK.columns()):  # noqa: B008
    return read_source(str(folder), columns, Format())


def pairs_of(source, split="train"):
    values = source.tables[split].values
    return list(zip(values["query"], values["document"], values["label"], strict=True))


def test_judgments_give_the_pairs_with_their_grades(folder):
    source = read(folder())
    assert pairs_of(source) == [
        ("who was it", "it was me", 2),
        ("who was it", "nothing", 0),
        ("where is it", "it is here", 1),
        ("where is it", "it was me", 0),
    ]
    assert source.tables["train"].origin == "qrels.train.tsv"
    assert source.notes == ()


def test_a_run_says_which_documents_a_query_has(folder):
    run = "q1 Q0 d2 1 9.5 bm25\nq1 Q0 d1 2 9.1 bm25\nq2 Q0 d3 1 3 bm25\nq3 Q0 d3 1 3 bm25\n"
    source = read(folder(run__train__txt=run))
    assert pairs_of(source) == [
        ("who was it", "it is here", 0),
        ("who was it", "it was me", 2),
        ("where is it", "nothing", 0),
    ]
    assert source.notes == (
        "train: 1 queries of run.train.txt left out, because none of their documents was judged",
        "train: 1 of 2 relevant documents are not in run.train.txt, and do not count",
    )


@pytest.mark.parametrize("name", ["qrels.dev.txt", "dev.qrels", "qrels-valid.tsv", "val_qrels.txt"])
def test_splits_are_told_by_their_names(folder, name):
    source = read(folder(**{name: "q1 0 d2 1\n"}))
    assert pairs_of(source, "validation") == [("who was it", "it is here", 1)]


def test_packed_judgments_and_windows_lines_are_read(folder):
    place = folder(queries__tsv="q1\twho was it\r\nq2\twhere is it\r\n")
    (place / "qrels.test.gz").write_bytes(gzip.compress(b"q1 0 d2 1\r\n"))
    assert pairs_of(read(place), "test") == [("who was it", "it is here", 1)]


def test_a_folder_becomes_the_splits_of_reranking(folder):
    splits = load_splits(
        str(folder(qrels__dev__tsv=FILES["qrels.train.tsv"], qrels__test__tsv="q2 0 d2 1\n")), task=TASK
    )
    assert sorted(splits.train.inputs[0]) == ["where is it", "who was it"]
    assert splits.test.inputs == (("where is it",), (["it is here"],))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("queries.tsv", "q1 who\n", "line 1 of queries.tsv must have 2 fields, an id and a text, with a tab"),
        ("queries.tsv", "q1\ta\tb\n", "line 1 of queries.tsv must have 2 fields, .* and has 3"),
        (
            "queries.tsv",
            "q1\ta\n\nq1\tb\n",
            "line 3 of queries.tsv must have an id that no other line .* as line 1 has",
        ),
        ("collection.tsv", "d1\ta\nd1\tb\n", "line 2 of collection.tsv must have an id that no other line has"),
        ("qrels.train.tsv", "q1 d1 1\n", "line 1 of qrels.train.tsv must have 4 fields, .* and has 3"),
        ("qrels.train.tsv", "q1 0 d1 1\nq1 0 d1 0\n", "line 2 of qrels.train.tsv must have an id .*'q1 d1', as line 1"),
        ("qrels.train.tsv", "q1 0 d1 yes\n", "line 1 of qrels.train.tsv must end in a grade, .* ends in 'yes'"),
        ("qrels.train.tsv", "q1 0 d1 1\nq9 0 d1 1\n", "line 2 of qrels.train.tsv .* 'q9' is not in queries.tsv"),
        ("qrels.train.tsv", "q1 0 d9 1\n", "line 1 of qrels.train.tsv .* 'd9' is not in collection.tsv"),
        ("run.train.txt", "q1 Q0 d1 1 9\n", "line 1 of run.train.txt must have 6 fields, .* and has 5"),
        ("run.train.txt", "q1 Q0 d1 1 9 a\nq1 Q0 d1 2 8 a\n", "line 2 of run.train.txt must have an id .* as line 1"),
        ("run.train.txt", "q1 Q0 d9 1 9 a\n", "line 1 of run.train.txt .* 'd9' is not in collection.tsv"),
        ("train.qrels", "q1 0 d1 1\n", "must have one file of the kind qrels for train, and has .* remove or rename"),
        ("qrels.train.tsv", None, "must have judgments for train .* add them as qrels.train.tsv"),
    ],
)
def test_what_is_wrong_is_refused_with_its_file_and_line(folder, file, content, message):
    with pytest.raises(InputError, match=message):
        read(folder(**{file: content}))


def test_a_folder_is_said_to_be_read_as_trec_files_where_its_task_is_found(folder):
    splits = load_splits(str(folder(qrels__dev__tsv=FILES["qrels.train.tsv"], qrels__test__tsv="q2 0 d2 1\n")))
    assert splits.task.name == "reranking"
    assert re.fullmatch(r"folder '.*', read as TREC files, has the columns 'query', 'document', 'label'", splits.why)


def test_other_columns_than_those_of_pairs_are_refused(folder):
    with pytest.raises(InputError, match=re.escape(", read as TREC files, must have the column 'text'")):
        read(folder(), TASKS["classification"].columns())
