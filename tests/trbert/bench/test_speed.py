"""The speed report: every variant runs the same documents to the same logits, FLOPs by hand, and what is written."""

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from trbert.bench.report import table, write
from trbert.bench.speed import (
    PADDED,
    SORTED,
    UNPADDED,
    Documents,
    Variant,
    _rival_variants,
    _variants,
    bench,
    in_arithmetic,
    padded_variants,
    reduced_variant,
    time_variants,
)
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.cost import CostModel
from trbert.modeling import assemble
from trbert.packed.tokens import Tokens
from trbert.pretrained import Pretrained
from trbert.runners import Eager
from trbert.runners.int8 import is_quantised
from trbert.selection.policy import Policy
from trbert.selection.selectors import FirstSelector, PolicySelector
from trbert.tasks.classification import Classification

POINTS = (1, 3)
TEXTS = ["5 6 7", "5 6 7 8 9 10 11 12", "20 21", "30 31 32 33 34", "40"]
LENGTHS = [3, 8, 2, 5, 1]
KEEP_ALL = 1000.0


class Numbers:
    """A tokenizer of texts that are token ids already."""

    def __init__(self, side):
        self.side = side

    def __call__(self, texts, padding, truncation, max_length, return_tensors):
        rows = [[int(word) for word in text.split()][:max_length] for text in texts]
        width = max(map(len, rows))
        ids, mask = [], []
        for row in rows:
            gap = [0] * (width - len(row))
            ids.append(row + gap if self.side == "right" else gap + row)
            ones = [1] * len(row)
            mask.append(ones + gap if self.side == "right" else gap + ones)
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


class NumberPairs(Numbers):
    """A tokenizer of pairs of texts that are token ids already, the second of segment 1."""

    def __call__(self, texts, second_texts, **options):
        joined = [f"{first} {second}" for first, second in zip(texts, second_texts, strict=True)]
        encoded = super().__call__(joined, **options)
        types = torch.zeros_like(encoded["input_ids"])
        for row, first in enumerate(texts):
            types[row, len(first.split()) :] = 1
        return encoded | {"token_type_ids": types * encoded["attention_mask"]}


@pytest.fixture
def model(make_reducer, bert):
    torch.manual_seed(0)
    policy = Policy(bert.config.hidden_size, len(POINTS), width=8, features=("document",))
    for head in policy.heads:
        torch.nn.init.normal_(head.linear_1.weight)
        torch.nn.init.normal_(head.linear_2.weight)
    return assemble(make_reducer(POINTS), PolicySelector(policy), 0.0, max_tokens=40)


def report_of(model, **changes):
    options = {"dials": [-1.0, KEEP_ALL], "batches": [2], "dtypes": ["float32"], "rounds": 2, "say": lambda line: None}
    return bench(model, Numbers("right"), (TEXTS,), **{**options, **changes})


def test_a_report_names_the_median_length_and_not_the_mean(model):
    texts = (["5", "6 7", "8 9 10 11 12 13 14 15 16"],)
    options = {"dials": [], "batches": [1], "dtypes": ["float32"], "rounds": 1, "say": lambda line: None}
    # Of 1, 2 and 9 the median is 2 and the mean is 4.
    assert bench(model, Numbers("right"), texts, **options).lengths == (1, 2, 9)


@torch.inference_mode()
def test_the_padded_model_attends_as_hugging_face_has_it_and_the_unpadded_one_as_we_do(model, monkeypatch):
    seen, forward = [], type(model.plain).forward

    def watched(self, *args, **options):
        seen.append(self.config._attn_implementation)
        return forward(self, *args, **options)

    monkeypatch.setattr(type(model.plain), "forward", watched)
    documents = Documents(Numbers("right"), (TEXTS,), 40, torch.device("cpu"))
    for variant in _variants(model, documents, "float32", [], ["eager"]):
        for _, batch in documents.batches(5, variant.sorts):
            variant.forward(batch)
    # Padded, sorted by length, unpadded.
    assert seen == ["sdpa", "sdpa", "trbert_packed"]


