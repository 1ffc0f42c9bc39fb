"""Token ids of many documents as one row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trbert.errors import InputError
from trbert.shapes import DocIndex, TokenIndex, TokenMask


@dataclass(frozen=True)
class Tokens:
    """Token ids of many documents as one row: a whole data split, or one batch of it.

    Attributes:
        input_ids: the vocabulary ids, one document after the other.
        token_type_ids: the segment ids, or None where the family of encoders has none.
        protected: True where a token is never dropped. The first token of each document is protected; a task may
            protect more.
        offsets: where each document starts, from 0 on, and the end of the row. Document i is
            `input_ids[offsets[i]:offsets[i + 1]]`.
    """

    input_ids: Int[Tensor, " total"]
    token_type_ids: Int[Tensor, " total"] | None
    protected: Bool[Tensor, " total"]
    offsets: Int[Tensor, " docs_and_one"]

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    @property
    def lengths(self) -> DocIndex:
        """The number of tokens of each document."""
        return self.offsets.diff()

    @classmethod
    def from_lists(cls, input_ids: Sequence[Sequence[int]], token_type_ids: Sequence[Sequence[int]] | None) -> "Tokens":
        """Returns the lists of a tokenizer as one row, with the first token of each document protected.

        Args:
            input_ids: the vocabulary ids of each document; lists of any lengths.
            token_type_ids: the segment ids of each document, or None.

        Raises:
            InputError: A document has no token.

        Example:
            >>> Tokens.from_lists([[7, 8], [9]], None).offsets
            tensor([0, 2, 3])
        """
        if (empty := next((i for i, ids in enumerate(input_ids) if len(ids) == 0), None)) is not None:
            raise InputError(f"document {empty} has no token: leave it out")
        offsets = torch.tensor([0, *map(len, input_ids)]).cumsum(0)
        row = torch.tensor([token for ids in input_ids for token in ids], dtype=torch.long)
        types = None
        if token_type_ids is not None:
            types = torch.tensor([kind for kinds in token_type_ids for kind in kinds], dtype=torch.long)
        return cls(row, types, first_of_each(offsets), offsets)

    @classmethod
    def from_padded(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> "Tokens":
        """Returns the tokens of a padded batch as one row without the padding.

        Args:
            input_ids: the vocabulary ids [docs, width], padded on either side.
            attention_mask: 1 for a token, 0 for padding; None where nothing is padding.
            token_type_ids: the segment ids, or None.

        Raises:
            InputError: There is no document, or one has no token. Or the ids are no whole numbers, or do not have two
                dimensions. Or the mask or the segment ids have another shape than the batch, or the mask holds a value
                other than 0 and 1.

        Example:
            >>> Tokens.from_padded(torch.tensor([[7, 8], [9, 0]]), torch.tensor([[1, 1], [1, 0]])).input_ids
            tensor([7, 8, 9])
        """
        _check_ids("input_ids", input_ids)
        if input_ids.dim() != 2:
            raise InputError(
                f"input_ids must have two dimensions, documents and their tokens, and have the shape "
                f"{tuple(input_ids.shape)}: pass a batch, for a single text input_ids[None]"
            )
        if len(input_ids) == 0:
            raise InputError("input_ids must hold at least one document, and hold none: leave the empty batch out")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise InputError(
                f"attention_mask must have the shape of input_ids {tuple(input_ids.shape)}, and has "
                f"{tuple(attention_mask.shape)}: pass the tokenizer's own 0/1 mask"
            )
        if token_type_ids is not None:
            _check_ids("token_type_ids", token_type_ids)
            if token_type_ids.shape != input_ids.shape:
                raise InputError(
                    f"token_type_ids must have the shape of input_ids {tuple(input_ids.shape)}, and have "
                    f"{tuple(token_type_ids.shape)}: pass the tokenizer's own, or none"
                )
        real = attention_mask.bool()
        # For example a mask that is added to the attention scores: there 0 means a token.
        if bool((attention_mask != real).any()):
            raise InputError(
                "attention_mask must hold only 0 and 1, and holds other values: pass the tokenizer's own 0/1 mask"
            )
        lengths = real.sum(1)
        starts = real[:, :1].sum(1) + (real[:, 1:] & ~real[:, :-1]).sum(1)
        if bool((starts != 1).any()):  # one question to the device, for both
            wrong = int((starts != 1).nonzero()[0, 0])
            if not lengths[wrong]:
                raise InputError(
                    f"document {wrong} of the batch has no token: its attention_mask is all 0; leave it out"
                )
            raise InputError(
                f"the tokens of a document must lie side by side, and the attention_mask of document {wrong} has a 0 "
                "between two of them: padding stands before or after a document; put the tokenizer's mask token in "
                "place of tokens that are to be hidden, or leave them out"
            )
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        types = None if token_type_ids is None else token_type_ids[real]
        return cls(input_ids[real], types, first_of_each(offsets), offsets)

    def take(self, documents: Int[Tensor, " taken"]) -> "Tokens":
        """Returns the documents with these indices as a new row, in the given order.

        Example:
            >>> Tokens.from_lists([[7, 8], [9]], None).take(torch.tensor([1, 0])).input_ids
            tensor([9, 7, 8])
        """
        return self._gather(*spans(self.offsets[documents], self.lengths[documents]))

    def index_of(self, documents: Int[Tensor, " taken"]) -> TokenIndex:
        """Returns the places in the row of the tokens of these documents, one document after the other.

        Example:
            >>> Tokens.from_lists([[7, 8], [9]], None).index_of(torch.tensor([1, 0]))
            tensor([2, 0, 1])
        """
        return spans(self.offsets[documents], self.lengths[documents])[0]

    def repeat(self, times: int) -> "Tokens":
        """Returns so many copies of all documents: document i of copy c becomes document `c · docs + i`.

        Example:
            >>> Tokens.from_lists([[7, 8], [9]], None).repeat(2).input_ids
            tensor([7, 8, 9, 7, 8, 9])
        """
        return self.take(torch.arange(len(self), device=self.offsets.device).repeat(times))

    def _gather(self, index: Int[Tensor, " taken"], offsets: Int[Tensor, " docs_and_one"]) -> "Tokens":
        types = None if self.token_type_ids is None else self.token_type_ids[index]
        return Tokens(self.input_ids[index], types, self.protected[index], offsets)

    def to(self, device: torch.device | str) -> "Tokens":
        """Returns the row moved to a device."""
        types = None if self.token_type_ids is None else self.token_type_ids.to(device)
        return Tokens(self.input_ids.to(device), types, self.protected.to(device), self.offsets.to(device))


def _check_ids(name: str, ids: Tensor) -> None:
    if ids.dtype not in (torch.int64, torch.int32):
        kind = str(ids.dtype).removeprefix("torch.")
        raise InputError(f"{name} must be of type int64 or int32, and are of type {kind}: pass the tokenizer's own")


def spans(starts: DocIndex, lengths: DocIndex) -> tuple[Int[Tensor, " total"], Int[Tensor, " docs_and_one"]]:
    """Returns the indices that lie in some spans of a row, one span after the other, and the offsets of the spans.

    Args:
        starts: the first index of each span.
        lengths: the number of indices of each span.

    Example:
        >>> spans(torch.tensor([5, 0]), torch.tensor([2, 3]))
        (tensor([5, 6, 0, 1, 2]), tensor([0, 2, 5]))
    """
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    shift = (starts - offsets[:-1]).repeat_interleave(lengths)
    return torch.arange(int(offsets[-1]), device=offsets.device) + shift, offsets


def first_of_each(offsets: Tensor) -> TokenMask:
    """Returns a mask that is True at the first token of each document.

    Args:
        offsets: where each document starts, and the end of the row.

    Example:
        >>> first_of_each(torch.tensor([0, 2, 3]))
        tensor([ True, False,  True])
    """
    protected = torch.zeros(int(offsets[-1]), dtype=torch.bool, device=offsets.device)
    protected[offsets[:-1]] = True
    return protected
