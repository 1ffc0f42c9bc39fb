"""The rows of a split as a model takes them: tokens and targets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trbert.packed.tokens import Tokens
from trbert.shapes import DocIndex, Logits


@dataclass(frozen=True, slots=True)
class Examples:
    """A split, ready for the model.

    Attributes:
        tokens: the documents.
        labels: each document's class.
        teacher_logits: the teacher's word on each, where distillation needs it.
    """

    tokens: Tokens
    labels: DocIndex
    teacher_logits: Logits | None = None

    def take(self, documents: Tensor, device: torch.device) -> "Examples":
        """Returns the named documents, on the device."""
        teacher = None if self.teacher_logits is None else self.teacher_logits[documents].to(device)
        return Examples(self.tokens.take(documents).to(device), self.labels[documents].to(device), teacher)
