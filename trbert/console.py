"""How a command talks: errors to exit codes."""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from trbert.errors import InputError, TrbertError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `InputError`s: one line, as every other mistake of the user's."""

    def error(self, message: str) -> NoReturn:
        """Raises argparse's message as an InputError."""
        raise InputError(f"{message}: see {self.prog} --help")


def exit_code(run: Callable[[], None], verbose: bool) -> int:
    """Runs a command; returns its exit code, and says on stderr in one line what went wrong.

    0: all is well. 1: a full disk, or a fault of the program. 2: the user's mistake (any `TrbertError`).
    130: Ctrl-C; the text of the `KeyboardInterrupt`, if any, says how to go on. A closed pipe (`… | head`) is silent.

    Args:
        run: the command.
        verbose: print the traceback too.
    """
    try:
        run()
        sys.stdout.flush()  # a closed pipe shows here, not at the interpreter's exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        return _complain(error, f"interrupted: {error}" if str(error) else "interrupted", 130, verbose)
    except TrbertError as error:
        return _complain(error, f"error: {error}", 2, verbose)
    # The one place where nothing may pass: what is swallowed here is said, and shown with --verbose.
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
        traceback.print_exception(error, file=sys.stderr)
    print(" ".join(message.split()), file=sys.stderr)
    return code


def disk_full(error: BaseException) -> BaseException | None:
    """Returns the error in a chain of causes that tells of a full disk; libraries wrap it in errors of their own."""
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
