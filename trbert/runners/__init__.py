"""Runners: ways to run a span of layers on a packed row. All obey the same laws. `RUNNERS` lists them by name."""

from trbert.errors import InputError
from trbert.runners.compiled import Compiled
from trbert.runners.eager import Eager
from trbert.runners.graphed import Graphed
from trbert.runners.int8 import Int8
from trbert.runners.runner import Runner

RUNNERS: dict[str, type[Runner]] = {runner.name: runner for runner in (Eager, Compiled, Graphed, Int8)}


def runner_of(name: str) -> Runner:
    """Returns a new runner of this name.

    Raises:
        InputError: There is no such runner.
    """
    if name not in RUNNERS:
        raise InputError(f"runner must be one of {', '.join(RUNNERS)}, and is {name!r}: 'eager' is the default")
    return RUNNERS[name]()


__all__ = ["RUNNERS", "Compiled", "Eager", "Graphed", "Int8", "Runner", "runner_of"]
