"""Preparing on a cluster: the driver is told what a worker does while it does it. What a search starts from."""

import math
import re
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import RayTaskError

from trbert.encoder import Encoder
from trbert.errors import Diverged, InputError
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from tune import driver
from tune.budget import SIDE_BY_SIDE, Clock, make_plan
from tune.checkpoints import StateFolder
from tune.driver import Shared, _tune_config, make_shared, run_search
from tune.processes.planner import Cluster
from tune.processes.session import on_cluster
from tune.processes.teams import TeamPlan
from tune.progress import Console
from tune.runs.folder import RunFolder
from tune.runs.record import SavedRun, existing_run, write_run
from tune.settings import DETERMINISTIC, Search, Settings, override
from tune.space import to_settings
from tune.suggestions import FreshSearch

needs_ray = pytest.mark.ray
PLAN = make_plan(3600.0, 1, 1)


class Lines(Console):
    """A console that remembers when it was told what."""

    def __init__(self):
        super().__init__()
        self.told = []

    def line(self, text):
        self.told.append((time.monotonic(), text))


def saved_run(**search):
    return SavedRun(id="mine-1", settings=Settings(), search=Search(**search))


def shared_of(settings, states):
    """A function: what is called with each line -> what the trials of a search with these settings share."""
    work = partial(make_shared, settings, PLAN, latency=None, states=str(states), fingerprint=None, clock=Clock())
    return lambda say: work(say=say, keep=lambda *found: None)


@needs_ray
def test_a_worker_prepares_and_says_so_as_it_goes(ray_local, tiny_settings, tmp_path):
    console = Lines()
    longer = override(tiny_settings, {"seed": 11, "teacher.epochs": 8.0})  # no teacher of another test's
    states = tmp_path / "states"
    options = {"latency": None, "states": str(states), "fingerprint": None, "clock": Clock()}
    work, kept = partial(make_shared, longer, PLAN, **options), []
    shared = on_cluster(work, {"say": console.line, "keep": lambda *found: kept.append(found)}, gpus=0.0)
    found = {"task": "classification", "data.text_column": "text", "data.label_column": "label"}
    assert kept == [(shared.prepared.fingerprint, override(longer, found))]
    assert isinstance(shared, Shared)
    assert [point.selector for point in shared.free]
    assert any("train: 240 documents" in text for _, text in console.told)
    training = next(when for when, text in console.told if "teacher: training for 8 epochs" in text)
    finished = next(when for when, text in console.told if "% on test" in text)
    assert finished - training > 0.3  # each was told when it was said, not all at the end
    assert not states.exists()


