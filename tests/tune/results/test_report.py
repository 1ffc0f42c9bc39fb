"""What a finished search reports: which points, on which rows, from which yardstick."""

import dataclasses
import os
import shutil
import weakref
from types import SimpleNamespace

import pytest
import torch
from ray import tune

from trbert.disk.checksums import SUMS, check_checksums, write_checksums
from trbert.errors import DamagedCheckpoint, InputError
from trbert.measure.evaluate import Evaluation
from trbert.tasks.examples import Examples
from tune import pareto
from tune.budget import Clock
from tune.learning.baselines import Answers, standing_of
from tune.learning.model import Model
from tune.learning.standing import COMMONEST
from tune.results import report
from tune.results.front import UNNUMBERED, Point, mark_front
from tune.results.measures import Measures, read_measures
from tune.results.outcome import Outcome, write_outcome
from tune.results.report import collect, finished
from tune.results.standing_file import read_standing
from tune.results.table import read_front
from tune.runs.folder import RunFolder
from tune.settings import ComputeSettings, override


def evaluation(quality, speed_up, *kept):
    return Evaluation(quality=quality, speed_up=speed_up, kept=kept, docs_per_second=1.0)


@pytest.fixture
def result_of(certain, tiny_settings, tmp_path):
    """A function: what a trial of rule "first" at points 0 and 2 says of its dials -> its result, as Tune gives it."""

    def make(number, *curve, selector="first", undone=False):
        settings = override(tiny_settings, {"selector": selector, "select.points": (0, 2)})
        model, folder = Model(certain, settings), tmp_path / "trials" / str(number)
        model.deployable().save_pretrained(folder / "model")
        write_checksums(folder / "model")
        points = tuple(
            Point(
                trial=UNNUMBERED,
                selector=selector,
                dial=dial,
                points=(0, 2),
                quality_validation=each.quality,
                speed_up_validation=each.speed_up,
                kept=each.kept,
            )
            for dial, each in curve
        )
        drawn = evaluation(0.625, 2.5, 0.5, 0.5)
        deployed = dict(curve).get(0.0, drawn)
        own = Outcome(settings=model.settings, points=points, deployed=deployed, sampled=drawn, undone=undone)
        write_outcome(folder, own)
        checkpoint = tune.Checkpoint.from_directory(str(folder))
        return SimpleNamespace(error=None, checkpoint=checkpoint, metrics={"finished": True})

    return make


@pytest.fixture
def collected(certain, tiny_settings, tmp_path):
    """A function: free points and trials' results -> the run's folder and its points."""

    def run(free, *results, shared=certain):
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        return folder, collect(folder, shared, tiny_settings, free, results)

    return run


CURVE = (
    (0.25, evaluation(0.7, 3.0, 0.5, 0.25)),
    (0.5, evaluation(0.6, 2.0, 0.7, 0.5)),
    (1.0, evaluation(0.74, 1.0, 1.0, 1.0)),
)
# A rule that is better and faster than the second dial, and slower than the first.
RULE = Point(
    trial="free", selector="random", dial=0.12, points=(0, 1), quality_validation=0.65, speed_up_validation=2.5
)


def test_the_front_is_chosen_on_validation_and_reported_on_test(collected, result_of):
    _, (teacher, _, cheap, worse, whole) = collected([RULE], result_of(1, *CURVE))
    # What the trial said of validation stays; test is measured, and 2 of 5 of its rows have label 0.
    assert [point.quality_validation for point in (cheap, worse, whole)] == [0.7, 0.6, 0.74]
    assert [point.speed_up_validation for point in (cheap, worse, whole)] == [3.0, 2.0, 1.0]
    assert [point.on_front for point in (teacher, cheap, worse, whole)] == [True, True, False, False]
    assert (cheap.quality_test, whole.quality_test) == (pytest.approx(0.4), pytest.approx(0.4))
    # A point off the front is not measured, unless it keeps all tokens and may be the yardstick.
    assert (worse.quality_test, worse.speed_up_test, worse.docs_per_second) == (None, None, None)
    assert worse.kept == (0.7, 0.5)


