"""The front of quality against cost: mark it, store it, show it, pick from it.

python tune/pareto.py runs/default --max-drop 0.5 --out picked
"""

import csv
import dataclasses
import io
import json
import math
import os
import shutil
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trbert.errors import DamagedCheckpoint, InputError, RunFolderError
from tune.console import Parser, exit_code

FREE = "free"
TEACHER = "teacher"
UNREDUCED = "none"

# Drops are differences of floats: .9 − .895 is a hair more than half a point.
_HAIR = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row of `front.csv`: a model, or a free rule on the teacher, at one dial.

    Qualities are fractions; points are chosen on validation and reported on test.

    Attributes:
        trial: "teacher", "free", or the number of the trained model: its folder's name under `models/`.
        selector: "none" (unreduced), or the rule that drops tokens: "first", "random", "attention", "policy".
        dial: the rule's dial; None for unreduced.
        points: reduction points; () for unreduced.
        penalty: price of cost in the trial's reward.
        keep_ratios: fraction that each reduction point kept free of charge in training.
        quality_validation: what the point is chosen by.
        quality_test: what the point is reported with; None where it was not measured.
        drop: percentage points that quality_test is below the yardstick's.
        speed_up: Σ unreduced FLOPs / Σ reduced FLOPs, unpadded; on test where measured, else on validation.
        docs_per_second: measured throughput.
        kept: fraction of the original tokens left after each reduction point.
        on_front: no other point is at least as good and as fast.
        model: folder relative to the run's, such as "models/3"; "" for a free rule, which needs the teacher alone.
    """

    trial: str
    selector: str
    dial: float | None = None
    points: tuple[int, ...] = ()
    penalty: float | None = None
    keep_ratios: tuple[float, ...] = ()
    quality_validation: float
    quality_test: float | None = None
    drop: float | None = None
    speed_up: float
    docs_per_second: float | None = None
    kept: tuple[float, ...] = ()
    on_front: bool = False
    model: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            for value in values if isinstance(values, tuple) else (values,):
                if isinstance(value, float) and not math.isfinite(value):
                    raise InputError(f"{field.name} must be a finite number, and is {value!r}")
        if self.speed_up <= 0:
            raise InputError(f"speed_up must be positive, and is {self.speed_up!r}")


def keeps_all(point: Point) -> bool:
    """Returns whether the point drops no token: the teacher, or a trained model with its dial turned up."""
    return point.selector == UNREDUCED or (bool(point.kept) and min(point.kept) == 1.0)


def _is_saved(point: Point) -> bool:
    return bool(point.model)


def _is_trained(point: Point) -> bool:
    return point.selector != UNREDUCED and point.trial != FREE


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Returns the indices of the points that no other dominates, slowest first.

    i dominates j where quality_i ≥ quality_j and speed_up_i ≥ speed_up_j, one of them strictly; quality is that of
    validation. Of points equal in both one stays, a saved model before a free rule, whatever the order. O(n log n).

    Example:
        >>> def at(quality, speed_up):
        ...     return Point(trial="1", selector="policy", quality_validation=quality, speed_up=speed_up)
        >>> pareto_front([at(0.8, 4.0), at(0.9, 1.0), at(0.7, 3.0)])
        [1, 0]
    """

    def falling(index: int) -> tuple[Any, ...]:
        # Without the old mark: marking again must not choose anew among equals.
        point = dataclasses.replace(points[index], on_front=False)
        return (-point.speed_up, -point.quality_validation, not _is_saved(point), *_row(point))

    front: list[int] = []
    for index in sorted(range(len(points)), key=falling):
        if not front or points[index].quality_validation > points[front[-1]].quality_validation:
            front.append(index)
    return front[::-1]


