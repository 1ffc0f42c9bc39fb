"""Sentence embeddings: a vector for each text. Texts with similar vectors have similar meanings."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trbert.errors import InputError
from trbert.tasks.examples import Examples, Outputs, exact
from trbert.tasks.over_texts import OverTexts, usable_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.task import PerExample

SCALE = 20.0
"""κ: how many nats a cosine of 1 is worth.

sentence-transformers trains such vectors with `MultipleNegativesRankingLoss`. It picks the right text among others by a
softmax over κ · cosine, with κ = 20. A cosine that is lower by 0.05 then makes a text e times less likely: it costs one
nat. So a nat means here what it does in a task with classes.
"""
PROBES = 4
"""The number of directions along which the vectors are watched, to find out which tokens matter."""

Vectors = Float[Tensor, "examples _dim"]


class Embedding(OverTexts):
    """Gives each text a vector: the pooled states of its tokens. A dropped token has what the exits make of its state.

    There are no labels, and no teacher is trained. The plain model is the teacher, and the vector that it gives to a
    text is the target. It has length 1, since only directions are compared. Before the teacher's vectors are known, the
    target of each text is the number 0.
    """

    name = "embedding"
    head = "AutoModel"
    metric = "cosine to the teacher"
    label_column = ""
    gives = "a vector"

    def check_config(self, config: Any) -> None:
        """Accepts every model, because a head is not used."""

    def columns(self, text_column: str | None = None, label_column: str | None = None) -> Columns:
        """Returns the column of the texts.

        Raises:
            InputError: text_column names more than one column, or label_column names one.
        """
        columns = super().columns(text_column, label_column)
        if len(columns.inputs) > 1:
            raise InputError(
                f"--text-column must name one column for task {self.name}, because each text gets a vector of its own, "
                f"and is {text_column!r}: name one of them"
            )
        if columns.target:
            raise InputError(
                f"--label-column must be left out for task {self.name}, which reads no labels, and is "
                f"{columns.target!r}: leave it out"
            )
        return columns

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the texts of every split. Rows with a blank text are left out.

        In a split other than train, so are rows that are in train, too.

        Raises:
            InputError: A text is not a string, or no row is left. Or there is a map of labels.
        """
        if renames is not None:
            raise InputError(
                f"--label-map must be left out for task {self.name}, which reads no labels, and is set: leave it out"
            )
        rows: dict[str, Rows] = {}
        notes: list[str] = []
        for split, table in tables.items():
            used, left_out = usable_rows(split, table, columns)
            notes += left_out
            zeros = np.zeros(len(used), dtype=np.int64)
            rows[split] = Rows(table.inputs(columns, used), zeros.astype(np.float32), zeros)
        return Reading(rows=rows, labels=(), notes=tuple(notes))

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns what is learned in place of labels."""
        return [
            f"train: {len(rows['train']):,} texts without labels; the model's own vectors are to be kept, so that the "
            "quality of the teacher is 100 % by definition"
        ]

    def settled(self, examples: Examples, outputs: Outputs, validation: Examples, on_validation: Tensor) -> Examples:
        """Returns the examples with the teacher's vectors as their targets."""
        return replace(examples, targets=self.targets_of(outputs, examples))

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that the targets are vectors of length 1, or zeros while the teacher's vectors are not known.

        Raises:
            InputError: They are something else.
        """
        targets = examples.targets
        if targets.dim() == 1 and not bool(targets.any()):
            return
        if targets.dim() != 2 or not bool(((targets.norm(dim=1) - 1).abs() < 1e-3).all()):
            raise InputError("targets must be a vector of length 1 for each document, and are not: normalise them")

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns κ (1 − cosine of the vector and its target) of each document."""
        return _away(outputs, _vectors(examples.targets))

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns κ (1 − cosine of the vector and the teacher's) of each document. The temperature changes nothing."""
        return _away(outputs, teacher_outputs)

    def targets_of(self, outputs: Outputs, examples: Examples) -> Tensor:
        """Returns the teacher's vectors."""
        return F.normalize(exact(outputs), dim=1)

    def sensed(self, outputs: Outputs, examples: Examples) -> Float[Tensor, "probes examples"]:
        """Returns κ times the part of each unit vector along a few directions, which are drawn once and for all.

        The mean square of what a change does to these parts is, up to a factor, that of what it does to the vector.
        """
        directions = torch.randn(PROBES, outputs.shape[1], generator=torch.Generator().manual_seed(0))
        return SCALE * F.normalize(directions, dim=1).to(outputs.device) @ F.normalize(exact(outputs), dim=1).T

    def prior(self, examples: Examples) -> float:
        """Returns κ (1 − the length of the mean target): the mean loss of the mean target's direction."""
        return SCALE * (1 - float(_vectors(examples.targets).double().mean(0).norm()))

    def decode(self, outputs: Outputs, examples: Examples) -> list[Any]:
        """Returns the vector of each document, as an array of four bytes a number."""
        return [array("f", row.tobytes()) for row in outputs.detach().float().cpu().numpy()]

    def commonest(self, train: Examples, examples: Examples) -> list[Any]:
        """Returns for each document the mean of train's targets: of all fixed vectors, it is the nearest to them."""
        mean = _vectors(train.targets).double().mean(0)
        return [array("f", mean.tolist())] * len(examples)

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns the cosine of each vector and its target, 0 where it is negative.

        It is rounded to the seven digits that float32 has, so that equal vectors have exactly 1.
        """
        own = torch.from_numpy(np.stack([np.frombuffer(vector, dtype=np.float32) for vector in decoded]))
        cosines = _cosine(own.double(), _vectors(examples.targets).cpu().double())
        scores: list[float] = cosines.clamp(0, 1).round(decimals=7).tolist()
        return scores


def _away(outputs: Outputs, targets: Vectors) -> PerExample:
    """Returns κ (1 − cosine) of each output and its target. Rounding may take a cosine above 1; the loss is then 0."""
    return SCALE * (1 - _cosine(exact(outputs), exact(targets))).clamp(min=0)


def _cosine(ones: Vectors, others: Vectors) -> PerExample:
    return (F.normalize(ones, dim=1) * F.normalize(others, dim=1)).sum(1)


def _vectors(targets: Tensor) -> Vectors:
    """Returns the targets as vectors. While they are not known, they have one number, 0, which fits any width."""
    return targets[:, None] if targets.dim() == 1 else targets
