"""The interface of a runner."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.packed.grouped import Groups
from trbert.shapes import Hidden

PositionTables = dict[str | None, tuple[Tensor, Tensor] | Groups]
"""What the layers take of positions, by the attention type of a layer. The key is None where all are of one type.

It is (cos, sin) of each token's position where positions are rotary, and the groups of the row where the attention runs
on groups. Elsewhere the dictionary is empty.
"""


class Runner(ABC):
    """A way to run layers on a packed row. Every runner obeys the same laws (docs/architecture.md).

    Attributes:
        name: its name in `trbert.load`.
    """

    name: ClassVar[str]

    @abstractmethod
    def adopt(self, plain: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Prepares a model for this runner, in place. It is called before the first run.

        Args:
            plain: the Hugging Face model, with its head.
            layers: its layers.

        Raises:
            InputError: This runner cannot run the model on its device.
        """

    @abstractmethod
    def run(
        self,
        layers: Sequence[Any],
        span: tuple[int, int],
        batch: PackedBatch,
        tables: PositionTables,
        probe: AttentionProbe | None,
    ) -> Hidden:
        """Returns the states after a span of the layers.

        Args:
            layers: all layers of the encoder, in their order.
            span: the index of the first layer to run, and the index after the last one.
            batch: the states that enter the first layer of the span.
            tables: what the layers take of positions.
            probe: gets the attention that each token received in the last layer of the span; None asks for nothing.
        """
