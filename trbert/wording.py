"""How a message names what it found."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def listed(names: Iterable[Any]) -> str:
    """Returns names as a message lists them."""
    return ", ".join(repr(name) for name in names)


def did_you_mean(name: str, there: Sequence[str]) -> str:
    """Returns the hint at the nearest name there is, or nothing."""
    close = difflib.get_close_matches(name, there, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: object) -> str:
    """Returns a value with its type, cut to what fits a line."""
    text = repr(value)
    return f"the {type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
