"""The examples of a split as a model takes them: documents, targets, and the example of each document."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor

from trbert.encoder import Reads
from trbert.errors import InputError
from trbert.packed.tokens import Tokens, spans
from trbert.shapes import DocIndex

Outputs = Float[Tensor, "outputs classes"]
"""The outputs of a head: a row for each document, or for each original token where the task reads tokens."""
PADDING = -100
"""The target at a place of an example where it has no more tokens or documents, in tasks with a target for each."""


def exact(outputs: Outputs) -> Outputs:
    """Returns the outputs in float32, or in float64 where they have it."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples, one after the other. An example has one target, counts once in a metric, and has one document or more.

    Attributes:
        tokens: the documents.
        targets: what is to be predicted of each example.
        owner: the example that each document belongs to, as an index. It never falls: the documents of an example are
            neighbours.
        reads: whether the head's outputs have a row for each document, or for each token.
        teacher: the teacher's outputs for these examples. Only distillation needs them; None elsewhere.
        names: the names of what the targets number, where the quality depends on them; () elsewhere.
        references: for each example what its answer is compared with, where the target does not say it; () elsewhere.
        labelled: which examples have a label of their own (True = labelled). The targets of the others are the
            teacher's answers. None where all have one.
    """

    tokens: Tokens
    targets: Shaped[Tensor, "examples ..."]
    owner: Int[Tensor, " docs"]
    reads: Reads = "documents"
    teacher: Outputs | None = None
    names: tuple[str, ...] = ()
    references: tuple[Any, ...] = ()
    labelled: Bool[Tensor, " examples"] | None = None

    @classmethod
    def of_documents(cls, tokens: Tokens, targets: Tensor, reads: Reads = "documents") -> "Examples":
        """Returns examples that have one document each.

        Example:
            >>> tokens = Tokens.from_lists([[7, 8], [9]], None)
            >>> Examples.of_documents(tokens, torch.tensor([1, 0])).owner
            tensor([0, 1])

        Raises:
            InputError: There is no document, or there are not as many targets as documents.
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
        """The number of rows of the head's outputs for these examples."""
        return len(self.tokens) if self.reads == "documents" else self.tokens.input_ids.numel()

    @property
    def lengths(self) -> Int[Tensor, " examples"]:
        """The number of tokens of each example, over all its documents."""
        return self.per_example(self.tokens.lengths)

    @property
    def counts(self) -> Int[Tensor, " examples"]:
        """The number of documents of each example."""
        return torch.bincount(self.owner, minlength=len(self))

    @property
    def token_targets(self) -> Shaped[Tensor, " tokens"]:
        """The target of each token, in the order of the outputs: the targets without their padding.

        Only examples that have a target for each token have them.
        """
        return self.targets[self._token_places]

    def with_token_targets(self, values: Shaped[Tensor, " tokens"]) -> Tensor:
        """Returns targets with these values at the places of `token_targets`, and the padding that there is."""
        return self.targets.masked_scatter(self._token_places, values)

    @property
    def _token_places(self) -> Bool[Tensor, "examples width"]:
        """Where the targets have a token, and no padding."""
        return torch.arange(self.targets.shape[1], device=self.targets.device) < self.lengths[:, None]

    @property
    def output_owner(self) -> Int[Tensor, " outputs"]:
        """The example of each row of the outputs."""
        return self.owner if self.reads == "documents" else self.owner.repeat_interleave(self.tokens.lengths)

    def log_sums(
        self, outputs: Outputs, chosen: Bool[Tensor, "outputs classes"] | None = None
    ) -> Float[Tensor, "examples classes"]:
        """Returns log Σ exp(output) over the rows of each example, for each column of the outputs.

        Args:
            outputs: the rows of the outputs.
            chosen: the entries over which the sums go, of which each example must have one; None chooses all.

        Example:
            >>> query = Examples(Tokens.from_lists([[7]] * 4, None), torch.zeros(1), torch.zeros(4, dtype=torch.int64))
            >>> query.log_sums(torch.zeros(4, 1)).exp()
            tensor([[4.]])
        """
        owner = self.output_owner
        left = outputs if chosen is None else outputs.masked_fill(~chosen, -torch.inf)
        with torch.no_grad():  # the largest output is taken away first, so that no sum is 0 or too large
            index, none = owner[:, None].expand_as(left), left.new_zeros(len(self), left.shape[1])
            most = none.scatter_reduce(0, index, left, "amax", include_self=False)
        return torch.zeros_like(most).index_add(0, owner, (left - most[owner]).exp()).log() + most

    def log_shares(self, outputs: Outputs) -> Outputs:
        """Returns the logarithm of the softmax over the rows of each example, for each column of the outputs."""
        return outputs - self.log_sums(outputs)[self.output_owner]

    def per_example(self, values: Shaped[Tensor, "... docs"]) -> Shaped[Tensor, "... examples"]:
        """Returns for each example the sum of its documents' values."""
        return values.new_zeros(*values.shape[:-1], len(self)).index_add(-1, self.owner, values)

    def documents(self, chosen: Int[Tensor, " taken"]) -> DocIndex:
        """Returns the indices of the chosen examples' documents, one example after the other."""
        counts = self.counts
        return spans((counts.cumsum(0) - counts)[chosen], counts[chosen])[0]

    def output_rows(self, chosen: Int[Tensor, " taken"]) -> Int[Tensor, " outputs"]:
        """Returns the indices of the chosen examples' rows among the outputs for all examples."""
        documents = self.documents(chosen)
        return documents if self.reads == "documents" else self.tokens.index_of(documents)

    def take(self, chosen: Int[Tensor, " taken"]) -> "Examples":
        """Returns the chosen examples with all their documents, in the given order."""
        counts = self.counts[chosen]
        return Examples(
            tokens=self.tokens.take(self.documents(chosen)),
            targets=self.targets[chosen],
            owner=torch.arange(len(chosen), device=counts.device).repeat_interleave(counts),
            reads=self.reads,
            teacher=None if self.teacher is None else self.teacher[self.output_rows(chosen)],
            names=self.names,
            references=tuple(self.references[each] for each in chosen.tolist()) if self.references else (),
            labelled=None if self.labelled is None else self.labelled[chosen],
        )

    @property
    def num_labelled(self) -> int:
        """The number of examples that have a label of their own."""
        return len(self) if self.labelled is None else int(self.labelled.sum())

    def judged(self, targets: Shaped[Tensor, "examples ..."], outputs: Outputs) -> "Examples":
        """Returns the examples as ones without labels, of which only the teacher has said something.

        Args:
            targets: the teacher's answers, as targets.
            outputs: the teacher's outputs for these examples.
        """
        return replace(self, targets=targets, teacher=outputs, labelled=torch.zeros(len(self), dtype=torch.bool))

    def followed_by(self, others: "Examples") -> "Examples":
        """Returns these examples with others after them, of the same task and the same tokenizer.

        Targets that have an entry for each token or document are padded to the same width.

        Example:
            >>> ones = Examples.of_documents(Tokens.from_lists([[7, 8]], None), torch.tensor([1]))
            >>> others = Examples.of_documents(Tokens.from_lists([[9]], None), torch.tensor([0]))
            >>> both = ones.followed_by(others.judged(torch.tensor([0]), torch.zeros(1, 2)))
            >>> both.tokens.offsets, both.owner, both.labelled
            (tensor([0, 2, 3]), tensor([0, 1]), tensor([ True, False]))
        """
        parts = (self, others)
        own, further = self.tokens, others.tokens
        types = [each.token_type_ids for each in (own, further) if each.token_type_ids is not None]
        teachers = [each.teacher for each in parts if each.teacher is not None]
        marks = [torch.ones(len(each), dtype=torch.bool) if each.labelled is None else each.labelled for each in parts]
        return Examples(
            tokens=Tokens(
                torch.cat([own.input_ids, further.input_ids]),
                torch.cat(types) if types else None,
                torch.cat([own.protected, further.protected]),
                torch.cat([own.offsets, further.offsets[1:] + own.offsets[-1]]),
            ),
            targets=_padded(self.targets, others.targets),
            owner=torch.cat([self.owner, others.owner + len(self)]),
            reads=self.reads,
            teacher=torch.cat(teachers) if len(teachers) == len(parts) else None,
            names=self.names,
            references=(*self.references, *others.references),
            labelled=None if self.labelled is None and others.labelled is None else torch.cat(marks),
        )

    def count_of(self, documents: int) -> int:
        """Returns how many examples have about so many documents, by the mean of these examples; at least one.

        Example:
            >>> queries = Examples(Tokens.from_lists([[7]] * 6, None), torch.zeros(2), torch.tensor([0, 0, 0, 1, 1, 1]))
            >>> queries.count_of(16), queries.count_of(1)
            (5, 1)
        """
        return max(1, round(documents * len(self) / len(self.tokens)))

    def spread(self, documents: int) -> "Examples":
        """Returns examples with about so many documents, at equal distances in the split.

        The first ones alone could be of one class, because a split may be sorted by class.
        """
        every = max(1, len(self) // self.count_of(documents))
        return self.take(torch.arange(0, len(self), every, device=self.owner.device))

    def repeat(self, times: int) -> "Examples":
        """Returns so many copies of all examples, one copy after the other: the order of trajectories in samples."""
        return self.take(torch.arange(len(self), device=self.owner.device).repeat(times))

    def with_teacher(self, outputs: Outputs) -> "Examples":
        """Returns the examples together with the teacher's outputs."""
        return replace(self, teacher=outputs)

    def to(self, device: torch.device | str) -> "Examples":
        """Returns the examples moved to a device."""
        teacher = None if self.teacher is None else self.teacher.to(device)
        return replace(
            self,
            tokens=self.tokens.to(device),
            targets=self.targets.to(device),
            owner=self.owner.to(device),
            teacher=teacher,
            labelled=None if self.labelled is None else self.labelled.to(device),
        )


def _padded(ones: Shaped[Tensor, "ones ..."], others: Shaped[Tensor, "others ..."]) -> Shaped[Tensor, "both ..."]:
    """Returns some targets and others after them. Rows that are shorter are padded."""
    if ones.dim() < 2 or ones.shape[1] == others.shape[1]:
        return torch.cat([ones, others])
    width = max(ones.shape[1], others.shape[1])
    wide = [torch.nn.functional.pad(each, (0, width - each.shape[1]), value=PADDING) for each in (ones, others)]
    return torch.cat(wide)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Rows as a tokenizer has encoded them.

    Attributes:
        examples: the examples, one for each row that is kept.
        truncated: how many of their documents were truncated.
        kept: the indices of the rows that are kept. A row for which the tokenizer gives no token is left out.
        notes: what else the user should know of how these rows were encoded. The split's name is put before each.
        skipped: how many rows were left out because they are bad. A note says so.
    """

    examples: Examples
    truncated: int
    kept: Int64[np.ndarray, " examples"]
    notes: tuple[str, ...] = ()
    skipped: int = 0
