"""Weighs rows for validation against rows to learn from, in a simulation. Writes docs/results/holdout.md.

python benchmarks/holdout.py

Nothing is trained. A row has a margin, which says how sure the teacher's right answer is. A dial lowers the margins of
all rows, and moves each of them by chance. The chance of two neighbouring dials is correlated. A row is right
where its margin is above 0. So all answers are paired, as they are in a search.
"""

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from trbert.data.splits import VALIDATION_ROWS, validation_size
from trbert.errors import InputError
from tune.results.front import Point, mark_front, pick

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "holdout.md"
TEACHER = 0.85
"""The true quality of the teacher."""
SPEED_UPS = np.array([2.0, 3.0, 5.0, 8.0, 12.0])
DROPS = np.array([0.0, 0.005, 0.015, 0.04, 0.08])
"""The true drops of a mean model at these speed-ups."""
CHANCE = np.array([0.25, 0.3, 0.35, 0.45, 0.55])
"""The standard deviation of a dial's chance, where that of the margins is 1."""
NEAR = 0.8
"""The correlation of the chance of two neighbouring dials."""
SPREAD = 0.4
"""The standard deviation of the logarithm of a factor by which the drops of a model differ from those of a mean one."""
ASKED = 2.0
"""The drop that is asked of a pick, in percentage points."""
SEARCHES, MODELS = 1000, 2
ROWS = (25, 50, 100, 200, 300, 500, 1000)
EXPONENTS = (0.2, 0.3, 0.5)
"""The error of a model that learned n rows is (1 − TEACHER) · (500 / n) to the power of one of these."""
SIZES = (200, 500, 1000, 2000, 5000)

Searches = list[tuple[list[Point], Float[np.ndarray, "models dials"]]]


def searched(rows: int, seed: int) -> Searches:
    """Returns the points of many searches with so many validation rows, and the true drops of their models' dials."""
    draw, plain = np.random.default_rng([seed, rows]), NormalDist()
    mean = plain.inv_cdf(TEACHER)
    found = []
    for _ in range(SEARCHES):
        factors = np.exp(draw.normal(0, SPREAD, (MODELS, 1)))
        drops = np.minimum(DROPS * factors, 0.5)
        level = np.vectorize(lambda drop: plain.inv_cdf(TEACHER - drop))(drops) * np.sqrt(1 + CHANCE**2)
        margins = draw.normal(mean, 1, rows)
        chance = draw.normal(size=(MODELS, len(DROPS), rows))
        for dial in range(1, len(DROPS)):
            chance[:, dial] = NEAR * chance[:, dial - 1] + np.sqrt(1 - NEAR**2) * chance[:, dial]
        right = margins - (mean - level)[..., None] + CHANCE[:, None] * chance > 0
        teacher = Point(
            trial="teacher",
            selector="none",
            quality_validation=float((margins > 0).mean()),
            speed_up_validation=1.0,
            model="models/teacher",
        )
        reached = SPEED_UPS * np.exp(draw.normal(0, 0.03, (MODELS, len(DROPS))))
        points = [
            Point(
                trial=str(model),
                selector="policy",
                dial=float(dial),
                quality_validation=float(right[model, dial].mean()),
                speed_up_validation=float(reached[model, dial]),
                model=f"models/{model}",
            )
            for model in range(MODELS)
            for dial in range(len(DROPS))
        ]
        found.append(([teacher, *points], drops))
    return found


def excess(searches: Searches) -> float:
    """Returns how far the true drop of a pick lies above the drop that was asked for, in the mean, in points.

    Where no model is picked, the teacher stays, which drops nothing.
    """
    found = []
    for points, drops in searches:
        try:
            picked = pick(mark_front(points), max_drop=ASKED)
        except InputError:
            found.append(0.0)
            continue
        true = 100 * float(drops[int(picked.trial), int(picked.dial or 0)])
        found.append(max(0.0, true - ASKED))
    return float(np.mean(found))


