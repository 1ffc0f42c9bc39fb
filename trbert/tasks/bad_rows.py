"""Finds rows that cannot be read or are too long, and leaves them out if the user wants that."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from trbert.errors import InputError
from trbert.tasks.rows import Columns, Rows, Table

Read = TypeVar("Read")

SKIP = "or pass --skip-bad-rows, which leaves such rows out"
"""The remedy for a bad row where there are good ones."""
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
                remedy = f"; {SKIP}" if others else ""
                raise InputError(f"{error}{remedy}") from error
            first, bad = first or error, bad + 1
        else:
            kept.append(row)
    if first is not None and not kept:
        raise InputError(f"{table.origin} must have a row that can be read, and all {bad:,} are bad: {first}")
    notes = [] if first is None else [f"{split}: {bad:,} bad rows left out (--skip-bad-rows); the first one: {first}"]
    return kept, found, notes


def rows_with_room(
    rows: Rows, lengths: Sequence[int], most: int, rule: str
) -> tuple[Int64[np.ndarray, " kept"], tuple[str, ...]]:
    """Returns the indices of the rows that are short enough, and a note on those that are left out.

    Args:
        rows: the rows. Their `skip_bad` says whether rows that are too long are left out.
        lengths: the number of tokens of the part of each row that is never truncated, such as its question.
        most: the most tokens that this part may have.
        rule: what a row must have, in words, such as "a question that leaves room for its context within 8 tokens".

    Raises:
        InputError: A row is too long, and such rows are not left out. Or all rows are too long.
    """
    fits = np.array(lengths, dtype=np.int64) <= most
    long = np.flatnonzero(~fits)
    if len(long) == 0:
        return np.arange(len(rows)), ()
    first = int(long[0])
    place = rows.places[first] if rows.places else f"row {first}"
    why = f"{place} must have {rule}, and has one of {lengths[first]:,} tokens"
    if not fits.any():
        raise InputError(
            f"{why}: raise --max-length, shorten or remove the row, or name the columns of --text-column in their "
            "right order"
        )
    if not rows.skip_bad:
        raise InputError(f"{why}: raise --max-length, shorten or remove the row, {SKIP}")
    return np.flatnonzero(fits), (f"{len(long):,} bad rows left out (--skip-bad-rows); the first one: {why}",)


def _readable(read: Callable[[int], Read], row: int) -> bool:
    try:
        read(row)
    except InputError:
        return False
    return True
