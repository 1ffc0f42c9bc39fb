"""How far rollout workers scale: what a select step is made of, measured here, and what follows from it for many.

    python benchmarks/scaling.py                    # measure, predict, simulate

Writes docs/results/scaling.json, from which the tables of docs/scaling.md come.
"""

import argparse
import datetime
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from saturation import Constants, Trouble, saturation, simulated_step_seconds, step_seconds
from workers import prepared_of

from trbert.timing import Spread, machine
from tune.rollouts import RolloutPool
from tune.runs import write_json
from tune.settings import Settings, override
from tune.stages import ItemGradient, RolloutItem, flatten, load_flat_gradient
from tune.training import Model

MODEL, LENGTH = "MiniLM-L6", 256
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
STEPS = {"as set, 2 items": 2, "64 items": 64, "1,000 items": 1000}
SPOT = Trouble(slow_share=0.01, slow_factor=5.0, deaths_per_hour=0.1)
"""One item in a hundred five times as slow, and a machine reclaimed every ten hours."""


class Echo:
    """An actor that does no work: what is left is Ray's."""

    def gradient(self, weights: np.ndarray, item: RolloutItem) -> ItemGradient:
        return ItemGradient(index=item.index, gradient=weights, reward=0, charge=0, kept=0, entropy=0, seconds=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", default="docs/results/scaling.json")
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    settings = override(
        Settings(), {"compute.threads": 1, "compute.device": "cpu", "data.max_length": LENGTH, "select.points": (0, 2)}
    )
    prepared = prepared_of(MODEL, LENGTH)
    constants = measured(prepared, settings, options.rounds)
    weights = flatten(Model(prepared, settings).policy)
    found = {
        "command": f"python benchmarks/scaling.py --rounds {options.rounds}",
        "date": str(datetime.date.today()),
        "machine": machine(torch.device("cpu")),
        "constants": asdict(constants),
        "bytes": int(weights.nbytes),
        "measured": [pooled(prepared, settings, workers, options.rounds) for workers in (1, 2)],
        "predicted": {
            name: [
                {
                    "workers": workers,
                    "formula": step_seconds(constants, workers, items),
                    "undisturbed": simulated_step_seconds(constants, workers, items, Trouble()),
                    "spot": simulated_step_seconds(constants, workers, items, SPOT),
                }
                for workers in WORKERS
            ]
            for name, items in STEPS.items()
        },
        "saturation": {name: saturation(constants, items) for name, items in STEPS.items()},
    }
    ray.shutdown()
    write_json(Path(options.out), found)
    print(json.dumps(found["constants"], indent=1))


def items_of(settings: Settings, step: int, count: int) -> list[RolloutItem]:
    """Returns the items of a step."""
    size = settings.select.item_documents
    documents = torch.arange(count * size) % 64
    return [
        RolloutItem(index=index, version=step, documents=tuple(part.tolist()))
        for index, part in enumerate(documents.split(size))
    ]


def median(seconds: list[float]) -> float:
    return Spread.of(seconds).median


def measured(prepared: Any, settings: Settings, rounds: int) -> Constants:
    """Returns what a step is made of."""
    torch.set_num_threads(1)
    model = Model(prepared, settings)
    sampler, weights = model.sampler(prepared.train.examples()), flatten(model.policy)
    (item,) = items_of(settings, 0, 1)
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
    echo: Any = ray.remote(num_cpus=1)(Echo)
    actors = [echo.remote() for _ in range(2)]
    times: dict[str, list[float]] = {"item": [], "handle": [], "publish": [], "fetch": [], "learn": []}
    for turn in range(rounds + 2):
        found = {}
        started = time.perf_counter()
        result = sampler.gradient(weights, item)
        found["item"] = time.perf_counter() - started
        started = time.perf_counter()
        ref = ray.put(weights)
        found["publish"] = time.perf_counter() - started
        started = time.perf_counter()
        ray.get(actors[0].gradient.remote(ref, item))
        found["fetch"] = time.perf_counter() - started
        many = 200
        started = time.perf_counter()
        waiting = [actors[index % 2].gradient.remote(ref, item) for index in range(many)]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            ray.get(done)
        found["handle"] = (time.perf_counter() - started) / many
        started = time.perf_counter()
        gradient = np.sum([result.gradient] * 2, axis=0, dtype=np.float32)
        load_flat_gradient(model.policy, gradient)
        optimizer.step()
        found["learn"] = time.perf_counter() - started
        if turn >= 2:
            for name, seconds in found.items():
                times[name].append(seconds)
    for actor in actors:
        ray.kill(actor)
    return Constants(**{name: median(seconds) for name, seconds in times.items()})


def pooled(prepared: Any, settings: Settings, workers: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds of a step of eight items by the pool itself."""
    pool = RolloutPool(ray.put(prepared), settings, workers)
    weights = flatten(Model(prepared, settings).policy)
    seconds = []
    for step in range(rounds + 1):
        items = items_of(settings, step, 8)
        started = time.perf_counter()
        pool.gradients(weights, items)
        seconds.append(time.perf_counter() - started)
    told = asdict(pool.statistics())
    pool.close()
    return {"workers": workers, "items": 8, "seconds": asdict(Spread.of(seconds[1:])), "statistics": told}


if __name__ == "__main__":
    main()
