"""Measures how much time is saved where FLOPs are saved, with MiniLM and with BERT-base.

    python benchmarks/inference.py

All documents are equally long, so padding costs the padded model nothing. The weights of BERT-base are random, because
time does not depend on them. Each document keeps a share of its tokens. In one variant the share is the same for all
documents. In the other each document has its own, up to half more or less than the mean.

Writes docs/results/inference.md and .json.
"""

import argparse
import copy
from dataclasses import asdict
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
    padded_variants,
    reduced_variant,
    time_variants,
    unpadded_variant,
)
from trbert.encoder import Encoder
from trbert.keyed import keyed_uniform
from trbert.measure.cost import CostModel
from trbert.original import original_points
from trbert.packed.batch import PackedBatch
from trbert.pretrained import load_pretrained
from trbert.runners import Int8
from trbert.selection.policy import FEATURES, Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.shapes import DocFloat, TokenFloat, TokenMask
from trbert.tasks import TASKS

TASK = TASKS["classification"]
KEEP = (0.4, 0.1)
"""The shares of the original tokens that are left after each reduction point."""
CASES = [
    ("MiniLM-L6", 512, (1, 8, 32)),
    ("BERT-base", 512, (1, 8, 32)),
    *[(m, 128, (1,)) for m in ("MiniLM-L6", "BERT-base")],
]
DOCUMENTS = {"MiniLM-L6": 32, "BERT-base": 8}
"""The fewest documents of a turn; a turn has at least one batch."""


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

    def keep_mask(
        self, batch: PackedBatch, point: int, num_points: int, dials: DocFloat, evidence: TokenFloat | None
    ) -> TokenMask:
        self.policy.logits(batch, point, dials[None])
        return self.table[point].to(batch.hidden.device)[batch.documents, batch.positions]


class Given:
    """Stands in for a tokenizer: whatever the texts are, it returns the same documents of random tokens."""

    def __init__(self, documents: int, length: int, vocabulary: int) -> None:
        self.texts = ("",) * documents
        self.ids = torch.randint(1000, vocabulary, (documents, length), generator=torch.Generator().manual_seed(0))

    def __call__(self, texts: list[str], **_: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids)}


def model_of(name: str) -> Any:
    """Returns a plain model with two classes: the packaged MiniLM, or BERT-base with random weights."""
    if name == "MiniLM-L6":
        return load_pretrained("minilm", TASK, ("a", "b")).model
    torch.manual_seed(0)
    return TASK.auto_class.from_config(BertConfig(), trust_remote_code=False).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16", INT8], choices=[*DTYPES, INT8])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="cases whose model's name contains this")
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found, lines = [], [HEADER]
    for name, length, batches in CASES:
        if options.only not in name:
            continue
        for batch in batches:
            for row in rows_of(name, length, batch, options.dtype, options.rounds, torch.device(options.device)):
                found.append({"model": name, "length": length, **asdict(row)})
                lines.append(line(name, length, row))
                print(lines[-1], flush=True)
    only = f" --only {options.only}" if options.only else ""
    write_report(
        Path(options.out) / "inference",
        "Time saved against FLOPs saved",
        f"python benchmarks/inference.py --dtype {' '.join(options.dtype)} --device {options.device} "
        f"--rounds {options.rounds} --threads {options.threads}{only}",
        torch.device(options.device),
        HOW.format(rounds=options.rounds, first=KEEP[0], second=KEEP[1]),
        lines,
        found,
    )


@torch.inference_mode()
def rows_of(name: str, length: int, batch: int, dtypes: list[str], rounds: int, device: torch.device) -> list[Row]:
    model, count = model_of(name).to(device), max(DOCUMENTS[name], batch)
    given = Given(count, length, model.config.vocab_size)
    documents = Documents(given, (given.texts,), length, device)
    variants: list[Variant] = []
    for dtype in dtypes:
        encoder = in_arithmetic(model, dtype)
        points = original_points(len(encoder.layers))
        reducer = Reducer(encoder=encoder, task=TASK, points=points)
        torch.manual_seed(0)
        policy = Policy(encoder.base.config.hidden_size, len(points), features=FEATURES).to(
            device, DTYPES.get(dtype, torch.float32)
        )
        cost = CostModel.of(reducer, policy)
        padded, _ = padded_variants(
            reducer, documents, dtype
        )  # all documents have one length, so there is nothing to sort
        variants += [padded, unpadded_variant(reducer, documents, dtype)]
        for spread, kept in ((0.0, "even"), (0.5, "± 50 %")):
            selector = GivenSelector(policy, spread, batch, length)
            variants.append(reduced_variant(reducer, cost, selector, 0.0, f"reduced, {kept}", documents, dtype))
    return time_variants(variants, batch, rounds, device)


def in_arithmetic(model: Any, dtype: str) -> Encoder:
    """Returns a copy of a plain model in stages and in an arithmetic; the model itself stays as it was."""
    runner = Int8() if dtype == INT8 else None
    encoder = Encoder(copy.deepcopy(model).to(DTYPES.get(dtype, torch.float32)), runner)
    if runner is not None:
        runner.adopt(encoder.plain, encoder.layers)
    return encoder


HOW = """\
This page shows how much time is saved where FLOPs are saved. All documents are equally long, so padding costs the
padded model nothing. In each of {rounds} rounds all variants of a batch size take turns. A ratio of times is the median
over the rounds, with its quartiles in parentheses.

| variant | what it is |
|---|---|
| padded | the unreduced model, padded, as transformers runs it |
| unpadded | the unreduced model, without padding, as trbert runs it |
| reduced, even | the reduced model; each document keeps {first:g} and then {second:g} of its original tokens |
| reduced, ± 50 % | the same, where each document has its own shares, up to half more or less |

Tokens are dropped at the points (1, L/2) of a model with L layers: after the first layer and after half of the layers.
The heads of a policy run and are counted in the FLOPs, but a given table says which tokens stay. So each arithmetic
drops the same tokens.

| column | meaning |
|---|---|
| docs/s | documents per second |
| over padded float32 | the time of the padded model in float32, divided by the time of this row |
| over padded | the same with the padded model in the row's own arithmetic |
| over unpadded | the same with the unpadded model in the row's own arithmetic |
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


def line(name: str, length: int, row: Row) -> str:
    cells = [name, length, row.batch, row.dtype, row.variant, f"{row.docs_per_second:.1f}"]
    cells += [ratio.as_ratio() for ratio in (row.over_plain, row.over_padded, row.over_unpadded)]
    cells.append(f"{row.flops_over_unpadded:.2f}x")
    return f"| {' | '.join(map(str, cells))} | {row.realised:.2f} |"


if __name__ == "__main__":
    main()
