"""How far rollout workers scale: what a select step is made of, measured, and what follows from it for many workers.

    python benchmarks/scaling.py                    # measure here, measure on one to three hosts, predict, simulate
    python benchmarks/scaling.py --report           # the page again, from what was measured

Hosts share this machine's processors (benchmarks/hosts.py says what they need). So on hosts an actor does no work: it
sleeps for as long as an item takes. The pool, Ray and the network between hosts are real. Without hosts their table
stays empty. Writes docs/results/scaling.json and docs/scaling.md. What docs/results/scaling.json holds is not measured
again.
"""

import argparse
import datetime
import json
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from hosts import Hosts, LocalCluster, missing
from saturation import Constants, Trouble, saturation, simulated_step_seconds, step_seconds
from workers import DOCUMENTS, prepared_of

from trbert.files import write_whole
from trbert.measure.timing import Spread, machine
from tune.learning.model import Model
from tune.learning.select_stage import ItemGradient, RolloutItem, flatten, load_flat_gradient
from tune.pool import RolloutPool
from tune.runs import write_json
from tune.settings import Settings, override

MODELS = (("MiniLM-L6", 256), ("BERT-base", 256))
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
STEPS = (2, 64, 1000)
"""Items of a step: as many as the default settings give, and two numbers that suit many workers."""
SPOT = Trouble(slow_share=0.01, slow_factor=5.0, deaths_per_hour=0.1)
"""One item in a hundred is five times as slow, and each machine is reclaimed every ten hours."""
PER_STEP = 8
HOSTS, ASLEEP_ITEMS, SHORT_S = (1, 2, 3), 24, 0.01
"""On hosts: how many there are; items a step; and the seconds of an item so short that the learner is the limit."""
EVER_SO_MANY = 10**9
WAVES = {"eight": 8, "four": 16, "two": 32, "one": 64}
SHARED = Path("/var/tmp/trbert_scaling")
PAGE = Path("docs/scaling.md")


