"""Reads the questions of tables with their contexts and answers, and finds each answer in its context."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from trbert.errors import InputError
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.over_texts import usable_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.texts import is_blank, is_missing
from trbert.wording import cut, shown

NO_PLACE = -1
"""The place of an answer that is not there: a question has fewer answers than another one, or none."""
NO_ANSWER = "no answer"
"""The name of what is said of a question without an answer."""

_SENTENCE = re.compile(r"[^.!?]*[.!?]*\s*")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Found:
    """The answers of a row, as they were found in its context.

    Attributes:
        places: the first character of each answer, and the one after its last.
        moved: whether an answer does not stand where the row says, and stands elsewhere.
        searched: whether the row does not say where an answer stands.
    """

    places: tuple[tuple[int, int], ...]
    moved: bool
    searched: bool


def read_questions(tables: Mapping[str, Table], columns: Columns) -> Reading:
    """Returns the questions of every split with their contexts, and the places of their answers in these.

    The targets are [rows, answers, 2]: the first character of each answer, and the one after its last; `NO_PLACE` fills
    up rows with fewer answers. Rows with a blank question or context are left out. A split other than train in which no
    row says anything of answers is not used.

    Args:
        tables: the table of each split.
        columns: the columns of questions, of contexts and of answers.

    Raises:
        InputError: A row's answers are not of a known form, or one is not in the row's context. Or no question of train
            has an answer.
    """
    notes: list[str] = []
    texts: dict[str, tuple[tuple[str, ...], ...]] = {}
    places: dict[str, tuple[str, ...]] = {}
    answers: dict[str, list[Found]] = {}
    for split, table in tables.items():
        if split != "train" and all(map(is_missing, table.values[columns.target])):
            notes.append(f"{split} is not used: it has no answers")
            continue
        used, left_out = usable_rows(split, table, columns)
        kept, found, bad = read_rows(split, table, columns, used, partial(_row, table, columns))
        texts[split], places[split], answers[split] = table.inputs(columns, kept), table.places(kept), found
        notes += [*left_out, *bad, *_notes(split, found)]
    if not any(found.places for found in answers["train"]):
        train = tables["train"]
        raise InputError(
            f"{train.origin} must have questions with an answer in column {columns.target!r}, and none of its "
            f"{len(answers['train'])} has one: set --label-column to the column of the answers{train.unread}"
        )
    most = max(len(found.places) for each in answers.values() for found in each)
    names = (NO_ANSWER,) if any(not found.places for each in answers.values() for found in each) else ()
    rows = {
        split: replace(
            _rows(texts[split], answers[split], most, names),
            places=own,
            skip_bad=columns.skip_bad,
            together=1,  # the questions about one context
        )
        for split, own in places.items()
    }
    return Reading(rows=rows, labels=(), notes=tuple(notes))


def _row(table: Table, columns: Columns, row: int) -> Found:
    """Returns the answers of a row.

    Raises:
        InputError: They are not of a known form, or one is not in the context.
    """
    question, context = (table.values[name][row] for name in columns.inputs)
    where = f"row {row} of {table.origin}"
    places, moved, searched = [], False, False
    for text, start in _answers(table.values[columns.target][row], where, table, columns):
        if start is None:
            place, searched = _likeliest(context, text, question), True
        else:
            place = (
                start if context[start : start + len(text)] == text and start >= 0 else _nearest(context, text, start)
            )
            moved = moved or place != start
        if place is None:
            raise InputError(
                f"{where} must have its answers in its context, letter for letter, and the answer {cut(text)} is not "
                f"in it: correct the answer or the context, or set --text-column to the columns of the question and of "
                f"the context, in this order{table.unread}"
            )
        places.append((place, place + len(text)))
    return Found(tuple(places), moved, searched)


def has_places(value: Any) -> bool:
    """Returns whether a cell has answers with their places in the context.

    Example:
        >>> has_places({"text": ["Paris"], "answer_start": [17]}), has_places(["Paris"])
        (True, False)
    """
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(part, dict) and {"text", "answer_start"} <= part.keys() for part in parts)


def _answers(value: Any, where: str, table: Table, columns: Columns) -> Iterator[tuple[str, int | None]]:
    """Yields the answers of a cell, each with its first character in the context, or None where the cell says none."""
    form = (
        f"{where} must have its answers in column {columns.target!r} as a text, a list of texts, or texts with "
        f'answer_start, such as {{"text": ["Paris"], "answer_start": [17]}}, and'
    )
    remedy = f"correct the row, or set --label-column to the column of the answers{table.unread}"
    if is_missing(value) and not isinstance(value, str):
        raise InputError(f"{form} has {shown(value)}: write [] for a question without an answer, or {remedy}")
    if isinstance(value, dict) and "text" in value:
        texts, starts = value["text"], value.get("answer_start")
        texts = texts if isinstance(texts, list) else [texts]
        starts = starts if isinstance(starts, list) else [starts] * len(texts)
        if len(starts) != len(texts):
            raise InputError(f"{form} has {len(texts)} texts with {len(starts)} answer_start: {remedy}")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list):
        parts = [each if isinstance(each, dict) else {"text": each} for each in value]
        pairs = [(each.get("text"), each.get("answer_start")) for each in parts]
    else:
        pairs = [(value, None)]
    for text, start in pairs:
        if not isinstance(text, str):
            raise InputError(f"{form} has {shown(value if text is None else text)}: {remedy}")
        start = int(start) if isinstance(start, float) and start.is_integer() else start
        if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
            raise InputError(f"{form} has {shown(start)} as an answer_start, which is no whole number: {remedy}")
        if not is_blank(text):
            yield text, start


def _nearest(context: str, text: str, start: int) -> int | None:
    """Returns where a text stands in its context, nearest to a place; None where it does not."""
    return min(_places(context, text), key=lambda place: abs(place - start), default=None)


def _likeliest(context: str, text: str, question: str) -> int | None:
    """Returns where a text stands in its context: in the sentence with the most words of the question; None if nowhere.

    Example:
        >>> _likeliest("In 1990 it rained. The war began in 1990.", "1990", "When did the war begin?")
        36
    """
    places = _places(context, text)
    if len(places) < 2:
        return places[0] if places else None
    wanted = set(_WORD.findall(question.lower()))
    sentences = [
        (match.end(), len(wanted & set(_WORD.findall(match[0].lower())))) for match in _SENTENCE.finditer(context)
    ]
    ends = [end for end, _ in sentences]
    return max(places, key=lambda place: sentences[bisect_right(ends, place)][1])


def _places(context: str, text: str) -> list[int]:
    """Returns every place at which a text stands in its context."""
    return [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]


def _notes(split: str, found: list[Found]) -> list[str]:
    """Returns notes on the answers whose place was searched for."""
    notes = []
    if searched := sum(each.searched for each in found):
        notes.append(
            f"{split}: {searched:,} rows do not say where an answer stands, so that it is searched for; of several "
            "places, the sentence with most words of the question is taken"
        )
    if moved := sum(each.moved for each in found):
        notes.append(
            f"{split}: {moved:,} rows have an answer_start at which the answer does not stand: the nearest place is "
            "taken at which it does"
        )
    return notes


def _rows(texts: tuple[tuple[str, ...], ...], found: list[Found], most: int, names: tuple[str, ...]) -> Rows:
    """Returns the rows of a split. A sample keeps the share of the questions without an answer."""
    targets = np.full((len(found), most, 2), NO_PLACE, dtype=np.int64)
    for row, each in enumerate(found):
        if each.places:
            targets[row, : len(each.places)] = each.places
    questions, contexts = texts
    once: dict[str, str] = {}  # many questions have one context
    shared = tuple(once.setdefault(context, context) for context in contexts)
    return Rows((questions, shared), targets, (targets[:, 0, 0] != NO_PLACE).astype(np.int64), names)
