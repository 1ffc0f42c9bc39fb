"""Quality at a given cost: data set × selector × speed-up, on each test split, and what each ingredient adds.

    python benchmarks/quality.py --data DIR                      # all that is not there yet, then the report
    python benchmarks/quality.py --data DIR --only imdb/policy   # the units whose names contain this
    python benchmarks/quality.py --report                        # the report of the units that are there
    python benchmarks/quality.py --list                          # the units, and which are there

A unit is one model, trained and measured. It leaves one file in docs/results/quality, so a stopped run continues where
it was, on this machine or on another. A unit that ran with other settings than today's is run again. Dials are chosen
on validation, for their speed-up alone. Quality is reported on test. Writes docs/results/quality.md and quality.png.
"""

import argparse
import datetime
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fewer_layers import Shallow, depth_of
from numpy.typing import NDArray
from quality_report import is_current, write_report

from trbert.data.splits import Rows
from trbert.dial import DialCurve
from trbert.disk.files import write_json
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel, speed_up
from trbert.measure.evaluate import forward_at, predict, unreduced_outputs
from trbert.measure.timing import machine
from trbert.pretrained import load_pretrained
from trbert.selection.policy import features_for
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import selector_class
from trbert.shapes import DocFloat
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples, Outputs
from trbert.tasks.task import Task
from tune.learning.inputs import splits_of
from tune.learning.model import Model, scout
from tune.learning.prepare import Prepared, prepare
from tune.learning.steps import autocast, pick_device
from tune.learning.teacher_stage import train_teacher
from tune.runs.versions import versions
from tune.settings import TR_BERT, Settings, override

OUT = Path("docs/results")
COMMIT = subprocess.run(
    ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
).stdout.strip()
"""The code that is measured."""
TO_SPARE = 0.02
"""By how much a dial is to be faster than its target on validation, so that it is as fast as the target on test."""
CORRECTIONS = 10
"""How often a dial is moved to meet its target."""
DEVELOPMENT = 3000
"""Most training rows that ingredients are compared on."""
RULES = ("first", "random", "attention", "saliency")
OTHERS = ("truncate", "layers", "early exit")
"""Rivals that drop no tokens: shorter documents, fewer layers, and a layer after which a document leaves."""
TEACHERS = ("model", "seed", "positions", "task", "data", "teacher")
"""The settings that a teacher depends on."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    Attributes:
        settings: those that its result depends on.
        act: does the work, and returns what was measured.
    """

    settings: dict[str, Any]
    act: Callable[[], dict[str, Any]]

    def done(self, path: Path) -> bool:
        """Returns whether a file holds the result of these settings."""
        return path.exists() and is_current(json.loads(path.read_text())["settings"], self.settings)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set: how its models are trained, and what they must reach.

    Attributes:
        folder: where its parquet files lie, below --data.
        settings: of data and teacher.
        recipe: settings of the select and joint stages that differ from the defaults, for every selector.
        targets: speed-ups to measure at.
        must: pairs of a speed-up and the most percentage points that may be lost there.
        aim: the same pairs, as hoped for.
        seeds: how many the policy has; each rival has one.
        units: which variants are run.
        gumbel: settings of that selector alone, beyond `GUMBEL`.
        ablation_targets: speed-ups at which ingredients are compared; without any, no ingredient is.
        whole_front: whether one model, moved along its dial, is compared with several models, each of its own penalty.
    """

    folder: str
    settings: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    targets: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0)
    must: tuple[tuple[float, float], ...]
    aim: tuple[tuple[float, float], ...]
    seeds: int = 1
    units: tuple[str, ...] = ("policy", "gumbel", *RULES, "tr-bert", *OTHERS)
    gumbel: dict[str, Any] = field(default_factory=dict)
    ablation_targets: tuple[float, ...] = ()
    whole_front: bool = False


SMALL_STEPS = {"select.documents": 6000, "select.learning_rate": 3e-3}
"""The default. On 20news it is better than `FEW_STEPS` at 12x; nowhere is it worse."""
FEW_STEPS = {"select.documents": 2000, "select.learning_rate": 1e-2}
GUMBEL = {
    "selector": "gumbel",
    "select.penalty": 0.1,
    "select.learning_rate": 1e-3,
    "select.documents": 1200,
}
"""Few documents, because with more of them it drops more and more, at every price that was tried (tried.md)."""
SHORT = {**FEW_STEPS, "joint.documents": 2000}
"""Short stages: in a long joint stage the encoder makes up for an ingredient that is missing."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "no neighbours": {"policy_features": ("document",)},
    "no document": {"policy_features": ("neighbours",)},
    "no reward-to-go": {"select.reward_to_go": False},
    "no warm start": {"select.warm_start_documents": 0},
    # One step, which changes next to nothing.
    "warm start alone": {"select.documents": 16, "select.learning_rate": 1e-4},
    "more select, smaller steps": SMALL_STEPS,
    "no fusion": {"fusion": False},
    "no distillation": {"joint.distillation": 0.0},
    "guided samples": {"select.guided_share": 0.5},
    "points (0, 3)": {"select.points": (0, 3)},
    "points (1, 3)": {"select.points": (1, 3)},
    "points (0, 1, 3)": {"select.points": (0, 1, 3)},
}

