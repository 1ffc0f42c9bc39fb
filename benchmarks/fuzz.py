"""Feeds damaged files to the commands, each in a process of its own, and counts how they end.

    python benchmarks/fuzz.py --cases 10000 --seed 0      # what docs/results/fuzz.md shows
    python benchmarks/fuzz.py --kinds csv,parquet         # only these kinds of file
    python benchmarks/fuzz.py --seed 0 --case 17          # one case again, with all that it prints

A case takes a good file or folder, damages it (benchmarks/mutations.py), and gives it to a command. It has
failed if the command breaks one of the rules of `judge` (benchmarks/sandbox.py). The seed and its number determine it.

Writes docs/results/fuzz.md and .json if all kinds ran, and runs/fuzz/failures.jsonl.
"""

import argparse
import collections
import gc
import gzip
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import huggingface_hub
import numpy
import pyarrow
import pyarrow.parquet
import ray
import tokenizers
import torch
import transformers
from mutations import (
    damage_bytes,
    damage_csv,
    damage_folder,
    damage_gzip,
    damage_json,
    damage_lines,
    damage_parquet,
    damage_safetensors,
)
from reports import write_report
from sandbox import Box, Command, Limits, Order, run_forked, run_judged

import trbert
from trbert.console import exit_code
from trbert.disk.checksums import write_checksums
from trbert.modeling import TrbertConfig, TrbertForSequenceClassification
from tune import driver, pareto, search  # noqa: F401  (the driver is imported before anything is forked)
from tune.learning.standing import COMMONEST, LINEAR, Baseline, Standing
from tune.results.front import Point, mark_front
from tune.results.standing_file import write_standing
from tune.results.table import write_front
from tune.runs.folder import RunFolder
from tune.runs.record import SavedRun, new_id, write_run
from tune.settings import Search, Settings, override

ROOT = Path(__file__).resolve().parents[1]
LIMITS = Limits(seconds=20.0, hang=120.0, megabytes=1000)
"""What a case may take. A case alone on a machine takes a tenth of a second."""
DATA_SIZE = "300MB"
"""What the data may take: `--max-data-size`, because as much as it allows without it is more than a case may take."""
GROWN = ("many.parquet", "long.parquet", "grown.csv.gz", "grown.jsonl.gz")
"""Good files that are small, and hold hundreds of megabytes."""
WORDS = [*(f"w{number}" for number in range(30)), "alpha", "beta"]
FAILURES = Path("runs/fuzz/failures.jsonl")

