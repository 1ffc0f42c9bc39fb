"""Clocks: several runs are timed in turns, so that other work on the machine slows all of them alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and the quartiles of a quantity that was measured in several rounds.

    Attributes:
        median: the median over the rounds.
        low: the first quartile.
        high: the third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Returns the spread of these values; there is at least one.

        Example:
            >>> Spread.of([1.0, 2.0, 4.0, 3.0, 5.0])
            Spread(median=3.0, low=2.0, high=4.0)
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def as_ratio(self) -> str:
        """Returns the spread of a ratio as a table shows it.

        Example:
            >>> Spread(2.0, 1.5, 2.25).as_ratio()
            '2.00x (1.50–2.25)'
        """
        return f"{self.median:.2f}x ({self.low:.2f}–{self.high:.2f})"


def machine(device: torch.device) -> str:
    """Returns the name of the GPU or processor; the processor's architecture where the system does not say its name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its work. Only then does a clock show how long it took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    runs: Mapping[str, Sequence[Callable[[], object]]], rounds: int, device: torch.device
) -> dict[str, list[list[float]]]:
    """Returns the seconds of every step of every run in every round, as [run][round][step].

    Each run has one turn in a round. The run that begins changes from round to round. So a machine that becomes slower
    over time favours no run. Before the rounds, each run has one turn to warm up, which is not returned.

    Args:
        runs: the steps of each run, by its name. They are called one after the other.
        rounds: the number of turns of each run.
        device: the device on which the steps work. Before and after each step its work is waited for.
    """
    names = list(runs)
    for name in names:
        for step in runs[name]:
            step()
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append([_seconds(step, device) for step in runs[name]])
    return seconds


def paired_ratio(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]]) -> Spread:
    """Returns how many times as long `slow` took as `fast`. The ratio is computed in each round.

    Args:
        slow: the seconds of one run, [round][step].
        fast: the seconds of another run in the same rounds, [round][step].

    Example:
        >>> paired_ratio([[2.0, 2.0], [6.0, 0.0], [9.0, 3.0]], [[1.0, 1.0], [2.0, 1.0], [2.0, 1.0]]).median
        2.0
    """
    return Spread.of([sum(a) / sum(b) for a, b in zip(slow, fast, strict=True)])


def peak_memory(run: Callable[[], object], device: torch.device) -> float | None:
    """Returns the memory in MiB that a run needs beyond what is in use before it; None where nothing counts it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before) / _MIB
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        reset.write_text("5")  # resets the peak to the memory in use now
        before = _peak_resident(status)
        run()
        return (_peak_resident(status) - before) / _MIB
    except OSError:
        return None


def _peak_resident(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - started
