"""Measures what the rollout pool costs: two Ray actors beside two plain processes that do the same work.

    python benchmarks/workers.py

Each actor and each process has one thread. A plain process has its share of the items of all steps from the start, and
waits for no other. The pool receives the policy and returns gradients step by step, as in the select stage.

Writes docs/results/workers.md and .json.
"""

import argparse
import multiprocessing
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from inference import TASK, Given, model_of
from reports import write_report

from trbert.measure.timing import Spread
from trbert.packed.tokens import Tokens
from trbert.tasks.examples import Examples
from tune.learning.model import Model
from tune.learning.prepare import Prepared, arrays_of
from tune.learning.select_stage import RolloutItem, flatten
from tune.processes.pool import RolloutPool
from tune.settings import Settings, override

WORKERS, STEPS, DOCUMENTS = 2, 6, 64
CASES = (("MiniLM-L6", 128, "auto"), ("MiniLM-L6", 512, "auto"), ("MiniLM-L6", 512, "float32"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    found = []
    for name, length, dtype in CASES:
        found.append(case(name, length, dtype, options.rounds))
        print(line(found[-1]), flush=True)
    ray.shutdown()
    write_report(
        Path(options.out) / "workers",
        "What the rollout pool costs",
        f"python benchmarks/workers.py --rounds {options.rounds}",
        torch.device("cpu"),
        HOW.format(
            workers=WORKERS,
            steps=STEPS,
            documents=Settings().select.step_documents,
            samples=Settings().select.samples,
            rounds=options.rounds,
        ),
        [HEADER, *map(line, found)],
        found,
    )


def case(name: str, length: int, dtype: str, rounds: int) -> dict[str, Any]:
    settings = override(Settings(), {"compute.threads": 1, "compute.dtype": dtype, "compute.device": "cpu"})
    prepared = prepared_of(name, length)
    weights = flatten(Model(prepared, settings).policy)
    select = settings.select
    steps = [
        [
            RolloutItem(index=index, version=step, examples=tuple(examples.tolist()))
            for index, examples in enumerate(chosen.split(select.documents_of_item("cpu")))
        ]
        for step, chosen in enumerate(
            torch.arange(STEPS * select.step_documents).remainder(DOCUMENTS).split(select.step_documents)
        )
    ]
    items = [item for step in steps for item in step]
    shares = [items[worker::WORKERS] for worker in range(WORKERS)]
    pool = RolloutPool(ray.put(prepared), settings, WORKERS)
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for share in shares:
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(there, prepared, settings, share), daemon=True))
        processes[-1].start()
        pipes.append(here)

    def pooled() -> list[Any]:
        return [result for step in steps for result in pool.gradients(weights, step)]

    def plain() -> list[Any]:
        for pipe in pipes:
            pipe.send(weights)
        return [result for pipe in pipes for result in pipe.recv()]

    check_same(pooled(), plain(), items, shares)  # it also warms both up
    seconds: dict[str, list[float]] = {"pool": [], "plain": []}
    for turn in range(rounds):
        order = [("pool", pooled), ("plain", plain)]
        for way, run in order if turn % 2 == 0 else order[::-1]:
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    pool.close()
    share = Spread.of([a / b for a, b in zip(seconds["plain"], seconds["pool"], strict=True)])
    return {
        "model": name,
        "length": length,
        "dtype": dtype,
        "seconds": {way: Spread.of(times).median for way, times in seconds.items()},
        "share": asdict(share),
    }


def serve(pipe: Connection, prepared: Prepared, settings: Settings, items: list[RolloutItem]) -> None:
    """Runs in a plain process: samples all of its items each time it receives weights."""
    torch.set_num_threads(1)
    sampler = Model(prepared, settings).sampler(prepared.train)
    while (weights := pipe.recv()) is not None:
        pipe.send(sampler.gradients(weights, items))


def check_same(pooled: list[Any], plain: list[Any], items: list[RolloutItem], shares: list[list[RolloutItem]]) -> None:
    """Raises AssertionError unless both ways compute the same gradients. Else their times could not be compared."""
    order = [items.index(item) for share in shares for item in share]
    for result, place in zip(plain, order, strict=True):
        np.testing.assert_allclose(result.gradient, pooled[place].gradient, rtol=1e-3, atol=1e-4)


def prepared_of(name: str, length: int) -> Prepared:
    """Returns what trials share. Its documents are random, because time does not depend on what they say."""
    model = model_of(name)
    ids = Given(DOCUMENTS, length, model.config.vocab_size).ids
    split = Examples.of_documents(Tokens.from_padded(ids), torch.arange(DOCUMENTS) % 2)
    return Prepared(
        task=TASK,
        training_seconds=0.0,
        train=split,
        validation=split,
        test=split,
        weights=arrays_of(model),
        config=model.config,
        tokenizer=None,
        teacher_validation=0.0,
        teacher_test=0.0,
        teacher_answers=[],
        labels=("a", "b"),
        penalty=1.0,
        fingerprint="",
        tokens_per_batch=16384,
    )


HOW = """\
The rollout pool of a search shares a step's items among Ray actors. Here it has {workers} workers of one thread each.
Beside it, {workers} plain processes do the same work: each has its share of the items from the start, and waits for no
other. The work is {steps} steps of the select stage, of {documents} documents with {samples} trajectories each.

Each time is the median of {rounds} rounds, in which the two take turns. The last column is the time of the plain
processes over the time of the pool, with its quartiles in parentheses. 1 means that the pool costs nothing. The
arithmetic `auto` is what a search uses on this machine.
"""
HEADER = "| model | tokens | arithmetic | pool, s | plain processes, s | pool's share of their speed |"


def line(found: dict[str, Any]) -> str:
    share = found["share"]
    cells = [found["model"], found["length"], found["dtype"]]
    cells += [f"{found['seconds'][way]:.2f}" for way in ("pool", "plain")]
    cells.append(f"{share['median']:.3f} ({share['low']:.3f}–{share['high']:.3f})")
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
