"""Turns finished trials into the results of a run: models, the front, its table and its picture."""

import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trbert.disk.checksums import check_checksums, write_checksums
from trbert.disk.files import copy_tree, write_whole
from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint, InputError
from trbert.measure.evaluate import Evaluation, evaluate_unreduced
from trbert.measure.intervals import interval, resamples
from trbert.modeling import TrbertModel, load
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import selector_class
from trbert.tasks.examples import Examples
from tune.budget import TESTING_SHARE, Clock, StageTimeout
from tune.checkpoints import forget_elders
from tune.learning.inputs import Say
from tune.learning.measuring import evaluate_in_time
from tune.learning.memory import let_go
from tune.learning.model import save_tokenizer
from tune.learning.prepare import Prepared
from tune.learning.standing import Standing, remarks
from tune.learning.steps import autocast
from tune.preflight.places import files_of
from tune.results.front import TEACHER, UNREDUCED, Point, is_trained, keeps_all, mark_front
from tune.results.measures import Measures, in_words, write_measures
from tune.results.outcome import Outcome, read_outcome
from tune.results.picture import draw
from tune.results.rules import rules_on_test
from tune.results.standing_file import write_standing
from tune.results.table import write_front
from tune.runs.folder import RunFolder
from tune.settings import ComputeSettings, Settings

TIMED_DOCUMENTS = 96
"""The number of test documents on which throughput is measured."""
TIMED_BATCH_TOKENS = 4096
"""The largest number of tokens in a batch while throughput is measured."""
TIMED_ROUNDS = 3
"""How many times each model's throughput is measured; the median counts."""
TIMING_SHARE, WRITING_SHARE = 0.5, 0.1
"""The share of the time that testing the models leaves for their throughput; the rest is for testing the free rules.
And the share of all the time at the end for the intervals, drawing and writing; the intervals may take half of it.
"""


def collect(
    folder: RunFolder,
    prepared: Prepared,
    settings: Settings,
    free: Sequence[Point],
    results: Sequence[Any],
    say: Say = print,
    clock: Clock | None = None,
) -> tuple[Point, ...]:
    """Writes a run's models, baselines.json, front.csv and front.png, and returns the points.

    One model is open at a time. What there is no time to measure stays empty.

    Args:
        folder: of the run.
        prepared: what all trials shared.
        settings: the settings that all trials had in common.
        free: the points of the free rules.
        results: Ray Tune's results of all trials; trials that did not finish are left out.
        say: is called with a line for each trial that is left out because its files are damaged.
        clock: counts the time for it; None sets no limit.

    Raises:
        InputError, DamagedCheckpoint: The files of all trials are damaged.
    """
    whole = clock or Clock()
    clock = whole.part((1 - WRITING_SHARE) * whole.left())
    for left in folder.models.glob(".*"):  # half a copy of a search that was killed; only one search has the run
        shutil.rmtree(left, ignore_errors=True)
    save_teacher(folder, prepared, settings)
    points = [_teacher_point(prepared), *free]
    outcomes = _save_models(folder, finished(results), say)
    for outcome in outcomes.values():
        points += outcome.points
    marked, models = mark_front(points), _Models(folder)
    testing = clock.part(TESTING_SHARE * clock.left())
    tested, answers = _tested(marked, _reported(marked), models.open, prepared, settings.compute, testing)
    timed = _timed(tested, models.open, prepared, clock.part(TIMING_SHARE * clock.left()))
    models.close()
    timed, of_rules = rules_on_test(timed, prepared, settings.compute, clock)
    answers = {0: prepared.teacher_answers, **answers, **of_rules}
    measures = _measures(timed, answers, prepared, whole.part(whole.left() / 2))
    timed = _with_drops(timed, measures)
    for number, outcome in outcomes.items():
        _write_card(folder, number, outcome, timed, measures, prepared)
    if prepared.standing is not None:
        write_standing(folder.baselines, prepared.standing)
    write_front(folder.front_table, timed)
    draw(timed, folder.front_picture, prepared.standing)
    return tuple(timed)


