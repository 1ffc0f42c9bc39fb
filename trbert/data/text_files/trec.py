"""Reads a folder of TREC files: queries, a collection of documents, relevance judgments, and runs of a first search."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trbert.data.decoding import read_text
from trbert.data.folders import split_of
from trbert.data.readers import Format, check_columns
from trbert.errors import InputError
from trbert.limits import CELL, Room
from trbert.tasks.rows import Columns, Table
from trbert.wording import cut

QUERIES, COLLECTION = "queries.tsv", "collection.tsv"
"""The files that make a folder a TREC folder. Each line of them has an id and a text, with a tab between."""
Key = TypeVar("Key")
_QRELS = "a query's id, a number that is not read, a document's id and its grade"
_RUN = "a query's id, Q0, a document's id, its rank, its score and a name"


def is_trec(folder: Path) -> bool:
    """Returns whether a folder has queries and a collection."""
    return (folder / QUERIES).is_file() and (folder / COLLECTION).is_file()


def read_trec(folder: Path, columns: Columns, format: Format, room: Room) -> tuple[dict[str, Table], list[str]]:
    """Returns a table of each split with the columns query, document and label; and notes on them.

    A split is a file of judgments, such as `qrels.train.tsv` or `test.qrels`. A run of the same split, such as
    `run.train.tsv`, says which documents a query has; one that nobody has judged has the grade 0. Without a run, a
    query has the documents that were judged. A grade below 0 is 0, as in trec_eval.

    Args:
        folder: the folder.
        columns: the columns to read.
        format: how the files are written, as far as the user says so.
        room: the memory that the data may take.

    Raises:
        InputError: There are no judgments for train, or two files of a split. A line has another number of fields, a
            grade is no whole number, an id stands there twice, or is unknown. Or other columns are wanted.
    """
    judged, runs = _files(folder, "qrels"), _files(folder, "run")
    if "train" not in judged:
        raise InputError(
            f"data {str(folder)!r} must have judgments for train beside {QUERIES} and {COLLECTION}, and has none: add "
            "them as qrels.train.tsv"
        )
    notes: list[str] = []
    found: dict[str, dict[tuple[str, str], tuple[int, int]]] = {}
    check_columns(["query", "document", "label"], columns, f"folder {str(folder)!r}, read as TREC files,")
    for split, path in judged.items():
        grades = _grades(path, format, room)
        found[split] = grades
        if split in runs:
            found[split], left_out = _candidates(runs[split], grades, format, room)
            notes += [f"{split}: {note}" for note in left_out]
    where = {split: runs.get(split, path).name for split, path in judged.items()}
    queries = _texts(folder / QUERIES, format, room, {query for own in found.values() for query, _ in own})
    documents = _texts(folder / COLLECTION, format, room, {document for own in found.values() for _, document in own})
    tables = {}
    for split, pairs in found.items():
        for (query, document), (line, _) in pairs.items():
            _check_known(query, queries, QUERIES, line, where[split])
            _check_known(document, documents, COLLECTION, line, where[split])
        values: dict[str, list[Any]] = {
            "query": [queries[query] for query, _ in pairs],
            "document": [documents[document] for _, document in pairs],
            "label": [grade for _, grade in pairs.values()],
        }
        tables[split] = Table(where[split], values)
    return tables, notes


def _files(folder: Path, kind: str) -> dict[str, Path]:
    """Returns the file of each split that is of a kind: both stand in its name, with a point or a dash between."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        parts = re.split(r"[._-]", path.name.lower())
        split = next((name for name in map(split_of, parts) if name), None)
        if kind not in parts or split is None or not path.is_file():
            continue
        if split in found:
            raise InputError(
                f"data {str(folder)!r} must have one file of the kind {kind} for {split}, and has "
                f"{found[split].name!r} and {path.name!r}: remove or rename one"
            )
        found[split] = path
    return found


def _lines(path: Path, format: Format, room: Room, separator: str | None, what: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the fields of each line that is not blank.

    Args:
        path: the file.
        format: how it is written.
        room: the memory that the data may take.
        separator: what stands between two fields; None is any blanks.
        what: the fields of a line, in words.

    Raises:
        InputError: A line has another number of fields.
    """
    fields = what.count(",") + 2
    for number, line in enumerate(read_text(path, format.encoding, room).decode().split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        cells = line.split(separator)
        if len(cells) != fields:
            raise InputError(
                f"line {number} of {path.name} must have {fields} fields, {what}, with "
                f"{'a tab' if separator else 'a blank'} between two of them, and has {len(cells)}: correct the line"
            )
        room.take(CELL * fields, path.name)
        yield number, cells


def _texts(path: Path, format: Format, room: Room, wanted: set[str]) -> dict[str, str]:
    """Returns the text of each id that is wanted and there."""
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, (name, text) in _lines(path, format, room, "\t", "an id and a text"):
        _check_new(name, name, lines, number, path.name)
        if name in wanted:
            texts[name] = text
    return texts


def _grades(path: Path, format: Format, room: Room) -> dict[tuple[str, str], tuple[int, int]]:
    """Returns the line and the grade of each pair of a query and a document that was judged."""
    grades: dict[tuple[str, str], tuple[int, int]] = {}
    lines: dict[tuple[str, str], int] = {}
    for number, (query, _, document, grade) in _lines(path, format, room, None, _QRELS):
        _check_new((query, document), f"{query} {document}", lines, number, path.name)
        if not re.fullmatch(r"[+-]?\d{1,9}", grade):
            raise InputError(
                f"line {number} of {path.name} must end in a grade, which is a whole number, and ends in "
                f"{cut(grade)}: correct the line"
            )
        grades[query, document] = number, max(0, int(grade))
    return grades


def _candidates(
    path: Path, grades: Mapping[tuple[str, str], tuple[int, int]], format: Format, room: Room
) -> tuple[dict[tuple[str, str], tuple[int, int]], list[str]]:
    """Returns the line and the grade of each pair of a run, and notes on what is not in both files."""
    judged = {query for query, _ in grades}
    found: dict[tuple[str, str], tuple[int, int]] = {}
    lines: dict[tuple[str, str], int] = {}
    unjudged: set[str] = set()
    for number, (query, _, document, *_) in _lines(path, format, room, None, _RUN):
        _check_new((query, document), f"{query} {document}", lines, number, path.name)
        if query in judged:
            found[query, document] = number, grades.get((query, document), (0, 0))[1]
        else:
            unjudged.add(query)
    notes = []
    if unjudged:
        notes.append(f"{len(unjudged):,} queries of {path.name} left out, because none of their documents was judged")
    relevant = [pair for pair, (_, grade) in grades.items() if grade > 0]
    if missed := sum(pair not in found for pair in relevant):
        notes.append(f"{missed:,} of {len(relevant):,} relevant documents are not in {path.name}, and do not count")
    return found, notes


def _check_new(key: Key, shown: str, lines: dict[Key, int], number: int, origin: str) -> None:
    """Notes the line of an id, or raises InputError where it had one."""
    if key in lines:
        raise InputError(
            f"line {number} of {origin} must have an id that no other line has, and has {cut(shown)}, as line "
            f"{lines[key]} has: remove one of the lines"
        )
    lines[key] = number


def _check_known(name: str, known: Mapping[str, str], origin: str, line: int, where: str) -> None:
    if name not in known:
        raise InputError(
            f"line {line} of {where} must have ids of {QUERIES} and of {COLLECTION}, and {cut(name)} is not in "
            f"{origin}: add it there, or remove the line"
        )
