"""Measures what a search on a cluster loses when machines are lost: each event in each stage, on real hosts.

    python benchmarks/faults.py                         # each event in each stage that has no file yet
    python benchmarks/faults.py --only unplugged        # only those whose names contain this
    python benchmarks/faults.py --report                # run nothing, and write the page again

Three hosts are made on one machine (benchmarks/hosts.py says what that needs). `ray up cluster.local.yaml` makes a
cluster of them. A small search runs there, of three trials with one rollout worker each. Each event strikes one host
while a trial is in the named stage. Two undisturbed runs, with two seeds, show how far two fronts lie apart by chance.

Writes docs/results/faults.md, and a file for each event. So a stopped run continues where it was.
"""

import argparse
import datetime
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hosts import HEAD, Hosts, LocalCluster, missing

from trbert.disk.files import write_json
from trbert.measure.timing import machine
from tune.results.table import read_front
from tune.runs.folder import RunFolder
from tune.runs.versions import versions

SHARED = Path("/var/tmp/trbert_faults")
"""A folder that all hosts see. Other clusters have a network file system or a bucket for this."""
STRUCK = 1
"""The host that is struck: a worker."""
OUT = Path("docs/results/faults")
SEARCH = (
    "--budget 30m --num-trials 3 --num-rollout-workers 1 --seed {seed} --set data.train_rows=400 "
    "--set data.validation_rows=150 --set data.test_rows=300 --set data.max_length=48 --set teacher.epochs=2 "
    "--set select.documents=1600 --set select.warm_start_documents=100 --set joint.documents=2400"
)
POINT = ("speed_up", "quality_validation", "quality_test")
"""Two points are the same if these are. Trial numbers may differ, because trials are numbered as they end."""
SPEED_UPS = (1.5, 2.0, 3.0, 4.0)
"""Two fronts are compared by their mean quality at these speed-ups. The best point that is as fast or faster counts."""
NOTICED_BY = """
import json, time, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
known = None
while True:
    alive = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
    if alive != known:
        known = alive
        print(json.dumps([time.time(), alive]), flush=True)
    time.sleep(0.2)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happens to a cluster.

    Attributes:
        stages: the stages of a trial in which it happens.
        strike: does it.
        mend: ends it.
        after: seconds from `strike` to `mend`.
        resumes: whether the driver is lost too, so that its search is resumed.
    """

    stages: tuple[str, ...] = ("select", "joint")
    strike: Callable[[Hosts, LocalCluster], None]
    mend: Callable[[Hosts, LocalCluster], None] = field(default=lambda hosts, cluster: None)
    after: float = 30.0
    resumes: bool = False


def _kill_driver(hosts: Hosts, cluster: LocalCluster) -> None:
    hosts.ssh(HEAD, "pkill -9 -f '[t]une/search.py'")


def _boot_head(hosts: Hosts, cluster: LocalCluster) -> None:
    hosts.act("boot", str(HEAD))
    cluster.up()


EVENTS: dict[str, Event] = {
    "raylet killed": Event(strike=lambda hosts, cluster: _told(hosts.act("kill9", str(STRUCK)))),
    "host unplugged, and in again": Event(
        strike=lambda hosts, cluster: _told(hosts.act("cut", str(STRUCK))),
        mend=lambda hosts, cluster: _told(hosts.act("mend", str(STRUCK))),
    ),
    "host off, and booted": Event(
        strike=lambda hosts, cluster: _told(hosts.act("power", str(STRUCK))),
        mend=lambda hosts, cluster: _told(hosts.act("boot", str(STRUCK))),
    ),
    "driver killed": Event(stages=("joint",), strike=_kill_driver, after=5.0, resumes=True),
    "head off, and booted": Event(
        stages=("joint",),
        strike=lambda hosts, cluster: _told(hosts.act("power", str(HEAD))),
        mend=_boot_head,
        resumes=True,
    ),
}
UNDISTURBED = ("none, seed 0", "none, seed 1")


def _told(words: str) -> None:
    print(words.strip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="events and stages whose names contain this, such as 'unplugged, joint'")
    parser.add_argument("--report", action="store_true", help="run nothing, and write the page again")
    options = parser.parse_args()
    runs: dict[str, tuple[Event, str] | None] = dict.fromkeys(UNDISTURBED)
    runs |= {f"{name}; {stage}": (event, stage) for name, event in EVENTS.items() for stage in event.stages}
    if not options.report:
        if lacking := missing():
            raise SystemExit(f"no hosts here: {lacking}")
        for name, run in runs.items():
            file = OUT / f"{name.replace(' ', '_').replace(',', '').replace(';', '-')}.json"
            if (options.only or "") in name and not file.exists():
                print(f"== {name}", flush=True)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, {"event": name, **one(run, seed=int(name == UNDISTURBED[1]))})
    found = [json.loads(path.read_text()) for path in OUT.glob("*.json")]
    report(sorted(found, key=lambda each: list(runs).index(each["event"])))


def one(run: tuple[Event, str] | None, seed: int) -> dict[str, Any]:
    """Starts hosts and a cluster, searches, lets the event happen, and returns what became of the search."""
    hosts = Hosts()
    hosts.up()
    folder = SHARED / f"{int(time.time())}"
    cluster = LocalCluster(hosts, folder)
    try:
        cluster.up()
        return _search(hosts, cluster, folder, run, seed)
    finally:
        hosts.act("down")