def test_a_point_is_measured_on_test_at_its_own_dial(collected, result_of, certain):
    _, (_, cheap, _, whole) = collected([], result_of(1, *CURVE))
    lengths = certain.test.lengths.tolist()
    # Rule "first" keeps ⌈√dial · n⌉ tokens of n at the first of two points and ⌈dial · n⌉ at the second.
    half, quarter = sum(-(-n // 2) for n in lengths), sum(-(-n // 4) for n in lengths)
    assert cheap.kept == (pytest.approx(half / sum(lengths)), pytest.approx(quarter / sum(lengths)))
    assert whole.kept == (1.0, 1.0)
    assert cheap.speed_up_test > 1.5


def test_the_teacher_is_reported_with_its_own_figures(collected, result_of):
    _, (teacher, *_) = collected([], result_of(1, *CURVE))
    assert (teacher.trial, teacher.selector, teacher.model) == ("teacher", "none", "models/teacher")
    assert (teacher.quality_validation, teacher.quality_test, teacher.drop) == (0.75, 0.4, 0.0)
    assert (teacher.speed_up_validation, teacher.speed_up_test) == (1.0, 1.0)
    assert teacher.docs_per_second > 0


def test_free_rules_are_reported_with_both_splits(collected, result_of):
    free = Point(
        trial="free",
        selector="random",
        dial=0.12,
        points=(0, 1),
        quality_validation=0.5,
        speed_up_validation=4.0,
        quality_test=0.25,
        speed_up_test=5.0,
        kept=(0.4, 0.1),
    )
    _, points = collected([free], result_of(1, *CURVE))
    (found,) = (point for point in points if point.trial == "free")
    assert (found.selector, found.dial, found.points, found.model) == ("random", 0.12, (0, 1), "")
    assert (found.quality_validation, found.speed_up_validation) == (0.5, 4.0)
    assert (found.quality_test, found.speed_up_test, found.kept) == (0.25, 5.0, (0.4, 0.1))
    assert found.drop == pytest.approx(15.0)  # 40 % less 25 %


def test_every_point_that_was_measured_on_test_has_the_interval_of_its_drop_rules_too(collected, result_of, certain):
    # The teacher is right on 12 of 20 rows and each other one on 8 of them, of which 0 are the same.
    swapped = dataclasses.replace(certain, teacher_answers=[1] * 20, teacher_test=0.6)
    folder, points = collected([RULE], result_of(1, *CURVE), shared=swapped)
    teacher, free, cheap, worse, whole = points
    assert (teacher.drop, teacher.drop_interval) == (0.0, ())  # drops are measured from it
    assert (worse.quality_test, worse.drop_interval) == (None, ())
    for point in (free, cheap, whole):
        low, high = point.drop_interval
        # A row's difference is ±1 with mean .2: that of 20 rows has the standard deviation √(1 − .04) / √20 = .22.
        assert point.drop == pytest.approx(20.0)
        assert (low, high) == (pytest.approx(20 - 43, abs=6), pytest.approx(20 + 43, abs=6))
    assert cheap.drop_interval == read_measures(folder.models / "1", 0.25).drop
    assert read_front(folder.front_table) == points


def test_the_intervals_have_time_of_their_own_where_the_rules_took_what_there_was(
    certain, tiny_settings, result_of, tmp_path, monkeypatch
):
    def slow(points, prepared, compute, clock):
        clock.seconds = -1.0
        return list(points), {}

    monkeypatch.setattr(report, "rules_on_test", slow)
    points = collect(RunFolder(tmp_path / "run"), certain, tiny_settings, [], [result_of(1, *CURVE)], clock=Clock(1e6))
    assert [len(point.drop_interval) for point in points if point.quality_test is not None] == [0, 2, 2, 2]


def test_a_models_card_tells_its_dials_on_test_and_how_it_was_made(collected, result_of):
    folder, points = collected([RULE], result_of(1, *CURVE), result_of(2, *CURVE[1:]))
    card = (folder.models / "1" / "README.md").read_text().splitlines()
    assert "selector first, reduction points [0, 2], nothing learned but the encoder" in card
    cheap = points[2]
    # All models say class 0, of which 8 of 20 rows are. 8 ± 4.3 of them lie between the ends: 1.96 · √(20 · .4 · .6).
    # The F1 of class 0 is 2 · 8 / (8 + 20), and that of class 1 is 0.
    told = "95 % interval 20.0 to 60.0 %"
    assert [line for line in card if line.startswith("  ")] == [
        f"  +0.25  0.4000  {cheap.speed_up:.2f}x  {told}, of the drop 0.0 to 0.0 points; macro F1 0.2857",
        f"  +1.00  0.4000  1.00x  {told}, of the drop 0.0 to 0.0 points; macro F1 0.2857",
    ]
    # A rule draws no masks.
    assert not any(line.startswith("masks drawn") for line in card)
    other = (folder.models / "2" / "README.md").read_text()
    assert "+0.25" not in other
    teacher = (folder.models / "teacher" / "README.md").read_text()
    assert f"accuracy on test: 0.4000; {told}; macro F1 0.2857\n" in teacher
    measured = read_measures(folder.models / "1", 0.25)
    assert (measured.quality, measured.drop) == ((0.2, 0.6), (0.0, 0.0))
    assert measured.figures == {"macro F1": pytest.approx((16 / 28 + 0) / 2)}
    assert read_measures(folder.models / "1", 0.5) is None  # off the front, and so not measured on test
    assert read_measures(folder.models / "teacher", None) == dataclasses.replace(measured, dial=None, drop=None)


def test_the_card_of_a_model_without_a_point_on_test_says_so(collected, result_of):
    folder, points = collected([], result_of(1, *CURVE), result_of(2, (1.0, evaluation(0.1, 1.0, 1.0, 1.0))))
    assert [point.quality_test for point in points if point.trial == "2"] == [None]
    told = "  none of its points was measured on test: front.csv has its figures on validation"
    assert told in (folder.models / "2" / "README.md").read_text().splitlines()
    assert told not in (folder.models / "1" / "README.md").read_text().splitlines()


def test_a_drops_interval_is_that_of_the_difference_on_the_same_resamples(certain, at, unreduced):
    # The teacher is right on 8 rows of 20, and the model on the 12 others. The mean of a row's difference is −.2, and
    # its standard deviation √(1 − .04); that of 20 rows is .22, and 1.96 times as much .43.
    points = [dataclasses.replace(unreduced(0.75), quality_test=0.4), at(0.7, 3.0, dial=-0.5, quality_test=0.6)]
    found = report._measures(points, {0: [0] * 20, 1: [1] * 20}, certain, Clock())
    assert (found[0].dial, found[0].drop) == (None, None)
    assert found[1].dial == -0.5
    assert found[1].drop == (pytest.approx(-63, abs=6), pytest.approx(23, abs=6))
    assert found[1].quality == (pytest.approx(0.385, abs=0.06), pytest.approx(0.815, abs=0.06))
    # Without time for more, there are the figures of the first one alone.
    assert report._measures(points, {0: [0] * 20, 1: [1] * 20}, certain, Clock(-1.0)) == {0: found[0]}


@pytest.mark.parametrize("undone", [False, True])
def test_a_card_says_that_the_joint_stage_was_undone(collected, result_of, undone):
    folder, _ = collected([], result_of(1, (1.0, evaluation(0.74, 1.0, 1.0, 1.0)), undone=undone))
    card = (folder.models / "1" / "README.md").read_text()
    told = "its joint stage was undone, because the model is better on validation without it\n"
    assert (told in card) is undone


def test_a_learned_models_card_tells_its_price_and_what_drawn_masks_give(collected, result_of):
    curve = [(0.0, evaluation(0.7, 3.0, 0.5, 0.25)), (1000.0, evaluation(0.74, 1.0, 1.0, 1.0))]
    folder, _ = collected([], result_of(1, *curve, selector="policy"))
    card = (folder.models / "1" / "README.md").read_text()
    assert "selector policy, reduction points [0, 2], penalty 0." in card
    assert (
        "masks drawn, as in training, instead of thresholded at dial 0: validation accuracy 0.6250 at 2.50x, "
        "against 0.7000 at 3.00x" in card
    )


def test_baselines_are_kept_with_the_run_and_stand_in_every_card(collected, result_of, certain, standing):
    good = standing()
    folder, _ = collected([], result_of(1, *CURVE), shared=dataclasses.replace(certain, standing=good))
    assert read_standing(folder.baselines) == good
    for name in ("1", "teacher"):
        card = (folder.models / name / "README.md").read_text().splitlines()
        assert {"commonest answer on test: 0.5000", "TF-IDF + LR on test: 0.8000"} <= set(card)
        assert not any(line.startswith("Warning") for line in card)


def test_a_teacher_that_knows_nothing_is_told_of_from_its_answers_to_the_last_page(
    collected, result_of, certain, tiny_settings, capsys
):
    # It says class 0 of every document, which is the commonest answer of train.
    labels = (torch.arange(len(certain.train)) % 3 == 0).long()
    train = dataclasses.replace(certain.train, targets=labels)
    parts = {"train": train, "validation": certain.validation, "test": certain.test}
    answers = [
        Answers(
            name=COMMONEST,
            validation=certain.task.commonest(train, certain.validation),
            test=certain.task.commonest(train, certain.test),
            rows=len(train),
        )
    ]
    outputs = {name: torch.tensor([[1.0, 0.0]]).repeat(len(part), 1) for name, part in parts.items()}
    own = standing_of(certain.task, answers, parts, outputs, known=-0.1, trained=True)
    folder, _ = collected([], result_of(1, *CURVE), shared=dataclasses.replace(certain, standing=own))
    told = (
        "the teacher is not clearly better than the commonest answer (40.0 % against 40.0 % on test) and predicts its "
        "training labels no better than their frequencies do, so that a speed-up without a drop means nothing: check "
    )
    for name in ("1", "teacher"):
        card = (folder.models / name / "README.md").read_text()
        assert f"\n\nWarning: {told}" in card
    assert pareto.main([str(folder.path), "--max-drop", "100"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"no front: {told}")
    assert "commonest answer" in shown.split("\n\n")[1]
    assert "test has 20 rows, so that one row is 5.0 points" in shown
    assert shown.splitlines()[-1].startswith(f"beware  {told}")


# The pieces.


def test_the_fronts_trained_points_are_reported_and_the_best_model_that_keeps_all_tokens(at, unreduced, rule):
    whole = {"kept": (1.0, 1.0)}
    points = mark_front(
        [
            unreduced(0.9),
            rule("first", 0.85, 20.0),  # on the front, and no trained model
            at(0.88, 4.0, kept=(0.5, 0.2)),
            at(0.8, 3.0, kept=(0.5, 0.2)),
            at(0.86, 1.0, **whole),
            at(0.89, 1.0, **whole),  # the best on validation of those that keep all tokens
            at(0.87, 1.0, **whole),
        ]
    )
    assert report._reported(points) == [2, 5]
    assert report._reported(points[:4]) == [2]


def test_drops_are_from_the_best_model_on_test_that_keeps_all_tokens(at, unreduced):
    points = [
        unreduced(0.9),  # .89 on test
        at(0.9, 1.0, kept=(1.0, 1.0), quality_test=0.92),
        at(0.9, 2.0, kept=(1.0, 0.5), quality_test=0.95),  # drops tokens: no yardstick, and better than it
        at(0.8, 4.0, kept=(0.5, 0.2), quality_test=0.87),
        at(0.8, 5.0, kept=(0.5, 0.1), quality_test=None),
        at(0.8, 6.0, kept=(0.5, 0.1), quality_test=0.0),  # measured, and wrong on every row
    ]
    ends = [None, (-1.0, 2.0), None]  # of the point that drops are measured from, and of the first two that drop tokens
    measures = {i: Measures(dial=0.0, quality=(0.8, 0.9), drop=own, figures={}) for i, own in enumerate(ends, start=1)}
    found = report._with_drops(points, measures)
    assert [point.drop_interval for point in found] == [(), (), (-1.0, 2.0), (), (), ()]
    drops = [point.drop for point in found]
    assert drops == [
        pytest.approx(3.0),
        pytest.approx(0.0),
        pytest.approx(-3.0),
        pytest.approx(5.0),
        None,
        pytest.approx(92.0),
    ]


def test_documents_a_second_are_the_median_of_three_rounds_for_the_front_and_the_teacher(
    certain, at, unreduced, rule, monkeypatch
):
    points = [
        dataclasses.replace(point, on_front=on_front)
        for point, on_front in [
            (unreduced(0.7), False),
            (at(0.8, 2.0), True),
            (at(0.7, 1.5), False),
            (rule("first", 0.6, 9.0), True),
        ]
    ]
    rates = {"teacher": iter([100.0, 900.0, 300.0]), "model": iter([50.0, 20.0, 30.0])}
    asked = []

    def timed(name):
        def measure(*arguments):
            asked.append(name)
            return dataclasses.replace(evaluation(0.5, 1.0), docs_per_second=next(rates[name]))

        return measure

    monkeypatch.setattr(report, "_measure", timed("model"))
    monkeypatch.setattr(report, "evaluate_unreduced", timed("teacher"))
    found = report._timed(points, lambda name: None, certain, Clock())
    assert [point.docs_per_second for point in found] == [300.0, 30.0, None, None]
    assert asked == ["teacher", "model"] * 3  # in turns


def test_trials_without_an_end_of_their_own_are_left_out():
    whole = {"error": None, "checkpoint": "there", "metrics": {"finished": True, "number": 1}}
    others = [{"error": "died"}, {"checkpoint": None}, {"metrics": {"stage": "joint"}}, {"metrics": None}]
    results = [SimpleNamespace(**whole | change) for change in [{}, *others, {}]]
    assert finished(results) == [results[0], results[-1]]


def test_a_trial_that_failed_takes_no_number_and_leaves_no_model(collected, result_of):
    failed = SimpleNamespace(error="died", checkpoint=None, metrics=None)
    folder, points = collected([], failed, result_of(1, *CURVE))
    assert [point.trial for point in points] == ["teacher", "1", "1", "1"]
    assert sorted(path.name for path in folder.models.iterdir()) == ["1", "teacher"]


@pytest.mark.parametrize(("evaluation_in", "dtype"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_the_front_is_measured_on_test_in_the_arithmetic_of_evaluation(certain, at, monkeypatch, evaluation_in, dtype):
    asked = []

    def measure(model, point, examples, tokens_per_batch, clock):
        asked.append((torch.is_autocast_enabled("cpu"), examples is certain.test, tokens_per_batch))
        return evaluation(0.5, 2.0, 0.5, 0.25)

    monkeypatch.setattr(report, "_measure", measure)
    compute = ComputeSettings(evaluation=evaluation_in, dtype=dtype, tokens_per_batch=123)
    model = SimpleNamespace(device=torch.device("cpu"))
    (tested,), _ = report._tested([at(0.8, 4.0)], [0], lambda name: model, certain, compute, Clock())
    assert asked == [(evaluation_in == "bfloat16", True, 123)]
    assert (tested.quality_test, tested.speed_up_test, tested.kept) == (0.5, 2.0, (0.5, 0.25))


def test_throughput_is_measured_on_a_few_documents_of_test_for_models_and_teacher_alike(
    certain, at, unreduced, monkeypatch
):
    asked = []

    def timed(*arguments):
        (place,) = (place for place, each in enumerate(arguments) if isinstance(each, Examples))
        asked.append((arguments[place].tokens.input_ids, arguments[place + 1]))
        return evaluation(0.5, 1.0)

    monkeypatch.setattr(report, "TIMED_DOCUMENTS", 3)  # of 20
    monkeypatch.setattr(report, "_measure", timed)
    monkeypatch.setattr(report, "evaluate_unreduced", timed)
    points = [dataclasses.replace(point, on_front=True) for point in (unreduced(0.7), at(0.8, 2.0))]
    report._timed(points, lambda name: None, certain, Clock())
    first = certain.test.tokens.input_ids[: certain.test.lengths[:3].sum()]
    assert len(asked) == 6  # two models in three rounds
    assert all(torch.equal(ids, first) and most == 4096 for ids, most in asked)


def test_one_model_is_open_at_a_time_and_each_is_opened_once_a_round(collected, result_of, monkeypatch):
    opened, kept = [], []

    def opens(path):
        opened.append(path.name)
        kept[:] = [ref for ref in kept if ref() is not None]
        assert kept == []  # the one before it is forgotten
        model = load(path)
        kept.append(weakref.ref(model))
        return model

    load = report.load
    monkeypatch.setattr(report, "load", opens)
    fast = (0.125, evaluation(0.65, 6.0, 0.25, 0.125))
    _, points = collected([], result_of(1, *CURVE), result_of(2, fast))
    assert {point.trial for point in points if point.on_front} == {"teacher", "1", "2"}
    # The best point of each on test, then the yardstick of the first; and three rounds of both.
    assert opened == ["1", "2", "1", "2", "1", "2", "1", "2"]
    assert all(point.docs_per_second for point in points if point.on_front)


def test_points_that_are_not_reached_on_test_stay_empty(certain, at):
    points, seen = [at(0.9, 2.0), at(0.8, 4.0), at(0.7, 5.0)], []

    class Once(Clock):
        def left(self):
            seen.append(None)
            return 1.0 if len(seen) <= 1 else -1.0

    def opened(name):
        return SimpleNamespace(device=torch.device("cpu"))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(report, "_measure", lambda *words: evaluation(0.5, 3.0, 0.5))
        tested, answers = report._tested(
            [dataclasses.replace(point, quality_test=None) for point in points],
            [1, 0, 2],
            opened,
            certain,
            ComputeSettings(),
            Once(),
        )
    assert [point.quality_test for point in tested] == [None, 0.5, None]
    assert [*answers] == [1]


def test_the_best_point_of_each_model_is_measured_on_test_before_the_second_of_any(at):
    points = mark_front(
        [
            at(0.8, 3.0, trial="1", model="models/1"),
            at(0.9, 2.0, trial="1", model="models/1"),
            at(0.7, 5.0, trial="2", model="models/2"),
            at(0.6, 9.0, trial="2", model="models/2"),
        ]
    )
    assert report._reported(points) == [1, 2, 0, 3]


def cut_off(folder):
    os.truncate(folder / "model" / "model.safetensors", 1000)


def without_record(folder):
    (folder / "trial.json").write_text("{")


def without_model(folder):
    shutil.rmtree(folder / "model")


@pytest.mark.parametrize("damage", [cut_off, without_record, without_model])
def test_a_trial_whose_files_are_damaged_costs_the_others_nothing(certain, tiny_settings, result_of, tmp_path, damage):
    folder, told = RunFolder(tmp_path / "run"), []
    results = [result_of(number, *CURVE) for number in (1, 2)]
    damage(tmp_path / "trials" / "1")
    for _ in range(2):  # and again when the run is resumed
        points = collect(folder, certain, tiny_settings, [], results, told.append)
        assert {point.model for point in points} == {"models/teacher", "models/2"}
        assert sorted(path.name for path in folder.models.iterdir()) == ["2", "teacher"]
    assert len(told) == 2
    assert told[0].startswith("trial 1 is left out, and its model is lost: ")
    damage(tmp_path / "trials" / "2")
    with pytest.raises((InputError, DamagedCheckpoint)):
        collect(folder, certain, tiny_settings, [], results, told.append)


def test_half_a_copy_that_a_killed_search_left_is_removed(certain, tiny_settings, result_of, tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.models / ".teacher.abc" / "new").mkdir(parents=True)
    collect(folder, certain, tiny_settings, [], [result_of(1, *CURVE)])
    assert sorted(path.name for path in folder.models.iterdir()) == ["1", "teacher"]


def test_every_model_of_a_run_has_checksums_of_all_its_files(collected, result_of):
    folder, _ = collected([], result_of(1, *CURVE))
    for name in ("teacher", "1"):
        check_checksums(folder.models / name)
        assert "README.md" in (folder.models / name / SUMS).read_text()
