"""The points of a run: which of them are on the front, and which one a user picks."""

import dataclasses
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from trbert.errors import InputError
from trbert.wording import cut

FREE = "free"
"""`Point.trial` of a rule on the teacher: it needs no training."""
TEACHER = "teacher"
"""`Point.trial` of the teacher."""
UNNUMBERED = "trial"
"""`Point.trial` while a search is running: the trials get their numbers when all of them have finished."""
UNREDUCED = "none"
"""`Point.selector` of an unreduced model."""

# Rounding makes 0.9 − 0.895 a little more than half a percentage point, so that bounds need a tolerance.
_HAIR = 1e-9
_MODEL = re.compile(r"models/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row of `front.csv`: a model, or a free rule on the teacher, at one dial.

    Qualities are fractions. Points are chosen by their figures on validation, and reported with their figures on test.

    Attributes:
        trial: "teacher", "free", or the number of the trained model, which is its folder's name under `models/`.
        selector: what drops tokens, such as "policy" or "first"; "none" if nothing does.
        dial: the selector's dial; None for an unreduced model.
        points: the reduction points; () for an unreduced model.
        penalty: the price of cost in the trial's reward, in nats; None for the teacher and for free rules.
        keep_ratios: the fraction of tokens that each reduction point kept free of charge in training.
        quality_validation: the quality on validation.
        quality_test: the quality on test; None if it was not measured.
        drop: how far `quality_test` lies below that of the best unreduced model, in percentage points.
        drop_interval: the ends of the 95 % interval of `drop`, as `trbert.measure.intervals` computes it; () for the
            model that drops are measured from, and where it was not computed.
        speed_up_validation: Σ unreduced FLOPs / Σ reduced FLOPs on validation, without padding.
        speed_up_test: the same on test; None if it was not measured.
        docs_per_second: the measured throughput.
        kept: the fraction of the original tokens left after each reduction point; on test if that was measured.
        on_front: whether the point is on the front, as `pareto_front` defines it.
        model: the model's folder, relative to the run's, such as "models/3"; "" for a free rule, which has no model.
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
    drop_interval: tuple[float, ...] = ()
    speed_up_validation: float
    speed_up_test: float | None = None
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
            if field.name.startswith("speed_up") and value is not None and value <= 0:
                raise InputError(f"{field.name} must be positive, and is {value!r}")
        if len(self.drop_interval) not in (0, 2):
            raise InputError(f"drop_interval must have two ends or none, and has {len(self.drop_interval)}")
        if self.model and not _MODEL.fullmatch(self.model):
            raise InputError(
                "model must be empty, or 'models/' and the name of a folder there (of letters, digits, '.', '_' and "
                f"'-'), and is {cut(self.model)}"
            )

    @property
    def speed_up(self) -> float:
        """The speed-up to show: on test if it was measured there, otherwise on validation."""
        return self.speed_up_validation if self.speed_up_test is None else self.speed_up_test


def keeps_all(point: Point) -> bool:
    """Returns whether the point drops no token: the teacher, or a trained model at a dial that keeps all tokens."""
    return point.selector == UNREDUCED or (bool(point.kept) and min(point.kept) == 1.0)


def is_saved(point: Point) -> bool:
    """Returns whether the point has a folder with a model: the teacher and trained models have one."""
    return bool(point.model)


def is_trained(point: Point) -> bool:
    """Returns whether the point's model was trained to drop tokens."""
    return point.selector != UNREDUCED and point.trial != FREE


def _pickable(points: Iterable[Point], slowest: float = 1.0) -> list[Point]:
    """Returns the saved, trained models of the front that are at least so fast; by default no slower than unreduced."""
    fast = [point for point in points if point.speed_up_validation >= slowest - _HAIR]
    return [point for point in fast if point.on_front and is_trained(point) and is_saved(point)]


def has_model(points: Iterable[Point]) -> bool:
    """Returns whether the front, which is marked, holds a trained model that is no slower than the unreduced one."""
    return bool(_pickable(points))


def no_model(points: Iterable[Point]) -> str:
    """Returns what a user is told where `has_model` is false: what helps, and which trained models there are.

    Example:
        >>> measured = {"quality_validation": 0.8, "speed_up_validation": 0.9}
        >>> slow = Point(trial="1", selector="policy", model="models/1", **measured)
        >>> no_model([slow]).partition(": ")[0]
        'no trained model of the front is faster than the unreduced one (models/1 is saved all the same)'
    """
    saved = sorted(
        {point.model for point in points if is_trained(point) and is_saved(point)}, key=lambda name: (len(name), name)
    )
    kept = f" ({', '.join(saved)} {'is' if len(saved) == 1 else 'are'} saved all the same)" if saved else ""
    return (
        f"no trained model of the front is faster than the unreduced one{kept}: search again with a larger --budget, "
        "or with more rows for training and validation"
    )


def least_drop(points: Sequence[Point]) -> float:
    """Returns the least loss of quality with which `pick` finds a model, in percentage points; 0 or more.

    Args:
        points: of a finished search, with the front marked; `has_model` holds.
    """
    best = max(point.quality_validation for point in points if keeps_all(point))
    return max(0.0, 100 * (best - max(point.quality_validation for point in _pickable(points))))


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Returns the indices of the points that no point of another model dominates, slowest first.

    Point i dominates point j if quality_i ≥ quality_j and speed_up_i ≥ speed_up_j, and one of them is greater; both on
    validation. If several points are equal in both, at most one of them stays. A saved model is preferred to a free
    rule, and the choice does not depend on the order of the points.

    The dials of one model do not dominate each other. A model is hardly ever worse because it keeps more tokens. So a
    faster dial that looks better is mostly chance, which is large where validation has few rows
    (docs/results/holdout.md). The dials of a rule at the same reduction points are one model here.

    Example:
        >>> def at(trial, quality, speed_up):
        ...     return Point(trial=trial, selector="policy", quality_validation=quality, speed_up_validation=speed_up)
        >>> pareto_front([at("1", 0.8, 4.0), at("2", 0.9, 1.0), at("2", 0.7, 3.0)])
        [1, 0]
        >>> pareto_front([at("1", 0.8, 4.0), at("1", 0.7, 3.0)])
        [1, 0]
    """

    def falling(index: int) -> tuple[Any, ...]:
        # Marks of an earlier call must not change the choice among equal points.
        point = dataclasses.replace(points[index], on_front=False)
        return (-point.speed_up_validation, -point.quality_validation, not is_saved(point), *_in_words(point))

    front: list[int] = []
    best: dict[tuple[Any, ...], float] = {}  # the best quality of each model so far; all of it is as fast or faster
    places: set[tuple[float, float]] = set()
    for index in sorted(range(len(points)), key=falling):
        point = points[index]
        model, quality = (point.trial, point.selector, point.points), point.quality_validation
        place = (quality, point.speed_up_validation)
        if place not in places and all(quality > other for name, other in best.items() if name != model):
            front.append(index)
            places.add(place)
        best[model] = max(quality, best.get(model, quality))
    return front[::-1]


def _in_words(point: Point) -> tuple[str, ...]:
    """Returns the values of a point as text. Texts can be sorted, while None and a number cannot be compared."""
    values = (getattr(point, field.name) for field in dataclasses.fields(point))
    return tuple(
        ";".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
        for value in values
    )


def mark_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Returns the points in the given order, with `on_front` set for those of the front.

    Example:
        >>> slow = Point(trial="1", selector="policy", quality_validation=0.8, speed_up_validation=2.0)
        >>> fast = dataclasses.replace(slow, trial="2", speed_up_validation=3.0)
        >>> [each.on_front for each in mark_front([slow, fast])]
        [False, True]
    """
    front = set(pareto_front(points))
    return tuple(dataclasses.replace(point, on_front=index in front) for index, point in enumerate(points))


def pick(points: Sequence[Point], max_drop: float | None = None, min_speedup: float | None = None) -> Point:
    """Returns the trained model of the front that fits the bounds best.

    With `min_speedup` it is the best of the models that fit. With `max_drop` alone it is the fastest of them. Both
    quality and speed-up are those on validation. The drop is measured from the best unreduced model among the points.
    The teacher is never picked, because it is no reduced model.

    Args:
        points: of a finished search, with the front marked.
        max_drop: the largest loss of quality, in percentage points; 0 or more.
        min_speedup: the least speed-up in FLOPs; above 0. Without it no model is picked that is slower than unreduced.

    Raises:
        InputError: No bound is given, a bound is out of range, or no model fits. The message names the nearest models.

    Example:
        >>> def at(quality, speed_up, **named):
        ...     return Point(**named, quality_validation=quality, speed_up_validation=speed_up)
        >>> teacher = at(0.9, 1.0, trial="teacher", selector="none", model="models/teacher")
        >>> fast = at(0.89, 4.0, trial="1", selector="policy", model="models/1")
        >>> pick(mark_front([teacher, fast]), max_drop=1.0).model
        'models/1'
    """
    _check_bounds(max_drop, min_speedup)
    yardstick = max((point.quality_validation for point in points if keeps_all(point)), default=None)
    trained = _pickable(points) if min_speedup is None else _pickable(points, slowest=0.0)
    if yardstick is None:
        raise InputError(
            f"the {len(points)} points must hold an unreduced model, from which drops are measured, and hold none: "
            "search again with python tune/search.py"
        )
    if not trained:
        raise InputError(no_model(points))

    def drop(point: Point) -> float:
        return 100 * (yardstick - point.quality_validation)

    good = [point for point in trained if max_drop is None or drop(point) <= max_drop + _HAIR]
    fast = trained if min_speedup is None else _pickable(points, min_speedup)
    fitting = [point for point in good if point in fast]
    if fitting:
        by_speed = min_speedup is None
        return max(
            fitting, key=lambda p: (p.speed_up_validation, -drop(p)) if by_speed else (-drop(p), p.speed_up_validation)
        )
    wanted = [f"drops at most {max_drop:g} points"] if max_drop is not None else []
    wanted += [f"is at least {min_speedup:g}x faster"] if min_speedup is not None else []
    # The nearest models are the best of those that are fast enough, and the fastest of those that are good enough.
    best = min(fast or trained, key=lambda p: (drop(p), -p.speed_up_validation))
    fastest = max(good or trained, key=lambda p: (p.speed_up_validation, -drop(p)))
    nearest = {best} if min_speedup is None else {fastest} if max_drop is None else {best, fastest}
    there = " and ".join(
        f"{point.model}{at_dial(point)} (drop {drop(point):z.1f}, {point.speed_up_validation:.2f}x)"
        for point in sorted(nearest, key=lambda p: p.speed_up_validation)
    )
    raise InputError(
        f"no trained model of the front {' and '.join(wanted)} on validation; the nearest: {there}: relax the bound, "
        "or use the unreduced model, models/teacher"
    )


def at_dial(point: Point) -> str:
    """Returns the words " at dial …" to put after a model's name; an empty text for an unreduced model.

    Example:
        >>> at_dial(Point(trial="1", selector="policy", dial=-1.5, quality_validation=0.9, speed_up_validation=2.0))
        ' at dial -1.5'
    """
    return "" if point.dial is None else f" at dial {point.dial:g}"


def _check_bounds(max_drop: float | None, min_speedup: float | None) -> None:
    if max_drop is None and min_speedup is None:
        raise InputError("a pick needs a bound, and none is given: pass max_drop (points), min_speedup, or both")
    if max_drop is not None and not 0 <= max_drop < math.inf:
        raise InputError(f"max_drop must be 0 or more percentage points, and is {max_drop!r}")
    if min_speedup is not None and not 0 < min_speedup < math.inf:
        raise InputError(f"min_speedup must be a factor above 0, and is {min_speedup!r}")


def free_at_cost(points: Iterable[Point], speed_up: float, selector: str) -> float | None:
    """Returns a free rule's quality on test at a speed-up, on straight lines between its measured dials.

    A rule that was measured at several choices of reduction points has a line for each choice. The highest line
    counts, because a user would take that one. Outside the measured speed-ups the answer is None.

    Example:
        >>> def first(quality, speed_up):
        ...     on_validation = {"quality_validation": quality, "speed_up_validation": speed_up}
        ...     return Point(trial="free", selector="first", quality_test=quality, **on_validation)
        >>> free_at_cost([first(0.5, 4.0), first(0.75, 2.0)], 3.0, "first")
        0.625
    """
    return highest(free_lines(points, selector), speed_up)


Line = tuple[tuple[float, float], ...]
"""Speed-ups, rising, and the best quality at each."""


def free_lines(points: Iterable[Point], selector: str) -> tuple[Line, ...]:
    """Returns a free rule's lines, one for each choice of reduction points at which it was measured on test."""
    found: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for point in points:
        if point.trial == FREE and point.selector == selector and (quality := point.quality_test) is not None:
            found.setdefault(point.points, []).append((point.speed_up, quality))
    return tuple(map(line_through, found.values()))


def line_through(measured: Iterable[tuple[float, float]]) -> Line:
    """Returns the line through pairs of a speed-up and a quality.

    Example:
        >>> line_through([(3.0, 0.7), (1.0, 0.9), (3.0, 0.8)])
        ((1.0, 0.9), (3.0, 0.8))
    """
    return tuple(dict(sorted(measured)).items())  # of equal speed-ups the last one counts, which is the best


def highest(lines: Iterable[Line], speed_up: float) -> float | None:
    """Returns the quality of the highest line at a speed-up; None where no line reaches it."""
    return max((each for line in lines if (each := _on_line(line, speed_up)) is not None), default=None)


def _on_line(line: Line, at: float) -> float | None:
    if not line[0][0] <= at <= line[-1][0]:
        return None
    place = bisect_left(line, at, key=itemgetter(0))
    right, high = line[place]
    if right == at:
        return high
    left, low = line[place - 1]
    return low + (high - low) * (at - left) / (right - left)
