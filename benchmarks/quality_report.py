"""The report of quality: what was asked and what was measured, selector by selector, ingredient by ingredient."""

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbert.files import write_whole

Unit = dict[str, Any]
RESAMPLES = 2000
HEAD = """# Quality at a given cost

`python benchmarks/quality.py --data DIR`; one row of a table by `--only NAME`, NAME as in
`--list`. Each unit's date, machine, versions, settings, and which test documents it got right lie in
[quality/](quality).

MiniLM-L6. Quality: accuracy on the test split (validation where test has no labels). Speed-up: unpadded FLOPs, policy
included, ratio of sums over test; dials are chosen on validation, for their speed-up alone, 2 % to spare. Drop:
percentage points below the better of the teacher and the same model with all tokens kept; in brackets the 95 % interval
of the paired bootstrap over test documents ({resamples:,} resamples; seeds are averaged within a resample). Seeds vary
the policy's start, its trajectories and the order of documents; there is one teacher a set. What is marked (dropped)
was tried, and is tried no more; what is marked * ran with other settings than it would today, and is to be run again:
it compares among its like alone. What is marked † began at a teacher that was trained on another machine, whose
arithmetic rounds otherwise, and differs from the set's in what it gets right.

![Quality over speed-up](quality.png)
"""


def write_report(
    out: Path, folder: Path, sets: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes quality.md and quality.png from the units' files.

    Args:
        out: of the report.
        folder: of the units' files.
        sets: what was asked, by data set.
        known: the settings that each unit would run with today; one that is not here has been dropped.
    """
    found: dict[str, dict[str, Unit]] = {name: {} for name in sets}
    for path in sorted(folder.glob("*/*.json")):
        unit = json.loads(path.read_text(encoding="utf-8"))
        name, _, rest = unit["unit"].partition("/")
        wanted = known.get(unit["unit"])
        unit["marks"] = [] if wanted is None or is_current(unit["settings"], wanted) else ["*"]
        found[name][rest if wanted is not None else f"{rest} (dropped)"] = unit
    there = {name: units for name, units in found.items() if "teacher" in units}
    for units in there.values():
        own = _quality(units["teacher"]["points"][0])
        for unit in units.values():
            if unit.get("teacher", own) != own:
                unit["marks"].append("†")
    lines = [HEAD.format(resamples=RESAMPLES)]
    lines += ["## What was asked", "", *_asked(there, sets)]
    for name, units in there.items():
        lines += ["", f"## {name}", "", *_teacher(units["teacher"]), "", *_table(units, sets[name]["targets"])]
        lines += ["", *_verdicts(units, sets[name]["targets"])]
    for name, units in found.items():
        if ablations := {n.removeprefix("ablation "): u for n, u in units.items() if n.startswith("ablation")}:
            lines += ["", f"## One ingredient at a time: {name}", "", *_ablations(ablations)]
    if "conditioned" in found["20news"]:
        lines += ["", "## One run, the whole front", "", *_conditioned(found["20news"])]
    if longer := {name: unit for name, unit in found.get("20news-512", {}).items() if name.startswith("long")}:
        lines += ["", "## Long documents", "", *_long(longer, found["20news-512"]["teacher"])]
    if (tried := folder / "tried.md").exists():
        lines += ["", tried.read_text(encoding="utf-8").rstrip()]
    lines += ["", "Trees of trajectories: [trees.md](trees.md)."]
    text = "\n".join(lines) + "\n"
    write_whole(out / "quality.md", text.encode())
    _draw(out / "quality.png", there)
    print(text)


def is_current(ran: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Returns whether a unit ran with the settings that it would run with today, what only its machine needs aside."""
    then, now = ({name: each[name] for name in each if name != "compute"} for each in (ran, wanted))
    return then == json.loads(json.dumps(now))


def drop(correct: NDArray[Any], reference: NDArray[Any], seed: int = 0) -> tuple[float, float, float]:
    """Returns the mean drop in percentage points, and the 95 % interval of the paired bootstrap over documents.

    Args:
        correct: [seeds, documents], which the reduced models got right, or how often.
        reference: the same of what they are compared with.
        seed: of the resampling.

    Example:
        >>> right = np.array([[True, False, True, False]])
        >>> drop(right, right)
        (0.0, 0.0, 0.0)
    """
    differences = 100 * (reference.astype(float) - correct.astype(float)).mean(0)
    # A resample is a count of each document; differences take few values, so that a multinomial over them is the same.
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), RESAMPLES)
    low, high = np.percentile(drawn @ values / counts.sum(), [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def hypervolume(points: Iterable[tuple[float, float]], quality: float, fastest: float = 8.0) -> float:
    """Returns the area that points (speed-up, quality) dominate above a quality, from 1x to `fastest`.

    Example:
        >>> hypervolume([(2.0, 0.9), (4.0, 0.8)], quality=0.7)  # 1·0.2 + 2·0.1
        0.4
    """
    area, slower = 0.0, 1.0
    ordered = sorted((min(speed, fastest), high) for speed, high in points)
    for index, (speed, _) in enumerate(ordered):
        best = max(high for _, high in ordered[index:])
        area += (speed - slower) * max(0.0, best - quality)
        slower = speed
    return round(area, 12)


def _right(point: Mapping[str, Any], documents: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(point["correct"]), dtype=np.uint8))
    return bits[:documents].astype(np.bool_)


def _reference(unit: Unit, teacher: Unit) -> Mapping[str, Any]:
    """Returns the better of the teacher and the model with all tokens kept."""
    best: Mapping[str, Any] = max([teacher["points"][0], unit.get("keep_all", {"quality": 0.0})], key=_quality)
    return best


def _quality(point: Mapping[str, Any]) -> float:
    return float(point["quality"])


def _at(units: Sequence[Unit], target: float) -> list[tuple[Unit, Mapping[str, Any]]]:
    """Returns the units that reached the target, each with its point there."""
    return [(unit, point) for unit in units for point in unit["points"] if point["target"] == target]


def _reaching(units: Sequence[Unit], target: float) -> list[tuple[Unit, Mapping[str, Any]]]:
    """Returns the units that are as fast as that on test, each with its slowest such point.

    A dial chosen on validation may be slower on test, where documents differ.
    """
    fast = [(unit, [point for point in unit["points"] if point["speed_up"] >= target]) for unit in units]
    return [(unit, min(points, key=lambda point: point["speed_up"])) for unit, points in fast if points]


def _drop_of(hits: Sequence[tuple[Unit, Mapping[str, Any]]], teacher: Unit) -> tuple[float, float, float] | None:
    if not hits:
        return None
    documents = teacher["documents"]["test"]
    reduced = np.stack([_right(point, documents) for _, point in hits])
    reference = np.stack([_right(_reference(unit, teacher), documents) for unit, _ in hits])
    return drop(reduced, reference)


def _groups(units: Mapping[str, Unit]) -> dict[str, list[Unit]]:
    """Returns the units of each selector, its seeds together; truncation's lengths are one rival."""
    groups: dict[str, list[Unit]] = defaultdict(list)
    for name, unit in units.items():
        label, _, seed = name.rpartition(" seed ")
        if seed.isdigit():
            groups["truncate (retrained)" if label.startswith("truncate") else label].append(unit)
    return dict(sorted(groups.items(), key=lambda item: (item[0] != "policy", item[0])))


def _asked(found: Mapping[str, dict[str, Unit]], sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| set | asked | at | measured drop | measured at | held | shown by its interval | seeds |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, units in found.items():
        policies = _groups(units).get("policy", [])
        for kind in ("must", "aim"):
            for target, points in sets[name][kind]:
                got = _drop_of(hits := _reaching(policies, target), units["teacher"])
                if got is None:
                    yield f"| {name} | {kind}: ≤ {points:g} | {target:g}x | – | – | not reached | – | {len(policies)} |"
                    continue
                mean, low, high = got
                held, shown = ("yes" if mean <= points else "**no**"), ("yes" if high <= points else "no")
                speed = np.mean([point["speed_up"] for _, point in hits])
                cells = [name, f"{kind}: ≤ {points:g}", f"{target:g}x", f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"]
                yield f"| {' | '.join([*cells, f'{speed:.2f}x', held, shown, str(len(hits))])} |"


def _teacher(teacher: Unit) -> Iterator[str]:
    own, rival, size = teacher["points"][0], teacher["tfidf"], teacher["documents"]
    below, low, high = drop(_right(own, size["test"])[None], _right(rival, size["test"])[None])
    verdict = "**is below**" if low > 0 else "is above" if high < 0 else "matches"
    yield f"Teacher {100 * own['quality']:.2f} %; it {verdict} TF-IDF with logistic regression on the same rows, which"
    yield f"has {100 * rival['quality']:.2f} %: {-below:+.2f} [{-high:+.2f}, {-low:+.2f}]."
    yield f"Documents: {', '.join(f'{number:,} {split}' for split, number in size.items())}."


def _table(units: Mapping[str, Unit], targets: Sequence[float]) -> Iterator[str]:
    yield "| selector | " + " | ".join(f"{target:g}x" for target in targets) + " | all kept | seeds | training s |"
    yield "|---|" + "---|" * (len(targets) + 3)
    for label, members in _groups(units).items():
        cells = [_cell(members, units["teacher"], target) for target in targets]
        kept = [unit["keep_all"]["quality"] for unit in members if "keep_all" in unit]
        seconds = [unit["training_seconds"] for unit in members if "training_seconds" in unit]
        last = [_spread(kept), str(len(members) if kept else 1), f"{np.mean(seconds):.0f}" if seconds else "–"]
        yield f"| {label}{_marks(members)} | " + " | ".join([*cells, *last]) + " |"


def _marks(members: Sequence[Unit]) -> str:
    return "".join(f" {mark}" for mark in sorted({mark for unit in members for mark in unit["marks"]}))


def _cell(members: Sequence[Unit], teacher: Unit, target: float) -> str:
    got = _drop_of(_at(members, target), teacher)
    if got is None:
        return "–"
    hits = [point for _, point in _at(members, target)]
    speed = np.mean([point["speed_up"] for point in hits])
    mean, low, high = got
    return f"{_spread([p['quality'] for p in hits])} ({mean:+.2f} [{low:+.2f}, {high:+.2f}]) @ {speed:.2f}x"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{spread}"


def _verdicts(units: Mapping[str, Unit], targets: Sequence[float]) -> Iterator[str]:
    """Says against each rival where the policy wins, ties and loses, by the paired bootstrap of first seeds."""
    groups, teacher = _groups(units), units["teacher"]
    documents = teacher["documents"]["test"]
    policy = groups.pop("policy", [])[:1]
    if not policy or not groups:
        return
    yield "Policy (seed 0) over each rival at the policy's own cost, in points; a win or a loss where the 95 % interval"
    yield "leaves out 0. Between two measured points a rival is their mixture, each document sent to either by chance:"
    yield ""
    for label, members in groups.items():
        told = []
        measured = [point for unit in members for point in unit["points"]]
        fastest = max((point["target"] for point in measured), default=0.0)
        whole = [teacher["points"][0], *(unit["keep_all"] for unit in members if "keep_all" in unit)]
        for target in targets:
            own = _at(policy, target)
            if not own or not _at(members, target):
                if target > fastest or not own:  # else the rival was not measured there
                    told.append(f"{target:g}x {'alone' if own else '–'}")
                continue
            ours = _right(own[0][1], documents)[None]
            theirs = _right_at([*measured, max(whole, key=_quality)], own[0][1]["speed_up"], documents)[None]
            ahead, low, high = drop(theirs, ours)
            told.append(f"{target:g}x {'win' if low > 0 else 'loss' if high < 0 else 'tie'} {ahead:+.1f}")
        yield f"* {label}: {', '.join(told)}"


def _right_at(curve: Sequence[Mapping[str, Any]], speed_up: float, documents: int) -> NDArray[np.float64]:
    """Returns how often each document is right at a cost: of two points mixed where it lies between, else of the end.

    Sending each document to either of two dials by chance costs, and gets right, what lies between them.
    """
    ordered = sorted(curve, key=lambda point: float(point["speed_up"]))
    costs = [1 / point["speed_up"] for point in ordered]
    place = float(np.interp(-1 / speed_up, [-cost for cost in costs], range(len(costs))))
    slower, share = int(place), place % 1
    faster = min(slower + 1, len(costs) - 1)
    return (1 - share) * _right(ordered[slower], documents) + share * _right(ordered[faster], documents)


def _ablations(units: Mapping[str, Unit]) -> Iterator[str]:
    """Returns a row an ingredient: quality at each speed-up, and the difference from the base."""
    base = {point["target"]: point["quality"] for point in units["base"]["points"]} if "base" in units else {}
    targets = sorted({point["target"] for unit in units.values() for point in unit["points"]})
    documents = units.get("base", next(iter(units.values())))["settings"]["joint"]["documents"]
    yield f"One seed, a short joint stage ({documents:,} documents); accuracy on rows of train that nothing was"
    yield "trained on, never on test; in brackets the difference from the base, in points:"
    yield ""
    yield "| | " + " | ".join(f"{target:g}x" for target in targets) + " | all kept | training s |"
    yield "|---|" + "---|" * (len(targets) + 2)
    for name, unit in sorted(units.items(), key=lambda item: item[0] != "base"):
        cells = []
        for target in targets:
            hits = _at([unit], target)
            if not hits:
                cells.append("–")
                continue
            quality = hits[0][1]["quality"]
            beside = f" ({100 * (quality - base[target]):+.2f})" if name != "base" and target in base else ""
            cells.append(f"{100 * quality:.2f}{beside} @ {hits[0][1]['speed_up']:.2f}x")
        last = [f"{100 * unit['keep_all']['quality']:.2f}", f"{unit['training_seconds']:.0f}"]
        yield f"| {name}{_marks([unit])} | " + " | ".join([*cells, *last]) + " |"


def _long(units: Mapping[str, Unit], teacher: Unit) -> Iterator[str]:
    """Sets models that read more tokens than their teacher, reduced, beside it; the same test documents in full."""
    documents, own = teacher["documents"]["test"], teacher["points"][0]
    yield "Reduced models that read more of a document than their teacher, which reads 512 tokens; one seed."
    yield ""
    yield "| | GFLOPs a document | over the teacher's | accuracy | better than the teacher by |"
    yield "|---|---|---|---|---|"
    yield f"| teacher | {own['gflops']:.2f} | 1.00 | {100 * own['quality']:.2f} | |"
    for name, unit in units.items():
        for point in unit["points"]:
            gain, low, high = drop(_right(own, documents)[None], _right(point, documents)[None])
            share = f"{point['gflops']:.2f} | {point['gflops'] / own['gflops']:.2f}"
            better = f"{gain:+.2f} [{low:+.2f}, {high:+.2f}]"
            yield f"| {name.removeprefix('long ')} tokens | {share} | {100 * point['quality']:.2f} | {better} |"


def _conditioned(units: Mapping[str, Unit]) -> Iterator[str]:
    """Compares one conditioned model with models of separate penalties."""
    floor = units["teacher"]["points"][0]["quality"] - 0.05
    separate = {name: unit for name, unit in units.items() if name.startswith("separate")}
    everything = [point for unit in separate.values() for point in _curve(unit)]
    defaults = [_pair(unit["default"]) for unit in separate.values()]
    whole = hypervolume(everything, floor) or float("nan")
    own = units["conditioned"]
    cost = np.mean([unit["training_seconds"] for unit in separate.values()]) if separate else float("nan")
    yield "Hypervolume over (speed-up, quality) from 1x and 5 points below the teacher, to 8x; 20news, one seed:"
    yield ""
    yield "| | hypervolume | share of all separate models | training s | share of one |"
    yield "|---|---|---|---|---|"
    rows = [("separate models, all their dials", whole, cost * len(separate))]
    rows += [("separate models, each at its own dial 0", hypervolume(defaults, floor), cost * len(separate))]
    rows += [(name, hypervolume(_curve(unit), floor), unit["training_seconds"]) for name, unit in separate.items()]
    rows += [("conditioned", hypervolume(_curve(own), floor), own["training_seconds"])]
    for name, volume, seconds in rows:
        yield f"| {name} | {volume:.4f} | {volume / whole:.3f} | {seconds:.0f} | {seconds / cost:.2f} |"


def _curve(unit: Unit) -> list[tuple[float, float]]:
    return [_pair(point) for point in (*unit["points"], unit["default"], unit["keep_all"])]


def _pair(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["speed_up"], point["quality"]


def _draw(path: Path, found: Mapping[str, Mapping[str, Unit]]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not found:
        return
    figure = Figure(figsize=(1 + 4 * len(found), 4.5), dpi=90, layout=ConstrainedLayoutEngine())
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for (name, units), axes in zip(found.items(), panels, strict=True):
        axes.axhline(100 * units["teacher"]["points"][0]["quality"], color="#333333", linewidth=1, label="teacher")
        groups = _groups(units)
        ticks = sorted({point["target"] for members in groups.values() for unit in members for point in unit["points"]})
        for label, members in groups.items():
            curve: dict[float, list[Mapping[str, Any]]] = defaultdict(list)
            for unit in members:
                for point in unit["points"]:
                    curve[point["target"]].append(point)
            x = [np.mean([p["speed_up"] for p in curve[target]]) for target in sorted(curve)]
            y = [100 * np.mean([p["quality"] for p in curve[target]]) for target in sorted(curve)]
            axes.plot(x, y, marker="o", linewidth=2.5 if label == "policy" else 1, label=label)
        axes.set(title=name, xlabel="speed-up in FLOPs", xscale="log")
        axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("accuracy on test, %")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_whole(path, image.getvalue())
