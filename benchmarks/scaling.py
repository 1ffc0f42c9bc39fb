"""Measures what a select step is made of, and predicts from it how far rollout workers scale.

    python benchmarks/scaling.py                    # measure here and on one to three hosts, then write the page
    python benchmarks/scaling.py --report           # measure nothing, and write the page again

The hosts share this machine's processors (benchmarks/hosts.py says what they need). So on hosts an actor does no work:
it sleeps for as long as an item takes. The pool, Ray and the network between hosts are real. On a machine that cannot
make hosts, their table stays empty. Writes docs/results/scaling.json and docs/scaling.md. What the JSON file already
holds is not measured again.
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

from trbert.disk.files import write_json, write_whole
from trbert.measure.timing import Spread, machine
from tune.learning.model import Model
from tune.learning.select_stage import ItemGradient, RolloutItem, flatten, load_flat_gradient
from tune.processes.pool import RolloutPool
from tune.settings import Settings, override

MODELS = (("MiniLM-L6", 256), ("BERT-base", 256))
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
STEPS = (2, 64, 1000)
"""Numbers of items in a step: the default settings give the first, and the others suit many workers."""
SPOT = Trouble(slow_share=0.01, slow_factor=5.0, deaths_per_hour=0.1)
"""One item in a hundred is five times as slow, and each machine is reclaimed every ten hours."""
PER_STEP = 8
HOSTS = (1, 2, 3)
"""How many hosts there are in each measurement on hosts."""
ASLEEP_ITEMS = 24
"""Items of a step on hosts."""
SHORT_S = 0.01
"""Seconds of an item that is so short that the learner is the limit."""
UNLIMITED = 10**9
FEW_WAVES = (8, 16, 32, 64)
"""Workers for which a step of 64 items is compared with and without the troubles of spot machines."""
SHARED = Path("/var/tmp/trbert_scaling")
PAGE = Path("docs/scaling.md")


class Asleep:
    """An actor that sleeps for as long as an item takes, and needs no processor.

    Args:
        given: the seconds of an item, and the gradient to return for it.
        settings: not used; the pool hands them to every actor.
    """

    def __init__(self, given: tuple[float, np.ndarray], settings: Settings) -> None:
        self.seconds, self.answer = given

    def ready(self) -> None:
        """Returns once the actor has started."""

    def gradient(self, weights: np.ndarray, item: RolloutItem) -> ItemGradient:
        """Returns the given gradient after the time of an item."""
        time.sleep(self.seconds)
        return ItemGradient(index=item.index, gradient=self.answer, reward=0, charge=0, kept=0, seconds=self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", default="docs/results/scaling.json")
    parser.add_argument("--report", action="store_true", help="measure nothing, and write the page again")
    parser.add_argument("--asleep", type=float, nargs="+", help=argparse.SUPPRESS)  # used on the head of a cluster
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
    """Measures what the file does not hold yet, and writes each part as soon as it is measured."""
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
    """Returns what a step of a model is made of; of the first model also steps by one worker and by two."""
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
    size = settings.select.documents_of_item("cpu")
    examples = torch.arange(count * size) % DOCUMENTS
    return [
        RolloutItem(index=index, version=step, examples=tuple(part.tolist()))
        for index, part in enumerate(examples.split(size))
    ]


def measured(prepared: Any, settings: Settings, rounds: int) -> Constants:
    """Returns what a step is made of, as medians over rounds. An item's seconds are the mean over eight items."""
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
    """Returns the seconds of steps that the rollout pool takes with so many workers."""
    pool = RolloutPool(ray.put(prepared), settings, workers)
    return steps_of(pool, flatten(Model(prepared, settings).policy), settings, PER_STEP, rounds) | {"workers": workers}


def asleep(seconds: float, size: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds of steps with sleeping items, on a pool that uses all processors of the cluster."""
    gradient, settings = np.zeros(size // 4, np.float32), Settings()
    workers = int(ray.cluster_resources()["CPU"])
    given: Any = ray.put((seconds, gradient))
    pool = RolloutPool(given, settings, workers, actor=Asleep)
    return steps_of(pool, gradient, settings, ASLEEP_ITEMS, rounds) | {"workers": workers, "item": seconds}


def steps_of(pool: RolloutPool, weights: np.ndarray, settings: Settings, count: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds of a pool's steps of `count` items, and ends the pool."""
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
    """Returns the steps with sleeping items on `number` hosts."""
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
    """Returns the text of the page from what was measured."""
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
        busy=saturation(first, UNLIMITED),
        far_busy=saturation(far[MODELS[0][0]], UNLIMITED),
        traffic=f"{size / handle / 1e6:.0f}",
        kilobytes=f"{size / 1e3:.0f}",
        longer=_longer_table(far[MODELS[0][0]]),
    )


