"""The latency table: how long a layer takes on documents of each length, measured on a machine.

A search can use it as the price of a reduced pass, in place of FLOPs.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from trbert.disk.files import read_plain, write_whole
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.timing import take_turns
from trbert.packed.tokens import Tokens
from trbert.shapes import DocIndex
from trbert.wording import cut, reason, shown

LENGTHS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""The lengths of a document, in tokens, at which a layer is timed. Those too long for the model are left out."""

_LARGEST = 1_000_000
_ROW_TOKENS = 4096
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """The seconds that one layer takes for one document, by the number of tokens of the document.

    Attributes:
        tokens: the lengths of a document, rising.
        seconds: how long one layer takes for one document of each length; never falling.
        documents: the number of documents in the row that was timed. Where such a row would be longer than 4,096
            tokens, the row had fewer documents.
        layers: the number of layers of the model that was timed.
        device: where it ran, such as "cpu".
        dtype: its arithmetic, such as "float32".
        threads: the number of threads of the process.
    """

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    documents: int
    layers: int
    device: str
    dtype: str
    threads: int

    def __post_init__(self) -> None:
        for name in ("documents", "layers", "threads"):
            value = getattr(self, name)
            if type(value) is not int or not 0 < value < 2**31:
                raise InputError(f"{name} must be a whole number above 0, and is {shown(value)}")
        for name in ("device", "dtype"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} must be text, and is {shown(getattr(self, name))}")
        rising = all(a < b for a, b in zip(self.tokens, self.tokens[1:], strict=False))
        if len(self.tokens) < 2 or len(self.tokens) != len(self.seconds) or not rising or self.tokens[0] < 1:
            raise InputError(
                f"tokens must be two or more rising lengths, one for each time, and are {cut(self.tokens)}"
            )
        falls = any(a > b for a, b in zip(self.seconds, self.seconds[1:], strict=False))
        if falls or self.seconds[0] <= 0 or not all(map(math.isfinite, self.seconds)):
            raise InputError(f"seconds must be positive, finite and never fall, and are {cut(self.seconds)}")

    def layer_seconds(self, tokens: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns the seconds that one layer takes for documents of these lengths.

        The time is linear between two measured lengths, and between 0 seconds for no token and the first of them.
        Beyond the last length it continues the line before it.

        Example:
            >>> table = LatencyTable(tokens=(10, 20), seconds=(1.0, 3.0), documents=1, layers=2, device="cpu",
            ...                      dtype="float32", threads=1)
            >>> table.layer_seconds(torch.tensor([0.0, 5.0, 15.0, 25.0])).tolist()
            [0.0, 0.5, 2.0, 4.0]
        """
        grid = torch.tensor((0, *self.tokens), dtype=torch.double, device=tokens.device)
        times = torch.tensor((0.0, *self.seconds), dtype=torch.double, device=tokens.device)
        wanted = tokens.double()
        above = torch.searchsorted(grid, wanted).clamp(1, len(grid) - 1)
        slope = (times[above] - times[above - 1]) / (grid[above] - grid[above - 1])
        return times[above - 1] + slope * (wanted - grid[above - 1])

    def price(self, points: tuple[int, ...], tokens: Float[Tensor, "points docs"], lengths: DocIndex) -> Tensor:
        """Returns c_t(m) as `CostModel.price` does, computed from seconds instead of FLOPs.

        Args:
            points: the reduction points.
            tokens: m for each point and document; it need not be whole.
            lengths: the original number of tokens of each document.

        Returns:
            Fractions of the time of all layers on the unreduced document, [points, docs].
        """
        bounds = (*points, self.layers)
        stages = [(bounds[t + 1] - bounds[t]) * self.layer_seconds(tokens[t]) for t in range(len(points))]
        return (torch.stack(stages) / (self.layers * self.layer_seconds(lengths.double()))).float()

    def save(self, path: Path) -> None:
        """Writes the table as JSON."""
        write_whole(path, json.dumps(asdict(self), indent=1).encode())


def load_latency(path: str | Path) -> LatencyTable:
    """Returns the table that `LatencyTable.save` wrote.

    Raises:
        InputError: There is no such file, or it holds no table.
    """
    try:
        values = json.loads(read_plain(Path(os.path.realpath(path)), _LARGEST))
        return LatencyTable(
            **{**values, "tokens": tuple(map(int, values["tokens"])), "seconds": tuple(map(float, values["seconds"]))}
        )
    except (OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"a latency table must be a JSON file that `trbert bench` wrote, and {str(path)!r} is not one "
            f"({reason(error)}): pass as --latency-table the latency.json of a bench on the machine that will serve "
            "the model, or leave it out, and this machine is measured"
        ) from error


@torch.inference_mode()
def measure_latency(encoder: Encoder, documents: int = 32, longest: int | None = None) -> LatencyTable:
    """Returns how long the layers of this model take on this machine.

    The arithmetic and the number of threads are those that the caller has set. The time of a layer is the mean over all
    layers.

    Args:
        encoder: the model in stages.
        documents: the number of documents of a forward pass. Choose it as the model will be used.
        longest: the most tokens of a document; None takes the model's own limit.

    Raises:
        InputError: The longest document has one token.
    """
    limit = min(longest or encoder.max_tokens, encoder.max_tokens)
    lengths = [length for length in LENGTHS if length < limit] + [limit]
    if len(lengths) < 2:
        raise InputError(f"documents must have 2 tokens or more for a latency table, and have at most {limit}")
    times = [_layer_time(encoder, length, max(1, min(documents, _ROW_TOKENS // length))) for length in lengths]
    rising = torch.tensor(times, dtype=torch.double).cummax(0).values
    return LatencyTable(
        tokens=tuple(lengths),
        seconds=tuple(rising.tolist()),
        documents=documents,
        layers=len(encoder.layers),
        device=encoder.device.type,
        dtype=str(encoder.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


def _layer_time(encoder: Encoder, length: int, documents: int) -> float:
    """Returns the median seconds that one layer takes for one document of a row of so many documents."""
    entering = encoder.embed(_row(encoder, length, documents))
    layers = len(encoder.layers)
    times = take_turns({"layers": [lambda: encoder.run_layers(entering, 0, layers)]}, _ROUNDS, encoder.device)
    return median(seconds for (seconds,) in times["layers"]) / (documents * layers)


def _row(encoder: Encoder, length: int, documents: int) -> Tokens:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, encoder.base.config.vocab_size, (documents, length), generator=generator)
    return Tokens.from_padded(ids.to(encoder.device))
