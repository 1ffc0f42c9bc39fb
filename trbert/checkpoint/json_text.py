"""Reads JSON that others wrote, within limits of its size, its depth and its numbers."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any, Never

from trbert.errors import DamagedCheckpoint
from trbert.wording import cut

SIZE = 10_000_000
"""The most bytes of a file."""
DEPTH = 50
"""The most levels of brackets within brackets."""
DIGITS = 40
"""The most characters of a whole number. Tokenizers write 31 of them for a length without limit."""


class BrokenLimit(ValueError):
    """A file is JSON, and breaks one of the limits of this module."""


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds.

    Raises:
        BrokenLimit: It is too large or too deep, holds an entry twice, or a number that is not finite or too long.
        ValueError: It is no JSON.
        OSError: The file cannot be read.
    """
    if os.path.lexists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise OSError(errno.EINVAL, f"{path.name} is no file")
    with path.open("rb") as file:
        content = file.read(SIZE + 1)
    if len(content) > SIZE:
        raise BrokenLimit(f"{path.name} must have at most {SIZE // 1_000_000} MB, and has more")
    try:
        found = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise BrokenLimit(_too_deep(path)) from None
    except BrokenLimit as error:
        raise BrokenLimit(f"{path.name} {error}") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON object ({error})") from error
    if _is_deep(found):
        raise BrokenLimit(_too_deep(path))
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Returns what a JSON file holds, as `read_json` does. It must be an object.

    Raises:
        ValueError: It is none, or `read_json` refuses it.
        OSError: The file cannot be read.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no JSON object (it holds a {type(found).__name__})")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise BrokenLimit(f"must hold each entry once, and holds {cut(twice)} twice")
    return found


def _refuse_constant(text: str) -> Never:
    raise BrokenLimit(f"must hold finite numbers, and holds {text}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BrokenLimit(f"must hold finite numbers, and holds {text[:60]}")
    return number


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise BrokenLimit(f"must hold numbers of at most {DIGITS} digits, and holds one of {len(text)}")
    return int(text)


def _too_deep(path: Path) -> str:
    return f"{path.name} must have at most {DEPTH} levels of brackets within brackets, and has more"


def _is_deep(found: Any) -> bool:
    level = [found]
    for _ in range(DEPTH + 1):
        level = [
            value
            for each in level
            if isinstance(each, dict | list)
            for value in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def not_json(folder: Path, error: Exception) -> DamagedCheckpoint:
    """Returns the error for a file of a saved model that `read_json` or `read_object` has refused.

    Args:
        folder: of the model.
        error: what was raised; it names the file.
    """
    remedy = "correct it, or copy or save it again" if isinstance(error, BrokenLimit) else "copy it again"
    return DamagedCheckpoint(f"{folder}/{error}: {remedy}")
