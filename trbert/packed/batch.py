"""Hidden states of many documents as one row: start, keep some tokens, split."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trbert.packed.tokens import Tokens
from trbert.shapes import DocIndex, Hidden, SampleMasks, TokenFloat, TokenIndex


@dataclass(frozen=True)
class PackedBatch:
    """Hidden states of many documents as one row, some tokens of each perhaps dropped.

    Attributes:
        hidden: states of the remaining tokens, documents one after the other.
        positions: each token's place in its original, unreduced document.
        documents: each token's document, an index into this batch.
        protected: True where a token is never dropped.
        original_lengths: tokens of each document before anything was dropped.
        offsets: document i is `hidden[offsets[i]:offsets[i + 1]]`.
        received: the attention that each token received in the layer before (mean over heads and over the queries of
            its own document), where somebody asked for it.
    """

    hidden: Float[Tensor, "total dim"]
    positions: Int[Tensor, " total"]
    documents: Int[Tensor, " total"]
    protected: Bool[Tensor, " total"]
    original_lengths: Int[Tensor, " docs"]
    offsets: Int[Tensor, " docs+1"]
    received: Float[Tensor, " total"] | None = None

    def __len__(self) -> int:
        return self.original_lengths.numel()

    @property
    def lengths(self) -> DocIndex:
        """Remaining tokens of each document."""
        return self.offsets.diff()

    @property
    def original_index(self) -> TokenIndex:
        """Where each remaining token stands in the unreduced row."""
        starts = self.original_lengths.cumsum(0) - self.original_lengths
        return starts[self.documents] + self.positions

    @cached_property
    def segments(self) -> list[int]:
        """Remaining tokens of each document that has any, as attention splits the row; read off the device once."""
        return segments_of(self.offsets)

    def with_hidden(self, hidden: Hidden, received: TokenFloat | None = None) -> "PackedBatch":
        """Returns the same tokens with new states, and with the attention that they received on the way there."""
        batch = replace(self, hidden=hidden, received=received)
        batch.__dict__["segments"] = self.segments  # saves reading the lengths off the device again
        return batch


def segments_of(offsets: Int[Tensor, " docs_and_one"]) -> list[int]:
    """Returns the tokens of each document that has any.

    Example:
        >>> segments_of(torch.tensor([0, 2, 2, 5]))
        [2, 3]
    """
    return [length for length in offsets.diff().tolist() if length]


def start_batch(tokens: Tokens, hidden: Hidden) -> PackedBatch:
    """Returns the unreduced batch of `tokens` with the given states."""
    lengths = tokens.lengths
    documents = torch.arange(len(tokens), device=lengths.device).repeat_interleave(lengths)
    positions = torch.arange(hidden.shape[0], device=lengths.device) - tokens.offsets[:-1][documents]
    return PackedBatch(hidden, positions, documents, tokens.protected, lengths, tokens.offsets)


def gather_kept(batch: PackedBatch, masks: SampleMasks) -> PackedBatch:
    """Returns the kept tokens of every sample: one gather, new offsets, nothing copied for what is dropped.

    Row s of `masks` (True = keep) is one decision for the whole batch; document i of sample s becomes document
    `s · docs + i`. With one row this drops tokens; with K rows it starts K trajectories that shared their prefix.

    Example:
        >>> tokens = Tokens.from_lists([[7, 8], [9]], None)
        >>> batch = start_batch(tokens, torch.zeros(3, 4))
        >>> gather_kept(batch, torch.tensor([[True, False, True]])).offsets
        tensor([0, 1, 2])
    """
    docs = len(batch)
    sample, index = masks.nonzero(as_tuple=True)
    documents = sample * docs + batch.documents[index]
    lengths = torch.bincount(documents, minlength=masks.shape[0] * docs)
    return PackedBatch(
        hidden=batch.hidden[index],
        positions=batch.positions[index],
        documents=documents,
        protected=batch.protected[index],
        original_lengths=batch.original_lengths.repeat(masks.shape[0]),
        offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
    )


def split_documents(batch: PackedBatch, most_tokens: int) -> list[PackedBatch]:
    """Returns the batch in pieces of whole documents, in order, each of at most so many tokens (or one document).

    The pieces' rows, put one after the other, are the batch's row.

    Example:
        >>> tokens = Tokens.from_lists([[7, 8], [9], [7, 9]], None)
        >>> batch = start_batch(tokens, torch.zeros(5, 4))
        >>> [piece.offsets.tolist() for piece in split_documents(batch, 3)]
        [[0, 2, 3], [0, 2]]
    """
    if len(batch.hidden) <= most_tokens:
        return [batch]
    ends = batch.offsets.tolist()
    pieces, first = [], 0
    for last in range(1, len(batch) + 1):
        if last < len(batch) and ends[last + 1] - ends[first] <= most_tokens:
            continue
        row = slice(ends[first], ends[last])
        pieces.append(
            PackedBatch(
                hidden=batch.hidden[row],
                positions=batch.positions[row],
                documents=batch.documents[row] - first,
                protected=batch.protected[row],
                original_lengths=batch.original_lengths[first:last],
                offsets=batch.offsets[first : last + 1] - ends[first],
            )
        )
        first = last
    return pieces


def document_sums(batch: PackedBatch, states: Hidden) -> Float[Tensor, "docs dim"]:
    """Returns the sum of each document's rows of `states`, which stand as the batch's tokens do."""
    return states.new_zeros(len(batch), states.shape[1]).index_add(0, batch.documents, states)
