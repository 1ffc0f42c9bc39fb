"""Quality at a given cost: data set × selector × speed-up, on each test split, and what each ingredient adds.

    python benchmarks/quality.py --data DIR                      # all that is not there yet, then the report
    python benchmarks/quality.py --data DIR --only imdb/policy   # the units whose names contain this
    python benchmarks/quality.py --report                        # the report of the units that are there
    python benchmarks/quality.py --list                          # the units, and which are there

A unit is one model trained and measured, and leaves one file in docs/results/quality, so that a stopped run goes on
where it was, here or on another machine. One that ran with other settings than today's is run again. Dials are chosen
on validation, for their speed-up alone; test is reported on. Writes docs/results/quality.md and quality.png.
"""

import argparse
import datetime
import json
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
from numpy.typing import NDArray
from quality_report import is_current, write_report

from trbert.data.splits import Rows
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel, speed_up
from trbert.measure.evaluate import forward_at, reduced_logits, unreduced_logits
from trbert.measure.timing import machine
from trbert.pretrained import load_classifier
from trbert.tasks.classification import accuracy, encode
from trbert.tasks.examples import Examples
from tune.learning.model import Model, scout
from tune.learning.prepare import Prepared, prepare, splits_of
from tune.learning.steps import autocast, pick_device
from tune.learning.teacher_stage import train_teacher
from tune.runs import versions, write_json
from tune.settings import TR_BERT, Settings, override

OUT = Path("docs/results")
COMMIT = subprocess.run(
    ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
).stdout.strip()
"""The code that is measured."""
TO_SPARE = 0.02
"""How much faster than the target a dial must be on validation, that it may be as fast on test."""
CORRECTIONS = 8
"""How often a dial is moved to meet its target."""
DEVELOPMENT = 3000
RULES = ("first", "random", "attention", "saliency")
TEACHERS = ("model", "seed", "positions", "data", "teacher")
"""What a teacher depends on."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    Attributes:
        settings: that its result depends on.
        act: returns what is measured.
    """

    settings: dict[str, Any]
    act: Callable[[], dict[str, Any]]

    def done(self, path: Path) -> bool:
        """Returns whether a file holds the result of these settings."""
        return path.exists() and is_current(json.loads(path.read_text())["settings"], self.settings)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One row of the table of what must be reached.

    Attributes:
        folder: of its parquet files, below --data.
        settings: of data and teacher.
        recipe: of every selector's stages, beyond the defaults.
        targets: speed-ups to measure at.
        must: speed-up and the most points that may be lost.
        aim: the same, hoped for.
        seeds: of the policy; rivals have one.
        units: which variants are run.
        gumbel: settings of that selector alone, beyond `GUMBEL`.
        ablation_targets: speed-ups that ingredients are measured at, one at a time; none are tried without.
        whole_front: whether one conditioned model is compared with models of separate penalties, and with one model of
            one penalty that costs as much.
    """

    folder: str
    settings: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    targets: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0)
    must: tuple[tuple[float, float], ...]
    aim: tuple[tuple[float, float], ...]
    seeds: int = 1
    units: tuple[str, ...] = ("policy", "gumbel", *RULES, "tr-bert", "truncate")
    gumbel: dict[str, Any] = field(default_factory=dict)
    ablation_targets: tuple[float, ...] = ()
    whole_front: bool = False


DRAWN_DIALS = {"select.dial_range": 1.5}
"""Seen by the policy; imdb's ablation is better without at 5x, 20news' no different."""
SMALL_STEPS = {"select.documents": 6000, "select.learning_rate": 3e-3}
"""The default; better than the next at 12x on 20news, and no worse elsewhere."""
FEW_STEPS = {"select.documents": 2000, "select.learning_rate": 1e-2}
GUMBEL = {
    "selector": "gumbel",
    "select.penalty": 0.1,
    "select.learning_rate": 1e-3,
    "select.documents": 1200,
    "select.dial_range": 0.0,
}
"""Stopped early: with more documents it drops ever more, at any price that was tried (tried.md)."""
SHORT = {**FEW_STEPS, "joint.documents": 2000, "select.dial_range": 0.0}
"""What an ingredient adds shows before the encoder has made up for it."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "no neighbours": {"policy_features": ("document",)},
    "no document": {"policy_features": ("neighbours",)},
    "no reward-to-go": {"select.reward_to_go": False},
    "no warm start": {"select.warm_start_documents": 0},
    "warm start alone": {"select.documents": 16, "select.learning_rate": 1e-4},  # one step, that moves next to nothing
    "dial conditioned": DRAWN_DIALS,
    "more select, smaller steps": SMALL_STEPS,
    "no fusion": {"fusion": False},
    "no distillation": {"joint.distillation": 0.0},
    "guided samples": {"select.guided_share": 0.5},
    "points (0, 3)": {"select.points": (0, 3)},
    "points (1, 3)": {"select.points": (1, 3)},
    "points (0, 1, 3)": {"select.points": (0, 1, 3)},
}

