"""From finished trials to a run's results: the models, the front, its table and picture."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trbert.encoder import Encoder
from trbert.measure.evaluate import Evaluation, evaluate, evaluate_unreduced
from trbert.modeling import load
from trbert.packed.tokens import Tokens
from trbert.selection.selectors import LEARNED
from trbert.shapes import DocIndex
from tune.checkpoints import forget_elders
from tune.learning.prepare import FreePoint, Prepared
from tune.learning.steps import autocast
from tune.results.front import Point, is_trained, keeps_all, mark_front
from tune.results.picture import draw
from tune.results.table import write_front
from tune.runs import RunFolder, copy_folder
from tune.settings import ComputeSettings, Settings
from tune.trial import RESULT

TIMED_DOCUMENTS = 96
TIMED_BATCH_TOKENS = 4096
TIMED_ROUNDS = 3


def collect(
    folder: RunFolder, prepared: Prepared, settings: Settings, free: Sequence[FreePoint], results: Sequence[Any]
) -> tuple[Point, ...]:
    """Writes a run's models, front.csv and front.png, and returns the points.

    Args:
        folder: of the run.
        prepared: what all trials shared.
        settings: the fixed part.
        free: what the free rules achieve.
        results: Ray Tune's results; those without a finished trial are left out.
    """
    save_teacher(folder, prepared, settings)
    points: list[Point] = [_teacher_point(prepared)]
    points += [_free_point(each) for each in free]
    trials = []
    for number, result in enumerate(finished(results), start=1):
        trials.append(_save_model(folder, number, result))
        points += _trial_points(number, trials[-1])
    marked = mark_front(points)
    reported = _reported(marked)
    models = {marked[i].model: load(folder.path / marked[i].model) for i in reported}
    tested = _with_drops(_tested(marked, reported, models, prepared, settings.compute))
    for number, told in enumerate(trials, start=1):
        _write_card(folder, number, told, tested)
    timed = _timed(tested, models, prepared)
    write_front(folder.front_table, timed)
    draw(timed, folder.front_picture)
    return tuple(timed)


def finished(results: Sequence[Any]) -> list[Any]:
    """Returns the results of trials that came to their end, in the order in which they were started."""
    return [
        result
        for result in results
        if result.error is None and result.checkpoint is not None and (result.metrics or {}).get("finished")
    ]


def save_teacher(folder: RunFolder, prepared: Prepared, settings: Settings) -> None:
    """Saves the unreduced model as an ordinary Hugging Face checkpoint."""
    with tempfile.TemporaryDirectory() as temporary:
        prepared.classifier(torch.device("cpu")).save_pretrained(temporary)
        prepared.tokenizer.save_pretrained(temporary)
        card = _card("The unreduced teacher", settings, [f"accuracy on test: {prepared.teacher_test:.4f}"])
        (Path(temporary) / "README.md").write_text(card, encoding="utf-8")
        copy_folder(Path(temporary), folder.models / "teacher")


def _teacher_point(prepared: Prepared) -> Point:
    return Point(
        trial="teacher",
        selector="none",
        dial=None,
        points=(),
        penalty=None,
        keep_ratios=(),
        quality_validation=prepared.teacher_validation,
        quality_test=prepared.teacher_test,
        drop=0.0,
        speed_up_validation=1.0,
        speed_up_test=1.0,
        docs_per_second=None,
        kept=(),
        on_front=False,
        model="models/teacher",
    )


def _free_point(free: FreePoint) -> Point:
    return Point(
        trial="free",
        selector=free.selector,
        dial=free.dial,
        points=free.points,
        penalty=None,
        keep_ratios=(),
        quality_validation=free.validation.quality,
        quality_test=free.test.quality,
        drop=None,
        speed_up_validation=free.validation.speed_up,
        speed_up_test=free.test.speed_up,
        docs_per_second=None,
        kept=free.test.kept,
        on_front=False,
        model="",
    )


def _save_model(folder: RunFolder, number: int, result: Any) -> dict[str, Any]:
    """Copies a trial's model to its place in the run; returns what the trial told of it."""
    with result.checkpoint.as_directory() as checkpoint:
        told: dict[str, Any] = json.loads((Path(checkpoint) / RESULT).read_text(encoding="utf-8"))
        copy_folder(Path(checkpoint) / "model", folder.models / str(number))
    forget_elders(result.checkpoint)
    return told


def _trial_points(number: int, told: dict[str, Any]) -> list[Point]:
    select = told["settings"]["select"]
    return [
        Point(
            trial=str(number),
            selector=told["settings"]["selector"],
            dial=each["dial"],
            points=tuple(told["points"]),
            penalty=select["penalty"],
            keep_ratios=tuple(select["keep_ratios"] or ()),
            quality_validation=each["validation"]["quality"],
            speed_up_validation=each["validation"]["speed_up"],
            kept=tuple(each["validation"]["kept"]),
            model=f"models/{number}",
        )
        for each in told["curve"]
    ]


