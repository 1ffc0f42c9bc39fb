"""The default runner: Hugging Face's layers, called one after the other."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.runners.runner import RotaryTables, Runner
from trbert.shapes import Hidden


class Eager(Runner):
    """Calls the layers as they are. Gradients pass."""

    name = "eager"

    def adopt(self, plain: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Leaves the model as it is."""

    def run(
        self,
        layers: Sequence[Any],
        span: tuple[int, int],
        batch: PackedBatch,
        rotary: RotaryTables,
        probe: AttentionProbe | None,
    ) -> Hidden:
        """Returns the states after the layers; the attention received is computed in the last of them alone."""
        first, last = span
        return through_layers(
            layers[first:last], batch.hidden[None], batch.offsets.int(), batch.positions, rotary, batch.segments, probe
        )[0]


def through_layers(
    layers: Sequence[Any],
    states: Tensor,
    offsets: Tensor,
    positions: Tensor,
    rotary: RotaryTables,
    segments: list[int] | None = None,
    probe: AttentionProbe | None = None,
) -> Tensor:
    """Returns the states [1, total, dim] after the layers."""
    for index, layer in enumerate(layers):
        kind = getattr(layer, "attention_type", None)
        states = layer(
            states,
            attention_mask=None,
            segments=segments,
            offsets=offsets,
            token_positions=positions,
            probe=probe if index == len(layers) - 1 else None,
            **({"position_embeddings": rotary[kind if kind in rotary else None]} if rotary else {}),
        )
    return states
