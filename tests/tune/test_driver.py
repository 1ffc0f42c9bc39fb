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

    monkeypatch.setattr("tune.prepare.SAY_EVERY_S", 0.0)
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


@pytest.mark.parametrize(("text_column", "points"), [("text", "0,2"), ("question,sentence", "2,3,4")])
def test_a_search_starts_with_the_points_that_suit_its_documents(text_column, points, prepared):
    settings = to_json(override(Settings(), {"data.text_column": text_column}))
    saved = {"settings": settings, "fitted": settings, "search": {"fixed": []}}
    six_layers = replace(prepared, config=SimpleNamespace(num_hidden_layers=6))
    search = _tune_config(saved, PLAN, six_layers).search_alg
    assert search.suggest("first")["select.points"] == points
