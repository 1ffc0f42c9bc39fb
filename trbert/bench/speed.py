"""The speed report: a model padded, sorted by length, unpadded and reduced, in several arithmetics, timed in turns."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.break_even import BreakEven, measure_break_even
from trbert.measure.cost import CostModel
from trbert.measure.timing import Spread, machine, paired_ratio, peak_memory, take_turns
from trbert.modeling import TrbertModel
from trbert.packed.attention import PACKED_ATTENTION
from trbert.packed.heads import plain_outputs
from trbert.packed.tokens import Tokens
from trbert.pretrained import Pretrained
from trbert.runners import Compiled, Eager, Graphed, Int8, runner_of
from trbert.selection.captured import Arena
from trbert.selection.exits import Exits
from trbert.selection.fusion import Fusion
from trbert.selection.outputs import Reduced, reduced_outputs
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import FirstSelector, Selector
from trbert.tasks import Task

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"
"""The arithmetic with the linear layers in int8 and the states in float32."""

PADDED, SORTED, UNPADDED = "padded", "sorted", "unpadded"


class Documents:
    """The tokens of the documents, and how long it took to make them.

    Args:
        tokenizer: a Hugging Face tokenizer.
        inputs: one list of texts; or two lists, where a document is a pair of texts. The order is that of arrival. A
            text may be a list of words.
        longest: the most tokens of a document.
        device: the device of the model.
    """

    def __init__(
        self,
        tokenizer: Any,
        inputs: Sequence[Sequence[Any]],
        longest: int,
        device: torch.device,
    ) -> None:
        columns = [list(column) for column in inputs]

        how = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        if not isinstance(columns[0][0], str):
            how["is_split_into_words"] = True

        def tokenise() -> Any:
            return tokenizer(*columns, **how)

        encoded = {name: tensor.to(device) for name, tensor in tokenise().items()}
        self.input_ids, self.mask = encoded["input_ids"], encoded["attention_mask"]
        # For single texts all segment ids are 0. A model that gets none uses zeros too.
        self.types = encoded.get("token_type_ids") if len(columns) > 1 else None
        self.lengths = self.mask.sum(1)
        work = {"tokenise": [tokenise], "pack": [lambda: Tokens.from_padded(self.input_ids, self.mask, self.types)]}
        seconds = take_turns(work, 3, device)
        self.tokenise_seconds, self.pack_seconds = (
            median(step for (step,) in seconds[name]) for name in ("tokenise", "pack")
        )

    def __len__(self) -> int:
        return len(self.input_ids)

    def batches(self, size: int, sorts: bool) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yields the documents in padded batches, each with the lengths of its documents.

        A batch is as wide as its own longest document.

        Args:
            size: the number of documents of a batch.
            sorts: whether to sort the documents by length first.
        """
        device = self.lengths.device
        order = torch.argsort(self.lengths, stable=True) if sorts else torch.arange(len(self), device=device)
        for part in order.split(size):
            columns = self.mask[part].any(0).nonzero()[:, 0]  # a tokenizer may pad on either side
            padded = {"input_ids": self.input_ids[part][:, columns], "attention_mask": self.mask[part][:, columns]}
            if self.types is not None:
                padded["token_type_ids"] = self.types[part][:, columns]
            yield self.lengths[part], padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run the documents.

    Attributes:
        name: its name in the report.
        dtype: the name of its arithmetic in the report.
        documents: the documents that it runs. All variants run the same texts, but each model has its own tokens.
        forward: takes a padded batch of `Documents`, and returns the logits.
        sorts: whether documents are sorted by length, so that those of a batch have similar lengths.
        flops: returns the FLOPs of a batch, from the lengths of its documents and the padded batch.
    """

    name: str
    dtype: str
    documents: Documents
    forward: Callable[[dict[str, Tensor]], Tensor]
    sorts: bool
    flops: Callable[[Tensor, dict[str, Tensor]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured of one variant, at one batch size and in one arithmetic.

    The padded model is the plain one on padded batches. The unpadded model is trbert's own pass without dropping. A
    time ratio compares times of the same rounds. It is above 1 where this variant is faster than the other one.

    Attributes:
        variant: the name of the variant.
        dtype: the name of its arithmetic.
        batch: the number of documents of a forward pass.
        docs_per_second: the throughput of the forward passes, with the time for packing and unpacking.
        docs_per_second_from_text: the throughput with the time for tokenisation, too.
        p50_ms: the median latency of a forward pass, in milliseconds.
        p95_ms: the 95th percentile of that latency.
        over_plain: the time of the padded model in the first arithmetic, over this variant's.
        over_padded: the time of the padded model in the same arithmetic, over this variant's.
        over_unpadded: the time of the unpadded model in the same arithmetic, over this variant's.
        flops_over_padded: the FLOPs of the padded model over this variant's.
        flops_over_unpadded: the FLOPs of the unpadded model over this variant's.
        realised: the median of `over_unpadded` over `flops_over_unpadded`: how much of the gain in FLOPs is a gain in
            time.
        peak_mib: the memory in MiB that a pass needs beyond what the process holds; None where nothing counts it.
    """

    variant: str
    dtype: str
    batch: int
    docs_per_second: float
    docs_per_second_from_text: float
    p50_ms: float
    p95_ms: float
    over_plain: Spread
    over_padded: Spread
    over_unpadded: Spread
    flops_over_padded: float
    flops_over_unpadded: float
    realised: float
    peak_mib: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All rows of a report, and what they were measured on.

    Attributes:
        rows: the rows, in the order of batch size, arithmetic and variant.
        machine: the name of the processor or the GPU.
        threads: the number of threads of the process.
        torch_version: the version of PyTorch.
        documents: the number of documents.
        lengths: the fewest, the median and the most tokens of a document.
        rounds: the number of turns of each variant.
        tokenise_ms: the time to tokenise one document, in milliseconds.
        pack_ms: the time to remove the padding of one document, in milliseconds. `docs_per_second` includes it.
    """

    rows: tuple[Row, ...]
    machine: str
    threads: int
    torch_version: str
    documents: int
    lengths: tuple[int, int, int]
    rounds: int
    tokenise_ms: float
    pack_ms: float


@torch.inference_mode()
def bench(
    model: TrbertModel,
    tokenizer: Any,
    inputs: Sequence[Sequence[Any]],
    *,
    dials: Sequence[float],
    batches: Sequence[int],
    dtypes: Sequence[str],
    rounds: int,
    say: Callable[[str], None],
    rivals: Mapping[str, Pretrained] | None = None,
    runners: Sequence[str] = (Eager.name,),
) -> Report:
    """Returns how fast a reduced model is, compared with the same model padded, sorted by length, and unpadded.

    All arithmetics and all rivals take their turns in the same rounds.

    Args:
        model: the reduced model. Its plain model is the baseline.
        tokenizer: its tokenizer.
        inputs: the input columns of the rows, in the order of their arrival.
        dials: the dials at which the reduced model is timed.
        batches: the numbers of documents of a forward pass. One that is larger than the number of all documents is
            taken for that number, because all of them are then one batch.
        dtypes: the arithmetics, as names from `DTYPES`, and "int8" on a CPU. The first one is that of the baseline.
        rounds: the number of turns of each variant.
        say: is called with a line of text for each step of the work.
        rivals: other plain models by name, such as smaller ones. They run sorted by length.
        runners: the ways to run the unpadded and the reduced model, as names from `RUNNERS`. In int8 there is one way.
            With "compiled" the padded model is compiled as well. With "graphed" it is captured as well, on a GPU.

    Raises:
        InputError: There is no text, an arithmetic is unknown, or it is int8 and the model is not on a CPU.
    """
    if not inputs[0]:
        raise InputError("texts must not be empty: pass at least one document")
    unknown = sorted(set(dtypes) - {*DTYPES, INT8})
    if unknown:
        raise InputError(f"dtypes must be among {', '.join([*DTYPES, INT8])}, and hold {unknown[0]!r}: leave it out")
    device = model.device
    documents = _documents(model.task, tokenizer, inputs, model.config.max_tokens, device)
    variants: list[Variant] = []
    for dtype in dtypes:
        ways = runners if dtype != INT8 else (Eager.name,)
        variants += _variants(in_arithmetic(model, dtype), documents, dtype, dials, ways)
    for name, rival in (rivals or {}).items():
        longest = min(model.config.max_tokens, Encoder(rival.model).max_tokens)
        own = _documents(model.task, rival.tokenizer, inputs, longest, device)
        variants += _rival_variants(name, rival, model.task, own, dtypes)
    rows: list[Row] = []
    for batch in dict.fromkeys(min(batch, len(documents)) for batch in batches):
        count = len(_timed(variants, batch))
        say(f"batch {batch}: {len(documents)} documents, {count} variants, {rounds} rounds")
        rows += time_variants(variants, batch, rounds, device)
    lengths = documents.lengths.sort().values
    return Report(
        rows=tuple(rows),
        machine=machine(device),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        documents=len(documents),
        lengths=(int(lengths[0]), int(lengths[len(lengths) // 2]), int(lengths[-1])),
        rounds=rounds,
        tokenise_ms=1000 * documents.tokenise_seconds / len(documents),
        pack_ms=1000 * documents.pack_seconds / len(documents),
    )


def break_even_tables(
    model: TrbertModel,
    tokenizer: Any,
    inputs: Sequence[Sequence[Any]],
    *,
    dials: Sequence[float],
    batches: Sequence[int],
    dtypes: Sequence[str],
    say: Callable[[str], None],
    runners: Sequence[str] = (Eager.name,),
) -> list[BreakEven]:
    """Returns for which batches reducing pays: a table for each arithmetic, runner and dial.

    The arguments are those of `bench`. Documents have 16, 32, 64, … tokens, up to the most that the model reads.
    """
    longest = min(model.config.max_tokens, model.reducer.encoder.max_tokens)
    lengths = [*(1 << power for power in range(4, 20) if 1 << power < longest), longest]
    read = _documents(model.task, tokenizer, inputs, longest, model.device)
    like = Tokens.from_padded(read.input_ids, read.mask, read.types).to("cpu")
    tables = []
    for dtype in dtypes:
        own = in_arithmetic(model, dtype)
        for runner in runners if dtype != INT8 else (Eager.name,):
            if runner != Eager.name:
                own.run_with(runner_of(runner))
            for dial in dials:
                say(f"break-even: {dtype}, {own.runner.name}, dial {dial:+g}")
                tables.append(measure_break_even(own.reducer, own.selector, dial, like, lengths, batches))
    return tables


def in_arithmetic(model: TrbertModel, name: str) -> TrbertModel:
    """Returns a copy of a reduced model in the named arithmetic; the model itself is not changed."""
    own: Any = copy.deepcopy(model).to(DTYPES.get(name, torch.float32))  # type: ignore[arg-type]
    if name == INT8:
        own.run_with(Int8())
    return own


def _documents(
    task: Task, tokenizer: Any, inputs: Sequence[Sequence[Any]], longest: int, device: torch.device
) -> Documents:
    """Returns the documents of the rows, but not more of them than there are rows. Options are documents of a row."""
    texts = task.texts(inputs, tokenizer)
    return Documents(tokenizer, [column[: len(inputs[0])] for column in texts], longest, device)


def _variants(
    model: TrbertModel, documents: Documents, dtype: str, dials: Sequence[float], runners: Sequence[str]
) -> list[Variant]:
    reducer = model.reducer
    own = [each for runner in runners for each in _own_variants(model, documents, dtype, dials, runner)]
    plain = [each for runner in runners if (each := padded_by(runner, reducer, documents, dtype)) is not None]
    return [*padded_variants(reducer, documents, dtype), *plain, *own]


def _own_variants(
    model: TrbertModel, documents: Documents, dtype: str, dials: Sequence[float], runner: str
) -> Iterator[Variant]:
    cost, selector = model.cost_model(), model.selector

    def reducer() -> Reducer:
        """Returns the model with a runner of its own, as each model in use has: what one captures, none drops."""
        own = model.runner if runner == Eager.name else runner_of(runner)
        return replace(model.reducer, encoder=Encoder(model.plain, own))

    def name_of(name: str) -> str:
        return name if runner == Eager.name else f"{name}, {runner}"

    yield replace(unpadded_variant(reducer(), documents, dtype), name=name_of(UNPADDED))
    for dial in dials:
        yield reduced_variant(reducer(), cost, selector, dial, name_of(f"reduced {dial:+g}"), documents, dtype)


def _rival_variants(
    name: str, rival: Pretrained, task: Task, documents: Documents, dtypes: Sequence[str]
) -> Iterator[Variant]:
    for dtype in dtypes:
        plain = copy.deepcopy(rival.model).to(documents.lengths.device, DTYPES.get(dtype, torch.float32))
        encoder = Encoder(plain)
        if dtype == INT8:
            Int8().adopt(plain, encoder.layers)
        _, by_length = padded_variants(Reducer(encoder=encoder, task=task), documents, dtype)
        yield replace(by_length, name=f"against {name}")


def padded_by(runner: str, reducer: Reducer, documents: Documents, dtype: str) -> Variant | None:
    """Returns the variant of the padded plain model that the same means make faster; None where there is none.

    "compiled" is the model as `torch.compile` makes it. "graphed" is the model captured for each shape of a batch, on a
    GPU. Where all documents of a batch are equally long, it gets no mask, as the fastest user would do it.
    """
    padded, _ = padded_variants(reducer, documents, dtype)
    name = f"{PADDED}, {runner}"
    if runner == Compiled.name:
        return replace(padded, name=name, forward=torch.compile(padded.forward, dynamic=True))
    if runner != Graphed.name or reducer.encoder.device.type != "cuda":
        return None
    captures, device = Graphed(), reducer.encoder.device
    arenas: dict[tuple[Any, ...], Arena] = {}

    def forward(batch: dict[str, Tensor]) -> Tensor:
        if bool(batch["attention_mask"].all()):
            batch = {part: value for part, value in batch.items() if part != "attention_mask"}
        shape = tuple((part, tuple(value.shape)) for part, value in batch.items())
        arena, docs = arenas.setdefault(shape, Arena(device)), len(batch["input_ids"])
        for part, value in batch.items():
            arena.put(part, value, docs)

        def work() -> None:
            arena.put("outputs", padded.forward({part: arena.get(part, docs) for part in batch}), docs)

        captures.repeat(shape, work, device)
        return arena.get("outputs", docs).clone()

    return replace(padded, name=name, forward=forward)


def padded_variants(reducer: Reducer, documents: Documents, dtype: str) -> tuple[Variant, Variant]:
    """Returns two variants of the plain model as users run it: padded, and padded after sorting by length."""
    # It is a copy, because the encoder's model calls our attention function. A user of the plain model has SDPA
    # where transformers has it for the family.
    plain: Any = copy.deepcopy(reducer.encoder.plain)
    if plain.config._attn_implementation == PACKED_ATTENTION:
        plain.set_attn_implementation("sdpa")
    cost = CostModel.of(reducer)

    def forward(batch: dict[str, Tensor]) -> Tensor:
        return plain_outputs(plain, batch)

    def flops(lengths: Tensor, batch: dict[str, Tensor]) -> float:
        return float(cost.unreduced(torch.full_like(lengths, batch["input_ids"].shape[1])).sum())

    variant = partial(Variant, dtype=dtype, documents=documents, forward=forward, flops=flops)
    return variant(name=PADDED, sorts=False), variant(name=SORTED, sorts=True)


def unpadded_variant(reducer: Reducer, documents: Documents, dtype: str) -> Variant:
    """Returns the variant that runs the unreduced model on packed rows."""
    cost = CostModel.of(reducer)

    whole = replace(reducer, points=(), fusion=Fusion.none(), exits=Exits.none())
    nothing = FirstSelector(Policy(1, 0))

    def forward(batch: dict[str, Tensor]) -> Tensor:
        return reduced_outputs(whole, nothing, Tokens.from_padded(**batch), nothing.keep_all).outputs

    def flops(lengths: Tensor, batch: dict[str, Tensor]) -> float:
        return float(cost.unreduced(lengths).sum())

    return Variant(name=UNPADDED, dtype=dtype, documents=documents, forward=forward, sorts=False, flops=flops)


def reduced_variant(
    reducer: Reducer,
    cost: CostModel,
    selector: Selector,
    dial: float,
    name: str,
    documents: Documents,
    dtype: str,
) -> Variant:
    """Returns the variant that runs the model reduced by a selector, which may be any."""

    def forward(batch: dict[str, Tensor]) -> Tensor:
        return run(batch).outputs

    def flops(lengths: Tensor, batch: dict[str, Tensor]) -> float:
        return float(cost.reduced(lengths, run(batch).kept, reducer.points, selector).sum())

    def run(batch: dict[str, Tensor]) -> Reduced:
        return reduced_outputs(reducer, selector, reducer.protect(Tokens.from_padded(**batch)), dial)

    return Variant(name=name, dtype=dtype, documents=documents, forward=forward, sorts=False, flops=flops)


def time_variants(variants: Sequence[Variant], batch: int, rounds: int, device: torch.device) -> list[Row]:
    """Returns a row for each variant, all of them timed in turns.

    Args:
        variants: ways to run the same texts. The first is `padded`. Each arithmetic has `padded` and `unpadded`.
        batch: the number of documents of a forward pass.
        rounds: the number of turns of each variant.
        device: the device on which the variants run.
    """
    variants = _timed(variants, batch)
    work: dict[str, Sequence[Callable[[], object]]] = {}
    flops, peaks = {}, {}
    for variant in variants:
        key = _key(variant.dtype, variant.name)
        parts = list(variant.documents.batches(batch, variant.sorts))
        steps = [partial(variant.forward, part) for _, part in parts]
        flops[key] = sum(variant.flops(lengths, part) for lengths, part in parts)
        peaks[key] = peak_memory(max(zip(parts, steps, strict=True), key=_tokens_of)[1], device)
        work[key] = steps
    seconds = take_turns(work, rounds, device)
    plain = seconds[_key(variants[0].dtype, PADDED)]
    rows = []
    for variant in variants:
        key = _key(variant.dtype, variant.name)
        padded, unpadded = _key(variant.dtype, PADDED), _key(variant.dtype, UNPADDED)
        own = seconds[key]
        latencies = torch.tensor([step for steps in own for step in steps], dtype=torch.double)
        whole = median(sum(steps) for steps in own)
        over_unpadded = paired_ratio(seconds[unpadded], own)
        gain = flops[unpadded] / flops[key]
        rows.append(
            Row(
                variant=variant.name,
                dtype=variant.dtype,
                batch=batch,
                docs_per_second=len(variant.documents) / whole,
                docs_per_second_from_text=len(variant.documents) / (whole + variant.documents.tokenise_seconds),
                p50_ms=1000 * float(latencies.quantile(0.5)),
                p95_ms=1000 * float(latencies.quantile(0.95)),
                over_plain=paired_ratio(plain, own),
                over_padded=paired_ratio(seconds[padded], own),
                over_unpadded=over_unpadded,
                flops_over_padded=flops[padded] / flops[key],
                flops_over_unpadded=gain,
                realised=over_unpadded.median / gain,
                peak_mib=peaks[key],
            )
        )
    return rows


def _timed(variants: Sequence[Variant], batch: int) -> list[Variant]:
    """Returns the variants that are timed at a batch size.

    With one document a batch, sorting changes nothing, so the sorted variant is left out. Rivals still run.
    """
    return [variant for variant in variants if batch > 1 or variant.name != SORTED]


def _key(dtype: str, name: str) -> str:
    return f"{dtype} {name}"


def _tokens_of(work: tuple[tuple[Tensor, dict[str, Tensor]], Callable[[], object]]) -> int:
    return work[0][1]["input_ids"].numel()