def over_hosts(hosts: list[dict[str, Any]], constants: Constants) -> float:
    """Returns the learner's seconds on an item where most actors are on other hosts, measured with short items."""
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
    return f"### {name}\n\nSaturated at {ends}.\n\n" + _table(f"| workers | {header} |", rows)


def _undisturbed(constants: Constants, workers: int, items: int) -> float:
    return simulated_step_seconds(constants, workers, items, Trouble())


def _on_spot(constants: Constants, workers: int, items: int) -> float:
    return simulated_step_seconds(constants, workers, items, SPOT)


def _longer_table(constants: Constants) -> str:
    rows = []
    for workers in FEW_WAVES:
        more = _on_spot(constants, workers, 64) / _undisturbed(constants, workers, 64) - 1
        rows.append(f"| {workers} | {64 // workers} | {100 * more:.0f} % |")
    return _table("| workers | items of each worker in a step | longer by |", rows)


PAGE_TEXT = """# How far rollout workers scale

A rollout worker is a process that samples trajectories for a trial in the select stage. This page shows how many of
them make that stage faster.

It was made by `{command}` on {date}.
The machine was {machine}, with one thread for each worker. A measured time is a median. Its quartiles stand in
parentheses.

## The formula

The learner of a trial takes one step after the other. In a step it publishes the policy's weights, hands out items to
the workers, takes their gradients, and moves the policy. An item is 8 documents with 8 trajectories each. With W
workers and I items a step takes this time:

    T(W, I) = publish + max(I · handle, ⌈I / W⌉ · (item + fetch)) + learn

| name | what takes this time |
|---|---|
| publish | the learner puts new weights where workers fetch them |
| handle | the learner's own work on one item |
| item | a worker's work on one item |
| fetch | an item's way to a worker and back, without the work on it |
| learn | a step of the optimiser |

More workers help up to a limit. At most I workers have an item to work on. At most (item + fetch) / handle workers can
be served by the learner. The smaller of these two numbers is the limit. A stage with so many workers is **saturated**:
it gets no faster with more.

The formula leaves out some events. A simulation (`benchmarks/saturation.py`) adds them in two steps. *Simulated* means
that the learner serves one worker at a time. *On spot* adds the troubles of spot machines:

| event | assumed |
|---|---|
| an item is slow | 1 item in 100 takes five times as long |
| a machine is reclaimed | once every ten hours for each machine |
| its loss is noticed | after 5 s |
| another machine takes its place | 30 s later |
| an item takes three times as long as usual | the item is given to a second worker, and the first result counts |

## What a step is made of

{constants}

## Measured and predicted: real work on this machine

*Apart* is how much longer the measured step took than the predicted one.

{here}

## Measured and predicted: one to three hosts

Each host has two workers. The hosts share the two processors of this machine. Therefore a worker does no work here: it
sleeps for as long as an item takes. The pool, Ray and the network are real. The prediction uses the times above, which
were measured on one host.

Items of {short} s are so short that the learner is the limit. They show where the formula is wrong between hosts: a
gradient passes through two object stores there. An item then costs the learner {far_handle} ms, not {handle}. A part
of the difference comes from this machine, because the Ray processes of three hosts share its two processors.

{hosts}

## Predicted: up to a thousand workers

These tables use {far_handle} ms for *handle*, as measured between hosts. Times are seconds a step.

{many}

## What limits the speed, and what to change

* **The items of a step are the first limit.** On a CPU a step has two items by default: 16 documents, 8 in each item. A
  third worker of a trial then has nothing to do. On a GPU an item has 64 documents, because fewer leave it idle. A step
  of 16 is then one item, and one worker does it. Raise `select.step_documents` or lower `select.item_documents`. With
  many machines, run more trials at once before you give each trial more workers.
* **The learner is the next limit.** It has no time left
  with {busy} busy workers of MiniLM-L6 on its own host, or {far_busy} on others. Faster workers reach it sooner.
  For example, where a GPU finishes an item in a tenth of the time, a tenth as many workers reach it. Then make items
  larger (`select.item_documents`). Larger items only make the workers' loads less even at the end of a step.
* **The object store is the last limit.** In a step each machine fetches {kilobytes} kB of weights once. The learner
  fetches as much for each item. A learner that only takes gradients from other hosts moves {traffic} MB/s.
* **Slow items and lost machines cost most where a worker has few items in a step.** Then the step waits for its
  slowest item. The table shows how much longer a step of 64 items takes on spot machines, for MiniLM-L6:

{longer}
"""


if __name__ == "__main__":
    main()