@pytest.mark.slow
def test_a_teacher_that_was_interrupted_goes_on_where_it_was(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr("tune.checkpoints.EVERY_S", 0.0)
    steps = []

    def say(line):
        if line.startswith("teacher: step"):
            steps.append(int(line.split()[2]))
            if len(steps) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr("tune.learning.teacher_cache.SAY_EVERY_S", 0.0)
    settings = override(tiny_settings, {"seed": 12})
    with pytest.raises(KeyboardInterrupt):
        shared_of(settings, tmp_path / "states")(say)
    interrupted = shared_of(settings, tmp_path / "states")(say)
    assert steps[:3] == [1, 2, 2]  # the second step was taken, and not yet kept
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    whole = shared_of(settings, tmp_path / "other")(lambda line: None)
    for name, weights in whole.prepared.weights.items():
        assert (weights == interrupted.prepared.weights[name]).all(), name


@needs_ray
def test_the_users_mistake_comes_back_as_itself(ray_local, tiny_settings):
    with pytest.raises(InputError, match=r"gone\.csv"):
        on_cluster(shared_of(override(tiny_settings, {"data.source": "gone.csv"}), "/tmp"), {"say": print}, 0.0)


@pytest.fixture
def searcher_of(prepared, tmp_path):
    """A function: settings that the user fixed -> what decides what is tried on six layers."""

    def searcher(fixed, plan=PLAN, **parts):
        six_layers = replace(prepared, config=SimpleNamespace(num_hidden_layers=6), **parts)
        folder = RunFolder(Path(tempfile.mkdtemp(dir=tmp_path)))
        settings, search = override(Settings(), fixed), Search(fixed=tuple(fixed))
        return _tune_config(folder, search, settings, plan, six_layers, print, []).search_alg

    return searcher


@pytest.mark.parametrize(("text_column", "points"), [("text", "0,2"), ("question,sentence", "2,3,4")])
def test_a_search_starts_with_the_points_that_suit_its_documents(text_column, points, searcher_of):
    search = searcher_of({"data.text_column": text_column})
    assert search.suggest("first")["select.points"] == points


@pytest.mark.parametrize(
    ("task", "separator", "points"),
    [("question_answering", 3, "0,4"), ("question_answering", None, "2,3,4"), ("reranking", 3, "2,3,4")],
)
def test_where_an_answers_place_is_asked_for_it_starts_at_once_and_ends_late(task, separator, points, searcher_of):
    search = searcher_of({"data.text_column": "a,b"}, task=TASKS[task], separator=separator)
    assert search.suggest("first")["select.points"] == points


@pytest.mark.parametrize("text_column", ["text", "question,sentence"])
@pytest.mark.parametrize("ratios", [(0.1, 0.1), (0.2, 0.1, 0.0)])
def test_whatever_a_search_tries_has_a_point_for_each_fixed_ratio(ratios, text_column, searcher_of):
    fixed = {"select.keep_ratios": ratios, "data.text_column": text_column}
    search = searcher_of(fixed, make_plan(3600.0, 1, 4))
    for trial in range(12):
        changes = to_settings(search.suggest(str(trial)))
        assert len(changes["select.points"]) == len(ratios)
        assert override(Settings(), fixed | changes).select.keep_ratios == ratios


def test_fixed_ratios_of_which_no_points_are_tried_are_refused(searcher_of):
    ratios = (0.1,) * 4
    with pytest.raises(InputError, match=r"and has 4; the search tries 2 or 3 points: "):
        searcher_of({"select.keep_ratios": ratios})
    both = searcher_of({"select.keep_ratios": ratios, "select.points": (0, 1, 2, 3)})
    assert "select.points" not in both.suggest("first")


def test_a_search_tries_no_more_first_guesses_than_it_has_trials(searcher_of):
    for trials, tried in ((1, 1), (4, 4), (9, 4)):
        waiting = searcher_of({}, make_plan(3600.0, 1, trials))._study.get_trials()
        assert [trial.state.name for trial in waiting] == ["WAITING"] * tried


def test_the_runs_seed_is_the_samplers(searcher_of):
    def drawn(seed):
        search = searcher_of({"seed": seed}, make_plan(3600.0, 1, 1))
        return [search.suggest(name) for name in "ab"][1]  # the first is a guess

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


# A whole search, of which the parts are stand-ins.


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "mine")


def result(finished=True, error=None):
    return SimpleNamespace(error=error, checkpoint="there", metrics={"finished": finished})


