"""The output of a running search: one line for each finished trial, and a live line below them."""

import pickle
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from ray.exceptions import OutOfDiskError, RayTaskError
from ray.tune import Callback

from trbert.console import disk_full
from tune.learning.memory import REMEDY, memory_ended

QUIET_S = 20.0
"""Seconds between progress lines if the output is not a terminal."""


class Console:
    """Prints lines and, on a terminal, one live line that stays below them."""

    def __init__(self) -> None:
        self._live = ""
        self._last = 0.0

    def line(self, text: str) -> None:
        """Prints a line above the live line."""
        self._clear()
        print(text, flush=True)
        self._show()

    def progress(self, text: str) -> None:
        """Shows a text as the live line. If the output is not a terminal, prints it every `QUIET_S` seconds."""
        if sys.stdout.isatty():
            self._clear()
            self._live = text[: shutil.get_terminal_size().columns - 1]
            self._show()
        elif time.monotonic() - self._last > QUIET_S:
            self._last = time.monotonic()
            print(text, flush=True)

    def end(self) -> None:
        """Removes the live line."""
        self._clear()
        self._live = ""

    def _clear(self) -> None:
        if self._live:
            print("\r\033[K", end="", flush=True)

    def _show(self) -> None:
        if self._live:
            print(self._live, end="", flush=True)


class SearchProgress(Callback):
    """Shows the progress of the trials on the console.

    Args:
        console: prints the lines.
        trials: the number of all trials.
    """

    def __init__(self, console: Console, trials: int) -> None:
        self.console, self.trials = console, trials
        self.done = 0
        self.stages: dict[str, str] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Shows the stage of each running trial."""
        self.stages[trial.trial_id] = f"{result['stage']} {100 * result['share']:.0f} %"
        running = "   ".join(self.stages.values())
        self.console.progress(f"{self.done} of {self.trials} trials done   {running}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints the quality and the speed-up of a finished trial."""
        self.stages.pop(trial.trial_id, None)
        self.done += 1
        result = trial.last_result
        config = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in trial.config.items()
        )
        self.console.line(
            f"trial {self.done} of {self.trials}: {100 * result['quality']:.1f} % at {1 / result['cost']:.1f}x "
            f"on validation, {result['seconds']:.0f} s   ({config})"
        )

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints why a trial's process ended, and that the trial continues from its last state.

        A trial that memory ended continues once. The next failure is its last one, whatever else a cluster forgives.
        """
        self.stages.pop(trial.trial_id, None)
        error = _error(trial)
        if error is not None and memory_ended(error) is not None:
            trial.max_failures = trial.run_metadata.num_failures
        self.console.line(f"trial {trial.trial_id} {_end(trial)}: it continues from its last state")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints that a trial failed, and why, in one line."""
        self.stages.pop(trial.trial_id, None)
        self.done += 1
        self.console.line(f"trial {self.done} of {self.trials} {_end(trial)}: its error is in {trial.error_file}")


def _error(trial: Any) -> Any:
    """Returns the error that ended a trial, which Tune saved in a folder of this machine; None without one."""
    file = trial.pickled_error_file
    return None if file is None else pickle.loads(Path(file).read_bytes())


def _end(trial: Any) -> str:
    """Returns in words how a trial's process ended."""
    error = _error(trial)
    if error is None:
        return "failed"
    address = re.search(r"\bip=([^,)\s]+)", str(error)) if isinstance(error, RayTaskError) else None
    where = f" on {address[1]}" if address else ""
    if (how := memory_ended(error)) is not None:
        return f"{how}{where} ({REMEDY})"
    if not isinstance(error, RayTaskError):
        return "lost its process"
    cause = error.cause or error
    if isinstance(cause, OutOfDiskError) or disk_full(cause) is not None:
        return f"failed{where} because its disk or the storage is full (free some space)"
    *_, last = ["", *str(cause).strip().splitlines()]
    return f"failed{where} with {type(cause).__name__}: {last}"
