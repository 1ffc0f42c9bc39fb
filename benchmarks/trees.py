"""Trees against flat sampling at equal FLOPs: the variance of the policy gradient, within documents, times its price.

    python benchmarks/trees.py

600 documents of the embedded data, a teacher of two epochs; the policy as the warm start leaves it, and after half a
select stage. Every estimator is unbiased, and its variance falls as one over the trajectories: of two, the one with the
lower variance · FLOPs is the better buy. Writes docs/results/trees.md and .json.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reports import write_report
from rollouts import flops_of

from envs.rollout import Draw, sample_trajectories
from trbert.packed import Tokens
from tune.prepare import Prepared, prepare
from tune.settings import Settings, override
from tune.stages import RolloutItem, flatten
from tune.training import Model

POINTS = ((0, 2), (1, 3))
TREES = ((8, 1), (8, 2), (8, 4), (16, 4))
"""Samples and siblings."""
DOCUMENTS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    settings = override(
        Settings(),
        {
            "compute.threads": options.threads,
            "select.penalty": 1.0,
            "data.train_rows": 600,
            "data.max_length": 128,
            "teacher.epochs": 2.0,
            "data.validation_rows": 100,
            "data.test_rows": 100,
        },
    )
    prepared = prepare(settings, None, lambda line: print(line, flush=True))
    torch.set_num_threads(options.threads)
    found = []
    for points in POINTS:
        for trained in (False, True):
            for row in rows_of(prepared, override(settings, {"select.points": points}), trained, options.draws):
                found.append(row)
                print(line(row), flush=True)
    write_report(
        Path(options.out) / "trees",
        "Trees against flat sampling",
        f"python benchmarks/trees.py --draws {options.draws} --threads {options.threads}",
        torch.device("cpu"),
        f"{DOCUMENTS} training documents of the embedded data, {options.draws} draws of each estimator; variance is "
        "the trace of the gradient's covariance over the draws, ± from halves of the draws. One seed.",
        [HEADER, *map(line, found)],
        found,
    )


def rows_of(prepared: Prepared, settings: Settings, trained: bool, draws: int) -> list[dict[str, Any]]:
    documents = settings.select.documents // 2 if trained else 1
    model = Model(prepared, override(settings, {"select.documents": documents}))
    train = prepared.train.examples()
    model.select(train, model.sampler(train), lambda step: None)
    weights = flatten(model.policy)
    rows = []
    for samples, siblings in TREES:
        sampler = model.sampler(train)
        sampler.settings = replace(sampler.settings, samples=samples, siblings=siblings)
        chosen = torch.linspace(0, len(train.tokens) - 1, DOCUMENTS).long()
        items = [RolloutItem(index=0, version=10_000 + draw, documents=tuple(chosen.tolist())) for draw in range(draws)]
        results = [sampler.gradient(weights, item) for item in items]
        gradients = np.stack([result.gradient for result in results]).astype(np.float64)
        halves = [half.var(0, ddof=1).sum() for half in np.array_split(gradients, 2)]
        rows.append(
            {
                "points": settings.select.points,
                "policy": "trained" if trained else "warm start",
                "samples": samples,
                "siblings": siblings,
                "variance": gradients.var(0, ddof=1).sum(),
                "variance_spread": abs(halves[0] - halves[1]) / 2,
                "flops": rollout_flops(model, train.tokens.take(chosen), chosen, samples, siblings),
                "seconds": float(np.median([result.seconds for result in results])),
            }
        )
        rows[-1]["price"] = rows[-1]["variance"] * rows[-1]["flops"] / (rows[0]["variance"] * rows[0]["flops"])
    return rows


@torch.no_grad()
def rollout_flops(model: Model, tokens: Tokens, chosen: torch.Tensor, samples: int, siblings: int) -> float:
    draw = Draw(seed=0, version=0, documents=chosen)
    dials = torch.zeros(samples, len(tokens))
    state = sample_trajectories(model.dynamics, model.policy, tokens, draw, dials, siblings=siblings).state
    return flops_of(model.dynamics, tokens.lengths, state.kept, siblings)


HEADER = "| points | policy | samples | siblings | GFLOPs | s | variance | variance · FLOPs over flat 8 |"


def line(row: dict[str, Any]) -> str:
    cells = [row["points"], row["policy"], row["samples"], row["siblings"], f"{row['flops'] / 1e9:.1f}"]
    cells += [f"{row['seconds']:.2f}", f"{row['variance']:.3g} ± {row['variance_spread']:.2g}"]
    cells.append(f"{row['price']:.2f}")
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