@pytest.fixture
def searched(folder, prepared, tiny_settings, small_front, monkeypatch):
    """A function: trials' results -> what the parts of a search were given, and its closing text.

    Preparing takes 100 s.
    """
    now, given, rules = [0.0], {}, []

    def prepare_slowly(*words, **options):
        now[0] += 100.0
        slow = replace(prepared, training_seconds=0.1, standing=given["standing"])  # too slow for all documents
        given.update(documents=options["documents"], planned=words[1])
        return Shared(prepared=slow, free=rules, cuts=("teacher after 1.4 of 4 epochs",))

    def run_trials(folder, search, fitted, plan, *others, **options):
        given.update(search=search, fitted=fitted, plan=plan, **options)
        return given["results"]

    def collect(folder, prepared, settings, free, results, say, clock):
        given.update(settings=settings, measured=free is rules, collected=results, closing=clock.left())
        return small_front()

    monkeypatch.setattr("tune.budget.time.monotonic", lambda: now[0])
    monkeypatch.setattr(driver, "_on_ray", lambda clock: ("on Ray", clock.left()))
    monkeypatch.setattr(driver, "make_shared", prepare_slowly)
    monkeypatch.setattr(driver, "start_ray", lambda *words: given.update(ray=words))
    monkeypatch.setattr(driver, "_run_trials", run_trials)
    monkeypatch.setattr(driver, "collect", collect)
    monkeypatch.setattr(driver.ray, "shutdown", lambda: given.update(ended=True))

    def run(*results, resumed=False, fitted=None, standing=None, num_trials=3, **known):
        given.update(results=list(results), ended=False, standing=standing)
        known = {"settings": tiny_settings} | known
        saved = SavedRun(id="mine-1", search=Search(num_trials=num_trials), fitted=fitted, **known)
        write_run(folder, saved)
        plan = make_plan(600.0, concurrent=2, num_trials=num_trials)
        clock = Clock(600.0, used=saved.spent)
        given["text"] = run_search(folder, saved, plan, clock, cores=4, resumed=resumed, verbose=False)
        return given

    run.given = given
    return run


def test_trials_get_what_preparing_left_of_the_time_and_their_settings_are_saved(
    searched, folder, prepared, tiny_settings
):
    given = searched(result(), result(), result())
    # 600 s less 90 for the end and 100 of preparing, in two waves.
    assert given["plan"].trial_seconds == pytest.approx(205.0)
    assert given["ray"] == ("local", 4, False)
    assert given["fitted"] == given["settings"]  # trials and report have the same
    assert given["fitted"].select.documents < tiny_settings.select.documents  # cut to the time
    saved = SavedRun(
        id="mine-1",
        settings=tiny_settings,
        search=Search(num_trials=3),
        fitted=given["fitted"],
        fingerprint=prepared.fingerprint,
        documents={"train": len(prepared.train), "validation": len(prepared.validation), "test": len(prepared.test)},
        plan=given["plan"],
        spent=100.0,
    )
    assert existing_run(str(folder.path)) == (folder, saved)
    assert given["search"].search == saved.search
    assert given["measured"]  # the free rules, with the teacher
    assert given["ended"]
    assert "did not finish" not in given["text"]
    assert f"front     {folder.front_table}" in given["text"]


def test_the_number_of_trials_that_fit_is_found_once_the_model_is_timed_and_a_resumed_search_keeps_it(
    searched, folder, tiny_settings
):
    settings = override(tiny_settings, {"compute.threads": None})
    # The model is too slow for whole trainings: one trial has the 410 s and the four processors.
    given = searched(result(), num_trials=None, settings=settings)
    plan = given["plan"]
    assert (plan.trials, plan.concurrent, plan.threads, plan.trial_seconds) == (1, 1, 4, pytest.approx(410.0))
    assert given["fitted"].compute.threads == 4
    assert existing_run(str(folder.path))[1].plan == plan
    fitted = given["fitted"]
    again = searched(result(), num_trials=None, resumed=True, fitted=fitted, plan=plan, spent=400.0, settings=settings)
    assert (again["plan"], again["fitted"]) == (plan, fitted)
    assert again["ray"] == ("local", 4, False)  # one trial of four threads, whatever machine it is continued on
    # Threads that the user gives are the trial's; then it has one processor.
    threads = searched(result(), num_trials=None, settings=override(settings, {"compute.threads": 3}))
    assert (threads["plan"].threads, threads["fitted"].compute.threads) == (1, 3)


