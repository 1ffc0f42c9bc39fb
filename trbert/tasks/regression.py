"""Regression: a number for a text, or for a pair of texts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trbert.errors import InputError
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.examples import Examples, Outputs, exact
from trbert.tasks.over_texts import OverTexts, texts_of, usable_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.task import PerExample
from trbert.tasks.texts import has_texts, is_missing, mostly, number
from trbert.wording import cut, shown

STRATA = 10
"""The number of groups of about equal size into which the rows are parted by their numbers."""


class Regression(OverTexts):
    """Predicts a number for each document. A document is a text, or a pair of texts.

    The number y of a document is taken to be Gaussian around the output, with a spread σ that all documents share. The
    targets are [examples, 2]: y and σ. At first σ is the standard deviation of the numbers of train; once there is a
    teacher it is the teacher's error, so that a nat means what it does in other tasks.
    """

    name = "regression"
    metric = "Spearman correlation"
    problem_type = "regression"
    gives = "one number"

    def sign(self, table: Table, columns: Columns) -> str:
        """Returns that the labels are numbers, some of them with decimals, such as 3.5."""
        if not has_texts(table, columns.inputs):
            return ""
        labels = [label for label in table.values[columns.target] if not is_missing(label)]
        found = [number(label) for label in labels]
        fraction = next((label for label, value in zip(labels, found, strict=True) if value and value % 1), None)
        if fraction is None or table.target_names is not None or not mostly(found, lambda value: value is not None):
            return ""
        return f"column {columns.target!r} of {table.origin} has numbers with decimals, such as {cut(fraction)}"

    def check_config(self, config: Any) -> None:
        """Checks that a fine-tuned model gives each text one number.

        Raises:
            InputError: It has several outputs, or was trained to give labels.
        """
        super().check_config(config)
        if config.num_labels != 1:
            raise InputError(
                f"model {config.name_or_path!r} must give each text {self.gives}, and was trained for something else "
                f"({config.num_labels} outputs): pass --new-head, or another model"
            )

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the texts of every split with their numbers. Rows with a blank text are left out.

        In a split other than train, so are rows that are in train, too.

        Raises:
            InputError: A text is not a string, a value is not a number, all numbers of train are equal, or no row is
                left. Or there is a map of labels.
        """
        if renames is not None:
            raise InputError("--label-map must be left out where numbers are predicted, and is set: leave it out")
        notes: list[str] = []
        found: dict[str, tuple[list[int], np.ndarray]] = {}
        for split, table in tables.items():
            used, left_out = usable_rows(split, table, columns)
            used, own, bad = read_rows(split, table, columns, used, partial(_number, table, columns.target))
            notes += [*left_out, *bad]
            found[split] = used, np.array(own)
        numbers = found["train"][1]
        spread = float(numbers.std())
        if spread == 0:
            raise InputError(
                f"{tables['train'].origin} must have different numbers in column {columns.target!r}, and all are "
                f"{numbers[0]:g}: set --label-column to the column of the numbers{tables['train'].unread}"
            )
        edges = np.unique(np.quantile(numbers, np.arange(1, STRATA) / STRATA))
        rows = {
            split: Rows(
                texts_of(tables[split], columns, used),
                np.stack([own, np.full_like(own, spread)], axis=1).astype(np.float32),
                np.unique(np.searchsorted(edges, own, side="right"), return_inverse=True)[1],
            )
            for split, (used, own) in found.items()
        }
        return Reading(rows=rows, labels=(), notes=tuple(notes))

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns between what the numbers of train lie."""
        own = rows["train"].targets[:, 0]
        return [
            f"train: {len(own):,} rows with numbers from {own.min():g} to {own.max():g}, {own.mean():.3g} on average "
            f"with a standard deviation of {own.std():.3g}"
        ]

    def start(self, train: Examples) -> float:
        """Returns the mean of the numbers."""
        return float(train.targets[:, 0].double().mean())

    def settled(self, examples: Examples, outputs: Outputs, validation: Examples, on_validation: Tensor) -> Examples:
        """Returns the examples with σ set to the root of the mean square of the teacher's errors on validation.

        It is at least a hundredth of what it was, so that a teacher without errors is no division by 0.
        """
        errors = on_validation[:, 0].double() - validation.targets[:, 0].double()
        spread = examples.targets[:, 1].double().mean()
        own = max(float(errors.square().mean().sqrt()), float(spread) / 100)
        targets = examples.targets.clone()
        targets[:, 1] = own
        return replace(examples, targets=targets)

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that the targets are numbers with a spread, and that the head has one output.

        Raises:
            InputError: They are not.
        """
        targets = examples.targets
        if num_outputs != 1:
            raise InputError(
                f"a head that predicts a number must have one output, and has {num_outputs}: make a new one"
            )
        if (
            targets.dim() != 2
            or targets.shape[1] != 2
            or not bool(targets.isfinite().all() & (targets[:, 1] > 0).all())
        ):
            raise InputError(
                "targets must be a finite number and a spread above 0 for each document, and are not: pass two columns"
            )

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns ½ ((output − y) / σ)² of each document: −log of the Gaussian's density beyond its least value."""
        numbers, spread = _numbers(examples)
        return 0.5 * ((exact(outputs)[:, 0] - numbers) / spread).square()

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns ½ ((output − the teacher's output) / σ)² of each document. The temperature changes nothing."""
        _, spread = _numbers(examples)
        return 0.5 * ((exact(outputs)[:, 0] - exact(teacher_outputs)[:, 0]) / spread).square()

    def prior(self, examples: Examples) -> float:
        """Returns ½ + log(s / σ), where s is the numbers' standard deviation.

        It is the loss of the Gaussian of mean and spread of the numbers, counted as `loss` counts. What a model of
        error σ knows beyond it is log(s / σ) = −½ log(1 − R²): the mutual information of Gaussians.
        """
        numbers, spread = (values.double() for values in _numbers(examples))
        least = torch.finfo(torch.float32).tiny
        return 0.5 + math.log(max(float(numbers.std(correction=0)), least) / float(spread.mean()))

    def decode(self, outputs: Outputs, examples: Examples) -> list[float]:
        """Returns the number of each document."""
        decoded: list[float] = outputs[:, 0].tolist()
        return decoded

    def commonest(self, train: Examples, examples: Examples) -> list[float]:
        """Returns the median of train for each document."""
        return [float(train.targets[:, 0].median())] * len(examples)

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns 1 / (1 + e²) of each document, where e is its error as a multiple of σ."""
        numbers, spread = _numbers(examples)
        errors = (torch.tensor(decoded, dtype=numbers.dtype) - numbers.cpu()) / spread.cpu()
        scores: list[float] = (1 / (1 + errors.square())).tolist()
        return scores

    def quality(self, decoded: Sequence[Any], examples: Examples) -> float:
        """Returns Spearman's rank correlation; 0 where it is negative, or where all numbers are equal."""
        own, given = _ranks(examples.targets[:, 0].cpu().numpy()), _ranks(np.array(decoded))
        scale = math.sqrt(float((own**2).sum() * (given**2).sum()))
        return max(0.0, float((own * given).sum()) / scale) if scale else 0.0


def _number(table: Table, column: str, row: int) -> float:
    """Returns the number in a cell.

    Raises:
        InputError: There is none, or it is not finite.
    """
    found = number(table.values[column][row])
    if found is None:
        raise InputError(
            f"row {row} of {table.origin} must have a number in column {column!r}, and has "
            f"{shown(table.values[column][row])}: correct or remove the row, or set --label-column to the column of "
            f"the numbers{table.unread}"
        )
    return found


def _numbers(examples: Examples) -> tuple[Tensor, Tensor]:
    """Returns the number and the spread of each example. Where a deployed model gets numbers alone, the spread is 1."""
    if examples.targets.dim() == 1:
        return examples.targets, torch.ones_like(examples.targets)
    return examples.targets[:, 0], examples.targets[:, 1]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value, less the mean rank. Equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: np.ndarray = (last - (counts - 1) / 2 - (len(values) - 1) / 2 - 1)[place]
    return ranks
