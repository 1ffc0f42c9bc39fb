"""Measures what a step of reinforcement learning costs: eight documents, with eight trajectories each.

    python benchmarks/rollouts.py

The encoder is frozen. An untrained policy keeps a token with a probability of about one half at each point. So about
half of the tokens are left after the first point, and a quarter after the second. Times are CPU-seconds, as the times
of the original code are. Only the share of the matrix peak is taken from wall time.

Writes docs/results/rollouts.md and .json.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from inference import TASK, Given, model_of
from reports import write_report

from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.original import original_points
from trbert.packed.tokens import Tokens
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.tasks.examples import Examples
from tune.learning.select_stage import RolloutItem, Sampler, flatten
from tune.learning.steps import autocast
from tune.settings import ComputeSettings, SelectSettings

DOCUMENTS, SAMPLES = 8, 8
ORIGINAL = {("MiniLM-L6", 512): 12.5, ("MiniLM-L6", 128): 1.61, ("BERT-base", 128): 8.25, ("BERT-base", 512): 44.2}
"""CPU-seconds of a step of the unchanged original code, on this kind of machine."""
REWRITE = {("MiniLM-L6", 512): 2.85, ("MiniLM-L6", 128): 0.72, ("BERT-base", 128): 5.4}
"""CPU-seconds of a plain rewrite in one process.

It runs the layers before the first point once for all trajectories of a document, has no dropout, gathers the kept
tokens, uses PyTorch's fused attention, and puts documents of similar length together.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="cases whose model's name contains this")
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = []
    for name, length in ORIGINAL:
        if options.only in name:
            found.append(case(name, length, options.rounds))
            print(line(found[-1]), flush=True)
    write_report(
        Path(options.out) / "rollouts",
        "What an RL step costs",
        f"python benchmarks/rollouts.py --threads {options.threads}",
        torch.device("cpu"),
        HOW.format(documents=DOCUMENTS, samples=SAMPLES, rounds=options.rounds),
        [HEADER, *map(line, found)],
        found,
    )


def case(name: str, length: int, rounds: int) -> dict[str, Any]:
    encoder = Encoder(model_of(name))
    points = original_points(len(encoder.layers))
    torch.manual_seed(0)
    policy = Policy(encoder.base.config.hidden_size, len(points))
    reducer = Reducer(encoder=encoder, task=TASK, points=points)
    terms = RewardTerms(penalty=1.0, keep_ratios=(0.0,) * len(points))
    dynamics = Dynamics(reducer, terms, CostModel.of(reducer, policy))
    ids = Given(DOCUMENTS, length, encoder.base.config.vocab_size).ids
    train = Examples.of_documents(Tokens.from_padded(ids), torch.zeros(DOCUMENTS, dtype=torch.long))
    settings = SelectSettings(samples=SAMPLES)
    computes = [ComputeSettings(dtype=dtype) for dtype in ("float32", "bfloat16")]
    samplers = {each.dtype: Sampler(dynamics, policy, train, settings, each, seed=0) for each in computes}
    weights = flatten(policy)
    seconds: dict[str, list[tuple[float, float]]] = {dtype: [] for dtype in samplers}
    for version in range(rounds + 1):
        item = RolloutItem(index=0, version=version, examples=tuple(range(DOCUMENTS)))
        for dtype, sampler in samplers.items():
            processor_started, started = time.process_time(), time.perf_counter()
            sampler.gradient(weights, item)
            seconds[dtype].append((time.process_time() - processor_started, time.perf_counter() - started))
    cpu = {dtype: median(step[0] for step in steps[1:]) for dtype, steps in seconds.items()}
    wall = {dtype: median(step[1] for step in steps[1:]) for dtype, steps in seconds.items()}
    masks, flops, kept = sampled(dynamics, policy, train)
    peaks = {dtype: peak(encoder, getattr(torch, dtype)) for dtype in samplers}
    return {
        "model": name,
        "length": length,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "original": ORIGINAL[name, length],
        "rewrite": REWRITE.get((name, length)),
        "kept": kept,
        "agreement": masks,
        "of_peak": {dtype: flops / wall[dtype] / peaks[dtype] for dtype in samplers},
        "peak_gflops": {dtype: peaks[dtype] / 1e9 for dtype in samplers},
    }


@torch.no_grad()
def sampled(dynamics: Dynamics, policy: Policy, train: Examples) -> tuple[float, float, list[float]]:
    """Returns how alike the masks of float32 and bfloat16 are, the FLOPs of a step, and the kept fractions.

    How alike they are is the fraction of equal bits at the first point.
    """
    draw = Draw(seed=0, version=1, documents=torch.arange(DOCUMENTS))
    dials = torch.zeros(SAMPLES, DOCUMENTS)
    rollouts = {}
    for dtype in ("float32", "bfloat16"):
        with autocast(dynamics.reducer.encoder.device, dtype):
            rollouts[dtype] = sample_trajectories(dynamics, policy, train.tokens, draw, dials)
    first, half = (rollouts[dtype].masks[0] for dtype in ("float32", "bfloat16"))
    kept, lengths = rollouts["float32"].state.kept, train.tokens.lengths
    fractions = (kept.sum(1) / (SAMPLES * lengths.sum())).tolist()
    return float((first == half).double().mean()), flops_of(dynamics, lengths, kept), fractions


def flops_of(dynamics: Dynamics, lengths: torch.Tensor, kept: torch.Tensor) -> float:
    """Returns the encoder's FLOPs in a rollout. What the trajectories share is counted once."""
    bounds = (*dynamics.points, len(dynamics.reducer.encoder.layers))
    flops = float(dynamics.cost.layers(0, bounds[0], lengths.double()).sum())
    for stage in range(len(dynamics.points)):
        flops += float(dynamics.cost.layers(bounds[stage], bounds[stage + 1], kept[stage].double()).sum())
    return flops


def peak(encoder: Encoder, dtype: torch.dtype) -> float:
    """Returns the FLOPs per second of the fastest of a few large matrix products of the model's width."""
    width = encoder.base.config.hidden_size
    a, b = torch.randn(4096, width, dtype=dtype), torch.randn(width, 4 * width, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * 4096 * width * 4 * width / best


HOW = """\
A step of reinforcement learning samples {samples} trajectories of each of {documents} documents and computes the
policy's gradient. The encoder is frozen. Each time is the median of {rounds} steps, in CPU-seconds.

| column | meaning |
|---|---|
| kept | the fractions of tokens that are left after the first point and after the second |
| original | seconds of the original TR-BERT code, unchanged |
| plain rewrite | seconds of a plain rewrite of that code, in one process |
| float32, bfloat16 | seconds of trbert in this arithmetic |
| masks alike | how many decisions at the first point are the same in float32 and in bfloat16 |
| of peak | the FLOPs per second of a step, as a share of those of a large matrix product (wall time) |
"""
HEADER = (
    "| model | tokens | kept | original | plain rewrite | float32 | bfloat16 | masks alike | "
    "of peak, float32 | of peak, bfloat16 |"
)


def line(found: dict[str, Any]) -> str:
    cells = [
        found["model"],
        found["length"],
        ", ".join(f"{fraction:.2f}" for fraction in found["kept"]),
        found["original"],
        found["rewrite"] or "–",
        f"{found['cpu_seconds']['float32']:.2f}",
        f"{found['cpu_seconds']['bfloat16']:.2f}",
        f"{100 * found['agreement']:.2f} %",
        f"{100 * found['of_peak']['float32']:.0f} %",
        f"{100 * found['of_peak']['bfloat16']:.0f} %",
    ]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
