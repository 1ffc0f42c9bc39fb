"""The file measures.json of a saved model: what was measured of it on test beside the figures of the run's table."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trbert.disk.files import read_plain, write_json
from trbert.errors import InputError
from trbert.wording import printable, reason, shown

_FILE = "measures.json"
_LARGEST = 1_000_000
_LONGEST = 60
"""The most characters of a name that are shown."""

Ends = tuple[float, float]
"""The lower and the upper end of a 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What was measured of a model on test at one dial, beside its quality and its speed.

    The intervals are those of the bootstrap (`trbert.measure.intervals`), which resamples the quality itself.

    Attributes:
        dial: the selector's dial; None for an unreduced model.
        quality: the 95 % interval of the quality, as fractions.
        drop: the 95 % interval of the drop from the best unreduced model, in percentage points. Both models are
            measured on the same resamples. None where there is no unreduced model to compare with.
        figures: further measures, by their names.
    """

    dial: float | None
    quality: Ends
    drop: Ends | None
    figures: Mapping[str, float]


def write_measures(folder: Path, measures: Sequence[Measures]) -> None:
    """Writes what was measured of a model at each of its dials beside its files."""
    write_json(folder / _FILE, [asdict(each) for each in measures])


def read_measures(folder: Path, dial: float | None) -> Measures | None:
    """Returns what `write_measures` wrote of a model at one dial; None if it wrote nothing of it.

    Raises:
        InputError: The file cannot be read, is a symbolic link or larger than 1 MB, or holds something else.
    """
    path = folder / _FILE
    try:
        found = [_parse(each) for each in json.loads(read_plain(path, _LARGEST))]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} must hold what was measured of the model as tune/search.py writes it, and does not "
            f"({reason(error)}): copy it back, or search again"
        ) from error
    return next((each for each in found if each.dial == dial), None)


def in_words(measures: Measures) -> str:
    """Returns the intervals and the further measures in a few words.

    Example:
        >>> own = Measures(dial=0.5, quality=(0.78, 0.83), drop=(-0.5, 1.25), figures={"macro F1": 0.79})
        >>> in_words(own)
        '95 % interval 78.0 to 83.0 %, of the drop -0.5 to 1.2 points; macro F1 0.7900'
    """
    low, high = measures.quality
    told = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    if measures.drop is not None:
        told += ", of the drop {:z.1f} to {:z.1f} points".format(*measures.drop)
    return "; ".join([told, *(f"{printable(name[:_LONGEST])} {value:.4f}" for name, value in measures.figures.items())])


def _parse(found: Any) -> Measures:
    """Returns the measures that a JSON object holds.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It holds something else.
    """
    dial, drop = found["dial"], found["drop"]
    return Measures(
        dial=None if dial is None else _number(dial),
        quality=_ends(found["quality"]),
        drop=None if drop is None else _ends(drop),
        figures={name: _number(value) for name, value in found["figures"].items()},
    )


def _ends(found: Any) -> Ends:
    low, high = found
    return _number(low), _number(high)


def _number(found: Any) -> float:
    if type(found) not in (int, float) or not math.isfinite(found):
        raise InputError(f"it has {shown(found)} in place of a number")
    return float(found)
