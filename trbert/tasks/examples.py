"""The examples of a split as a model takes them: documents, targets, and which document belongs to which example."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from trbert.encoder import Reads
from trbert.errors import InputError
from trbert.packed.tokens import Tokens, spans
from trbert.shapes import DocIndex

Outputs = Float[Tensor, "outputs classes"]
"""What a head says: a row for each document, or a row for each original token, as the task reads."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples in a row. An example is what a target belongs to and a metric counts: one document, or several.

    Attributes:
        tokens: the documents.
        targets: what is to be predicted of each example.
        owner: the example that each document belongs to; never falls, so that an example's documents lie together.
        reads: whether the head's outputs have a row for each document, or for each token.
        teacher: the teacher's outputs, where distillation needs them.
    """

    tokens: Tokens
    targets: Shaped[Tensor, "examples ..."]
    owner: Int[Tensor, " docs"]
    reads: Reads = "documents"
    teacher: Outputs | None = None

    @classmethod
    def of_documents(cls, tokens: Tokens, targets: Tensor, reads: Reads = "documents") -> "Examples":
        """Returns examples of one document each.

        Example:
            >>> tokens = Tokens.from_lists([[7, 8], [9]], None)
            >>> Examples.of_documents(tokens, torch.tensor([1, 0])).owner
            tensor([0, 1])

        Raises:
            InputError: There are not as many targets as documents, or there is none.
        """
        if len(tokens) == 0:
            raise InputError("tokens must hold at least one document, and hold none: pass a non-empty split")
        if len(targets) != len(tokens):
            raise InputError(
                f"targets must be one for each of the {len(tokens)} documents, and are {len(targets)}: "
                "pass the targets of the same split"
            )
        return cls(tokens, targets, torch.arange(len(tokens), device=tokens.offsets.device), reads)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def num_outputs(self) -> int:
        """Rows of what the head says of them."""
        return len(self.tokens) if self.reads == "documents" else self.tokens.input_ids.numel()

    @property
    def lengths(self) -> Int[Tensor, " examples"]:
        """Tokens of each example, all its documents together."""
        return self.per_example(self.tokens.lengths)

    def per_example(self, values: Shaped[Tensor, "... docs"]) -> Shaped[Tensor, "... examples"]:
        """Returns the sum of each example's documents' values."""
        return values.new_zeros(*values.shape[:-1], len(self)).index_add(-1, self.owner, values)

    def documents(self, chosen: Int[Tensor, " taken"]) -> DocIndex:
        """Returns the indices of the chosen examples' documents, one example after the other."""
        counts = torch.bincount(self.owner, minlength=len(self))
        return spans((counts.cumsum(0) - counts)[chosen], counts[chosen])[0]

    def output_rows(self, chosen: Int[Tensor, " taken"]) -> Int[Tensor, " outputs"]:
        """Returns which rows of the outputs of all examples are those of the chosen ones."""
        documents = self.documents(chosen)
        return documents if self.reads == "documents" else self.tokens.index_of(documents)

    def take(self, chosen: Int[Tensor, " taken"]) -> "Examples":
        """Returns the chosen examples, whole and in the given order."""
        counts = torch.bincount(self.owner, minlength=len(self))[chosen]
        return Examples(
            tokens=self.tokens.take(self.documents(chosen)),
            targets=self.targets[chosen],
            owner=torch.arange(len(chosen), device=counts.device).repeat_interleave(counts),
            reads=self.reads,
            teacher=None if self.teacher is None else self.teacher[self.output_rows(chosen)],
        )

    def spread(self, count: int) -> "Examples":
        """Returns about so many examples from all over a split, whose rows may lie in order of their classes."""
        every = max(1, len(self) // count)
        return self.take(torch.arange(0, len(self), every, device=self.owner.device))

    def repeat(self, times: int) -> "Examples":
        """Returns all examples, then all of them again, and so on, as trajectories of several samples stand."""
        return self.take(torch.arange(len(self), device=self.owner.device).repeat(times))

    def with_teacher(self, outputs: Outputs) -> "Examples":
        """Returns the examples with the teacher's outputs beside them."""
        return replace(self, teacher=outputs)

    def to(self, device: torch.device | str) -> "Examples":
        """Returns the examples on another device."""
        teacher = None if self.teacher is None else self.teacher.to(device)
        return Examples(self.tokens.to(device), self.targets.to(device), self.owner.to(device), self.reads, teacher)
