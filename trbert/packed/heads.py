"""The outputs of Hugging Face's heads as one tensor, whatever the head calls them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput


def compares_choices(plain: Any) -> bool:
    """Returns whether a model takes several choices an example, [examples, choices, width], and compares them."""
    return type(plain).__name__.endswith("ForMultipleChoice")


def outputs_of(found: ModelOutput) -> Tensor:
    """Returns the outputs of a head, with the numbers of a document or token in the last dimension.

    A head for spans gives two numbers for each token: the logits of starting there, and of ending there.
    """
    if "start_logits" in found:
        return torch.stack([found["start_logits"], found["end_logits"]], dim=-1)
    logits: Tensor = found["logits"]
    return logits


def plain_outputs(plain: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the outputs of a plain model for padded documents: [docs, classes], or [docs, width, classes].

    Args:
        plain: the Hugging Face model.
        batch: `input_ids` and what else the tokenizer gives, each [docs, width].
    """
    if compares_choices(plain):  # each document is an example with one choice
        batch = {name: value[:, None] for name, value in batch.items()}
    return outputs_of(plain(**batch))
