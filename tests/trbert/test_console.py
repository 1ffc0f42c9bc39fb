"""How a command talks: one line on stderr, and the exit code."""

import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trbert.console import Parser, _causes, disk_full, exit_code
from trbert.errors import InputError, RunFolderError

ROOT = Path(__file__).resolve().parents[2]


def failing(error, cause=None):
    def run():
        raise error from cause

    return run


FULL = OSError(errno.ENOSPC, "No space left on device", "runs/default/front.csv")


@pytest.mark.parametrize(
    ("error", "cause", "code", "told"),
    [
        (InputError("seed must be whole,\nand is 1.5"), None, 2, "error: seed must be whole, and is 1.5"),
        (RunFolderError("it exists: pass --name"), None, 2, "error: it exists: pass --name"),
        (KeyboardInterrupt(), None, 130, "interrupted"),
        (KeyboardInterrupt("go on with --resume x"), None, 130, "interrupted: go on with --resume x"),
        (
            FULL,
            None,
            1,
            "error: disk full while writing runs/default/front.csv: free space, then resume or start again",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            None,
            1,
            "error: disk full: free space, then resume or start again",
        ),
        (
            RuntimeError("cannot save"),
            FULL,
            1,
            "error: disk full while writing runs/default/front.csv: free space, then resume or start again",
        ),
        (
            ValueError("I/O: No space left on device (os error 28)"),
            None,
            1,
            "error: disk full: free space, then resume or start again",
        ),
        (
            ZeroDivisionError("division by zero"),
            None,
            1,
            "error: ZeroDivisionError: division by zero (run again with --verbose for the traceback)",
        ),
        (AssertionError(), None, 1, "error: AssertionError (run again with --verbose for the traceback)"),
        (
            OSError(errno.EACCES, "Permission denied", "x"),
            None,
            1,
            "error: PermissionError: [Errno 13] Permission denied: 'x' (run again with --verbose for the traceback)",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code_and_a_traceback_only_when_verbose(capsys, error, cause, code, told):
    assert exit_code(failing(error, cause), verbose=False) == code
    assert capsys.readouterr() == ("", told + "\n")
    assert exit_code(failing(error, cause), verbose=True) == code
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") or "\nTraceback" in shown
    assert shown.endswith(told + "\n")


def test_a_command_that_does_well_is_silent_and_0(capsys):
    assert exit_code(lambda: None, verbose=True) == 0
    assert capsys.readouterr() == ("", "")


def test_the_help_still_leaves_by_itself():
    with pytest.raises(SystemExit) as left:
        exit_code(lambda: Parser("search").parse_args(["--help"]) and None, verbose=False)
    assert left.value.code == 0


def test_a_wrong_argument_is_an_input_error():
    with pytest.raises(InputError, match=r"^unrecognized arguments: --nmae: see search --help$"):
        Parser("search").parse_args(["--nmae"])


# One line stays in the buffer until the end; a hundred thousand meet the closed pipe while they are printed.
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_is_silent(lines):
    source = (
        "import sys; from trbert.console import exit_code; sys.stdin.readline(); "
        f"sys.exit(exit_code(lambda: [print('line') for _ in range({lines})] and None, verbose=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdout = None
    _, told = process.communicate(b"go on\n", timeout=60)
    assert (told, process.returncode) == (b"", 1)


def test_an_error_raised_while_a_full_disk_was_handled_tells_of_the_disk_unless_it_says_otherwise():
    def failed(hides):
        try:
            try:
                raise FULL
            except OSError:
                if hides:
                    raise ValueError("another matter") from None
                raise ValueError("cannot save")  # noqa: B904
        except ValueError as error:
            return error

    assert disk_full(failed(hides=False)) is FULL
    assert disk_full(failed(hides=True)) is None


def test_errors_that_cause_each_other_come_to_an_end():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(itertools.islice(_causes(first), 5)) == [first, second]


SLEEPER = """
import signal, sys, time
from trbert.console import end_on_sigterm, exit_code

def run():
    if "taken" in sys.argv:  # as Ray takes it
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        end_on_sigterm()
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        if "hint" in sys.argv:
            raise KeyboardInterrupt("continue so") from None
        raise KeyboardInterrupt from None  # as Ray raises its own

sys.exit(exit_code(run, verbose=False))
"""


@pytest.mark.parametrize(
    ("words", "told"), [([], b"terminated\n"), (["hint"], b"terminated: continue so\n"), (["taken"], b"terminated\n")]
)
def test_sigterm_ends_a_command_as_ctrl_c_does_with_a_code_of_its_own(words, told):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert (process.communicate(timeout=60), process.returncode) == ((b"", told), 143)


def test_after_a_command_sigterm_does_what_it_did_before():
    before = signal.getsignal(signal.SIGTERM)
    exit_code(lambda: None, verbose=False)
    assert signal.getsignal(signal.SIGTERM) is before
    assert exit_code(lambda: signal.raise_signal(signal.SIGTERM), verbose=False) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert exit_code(failing(KeyboardInterrupt()), verbose=False) == 130
