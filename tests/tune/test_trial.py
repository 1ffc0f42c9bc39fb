"""A trial of every selector in this process, and the run that is collected from them; Ray is not started."""

import copy
import dataclasses
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from ray import tune
from safetensors.torch import load_file

from trbert.measure.evaluate import Evaluation
from trbert.modeling import load
from trbert.selection.selectors import SELECTORS, selector_class
from tune.budget import Clock, StageTimeout
from tune.checkpoints import StageState, StateKeeper, newest_state, write_state
from tune.learning.model import Model
from tune.learning.select_stage import Sampler
from tune.processes.pool import PoolStatistics, RolloutPool
from tune.processes.teams import TeamPlan
from tune.results.front import UNNUMBERED, Point
from tune.results.outcome import read_outcome
from tune.results.report import collect
from tune.results.table import read_front
from tune.runs.folder import RunFolder
from tune.settings import override
from tune.trial import _Teller, _timed, better_without, run_trial

SHORT = {
    "select.documents": 32,
    "select.samples": 2,
    "select.warm_start_documents": 16,
    "joint.documents": 32,
    "joint.samples": 2,
}
# As the search samples it: the attention rule stands at one of these two points.
CONFIG = {"select.points": "0,1", "select.keep_ratios": 0.1, "select.penalty": 1.0}


class Session:
    """What Ray Tune keeps of a trial: its last report, and its last checkpoint copied."""

    def __init__(self, folder):
        self.folder, self.told, self.stages = folder, {}, []

    def report(self, metrics, checkpoint=None):
        self.told = metrics
        self.stages.append(metrics["stage"])
        if checkpoint is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.copytree(checkpoint.path, self.folder)

    @property
    def result(self):
        checkpoint = tune.Checkpoint.from_directory(str(self.folder))
        return SimpleNamespace(error=None, checkpoint=checkpoint, metrics=self.told)


@pytest.fixture
def trial(prepared, tiny_settings, tmp_path, monkeypatch):
    """A function: a selector's name, its session, and that of the trial it continues -> its session when finished."""

    def run(name, own=None, before=None):
        own = own or Session(tmp_path / "trials" / name)
        monkeypatch.setattr(tune, "report", own.report)
        monkeypatch.setattr(tune, "get_checkpoint", lambda: before and before.result.checkpoint)
        settings = override(tiny_settings, SHORT | {"selector": name})
        options = {"num_rollout_workers": 0, "gpus_per_worker": 0.0, "deadline_s": None}
        run_trial(CONFIG, prepared=prepared, settings=settings, **options)
        return own

    return run


def test_a_run_of_every_selector_is_collected_with_its_models(trial, prepared, tiny_settings, tmp_path):
    sessions = [trial(name) for name in SELECTORS]
    for name, session in zip(SELECTORS, sessions, strict=True):
        learned = ["select"] if selector_class(name).learns else []
        assert list(dict.fromkeys(session.stages)) == [*learned, "joint", "measure", "done"]
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    points = collect(folder, prepared, tiny_settings, [], [session.result for session in sessions])
    assert read_front(folder.front_table) == points
    for number, name in enumerate(SELECTORS, start=1):
        own = [point for point in points if point.trial == str(number)]
        assert {point.selector for point in own} == {name}
        assert {point.points for point in own} == {(1,) if name == "attention" else (0, 1)}
        model = load(folder.models / str(number))
        assert model.selector.name == name
        assert model.config.dial in {point.dial for point in own}
        assert max(own, key=lambda point: point.dial).kept == (1.0,) * len(own[0].points)
        assert (folder.models / str(number) / "README.md").read_text().startswith(f"# Reduced model {number}")
    assert any(point.on_front and point.quality_test is not None for point in points)


class Died(Exception):
    pass


def dies_after_the_first_step_of(stage, monkeypatch):
    kept = StateKeeper.keep

    def keep(self, state):
        kept(self, state)
        if self._stage == stage and state()["step"] == 1:
            raise Died

    monkeypatch.setattr(StateKeeper, "keep", keep)