def test_a_search_whose_stages_see_too_little_warns_before_its_trials_start(searched, capsys, tiny_settings):
    wanted = {"select.documents": 6000, "joint.documents": 32_000}
    searched(result(), num_trials=None, settings=override(tiny_settings, wanted))
    assert "warning: with a budget of 10m the select stage sees " in capsys.readouterr().out


def test_a_resumed_search_keeps_the_settings_that_its_trials_began_with(searched, tiny_settings):
    fitted = override(tiny_settings, {"select.documents": 77})
    given = searched(result(), resumed=True, fitted=fitted)
    assert (given["fitted"], given["settings"]) == (fitted, fitted)
    assert given["plan"] == make_plan(600.0, concurrent=2, num_trials=3)
    assert given["resumed"] is True
    # One that died before they were known begins anew; so does one that is not resumed.
    assert searched(result(), resumed=True)["plan"].trial_seconds == pytest.approx(205.0)
    assert searched(result(), fitted=fitted)["fitted"] != fitted


def test_the_trials_of_a_search_end_when_the_time_for_the_end_begins_and_the_last_line_says_what_was_cut(searched):
    cut = result()
    cut.metrics["cut"] = "select, joint"
    given = searched(result(), cut, result())
    # 100 of 600 s are used, and 90 are for the end; the trials are stand-ins and take no time.
    assert given["clock"] == ("on Ray", 410.0)
    assert given["closing"] == 500.0
    last = given["text"].splitlines()[-1]
    assert last.startswith("cut by the budget: teacher after 1.4 of 4 epochs; select stage of trial 2; joint stage of")


def test_a_resumed_search_has_its_trials_seconds_and_the_time_for_the_end(searched, tiny_settings):
    plan = replace(make_plan(600.0, concurrent=2, num_trials=3), trial_seconds=55.0)
    known = {"documents": {"train": 7}, "plan": plan, "spent": 550.0}
    given = searched(result(), resumed=True, fitted=tiny_settings, **known)
    assert (given["documents"], given["plan"].trial_seconds, given["clock"]) == ({"train": 7}, 55.0, None)
    assert given["closing"] == 90.0  # although 650 of 600 s are used
    # One that died before its trials has what is left of the budget: 600 s less 90, and 300 + 100 used, in two waves.
    assert searched(result(), resumed=True, spent=300.0)["plan"].trial_seconds == pytest.approx(55.0)


def test_no_time_decides_anything_in_a_deterministic_search(searched, tiny_settings, monkeypatch):
    monkeypatch.setattr("tune.learning.steps.torch.use_deterministic_algorithms", lambda *words, **options: None)
    fixed = override(tiny_settings, DETERMINISTIC)
    given = searched(result(), settings=fixed)
    assert (given["planned"], given["fitted"], given["clock"], given["timed"]) == (None, fixed, None, False)
    assert given["closing"] == math.inf


def test_a_search_that_is_interrupted_writes_how_much_of_its_budget_it_has_used(searched, folder, monkeypatch):
    def interrupt(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "_run_trials", interrupt)
    with pytest.raises(KeyboardInterrupt):
        searched()
    assert existing_run(str(folder.path))[1].spent == 100.0


def test_trials_that_did_not_finish_are_told_of(searched):
    assert "2 of 3 trials did not finish\n" in searched(result(), result(finished=False), result(error="died"))["text"]


def test_a_joint_stage_that_was_undone_is_told_of(searched):
    undone = result()
    undone.metrics["undone"] = True
    text = searched(result(), result(finished=False), undone)["text"]
    told = "trial 2: the joint stage was undone, because the model is better on validation without it\n"
    assert told in text
    assert text.count("undone") == 1


def test_a_search_without_a_finished_trial_fails_with_the_first_ones_last_line(searched, folder):
    told = f"none of 3 trials finished (the first error: ValueError: no): their logs are in {folder.trials}"
    with pytest.raises(RuntimeError) as raised:
        searched(result(finished=False), result(error="Traceback:\nValueError: no\n"), result(error="other"))
    assert str(raised.value) == told
    assert searched.given["ended"]
    with pytest.raises(RuntimeError, match=r"^none of 3 trials finished: their logs"):
        searched()


