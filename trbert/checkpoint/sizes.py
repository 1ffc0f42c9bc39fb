"""Compares the sizes that a config.json declares with the weights in the files, before memory is taken for them."""

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trbert.checkpoint.headers import Shapes, shapes_of

SPARE = 64_000_000
"""How many numbers a model may have beyond those in the files: a new head, a pooler, and tables of positions."""

_STACKS = {
    "num_hidden_layers": r"(?:^|\.)layers?\.(\d+)\.",
    "n_layers": r"(?:^|\.)layers?\.(\d+)\.",
    "num_hidden_groups": r"(?:^|\.)albert_layer_groups\.(\d+)\.",
    "inner_group_num": r"(?:^|\.)albert_layers\.(\d+)\.",
}
"""The entries of a config from which modules are made one after the other, and where their weights have the number."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the files of a model hold.

    Attributes:
        shapes: the shape of each weight, by its name in the files.
        numbers: how many numbers there are in all of them.
    """

    shapes: Shapes
    numbers: int

    @classmethod
    def by(cls, files: tuple[Path, ...]) -> "Held":
        """Returns what some files hold. Only the heads of the files are read.

        Raises:
            Exception: A file cannot be read. The error is that of the library that reads it, or a ValueError.
        """
        shapes = shapes_of(files)
        # The weights of a pickled file may share their numbers. They are never more than the file has bytes.
        most = sum(path.stat().st_size for path in files)
        return cls(shapes, min(most, sum(math.prod(shape) for shape in shapes.values())))

    def shape_of(self, name: str, prefix: str) -> tuple[int, ...] | None:
        """Returns the shape of the weight that a model calls by this name, or None if no file has it.

        Args:
            name: the name of the weight in the model.
            prefix: the name of the encoder in the model, with a dot. Files of an encoder alone do not have it.
        """
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for each in (name, old):
            for there in (each, each.removeprefix(prefix), prefix + each):
                if there in self.shapes:
                    return self.shapes[there]
        return None


@dataclass(frozen=True, slots=True)
class Misfit:
    """A weight of another shape than config.json says.

    Attributes:
        name: the name of the weight in the model.
        found: its shape in the files.
        wanted: the shape that the model has by its config.
        why: the entry of the config that is wrong, as a clause; "" if that is not clear.
    """

    name: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]
    why: str


def check_stacks(entries: dict[str, Any], held: Held) -> None:
    """Checks that a model has no more layers than the weights have. It need not be made for that.

    Raises:
        ValueError: It has more.
    """
    for entry, pattern in _STACKS.items():
        count = entries.get(entry)
        numbers = {int(found[1]) for name in held.shapes if (found := re.search(pattern, name))}
        if isinstance(count, int) and numbers and count > (there := max(numbers) + 1):
            raise ValueError(f"{entry} in config.json is {count}, and the weights have {there}")


def without_memory(make: Any, config: Any) -> Any:
    """Returns a model that has shapes and takes no memory for its weights.

    Args:
        make: a function that takes a config and returns its model.
        config: the config. It is not changed.

    Raises:
        Exception: The values of the config do not fit together.
    """
    with torch.device("meta"):
        return make(copy.deepcopy(config))


def misfits(model: Any, held: Held) -> Iterator[Misfit]:
    """Yields the weights of a model that have another shape in the files.

    Args:
        model: the model, as `without_memory` returns it.
        held: what the files hold.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = {name: found for name in wanted if (found := held.shape_of(name, prefix)) is not None}
    entries = model.config.to_dict()
    entries = {**entries.get("encoder", {}), **entries}  # a reduced model has the config of its encoder there
    for name, found in there.items():
        if found != wanted[name]:
            yield Misfit(name, found, wanted[name], _why(entries, name, wanted, there))


def check_numbers(model: nn.Module, held: Held) -> None:
    """Checks that a model has not many more numbers than its files.

    Raises:
        ValueError: It has.
    """
    count = sum(value.numel() for value in (*model.parameters(), *model.buffers()))
    if count > held.numbers + SPARE:
        raise ValueError(f"config.json describes a model of {count:,} numbers, and the weights have {held.numbers:,}")


def _why(entries: dict[str, Any], name: str, wanted: Shapes, there: Shapes) -> str:
    """Returns which entry of a config gives a weight its wrong shape, where exactly one can."""
    axes = [axis for axis, size in enumerate(wanted[name]) if len(there[name]) > axis and there[name][axis] != size]
    if len(there[name]) != len(wanted[name]) or len(axes) != 1:
        return ""
    size, own = wanted[name][axes[0]], there[name][axes[0]]
    # Where another weight of this size is as it should be, this entry is right, and the weight is wrong.
    fits = any(size in wanted[each] and wanted[each] == found for each, found in there.items())
    named = [entry for entry, value in entries.items() if entry.endswith(_SIZED) and value == size]
    return "" if fits or len(named) != 1 else f"{named[0]} in config.json is {size}, and the weights have {own}"


_SIZED = ("_size", "_embeddings", "_width", "dim", "_labels")
"""How the names of entries end that are a size of a weight."""
