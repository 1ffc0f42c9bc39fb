"""Reads the new names that a user gives to labels (`--label-map`)."""

import os
from pathlib import Path

from trbert.data.decoding import parsed_json, small_text
from trbert.errors import InputError
from trbert.wording import cut

_REMEDY = 'write --label-map \'old=new,old=new\', or a JSON file such as {"old": "new"} for names with , or ='


def read_label_map(text: str) -> dict[str, str]:
    """Returns the new name of each label that is renamed.

    Args:
        text: `old=new,old=new`, or the path of a JSON file that holds an object of strings.

    Raises:
        InputError: The file cannot be read, or the text or the file is not of that form.

    Example:
        >>> read_label_map("Pos=pos,POS=pos")
        {'Pos': 'pos', 'POS': 'pos'}
    """
    path = Path(os.path.expanduser(text))
    if path.suffix.lower() == ".json" or ("=" not in text and os.path.isfile(path)):
        return _checked(_read_json(path), text)
    pairs = []
    for part in text.split(","):
        if part.count("=") != 1:
            raise InputError(f"--label-map must give a new name to each label, and has {cut(part)}: {_REMEDY}")
        old, _, new = part.partition("=")
        pairs.append((old, new))
    return _checked(pairs, text)


def _read_json(path: Path) -> list[tuple[str, object]]:
    try:
        pairs = parsed_json(small_text(path), _Pairs)
    except OSError as error:
        raise InputError(
            f"--label-map file {str(path)!r} must be a file that can be read, and is not ({error.strerror}): {_REMEDY}"
        ) from error
    except ValueError as error:
        raise InputError(f"--label-map file {str(path)!r} must be JSON, and is not ({error}): {_REMEDY}") from error
    if not isinstance(pairs, _Pairs):
        raise InputError(
            f"--label-map file {str(path)!r} must hold an object of strings, and holds {cut(pairs)}: {_REMEDY}"
        )
    return list(pairs)


class _Pairs(list[tuple[str, object]]):
    """The pairs of a JSON object, so that a key that stands twice is seen."""


def _checked(pairs: list[tuple[str, object]] | list[tuple[str, str]], source: str) -> dict[str, str]:
    renames: dict[str, str] = {}
    for old, new in pairs:
        if not isinstance(new, str) or not new.strip() or not old:
            raise InputError(
                f"--label-map must give a new name to each label, and gives {cut(new)} to {cut(old)}: {_REMEDY}"
            )
        if renames.setdefault(old, new.strip()) != new.strip():
            raise InputError(
                f"--label-map must give one new name to each label, and gives {cut(renames[old])} and {cut(new)} to "
                f"{cut(old)}: remove one of them"
            )
    if not renames:
        raise InputError(f"--label-map must give a new name to a label, and {cut(source)} has none: {_REMEDY}")
    return renames
