"""The report of quality: what was asked and what was measured, selector by selector, ingredient by ingredient."""

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbert.disk.files import write_whole
from trbert.selection.selectors import SELECTORS

Unit = dict[str, Any]
RESAMPLES = 2000
RULES = tuple(name for name, kind in SELECTORS.items() if not kind.learns)
BEFORE = {"tokens_per_decision": None}
"""The values of settings of the select stage under which units ran that do not name them."""
ONE_RIVAL = {"truncate": "truncate (retrained)", "layers": "fewer layers"}
"""Rivals of which each target has a model of its own, by how the names of their units begin."""
HEAD = """# Quality at a given cost

Made by `python benchmarks/quality.py --data DIR`. The option `--only "SET/ROW"` makes one row, named as `--list` names
it. Each row has a file in [quality/](quality). It holds the date, the commit, the machine, the versions, the settings,
and which test documents were right.

Every model is MiniLM-L6. The rows are:

| row | what it is |
|---|---|
| `policy` | this project's: heads that learn from rewards |
| `gumbel` | the same heads, learned through relaxed decisions; its training is unsteady (more trainings stand below) |
| `first` | a rule: keeps the first tokens |
| `random` | a rule: keeps random tokens |
| `attention` | a rule: keeps the tokens that were attended to most |
| `saliency` | a rule that **reads the test's labels**, which no user has: it shows what there is to gain |
| `tr-bert` | the paper's recipe |
| `truncate (retrained)` | a teacher retrained on shorter documents, for 2x, 4x and 8x alone |
| `fewer layers` | the teacher's first layers with its head, for 2x, 3x and 6x alone |
| `early exit` | a head after each layer; a document leaves at the first one that is sure of it |

All but `tr-bert` and `truncate` have the same joint stage: as many documents, with the same targets.

**Quality** is accuracy on the test split; on the validation split where test has no labels.

**Speed-up** is the FLOPs of the unreduced model over those of the reduced one, both summed over test. Nothing is
padded, and the policy is counted. A dial is chosen on validation, for its speed-up alone, 2 % faster than the
target. Documents are truncated to the longest length that is as fast on test as the target. A column is a target.
Compare models at the speed-ups that they reached, as the lists below the tables do.

**Drop** is the accuracy lost, in percentage points. It is counted from the better of two: the teacher, and the same
model with all tokens kept. In brackets stands its 95 % interval, of the paired bootstrap over test documents
({resamples:,} resamples; seeds are averaged within a resample). The interval leaves out one source of chance: a
second training differs from the first by up to a point and more. Seeds vary the policy's start, its trajectories
and the order of documents. Each set has one teacher.

| mark | meaning |
|---|---|
| (dropped) | It was tried. The code can no longer run it, or no longer does. |
| * | It ran with other settings than it would run with today. It is to be run again. Compare it with its like alone. |
| † | Its teacher had the settings of the set's teacher, but was another training, on another machine or at the same \
time on the same GPU. Arithmetic is rounded differently there, so the two teachers may differ in what they get right. |

"Dials drawn from ±1.5" names a setting that the code no longer has. In training each document drew a dial d from that
range. The policy saw the dial, and the penalty was multiplied by e^−d.

![Quality over speed-up](quality.png)
"""
ABLATED = """\
Each row changes one ingredient of the base. One seed; short stages, of {select:,} documents of select in large
steps and {joint:,} of joint: in a long joint stage the encoder makes up for what is missing. Accuracy is on rows of
train that nothing was trained on, never on test. In parentheses stands the difference from the base in points, with
its 95 % interval.

| row | what is changed |
|---|---|
| no neighbours, no document | the heads see less beside a token |
| a token alone | the heads see nothing beside a token |
| no reward-to-go | each decision answers for the whole cost |
| guided samples | in the first half of the steps one sample of each document keeps the most salient tokens |
| warm start alone | no policy gradient before the joint stage; the joint stage still has its own |"""
WHOLE_FRONT = """\
The joint stage trains a model at many speed-ups, so that it can be moved along its dial. Can one such model replace
several that were each trained at a penalty of its own, from {least:g} to {most:g}? A model is measured by its
hypervolume. That is the area under its points (speed-up, quality), from 1x to 8x, above the teacher's quality less 5
points. One seed. Asked of one model: 95 % of the area of all separate models together, with 1.5 times the documents of
one of them.
"""
DRAWN = "Its dials were drawn from ±{0:g}: its penalty went from e^−{0:g} to e^{0:g} times the one that was set."


