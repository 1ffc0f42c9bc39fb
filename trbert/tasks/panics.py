"""What libraries in Rust, such as the tokenizers, do beside raising errors: they panic, and print what they like."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from trbert.errors import InputError
from trbert.wording import first_line, printable


class Panicked(ValueError):
    """A library in Rust met what it does not expect, such as a file that somebody wrote by hand."""


@contextlib.contextmanager
def panics_told() -> Iterator[None]:
    """Turns a panic within it into a `Panicked`, and holds what is printed meanwhile until the end.

    A panic is no Exception. The library prints a report of it, and prints other things that quote a file as it stands,
    past Python, to the process's stdout and stderr. After an error that is left out. Else it is printed escaped.

    Raises:
        Panicked: A library has panicked.
    """
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(_Held(number)) for number in (1, 2)]
        try:
            yield
        except Exception:
            for each in held:
                each.forget()
            raise
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # pyo3 has no name for its class that could be imported
                raise
            for each in held:
                each.forget()
            raise Panicked(f"a panic: {first_line(error)}") from error


@contextlib.contextmanager
def tokenizer_told() -> Iterator[None]:
    """Turns any error of a tokenizer that reads texts into an InputError that says what to do."""
    try:
        with panics_told():
            yield
    except Exception as error:  # as the tokenizers library raises it
        raise InputError(
            f"tokenizer must read the texts of the data, and does not ({first_line(error)}): correct tokenizer.json, "
            "or pass another --model"
        ) from error


class _Held:
    """Keeps what the process prints to stdout (1) or stderr (2), and prints it when the context ends.

    Args:
        number: 1 or 2.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.kept: int | None = None
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  (it is closed at the end of the context)

    def __enter__(self) -> "_Held":
        stream = (sys.stdout, sys.stderr)[self.number - 1]
        if stream is not None:
            stream.flush()
        with contextlib.suppress(OSError):  # the process may have none
            self.kept = os.dup(self.number)
            os.dup2(self.said.fileno(), self.number)
        return self

    def forget(self) -> None:
        """Leaves out what was printed until now."""
        self.said.seek(0)
        self.said.truncate()

    def __exit__(self, *_: object) -> None:
        with self.said:
            if self.kept is None:
                return
            os.dup2(self.kept, self.number)
            self.said.seek(0)
            lines = self.said.read().decode(errors="backslashreplace").split("\n")
            os.write(self.kept, "\n".join(map(printable, lines)).encode(errors="backslashreplace"))
            os.close(self.kept)
