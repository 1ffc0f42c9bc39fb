"""What a task reads and returns: tables as a file holds them, and rows with targets as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from trbert.errors import InputError
from trbert.wording import listed

WORDS, TAGS = "tokens", "tags"
"""The columns of the words and of their tags where the user names none."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns to read.

    Attributes:
        inputs: the columns that the model reads: one of texts, or several where a document has several parts.
        target: the column of what is to be predicted, such as the labels; "" where only the inputs are read.
        words: whether a row is a list of words with a list of their tags. A text file then has a word on each line.
        skip_bad: whether rows that cannot be read are left out, and not refused.
        flags: where each label has a column of its own, which says whether a row has it: these columns. `target` is
            then the first of them.
    """

    inputs: tuple[str, ...]
    target: str
    words: bool = False
    skip_bad: bool = False
    flags: tuple[str, ...] = ()

    @classmethod
    def named(cls, inputs: str, target: str) -> "Columns":
        """Returns the columns that a user has named.

        Args:
            inputs: the names of the input columns, with commas between them.
            target: the name of the target column; or several with commas between them, one for each label.

        Raises:
            InputError: A name is blank, or a label stands there twice.

        Example:
            >>> Columns.named("question,sentence", "label").inputs
            ('question', 'sentence')
        """
        names = tuple(inputs.split(","))
        if not all(name.strip() for name in names):
            raise InputError(
                f"--text-column must name one column, or several with a comma between them, and is {inputs!r}: "
                "write text, or question,sentence for pairs"
            )
        flags = tuple(target.split(",")) if "," in target else ()
        if not all(name.strip() for name in flags) or len(set(flags)) < len(flags):
            raise InputError(
                f"--label-column must name one column, or a different one for each label, and is {target!r}: write "
                "label, or toxic,threat for columns of 0 and 1"
            )
        return cls(names, flags[0] if flags else target, flags=flags)

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of what is to be predicted."""
        return self.flags or ((self.target,) if self.target else ())

    @property
    def needed(self) -> tuple[tuple[str, str], ...]:
        """The columns that a table must have, each as a pair of the option that names it and its name."""
        inputs = tuple(("--text-column", name) for name in self.inputs)
        return (*inputs, *(("--label-column", name) for name in self.targets))

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns that are read where a table has them."""
        return (*(name for _, name in self.needed), "in_train")


@dataclass(frozen=True, slots=True)
class Table:
    """One split as it was read from a file or from the hub.

    Attributes:
        origin: the name of the file or split, for error messages.
        values: the values of each column that was read, one for each row.
        target_names: the names of all classes, in their order. A value of the target column is one of the names, or
            the index of one. None where the source names no classes.
        names_origin: the place of these names, for error messages.
        others: the names of the columns that are there and were not read.
    """

    origin: str
    values: Mapping[str, Sequence[Any]]
    target_names: tuple[str, ...] | None = None
    names_origin: str = ""
    others: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def places(self, rows: Sequence[int]) -> tuple[str, ...]:
        """Returns where rows stand in the data, for error messages.

        Example:
            >>> Table("train.csv", {"text": ["x", "y"]}).places([1])
            ('row 1 of train.csv',)
        """
        return tuple(f"row {row} of {self.origin}" for row in rows)

    def inputs(self, columns: Columns, rows: Sequence[int]) -> tuple[tuple[Any, ...], ...]:
        """Returns what some rows have in the input columns, such as their texts, a column after the other."""
        return tuple(tuple(self.values[name][row] for row in rows) for name in columns.inputs)

    @property
    def unread(self) -> str:
        """A hint for messages: the columns that are there and were not read; "" where there are none."""
        return f" (not read: {listed(self.others)})" if self.others else ""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a split before they are tokenised.

    Attributes:
        inputs: for each input column, the value of each row, such as its text.
        targets: what is to be predicted of each row; for classification the class index.
        strata: the group of each row as a number, such as its class. A sample of the rows keeps the share of each
            group.
        names: the names of what the targets number, where the quality depends on them; () elsewhere.
        references: for each row what its answer is compared with, where the target does not say it, such as the texts
            that answer a question; () elsewhere.
        places: where each row stands in the data, such as "row 3 of train.csv", for a task whose `encode` may refuse a
            row; () elsewhere.
        skip_bad: whether such a row is left out, and not refused.
        together: the index of the input column that says which rows a hold-out keeps on one side: those that are equal
            there, such as the questions about one text. None compares all columns.
    """

    inputs: tuple[tuple[Any, ...], ...]
    targets: Shaped[np.ndarray, "rows ..."]
    strata: Int64[np.ndarray, " rows"]
    names: tuple[str, ...] = ()
    references: tuple[Any, ...] = ()
    places: tuple[str, ...] = ()
    skip_bad: bool = False
    together: int | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Int64[np.ndarray, " taken"]) -> "Rows":
        """Returns the rows with these indices, in the given order."""
        rows = index.tolist()
        inputs = tuple(tuple(column[row] for row in rows) for column in self.inputs)
        references, places = (tuple(own[row] for row in rows) if own else () for own in (self.references, self.places))
        return replace(
            self,
            inputs=inputs,
            targets=self.targets[index],
            strata=self.strata[index],
            references=references,
            places=places,
        )

    def renumbered(self, order: Int64[np.ndarray, " classes"], names: tuple[str, ...] = ()) -> "Rows":
        """Returns the rows with other numbers for the same classes: class `c` becomes `order[c]`.

        A target below 0 stands for no class, such as padding, and stays as it is.

        Args:
            order: the new number of each class.
            names: the names of the classes by their new numbers. A class that has rows keeps the name that it has. Rows
                without names get none.

        Example:
            >>> rows = Rows((("x", "y"),), np.array([0, 1]), np.array([0, 1]))
            >>> rows.renumbered(np.array([1, 0])).targets
            array([1, 0])
        """
        targets = np.where(self.targets < 0, self.targets, order[np.maximum(self.targets, 0)])
        named = list(names) if self.names else []
        for name, place in zip(self.names, order.tolist(), strict=False):
            named[place] = name
        return replace(self, targets=targets, names=tuple(named))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a task has read.

    Attributes:
        rows: the rows of each split.
        labels: the names of the head's outputs, in their order, such as the classes; () for a head with one output,
            which has no name.
        notes: sentences for the user that say what was changed in the rows.
    """

    rows: Mapping[str, Rows]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