NEWS_RECIPE = {"joint.documents": 32000, "select.penalty": 1.0}
"""Half as many documents of joint cost 20news half a point and more, in one run (tried.md)."""
NEWS = {"data.max_length": 256, "data.train_rows": 4000, "teacher.learning_rate": 2e-4, "teacher.epochs": 6.0}
SETS: dict[str, DataSet] = {
    "20news": DataSet(
        folder="20news",
        settings=NEWS,
        recipe={**DRAWN_DIALS, **NEWS_RECIPE},
        must=((6.0, 0.5), (10.0, 2.0)),
        aim=((10.0, 0.5), (15.0, 1.5)),
        seeds=3,
        ablation_targets=(4.0, 8.0, 12.0),
    ),
    "20news-512": DataSet(
        folder="20news",
        settings={"data.max_length": 512, "teacher.learning_rate": 2e-4, "teacher.epochs": 3.0},
        recipe={**DRAWN_DIALS, "joint.documents": 20000},
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
        units=("policy", "gumbel", "truncate"),
    ),
    "imdb": DataSet(
        folder="imdb",
        settings={
            "data.max_length": 256,
            "data.train_rows": 4000,
            "data.test_rows": 5000,
            # More epochs, or larger steps, and it knows its few documents by heart: what it is then paid for says less.
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
            **DRAWN_DIALS,
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
        units=("policy", "gumbel", "first", "random", "attention", "tr-bert", "truncate"),
    ),
    "qnli": DataSet(
        folder="qnli",
        settings={
            "data.text_column": "text_a,text_b",
            "data.max_length": 128,
            "teacher.epochs": 2.0,
            "teacher.batch_size": 32,
        },
        # Chosen on validation, encoder frozen: whether a word matters shows once it has seen the other text. At a
        # third of what the teacher knows nearly all stays, and 2x is beyond the dials that the policy saw.
        recipe={
            **DRAWN_DIALS,
            "select.points": (2, 3, 4),
            "select.penalty": 0.5,
            "joint.documents": 16000,
            "joint.fastest": 6.0,
        },
        targets=(2.0, 3.0, 4.0),
        must=((2.0, 1.0),),
        aim=((3.0, 0.5),),
        gumbel={"select.penalty": 0.02},
        units=("policy", "gumbel", "first", "random", "attention", "tr-bert", "truncate"),
    ),
}

TRUNCATED = (2.0, 4.0, 8.0)
"""Speed-ups of the truncated teachers, each of which is trained for itself."""
LONG = (1024, 2048)
"""Tokens that a reduced model reads, its teacher 512: is it better, at no more FLOPs?"""
SEPARATE = (0.15, 0.3, 0.6, 1.2, 2.4)
"""Penalties of the models that one conditioned model is compared with."""


def main() -> None:
    # Every row of tokens has a length of its own, and each leaves compiled products behind.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    options = _parser().parse_args()
    folder = Path(options.out) / "quality"
    found = units(Path(options.data), options)
    if options.list:
        for name, unit in found.items():
            print("done " if unit.done(_file(folder, name)) else "     ", name)
        return
    if not options.report:
        wanted = [name for part in options.only or [""] for name in found if part in name]
        for name in dict.fromkeys(wanted):
            if not found[name].done(_file(folder, name)):
                _run(name, found[name], _file(folder, name), options)
    if options.report or not options.only:
        sets = {name: asdict(each) for name, each in SETS.items()}
        write_report(Path(options.out), folder, sets, {name: unit.settings for name, unit in found.items()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of the sets' folders")
    parser.add_argument("--out", default=str(OUT), help="folder of the report; its folder quality holds the units")
    parser.add_argument("--only", nargs="+", help="run the units whose names contain one of these; write no report")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--list", action="store_true", help="name the units, and run nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="auto")
    return parser


def _file(folder: Path, name: str) -> Path:
    kind = "".join(letter if letter.isalnum() or letter in "-./" else "_" for letter in name)
    return folder / f"{kind}.json"


def _run(name: str, unit: Unit, path: Path, options: argparse.Namespace) -> None:
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
                "data.source": str(data / each.folder),
                "compute.threads": options.threads,
                "compute.device": options.device,
                "compute.evaluation": "auto",
                "select.points": (0, 2),
                **each.settings,
                **each.recipe,
            },
        )
        work[f"{name}/teacher"] = Unit(_of_teacher(base), partial(the_teacher, base))
        work |= {f"{name}/{unit}": act for unit, act in _of_set(each, base)}
    return work


