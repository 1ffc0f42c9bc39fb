"""Words for messages: how a message lists names, hints at a near one, and shows a value."""

import difflib
import os
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

_LIKE = 1000
"""The most names that are compared with a wrong one, and the most characters of such a name."""


def listed(names: Iterable[Any]) -> str:
    """Returns the names as text, with quotation marks and commas.

    Example:
        >>> listed(["train", "test"])
        "'train', 'test'"
    """
    return ", ".join(repr(name) for name in names)


def briefly_listed(names: Iterable[Any]) -> str:
    """Returns the first ten names as text, each cut to 60 characters, and how many more there are.

    Example:
        >>> briefly_listed(range(12))
        '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    return the_first(10, map(cut, names))


def the_first(most: int, texts: Iterable[str]) -> str:
    """Returns the first of some texts, with commas, and how many more there are.

    Example:
        >>> the_first(2, ["one", "two", "three"])
        'one, two and 1 more'
    """
    every = list(texts)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def did_you_mean(name: str, there: Sequence[str]) -> str:
    """Returns a hint at the existing name that is most like a wrong one; "" where none is like it.

    Capital and small letters count as alike.

    Args:
        name: the wrong name.
        there: the names that exist.

    Example:
        >>> did_you_mean("tset", ["train", "test"])
        " (did you mean 'test'?)"
    """
    if len(name) > _LIKE:
        return ""
    written = {other.casefold(): other for other in reversed(there[:_LIKE]) if len(other) <= _LIKE}
    close = difflib.get_close_matches(name.casefold(), written, 1)
    return f" (did you mean {written[close[0]]!r}?)" if close else ""


def pasted(path: str | os.PathLike[str]) -> str:
    """Returns a path as a user can paste it into a command, where it is neither split nor taken for an option.

    Example:
        >>> pasted("-my runs/search")
        "'./-my runs/search'"
    """
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    # Even within quotation marks a terminal acts on control characters. Bash, zsh and ksh read such bytes in $'…'.
    shown = (each if each.isprintable() and each not in "'\\" else _bytes_of(each) for each in text)
    return f"$'{''.join(shown)}'"


def _bytes_of(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def python_text(text: str) -> str:
    r"""Returns a text as a literal of Python that can be pasted: whatever the text is, a shell does not act on it.

    Example:
        >>> print(python_text("runs/`my` $run"))
        "runs/\x60my\x60 \x24run"
    """
    return f'"{"".join(each if each.isprintable() and each not in _ACTIVE else _escape(each) for each in text)}"'


_ACTIVE = '"“”„$`!\\'
"""What acts within the quotation marks of Python, of a shell on Linux or macOS, or of PowerShell."""


def _escape(character: str) -> str:
    number = ord(character)
    return "\\\\" if character == "\\" else f"\\x{number:02x}" if number < 256 else f"\\U{number:08x}"


def printable(text: str) -> str:
    r"""Returns a text with an escape for each character that a terminal does not show as it is.

    These are control characters, with which a terminal can be made to hide or to change lines, and characters that turn
    the direction of writing. A file that somebody else wrote may hold them.

    Example:
        >>> print(printable("red \x1b[31m, and\n turned \u202e"))
        red \x1b[31m, and\n turned \u202e
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def cell(text: str, most: int = 100) -> str:
    """Returns a text for a cell of a table: as `printable` does, cut to so many characters.

    Example:
        >>> len(cell("a" * 1000))
        100
    """
    shown = printable(text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def cut(value: object) -> str:
    """Returns a value as text, cut to 60 characters.

    Example:
        >>> cut("a" * 100)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    """
    if isinstance(value, str):
        value = value[:60]  # its quotation marks make it longer, so that a cut one is still seen to be cut
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # lists within lists, or an integer of thousands of digits
        text = f"a value of type {type(value).__name__} that is too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


def shown(value: object) -> str:
    """Returns a value as text with its type, cut to 60 characters.

    Example:
        >>> shown(3)
        'the int 3'
    """
    return f"the {type(value).__name__} {cut(value)}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the name of its class where it has none.

    It is escaped as `printable` does, and cut to 200 characters, because it may quote a file.
    """
    lines = str(error).strip().splitlines()
    return cell(lines[0].strip(), 200) if lines else type(error).__name__


def reason(error: BaseException) -> str:
    """Returns why a file could not be read, for the brackets of a message.

    Example:
        >>> reason(FileNotFoundError(2, "No such file or directory", "settings.json"))
        'No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{cell(str(error.args[0]))} is missing" if isinstance(error, KeyError) else first_line(error)