NEWS_RECIPE = {"joint.documents": 32000, "select.penalty": 1.0}
"""With half as many documents in the joint stage, 20news lost half a point and more, in one run (tried.md)."""
NEWS = {"data.max_length": 256, "data.train_rows": 4000, "teacher.learning_rate": 2e-4, "teacher.epochs": 6.0}
SETS: dict[str, DataSet] = {
    "20news": DataSet(
        folder="20news",
        settings=NEWS,
        recipe=NEWS_RECIPE,
        must=((6.0, 0.5), (10.0, 2.0)),
        aim=((10.0, 0.5), (15.0, 1.5)),
        seeds=3,
        ablation_targets=(4.0, 8.0, 12.0),
    ),
    "20news-512": DataSet(
        folder="20news",
        settings={"data.max_length": 512, "teacher.learning_rate": 2e-4, "teacher.epochs": 3.0},
        recipe={"joint.documents": 20000},
        targets=(4.0, 6.0, 8.0, 12.0),
        must=((6.0, 0.5),),
        aim=((12.0, 0.5),),
        units=("policy",),
    ),
    "20news-clean": DataSet(
        folder="20news",
        settings={**NEWS, "data.text_column": "text_clean"},
        recipe=NEWS_RECIPE,
        targets=(2.0, 3.0, 4.0, 6.0, 8.0),
        must=((4.0, 1.0),),
        aim=((8.0, 1.0),),
        units=("policy", "gumbel", *OTHERS),
    ),
    "imdb": DataSet(
        folder="imdb",
        settings={
            "data.max_length": 256,
            "data.train_rows": 4000,
            "data.test_rows": 5000,
            # With more epochs or larger steps it would know its few documents by heart. Its losses on them, which the
            # policy learns from, would then say little.
            "teacher.learning_rate": 5e-5,
            "teacher.epochs": 2.0,
        },
        recipe={"joint.documents": 8000, "select.penalty": 1.0},
        targets=(2.0, 3.0, 4.0, 5.0, 8.0),
        must=((3.0, 1.0), (5.0, 2.0)),
        aim=((5.0, 0.5), (8.0, 1.5)),
        seeds=3,
        gumbel={"select.penalty": 0.05},
        ablation_targets=(3.0, 5.0, 8.0),
        whole_front=True,
    ),
    "sst2": DataSet(
        folder="sst2",
        settings={"data.max_length": 128, "teacher.epochs": 1.0, "teacher.batch_size": 32},
        recipe={
            "select.penalty": 0.19,  # a third of what its teacher knows
            "joint.documents": 32000,
            "joint.batch_size": 32,
            "joint.fastest": 6.0,
            "select.documents": 12000,
            "select.step_documents": 32,
        },
        targets=(1.7, 2.0, 2.5, 3.0, 4.0),
        must=((1.7, 0.5),),
        aim=((2.5, 0.5),),
        seeds=3,
        gumbel={"select.penalty": 0.02, "select.documents": 2400},
        units=("policy", "gumbel", "first", "random", "attention", "tr-bert", *OTHERS),
    ),
    "qnli": DataSet(
        folder="qnli",
        settings={
            "data.text_column": "text_a,text_b",
            "data.max_length": 128,
            "teacher.epochs": 2.0,
            "teacher.batch_size": 32,
        },
        # Chosen on validation, with the encoder frozen. The points are late: whether a word matters shows only once it
        # has seen the other text. The penalty is more than a third of what the teacher knows: at a third nearly every
        # token stays.
        recipe={
            "select.points": (2, 3, 4),
            "select.penalty": 0.5,
            "joint.documents": 16000,
            "joint.fastest": 6.0,
        },
        targets=(2.0, 3.0, 4.0),
        must=((2.0, 1.0),),
        aim=((3.0, 0.5),),
        gumbel={"select.penalty": 0.02},
        units=("policy", "gumbel", "first", "random", "attention", "tr-bert", *OTHERS),
    ),
}

