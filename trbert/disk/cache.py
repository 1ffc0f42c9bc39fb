"""The cache: files that trbert can make again. Each has a checksum, and the oldest are forgotten."""

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trbert.disk.files import kind_of, open_plain, write_whole
from trbert.disk.locks import locked
from trbert.errors import InputError
from trbert.limits import parse_size

SUFFIX = ".cached"
"""The end of the name of every entry."""
SIZE = "20GB"
"""The size of the cache if TRBERT_CACHE_SIZE is not set."""


def cache_folder() -> Path:
    """Returns the folder of files that trbert can make again: `$TRBERT_CACHE`, or else `~/.cache/trbert`."""
    chosen = os.environ.get("TRBERT_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "trbert"


def cache_size() -> int:
    """Returns the most bytes of all entries together: `$TRBERT_CACHE_SIZE`, such as 500MB, or else `SIZE`.

    Raises:
        InputError: It is not a size.
    """
    return parse_size(os.environ.get("TRBERT_CACHE_SIZE") or SIZE, "TRBERT_CACHE_SIZE")


def why_not_trusted(folder: Path) -> str | None:
    """Returns why what lies in the cache's folder may be of somebody else, or None if it cannot.

    Args:
        folder: the folder; it need not exist.
    """
    try:
        found = folder.stat()
    except OSError:
        return None
    if found.st_uid != os.getuid():
        return "it belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users may write there, which `chmod go-w {folder}` ends"
    return None


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache.

    Attributes:
        kind: the folder that it lies in, such as "teachers".
        key: a digest of everything that its content depends on.
    """

    kind: str
    key: str

    @property
    def path(self) -> Path:
        """The file: a line with the SHA-256 of the content, and the content."""
        return cache_folder() / self.kind / f"{self.key}{SUFFIX}"

    @contextlib.contextmanager
    def held(self, waiting: Callable[[str], None]) -> Iterator[None]:
        """Keeps other processes from making the same entry.

        Args:
            waiting: is called, with a text that names the process, if another one is making it. It is then waited for.
        """
        self._make_folder()
        with locked(self.path.with_suffix(".lock"), waiting):
            yield

    def read(self) -> bytes | None:
        """Returns the content; None if there is none, or if it is damaged or of another user."""
        try:
            opened = open_plain(self.path)
        except OSError:
            return None
        with opened as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            checksum, content = file.readline(100), file.read()
        if checksum.strip() != hashlib.sha256(content).hexdigest().encode():
            return None
        now = time.time()
        with contextlib.suppress(OSError):  # it is only the oldest entry's age that depends on this
            os.utime(self.path, (now, now))
        return content

    def write(self, content: bytes) -> None:
        """Writes the content, completely or not at all, and removes the oldest entries of a cache that is too large."""
        self._make_folder()
        write_whole(self.path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        _forget_oldest(keep=self.path)

    def _make_folder(self) -> None:
        """Makes the folder of the entry, for this user alone.

        Raises:
            InputError: The cache is one that other users may write to, or something else lies in its place.
        """
        top = cache_folder()
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (why := why_not_trusted(top)) is not None:
            raise InputError(
                f"the cache folder {top} must be a folder that you alone can write, and is not ({why}): name another "
                "one in the environment, TRBERT_CACHE=/a/folder"
            )
        folder = self.path.parent
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if folder.is_symlink() or not folder.is_dir():
            raise InputError(f"{folder} must be a folder of the cache, and is {kind_of(folder)}: remove it")


def _forget_oldest(keep: Path) -> None:
    """Removes the entries that were not used for longest, until all are smaller than `cache_size`, but not `keep`."""
    found = []
    for path in cache_folder().glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            state = path.lstat()
            found.append((path != keep, state.st_mtime, state.st_size, path))
    left, most = sum(size for _, _, size, _ in found), cache_size()
    for removable, _, size, path in sorted(found, key=lambda each: each[1]):
        if left > most and removable:
            path.unlink(missing_ok=True)
            left -= size
