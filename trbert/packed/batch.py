"""Hidden states of many documents as one row: how a row starts, loses tokens, and is split."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trbert.packed.tokens import Tokens
from trbert.shapes import DocIndex, Hidden, SampleMasks, TokenFloat, TokenIndex


class ReadsDevice(Exception):
    """A row of a fixed size meets a layer that must read something back from the device."""


@dataclass(frozen=True)
class PackedBatch:
    """The hidden states of the remaining tokens of many documents, as one row.

    Attributes:
        hidden: the states of the remaining tokens, one document after the other.
        positions: each token's position in its original, unreduced document; 0 is the first.
        documents: each token's document, as an index into this batch.
        protected: True where a token is never dropped.
        original_lengths: the number of tokens of each document before any was dropped.
        offsets: where each document starts, and the end of the row. Document i is `hidden[offsets[i]:offsets[i + 1]]`.
        received: the attention that each token received in the layer before: the mean over the heads and over the
            queries of its own document. None where no caller asked for it.
        longest: no document has more tokens. It is set for a row of a fixed size (`trbert.packed.buckets`), of which
            nothing is read from the device.
    """

    hidden: Float[Tensor, "total dim"]
    positions: Int[Tensor, " total"]
    documents: Int[Tensor, " total"]
    protected: Bool[Tensor, " total"]
    original_lengths: Int[Tensor, " docs"]
    offsets: Int[Tensor, " docs+1"]
    received: Float[Tensor, " total"] | None = None
    longest: int | None = None

    def __len__(self) -> int:
        return self.original_lengths.numel()

    @property
    def lengths(self) -> DocIndex:
        """The number of remaining tokens of each document."""
        return self.offsets.diff()

    @property
    def original_index(self) -> TokenIndex:
        """The index of each remaining token in the unreduced row."""
        starts = self.original_lengths.cumsum(0) - self.original_lengths
        return starts[self.documents] + self.positions

    @cached_property
    def segments(self) -> list[int]:
        """The number of remaining tokens of each document that has any: the pieces in which attention splits the row.

        They are read from the device once and then kept.
        """
        if self.longest is not None:
            check_readable(self.offsets)
        return segments_of(self.offsets)

    def with_hidden(self, hidden: Hidden, received: TokenFloat | None = None) -> "PackedBatch":
        """Returns the same tokens with new states, and with the attention that they received in the last layer."""
        batch = replace(self, hidden=hidden, received=received)
        if "segments" in self.__dict__:  # they stay what they were, and need not be read from the device again
            batch.__dict__["segments"] = self.segments
        return batch


def check_readable(offsets: Tensor) -> None:
    """Checks that the sizes of a row of a fixed size may be read, as they may on a CPU.

    Raises:
        ReadsDevice: They lie on another device.

    Example:
        >>> check_readable(torch.tensor([0, 2]))
    """
    if offsets.device.type != "cpu":
        raise ReadsDevice


def segments_of(offsets: Int[Tensor, " docs_and_one"]) -> list[int]:
    """Returns the number of tokens of each document that has any.

    Example:
        >>> segments_of(torch.tensor([0, 2, 2, 5]))
        [2, 3]
    """
    return [length for length in offsets.diff().tolist() if length]


def start_batch(tokens: Tokens, hidden: Hidden) -> PackedBatch:
    """Returns the unreduced batch of `tokens` with the given states.

    Example:
        >>> batch = start_batch(Tokens.from_lists([[7, 8], [9]], None), torch.zeros(3, 4))
        >>> batch.positions, batch.documents
        (tensor([0, 1, 0]), tensor([0, 0, 1]))
    """
    return unreduced_row(tokens.offsets, hidden, tokens.protected)


def unreduced_row(
    offsets: Int[Tensor, " docs_and_one"], hidden: Hidden, protected: Bool[Tensor, " total"]
) -> PackedBatch:
    """Returns the unreduced batch of documents that start at these offsets, with the given states.

    Example:
        >>> unreduced_row(torch.tensor([0, 2, 3]), torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)).documents
        tensor([0, 0, 1])
    """
    lengths = offsets.diff()
    documents = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=len(hidden))
    positions = torch.arange(len(hidden), device=lengths.device) - offsets[:-1][documents]
    return PackedBatch(hidden, positions, documents, protected, lengths, offsets)


def gather_kept(batch: PackedBatch, masks: SampleMasks) -> PackedBatch:
    """Returns a batch of the tokens that each row of `masks` keeps.

    Row s of `masks` (True = keep) is one decision for all tokens of the batch, called sample s. Document i of sample s
    becomes document `s · docs + i` of the new batch. One row drops tokens. K rows make K trajectories of each document,
    which share everything up to here.

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
        original_lengths=batch.original_lengths.expand(len(masks), -1).flatten(),
        offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
    )


def split_documents(batch: PackedBatch, most_tokens: int) -> list[PackedBatch]:
    """Returns the batch in pieces of whole documents, in their order.

    The rows of the pieces, put one after the other, are the row of the batch.

    Args:
        batch: the batch to split.
        most_tokens: the most tokens of a piece. A longer document is a piece of its own.

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
    """Returns the sum over each document's tokens of their rows in `states`, at least in float32.

    In half precision a large sum does not change when a small state is added to it.

    Args:
        batch: says which document each token belongs to.
        states: one row for each token of the batch, in the same order.

    Example:
        >>> batch = start_batch(Tokens.from_lists([[7, 8], [9]], None), torch.zeros(3, 1))
        >>> document_sums(batch, torch.tensor([[1.0], [2.0], [5.0]])).tolist()
        [[3.0], [5.0]]
    """
    if batch.longest is not None and states.is_cuda:
        from trbert.packed.sums import segment_sums  # it may import Triton, which takes a while

        # It adds in the order of the row, so that the same row always has the same bits; `index_add` does not.
        return segment_sums(states, batch.offsets)
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    return states.new_zeros(len(batch), states.shape[1]).index_add(0, batch.documents, states)


def document_means(batch: PackedBatch, states: Hidden) -> Float[Tensor, "docs dim"]:
    """Returns the mean over each document's tokens of their rows in `states`, at least in float32.

    It is 0 for a document without tokens.

    Args:
        batch: says which document each token belongs to.
        states: one row for each token of the batch, in the same order.

    Example:
        >>> batch = start_batch(Tokens.from_lists([[7, 8], [9]], None), torch.zeros(3, 1))
        >>> document_means(batch, torch.tensor([[1.0], [2.0], [5.0]])).tolist()
        [[1.5], [5.0]]
    """
    return document_sums(batch, states) / batch.lengths.clamp(min=1)[:, None]
