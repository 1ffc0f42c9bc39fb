"""The interface of a runner."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.shapes import Hidden

RotaryTables = dict[str | None, tuple[Tensor, Tensor]]
"""(cos, sin) of each token's position by the layers' attention type, None for layers of one type; empty without."""


class Runner(ABC):
    """A way to run layers on a packed row. Every runner obeys the same laws (docs/architecture.md).

    Attributes:
        name: what `trbert.load` calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def adopt(self, plain: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Makes a model ready for this runner, in place, before its first run.

        Args:
            plain: the Hugging Face model, with its head.
            layers: its layers.

        Raises:
            InputError: This runner cannot run the model where it is.
        """

    @abstractmethod
    def run(
        self,
        layers: Sequence[Any],
        span: tuple[int, int],
        batch: PackedBatch,
        rotary: RotaryTables,
        probe: AttentionProbe | None,
    ) -> Hidden:
        """Returns the states after a span of the layers.

        Args:
            layers: all layers of the encoder, in order.
            span: the first layer to run, and the one after the last.
            batch: what enters the first of them.
            rotary: the position tables that the family's layers want.
            probe: takes the attention that each token receives in the last of them; None asks for none.
        """