@torch.inference_mode()
def test_the_padded_model_keeps_its_attention_where_its_family_has_one_alone(config_of, build_model, make_reducer):
    reducer = make_reducer(encoder=Encoder(build_model(config_of("mpnet"))))
    documents = Documents(Numbers("right"), (TEXTS,), 38, torch.device("cpu"))
    for variant in padded_variants(reducer, documents, "float32"):
        for lengths, batch in documents.batches(5, variant.sorts):
            batch = {name: ids for name, ids in batch.items() if name != "token_type_ids"}
            assert variant.forward(batch).shape == (len(lengths), 3)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("size", [1, 2, 5])
@torch.inference_mode()
def test_every_variant_that_keeps_all_gives_the_same_logits(model, side, size):
    # On the left the plain model would count positions from the padding on.
    names = {UNPADDED, "reduced +1000"} | ({PADDED, SORTED} if side == "right" else set())
    documents = Documents(Numbers(side), (TEXTS,), 40, torch.device("cpu"))
    expected = model.plain(**Numbers("right")(TEXTS, True, True, 40, "pt")).logits
    for variant in _variants(model, documents, "float32", [KEEP_ALL], ["eager"]):
        if variant.name not in names:
            continue
        parts = list(documents.batches(size, variant.sorts))
        logits = torch.cat([variant.forward(batch) for _, batch in parts])
        order = sorted(range(5), key=lambda i: LENGTHS[i]) if variant.sorts else list(range(5))
        assert [int(length) for lengths, _ in parts for length in lengths] == [LENGTHS[i] for i in order]
        assert all(batch["input_ids"].shape[1] == int(lengths.max()) for lengths, batch in parts)
        assert_close(logits, expected[order])


@torch.inference_mode()
def test_every_variant_reads_the_segments_of_pairs(model):
    seconds = ["8", "13", "22 23 24", "35", "41 42"]
    encoded = NumberPairs("right")(TEXTS, seconds, padding=True, truncation=True, max_length=40, return_tensors="pt")
    expected = model.plain(**encoded).logits
    single = model.plain(encoded["input_ids"], encoded["attention_mask"]).logits
    assert (expected - single).abs().max() > 0.1  # the segments tell
    documents = Documents(NumberPairs("right"), (TEXTS, seconds), 40, torch.device("cpu"))
    for variant in _variants(model, documents, "float32", [KEEP_ALL], ["eager"]):
        logits = torch.cat([variant.forward(batch) for _, batch in documents.batches(2, sorts=False)])
        assert_close(logits, expected)


def test_flops_are_the_cost_models_of_what_each_variant_runs(model):
    cost = model.cost_model()
    rows = {row.variant: row for row in report_of(model).rows}

    def unreduced(*lengths):
        return float(cost.unreduced(torch.tensor(lengths)).sum())

    own = unreduced(*LENGTHS)
    padded = unreduced(8, 8, 5, 5, 1)  # batches of two, each as wide as its longest
    in_order = unreduced(2, 2, 5, 5, 8)  # lengths 1, 2 | 3, 5 | 8
    assert rows[UNPADDED].flops_over_padded == pytest.approx(padded / own)
    assert rows[SORTED].flops_over_padded == pytest.approx(padded / in_order)
    assert rows[PADDED].flops_over_unpadded == pytest.approx(own / padded)
    policy = 2 * sum(LENGTHS) * cost.policy_per_token + 2 * 5 * cost.policy_per_document
    assert rows["reduced +1000"].flops_over_unpadded == pytest.approx(own / (own + policy))
    assert rows["reduced -1"].flops_over_unpadded > 1.05


def test_the_clock_shows_the_share_it_realised(model):
    for row in report_of(model, rounds=3).rows:
        assert row.realised == pytest.approx(row.over_unpadded.median / row.flops_over_unpadded)
        assert row.over_unpadded.low <= row.over_unpadded.median <= row.over_unpadded.high
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.docs_per_second_from_text < row.docs_per_second
    baseline = next(row for row in report_of(model).rows if row.variant == UNPADDED)
    assert baseline.over_unpadded.median == baseline.realised == 1.0


