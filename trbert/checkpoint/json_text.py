"""Reads JSON that others wrote, within limits of its size, its depth and its numbers."""

import json
import math
from pathlib import Path
from typing import Any, Never

SIZE = 10_000_000
"""The most bytes of a file."""
DEPTH = 50
"""The most levels of brackets within brackets."""
DIGITS = 40
"""The most characters of a whole number. Tokenizers write 31 of them for a length without limit."""


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds.

    Raises:
        ValueError: It is no JSON, or breaks a limit. It holds an entry twice, or a number that is not finite. The
            message says which, with the name of the file.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(SIZE + 1)
    if len(content) > SIZE:
        raise ValueError(f"{path.name} must have at most {SIZE // 1_000_000} MB, and has more")
    try:
        found = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError(_too_deep(path)) from None
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON that can be read: {error}") from error
    if _is_deep(found):
        raise ValueError(_too_deep(path))
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Returns what a JSON file holds, as `read_json` does. It must be an object.

    Raises:
        ValueError: It is none, or `read_json` refuses it.
        OSError: The file cannot be read.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} must hold a JSON object, and holds a {type(found).__name__}")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"each entry must stand there once, and {twice[:60]!r} stands there twice")
    return found


def _refuse_constant(text: str) -> Never:
    raise ValueError(f"every number must be finite, and one is {text}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"every number must be finite, and one is {text[:60]}")
    return number


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number must have at most {DIGITS} digits, and one has {len(text)}")
    return int(text)


def _too_deep(path: Path) -> str:
    return f"{path.name} must have at most {DEPTH} levels of brackets within brackets, and has more"


def _is_deep(found: Any) -> bool:
    level = [found]
    for _ in range(DEPTH):
        level = [
            value
            for each in level
            if isinstance(each, dict | list)
            for value in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
