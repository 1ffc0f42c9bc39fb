"""Quality at a given cost for every task but classification: data set × selector × speed-up, on each test split.

    python benchmarks/tasks.py --data DIR --work DIR             # all that is not there yet, then the report
    python benchmarks/tasks.py --data DIR --work DIR --only squad_v1/policy
    python benchmarks/tasks.py --data DIR --work DIR --report    # the report of the units that are there

Units are those of `quality.py`: one model each, trained and measured, in a file of its own in docs/results/tasks. Dials
are chosen on validation, for their speed-up alone. Quality is reported on test. Writes docs/results/tasks.md.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from quality import (
    FEW_STEPS,
    Unit,
    dials_for,
    file_of,
    of_teacher,
    parser_of,
    prepared_for,
    run,
    told_now,
    told_settings,
)
from tasks_report import write_report
from torch import Tensor

from trbert.encoder import Encoder
from trbert.measure.cost import CostModel, speed_up
from trbert.measure.evaluate import forward_at, predict, unreduced_outputs
from trbert.measure.intervals import resamples
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from trbert.tasks.parts import first_alone
from trbert.tasks.rows import Rows
from trbert.tasks.vectors.retrieval import mean_reciprocal_rank
from tune.learning.model import Model
from tune.learning.prepare import Prepared
from tune.learning.steps import autocast, pick_device
from tune.settings import TR_BERT, Settings, override

RESAMPLES = 200
"""How often the test examples are drawn again, with replacement, for the intervals."""
JOINED_WORDS = 160
"""Sentences of one document are joined until there are so many words, which are about 200 tokens."""
EMBEDDED_TEXTS = {"train": 8000, "validation": 500, "test": 2000}
"""How many reviews of imdb are embedded, beside the sentences of trecqa."""
RIVALS = ("first", "random", "attention", "tr-bert")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked of one task on one set.

    Attributes:
        folder: where its files lie: below --work if they are made by this script, else below --data.
        settings: of task, data and teacher.
        recipe: settings of the select and joint stages, for every selector.
        targets: the speed-ups to measure at.
        must: pairs of a speed-up and the most points that may be lost there, in hundredths of the metric.
        aim: the same pairs, as hoped for.
        retrieval: whether the vectors are to find the answers of trecqa's questions, too.
        more: further rows of this set alone, by name, and in what their settings differ from the policy's.
    """

    folder: str
    settings: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    targets: tuple[float, ...] = (1.5, 2.0, 3.0)
    must: tuple[tuple[float, float], ...]
    aim: tuple[tuple[float, float], ...]
    retrieval: bool = False
    more: dict[str, dict[str, Any]] = field(default_factory=dict)