def of_task(cause):
    """The error of a trial as Tune tells it: of both classes."""
    text = f"Traceback:\n{type(cause).__name__}: {cause}"
    return RayTaskError("train", text, cause, ip="10.0.0.7", pid=1).as_instanceof_cause()


def test_where_every_trial_made_the_users_mistake_the_search_ends_with_its_remedy(searched, folder):
    told = (
        "none of 3 trials finished: it is nan: go slower; then start again under another --name "
        f"(the logs are in {folder.trials})"
    )
    diverged = of_task(Diverged("it is nan: go slower"))
    with pytest.raises(Diverged) as raised:
        searched(result(finished=False, error=diverged), result(finished=False, error=diverged))
    assert str(raised.value) == told
    # A fault of the program beside it is not the user's to mend.
    with pytest.raises(RuntimeError, match=r"^none of 3 trials finished \(the first error: .*it is nan: go slower\): "):
        searched(result(finished=False, error=diverged), result(finished=False, error=of_task(ValueError("no"))))


# What is printed of the results.


def test_where_the_teacher_knows_nothing_the_closing_text_offers_no_front(searched, small_front, standing):
    given = searched(result(), standing=standing(ahead=0.0))
    assert given["text"].startswith("\nno front: the teacher is not clearly better than the commonest answer")
    assert "\npoints    " in given["text"]
    assert "\nfront " not in given["text"]
    assert "pick one" not in given["text"]
    good = searched(result(), standing=standing())["text"]
    assert good.startswith("\nmodel ")
    assert "TF-IDF + LR" in good


# Where things lie, and what each process has.


def test_a_run_of_its_own_keeps_its_trials_in_its_folder_and_one_of_a_shared_storage_under_its_name(folder):
    assert driver._storage(folder, Search()) == str(folder.path)
    assert driver._trials_name(folder, saved_run()) == "trials"
    shared = saved_run(storage="s3://bucket/runs")
    assert driver._storage(folder, shared.search) == "s3://bucket/runs"
    assert driver._trials_name(folder, shared) == "mine-1-trials"
    assert driver._states(folder, shared) == "s3://bucket/runs/mine-1-teacher-states"
    with_options = saved_run(storage="s3://bucket/runs?region=eu")
    assert driver._states(folder, with_options) == "s3://bucket/runs/mine-1-teacher-states?region=eu"


def machines(monkeypatch, *each):
    monkeypatch.setattr(driver, "cluster_at_hand", lambda: Cluster(machines=each, started=len(each)))


def test_several_learners_are_a_team_with_gpus_where_there_are_any(folder, monkeypatch):
    machines(monkeypatch, {"CPU": 8.0, "GPU": 2.0})
    assert driver._team(folder, saved_run(), "joint") is None
    team = TeamPlan(size=3, gpus=True, storage=str(folder.path), run="mine-1-joint")
    assert driver._team(folder, saved_run(num_learners=3), "joint") == team
    machines(monkeypatch, {"CPU": 8.0, "GPU": 0.0})
    assert not driver._team(folder, saved_run(num_learners=3), "joint").gpus


def test_each_process_has_the_gpus_that_were_asked_for_or_an_even_share(monkeypatch):
    machines(monkeypatch, {"CPU": 8.0, "GPU": 2.0})
    assert driver._gpus_each(Search(gpus_per_worker=0.0)) == 0.0
    assert driver._gpus_each(Search(gpus_per_worker=0.3)) == 0.3
    # Eight processors hold two trials of a process and three workers: four processes on each GPU.
    assert driver._gpus_each(Search(num_rollout_workers=3)) == 0.25
    # One trial of a process, three workers and two learners: six processes on two GPUs.
    assert driver._gpus_each(Search(num_rollout_workers=3, num_learners=2)) == 0.333


