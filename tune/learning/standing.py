"""Where a teacher stands: its quality beside that of baselines, which are answers that need no encoder."""

import math
from dataclasses import dataclass
from typing import Any

from trbert.errors import InputError
from trbert.wording import shown

COMMONEST = "commonest answer"
"""The name of the baseline that gives to every row the most frequent answer of the training rows."""
LINEAR = "TF-IDF + LR"
"""The name of the baseline that is logistic regression on TF-IDF weights: a linear model of a text's tokens."""
CLEAR = 2.0
"""A difference is clear if it is more than so many standard errors of its mean away from 0."""
LEAST_KNOWN = 1e-3
"""A teacher that knows less of its training labels than this, in nats, knows nothing of them."""
COARSE = 0.5
"""From so many percentage points on, the line under the table says how much one test row is."""

_NAMES = (COMMONEST, LINEAR)
_LONGER = "train the teacher longer (--set teacher.epochs=N with a larger --budget), or with more rows"
_ANOTHER = "pass a better model, or train this one again (--new-head)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The figures of a baseline, and how far the teacher is ahead of it.

    Attributes:
        name: `COMMONEST` or `LINEAR`.
        validation: its quality on validation, a fraction.
        test: its quality on test, a fraction.
        rows: the number of training rows that it learned from.
        ahead: the difference of the qualities of the teacher and of the baseline. It is the mean of the differences on
            validation and on test; each split counts by its rows.
        error: the standard error of `ahead`: its standard deviation over resamples of both splits.
    """

    name: str
    validation: float
    test: float
    rows: int
    ahead: float
    error: float

    def __post_init__(self) -> None:
        _check(self.name in _NAMES, "name", f"be one of {', '.join(_NAMES)}", self.name)
        _check_number("validation", self.validation, 0.0, 1.0)
        _check_number("test", self.test, 0.0, 1.0)
        _check_count("rows", self.rows)
        _check_number("ahead", self.ahead, -1.0, 1.0)
        _check_number("error", self.error, 0.0, 1.0)

    @property
    def is_worse(self) -> bool:
        """Whether the teacher is clearly better than this baseline: `ahead` is above `CLEAR` standard errors."""
        return self.ahead > CLEAR * self.error

    @property
    def is_better(self) -> bool:
        """Whether this baseline is clearly better than the teacher: `ahead` is below −`CLEAR` standard errors."""
        return self.ahead < -CLEAR * self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The figures of a teacher and of its baselines.

    Attributes:
        validation: the teacher's quality on validation, a fraction.
        test: the teacher's quality on test, a fraction.
        known: how much better the teacher predicts its training labels than their frequencies do, in nats.
        trained: whether the search trained the teacher. If not, it is a fine-tuned model of the user's own.
        has_head: whether the teacher has a head, which learned labels. If not, there are no labels.
        train_rows: the number of training rows.
        test_rows: the number of test rows.
        interval: the width of the 95 % interval of the teacher's quality on test, as a fraction. It is that of the
            bootstrap (`trbert.measure.intervals`), which resamples the quality itself, whatever the metric.
        baselines: the commonest answer, and the linear model of tokens where there is one.
    """

    validation: float
    test: float
    known: float
    trained: bool
    has_head: bool
    train_rows: int
    test_rows: int
    interval: float
    baselines: tuple[Baseline, ...]

    def __post_init__(self) -> None:
        _check_number("validation", self.validation, 0.0, 1.0)
        _check_number("test", self.test, 0.0, 1.0)
        _check_number("known", self.known)
        _check_count("train_rows", self.train_rows)
        _check_count("test_rows", self.test_rows)
        _check_number("interval", self.interval, 0.0, 1.0)
        names = tuple(each.name for each in self.baselines)
        _check(names in (_NAMES[:1], _NAMES), "baselines", f"be {COMMONEST}, or this and then {LINEAR}", names)

    @property
    def knows_nothing(self) -> bool:
        """Whether the teacher is not clearly better than the commonest answer.

        It is clearly better if it is ahead by more than two standard errors. Otherwise every reduced model loses
        nothing, however fast it is.
        """
        return not self.baselines[0].is_worse


def figures(standing: Standing) -> list[str]:
    """Returns a line for each baseline: its quality, and how many training rows it learned from if not from all."""
    found = []
    for each in standing.baselines:
        capped = f"; it {_learned(each, standing)}" if each.rows < standing.train_rows else ""
        found.append(f"{each.name}: {_percent(each.validation)} on validation, {_percent(each.test)} on test{capped}")
    return found


def remarks(standing: Standing) -> list[str]:
    """Returns a sentence for each thing that is wrong with the teacher, with its remedy; [] if nothing is.

    The lines before the trials, the table, the models' cards and a pick all say it in these words.
    """
    commonest, faults, found = standing.baselines[0], [], []
    if standing.knows_nothing:
        faults.append(f"is not clearly better than the {COMMONEST} {_against(standing.test, commonest.test)}")
    if standing.known < LEAST_KNOWN:
        faults.append("predicts its training labels no better than their frequencies do")
    if faults:
        search = "the search cannot tell a good selection from a bad one"
        so = "a speed-up without a drop means nothing" if standing.knows_nothing else search
        remedy = _remedy(standing)
        if standing.has_head:
            labels = "check the labels, and" if standing.trained else "match the labels with --label-map,"
            remedy = f"{labels} {remedy}"
        found.append(f"the teacher {' and '.join(faults)}, so that {so}: {remedy}")
    found += [
        f"a linear model of the same tokens, {each.name}, does better than the teacher "
        f"{_against(each.test, standing.test)}: {_remedy(standing)}"
        for each in standing.baselines[1:]
        if each.is_better
    ]
    return found


def precision(standing: Standing) -> list[str]:
    """Returns the lines under a table of figures on test: how exact they are, and what learned from fewer rows."""
    rows, row = standing.test_rows, 100 / standing.test_rows
    one = f", so that one row is {row:.1f} points" if row >= COARSE else ""
    interval = f"the 95 % interval of the teacher's quality is {100 * standing.interval:.1f} points wide"
    if standing.interval == 0:
        interval = (
            "the teacher does equally well on each of them, so that they give no 95 % interval of its quality: for an "
            "interval, add test rows"
        )
    learned = [f"{b.name} {_learned(b, standing)}" for b in standing.baselines if b.rows < standing.train_rows]
    return [f"test has {rows:,} row{'s' if rows > 1 else ''}{one}; {interval}", *learned]


def _learned(baseline: Baseline, standing: Standing) -> str:
    return f"learned from {baseline.rows:,} of {standing.train_rows:,} training rows"


def _remedy(standing: Standing) -> str:
    if not standing.has_head:
        return "pass another model, or texts that differ more"
    return _LONGER if standing.trained else _ANOTHER


def _against(quality: float, other: float) -> str:
    return f"({_percent(quality)} against {_percent(other)} on test)"


def _percent(quality: float) -> str:
    return f"{100 * quality:.1f} %"


def _check(holds: bool, name: str, rule: str, value: Any) -> None:
    if not holds:
        raise InputError(f"{name} must {rule}, and is {shown(value)}")


def _check_number(name: str, value: float, least: float = -math.inf, most: float = math.inf) -> None:
    limits = "" if math.isinf(least) else f" from {least:g} to {most:g}"
    _check(math.isfinite(value) and least <= value <= most, name, f"be a finite number{limits}", value)


def _check_count(name: str, value: int) -> None:
    _check(0 < value < 2**63, name, "be above 0 and below 2^63", value)
