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

`python benchmarks/quality.py --data DIR`; one row by `--only "SET/ROW"`, as `--list` names it. Each unit's date,
commit, machine, versions, settings, and which test documents it got right lie in [quality/](quality).

MiniLM-L6. Selectors: `policy` is this project's; `gumbel` has the same heads, learned through relaxed decisions,
and unsteadily (its other trainings stand below); `first`, `random` and `attention` (what was attended to most) are
rules; `saliency` is a rule that **reads the test's labels**, which no user has: it shows what there is to gain. All of
these have the same joint stage. `tr-bert` is the paper's recipe, `truncate (retrained)` a teacher of shorter
documents, trained for 2x, 4x and 8x alone.

Quality: accuracy on the test split (validation where test has no labels). Speed-up: unpadded FLOPs, policy included,
ratio of sums over test; dials are chosen on validation, for their speed-up alone, 2 % to spare; truncated documents
are as long as can be that they are as fast on test. Drop: percentage points below the better of the teacher and the
same model with all tokens kept; in brackets the 95 % interval of the paired bootstrap over test documents
({resamples:,} resamples; seeds are averaged within a resample). It leaves out the chance of a training, which alone
is worth up to a point and more. Seeds vary the policy's start, its trajectories and the order of documents; there is
one teacher a set. A column is the speed-up that was aimed at: compare at those reached, as the lists below the tables
do. What is marked (dropped) was tried, and is tried no more. What is marked * ran with other settings than it would
today, and is to be run again: it compares among its like alone. What is marked † began at another training of the
teacher than the set's, with the same settings, on another machine or at the same time on the same GPU: its arithmetic
rounds otherwise, and it may differ in what it gets right.

![Quality over speed-up](quality.png)
"""
ABLATED = """One seed, short stages ({select:,} documents of select, in large steps, and {joint:,} of joint; no dials
drawn), for what an ingredient adds shows before the encoder has made up for it. Accuracy on rows of
train that nothing was trained on, never on test; in parentheses the difference from the base, in
points, and its 95 % interval. No neighbours, no document: heads see less beside a token, a token alone
nothing. No reward-to-go: each decision answers for the whole cost. Guided samples: in the first half of
the steps one sample a document keeps the most salient tokens. Warm start alone: no policy gradient before
the joint stage, which has its own."""
CONDITIONED = """A model for each of several penalties, and one whose policy sees a dial, drawn for each document in
training, that changes its penalty by a factor of e^±{range:g}: it is to cover what they cover together.
Hypervolume over (speed-up, quality) from 1x and 5 points below the teacher, to 8x; one seed."""


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
        for unit in units.values():
            if _began_elsewhere(unit, units["teacher"]):
                unit["marks"].append("†")
    lines = [HEAD.format(resamples=RESAMPLES)]
    lines += ["## What was asked", "", *_asked(there, sets)]
    for name, units in there.items():
        lines += ["", f"## {name}", "", *_set_up(units), "", *_table(units, sets[name]["targets"])]
        lines += ["", *_verdicts(units, sets[name]["targets"])]
    for name, units in found.items():
        if ablations := {n.removeprefix("ablation "): u for n, u in units.items() if n.startswith("ablation")}:
            lines += ["", f"## One ingredient at a time: {name}", "", *_ablations(ablations)]
    for name, units in there.items():
        if "conditioned" in units:
            lines += ["", f"## One run, the whole front: {name}", "", *_conditioned(units)]
    for units in there.values():
        if any(name.startswith("long") for name in units):
            lines += ["", "## Long documents", "", *_long(units)]
    if (tried := folder / "tried.md").exists():
        lines += ["", tried.read_text(encoding="utf-8").rstrip()]
    lines += ["", "Trees of trajectories: [trees.md](trees.md)."]
    if missing := list(_missing(found, known)):
        lines += ["", "## Not run yet", "", *missing]
    text = "\n".join(lines) + "\n"
    write_whole(out / "quality.md", text.encode())
    _draw(out / "quality.png", there)
    print(text)


def is_current(ran: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Returns whether a unit ran with the settings that it would run with today, what only its machine needs aside."""
    then, now = ({name: each[name] for name in each if name != "compute"} for each in (ran, wanted))
    return then == json.loads(json.dumps(now))


