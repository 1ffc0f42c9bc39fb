"""Sources: what `--data` may name, and the tables and notes that come of it."""

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trbert.data import sources
from trbert.data.hub import REMEDY
from trbert.data.pages import Page
from trbert.data.readers import Format
from trbert.data.sources import Source, read_source
from trbert.errors import InputError
from trbert.tasks.rows import Columns
from trbert.wording import cut


def read(source: object, text_column: str = "text", label_column: str = "label") -> Source:
    return read_source(str(source), Columns.named(text_column, label_column), Format())


def refusal(source: object, **columns: str) -> str:
    with pytest.raises(InputError) as caught:
        read(source, **columns)
    return str(caught.value)


def write_rows(path: Path, labels: Sequence[Any], **columns: Sequence[Any]) -> Path:
    """Writes one row a label to a .jsonl, .csv or .parquet file. The texts are the name of the file and the row."""
    table = {"text": [f"{path.stem} {row}" for row in range(len(labels))], "label": labels, **columns}
    records = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    elif path.suffix == ".csv":
        lines = [table.keys(), *(record.values() for record in records)]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of two libraries in each split, instead of those of the installed libraries."""
    pages = [Page(f"{split} {name}", name, split) for split in ("train", "validation", "test") for name in ("t", "n")]
    monkeypatch.setattr(sources, "documentation_pages", lambda: pages)


@pytest.mark.usefixtures("few_pages")
def test_pages_are_the_embedded_default() -> None:
    table = read("pages").tables["test"]
    assert table.values == {"text": ["test t", "test n"], "label": ["t", "n"]}


@pytest.mark.usefixtures("few_pages")
def test_pages_refuse_columns_that_they_lack() -> None:
    assert refusal("pages", text_column="text,sentence") == (
        "the packaged pages (train) must have the column 'sentence', and has 'text', 'label': "
        "set --text-column to one of them, or pass --data with rows of yours"
    )
    assert refusal("pages", text_column="texts") == (
        "the packaged pages (train) must have the column 'texts', and has 'text', 'label' (did you mean 'text'?): "
        "set --text-column to one of them, or pass --data with rows of yours"
    )
    assert refusal("pages", label_column="library") == (
        "the packaged pages (train) must have the column 'library', and has 'text', 'label': "
        "set --label-column to one of them, or pass --data with rows of yours"
    )


def test_a_source_that_is_missing_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none.csv"
    assert refusal(missing) == f"data '{missing}' must be a file or folder that exists, and is missing: {REMEDY}"
    assert refusal(f"train={missing}") == f"data file '{missing}' must exist, and is missing: check the path"
    (tmp_path / "a.docx").touch()
    assert refusal(tmp_path / "a.docx") == (
        f"data file '{tmp_path / 'a.docx'}' must end in .parquet, .csv, .tsv, .txt, .jsonl, .ndjson, .json, and ends "
        "in '.docx': convert it"
    )
    assert refusal(f"train={tmp_path}") == (
        f"data file '{tmp_path}' must be a file, and is a folder: name a file in it"
    )


def test_a_list_of_files_must_name_splits(tmp_path: Path) -> None:
    assert refusal("trian=a.csv") == (
        "data 'trian=a.csv' must name each of train, validation and test at most once, and has 'trian=a.csv' "
        "(did you mean 'train'?): write train=a.csv,validation=b.csv,test=c.csv"
    )
    assert refusal("test=a.csv") == "data 'test=a.csv' must name a train file, and names 'test': add train=a.csv"


def test_a_missing_column_is_answered_with_those_there_are(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", ["a", "b"])
    assert refusal(source, text_column="texts") == (
        "a.jsonl must have the column 'texts', and has 'text', 'label' (did you mean 'text'?): "
        "set --text-column to one of them"
    )
    assert refusal(source, label_column="class") == (
        "a.jsonl must have the column 'class', and has 'text', 'label': set --label-column to one of them"
    )


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", ""), ("a.csv", "text,label\n"), ("a.jsonl", "\n"), ("a.json", "[]")]
)
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert (
        refusal(tmp_path / name) == f"{name} must have at least one row, and is empty: check that it was written whole"
    )


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("PAR1?")
    message = refusal(tmp_path / "a.parquet")
    assert message.startswith(f"data file '{tmp_path / 'a.parquet'}' must be parquet, and cannot be read as that (")
    assert message.endswith("): correct it")
    assert "\n" not in message
    (tmp_path / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    assert refusal(tmp_path / "a.parquet").endswith("not the file itself: fetch the file with git lfs pull")


# Files that are named.


@pytest.mark.parametrize("name", ["a,b.jsonl", "a, b.jsonl", "a=b,c.jsonl"])
def test_a_comma_may_be_part_of_a_path(tmp_path: Path, name: str) -> None:
    train, test = write_rows(tmp_path / "d,e" / name, ["A"]), write_rows(tmp_path / "c.csv", ["B"])
    found = read(f"train={train}, test={test}")
    assert list(found.tables["train"].values["label"]) == ["A"]
    assert list(found.tables["test"].values["label"]) == ["B"]


def test_other_names_of_splits_can_be_written(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.csv", ["A"])
    assert list(read(f"training={file},dev={file},eval={file}").tables) == ["train", "validation", "test"]
    assert "must name each of train, validation and test at most once, and has 'valid=" in refusal(
        f"train={file},dev={file},valid={file}"
    )


# Folders.


def test_parts_of_a_split_are_one_table(tmp_path: Path) -> None:
    for part in range(3):
        mark = {} if part == 2 else {"in_train": [False]}
        write_rows(tmp_path / f"data/train-{part:05}-of-00003.parquet", ["AB"[part % 2]], **mark, **{f"x{part}": [1]})
    table = read(tmp_path).tables["train"]
    assert table.values == {"text": [f"train-{part:05}-of-00003 0" for part in range(3)], "label": ["A", "B", "A"]}
    assert table.origin == "train-*-of-00003.parquet"
    assert table.others == ("x0", "x1", "x2")


def test_labels_json_beside_the_files_names_the_classes(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", [0])
    (tmp_path / "labels.json").write_text('\ufeff["neg", "pos"]', encoding="utf-8")
    table = read(tmp_path).tables["train"]
    assert (table.target_names, table.names_origin) == (("neg", "pos"), "labels.json")


def test_what_was_done_to_several_files_is_said_once(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("text;label;id\nx;A;1\n")
    (tmp_path / "test.csv.gz").write_bytes(gzip.compress(b"text|label\nx|A\n"))
    assert read(tmp_path).notes == (
        "train.csv, validation.csv: the columns are separated by ';'",
        "test.csv.gz: the columns are separated by '|'",
        "train.csv: columns that are not used: 'id'",
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_that_are_not_used_are_named_once(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.{suffix}", ["A"], in_train=[False], title=["t"], id=[1])
    found = read(tmp_path)
    assert [table.others for table in found.tables.values()] == [("title", "id")] * 2
    assert found.notes == (f"train.{suffix}: columns that are not used: 'title', 'id'",)


def test_ten_of_many_columns_are_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", ["A"], **{f"c{place}": [1] for place in range(12)})
    names = ", ".join(f"'c{place}'" for place in range(10))
    assert read(tmp_path / "a.jsonl").notes == (f"a.jsonl: columns that are not used: {names} and 2 more",)


def test_the_index_that_pandas_saves_is_no_unused_column(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", ["A"], __index_level_0__=[7])
    assert read(tmp_path / "a.parquet").notes == ()


def test_a_parquet_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["text", "text", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").startswith("a.parquet must have one column 'text', and has 2 of that name")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_test_file_without_labels_is_not_used(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path / f"train.{suffix}", ["A", "B"])
    write_rows(tmp_path / f"dev.{suffix}", ["A", "B"])
    write_rows(tmp_path / f"test.{suffix}", ["A", "B"], id=[1, 2])
    whole = read(tmp_path)
    assert set(whole.tables) == {"train", "validation", "test"}
    (tmp_path / f"test.{suffix}").unlink()
    unlabelled = write_rows(tmp_path / f"other.{suffix}", ["A", "B"], label=["x", "y"])
    rename_label(unlabelled, tmp_path / f"test.{suffix}")
    found = read(tmp_path)
    assert set(found.tables) == {"train", "validation"}
    assert f"test is not used: test.{suffix} has no column 'label'" in found.notes
    assert read(tmp_path, label_column="").tables["test"].values["text"]


def rename_label(old: Path, new: Path) -> None:
    """Moves a file, and gives the column of its labels another name."""
    if old.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(old).rename_columns(["text", "id"]), new)
    else:
        new.write_text(old.read_text().replace("label", "id"))
    old.unlink()


def test_a_train_file_without_labels_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "test.csv", ["A"])
    (tmp_path / "train.csv").write_text("text,id\nx,1\n")
    assert refusal(tmp_path).startswith("train.csv must have the column 'label', and has 'text', 'id'")


def test_bytes_and_whole_decimals_of_parquet_are_strings_and_integers(tmp_path: Path) -> None:
    labels = pyarrow.array([0, 1]).cast(pyarrow.decimal128(20, 0))
    table = pyarrow.table({"text": pyarrow.array(["é".encode(), b"y"]), "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").tables["train"].values == {"text": ["é", "y"], "label": [0, 1]}


def test_a_file_without_a_suffix_is_a_table_of_text(tmp_path: Path) -> None:
    (tmp_path / "Collection").write_text("label\ttext\nham\tx\nspam\ty\n")
    assert read(tmp_path / "Collection").tables["train"].values == {"text": ["x", "y"], "label": ["ham", "spam"]}


def test_a_file_of_another_suffix_is_refused_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK\3\4 [Content_Types].xml xl/workbook.xml")
    assert refusal(tmp_path / "a.xlsx").endswith("is an Excel workbook: save the sheet as csv (UTF-8)")
    (tmp_path / "a.dat").write_text("text\tlabel\n")
    assert refusal(tmp_path / "a.dat").endswith(
        "and ends in '.dat': rename it to end in .txt if it is a table, or else convert it"
    )


def test_a_test_file_of_other_columns_may_be_left_out(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_rows(tmp_path / f"{split}.csv", ["A", "B"])
    (tmp_path / "test.csv").write_text("id,sentence,label\n1,x,A\n")
    others = f"train={tmp_path}/train.csv,validation={tmp_path}/dev.csv"
    assert refusal(tmp_path).endswith(f"; or leave this file out, --data {others}")
    assert set(read(others).tables) == {"train", "validation"}


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.csv")
    told = "must be a file on a disk, and is a pipe or a device: write its contents to a file"
    assert refusal(tmp_path / "train.csv") == f"data file '{tmp_path / 'train.csv'}' {told}"
    assert refusal(f"train={tmp_path / 'train.csv'}") == f"data file '{tmp_path / 'train.csv'}' {told}"
    assert refusal("/dev/zero") == f"data file '/dev/zero' {told}"
    assert "must have a train file" in refusal(tmp_path)


def test_a_pipe_or_deep_brackets_as_names_of_the_classes_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", ["a", "b"])
    told = "must be a JSON list of different strings, one for each class: correct it or remove it"
    os.mkfifo(tmp_path / "labels.json")
    assert refusal(tmp_path) == f"'{tmp_path / 'labels.json'}' {told}"
    (tmp_path / "labels.json").unlink()
    (tmp_path / "labels.json").write_text("[" * 100_000)
    assert refusal(tmp_path) == f"'{tmp_path / 'labels.json'}' {told}"


def test_a_folder_may_hold_links(tmp_path: Path) -> None:
    there = write_rows(tmp_path / "elsewhere/rows.csv", ["a", "b"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.csv").symlink_to(there)
    assert len(read(tmp_path / "data").tables["train"]) == 2
    (tmp_path / "data/train.csv").unlink()
    (tmp_path / "data/train.csv").symlink_to("train.csv")  # a link to itself
    assert "must have a train file" in refusal(tmp_path / "data")


def test_a_path_that_the_system_refuses_is_told(tmp_path: Path) -> None:
    assert refusal("a" * 5000) == (
        f"data {cut('a' * 5000)} must be files that you may read, and cannot be read (File name too long): check the "
        "path and its permissions"
    )


@pytest.mark.parametrize("text", ["[" * 100_000, '{"text":' * 100_000, "1" * 5000])
def test_json_that_cannot_be_parsed_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert "a.json must be JSON that can be read, and is not (" in refusal(tmp_path / "a.json")


def test_no_column_is_likened_to_names_of_absurd_length(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"b" * 10**6: 1, **{f"c{place}": 1 for place in range(10**4)}}))
    assert "a.json must have the column 'text', and has 'bbb" in (told := refusal(tmp_path / "a.json"))
    assert len(told) < 1000
