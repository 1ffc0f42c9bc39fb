"""Clocks: runs timed in turns, so that what else the machine does falls on all of them alike."""

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
    """A quantity measured in several rounds.

    Attributes:
        median: over the rounds.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Returns the spread of one value or more.

        Example:
            >>> Spread.of([1.0, 2.0, 4.0, 3.0, 5.0])
            Spread(median=3.0, low=2.0, high=4.0)
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def as_ratio(self) -> str:
        """Returns the spread as tables show a ratio.

        Example:
            >>> Spread(2.0, 1.5, 2.25).as_ratio()
            '2.00x (1.50–2.25)'
        """
        return f"{self.median:.2f}x ({self.low:.2f}–{self.high:.2f})"


def machine(device: torch.device) -> str:
    """Returns the name of the GPU, or of this machine's processor where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was told, so that a clock may be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    runs: Mapping[str, Sequence[Callable[[], object]]], rounds: int, device: torch.device
) -> dict[str, list[list[float]]]:
    """Returns the seconds of every step of every run in every round, as [run][round][step].

    Within a round each run has one turn, and the one that begins changes from round to round: a machine that grows
    slower meanwhile favours none. A first turn of each warms up and is not told.

    Args:
        runs: steps by name, called one after the other.
        rounds: turns of each run.
        device: waited for before and after each step.
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
    """Returns how many times longer `slow` took than `fast`, round by round.

    Args:
        slow: seconds, [round][step].
        fast: likewise, of the same rounds.
    """
    return Spread.of([sum(a) / sum(b) for a, b in zip(slow, fast, strict=True)])


def peak_memory(run: Callable[[], object], device: torch.device) -> float | None:
    """Returns the MiB that a run needs on top of what is there before it; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before) / _MIB
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        reset.write_text("5")  # sets the peak back to what is there now
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
