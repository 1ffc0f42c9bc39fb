"""Words for messages: how a message lists names, hints at a near one, and shows a value."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def listed(names: Iterable[Any]) -> str:
    """Returns the names as text, with quotation marks and commas.

    Example:
        >>> listed(["train", "test"])
        "'train', 'test'"
    """
    return ", ".join(repr(name) for name in names)


def did_you_mean(name: str, there: Sequence[str]) -> str:
    """Returns a hint at the existing name that is most like a wrong one; "" where none is like it.

    Args:
        name: the wrong name.
        there: the names that exist.

    Example:
        >>> did_you_mean("tset", ["train", "test"])
        " (did you mean 'test'?)"
    """
    close = difflib.get_close_matches(name, there, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def cut(value: object) -> str:
    """Returns a value as text, cut to 60 characters.

    Example:
        >>> cut("a" * 100)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def shown(value: object) -> str:
    """Returns a value as text with its type, cut to 60 characters.

    Example:
        >>> shown(3)
        'the int 3'
    """
    return f"the {type(value).__name__} {cut(value)}"
