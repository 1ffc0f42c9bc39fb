"""How much memory the data may take, so that no file fills it: packed files can grow a million times."""

import re

from trbert.errors import InputError

MAX_BYTES = 4_000_000_000
"""The most bytes that the data may take in memory, unless the user says otherwise."""

MAX_SIZE = f"{MAX_BYTES // 10**9}GB"
"""The same as the user writes it."""

CELL = 60
"""The bytes that a value takes in Python, besides its characters."""

MAX_CHARACTERS = 1_000_000
"""The most characters of a text that are read. A tokenizer would read all, although a model takes a few thousand."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Room:
    """The memory that the data may still take. All files of a data set share it.

    Args:
        most: the bytes that all of them may take.
    """

    def __init__(self, most: int) -> None:
        self.most, self.left = most, most

    @property
    def taken(self) -> int:
        """The bytes that are taken."""
        return self.most - self.left

    def check(self, size: int, origin: str) -> None:
        """Checks that so many bytes are left.

        Args:
            size: the bytes.
            origin: the name of the file that needs them, for the message.

        Raises:
            InputError: Less is left.
        """
        if size > self.left:
            needed = self.taken + size
            raise InputError(
                f"the data must take at most {shown_size(self.most)} in memory, and {origin} brings them to "
                f"{shown_size(needed)} or more: use a smaller file, or pass a larger --max-data-size, such as "
                f"{-(-2 * needed // 10**9)}GB, if you trust the file and the machine has the memory"
            )

    def take(self, size: int, origin: str) -> None:
        """Takes so many bytes.

        Raises:
            InputError: Less is left.
        """
        self.check(size, origin)
        self.left -= size


def parse_size(text: str, name: str = "--max-data-size") -> int:
    """Returns the bytes of a size such as "500MB", "8GB" or "1.5GB". A thousand megabytes are a gigabyte.

    Args:
        text: the size.
        name: what the user calls it, for the message.

    Raises:
        InputError: The text is no size, or less than one byte.

    Example:
        >>> parse_size("1.5GB")
        1500000000
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?B|)", text.strip().upper(), re.ASCII)
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise InputError(f"{name} must be a size above 0, and is {text[:60]!r}: write for example 500MB or 8GB")
    return size


def shown_size(size: int) -> str:
    """Returns a number of bytes as messages show it.

    Example:
        >>> shown_size(209_300_000)
        '209 MB'
    """
    for unit in ("TB", "GB", "MB", "KB"):
        if size >= _UNITS[unit]:
            number = size / _UNITS[unit]
            return f"{number:.1f} {unit}".replace(".0 ", " ") if number < 10 else f"{number:,.0f} {unit}"
    return f"{size} bytes"
