"""Reads text files in which each line is a text."""

from pathlib import Path

from trbert.data.decoding import read_text
from trbert.data.readers import Contents, Format, empty_table
from trbert.data.text_files.csv_tables import csv_contents
from trbert.limits import CELL, Room
from trbert.tasks.rows import Columns


def read_lines(path: Path, columns: Columns, format: Format, room: Room) -> Contents:
    """Returns the lines of a text file as the column of the texts. A file whose first line names the column is a table.

    Args:
        path: the file.
        columns: the column of the texts.
        format: what the user says about the file.
        room: the memory that the data may take.

    Raises:
        InputError: The file cannot be decoded, is empty, or needs too much memory.
    """
    (name,) = columns.inputs
    content = read_text(path, format.encoding, room)
    if not content or content.isspace():
        raise empty_table(path.name)
    first, _, _ = content.partition(b"\n")
    if name in (cell.strip().strip('"') for cell in first.decode(errors="replace").split("\t")):
        return csv_contents(path, content, columns, format, room)
    lines = content.decode().removesuffix("\n").split("\n")
    room.take(CELL * len(lines), path.name)
    return Contents(
        values={name: [line.removesuffix("\r") for line in lines]}, others=(), notes=("each line is read as a text",)
    )
