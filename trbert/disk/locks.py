"""Locks: a thing is done by one process at a time, and the others are told by which."""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.2
"""Seconds between two attempts to get a lock that another process holds."""
_WITHOUT_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
"""The errors of file systems that have no locks. There nothing is locked."""


class Taken(Exception):
    """Another process holds a lock. Its text says which one, and since when."""


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a lock for as long as the context lasts.

    The lock is the system's own lock on a file, which says who holds it. The system takes the lock from a process that
    ends, however it ends, so that no lock outlives its process. The file is removed at the end.

    Args:
        path: the file. The folder that it lies in must exist.
        waiting: is called once, with the text of `Taken`, if another process holds the lock. The lock is then waited
            for.

    Raises:
        Taken: Another process holds the lock, and `waiting` is None.
    """
    handle = _open(path, waiting)
    try:
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(holder).encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while the lock is held, so that nobody's own lock file is removed
        os.close(handle)


def _open(path: Path, waiting: Callable[[str], None] | None) -> int:
    """Returns the handle of the file, which this process has locked."""
    told = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if _lock(handle):
            if _is_at(handle, path):
                return handle
            os.close(handle)  # its holder has removed it meanwhile: another process may hold the lock of a new file
            continue
        holder = _holder(handle)
        os.close(handle)
        if waiting is None:
            raise Taken(holder)
        if not told:
            waiting(holder)
            told = True
        time.sleep(POLL_S)


def _lock(handle: int) -> bool:
    import fcntl  # not everywhere, and looking at results needs none

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Returns in words which process holds the lock of a file, and since when."""
    try:
        found = json.loads(os.pread(handle, 1000, 0))
        return f"process {int(found['pid'])} on {found['host']!s:.100}, since {found['since']!s:.30}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # which has just begun to write it
