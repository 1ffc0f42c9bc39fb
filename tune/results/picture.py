"""The picture of a run's front."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trbert.disk.files import write_whole
from trbert.errors import InputError
from trbert.wording import cell
from tune.learning.standing import COMMONEST, Standing
from tune.results.front import FREE, TEACHER, Point, free_at_cost, is_trained


def draw(points: Sequence[Point], path: Path, standing: Standing | None = None) -> None:
    """Writes the picture of the front: quality on test over speed-up in FLOPs, with the teacher and the free rules.

    Points that were not measured on test are left out. The file is written completely or not at all.

    Args:
        points: of a finished search, with the front marked.
        path: of the picture.
        standing: of the teacher; if it knows nothing, the title says so.

    Raises:
        InputError: No point was measured on test.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "front.png"
        >>> measured = {"quality_validation": 0.8, "speed_up_validation": 2.0, "quality_test": 0.8}
        >>> draw([Point(trial="1", selector="policy", **measured)], path)
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    # Importing matplotlib takes a second, and the table does not need it. pyplot is avoided: it has global state.
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
    nothing = standing is not None and standing.knows_nothing
    title = f"No front: the teacher is not clearly better than the {COMMONEST}" if nothing else "Quality against cost"
    axes.set_title(title, fontsize=17, fontweight="bold", color=_INK, loc="left", pad=16)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=12, handlelength=1.6, labelspacing=0.7)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a "$" in the name of a rule or of a model is no formula
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_whole(path, image.getvalue())


_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31")
_MARKERS = ("s", "^", "D", "v", "P", "X")
_INK, _GREY = "#333333", "#9a9a9a"


def _xy(points: Iterable[Point]) -> tuple[list[float], list[float]]:
    ordered = sorted(points, key=lambda point: point.speed_up)
    return [p.speed_up for p in ordered], [100 * p.quality_test for p in ordered if p.quality_test is not None]


def _draw_rules(axes: Any, points: Sequence[Point]) -> None:
    """Draws one line for each rule, through the points that are best at their speed-up, as `free_at_cost` says."""
    free = [point for point in points if point.trial == FREE]
    for number, rule in enumerate(dict.fromkeys(point.selector for point in free)):
        own = [point for point in free if point.selector == rule]
        best = [p for p in own if p.quality_test == free_at_cost(own, p.speed_up, rule)]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(
            *_xy(best), color=_GREY, linewidth=1, marker=marker, markersize=6, label=f"rule: {cell(rule, 40)}", zorder=1
        )


def _draw_trained(axes: Any, points: Sequence[Point]) -> None:
    trained = [point for point in points if is_trained(point)]
    front = [point for point in trained if point.on_front]
    if front:
        axes.plot(*_xy(front), color=_INK, linewidth=1.4, label="front, as chosen on validation", zorder=2)
    models = sorted({point.trial for point in front}, key=lambda trial: (len(trial), trial))
    colours = {trial: _COLOURS[number % len(_COLOURS)] for number, trial in enumerate(models)}
    for number, trial in enumerate(models):
        own = [point for point in front if point.trial == trial]
        label = f"model {cell(trial, 20)}: drops at layers {cell(', '.join(map(str, own[0].points)))}"
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
    """Sets limits, ticks and labels.

    The view spans at least a factor of 2 in speed-up and 4 percentage points in quality. It is cut at the bottom, near
    the lowest point of the front, so that a rule far below the front does not squeeze the rest.
    """
    xs, ys = _xy(points)
    left, right = min(xs), max(*xs, 2 * min(xs))
    chosen = _xy(point for point in points if point.trial == TEACHER or (point.on_front and is_trained(point)))[1]
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
    axes.set_xlabel("speed-up in FLOPs (unpadded, log scale)", fontsize=13, labelpad=8)
    axes.set_ylabel("quality on test (%)", fontsize=13, labelpad=8)


def _ticks(span: float) -> tuple[float, ...]:
    doubling = tuple(2.0**power for power in range(-3, 12))
    return doubling if span > 6 else tuple(sorted({*doubling, *(1.5 * tick for tick in doubling)}))
