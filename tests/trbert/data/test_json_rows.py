"""JSON files: the forms in which people and pandas write rows."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest

from trbert.data.json_rows import read_json
from trbert.data.readers import Contents, Format
from trbert.errors import InputError
from trbert.limits import MAX_BYTES, Room
from trbert.tasks.rows import Columns

COLUMNS = Columns(("text",), "label")
RECORDS = [{"text": f"text {row}", "label": row % 2} for row in range(12)]
VALUES = {"text": [record["text"] for record in RECORDS], "label": [record["label"] for record in RECORDS]}


def read(folder: Path, content: str, **format: Any) -> Contents:
    (folder / "a.json").write_text(content, encoding="utf-8")
    return read_json(folder / "a.json", COLUMNS, Format(**format), Room(MAX_BYTES))


def refusal(folder: Path, content: str) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, content)
    return str(caught.value)


@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table"])
@pytest.mark.parametrize("indent", [0, 2])
def test_what_pandas_writes_is_read(tmp_path: Path, orient: Any, indent: int) -> None:
    content = pandas.DataFrame(RECORDS).to_json(orient=orient, indent=indent, index=True if orient == "split" else None)
    found = read(tmp_path, content)
    assert found.values == VALUES
    assert found.notes == (("the rows are those of the list 'data'",) if orient == "table" else ())


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("between", ["\n", "\n\n", "\r\n"])
def test_objects_one_after_the_other_are_rows(tmp_path: Path, indent: int | None, between: str) -> None:
    assert read(tmp_path, between.join(json.dumps(record, indent=indent) for record in RECORDS)).values == VALUES


def test_one_object_with_the_words_of_a_row_is_one_row_and_with_lists_of_words_it_is_a_table(tmp_path: Path) -> None:
    columns = Columns(("tokens",), "tags", words=True)
    for row in (
        {"tokens": ["a", "b"], "tags": ["O", "O"]},
        {"tokens": [["a"], ["b"]], "tags": [["O"], ["O"]], "n": [1, 2]},
    ):
        (tmp_path / "a.jsonl").write_text(json.dumps(row))
        found = read_json(tmp_path / "a.jsonl", columns, Format(), Room(MAX_BYTES))
        whole = row["tokens"] if "n" in row else [row["tokens"]]
        assert found.values["tokens"] == whole


def test_one_object_is_one_row(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(RECORDS[0], indent=1)).values == {"text": ["text 0"], "label": [0]}


def test_an_object_of_lists_is_columns(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(VALUES)).values == VALUES
    assert refusal(tmp_path, '{"text": ["a", "b"], "label": [1]}') == (
        "a.json must have columns of one length, and has these numbers of values: 'text' 2, 'label' 1: "
        "write one object for each row"
    )


def test_the_only_list_of_objects_holds_the_rows(tmp_path: Path) -> None:
    found = read(tmp_path, json.dumps({"version": "1", "tags": ["x"], "examples": RECORDS}))
    assert found.values == VALUES
    assert found.notes == ("the rows are those of the list 'examples'",)


def test_an_object_of_splits_is_refused_with_the_way_out(tmp_path: Path) -> None:
    assert refusal(tmp_path, json.dumps({"train": RECORDS, "test": RECORDS})) == (
        "a.json must hold one list of rows, and holds 'train', 'test': save each in a file of its own, such as "
        "train.jsonl, and name the files, train=a.jsonl,test=b.jsonl"
    )
    assert refusal(tmp_path, json.dumps({"x": RECORDS, "y": RECORDS})) == (
        "a.json must hold one list of rows, and holds 'x', 'y': save the one to be used in a file of its own"
    )


def test_a_column_that_a_row_lacks_is_none_there(tmp_path: Path) -> None:
    assert read(tmp_path, '{"text": "a"}\n{"label": 1, "id": 2}').values == {"text": ["a", None], "label": [None, 1]}
    assert read(tmp_path, '{"text": "a"}\n{"label": 1, "id": 2}').others == ("id",)


@pytest.mark.parametrize("orient", ["columns", "records"])
def test_columns_of_other_names_are_told(tmp_path: Path, orient: Any) -> None:
    content = pandas.DataFrame(RECORDS).rename(columns={"label": "topic"}).to_json(orient=orient)
    assert refusal(tmp_path, content) == (
        "a.json must have the column 'label', and has 'text', 'topic': set --label-column to one of them"
    )


def test_a_column_within_another_value_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path, '{"data": {"text": "a"}, "label": 1}\n{"data": {"text": "b"}, "label": 0}') == (
        "a.json must have the column 'text', and has 'data', 'label': set --text-column to one of them ('text' stands "
        "within 'data': write it one level up, since nested values are not read)"
    )


@pytest.mark.parametrize("content", ["[]", "{}", "\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    assert (
        refusal(tmp_path, content) == "a.json must have at least one row, and is empty: check that it was written whole"
    )


@pytest.mark.parametrize("content", ['[["a", 1]]', '["a", 1]\n["b", 2]'])
def test_a_row_that_is_no_object_is_told(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content).startswith(
        "row 0 of a.json must be an object with 'text', 'label', and is the list"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{'text': 1}", "Expecting property name enclosed in double quotes, before \"'text': 1}\""),
        ('{"text": "a", ', "Expecting property name enclosed in double quotes, at the end of the line or file"),
        ('{"text": "a', "Unterminated string starting at, before '\"a'"),
    ],
)
def test_a_line_that_is_not_json_is_told(tmp_path: Path, line: str, reason: str) -> None:
    assert refusal(tmp_path, "\n".join([json.dumps(RECORDS[0]), json.dumps(RECORDS[1]), line])) == (
        f"line 3 of a.json must be JSON, and is not ({reason}): correct the line, or write one object a line"
    )


@pytest.mark.parametrize("content", ["[" * 100_000, '{"text": ' + "1" * 5000 + "}"])
def test_json_that_python_cannot_hold_is_refused(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content).startswith("a.json must be JSON that can be read, and is not (")


@pytest.mark.parametrize("columns", [[["text", ""], ["label", ""]], [None, "label"], [0, 1], 5, None, []])
def test_columns_beside_data_that_are_no_list_of_strings_are_refused(tmp_path: Path, columns: Any) -> None:
    told = refusal(tmp_path, json.dumps({"columns": columns, "data": [["a", "x"]]}))
    assert told == (
        'a.json must have a list of strings as "columns" beside its "data", and has '
        f"the {type(columns).__name__} {columns}: write one name for each column"
    )


def test_half_a_character_is_replaced_in_lists_and_objects_too(tmp_path: Path) -> None:
    lines = ['{"text": ["a\\ud83d", "b"], "label": {"text": ["c\\ud83d"], "at": 1}}', '{"text": ["d"], "label": 0}']
    found = read(tmp_path, "\n".join(lines))
    assert found.values["text"] == [["a\ufffd", "b"], ["d"]]
    assert found.values["label"] == [{"text": ["c\ufffd"], "at": 1}, 0]
    assert [note[:24] for note in found.notes] == ["1 values in column 'text", "1 values in column 'labe"]


def test_half_a_character_is_replaced_and_noted(tmp_path: Path) -> None:
    found = read(tmp_path, '{"text": "whole \\ud83d\\ude42", "label": 0}\n{"text": "half \\ud83d", "label": 1}')
    assert found.values["text"] == ["whole 🙂", "half \ufffd"]
    assert found.notes == (
        "1 values in column 'text', the first in row 1, hold half a character (a \\ud… that stands alone), which is "
        "read as \ufffd",
    )


def test_the_encoding_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "schön", "label": 1}'.encode("cp1252"))
    assert read_json(tmp_path / "a.jsonl", COLUMNS, Format(encoding="cp1252"), Room(MAX_BYTES)).values["text"] == [
        "schön"
    ]
    with pytest.raises(InputError, match="--encoding cp1252"):
        read_json(tmp_path / "a.jsonl", COLUMNS, Format(), Room(MAX_BYTES))


def test_lists_of_pairs_by_split_are_refused_with_the_way_out(tmp_path: Path) -> None:
    assert refusal(tmp_path, json.dumps({"val": [["a", "x"]], "train": [["b", "y"]]})) == (
        "a.json must hold one list of rows, and holds 'val', 'train': save each in a file of its own, such as "
        "val.jsonl (an object with 'text', 'label' for each row), and name the files, train=a.jsonl,test=b.jsonl"
    )


def test_python_in_place_of_json_is_told_with_a_command_that_converts_it(tmp_path: Path) -> None:
    content = "".join(f"{record!r}\n" for record in RECORDS)
    told = refusal(tmp_path, content)
    assert told.startswith("line 1 of a.json must be JSON, and is Python with single quotation marks: convert the file")
    command = told.split("convert the file, ")[1].replace("python", sys.executable, 1)
    command = command.replace("OLD", "a.json").replace("NEW.jsonl", "b.json")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert read(tmp_path, (tmp_path / "b.json").read_text()).values == VALUES
