"""The break-even table: at which sizes of a batch a reduced pass is faster than an unreduced one, on a machine.

A short document on a fast machine may take longer to reduce than to read whole. A model that has this table keeps all
tokens there.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from trbert.disk.files import read_plain, write_whole
from trbert.errors import InputError
from trbert.measure.timing import machine, paired_ratio, take_turns
from trbert.packed.buckets import bucket
from trbert.packed.tokens import Tokens
from trbert.selection.outputs import reduced_outputs
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import Selector
from trbert.wording import cut, reason, shown

_LARGEST = 1_000_000
_MOST_SIZES = 1000
_ROW_TOKENS = 8192
"""The most tokens of a batch that is timed. Where reducing pays for such a batch, it pays for a larger one."""
_ROUNDS = 5
_STEP_TOKENS = 512
"""About how many tokens are timed in a turn. Small batches, which are over soon, are timed on up to four texts each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a break-even table was measured on. It is consulted under the same conditions only.

    Attributes:
        machine: the name of the processor or the GPU.
        device: "cpu" or "cuda".
        dtype: the arithmetic, such as "float32".
        threads: the number of threads of the process.
        runner: the name of the runner.
        layers: the number of layers of the model.
        width: the width of its hidden states.
        points: its reduction points.
        selector: the name of its selector.
        dial: the dial.
    """

    machine: str
    device: str
    dtype: str
    threads: int
    runner: str
    layers: int
    width: int
    points: tuple[int, ...]
    selector: str
    dial: float

    def __post_init__(self) -> None:
        for name in ("machine", "device", "dtype", "runner", "selector"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} must be text, and is {shown(getattr(self, name))}")
        for name in ("threads", "layers", "width"):
            value = getattr(self, name)
            if type(value) is not int or not 0 < value < 2**31:
                raise InputError(f"{name} must be a whole number above 0, and is {shown(value)}")
        if not all(type(point) is int for point in self.points):
            raise InputError(f"points must be whole numbers, and are {cut(self.points)}")
        if type(self.dial) not in (int, float) or not math.isfinite(self.dial):
            raise InputError(f"dial must be a finite number, and is {shown(self.dial)}")

    @classmethod
    def now(cls, reducer: Reducer, selector: Selector, dial: float) -> "Conditions":
        """Returns the conditions under which a model runs now."""
        encoder = reducer.encoder
        return cls(
            machine=_machine(encoder.device),
            device=encoder.device.type,
            dtype=str(encoder.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            runner=encoder.runner.name,
            layers=len(encoder.layers),
            width=encoder.base.config.hidden_size,
            points=tuple(reducer.points),
            selector=selector.name,
            dial=float(dial),
        )

    @property
    def model(self) -> tuple[str, int, int, tuple[int, ...], str]:
        """What does not change while a loaded model is used: the runner, the sizes of the model, and its selector."""
        return self.runner, self.layers, self.width, self.points, self.selector


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """How much faster a reduced pass is than an unreduced one, by the size of the batch.

    Attributes:
        conditions: what it was measured on.
        tokens: the number of tokens of each batch that was timed.
        documents: the number of documents of each of these batches.
        gains: the time of the unreduced pass over that of the reduced pass. Reducing pays where it is above 1.
    """

    conditions: Conditions
    tokens: tuple[int, ...]
    documents: tuple[int, ...]
    gains: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.tokens) == len(self.documents) == len(self.gains) <= _MOST_SIZES:
            raise InputError(
                f"tokens, documents and gains must be one for each size, of which there are 1 to {_MOST_SIZES}, and "
                f"are {len(self.tokens)}, {len(self.documents)} and {len(self.gains)}"
            )
        if not all(type(count) is int and 0 < count < 2**31 for count in (*self.tokens, *self.documents)):
            raise InputError("tokens and documents must be whole numbers above 0, and one is not")
        if not all(type(gain) in (int, float) and 0 < gain < math.inf for gain in self.gains):
            raise InputError(f"gains must be finite numbers above 0, and are {cut(self.gains)}")

    def pays(self, tokens: int, documents: int) -> bool:
        """Returns whether reducing pays for a batch of this size.

        The numbers of tokens and of documents are rounded up to their buckets (`trbert.packed.buckets`). Of the numbers
        of documents that were measured, the largest one counts that is not above that of the batch. Of the numbers of
        tokens that were measured with it, the largest one counts that is not above that of the batch. Where there is
        none, reducing is taken not to pay.

        Args:
            tokens: the number of tokens of all documents together.
            documents: the number of documents.

        Example:
            >>> where = Conditions(machine="x", device="cpu", dtype="float32", threads=1, runner="eager", layers=2,
            ...                    width=8, points=(1,), selector="policy", dial=0.0)
            >>> table = BreakEven(conditions=where, tokens=(64, 512), documents=(1, 1), gains=(0.8, 1.7))
            >>> [table.pays(tokens, 1) for tokens in (20, 300, 500, 4000)]
            [False, False, True, True]
        """
        tokens, documents = bucket(tokens), bucket(documents)
        sizes = list(zip(self.documents, self.tokens, self.gains, strict=True))
        docs = max((each for each, _, _ in sizes if each <= documents), default=0)
        fitting = [(row, gain) for each, row, gain in sizes if each == docs and row <= tokens]
        return bool(fitting) and max(fitting)[1] > 1


_machine = cache(machine)


@torch.inference_mode()
def measure_break_even(
    reducer: Reducer,
    selector: Selector,
    dial: float,
    like: Tokens,
    tokens: Sequence[int],
    documents: Sequence[int],
) -> BreakEven:
    """Returns at which sizes of a batch reducing pays for this model, as it runs now.

    How many tokens a model keeps depends on the text. So the batches are made of given documents, which are cut, or
    repeated within themselves, to each number of tokens.

    Args:
        reducer: the model, with its runner, on its device and in its arithmetic.
        selector: decides which tokens go on.
        dial: the selector's dial.
        like: documents like those that the model will read, on the CPU.
        tokens: numbers of tokens of a document.
        documents: numbers of documents of a batch. Each is timed with each number of tokens. A batch of more than 8,192
            tokens is left out, unless it is the smallest one.
    """
    wanted = sorted({(width * count, count) for width in tokens for count in documents})
    sizes = [(total, count) for total, count in wanted if total <= _ROW_TOKENS] or wanted[:1]
    gains = [_gain(reducer, selector, dial, like, total // count, count) for total, count in sizes]
    return BreakEven(
        conditions=Conditions.now(reducer, selector, dial),
        tokens=tuple(total for total, _ in sizes),
        documents=tuple(count for _, count in sizes),
        gains=tuple(gains),
    )


def _gain(reducer: Reducer, selector: Selector, dial: float, like: Tokens, width: int, count: int) -> float:
    """Returns the median over rounds of the time of unreduced passes over that of reduced passes."""
    steps = max(1, min(4, _STEP_TOKENS // (width * count)))
    stretched = [reducer.protect(_stretched(like, width, first * count, count)) for first in range(steps)]
    run = partial(reduced_outputs, reducer, selector, dial=dial)
    work = {
        "unreduced": [partial(run, batch, pays=lambda tokens, documents: False) for batch in stretched],
        "reduced": [partial(run, batch) for batch in stretched],
    }
    seconds = take_turns(work, _ROUNDS, reducer.encoder.device)
    return paired_ratio(seconds["unreduced"], seconds["reduced"]).median


def _stretched(like: Tokens, width: int, first: int, count: int) -> Tokens:
    """Returns so many documents of exactly `width` tokens, from a document on; after the last one it begins again."""
    place, starts, rows = torch.arange(width), like.offsets.tolist(), []
    for document in (number % len(like) for number in range(first, first + count)):
        others = starts[document + 1] - starts[document] - 1  # the first token is not repeated, unless it is alone
        rows.append(starts[document] + torch.where(place == 0, 0, 1 + (place - 1) % others if others else 0))
    index, types = torch.stack(rows), like.token_type_ids
    return Tokens.from_padded(like.input_ids[index], token_type_ids=None if types is None else types[index])


def save_break_even(tables: Sequence[BreakEven], path: str | Path) -> None:
    """Writes tables as JSON."""
    write_whole(Path(path), json.dumps([asdict(table) for table in tables], indent=1).encode())


def load_break_even(path: str | Path) -> tuple[BreakEven, ...]:
    """Returns the tables that `save_break_even` wrote.

    Raises:
        InputError: There is no such file, or it holds something else.
    """
    try:
        values = json.loads(read_plain(Path(os.path.realpath(path)), _LARGEST))
        if not isinstance(values, list) or not 0 < len(values) <= _MOST_SIZES:
            raise InputError(f"it must hold a list of 1 to {_MOST_SIZES} tables")
        return tuple(map(_read, values))
    except (OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"break_even must be a JSON file that `trbert bench --break-even` or save_break_even wrote, and "
            f"{str(path)!r} is not one ({reason(error)}): measure it again on this machine, or leave it out, and every "
            "batch is reduced"
        ) from error


def _read(values: Any) -> BreakEven:
    lists = {name: values[name] for name in ("tokens", "documents", "gains")}
    where = values["conditions"]
    if not isinstance(where, dict) or not all(isinstance(each, list) for each in (*lists.values(), where["points"])):
        raise InputError("its tables must hold conditions, tokens, documents and gains")
    conditions = Conditions(**{**where, "points": tuple(where["points"])})
    return BreakEven(**{**values, **{name: tuple(each) for name, each in lists.items()}, "conditions": conditions})


def fitting_tables(tables: Sequence[BreakEven], here: Conditions) -> tuple[BreakEven, ...]:
    """Returns the tables that were measured on this machine, for this model and runner.

    They may be of another dial, device, arithmetic or number of threads, all of which may change while a model is used.

    Args:
        tables: what was loaded.
        here: the conditions under which the model runs now.

    Raises:
        InputError: There is no such table.
    """
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    machines = set(map(_machine, devices))
    found = tuple(
        each for each in tables if each.conditions.machine in machines and each.conditions.model == here.model
    )
    if not found:
        one = tables[0].conditions
        raise InputError(
            f"break_even must be measured on this machine with this model and runner ({here.machine}, "
            f"{_described(here)}), and is of {cut(one.machine)}, {_described(one)}: measure it with model.warm_up(..., "
            "like=inputs) or `trbert bench --break-even`, or leave it out"
        )
    return found


def _described(where: Conditions) -> str:
    return (
        f"runner {cut(where.runner)}, {where.layers} layers of width {where.width}, points {cut(where.points)}, "
        f"selector {cut(where.selector)}"
    )
