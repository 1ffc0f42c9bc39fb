"""The default runner: it calls Hugging Face's layers one after the other."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.packed.by_document import ByDocument
from trbert.runners.runner import PositionTables, Runner
from trbert.shapes import Hidden


class Eager(Runner):
    """Calls the layers as they are. Gradients flow through them."""

    name = "eager"

    def adopt(self, plain: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Does nothing: the layers can be called as they are."""

    def run(
        self,
        layers: Sequence[Any],
        span: tuple[int, int],
        batch: PackedBatch,
        tables: PositionTables,
        probe: AttentionProbe | None,
    ) -> Hidden:
        """Returns the states after a span of the layers. The received attention is computed in the last one only."""
        first, last = span
        return through_layers(
            layers[first:last],
            batch.hidden[None],
            batch.offsets.int(),
            batch.positions,
            tables,
            batch.segments if batch.longest is None else None,
            probe,
            batch.longest,
        )[0]


def through_layers(
    layers: Sequence[Any],
    states: Tensor,
    offsets: Tensor,
    positions: Tensor,
    tables: PositionTables,
    segments: list[int] | None = None,
    probe: AttentionProbe | None = None,
    longest: int | None = None,
) -> Tensor:
    """Returns the states [1, total, dim] after these layers.

    Args:
        layers: the layers to run, in their order.
        states: the states that enter the first of them, [1, total, dim].
        offsets: where each document of the row starts, and the end of the row.
        positions: each token's original position.
        tables: what the layers take of positions.
        segments: the number of tokens of each document; None computes them from `offsets`.
        probe: gets the attention that each token received in the last layer that is not run by document; None asks for
            nothing.
        longest: no document has more tokens; None computes it from `segments`.
    """
    last = -1
    if probe is not None:  # the compiler cannot capture the next line; a compiled pass has no probe
        last = max((index for index, layer in enumerate(layers) if not isinstance(layer, ByDocument)), default=-1)
    for index, layer in enumerate(layers):
        kind = getattr(layer, "attention_type", None)
        states = layer(
            states,
            attention_mask=None,
            segments=segments,
            longest=longest,
            offsets=offsets,
            token_positions=positions,
            probe=probe if index == last else None,
            **({"position_embeddings": tables[kind if kind in tables else None]} if tables else {}),
        )
    return states
