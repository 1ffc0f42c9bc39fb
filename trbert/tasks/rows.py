"""What a task reads and what it makes of it: tables as a file holds them, rows as a model learns from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from trbert.errors import InputError


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns to read.

    Attributes:
        inputs: columns of what the model reads: of the texts; of pairs of the first and of the second texts.
        target: column of what is to be predicted, such as the labels.
    """

    inputs: tuple[str, ...]
    target: str

    @classmethod
    def named(cls, inputs: str, target: str) -> "Columns":
        """Returns the columns as a user names them, several with commas between them.

        Raises:
            InputError: A name is blank.

        Example:
            >>> Columns.named("question,sentence", "label").inputs
            ('question', 'sentence')
        """
        names = tuple(inputs.split(","))
        if not all(name.strip() for name in names):
            raise InputError(
                f"text_column must name one column, or several with a comma between them, and is {inputs!r}: "
                "write text, or question,sentence for pairs"
            )
        return cls(names, target)

    @property
    def needed(self) -> tuple[tuple[str, str], ...]:
        """Each column that must be there, after the setting that names it."""
        return (*(("text_column", name) for name in self.inputs), ("label_column", self.target))

    @property
    def wanted(self) -> tuple[str, ...]:
        """Columns to read where they are there."""
        return (*self.inputs, self.target, "in_train")


@dataclass(frozen=True, slots=True)
class Table:
    """One split as it was read.

    Attributes:
        origin: file or split, as errors name it.
        values: of each column that was read; all of one length.
        target_names: names that the target column's values index or are among; None where the source gives none.
        names_origin: where the names come from.
    """

    origin: str
    values: Mapping[str, Sequence[Any]]
    target_names: tuple[str, ...] | None = None
    names_origin: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def outside_train(table: Table, rows: Sequence[int]) -> list[int]:
    """Returns those of a test table's rows that its column `in_train` does not mark as standing in train as well.

    Raises:
        InputError: All of them are marked.
    """
    marks = table.values.get("in_train")
    if marks is None or not all(isinstance(mark, bool) for mark in marks):
        return list(rows)
    kept = [row for row in rows if not marks[row]]
    if not kept:
        raise InputError(
            f"{table.origin} must have rows that are not in train, and all {len(rows)} are marked in_train: "
            "remove the column or add rows"
        )
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Examples before they are tokenised.

    Attributes:
        inputs: for each input column one value a row, such as its text.
        targets: what is to be predicted, a row each: of classification the class index.
        strata: rows of one number are alike, such as those of one class; samples take each kind by its share.
    """

    inputs: tuple[tuple[Any, ...], ...]
    targets: Shaped[np.ndarray, "rows ..."]
    strata: Int64[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Int64[np.ndarray, " taken"]) -> "Rows":
        """Returns the named rows, in the given order."""
        rows = index.tolist()
        inputs = tuple(tuple(column[row] for row in rows) for column in self.inputs)
        return Rows(inputs, self.targets[index], self.strata[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a task has read.

    Attributes:
        rows: of each split.
        labels: names of what the head's outputs stand for, in their order; () where they have none.
        notes: what was done to the rows, one sentence each, for the user to read.
    """

    rows: Mapping[str, Rows]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