def weights(session):
    with session.result.checkpoint.as_directory() as folder:
        return load_file(Path(folder) / "model" / "model.safetensors")


@pytest.mark.parametrize(("name", "stage"), [("policy", "select"), ("policy", "joint"), ("first", "joint")])
def test_a_trial_that_died_goes_on_where_it_was_to_the_same_model(name, stage, trial, prepared, monkeypatch, tmp_path):
    monkeypatch.setattr("tune.checkpoints.EVERY_S", 0.0)  # after every step
    whole = trial(name, Session(tmp_path / "whole"))
    before, after = Session(tmp_path / "before"), Session(tmp_path / "after")
    with monkeypatch.context() as dying:
        dies_after_the_first_step_of(stage, dying)
        with pytest.raises(Died):
            trial(name, before)
    left = newest_state(before.result.checkpoint, prepared.fingerprint)
    assert (left.stage, left.state["step"]) == (stage, 1)
    trial(name, after, before)
    expected = [*(["select"] if stage == "select" else []), "joint", "measure", "done"]
    assert list(dict.fromkeys(after.stages)) == expected
    expected_weights = weights(whole)
    assert weights(after).keys() == expected_weights.keys()
    assert all(weight.equal(expected_weights[key]) for key, weight in weights(after).items())


def test_a_trial_that_died_between_its_stages_does_not_select_again(trial, prepared, monkeypatch, tmp_path):
    def die(self, train, progress, keeper, clock):
        raise Died

    before, after = Session(tmp_path / "before"), Session(tmp_path / "after")
    with monkeypatch.context() as dying:
        dying.setattr(Model, "join", die)
        with pytest.raises(Died):
            trial("gumbel", before)
    assert newest_state(before.result.checkpoint, prepared.fingerprint).stage == "select"
    monkeypatch.setattr(Sampler, "gradients", lambda *_: pytest.fail("it selected again"))
    trial("gumbel", after, before)
    assert list(dict.fromkeys(after.stages)) == ["joint", "measure", "done"]


def test_every_report_of_a_stage_over_a_pool_says_what_the_pool_did(monkeypatch):
    pool, reports = object.__new__(RolloutPool), []
    monkeypatch.setattr(RolloutPool, "statistics", lambda self: PoolStatistics(asked=4, done=3, repeated=1, workers=2))
    monkeypatch.setattr(tune, "report", lambda told, checkpoint=None: reports.append(told))
    _Teller("select", None, pool)({"step": 1.0, "steps": 2.0, "reward": -0.5})
    _Teller("joint")({"step": 1.0, "steps": 2.0, "loss": 0.5})
    assert reports[0] == {
        "stage": "select",
        "share": 0.5,
        "reward": -0.5,
        "items_asked": 4,
        "items_done": 3,
        "items_repeated": 1,
        "items_ignored": 0,
        "items_workers": 2,
        "items_waiting_s": 0.0,
    }
    assert reports[1] == {"stage": "joint", "share": 0.5, "loss": 0.5}


# What a trial measures and reports.

UNTRAINED = {"select.documents": 16, "select.warm_start_documents": 0, "joint.documents": 0}
"""Its model is the teacher."""


def start(prepared, settings, changes=None, **options):
    """Runs a trial in this process, without workers unless `options` say so."""
    own = override(settings, UNTRAINED | {"select.points": (0, 2)} | (changes or {}))
    options = {"num_rollout_workers": 0, "gpus_per_worker": 0.0, "deadline_s": None} | options
    run_trial({}, prepared=prepared, settings=own, **options)


@pytest.fixture
def session(tmp_path, monkeypatch):
    """What Ray Tune keeps of a trial that starts afresh."""
    own = Session(tmp_path / "trial")
    monkeypatch.setattr(tune, "report", own.report)
    monkeypatch.setattr(tune, "get_checkpoint", lambda: None)
    return own


def outcome_of(session):
    return read_outcome(session.folder)


