"""Files: how they get onto the disk whole or not at all, and whether a folder can be written."""

import contextlib
import errno
import filecmp
import io
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trbert.errors import InputError
from trbert.wording import reason


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, also if the machine loses its power meanwhile.

    A new file is written beside it, under a name that nobody else has, and moved to its place once it is on the disk.
    A symbolic link in its place is replaced, and not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    try:
        with named(path), beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Gives errors of the system the name of the file that is written, where they have none, as for a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_json(path: Path, values: Any) -> None:
    """Writes values as a JSON file, completely or not at all."""
    write_whole(path, json.dumps(values, indent=2).encode())


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk. A file that was moved there is lost without this."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some shared file systems cannot do this for a folder
            raise
    finally:
        os.close(handle)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder whole or not at all. An existing target is replaced, unless it holds the same already.

    The copy has the modes of new files and folders, whatever those of the source are.

    Raises:
        InputError: The source holds something that is neither a file nor a folder, such as a symbolic link.
    """
    if _same(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:100]}."))
    try:
        with named(target):
            _copy(source, made / "new")
        if os.path.lexists(target):
            os.replace(target, made / "old")
        os.replace(made / "new", target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    sync_folder(target.parent)


def _copy(source: Path, target: Path) -> None:
    """Copies a folder, and waits until it is on the disk."""
    target.mkdir()
    for entry in sorted(os.scandir(source), key=lambda each: each.name):
        if entry.is_dir(follow_symlinks=False):
            _copy(Path(entry.path), target / entry.name)
        elif entry.is_file(follow_symlinks=False):
            with Path(entry.path).open("rb") as old, (target / entry.name).open("wb") as new:
                shutil.copyfileobj(old, new)
                new.flush()
                os.fsync(new.fileno())
        else:
            raise InputError(
                f"a folder that is copied must hold files and folders alone, and {entry.path} is {kind_of(entry.path)}:"
                " remove it, or put the file itself there"
            )
    sync_folder(target)


def kind_of(path: str | Path) -> str:
    """Returns in words what lies at a path. A symbolic link is not followed."""
    mode = os.lstat(path).st_mode
    kinds = {
        "a symbolic link": stat.S_ISLNK,
        "a folder": stat.S_ISDIR,
        "a file": stat.S_ISREG,
        "a pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
    }
    return next((name for name, holds in kinds.items() if holds(mode)), "a device")


def open_plain(path: Path) -> io.BufferedReader:
    """Opens a file that somebody else may have put there, to read it.

    Raises:
        OSError: It cannot be opened, or is no file: a symbolic link is not followed, and a pipe is not waited for.
    """
    if (kind := kind_of(path)) != "a file":
        raise OSError(errno.EINVAL, f"it is {kind}")
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # in case it is another one by now
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | careful))


def read_plain(path: Path, most: int) -> bytes:
    """Returns the content of a file that somebody else may have written.

    Args:
        path: the file.
        most: the most bytes that it may have.

    Raises:
        OSError: It is larger, or `open_plain` does not open it.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content


def files_below(folder: Path) -> list[Path]:
    """Returns the paths, relative to a folder, of everything in it that is no folder, sorted. Links are not followed.

    Raises:
        OSError: A folder cannot be read, or there are more than 10,000 files and folders, or more than 16
            folders in each other.
    """
    found: list[Path] = []
    folders, seen = [Path()], 0
    while folders:
        inner = folders.pop()
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                seen += 1
                if seen > _MOST_ENTRIES or len(inner.parts) >= _DEEPEST:
                    raise OSError(errno.EFBIG, f"it has more than {_MOST_ENTRIES:,} files, or folders too deep")
                (folders if entry.is_dir(follow_symlinks=False) else found).append(inner / entry.name)
    return sorted(found)


_MOST_ENTRIES, _DEEPEST = 10_000, 16


def _same(source: Path, target: Path) -> bool:
    """Returns whether two folders hold the same files."""
    if target.is_symlink() or not target.is_dir():
        return False
    names = files_below(source)
    if names != files_below(target) or not all(
        (folder / name).is_file() for folder in (source, target) for name in names
    ):
        return False
    return all(filecmp.cmp(source / name, target / name, shallow=False) for name in names)


def why_not_writable(folder: Path) -> str | None:
    """Returns why files cannot be written in a folder, or None if they can. The folder need not exist yet.

    A folder is made and removed again, because permissions alone do not tell: a disk may be mounted to be read only, or
    may not take every name.
    """
    whole = Path(os.path.abspath(folder))
    try:
        there = _nearest(whole)
        with tempfile.TemporaryDirectory(dir=there, prefix=".trbert.") as made:
            inner = made / whole.relative_to(there)
            inner.mkdir(parents=True, exist_ok=True)
            (inner / "file").write_bytes(b"written")
    except OSError as error:
        return error.strerror or str(error)
    return None


def check_new_folder(out: Path, named: str) -> None:
    """Checks that a folder for what a command makes is new or empty, and can be written.

    Args:
        out: the folder.
        named: what the user wrote for --out.

    Raises:
        InputError: It is not.
    """
    if not named.strip():
        raise InputError(f"--out must be a folder that can be written, and is {named!r}: name a folder")
    try:
        kind = kind_of(out) if os.path.lexists(out) else "new"
        full = kind == "a folder" and any(out.iterdir())
        why = why_not_writable(out) if kind in ("new", "a folder") else None
    except OSError as error:
        kind, full, why = "new", False, reason(error)
    if full or kind not in ("new", "a folder"):
        found = "is not empty" if full else f"is {kind}"
        raise InputError(f"--out must be a new or an empty folder, and {named} {found}: name another folder")
    if why is not None:
        raise InputError(
            f"--out must be a folder that can be written, and {named} cannot be ({why}): name another folder"
        )


def free_bytes(folder: Path) -> int:
    """Returns the free bytes of the disk on which a folder lies, or will lie."""
    return shutil.disk_usage(_nearest(Path(os.path.abspath(folder)))).free


def _nearest(folder: Path) -> Path:
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
