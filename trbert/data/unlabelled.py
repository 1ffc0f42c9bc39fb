"""Makes rows of texts without labels, which the teacher judges."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

from trbert.data.duplicates import without_known
from trbert.data.readers import Format, empty_table
from trbert.data.sources import read_unlabelled
from trbert.errors import InputError
from trbert.limits import Room
from trbert.tasks import Task
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.rows import Columns, Rows


def unlabelled_rows(
    sources: Sequence[str], task: Task, columns: Columns, format: Format, splits: Mapping[str, Rows]
) -> tuple[Rows, list[str]]:
    """Returns the rows of sources of texts without labels, and sentences for the user on what was left out.

    Left out are rows with an empty text, rows whose text stands in a split, and rows that repeat the text of another.
    A text of validation or test must not be learned from. One of train has a label already. Bad rows are refused or
    left out as in the splits.

    Args:
        sources: files, folders or names on the hub.
        task: the task; it reads the tables.
        columns: the columns of the labelled rows. A column of labels is not read.
        format: how the text files are written, as far as the user says so. All sources together may take its
            `max_bytes`.
        splits: the rows of train, validation and test.

    Raises:
        InputError: A source, a file, a column or a text is wrong, no row is left, or the task cannot learn from texts
            without labels.
    """
    if not task.learns_unlabelled:
        raise InputError(
            f"--unlabelled must be left out for task {task.name}, which cannot learn from texts without labels, "
            "and is set: leave it out"
        )
    columns = replace(task.columns(",".join(columns.inputs), ""), skip_bad=columns.skip_bad)
    room = Room(format.max_bytes)
    found: list[tuple[tuple[object, ...], ...]] = []
    places: list[str] = []
    notes: list[str] = []
    left_out: list[str] = []
    empty = 0
    for source in sources:
        read = read_unlabelled(source, columns, format, room)
        (table,) = read.tables.values()
        if len(table) == 0:
            raise empty_table(table.origin)
        written = task.written(table, columns)
        kept, _, bad = read_rows("unlabelled", table, columns, written, partial(task.check_inputs, table, columns))
        found.append(table.inputs(columns, kept))
        places += table.places(kept) if splits["train"].places else ()
        notes += read.notes
        left_out += bad
        empty += len(table) - len(written)
    if empty:
        notes.append(f"unlabelled: {empty:,} empty texts left out")
    inputs = tuple(tuple(chain(*each)) for each in zip(*found, strict=True))
    rows = replace(task.unlabelled(inputs, splits["train"]), places=tuple(places), skip_bad=columns.skip_bad)
    rows, told = without_known(rows, splits)
    return rows, [*notes, *left_out, *told]
