"""Clocks: whose turn it is, ratios by hand, and memory that is really taken."""

import doctest
import platform

import pytest
import torch

from trbert.measure import timing
from trbert.measure.timing import Spread, machine, paired_ratio, peak_memory, take_turns

CPU = torch.device("cpu")


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(timing).attempted
    assert doctest.testmod(timing).failed == 0


def test_one_value_has_no_spread():
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)


def test_runs_take_turns_and_the_first_changes():
    called = []
    runs = {name: [lambda name=name, step=step: called.append(name + step) for step in "12"] for name in "abc"}
    seconds = take_turns(runs, 2, CPU)
    turns = ["".join(called[i : i + 2]) for i in range(0, len(called), 2)]
    assert turns == ["a1a2", "b1b2", "c1c2", *["a1a2", "b1b2", "c1c2"], *["b1b2", "c1c2", "a1a2"]]
    assert {name: [len(steps) for steps in rounds] for name, rounds in seconds.items()} == {
        key: [2, 2] for key in "abc"
    }


def test_each_step_is_told_its_own_seconds(monkeypatch):
    clock = [0.0]

    def take(seconds):
        clock[0] += seconds

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    seconds = take_turns({"slow": [lambda: take(3.0), lambda: take(1.0)], "fast": [lambda: take(0.5)]}, 1, CPU)
    assert seconds == {"slow": [[3.0, 1.0]], "fast": [[0.5]]}


def test_a_ratio_is_of_the_same_rounds():
    # Round by round 4/2, 9/3, 2/2: a machine that is slow in one round is slow for both.
    ratio = paired_ratio([[1.0, 3.0], [9.0, 0.0], [2.0, 0.0]], [[2.0], [3.0], [2.0]])
    assert ratio == Spread(2.0, 1.5, 2.5)


@pytest.mark.skipif(peak_memory(lambda: None, CPU) is None, reason="the system tells no peak of memory")
def test_peak_memory_is_what_a_run_takes_and_gives_back():
    peak_memory(lambda: torch.ones(8 * 2**20), CPU)
    assert 60 < peak_memory(lambda: torch.ones(16 * 2**20), CPU) < 80
    assert peak_memory(lambda: None, CPU) < 8


def test_the_device_is_waited_for_before_and_after_each_step(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "synchronize", lambda device: order.append("waited"))
    take_turns({"run": [lambda: order.append("step"), lambda: order.append("step")]}, 1, CPU)
    assert order == ["step", "step", *["waited", "step", "waited"] * 2]  # warmed up first


def test_the_machine_is_named_as_the_system_tells_it(tmp_path, monkeypatch):
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(timing, "Path", lambda path: told)
    assert machine(CPU) == platform.machine()
    told.write_text("processor\t: 0\nmodel name\t: A Processor: 2 GHz\nmodel name\t: another\n")
    assert machine(CPU) == "A Processor: 2 GHz"
