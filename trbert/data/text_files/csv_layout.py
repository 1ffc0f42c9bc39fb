"""Finds how a csv file is laid out: its separator, its header, and the names of its columns."""

import csv
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from trbert.data.readers import Format, check_columns, suffix_of
from trbert.errors import InputError
from trbert.tasks.rows import Columns

SEPARATORS = (",", ";", "\t", "|")
"""The separators that are tried where the user names none. The one that the suffix stands for is tried first."""

_SAMPLE = 100_000
_SAMPLE_ROWS = 200


@dataclass(frozen=True, slots=True)
class Layout:
    """How a csv file is laid out.

    Attributes:
        names: the name of each column.
        separator: the character between two columns.
        start: the index of the first byte after the header.
        quoted: whether a quotation mark at the start of a cell begins a cell that may hold separators. If not,
            quotation marks are characters like any other.
        stripped: whether blanks around cells are no part of them.
    """

    names: list[str]
    separator: str
    start: int
    quoted: bool = True
    stripped: bool = False


def find_layout(path: Path, content: bytes, columns: Columns, format: Format) -> tuple[Layout, list[str]]:
    """Returns how a csv file is laid out, and notes on how that was found.

    Args:
        path: the file.
        content: its characters as UTF-8.
        columns: the columns to read.
        format: what the user says about the file.

    Raises:
        InputError: The file lacks a column.
    """
    finder = _Finder(path, content, columns, format)
    return finder.layout(), finder.notes


def word(separator: str) -> str:
    """Returns a separator as messages call it."""
    return "tabs" if separator == "\t" else repr(separator)


