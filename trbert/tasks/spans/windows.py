"""Turns a question and its context into documents: windows of the context that overlap, each after the question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from trbert.errors import InputError
from trbert.tasks.panics import panics_told
from trbert.wording import first_line

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
            that is not of the context, or that stands for no character.
    """

    ids: list[int]
    kinds: list[int] | None
    places: Int32[np.ndarray, "tokens 2"]


def windows_of(
    tokenizer: Any, questions: Sequence[str], contexts: Sequence[str], max_length: int
) -> list[list[Window] | None]:
    """Returns the windows of each question; None where the question is too long for its context to be read.

    Args:
        tokenizer: a Hugging Face tokenizer of the fast kind, which knows the characters of each token.
        questions: the question of each row.
        contexts: the context of each row.
        max_length: the most tokens of a document, with its special tokens.

    Raises:
        InputError: max_length leaves no room for a token beside the special ones, the tokenizer does not know the
            characters of its tokens, or it fails.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length <= special:
        raise InputError(f"max_length must be more than the {special} special tokens, and is {max_length}")
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer must know the characters of each token, and {type(tokenizer).__name__} does not: pass a "
            "--model with a tokenizer.json"
        )
    rows_by_overlap: dict[int, list[int]] = {}
    for row, ids in enumerate(_called(tokenizer, list(questions), add_special_tokens=False)["input_ids"]):
        room = max_length - special - len(ids)
        if room >= max(1, max_length // LEAST_SHARE):
            rows_by_overlap.setdefault(min(OVERLAP, room // 2), []).append(row)
    found: list[list[Window] | None] = [None] * len(questions)
    for overlap, rows in rows_by_overlap.items():
        encoded = _called(
            tokenizer,
            [questions[row] for row in rows],
            [contexts[row] for row in rows],
            truncation="only_second",
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        kinds = encoded.get("token_type_ids")
        for number, (sample, ids, offsets) in enumerate(
            zip(encoded["overflow_to_sample_mapping"], encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ):
            of_context = np.array([part == 1 for part in encoded.sequence_ids(number)], dtype=np.int32)
            places = np.array(offsets, dtype=np.int32).reshape(-1, 2) * of_context[:, None]
            places[places[:, 0] == places[:, 1]] = 0
            own = found[rows[sample]] or []
            found[rows[sample]] = [*own, Window(ids, None if kinds is None else kinds[number], places)]
    return found


def _called(tokenizer: Any, *texts: list[str], **how: Any) -> Any:
    """Returns what the tokenizer gives for texts.

    Raises:
        InputError: It fails.
    """
    try:
        with panics_told():
            return tokenizer(*texts, verbose=False, **how)
    except Exception as error:  # as the tokenizers library raises it
        raise InputError(
            f"tokenizer must read the texts of the data, and does not ({first_line(error)}): correct tokenizer.json, "
            "or pass another --model"
        ) from error