class _Models:
    """Opens the models of a run, one at a time.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._name = folder, ""
        self._model: TrbertModel | None = None

    def open(self, name: str) -> TrbertModel:
        """Returns a model that is saved under this name, and forgets the one before."""
        if name != self._name or self._model is None:
            self.close()
            self._model, self._name = load(self._folder.path / name), name
        return self._model

    def close(self) -> None:
        """Forgets the model, so that its memory is free."""
        if self._model is not None:
            self._model = None
            gc.collect()  # its parts refer to each other
            let_go()


def finished(results: Sequence[Any]) -> list[Any]:
    """Returns the results of the trials that finished, in the order in which they were started."""
    return [
        result
        for result in results
        if result.error is None and result.checkpoint is not None and (result.metrics or {}).get("finished")
    ]


def save_teacher(folder: RunFolder, prepared: Prepared, settings: Settings) -> None:
    """Saves the unreduced model as an ordinary Hugging Face checkpoint."""
    with tempfile.TemporaryDirectory() as temporary:
        prepared.plain(torch.device("cpu")).save_pretrained(temporary)
        longest = settings.teacher.max_length or settings.data.max_length
        save_tokenizer(prepared.tokenizer, longest, Path(temporary))
        found = _measures([_teacher_point(prepared)], {0: prepared.teacher_answers}, prepared, Clock())
        own = f"{prepared.metric} on test: {prepared.teacher_test:.4f}; {in_words(found[0])}"
        write_measures(Path(temporary), [found[0]])
        card = _card("The unreduced teacher", settings, [own], prepared.standing)
        (Path(temporary) / "README.md").write_text(card, encoding="utf-8")
        write_checksums(Path(temporary))
        copy_tree(Path(temporary), folder.models / "teacher")


def _teacher_point(prepared: Prepared) -> Point:
    return Point(
        trial=TEACHER,
        selector=UNREDUCED,
        quality_validation=prepared.teacher_validation,
        quality_test=prepared.teacher_test,
        drop=0.0,
        speed_up_validation=1.0,
        speed_up_test=1.0,
        model="models/teacher",
    )


def _save_models(folder: RunFolder, results: Sequence[Any], say: Say) -> dict[int, Outcome]:
    """Copies the models of finished trials into the run's folder, and returns their outcomes by the trials' numbers.

    A trial whose files are damaged is left out, so that it does not cost the others, here or when the run is resumed.
    """
    found, damaged = {}, []
    for number, result in enumerate(results, start=1):
        try:
            found[number] = _save_model(folder, number, result)
        except (InputError, DamagedCheckpoint, FileNotFoundError) as error:
            say(f"trial {number} is left out, and its model is lost: {error}")
            damaged.append(error)
    if damaged and not found:
        raise damaged[0]
    return found


def _save_model(folder: RunFolder, number: int, result: Any) -> Outcome:
    """Copies a trial's model into the run's folder, and returns the trial's outcome with its points numbered."""
    with result.checkpoint.as_directory() as checkpoint:
        outcome = read_outcome(Path(checkpoint))
        check_checksums(Path(checkpoint) / "model")
        copy_tree(Path(checkpoint) / "model", folder.models / str(number))
    forget_elders(result.checkpoint)
    numbered = (replace(point, trial=str(number), model=f"models/{number}") for point in outcome.points)
    return replace(outcome, points=tuple(numbered))


def _reported(points: Sequence[Point]) -> list[int]:
    """Returns the indices of the trained points to measure on test, chosen on validation.

    The best one of each model comes first, and then those of one model after those of another.
    These are the points of the front, and the best trained point that keeps all tokens: drops may be measured from it.
    """
    full = [i for i, point in enumerate(points) if is_trained(point) and keeps_all(point)]
    yardstick = max(full, key=lambda i: points[i].quality_validation, default=None)
    chosen = [i for i, point in enumerate(points) if is_trained(point) and (point.on_front or i == yardstick)]
    models = dict.fromkeys(points[i].model for i in chosen)
    of_models = {model: [i for i in chosen if points[i].model == model] for model in models}
    best = [max(each, key=lambda i: (points[i].on_front, points[i].quality_validation)) for each in of_models.values()]
    return best + [i for i in chosen if i not in best]


