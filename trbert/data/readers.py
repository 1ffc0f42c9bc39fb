"""What every reader of a file takes and returns: the format, the contents, and how columns are checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trbert.errors import InputError
from trbert.limits import MAX_BYTES
from trbert.tasks.rows import Columns
from trbert.wording import briefly_listed, did_you_mean, first_line

SPLITS = ("train", "validation", "test")
SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
"""The suffixes of files that can be read, in any case. All but .parquet may be followed by .gz."""
WORD_SUFFIXES = (".conll", ".conllu", ".bio")
"""The suffixes of files that have a word with its tags on each line. Only a task that reads words reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How the files are written, as far as the user says so. What is None is found out for each file.

    Attributes:
        encoding: the encoding of the characters, such as "cp1252".
        separator: what stands between two columns of a csv file: one character, or "tab".
        header: whether the first row of a csv file names the columns. If not, they are named 1, 2 and so on.
        max_bytes: the most bytes that all files may take in memory.
    """

    encoding: str | None = None
    separator: str | None = None
    header: bool = True
    max_bytes: int = MAX_BYTES


class NoColumn(InputError):
    """A table lacks a column that is needed.

    Attributes:
        origin: the name of the table.
        there: the names of the columns that it has.
    """

    origin: str = ""
    there: tuple[str, ...] = ()

    def of(self, origin: str, there: Sequence[str]) -> "NoColumn":
        """Returns this error with the name of the table and the names of its columns."""
        self.origin, self.there = origin, tuple(there)
        return self


class NoTarget(NoColumn):
    """A table lacks the column of the targets, and has the columns of the inputs."""


class WordsAlone(InputError):
    """A file has a word with its tags on each line, and the task reads texts.

    Attributes:
        origin: the name of the file.
    """

    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a reader has found in a file.

    Attributes:
        values: the values of each column that is wanted and there, one for each row.
        others: the names of the columns that are there and not wanted.
        class_names: the names of the classes, where the file knows them.
        notes: what the user should know about how the file was read. The name of the file is put before each.
    """

    values: Mapping[str, Sequence[Any]]
    others: tuple[str, ...]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def suffix_of(path: Path) -> str | None:
    """Returns which of the suffixes above a file has, in small letters and without .gz; None where it has none of them.

    Example:
        >>> suffix_of(Path("train.CSV.gz"))
        '.csv'
    """
    name = path.name.lower()
    packed = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in (*SUFFIXES, *WORD_SUFFIXES) and not (packed and suffix == ".parquet") else None


def stem_of(path: Path) -> str:
    """Returns the name of a file without its suffix, and without .gz.

    Example:
        >>> stem_of(Path("train.CSV.gz"))
        'train'
    """
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(name).stem


def check_columns(there: Sequence[str], columns: Columns, origin: str, remedy: str = "") -> None:
    """Checks that a table has all the columns that are needed.

    Args:
        there: the names of the columns that the table has.
        columns: the columns that are needed.
        origin: the name of the table, for the message.
        remedy: what else can be done about a missing column, to end the message.

    Raises:
        InputError: A column is missing or stands there twice. The message names the columns that are there. It is a
            `NoTarget` where only the column of the targets is missing.
    """
    for option, name in columns.needed:
        if name not in there:
            if name in columns.targets and set(there) <= set(columns.inputs):
                raise NoTarget(
                    f"{origin} must have the column {name!r}, and has {briefly_listed(there)} alone: add the labels as "
                    f"a column{remedy}"
                ).of(origin, there)
            kind = NoColumn if name in columns.inputs else NoTarget
            one = "columns that are there" if columns.flags else "one of them"
            if columns.words and kind is NoColumn:
                one = "a column with a list of words in each row"
            raise kind(
                f"{origin} must have the column {name!r}, and has {briefly_listed(there)}{did_you_mean(name, there)}: "
                f"set {option} to {one}{remedy}"
            ).of(origin, there)
        if there.count(name) > 1:
            raise InputError(
                f"{origin} must have one column {name!r}, and has {there.count(name)} of that name among its "
                f"{len(there)} columns: give them different names"
            )


def without_target(split: str, origin: str, columns: Columns) -> str:
    """Returns the note on a split that is not used because its table has no targets, as in competitions."""
    return f"{split} is not used: {origin} has no column {columns.target!r}"


def unused(there: Sequence[str], columns: Columns) -> tuple[str, ...]:
    """Returns the names of the columns that are there and not wanted. The index that pandas saves is none of them."""
    return tuple(name for name in dict.fromkeys(there) if name not in (*columns.wanted, "", "__index_level_0__"))


def empty_table(origin: str) -> InputError:
    """Returns the error for a table without rows."""
    return InputError(f"{origin} must have at least one row, and is empty: check that it was written whole")


def unreadable(path: Path, kind: str, error: Exception) -> InputError:
    """Returns the error for a file whose contents are not what its suffix says."""
    return InputError(
        f"data file {str(path)!r} must be {kind}, and cannot be read as that ({first_line(error)}): correct it"
    )
