"""The page of quality task by task: what was asked, and what was measured for each selector."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from quality_report import is_current

from trbert.disk.files import write_whole
from trbert.measure.intervals import interval

Unit = dict[str, Any]
HEAD = """# Quality at a given cost, task by task

Made by `python benchmarks/tasks.py --data DIR --work DIR`. The option `--only SET/ROW` makes one row. Each row has a
file in [tasks/](tasks). It holds the date, the commit, the machine, the versions and the settings.

Every model is MiniLM-L6, and every row has one seed. `policy` is this project's; `first`, `random` and `attention` are
rules with the same joint stage; `tr-bert` is the paper's recipe.

**Speed-up** is the FLOPs of the unreduced model over those of the reduced one, both summed over test. Nothing is
padded, and the policy is counted. A dial is chosen on validation for its speed-up alone.

**Drop** is what is lost of the metric, in hundredths. It is counted from the better of two: the teacher, and the same
model with all tokens kept. In brackets stands its 95 % interval, of a paired bootstrap of the metric over test
examples. It leaves out what a second training would change, which is up to a point.

A row with * ran with other settings than those of today, which its file has.
[tried.md](tasks/tried.md) says what was tried on the way.
"""

RIVALS = """\
The best rival is the row of another selector that lost least near the same speed-up. The difference is in hundredths
of the metric, above 0 where the policy is better. In brackets stands its 95 % interval, on the same resamples. It is a
win or a loss where the interval lies on one side of 0, and a tie otherwise. The two speed-ups differ a little."""
"""What stands above the table of the policy and its rivals."""


def write_report(
    out: Path, folder: Path, sets: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes tasks.md from the units' files.

    Args:
        out: of the report.
        folder: of the units' files.
        sets: what was asked, by data set.
        known: the settings that each unit would run with today.
    """
    found: dict[str, dict[str, Unit]] = {name: {} for name in sets}
    missing = []
    for name, wanted in known.items():
        group, _, row = name.partition("/")
        path = folder / group / f"{row}.json"
        unit = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if unit is None:
            missing.append(name)
        else:
            found[group][row] = unit | {"mark": "" if is_current(unit["settings"], wanted) else " *"}
    there = {name: units for name, units in found.items() if "teacher" in units}
    lines = [HEAD, "## What was asked", "", *_asked(there, sets)]
    lines += ["", "## The policy against its best rival", "", RIVALS, "", *_against(there, sets)]
    for name, units in there.items():
        lines += ["", f"## {name}", "", _set_up(units["teacher"]), "", *_table(units, sets[name]["targets"])]
        lines += _further(units, sets[name]["targets"])
    if missing:
        lines += ["", "## Not run yet", "", ", ".join(f"`{name}`" for name in missing)]
    text = "\n".join(lines) + "\n"
    write_whole(out / "tasks.md", text.encode())
    print(text)


