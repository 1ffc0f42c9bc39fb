"""Rows of a fixed number of tokens and documents: the work on one row can be repeated on another one of that size.

A CUDA graph repeats kernels with the same shapes, on the same memory. So a row is filled up to the next size of a short
list, its bucket. Behind the documents stand empty ones, and then one more, the filler. It has the tokens that are no
one's. What is computed for them is never read.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from trbert.packed.batch import PackedBatch
from trbert.packed.tokens import Tokens
from trbert.shapes import DocIndex, TokenIndex, TokenMask

_AN_OCTAVE = 8
"""How many buckets there are from one power of two to the next. A row is then filled up by 6 % on the mean."""
_FEW_TOKENS = 64
"""The smallest bucket of tokens."""


def bucket(count: int, least: int = 1) -> int:
    """Returns the least bucket that holds so many.

    Args:
        count: how many there are.
        least: the smallest bucket, a power of two. All buckets up to eight times this are multiples of it.

    Example:
        >>> [bucket(count) for count in (1, 8, 9, 17, 100)], bucket(65, least=64)
        ([1, 8, 9, 18, 104], 128)
    """
    if count <= least:
        return least
    octave = 1 << (count - 1).bit_length() - 1  # the greatest power of two below `count`
    step = max(least, octave // _AN_OCTAVE)
    return -(-count // step) * step


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a bucketed row.

    Attributes:
        tokens: the number of tokens, those of the filler included.
        docs: the number of documents, empty ones included and the filler left out.
        longest: no document has more tokens, apart from the filler.
    """

    tokens: int
    docs: int
    longest: int

    @classmethod
    def of(cls, tokens: int, docs: int, longest: int) -> "Size":
        """Returns the size of the row that holds so many tokens and documents.

        Example:
            >>> Size.of(70, 3, 30)
            Size(tokens=128, docs=3, longest=64)
        """
        return cls(bucket(tokens, _FEW_TOKENS), bucket(docs), bucket(longest, _FEW_TOKENS))

    def with_tokens(self, tokens: int) -> "Size":
        """Returns the size of a row of the same documents that holds so many of their tokens.

        Example:
            >>> Size.of(70, 3, 30).with_tokens(20)
            Size(tokens=64, docs=3, longest=64)
        """
        return replace(self, tokens=bucket(tokens, _FEW_TOKENS))


def filler_of(batch: PackedBatch) -> int:
    """Returns the index of the filler among the documents of a bucketed row."""
    return len(batch) - 1


def start_bucketed(
    input_ids: Int[Tensor, " total"],
    token_type_ids: Int[Tensor, " total"] | None,
    protected: TokenMask,
    offsets: Int[Tensor, " docs_and_one"],
    original_lengths: DocIndex,
    longest: int,
    padding: int,
) -> tuple[Tokens, PackedBatch]:
    """Returns a bucketed row of tokens, and its batch without states. Nothing is read from the device.

    Args:
        input_ids: the vocabulary ids. What stands behind the last document is not read.
        token_type_ids: the segment ids, or None.
        protected: True where a token is never dropped.
        offsets: where each document starts; the last one is the filler. The end of the row comes last.
        original_lengths: the number of tokens of each document, and 1 for the filler and for empty documents.
        longest: the most tokens of a document.
        padding: the vocabulary id that the filler gets.

    Example:
        >>> ids, free = torch.tensor([7, 8, 9, 5]), torch.zeros(4, dtype=torch.bool)
        >>> starts, lengths = torch.tensor([0, 2, 3, 4]), torch.tensor([2, 1, 1])
        >>> tokens, batch = start_bucketed(ids, None, free, starts, lengths, 2, 0)
        >>> tokens.input_ids.tolist(), batch.documents.tolist(), batch.positions.tolist()
        ([7, 8, 9, 0], [0, 0, 1, 2], [0, 1, 0, 0])
    """
    place = torch.arange(len(input_ids), device=input_ids.device)
    documents = torch.searchsorted(offsets, place, right=True) - 1
    real = documents < len(original_lengths) - 1
    positions = (place - offsets[documents]) * real
    types = None if token_type_ids is None else token_type_ids * real
    mask = protected & real
    tokens = Tokens(torch.where(real, input_ids, padding), types, mask, offsets)
    nothing = torch.empty(len(input_ids), 0, device=input_ids.device)
    return tokens, PackedBatch(nothing, positions, documents, mask, original_lengths, offsets, longest=longest)


def compacted(batch: PackedBatch, mask: TokenMask) -> PackedBatch:
    """Returns a bucketed row in which the kept tokens come first and the filler has all other places.

    The row keeps its size, so that nothing is read from the device. Its offsets say how many tokens were kept.

    Args:
        batch: a bucketed row.
        mask: the tokens to keep (True = keep); it keeps none of the filler.

    Example:
        >>> free = torch.zeros(4, dtype=torch.bool)
        >>> starts, lengths = torch.tensor([0, 2, 3, 4]), torch.tensor([2, 1, 1])
        >>> _, batch = start_bucketed(torch.tensor([7, 8, 9, 5]), None, free, starts, lengths, 2, 0)
        >>> kept = compacted(batch, torch.tensor([True, False, True, False]))
        >>> kept.offsets.tolist(), kept.documents.tolist()
        ([0, 1, 2, 4], [0, 1, 2, 2])
    """
    width = len(mask)
    count = mask.cumsum(0)
    before = torch.cat([count.new_zeros(1), count])
    starts = before[batch.offsets[:-1]]
    place = torch.arange(width, device=mask.device)
    # Dropped tokens are written to one place behind the row.
    index = place.new_full((width + 1,), width - 1).scatter(0, torch.where(mask, before[:-1], width), place)[:width]
    real = place < count[-1]
    return replace(
        batch,
        hidden=batch.hidden[index],
        positions=batch.positions[index] * real,
        documents=torch.where(real, batch.documents[index], filler_of(batch)),
        protected=batch.protected[index] & real,
        offsets=torch.cat([starts, starts.new_full((1,), width)]),
        received=None,
    )


def original_places(batch: PackedBatch, none: int) -> TokenIndex:
    """Returns where each token of a bucketed row stood in the unreduced row; `none` for the filler's tokens."""
    return torch.where(batch.documents < filler_of(batch), batch.original_index, none)