def test_one_document_at_a_time_is_not_sorted(model):
    report = report_of(model, batches=[1, 5], dtypes=["float32", "bfloat16"])
    assert [(row.batch, row.dtype) for row in report.rows if row.variant == SORTED] == [(5, "float32"), (5, "bfloat16")]
    assert len(report.rows) == 2 * (4 + 5)
    assert report.lengths == (1, 3, 8)


def test_the_model_is_left_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report_of(model, dtypes=["bfloat16", "int8"])
    assert not is_quantised(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_each_arithmetic_has_its_own_baseline_and_all_the_first_ones(model, monkeypatch):
    seconds = {"float32": 8.0, "bfloat16": 4.0, "int8": 2.0}

    def turns(work, rounds, device):
        # Padded takes the arithmetic's time, unpadded half of it, the reduced model a quarter.
        share = {PADDED: 1.0, SORTED: 1.0, UNPADDED: 0.5, "reduced +0": 0.25}
        return {
            key: [[seconds[key.partition(" ")[0]] * share[key.partition(" ")[2]] / len(steps)] * len(steps)] * rounds
            for key, steps in work.items()
        }

    documents = Documents(Numbers("right"), (TEXTS,), 40, torch.device("cpu"))
    monkeypatch.setattr("trbert.bench.speed.take_turns", turns)
    variants = [
        v for dtype in seconds for v in _variants(in_arithmetic(model, dtype), documents, dtype, [0.0], ["eager"])
    ]
    rows = {(row.dtype, row.variant): row for row in time_variants(variants, 2, 2, torch.device("cpu"))}
    assert {dtype: rows[dtype, "reduced +0"].over_plain.median for dtype in seconds} == {
        "float32": 4.0,
        "bfloat16": 8.0,
        "int8": 16.0,
    }
    assert all(rows[dtype, "reduced +0"].over_padded.median == 4.0 for dtype in seconds)
    assert all(rows[dtype, "reduced +0"].over_unpadded.median == 2.0 for dtype in seconds)


def test_the_runners_that_were_asked_for_are_timed_but_in_int8(model, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda run, dynamic: made.append(dynamic) or run)
    report = report_of(model, dtypes=["float32", "int8"], runners=["eager", "compiled", "graphed"])
    names = (UNPADDED, "reduced -1", "reduced +1000")
    others = [(row.dtype, row.variant) for row in report.rows if "," in row.variant]
    assert others == [
        ("float32", "padded, compiled"),  # a captured one is for a GPU
        *[("float32", f"{name}, {runner}") for runner in ("compiled", "graphed") for name in names],
    ]
    assert made == [True] * 8  # the padded model, all layers in one span, and three spans at each dial
    assert type(model.runner) is Eager


@torch.inference_mode()
def test_an_arithmetic_is_a_copys(model):
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    exact = model(ids).logits
    for name, dtype in (("bfloat16", torch.bfloat16), ("int8", torch.float32)):
        logits = in_arithmetic(model, name)(ids).logits
        assert logits.dtype == dtype
        assert not torch.equal(logits.float(), exact)
    assert is_quantised(in_arithmetic(model, "int8").plain)
    assert torch.equal(model(ids).logits, exact)


@torch.inference_mode()
def test_a_rival_runs_in_each_arithmetic_and_is_left_as_it_was(model, bert):
    rival = Pretrained(model=bert, tokenizer=Numbers("right"), fine_tuned=True, order=(0, 1), notes=())
    documents = Documents(rival.tokenizer, (TEXTS,), 40, torch.device("cpu"))
    variants = list(_rival_variants("small", rival, model.task, documents, ["float32", "bfloat16", "int8"]))
    assert [(each.name, each.dtype, each.sorts) for each in variants] == [
        ("against small", dtype, True) for dtype in ("float32", "bfloat16", "int8")
    ]
    batches = list(documents.batches(5, sorts=True))
    exact, half, whole = (each.forward(batches[0][1]) for each in variants)
    assert_close(exact, bert(**batches[0][1]).logits)
    assert half.dtype == torch.bfloat16
    assert whole.dtype == torch.float32
    assert 0 < float((whole - exact).abs().max()) < 0.5
    assert len({each.flops(*batches[0]) for each in variants}) == 1  # int8 counts as many
    assert not is_quantised(bert)
    assert next(bert.parameters()).dtype == torch.float32


class ProtectsAll(Classification):
    """Classification that never drops a token."""

    def protect(self, tokens, separator, typed=None):
        return replace(tokens, protected=torch.ones_like(tokens.protected))


@torch.inference_mode()
def test_a_reduced_variant_keeps_what_its_task_protects(make_reducer):
    documents = Documents(Numbers("right"), (TEXTS,), 40, torch.device("cpu"))
    ((lengths, batch),) = documents.batches(5, sorts=False)
    found = {}
    for task in (Classification(), ProtectsAll()):
        reducer = make_reducer(POINTS, task=task)
        first, cost = FirstSelector(Policy(1, 0)), CostModel.of(reducer)
        variant = reduced_variant(reducer, cost, first, 0.3, "first", documents, "float32")
        found[type(task)] = variant.flops(lengths, batch), variant.forward(batch)
    unreduced = float(cost.unreduced(lengths).sum())
    expected = make_reducer().unreduced_outputs(Tokens.from_padded(**batch))
    assert found[ProtectsAll][0] == unreduced > found[Classification][0]
    assert_close(found[ProtectsAll][1], expected)
    assert not torch.allclose(found[Classification][1], expected, atol=1e-2)


def test_the_report_is_written(model, tmp_path):
    report = report_of(model)
    write(report, tmp_path / "bench")
    saved = json.loads((tmp_path / "bench" / "speed.json").read_text())
    assert [row["variant"] for row in saved["rows"]] == [PADDED, SORTED, UNPADDED, "reduced -1", "reduced +1000"]
    written = (tmp_path / "bench" / "speed.md").read_text()
    assert written == table(report)
    assert all(f"| {row.variant} |" in written for row in report.rows)
    widths = {line.count("|") for line in written.splitlines() if line.startswith("|")}
    assert len(widths) == 1


@pytest.mark.parametrize(
    ("texts", "changes", "told"),
    [
        ([], {}, "texts must not be empty"),
        (TEXTS, {"dtypes": ["float8"]}, "dtypes must be among .* 'float8': leave it out"),
    ],
)
def test_mistakes_are_told(model, texts, changes, told):
    options = {"dials": [0.0], "batches": [2], "dtypes": ["float32"], "rounds": 1, "say": lambda line: None}
    with pytest.raises(InputError, match=told):
        bench(model, Numbers("right"), (texts,), **{**options, **changes})


# The clock's figures, by hand.


@pytest.fixture
def clock(monkeypatch):
    """Tokenising takes 3, 1 and 2 s, packing .3, .1 and .5 s, and each step of a variant what the test says."""
    steps = {}

    def turns(work, rounds, device):
        if "pack" in work:
            assert isinstance(work["pack"][0](), Tokens)
            return {"tokenise": [[3.0], [1.0], [2.0]], "pack": [[0.3], [0.1], [0.5]]}
        return {key: steps.get(key, [[1.0] * len(own)] * rounds) for key, own in work.items()}

    monkeypatch.setattr("trbert.bench.speed.take_turns", turns)
    return steps


def variant(name, documents, ran=None):
    def forward(batch):
        if ran is not None:
            ran.append(tuple(batch["input_ids"].shape))
        return torch.zeros(1)

    flops = {PADDED: 60.0, UNPADDED: 30.0}[name]
    return Variant(
        name=name,
        dtype="float32",
        documents=documents,
        forward=forward,
        sorts=False,
        flops=lambda lengths, batch: flops,
    )


def test_a_rows_figures_by_hand(clock):
    documents = Documents(Numbers("right"), (TEXTS,), 40, torch.device("cpu"))
    # Rounds of 6, 6 and 3 s for five documents in three steps.
    clock["float32 padded"] = [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]]
    clock["float32 unpadded"] = [[1.0, 1.0, 1.0]] * 3
    padded, unpadded = time_variants(
        [variant(PADDED, documents), variant(UNPADDED, documents)], 2, 3, torch.device("cpu")
    )
    assert padded.docs_per_second == pytest.approx(5 / 6)  # the median round
    assert padded.docs_per_second_from_text == pytest.approx(5 / 8)  # two seconds more, the median of tokenising
    # Of 1 1 1 1 2 2 2 2 3 the middle is 2; 95 % of the way is .6 of the way from the eighth to the ninth.
    assert (padded.p50_ms, padded.p95_ms) == (pytest.approx(2000), pytest.approx(2600))
    assert unpadded.over_padded.median == 2.0  # 6/3, 6/3, 3/3
    assert (unpadded.flops_over_padded, unpadded.flops_over_unpadded) == (2.0, 1.0)
    assert (padded.flops_over_unpadded, padded.realised) == (0.5, pytest.approx(0.5 / 0.5))


