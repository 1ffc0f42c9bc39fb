"""Tells from the quotation marks of a csv file whether they open and close cells."""

import numpy as np
from jaxtyping import Int64, UInt8

_PIECE = 1 << 18
_QUOTE, _NEWLINES = ord('"'), (ord("\n"), ord("\r"))


def has_regular_quotes(content: memoryview, separator: int) -> bool:
    """Returns whether quotation marks only open and close cells, and stand twice within them.

    In such a file, each mark that opens a cell follows a separator or an end of line, and each mark that closes one
    stands before a separator or an end of line. A mark within a cell closes it and opens it again.
    """
    characters = np.frombuffer(content, dtype=np.uint8)
    marks = _places(characters, _QUOTE)
    opening, closing = marks[0::2], marks[1::2]
    if len(opening) != len(closing):
        return False
    around = np.array([separator, *_NEWLINES, _QUOTE], dtype=np.int64)
    before = characters[opening[opening > 0] - 1]
    after = characters[closing[closing < len(characters) - 1] + 1]
    return bool(np.isin(before, around).all() and np.isin(after, around).all())


def hides_rows(content: memoryview, width: int) -> bool:
    """Returns whether every line of a tab-separated file is a whole row, although some are within quoted cells."""
    characters = np.frombuffer(content, dtype=np.uint8)
    marks = _places(characters, _QUOTE)
    if len(marks) == 0:
        return False
    ends = _places(characters, _NEWLINES[0])
    within_cells = (np.searchsorted(marks, ends) % 2 == 1).any()
    return bool(within_cells) and all(
        line.count(b"\t") == width - 1 for line in content.tobytes().splitlines() if line.strip()
    )


def _places(characters: UInt8[np.ndarray, " characters"], wanted: int) -> Int64[np.ndarray, " places"]:
    """Returns the places of a character. They are looked for piece by piece, which needs less memory and time."""
    starts = range(0, len(characters), _PIECE)
    found = [np.flatnonzero(characters[start : start + _PIECE] == wanted) + start for start in starts]
    return np.concatenate(found)
