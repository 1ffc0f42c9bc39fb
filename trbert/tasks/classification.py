"""What differs between tasks; so far classification: encode, loss, fidelity, quality."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.shapes import DocFloat, DocIndex, Logits

FIDELITY_FLOOR = -5.0
"""Lowest fidelity of a document, in nats: one hopeless document must not outweigh a batch."""


def encode(
    tokenizer: Any, texts: Sequence[str], max_length: int, second_texts: Sequence[str] | None = None
) -> tuple[Tokens, int]:
    """Returns the documents as one row of tokens, the first of each protected, and how many of them were truncated.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: documents, or the first text of each.
        max_length: most tokens of a document, special tokens included; of a pair the longer text is truncated first.
        second_texts: where documents are pairs, the second text of each.

    Raises:
        InputError: max_length leaves no room for a token beside the special ones, or there is no text.
    """
    special = tokenizer.num_special_tokens_to_add(pair=second_texts is not None)
    if max_length <= special:
        raise InputError(f"max_length must be more than the {special} special tokens, and is {max_length}")
    if not texts:
        raise InputError("texts must not be empty: pass at least one document")
    columns = [list(texts)] if second_texts is None else [list(texts), list(second_texts)]
    encoded = tokenizer(*columns, truncation=False, verbose=False)
    truncated = sum(len(ids) > max_length for ids in encoded["input_ids"])
    if truncated:
        encoded = tokenizer(*columns, truncation="longest_first", max_length=max_length)
    return Tokens.from_lists(encoded["input_ids"], encoded.get("token_type_ids")), truncated


def gold_log_likelihood(logits: Logits, labels: DocIndex) -> DocFloat:
    """Returns log p(y) of each document's label, in nats, not below `FIDELITY_FLOOR`."""
    chosen = logits.float().log_softmax(-1).gather(1, labels[:, None])[:, 0]
    return chosen.clamp(min=FIDELITY_FLOOR)


def accuracy(logits: Float[Tensor, "docs classes"], labels: DocIndex) -> float:
    """Returns the fraction of documents whose highest logit is the label's."""
    return float((logits.argmax(-1) == labels).double().mean())