def _tested(
    points: Sequence[Point],
    reported: Sequence[int],
    opened: Callable[[str], TrbertModel],
    prepared: Prepared,
    compute: ComputeSettings,
    clock: Clock,
) -> tuple[list[Point], dict[int, list[Any]]]:
    """Measures these points on test, in the arithmetic that the teacher and the free rules were measured in.

    Returns all points, and what the measured ones say of each example, by their indices.

    Args:
        points: of the run.
        reported: the indices of the points to measure, in the order of their importance.
        opened: returns a model by its name.
        prepared: what all trials shared.
        compute: how the machine is used.
        clock: points for which there is no time stay as they are.
    """
    tested, answers, compute = list(points), {}, prepared.watched(compute)
    for index in reported:
        if clock.left() < 0:
            break
        model = opened(points[index].model)
        try:
            with autocast(model.device, compute.evaluation):
                found = _measure(model, points[index], prepared.test, compute.tokens_of_pass, clock)
        except StageTimeout:
            break
        del model  # before the next one is opened
        tested[index] = replace(
            points[index], quality_test=found.quality, speed_up_test=found.speed_up, kept=tuple(found.kept)
        )
        answers[index] = found.decoded
    return tested, answers


def _measures(
    points: Sequence[Point], answers: Mapping[int, Sequence[Any]], prepared: Prepared, clock: Clock
) -> dict[int, Measures]:
    """Returns the intervals and the further measures of points on test, by their indices.

    Drops are those from the best model that keeps all tokens, on the same resamples of test.

    Args:
        points: of the run.
        answers: what some of them say of each test example, by their indices. One of these keeps all tokens.
        prepared: what all trials shared.
        clock: points for which there is no time are left out.
    """
    task, test = prepared.task, prepared.test
    best = max((i for i in answers if keeps_all(points[i])), key=lambda i: points[i].quality_test or 0.0)
    whole = task.qualities(answers[best], test, resamples(len(test)))
    found: dict[int, Measures] = {}
    for index, said in answers.items():
        if found and clock.left() < 0:
            break
        own = task.qualities(said, test, resamples(len(test)))
        found[index] = Measures(
            dial=points[index].dial,
            quality=interval(own),
            drop=None if index == best else interval(100 * (whole - own)),
            figures=task.figures(said, test),
        )
    return found


def _write_card(
    folder: RunFolder,
    number: int,
    outcome: Outcome,
    points: Sequence[Point],
    measures: Mapping[int, Measures],
    prepared: Prepared,
) -> None:
    settings, metric = outcome.settings, prepared.metric
    indices = [index for index, point in enumerate(points) if point.trial == str(number)]
    own = [points[index] for index in indices]
    learned = selector_class(settings.selector).learns
    priced = f"penalty {settings.select.penalty:.3g}" if learned else "nothing learned but the encoder"
    lines = [f"selector {settings.selector}, reduction points {list(own[0].points)}, {priced}"]
    if outcome.undone:
        lines.append("its joint stage was undone, because the model is better on validation without it")
    lines.append(f"dial, test {metric}, FLOPs speed-up:")
    for index in indices:
        point = points[index]
        if point.quality_test is not None:
            more = f"  {in_words(measures[index])}" if index in measures else ""
            lines.append(f"  {point.dial:+.2f}  {point.quality_test:.4f}  {point.speed_up:.2f}x{more}")
    if all(point.quality_test is None for point in own):
        lines.append("  none of its points was measured on test: front.csv has its figures on validation")
    if learned and outcome.sampled is not None:
        lines.append(_sampled_gap(outcome.deployed, outcome.sampled, metric))
    card = _card(f"Reduced model {number}", None, lines, prepared.standing)
    write_whole(folder.models / str(number) / "README.md", card.encode())
    write_measures(folder.models / str(number), [measures[index] for index in indices if index in measures])
    write_checksums(folder.models / str(number))


def _sampled_gap(deployed: Evaluation, drawn: Evaluation, metric: str) -> str:
    """Returns a line that compares drawn masks, as in training, with thresholded ones, as in use; on validation."""
    return (
        f"masks drawn, as in training, instead of thresholded at dial 0: validation {metric} {drawn.quality:.4f} "
        f"at {drawn.speed_up:.2f}x, against {deployed.quality:.4f} at {deployed.speed_up:.2f}x"
    )


