"""Measures how much time is saved where FLOPs are saved, with MiniLM and with BERT-base.

    python benchmarks/inference.py                   # on a CPU
    python benchmarks/inference.py --device cuda     # on a GPU; scripts/gpu calls it

All weights are random, because time does not depend on them. All documents are equally long, so that padding costs the
padded model nothing, unless a case says otherwise. Each document keeps a share of its tokens. In one variant the share
is the same for all documents. In the other each document has its own, up to half more or less than the mean.

Writes docs/results/inference.md and .json on a CPU, and gpu.md and .json on a GPU. What was measured is written after
each case, so that a run that is cut off leaves what it has.
"""

import argparse
import copy
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reports import write_report
from transformers import BertConfig

from trbert.bench.speed import (
    DTYPES,
    INT8,
    Documents,
    Row,
    Variant,
    padded_by,
    padded_variants,
    reduced_variant,
    time_variants,
    unpadded_variant,
)
from trbert.encoder import Encoder
from trbert.keyed import keyed_uniform
from trbert.measure.cost import CostModel
from trbert.packed.batch import PackedBatch
from trbert.runners import Eager, Int8, runner_of
from trbert.selection.policy import FEATURES, Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.shapes import DocFloat, TokenFloat, TokenMask
from trbert.tasks import TASKS

TASK = TASKS["classification"]
KEEP = (0.4, 0.1)
"""The shares of the original tokens that are left after each reduction point."""
MODELS = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "BERT-base": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
}
DOCUMENTS = {"MiniLM-L6": 32, "BERT-base": 8}
"""The fewest documents of a turn; a turn has at least one batch."""


@dataclass(frozen=True, slots=True)
class Case:
    """Documents of one length for one model.

    Attributes:
        model: a name of `MODELS`.
        length: the number of tokens of a document.
        batch: the number of documents of a forward pass.
        points: the reduction points; None are (1, L/2) of L layers.
        ragged: whether the documents have lengths from an eighth of `length` to all of it.
    """

    model: str
    length: int
    batch: int
    points: tuple[int, int] | None = None
    ragged: bool = False


ON_CPU = [
    *[Case(model, 512, batch) for model in MODELS for batch in (1, 8, 32)],
    *[Case(model, 128, 1) for model in MODELS],
    *[Case("MiniLM-L6", 128, batch) for batch in (8, 32)],
]
ON_GPU = [
    Case("BERT-base", 512, 32),
    Case("MiniLM-L6", 512, 32),
    Case("BERT-base", 512, 128),
    Case("BERT-base", 512, 32, ragged=True),
    Case("BERT-base", 512, 32, (0, 2)),
    Case("MiniLM-L6", 512, 128),
    Case("BERT-base", 512, 1),
    Case("MiniLM-L6", 512, 1),
    Case("BERT-base", 128, 1),
    Case("MiniLM-L6", 128, 1),
    Case("BERT-base", 512, 8),
    Case("MiniLM-L6", 512, 8),
    Case("BERT-base", 512, 128, (0, 2)),
]
"""Those that matter most come first, because the time on a GPU may end."""


class GivenSelector(PolicySelector):
    """Runs a policy's heads, but keeps what a table says: (1 ± spread) · KEEP of each document's tokens.

    So the same tokens are kept in every arithmetic, and a decision costs what it costs in use.
    """

    def __init__(self, policy: Policy, spread: float, documents: int, length: int) -> None:
        super().__init__(policy)
        number, position = torch.arange(documents)[:, None], torch.arange(length)
        share = torch.tensor(KEEP)[:, None, None] * (1 + spread * (2 * keyed_uniform(0, 0, number, 0) - 1))
        keys = keyed_uniform(0, 1, number, position)
        keys[:, 0] = -1.0  # the first token is protected
        rank = keys.argsort(1).argsort(1)
        self.table = rank < (share * length).ceil()
        self.device = torch.device("cpu")

    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dials: DocFloat, evidence: TokenFloat | None
    ) -> TokenMask:
        if self.device != batch.hidden.device:  # once, since a captured stage may not wait for a copy
            self.table, self.device = self.table.to(batch.hidden.device), batch.hidden.device
        self.policy.logits(batch, point, dials[None])
        documents = batch.documents
        if batch.longest is not None:  # a captured stage has more documents than the batch: empty ones
            documents = documents.clamp(max=self.table.shape[1] - 1)
        return self.table[point][documents, batch.positions] | batch.protected


