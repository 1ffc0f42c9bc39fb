"""SQuAD's own JSON, v1.1 and v2.0, as a table."""

import json
from pathlib import Path
from typing import Any

import pytest

from trbert.data.json_rows import read_json
from trbert.data.readers import Contents, Format
from trbert.data.splits import load_splits
from trbert.errors import InputError
from trbert.limits import MAX_BYTES, Room
from trbert.tasks import TASKS

TASK = TASKS["question_answering"]
ROME = {
    "context": "It rained in Rome.",
    "qas": [
        {"id": "1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 13}], "is_impossible": False},
        {
            "id": "2",
            "question": "When?",
            "answers": [],
            "plausible_answers": [{"text": "Rome", "answer_start": 13}],
            "is_impossible": True,
        },
    ],
}
OSLO = {"context": "It snowed in Oslo.", "qas": [{"id": "3", "question": "Where?", "answers": []}]}
SQUAD = {"version": "v2.0", "data": [{"title": "Rain", "paragraphs": [ROME]}, {"title": "Snow", "paragraphs": [OSLO]}]}


def read(folder: Path, value: Any) -> Contents:
    (folder / "dev.json").write_text(json.dumps(value))
    return read_json(folder / "dev.json", TASK.columns(), Format(), Room(MAX_BYTES))


def test_each_question_is_a_row_with_its_context_and_answers(tmp_path: Path) -> None:
    found = read(tmp_path, SQUAD)
    assert found.values == {
        "question": ["Where?", "When?", "Where?"],
        "context": ["It rained in Rome."] * 2 + ["It snowed in Oslo."],
        "answers": [[{"text": "Rome", "answer_start": 13}], [], []],
    }
    assert found.others == ("id", "title")
    assert found.notes == ("the rows are the questions of a file of SQuAD's form",)


def test_what_is_marked_as_impossible_has_no_answer_even_where_one_is_given(tmp_path: Path) -> None:
    asked = {"question": "When?", "is_impossible": True, "answers": [{"text": "Rome", "answer_start": 13}]}
    found = read(tmp_path, {"data": [{"paragraphs": [{"context": "It rained in Rome.", "qas": [asked]}]}]})
    assert found.values["answers"] == [[]]


def test_a_question_that_says_nothing_of_answers_has_none_to_compare_with(tmp_path: Path) -> None:
    found = read(tmp_path, {"data": [{"paragraphs": [{"context": "Rome.", "qas": [{"question": "When?"}]}]}]})
    assert found.values["answers"] == [None]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            {"data": [{"paragraphs": [ROME]}, {"title": "Snow"}]},
            "article 1 of dev.json must have a list of every paragraph, as SQuAD's files have, and has the NoneType "
            "None: correct the file",
        ),
        (
            {"data": [{"paragraphs": [{**ROME, "qas": ["Where?"]}]}]},
            "question 0 of paragraph 0 of article 0 of dev.json must be an object, as in SQuAD's files, and is the str "
            "'Where?': correct the file",
        ),
    ],
)
def test_parts_of_another_form_are_refused_with_their_place(value: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, value)
    assert str(caught.value) == told


def test_a_file_in_which_an_answer_is_not_in_its_context_is_refused_with_its_row(tmp_path: Path) -> None:
    wrong = {"question": "Where?", "answers": [{"text": "Oslo", "answer_start": 13}]}
    value = {"data": [{"paragraphs": [ROME, {"context": "It rained in Rome.", "qas": [wrong]}]}]}
    (tmp_path / "dev.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"^row 2 of dev.json must have its answers in its context, .* 'Oslo' is not"):
        load_splits(str(tmp_path / "dev.json"), task=TASK)
