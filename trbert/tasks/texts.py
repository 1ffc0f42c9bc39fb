"""Finds the rows of a table that have a text in each input column or are not in train, and refuses what is no text."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from trbert.errors import InputError
from trbert.tasks.rows import Table
from trbert.wording import shown

LARGEST = 1e30
"""The largest size of a number that is read. The square of it still fits into 64 bits."""

UNSEEN = {"Zs", "Zl", "Zp", "Cc", "Cf", "Cs"}
"""The categories of characters that nobody sees. What has no category yet may be an emoji of a newer Unicode."""
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""What says yes or no in a cell. pandas writes 1.0 for 1 beside an empty cell."""


def is_blank(text: str) -> bool:
    r"""Returns whether a text has no character that can be seen: only blanks, controls, or characters without width.

    Example:
        >>> is_blank(" \u200b"), is_blank(" a")
        (True, False)
    """
    return all(unicodedata.category(character) in UNSEEN for character in text)


def text_of(value: Any) -> str:
    """Returns an input as a text: a list of words is joined by blanks.

    Example:
        >>> text_of(["New", "York"]), text_of("Rome")
        ('New York', 'Rome')
    """
    return " ".join(value) if isinstance(value, list) else str(value)


def is_missing(value: Any) -> bool:
    """Returns whether a cell is empty: it holds nothing, NaN as pandas writes it, or a blank text."""
    return (
        value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and is_blank(value))
    )


def number(value: Any) -> float | None:
    """Returns the finite number that a cell holds, as a number or as a text; None where it holds none.

    Example:
        >>> number("3.5"), number("x")
        (3.5, None)
    """
    try:
        found = math.nan if is_missing(value) or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if abs(found) <= LARGEST else None


def mostly(values: Sequence[Any], holds: Callable[[Any], bool]) -> bool:
    """Returns whether something holds of more than nine in ten values, so that a few bad rows hide nothing.

    Example:
        >>> mostly(["a", "b", 3], lambda value: isinstance(value, str))
        False
    """
    return 10 * sum(map(holds, values)) > 9 * len(values)


def has_texts(table: Table, names: Sequence[str]) -> bool:
    """Returns whether these columns have texts, and no lists of words or of options."""
    return all(mostly(table.values[name], lambda value: is_missing(value) or isinstance(value, str)) for name in names)


def written_rows(table: Table, names: Sequence[str]) -> list[int]:
    """Returns the indices of the rows that have a value in each of these columns, be it a text or not.

    Raises:
        InputError: No row has one.
    """
    written = list(range(len(table)))
    for name in names:
        kept = [row for row in written if not is_missing(table.values[name][row])]
        if not kept:
            raise InputError(
                f"{table.origin} must have a text in column {name!r}, and its {len(written)} texts are all empty: "
                f"set --text-column to the column of the texts{table.unread}"
            )
        written = kept
    return written


def outside_train(table: Table, rows: Sequence[int]) -> list[int]:
    """Returns those of the given rows of a table that are not in train as well. The column `in_train` says which are.

    Raises:
        InputError: A mark is neither true nor false. Or all of the given rows are marked as in train.
    """
    marks = table.values.get("in_train")
    if marks is None:
        return list(rows)
    kept = [row for row in rows if not _mark(table, marks[row], row)]
    if not kept:
        raise InputError(
            f"{table.origin} must have rows that are not in train, and all {len(rows)} are marked in_train: "
            "remove the column or add rows"
        )
    return kept


def _mark(table: Table, cell: Any, row: int) -> bool:
    """Returns whether a cell of `in_train` marks its row. An empty cell does not."""
    mark = False if is_missing(cell) else FLAGS.get(str(cell).strip().lower())
    if mark is None:
        raise InputError(
            f"row {row} of {table.origin} must have true or false in column 'in_train', and has {shown(cell)}: correct "
            "the row, or remove or rename the column"
        )
    return mark


def check_texts(table: Table, names: Sequence[str], row: int) -> None:
    """Checks that a row has a text in each of these columns.

    Raises:
        InputError: A value is no text.
    """
    for name in names:
        texts = table.values[name]
        if isinstance(texts[row], str):
            continue
        if not any(isinstance(text, str) and not is_blank(text) for text in texts):
            words = isinstance(texts[row], list) and all(isinstance(word, str) for word in texts[row])
            join = "join the words of each row to one text, or " if words else ""
            remedy = f"{join}set --text-column to the column of the texts{table.unread}"
        elif isinstance(texts[row], int | float):
            remedy = "write it in quotes, or remove the row"
        else:
            remedy = "write it as a string, or remove the row"
        raise InputError(
            f"row {row} of {table.origin} must have a string in column {name!r}, and has {shown(texts[row])}: {remedy}"
        )
