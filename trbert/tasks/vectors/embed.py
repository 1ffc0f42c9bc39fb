"""Computes the vectors of texts with a loaded model."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trbert.errors import InputError
from trbert.tasks.task import check_reduced


@torch.inference_mode()
def embed(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 32) -> Float[Tensor, "texts dim"]:
    """Returns the vector of each text, on the CPU, in the order of the texts.

    Texts of similar length are run together. A text that is longer than those of the search is truncated as they were.

    Args:
        model: a model of task embedding, as `trbert.load` returns it.
        tokenizer: its tokenizer.
        texts: the texts.
        batch_size: the number of texts of a forward pass.

    Raises:
        InputError: There is no text, or the model is of another task or is no reduced one.
    """
    check_reduced(model, "embedding")
    if isinstance(texts, str) or not texts:
        raise InputError("texts must be a list with at least one text, and are not: pass a list of strings")
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found = []
    for start in range(0, len(order), batch_size):
        part = [texts[index] for index in order[start : start + batch_size]]
        inputs = tokenizer(
            part, padding=True, truncation=True, max_length=model.config.max_tokens, return_tensors="pt"
        ).to(model.device)
        found.append(model(**inputs).sentence_embedding.float().cpu())
    vectors = torch.cat(found)
    return torch.empty_like(vectors).index_copy_(0, torch.tensor(order), vectors)
