"""Reads csv files: finds the separator and the header, and keeps every cell as it is written.

Cells are never taken for numbers or dates, so the classes 01 and 1 stay two classes.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trbert.data.decoding import read_text
from trbert.data.readers import Contents, Format, empty_table, unused
from trbert.data.text_files.csv_layout import Layout, find_layout, word
from trbert.data.text_files.quotes import has_regular_quotes, hides_rows
from trbert.errors import InputError
from trbert.limits import CELL, Room
from trbert.tasks.rows import Columns
from trbert.wording import shown

_MARK = "\x1a"
"""Stands for a quotation mark that a backslash marks, while the file is read."""

_QUOTE = 24
"""The bytes that each quotation mark takes while it is found out which marks open cells and which close them."""


def read_csv(path: Path, columns: Columns, format: Format, room: Room) -> Contents:
    """Returns the columns of a csv file. All values are strings.

    Args:
        path: the file.
        columns: the columns to read.
        format: what the user says about the file.
        room: the memory that the data may take.

    Raises:
        InputError: The file cannot be decoded, lacks a column, has a row whose cells do not fit the header, or needs
            too much memory.
    """
    return csv_contents(path, read_text(path, format.encoding, room), columns, format, room)


def csv_contents(path: Path, content: bytes, columns: Columns, format: Format, room: Room) -> Contents:
    """Returns the columns of a csv file whose characters were read, as UTF-8.

    The other arguments, and what is raised, are those of `read_csv`.
    """
    if not content or content.isspace():
        raise empty_table(path.name)
    room.check(_QUOTE * content.count(b'"'), path.name)
    return _Reader(path, content, columns, format, room).contents()


class _Reader:
    """Reads one csv file.

    Args:
        path: the file.
        content: its characters as UTF-8.
        columns: the columns to read.
        format: what the user says about the file.
        room: the memory that the data may take.
    """

    def __init__(self, path: Path, content: bytes, columns: Columns, format: Format, room: Room) -> None:
        self.room = room
        self.origin, self.content, self.columns, self.header = path.name, content, columns, format.header
        self.layout, self.notes = find_layout(path, content, columns, format)

    def contents(self) -> Contents:
        """Returns what the file holds.

        Raises:
            InputError: The file lacks a column, or has a row whose cells do not fit the header.
        """
        layout = self.layout
        if not re.search(rb"\S", memoryview(self.content)[layout.start :]):
            raise empty_table(self.origin)
        values = self._values(layout)
        if not next(iter(values.values())):
            raise empty_table(self.origin)
        if self.header:
            values = self._without_headers(values)
        self._note_doubtful_rows(values, layout)
        return Contents(values=values, others=unused(layout.names, self.columns), notes=tuple(self.notes))

    def _values(self, layout: Layout) -> dict[str, list[Any]]:
        """Returns the wanted columns. A regular file is read by pyarrow, and any other one row by row."""
        content = memoryview(self.content)[layout.start :]
        separator = ord(layout.separator)
        regular = b'"' not in self.content or has_regular_quotes(content, separator)
        if layout.separator == "\t" and not regular:
            self.notes.append("quotation marks are read as they stand, because some stand alone")
            layout, regular = _literal(layout), True
        elif layout.separator == "\t" and hides_rows(content, len(layout.names)):
            self.notes.append("quotation marks are read as they stand, because every line is a row of its own")
            layout = _literal(layout)
        if layout.stripped or not layout.separator.isascii():
            return self._read_strictly(layout)
        if regular:
            return self._read_fast(content, layout)
        escaped = memoryview(content.tobytes().replace(b'\\"', _MARK.encode()))
        if _MARK.encode() in self.content or not has_regular_quotes(escaped, separator):
            return self._read_strictly(layout)
        self.notes.append('a quotation mark within a cell is written \\"')
        values = self._read_fast(escaped, layout)
        return {name: [cell.replace(_MARK, '"') for cell in cells] for name, cells in values.items()}

    def _read_fast(self, content: memoryview, layout: Layout) -> dict[str, list[Any]]:
        import pyarrow
        import pyarrow.csv

        places = self._wanted(layout)
        names = [str(place) for place in range(len(layout.names))]
        try:
            table = pyarrow.csv.read_csv(
                pyarrow.BufferReader(content),
                # The file is read as one block. With the default block size, a longer text would be refused.
                read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=min(len(content) + 1, 2**31 - 1)),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=layout.separator, quote_char='"' if layout.quoted else False, newlines_in_values=True
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=[str(place) for place in places.values()],
                    column_types=dict.fromkeys(names, pyarrow.string()),
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
        except pyarrow.ArrowInvalid:
            return self._read_strictly(layout)  # which finds the row that is wrong
        self.room.take(CELL * table.num_rows * len(places), self.origin)
        return {name: table[str(place)].to_pylist() for name, place in places.items()}

    def _read_strictly(self, layout: Layout) -> dict[str, list[Any]]:
        """Returns the wanted columns, read row by row.

        Raises:
            InputError: A row has too many cells or too few, or a quotation mark is not closed. The message names it.
        """
        places = self._wanted(layout)
        values: dict[str, list[Any]] = {name: [] for name in places}
        reader = csv.reader(
            io.StringIO(self.content[layout.start :].decode(), newline=""),
            delimiter=layout.separator,
            quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE,
            skipinitialspace=layout.stripped,
            strict=True,
        )
        before = self.content.count(b"\n", 0, layout.start)
        line = before + 1
        width = len(layout.names)
        row = 0
        with _cells_of_any_length():
            try:
                for cells in reader:
                    if cells and len(cells) != width:
                        raise self._misfit(row, line, cells, layout)
                    line = before + reader.line_num + 1
                    if cells:
                        self.room.take(CELL * len(places), self.origin)
                        for name, place in places.items():
                            values[name].append(cells[place].strip() if layout.stripped else cells[place])
                        row += 1
            except csv.Error as error:
                raise InputError(
                    f"row {row} of {self.origin} (line {line}) must close a quotation mark that begins a cell before "
                    f"the next separator or the end of the row, and does not by line {before + reader.line_num}: "
                    "remove the mark, or put the whole cell in quotation marks and write each mark within it twice"
                ) from error
        return values

    def _misfit(self, row: int, line: int, cells: Sequence[str], layout: Layout) -> InputError:
        whole = layout.separator.join(cells)
        model = "as the header has" if self.header else "as the first row has"
        if len(cells) > len(layout.names):
            remedy = "put a cell that holds the separator in quotation marks"
        else:
            remedy = "write the cells that are missing"
        return InputError(
            f"row {row} of {self.origin} (line {line}) must have {len(layout.names)} cells separated by "
            f"{word(layout.separator)}, {model}, and has {len(cells)} in {shown(whole)}: {remedy}, or set --separator"
        )

    def _wanted(self, layout: Layout) -> dict[str, int]:
        """Returns the place of each column that is wanted and there."""
        return {name: layout.names.index(name) for name in self.columns.wanted if name in layout.names}

    def _without_headers(self, values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Returns the columns without the rows that name them once more, as in files that were put together."""
        needed = [name for _, name in self.columns.needed]
        first = values[needed[-1]]
        again = {row for row in range(len(first)) if all(values[name][row].lstrip("\ufeff") == name for name in needed)}
        if not again or len(again) == len(first):
            return values
        one = "row names the columns again and is" if len(again) == 1 else "rows name the columns again and are"
        self.notes.append(f"{len(again)} {one} left out, the first of them row {min(again)}")
        return {name: [cell for row, cell in enumerate(cells) if row not in again] for name, cells in values.items()}

    def _note_doubtful_rows(self, values: dict[str, list[Any]], layout: Layout) -> None:
        """Notes what was read without a fault, and may still be wrong: a header among the data, rows within a cell."""
        target = self.columns.target
        if self.header and target and (count := values[target].count(target)):
            row = values[target].index(target)
            self.notes.append(
                f"{count} rows, the first of them row {row}, have the label {target!r}, which is the column's name: "
                "if the first row is data, set --no-header; if the header stands there again, remove it"
            )
        for name in self.columns.inputs:
            if all(re.fullmatch(r"""(?s)b(['"]).*\1""", cell) for cell in values[name]):
                self.notes.append(
                    f"all texts of column {name!r} are bytes as Python prints them (b'…'): decode them before they are "
                    "written, so that no b, quotation marks and \\x.. are read as text"
                )
        if b'"' not in self.content:
            return
        classes = set(values[target]) if target else set()
        holding = [
            row
            for name in self.columns.inputs
            for row, cell in enumerate(values[name])
            if "\n" in cell and any(self._is_row(line, layout, classes) for line in cell.splitlines()[1:-1])
        ]
        if holding:
            self.notes.append(
                f"{len(holding)} texts, the first of them in row {min(holding)}, hold lines that look like rows: "
                "check whether a quotation mark is not closed there"
            )

    def _is_row(self, line: str, layout: Layout, classes: set[str]) -> bool:
        cells = line.split(layout.separator)
        if len(cells) != len(layout.names) or len(cells) == 1:
            return False
        return not classes or cells[layout.names.index(self.columns.target)] in classes


def _literal(layout: Layout) -> Layout:
    return Layout(layout.names, layout.separator, layout.start, quoted=False, stripped=layout.stripped)


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """Lifts Python's limit on the length of a cell while a file is read."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
