"""The file baselines.json of a run folder: the figures of the teacher and of its baselines."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from trbert.disk.files import read_plain, write_json
from trbert.errors import InputError
from trbert.wording import reason, shown
from tune.learning.standing import Baseline, Standing

_LARGEST = 1_000_000
_KINDS: dict[Any, str] = {
    str: "text",
    float: "a number with a decimal point",
    int: "a whole number",
    bool: "true or false",
}


def write_standing(path: Path, standing: Standing) -> None:
    """Writes a teacher's standing as JSON, completely or not at all."""
    write_json(path, asdict(standing))


def read_standing(path: Path) -> Standing | None:
    """Returns the standing that `write_standing` wrote; None if there is no such file.

    Raises:
        InputError: The file cannot be read, is a symbolic link or larger than 1 MB, or holds something else.
    """
    try:
        return _parse(json.loads(read_plain(path, _LARGEST)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path} must hold the figures of a teacher and its baselines as tune/search.py writes them, and does not "
            f"({reason(error)}): remove the file, and the table is shown without them"
        ) from error


def _parse(found: Any) -> Standing:
    values = _known(found, Standing, "the file")
    if not isinstance(values["baselines"], list):
        raise InputError("baselines must be a list")
    several = [Baseline(**_known(each, Baseline, "a baseline")) for each in values["baselines"]]
    return Standing(**{**values, "baselines": tuple(several)})


def _known(found: Any, kind: type[Standing] | type[Baseline], what: str) -> dict[str, Any]:
    """Returns the values of the fields of a class, and nothing else, from a JSON object."""
    if not isinstance(found, dict):
        raise InputError(f"{what} must be a JSON object")
    for field in fields(kind):
        value = found[field.name]
        if field.type in _KINDS and type(value) is not field.type:
            raise InputError(f"{field.name} must be {_KINDS[field.type]}, and is {shown(value)}")
    return {field.name: found[field.name] for field in fields(kind)}