class _Finder:
    """Finds how one csv file is laid out.

    Args:
        path: the file.
        content: its characters as UTF-8.
        columns: the columns to read.
        format: what the user says about the file.
    """

    def __init__(self, path: Path, content: bytes, columns: Columns, format: Format) -> None:
        self.origin, self.content, self.columns, self.header = path.name, content, columns, format.header
        self.notes: list[str] = []
        self.usual = "," if suffix_of(path) == ".csv" else "\t"
        self.begin, self.given = 0, _named_separator(format.separator)
        excel = re.match(rb'"?sep=([ -~\t])"?(?:\r\n|\r|\n)', content, re.IGNORECASE)
        if excel:  # a line that Excel reads and writes
            self.begin, self.given = excel.end(), self.given or excel[1].decode()

    def layout(self) -> Layout:
        """Returns the layout.

        Raises:
            InputError: The file lacks a column.
        """
        tried = (self.given,) if self.given else (self.usual, *(one for one in SEPARATORS if one != self.usual))
        layout = self._headed(tried) if self.header else self._headless(tried)
        if not self.given and layout.separator != self.usual:
            self.notes.append(f"the columns are separated by {word(layout.separator)}")
        if layout.stripped:
            self.notes.append("blanks around cells are left out, as the header has blanks around its names")
        return layout

    def _headed(self, tried: Sequence[str]) -> Layout:
        """Returns the layout of a file whose first row names the columns."""
        needed = {name for _, name in self.columns.needed}
        likeliest = None
        for separator in tried:
            names, start = self._first_row(separator)
            bare = [name.strip() for name in self._first_row(separator, after_blanks=True)[0]]
            stripped = not needed <= set(names) and needed <= set(bare)
            if stripped or needed <= set(names):
                names = bare if stripped else names
                check_columns(names, self.columns, self.origin)
                layout = Layout(names, separator, start, stripped=stripped)
                return self._with_nameless_column(layout)
            if likeliest is None or len(names) > len(likeliest.names):
                likeliest = Layout(names, separator, start)
        assert likeliest is not None
        remedy = (
            "" if self.given else f", or name the separator with --separator ({', '.join(map(word, tried))} were tried)"
        )
        remedy += self._blank_remedy(likeliest) or self._no_header_remedy(likeliest)
        check_columns(likeliest.names, self.columns, self.origin, remedy)
        raise AssertionError("a column is missing")

    def _headless(self, tried: Sequence[str]) -> Layout:
        """Returns the layout of a file whose first row is data. Its columns are named 1, 2 and so on."""
        needed = {name for _, name in self.columns.needed}
        fit: dict[str, int] = {}  # how many columns each separator makes that gives all rows the same number
        for separator in tried:
            counts = {len(row) for row in self._sample(Layout([], separator, self.begin))}
            if len(counts) == 1 and needed <= set(map(str, range(1, max(counts) + 1))):
                fit[separator] = max(counts)
        best = max(fit, key=lambda separator: fit[separator], default=tried[0])
        names = [str(place + 1) for place in range(len(self._first_row(best)[0]))]
        check_columns(names, self.columns, self.origin, ", as --no-header numbers the columns")
        return Layout(names, best, self.begin)

    def _first_row(self, separator: str, *, after_blanks: bool = False) -> tuple[list[str], int]:
        """Returns the cells of the first row that is not blank, and the index of the byte after it.

        Args:
            separator: the character between two columns.
            after_blanks: whether blanks before a cell are left out, so that a quotation mark may follow them.
        """
        lines = io.StringIO(self._head(self.begin), newline="")
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=after_blanks)
        names: list[str] = next((row for row in reader if row), [])
        lines.seek(0)
        return names, self.begin + sum(len(line.encode()) for line in islice(lines, reader.line_num))

    def _head(self, start: int) -> str:
        """Returns the first characters after an index. The last one is left out where it is cut."""
        return self.content[start : start + _SAMPLE].decode(errors="ignore")

    def _sample(self, layout: Layout) -> list[list[str]]:
        """Returns the first rows of data."""
        lines = io.StringIO(self._head(layout.start), newline="")
        rows = [row for row in islice(csv.reader(lines, delimiter=layout.separator), _SAMPLE_ROWS) if row]
        whole = layout.start + _SAMPLE >= len(self.content) or len(rows) == _SAMPLE_ROWS
        return rows if whole or len(rows) == 1 else rows[:-1]

    def _with_nameless_column(self, layout: Layout) -> Layout:
        """Returns a layout with a column of no name, if the rows have one cell more than the header.

        In R's files it is the first column, and holds the numbers of the rows. Where every row ends with a separator,
        it is the last column, and empty.
        """
        rows = self._sample(layout)
        wider = bool(rows) and all(len(row) == len(layout.names) + 1 for row in rows)
        if wider and not any(row[-1] for row in rows):
            self.notes.append(f"every row ends with {word(layout.separator)}, which the header does not")
            return Layout([*layout.names, ""], layout.separator, layout.start, stripped=layout.stripped)
        if not wider or [row[0] for row in rows] not in [
            [str(first + place) for place in range(len(rows))] for first in (0, 1)
        ]:
            return layout
        self.notes.append("the first column has no name and holds the numbers of the rows")
        return Layout(["", *layout.names], layout.separator, layout.start, stripped=layout.stripped)

    def _blank_remedy(self, layout: Layout) -> str:
        """Returns what to do if each line is a label, a blank and a text, as TREC and fastText have it; "" if not."""
        firsts = [words[0] for row in self._sample(layout) if len(words := row[0].split(maxsplit=1)) == 2]
        if len(layout.names) > 1 or not 1 < len(set(firsts)) <= len(firsts) / 2:
            return ""
        command = f"sed 's/ /\\t/' {shlex.quote(self.origin)} > NEW.txt"
        return f"; if each line is a label, a blank and a text, write a tab for the blank: {command}"

    def _no_header_remedy(self, layout: Layout) -> str:
        """Returns what to do if the first row is data; "" if it looks like a header."""
        rows = [row for row in self._sample(layout) if len(row) == len(layout.names)]
        below = [set(column) for column in zip(*rows, strict=True)]
        like_data = (
            len(cell.split()) > 4 or re.fullmatch(r"[-+]?\d+([.,]\d+)?", cell) or (below and cell in below[place])
            for place, cell in enumerate(layout.names)
        )
        if not rows or len(layout.names) < len(self.columns.needed) or not any(like_data):
            return ""
        places = range(len(layout.names))
        by_length = sorted(places, key=lambda place: -sum(len(row[place]) for row in rows))
        texts = sorted(by_length[: len(self.columns.inputs)])
        left = [place for place in places if place not in texts]
        remedy = f"--no-header --text-column {','.join(str(place + 1) for place in texts)}"
        if self.columns.target and left:
            remedy += (
                f" --label-column {min(left, key=lambda place: _unlike_classes([row[place] for row in rows])) + 1}"
            )
        return f"; if the first row is data and names no columns, set {remedy}"


def _unlike_classes(cells: Sequence[str]) -> tuple[bool, bool, bool, int, int]:
    """Returns how little the cells of a column look like names of classes. The lowest value is the likeliest column."""
    different = set(cells)
    return (
        2 * len(different) > len(cells) > 2,  # as ids have
        "" in different,
        len(different) == 1,
        len(different),
        sum(map(len, cells)),
    )


def _named_separator(separator: str | None) -> str | None:
    if separator is None:
        return None
    found = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
    if len(found) != 1 or found in '"\r\n':
        raise InputError(
            f"--separator must be one character other than a quotation mark, or the word tab, and is {separator!r}: "
            "write for example ';' or tab"
        )
    return found
