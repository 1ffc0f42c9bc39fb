"""How a command ends: errors become exit codes and messages on stderr."""

import argparse
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from trbert.errors import InputError, TrbertError
from trbert.wording import printable

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises an `InputError` for wrong arguments, which is reported as any other mistake."""

    def error(self, message: str) -> NoReturn:
        """Raises argparse's message as an InputError."""
        raise InputError(f"{message}: see {self.prog} --help")

    def add_version(self, version: str) -> None:
        """Adds the option --version, which prints the version of trbert and ends the command."""
        self.add_argument("--version", action="version", version=f"trbert {version}", help="print the version")


def end_on_sigterm() -> None:
    """Lets SIGTERM, with which batch systems and containers end a process, do the same as Ctrl-C.

    It is called again after `ray.init`, which takes the signal for itself.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the end
    raise KeyboardInterrupt


def _was_terminated() -> bool:
    # An error of our own would not tell: Ray waits in C++, and raises a new KeyboardInterrupt after any signal.
    return signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def exit_code(run: Callable[[], None], verbose: bool) -> int:
    """Runs a command, prints one line on stderr if it fails, and returns its exit code.

    | code | meaning |
    |---|---|
    | 0 | the command succeeded |
    | 1 | the disk is full, or the program has a fault; without a message: the output's reader has gone (`… | head`) |
    | 2 | the user made a mistake (any `TrbertError`) |
    | 130 | the user pressed Ctrl-C; the text of the `KeyboardInterrupt`, if it has one, says how to continue |
    | 143 | the process got SIGTERM; the rest is as for Ctrl-C |

    Args:
        run: the command.
        verbose: whether to print the traceback, too.
    """
    before = signal.getsignal(signal.SIGTERM)
    end_on_sigterm()
    try:
        return _code_of(run, verbose)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _code_of(run: Callable[[], None], verbose: bool) -> int:
    try:
        run()
        sys.stdout.flush()  # so that a closed pipe raises its error here, and not when the interpreter ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        what, code = ("terminated", 143) if _was_terminated() else ("interrupted", 130)
        return _complain(error, f"{what}: {error}" if str(error) else what, code, verbose)
    except TrbertError as error:
        return _complain(error, f"error: {error}", 2, verbose)
    # This is the only place that catches every exception. It prints each, and its traceback with --verbose.
    except Exception as error:
        full = disk_full(error)
        if full is not None:
            where = getattr(full, "filename", None)
            place = f" while writing {where}" if where else ""
            return _complain(error, f"error: disk full{place}: free space, then resume or start again", 1, verbose)
        fault = f"{type(error).__name__}: {error}".removesuffix(": ")
        return _complain(error, f"error: {fault} (run again with --verbose for the traceback)", 1, verbose)
    return 0


def _complain(error: BaseException, message: str, code: int, verbose: bool) -> int:
    if verbose:
        lines = "".join(traceback.format_exception(error)).splitlines()
        print("\n".join(map(printable, lines)), file=sys.stderr)
    # A message may quote a file that somebody else wrote.
    print(printable(" ".join(message.split())), file=sys.stderr)
    return code


def disk_full(error: BaseException) -> BaseException | None:
    """Returns the error that says that the disk is full, or None.

    It may be a cause of the given error, because libraries raise their own errors from it.
    """
    for each in _causes(error):
        if isinstance(each, OSError) and each.errno in _DISK_FULL:
            return each
        if os.strerror(errno.ENOSPC) in str(each):
            return each
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
