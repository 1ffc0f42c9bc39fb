"""Locks: one process at a time, the others are told which, and none outlives its process."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from trbert.disk.locks import Taken, locked

HOLDS = """
import sys, time
from pathlib import Path
from trbert.disk.locks import locked
with locked(Path(sys.argv[1]), lambda holder: print("waits", holder, flush=True)):
    print("has it", flush=True)
    time.sleep(float(sys.argv[2]))
print("ended", time.time(), flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def holder(path):
    """A function: starts another process that holds the lock for some seconds; returns it once it has or waits."""
    started = []

    def start(seconds=60.0, first="has it"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        line = process.stdout.readline()
        assert line.startswith(first), line
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_lock_names_the_process_that_holds_it_and_since_when(path, holder):
    process = holder()
    told = rf"^process {process.pid} on {re.escape(socket.gethostname())}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$"
    with pytest.raises(Taken, match=told), locked(path):
        pass


def test_the_lock_of_a_process_that_was_killed_is_free_at_once(path, holder):
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()  # what it wrote is still there
    with locked(path):
        assert f'"pid": {os.getpid()}' in path.read_text()


def test_no_file_is_left(path):
    with locked(path):
        assert path.exists()
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), locked(path):
        _ = 1 / 0
    assert not path.exists()


def test_one_that_was_refused_leaves_the_holders_file(path):
    with locked(path):
        with pytest.raises(Taken), locked(path):
            pass
        assert path.exists()


def test_a_symbolic_link_is_not_followed(path, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    path.symlink_to(precious)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)), locked(path):
        pass
    assert precious.read_text() == "mine"


@pytest.mark.slow
def test_processes_that_wait_get_it_one_after_the_other(path, holder):
    first = holder()
    waiting = [holder(0.5, first="waits process"), holder(0.5, first="waits process")]
    first.kill()
    ends = []
    for process in waiting:
        words = process.communicate(timeout=60)[0].split()
        assert process.returncode == 0
        assert words.count("waits") == 0  # it said so once
        ends.append(float(words[-1]))
    assert abs(ends[0] - ends[1]) > 0.4  # never both at once
    assert not path.exists()


def test_one_that_waits_says_once_for_whom(path, monkeypatch):
    told, polls = [], []
    with locked(path):
        monkeypatch.setattr(time, "sleep", lambda seconds: polls.append(seconds) or (len(polls) > 2 and 1 / 0))
        with pytest.raises(ZeroDivisionError), locked(path, told.append):
            pass
    assert len(polls) == 3
    assert [text.startswith(f"process {os.getpid()} on ") for text in told] == [True]


def test_a_file_that_its_holder_has_removed_meanwhile_is_no_lock(path, monkeypatch):
    real, tries = fcntl.flock, []

    def removed_just_before(handle, how):
        if not tries:
            path.unlink()
        tries.append(handle)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", removed_just_before)
    with locked(path):
        assert path.exists()
        assert len(tries) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_on_a_disk_without_locks_nothing_is_locked(path, monkeypatch, number):
    def refuse(handle, how):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(path), locked(path):
        pass


def test_another_error_of_the_disk_is_not_taken_for_one_without_locks(path, monkeypatch):
    def refuse(handle, how):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="broken"), locked(path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x", "host": 1, "since": 2}', b"\xff" * 2000])
def test_a_lock_that_says_nothing_is_held_by_another_process(path, content):
    with locked(path):
        path.write_bytes(content)
        with pytest.raises(Taken, match=r"^another process$"), locked(path):
            pass
