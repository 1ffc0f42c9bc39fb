"""Runs a layer on each document of a packed row by itself, whatever the layer does with neighbouring tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.packed.batch import check_readable, segments_of


class ByDocument(nn.Module):
    """A layer of a Hugging Face model that is run on each document by itself.

    Documents of equal length are run together, as one batch without padding. So nothing of a document reaches another
    one, and the layer needs no mask. The layer itself is neither copied nor changed.

    Args:
        layer: takes states [docs, width, dim] and `attention_mask=None`, and `position_embeddings` where the family
            has rotary positions. It returns the new states.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.attention_type = getattr(layer, "attention_type", None)

    def forward(
        self,
        states: Float[Tensor, "1 total dim"],
        *,
        segments: Sequence[int] | None = None,
        longest: int | None = None,
        offsets: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **_: Any,
    ) -> Float[Tensor, "1 total dim"]:
        """Returns the states after the layer.

        Args:
            states: the states of the whole row.
            segments: the number of tokens of each document; None computes them from `offsets`.
            longest: no document has more tokens; it is set for a row of a fixed size.
            offsets: where each document starts, and the end of the row.
            position_embeddings: (cos, sin) of each token of the row, where positions are rotary.
            **_: what other layers need on a packed row.
        """
        if longest is not None and offsets is not None:
            check_readable(offsets)
        if segments is None:
            assert offsets is not None  # every runner passes one of them
            segments = segments_of(offsets)
        outputs, places = [], []
        for index in _by_length(segments, states.device):
            rotary = {}
            if position_embeddings is not None:
                rotary["position_embeddings"] = tuple(
                    table.expand(1, -1, -1)[0][index] for table in position_embeddings
                )
            outputs.append(self.layer(states[0][index], attention_mask=None, **rotary).flatten(0, 1))
            places.append(index.flatten())
        return torch.cat(outputs)[torch.cat(places).argsort()][None]


def _by_length(segments: Sequence[int], device: torch.device) -> list[Tensor]:
    """Returns for each length of a document the places of the tokens of all such documents, [docs, length].

    Example:
        >>> [places.tolist() for places in _by_length([2, 1, 2], torch.device("cpu"))]
        [[[0, 1], [3, 4]], [[2]]]
    """
    starts: dict[int, list[int]] = {}
    start = 0
    for length in segments:
        starts.setdefault(length, []).append(start)
        start += length
    return [
        torch.tensor(first, device=device)[:, None] + torch.arange(length, device=device)
        for length, first in starts.items()
    ]
