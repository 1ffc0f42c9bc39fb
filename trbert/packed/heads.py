"""The outputs of Hugging Face's heads as one tensor, whatever the head calls them, or pooled states without a head."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers.utils.generic import ModelOutput

POOLINGS = ("mean", "first")
"""What the vector of a document is, by the entry `pooling` of a config: the mean of its tokens' states, or the first
token's state. The entry `normalised` says whether the vector is scaled to length 1."""


def has_head(plain: Any) -> bool:
    """Returns whether a model has a head. If not, its outputs are pooled states."""
    return plain.base_model is not plain


def pooling_of(plain: Any) -> tuple[str, bool] | None:
    """Returns `pooling` and `normalised` of a model's config; None for a model with a head."""
    if has_head(plain):
        return None
    return plain.config.pooling, plain.config.normalised


def averages(plain: Any) -> bool:
    """Returns whether a model without a head gives each document the mean of its tokens' states."""
    pooling = pooling_of(plain)
    return pooling is not None and pooling[0] == "mean"


def pooled(plain: Any, states: Float[Tensor, "docs width dim"], mask: Int[Tensor, "docs width"]) -> Tensor:
    """Returns the vector of each document, [docs, dim], as sentence-transformers computes it.

    Args:
        plain: the Hugging Face model without a head; its config says how to pool.
        states: the finished states of the tokens.
        mask: 1 at tokens, and 0 at padding. The first token of a document is its first one that is not padding.
    """
    pooling, normalised = plain.config.pooling, plain.config.normalised
    if pooling == "first":
        vectors = states[torch.arange(len(states), device=states.device), mask.argmax(1)]
    else:
        weights = mask[..., None].to(states.dtype)
        vectors = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return F.normalize(vectors, dim=1) if normalised else vectors


def compares_choices(plain: Any) -> bool:
    """Returns whether a model takes several choices an example, [examples, choices, width], and compares them."""
    return type(plain).__name__.endswith("ForMultipleChoice")


def summarises_padding(plain: Any) -> bool:
    """Returns whether a head's outputs for a document depend on the padding of a batch.

    ELECTRA's head that compares choices reads a summary of all states, without a mask, unless it reads the first one.
    """
    return compares_choices(plain) and getattr(plain.config, "summary_type", "first") != "first"


def outputs_of(found: ModelOutput) -> Tensor:
    """Returns the outputs of a head, with the numbers of a document or token in the last dimension.

    A head for spans gives two numbers for each token: the logits of starting there, and of ending there. A reduced
    model without a head gives the vector of each document.
    """
    if "sentence_embedding" in found:
        vectors: Tensor = found["sentence_embedding"]
        return vectors
    if "start_logits" in found:
        return torch.stack([found["start_logits"], found["end_logits"]], dim=-1)
    logits: Tensor = found["logits"]
    return logits


def plain_outputs(plain: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the outputs of a plain model for padded documents: [docs, classes], or [docs, width, classes].

    A model without a head gives the vector of each document, [docs, dim].

    Args:
        plain: the Hugging Face model.
        batch: `input_ids` and what else the tokenizer gives, each [docs, width].
    """
    if not has_head(plain):
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        return pooled(plain, plain(**batch).last_hidden_state, mask)
    if compares_choices(plain):  # each document is an example with one choice
        batch = {name: value[:, None] for name, value in batch.items()}
    return outputs_of(plain(**batch))
