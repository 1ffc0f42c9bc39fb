"""Several labels: any number of labels, also none, for a text or for a pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from trbert.errors import InputError
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.examples import Examples, Outputs, exact
from trbert.tasks.labels import KINDS, NO_LABEL, check_one_type, find_classes, labels_with_rows, with_labels
from trbert.tasks.over_texts import OverTexts, macro_f1, usable_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.task import PerExample
from trbert.tasks.texts import FLAGS, has_texts, is_missing, mostly
from trbert.wording import cut, shown, the_first

LISTED = 8
"""The most labels that are named in what is said of the data."""


class MultiLabel(OverTexts):
    """Predicts for each document which of several labels it has. A document is a text, or a pair of texts.

    The targets are [examples, labels]: 1 where an example has a label, and 0 elsewhere.
    """

    name = "multi_label"
    metric = "micro F1"
    problem_type = "multi_label_classification"
    has_threshold = True
    has_flags = True
    gives = "any number of labels"
    least_outputs = 2

    def sign(self, table: Table, columns: Columns) -> str:
        """Returns that the column of the labels has lists beside texts, or that each label has a column."""
        if columns.flags:
            return "--label-column names several columns"
        labels = [label for label in table.values[columns.target] if label is not None]
        lists = has_texts(table, columns.inputs) and mostly(labels, _is_list)
        return f"column {columns.target!r} of {table.origin} has lists" if lists else ""

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the texts of every split with the labels that each has, and the names of all labels.

        Rows with a blank text are left out. In a split other than train, so are rows that are in train, too. Rows
        labelled -1 are left out unless train has -1 as a label: -1 stands for labels that are missing or secret. A
        split without any labels is not used.

        Raises:
            InputError: A text is not a string, a cell is not a list of different labels, a label has no training row,
                or no row is left. Or the lists are flags.
        """
        tables, notes = with_labels(tables, columns)
        if not columns.flags:
            _check_no_flags(tables["train"], columns.target)
        used: dict[str, list[int]] = {}
        lists: dict[str, list[list[Any]]] = {}
        for split, table in tables.items():
            rows, left_out = usable_rows(split, table, columns)
            labels_of = partial(_labels_of, table, columns.target)
            if columns.flags:
                labels_of = partial(_flags_of, table, columns.flags)
            used[split], lists[split], bad = read_rows(split, table, columns, rows, labels_of)
            notes += [*left_out, *bad]
            if not columns.flags:
                check_one_type(table, columns.target, *labels_with_rows(used[split], lists[split]))
        single = {split: [label for own in each for label in own] for split, each in lists.items()}
        if not single["train"]:
            raise InputError(
                f"{tables['train'].origin} must have labels in column {', '.join(map(repr, columns.targets))}, and all "
                f"{'are 0' if columns.flags else 'its lists are empty'}: set --label-column to the column of the labels"
                f"{tables['train'].unread}"
            )
        if columns.flags:
            tables = {
                split: replace(table, target_names=columns.flags, names_origin="--label-column")
                for split, table in tables.items()
            }
        owners = {split: [row for row, own in enumerate(each) for _ in own] for split, each in lists.items()}
        classes = find_classes(tables, columns.target, single, renames, owners)
        found = {}
        for split, table in tables.items():
            if single[split] and all(label is None for label in classes.targets[split]):
                continue  # a note says that they are secret
            targets = np.zeros((len(used[split]), len(classes.names)), dtype=np.int64)
            has_labels = np.ones(len(used[split]), dtype=bool)
            for row, label in zip(owners[split], classes.targets[split], strict=True):
                if label is None:
                    has_labels[row] = False
                else:
                    targets[row, label] = 1
            kept = [used[split][row] for row in np.flatnonzero(has_labels)]
            targets = targets[has_labels]
            found[split] = Rows(table.inputs(columns, kept), targets, targets[:, 0])
        frequency = found["train"].targets.sum(0)
        found = {
            split: Rows(each.inputs, each.targets, _rarest(each.targets, frequency)) for split, each in found.items()
        }
        return Reading(rows=found, labels=classes.names, notes=(*notes, *classes.notes))

    def renumbered(self, rows: Rows, order: np.ndarray, labels: Sequence[str]) -> Rows:
        """Returns the rows with the columns of their targets in the order of the head's outputs."""
        targets = np.zeros((len(rows), len(labels)), dtype=np.int64)
        targets[:, order] = rows.targets
        return Rows(rows.inputs, targets, rows.strata)

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns how many training rows have each label, how many labels a row has, and what test lacks."""
        counts = rows["train"].targets.sum(0).tolist()
        ranked = sorted(zip(counts, labels, strict=True), key=lambda pair: -pair[0])
        named = ranked if len(ranked) <= LISTED else [*ranked[: LISTED // 2], *ranked[-LISTED // 2 :]]
        each = sum(counts) / len(rows["train"])
        found = [
            f"train: {len(rows['train']):,} rows of {len(labels)} labels, {each:.1f} a row: "
            + ", ".join(f"{cut(name)} {count:,}" for count, name in named)
            + ("" if len(named) == len(ranked) else " (the most and the least frequent)")
        ]
        tested = rows["test"].targets.sum(0).tolist()
        if missing := [cut(name) for name, count in zip(labels, tested, strict=True) if not count]:
            found.append(f"test: no row of {len(missing)} of {len(labels)} labels: {the_first(LISTED, missing)}")
        return found

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that each example says of every output of the head whether it has that label.

        Raises:
            InputError: A target is neither 0 nor 1, or there are not as many as outputs.
        """
        targets = examples.targets
        if targets.dim() != 2 or targets.shape[1] != num_outputs:
            raise InputError(
                f"labels must be a row of {num_outputs} numbers for each document, and have the shape "
                f"{tuple(targets.shape)}: pass one number for each output of the head"
            )
        if bool(((targets != 0) & (targets != 1)).any()):
            odd = targets[(targets != 0) & (targets != 1)][0].item()
            raise InputError(f"labels must be 0 or 1, and one is {odd}: pass 1 where a document has a label")

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns −log p of each document's labels: the sum over the labels, each of which is a Bernoulli variable."""
        own = exact(outputs)
        return F.binary_cross_entropy_with_logits(own, examples.targets.to(own.dtype), reduction="none").sum(-1)

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns T² · cross-entropy against the teacher's softened probability of each label, summed over the labels.

        It is Hinton et al. 2015, section 2, for a Bernoulli variable.
        """
        target = (exact(teacher_outputs) / temperature).sigmoid()
        softened = exact(outputs) / temperature
        return temperature**2 * F.binary_cross_entropy_with_logits(softened, target, reduction="none").sum(-1)

    def targets_of(self, outputs: Outputs, examples: Examples) -> Tensor:
        """Returns 1 for each output above 0."""
        return (outputs > 0).to(examples.targets.dtype)

    def prior(self, examples: Examples) -> float:
        """Returns the entropy of each label's frequency, in nats, summed over the labels."""
        shares = examples.targets.double().mean(0)
        return float((torch.special.entr(shares) + torch.special.entr(1 - shares)).sum())

    def threshold(self, outputs: Outputs, examples: Examples) -> float:
        """Returns the logit above which a label is given, so that micro F1 on these examples is highest.

        One threshold serves all labels: if the probabilities are right, no others are better for micro F1 (Lipton et
        al. 2014, arXiv 1402.1892).
        """
        logits, order = outputs.double().flatten().sort(descending=True)
        right = examples.targets.flatten()[order].cumsum(0).double()
        given = torch.arange(1, len(logits) + 1, device=logits.device)
        scores = 2 * right / (given + examples.targets.sum())
        scores[:-1][logits[:-1] == logits[1:]] = 0  # a threshold cannot part equal logits
        last = int(scores.argmax())
        below = logits[last + 1] if last + 1 < len(logits) else logits[last] - 2
        return float((logits[last] + below) / 2)

    def decode(self, outputs: Outputs, examples: Examples) -> list[list[int]]:
        """Returns the labels of each document, as the indices of the outputs above 0."""
        return [row.nonzero()[:, 0].tolist() for row in outputs > 0]

    def commonest(self, train: Examples, examples: Examples) -> list[list[int]]:
        """Returns the most frequent set of labels of train for each document."""
        sets, counts = train.targets.unique(dim=0, return_counts=True)
        labels: list[int] = sets[counts.argmax()].nonzero()[:, 0].tolist()
        return [labels] * len(examples)

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns the F1 of each document's labels; 1 where it has none and none was given."""
        hits, given, wanted = _counts(decoded, examples)
        return [
            2 * hit / (many + own) if many + own else 1.0 for hit, many, own in zip(hits, given, wanted, strict=True)
        ]

    def weights(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns how many labels each document has and was given together, so that the quality is the micro F1.

        That is the F1 of all labels of all documents together.
        """
        _, given, wanted = _counts(decoded, examples)
        return [float(many + own) for many, own in zip(given, wanted, strict=True)]

    def figures(self, decoded: Sequence[Any], examples: Examples) -> dict[str, float]:
        """Returns the macro F1: the mean of the F1 of each label that an example of the split has or was given."""
        wanted = examples.targets.cpu().numpy() > 0
        given = np.zeros_like(wanted)
        for row, labels in enumerate(decoded):
            given[row, labels] = True
        return macro_f1((wanted & given).sum(0), given.sum(0) + wanted.sum(0))


def _is_list(value: Any) -> bool:
    """Returns whether a cell has a list of labels. Answers with their places are lists, too, and are no labels."""
    return isinstance(value, list | tuple) and not any(isinstance(each, dict) for each in value)


def _check_no_flags(table: Table, column: str) -> None:
    """Checks that the lists of train hold labels, and not a 0 or 1 for each label.

    Raises:
        InputError: All lists are of 0 and 1, and of one length.
    """
    lists = [cell for cell in table.values[column] if isinstance(cell, list | tuple)]
    same = len(set(map(len, lists))) == 1 and len(lists[0]) > 1
    if same and all(str(flag).lower() in FLAGS for cell in lists for flag in cell):
        raise InputError(
            f"{table.origin} must have lists of labels in column {column!r}, and each has {len(lists[0])} flags of 0 "
            f"and 1, such as {cut(lists[0])}: write the names or the numbers of the labels that a text has, or a "
            "column of 0 and 1 for each label"
        )


def _labels_of(table: Table, column: str, row: int) -> list[Any]:
    """Returns the labels of a row.

    Raises:
        InputError: The cell is no list, holds something else than labels, or holds a label twice.
    """
    cell = table.values[column][row]
    if not isinstance(cell, list | tuple):
        raise InputError(
            f"row {row} of {table.origin} must have a list of labels in column {column!r}, and has {cut(cell)}: "
            "write a list in a .jsonl or .parquet file, [] for a text without labels; or pass the --task that has such "
            "labels"
        )
    labels = [int(label) if isinstance(label, float) and label.is_integer() else label for label in cell]
    odd = any(type(label) not in KINDS or is_missing(label) for label in labels)
    if odd or len(set(map(type, labels))) > 1:
        raise InputError(
            f"row {row} of {table.origin} must have a list of labels of one type, strings or integers, in column "
            f"{column!r}, and has {shown(cell)}: correct the row"
        )
    twice = next((label for label in labels if labels.count(label) > 1 and label not in NO_LABEL), None)
    if twice is not None:
        raise InputError(
            f"row {row} of {table.origin} must have each label once in column {column!r}, and has {cut(twice)} "
            f"{labels.count(twice)} times: correct the row, or write the labels that the text has, and no flags"
        )
    return labels


def _flags_of(table: Table, flags: Sequence[str], row: int) -> list[str]:
    """Returns the names of those columns of flags that mark a row.

    Raises:
        InputError: A flag is neither 0 nor 1, nor a boolean.
    """
    labels = []
    for name in flags:
        cell = table.values[name][row]
        value = FLAGS.get(str(cell).strip().lower())
        if value is None:
            raise InputError(
                f"row {row} of {table.origin} must have 0 or 1 in column {name!r}, and has {shown(cell)}: correct the "
                f"row, or set --label-column to the columns of the labels{table.unread}"
            )
        if value:
            labels.append(name)
    return labels


def _rarest(targets: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Returns the rarest label of each row as its stratum; the number of labels where a row has none."""
    ranks = np.where(targets > 0, frequency, frequency.max() + 1)
    return np.where(targets.any(1), ranks.argmin(1), targets.shape[1])


def _counts(decoded: Sequence[Any], examples: Examples) -> tuple[list[int], list[int], list[int]]:
    """Returns for each example: how many labels were given rightly, how many were given, and how many it has."""
    has: Bool[Tensor, "examples labels"] = examples.targets > 0
    wanted = [set(row.nonzero()[:, 0].tolist()) for row in has]
    hits = [len(own.intersection(given)) for own, given in zip(wanted, decoded, strict=True)]
    return hits, [len(given) for given in decoded], [len(own) for own in wanted]
