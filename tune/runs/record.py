"""The file settings.json of a run: what the user asked for, and what it was started with."""

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trbert.disk.files import read_plain, write_json
from trbert.errors import InputError, RunFolderError
from trbert.wording import cut, first_line, reason, shown
from tune.budget import Plan
from tune.runs.folder import RunFolder
from tune.runs.places import below, is_uri, trials_name
from tune.runs.versions import versions
from tune.settings import Search, Settings, from_json, search_from_json, to_json

LARGEST = 1 << 20
"""The most bytes of a settings.json that are read. Those that trbert writes have some thousand."""
_ID = re.compile(r"[^/\\\x00-\x1f?]{2,240}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """The content of `settings.json`.

    Attributes:
        id: the name of the run and random characters. What is kept outside the run's folder has it in its name.
        settings: the settings that the user asked for.
        search: everything else that the user asked for.
        fitted: the settings of a trial, with as many documents as the budget allows; None until they are computed.
        fingerprint: of the data and the model that were read; None until they were.
        documents: how many documents of each split are used; None until the settings of a trial are computed.
        plan: how the budget is spent, with the number of trials and their time; None until then, and where nothing is
            timed.
        spent: the seconds of the budget that were used when this was written last.
        made_by: the versions of trbert and of the packages that the run was started with.
    """

    id: str
    settings: Settings
    search: Search
    fitted: Settings | None = None
    fingerprint: str | None = None
    documents: Mapping[str, int] | None = None
    plan: Plan | None = None
    spent: float = 0.0
    made_by: Mapping[str, str] = field(default_factory=versions)


def write_run(folder: RunFolder, saved: SavedRun) -> None:
    """Writes a run's `settings.json`."""
    values: dict[str, Any] = {"id": saved.id, "settings": to_json(saved.settings), "search": asdict(saved.search)}
    values["versions"] = dict(saved.made_by)
    if saved.fitted is not None:
        values["fitted"] = to_json(saved.fitted)
    if saved.fingerprint is not None:
        values["fingerprint"] = saved.fingerprint
    if saved.documents is not None:
        values["documents"] = dict(saved.documents)
    if saved.plan is not None:
        values["plan"] = asdict(saved.plan)
    values["spent"] = saved.spent
    write_json(folder.settings, values)


def new_id(name: str) -> str:
    """Returns the id of a new run: its name, and characters that no other run has."""
    return f"{name}-{secrets.token_hex(4)}"


def read_settings(path: Path) -> dict[str, Any]:
    """Returns what a run's settings.json holds. Whether this version can continue the run is another question.

    Raises:
        RunFolderError: It cannot be read, or it does not hold the settings of a run.
    """
    try:
        found: dict[str, Any] = json.loads(read_plain(path, LARGEST).decode())
        if not all(isinstance(found[part], dict) for part in ("settings", "search", "versions")):
            raise TypeError("its settings are not JSON objects")
        _check_texts(found)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(
            f"{path} must hold the settings of a run, and does not ({reason(error)}), and without it the run cannot be "
            "continued: copy it back, or start the search again under another --name; its finished models can still "
            "be looked at and picked"
        ) from error
    return found


def existing_run(path: str, trusted: bool = False) -> tuple[RunFolder, SavedRun]:
    """Returns a run's folder and what its `settings.json` says.

    Args:
        path: the folder.
        trusted: whether the user trusts a folder that belongs to somebody else.

    Raises:
        RunFolderError: There is no run in this folder, its settings cannot be read, another version of trbert wrote
            them, or the folder is not trusted.
    """
    folder = RunFolder(Path(path))
    if folder.settings.is_symlink() or not folder.settings.is_file():
        raise RunFolderError(
            f"{folder.path} must be the folder of a run, with a settings.json, and is not one: check --resume"
        )
    if not trusted:
        _check_owner(folder.path, folder.settings, folder.trials, folder.study)
    found = read_settings(folder.settings)
    there, here = found["versions"].get("trbert", "an older version"), versions()["trbert"]
    if there != here:
        raise RunFolderError(
            f"a run must be continued with the trbert that it was started with, and {folder.path} was started with "
            f"{cut(there)} while this is {here!r}: install that one, or start the search again under another --name"
        )
    try:
        saved = _parsed(found)
    except (TypeError, InputError) as error:
        raise RunFolderError(
            f"{folder.settings} holds what this version of trbert does not write ({first_line(error)}): start the "
            "search again under another --name"
        ) from error
    storage = saved.search.storage
    if not trusted and storage is not None and not is_uri(storage):
        _check_owner(Path(storage), Path(below(storage, trials_name(saved.id))))
    return folder, saved


def _parsed(found: dict[str, Any]) -> SavedRun:
    """Returns what a settings.json holds.

    Raises:
        TypeError: A value is of another type.
        InputError: A value is not allowed.
    """
    fitted, fingerprint, own = found.get("fitted"), found.get("fingerprint"), found.get("id")
    if not isinstance(fitted, dict | None) or not isinstance(fingerprint, str | None):
        raise TypeError("its fitted settings or its fingerprint are of another type")
    if not isinstance(own, str) or not _ID.fullmatch(own):
        raise TypeError(f"its id must be a name without '/', and is {shown(own)}")
    documents, spent = found.get("documents"), found.get("spent", 0.0)
    if not isinstance(documents, dict | None) or not all(type(count) is int for count in (documents or {}).values()):
        raise TypeError("its documents are no whole numbers")
    if not isinstance(spent, float):
        raise TypeError("its seconds are no number with a decimal point")
    if not isinstance(found.get("plan"), dict | None):
        raise TypeError("its plan is no JSON object")
    made_by = found["versions"]
    if not all(isinstance(value, str) for value in made_by.values()):
        raise TypeError("its versions are no texts")
    return SavedRun(
        id=own,
        settings=from_json(found["settings"]),
        search=search_from_json(found["search"]),
        fitted=None if fitted is None else from_json(fitted),
        fingerprint=fingerprint,
        documents=documents,
        plan=_plan(found.get("plan")),
        spent=spent,
        made_by=made_by,
    )


def _plan(values: Any) -> Plan | None:
    """Returns the plan with these values.

    Raises:
        TypeError: They are of no plan: a value is of another type, or below 1, or a name is unknown or missing.
    """
    if values is None:
        return None
    for name, sample in asdict(Plan(seconds=1.0, concurrent=1, trials=1, trial_seconds=1.0)).items():
        value = values.get(name, sample)
        if type(value) is not type(sample) or (name in ("concurrent", "trials", "threads", "learners") and value < 1):
            raise TypeError(f"its plan's {name} must be like {sample!r}, and is {shown(value)}")
    return Plan(**values)


def _check_texts(value: Any) -> None:
    """Checks that all texts of a settings.json can be names of files, which some of them are.

    Raises:
        ValueError: One cannot.
    """
    if isinstance(value, dict):
        for each in value.values():
            _check_texts(each)
    elif isinstance(value, list):
        for each in value:
            _check_texts(each)
    elif isinstance(value, str) and "\0" in value:
        raise ValueError(f"its texts must have no character 0, and {cut(value)} has one")
    elif isinstance(value, str):
        os.fsencode(value)  # half a character of UTF-16 is a ValueError


def _check_owner(*paths: Path) -> None:
    """Checks that places of a run are of the user who continues it, which runs code from Ray's files there.

    Raises:
        RunFolderError: It is of somebody else.
    """
    for path in paths:
        # Root owns the mount points of shared disks, and can do on this machine whatever it likes.
        if path.exists() and path.stat().st_uid not in (os.getuid(), 0):
            raise RunFolderError(
                f"a run that is continued must belong to you, because Ray's files in it can run any code, and {path} "
                f"belongs to user {path.stat().st_uid}: pass --trust if you trust that user, or start another search"
            )
