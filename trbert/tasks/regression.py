"""Regression: a number for a text, or for a pair of texts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trbert.errors import InputError
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.examples import Examples, Outputs, exact
from trbert.tasks.labels import with_labels
from trbert.tasks.over_texts import OverTexts, usable_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.task import PerExample, Times
from trbert.tasks.texts import has_texts, is_missing, mostly, number
from trbert.wording import cut, shown

STRATA = 10
"""The number of groups of about equal size into which the rows are parted by their numbers."""
ROUNDED = 1e-4
"""The most that rounding to 32 bits may move a number, as a share of the standard deviation."""


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

        In a split other than train, so are rows that are in train, too. A split without any numbers is not used.

        Raises:
            InputError: A text is not a string, a value is not a number, all numbers of train are equal or nearly so for
                their size, or no row is left. Or there is a map of labels.
        """
        if renames is not None:
            raise InputError("--label-map must be left out where numbers are predicted, and is set: leave it out")
        tables, notes = with_labels(tables, columns)
        found: dict[str, tuple[list[int], np.ndarray]] = {}
        for split, table in tables.items():
            used, left_out = usable_rows(split, table, columns)
            used, own, bad = read_rows(split, table, columns, used, partial(_number, table, columns.target))
            notes += [*left_out, *bad]
            found[split] = used, np.array(own)
        numbers = found["train"][1]
        spread = float(numbers.std())
        if numbers.min() == numbers.max():  # rounding may give equal numbers a spread
            raise InputError(
                f"{tables['train'].origin} must have different numbers in column {columns.target!r}, and all are "
                f"{numbers[0]:g}: set --label-column to the column of the numbers{tables['train'].unread}"
            )
        _check_exact(tables["train"], columns.target, numbers, spread)
        edges = np.unique(np.quantile(numbers, np.arange(1, STRATA) / STRATA))
        rows = {
            split: Rows(
                tables[split].inputs(columns, used),
                np.stack([own, np.full_like(own, spread)], axis=1).astype(np.float32),
                np.unique(np.searchsorted(edges, own, side="right"), return_inverse=True)[1],
            )
            for split, (used, own) in found.items()
        }
        return Reading(rows=rows, labels=(), notes=tuple(notes))

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns between what the numbers of train lie."""
        own = rows["train"].targets[:, 0].astype(np.float64)
        return [
            f"train: {len(own):,} rows with numbers from {own.min():g} to {own.max():g}, {own.mean():.3g} on average "
            f"with a standard deviation of {own.std():.3g}"
        ]

    def start(self, train: Examples) -> float:
        """Returns the mean of the numbers."""
        return float(train.targets[:, 0].double().mean())

    def unit(self, train: Examples) -> float:
        """Returns the spread of the numbers."""
        return float(train.targets[:, 1].double().mean())

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

    def sensed(self, outputs: Outputs, examples: Examples) -> Float[Tensor, "kinds examples"]:
        """Returns the output of each document over σ.

        Where the target is the teacher's own number, no token changes the loss to first order. Elsewhere the loss moves
        with the output, so that it ranks a document's tokens in the same order.
        """
        _, spread = _numbers(examples)
        return (exact(outputs)[:, 0] / spread)[None]

    def targets_of(self, outputs: Outputs, examples: Examples) -> Tensor:
        """Returns the number of each document, with the spread that it has."""
        return torch.stack([exact(outputs)[:, 0], examples.targets[:, 1]], dim=1)

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

    def qualities(
        self, decoded: Sequence[Any], examples: Examples, times: Iterable[Times]
    ) -> Float[np.ndarray, " resamples"]:
        """Returns Spearman's rank correlation in each resample; 0 where it is negative, or where all numbers are equal.

        It is no mean over examples.
        """
        own, given = (np.unique(each, return_inverse=True)[1] for each in (_true(examples), np.array(decoded)))
        return np.concatenate([_correlations(_ranks(own, each), _ranks(given, each), each) for each in times])

    def figures(self, decoded: Sequence[Any], examples: Examples) -> dict[str, float]:
        """Returns R², the share of the numbers' variance that the outputs explain; below 0 if they explain none of it.

        It is left out where all numbers are equal.
        """
        numbers = _true(examples)
        spread = float(((numbers - numbers.mean()) ** 2).sum())
        return {"R²": 1 - float(((numbers - np.array(decoded)) ** 2).sum()) / spread} if spread else {}


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


def _check_exact(table: Table, column: str, numbers: Float[np.ndarray, " rows"], spread: float) -> None:
    """Checks that 32 bits hold the numbers of train as exactly as their spread asks for.

    Raises:
        InputError: They are so large that rounding moves one by more than `ROUNDED` of the spread.
    """
    rounded = numbers.astype(np.float32).astype(np.float64)
    worst = int(np.abs(rounded - numbers).argmax())
    if abs(rounded[worst] - numbers[worst]) > ROUNDED * spread:
        raise InputError(
            f"{table.origin} must have numbers in column {column!r} that 32 bits hold apart, and {numbers[worst]!s} is "
            f"rounded to {rounded[worst]!s}, beside a standard deviation of {spread:.3g}: subtract a constant, such as "
            f"{numbers.mean():.0f}, from all numbers"
        )


def _numbers(examples: Examples) -> tuple[Tensor, Tensor]:
    """Returns the number and the spread of each example. Where a deployed model gets numbers alone, the spread is 1."""
    if examples.targets.dim() == 1:
        return examples.targets, torch.ones_like(examples.targets)
    return examples.targets[:, 0], examples.targets[:, 1]


def _true(examples: Examples) -> Float[np.ndarray, " examples"]:
    """Returns the number of each example."""
    numbers: np.ndarray = _numbers(examples)[0].double().cpu().numpy()
    return numbers


def _ranks(groups: Int64[np.ndarray, " examples"], times: Times) -> Times:
    """Returns the rank of each example in each resample, less the mean rank.

    Args:
        groups: the number of the group of equal values that each example belongs to, in the order of the values. The
            examples of a group share the mean of their ranks.
        times: how often each resample holds each example.
    """
    order = groups.argsort(kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.add.reduceat(times[:, order], starts, axis=1)
    last = sizes.cumsum(1)
    ranks: np.ndarray = (last - (sizes - 1) / 2 - (last[:, -1:] + 1) / 2)[:, groups]
    return ranks


def _correlations(own: Times, given: Times, times: Times) -> Float[np.ndarray, " block"]:
    """Returns the correlation of ranks in each resample, but at least 0; 0 where all ranks of one side are equal."""
    products = (times * own * given).sum(1)
    scale = np.sqrt((times * own**2).sum(1) * (times * given**2).sum(1))
    return np.clip(np.divide(products, scale, out=np.zeros_like(scale), where=scale > 0), 0.0, 1.0)
