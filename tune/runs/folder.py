"""The folder of a run: its paths, how it is made, and how one search at a time has it."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trbert.disk.locks import Taken, locked
from trbert.errors import InputError, RunFolderError
from trbert.wording import pasted

LONGEST_NAME = 200
"""The most bytes of a run's name. Folders of a shared storage have longer ones, and the system allows 255 bytes."""


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
    def lock(self) -> Path:
        """The file that says which search has the run at present; it is there only as long as one has it."""
        return self.path / "lock"

    @property
    def study(self) -> Path:
        """Optuna's record of the configurations that were tried."""
        return self.path / "study.log"

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
    if folder.path.is_dir() and any(path != folder.lock for path in folder.path.iterdir()):
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
    """Keeps other searches from this run for as long as the context lasts. The folder must exist.

    Raises:
        RunFolderError: Another search has this run.
    """
    try:
        with locked(folder.lock):
            yield
    except Taken as error:
        raise RunFolderError(
            f"run folder {folder.path} must be of one search at a time, and another search is using it ({error}): wait "
            "until that search has ended, or start one under another --name"
        ) from None


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


def forget_run(folder: RunFolder) -> None:
    """Removes the folder of a run that stopped before it wrote any results, so that its name is free again."""
    if {path.name for path in folder.path.iterdir()} <= {folder.settings.name, folder.lock.name}:
        folder.settings.unlink(missing_ok=True)
        folder.lock.unlink(missing_ok=True)
        folder.path.rmdir()
