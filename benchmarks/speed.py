"""Sets the speed that was asked for beside the speed that the other benchmarks measured.

    python benchmarks/inference.py && python benchmarks/rollouts.py && python benchmarks/workers.py
    python benchmarks/speed.py

It reads the JSON files of these three, and measures three things itself: the seconds of `import trbert`; where the time
of one short document goes; and how fast matrix products of few rows are. The last bounds what a short document can
gain.

Writes docs/results/speed.md and .json.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from inference import Given, GivenSelector, model_of
from reports import write_report

from trbert.encoder import Encoder
from trbert.original import original_points
from trbert.packed.batch import gather_kept
from trbert.packed.tokens import Tokens
from trbert.selection.policy import FEATURES, Policy

NEAREST = "± 50 %"
SHORT_IN_BFLOAT16 = {1: ("≥ 0.5", "≥ 0.7"), 8: ("≥ 0.6", "≥ 0.8"), 32: ("≥ 0.7", "≥ 0.9")}
"""What was asked of MiniLM-L6 with 128 tokens: must and aim by batch size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    out = Path(options.out)
    inference, rollouts, workers = (
        json.loads((out / f"{name}.json").read_text()) for name in ("inference", "rollouts", "workers")
    )
    rows = [*of_inference(inference), *of_rollouts(rollouts), *of_workers(workers), of_import()]
    products = [of_product(count) for count in (1, 13, 26, 51, 128, 512, 2048)]
    lines = [HEADER, *(f"| {' | '.join(cells)} |" for cells in rows)]
    stages = of_stages()
    lines += [
        *SHORT_DOCUMENTS.splitlines(),
        "",
        "| stage | ms |",
        "|---|---|",
        *(f"| {name} | {ms:.2f} |" for name, ms in stages.items()),
        *FEW_ROWS.splitlines(),
        "",
        "| rows | " + " | ".join(str(each["rows"]) for each in products) + " |",
        "|---|" + "---|" * len(products),
        *(f"| {kind} | " + " | ".join(f"{each[kind]:.0f}" for each in products) + " |" for kind in PRODUCTS),
    ]
    write_report(
        out / "speed",
        "How fast",
        "python benchmarks/speed.py",
        torch.device("cpu"),
        HOW,
        lines,
        {"rows": [dict(zip(COLUMNS, cells, strict=True)) for cells in rows], "stages": stages, "products": products},
    )


