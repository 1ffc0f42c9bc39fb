"""What a search prints at its end: the table, what did not finish or was cut, and where the results lie."""

import math
from collections.abc import Sequence
from typing import Any

from ray.exceptions import RayTaskError

from trbert.errors import OutOfMemory, TrbertError
from trbert.wording import pasted
from tune.learning.memory import REMEDY, memory_ended
from tune.learning.standing import Standing
from tune.results.front import FREE, Point, has_model, is_saved, is_trained, least_drop, no_model
from tune.results.report import finished
from tune.results.table import table
from tune.runs.folder import RunFolder


def ending(
    folder: RunFolder,
    results: Sequence[Any],
    points: Sequence[Point],
    standing: Standing | None,
    trials: int,
    cuts: Sequence[str] = (),
) -> str:
    """Returns the text.

    Args:
        folder: of the run.
        results: Ray Tune's results of all trials.
        points: of the run, with the front marked.
        standing: of the teacher; None where there are no baselines.
        trials: how many trials there were to be.
        cuts: what the budget left no time for before the trials, in words.
    """
    done = len(finished(results))
    missing = f"{trials - done} of {trials} trials did not finish\n" if done < trials else ""
    undone = "".join(f"{line}\n" for line in _undone_trials(results))
    cuts = [*cuts, *_cut_trials(results), *_cut_points(points)]
    cut = f"\ncut by the budget: {'; '.join(cuts)}" if cuts else ""
    return f"\n{table(points, standing=standing)}\n\n{missing}{undone}{_paths(folder, points, standing)}{cut}"


def none_finished(folder: RunFolder, trials: int, errors: list[Any]) -> Exception:
    """Returns the error for a search without a finished trial: the user's mistake if each of its trials made one."""
    causes: list[Any] = [error.cause or error if isinstance(error, RayTaskError) else error for error in errors]
    logs = f"the logs are in {folder.trials}"
    if causes and all(isinstance(cause, TrbertError) for cause in causes):
        return type(causes[0])(
            f"none of {trials} trials finished: {causes[0]}; then start again under another --name ({logs})"
        )
    if errors and (how := memory_ended(errors[0])) is not None:
        return OutOfMemory(f"none of {trials} trials finished: the first {how} ({REMEDY}); {logs}")
    why = (
        f" (the first error: {(str(errors[0]).strip().splitlines() or [type(errors[0]).__name__])[-1]})"
        if errors
        else ""
    )
    return RuntimeError(f"none of {trials} trials finished{why}: their logs are in {folder.trials}")


def _cut_trials(results: Sequence[Any]) -> list[str]:
    """Returns what the finished trials had no time for, in words."""
    found: dict[str, list[str]] = {}
    for number, result in enumerate(finished(results), start=1):
        for stage in filter(None, str(result.metrics.get("cut", "")).split(", ")):
            found.setdefault(stage if stage == "measuring" else f"{stage} stage", []).append(str(number))
    return [f"{stage} of trial{'s' * (len(own) > 1)} {', '.join(own)}" for stage, own in found.items()]


def _undone_trials(results: Sequence[Any]) -> list[str]:
    """Returns a line for each finished trial whose model is the one before its joint stage."""
    return [
        f"trial {number}: the joint stage was undone, because the model is better on validation without it"
        for number, result in enumerate(finished(results), start=1)
        if result.metrics.get("undone")
    ]


def _cut_points(points: Sequence[Point]) -> list[str]:
    """Returns what there was no time to measure of the points, in words."""
    wanted = [point for point in points if point.trial == FREE or (point.on_front and is_trained(point))]
    tested = sum(point.quality_test is not None for point in wanted)
    speeds = [point for point in points if point.on_front and is_saved(point)]
    timed = sum(point.docs_per_second is not None for point in speeds)
    found = [f"{tested} of {len(wanted)} points on test"] if tested < len(wanted) else []
    return [*found, f"throughput of {timed} of {len(speeds)} points"] if timed < len(speeds) else found


def _paths(folder: RunFolder, points: Sequence[Point], standing: Standing | None) -> str:
    """Returns the lines that say where the results lie, and how a model is picked if there is one to pick."""
    nothing = standing is not None and standing.knows_nothing
    lines = [
        f"{'points' if nothing else 'front':10}{folder.front_table}",
        f"picture   {folder.front_picture}",
        f"models    {folder.models}",
    ]
    if not has_model(points):
        lines.append(f"pick one  {no_model(points)}")
    elif not nothing:
        bound = max(0.5, math.ceil(10 * least_drop(points) - 1e-6) / 10)  # so that the command picks one
        lines.append(f"pick one  python tune/pareto.py {pasted(folder.path)} --max-drop {bound:g}")
    return "\n".join(lines)