def _search(
    hosts: Hosts, cluster: LocalCluster, folder: Path, run: tuple[Event, str] | None, seed: int
) -> dict[str, Any]:
    log, noticed = cluster.search(SEARCH.format(seed=seed)), folder / "noticed.log"
    cluster.start(f".venv/bin/python -c {shlex.quote(NOTICED_BY)}", noticed)
    started, struck = time.time(), None
    if run is not None:
        event, stage = run
        cluster.wait(lambda: _in_stage(log, stage), 900, f"the {stage} stage")
        struck = time.time()
        event.strike(hosts, cluster)
        time.sleep(event.after)
        event.mend(hosts, cluster)
        if event.resumes:
            cluster.resume(log)
    cluster.wait(lambda: "in all" in log.read_text(), 1800, "the search to end")
    return {
        "seconds": round(time.time() - started, 1),
        "detected": _detected(noticed, struck),
        **_outcome(folder),
        "lines": [line for line in log.read_text().splitlines() if "its last state" in line],
        "date": str(datetime.date.today()),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }


def _in_stage(log: Path, stage: str) -> bool:
    """Returns whether the last line of progress shows a trial between 10 and 80 % of a stage."""
    lines = [line for line in log.read_text().splitlines() if "trials done" in line]
    words = lines[-1].split("   ")[1:] if lines else []
    shares = [int(word.split()[1]) for word in words if word.startswith(stage)]
    return any(10 <= share <= 80 for share in shares)


def _detected(noticed: Path, struck: float | None) -> float | None:
    if struck is None:
        return None
    changes = [json.loads(line) for line in noticed.read_text().splitlines() if line.startswith("[")]
    later = [when - struck for when, alive in changes if when > struck and len(alive) < 3]
    return round(later[0], 1) if later else None


def _outcome(folder: Path) -> dict[str, Any]:
    """Returns the items, trials and front of a finished search."""
    last = []
    for path in sorted((folder / "storage").rglob("result.json")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        items = {
            name: max(row.get(f"items_{name}", 0) for row in rows) for name in ("asked", "done", "repeated", "ignored")
        }
        last.append({"finished": rows[-1].get("finished", False), **items})
    front = [point for point in read_front(RunFolder(folder / "runs" / "run").front_table) if point.on_front]
    return {
        "trials": last,
        "front": [{name: str(getattr(point, name)) for name in ("trial", *POINT)} for point in front],
    }


def report(found: list[dict[str, Any]]) -> None:
    """Writes the page."""
    base = next((each for each in found if each["event"] == UNDISTURBED[0]), None)
    lines = [
        "| event; stage | detected, s | duration, s | lost, s | items lost | items repeated | trials finished "
        "| quality of the front, % | compared with the first row |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        trials = each["trials"]
        lost = sum(trial["asked"] - trial["done"] for trial in trials)
        repeated = sum(trial["repeated"] for trial in trials)
        cells = [each["event"], "–" if each["detected"] is None else f"{each['detected']:.1f}"]
        cells += [
            f"{each['seconds']:.0f}",
            "–" if base in (None, each) else f"{each['seconds'] - base['seconds']:+.0f}",
        ]
        cells += [f"{lost:.0f}", f"{repeated:.0f}", f"{sum(trial['finished'] for trial in trials)} of {len(trials)}"]
        quality = _quality(each["front"])
        cells += [f"{quality:.1f}", "–" if base in (None, each) else _compared(each["front"], base["front"])]
        lines.append(f"| {' | '.join(cells)} |")
    (OUT.parent / "faults.md").write_text(f"{HEADING}\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


HEADING = f"""# What a search loses when machines are lost

`python benchmarks/faults.py` makes this page. With `--only NAME` it runs one event. Each event has a file of its own in
[faults/](faults), with the date, the machine, and what the search printed.

The cluster is three hosts on one machine with two processors. The search runs three trials at a time, each with a
learner and one rollout worker. A host that is taken away comes back after half a minute.

* **detected**: how long it took until Ray listed the host as dead.
* **lost**: how much longer the search took than the undisturbed search in the first row. All rows but the second have
  the same seed. The half minute without the host is included. Two runs differ by about 15 s by chance. A negative
  figure is possible, because the hosts share the processors: when one host is away, the others run faster.
* **items lost** and **items repeated**: the pieces of work for rollout workers that never came back, and those that
  were done again. Only the trials that finished tell of them. What was lost together with a learner is not counted.
* **quality of the front**: the mean of its accuracies on test at {", ".join(f"{each:g}x" for each in SPEED_UPS)}.
  The last column says whether the front is the same as in the first row, or by how many percentage points it is better.
"""


def _quality(front: list[dict[str, str]]) -> float:
    points = [(float(each["speed_up"]), float(each["quality_test"])) for each in front]
    best = [max((quality for fast, quality in points if fast >= asked), default=0.0) for asked in SPEED_UPS]
    return 100 * sum(best) / len(best)


def _compared(front: list[dict[str, str]], base: list[dict[str, str]]) -> str:
    ours, theirs = (sorted(tuple(each[name] for name in POINT) for each in points) for points in (front, base))
    return "the same" if ours == theirs else f"{_quality(front) - _quality(base):+.1f}"


if __name__ == "__main__":
    main()
