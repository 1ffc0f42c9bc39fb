"""The check of a run's files: whether each is as the search wrote it, and what is lost where one is not."""

import os
from collections.abc import Callable, Iterator
from functools import partial

from trbert.disk.checksums import check_checksums
from trbert.disk.files import kind_of
from trbert.errors import DamagedCheckpoint, RunFolderError, TrbertError
from trbert.wording import printable, the_first
from tune.results.models import model_folder
from tune.results.standing_file import read_standing
from tune.results.table import read_front
from tune.runs.folder import RunFolder
from tune.runs.record import read_settings


def check_run(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Checks a run's table, settings, baselines and models.

    Args:
        folder: of the run.
        say: is called with a line for each file and each model.

    Raises:
        DamagedCheckpoint: Something is damaged; the message names it.
        RunFolderError: There is no such folder.
    """
    if not os.path.isdir(folder.path):
        raise RunFolderError(f"run folder {folder.path} does not exist: pass one that tune/search.py wrote")
    damaged: list[str] = []
    checks = [*_file_checks(folder), *_model_checks(folder)]
    for name, check in checks:
        try:
            check()
            say(f"whole    {printable(name)}")
        except TrbertError as error:
            say(f"damaged  {printable(name)}: {printable(str(error))}")
            damaged.append(name)
    if damaged:
        raise DamagedCheckpoint(
            f"{folder.path} must be as the search wrote it, and {len(damaged)} of {len(checks)} of its parts are not "
            f"({the_first(10, damaged)}): {' '.join(_lost(damaged))}"
        )


def _lost(damaged: list[str]) -> Iterator[str]:
    """Yields sentences that say what is lost, and what to do."""
    if "front.csv" in damaged:
        yield "without front.csv there is no table and no pick, and the models can still be loaded;"
    if "settings.json" in damaged:
        yield "without settings.json the search cannot be resumed;"
    if "baselines.json" in damaged:
        yield "without baselines.json, once it is removed, the table has no baselines;"
    if any(name.startswith("models/") for name in damaged):
        yield "the models that are damaged must not be used, and the others can;"
    yield "copy what is damaged back, or search again"


def _file_checks(folder: RunFolder) -> Iterator[tuple[str, Callable[[], object]]]:
    yield folder.front_table.name, lambda: read_front(folder.front_table)
    yield folder.settings.name, lambda: read_settings(folder.settings)
    if os.path.lexists(folder.baselines):
        yield folder.baselines.name, lambda: read_standing(folder.baselines)


def _model_checks(folder: RunFolder) -> Iterator[tuple[str, Callable[[], object]]]:
    for name in sorted(_models(folder)):
        yield name, partial(_check_model, folder, name)


def _check_model(folder: RunFolder, name: str) -> None:
    check_checksums(model_folder(folder.path, name))


def _models(folder: RunFolder) -> set[str]:
    """Returns the models that the table names, and those that there are."""
    try:
        found = {point.model for point in read_front(folder.front_table) if point.model}
    except TrbertError:
        found = {"models/teacher"}
    try:
        if kind_of(folder.models) == "a folder":  # else each model says what it is
            found |= {f"models/{name}" for name in os.listdir(folder.models) if not name.startswith(".")}
    except OSError:
        pass  # as above
    return found