def test_a_trials_curve_is_measured_on_validation_and_never_on_test(prepared, tiny_settings, session):
    # Test rows are the validation rows with their labels swapped. A model that is right on one is wrong on the other.
    assert prepared.teacher_validation > 0.6
    swapped = dataclasses.replace(prepared.validation, targets=1 - prepared.validation.targets)
    start(dataclasses.replace(prepared, test=swapped), tiny_settings, {"selector": "first"})
    whole = outcome_of(session).points[-1]
    # The model is the teacher, so that with all tokens kept it is as good as the teacher.
    assert whole.dial == 1.0
    assert whole.quality_validation == pytest.approx(prepared.teacher_validation)
    assert whole.quality_test is None
    assert session.told["curve"][-1] == [pytest.approx(prepared.teacher_validation), 1.0]


def measured(dial, quality, speed_up):
    return dial, Evaluation(quality=quality, speed_up=speed_up, kept=(0.5, 0.25), docs_per_second=1.0)


def test_the_sampler_is_told_quality_and_cost_at_the_default_dial_and_along_the_curve(
    prepared, tiny_settings, session, monkeypatch
):
    # The default dial is the second of three, and neither the best nor the cheapest.
    default = selector_class("first").default_dial
    curve = [measured(0.02, 0.5, 8.0), measured(default, 0.75, 4.0), measured(1.0, 0.875, 1.0)]
    monkeypatch.setattr("tune.trial.measure_along_dial", lambda *arguments: curve)
    start(prepared, tiny_settings, {"selector": "first"})
    told = session.told
    assert (told["quality"], told["cost"]) == (0.75, 0.25)  # cost is 1 / speed-up, which Optuna makes small
    assert told["curve"] == [[0.5, 0.125], [0.75, 0.25], [0.875, 1.0]]
    assert (told["stage"], told["share"], told["finished"]) == ("done", 1.0, True)
    outcome = outcome_of(session)
    assert outcome.deployed == curve[1][1]
    assert outcome.settings.select.points == (0, 2)
    assert [(point.dial, point.quality_validation, point.speed_up_validation) for point in outcome.points] == [
        (0.02, 0.5, 8.0),
        (default, 0.75, 4.0),
        (1.0, 0.875, 1.0),
    ]


def test_a_trial_says_of_each_dial_what_is_known_of_it_and_leaves_the_rest_to_the_report(
    prepared, tiny_settings, session, monkeypatch
):
    default = selector_class("first").default_dial
    monkeypatch.setattr("tune.trial.measure_along_dial", lambda *arguments: [measured(default, 0.75, 4.0)])
    start(prepared, tiny_settings, {"selector": "first", "select.penalty": 0.5, "select.keep_ratios": (0.1, 0.2)})
    assert outcome_of(session).points == (
        Point(
            trial=UNNUMBERED,
            selector="first",
            dial=default,
            points=(0, 2),
            penalty=0.5,
            keep_ratios=(0.1, 0.2),
            quality_validation=0.75,
            speed_up_validation=4.0,
            kept=(0.5, 0.25),
        ),
    )


# The model before its joint stage and the one after it.