def _asked(there: Mapping[str, Mapping[str, Unit]], sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| set | metric | speed-up | drop asked (must, aim) | measured | met |"
    yield "|---|---|---|---|---|---|"
    for name, units in there.items():
        if "policy" not in units:
            continue
        for kind in ("must", "aim"):
            for target, most in sets[name][kind]:
                point = _at(units["policy"], target)
                told, met = "not reached", "no"
                if point is not None:
                    drop, least, greatest = drop_of(units, units["policy"], point)
                    told = f"{drop:.2f} [{least:+.2f}, {greatest:+.2f}] at {point['speed_up']:.2f}x"
                    met = "yes" if drop <= most else "no"
                row = f"{name}{units['policy']['mark']} | {units['teacher']['metric']} | {target:g}x"
                yield f"| {row} | {kind} {most:g} | {told} | {met} |"


def _against(there: Mapping[str, Mapping[str, Unit]], sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| set | speed-up | best rival | policy ahead by | verdict |"
    yield "|---|---|---|---|---|"
    for name, units in there.items():
        rivals = [row for row in units if row != "teacher" and not row.startswith("policy")]
        for target in sets[name]["targets"] if rivals and "policy" in units else ():
            own = _at(units["policy"], target)
            found = {row: point for row in rivals if (point := _at(units[row], target)) is not None}
            if own is None or not found:
                alone = "rival alone" if found else "none reaches it" if own is None else "policy alone"
                yield f"| {name}{units['policy']['mark']} | {target:g}x | – | – | {alone} |"
                continue
            best = max(found, key=lambda row: found[row]["quality"])
            ahead = 100 * (np.array(own["resampled"]) - np.array(found[best]["resampled"]))
            least, greatest = interval(ahead)
            verdict = "win" if least > 0 else "**loss**" if greatest < 0 else "tie"
            mark = units["policy"]["mark"] or units[best]["mark"]
            at = f"`{best}` at {found[best]['speed_up']:.2f}x, policy at {own['speed_up']:.2f}x"
            told = f"{100 * (own['quality'] - found[best]['quality']):+.2f} [{least:+.2f}, {greatest:+.2f}]"
            yield f"| {name}{mark} | {target:g}x | {at} | {told} | {verdict} |"


def _at(unit: Unit, target: float) -> Mapping[str, Any] | None:
    """Returns a unit's point for a target; None if it has none."""
    return next((point for point in unit["points"] if point["target"] == target), None)


def _set_up(teacher: Unit) -> str:
    (point,) = teacher["points"]
    documents, examples = teacher["documents"], teacher["examples"]
    sizes = ", ".join(
        f"{examples[name]:,} examples of {name}"
        + (f" ({documents[name]:,} documents)" if documents[name] != examples[name] else "")
        for name in ("train", "validation", "test")
    )
    data, settings = teacher["settings"]["data"], teacher["settings"]["teacher"]
    return (
        f"{teacher['metric']} of the teacher: **{100 * point['quality']:.2f}** "
        f"({point['gflops']:.2f} GFLOPs a document; {sizes}; at most {data['max_length']} tokens; "
        f"{settings['epochs']:g} epochs). Task `{teacher['settings']['task']}`."
    )


def _table(units: Mapping[str, Unit], targets: list[float]) -> Iterator[str]:
    """Yields the table of the drops, and of the metric with all tokens kept."""

    def drop(unit: Unit, point: Mapping[str, Any]) -> str:
        lost, least, greatest = drop_of(units, unit, point)
        return f"{lost:.2f} [{least:+.2f}, {greatest:+.2f}] at {point['speed_up']:.2f}x"

    yield from _grid(units, targets, drop, lambda point: f"{100 * point['quality']:.2f}")


def _further(units: Mapping[str, Unit], targets: list[float]) -> Iterator[str]:
    """Yields a table of each further measure of the task, in hundredths; nothing where the task has none."""
    (teacher,) = units["teacher"]["points"]
    for measure, of_teacher in teacher["figures"].items():

        def figure(point: Mapping[str, Any], measure: str = measure) -> str:
            return f"{100 * point['figures'][measure]:.2f}"

        yield from ("", f"{measure}; of the teacher {100 * of_teacher:.2f}:", "")
        yield from _grid(units, targets, lambda _, point, figure=figure: figure(point), figure)


def _grid(
    units: Mapping[str, Unit],
    targets: list[float],
    at_target: Callable[[Unit, Mapping[str, Any]], str],
    all_kept: Callable[[Mapping[str, Any]], str],
) -> Iterator[str]:
    """Yields a table with a row for each unit but the teacher, and a column for each target and for all tokens kept."""
    yield "| | " + " | ".join(f"{target:g}x" for target in targets) + " | all kept |"
    yield "|---|" + "---|" * (len(targets) + 1)
    for row, unit in units.items():
        if row != "teacher":
            points = {point["target"]: point for point in unit["points"]}
            cells = [at_target(unit, points[target]) if target in points else "–" for target in targets]
            yield f"| `{row}`{unit['mark']} | " + " | ".join([*cells, all_kept(unit["keep_all"])]) + " |"


def drop_of(units: Mapping[str, Unit], unit: Unit, point: Mapping[str, Any]) -> tuple[float, float, float]:
    """Returns the drop of a point in hundredths of the metric, and the ends of its 95 % interval."""
    (teacher,), own = units["teacher"]["points"], unit["keep_all"]
    better = max(teacher, own, key=lambda each: each["quality"])
    drops = 100 * (np.array(better["resampled"]) - np.array(point["resampled"]))
    return 100 * (better["quality"] - point["quality"]), *interval(drops)
