"""What a search on a cluster loses when machines are lost: event × stage, on real hosts.

    python benchmarks/faults.py                         # every event in every stage that is not there yet
    python benchmarks/faults.py --only unplugged        # those whose names contain this
    python benchmarks/faults.py --report                # the table of those that are there

Three hosts on one machine (benchmarks/hosts.py says what that needs), `ray up cluster.local.yaml`, and on them a small
search of three trials, each with a rollout worker. Each event strikes one host while a trial is in the named stage. Two
undisturbed runs, of two seeds, show how far fronts lie apart by chance. Writes docs/results/faults.md and a file for
each event, so a stopped run continues where it was.
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

from trbert.measure.timing import machine
from tune.results.table import read_front
from tune.runs import RunFolder, versions, write_json

SHARED = Path("/var/tmp/trbert_faults")
"""Seen by all hosts: what a network file system or a bucket is to others."""
STRUCK = 1
OUT = Path("docs/results/faults")
SEARCH = (
    "--budget 30m --num-trials 3 --num-rollout-workers 1 --seed {seed} --set data.train_rows=400 "
    "--set data.validation_rows=150 --set data.test_rows=300 --set data.max_length=48 --set teacher.epochs=2 "
    "--set select.documents=1600 --set select.warm_start_documents=100 --set joint.documents=2400"
)
POINT = ("speed_up", "quality_validation", "quality_test")
"""Two points are the same if these are. Their trials' numbers may differ, for trials are numbered as they end."""
SPEED_UPS = (1.5, 2.0, 3.0, 4.0)
"""Two fronts are compared by their mean quality at these speed-ups: of the best point that is at least as fast."""
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
    """Something that befalls a cluster.

    Attributes:
        stages: when.
        strike: what happens.
        mend: what ends it, so many seconds later.
        after: those seconds.
        resumes: the driver is gone too, and its search is taken up again.
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
    parser.add_argument("--report", action="store_true", help="run nothing")
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
    """Brings hosts and cluster up, searches, lets the event happen, and returns what became of the search."""
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
    """Returns whether the last word of the progress has a trial well within a stage."""
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
    """Writes the table."""
    base = next((each for each in found if each["event"] == UNDISTURBED[0]), None)
    lines = [
        "| event; stage | detected after s | s in all | lost s | items lost | items repeated | trials finished "
        "| front's quality, points | of the undisturbed |",
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


HEADING = f"""# What a search loses with its machines

`python benchmarks/faults.py`; one event by `--only NAME`. Each event's own file, with date, machine and what the search
said, lies in [faults/](faults).

Three hosts on one machine of two processors; three trials at a time of a learner and a rollout worker each. *Detected*:
until Ray lists the host as dead. *Lost*: over the undisturbed run of the same seed, the half minute included that a
host stays away; the processors being shared, the other trials take up what a lost host leaves, and runs lie some 15 s
apart by themselves. Items: of the rollouts that finished trials tell of; what died with a learner is not among them. A
front's quality: its mean on test at {", ".join(f"{each:g}x" for each in SPEED_UPS)}.
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
