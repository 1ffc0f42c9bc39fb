"""The runner that captures spans of layers, for passes whose decisions are made outside of them."""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch, ReadsDevice
from trbert.packed.buckets import Size
from trbert.packed.by_document import ByDocument
from trbert.packed.grouped import GroupedLayer, Groups
from trbert.runners.eager import Eager, through_layers
from trbert.runners.graphed import Graphed
from trbert.runners.runner import PositionTables
from trbert.shapes import Hidden


class Spans(Eager):
    """Captures each span of layers at the first use of a size of row, and repeats it on later rows of that size.

    `Graphed` captures a whole stage of a pass, its decision included. A rollout draws its decisions by key, and the
    policy learns from them. So they are made outside, and only the layers between two points are captured. A row is
    copied to a bucketed one (`trbert.packed.buckets`), and the states of its tokens are copied back.

    Layers run eagerly where a gradient passes through them, where attention is listened to, in training mode, and where
    they must read something back from the device.

    A copy of a model gets a new runner, with nothing captured.

    Attributes:
        captures: what was captured.
    """

    name = "spans"

    def __init__(self) -> None:
        self.captures = Graphed()

    def __reduce__(self) -> tuple[type["Spans"], tuple[()]]:
        return Spans, ()

    def run(
        self,
        layers: Sequence[Any],
        span: tuple[int, int],
        batch: PackedBatch,
        tables: PositionTables,
        probe: AttentionProbe | None,
    ) -> Hidden:
        """Returns the states after the layers."""
        captures, states = self.captures, batch.hidden
        fit = probe is None and batch.longest is None and captures.unfit != _arithmetic(states)
        if fit and _fixed(layers[slice(*span)], states):
            with captures.turn(states.device):
                try:
                    return self._repeat(layers, span, batch, tables)
                except ReadsDevice:
                    captures.forget()
                    captures.unfit = _arithmetic(states)
        return super().run(layers, span, batch, tables, probe)

    def _repeat(
        self, layers: Sequence[Any], span: tuple[int, int], batch: PackedBatch, tables: PositionTables
    ) -> Hidden:
        """Returns the states after the layers, which run on a bucketed row at a fixed place in memory."""
        total, docs, on = len(batch.hidden), len(batch), batch.hidden.device.type
        size = Size.of(total, docs, int(batch.original_lengths.max()))
        arithmetic, casts = _arithmetic(batch.hidden), torch.is_autocast_enabled(on)
        identity = self.captures.places.of(*layers), arithmetic, casts
        put = partial(self._put, identity)
        end = batch.offsets[-1:]
        starts = torch.cat([batch.offsets, end.expand(size.docs - docs), end.new_full((1,), size.tokens)])
        states, positions = put("states", batch.hidden, size.tokens), put("positions", batch.positions, size.tokens)
        offsets = put("offsets", starts.int(), len(starts))
        rotary: PositionTables = {}
        for kind, table in tables.items():
            assert not isinstance(table, Groups)  # layers that take groups run eagerly
            cos, sin = (put((kind, part), values[0], size.tokens) for part, values in enumerate(table))
            rotary[kind] = cos[None], sin[None]
        finished = put("finished", batch.hidden[:0], size.tokens)

        def work() -> None:
            # What autocast has cast before is not there any more when the work is repeated.
            with torch.autocast(on, arithmetic, enabled=casts, cache_enabled=False):
                found = through_layers(
                    layers[slice(*span)], states[None], offsets, positions, rotary, longest=size.longest
                )
            finished.copy_(found[0])

        self.captures.repeat((span, size, states.dtype), work, batch.hidden.device)
        return finished[:total].clone()

    def _put(self, identity: Hashable, name: Hashable, values: Tensor, most: int) -> Tensor:
        """Returns a row of `most` values, which stays where it is in memory, with these values at its front.

        Behind them stands what was put there before. It becomes the filler's, and is never read.
        """
        # Rooms are powers of two. So a row that is too long for one gets another, and nothing that was captured has to
        # be dropped; and all rooms of a name have twice the memory of the largest at most.
        room = 1 << (most - 1).bit_length()
        with torch.inference_mode(False):  # a tensor of inference mode could be written to in that mode alone
            place: Tensor = self.captures.kept_for(
                identity, (name, room, values.dtype), lambda: values.new_zeros(room, *values.shape[1:])
            )
        place[: len(values)].copy_(values)
        return place[:most]


def _arithmetic(states: Tensor) -> torch.dtype:
    """Returns the type of numbers in which layers multiply these states."""
    on = states.device.type
    return torch.get_autocast_dtype(on) if torch.is_autocast_enabled(on) else states.dtype


def _fixed(layers: Sequence[Any], states: Tensor) -> bool:
    """Returns whether these layers say the same of the same states each time, and no gradient passes through them."""
    if any(isinstance(layer, ByDocument | GroupedLayer) or layer.training for layer in layers):
        return False  # layers of the first two kinds read how long the documents are
    if not torch.is_grad_enabled():
        return True
    return not (states.requires_grad or any(weight.requires_grad for layer in layers for weight in layer.parameters()))