def of_inference(found: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for row in found:
        place = f"{row['model']}, {row['length']} tokens, batch {row['batch']}, {row['dtype']}"
        ratio = row["over_padded"] if row["variant"] == "unpadded" else row["over_unpadded"]
        spread = of_spread(ratio)
        if row["variant"] == "unpadded" and row["dtype"] == "float32" and row["length"] == 512:
            yield (f"unreduced, packed over padded: {place}", "≥ 1.0", "≥ 1.1", spread)
        if NEAREST not in row["variant"]:
            continue
        if row["dtype"] == "int8":
            gain = f"{spread} at {row['flops_over_unpadded']:.2f}x fewer FLOPs"
            yield (f"gain of reduction after int8: {place}", "≥ 1.5 at 2.5x", "≥ 2", gain)
        else:
            one = row["batch"] == 1
            must, aim = ("≥ 0.7", "≥ 0.9") if one else ("≥ 0.9", "≥ 1.0")
            asked = row["dtype"] == "float32" and (row["length"] == 128) == one
            if row["model"] == "MiniLM-L6" and row["length"] == 128 and row["dtype"] == "bfloat16":
                (must, aim), asked = SHORT_IN_BFLOAT16[row["batch"]], True
            share = f"{row['realised']:.2f} ({spread} at {row['flops_over_unpadded']:.2f}x fewer FLOPs)"
            yield (f"realised share: {place}", must if asked else "–", aim if asked else "–", share)


def of_rollouts(found: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for row in found:
        place, rewrite = f"{row['model']}, {row['length']} tokens", row["rewrite"]
        must, aim = (f"≤ {rewrite}", f"≤ {0.75 * rewrite:.2f}") if rewrite else ("–", "–")
        half = f"≤ {0.5 * rewrite:.2f}" if rewrite else "–"
        seconds, alike = row["cpu_seconds"], f"masks alike {100 * row['agreement']:.2f} %"
        yield (f"RL step, CPU-s, float32: {place} (original {row['original']})", must, aim, f"{seconds['float32']:.2f}")
        yield (f"RL step, CPU-s, bfloat16: {place}", "–", half, f"{seconds['bfloat16']:.2f}, {alike}")
        if (row["model"], row["length"]) == ("BERT-base", 512):
            share = f"{100 * row['of_peak']['float32']:.0f} %"
            yield (f"share of the matrix peak in rollouts, float32: {place}", "≥ 60 %", "≥ 80 %", share)


def of_workers(found: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for row in found:
        place = f"{row['model']}, {row['length']} tokens, {row['dtype']}"
        yield (f"two rollout workers over two plain processes: {place}", "≥ 0.9", "≥ 0.97", of_spread(row["share"]))


def of_spread(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['low']:.2f}–{values['high']:.2f})"


def of_import() -> tuple[str, ...]:
    script = (
        "import sys, time; started = time.perf_counter(); import trbert; "
        "print(time.perf_counter() - started, 'torch' in sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(5)
    ]
    loads = "torch loaded" if any(loaded == "True" for _, loaded in told) else "torch not loaded"
    return ("`import trbert`, s", "≤ 0.3", "–", f"{median(float(seconds) for seconds, _ in told):.3f}, {loads}")


@torch.inference_mode()
def of_stages() -> dict[str, float]:
    """Returns the milliseconds of each stage of a pass over one short document, reduced and unreduced."""
    encoder, length = Encoder(model_of("MiniLM-L6")), 128
    torch.manual_seed(0)
    points = original_points(len(encoder.layers))
    selector = GivenSelector(Policy(encoder.base.config.hidden_size, len(points), features=FEATURES), 0.0, 1, length)
    documents = Given(32, length, encoder.base.config.vocab_size, False).ids.split(1)
    laps: dict[str, list[float]] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = step()
        laps.setdefault(name, []).append(1000 * (time.perf_counter() - started))
        return result

    for _ in range(12):
        for ids in documents:
            tokens = timed("unpad", partial(Tokens.from_padded, ids))
            batch = timed("embed", partial(encoder.embed, tokens))
            bounds = (0, *points, len(encoder.layers))
            for point, (first, last) in enumerate(pairwise(bounds)):
                batch = timed(f"layers {first} to {last - 1}, reduced", partial(encoder.run_layers, batch, first, last))
                if point < len(points):
                    decide = partial(selector.keep_mask, batch, point, len(points), torch.zeros(1), None)
                    mask = timed(f"decide at {last}", decide)
                    batch = timed(f"gather at {last}", partial(gather_kept, batch, mask[None]))
            timed("head", partial(encoder.read_documents, batch))
            whole = encoder.embed(tokens)
            timed("all layers, unreduced", partial(encoder.run_layers, whole, 0, len(encoder.layers)))
    return {name: median(times[len(documents) :]) for name, times in laps.items()}


PRODUCTS = ("float32", "bfloat16")


def of_product(rows: int) -> dict[str, Any]:
    """Returns the GFLOP/s of the fastest of some products of `rows` rows, whose weights do not fit a core's cache."""
    found: dict[str, Any] = {"rows": rows}
    for kind in PRODUCTS:
        dtype = getattr(torch, kind)
        weights = [torch.nn.Linear(384, 1536, dtype=dtype) for _ in range(12)]
        states = torch.randn(rows, 384, dtype=dtype)
        best = float("inf")
        with torch.inference_mode():
            for turn in range(60):
                started = time.perf_counter()
                weights[turn % 12](states)
                best = min(best, time.perf_counter() - started)
        found[kind] = 2 * rows * 384 * 1536 / best / 1e9
    return found


HOW = """\
This page sets the speed that was asked for beside the speed that was measured. *Must* had to be reached. *Aim* was
hoped for. A dash stands where nothing was asked. The last row was measured by this command. The others are medians of
three reports: [inference.md](inference.md), [rollouts.md](rollouts.md) and [workers.md](workers.md). Quartiles stand in
parentheses where these reports have them.

| in the table | meaning |
|---|---|
| unreduced, packed over padded | how many times as fast trbert's unreduced model is as the padded one of transformers |
| realised share | the gain in time over the gain in FLOPs, both from reduction; both gains stand in parentheses |
| gain of reduction after int8 | how many times as fast the reduced model is as the unreduced one, both in int8 |
| RL step, CPU-s | CPU-seconds of a step of reinforcement learning; the original code's stand in parentheses |
| masks alike | how many decisions are the same in bfloat16 as in float32 |
| share of the matrix peak | FLOPs per second, over those of a large matrix product |
| two rollout workers over two plain processes | the speed of the rollout pool over that of plain processes |
"""
SHORT_DOCUMENTS = """
The ratios of a GPU, one H200, lie in [h200/](h200). They were made by `inference.py --device cuda`.

## Why one short document gains less time than FLOPs

The first reason: deciding, gathering, embedding and the head do not shrink. This table shows where the time of one
document of 128 tokens goes. The model is MiniLM-L6 in float32, and it keeps .4 and then .1 of the tokens. Each time is
the median of 352 passes.
"""
FEW_ROWS = """
The second reason: a layer reads all of its weights even for a few rows, so its matrix products are slow. This table
shows the GFLOP/s of a product with a matrix of 384 × 1,536. Twelve such matrices take turns.
"""
COLUMNS = ("what", "must", "aim", "measured")
HEADER = f"| {' | '.join(COLUMNS)} |"

if __name__ == "__main__":
    main()