def test_memory_is_that_of_the_largest_batch(clock, monkeypatch):
    monkeypatch.setattr("trbert.bench.speed.peak_memory", lambda step, device: float(step()))
    ran = []
    # Batches of two are 5, then 8, then 3 wide, the last of one document.
    documents = Documents(Numbers("right"), ([TEXTS[i] for i in (4, 3, 2, 1, 0)],), 40, torch.device("cpu"))
    time_variants([variant(PADDED, documents, ran), variant(UNPADDED, documents)], 2, 1, torch.device("cpu"))
    assert ran == [(2, 8)]


def test_a_reports_own_figures_by_hand(clock, model):
    asked = []
    report = report_of(model, rounds=3, say=asked.append)
    # Two seconds of tokenising and .3 s of packing for five documents.
    assert (report.tokenise_ms, report.pack_ms) == (pytest.approx(400), pytest.approx(60))
    assert (report.rounds, report.documents, report.lengths) == (3, 5, (1, 3, 8))
    assert asked == ["batch 2: 5 documents, 5 variants, 3 rounds"]


def test_batches_that_all_documents_do_not_fill_are_timed_once_as_one_batch_of_all(clock, model):
    asked = []
    report = report_of(model, batches=[2, 8, 32], say=asked.append)
    assert [line.partition(":")[0] for line in asked] == ["batch 2", "batch 5"]
    assert sorted({row.batch for row in report.rows}) == [2, 5]


