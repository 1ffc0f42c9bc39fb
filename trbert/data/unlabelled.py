"""Makes rows of texts without labels, which the teacher judges."""

from collections.abc import Mapping, Sequence

from trbert.data.duplicates import without_known
from trbert.data.readers import Format, empty_table
from trbert.data.sources import read_unlabelled
from trbert.tasks import Task
from trbert.tasks.rows import Columns, Rows


def unlabelled_rows(
    sources: Sequence[str], task: Task, columns: Columns, format: Format, splits: Mapping[str, Rows]
) -> tuple[Rows, list[str]]:
    """Returns the rows of sources of texts without labels, and sentences for the user on what was left out.

    Left out are rows with an empty text, rows whose text stands in a split, and rows that repeat the text of another.
    A text of validation or test must not be learned from. One of train has a label already.

    Args:
        sources: files, folders or names on the hub.
        task: the task; it reads the tables.
        columns: the columns of the labelled rows. A column of labels is not read.
        format: how the text files are written, as far as the user says so.
        splits: the rows of train, validation and test.

    Raises:
        InputError: A source, a file, a column or a text is wrong, no row is left, or the task cannot learn from texts
            without labels.
    """
    columns = task.columns(",".join(columns.inputs), "")
    found: list[tuple[tuple[object, ...], ...]] = []
    notes: list[str] = []
    empty = 0
    for source in sources:
        read = read_unlabelled(source, columns, format)
        (table,) = read.tables.values()
        if len(table) == 0:
            raise empty_table(table.origin)
        found.append(task.inputs(table, columns))
        notes += read.notes
        empty += len(table) - len(found[-1][0])
    if empty:
        notes.append(f"unlabelled: {empty:,} empty texts left out")
    inputs = tuple(sum(each, ()) for each in zip(*found, strict=True))
    rows, told = without_known(task.unlabelled(inputs, splits["train"]), splits)
    return rows, [*notes, *told]
