"""Preparing on a cluster: the driver is told what a worker does while it does it. What a search starts from."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from trbert.errors import InputError
from tune.budget import make_plan
from tune.driver import Shared, _on_cluster, _tune_config, make_shared
from tune.progress import Console
from tune.settings import Settings, override, to_json
from tune.space import to_settings

pytestmark = pytest.mark.ray
PLAN = make_plan(3600.0, 1, 1)


class Lines(Console):
    """A console that remembers when it was told what."""

    def __init__(self):
        super().__init__()
        self.told = []

    def line(self, text):
        self.told.append((time.monotonic(), text))


def test_a_worker_prepares_and_says_so_as_it_goes(ray_local, tiny_settings, tmp_path):
    console = Lines()
    longer = override(tiny_settings, {"seed": 11, "teacher.epochs": 8.0})  # no teacher of another test's
    states = tmp_path / "states"
    shared = _on_cluster(longer, PLAN, console, gpus=0.0, latency=None, states=str(states), team=None)
    assert isinstance(shared, Shared)
    assert [point.selector for point in shared.free]
    assert any("train: 240 documents" in text for _, text in console.told)
    training = next(when for when, text in console.told if "teacher: training, 8 epochs" in text)
    finished = next(when for when, text in console.told if "% on test" in text)
    assert finished - training > 0.3  # each was told when it was said, not all at the end
    assert not states.exists()


def test_a_teacher_that_was_interrupted_goes_on_where_it_was(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr("tune.checkpoints.EVERY_S", 0.0)
    steps = []

    def say(line):
        if line.startswith("teacher: step"):
            steps.append(int(line.split()[2]))
            if len(steps) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr("tune.learning.prepare.SAY_EVERY_S", 0.0)
    settings = override(tiny_settings, {"seed": 12})
    with pytest.raises(KeyboardInterrupt):
        make_shared(settings, PLAN, say, None, str(tmp_path / "states"))
    interrupted = make_shared(settings, PLAN, say, None, str(tmp_path / "states"))
    assert steps[:3] == [1, 2, 2]  # the second step was taken, and not yet kept
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    whole = make_shared(settings, PLAN, lambda line: None, None, str(tmp_path / "other"))
    for name, weights in whole.prepared.weights.items():
        assert (weights == interrupted.prepared.weights[name]).all(), name


def test_the_users_mistake_comes_back_as_itself(ray_local, tiny_settings):
    with pytest.raises(InputError, match=r"gone\.csv"):
        _on_cluster(override(tiny_settings, {"data.source": "gone.csv"}), PLAN, Lines(), 0.0, None, "/tmp", None)


@pytest.fixture
def searcher_of(prepared):
    """A function: settings that the user fixed -> what decides what is tried on six layers."""

    def searcher(fixed, plan=PLAN):
        settings = to_json(override(Settings(), fixed))
        saved = {"settings": settings, "fitted": settings, "search": {"fixed": list(fixed)}}
        six_layers = replace(prepared, config=SimpleNamespace(num_hidden_layers=6))
        return _tune_config(saved, plan, six_layers).search_alg

    return searcher


@pytest.mark.parametrize(("text_column", "points"), [("text", "0,2"), ("question,sentence", "2,3,4")])
def test_a_search_starts_with_the_points_that_suit_its_documents(text_column, points, searcher_of):
    search = searcher_of({"data.text_column": text_column})
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
    with pytest.raises(InputError, match=r"set select\.points too, to 4 layers$"):
        searcher_of({"select.keep_ratios": ratios})
    both = searcher_of({"select.keep_ratios": ratios, "select.points": (0, 1, 2, 3)})
    assert "select.points" not in both.suggest("first")