def test_as_many_variants_are_announced_as_are_timed(clock, model):
    told = []
    report = report_of(model, batches=[1, 2], rounds=1, say=told.append)
    counts = [sum(row.batch == batch for row in report.rows) for batch in (1, 2)]
    assert counts[0] < counts[1]  # documents that are alone are not sorted
    assert [line.split(", ")[1] for line in told] == [f"{count} variants" for count in counts]


def test_variants_are_timed_in_as_many_rounds_as_asked_for(clock, model, monkeypatch):
    rounds = []
    monkeypatch.setattr(
        "trbert.bench.speed.time_variants", lambda variants, batch, turns, device: rounds.append(turns) or []
    )
    report_of(model, rounds=4, batches=[1, 2])
    assert rounds == [4, 4]


@pytest.mark.parametrize(("positions", "longest"), [(6, 6), (80, 40)])
def test_a_rival_reads_no_more_than_it_can_and_no_more_than_the_model(
    positions, longest, clock, model, build_model, config_of, monkeypatch
):
    config = config_of("bert")
    config.max_position_embeddings = positions
    rival = Pretrained(model=build_model(config), tokenizer=Numbers("right"), fine_tuned=True, order=(0, 1), notes=())
    read = []

    class Noted(Documents):
        def __init__(self, tokenizer, inputs, most, *others):
            read.append(most)
            super().__init__(tokenizer, inputs, most, *others)

    monkeypatch.setattr("trbert.bench.speed.Documents", Noted)
    monkeypatch.setattr("trbert.bench.speed.time_variants", lambda *arguments: [])
    report_of(model, rivals={"small": rival})
    assert read == [40, longest]