def _began_elsewhere(unit: Unit, teacher: Unit) -> bool:
    """Returns whether what began at a teacher began at another than the set's; truncated teachers begin at none."""
    if "keep_all" not in unit:
        return False
    if "teacher" not in unit:  # it ran before units told
        return bool(unit.get("machine") != teacher.get("machine"))
    return bool(unit["teacher"] != _quality(teacher["points"][0]))


def _missing(found: Mapping[str, Mapping[str, Unit]], known: Mapping[str, object]) -> Iterator[str]:
    for name, units in found.items():
        if missing := [unit.removeprefix(f"{name}/") for unit in known if unit.startswith(f"{name}/")]:
            missing = [unit for unit in missing if unit not in units]
        if missing:
            yield f"* {name}: {', '.join(missing)}"


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

    With all tokens kept a model that pays for its policy is slower than 1x, and counts as 1x.

    Example:
        >>> hypervolume([(2.0, 0.9), (4.0, 0.8)], quality=0.7)  # 1·0.2 + 2·0.1
        0.4
    """
    area, slower = 0.0, 1.0
    ordered = sorted((max(1.0, min(speed, fastest)), high) for speed, high in points)
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


def _reaching(units: Sequence[Unit], speed_up: float) -> list[tuple[Unit, Mapping[str, Any]]]:
    """Returns the units' points at the slowest target at which they are, in the mean, as fast as that on test.

    A dial chosen on validation may be slower on test, where documents differ.
    """
    for target in sorted({point["target"] for unit in units for point in unit["points"]}):
        hits = _at(units, target)
        if np.mean([point["speed_up"] for _, point in hits]) >= speed_up:
            return hits
    return []


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
        marks, reached = _marks(policies), "not reached" if policies else "not run"
        for kind in ("must", "aim"):
            for target, points in sets[name][kind]:
                got = _drop_of(hits := _reaching(policies, target), units["teacher"])
                if got is None:
                    asked = f"{name}{marks} | {kind}: ≤ {points:g} | {target:g}x"
                    yield f"| {asked} | – | – | {reached} | – | {len(policies)} |"
                    continue
                mean, low, high = got
                held, shown = ("yes" if mean <= points else "**no**"), ("yes" if high <= points else "no")
                speed = np.mean([point["speed_up"] for _, point in hits])
                cells = [
                    f"{name}{marks}",
                    f"{kind}: ≤ {points:g}",
                    f"{target:g}x",
                    f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]",
                ]
                yield f"| {' | '.join([*cells, f'{speed:.2f}x', held, shown, str(len(hits))])} |"


def _set_up(units: Mapping[str, Unit]) -> Iterator[str]:
    teacher = units["teacher"]
    own, rival, size = teacher["points"][0], teacher["tfidf"], teacher["documents"]
    below, low, high = drop(_right(own, size["test"])[None], _right(rival, size["test"])[None])
    verdict = "**is below**" if low > 0 else "is above" if high < 0 else "matches"
    yield f"Teacher {100 * own['quality']:.2f} %; it {verdict} TF-IDF with logistic regression on the same rows, which"
    yield f"has {100 * rival['quality']:.2f} %: {-below:+.2f} [{-high:+.2f}, {-low:+.2f}]."
    yield f"Documents: {', '.join(f'{number:,} {split}' for split, number in size.items())}."
    if policies := _groups(units).get("policy"):
        select, joint = (policies[0]["settings"][stage] for stage in ("select", "joint"))
        dials = f"dials drawn from ±{select['dial_range']:g}" if select["dial_range"] else "no dials drawn"
        yield f"Policy: points {tuple(select['points'])}, penalty {policies[0]['penalty']:.3g} nats, {dials};"
        yield f"{select['documents']:,} documents in the select stage, {joint['documents']:,} in the joint stage."


def _table(units: Mapping[str, Unit], targets: Sequence[float]) -> Iterator[str]:
    yield (
        "| selector | " + " | ".join(f"{target:g}x" for target in targets) + " | all kept | seeds | training s | run |"
    )
    yield "|---|" + "---|" * (len(targets) + 4)
    for label, members in _groups(units).items():
        cells = [_cell(members, units["teacher"], target) for target in targets]
        kept = [unit["keep_all"]["quality"] for unit in members if "keep_all" in unit]
        seconds = [unit["training_seconds"] for unit in members if "training_seconds" in unit]
        last = [_spread(kept), str(len(members) if kept else 1), f"{np.mean(seconds):.0f}" if seconds else "–"]
        last.append(_run(members))
        yield f"| {label}{_marks(members)} | " + " | ".join([*cells, *last]) + " |"


def _run(members: Sequence[Unit]) -> str:
    """Returns when units ran, and where: what was trained elsewhere took another time."""
    dates = sorted({unit["date"] for unit in members})
    machines = sorted({unit["machine"].partition(",")[0] for unit in members})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{when}, {' and '.join(machines)}"


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
    """Says against each rival where the policy wins, ties and loses, by the paired bootstrap over documents."""
    groups, teacher = _groups(units), units["teacher"]
    policies = groups.pop("policy", [])
    if not policies or not groups:
        return
    yield f"The policy{_marks(policies)} (mean of {len(policies)}) over each rival at the policy's own cost, in points;"
    yield "a win or a loss where the 95 % interval leaves out 0. A rival is the best on test, at that cost or less, of"
    yield "all that was measured of it, the unreduced teacher too, and of mixtures of two, each document sent to either"
    yield "by chance. Alone: a rival's dials do not go so far; not run: it was not trained for that."
    yield ""
    for label, members in groups.items():
        told = [f"{target:g}x {_verdict(policies, members, teacher, target)}" for target in targets]
        yield f"* {label}{_marks(members)}: {', '.join(told)}"


def _verdict(policies: Sequence[Unit], members: Sequence[Unit], teacher: Unit, target: float) -> str:
    ours, theirs = _at(policies, target), _at(members, target)
    if not ours:
        return "rival alone" if theirs else "–"
    curve = [teacher["points"][0]]
    for unit in members:
        curve += [*unit["points"], *(unit[name] for name in ("keep_all", "default") if name in unit)]
    speeds = [float(point["speed_up"]) for _, point in ours]
    if not theirs and max(point["speed_up"] for point in curve) < min(speeds):
        return "alone" if "keep_all" in members[0] else "not run"
    documents = teacher["documents"]["test"]
    right = np.stack([_right(point, documents) for _, point in ours])
    ahead, low, high = drop(np.stack([_right_at(curve, speed, documents) for speed in speeds]), right)
    return f"{'win' if low > 0 else 'loss' if high < 0 else 'tie'} {ahead:+.1f}"


def _right_at(curve: Sequence[Mapping[str, Any]], speed_up: float, documents: int) -> NDArray[np.float64]:
    """Returns how often each document is right at a cost or less: by the best point, or mixture of two, there is.

    Sending each document to either of two dials by chance costs, and gets right, what lies between them. Where nothing
    costs as little, the fastest counts.
    """
    cost = {id(point): 1 / point["speed_up"] for point in curve}
    within = [p for p in curve if cost[id(p)] <= 1 / speed_up] or [max(curve, key=lambda p: float(p["speed_up"]))]
    mixtures = [(point, point, 0.0) for point in within]
    for dear in (point for point in curve if cost[id(point)] > 1 / speed_up):
        for cheap in (point for point in within if cost[id(point)] <= 1 / speed_up):
            share = (1 / speed_up - cost[id(cheap)]) / (cost[id(dear)] - cost[id(cheap)])
            mixtures.append((dear, cheap, share))
    dear, cheap, share = max(mixtures, key=lambda each: each[2] * _quality(each[0]) + (1 - each[2]) * _quality(each[1]))
    return share * _right(dear, documents) + (1 - share) * _right(cheap, documents)


def _ablations(units: Mapping[str, Unit]) -> Iterator[str]:
    """Returns a row an ingredient: quality at each speed-up, and the difference from the base."""
    base = units.get("base", {"points": []})
    targets = sorted({point["target"] for unit in units.values() for point in unit["points"]})
    settings = units.get("base", next(iter(units.values())))["settings"]
    yield ABLATED.format(select=settings["select"]["documents"], joint=settings["joint"]["documents"])
    yield ""
    yield "| | " + " | ".join(f"{target:g}x" for target in targets) + " | all kept | training s | run |"
    yield "|---|" + "---|" * (len(targets) + 3)
    for name, unit in sorted(units.items(), key=lambda item: item[0] != "base"):
        cells = [_beside(_at([unit], target), _at([base], target) if unit is not base else []) for target in targets]
        last = [f"{100 * unit['keep_all']['quality']:.2f}", f"{unit['training_seconds']:.0f}", _run([unit])]
        yield f"| {name}{_marks([unit])} | " + " | ".join([*cells, *last]) + " |"


def _beside(hits: Sequence[tuple[Unit, Mapping[str, Any]]], base: Sequence[tuple[Unit, Mapping[str, Any]]]) -> str:
    if not hits:
        return "–"
    unit, point = hits[0]
    beside = ""
    if base:
        # Bits come by the eight: what says no number of documents has no more than they have.
        documents = unit.get("documents", 4 * len(point["correct"]))
        gain, low, high = drop(_right(base[0][1], documents)[None], _right(point, documents)[None])
        beside = f" ({gain:+.2f} [{low:+.2f}, {high:+.2f}])"
    return f"{100 * point['quality']:.2f}{beside} @ {point['speed_up']:.2f}x"


def _long(units: Mapping[str, Unit]) -> Iterator[str]:
    """Sets models that read more tokens than their teacher, reduced, beside it; the same test documents in full."""
    documents, own = units["teacher"]["documents"]["test"], units["teacher"]["points"][0]
    yield "Reduced models beside their teacher, which reads 512 tokens of a document, where they read as many and more;"
    yield "one seed. Each began at a training of the teacher of its own, whose accuracy stands beside it; they are"
    yield "compared with the set's."
    yield ""
    yield "| | GFLOPs a document | over the teacher's | accuracy | better than the teacher by | its own teacher |"
    yield "|---|---|---|---|---|---|"
    yield f"| teacher | {own['gflops']:.2f} | 1.00 | {100 * own['quality']:.2f} | | |"
    read = {
        unit["settings"]["data"]["max_length"]: unit
        for name, unit in units.items()
        if name == "policy seed 0" or name.startswith("long")
    }
    for length, unit in sorted(read.items()):
        for point in unit["points"]:
            gain, low, high = drop(_right(own, documents)[None], _right(point, documents)[None])
            share = f"{point['gflops']:.2f} | {point['gflops'] / own['gflops']:.2f}"
            better = f"{gain:+.2f} [{low:+.2f}, {high:+.2f}]"
            accuracies = f"{100 * point['quality']:.2f} | {better} | {100 * unit['teacher']:.2f}"
            yield f"| {length} tokens | {share} | {accuracies} |"


def _conditioned(units: Mapping[str, Unit]) -> Iterator[str]:
    """Compares one conditioned model with one for each of several penalties, at the same targets and unreduced."""
    floor = units["teacher"]["points"][0]["quality"] - 0.05
    separate = {name: unit for name, unit in units.items() if name.startswith("separate")}
    own = units["conditioned"]
    named = {**separate, **{name: units[name] for name in ("conditioned", "one penalty") if name in units}}
    volumes = {name: hypervolume(_curve(unit), floor) for name, unit in named.items()}
    volume, seconds = volumes["conditioned"], own["training_seconds"]
    yield CONDITIONED.format(range=own["settings"]["select"]["dial_range"])
    if not separate:
        yield f"Conditioned: {volume:.4f} in {seconds:.0f} s; no separate model was run."
        return
    cost = np.mean([unit["training_seconds"] for unit in separate.values()])
    whole = hypervolume([point for unit in separate.values() for point in _curve(unit)], floor)
    chosen = hypervolume([_pair(unit["default"]) for unit in separate.values()], floor)
    steps = _trained_on(own) / np.mean([_trained_on(unit) for unit in separate.values()])
    held = "held" if volume >= 0.95 * whole and steps <= 1.5 else "**missed**"
    yield f"Asked: 95 % of all separate models together, at 1.5 times one's cost: {held}. Conditioned:"
    yield f"{100 * volume / whole:.1f} % ({100 * volume / chosen:.1f} % of the separate at their dial 0 alone), at"
    yield f"{steps:.2f} times the documents and {seconds / cost:.2f} times the seconds."
    if "one penalty" in volumes:
        share = 100 * volumes["one penalty"] / whole
        yield f"One penalty, with nothing drawn and as many documents as the conditioned: {share:.1f} %."
    policies = [unit for name, unit in units.items() if name.startswith("policy")]
    if len(policies) > 1:
        seeds = [hypervolume(_curve(unit), floor) for unit in policies]
        yield f"(The policy's {len(seeds)} seeds, of {_trained_on(policies[0]):,.0f} documents each, have"
        yield f"{min(seeds):.4f} to {max(seeds):.4f}: so much is chance.)"
    yield ""
    yield "| | hypervolume | share of all separate models | training s | share of one | run |"
    yield "|---|---|---|---|---|---|"
    rows = [("separate models, all their dials", whole, cost * len(separate), [*separate.values()])]
    rows += [("separate models, each at its own dial 0", chosen, cost * len(separate), [*separate.values()])]
    rows += [(name, volumes[name], unit.get("training_seconds"), [unit]) for name, unit in named.items()]
    for name, area, spent, members in rows:
        times = f"{spent:.0f} | {spent / cost:.2f}" if spent else "– | –"
        yield f"| {name}{_marks(members)} | {area:.4f} | {area / whole:.3f} | {times} | {_run(members)} |"


def _trained_on(unit: Unit) -> float:
    """Returns the documents of both stages."""
    settings = unit["settings"]
    return float(settings["select"]["documents"] + settings["joint"]["documents"])


def _curve(unit: Unit) -> list[tuple[float, float]]:
    return [_pair(point) for point in (*unit["points"], unit["keep_all"])]


def _pair(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["speed_up"], point["quality"]


def _draw(path: Path, found: Mapping[str, Mapping[str, Unit]]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not found:
        return
    figure = Figure(figsize=(1 + 4 * len(found), 4.5), dpi=90, layout=ConstrainedLayoutEngine())
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    grouped = {name: _groups(units) for name, units in found.items()}
    labels = dict.fromkeys(label for groups in grouped.values() for label in groups)
    colours = {label: f"C{index}" for index, label in enumerate(labels)}  # the same in every panel
    for (name, groups), axes in zip(grouped.items(), panels, strict=True):
        teacher = found[name]["teacher"]["points"][0]
        axes.axhline(100 * teacher["quality"], color="#333333", linewidth=1, label="teacher")
        ticks = sorted({point["target"] for members in groups.values() for unit in members for point in unit["points"]})
        for label, members in groups.items():
            curve: dict[float, list[Mapping[str, Any]]] = defaultdict(list)
            for unit in members:
                for point in unit["points"]:
                    curve[point["target"]].append(point)
            x = [np.mean([p["speed_up"] for p in curve[target]]) for target in sorted(curve)]
            y = [100 * np.mean([p["quality"] for p in curve[target]]) for target in sorted(curve)]
            width = 2.5 if label == "policy" else 1
            axes.plot(x, y, marker="o", color=colours[label], linewidth=width, label=label)
        axes.set(title=name, xlabel="speed-up in FLOPs", xscale="log")
        axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("accuracy on test, %")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_whole(path, image.getvalue())
