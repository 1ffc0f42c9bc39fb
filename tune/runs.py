"""The folder of a run: its paths, how it is made and resumed, and files that are written completely or not at all."""

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trbert.errors import InputError, RunFolderError
from trbert.files import write_whole
from trbert.wording import pasted
from tune.settings import Search, Settings, from_json, search_from_json, to_json

LONGEST_NAME = 200
"""The most bytes of a run's name. Folders of a shared storage have longer ones, and the system allows 255 bytes."""
_VERSIONS_OF = ("torch", "transformers", "ray", "datasets", "gymnasium", "optuna", "numpy", "safetensors")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run.

    Attributes:
        path: `runs/<name>`.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """The file with everything that the user asked for, and with the versions of the packages."""
        return self.path / "settings.json"

    @property
    def front_table(self) -> Path:
        """The table of the points, one row for each."""
        return self.path / "front.csv"

    @property
    def front_picture(self) -> Path:
        """The picture of the front."""
        return self.path / "front.png"

    @property
    def baselines(self) -> Path:
        """The file with the figures of the teacher and of its baselines."""
        return self.path / "baselines.json"

    @property
    def models(self) -> Path:
        """The folder of the models: one folder for each trained model, and one for the teacher."""
        return self.path / "models"

    @property
    def trials(self) -> Path:
        """Ray Tune's own folder, from which a resumed search continues."""
        return self.path / "trials"


def check_new(folder: RunFolder) -> None:
    """Checks that a folder is free for a new run.

    Raises:
        RunFolderError: The folder holds a run or other files already.
    """
    if folder.settings.exists():
        raise RunFolderError(
            f"run folder {folder.path} must not exist yet, and does: choose another --name, "
            f"or continue it with --resume {pasted(folder.path)}"
        )
    if folder.path.is_dir() and any(folder.path.iterdir()):
        raise RunFolderError(f"run folder {folder.path} holds other files: choose another --name, or empty it")


def make_run(folder: RunFolder) -> None:
    """Makes the folder of a new run.

    Raises:
        RunFolderError: The folder holds a run or other files already, or cannot be made.
    """
    check_new(folder)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(folder, error) from error


def make_free_run(runs: Path, wanted: str) -> RunFolder:
    """Makes the folder of a new run under the first free name, which no other search can take at the same time.

    Args:
        runs: the folder of all runs.
        wanted: the first name; the next ones are wanted-2, wanted-3 and so on.

    Raises:
        RunFolderError: The folder cannot be made.
    """
    while True:
        folder = RunFolder(runs / free_name(runs, wanted))
        try:
            folder.path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_be_made(folder, error) from error
        return folder


def _cannot_be_made(folder: RunFolder, error: OSError) -> RunFolderError:
    return RunFolderError(f"run folder {folder.path} cannot be made ({error.strerror}): choose another --runs")


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Keeps other searches from this run for as long as it lasts. The folder must exist.

    Raises:
        RunFolderError: Another search has this run.
    """
    import fcntl  # not everywhere, and looking at results needs none

    handle = os.open(folder.path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                f"run folder {folder.path} must be of one search at a time, and another search is using it: wait "
                "until that search has ended, or start one under another --name"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
                raise  # else it is a file system that has no locks
        yield
    finally:
        os.close(handle)


def free_name(runs: Path, wanted: str) -> str:
    """Returns the wanted name, or the first of wanted-2, wanted-3 and so on that no run has yet."""
    names = [wanted, *(f"{wanted}-{number}" for number in range(2, 10_000))]
    return next(name for name in names if not os.path.lexists(runs / name))


def check_name(name: str) -> None:
    """Checks the name that a user gives to a run.

    Raises:
        InputError: The name is not that of a folder in the folder of all runs, or is too long.
    """
    if (size := len(os.fsencode(name))) > LONGEST_NAME:
        raise InputError(
            f"--name must have at most {LONGEST_NAME} bytes, because other names are made of it, and has {size}: "
            "choose a shorter one"
        )
    if name in ("", ".", "..") or "/" in name or os.sep in name:
        raise InputError(
            f"--name must be the name of a folder, without '/', and is {name!r}: choose where it lies with --runs"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """The content of `settings.json`.

    Attributes:
        settings: the settings that the user asked for.
        search: everything else that the user asked for.
        fitted: the settings of a trial, with as many documents as the budget allows; None until they are computed.
        fingerprint: of the examples that the data and the model's tokenizer made; None until they are made.
    """

    settings: Settings
    search: Search
    fitted: Settings | None = None
    fingerprint: str | None = None


def write_run(folder: RunFolder, saved: SavedRun) -> None:
    """Writes a run's `settings.json`, with the versions of the packages that its results depend on."""
    values: dict[str, Any] = {"settings": to_json(saved.settings), "search": asdict(saved.search)}
    values["versions"] = versions()
    if saved.fitted is not None:
        values["fitted"] = to_json(saved.fitted)
    if saved.fingerprint is not None:
        values["fingerprint"] = saved.fingerprint
    write_json(folder.settings, values)


def existing_run(path: str) -> tuple[RunFolder, SavedRun]:
    """Returns a run's folder and what its `settings.json` says.

    Raises:
        RunFolderError: There is no run in this folder, or its settings cannot be read.
    """
    folder = RunFolder(Path(path))
    if not folder.settings.is_file():
        raise RunFolderError(
            f"{folder.path} must be the folder of a run, with a settings.json, and is not one: check --resume"
        )
    try:
        found = json.loads(folder.settings.read_text(encoding="utf-8"))
        if not all(isinstance(found[part], dict) for part in ("settings", "search")):
            raise TypeError("its settings are not JSON objects")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{folder.settings} cannot be read ({error}): start the search again under another --name"
        ) from error
    try:
        search = search_from_json(found["search"])
        settings = from_json(found["settings"])
        fitted, fingerprint = found.get("fitted"), found.get("fingerprint")
        if not isinstance(fitted, dict | None) or not isinstance(fingerprint, str | None):
            raise TypeError("its fitted settings or its fingerprint are of another type")
        fitted = None if fitted is None else from_json(fitted)
    except (TypeError, InputError) as error:
        raise RunFolderError(
            f"{folder.settings} was written by another version ({error}): start the search again under another --name"
        ) from error
    return folder, SavedRun(settings=settings, search=search, fitted=fitted, fingerprint=fingerprint)


def forget_run(folder: RunFolder) -> None:
    """Removes the folder of a run that stopped before it wrote any results, so that its name is free again."""
    if [path.name for path in folder.path.iterdir()] in ([folder.settings.name], []):
        folder.settings.unlink(missing_ok=True)
        folder.path.rmdir()


def write_json(path: Path, values: Any) -> None:
    """Writes values as a JSON file, completely or not at all."""
    write_whole(path, json.dumps(values, indent=2).encode())


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder, completely or not at all. An existing target is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        whole = Path(temporary) / "whole"
        shutil.copytree(source, whole)
        if target.exists():
            shutil.rmtree(target)
        os.replace(whole, target)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
