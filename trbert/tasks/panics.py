"""Panics of libraries in Rust, such as that of the tokenizers: they become errors, and print nothing."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from trbert.wording import first_line


class Panicked(ValueError):
    """A library in Rust met what it does not expect, such as a file that somebody wrote by hand."""


@contextlib.contextmanager
def panics_told() -> Iterator[None]:
    """Turns a panic within it into a `Panicked`.

    A panic itself is no Exception, and the library prints a report of it to the process's stderr. So what is printed
    there is kept back until the end, and printed then if nothing has panicked.

    Raises:
        Panicked: A library has panicked.
    """
    try:
        kept = os.dup(2)
    except OSError:  # the process has no stderr
        kept = None
    with tempfile.TemporaryFile() as said:
        if kept is not None:
            os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # pyo3 has no name for its class that could be imported
                raise
            said.seek(0)
            said.truncate()
            raise Panicked(f"a panic: {first_line(error)}") from error
        finally:
            if kept is not None:
                os.dup2(kept, 2)
                said.seek(0)
                os.write(kept, said.read())
                os.close(kept)