def _of_set(each: DataSet, base: Settings) -> Iterator[tuple[str, Unit]]:
    def training(changes: dict[str, Any], targets: tuple[float, ...], develops: bool = False) -> Unit:
        own = override(base, changes)
        return Unit(_told(own), partial(trained, base, own, targets, develops))

    for seed in range(each.seeds):
        yield f"policy seed {seed}", training({"seed": seed}, each.targets)
    for name in each.units:
        if name == "truncate":
            needed = {**_of_teacher(base), "joint": {"documents": base.joint.documents}}
            for target in (one for one in each.targets if one in TRUNCATED):
                yield f"truncate {target:g}x seed 0", Unit(needed, partial(truncated, base, target))
        elif name == "tr-bert":
            # Fewer documents than the policy's, of eight dearer trajectories each.
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
            yield f"long {length}", Unit(_told(own), partial(trained, own, own, (2.0, 4.0, 8.0, 16.0)))
    if not each.whole_front:
        return
    targets = (2.0, 3.0, 4.0, 6.0, 8.0)
    for penalty in SEPARATE:
        changes = {"select.penalty": penalty, "joint.documents": 4000}
        yield f"separate penalty {penalty:g}", training(changes, targets)
    # Half as much again as one of them, and dials that draw the same penalties: .6·e^±1.5 is .13 to 2.7.
    changes = {"select.penalty": 0.6, "select.documents": 9000, "joint.documents": 6000}
    yield "conditioned", training({**changes, **DRAWN_DIALS}, targets)
    yield "one penalty", training(changes, targets)


@cache
def prepared_for(settings: Settings) -> Prepared:
    return prepare(settings, None, lambda line: print(line, flush=True))


def the_teacher(settings: Settings) -> dict[str, Any]:
    """Returns the teacher's result, and that of TF-IDF with logistic regression on the same rows."""
    prepared = prepared_for(settings)
    encoder = Encoder(prepared.classifier(pick_device(settings.compute.device)))
    test = prepared.test.examples()
    with autocast(encoder.device, settings.compute.evaluation):
        logits = unreduced_logits(encoder, test.tokens)
    own = {
        "quality": prepared.teacher_test,
        "speed_up": 1.0,
        "gflops": float(CostModel.of(encoder).unreduced(test.tokens.lengths).mean()) / 1e9,
        "correct": _bits((logits.argmax(-1) == test.labels).numpy()),
    }
    return {"points": [own]} | {
        "tfidf": tfidf(settings),
        "validation": prepared.teacher_validation,
        "documents": {name: len(getattr(prepared, name).labels) for name in ("train", "validation", "test")},
    }