@pytest.mark.parametrize(("address", "failures"), [(None, 1), ("10.0.0.1:6379", 10)])
def test_trials_are_run_with_their_time_and_their_processes(address, failures, folder, prepared, monkeypatch):
    found = {}
    folder.path.mkdir()

    def tuner(trainable, tune_config, run_config):
        found.update(config=tune_config, run=run_config)
        return SimpleNamespace(fit=lambda: ["a result"])

    def with_parameters(function, **words):
        found.update(words)
        return function

    monkeypatch.setattr(driver.tune, "Tuner", tuner)
    monkeypatch.setattr(driver.tune, "with_parameters", with_parameters)
    monkeypatch.setattr(driver.tune, "with_resources", lambda function, group: found.update(group=group) or function)
    search = Search(address=address, num_rollout_workers=2, gpus_per_worker=0.5)
    fitted = override(Settings(), {"select.documents": 77})
    plan = make_plan(600.0, concurrent=2, num_trials=4)
    six_layers = replace(prepared, config=SimpleNamespace(num_hidden_layers=6))
    results = driver._run_trials(
        folder,
        SavedRun(id="mine-1", settings=Settings(), search=search),
        fitted,
        plan,
        six_layers,
        Lines(),
        clock="a clock",
        timed=True,
        resumed=False,
        verbose=False,
    )
    assert results == ["a result"]
    assert found["settings"] == fitted
    # Of 150 s a part is for measuring on validation. For so few rows it is the least part, a tenth.
    assert 2 * 1.2 * len(prepared.validation) * prepared.training_seconds * SIDE_BY_SIDE < 15
    assert found["measuring_s"] == pytest.approx(15)
    assert found["deadline_s"] == pytest.approx(135)
    assert found["clock"] == "a clock"
    assert (found["num_rollout_workers"], found["gpus_per_worker"], found["team"]) == (2, 0.5, None)
    assert found["group"].bundles == [{"CPU": 1.0, "GPU": 0.5}] * 3  # its own and its workers'
    assert (found["config"].num_samples, found["config"].max_concurrent_trials) == (4, 2)
    assert found["run"].failure_config.max_failures == failures
    assert (found["run"].name, found["run"].storage_path) == ("trials", str(folder.path))


