"""The pages on faults and on scaling: what stands in their tables, from results made up by hand."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import faults
import scaling
from saturation import Constants, step_seconds

from tune.results.front import Point
from tune.results.table import write_front

TRIAL = {"finished": True, "asked": 200.0, "done": 200.0, "repeated": 0.0, "ignored": 0.0}


def front(*points):
    return [
        {"trial": f"{number}", "speed_up": f"{fast}", "quality_validation": "0.5", "quality_test": f"{quality}"}
        for number, (fast, quality) in enumerate(points)
    ]


def result(event, seconds=300.0, detected=None, trials=(TRIAL,), points=((1.6, 0.8), (5.0, 0.6))):
    return {"event": event, "seconds": seconds, "detected": detected, "trials": trials, "front": front(*points)}


def test_a_row_sums_over_trials_and_compares_with_the_undisturbed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "OUT", tmp_path / "faults")
    struck = {**TRIAL, "done": 198.0, "repeated": 3.0}
    failed = {**TRIAL, "finished": False, "repeated": 1.0}
    events = [
        result("none, seed 0"),
        result("none, seed 1", 310.0),
        result("raylet killed; select", 342.4, 4.31, (struck, failed), ((1.6, 0.8), (5.0, 0.64))),
    ]
    faults.report(events)
    rows = [line for line in (tmp_path / "faults.md").read_text().splitlines() if line.startswith("| ")][1:]
    # At 1.5x the point of .8, at 2, 3 and 4x the one of .6 or .64.
    assert rows[0] == "| none, seed 0 | – | 300 | – | 0 | 0 | 1 of 1 | 65.0 | – |"
    assert rows[1] == "| none, seed 1 | – | 310 | +10 | 0 | 0 | 1 of 1 | 65.0 | the same |"
    assert rows[2] == "| raylet killed; select | 4.3 | 342 | +42 | 2 | 4 | 1 of 2 | 68.0 | +3.0 |"


@pytest.mark.parametrize(
    ("last", "within"),
    [
        ("0 of 3 trials done   select 9 %   joint 40 %", False),
        ("0 of 3 trials done   select 9 %   select 40 %", True),
        ("1 of 3 trials done   select 81 %", False),
        ("trial ab lost its process: it continues from its last state", True),
    ],
)
def test_a_host_is_struck_when_a_trial_is_well_within_the_stage(tmp_path, last, within):
    log = tmp_path / "search.log"
    log.write_text(f"0 of 3 trials done   select 10 %\n{last}\n")
    assert faults._in_stage(log, "select") is within


def test_every_event_of_the_table_has_a_stage_that_a_search_tells_of():
    assert {stage for event in faults.EVENTS.values() for stage in event.stages} == {"select", "joint"}


def step(workers, items, median, **more):
    return {"workers": workers, "items": items, "seconds": {"median": median, "low": 1.0, "high": 3.0}, **more}


def test_the_scaling_page_has_each_measurement_beside_its_prediction():
    constants = {"item": 0.5, "handle": 0.002, "publish": 0.001, "fetch": 0.004, "learn": 0.003}
    model = {"length": 256, "constants": constants, "bytes": 100_000, "measured": [step(2, 8, 2.5)]}
    found = {
        "command": "a command",
        "date": "today",
        "machine": "a machine",
        "models": {scaling.MODELS[0][0]: model},
        "hosts": [{"hosts": 3, "steps": [step(6, 48, 0.2, item=0.01)]}],
    }
    told = scaling.page(found)
    here = step_seconds(Constants(**constants), 2, 8)
    assert f"| MiniLM-L6 | 2 | 8 | 2.500 (1.000–3.000) | {here:.3f} | {100 * (2.5 / here - 1):+.0f} % |" in told
    # On hosts the item is the sleeping one's.
    there = step_seconds(Constants(**{**constants, "item": 0.01}), 6, 48)
    assert f"| 3 | 0.010 | 6 | 48 | 0.200 (1.000–3.000) | {there:.3f} |" in told
    # Of .2 s for 48 items, .196 are the learner's: 4.1 ms each; .504 s an item keep it busy with 124 workers there.
    assert "costs the learner 4.08 ms, not 2.00" in told
    assert "with 252 busy workers of MiniLM-L6 on its own host, or 124 on others" in told
    assert "moves 24 MB/s" in told  # 100 kB every 4.1 ms
    assert "Saturated at 2 for 2 items, 64 for 64 items, 124 for 1,000 items." in told


def test_without_hosts_the_learners_seconds_are_those_of_one_host():
    constants = Constants(item=0.5, handle=0.002, publish=0.001, fetch=0.004, learn=0.003)
    assert scaling.over_hosts([], constants) == 0.002


def test_what_became_of_a_search_is_read_from_its_trials_and_its_front(tmp_path):
    trial = tmp_path / "storage" / "run" / "trial_1"
    trial.mkdir(parents=True)
    items = {"items_asked": 20, "items_done": 19, "items_repeated": 2, "items_ignored": 1}
    rows = [{"items_asked": 10}, {**items, "finished": True}]
    (trial / "result.json").write_text("\n".join(map(json.dumps, rows)))
    point = {"trial": "1", "selector": "policy", "quality_validation": 0.5, "quality_test": 0.75}
    kept = Point(**point, speed_up_validation=3.0, speed_up_test=2.5, on_front=True)
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    write_front(run / "front.csv", [kept, Point(**point, speed_up_validation=2.0)])
    assert faults._outcome(tmp_path) == {
        "trials": [{"finished": True, "asked": 20, "done": 19, "repeated": 2, "ignored": 1}],
        "front": [{"trial": "1", "speed_up": "2.5", "quality_validation": "0.5", "quality_test": "0.75"}],
    }