def mark_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Returns the points in their order, `on_front` set for those that no other dominates.

    Example:
        >>> slow = Point(trial="1", selector="policy", quality_validation=0.8, speed_up=2.0)
        >>> [each.on_front for each in mark_front([slow, dataclasses.replace(slow, speed_up=3.0)])]
        [False, True]
    """
    front = set(pareto_front(points))
    return tuple(dataclasses.replace(point, on_front=index in front) for index, point in enumerate(points))


def pick(points: Sequence[Point], max_drop: float | None = None, min_speedup: float | None = None) -> Point:
    """Returns the saved model of the front that fits: with a least speed-up the best, else the fastest.

    Choosing reads validation alone: the drop is from the best unreduced quality_validation among the points.

    Args:
        points: of a finished search, front marked.
        max_drop: most percentage points of quality to lose.
        min_speedup: least speed-up in FLOPs.

    Raises:
        InputError: No bound is given, a bound is no bound, or nothing fits; the message names the nearest there is.

    Example:
        >>> teacher = Point(trial="teacher", selector="none", quality_validation=0.9, speed_up=1.0, model="teacher")
        >>> fast = Point(trial="1", selector="policy", quality_validation=0.89, speed_up=4.0, model="models/1")
        >>> pick(mark_front([teacher, fast]), max_drop=1.0).model
        'models/1'
    """
    _check_bounds(max_drop, min_speedup)
    yardstick = max((point.quality_validation for point in points if keeps_all(point)), default=None)
    saved = [point for point in points if point.on_front and _is_saved(point)]
    if yardstick is None or not saved:
        raise InputError(
            f"the front must hold an unreduced model and a saved one, and of its {len(points)} points "
            f"{len(saved)} are saved models on the front: search again with python tune/search.py"
        )

    def drop(point: Point) -> float:
        return 100 * (yardstick - point.quality_validation)

    good = [point for point in saved if max_drop is None or drop(point) <= max_drop + _HAIR]
    fast = [point for point in saved if min_speedup is None or point.speed_up >= min_speedup - _HAIR]
    fitting = [point for point in good if point in fast]
    if fitting:
        by_speed = min_speedup is None
        return max(fitting, key=lambda p: (p.speed_up, -drop(p)) if by_speed else (-drop(p), p.speed_up))
    wanted = [f"drops at most {max_drop:g} points on validation"] if max_drop is not None else []
    wanted += [f"is at least {min_speedup:g}x faster"] if min_speedup is not None else []
    # The nearest from either side: the best of those fast enough, the fastest of those good enough.
    best = min(fast or saved, key=lambda p: (drop(p), -p.speed_up))
    fastest = max(good or saved, key=lambda p: (p.speed_up, -drop(p)))
    nearest = {best} if min_speedup is None else {fastest} if max_drop is None else {best, fastest}
    there = " and ".join(
        f"{point.model}{_at_dial(point)} (drop {_signed(drop(point))}, {point.speed_up:.2f}x)"
        for point in sorted(nearest, key=lambda p: p.speed_up)
    )
    raise InputError(f"no saved model of the front {' and '.join(wanted)}; the nearest: {there}: relax the bound")


def _check_bounds(max_drop: float | None, min_speedup: float | None) -> None:
    if max_drop is None and min_speedup is None:
        raise InputError("a pick needs a bound, and none is given: pass max_drop (points), min_speedup, or both")
    if max_drop is not None and not 0 <= max_drop < math.inf:
        raise InputError(f"max_drop must be 0 or more percentage points, and is {max_drop!r}")
    if min_speedup is not None and not 0 < min_speedup < math.inf:
        raise InputError(f"min_speedup must be a positive number of times, and is {min_speedup!r}")


def free_at_cost(
    points: Iterable[Point], speed_up: float, selector: str, split: Literal["validation", "test"] = "test"
) -> float | None:
    """Returns a free rule's quality at a speed-up, on straight lines between its measured dials.

    A rule measured at several choices of reduction points has a line for each, of which the highest counts: that is
    what a user could have had. None outside the range that was measured.

    Example:
        >>> def first(quality, speed_up):
        ...     return Point(
        ...         trial="free", selector="first", quality_validation=quality, quality_test=quality, speed_up=speed_up
        ...     )
        >>> free_at_cost([first(0.5, 4.0), first(0.75, 2.0)], 3.0, "first")
        0.625
    """
    lines: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for point in points:
        quality = point.quality_test if split == "test" else point.quality_validation
        if point.trial == FREE and point.selector == selector and quality is not None:
            lines.setdefault(point.points, []).append((point.speed_up, quality))
    return max((each for line in lines.values() if (each := _on_line(line, speed_up)) is not None), default=None)


def _on_line(line: list[tuple[float, float]], at: float) -> float | None:
    best: dict[float, float] = {}
    for x, y in line:
        best[x] = max(y, best.get(x, y))
    xs = sorted(best)
    if not xs[0] <= at <= xs[-1]:
        return None
    right = bisect_left(xs, at)
    high = best[xs[right]]
    if xs[right] == at:
        return high
    low, left = best[xs[right - 1]], xs[right - 1]
    return low + (high - low) * (at - left) / (xs[right] - left)


def write_front(path: Path, points: Iterable[Point]) -> None:
    """Writes points as csv, whole or not at all; `read_front` returns them exactly.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "front.csv"
        >>> teacher = Point(trial="teacher", selector="none", quality_validation=0.9, speed_up=1.0)
        >>> write_front(path, [teacher])
        >>> read_front(path) == (teacher,)
        True
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(map(_row, points))
    _write_whole(path, text.getvalue().encode())