TRUNCATED, SHALLOW = (2.0, 4.0, 8.0), (2.0, 3.0, 6.0)
"""Speed-ups of the truncated teachers, and of the teachers with fewer layers. For each of them one model is trained."""
LONG = (1024, 2048)
"""Tokens that a reduced model reads where its teacher reads 512. Is it better than the teacher, at no more FLOPs?"""
SEPARATE = (0.15, 0.3, 0.6, 1.2, 2.4)
"""Penalties of the models that one model is compared with."""


def main() -> None:
    # oneDNN keeps a compiled product for each length of a row, and nearly every row has a length of its own.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    parser = parser_of(__doc__)
    parser.add_argument("--list", action="store_true", help="name the units, and run nothing")
    options = parser.parse_args()
    folder = Path(options.out) / "quality"
    found = units(Path(options.data), options)
    if options.list:
        for name, unit in found.items():
            print("done " if unit.done(file_of(folder, name)) else "     ", name)
        return
    if not options.report:
        wanted = [name for part in options.only or [""] for name in found if part in name]
        for name in dict.fromkeys(wanted):
            if not found[name].done(file_of(folder, name)):
                run(name, found[name], file_of(folder, name), options)
    if options.report or not options.only:
        sets = {name: asdict(each) for name, each in SETS.items()}
        write_report(Path(options.out), folder, sets, {name: unit.settings for name, unit in found.items()})


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Returns the options that benchmarks of quality have in common."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of the sets' folders")
    parser.add_argument("--out", default=str(OUT), help="folder of the report; a folder beside it holds the units")
    parser.add_argument("--only", nargs="+", help="run the units whose names contain one of these; write no report")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="auto")
    return parser


def file_of(folder: Path, name: str) -> Path:
    kind = "".join(letter if letter.isalnum() or letter in "-./" else "_" for letter in name)
    return folder / f"{kind}.json"


def run(name: str, unit: Unit, path: Path, options: argparse.Namespace) -> None:
    started = time.perf_counter()
    print(f"{name} …", flush=True)
    told = unit.act()
    device = pick_device(options.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "unit": name,
            "date": str(datetime.date.today()),
            "seconds": round(time.perf_counter() - started, 1),
            "machine": f"{machine(device)}, {options.threads} threads",
            "commit": COMMIT,
            "versions": versions(),
            "settings": unit.settings,
            **told,
        },
    )
    print(f"{name}: {_in_short(told)}", flush=True)


def _in_short(told: dict[str, Any]) -> str:
    return ", ".join(f"{100 * p['quality']:.2f} @ {p['speed_up']:.2f}x" for p in told["points"])


def units(data: Path, options: argparse.Namespace) -> dict[str, Unit]:
    """Returns the pieces of work by name, the important ones first."""
    work: dict[str, Unit] = {}
    for name, each in SETS.items():
        base = override(
            Settings(),
            {
                "task": "classification",
                "data.source": str(data / each.folder),
                "compute.threads": options.threads,
                "compute.device": options.device,
                "compute.evaluation": "auto",
                "select.points": (0, 2),
                **each.settings,
                **each.recipe,
            },
        )
        work[f"{name}/teacher"] = Unit(of_teacher(base), partial(the_teacher, base))
        work |= {f"{name}/{unit}": act for unit, act in _of_set(each, base)}
    return work


