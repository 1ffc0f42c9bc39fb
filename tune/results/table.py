"""The table of a run: the file front.csv, and the text that shows it to a user."""

import csv
import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trbert.disk.files import read_plain, write_whole
from trbert.errors import InputError, RunFolderError
from trbert.wording import briefly_listed, cell, cut, pasted, reason
from tune.learning.standing import Standing, precision, remarks
from tune.results.front import FREE, TEACHER, Point, free_lines, highest, is_trained

MOST_BYTES, MOST_ROWS, MOST_SELECTORS, LONGEST_CELL = 4_000_000, 5_000, 50, 1_000
"""What a table of points may have at most. Somebody else may have written it, and it must not take a day to show."""


def write_front(path: Path, points: Iterable[Point]) -> None:
    """Writes points as csv, completely or not at all. `read_front` returns exactly these points.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "front.csv"
        >>> teacher = Point(trial="teacher", selector="none", quality_validation=0.9, speed_up_validation=1.0)
        >>> write_front(path, [teacher])
        >>> read_front(path) == (teacher,)
        True
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(map(_row, points))
    write_whole(path, text.getvalue().encode())


def read_front(path: Path) -> tuple[Point, ...]:
    """Returns the points that `write_front` wrote to a run folder's `front.csv`.

    Raises:
        RunFolderError: There is no such run, or its search did not finish.
        InputError: The file has other columns, or a cell with a wrong value; the message names the line.
    """
    _check_run(path)
    try:
        return read_points(path)
    except InputError as error:
        raise InputError(
            f"{error}; until then this run has no table and no pick, but its models can be loaded: copy the file back, "
            "or, where the search was your own, write it again with python tune/search.py --resume "
            f"{pasted(path.parent)}"
        ) from error


def read_points(path: Path) -> tuple[Point, ...]:
    """Returns the points that `write_front` wrote to a file.

    Raises:
        InputError: The file cannot be read, is a symbolic link, or is larger than `MOST_BYTES` and the like allow. Or
            it has other columns, or a cell with a wrong value; the message names the line.
    """
    try:
        text = read_plain(path, MOST_BYTES).decode()
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(reader, [])
        if header != list(_COLUMNS):
            raise InputError(_wrong_columns(path, header))
        found = [
            _parse(row, f"{path} line {reader.line_num}") for row in itertools.islice(reader, MOST_ROWS + 1) if row
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} must be a csv file as tune/search.py writes it, and is not one ({reason(error)})"
        ) from error
    if not found:
        raise InputError(f"{path} must hold at least one point, and holds only its header: search again")
    for name, most, have in (
        ("rows", MOST_ROWS, len(found)),
        ("selectors", MOST_SELECTORS, len({point.selector for point in found})),
    ):
        if have > most:
            raise InputError(f"{path} must have at most {most:,} {name}, and has more: pass a run as it was written")
    return tuple(found)


def _check_run(path: Path) -> None:
    run = path.parent
    if not os.path.isdir(run):
        raise RunFolderError(
            f"run folder {run} does not exist: pass one that tune/search.py wrote, such as runs/search"
        )
    if not os.path.lexists(path):
        raise RunFolderError(
            f"{path} does not exist, because the search has not finished: "
            f"resume it with python tune/search.py --resume {pasted(run)}"
        )


def _wrong_columns(path: Path, header: list[str]) -> str:
    missing = [name for name in _COLUMNS if name not in header]
    unknown = [name for name in header if name not in _COLUMNS]
    faults = [f"lacks {', '.join(missing)}"] if missing else []
    faults += [f"has {briefly_listed(unknown)}"] if unknown else []
    told = " and ".join(faults) or "has them in another order or twice"
    return f"{path} must have the columns {','.join(_COLUMNS)}, and {told}: pass a run of this version"


# How a column is written and read, and the words for its values in a message. A numpy float would be written as
# "np.float64(…)", so that values go through float() and int() first.
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
    "drop_interval": _several(_FLOAT),
    "speed_up_validation": _FLOAT,
    "speed_up_test": _optional(_FLOAT),
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
    for (name, (_, read, rule)), text in zip(_CODECS.items(), row, strict=True):
        if len(text) > LONGEST_CELL:
            raise InputError(
                f"{place}: {name} must have at most {LONGEST_CELL:,} characters, and has {len(text):,}: correct the "
                "cell"
            )
        try:
            values[name] = read(text)
        except (ValueError, KeyError) as error:
            raise InputError(f"{place}: {name} must be {rule}, and is {cut(text)}: correct the cell") from error
    try:
        return Point(**values)
    except InputError as error:
        raise InputError(f"{place}: {error}: correct the cell") from error


def table(points: Sequence[Point], every: bool = False, standing: Standing | None = None) -> str:
    """Returns the front as text, the teacher first.

    The baselines stand in its last lines. A line above it says so if the teacher knows nothing, and lines below it say
    how exact the figures on test are, and what else is wrong with the teacher. A second table shows the free rules'
    quality at the cost of each trained point of the front: on test, or on validation if no rule was measured on test.

    Args:
        points: of a finished search, with the front marked.
        every: show all points, with their figures on validation and a star at those on the front.
        standing: of the teacher; None shows no baselines.

    Example:
        >>> teacher = Point(trial="teacher", selector="none", quality_validation=0.9, speed_up_validation=1.0)
        >>> print(table([teacher]))
        model    selector  dial  points  quality (test)  drop  95 % interval  FLOPs speed-up  docs/s  kept
        teacher  none         –       –               –     –              –           1.00x       –     –
    """
    shown = [point for point in points if every or point.on_front or point.trial == TEACHER]
    shown.sort(key=lambda point: (point.trial != TEACHER, point.speed_up, _row(point)))
    header = ["model", "selector", "dial", "points", "quality (test)", "drop", "95 % interval"]
    header += ["FLOPs speed-up", "docs/s", "kept"]
    rows = [_cells(point) for point in shown]
    if every:
        header += ["quality (validation)", "FLOPs (validation)", "on front"]
        rows = [
            [*row, _percent(point.quality_validation), f"{point.speed_up_validation:.2f}x", "*" * point.on_front]
            for row, point in zip(rows, shown, strict=True)
        ]
    above, below = "", ""
    if standing is not None:
        for each in standing.baselines:
            row = [each.name, "–", "–", "–", _percent(each.test), "–", "–", "–", "–", "–"]
            rows.append([*row, _percent(each.validation), "–", ""] if every else row)
        told = remarks(standing)
        above = f"no front: {told.pop(0)}\n\n" if standing.knows_nothing else ""
        below = "\n\n" + "\n".join([*precision(standing), *told])
    rules = [point for point in points if point.trial == FREE]
    on_test = not rules or any(point.quality_test is not None for point in rules)
    against = _at_equal_cost(points if on_test else [_on_validation(point) for point in points])
    below += f"\n\nquality ({'test' if on_test else 'validation'}) at equal cost\n{against}" if against else ""
    if missing := sum(point.on_front and is_trained(point) and point.quality_test is None for point in points):
        one = missing == 1
        below += f"\n\n{missing} point{'s' * (not one)} of the front {'was' if one else 'were'} not measured on test"
    return above + _aligned(header, rows, left=2) + below


def _on_validation(point: Point) -> Point:
    """Returns the point with its figures on validation as those on test."""
    return replace(point, quality_test=point.quality_validation, speed_up_test=point.speed_up_validation)


def _at_equal_cost(points: Sequence[Point]) -> str:
    rules = list(dict.fromkeys(point.selector for point in points if point.trial == FREE))
    trained = [p for p in points if p.on_front and is_trained(p) and p.quality_test is not None]
    if not rules or not trained:
        return ""
    rows, compared = [], False
    lines = [free_lines(points, rule) for rule in rules]
    for point in sorted(trained, key=lambda each: each.speed_up):
        assert point.quality_test is not None
        rivals = [highest(each, point.speed_up) for each in lines]
        best = max((each for each in rivals if each is not None), default=None)
        compared = compared or best is not None
        ahead = "–" if best is None else f"{100 * (point.quality_test - best):z.1f}"
        rows.append([f"{point.speed_up:.2f}x", _percent(point.quality_test), *map(_percent, rivals), ahead])
    if not compared:
        return "no comparison can be made, because no rule was measured at the speed-up of a trained model"
    return _aligned(["speed-up", "trained", *rules, "trained ahead by"], rows, left=0)


def _cells(point: Point) -> list[str]:
    return [
        point.model or "teacher",
        point.selector,
        "–" if point.dial is None else f"{point.dial:g}",
        ",".join(map(str, point.points)) or "–",
        _percent(point.quality_test),
        "–" if point.drop is None else f"{point.drop:z.1f}",
        " to ".join(f"{end:z.1f}" for end in point.drop_interval) or "–",
        f"{point.speed_up:.2f}x",
        "–"
        if point.docs_per_second is None
        else f"{point.docs_per_second:.{0 if point.docs_per_second >= 100 else 1}f}",
        " ".join(f"{fraction:.0%}" for fraction in point.kept) or "–",
    ]


def _percent(quality: float | None) -> str:
    return "–" if quality is None else f"{quality:.1%}"


def _aligned(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    lines = [[cell(text) for text in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
