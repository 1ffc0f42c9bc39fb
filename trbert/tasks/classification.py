"""Classification: one label for a text, or for a pair of texts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trbert.errors import InputError
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.examples import Examples, Outputs, exact
from trbert.tasks.labels import check_one_type, find_classes, label_of, with_labels
from trbert.tasks.over_texts import OverTexts, macro_f1, usable_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.task import PerExample
from trbert.tasks.texts import has_texts, is_missing, mostly, number
from trbert.wording import cut, the_first

LISTED = 8
"""The most classes whose rows are counted one by one in what is said of the data."""
HALF_A_POINT = 200
"""The number of rows below which one row is more than half a point of accuracy."""


class Classification(OverTexts):
    """Predicts one of several classes for each document. A document is a text, or a pair of texts."""

    name = "classification"
    metric = "accuracy"
    text_classes = True
    gives = "one label"
    least_outputs = 2

    def sign(self, table: Table, columns: Columns) -> str:
        """Returns that the labels are texts, or have names; "" for numbers, which may be something else."""
        if not has_texts(table, columns.inputs):
            return ""
        if table.target_names is not None:
            return f"{table.names_origin} names the classes"
        labels = [label for label in table.values[columns.target] if not is_missing(label)]
        words = mostly(
            labels, lambda label: isinstance(label, bool) or (isinstance(label, str) and number(label) is None)
        )
        return f"column {columns.target!r} of {table.origin} has a label for each row" if words else ""

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the texts of every split with their labels as class indices, and the names of the classes.

        Rows with a blank text are left out. In a split other than train, so are rows that are in train, too. Rows
        labelled -1 are left out unless train has -1 as a class: -1 stands for labels that are missing or secret. A
        split without any label is not used.

        Raises:
            InputError: A text is not a string, a label is not a class, or no row is left.
        """
        notes: list[str] = []
        used: dict[str, list[int]] = {}
        labels: dict[str, list[Any]] = {}
        if "-1" not in (renames or ()):  # else the user gives a class to rows that would be without one
            tables, notes = with_labels(tables, columns)
        for split, table in tables.items():
            rows, left_out = usable_rows(split, table, columns)
            label = partial(label_of, table, columns.target)
            used[split], labels[split], bad = read_rows(split, table, columns, rows, label)
            if renames is None:
                check_one_type(table, columns.target, used[split], labels[split])
            notes += [*left_out, *bad]
        classes = find_classes({split: tables[split] for split in used}, columns.target, labels, renames)
        found = {
            split: _rows(tables[split], columns, used[split], targets)
            for split, targets in classes.targets.items()
            if any(target is not None for target in targets)
        }
        return Reading(rows=found, labels=classes.names, notes=(*notes, *classes.notes))

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns how many training rows each class has, a row of train, and what small splits lack."""
        counts = np.bincount(rows["train"].targets, minlength=len(labels)).tolist()
        what = f"train: {len(rows['train']):,} rows of {len(labels)} classes"
        if len(labels) > LISTED:
            least, most = counts.index(min(counts)), counts.index(max(counts))
            each = f", from {counts[least]:,} of {cut(labels[least])} to {counts[most]:,} of {cut(labels[most])}"
            if counts[least] == counts[most]:
                each = f", {counts[most]:,} of each"
        else:
            each = ": " + ", ".join(f"{cut(name)} {count:,}" for name, count in zip(labels, counts, strict=True))
        sample = " and ".join(cut(column[0]) for column in rows["train"].inputs)
        found = [what + each, f"train: one of the rows is {sample}, of class {cut(labels[rows['train'].targets[0]])}"]
        tested = set(rows["test"].targets.tolist())
        if missing := [cut(name) for index, name in enumerate(labels) if index not in tested]:
            found.append(f"test: no row of {len(missing)} of {len(labels)} classes: {the_first(LISTED, missing)}")
        for split in ("validation", "test"):
            if (many := len(rows[split])) < HALF_A_POINT:
                found.append(
                    f"{split}: {many} rows of {len(labels)} classes, so that one row is {100 / many:.1f} points"
                )
        return found

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that the labels are class indices of the head.

        Raises:
            InputError: A label is below 0, or is not below the number of outputs.
        """
        labels = examples.targets
        if not 0 <= int(labels.min()) <= int(labels.max()) < num_outputs:
            raise InputError(
                f"labels must be from 0 to {num_outputs - 1}, and go from {int(labels.min())} to "
                f"{int(labels.max())}: pass class indices as the model numbers them"
            )

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns −log p(label) of each document."""
        return F.cross_entropy(exact(outputs), examples.targets, reduction="none")

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns T² · cross-entropy against the teacher's softened distribution (Hinton et al. 2015, section 2)."""
        target = (exact(teacher_outputs) / temperature).softmax(-1)
        return -(temperature**2) * (target * (exact(outputs) / temperature).log_softmax(-1)).sum(-1)

    def targets_of(self, outputs: Outputs, examples: Examples) -> Tensor:
        """Returns the class that is said of each document."""
        return torch.tensor(self.decode(outputs, examples))

    def prior(self, examples: Examples) -> float:
        """Returns the entropy of the labels' frequencies, in nats."""
        shares = torch.bincount(examples.targets).double() / len(examples)
        return float(torch.special.entr(shares).sum())

    def decode(self, outputs: Outputs, examples: Examples) -> list[int]:
        """Returns the class index of each document."""
        decoded: list[int] = outputs.argmax(-1).tolist()
        return decoded

    def commonest(self, train: Examples, examples: Examples) -> list[int]:
        """Returns the most frequent class of train for each document."""
        return [int(torch.bincount(train.targets).argmax())] * len(examples)

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns 1 for each document whose class is its label, and 0 for the others."""
        return [float(one == label) for one, label in zip(decoded, examples.targets.tolist(), strict=True)]

    def figures(self, decoded: Sequence[Any], examples: Examples) -> dict[str, float]:
        """Returns the macro F1: the mean of the F1 of each class that an example of the split has or was given."""
        labels, given = examples.targets.cpu().numpy(), np.array(decoded)
        classes = int(max(labels.max(), given.max())) + 1
        both = np.bincount(labels, minlength=classes) + np.bincount(given, minlength=classes)
        return macro_f1(np.bincount(labels[labels == given], minlength=classes), both)


def _rows(table: Table, columns: Columns, used: Sequence[int], targets: Sequence[int | None]) -> Rows:
    """Returns the used rows of a table that have a class."""
    kept = [(row, target) for row, target in zip(used, targets, strict=True) if target is not None]
    labels = np.array([target for _, target in kept], dtype=np.int64)
    return Rows(table.inputs(columns, [row for row, _ in kept]), labels, labels)