class Asleep:
    """An actor whose items take their time and no processor.

    Args:
        given: seconds of an item, and a gradient.
        settings: none are needed.
    """

    def __init__(self, given: tuple[float, np.ndarray], settings: Settings) -> None:
        self.seconds, self.answer = given

    def ready(self) -> None:
        """Answers once the actor stands."""

    def gradient(self, weights: np.ndarray, item: RolloutItem) -> ItemGradient:
        """Returns the gradient given, after the item's time."""
        time.sleep(self.seconds)
        return ItemGradient(index=item.index, gradient=self.answer, reward=0, charge=0, kept=0, seconds=self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", default="docs/results/scaling.json")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--asleep", type=float, nargs="+", help=argparse.SUPPRESS)  # on the head of a cluster
    parser.add_argument("--bytes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.asleep:
        ray.init("auto", log_to_driver=False)
        told = [asleep(seconds, options.bytes, options.rounds) for seconds in options.asleep]
        return print(json.dumps(told))
    place = Path(options.out)
    if not options.report:
        measure(place, options.rounds)
    write_whole(PAGE, page(json.loads(place.read_text())).encode())


def measure(place: Path, rounds: int) -> None:
    """Measures what is not there yet; what is, is written at once."""
    found = json.loads(place.read_text()) if place.exists() else {}
    if "models" not in found:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        models = {name: of_model(name, length, rounds, name == MODELS[0][0]) for name, length in MODELS}
        ray.shutdown()
        found = {
            "command": f"python benchmarks/scaling.py --rounds {rounds}",
            "date": str(datetime.date.today()),
            "machine": machine(torch.device("cpu")),
            "models": models,
        }
        write_json(place, found)
    if not found.get("hosts") and not missing():
        first = found["models"][MODELS[0][0]]
        found["hosts"] = [on_hosts(hosts, first["constants"]["item"], first["bytes"], rounds) for hosts in HOSTS]
        write_json(place, found)


def of_model(name: str, length: int, rounds: int, first: bool) -> dict[str, Any]:
    """Returns what a step of a model is made of, and of the first model steps by one and two workers."""
    settings = override(
        Settings(), {"compute.threads": 1, "compute.device": "cpu", "data.max_length": length, "select.points": (0, 2)}
    )
    prepared = prepared_of(name, length)
    print(f"{name}: constants", flush=True)
    constants = measured(prepared, settings, rounds)
    print(f"{name}: {constants}", flush=True)
    return {
        "length": length,
        "constants": asdict(constants),
        "bytes": int(flatten(Model(prepared, settings).policy).nbytes),
        "measured": [pooled(prepared, settings, workers, rounds) for workers in ((1, 2) if first else ())],
    }


def items_of(settings: Settings, step: int, count: int) -> list[RolloutItem]:
    """Returns the items of a step."""
    size = settings.select.item_documents
    examples = torch.arange(count * size) % DOCUMENTS
    return [
        RolloutItem(index=index, version=step, examples=tuple(part.tolist()))
        for index, part in enumerate(examples.split(size))
    ]


def measured(prepared: Any, settings: Settings, rounds: int) -> Constants:
    """Returns what a step is made of: medians of rounds; an item's seconds are the mean of a step's eight."""
    torch.set_num_threads(1)
    model = Model(prepared, settings)
    sampler, weights = model.sampler(prepared.train), flatten(model.policy)
    items = items_of(settings, 0, PER_STEP)
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
    remote: Any = ray.remote(num_cpus=1)(Asleep)
    actors = [remote.remote((0.0, weights), settings) for _ in range(2)]
    times: dict[str, list[float]] = {"item": [], "handle": [], "publish": [], "fetch": [], "learn": []}
    for turn in range(rounds + 1):
        found = {}
        started = time.perf_counter()
        result = sampler.gradients(weights, items)[0]
        found["item"] = (time.perf_counter() - started) / len(items)
        started = time.perf_counter()
        ref = ray.put(weights)
        found["publish"] = time.perf_counter() - started
        started = time.perf_counter()
        ray.get(actors[0].gradient.remote(ref, items[0]))
        found["fetch"] = time.perf_counter() - started
        many = 200
        started = time.perf_counter()
        waiting = [actors[index % 2].gradient.remote(ref, items[0]) for index in range(many)]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            ray.get(done)
        found["handle"] = (time.perf_counter() - started) / many
        started = time.perf_counter()
        gradient = np.sum([result.gradient] * 2, axis=0, dtype=np.float32)
        load_flat_gradient(model.policy, gradient)
        optimizer.step()
        found["learn"] = time.perf_counter() - started
        if turn:
            for name, seconds in found.items():
                times[name].append(seconds)
    for actor in actors:
        ray.kill(actor)
    return Constants(**{name: Spread.of(seconds).median for name, seconds in times.items()})


def pooled(prepared: Any, settings: Settings, workers: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds of a step by the pool itself."""
    pool = RolloutPool(ray.put(prepared), settings, workers)
    return steps_of(pool, flatten(Model(prepared, settings).policy), settings, PER_STEP, rounds) | {"workers": workers}


def asleep(seconds: float, size: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds of a step of sleeping items by the pool, on all processors of the cluster at hand."""
    gradient, settings = np.zeros(size // 4, np.float32), Settings()
    workers = int(ray.cluster_resources()["CPU"])
    given: Any = ray.put((seconds, gradient))
    pool = RolloutPool(given, settings, workers, actor=Asleep)
    return steps_of(pool, gradient, settings, ASLEEP_ITEMS, rounds) | {"workers": workers, "item": seconds}


def steps_of(pool: RolloutPool, weights: np.ndarray, settings: Settings, count: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds of a pool's steps of so many items, and ends it."""
    seconds = []
    for step in range(rounds + 1):
        items = items_of(settings, step, count)
        started = time.perf_counter()
        pool.gradients(weights, items)
        seconds.append(time.perf_counter() - started)
    told = asdict(pool.statistics())
    pool.close()
    return {"items": count, "seconds": asdict(Spread.of(seconds[1:])), "statistics": told}


def on_hosts(number: int, item: float, size: int, rounds: int) -> dict[str, Any]:
    """Returns steps of sleeping items on so many hosts."""
    print(f"{number} hosts", flush=True)
    hosts = Hosts(number)
    hosts.up()
    try:
        cluster = LocalCluster(hosts, SHARED / str(number))
        cluster.up()
        command = f".venv/bin/python benchmarks/scaling.py --asleep {item} {SHORT_S} --bytes {size} --rounds {rounds}"
        told = cluster.on_head(command, 300)
    finally:
        hosts.act("down")
        subprocess.run(["rm", "-rf", str(SHARED)], check=False)
    return {"hosts": number, "steps": json.loads(told.strip().splitlines()[-1])}


def page(found: dict[str, Any]) -> str:
    """Returns the page."""
    models, hosts = found["models"], found.get("hosts", [])
    constants = {name: Constants(**each["constants"]) for name, each in models.items()}
    first = constants[MODELS[0][0]]
    handle = over_hosts(hosts, first)
    far = {name: replace(each, handle=max(each.handle, handle)) for name, each in constants.items()}
    size = models[MODELS[0][0]]["bytes"]
    return PAGE_TEXT.format(
        command=found["command"],
        date=found["date"],
        machine=found["machine"],
        constants=_constants_table(models),
        here=_here_table(models),
        hosts=_hosts_table(hosts, first),
        many="\n\n".join(_many_table(name, each) for name, each in far.items()),
        short=SHORT_S,
        handle=_ms(first.handle),
        far_handle=_ms(handle),
        busy=saturation(first, EVER_SO_MANY),
        far_busy=saturation(far[MODELS[0][0]], EVER_SO_MANY),
        traffic=f"{size / handle / 1e6:.0f}",
        kilobytes=f"{size / 1e3:.0f}",
        **{name: _longer(far[MODELS[0][0]], workers) for name, workers in WAVES.items()},
    )


def over_hosts(hosts: list[dict[str, Any]], constants: Constants) -> float:
    """Returns the learner's seconds on an item where most actors are on other hosts, as short items on them tell."""
    if not hosts:
        return constants.handle
    (step,) = [step for step in hosts[-1]["steps"] if step["item"] == SHORT_S]
    return float((step["seconds"]["median"] - constants.publish - constants.learn) / step["items"])


def _table(header: str, rows: list[str]) -> str:
    return "\n".join([header, "|" + "---|" * (header.count("|") - 1), *rows])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}" if seconds < 0.01 else f"{1e3 * seconds:.0f}"


def _constants_table(models: dict[str, Any]) -> str:
    return _table(
        "| model | tokens | item, ms | handle, ms | publish, ms | fetch, ms | learn, ms | policy and gradient, kB |",
        [
            f"| {name} | {each['length']} | {' | '.join(map(_ms, each['constants'].values()))} "
            f"| {each['bytes'] / 1e3:.0f} |"
            for name, each in models.items()
        ],
    )


def _beside(constants: Constants, step: dict[str, Any]) -> str:
    spread = step["seconds"]
    predicted = step_seconds(constants, step["workers"], step["items"])
    apart = 100 * (spread["median"] / predicted - 1)
    return (
        f"{step['workers']} | {step['items']} | {spread['median']:.3f} ({spread['low']:.3f}–{spread['high']:.3f}) "
        f"| {predicted:.3f} | {apart:+.0f} %"
    )


def _here_table(models: dict[str, Any]) -> str:
    return _table(
        "| model | workers | items a step | measured, s | predicted, s | apart |",
        [
            f"| {name} | {_beside(Constants(**each['constants']), step)} |"
            for name, each in models.items()
            for step in each["measured"]
        ],
    )


def _hosts_table(found: list[dict[str, Any]], constants: Constants) -> str:
    return _table(
        "| hosts | item, s | workers | items a step | measured, s | predicted, s | apart |",
        [
            f"| {each['hosts']} | {step['item']:.3f} "
            f"| {_beside(Constants(**{**asdict(constants), 'item': step['item']}), step)} |"
            for each in found
            for step in each["steps"]
        ],
    )


def _many_table(name: str, constants: Constants) -> str:
    cells = {
        workers: [way(constants, workers, items) for items in STEPS for way in (step_seconds, _undisturbed, _on_spot)]
        for workers in WORKERS
    }
    header = " | ".join(f"{items:,} items: formula | simulated | on spot" for items in STEPS)
    ends = ", ".join(f"{saturation(constants, items):,} for {items:,} items" for items in STEPS)
    rows = [f"| {workers:,} | {' | '.join(f'{one:.2f}' for one in row)} |" for workers, row in cells.items()]
    return f"{name}; seconds a step. Saturated at {ends}.\n\n" + _table(f"| workers | {header} |", rows)


def _undisturbed(constants: Constants, workers: int, items: int) -> float:
    return simulated_step_seconds(constants, workers, items, Trouble())


def _on_spot(constants: Constants, workers: int, items: int) -> float:
    return simulated_step_seconds(constants, workers, items, SPOT)


def _longer(constants: Constants, workers: int) -> str:
    return f"{100 * (_on_spot(constants, workers, 64) / _undisturbed(constants, workers, 64) - 1):.0f} %"


PAGE_TEXT = """# How far rollout workers scale

`{command}`, {date}. {machine}, one thread a worker. Medians; in brackets the quartiles.

A select step hands out items (8 documents, 8 trajectories each), takes their gradients, and steps:

    T(W, I) = publish + max(I · handle, ⌈I / W⌉ · (item + fetch)) + learn

W workers, I items; *item* one actor's work, *handle* the learner's own work on one item, *publish* putting new weights
where actors fetch them, *fetch* what an item's way there and back takes beside the work, *learn* the optimiser's step.
No more than I workers have work, and no more than (item + fetch) / handle keep the learner busy: that is where more
workers stop helping. The simulation (`benchmarks/saturation.py`) adds what the formula leaves out: the learner comes
round to one actor at a time; on spot machines one item in a hundred is five times as slow, each machine is reclaimed
every ten hours, its death is noticed after 5 s, another stands after 30 s, and an item three times as late as usual is
given to an idle actor too.

## What a step is made of

{constants}

## Measured and predicted: real work, on this machine

{here}

## Measured and predicted: one to three hosts

Two workers a host. The hosts share this machine's two processors, so here an actor sleeps for as long as an item takes:
pool, Ray and network are real, the work is not. The constants are those above, measured on one host. Items of {short} s
keep the learner busy, and show what the formula has wrong between hosts: a gradient then comes by way of two object
stores, and costs the learner {far_handle} ms, not {handle} (three hosts' daemons on two processors have a share in
that).

{hosts}

## Predicted: up to a thousand workers

With the learner's {far_handle} ms an item between hosts.

{many}

## Where it saturates, and what to change then

* **At the items of a step, first.** As set, a step has two (16 documents of 8): a third worker of a trial idles. Raise
  `select.step_documents`, or lower `select.item_documents`; run more trials at once before more workers a trial.
* **At the learner, next:** with {busy} busy workers of MiniLM-L6 on its own host, or {far_busy} on others, handing out
  and taking up is all it does. Faster actors get there sooner: with GPUs that do an item in a tenth of the time, a
  tenth as many. Make items larger then (`select.item_documents`), which costs nothing but balance at a step's end.
* **The object store, last:** a step publishes {kilobytes} kB to each machine once and takes as much for each item; a
  learner that does nothing but take gradients from other hosts moves {traffic} MB/s.
* **Stragglers and lost machines** hurt most where a step has few waves, for then it waits for its slowest item: on spot
  machines a step of 64 items takes {eight} longer on 8 workers (eight waves), {four} on 16, {two} on 32, {one} on 64.
"""


if __name__ == "__main__":
    main()