def tfidf(settings: Settings) -> dict[str, Any]:
    """Returns what logistic regression on TF-IDF of words, on the same training rows, gets right on test."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    splits = splits_of(settings)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=2000))
    model.fit(_whole(splits.train), splits.train.labels)
    right = model.predict(_whole(splits.test)) == np.array(splits.test.labels)
    return {"quality": float(right.mean()), "correct": _bits(right)}


@cache
def development(settings: Settings) -> Examples:
    """Returns training rows that the teacher did not see: what ingredients are chosen on, since test must not be."""
    seen = set(splits_of(settings).train.texts)
    rows = splits_of(override(settings, {"data.train_rows": None})).train
    unseen = [index for index, text in enumerate(rows.texts) if text not in seen][:DEVELOPMENT]
    return _examples(prepared_for(settings), rows.take(np.array(unseen)), settings.data.max_length)


def _examples(prepared: Prepared, rows: Rows, max_length: int) -> Examples:
    tokens, _ = encode(prepared.tokenizer, rows.texts, max_length, rows.second_texts)
    return Examples(tokens, torch.tensor(rows.labels))


def _whole(rows: Rows) -> list[str]:
    if rows.second_texts is None:
        return list(rows.texts)
    return [f"{first} {second}" for first, second in zip(rows.texts, rows.second_texts, strict=True)]


def trained(base: Settings, settings: Settings, targets: tuple[float, ...], develops: bool = False) -> dict[str, Any]:
    """Returns what a trained model achieves at each target speed-up, at its default dial, and with all tokens kept.

    On test, or on development rows where something is to be chosen.
    """
    prepared = prepared_for(base)  # one teacher for all
    torch.set_num_threads(settings.compute.threads or 1)
    model = Model(prepared, settings)
    train, validation = prepared.train.examples(), prepared.validation.examples()
    test = development(base) if develops else prepared.test.examples()
    started = time.perf_counter()
    model.select(train, model.sampler(train), _told_now("select"))
    frozen = model.evaluate(validation, model.selector.default_dial)  # before the encoder moves
    model.join(train, _told_now("joint"))
    seconds = time.perf_counter() - started
    measured = [_point(model, test, dial, target) for target, dial in dials_for(model, validation, targets)]
    return {
        "points": measured,
        "teacher": prepared.teacher_test,
        "documents": len(test.labels),
        "penalty": model.settings.select.penalty,
        "keep_all": _point(model, test, model.selector.keep_all, None),
        "default": _point(model, test, model.selector.default_dial, None),
        "drawn": asdict(model.evaluate_sampled(validation)),
        "frozen_validation": asdict(frozen),
        "training_seconds": round(seconds, 1),
    }


def _told_now(stage: str) -> Callable[[dict[str, float]], None]:
    def told(step: dict[str, float]) -> None:
        if step["step"] % 50 == 0 or step["step"] == step["steps"]:
            print(stage, {name: round(value, 3) for name, value in step.items()}, flush=True)

    return told


def _told(settings: Settings) -> dict[str, Any]:
    return asdict(override(settings, {"data.source": Path(settings.data.source).name}))


def _of_teacher(settings: Settings) -> dict[str, Any]:
    return {group: values for group, values in _told(settings).items() if group in TEACHERS}


def dials_for(model: Model, validation: Examples, targets: tuple[float, ...]) -> Iterator[tuple[float, float]]:
    """Yields each reachable target and a dial that is as fast on validation, with a little to spare.

    The speed-ups of a few documents at every dial give where to look; all of validation corrects it, between the
    dials known to be too fast and too slow.
    """
    dials = [*model.selector.dials, model.selector.keep_all]
    costs = [*scout(model, validation), 0.0]
    for target in targets:
        least = -np.log((1 + TO_SPARE) * target)
        if not costs[0] <= least <= costs[-1]:
            continue
        place = int(np.searchsorted(costs, least))
        fast, slow = dials[max(0, place - 4)], dials[min(place + 3, len(dials) - 1)]
        dial = float(np.interp(least, costs, dials))
        found: float | None = None
        for _ in range(CORRECTIONS):
            reached = model.evaluate(validation, dial).speed_up
            if reached >= target:
                fast = found = dial
            else:
                slow = dial
            if target * (1 + TO_SPARE / 2) <= reached <= target * (1 + 2 * TO_SPARE):
                break
            guess = dial + float(np.interp(least, costs, dials) - np.interp(-np.log(reached), costs, dials))
            dial = guess if fast < guess < slow else (fast + slow) / 2
        if found is not None:
            yield target, found


def _point(model: Model, test: Examples, dial: float, target: float | None) -> dict[str, Any]:
    compute, lengths = model.settings.compute, test.tokens.lengths
    forward = forward_at(model.encoder, model.selector, test.tokens, test.labels, model.points, dial)
    with autocast(model.encoder.device, compute.evaluation):
        logits, kept = reduced_logits(model.encoder, forward, lengths, compute.tokens_per_batch)
    flops = model.cost.reduced(lengths, kept, model.points, model.selector.name)
    return {
        "target": target,
        "dial": dial,
        "quality": accuracy(logits, test.labels),
        "speed_up": speed_up(model.cost.unreduced(lengths), flops),
        "gflops": float(flops.mean()) / 1e9,
        "kept": (kept.sum(1) / lengths.sum()).tolist(),
        "correct": _bits((logits.argmax(-1) == test.labels).numpy()),
    }


def _bits(right: NDArray[np.bool_]) -> str:
    """Returns which documents are right, one bit each, in hexadecimal."""
    return np.packbits(right).tobytes().hex()


def truncated(settings: Settings, target: float) -> dict[str, Any]:
    """Returns what a teacher retrained on shorter documents achieves.

    It sees as many documents as the teacher and the joint stage together. Its length is chosen for its FLOPs on test,
    whose labels have no part in that: lengths are whole tokens, of which short documents have few.
    """
    prepared = prepared_for(settings)
    torch.set_num_threads(settings.compute.threads or 1)
    lengths = prepared.test.examples().tokens.lengths
    torch.manual_seed(settings.seed)
    device = pick_device(settings.compute.device)
    encoder = Encoder(load_classifier(settings.model, prepared.label_names).model.to(device))
    cost = CostModel.of(encoder)

    def gain(length: int) -> float:
        return speed_up(cost.unreduced(lengths), cost.unreduced(lengths.clamp(max=length)))

    fits = [n for n in range(3, settings.data.max_length) if gain(n) >= target]
    if not fits:
        return {"points": []}
    length, splits = max(fits), splits_of(settings)
    # Tokenised anew: of a pair the tokenizer cuts the longer text, not the end.
    train, test = (_examples(prepared, rows, length) for rows in (splits.train, splits.test))
    epochs = settings.teacher.epochs + settings.joint.documents / len(train.labels)
    own = override(settings, {"teacher.epochs": epochs})
    train_teacher(encoder, train, own.teacher, own.compute, settings.seed, _told_now("truncated"))
    with autocast(device, settings.compute.evaluation):
        logits = unreduced_logits(encoder, test.tokens)
    point = {
        "target": target,
        "tokens": length,
        "quality": accuracy(logits, test.labels),
        "speed_up": gain(length),
        "correct": _bits((logits.argmax(-1) == test.labels).numpy()),
    }
    return {"points": [point], "epochs": epochs}


if __name__ == "__main__":
    main()
