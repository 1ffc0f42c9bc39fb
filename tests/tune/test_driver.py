"""Preparing on a cluster: the driver is told what a worker does while it does it."""

import time

import pytest

from trbert.errors import InputError
from tune.budget import make_plan
from tune.driver import Shared, _on_cluster
from tune.progress import Console
from tune.settings import override

pytestmark = pytest.mark.ray
PLAN = make_plan(3600.0, 1, 1)


class Lines(Console):
    """A console that remembers when it was told what."""

    def __init__(self):
        super().__init__()
        self.told = []

    def line(self, text):
        self.told.append((time.monotonic(), text))


def test_a_worker_prepares_and_says_so_as_it_goes(ray_local, tiny_settings):
    console = Lines()
    longer = override(tiny_settings, {"seed": 11, "teacher.epochs": 8.0})  # no teacher of another test's
    shared = _on_cluster(longer, PLAN, console, gpus=0.0, latency=None)
    assert isinstance(shared, Shared)
    assert [point.selector for point in shared.free]
    assert any("train: 240 documents" in text for _, text in console.told)
    training = next(when for when, text in console.told if "teacher: training, 8 epochs" in text)
    finished = next(when for when, text in console.told if "% on test" in text)
    assert finished - training > 0.3  # each was told when it was said, not all at the end


def test_the_users_mistake_comes_back_as_itself(ray_local, tiny_settings):
    with pytest.raises(InputError, match=r"gone\.csv"):
        _on_cluster(override(tiny_settings, {"data.source": "gone.csv"}), PLAN, Lines(), gpus=0.0, latency=None)