def read_front(path: Path) -> tuple[Point, ...]:
    """Returns the points that `write_front` wrote to a run folder's `front.csv`.

    Raises:
        RunFolderError: There is no such run, or its search did not finish.
        InputError: The file is no front: other columns, or a cell that is none, with its line.
    """
    _check_run(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != list(_COLUMNS):
                raise InputError(_wrong_columns(path, header))
            found = [_parse(row, f"{path} line {reader.line_num}") for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} must be a csv file as tune/search.py writes it, and is none ({error})") from error
    if not found:
        raise InputError(f"{path} must hold at least one point, and holds its header alone: search again")
    return tuple(found)


def _check_run(path: Path) -> None:
    run = path.parent
    if not run.is_dir():
        raise RunFolderError(f"run folder {run} does not exist: pass one that tune/search.py wrote, as runs/default")
    if not path.is_file():
        raise RunFolderError(
            f"{path} does not exist: search not finished: resume with python tune/search.py --resume {run}"
        )


def _wrong_columns(path: Path, header: list[str]) -> str:
    missing = [name for name in _COLUMNS if name not in header]
    unknown = [name for name in header if name not in _COLUMNS]
    faults = [f"lacks {', '.join(missing)}"] if missing else []
    faults += [f"has {', '.join(map(repr, unknown))}"] if unknown else []
    told = " and ".join(faults) or "has them in another order or twice"
    return f"{path} must have the columns {','.join(_COLUMNS)}, and {told}: pass a run of this version"


# How each column is written and read; a numpy float writes itself as "np.float64(…)", hence float() and int().
_Codec = tuple[Callable[[Any], str], Callable[[str], Any], str]


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _boolean(text: str) -> bool:
    return {"True": True, "False": False}[text]


def _optional(codec: _Codec) -> _Codec:
    write, read, rule = codec
    return (
        lambda value: "" if value is None else write(value),
        lambda text: read(text) if text else None,
        f"{rule} or empty",
    )


def _several(codec: _Codec) -> _Codec:
    write, read, rule = codec
    return (
        lambda values: ";".join(map(write, values)),
        lambda text: tuple(map(read, text.split(";"))) if text else (),
        f"{rule.removeprefix('a ')}s joined by ';'",
    )


_TEXT: _Codec = (str, str, "text")
_FLOAT: _Codec = (lambda value: repr(float(value)), _number, "a finite number")
_INT: _Codec = (lambda value: repr(int(value)), int, "a whole number")
_BOOL: _Codec = (lambda value: repr(bool(value)), _boolean, "True or False")
_CODECS: dict[str, _Codec] = {
    "trial": _TEXT,
    "selector": _TEXT,
    "dial": _optional(_FLOAT),
    "points": _several(_INT),
    "penalty": _optional(_FLOAT),
    "keep_ratios": _several(_FLOAT),
    "quality_validation": _FLOAT,
    "quality_test": _optional(_FLOAT),
    "drop": _optional(_FLOAT),
    "speed_up": _FLOAT,
    "docs_per_second": _optional(_FLOAT),
    "kept": _several(_FLOAT),
    "on_front": _BOOL,
    "model": _TEXT,
}
_COLUMNS = tuple(_CODECS)


def _row(point: Point) -> tuple[str, ...]:
    return tuple(write(getattr(point, name)) for name, (write, _, _) in _CODECS.items())


def _parse(row: list[str], place: str) -> Point:
    if len(row) != len(_COLUMNS):
        raise InputError(f"{place} must have {len(_COLUMNS)} cells, and has {len(row)}: write the front again")
    values = {}
    for (name, (_, read, rule)), cell in zip(_CODECS.items(), row, strict=True):
        try:
            values[name] = read(cell)
        except (ValueError, KeyError) as error:
            raise InputError(f"{place}: {name} must be {rule}, and is {cell!r}: correct the cell") from error
    try:
        return Point(**values)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _write_whole(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def table(points: Sequence[Point], every: bool = False) -> str:
    """Returns the front as text, the teacher first; below it the free rules' test quality at each trained point's cost.

    Args:
        points: of a finished search, front marked.
        every: show the points off the front too, their validation quality, and a star at those on it.

    Example:
        >>> teacher = Point(trial="teacher", selector="none", quality_validation=0.9, speed_up=1.0)
        >>> print(table([teacher]))
        model    selector  dial  points  quality (test)  drop  FLOPs speed-up  docs/s  kept
        teacher  none         –       –               –     –           1.00x       –     –
    """
    shown = [point for point in points if every or point.on_front or point.trial == TEACHER]
    shown.sort(key=lambda point: (point.trial != TEACHER, point.speed_up, _row(point)))
    header = ["model", "selector", "dial", "points", "quality (test)", "drop", "FLOPs speed-up", "docs/s", "kept"]
    rows = [_cells(point) for point in shown]
    if every:
        header += ["quality (validation)", "on front"]
        rows = [
            [*row, _percent(point.quality_validation), "*" if point.on_front else ""]
            for row, point in zip(rows, shown, strict=True)
        ]
    text = _aligned(header, rows, left=2)
    against = _at_equal_cost(points)
    return f"{text}\n\nquality (test) at equal cost\n{against}" if against else text


def _at_equal_cost(points: Sequence[Point]) -> str:
    rules = list(dict.fromkeys(point.selector for point in points if point.trial == FREE))
    trained = [p for p in points if p.on_front and _is_trained(p) and p.quality_test is not None]
    if not rules or not trained:
        return ""
    rows = []
    for point in sorted(trained, key=lambda each: each.speed_up):
        assert point.quality_test is not None
        rivals = [free_at_cost(points, point.speed_up, rule) for rule in rules]
        best = max((each for each in rivals if each is not None), default=None)
        ahead = "–" if best is None else _signed(100 * (point.quality_test - best))
        rows.append([f"{point.speed_up:.2f}x", _percent(point.quality_test), *map(_percent, rivals), ahead])
    return _aligned(["speed-up", "policy", *rules, "policy ahead by"], rows, left=0)


def _cells(point: Point) -> list[str]:
    return [
        point.model or "teacher",
        point.selector,
        "–" if point.dial is None else f"{point.dial:g}",
        ",".join(map(str, point.points)) or "–",
        _percent(point.quality_test),
        "–" if point.drop is None else _signed(point.drop),
        f"{point.speed_up:.2f}x",
        "–"
        if point.docs_per_second is None
        else f"{point.docs_per_second:.{0 if point.docs_per_second >= 100 else 1}f}",
        " ".join(f"{fraction:.0%}" for fraction in point.kept) or "–",
    ]


def _percent(quality: float | None) -> str:
    return "–" if quality is None else f"{quality:.1%}"


def _signed(number: float) -> str:
    """Returns the number to one decimal, without the sign of a rounded zero."""
    return f"{round(number, 1) + 0.0:.1f}"


def _at_dial(point: Point) -> str:
    return "" if point.dial is None else f" at dial {point.dial:g}"


def _aligned(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def draw(points: Sequence[Point], path: Path) -> None:
    """Writes the picture of the front: test quality over FLOPs speed-up, beside the teacher and the free rules.

    Points that were not measured on test are left out. The file is written whole or not at all.

    Raises:
        InputError: No point was measured on test.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "front.png"
        >>> draw([Point(trial="1", selector="policy", quality_validation=0.8, quality_test=0.8, speed_up=2.0)], path)
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    # matplotlib takes a second to import, which the table does not need; and no pyplot: it keeps global state.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    measured = [point for point in points if point.quality_test is not None]
    if not measured:
        raise InputError(f"a picture needs a point measured on test, and none of {len(points)} is: measure the front")
    figure = Figure(figsize=(12, 8), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
    axes = figure.add_subplot()
    _draw_teacher(axes, measured)
    _draw_trained(axes, measured)
    _draw_rules(axes, measured)
    _frame(axes, measured)
    figure.legend(loc="outside right upper", frameon=False, fontsize=12, handlelength=1.6, labelspacing=0.7)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    _write_whole(path, image.getvalue())


_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31")
_MARKERS = ("s", "^", "D", "v", "P", "X")
_INK, _GREY = "#333333", "#9a9a9a"


def _xy(points: Iterable[Point]) -> tuple[list[float], list[float]]:
    ordered = sorted(points, key=lambda point: point.speed_up)
    return [p.speed_up for p in ordered], [100 * p.quality_test for p in ordered if p.quality_test is not None]


def _draw_rules(axes: Any, points: Sequence[Point]) -> None:
    """Draws one line a rule: the points where its best choice of reduction points was measured, as `free_at_cost`."""
    free = [point for point in points if point.trial == FREE]
    for number, rule in enumerate(dict.fromkeys(point.selector for point in free)):
        own = [point for point in free if point.selector == rule]
        best = [p for p in own if p.quality_test == free_at_cost(own, p.speed_up, rule)]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(*_xy(best), color=_GREY, linewidth=1, marker=marker, markersize=6, label=f"rule: {rule}", zorder=1)


def _draw_trained(axes: Any, points: Sequence[Point]) -> None:
    trained = [point for point in points if _is_trained(point)]
    front = [point for point in trained if point.on_front]
    if front:
        axes.plot(*_xy(front), color=_INK, linewidth=1.4, label="front, as chosen on validation", zorder=2)
    models = sorted({point.trial for point in front}, key=lambda trial: (len(trial), trial))
    colours = {trial: _COLOURS[number % len(_COLOURS)] for number, trial in enumerate(models)}
    for number, trial in enumerate(models):
        own = [point for point in front if point.trial == trial]
        label = f"model {trial}: drops at layers {', '.join(map(str, own[0].points))}"
        shape = {"marker": "oph"[number // len(_COLOURS) % 3], "edgecolor": "white"}
        axes.scatter(*_xy(own), s=90, color=colours[trial], label=label, zorder=4, **shape)
    behind = [point for point in trained if not point.on_front]
    for point in behind:
        axes.scatter(*_xy([point]), s=36, color=colours.get(point.trial, _GREY), alpha=0.25, linewidth=0, zorder=2)
    if behind:
        axes.scatter([], [], s=36, color=_GREY, alpha=0.5, linewidth=0, label="off the front")


def _draw_teacher(axes: Any, points: Sequence[Point]) -> None:
    teacher = [point for point in points if point.trial == TEACHER]
    if not teacher:
        return
    (x, *_), (y, *_) = _xy(teacher)
    axes.axhline(y, color=_INK, linestyle=(0, (5, 4)), linewidth=1, zorder=1)
    axes.scatter([x], [y], marker="*", s=320, color=_INK, edgecolor="white", label=f"teacher: {y:.1f} %", zorder=5)


def _frame(axes: Any, points: Sequence[Point]) -> None:
    """Sets limits, ticks and texts.

    The view is at least twofold and 4 points of quality wide, and keeps to where choices are made: rules that fall far
    below the front leave it at the bottom.
    """
    xs, ys = _xy(points)
    left, right = min(xs), max(*xs, 2 * min(xs))
    chosen = _xy(point for point in points if point.trial == TEACHER or (point.on_front and _is_trained(point)))[1]
    top, low = max(ys), min(chosen or ys)
    bottom = max(min(*ys, top - 4), top - max(2.5 * (top - low), 8))
    margin = 0.06 * (top - bottom)
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_xscale("log")
    axes.set_xlim(left / 1.1, right * 1.1)
    ticks = [tick for tick in _ticks(right / left) if left / 1.1 <= tick <= right * 1.1]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=12, color=_GREY)
    axes.set_title("Quality against cost", fontsize=17, fontweight="bold", color=_INK, loc="left", pad=16)
    axes.set_xlabel("speed-up in FLOPs (unpadded, log scale)", fontsize=13, labelpad=8)
    axes.set_ylabel("quality on test (%)", fontsize=13, labelpad=8)


def _ticks(span: float) -> tuple[float, ...]:
    doubling = tuple(2.0**power for power in range(-3, 12))
    return doubling if span > 6 else tuple(sorted({*doubling, *(1.5 * tick for tick in doubling)}))


def export(run: Path, point: Point, out: Path) -> None:
    """Copies a point's model to a folder that loads with its dial; the folder appears whole or not at all.

    Args:
        run: the run folder that the point's `model` is relative to.
        point: as picked.
        out: the new folder; an empty one is taken.

    Raises:
        InputError: The point has no model of its own.
        RunFolderError: `out` is in use, cannot be written, or lies inside the model's folder.
        DamagedCheckpoint: The model's folder or its config.json is missing or damaged.

    Example:
        >>> import tempfile
        >>> run = Path(tempfile.mkdtemp())
        >>> (run / "models" / "3").mkdir(parents=True)
        >>> _ = (run / "models" / "3" / "config.json").write_text('{"dial": 0.0}')
        >>> picked = Point(
        ...     trial="3", selector="policy", dial=-1.5, quality_validation=0.8, speed_up=4.0, model="models/3"
        ... )
        >>> export(run, picked, run / "picked")
        >>> json.loads((run / "picked" / "config.json").read_text())
        {'dial': -1.5}
    """
    if not _is_saved(point):
        raise InputError(f"a point must be a saved model to be exported, and is {point.selector!r} of {point.trial!r}")
    source = run / point.model
    config = _read_config(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out} exists already: pass --out with a new or empty folder, or remove it")
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise RunFolderError(f"{out} lies inside the model's own folder {source}: pass --out with a folder elsewhere")
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, beside)
        if point.dial is not None:
            text = json.dumps({**config, "dial": float(point.dial)}, indent=2)
            (beside / "config.json").write_text(f"{text}\n", encoding="utf-8")
        os.replace(beside, out)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise RunFolderError(f"{out} cannot be written ({error}): pass --out with a folder of your own") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedCheckpoint(
            f"{folder} must hold config.json, and does not: search again, or copy it back"
        ) from error
    except ValueError as error:
        raise DamagedCheckpoint(f"{folder}/config.json is no JSON ({error}): search again, or copy it back") from error
    if not isinstance(config, dict):
        raise DamagedCheckpoint(f"{folder}/config.json must be a JSON object, and is {config!r}: search again")
    return config


def describe(run: Path, point: Point, exported: Path | None = None) -> str:
    """Returns where a picked model lies, how good and how fast it is, and the line of Python that loads it.

    Example:
        >>> fast = Point(trial="1", selector="policy", dial=-0.5, quality_validation=0.9, speed_up=4.0, model="m/1")
        >>> print(describe(Path("runs/default"), fast))
        picked  runs/default/m/1 at dial -0.5: 90.0% on validation, 4.00x in FLOPs
        load    trbert.load("runs/default/m/1", dial=-0.5)
    """
    folder = run / point.model
    facts = [f"{point.quality_validation:.1%} on validation", f"{point.speed_up:.2f}x in FLOPs"]
    if point.quality_test is not None:
        drop = "" if point.drop is None else f" (drop {_signed(point.drop)} points)"
        facts.insert(0, f"{point.quality_test:.1%} on test{drop}")
    if point.docs_per_second is not None:
        facts.append(f"{point.docs_per_second:.0f} docs/s")
    lines = [f"picked  {folder}{_at_dial(point)}: {', '.join(facts)}"]
    if exported is not None:
        lines.append(f"copied  to {exported}")
    where = (exported or folder).as_posix()
    if point.selector == UNREDUCED:
        load = f'transformers.AutoModelForSequenceClassification.from_pretrained("{where}")'
    else:
        load = f'trbert.load("{where}")' if exported else f'trbert.load("{where}", dial={point.dial!r})'
    return "\n".join([*lines, f"load    {load}"])


def _command(arguments: Sequence[str]) -> None:
    parser = Parser("tune/pareto.py", description="Show a finished search's front; pick a model.", allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder that tune/search.py wrote")
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help="pick: most points of quality to lose")
    parser.add_argument("--min-speedup", type=float, metavar="TIMES", help="pick: least speed-up in FLOPs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="copy the picked model to this new folder")
    parser.add_argument("--all", action="store_true", help="show the points off the front too")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    chosen = parser.parse_args(arguments)
    picking = chosen.max_drop is not None or chosen.min_speedup is not None
    if chosen.out is not None and not picking:
        raise InputError("--out needs a pick: add --max-drop, --min-speedup, or both")
    points = read_front(chosen.run / "front.csv")
    print(table(points, every=chosen.all))
    if picking:
        point = pick(points, chosen.max_drop, chosen.min_speedup)
        if chosen.out is not None:
            export(chosen.run, point, chosen.out)
        print(f"\n{describe(chosen.run, point, chosen.out)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _command(words), verbose="--verbose" in words)


if __name__ == "__main__":
    sys.exit(main())