def _with_drops(points: Sequence[Point], measures: Mapping[int, Measures]) -> list[Point]:
    """Returns the points with their drops from the best model that keeps all tokens, and with the drops' intervals.

    That model is the teacher or a trained one.

    Args:
        points: of the run.
        measures: of some of them, by their indices. The other ones get no interval.
    """
    yardstick = max(point.quality_test or 0.0 for point in points if keeps_all(point))
    intervals = {index: own.drop for index, own in measures.items() if own.drop is not None}
    return [
        point
        if point.quality_test is None
        else replace(point, drop=100 * (yardstick - point.quality_test), drop_interval=intervals.get(index, ()))
        for index, point in enumerate(points)
    ]


def _timed(
    points: Sequence[Point], opened: Callable[[str], TrbertModel], prepared: Prepared, clock: Clock
) -> list[Point]:
    """Returns the points with the throughput of the front's models and of the teacher, in documents a second.

    Nothing else runs meanwhile. Each round measures every model once, so that a slow moment of the machine does not
    fall on one model alone.

    Args:
        points: of the run.
        opened: returns a model by its name.
        prepared: what all trials shared.
        clock: with little time there are fewer documents and fewer rounds.
    """
    wanted = [i for i, p in enumerate(points) if p.model and (p.on_front or p.trial == TEACHER)]
    some = prepared.test.take(torch.arange(_timed_documents([points[i] for i in wanted], prepared, clock)))
    rates_of: dict[int, list[float]] = {index: [] for index in wanted}
    with suppress(StageTimeout):
        for _ in range(TIMED_ROUNDS):
            for index in wanted:
                clock.check()
                rates_of[index].append(_rate(points[index], opened, some, prepared, clock))
    timed = list(points)
    for index, rates in rates_of.items():
        if rates:
            timed[index] = replace(points[index], docs_per_second=sorted(rates)[len(rates) // 2])
    return timed


def _timed_documents(points: Sequence[Point], prepared: Prepared, clock: Clock) -> int:
    """Returns the number of examples on which there is time to measure the throughput of these points."""
    most = min(prepared.test.count_of(TIMED_DOCUMENTS), len(prepared.test))
    each = TIMED_ROUNDS * prepared.pass_seconds * sum(1 / point.speed_up for point in points)
    return most if each == 0 else max(1, min(most, int(clock.left() / (2 * each))))


def _rate(
    point: Point, opened: Callable[[str], TrbertModel], examples: Examples, prepared: Prepared, clock: Clock
) -> float:
    if is_trained(point):
        found = _measure(opened(point.model), point, examples, TIMED_BATCH_TOKENS, clock)
    else:
        teacher = Reducer(encoder=Encoder(prepared.plain(torch.device("cpu"))), task=prepared.task)
        found = evaluate_unreduced(teacher, examples, TIMED_BATCH_TOKENS)
    return found.docs_per_second


def _measure(model: TrbertModel, point: Point, examples: Examples, tokens_per_batch: int, clock: Clock) -> Evaluation:
    reducer, cost, selector = model.reducer, model.cost_model(), model.selector
    return evaluate_in_time(reducer, cost, selector, examples, point.dial or 0.0, tokens_per_batch, clock)


def _card(title: str, settings: Settings | None, lines: Sequence[str], standing: Standing | None) -> str:
    head = f"# {title}\n\nMade by `tune/search.py` on {time.strftime('%Y-%m-%d')}.\n\n"
    if settings is not None:
        longest = settings.teacher.max_length or settings.data.max_length
        files = files_of(settings)
        model = _without_folders(settings.model, files["model"])
        data = _without_folders(settings.data.source, files["data.source"])
        head += f"Encoder {model}, data {data}, at most {longest} tokens.\n\n"
    if standing is not None:
        lines = [*lines, *(f"{each.name} on test: {each.test:.4f}" for each in standing.baselines)]
        lines += [f"\nWarning: {remark}" for remark in remarks(standing)]
    use = "Load it with `trbert.load(path, dial=…)`, or with transformers after `import trbert`.\n"
    if settings is not None:  # the teacher
        use = "Load it with the Auto classes of transformers, as any model.\n"
    return head + "\n".join(lines) + "\n\n" + use


def _without_folders(value: str, files: Sequence[str]) -> str:
    """Returns a setting with the names of files alone: a card is passed on, without the folders of this machine."""
    for name in files:
        value = value.replace(name, Path(name).name) if Path(name).is_absolute() else value
    return value
