"""The parts of a document that is read as a pair of texts, such as a question and its context."""

from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from trbert.errors import InputError
from trbert.packed.tokens import Tokens, first_of_each

Part = Literal["first", "second"]
"""A part of a document. The first one ends with the first separator; the second one is everything after it."""


def protect_part(tokens: Tokens, part: Part, separator: int, typed: Int[Tensor, " docs"] | None = None) -> Tokens:
    """Returns the documents with all tokens of one part protected, as well as the first token of each document.

    The separator belongs to the first part. A document without a separator has no parts: nothing more is protected.

    Args:
        tokens: the documents.
        part: the part to protect.
        separator: the id of the separating token, such as [SEP].
        typed: how many separators the first text of each document holds itself, as somebody typed them. They end no
            part. None stands for 0 each.

    Example:
        >>> tokens = Tokens.from_lists([[1, 7, 2, 8, 2]], None)
        >>> protect_part(tokens, "first", 2).protected.int()
        tensor([1, 1, 1, 0, 0], dtype=torch.int32)
        >>> protect_part(tokens, "second", 2).protected.int()
        tensor([1, 0, 0, 1, 1], dtype=torch.int32)
    """
    ends = (tokens.input_ids == separator).long()
    count = ends.cumsum(0)
    until = torch.cat([count.new_zeros(1), count])  # the separators before each token of the row
    starts, ends_of = tokens.offsets[:-1], tokens.offsets[1:]
    before = until[:-1] - until[starts].repeat_interleave(tokens.lengths)
    inside = torch.zeros_like(tokens.lengths) if typed is None else typed
    has_parts = (until[ends_of] - until[starts] > inside).repeat_interleave(tokens.lengths)
    is_first = before <= inside.repeat_interleave(tokens.lengths)
    own = is_first if part == "first" else ~is_first
    return replace(tokens, protected=tokens.protected | (own & has_parts))


def typed_separators(encoded: Any, number: int, separator: int | None) -> int:
    """Returns how many separators a document holds in its first text, as somebody typed them.

    Args:
        encoded: what a Hugging Face tokenizer returned.
        number: the index of the document.
        separator: the id of the separating token; None where there is none.

    Returns:
        0 for a tokenizer of the slow kind, which does not know the text of each token.
    """
    if not encoded.is_fast or separator is None:
        return 0
    texts = encoded.sequence_ids(number)
    return sum(text == 0 and id == separator for text, id in zip(texts, encoded["input_ids"][number], strict=True))


def first_alone(tokens: Tokens) -> Tokens:
    """Returns the documents with their first tokens protected, and no others."""
    return replace(tokens, protected=first_of_each(tokens.offsets))


def separator_of(task: Any, tokenizer: Any, protect: bool = True) -> int | None:
    """Returns the id of the token that ends the first part of a document, or None where no part is to be protected.

    Args:
        task: the task, whose `protected_part` says whether there is such a part.
        tokenizer: a Hugging Face tokenizer.
        protect: whether the user wants it protected.

    Raises:
        InputError: The tokenizer has no separating token.
    """
    if task.protected_part is None or not protect:
        return None
    separator: int | None = tokenizer.sep_token_id
    if separator is None:
        raise InputError(
            f"the tokenizer must have a separating token, so that task {task.name} can protect the "
            f"{task.protected_part} part of each document, and has none: pass another model"
        )
    return separator
