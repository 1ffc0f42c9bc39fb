"""Turns a question and its context into documents: windows of the context that overlap, each after the question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from trbert.errors import InputError
from trbert.tasks.panics import tokenizer_told
from trbert.tasks.parts import typed_separators
from trbert.tasks.texts import is_blank

OVERLAP = 128
"""The most tokens that two neighbouring windows of a context share, as is usual. They share at most half of them."""
LEAST_SHARE = 4
"""A question must leave this part of a document to its context: one in four of its tokens."""


@dataclass(frozen=True, slots=True)
class Window:
    """A question and some neighbouring tokens of its context, as a document.

    Attributes:
        ids: the vocabulary ids of its tokens.
        kinds: their segment ids, or None where the tokenizer gives none.
        places: for each token its first character in the context, and the one after its last. Both are 0 for a token
            that is not of the context, or that stands for no character that can be seen: no answer begins there.
        typed: how many separators the question holds itself, as somebody typed them.
    """

    ids: list[int]
    kinds: list[int] | None
    places: Int32[np.ndarray, "tokens 2"]
    typed: int = 0


def windows_of(
    tokenizer: Any, questions: Sequence[str], contexts: Sequence[str], rooms: Sequence[int], max_length: int
) -> list[list[Window]]:
    """Returns the windows of each question.

    Args:
        tokenizer: a Hugging Face tokenizer of the fast kind, which knows the characters of each token.
        questions: the question of each row.
        contexts: the context of each row.
        rooms: how many tokens of a document each question leaves to its context; 1 or more.
        max_length: the most tokens of a document, with its special tokens.

    Raises:
        InputError: The tokenizer does not know the characters of its tokens, or it fails.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer must know the characters of each token, and {type(tokenizer).__name__} does not: pass a "
            "--model with a tokenizer.json"
        )
    rows_by_overlap: dict[int, list[int]] = {}
    for row, room in enumerate(rooms):
        rows_by_overlap.setdefault(min(OVERLAP, room // 2), []).append(row)
    found: list[list[Window]] = [[] for _ in questions]
    for overlap, rows in rows_by_overlap.items():
        with tokenizer_told():
            encoded = tokenizer(
                [questions[row] for row in rows],
                [contexts[row] for row in rows],
                truncation="only_second",
                max_length=max_length,
                stride=overlap,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                verbose=False,
            )
        kinds = encoded.get("token_type_ids")
        for number, (sample, ids, offsets) in enumerate(
            zip(encoded["overflow_to_sample_mapping"], encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ):
            of_context = np.array([part == 1 for part in encoded.sequence_ids(number)], dtype=np.int32)
            places = np.array(offsets, dtype=np.int32).reshape(-1, 2) * of_context[:, None]
            texts = (contexts[rows[sample]][start:end] for start, end in places.tolist())
            places[[not text.isalnum() and is_blank(text) for text in texts]] = 0
            typed = typed_separators(encoded, number, tokenizer.sep_token_id)
            found[rows[sample]].append(Window(ids, None if kinds is None else kinds[number], places, typed))
    return found
