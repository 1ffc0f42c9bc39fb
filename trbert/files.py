"""Files: how to write one so that it is never half written, where one can be written, and the folder of the cache."""

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Returns the folder of files that trbert can make again: `$TRBERT_CACHE`, or else `~/.cache/trbert`."""
    chosen = os.environ.get("TRBERT_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "trbert"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: first a new file beside it, which is then moved to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def why_not_writable(folder: Path) -> str | None:
    """Returns why files cannot be written in a folder, or None if they can. The folder need not exist yet.

    A folder is made and removed again, because permissions alone do not tell: a disk may be mounted to be read only, or
    may not take every name.
    """
    whole = Path(os.path.abspath(folder))
    try:
        there = nearest_folder(whole)
        with tempfile.TemporaryDirectory(dir=there, prefix=".trbert.") as made:
            inner = made / whole.relative_to(there)
            inner.mkdir(parents=True, exist_ok=True)
            (inner / "file").write_bytes(b"written")
    except OSError as error:
        return error.strerror or str(error)
    return None


def nearest_folder(folder: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists.

    Raises:
        OSError: What exists is not a folder, or a name is too long.
    """
    for each in (folder, *folder.parents):
        try:
            each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not each.is_dir():
            raise NotADirectoryError(0, f"{each} is not a folder")
        return each
    raise FileNotFoundError(0, "the folder above it does not exist")
