"""Finds the rows of a table that have a text in each input column, and refuses what is no text."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from trbert.errors import InputError
from trbert.tasks.rows import Table
from trbert.wording import shown


def is_blank(text: str) -> bool:
    r"""Returns whether a text has no character that can be seen: only blanks, controls, or characters without width.

    Example:
        >>> is_blank(" \u200b"), is_blank(" a")
        (True, False)
    """
    return all(unicodedata.category(character)[0] in "ZC" for character in text)


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


def rows_with_texts(table: Table, names: Sequence[str]) -> list[int]:
    """Returns the indices of the rows that have a text in each of these columns.

    Raises:
        InputError: A value is neither a text nor missing, or no row is left.
    """
    written = list(range(len(table)))
    for name in names:
        texts = table.values[name]
        missing = [is_missing(text) for text in texts]
        _check_texts(table, name, [row for row in range(len(table)) if not missing[row]])
        kept = [row for row in written if not missing[row]]
        if not kept:
            raise InputError(
                f"{table.origin} must have a text in column {name!r}, and its {len(written)} texts are all empty: "
                f"set --text-column to the column of the texts{table.unread}"
            )
        written = kept
    return written


def _check_texts(table: Table, name: str, rows: Sequence[int]) -> None:
    """Checks that the values of these rows are texts."""
    texts = table.values[name]
    odd = next((row for row in rows if not isinstance(texts[row], str)), None)
    if odd is not None:
        if not any(isinstance(texts[row], str) for row in rows):
            words = isinstance(texts[odd], list) and all(isinstance(word, str) for word in texts[odd])
            join = "join the words of each row to one text, or " if words else ""
            remedy = f"{join}set --text-column to the column of the texts{table.unread}"
        elif isinstance(texts[odd], int | float):
            remedy = "write it in quotes, or remove the row"
        else:
            remedy = "write it as a string, or remove the row"
        raise InputError(
            f"row {odd} of {table.origin} must have a string in column {name!r}, and has {shown(texts[odd])}: {remedy}"
        )