def _of_set(each: DataSet, base: Settings) -> Iterator[tuple[str, Unit]]:
    def training(changes: dict[str, Any], targets: tuple[float, ...], develops: bool = False) -> Unit:
        own = override(base, changes)
        return Unit(told_settings(own), partial(trained, base, own, targets, develops))

    joined = {**of_teacher(base), "joint": asdict(base.joint)}
    for seed in range(each.seeds):
        yield f"policy seed {seed}", training({"seed": seed}, each.targets)
    for name in each.units:
        if name == "truncate":
            needed = {**of_teacher(base), "joint": {"documents": base.joint.documents}}
            for target in (one for one in each.targets if one in TRUNCATED):
                yield f"truncate {target:g}x seed 0", Unit(needed, partial(truncated, base, target))
        elif name == "layers":
            for target in (one for one in each.targets if one in SHALLOW):
                yield f"layers {target:g}x seed 0", Unit(joined, partial(shallower, base, target))
        elif name == "early exit":
            yield "early exit seed 0", Unit(joined, partial(exiting, base, each.targets))
        elif name == "tr-bert":
            # Its documents are fewer than the policy's, because each has eight trajectories, which cost more.
            changes = {**TR_BERT, "select.points": (1, 3), "joint.documents": 3 * base.joint.documents // 16}
            yield "tr-bert seed 0", training(changes, each.targets)
        elif name != "policy":
            changes = {**GUMBEL, **each.gumbel} if name == "gumbel" else {"selector": name}
            yield f"{name} seed 0", training(changes, each.targets)
    if each.ablation_targets:
        for name, changes in ABLATIONS.items():
            yield f"ablation {name}", training({**SHORT, **changes}, each.ablation_targets, develops=True)
    if each is SETS["20news-512"]:
        for length in LONG:
            longer = {"data.max_length": length, "positions": length, "teacher.max_length": 512, "joint.keep_all": 0.02}
            own = override(base, longer)
            yield f"long {length}", Unit(told_settings(own), partial(trained, own, own, (2.0, 4.0, 8.0, 16.0)))
    if not each.whole_front:
        return
    targets = (2.0, 3.0, 4.0, 6.0, 8.0)
    for penalty in SEPARATE:
        changes = {"select.penalty": penalty, "joint.documents": 4000}
        yield f"separate penalty {penalty:g}", training(changes, targets)
    # One and a half times the documents of one of them, at the penalty in their middle.
    yield "one penalty", training({"select.penalty": 0.6, "select.documents": 9000, "joint.documents": 6000}, targets)


@cache
def prepared_for(settings: Settings) -> Prepared:
    return prepare(settings, None, lambda line: print(line, flush=True))


def the_teacher(settings: Settings) -> dict[str, Any]:
    """Returns the teacher's result, and that of TF-IDF with logistic regression on the same rows."""
    prepared = prepared_for(settings)
    encoder, test = Encoder(prepared.plain(pick_device(settings.compute.device))), prepared.test
    reducer = Reducer(encoder=encoder, task=prepared.task)
    with autocast(encoder.device, settings.compute.evaluation):
        outputs = unreduced_outputs(reducer, test)
    own = {
        "quality": prepared.teacher_test,
        "speed_up": 1.0,
        "gflops": float(CostModel.of(reducer).unreduced(test.tokens.lengths).mean()) / 1e9,
        "correct": _correct(prepared.task, outputs, test),
    }
    return {"points": [own]} | {
        "tfidf": tfidf(settings),
        "validation": prepared.teacher_validation,
        "documents": {name: len(getattr(prepared, name)) for name in ("train", "validation", "test")},
    }


def tfidf(settings: Settings) -> dict[str, Any]:
    """Returns which test rows logistic regression on TF-IDF of words gets right, trained on the same rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    splits = splits_of(settings)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=2000))
    model.fit(_whole(splits.train), splits.train.targets)
    right = model.predict(_whole(splits.test)) == splits.test.targets
    return {"quality": float(right.mean()), "correct": _bits(right)}


@cache
def development(settings: Settings) -> Examples:
    """Returns training rows that the teacher did not see. Ingredients are chosen on them, because test must not be."""
    seen = set(splits_of(settings).train.inputs[0])
    rows = splits_of(override(settings, {"data.train_rows": None})).train
    unseen = [index for index, text in enumerate(rows.inputs[0]) if text not in seen][:DEVELOPMENT]
    return _examples(prepared_for(settings), rows.take(np.array(unseen)), settings.data.max_length)


def _examples(prepared: Prepared, rows: Rows, max_length: int) -> Examples:
    return prepared.task.encode(rows, prepared.tokenizer, max_length).examples


def _whole(rows: Rows) -> list[str]:
    """Returns all texts of each row as one."""
    return [" ".join(texts) for texts in zip(*rows.inputs, strict=True)]


def trained(base: Settings, settings: Settings, targets: tuple[float, ...], develops: bool = False) -> dict[str, Any]:
    """Returns what a trained model achieves at each target speed-up, at its default dial, and with all tokens kept.

    It is measured on test; on development rows where something is to be chosen.
    """
    prepared = prepared_for(base)  # one teacher for all
    torch.set_num_threads(settings.compute.threads or 1)
    model = Model(prepared, settings)
    train, validation = prepared.train, prepared.validation
    test = development(base) if develops else prepared.test
    started = time.perf_counter()
    model.select(train, model.sampler(train), told_now("select"))
    frozen = model.evaluate(validation, model.selector.default_dial)  # before the encoder moves
    model.join(train, told_now("joint"))
    seconds = time.perf_counter() - started
    measured = [_point(model, test, dial, target) for target, dial in dials_for(model, validation, targets)]
    return {
        "points": measured,
        "teacher": prepared.teacher_test,
        "documents": len(test),
        "penalty": model.settings.select.penalty,
        "keep_all": _point(model, test, model.selector.keep_all, None),
        "default": _point(model, test, model.selector.default_dial, None),
        "drawn": asdict(model.evaluate_sampled(validation)),
        "frozen_validation": asdict(frozen),
        "training_seconds": round(seconds, 1),
    }


def told_now(stage: str) -> Callable[[dict[str, float]], None]:
    def told(step: dict[str, float]) -> None:
        if step["step"] % 50 == 0 or step["step"] == step["steps"]:
            print(stage, {name: round(value, 3) for name, value in step.items()}, flush=True)

    return told


def told_settings(settings: Settings) -> dict[str, Any]:
    """Returns settings as the file of a unit has them, with the features that its policy can have, if it has one."""
    asks = selector_class(settings.selector).learns and TASKS[settings.task or ""].protected_part is not None
    features = features_for(settings.policy_features, asks and settings.data.protect)
    return asdict(override(settings, {"data.source": Path(settings.data.source).name, "policy_features": features}))


def of_teacher(settings: Settings) -> dict[str, Any]:
    return {group: values for group, values in told_settings(settings).items() if group in TEACHERS}


def dials_for(model: Model, validation: Examples, targets: tuple[float, ...]) -> Iterator[tuple[float, float]]:
    """Yields each reachable target, and a dial that is a little faster than it on validation.

    A few documents, measured at every dial, say where to look. Then the dial is corrected on all of validation. It
    stays between a dial that is known to be too fast and one that is known to be too slow.
    """
    curve = _whole_curve(model, validation)
    for target in targets:
        wanted = (1 + TO_SPARE) * target
        if not curve.reaches(wanted):
            continue
        least = -np.log(wanted)
        # The few may be unlike the rest, so that no dial is known to be too fast or too slow before it was measured.
        fast, slow = curve.dials[0], curve.dials[-1]
        dial = float(curve.dial_at(least))
        found: float | None = None
        for correction in range(CORRECTIONS):
            reached = model.evaluate(validation, dial).speed_up
            if reached >= target:
                fast = found = dial
            else:
                slow = dial
            if target * (1 + TO_SPARE / 2) <= reached <= target * (1 + 2 * TO_SPARE):
                break
            guess = dial + float(curve.dial_at(least) - curve.dial_at(-np.log(reached)))
            between = [each for each in curve.dials if fast < each < slow] or [(fast + slow) / 2]
            follows = fast < guess < slow and correction % 2 == 0  # a curve of other documents may lead on too slowly
            dial = guess if follows else between[len(between) // 2]
        if found is not None:
            yield target, found


def _whole_curve(model: Model, validation: Examples) -> DialCurve:
    """Returns what the selector's dials cost on a few documents, and after them the dial that keeps all tokens.

    That last dial counts as the unreduced model, unless the one before it costs even more: heads are paid for too.
    """
    curve = scout(model, validation)
    unreduced = max(0.0, float(curve.log_costs[-1]))
    return DialCurve((*curve.dials, model.selector.keep_all), np.append(curve.log_costs, unreduced))


def _point(model: Model, test: Examples, dial: float, target: float | None) -> dict[str, Any]:
    reducer, compute, lengths = model.reducer, model.settings.compute, test.tokens.lengths
    with autocast(reducer.encoder.device, compute.evaluation):
        found = predict(reducer, forward_at(reducer, model.selector, dial), test, compute.tokens_of_pass)
    flops = model.cost.reduced(lengths, found.kept, reducer.points, model.selector)
    return {
        "target": target,
        "dial": dial,
        "quality": reducer.task.quality(found.decoded, test),
        "speed_up": speed_up(model.cost.unreduced(lengths), flops),
        "gflops": float(flops.mean()) / 1e9,
        "kept": (found.kept.sum(1) / lengths.sum()).tolist(),
        "correct": _correct(reducer.task, found.outputs, test),
    }


def _correct(task: Task, outputs: Outputs, examples: Examples) -> str:
    """Returns which examples a model gets right, as `_bits` writes them."""
    return _bits(np.array(task.correct(task.decode(outputs, examples), examples)) == 1.0)


def _bits(right: NDArray[np.bool_]) -> str:
    """Returns which examples are right, one bit each, in hexadecimal."""
    return np.packbits(right).tobytes().hex()


def truncated(settings: Settings, target: float) -> dict[str, Any]:
    """Returns what a teacher achieves that was retrained on shorter documents.

    It learns from as many documents as the teacher and the joint stage together. Its length is the longest with which
    it is as fast as the target on test; the labels of test have no part in that. A length is a whole number of tokens,
    and short documents have few lengths to choose from.
    """
    prepared = prepared_for(settings)
    torch.set_num_threads(settings.compute.threads or 1)
    lengths = prepared.test.tokens.lengths
    torch.manual_seed(settings.seed)
    device = pick_device(settings.compute.device)
    encoder = Encoder(load_pretrained(settings.model, prepared.task, prepared.labels).model.to(device))
    reducer = Reducer(encoder=encoder, task=prepared.task)
    cost = CostModel.of(reducer)

    def gain(length: int) -> float:
        return speed_up(cost.unreduced(lengths), cost.unreduced(lengths.clamp(max=length)))

    fits = [n for n in range(3, settings.data.max_length) if gain(n) >= target]
    if not fits:
        return {"points": []}
    length, splits = max(fits), splits_of(settings)
    # Tokenised anew: the tokenizer shortens the longer text of a pair, not the end of the pair.
    train, test = (_examples(prepared, rows, length) for rows in (splits.train, splits.test))
    epochs = settings.teacher.epochs + settings.joint.documents / len(train)
    own = override(settings, {"teacher.epochs": epochs})
    train_teacher(reducer, train, own.teacher, own.compute, settings.seed, told_now("truncated"))
    with autocast(device, settings.compute.evaluation):
        outputs = unreduced_outputs(reducer, test)
    point = {
        "target": target,
        "tokens": length,
        "quality": prepared.task.quality(prepared.task.decode(outputs, test), test),
        "speed_up": gain(length),
        "correct": _correct(prepared.task, outputs, test),
    }
    return {"points": [point], "epochs": epochs}


def shallower(settings: Settings, target: float) -> dict[str, Any]:
    """Returns what the teacher's first layers achieve after a joint stage, with as many layers as the target allows."""
    prepared = prepared_for(settings)
    torch.set_num_threads(settings.compute.threads or 1)
    encoder = Encoder(prepared.plain(pick_device(settings.compute.device)))
    depth = depth_of(CostModel.of(Reducer(encoder=encoder, task=prepared.task)), prepared.test, target)
    if depth == 0:
        return {"points": []}
    model = Shallow(prepared, settings, (depth,))
    model.learn(told_now("layers"))
    outputs, flops = model.predict(prepared.test)[0], model.flops(prepared.test)[0]
    return {"points": [{"target": target, "layers": depth, **_rated(model, outputs, flops)}]}


def exiting(settings: Settings, targets: tuple[float, ...]) -> dict[str, Any]:
    """Returns what early exit achieves at each target speed-up that it reaches, and with all layers."""
    prepared = prepared_for(settings)
    torch.set_num_threads(settings.compute.threads or 1)
    model = Shallow(prepared, settings, tuple(range(1, prepared.config.num_hidden_layers + 1)))
    model.learn(told_now("early exit"))
    on_validation, on_test = model.predict(prepared.validation), model.predict(prepared.test)

    def at(threshold: float) -> dict[str, Any]:
        return {"dial": threshold, **_rated(model, *model.exits(on_test, prepared.test, threshold))}

    thresholds = {each: model.threshold(on_validation, prepared.validation, (1 + TO_SPARE) * each) for each in targets}
    points = [{"target": target, **at(each)} for target, each in thresholds.items() if math.isfinite(each)]
    return {"points": points, "keep_all": at(-1.0), "teacher": prepared.teacher_test}


def _rated(model: Shallow, outputs: Outputs, flops: DocFloat) -> dict[str, Any]:
    """Returns the quality and the cost of these outputs on test."""
    task, test = model.prepared.task, model.prepared.test
    return {
        "quality": task.quality(task.decode(outputs, test), test),
        "speed_up": speed_up(model.cost.unreduced(test.tokens.lengths), flops),
        "correct": _correct(task, outputs, test),
    }


if __name__ == "__main__":
    main()