SHORT_STAGES = {**FEW_STEPS, "joint.documents": 8000}
EVERY_TOKEN = {**SHORT_STAGES, "select.points": (2, 4), "joint.fastest": 4.0, "joint.distillation": 0.8}
"""For heads that read every token: a token that two layers have read is told apart from others much better. Points and
distillation were chosen on the validation split of ud_ewt."""
FROZEN = {"joint.documents": 0}
"""No joint stage, for sets of which there is little: 83 queries, or 3,394 short tweets. On their validation splits the
joint stage lost 0.4 to 4.0 points with all tokens kept, at every learning rate and share of distillation that was tried
(docs/results/tasks/tried.md). A frozen encoder loses nothing there."""
ANSWERS = {
    **SHORT_STAGES,
    **FROZEN,
    "select.penalty": 4.0,
    "select.points": (0, 4),
    "select.tokens_per_decision": 8,
}
"""For answers in texts. At a penalty of one nat a policy keeps nearly all tokens. Before layer 0 the words of a
question say as much of where its answer may be as before layer 2, and more is saved there. Before layer 4 the model
knows it. An answer has neighbours that matter too, so they are drawn together. All of that was measured on validation
(docs/results/tasks/tried.md)."""
SETS: dict[str, Target] = {
    "imdb_rating": Target(
        folder="imdb",
        settings={
            "task": "regression",
            "data.label_column": "rating",
            "data.train_rows": 4000,
            "data.test_rows": 2000,
            "teacher.learning_rate": 5e-5,
            "teacher.epochs": 2.0,
        },
        recipe={**SHORT_STAGES, "joint.documents": 4000, "select.points": (0, 2)},
        targets=(2.0, 3.0, 5.0),
        must=((3.0, 1.0),),
        aim=((5.0, 1.0),),
    ),
    "ud_ewt": Target(
        folder="ud_ewt_joined",
        settings={"task": "tagging", "data.label_column": "pos_tags", "teacher.learning_rate": 2e-4},
        recipe=EVERY_TOKEN,
        targets=(1.5, 2.0, 2.5),
        must=((1.5, 0.3),),
        aim=((2.5, 0.3),),
    ),
    "wnut17": Target(
        folder="wnut17",
        settings={
            "task": "tagging",
            "data.label_column": "ner_tags",
            "data.max_length": 128,
            "teacher.learning_rate": 2e-4,
        },
        recipe={**EVERY_TOKEN, **FROZEN},
        targets=(1.3, 1.5, 2.0),
        must=((1.3, 0.5),),
        aim=((2.0, 0.3),),
    ),
    "squad_v1": Target(
        folder="squad_v1_files",
        settings={"task": "question_answering", "data.max_length": 320, "data.test_rows": 2000, "teacher.epochs": 3.0},
        recipe=ANSWERS,
        targets=(1.5, 2.0, 2.5),
        must=((1.5, 1.0), (2.0, 2.0)),
        aim=((2.5, 0.5),),
    ),
    "squad_v2": Target(
        folder="squad_v2_folds",
        settings={"task": "question_answering", "data.max_length": 320, "data.test_rows": 2000, "teacher.epochs": 3.0},
        recipe=ANSWERS,
        targets=(1.5, 2.0, 2.5),
        must=((1.5, 1.0),),
        aim=((2.0, 0.5),),
    ),
    "trecqa": Target(
        folder="trecqa",
        settings={
            "task": "reranking",
            "data.text_column": "text_a,text_b",
            "data.max_length": 128,
        },
        # With the question among the features it was better at 1.5x and worse at 2x, on validation and on test.
        recipe={
            **SHORT_STAGES,
            **FROZEN,
            "select.points": (1, 3),
            "policy_features": ("document", "neighbours"),
        },
        targets=(1.5, 2.0, 3.0),
        must=((2.0, 1.0),),
        aim=((3.0, 0.5),),
    ),
    # All of its 2,602 questions, twice, left the teacher at chance after an hour and a half of a core.
    "race": Target(
        folder="race",
        settings={"task": "multiple_choice", "data.train_rows": 1000, "teacher.epochs": 1.0},
        recipe={**SHORT_STAGES, "joint.documents": 2000, "joint.fastest": 6.0},
        targets=(2.0, 3.0),
        must=((2.0, 1.0),),
        aim=((3.0, 1.0),),
        more={"policy-unprotected": {"data.protect": False}},
    ),
    "embedding": Target(
        folder="embedded_texts",
        settings={"task": "embedding"},
        recipe={**SHORT_STAGES, "joint.documents": 4000, "joint.fastest": 6.0, "select.points": (0, 2)},
        targets=(2.0, 3.0, 4.0),
        must=((2.0, 3.0),),
        aim=((4.0, 3.0),),
        retrieval=True,
    ),
}


def main() -> None:
    # oneDNN keeps a compiled product for each length of a row, and nearly every row has a length of its own.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    parser = parser_of(__doc__)
    parser.add_argument("--work", default="runs/tasks", help="folder for the sets that are made of them")
    options = parser.parse_args()
    make_sets(Path(options.data), Path(options.work))
    folder, found = Path(options.out) / "tasks", dict(units(options))
    if not options.report:
        wanted = [name for part in options.only or [""] for name in found if part in name]
        for name in dict.fromkeys(wanted):
            if not found[name].done(file_of(folder, name)):
                run(name, found[name], file_of(folder, name), options)
    if options.report or not options.only:
        known = {name: unit.settings for name, unit in found.items()}
        write_report(Path(options.out), folder, {name: asdict(each) for name, each in SETS.items()}, known)


