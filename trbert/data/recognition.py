"""Finds the task that data are for, where the user names none: by the model's head, the columns and the labels."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trbert.checkpoint.trained import Trained
from trbert.data.readers import NoColumn, NoTarget, WordsAlone
from trbert.data.sources import Source
from trbert.errors import InputError
from trbert.tasks import TASKS, Task
from trbert.tasks.rows import Columns, Table
from trbert.wording import listed

Read = Callable[[Columns], Source]
"""Reads the columns of the user's data."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was found.

    Attributes:
        task: the task.
        columns: the columns that it reads.
        source: the tables with these columns.
        why: what says that it is this task, in words.
    """

    task: Task
    columns: Columns
    source: Source
    why: str


def recognise(read: Read, text_column: str | None, label_column: str | None, head: Trained | None) -> Recognised:
    """Returns the task that the data are for, and the data.

    What a fine-tuned model's head was trained for and what the columns say must agree. Where neither says anything, the
    first task is taken that `TASKS` lists.

    Args:
        read: reads columns of the data.
        text_column: the user's setting; None leaves it to the task.
        label_column: the user's setting; None leaves it to the task.
        head: the model's own head, which is to be used; None where it has none, or gets a new one.

    Raises:
        InputError: The data cannot be read, no task has these columns, or the head is of another task than the data.
    """
    preferred = () if head is None else head.tasks
    order = [*preferred, *(task for task in TASKS.values() if task not in preferred)]
    guess, columns = _first_that_takes(order, text_column, label_column)
    try:
        source = read(columns)
    except NoColumn as error:
        guess, columns, why = _by_columns(order, error, text_column, label_column)
        source = read(columns)
    except WordsAlone as error:
        guess, columns, why = _by_words(order, error, text_column, label_column)
        source = read(columns)
    else:
        taken = columns
        guess, columns, why = _by_values(guess, columns, source.tables["train"], text_column, label_column)
        if columns != taken:
            source = read(columns)
    said = why or f"column {columns.target!r} has a label for each row"
    if head is not None and guess not in head.tasks:
        raise InputError(
            f"model {head.model} must be of the task of the data, and its head ({head.kind}) is for "
            f"{' or '.join(task.name for task in head.tasks)}, while {said}, which is for {guess.name}: pass "
            "--new-head to take its encoder with a new head, name the task with --task, or set --data to other data"
        )
    if head is not None and not why:
        said = f"the head of model {head.model} is a {head.kind}"
    return Recognised(guess, columns, source, said)


def with_other_task(error: NoColumn, task: Task) -> NoColumn:
    """Returns the error for a table that lacks a column of the named task, with the task whose columns it has, if any.

    Args:
        error: says which column is missing.
        task: the task that the user named.
    """
    for other in TASKS.values():
        for texts, target in _known(other) if other is not task else ():
            columns = _columns(other, texts, target)
            if columns is not None and _all_there(columns, error.there):
                told = f"{error}; or pass --task {other.name}, whose columns are there"
                return type(error)(told).of(error.origin, error.there)
    return error


def _columns(task: Task, text_column: str | None, label_column: str | None) -> Columns | None:
    """Returns the columns that a task reads; None where it cannot read those that the user names."""
    try:
        return task.columns(text_column, label_column)
    except InputError:
        return None


def _first_that_takes(order: Sequence[Task], text_column: str | None, label_column: str | None) -> tuple[Task, Columns]:
    """Returns the first task that has targets and can read the columns that the user names, and its columns."""
    for task in order:
        columns = _columns(task, text_column, label_column)
        if columns is not None and columns.target:
            return task, columns
    return order[0], order[0].columns(text_column, label_column)  # which says what is wrong with them


def _by_columns(
    order: Sequence[Task], error: NoColumn, text_column: str | None, label_column: str | None
) -> tuple[Task, Columns, str]:
    """Returns the first task that is known by columns that a table has, these columns, and why.

    Raises:
        NoColumn: There is none.
    """
    for task in order:
        for texts, target in _known(task):
            columns = _columns(task, texts, target if label_column is None else label_column)
            if text_column in (None, texts) and columns is not None and _all_there(columns, error.there):
                return task, columns, _has(error.origin, columns)
    without = [task.name for task in order if not task.label_column and _columns(task, text_column, label_column)]
    if isinstance(error, NoTarget) and without:
        raise NoTarget(f"{error}; or pass --task {without[0]}, which reads no labels").of(error.origin, error.there)
    raise error


def _by_words(
    order: Sequence[Task], error: WordsAlone, text_column: str | None, label_column: str | None
) -> tuple[Task, Columns, str]:
    """Returns the first task that reads files with a word on each line, its columns, and why."""
    for task in order:
        columns = _columns(task, text_column, label_column)
        if columns is not None and columns.words:
            return task, columns, f"{error.origin} has a word with its tags on each line"
    raise error


def _by_values(
    guess: Task, columns: Columns, train: Table, text_column: str | None, label_column: str | None
) -> tuple[Task, Columns, str]:
    """Returns the task that the names of the columns which were read tell, or their values; else the guess.

    With it come its columns, and why; "" for the guess.
    """
    takes = {task: _columns(task, text_column, label_column) for task in TASKS.values()}
    able = {task: own for task, own in takes.items() if own is not None and _all_there(own, train.values)}
    names, shared = (",".join(columns.inputs), ",".join(columns.targets)), _known(next(iter(TASKS.values())))
    for task, own in able.items():
        if names in _known(task) and names not in shared:
            return task, own, _has(train.origin, own)
    for task, own in able.items():
        if why := task.sign(train, own):
            return task, own, why
    return guess, columns, ""


def _known(task: Task) -> tuple[tuple[str, str], ...]:
    """Returns the pairs of columns by which data of a task are recognised."""
    return task.known_columns or ((task.text_column, task.label_column),)


def _all_there(columns: Columns, there: Iterable[str]) -> bool:
    return bool(columns.target) and {name for _, name in columns.needed} <= set(there)


def _has(origin: str, columns: Columns) -> str:
    return f"{origin} has the columns {listed(name for _, name in columns.needed)}"
