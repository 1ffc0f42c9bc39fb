"""Turns rows of words into documents, and knows the first token of each word."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trbert.errors import InputError
from trbert.tasks.panics import tokenizer_told


@dataclass(frozen=True, slots=True)
class Window:
    """Some neighbouring words of a row, as a document.

    Attributes:
        ids: the vocabulary ids of its tokens.
        kinds: their segment ids, or None where the tokenizer gives none.
        first: the place of the first token of each word, by the index of the word in its row. A word without a token
            is not there.
        cut: whether it is a single word with more tokens than a document may have, so that its last ones are cut off.
    """

    ids: list[int]
    kinds: list[int] | None
    first: Mapping[int, int]
    cut: bool = False


@dataclass(frozen=True, slots=True)
class _Read:
    """What a tokenizer gives for some words: ids, segment ids, and the word of each token, None for special tokens."""

    ids: list[int]
    kinds: list[int] | None
    words: Sequence[int | None]

    def window(self, start: int = 0, cut: bool = False) -> Window:
        """Returns it as a document whose first word is word `start` of its row."""
        first: dict[int, int] = {}
        for place, word in enumerate(self.words):
            if word is not None:
                first.setdefault(start + word, place)
        return Window(self.ids, self.kinds, first, cut)


def windows_of(tokenizer: Any, rows: Sequence[Sequence[str]], max_length: int) -> list[list[Window]]:
    """Returns the documents of each row. Each word with a token stands in one of them.

    A row with at most `max_length` tokens is one document. A longer one is parted between words, and each of its
    documents takes as many words as fit.

    Args:
        tokenizer: a Hugging Face tokenizer of the fast kind, which knows the word of each token.
        rows: the words of each row.
        max_length: the most tokens of a document, with its special tokens.

    Raises:
        InputError: max_length leaves no room for a token beside the special ones, the tokenizer does not know the
            words of its tokens, or it fails.
    """
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise InputError(f"max_length must be more than the {special} special tokens, and is {max_length}")
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer must know the word of each token, and {type(tokenizer).__name__} does not: pass a --model "
            "with a tokenizer.json"
        )
    # A blank before a word matters to tokenizers of bytes, such as RoBERTa's: they read the words as they read a text.
    spaced = [[word if number == 0 else f" {word}" for number, word in enumerate(row)] for row in rows]
    whole = _read(tokenizer, spaced, None)
    sizes = {row: Counter(read.words) for row, read in enumerate(whole) if len(read.ids) > max_length}
    pieces = [
        (row, start, end)
        for row, own in sizes.items()
        for start, end in _parts([own[word] for word in range(len(rows[row]))], max_length - special)
    ]
    parted: dict[int, list[Window]] = {row: [] for row in sizes}
    # A word after the first one keeps its blank where it begins a document, so that it has as many tokens as counted.
    again = _read(tokenizer, [spaced[row][start:end] for row, start, end in pieces], max_length)
    for (row, start, end), read in zip(pieces, again, strict=True):
        needed = sum(sizes[row][word] for word in range(start, end))
        parted[row].append(read.window(start, cut=needed > max_length - special))
    return [parted[row] if row in parted else [read.window()] for row, read in enumerate(whole)]


def _parts(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Returns the first word of each document of a row, and the word after its last one.

    Args:
        sizes: the number of tokens of each word of the row.
        room: the most tokens of a document. A word that has more is a document of its own.
    """
    starts, taken = [0], 0
    for word, size in enumerate(sizes):
        if taken and taken + size > room:
            starts.append(word)
            taken = 0
        taken += size
    return list(zip(starts, [*starts[1:], len(sizes)], strict=True))


def _read(tokenizer: Any, rows: Sequence[Sequence[str]], most: int | None) -> list[_Read]:
    """Returns what the tokenizer gives for the words of each row, of which it cuts off what is over `most` tokens."""
    if not rows:
        return []
    how = {"truncation": False, "verbose": False} if most is None else {"truncation": True, "max_length": most}
    with tokenizer_told():
        encoded = tokenizer(list(rows), is_split_into_words=True, **how)
    ids = encoded["input_ids"]
    kinds = encoded.get("token_type_ids") or [None] * len(ids)
    return [_Read(own, kind, encoded.word_ids(row)) for row, (own, kind) in enumerate(zip(ids, kinds, strict=True))]