def make_sets(data: Path, work: Path) -> None:
    """Makes the sets that are not used as they lie there; what is there already is left."""
    _once(work / "ud_ewt_joined", lambda folder: _join_sentences(data / "ud_ewt", folder))
    _once(work / "squad_v1_files", lambda folder: _split_off_validation(data / "squad_v1", folder))
    _once(work / "squad_v2_folds", lambda folder: _part_by_fold(data / "squad_v2", folder))
    _once(work / "embedded_texts", lambda folder: _gather_texts(data, folder))


def _once(folder: Path, make: Callable[[Path], None]) -> None:
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        make(part)
        part.rename(folder)


def _join_sentences(source: Path, folder: Path) -> None:
    """Writes rows of neighbouring sentences of one document, of about `JOINED_WORDS` words."""
    for split in ("train", "validation", "test"):
        joined: list[dict[str, Any]] = []
        for row in pyarrow.parquet.read_table(source / f"{split}.parquet").to_pylist():
            last = joined[-1] if joined else None
            if last is None or last["doc_id"] != row["doc_id"] or len(last["tokens"]) >= JOINED_WORDS:
                joined.append({name: row[name] for name in ("doc_id", "tokens", "pos_tags")})
            else:
                last["tokens"] += row["tokens"]
                last["pos_tags"] += row["pos_tags"]
        _write(folder, {split: joined}, ("doc_id", "tokens", "pos_tags"))