def along(*found):
    """The dials of a model, with qualities and speed-ups; dial 9 keeps all tokens."""
    return [measured(float(dial), quality, speed_up) for dial, quality, speed_up in found]


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        # All kept: .9 and .8. At 2x both have .7, on the line from 1x to 3x of the first, .5 + (.9 − .5) / 2.
        (along((9, 0.9, 1.0), (0, 0.5, 3.0)), along((9, 0.8, 1.0), (1, 0.7, 2.0), (0, 0.5, 3.0)), True),
        # The same, but at 3x the second is .15 better.
        (along((9, 0.9, 1.0), (0, 0.5, 3.0)), along((9, 0.8, 1.0), (1, 0.7, 2.0), (0, 0.65, 3.0)), False),
        # What only one of them reaches does not count: the second loses at 5x, where the first is not.
        (along((9, 0.8, 1.0), (0, 0.8, 4.0)), along((9, 0.8, 1.0), (1, 0.9, 3.0), (0, 0.1, 5.0)), False),
        # Equal ones: what was learned stays.
        (along((9, 0.8, 0.98), (0, 0.8, 4.0)), along((9, 0.8, 0.99), (0, 0.8, 4.0)), False),
        # There was no time to measure the first with all tokens kept.
        (along((0, 0.9, 4.0)), along((9, 0.5, 1.0), (0, 0.5, 4.0)), False),
        # Neither reaches 2x, so that all tokens kept decide.
        (along((9, 0.9, 1.0), (0, 0.1, 1.5)), along((9, 0.8, 1.0), (0, 0.7, 1.5)), True),
    ],
)
def test_a_model_is_better_by_its_mean_over_all_kept_and_the_speed_ups_that_both_reach(before, after, better):
    assert better_without(before, after, keep_all=9.0) is better


JOINED = {"selector": "policy", "joint.documents": 32}


def spoil(self, *arguments, **options):
    """A joint stage that learns nonsense."""
    for parameter in self.parameters:
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))


def test_a_joint_stage_that_does_harm_on_validation_is_undone(prepared, tiny_settings, session, monkeypatch):
    policies = []
    monkeypatch.setattr(
        Model, "select", lambda self, *arguments: policies.append(copy.deepcopy(self.policy.state_dict()))
    )
    monkeypatch.setattr(Model, "join", spoil)
    start(prepared, tiny_settings, JOINED)
    outcome = outcome_of(session)
    assert (outcome.undone, session.told["undone"], outcome.settings.joint.documents) == (True, True, 0)
    model = load(session.folder / "model")
    encoder = model.reducer.encoder.plain.state_dict()
    assert all(torch.equal(encoder[name], torch.tensor(array)) for name, array in prepared.weights.items())
    assert all(torch.equal(model.selector.policy.state_dict()[name], own) for name, own in policies[0].items())
    whole = max(outcome.points, key=lambda point: point.dial)
    assert whole.quality_validation == pytest.approx(prepared.teacher_validation)


def test_a_joint_stage_that_does_no_harm_stays(prepared, tiny_settings, session, monkeypatch):
    monkeypatch.setattr(Model, "join", lambda self, *arguments, **options: None)
    # Without fusion, whose maps cost a little, the two models are the same.
    start(prepared, tiny_settings, JOINED | {"fusion": False})
    assert (outcome_of(session).undone, outcome_of(session).settings.joint.documents) == (False, 32)


def test_a_trial_without_a_joint_stage_or_without_time_for_it_compares_nothing(
    prepared, tiny_settings, session, monkeypatch
):
    monkeypatch.setattr("tune.trial.better_without", lambda *words: pytest.fail("it compared"))
    start(prepared, tiny_settings, {"selector": "policy"})
    monkeypatch.setattr(Model, "join", spoil)
    start(prepared, tiny_settings, JOINED, deadline_s=-1.0)
    assert session.told["undone"] is False


def test_a_trial_that_died_in_its_joint_stage_still_knows_the_model_before_it(trial, prepared, monkeypatch, tmp_path):
    monkeypatch.setattr("tune.checkpoints.EVERY_S", 0.0)  # after every step
    monkeypatch.setattr("tune.trial.better_without", lambda *words: True)
    whole, before, after = (Session(tmp_path / name) for name in ("whole", "before", "after"))
    trial("policy", whole)
    with monkeypatch.context() as dying:
        dies_after_the_first_step_of("joint", dying)
        with pytest.raises(Died):
            trial("policy", before)
    trial("policy", after, before)
    expected = weights(whole)
    assert all(weight.equal(expected[key]) for key, weight in weights(after).items())
    assert after.told["undone"]