class Given:
    """Stands in for a tokenizer: whatever the texts are, it returns the same documents of random tokens."""

    def __init__(self, documents: int, length: int, vocabulary: int, ragged: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.texts = ("",) * documents
        self.ids = torch.randint(1000, vocabulary, (documents, length), generator=generator)
        least = length // 8 if ragged else length
        lengths = torch.linspace(least, length, documents).long()[torch.randperm(documents, generator=generator)]
        self.mask = (torch.arange(length) < lengths[:, None]).long()

    def __call__(self, texts: list[str], **_: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids * self.mask, "attention_mask": self.mask}


def model_of(name: str) -> Any:
    """Returns a plain model with two classes and random weights."""
    torch.manual_seed(0)
    config = BertConfig(num_attention_heads=12, **MODELS[name])
    return TASK.auto_class.from_config(config, trust_remote_code=False).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", choices=[*DTYPES, INT8], help="default: what suits the device")
    parser.add_argument("--runner", nargs="+", help="default: eager, and all others on a GPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="cases whose model's name contains this")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no case begins after so long")
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, started = torch.device(options.device), time.monotonic()
    on_gpu = device.type == "cuda"
    dtypes = options.dtype or (["bfloat16"] if on_gpu else ["float32", "bfloat16", INT8])
    runners = options.runner or (["eager", "graphed", "compiled"] if on_gpu else ["eager"])
    found, lines = [], [HEADER]
    for case in ON_GPU if on_gpu else ON_CPU:
        if options.only not in case.model or time.monotonic() - started > options.seconds:
            continue
        for row in rows_of(case, dtypes, runners, options.rounds, device):
            found.append({**asdict(case), **asdict(row)})
            lines.append(line(case, row))
            print(lines[-1], flush=True)
        only = f" --only {options.only}" if options.only else ""
        write_report(
            Path(options.out) / ("gpu" if on_gpu else "inference"),
            "Time saved against FLOPs saved" + (", on a GPU" if on_gpu else ""),
            f"python benchmarks/inference.py --dtype {' '.join(dtypes)} --runner {' '.join(runners)} "
            f"--device {options.device} --rounds {options.rounds} --threads {options.threads}{only}",
            device,
            HOW.format(rounds=options.rounds, first=KEEP[0], second=KEEP[1]),
            lines,
            found,
        )


@torch.inference_mode()
def rows_of(case: Case, dtypes: list[str], runners: list[str], rounds: int, device: torch.device) -> list[Row]:
    model, count = model_of(case.model).to(device), max(DOCUMENTS[case.model], case.batch)
    given = Given(count, case.length, model.config.vocab_size, case.ragged)
    documents = Documents(given, (given.texts,), case.length, device)
    variants: list[Variant] = []
    for dtype in dtypes:
        plain = in_arithmetic(model, dtype)
        layers = len(plain.layers)
        points = case.points or (1, layers // 2)
        torch.manual_seed(0)
        policy = Policy(plain.base.config.hidden_size, len(points), features=FEATURES).to(
            device, DTYPES.get(dtype, torch.float32)
        )

        def reducer(runner: str, encoder: Encoder = plain, points: tuple[int, ...] = points) -> Reducer:
            own = encoder if runner == Eager.name else Encoder(encoder.plain, runner_of(runner))
            return Reducer(encoder=own, task=TASK, points=points)

        cost = CostModel.of(reducer("eager"), policy)
        padded, by_length = padded_variants(reducer("eager"), documents, dtype)
        variants += [padded, by_length] if case.ragged else [padded]
        for runner in runners if dtype != INT8 else ["eager"]:
            if (rival := padded_by(runner, reducer("eager"), documents, dtype)) is not None:
                variants.append(rival)
            own = [unpadded_variant(reducer(runner), documents, dtype)]
            for spread, kept in ((0.0, "even"), (0.5, "± 50 %")):
                selector = GivenSelector(policy, spread, case.batch, case.length)
                name = f"reduced, {kept}"
                own.append(reduced_variant(reducer(runner), cost, selector, 0.0, name, documents, dtype))
            variants += own if runner == "eager" else [replace(each, name=f"{each.name}, {runner}") for each in own]
    return time_variants(variants, case.batch, rounds, device)


def in_arithmetic(model: Any, dtype: str) -> Encoder:
    """Returns a copy of a plain model in stages and in an arithmetic; the model itself stays as it was."""
    runner = Int8() if dtype == INT8 else None
    encoder = Encoder(copy.deepcopy(model).to(DTYPES.get(dtype, torch.float32)), runner)
    if runner is not None:
        runner.adopt(encoder.plain, encoder.layers)
    return encoder


HOW = """\
This page shows how much time is saved where FLOPs are saved. Where all documents are equally long, padding costs the
padded model nothing. In each of {rounds} rounds all variants of a batch size take turns. A ratio of times is the median
over the rounds, with its quartiles in parentheses.

| variant | what it is |
|---|---|
| padded | the unreduced model, padded, as transformers runs it |
| unpadded | the unreduced model, without padding, as trbert runs it |
| reduced, even | the reduced model; each document keeps {first:g} and then {second:g} of its original tokens |
| reduced, ± 50 % | the same, where each document has its own shares, up to half more or less |
| ..., compiled | the same, as `torch.compile` makes it |
| ..., graphed | the same, captured as CUDA graphs; the padded model without a mask if all documents are equally long |

Tokens are dropped at the points (1, L/2) of a model with L layers, unless others are named: after the first layer and
after half of the layers.
The heads of a policy run and are counted in the FLOPs, but a given table says which tokens stay. So each arithmetic
drops the same tokens.

| column | meaning |
|---|---|
| docs/s | documents per second |
| over padded float32 | the time of the padded model in float32, divided by the time of this row |
| over padded | the same with the padded model in the row's own arithmetic |
| over unpadded | the same with the unpadded model in the row's own arithmetic, run eagerly |
| FLOPs over unpadded | the FLOPs of the unpadded model, divided by the FLOPs of this row |
| realised | *over unpadded* divided by *FLOPs over unpadded*: how much of the gain in FLOPs is a gain in time |
"""
COLUMNS = (
    "model",
    "tokens",
    "batch",
    "dtype",
    "variant",
    "docs/s",
    "over padded float32",
    "over padded",
    "over unpadded",
)
HEADER = f"| {' | '.join(COLUMNS)} | FLOPs over unpadded | realised |"


def line(case: Case, row: Row) -> str:
    length = f"{case.length // 8} to {case.length}" if case.ragged else str(case.length)
    points = f" at {case.points}" if case.points else ""
    cells = [f"{case.model}{points}", length, row.batch, row.dtype, row.variant, f"{row.docs_per_second:.1f}"]
    cells += [ratio.as_ratio() for ratio in (row.over_plain, row.over_padded, row.over_unpadded)]
    cells.append(f"{row.flops_over_unpadded:.2f}x")
    return f"| {' | '.join(map(str, cells))} | {row.realised:.2f} |"


if __name__ == "__main__":
    main()
