"""A trial of every selector in this process, and the run that is collected from them; Ray is not started."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import tune
from safetensors.torch import load_file

from trbert.modeling import load
from trbert.selection.selectors import LEARNED, SELECTORS
from tune.checkpoints import StateKeeper, newest_state
from tune.learning.model import Model
from tune.learning.select_stage import Sampler
from tune.pool import PoolStatistics, RolloutPool
from tune.results.report import collect
from tune.results.table import read_front
from tune.runs import RunFolder
from tune.settings import override, to_json
from tune.trial import _Teller, run_trial

SHORT = {
    "select.documents": 32,
    "select.samples": 2,
    "select.warm_start_documents": 16,
    "joint.documents": 32,
    "joint.samples": 2,
}
# As the search samples it: the attention rule stands at one of these two points.
CONFIG = {"select.points": "0,1", "select.free": 0.1, "select.penalty": 1.0}


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
        settings = to_json(override(tiny_settings, SHORT | {"selector": name}))
        options = {"num_rollout_workers": 0, "gpus_per_worker": 0.0, "deadline_s": None}
        run_trial(CONFIG, prepared=prepared, settings=settings, **options)
        return own

    return run


def test_a_run_of_every_selector_is_collected_with_its_models(trial, prepared, tiny_settings, tmp_path):
    sessions = [trial(name) for name in SELECTORS]
    for name, session in zip(SELECTORS, sessions, strict=True):
        learned = ["select"] if name in LEARNED else []
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
def test_a_trial_that_died_goes_on_where_it_was_to_the_same_model(name, stage, trial, monkeypatch, tmp_path):
    monkeypatch.setattr("tune.checkpoints.EVERY_S", 0.0)  # after every step
    whole = trial(name, Session(tmp_path / "whole"))
    before, after = Session(tmp_path / "before"), Session(tmp_path / "after")
    with monkeypatch.context() as dying:
        dies_after_the_first_step_of(stage, dying)
        with pytest.raises(Died):
            trial(name, before)
    left = newest_state(before.result.checkpoint)
    assert (left.stage, left.state["step"]) == (stage, 1)
    trial(name, after, before)
    expected = [*(["select"] if stage == "select" else []), "joint", "measure", "done"]
    assert list(dict.fromkeys(after.stages)) == expected
    expected_weights = weights(whole)
    assert weights(after).keys() == expected_weights.keys()
    assert all(weight.equal(expected_weights[key]) for key, weight in weights(after).items())


def test_a_trial_that_died_between_its_stages_does_not_select_again(trial, monkeypatch, tmp_path):
    def die(self, train, progress, keeper):
        raise Died

    before, after = Session(tmp_path / "before"), Session(tmp_path / "after")
    with monkeypatch.context() as dying:
        dying.setattr(Model, "join", die)
        with pytest.raises(Died):
            trial("gumbel", before)
    assert newest_state(before.result.checkpoint).stage == "select"
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