def _split_off_validation(source: Path, folder: Path) -> None:
    """Writes the official development part as test, and a tenth of the paragraphs of train as validation."""
    train = pyarrow.parquet.read_table(source / "train.parquet").to_pylist()
    paragraphs = sorted({row["context"] for row in train})
    held = set(np.random.default_rng(0).permutation(paragraphs)[: len(paragraphs) // 10].tolist())
    parts = {
        "train": [row for row in train if row["context"] not in held],
        "validation": [row for row in train if row["context"] in held],
        "test": pyarrow.parquet.read_table(source / "validation.parquet").to_pylist(),
    }
    _write(folder, parts, ("question", "context", "answers"))


def _part_by_fold(source: Path, folder: Path) -> None:
    """Writes the parts of the official development part that `fold_by_article` names."""
    rows = pyarrow.parquet.read_table(source / "validation.parquet").to_pylist()
    parts = {split: [row for row in rows if row["fold_by_article"] == split] for split in EMBEDDED_TEXTS}
    _write(folder, parts, ("question", "context", "answers"))


def _gather_texts(data: Path, folder: Path) -> None:
    """Writes the sentences of trecqa and some reviews of imdb, without labels."""
    reviews = {split: pyarrow.parquet.read_table(data / "imdb" / f"{split}.parquet") for split in ("train", "test")}
    order = {split: np.random.default_rng(0).permutation(len(table)).tolist() for split, table in reviews.items()}
    parts = {}
    for split, count in EMBEDDED_TEXTS.items():
        source = "test" if split == "test" else "train"
        texts = reviews[source]["text"].to_pylist()
        first = EMBEDDED_TEXTS["train"] if split == "validation" else 0
        own = [texts[row] for row in order[source][first : first + count]]
        pairs = pyarrow.parquet.read_table(data / "trecqa" / f"{split}.parquet")
        own += sorted({*pairs["text_a"].to_pylist(), *pairs["text_b"].to_pylist()})
        parts[split] = [{"text": text} for text in own]
    _write(folder, parts, ("text",))


def _write(folder: Path, parts: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[str]) -> None:
    for split, rows in parts.items():
        table = pyarrow.Table.from_pylist([{name: row[name] for name in columns} for row in rows])
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet")


@dataclass(frozen=True)
class Retrieval:
    """Questions, and the sentences among which their answers are to be found.

    Attributes:
        questions: their texts, encoded.
        sentences: those of all questions, encoded.
        relevant: pairs of the index of a question and that of a sentence which answers it.
    """

    questions: Examples
    sentences: Examples
    relevant: Tensor

    @classmethod
    def of(cls, prepared: Prepared, table: Path | None, max_length: int) -> "Retrieval | None":
        """Returns those of a table of questions, sentences and labels, where 1 is an answer; None without a table."""
        if table is None:
            return None
        rows = pyarrow.parquet.read_table(table).to_pylist()
        asked, told = (list(dict.fromkeys(row[name] for row in rows)) for name in ("text_a", "text_b"))
        pairs = {(asked.index(row["text_a"]), told.index(row["text_b"])) for row in rows if row["label"] == 1}

        def encoded(texts: Sequence[str]) -> Examples:
            zeros = np.zeros(len(texts), dtype=np.int64)
            own = Rows((tuple(texts),), zeros.astype(np.float32), zeros)
            return prepared.task.encode(own, prepared.tokenizer, max_length).examples

        return cls(encoded(asked), encoded(told), torch.tensor(sorted(pairs)))

    def figures(self, vectors_of: Callable[[Examples], Tensor]) -> dict[str, float]:
        """Returns the mean reciprocal rank of the first answer, over the questions that have one."""
        found = mean_reciprocal_rank(vectors_of(self.questions), vectors_of(self.sentences), self.relevant)
        return {"retrieval MRR": found}


def units(options: argparse.Namespace) -> Iterator[tuple[str, Unit]]:
    """Yields the units by name: of all sets the teacher and the policy, and then the rivals."""
    bases = {name: _base(each, options) for name, each in SETS.items() if each.settings["task"] in TASKS}
    questions = Path(options.data) / "trecqa" / "test.parquet"
    pairs = {name: questions if each.retrieval else None for name, each in SETS.items()}
    for name, base in bases.items():
        yield f"{name}/teacher", Unit(of_teacher(base), partial(the_teacher, base, pairs[name]))
        for row, changes in {"policy": {}, **SETS[name].more}.items():
            yield f"{name}/{row}", _training(base, changes, SETS[name].targets, pairs[name])
    for rival in RIVALS:
        for name, base in bases.items():
            # Its documents are fewer than the policy's, because each has eight trajectories, which cost more.
            paper = {**TR_BERT, "select.points": (1, 3), "joint.documents": 3 * (base.joint.documents or 8000) // 16}
            changes = paper if rival == "tr-bert" else {"selector": rival}
            yield f"{name}/{rival}", _training(base, changes, SETS[name].targets, pairs[name])


def _base(each: Target, options: argparse.Namespace) -> Settings:
    made = Path(options.work) / each.folder
    own = {
        "data.source": str(made if made.exists() else Path(options.data) / each.folder),
        "compute.threads": options.threads,
        "compute.device": options.device,
        "compute.evaluation": "auto",
        "select.points": (0, 2),
    }
    return override(Settings(), {**own, **each.settings, **each.recipe})


def _training(base: Settings, changes: dict[str, Any], targets: tuple[float, ...], pairs: Path | None) -> Unit:
    own = override(base, changes)
    return Unit(told_settings(own), partial(trained, base, own, targets, pairs))


def the_teacher(settings: Settings, pairs: Path | None) -> dict[str, Any]:
    """Returns the teacher's result on test.

    Args:
        settings: the set's own.
        pairs: the table of questions and sentences for `Retrieval`; None for a set without.
    """
    prepared = prepared_for(settings)
    encoder, test = Encoder(prepared.plain(pick_device(settings.compute.device))), prepared.test
    reducer = Reducer(encoder=encoder, task=prepared.task)
    with autocast(encoder.device, settings.compute.evaluation):
        decoded = prepared.task.decode(unreduced_outputs(reducer, test), test)
        retrieval = Retrieval.of(prepared, pairs, settings.data.max_length)
        found = retrieval.figures(partial(unreduced_outputs, reducer)) if retrieval else {}
    flops = float(CostModel.of(reducer).unreduced(test.tokens.lengths).mean())
    return {
        "points": [{"speed_up": 1.0, "gflops": flops / 1e9, **figures_of(prepared, decoded, found)}],
        "metric": prepared.metric,
        "documents": {name: len(getattr(prepared, name).tokens) for name in ("train", "validation", "test")},
        "examples": prepared.documents,
    }


def trained(base: Settings, settings: Settings, targets: tuple[float, ...], pairs: Path | None) -> dict[str, Any]:
    """Returns what a trained model achieves on test at each target speed-up and with all tokens kept.

    Args:
        base: the settings of the set, whose teacher all models of the set share.
        settings: the model's own.
        targets: the speed-ups.
        pairs: the table of questions and sentences for `Retrieval`; None for a set without.
    """
    prepared = _prepared(base, settings)
    torch.set_num_threads(settings.compute.threads or 1)
    model = Model(prepared, settings)
    train, validation = prepared.train, prepared.validation
    model.select(train, model.sampler(train), told_now("select"))
    model.join(train, told_now("joint"))
    model.settle(validation)
    at = partial(_point, model, prepared, Retrieval.of(prepared, pairs, settings.data.max_length))
    measured = [at(dial, target) for target, dial in dials_for(model, validation, targets)]
    return {
        "points": measured,
        "keep_all": at(model.selector.keep_all, None),
        "penalty": model.settings.select.penalty,
    }


def _prepared(base: Settings, settings: Settings) -> Prepared:
    """Returns the set as it is prepared for all its rows. A teacher drops nothing, so it protects nothing either."""
    prepared = prepared_for(base)
    if settings.data.protect == base.data.protect:
        return prepared
    parts = {name: getattr(prepared, name) for name in ("train", "validation", "test")}
    free = {name: replace(part, tokens=first_alone(part.tokens)) for name, part in parts.items()}
    return replace(prepared, separator=None, **free)


def _point(
    model: Model, prepared: Prepared, retrieval: Retrieval | None, dial: float, target: float | None
) -> dict[str, Any]:
    reducer, compute, test = model.reducer, model.settings.compute, prepared.test
    lengths, forward = test.tokens.lengths, forward_at(reducer, model.selector, dial)
    with autocast(reducer.encoder.device, compute.evaluation):
        found = predict(reducer, forward, test, compute.tokens_of_pass)
        retrieved = retrieval.figures(lambda each: predict(reducer, forward, each).outputs) if retrieval else {}
    flops = model.cost.reduced(lengths, found.kept, reducer.points, model.selector)
    return {
        "target": target,
        "dial": dial,
        "speed_up": speed_up(model.cost.unreduced(lengths), flops),
        "kept": (found.kept.sum(1) / lengths.sum()).tolist(),
        **figures_of(prepared, found.decoded, retrieved),
    }


def figures_of(prepared: Prepared, decoded: Sequence[Any], more: Mapping[str, float]) -> dict[str, Any]:
    """Returns the quality on test, further measures, and the quality on resamples, the same ones for every model.

    For a choice there is the share of questions that the teacher answers alike, because the teacher is near chance.
    """
    task, test = prepared.task, prepared.test
    found = task.qualities(decoded, test, resamples(len(test), count=RESAMPLES))
    figures = task.figures(decoded, test) | dict(more)
    if task.name == "multiple_choice":
        alike = [own == said for own, said in zip(decoded, prepared.teacher_answers, strict=True)]
        figures["agreement with the teacher"] = float(np.mean(alike))
    return {
        "quality": task.quality(decoded, test),
        "figures": figures,
        "resampled": [round(each, 5) for each in found.tolist()],
    }


if __name__ == "__main__":
    main()