Make = Callable[[Box, Random], Order]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a case.

    Attributes:
        number: of the case.
        kind: the kind of file that was damaged.
        damage: what was done to it.
        words: the arguments of the command.
        outcome: "accepted", "refused" or "failed".
        why: the rule that was broken; "" if none was.
        place: the line of this project in which a failure happened.
        seconds: of the processor that it took.
        megabytes: the memory that it took.
        said: what the command printed on stderr.
    """

    number: int
    kind: str
    damage: str
    words: tuple[str, ...]
    outcome: str
    why: str
    place: str
    seconds: float
    megabytes: float
    said: str


# -- the good files


def make_seeds(folder: Path) -> None:
    """Writes small good files of each kind: plain and reduced models, a run, and tables."""
    torch.manual_seed(0)
    for name, config in _configs().items():
        model = transformers.AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        model.save_pretrained(folder / name)
        _tokenizer().save_pretrained(folder / name)
    plain = _configs()["bert"]
    reduced = TrbertConfig(
        encoder={**plain.to_diff_dict(), "model_type": "bert", "id2label": {0: "A", 1: "B"}},
        points=(0, 1),
        policy_width=4,
        policy_features=("document",),
        max_tokens=16,
        fusion=True,
    )
    TrbertForSequenceClassification(reduced).save_pretrained(folder / "reduced")
    _tokenizer().save_pretrained(folder / "reduced")
    _make_tables(folder)
    _make_run(folder)


def _configs() -> dict[str, Any]:
    named = {"id2label": {0: "A", 1: "B"}, "label2id": {"A": 0, "B": 1}, "vocab_size": 4 + len(WORDS)}
    shape = {**named, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    distil = {**named, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8, "max_position_embeddings": 32}
    return {
        "bert": transformers.BertConfig(**shape, max_position_embeddings=32),
        "distilbert": transformers.DistilBertConfig(**distil),
        "modernbert": transformers.ModernBertConfig(**shape, **special, max_position_embeddings=32),
    }


def _tokenizer() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    ids = {word: index for index, word in enumerate([*special, *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **names)


def _make_tables(folder: Path) -> None:
    draw = Random(0)
    rows = [{"text": " ".join(draw.choices(WORDS, k=6)), "label": "AB"[number % 2]} for number in range(24)]
    lines = [json.dumps(row) for row in rows]
    texts = {
        "rows.csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows),
        "rows.jsonl": "\n".join(lines) + "\n",
        "rows.json": json.dumps(rows),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    # The rest are those of `GROWN`.
    long = pyarrow.DictionaryArray.from_arrays(numpy.zeros(5_000_000, numpy.int32), ["x" * 100])
    grown = pyarrow.table({"text": long, "label": pyarrow.DictionaryArray.from_arrays(long.indices, ["A"])})
    pyarrow.parquet.write_table(grown, folder / "many.parquet")
    one = pyarrow.table({"text": ["x" * 500_000_000, "y"], "label": ["A", "B"]})
    pyarrow.parquet.write_table(one, folder / "long.parquet", compression="zstd")
    for name, start, line in (
        ("grown.csv.gz", "text,label\n", "some words,A\n"),
        ("grown.jsonl.gz", "", f"{lines[0]}\n"),
    ):
        with gzip.open(folder / name, "wb", compresslevel=1) as file:
            file.write(start.encode())
            for _ in range(500):
                file.write(line.encode() * (1_000_000 // len(line)))


def _make_run(folder: Path) -> None:
    run = RunFolder(folder / "run")
    shutil.copytree(folder / "bert", run.models / "teacher")
    shutil.copytree(folder / "reduced", run.models / "0")
    for model in run.models.iterdir():
        write_checksums(model)
    teacher = {"quality_validation": 0.9, "quality_test": 0.9, "drop": 0.0}
    better = {"quality_validation": 0.88, "quality_test": 0.87, "drop": 3.0, "docs_per_second": 80.0}
    faster = {"quality_validation": 0.8, "quality_test": 0.8, "drop": 10.0, "docs_per_second": 150.5}
    trained = {"trial": "0", "selector": "policy", "points": (0, 1), "penalty": 1.0, "model": "models/0"}
    write_front(
        run.front_table,
        mark_front(
            [
                Point(trial="teacher", selector="none", speed_up_validation=1.0, model="models/teacher", **teacher),
                Point(**trained, dial=0.0, speed_up_validation=2.0, speed_up_test=2.1, kept=(0.5, 0.4), **better),
                Point(**trained, dial=-1.5, speed_up_validation=4.0, speed_up_test=4.2, kept=(0.3, 0.2), **faster),
                Point(trial="free", selector="first", dial=0.5, speed_up_validation=1.9, quality_validation=0.6),
            ]
        ),
    )
    baselines = tuple(
        Baseline(name=name, validation=0.5, test=0.5, rows=16, ahead=0.3, error=0.05) for name in (COMMONEST, LINEAR)
    )
    figures = {
        "validation": 0.9,
        "test": 0.9,
        "known": 0.5,
        "trained": True,
        "has_head": True,
        "train_rows": 16,
        "test_rows": 4,
        "interval": 0.5,
    }
    write_standing(run.baselines, Standing(**figures, baselines=baselines))
    changes = {"model": str(folder / "bert"), "data.source": str(folder / "rows.csv"), "new_head": True}
    settings = override(Settings(), {**changes, "data.max_length": 16, "data.train_rows": 16})
    write_run(run, SavedRun(id=new_id("run"), settings=settings, search=Search(num_trials=2), fitted=settings))


# -- the kinds of cases


def load_reduced(words: list[str]) -> int:
    """Loads a reduced model and runs it on a document, as a command does."""

    def run() -> None:
        model = trbert.load(words[0])
        ids = torch.tensor([[2, 5, 6, 3]])
        with torch.no_grad():
            print(tuple(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape))

    return exit_code(run, verbose="--verbose" in words)


def resume(words: list[str]) -> int:
    """Resumes a search as the command does, but neither asks the hub nor starts Ray, for settings may name both."""
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    ray.init = _no_cluster
    return search.main(words)


def _no_cluster(*_: Any, **__: Any) -> NoReturn:
    raise ConnectionError("no cluster is asked from here")


def _front(box: Box, draw: Random) -> Order:
    run = _copied(box, "run")
    cells = ("models/0", "models/../models/0", "models", f"{box.outside}", "models/teacher", "teacher", "free", "none")
    said = _damaged(draw, run / "front.csv", lambda draw, content: damage_csv(draw, content, cells))
    return Order(command=pareto.main, words=_looking(box, draw, run), damage=said)


def _baselines(box: Box, draw: Random) -> Order:
    run = _copied(box, "run")
    said = _damaged(draw, run / "baselines.json", lambda draw, content: damage_json(draw, content, ()))
    return Order(command=pareto.main, words=_looking(box, draw, run), damage=said)


def _models(box: Box, draw: Random) -> Order:
    run = _copied(box, "run")
    if draw.random() < 0.3:
        path = run / "models" / draw.choice(("teacher", "0")) / "config.json"
        said, picks = _damaged(draw, path, damage_json), 0.9
    else:
        said, picks = damage_folder(draw, run, box.outside), 0.7
    return Order(command=pareto.main, words=_looking(box, draw, run, picks), damage=said)


def _looking(box: Box, draw: Random, run: Path, picks: float = 0.5) -> tuple[str, ...]:
    """Returns the arguments with which tune/pareto.py looks at a run, or picks a model of it."""
    if draw.random() > picks:
        return (str(run), *draw.choice(((), ("--all",), ("--check",))))
    bound = draw.choice((("--max-drop", "100"), ("--min-speedup", "3"), ("--max-drop", "1")))
    return (str(run), *bound, *(("--out", str(box.case / "out")) if draw.random() < 0.7 else ()))


def _settings(box: Box, draw: Random) -> Order:
    run = _copied(box, "run")
    good = (run / "settings.json").read_bytes()
    while True:
        said = _damaged(draw, run / "settings.json", lambda draw, content: damage_json(draw, content, ()))
        if _names_inputs((run / "settings.json").read_bytes()):
            words = ("--resume", str(run), "--dry-run", *draw.choice(((), ("--trust",))))
            return Order(command=resume, words=words, damage=said, may_connect=True)
        (run / "settings.json").write_bytes(good)


def _names_inputs(content: bytes) -> bool:
    """Returns False for settings without a model or data, because then the packaged ones are read, for 20 seconds."""
    try:
        settings = json.loads(content)["settings"]
        data = settings["data"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        return not isinstance(error, KeyError)
    return "model" in settings and (not isinstance(data, dict) or "source" in data)


def _config(box: Box, draw: Random) -> Order:
    model = _copied(box, draw.choice(tuple(_configs())))
    return _searching(box, draw, model, _damaged(draw, model / "config.json", damage_json))


def _tokenizers(box: Box, draw: Random) -> Order:
    model = _copied(box, draw.choice(tuple(_configs())))
    if draw.random() < 0.1:
        return _searching(box, draw, model, damage_folder(draw, model, box.outside))
    name = draw.choice(("tokenizer.json", "tokenizer_config.json"))
    return _searching(box, draw, model, _damaged(draw, model / name, damage_json))


def _weights(box: Box, draw: Random) -> Order:
    model = _copied(box, draw.choice(tuple(_configs())))
    return _searching(box, draw, model, _damaged(draw, model / "model.safetensors", damage_safetensors))


def _reduced(box: Box, draw: Random) -> Order:
    model = _copied(box, "reduced")
    if draw.random() < 0.1:
        said = damage_folder(draw, model, box.outside)
    else:
        name, damage = draw.choice((("config.json", damage_json), ("model.safetensors", damage_safetensors)))
        said = _damaged(draw, model / name, damage)
    return Order(command=load_reduced, words=(str(model),), damage=said)


def _searching(box: Box, draw: Random, model: Path, said: str) -> Order:
    words = ("--dry-run", "--model", str(model), "--data", str(box.seeds / "rows.csv"), "--max-length", "16")
    return Order(command=search.main, words=(*words, *draw.choice(((), ("--new-head",)))), damage=said)


def _table(name: str, damage: Callable[[Random, bytes], tuple[bytes, str]]) -> Make:
    """Returns what makes cases of a kind of table."""

    def order(box: Box, draw: Random) -> Order:
        packed = name.endswith(".gz")
        grown = [each for each in GROWN if each.endswith(name[4:])]
        data = box.case / name
        if draw.random() < 0.03 and grown:
            said = draw.choice(grown)
            shutil.copy(box.seeds / said, data)
        else:
            content = (box.seeds / name).read_bytes()
            if packed and draw.random() < 0.5:
                content, said = damage(draw, gzip.decompress(content))
                data.write_bytes(gzip.compress(content, mtime=0))
            else:
                data.write_bytes(content)
                said = _damaged(draw, data, damage_gzip if packed else damage)
        words = ("--dry-run", "--model", str(box.seeds / "bert"), "--data", str(data), "--max-length", "16")
        return Order(command=search.main, words=(*words, "--new-head", "--max-data-size", DATA_SIZE), damage=said)

    return order


def _copied(box: Box, name: str) -> Path:
    return Path(shutil.copytree(box.seeds / name, box.case / name))


def _damaged(draw: Random, path: Path, damage: Callable[[Random, bytes], tuple[bytes, str]]) -> str:
    """Damages a file, by its structure or by its bytes, and returns what was done."""
    content, said = (damage_bytes if draw.random() < 0.25 else damage)(draw, path.read_bytes())
    path.write_bytes(content)
    return f"{path.name}: {said}"


KINDS: dict[str, Make] = {
    "front": _front,
    "baselines": _baselines,
    "models": _models,
    "settings": _settings,
    "config": _config,
    "tokenizer": _tokenizers,
    "safetensors": _weights,
    "reduced": _reduced,
    "csv": _table("rows.csv", damage_csv),
    "jsonl": _table("rows.jsonl", damage_lines),
    "json": _table("rows.json", lambda draw, content: damage_json(draw, content, ())),
    "parquet": _table("rows.parquet", damage_parquet),
    "csv.gz": _table("rows.csv.gz", damage_csv),
    "jsonl.gz": _table("rows.jsonl.gz", damage_lines),
}
"""What is damaged, and the command that it is given to. The number of a case decides its kind."""


def kind_of(number: int) -> str:
    """Returns the kind of a case."""
    return tuple(KINDS)[number % len(KINDS)]


# -- one case


def run_case(number: int, seed: int, box: Box, make: Make | None = None) -> Result:
    """Makes a case, runs its command in a process of its own, and judges how that ends.

    Args:
        number: of the case.
        seed: of all cases.
        box: the folders that the process gets. They are empty afterwards.
        make: makes the case; None takes that of the case's kind.
    """
    kind = kind_of(number)
    make = make or KINDS[kind]
    before = box.listing()
    made = make(box, Random(f"{seed} {number}"))
    ended, outcome, why = run_judged(made, box, before, LIMITS)
    place = ""
    if outcome == "failed":
        err = ended.err
        if ended.code == 1:  # once more, for the traceback
            box.empty()
            made = make(box, Random(f"{seed} {number}"))
            err = run_forked(replace(made, words=(*made.words, "--verbose")), box, LIMITS).err
        place = _place(err)
    box.empty()
    said = ended.err.decode(errors="backslashreplace")
    figures = {"seconds": round(ended.seconds, 3), "megabytes": round(ended.megabytes, 1)}
    named = {"number": number, "kind": kind, "damage": made.damage, "words": made.words}
    return Result(**named, outcome=outcome, why=why, place=place, said=said[-2000:], **figures)


def _place(err: bytes) -> str:
    """Returns the innermost line of this project in a traceback of Python's or of faulthandler's."""
    text = err.decode(errors="replace")
    frames = re.findall(rf'File "{re.escape(str(ROOT))}/([^"]+)", line (\d+),? in (\w+)', text)
    frames = [frame for frame in frames if not frame[0].startswith("benchmarks/")]
    if not frames:
        return ""
    path, line, name = frames[0 if "most recent call first" in text else -1]
    error = re.findall(r"^([\w.]+(?:Error|Exception|Panic\w*|Invalid\w*))\b", text, re.MULTILINE)
    return f"{path}:{line} {name}{f' {error[-1]}' if error else ''}"


# -- all cases

_BOX: Box | None = None


def _work(task: tuple[int, int, Path]) -> Result:
    """Runs one case in the box of this worker, which is made at its first case."""
    global _BOX
    number, seed, seeds = task
    if _BOX is None:
        _BOX = Box(path=seeds.parent / f"w{os.getpid()}", seeds=seeds).make()
    return run_case(number, seed, _BOX)


def run_all(numbers: Sequence[int], seed: int, workers: int, seeds: Path) -> Iterator[Result]:
    """Yields the results of cases, in the order in which they end."""
    gc.collect()
    gc.freeze()  # so that the collector does not write to memory that the forked processes share
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(_work, [(number, seed, seeds) for number in numbers], chunksize=4)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help=f"only these of {', '.join(KINDS)}; the numbers of the cases stay the same")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", type=int, metavar="NUMBER", help="run this case alone, and show what it prints")
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args(arguments)
    kinds = tuple(KINDS) if options.kinds is None else tuple(options.kinds.split(","))
    if unknown := set(kinds) - set(KINDS):
        raise SystemExit(f"--kinds must be some of {', '.join(KINDS)}, and has {', '.join(sorted(unknown))}")
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    os.environ.pop("RAY_ADDRESS", None)
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)  # what is forked from a process with several threads may hang
    pyarrow.set_cpu_count(1)
    transformers.utils.logging.disable_progress_bar()
    # The path is short, because Ray's sockets would lie below it.
    with tempfile.TemporaryDirectory(prefix="fz", dir="/tmp") as shelter:
        seeds = Path(shelter) / "seeds"
        seeds.mkdir()
        maker = multiprocessing.get_context("fork").Process(target=make_seeds, args=(seeds,))
        maker.start()  # apart from this process, because it takes a gigabyte
        maker.join()
        warm_up(Box(path=Path(shelter) / "warm", seeds=seeds).make())
        if options.case is not None:
            return show(options.case, options.seed, Box(path=Path(shelter) / "one", seeds=seeds).make())
        numbers = [number for number in range(options.cases) if kind_of(number) in kinds]
        started = time.monotonic()
        results = []
        for result in run_all(numbers, options.seed, options.workers, seeds):
            results.append(result)
            if result.outcome == "failed":
                print(f"{result.number} {result.kind}: {result.why} {result.place} [{result.damage}]", flush=True)
            if len(results) % 500 == 0:
                print(f"{len(results):,} of {len(numbers):,} cases, {time.monotonic() - started:.0f} s", flush=True)
    results.sort(key=lambda result: result.number)
    seconds = time.monotonic() - started
    summarise(results, seconds)
    if kinds == tuple(KINDS):
        report(results, seconds, options)
    return int(any(result.outcome == "failed" for result in results))


def warm_up(box: Box) -> None:
    """Runs each command once on good files, so that whatever it imports is there before anything is forked.

    Raises:
        RuntimeError: A good file is refused.
    """
    words = ["--dry-run", "--data", "", "--model", ""]
    orders: list[tuple[Command, list[str]]] = [(load_reduced, [str(box.seeds / "reduced")])]
    orders += [(pareto.main, [str(box.seeds / "run"), "--max-drop", "100", "--out", str(box.case / "out")])]
    orders += [(pareto.main, [str(box.seeds / "run"), "--check"])]
    for name in _configs():
        for data in ("rows.csv", "rows.jsonl.gz", "rows.json", "rows.parquet"):
            words = ["--dry-run", "--data", str(box.seeds / data), "--model", str(box.seeds / name)]
            orders.append((search.main, [*words, "--runs", str(box.path / "cwd"), "--max-length", "16"]))
    orders.append((search.main, ["--resume", str(box.seeds / "run"), "--dry-run"]))
    os.environ |= {"TRBERT_CACHE": str(box.path / "cache"), "RAY_TMPDIR": str(box.path / "tmp")}
    for command, arguments in orders:
        kept, sys.stdout = sys.stdout, io.StringIO()
        try:
            code = command(arguments)
        finally:
            said, sys.stdout = sys.stdout.getvalue(), kept
        if code != 0:
            raise RuntimeError(f"good files must be accepted, and {arguments} ended with {code}: {said}")


def show(number: int, seed: int, box: Box) -> int:
    """Runs one case, and prints all that it printed."""
    box.empty()
    made = KINDS[kind_of(number)](box, Random(f"{seed} {number}"))
    print(f"case {number}, {kind_of(number)}: {made.damage}\narguments {made.words}")
    ended = run_forked(replace(made, words=(*made.words, "--verbose")), box, LIMITS)
    print(ended.out.decode(errors="backslashreplace"), ended.err.decode(errors="backslashreplace"), sep="\n")
    box.empty()
    result = run_case(number, seed, box)
    print(json.dumps(asdict(result), indent=1))
    return int(result.outcome == "failed")


def summarise(results: Sequence[Result], seconds: float) -> None:
    """Prints the failures by rule and place, and saves each of them."""
    failed = [result for result in results if result.outcome == "failed"]
    FAILURES.parent.mkdir(parents=True, exist_ok=True)
    FAILURES.write_text("".join(f"{json.dumps(asdict(result))}\n" for result in failed))
    alike = collections.defaultdict(list)
    for result in failed:
        why = (
            "" if result.why.startswith("exit code") and result.place else re.sub(r"\d+| in '.*", "N", result.why)[:90]
        )
        alike[(result.kind, why, result.place)].append(result.number)
    print(f"{len(results):,} cases in {seconds:.0f} s, {len(failed)} failed")
    for (kind, why, place), numbers in sorted(alike.items()):
        where = "; ".join(filter(None, (why, place)))
        print(f"{len(numbers):4} × {kind}: {where}; --case {', '.join(map(str, numbers[:5]))}")


def report(results: Sequence[Result], seconds: float, options: argparse.Namespace) -> None:
    """Writes the page."""
    rows = ["| damaged | command | cases | accepted | refused | failed | most memory, MB | slowest, s |"]
    rows += [_row(kind, [result for result in results if result.kind == kind]) for kind in KINDS]
    rows.append(_row("all", results))
    failed = [asdict(result) for result in results if result.outcome == "failed"]
    write_report(
        Path(options.out) / "fuzz",
        "What damaged files do",
        f"python benchmarks/fuzz.py --cases {options.cases} --seed {options.seed} --workers {options.workers}",
        torch.device("cpu"),
        HOW.format(
            megabytes=LIMITS.megabytes,
            seconds=LIMITS.seconds,
            hang=LIMITS.hang,
            size=DATA_SIZE,
            took=seconds,
            each=len(results) / seconds,
            seed=options.seed,
            commit=_commit(),
        ),
        rows,
        {"seed": options.seed, "cases": len(results), "seconds": round(seconds, 1), "rows": rows, "failed": failed},
    )


_COMMANDS = {
    **dict.fromkeys(("front", "baselines", "models"), "`tune/pareto.py`"),
    "settings": "`tune/search.py --resume --dry-run`",
    "reduced": "`trbert.load`",
    "all": "",
}
_DAMAGED = {
    "front": "front.csv of a run",
    "baselines": "baselines.json of a run",
    "models": "the folders of a run, and models in it",
    "settings": "settings.json of a run",
    "config": "config.json of a plain model",
    "tokenizer": "the files of a tokenizer",
    "safetensors": "the weights of a plain model",
    "reduced": "a reduced model",
}


def _row(kind: str, results: Sequence[Result]) -> str:
    count = collections.Counter(result.outcome for result in results)
    cells = [_DAMAGED.get(kind, kind), _COMMANDS.get(kind, "`tune/search.py --dry-run`"), f"{len(results):,}"]
    cells += [f"{count[outcome]:,}" for outcome in ("accepted", "refused", "failed")]
    cells += [f"{max((result.megabytes for result in results), default=0):.0f}"]
    cells += [f"{max((result.seconds for result in results), default=0):.1f}"]
    return f"| {' | '.join(cells)} |"


HOW = """\
Seed {seed}, commit {commit}. All cases took {took:.0f} s, {each:.0f} a second.

A case is a good file or folder that was damaged by its structure (a value, a key, a row, a column, an offset, a link)
or in its bytes, and then given to a command in a process of its own. `--case NUMBER` runs one again. Tables are read
with `--max-data-size {size}`.

* **accepted**: the command ended with code 0. **refused**: with code 2, and one line that begins with "error: ".
* **failed**: it ended in another way, took more than {megabytes:,} MB, {seconds:.0f} s of the
  processor or {hang:.0f} s in all, printed control characters,
  wrote or left anything outside of its folder, opened a connection, started a program, unpickled a class, or showed or
  copied what stands in a file outside of its input.
* **most memory**: of one case, beside what its process has when all packages are imported.
"""


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
