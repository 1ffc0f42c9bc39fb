"""The files and folders that a user names for a search: what they are called, and whether they can be read."""

import errno
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune.runs.places import is_uri
from tune.settings import Search, Settings, override

_SPLIT = re.compile(r"\w+\s*=\s*")
"""What begins each part of `train=a.csv,test=b.csv`."""
_NAMES = {"model": "minilm", "data.source": "pages"}
"""Values that are names, even if a file of that name lies in the working directory."""


def why_not_readable(path: Path) -> str | None:
    """Returns why a path cannot be read as a file or a folder, or None if it can or does not exist at all."""
    try:
        if path.is_symlink() and not path.exists():
            return f"is a symbolic link to {os.readlink(path)}, which does not exist"
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.listdir(path)
        elif stat.S_ISREG(mode):
            path.open("rb").close()
        else:
            kind = "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
            return f"is {kind}, which can be read only once"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # The text of a label map is too long to be the name of a file.
        return None if error.errno == errno.ENAMETOOLONG else f"cannot be read ({error.strerror})"
    return None


def files_of(settings: Settings) -> dict[str, list[str]]:
    """Returns what the user calls the files and folders that a search reads, by the setting that names them.

    A hub name, or the text of a label map, is among them too: only the disk tells which of them are files.
    """
    parts = _parts(settings.data.source)
    found = {"model": [settings.model], "data.source": [name for _, name in parts]}
    found["data.unlabelled"] = list(settings.data.unlabelled)
    if settings.data.label_map is not None:
        found["data.label_map"] = [settings.data.label_map]
    if settings.select.latency_table is not None:
        found["select.latency_table"] = [settings.select.latency_table]
    return {setting: [name for name in names if name != _NAMES.get(setting)] for setting, names in found.items()}


def _parts(source: str) -> list[tuple[str, str]]:
    """Returns the data's files, each with what stands before it: "train=" or "". A file may have commas in its name."""
    if os.path.exists(os.path.expanduser(source)) or not _SPLIT.match(source):
        return [("", source)]
    parts = re.split(rf",(?=\s*{_SPLIT.pattern})", source)
    heads = [_SPLIT.match(part.strip()) for part in parts]
    return [
        (head[0].rstrip(), part.strip()[head.end() :].strip()) for head, part in zip(heads, parts, strict=True) if head
    ]


def resolved(settings: Settings, search: Search) -> tuple[Settings, Search]:
    """Returns the same settings and search, in which every file and folder of this machine has its absolute path.

    So a search can be continued from any folder. Names on the hub, and files that do not exist, stay as they are.

    Args:
        settings: of the run.
        search: what else the user asked for.
    """
    singles = ("model", "data.label_map", "select.latency_table")
    files = files_of(settings)
    changes: dict[str, Any] = {setting: _absolute(files[setting][0]) for setting in singles if files.get(setting)}
    if settings.data.source != _NAMES["data.source"]:
        changes["data.source"] = ",".join(f"{head}{_absolute(name)}" for head, name in _parts(settings.data.source))
    changes["data.unlabelled"] = tuple(map(_absolute, settings.data.unlabelled))
    place, _, name = (settings.family or "").rpartition(":")
    if place.endswith(".py"):
        changes["family"] = f"{_absolute(place)}:{name}"
    storage = search.storage
    if storage is not None and not is_uri(storage):
        storage = os.path.abspath(os.path.expanduser(storage))
    return override(settings, changes), replace(search, storage=storage)


def _absolute(name: str) -> str:
    """Returns the absolute path of a file or folder of this name; the name itself if there is none."""
    path = os.path.expanduser(name)
    return os.path.abspath(path) if name and os.path.exists(path) else name