def _reported(points: Sequence[Point]) -> list[int]:
    """Returns which trained points are measured on test: the front's, and the yardstick's, all chosen on validation."""
    full = [i for i, point in enumerate(points) if is_trained(point) and keeps_all(point)]
    yardstick = max(full, key=lambda i: points[i].quality_validation, default=None)
    return [i for i, point in enumerate(points) if is_trained(point) and (point.on_front or i == yardstick)]


def _tested(
    points: Sequence[Point],
    reported: Sequence[int],
    models: dict[str, Any],
    prepared: Prepared,
    compute: ComputeSettings,
) -> list[Point]:
    """Measures these points on test, in the arithmetic that the teacher and the free rules were measured in."""
    test = prepared.test.examples()
    tested = list(points)
    for index in reported:
        model = models[points[index].model]
        with autocast(model.staged.device, compute.evaluation):
            found = _measure(model, points[index], test.tokens, test.labels, compute.tokens_per_batch)
        tested[index] = replace(
            points[index], quality_test=found.quality, speed_up_test=found.speed_up, kept=tuple(found.kept)
        )
    return tested


def _write_card(folder: RunFolder, number: int, told: dict[str, Any], points: Sequence[Point]) -> None:
    settings, learned = told["settings"], told["settings"]["selector"] in LEARNED
    priced = f"penalty {settings['select']['penalty']:.3g}" if learned else "nothing learned but the encoder"
    lines = [f"selector {settings['selector']}, reduction points {told['points']}, {priced}"]
    lines.append("dial, test accuracy, FLOPs speed-up:")
    for point in points:
        if point.trial == str(number) and point.quality_test is not None:
            lines.append(f"  {point.dial:+.2f}  {point.quality_test:.4f}  {point.speed_up:.2f}x")
    if learned:
        lines.append(_sampled_gap(told))
    card = _card(f"Reduced model {number}", None, lines)
    (folder.models / str(number) / "README.md").write_text(card, encoding="utf-8")


def _sampled_gap(told: dict[str, Any]) -> str:
    """Says what thresholding, as deployed, gains on drawing masks, as trained; both on validation, at dial 0."""
    deployed = next(each["validation"] for each in told["curve"] if each["dial"] == told["dial"])
    drawn = told["sampled"]
    return (
        f"masks drawn, as in training, instead of thresholded at dial 0: validation accuracy {drawn['quality']:.4f} "
        f"at {drawn['speed_up']:.2f}x, against {deployed['quality']:.4f} at {deployed['speed_up']:.2f}x"
    )


def _with_drops(points: Sequence[Point]) -> list[Point]:
    """Drops are from the best model that keeps all tokens, the teacher or a jointly trained one."""
    yardstick = max(point.quality_test or 0.0 for point in points if keeps_all(point))
    return [
        point if point.quality_test is None else replace(point, drop=100 * (yardstick - point.quality_test))
        for point in points
    ]


def _timed(points: Sequence[Point], models: dict[str, Any], prepared: Prepared) -> list[Point]:
    """Measures documents a second of the front's models, one after the other in interleaved rounds, nothing beside."""
    part = prepared.test.examples()
    documents = torch.arange(min(TIMED_DOCUMENTS, len(part.tokens)))
    tokens, labels = part.tokens.take(documents), part.labels[documents]
    wanted = [i for i, p in enumerate(points) if p.model and (p.on_front or p.trial == "teacher")]
    teacher = Encoder(prepared.classifier(torch.device("cpu")))
    rates_of: dict[int, list[float]] = {index: [] for index in wanted}
    for _ in range(TIMED_ROUNDS):
        for index in wanted:
            point = points[index]
            if is_trained(point):
                found = _measure(models[point.model], point, tokens, labels, TIMED_BATCH_TOKENS)
            else:
                found = evaluate_unreduced(teacher, tokens, labels, TIMED_BATCH_TOKENS)
            rates_of[index].append(found.docs_per_second)
    timed = list(points)
    for index, rates in rates_of.items():
        timed[index] = replace(points[index], docs_per_second=sorted(rates)[len(rates) // 2])
    return timed


def _measure(model: Any, point: Point, tokens: Tokens, labels: DocIndex, tokens_per_batch: int) -> Evaluation:
    selector, dial = model.selector, point.dial or 0.0
    return evaluate(model.staged, model.cost_model(), selector, tokens, labels, point.points, dial, tokens_per_batch)


def _card(title: str, settings: Settings | None, lines: Sequence[str]) -> str:
    head = f"# {title}\n\nMade by `tune/search.py` on {time.strftime('%Y-%m-%d')}.\n\n"
    if settings is not None:
        longest = settings.teacher.max_length or settings.data.max_length
        head += f"Encoder {settings.model}, data {settings.data.source}, at most {longest} tokens.\n\n"
    use = "Load it with `trbert.load(path, dial=…)`, or with transformers after `import trbert.modeling`.\n"
    return head + "\n".join(lines) + "\n\n" + use
