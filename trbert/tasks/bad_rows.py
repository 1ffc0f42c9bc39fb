"""Reads rows one by one, and leaves out those that cannot be read if the user wants that."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from trbert.errors import InputError
from trbert.tasks.rows import Columns, Table

Read = TypeVar("Read")

LOOKED = 1000
"""The first rows, among which a good one is looked for. Where all are bad, leaving them out is no remedy."""


def read_rows(
    split: str, table: Table, columns: Columns, rows: Iterable[int], read: Callable[[int], Read]
) -> tuple[list[int], list[Read], list[str]]:
    """Returns the rows that can be read, what was read of each, and notes on those that were left out.

    Args:
        split: the name of the split, for the notes.
        table: the table of the split.
        columns: the columns; `skip_bad` says whether bad rows are left out.
        rows: the indices of the rows to read.
        read: reads one row; raises InputError, which names the file and the row, where the row is bad.

    Raises:
        InputError: A row is bad, and bad rows are not left out. Or all rows are bad.
    """
    rows = list(rows)
    kept: list[int] = []
    found: list[Read] = []
    first: InputError | None = None
    bad = 0
    for row in rows:
        try:
            found.append(read(row))
        except InputError as error:
            if not columns.skip_bad:
                others = kept or any(_readable(read, other) for other in rows[1:LOOKED])
                remedy = "; or pass --skip-bad-rows, which leaves such rows out" if others else ""
                raise InputError(f"{error}{remedy}") from error
            first, bad = first or error, bad + 1
        else:
            kept.append(row)
    if first is not None and not kept:
        raise InputError(f"{table.origin} must have a row that can be read, and all {bad:,} are bad: {first}")
    notes = [] if first is None else [f"{split}: {bad:,} bad rows left out (--skip-bad-rows); the first one: {first}"]
    return kept, found, notes


def _readable(read: Callable[[int], Read], row: int) -> bool:
    try:
        read(row)
    except InputError:
        return False
    return True
