"""The runner that compiles each span of layers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.packed.by_document import ByDocument
from trbert.runners.eager import Eager, through_layers
from trbert.runners.runner import PositionTables
from trbert.shapes import Hidden


class Compiled(Eager):
    """Runs each span of layers through `torch.compile`.

    A span is compiled at its first use. Later rows of other lengths use the same compiled span. The layers run eagerly
    where a gradient or the received attention is wanted. So does a span with a layer that is run by document, because
    the compiler would make new code for each group of documents.

    A copy of a model gets a new runner without compiled spans, because a compiled span runs the layers of the model
    for which it was compiled.
    """

    name = "compiled"

    def __init__(self) -> None:
        self._spans: dict[tuple[int, int], Callable[..., Tensor]] = {}

    def __reduce__(self) -> tuple[type["Compiled"], tuple[()]]:
        return Compiled, ()

    def run(
        self,
        layers: Sequence[Any],
        span: tuple[int, int],
        batch: PackedBatch,
        tables: PositionTables,
        probe: AttentionProbe | None,
    ) -> Hidden:
        """Returns the states after the layers."""
        alone = any(isinstance(layer, ByDocument) for layer in layers[slice(*span)])
        if probe is not None or alone or torch.is_grad_enabled():
            return super().run(layers, span, batch, tables, probe)
        if span not in self._spans:
            first, last = span
            self._spans[span] = torch.compile(partial(through_layers, layers[first:last]), dynamic=True)
        return self._spans[span](batch.hidden[None], batch.offsets.int(), batch.positions, tables)[0]