def rows_left(searches: Searches, *, apart: bool) -> float:
    """Returns the share of the speed-ups 2x, 3x, 5x and 8x near which the front has a row of a model.

    Args:
        searches: the searches.
        apart: whether each dial counts as a model of its own. Then any dial takes a slower one that is worse off.
    """
    found = []
    for points, _ in searches:
        own = (
            [replace(point, trial=f"{point.trial} {place}") for place, point in enumerate(points)] if apart else points
        )
        front = [point for point in mark_front(own) if point.on_front and point.dial is not None]
        found += [any(int(point.dial or 0) == dial for point in front) for dial in range(4)]
    return float(np.mean(found))


def wrong_order(searches: Searches) -> tuple[float, float]:
    """Returns the noise of a model's drop at 3x in points, and how often its 8x seems as good as its 5x."""
    at = np.array([[point.quality_validation for point in points[: 1 + len(DROPS)]] for points, _ in searches])
    true = np.array([drops[0, 1] for _, drops in searches])
    return float(100 * (at[:, 0] - at[:, 2] - true).std()), float((at[:, 4] >= at[:, 3]).mean())


def report() -> str:
    """Returns the page."""
    lines, found = [], []
    for rows in ROWS:
        searches = searched(rows, seed=0)
        (noise, wrong), above = wrong_order(searches), excess(searches)
        found.append(above)
        before, now = rows_left(searches, apart=True), rows_left(searches, apart=False)
        lines.append(f"| {rows:,} | {noise:.1f} | {wrong:.0%} | {above:.2f} | {before:.0%} | {now:.0%} |")
    curve = np.polyfit(np.log(ROWS), np.log(found), 2)
    lost = []
    for exponent in EXPONENTS:
        for size in SIZES:
            held = [max(1, round(0.1 * size)), validation_size(size), round(size / 3)]
            cells = []
            for each in (min(rows, VALIDATION_ROWS) for rows in held):
                error = 100 * (1 - TEACHER) * (500 / np.array([size - each, size])) ** exponent
                cells.append(f"{each} rows: {np.exp(np.polyval(curve, np.log(each))) + error[0] - error[1]:.1f}")
            lost.append(f"| {exponent} | {size:,} | {' | '.join(cells)} |")
    return HEAD.format(searches=SEARCHES, first="\n".join(lines), second="\n".join(lost))


HEAD = """# How many rows validation needs

`python benchmarks/holdout.py` made this page. It is a simulation: nothing was trained, and nothing was read from test.
The random numbers have the seed 0. The first lines of that file say how rows and dials are drawn.

A search has a teacher of 85 %, and two models at five dials. At 2, 3, 5, 8 and 12x a mean model truly drops 0, 0.5,
1.5, 4 and 8 points. {searches:,} searches were drawn for each number of validation rows:

| validation rows | noise of the drop at 3x | 8x seems as good as 5x | lost above 2 | each dial alone | the front |
|---|---|---|---|---|---|
{first}

* *noise of the drop* is its standard deviation in points, around the truth.
* *8x seems as good as 5x* is how often one model's faster dial does so. It truly loses about 2.5 points more.
* *lost above 2* is how far `--max-drop 2` misses: the mean of what the picked model truly drops above 2 points.
* *the front* is the share of the speed-ups 2, 3, 5 and 8x near which the front has a row of a model.
* *each dial alone* is the same for another rule, by which a model's fast dial takes its own slower dials off the front.

**How many rows to hold out.** A row for validation is one less to learn from. The table adds the points that a pick
loses above 2, and the points that a model loses because it learned fewer rows. The error of a model that learned n
rows is taken as 15 % · (500 / n)^b. The exponent b is not known in advance, so three were tried:

| b | training rows | a tenth held out | the rule | a third held out |
|---|---|---|---|---|
{second}

The rule is a fifth of few rows, up to 200 rows, and a tenth of many (`trbert/data/splits.py`). From 500 rows on it is
within 0.3 points of a tenth or better. For 200 rows and b = 0.5 it loses 0.9. In exchange the drops of 500 rows have
70 % of the noise. A third is nowhere better than the rule. The share of test stays a tenth, because nothing is
chosen on test.
"""


if __name__ == "__main__":
    PAGE.write_text(report(), encoding="utf-8")
