"""Reads tables of pairs, each a query with one of its documents, and makes a row of each query."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from trbert.errors import InputError
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.examples import PADDING
from trbert.tasks.labels import check_renames, with_labels
from trbert.tasks.over_texts import usable_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.texts import is_missing
from trbert.wording import shown

NO_GRADE = PADDING
"""The target at a place of a query where it has no more documents."""
MOST_DOCUMENTS = 32
"""The most documents of a query of train. All of them are in memory at once, with several trajectories each."""
_WORDS: dict[str, Any] = {"true": 1.0, "false": 0.0}

Documents = list[tuple[str, float]]
"""The documents of a query, each with its grade."""
Found = dict[str, Documents]
"""The documents of each query."""


def read_queries(tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None) -> Reading:
    """Returns the queries of every split with their documents. The inputs are queries, and lists of documents.

    The targets are [queries, most documents]: the grade of each document over the highest grade of train, at most 1,
    and `NO_GRADE` where there is no document.

    Rows of the table that have the same query belong together, wherever they stand. A document that a query has in
    several rows counts once, with its highest grade. Rows with a blank text are left out. In a split other
    than train, so are rows that are in train, too. A query of which no document is relevant is left out: every order of
    its documents is as good as any other. A split without any labels is not used.

    Args:
        tables: the table of each split.
        columns: of the queries, of the documents, and of the grades.
        renames: new names for labels; None renames nothing.

    Raises:
        InputError: A text is not a string, a label is no grade, a new name is for no label, or no query is left. Or no
            query of train has documents of different grades.
    """
    tables, notes = with_labels(tables, columns)
    if renames is not None:
        check_renames(
            renames, sorted({str(cell) for table in tables.values() for cell in table.values[columns.target]})
        )
    found: dict[str, Found] = {}
    firsts: dict[str, dict[str, int]] = {}
    for split, table in tables.items():
        used, left_out = usable_rows(split, table, columns)
        used, grades, bad = read_rows(split, table, columns, used, partial(_grade, table, columns.target, renames))
        found[split], repeated = _queries(table, columns, used, grades)
        firsts[split] = _firsts(table, columns, used)
        notes += [*left_out, *bad]
        if repeated:
            notes.append(
                f"{split}: {repeated:,} rows left out that repeat the query and the document of a row before: the "
                "highest grade of a pair counts"
            )
    relevant: dict[str, Found] = {}
    for split, queries in found.items():
        relevant[split] = {query: own for query, own in queries.items() if any(grade > 0 for _, grade in own)}
        _check_some(split, tables[split], columns, relevant[split])
        if fewer := len(queries) - len(relevant[split]):
            notes.append(
                f"{split}: {fewer:,} of {len(queries):,} queries left out, because none of their documents is relevant"
            )
    top = max(grade for own in relevant["train"].values() for _, grade in own)
    if top != 1:
        notes.append(f"grades are divided by the highest one of train, {top:g}")
    for split, queries in relevant.items():
        if above := sum(grade > top for own in queries.values() for _, grade in own):
            notes.append(
                f"{split}: grades above the highest one of train, {top:g}, count as that one ({above:,} of them)"
            )
    most = max(len(own) for queries in relevant.values() for own in queries.values())
    rows = {}
    for split, own in relevant.items():
        places = tables[split].places([firsts[split][query] for query in own])
        rows[split] = replace(_rows(own, top, most), places=places, skip_bad=columns.skip_bad)
    return Reading(rows=rows, labels=(), notes=tuple(notes))


def with_fewer_documents(rows: Rows) -> tuple[Rows, list[str]]:
    """Returns queries with at most `MOST_DOCUMENTS` documents each, and a note where some had more.

    The relevant ones are used first, and then the others. The documents of a query stay in their order.
    """
    queries, documents = rows.inputs
    many = [row for row, own in enumerate(documents) if len(own) > MOST_DOCUMENTS]
    if not many:
        return rows, []
    fewer, targets = list(documents), rows.targets.copy()
    for row in many:
        irrelevant = targets[row, : len(documents[row])] == 0
        places = np.sort(np.argsort(irrelevant, kind="stable")[:MOST_DOCUMENTS])
        fewer[row] = [documents[row][place] for place in places]
        targets[row, :MOST_DOCUMENTS] = targets[row, places]
    told = (
        f"train: {len(many):,} queries have more than {MOST_DOCUMENTS} documents: of these, the relevant ones are used "
        f"first, and then the others in their order, up to {MOST_DOCUMENTS}"
    )
    return replace(rows, inputs=(queries, tuple(fewer)), targets=targets[:, :MOST_DOCUMENTS]), [told]


def _grade(table: Table, column: str, renames: Mapping[str, str] | None, row: int) -> float:
    """Returns the grade in a cell: a number from 0, or whether the document is relevant.

    Raises:
        InputError: There is none.
    """
    cell = table.values[column][row]
    said = (renames or {}).get(str(cell), cell)
    try:
        number = math.nan if is_missing(said) else float(_WORDS.get(str(said).strip().lower(), said))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1e30:
        raise InputError(
            f"row {row} of {table.origin} must have a grade in column {column!r}, which is 0 where the document is not "
            f"relevant and a number above 0 where it is, and has {shown(cell)}: correct or remove the row, rename the "
            "labels (--label-map relevant=1,irrelevant=0), or set --label-column to the column of the grades"
            f"{table.unread}"
        )
    return number


def _queries(table: Table, columns: Columns, used: Sequence[int], grades: Sequence[float]) -> tuple[Found, int]:
    """Returns the documents of each query, in the order of the table; and how many rows repeat the pair of another."""
    queries, documents = (table.values[name] for name in columns.inputs)
    found: dict[str, dict[str, float]] = {}
    for row, grade in zip(used, grades, strict=True):
        own = found.setdefault(queries[row], {})
        own[documents[row]] = max(grade, own.get(documents[row], 0.0))
    pairs = {query: list(own.items()) for query, own in found.items()}
    return pairs, len(used) - sum(map(len, pairs.values()))


def _firsts(table: Table, columns: Columns, used: Sequence[int]) -> dict[str, int]:
    """Returns the first row of each query."""
    queries = table.values[columns.inputs[0]]
    return {queries[row]: row for row in reversed(used)}


def _check_some(split: str, table: Table, columns: Columns, relevant: Found) -> None:
    """Checks that there is a query to learn from, or to measure on."""
    query, document = columns.inputs
    if not relevant:
        raise InputError(
            f"{table.origin} must have a relevant document, and all its grades in column {columns.target!r} are 0: set "
            f"--label-column to the column of the grades{table.unread}"
        )
    if split == "train" and all(len({grade for _, grade in own}) == 1 for own in relevant.values()):
        raise InputError(
            f"{table.origin} must have a query with a relevant document and another one, and each of its "
            f"{len(relevant):,} queries in column {query!r} has documents of one grade alone: name the column of the "
            f"queries first and that of the documents second (--text-column {document},{query} would swap them), and "
            "add documents that are not relevant with a label of 0"
        )


def _rows(found: Found, top: float, most: int) -> Rows:
    """Returns the queries of a split. Equal queries of two splits have equal targets, which are `most` wide in both."""
    targets = np.full((len(found), most), NO_GRADE, dtype=np.float32)
    for row, own in enumerate(found.values()):
        targets[row, : len(own)] = [min(1.0, grade / top) for _, grade in own]
    documents: tuple[Any, ...] = tuple([document for document, _ in own] for own in found.values())
    return Rows((tuple(found), documents), targets, np.zeros(len(found), dtype=np.int64))
