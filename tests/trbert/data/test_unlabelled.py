"""Texts without labels: where they are read from, and what is left out."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from trbert.data.readers import Format
from trbert.data.splits import Splits, load_splits
from trbert.data.unlabelled import unlabelled_rows
from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.rows import Columns, Rows

TEXTS = ["one text", 'a second, with "marks"', "the third"]
CLASSIFICATION = TASKS["classification"]


def rows_of(texts: Sequence[str], second: Sequence[str] | None = None) -> Rows:
    labels = np.arange(len(texts)) % 2
    return Rows((tuple(texts),) if second is None else (tuple(texts), tuple(second)), labels, labels)


SPLITS = {"train": rows_of(["in train", "x"]), "validation": rows_of(["in validation"]), "test": rows_of(["in test"])}


def read(
    *sources: object,
    text_column: str = "text",
    splits: dict[str, Rows] = SPLITS,
    skip_bad: bool = False,
    format: Format = Format(),  # noqa: B008  it is frozen
) -> tuple[Rows, list[str]]:
    columns = replace(Columns.named(text_column, "label"), skip_bad=skip_bad)
    return unlabelled_rows([str(each) for each in sources], CLASSIFICATION, columns, format, splits)


def refusal(*sources: object, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(*sources, **arguments)
    return str(caught.value)


def write(path: Path, texts: Sequence[str] = TEXTS, **columns: Sequence[Any]) -> Path:
    """Writes a table with a column of texts and others, in the form that the suffix says."""
    table = {"text": list(texts), **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        comma = "," if path.suffix == ".csv" else "\t"
        quoted = [comma.join('"{}"'.format(str(cell).replace('"', '""')) for cell in row.values()) for row in records]
        path.write_text("\n".join([comma.join(table), *quoted]))
    return path


@pytest.mark.parametrize("name", ["more.csv", "more.tsv", "more.jsonl", "more.parquet", "more.txt"])
def test_a_table_of_each_kind_is_read_and_its_labels_are_not(tmp_path: Path, name: str) -> None:
    rows, notes = read(write(tmp_path / name, label=["no such class", "", "7"]))
    assert rows.inputs == (tuple(TEXTS),)
    assert f"{name}: columns that are not used: 'label'" in notes
    assert rows.targets.tolist() == [0, 0, 0]  # the shape of train's, until the teacher has judged them


def test_each_line_of_a_text_file_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "more.txt"
    path.write_bytes('one, two\r\n\tthree \u2028 lines\n\n"open\n'.encode())
    rows, notes = read(path)
    assert rows.inputs == (("one, two", "\tthree \u2028 lines", '"open'),)
    assert notes == ["more.txt: each line is read as a text", "unlabelled: 1 empty texts left out"]


def test_an_empty_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("\n \n")
    assert refusal(tmp_path / "more.txt").startswith("more.txt must have at least one row, and is empty")


def test_pairs_have_both_their_columns(tmp_path: Path) -> None:
    splits = {**SPLITS, "train": rows_of(["a", "b"], ["x", "y"]), "test": rows_of(["a"], ["z"])}
    splits["validation"] = rows_of(["c"], ["z"])
    path = write(tmp_path / "more.jsonl", ["a", "a", "a"], other=["y", "z", "x"])
    rows, notes = read(path, text_column="text,other", splits=splits)
    assert rows.inputs == (("a",), ("y",))  # a pair is known where both of its texts are
    assert notes == [
        "unlabelled: 1 of 3 rows left out whose text also stands in train",
        "unlabelled: 1 of 3 rows left out whose text also stands in test",
    ]
    (tmp_path / "more.txt").write_text("a\nb\n")
    assert "must have the column 'text'" in refusal(tmp_path / "more.txt", text_column="text,other", splits=splits)


def test_several_sources_are_read_one_after_the_other_and_what_is_known_is_counted(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", ["new", "in test ", "in validation", ""])
    second = write(tmp_path / "b.jsonl", ["in train", "new", "newer", "in test"])
    rows, notes = read(first, second)
    assert rows.inputs == (("new", "newer"),)
    assert notes == [
        "unlabelled: 1 empty texts left out",
        "unlabelled: 2 of 7 rows left out that repeat the text of a row before",
        "unlabelled: 1 of 7 rows left out whose text also stands in train",
        "unlabelled: 1 of 7 rows left out whose text also stands in validation",
        "unlabelled: 1 of 7 rows left out whose text also stands in test",
    ]


def test_texts_that_are_all_known_are_refused_with_the_remedy(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "a.csv", ["in test", "in train"])) == (
        "--unlabelled must have a text that stands in none of train, validation and test, and all its 2 texts stand "
        "there: pass other texts, or leave it out"
    )


def test_all_files_of_a_folder_are_read_but_those_to_measure_on(tmp_path: Path) -> None:
    write(tmp_path / "monday.csv", ["a"])
    write(tmp_path / "train.csv", ["b"])
    write(tmp_path / "data" / "part.jsonl", ["c"])
    write(tmp_path / "dev.csv", ["d"])
    write(tmp_path / "test-00000-of-00001.parquet", ["e"])
    (tmp_path / "README.txt").write_text("What these files are.")
    (tmp_path / "sheet.xlsx").write_text("")
    rows, notes = read(tmp_path)
    assert rows.inputs == (("a", "b", "c"),)
    assert notes == [
        "'dev.csv', 'test-00000-of-00001.parquet' not read as unlabelled texts, because models are measured on such",
        "'README.txt', 'sheet.xlsx' not read as unlabelled texts: to use a file, name it, as --unlabelled "
        f"{tmp_path},{tmp_path}/README.txt",
    ]


def test_a_folder_of_text_files_alone_is_read_line_by_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name} 1\n{name} 2\n")
    assert read(tmp_path)[0].inputs == (("a 1", "a 2", "b 1", "b 2"),)


def test_what_is_missing_is_refused(tmp_path: Path) -> None:
    assert "must be a file or folder that exists, and is missing" in refusal(tmp_path / "no.csv")
    (tmp_path / "empty").mkdir()
    assert "must have a file of texts without labels" in refusal(tmp_path / "empty")


def test_a_column_with_another_name_than_in_the_labelled_rows_is_refused(tmp_path: Path) -> None:
    rule = "must have the column 'body', in which the labelled rows have their texts, and has"
    path = write(tmp_path / "a.csv", label=["x"] * 3)
    assert refusal(path, text_column="body") == (
        f"--unlabelled a.csv {rule} 'text', 'label': let its columns have the names of the labelled ones"
    )
    (tmp_path / "b.csv").write_text("one text\nanother\n")
    assert refusal(tmp_path / "b.csv", text_column="body") == (
        f"--unlabelled b.csv {rule} 'one text': let its columns have the names of the labelled ones, or its name end "
        "in .txt if each of its lines is a text"
    )


def test_a_bad_row_is_refused_or_left_out_and_counted_as_in_the_labelled_rows(tmp_path: Path) -> None:
    texts: list[Any] = ["a", 3, "c", ["d"], "", "e"]
    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    told = "row 1 of more.jsonl must have a string in column 'text', and has the int 3: write it in quotes, or remove "
    assert refusal(tmp_path / "more.jsonl") == (f"{told}the row; or pass --skip-bad-rows, which leaves such rows out")
    rows, notes = read(tmp_path / "more.jsonl", skip_bad=True)
    assert rows.inputs == (("a", "c", "e"),)
    assert notes == [
        "unlabelled: 1 empty texts left out",
        f"unlabelled: 2 bad rows left out (--skip-bad-rows); the first one: {told}the row",
    ]


def test_a_message_on_a_row_of_several_files_says_that_they_are_counted_as_one(tmp_path: Path) -> None:
    for name in ("monday", "tuesday"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "of {name}"}}\n{{"text": 3}}')
    assert refusal(tmp_path).startswith("row 1 of monday.jsonl and 1 more file (read as one) must have a string")


def test_all_sources_share_the_memory_that_texts_without_labels_may_take(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.csv", [name * 100_000]) for name in "abc"]
    assert len(read(*paths, format=Format(max_bytes=400_000))[0]) == 3
    assert "must take at most 250 KB in memory, and c.csv brings them to" in (
        refusal(*paths, format=Format(max_bytes=250_000))
    )


def test_a_text_file_that_names_its_column_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "more.txt", ["x" * 100_000])
    assert len(read(path, format=Format(max_bytes=150_000))[0]) == 1


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (("train", "test", "unsupervised"), "unsupervised"),
        (("train", "test"), "train"),
        (("Train", "Unlabelled"), "Unlabelled"),
    ],
)
def test_a_data_set_gives_the_split_that_has_no_labels_or_else_train(
    there: Sequence[str], taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": [f"of {name}"], "label": [-1]}) for name in there}
    )
    found.save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: found)
    for source in (tmp_path / "saved", "someone/set"):
        assert read(source)[0].inputs == ((f"of {taken}",),)


def test_a_data_set_with_neither_such_a_split_nor_train_is_refused(tmp_path: Path) -> None:
    found = datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["a"]})})
    found.save_to_disk(tmp_path / "saved")
    assert refusal(tmp_path / "saved") == (
        "--unlabelled 'saved' must have a split unsupervised, unlabelled or train, and has "
        "'test': pass another data set, or files of texts"
    )


def test_a_name_that_the_hub_does_not_know_is_refused_with_what_can_be_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    assert refusal("someone/set") == (
        "--unlabelled 'someone/set' is no file or folder here, and the hub is not reachable (ConnectionError: no "
        "network): pass files or folders of texts"
    )


def splits_of(
    tmp_path: Path, task: str, records: list[dict[str, Any]], more: list[dict[str, Any]], *, skip: bool = False
) -> Splits:
    for name, own in (("rows", records), ("more", more)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    more_rows = [str(tmp_path / "more.jsonl")]
    return load_splits(str(tmp_path / "rows.jsonl"), task=TASKS[task], unlabelled=more_rows, skip_bad_rows=skip)


def test_rows_that_a_sample_leaves_out_are_used_only_where_their_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [f"text {row}" for row in range(100)], label=[0, 1] * 50)
    assert load_splits(str(path), train_rows=10).unlabelled is None
    found = load_splits(str(path), train_rows=10, unlabelled=[str(path)])
    assert found.unlabelled is not None
    assert (len(found.train), len(found.validation), len(found.test), len(found.unlabelled)) == (10, 20, 10, 60)
    every = {text for rows in found.rows.values() for text in rows.inputs[0]}
    assert len(every) == 100


def test_other_labels_are_numbered_as_the_heads_outputs_are(tmp_path: Path) -> None:
    own = [{"text": f"text {row}", "label": "ab"[row % 2]} for row in range(40)]
    found = splits_of(tmp_path, "classification", own, [{"text": "new"}]).renumbered(np.array([1, 0]), ("b", "a"))
    assert found.unlabelled is not None
    assert len(found.unlabelled) == 1


def test_words_without_tags_are_read(tmp_path: Path) -> None:
    own = [{"tokens": [f"w{row}", "x"], "tags": ["A", "B"]} for row in range(40)]
    found = splits_of(tmp_path, "tagging", own, [{"tokens": ["a", "b", "c"]}, {"tokens": []}, {"tokens": ["d"]}])
    assert found.unlabelled is not None
    assert found.unlabelled.inputs == ((["a", "b", "c"], ["d"]),)
    assert "unlabelled: 1 empty texts left out" in found.notes


def test_questions_with_options_and_without_an_answer_are_read(tmp_path: Path) -> None:
    own = [{"article": f"t{row}", "question": "q", "options": ["a", "b", "c"], "answer": "C"} for row in range(40)]
    more = [{"article": "new", "question": "q", "options": ["a", "b"]}]
    found = splits_of(tmp_path, "multiple_choice", own, more)
    assert found.unlabelled is not None
    assert found.unlabelled.inputs == (("new",), ("q",), (["a", "b"],))
    assert found.unlabelled.targets.tolist() == [0]  # option C of train's first row is none of its options


def test_questions_on_contexts_are_read(tmp_path: Path) -> None:
    own = [{"question": f"q{row}", "context": "red car", "answers": ["red"]} for row in range(40)]
    found = splits_of(tmp_path, "question_answering", own, [{"question": "new", "context": "a car"}, own[0]])
    assert found.unlabelled is not None
    assert found.unlabelled.inputs == (("new",), ("a car",))


WORDS = [{"tokens": [f"w{row}", "x"], "tags": ["A", "B"]} for row in range(40)]
CHOICES = [{"article": f"t{row}", "question": "q", "options": ["a", "b"], "answer": "A"} for row in range(40)]
QUESTIONS = [{"question": f"q{row}", "context": "red car", "answers": ["red"]} for row in range(40)]


@pytest.mark.parametrize(
    ("task", "own", "good", "bad"),
    [
        ("tagging", WORDS, {"tokens": ["a"]}, {"tokens": "a b"}),
        ("tagging", WORDS, {"tokens": ["a"]}, {"tokens": ["a", " "]}),
        ("multiple_choice", CHOICES, {"article": "new", "question": "q", "options": ["a", "b"]}, {"options": ["a"]}),
        (
            "multiple_choice",
            CHOICES,
            {"article": "new", "question": "q", "options": ["a", "b"]},
            {"options": ["", "a"]},
        ),
        ("multiple_choice", CHOICES, {"article": "new", "question": "q", "options": ["a", "b"]}, {"article": 3}),
        ("question_answering", QUESTIONS, {"question": "new", "context": "a car"}, {"context": ["a"]}),
    ],
)
def test_every_kind_of_bad_row_is_left_out_and_counted(
    task: str, own: list[dict[str, Any]], good: dict[str, Any], bad: dict[str, Any], tmp_path: Path
) -> None:
    more = [good, {**good, **bad}]
    found = splits_of(tmp_path, task, own, more, skip=True)
    assert found.unlabelled is not None
    assert found.unlabelled.inputs == tuple((value,) for value in good.values())
    (note,) = [note for note in found.notes if note.startswith("unlabelled")]
    assert note.startswith("unlabelled: 1 bad rows left out (--skip-bad-rows); the first one: ")
    assert "row 1 of more.jsonl" in note
    with pytest.raises(InputError, match=r"row 1 of more\.jsonl must .*; or pass --skip-bad-rows, which leaves such"):
        splits_of(tmp_path, task, own, more)


def test_a_row_that_may_be_refused_later_knows_where_it_stands(tmp_path: Path) -> None:
    more = [{"question": "", "context": "a"}, QUESTIONS[0], {"question": "new", "context": "a car"}]
    found = splits_of(tmp_path, "question_answering", QUESTIONS, more)
    assert found.unlabelled is not None
    assert found.unlabelled.places == ("row 2 of more.jsonl",)
    assert not found.unlabelled.skip_bad


def test_a_task_that_cannot_learn_from_them_refuses_them_before_they_are_read(tmp_path: Path) -> None:
    own = [{"query": f"q{row}", "document": f"d{rank}", "label": rank} for row in range(40) for rank in (0, 1)]
    with pytest.raises(InputError, match="--unlabelled must be left out for task reranking, which cannot learn from"):
        splits_of(tmp_path, "reranking", own, [{"text": "no pair"}])
