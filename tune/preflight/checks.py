"""The list of what is checked before the first training step, and in a dry run too. Ray and torch are not loaded."""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from trbert.disk.cache import cache_folder, cache_size, why_not_trusted
from trbert.disk.files import free_bytes, why_not_writable
from trbert.errors import InputError, RunFolderError
from trbert.wording import first_line
from tune.preflight.address import check_form
from tune.preflight.places import files_of, why_not_readable
from tune.runs.folder import RunFolder
from tune.runs.places import is_uri
from tune.settings import Search, Settings

Check = Callable[[Settings, Search, RunFolder], str | None]
"""A check raises an error if the search cannot be run. It returns a warning, or None if all is well."""

LEAST_FREE = 1 << 30
"""Free bytes below which a warning is given: the checkpoints of a small encoder in a short search take that much."""
MODELS_KEPT = 8
"""How many times a disk must hold the model: the trials' checkpoints have optimiser states, and the front is kept."""
LEAST_FILES = 256
"""Open files with which a search was seen to run. Ray opens some for each process."""
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Bytes that the path of a socket may have."""
RAY_SOCKET = "/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
"""The longest path of a socket that Ray makes below its temporary folder."""
_OPTIONS = {
    "model": "--model",
    "data.source": "--data",
    "data.unlabelled": "--unlabelled",
    "data.label_map": "--label-map",
    "select.latency_table": "--latency-table",
}


def run_checks(settings: Settings, search: Search, folder: RunFolder) -> list[str]:
    """Makes every check of the list, and returns the warnings.

    Args:
        settings: of the run.
        search: what else the user asked for.
        folder: of the run, which need not exist yet.

    Raises:
        InputError: A file, an address or a folder that the user named cannot be used.
        RunFolderError: The run folder cannot be written.
    """
    notes = (check(settings, search, folder) for check in CHECKS)
    return [note for note in notes if note is not None]


def check_run_folder(settings: Settings, search: Search, folder: RunFolder) -> None:
    """Checks that the run's folder can be written."""
    if (why := why_not_writable(folder.path)) is not None:
        raise RunFolderError(
            f"run folder {folder.path} must be a folder that can be written, and is not ({why}): choose another --runs"
        )


def check_storage(settings: Settings, search: Search, folder: RunFolder) -> None:
    """Checks that the place of the trials' checkpoints, if the user named one, can be written."""
    place = search.storage
    if place is None:
        return
    why = _why_no_storage(place) if is_uri(place) else why_not_writable(Path(place))
    if why is not None:
        raise InputError(
            f"--storage must be a folder or a URI (s3://bucket/folder) that can be written, and {place} cannot be "
            f"({why}): choose another, or leave it out to use the run folder"
        )


def _is_resumed(folder: RunFolder) -> bool:
    return folder.settings.exists()


def _why_no_storage(uri: str) -> str | None:
    import pyarrow.fs  # takes a part of a second, and most searches have no such storage

    try:
        files, path = pyarrow.fs.FileSystem.from_uri(uri)
        if isinstance(files, pyarrow.fs.LocalFileSystem):
            return why_not_writable(Path(path))
        probe = f"{path}/.trbert-{os.getpid()}"
        with files.open_output_stream(probe) as stream:
            stream.write(b"written")
        files.delete_file(probe)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        return first_line(error)
    return None


def check_cache(settings: Settings, search: Search, folder: RunFolder) -> None:
    """Checks that the teacher can be kept in the cache. On a cluster other machines keep it."""
    cache_size()
    if search.address is not None:
        return
    try:
        place = cache_folder()
        why = why_not_trusted(place) or why_not_writable(place)
    except RuntimeError as error:  # there is no home folder
        place, why = Path("~/.cache/trbert"), str(error)
    if why is not None:
        raise InputError(
            f"the cache folder {place} must be a folder that you alone can write, and is not ({why}): name another one "
            "in the environment, TRBERT_CACHE=/a/folder"
        )


def check_free_space(settings: Settings, search: Search, folder: RunFolder) -> str | None:
    """Returns a warning if a disk has little space for the models."""
    model = Path(os.path.expanduser(settings.model))
    weights = [*model.glob("*.safetensors"), *model.glob("*.bin")] if os.path.isdir(model) else []
    needed = max(LEAST_FREE, MODELS_KEPT * sum(os.path.getsize(file) for file in weights if os.path.isfile(file)))
    places = {folder.path: "--runs"}
    if search.address is None:
        places[cache_folder()] = "TRBERT_CACHE"
    if search.storage is not None and not is_uri(search.storage):
        places[Path(search.storage)] = "--storage"
    for place, name in places.items():
        free = free_bytes(place)
        if free < needed:
            return (
                f"the disk of {place} has {free / 1e9:.1f} GB free, and the models may need {needed / 1e9:.1f} GB: "
                f"free some space, or choose another disk with {name}"
            )
    return None


def check_sockets(settings: Settings, search: Search, folder: RunFolder) -> None:
    """Checks that Ray can make its sockets and its logs on this machine."""
    if search.address is not None:
        return
    names = ("RAY_TMPDIR", "TMPDIR") if sys.platform.startswith("linux") else ("RAY_TMPDIR",)
    name = next((each for each in names if each in os.environ), None)
    place = os.environ[name] if name else "/tmp"
    if not os.path.isabs(place):
        raise InputError(
            f"{name} must be a path that begins with '/', because Ray's processes have several working folders, and is "
            f"{place!r}: name another folder, RAY_TMPDIR=/tmp/ray"
        )
    most = SOCKET_BYTES - len(RAY_SOCKET)
    found = len(os.fsencode(place))
    if found > most:
        raise InputError(
            f"{name} must be a path of at most {most} bytes, because Ray makes its sockets below it, and has {found} "
            f"bytes ({place}): name a shorter folder, RAY_TMPDIR=/tmp/ray"
        )
    if (why := why_not_writable(Path(place))) is not None:
        raise InputError(
            f"{name or 'the temporary folder'} must be a folder that can be written, and {place} cannot be ({why}): "
            "name another one, RAY_TMPDIR=/a/folder"
        )


def check_address(settings: Settings, search: Search, folder: RunFolder) -> None:
    """Checks the form of a cluster's address. Whether a cluster answers there is asked when the search is planned."""
    if search.address is not None:
        check_form(search.address)


def check_files(settings: Settings, search: Search, folder: RunFolder) -> None:
    """Checks that the files and folders that the user named can be read, again and again.

    Those that a run was started with have absolute paths. They must still be there when it is resumed.
    """
    for setting, names in files_of(settings).items():
        for name in names:
            if _is_resumed(folder) and os.path.isabs(name) and "=" not in name and not os.path.lexists(name):
                raise InputError(
                    f"a resumed search must find what it started with, and {name} is missing: put it back there, or "
                    "start another search"
                )
            if (why := why_not_readable(Path(os.path.expanduser(name)))) is not None:
                raise InputError(f"{_OPTIONS[setting]} must name files or folders that can be read, and {name} {why}")


def check_open_files(settings: Settings, search: Search, folder: RunFolder) -> str | None:
    """Returns a warning if processes may open very few files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= LEAST_FILES:
        return None
    return f"a process may have only {most} files open, and Ray needs some hundred: raise the limit (ulimit -Hn)"


CHECKS: tuple[Check, ...] = (
    check_address,
    check_sockets,
    check_run_folder,
    check_storage,
    check_cache,
    check_files,
    check_free_space,
    check_open_files,
)
"""Every check, in the order in which they are made."""
