"""Computes the vectors of texts with a loaded model."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trbert.errors import InputError
from trbert.tasks.task import check_reduced
from trbert.wording import shown

_HALF = re.compile("[\ud800-\udfff]")


@torch.inference_mode()
def embed(model: Any, tokenizer: Any, texts: Iterable[Any], batch_size: int = 32) -> Float[Tensor, "texts dim"]:
    """Returns the vector of each text, on the CPU, in the order of the texts.

    Texts of similar length are run together. A text that is longer than those of the search is truncated as they were.

    Args:
        model: a model of task embedding, as `trbert.load` returns it.
        tokenizer: its tokenizer.
        texts: the texts, which are strings.
        batch_size: the number of texts of a forward pass.

    Raises:
        InputError: There is no text, or one is no string, or one holds half a character. The batch size is
            below 1. Or the model is of another task, or no reduced one.
    """
    check_reduced(model, "embedding")
    if isinstance(texts, str):
        raise InputError(f"texts must be a list of strings, and is {shown(texts)}: put it into a list, [text]")
    every = list(texts)
    if not every:
        raise InputError("texts must hold at least one text, and hold none: pass a list of strings")
    if odd := [place for place, text in enumerate(every) if not isinstance(text, str)]:
        raise InputError(
            f"texts must be strings, and text {odd[0]} is {shown(every[odd[0]])}: leave it out, or write it as a string"
        )
    if halves := [place for place, text in enumerate(every) if _HALF.search(text)]:
        raise InputError(
            f"texts must hold whole characters, and text {halves[0]} holds half a character, as text does that was cut "
            "within a character of UTF-16: leave that half out"
        )
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, and is {batch_size}: leave it out to take the default")
    order = sorted(range(len(every)), key=lambda index: len(every[index]))
    found = []
    for start in range(0, len(order), batch_size):
        part = [every[index] for index in order[start : start + batch_size]]
        inputs = tokenizer(
            part, padding=True, truncation=True, max_length=model.config.max_tokens, return_tensors="pt"
        ).to(model.device)
        found.append(model(**inputs).sentence_embedding.float().cpu())
    vectors = torch.cat(found)
    return torch.empty_like(vectors).index_copy_(0, torch.tensor(order), vectors)