# Its time.


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless the test moves it."""
    now = [1000.0]
    monkeypatch.setattr("tune.trial.time.monotonic", lambda: now[0])
    return now


def test_a_stage_reports_its_progress_at_most_every_five_seconds(session, clock):
    teller, shares = _Teller("joint"), []
    for seconds, step in ((0.0, 1.0), (4.0, 2.0), (5.5, 3.0), (10.0, 4.0), (11.0, 5.0)):
        clock[0] = 1000.0 + seconds
        teller({"step": step, "steps": 8.0, "loss": 0.5, "other": 1.0})
        shares.append(session.told["share"])
    assert shares == [1 / 8, 1 / 8, 3 / 8, 3 / 8, 5 / 8]
    assert session.told == {"stage": "joint", "share": 5 / 8, "loss": 0.5}


def test_a_stage_whose_time_is_over_is_stopped_and_says_that_it_was_cut_short(session, clock):
    teller, told = _Teller("joint", Clock(10.0)), []

    def stage(progress):
        for clock[0] in (1009.0, 1010.0, 1011.0, 1012.0):
            told.append(clock[0])
            progress({"step": 1.0, "steps": 8.0})

    with pytest.raises(StageTimeout):
        stage(teller)
    told.clear()
    _timed(stage, teller)
    assert told == [1009.0, 1010.0, 1011.0]
    assert session.told == {"stage": "joint", "share": 1.0, "cut_short": True}


def test_select_gets_55_hundredths_of_a_trials_time_and_joint_the_rest(
    prepared, tiny_settings, session, clock, monkeypatch
):
    ends = {}

    def end(self, *arguments, **options):
        (told,) = (each for each in arguments if isinstance(each, _Teller))
        ends[told.stage] = told.clock.left()

    monkeypatch.setattr(Model, "select", end)
    monkeypatch.setattr(Model, "join", end)
    start(prepared, tiny_settings, deadline_s=200.0)
    assert ends == {"select": pytest.approx(0.55 * 200), "joint": 200.0}
    start(prepared, tiny_settings)
    assert ends == {"select": math.inf, "joint": math.inf}


def test_a_life_that_follows_a_death_has_what_is_left_of_the_trials_time(
    prepared, tiny_settings, session, clock, tmp_path, monkeypatch
):
    found = StageState("select", {"step": 1, "steps": 4}, prepared.fingerprint, spent=90.0)
    write_state(tmp_path, found)
    checkpoint = tune.Checkpoint.from_directory(str(tmp_path))
    monkeypatch.setattr(tune, "get_checkpoint", lambda: checkpoint)
    ends = {}

    def end(self, *arguments, **options):
        (told,) = (each for each in arguments if isinstance(each, _Teller))
        ends[told.stage] = told.clock.left()

    monkeypatch.setattr(Model, "select", end)
    monkeypatch.setattr(Model, "join", end)
    start(prepared, tiny_settings, deadline_s=200.0)
    assert ends == {"select": pytest.approx(0.55 * 200 - 90), "joint": pytest.approx(110.0)}
    # What it saves says how much all of its lives have used.
    keeper = StateKeeper("joint", found, lambda *told: None, "key", clock=Clock(10.0, used=found.spent))
    clock[0] += 5.0
    assert keeper._clock.used() == 95.0


def test_a_trial_ends_with_the_time_of_the_trials_of_its_search(prepared, tiny_settings, session, clock, monkeypatch):
    ends = {}

    def end(self, *arguments, **options):
        (told,) = (each for each in arguments if isinstance(each, _Teller))
        ends[told.stage] = told.clock.left()

    monkeypatch.setattr(Model, "select", end)
    monkeypatch.setattr(Model, "join", end)
    monkeypatch.setattr("tune.trial.ray.get", lambda answer: answer)
    for left, joint in ((80.0, 60.0), (1000.0, 200.0)):
        search = SimpleNamespace(left=SimpleNamespace(remote=lambda left=left: left))
        start(prepared, tiny_settings, deadline_s=200.0, measuring_s=20.0, clock=search)
        assert ends["joint"] == pytest.approx(joint)


def test_a_trial_without_time_to_measure_has_its_point_at_the_default_dial_and_says_what_was_cut(
    prepared, tiny_settings, session, clock, monkeypatch
):
    def wait(self, *arguments, **options):
        (told,) = (each for each in arguments if isinstance(each, _Teller))
        clock[0] += 1000.0
        told({"step": 1.0, "steps": 2.0})

    def settle(self, split):
        clock[0] += 1.0

    monkeypatch.setattr(Model, "join", wait)
    monkeypatch.setattr(Model, "settle", settle)
    start(prepared, tiny_settings, {"selector": "first"}, deadline_s=200.0)
    assert session.told["cut"] == "joint, measuring"
    outcome = outcome_of(session)
    assert [point.dial for point in outcome.points] == [selector_class("first").default_dial]
    assert outcome.sampled is None
    # With seconds for measuring it has them, although the trial's time is over.
    start(prepared, tiny_settings, {"selector": "first"}, deadline_s=200.0, measuring_s=20.0)
    assert session.told["cut"] == "joint"
    outcome = outcome_of(session)
    assert len(outcome.points) > 2
    assert outcome.sampled is not None


def test_a_stage_that_has_taken_its_last_step_is_not_cut(session, clock):
    teller = _Teller("joint", Clock(10.0))
    clock[0] += 20.0
    teller({"step": 8.0, "steps": 8.0})
    with pytest.raises(StageTimeout):
        teller({"step": 7.0, "steps": 8.0})


# Its processes.


class Pool(RolloutPool):
    """Stands for the rollout actors."""

    made: ClassVar[list["Pool"]] = []

    def __init__(self, prepared, settings, num_workers, gpus, clock):
        self.asked, self.closed = (num_workers, gpus), False
        self.made.append(self)

    def statistics(self):
        return PoolStatistics(asked=7, done=7, workers=2)

    def close(self):
        self.closed = True


@pytest.fixture
def pools(monkeypatch):
    """The pools that were made; each only stands there."""
    monkeypatch.setattr(Pool, "made", [])
    monkeypatch.setattr("tune.trial.RolloutPool", Pool)
    monkeypatch.setattr("tune.trial.ray.put", lambda value: value)
    return Pool.made


def test_with_workers_select_runs_over_a_pool_that_is_closed_after_it(
    prepared, tiny_settings, session, pools, monkeypatch
):
    sources = []
    monkeypatch.setattr(Model, "select", lambda self, train, source, told, keeper, clock: sources.append(source))
    cpu = {"compute.device": "cpu"}
    start(prepared, tiny_settings, cpu, num_rollout_workers=2, gpus_per_worker=0.25)
    (pool,) = pools
    assert pool.asked == (2, 0.25)
    assert pool.closed
    assert sources == [pool]
    assert (session.told["items_asked"], session.told["items_workers"]) == (7.0, 2.0)


def test_a_pool_is_closed_where_select_fails(prepared, tiny_settings, session, pools, monkeypatch):
    def die(*arguments):
        raise Died

    monkeypatch.setattr(Model, "select", die)
    with pytest.raises(Died):
        start(prepared, tiny_settings, num_rollout_workers=2)
    assert pools[0].closed


@pytest.mark.parametrize(("step", "made"), [(1, 1), (4, 0)])
def test_a_select_stage_that_is_over_needs_no_pool(
    step, made, prepared, tiny_settings, session, pools, tmp_path, monkeypatch
):
    write_state(tmp_path, StageState("select", {"step": step, "steps": 4}, prepared.fingerprint))
    checkpoint = tune.Checkpoint.from_directory(str(tmp_path))
    monkeypatch.setattr(tune, "get_checkpoint", lambda: checkpoint)
    monkeypatch.setattr(Model, "select", lambda *arguments: None)
    start(prepared, tiny_settings, num_rollout_workers=2)
    assert len(pools) == made


def test_a_team_joins_in_what_is_left_of_the_time_under_the_trials_own_name(
    prepared, tiny_settings, session, clock, pools, monkeypatch
):
    def select(self, train, source, told, keeper, clock_of_stage):
        clock[0] += 30.0

    teams = []
    monkeypatch.setattr(Model, "select", select)
    monkeypatch.setattr(Model, "join", lambda *arguments: pytest.fail("it joined alone"))
    monkeypatch.setattr("tune.trial.TuneReportCallback", lambda: "callback")
    monkeypatch.setattr("tune.trial.join_together", lambda model, shared, *rest: teams.append(rest))
    monkeypatch.setattr(tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "t7"))
    team = TeamPlan(size=2, gpus=False, storage="/tmp/states", run="mine-joint")
    for deadline in (200.0, None):
        start(prepared, tiny_settings, deadline_s=deadline, team=team)
    own = dataclasses.replace(team, run="mine-joint-t7")
    assert teams == [(own, 170.0, ["callback"]), (own, None, ["callback"])]


@pytest.mark.parametrize(
    ("asked", "gpus", "device"), [("auto", 0.0, "cpu"), ("auto", 0.5, "cuda"), ("cpu", 0.5, "cpu")]
)
def test_a_trial_computes_on_a_gpu_where_it_was_given_one(
    asked, gpus, device, prepared, tiny_settings, session, monkeypatch
):
    found = []

    def note(prepared, settings):
        found.append(settings.compute.device)
        raise Died

    monkeypatch.setattr("tune.trial.Model", note)
    with pytest.raises(Died):
        start(prepared, tiny_settings, {"compute.device": asked}, gpus_per_worker=gpus)
    assert found == [device]


def test_masks_are_drawn_on_validation_and_reported_beside_those_in_use(prepared, tiny_settings, session, monkeypatch):
    given, drawn = [], measured(0.0, 0.25, 3.0)[1]
    monkeypatch.setattr("tune.trial.measure_along_dial", lambda *arguments: [measured(0.0, 0.75, 4.0)])
    monkeypatch.setattr(Model, "evaluate_sampled", lambda self, split, clock: given.append(split) or drawn)
    start(prepared, tiny_settings)
    assert given == [prepared.validation]
    outcome = outcome_of(session)
    assert (outcome.deployed.quality, outcome.sampled.quality) == (0.75, 0.25)


def test_the_threshold_of_the_head_is_set_on_validation_before_a_trial_is_measured(
    prepared, tiny_settings, session, monkeypatch
):
    steps = []
    monkeypatch.setattr(Model, "settle", lambda self, split: steps.append(split))
    curve = [measured(0.0, 0.75, 4.0)]
    monkeypatch.setattr("tune.trial.measure_along_dial", lambda *arguments: steps.append("measured") or curve)
    monkeypatch.setattr(Model, "evaluate_sampled", lambda self, split, clock: curve[0][1])
    start(prepared, tiny_settings)
    assert steps == [prepared.validation, "measured"]


@pytest.mark.parametrize(("asked", "used"), [(3, 3), (None, 1)])
def test_a_trial_computes_on_the_threads_that_are_set_or_on_one(
    prepared, tiny_settings, session, monkeypatch, asked, used
):
    default, threads = selector_class("first").default_dial, []
    monkeypatch.setattr("tune.trial.measure_along_dial", lambda *arguments: [measured(default, 0.75, 4.0)])
    monkeypatch.setattr("tune.trial.torch.set_num_threads", threads.append)
    start(prepared, tiny_settings, {"selector": "first", "compute.threads": asked})
    assert threads == [used]


def test_a_stages_report_holds_the_loss_the_reward_and_the_tokens_kept(monkeypatch):
    reports = []
    monkeypatch.setattr(tune, "report", reports.append)
    _Teller("select")({"step": 1.0, "steps": 4.0, "loss": 0.5, "reward": -0.25, "kept": 0.75, "seconds": 9.0})
    assert reports == [{"stage": "select", "share": 0.25, "loss": 0.5, "reward": -0.25, "kept": 0.75}]