def write_report(
    out: Path, folder: Path, sets: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes quality.md and quality.png from the units' files.

    Args:
        out: of the report.
        folder: of the units' files.
        sets: what was asked, by data set.
        known: the settings that each unit would run with today; a unit that is not among them has been dropped.
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
        if any(unit.startswith("separate") for unit in units):
            lines += ["", f"## One run, the whole front: {name}", "", *_whole_front(units)]
    for units in there.values():
        if any(name.startswith("long") for name in units):
            lines += ["", "## Long documents", "", *_long(units)]
    if (tried := folder / "tried.md").exists():
        lines += ["", tried.read_text(encoding="utf-8").rstrip()]
    if missing := list(_missing(found, known)):
        lines += ["", "## Not run yet", "", *missing]
    text = "\n".join(lines) + "\n"
    write_whole(out / "quality.md", text.encode())
    _draw(out / "quality.png", there)
    print(text)


def is_current(ran: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Returns whether a unit ran with the settings of today; those of `compute` may differ, as machines do.

    A setting that was not there yet had the value that changes nothing. A rule has no select stage but its points.
    """
    wanted = json.loads(json.dumps(wanted))
    then, now = ({name: each[name] for name in each if name != "compute"} for each in (ran, wanted))
    for settings in (then, now):
        if "select" in settings:
            settings["select"] = _selecting(settings)
    return then == now


def _selecting(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the settings of the select stage that matter to a unit, with those that were not there yet."""
    own: Mapping[str, Any] = settings["select"]
    if settings.get("selector") in RULES:
        return {"points": own["points"]}
    return BEFORE | own


def _began_elsewhere(unit: Unit, teacher: Unit) -> bool:
    """Returns whether a unit began at another teacher than the set's; a truncated teacher begins at none."""
    if "keep_all" not in unit:
        return False
    if "teacher" not in unit:  # it does not say at which teacher it began
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
        correct: [seeds, documents], which documents the reduced models got right, or how often.
        reference: the same of the models that they are compared with.
        seed: of the resampling.

    Example:
        >>> right = np.array([[True, False, True, False]])
        >>> drop(right, right)
        (0.0, 0.0, 0.0)
    """
    differences = 100 * (reference.astype(float) - correct.astype(float)).mean(0)
    # A resample counts how often each document was drawn. Differences take few values, so it is enough to draw how
    # often each value occurs.
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), RESAMPLES)
    low, high = np.percentile(drawn @ values / counts.sum(), [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def hypervolume(points: Iterable[tuple[float, float]], quality: float, fastest: float = 8.0) -> float:
    """Returns the area that points (speed-up, quality) dominate above a quality, from 1x to `fastest`.

    With all tokens kept, a model that pays for its policy is slower than 1x. It counts as 1x.

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
    """Returns the units' points at the slowest target at which their mean speed-up on test is at least this one.

    A dial that was chosen on validation may be slower on test, whose documents are others.
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
    """Returns the units of each rival, its seeds together. `ONE_RIVAL` has those with a model for each target."""
    groups: dict[str, list[Unit]] = defaultdict(list)
    for name, unit in units.items():
        label, _, seed = name.rpartition(" seed ")
        if seed.isdigit():
            groups[ONE_RIVAL.get(label.partition(" ")[0], label)].append(unit)
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
    yield f"The teacher has {100 * own['quality']:.2f} %. TF-IDF with logistic regression on the same rows has"
    yield f"{100 * rival['quality']:.2f} %. The teacher {verdict} it: {-below:+.2f} [{-high:+.2f}, {-low:+.2f}]."
    yield f"Documents: {', '.join(f'{number:,} {split}' for split, number in size.items())}."
    if policies := _groups(units).get("policy"):
        select, joint = (policies[0]["settings"][stage] for stage in ("select", "joint"))
        dials = f", dials drawn from ±{select['dial_range']:g}" if select.get("dial_range") else ""
        yield f"The policy: points {tuple(select['points'])}, penalty {policies[0]['penalty']:.3g} nats{dials};"
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
    """Returns when units ran, and where: seconds of one machine are not those of another."""
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
    """Yields, for each rival, where the policy wins, ties and loses by the paired bootstrap over documents."""
    groups, teacher = _groups(units), units["teacher"]
    policies = groups.pop("policy", [])
    if not policies or not groups:
        return
    yield f"How far the policy{_marks(policies)} (mean of {len(policies)}) is ahead of each rival, in points, at the"
    yield "policy's own cost. It is a win or a loss where the 95 % interval leaves out 0, and else a tie. The rival is"
    yield "at its best on test, at that cost or less: any of its points, the unreduced teacher, or a mixture of two of"
    yield "these, where chance sends each document to one or the other. Alone: the rival's dials do not go so far. Not"
    yield "run: the rival was not trained for that speed-up."
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
    """Returns how often the best model of this cost or less gets each document right: a point, or a mixture of two.

    A mixture sends each document to one of two dials by chance, so its cost and its quality lie between theirs. Where
    nothing costs as little, the fastest point counts.
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
    """Yields a row for each ingredient: quality at each speed-up, and the difference from the base."""
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
        # Four bits a letter. Of a unit that does not say how many documents it has, all bits count.
        documents = unit.get("documents", 4 * len(point["correct"]))
        gain, low, high = drop(_right(base[0][1], documents)[None], _right(point, documents)[None])
        beside = f" ({gain:+.2f} [{low:+.2f}, {high:+.2f}])"
    return f"{100 * point['quality']:.2f}{beside} @ {point['speed_up']:.2f}x"


def _long(units: Mapping[str, Unit]) -> Iterator[str]:
    """Yields reduced models that read more tokens than their teacher, beside it; the test documents are the same."""
    documents, own = units["teacher"]["documents"]["test"], units["teacher"]["points"][0]
    yield "The teacher reads 512 tokens of a document. The reduced models read as many, or more. One seed. Each of them"
    yield "began at its own training of the teacher, whose accuracy stands in the last column. All are compared with"
    yield "the set's teacher."
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


def _whole_front(units: Mapping[str, Unit]) -> Iterator[str]:
    """Compares one model with several of separate penalties, all at the same targets and unreduced."""
    floor = units["teacher"]["points"][0]["quality"] - 0.05
    separate = [unit for name, unit in units.items() if name.startswith("separate")]
    whole = hypervolume([point for unit in separate for point in _curve(unit)], floor)
    chosen = hypervolume([_pair(unit["default"]) for unit in separate], floor)
    seconds = float(np.mean([unit["training_seconds"] for unit in separate]))
    documents = float(np.mean([_trained_on(unit) for unit in separate]))
    penalties = [unit["settings"]["select"]["penalty"] for unit in separate]
    single = {name: unit for name, unit in units.items() if name.startswith(("conditioned", "one penalty"))}
    yield WHOLE_FRONT.format(least=min(penalties), most=max(penalties))
    for name, unit in single.items():
        area, drawn = hypervolume(_curve(unit), floor), unit["settings"]["select"].get("dial_range")
        held = area >= 0.95 * whole and _trained_on(unit) <= 1.5 * documents
        yield f"* {name}: {'held' if held else '**missed**'}. It covers {100 * area / whole:.1f} %. Of the separate"
        yield f"  models, each at its dial 0 alone, it covers {100 * area / chosen:.1f} %."
        if drawn:
            yield f"  {DRAWN.format(drawn)}"
    policies = [unit for name, unit in units.items() if name.startswith("policy")]
    if len(policies) > 1:
        areas = [hypervolume(_curve(unit), floor) for unit in policies]
        yield ""
        yield f"Chance moves the area, too: the policy's {len(areas)} seeds, of {_trained_on(policies[0]):,.0f}"
        yield f"documents each, have {min(areas):.4f} to {max(areas):.4f}."
    each = {name: unit for name, unit in units.items() if name.startswith("separate")} | single
    rows = [("separate models, all their dials", whole, separate)]
    rows += [("separate models, each at its own dial 0", chosen, separate)]
    rows += [(name, hypervolume(_curve(unit), floor), [unit]) for name, unit in each.items()]
    yield ""
    yield "| | hypervolume | over all separate models' | documents over one's | training s | over one's | run |"
    yield "|---|---|---|---|---|---|---|"
    for name, area, members in rows:
        trained = sum(_trained_on(unit) for unit in members) / documents
        spent = [unit["training_seconds"] for unit in members if unit.get("training_seconds")]
        times = f"{sum(spent):.0f} | {sum(spent) / seconds:.2f}" if spent else "– | –"
        cells = f"{area:.4f} | {area / whole:.3f} | {trained:.2f} | {times}"
        yield f"| {name}{_marks(members)} | {cells} | {_run(members)} |"


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