@pytest.mark.parametrize(
    ("resumed", "there", "restored"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_resumed_search_takes_up_the_trials_that_it_finds_and_those_that_failed(
    resumed, there, restored, folder, prepared, monkeypatch
):
    done, tuners = [], []
    ended = SimpleNamespace(trial_id="a", status="TERMINATED", last_result={}, is_finished=lambda: True)
    folder.path.mkdir()

    class Tuner:
        def __init__(self, trainable, **words):
            done.append("new")

        @classmethod
        def restore(cls, path, trainable, resume_unfinished, restart_errored):
            made = cls.__new__(cls)
            made._local_tuner = SimpleNamespace(_tune_config=SimpleNamespace(search_alg="an empty one"))
            tuners.append(made._local_tuner._tune_config)
            done.append((path, resume_unfinished, restart_errored))
            return made

        def fit(self):
            return []

    known = {f"{folder.path}/trials": [ended]} if there else {}
    monkeypatch.setattr(driver, "known_trials", lambda place: known.get(place, []))
    monkeypatch.setattr(driver.tune, "Tuner", Tuner)
    monkeypatch.setattr(driver.tune, "with_parameters", lambda function, **words: function)
    monkeypatch.setattr(driver.tune, "with_resources", lambda function, group: function)
    search, six_layers = Search(gpus_per_worker=0.0), replace(prepared, config=SimpleNamespace(num_hidden_layers=6))
    saved = SavedRun(id="mine-1", settings=Settings(), search=search)
    options = {"clock": None, "timed": True, "resumed": resumed, "verbose": False}
    console = Lines()
    driver._run_trials(folder, saved, Settings(), PLAN, six_layers, console, **options)
    left = "nothing is left, because 1 of 1 trials are finished" if restored else "1 trial, 1 at once"
    assert console.told[-1][1] == f"searching: {left}"
    assert done == [(f"{folder.path}/trials", True, True) if restored else "new"]
    assert [isinstance(each.search_alg, FreshSearch) for each in tuners] == [True] * restored  # of the study's file


@pytest.mark.parametrize("search", [Search(num_learners=2), Search(address="10.0.0.1:6379")], ids=["team", "cluster"])
def test_a_team_or_a_cluster_prepares_in_a_worker_with_the_gpus_of_a_trials_process(
    search, folder, prepared, tiny_settings, monkeypatch
):
    started, given = [], []

    def on_cluster(work, takers, gpus):
        assert set(takers) == {"say", "keep"}
        given.append((gpus, work.keywords["states"], work.keywords["team"]))
        raise InputError("far enough")

    monkeypatch.setattr(driver, "start_ray", lambda *words: started.append(words))
    monkeypatch.setattr(driver, "on_cluster", on_cluster)
    monkeypatch.setattr(driver, "make_shared", lambda *words, **options: pytest.fail("the teacher was prepared here"))
    machines(monkeypatch, {"CPU": 4.0, "GPU": 2.0})
    with pytest.raises(InputError, match="far enough"):
        run_search(
            folder,
            SavedRun(id="mine-1", settings=tiny_settings, search=search),
            PLAN,
            Clock(),
            cores=4,
            resumed=False,
            verbose=False,
        )
    assert started == [(search.address or "local", 4, False)]
    # Four processors hold four trials of one process, or one trial of a process and two learners.
    states = f"{folder.path}/mine-1-teacher-states"
    team = TeamPlan(size=2, gpus=True, storage=str(folder.path), run="mine-1-teacher")
    assert given == [(0.5, states, team if search.num_learners == 2 else None)]


def test_a_trials_time_is_for_as_many_documents_as_validation_has_whatever_examples_own_them(
    prepared, tiny_settings, monkeypatch
):
    evaluated = []
    monkeypatch.setattr(driver, "fit_trial", lambda *words: evaluated.append(words[-1]) or tiny_settings)
    split = prepared.validation
    pairs = Examples(split.tokens.take(torch.arange(12)), split.targets[:6], torch.arange(6).repeat_interleave(2))
    driver._fit(tiny_settings, PLAN, replace(prepared, validation=pairs), Lines())
    assert evaluated == [12]


def test_the_first_guess_of_the_policys_learning_rate_follows_the_documents_of_select(searcher_of):
    # 20 / 4,000, which is between the bounds 1e-3 and 1e-2.
    guess = searcher_of({"select.documents": 4000, "joint.documents": 16000}).suggest("first")
    assert guess["select.learning_rate"] == pytest.approx(5e-3)


def test_an_interrupted_teacher_is_taken_up_and_its_states_are_deleted_once_the_free_rules_start(
    prepared, tiny_settings, tmp_path, monkeypatch
):
    states, taken_up, rules = tmp_path / "states", [], []
    six_layers = replace(prepared, config=SimpleNamespace(num_hidden_layers=6))

    def train(reducer, examples, settings, compute, seed, progress, keeper, clock):
        taken_up.append(keeper.load())
        if len(taken_up) == 1:
            keeper.keep(lambda: {"step": 1, "steps": 2})
            raise KeyboardInterrupt

    reducer = Reducer(encoder=Encoder(prepared.plain(torch.device("cpu"))), task=prepared.task)

    def prepare(settings, plan, say, latency, train, fingerprint, keep, documents):
        train(reducer, prepared.train, settings.teacher, settings.compute, 0, print, key="of these data")
        return six_layers

    monkeypatch.setattr("tune.checkpoints.EVERY_S", -1.0)
    monkeypatch.setattr(driver, "prepare", prepare)
    monkeypatch.setattr(driver, "train_teacher", train)
    monkeypatch.setattr(
        driver, "free_points", lambda own, settings, points, clock: rules.append((points, states.exists())) or []
    )
    with pytest.raises(KeyboardInterrupt):
        shared_of(tiny_settings, states)(lambda line: None)
    assert states.exists()
    shared = shared_of(tiny_settings, states)(lambda line: None)
    assert taken_up == [None, {"step": 1, "steps": 2}]
    # The free rules drop tokens at the search's first choice of six layers: after the embeddings, and after a third.
    assert shared.prepared is six_layers
    assert rules == [((0, 2), False)]


def test_a_dry_run_of_a_resumed_search_finds_that_the_data_have_changed(tiny_settings):
    saved = SavedRun(id="mine-1", settings=tiny_settings, search=Search(), fingerprint="of other data")
    with pytest.raises(InputError, match="one of them has changed since: put the old files back"):
        driver.inspect_inputs(saved, PLAN, cores=2, verbose=False)
    driver.inspect_inputs(replace(saved, fingerprint=None), PLAN, cores=2, verbose=False)


def test_a_dry_run_reads_the_table_of_times(tiny_settings, tmp_path):
    (tmp_path / "latency.json").write_text("text,label")
    settings = override(
        tiny_settings, {"select.price": "latency", "select.latency_table": str(tmp_path / "latency.json")}
    )
    with pytest.raises(InputError, match=r"latency\.json"):
        driver.inspect_inputs(SavedRun(id="mine-1", settings=settings, search=Search()), PLAN, cores=2, verbose=False)


@pytest.mark.parametrize("there", [0, 1])
def test_gpus_that_this_machine_has_not_are_told_before_ray_waits_for_them(folder, tiny_settings, monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    saved = SavedRun(id="mine-1", settings=tiny_settings, search=Search(num_rollout_workers=1, gpus_per_worker=0.75))
    told = f"--gpus-per-worker needs 1.5 GPUs for each trial, and this machine has {there}: leave it out, or use a "
    with pytest.raises(InputError, match=f"^{re.escape(told)}"):
        driver.inspect_inputs(saved, PLAN, cores=2, verbose=False)
    with pytest.raises(InputError, match=f"^{re.escape(told)}"):
        run_search(folder, saved, PLAN, Clock(), cores=2, resumed=False, verbose=False)
    driver._check_gpus(Search(gpus_per_worker=8.0, address="auto"))
    driver._check_gpus(Search(gpus_per_worker=0.0))


def test_a_teacher_whose_time_is_over_keeps_what_it_learned_and_a_later_life_has_what_is_left(
    prepared, tiny_settings, tmp_path, monkeypatch
):
    now, states = [0.0], StateFolder(str(tmp_path))
    monkeypatch.setattr("tune.budget.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tune.checkpoints.EVERY_S", -1.0)
    inputs = (prepared.train, tiny_settings.teacher, tiny_settings.compute, 0)
    told = []

    def teach(seconds, die_after=100):
        def tell(step):
            now[0] += 1.0
            told.append(step["step"])
            if len(told) == die_after:
                raise KeyboardInterrupt

        reducer = Reducer(encoder=Encoder(prepared.plain(torch.device("cpu"))), task=prepared.task)
        share = driver._train_alone(states, seconds, reducer, *inputs, tell, key="k")
        assert not reducer.encoder.plain.training
        return share

    with pytest.raises(KeyboardInterrupt):
        teach(9.5, die_after=4)  # three steps are kept, and 3 s
    assert teach(9.5) == 10 / 60  # 4 epochs of 240 documents in batches of 16
    assert told == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10]
    assert teach(None) is None
