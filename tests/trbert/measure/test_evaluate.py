"""Evaluation in batches by length: every document once, answers in the data's order."""

import pytest
import torch
from torch.testing import assert_close

from trbert.measure import evaluate as timed
from trbert.measure.cost import CostModel
from trbert.measure.evaluate import batches_by_length, evaluate, evaluate_unreduced, reduced_logits, unreduced_logits
from trbert.selection.policy import Policy
from trbert.selection.reduction import reduced_forward
from trbert.selection.selectors import LEARNED, SELECTORS, PolicySelector, selector_of

LENGTHS = (5, 16, 2, 9, 16, 3, 11, 7)
POINTS = (1, 2)
BUDGETS = (1, 20, 10_000)


@pytest.fixture
def tokens(make_tokens):
    return make_tokens(*LENGTHS)


@pytest.fixture
def selector():
    torch.manual_seed(0)
    policy = Policy(32, 2)
    for head in policy.heads:
        torch.nn.init.normal_(head.linear_2.weight, std=0.3)
        torch.nn.init.normal_(head.linear_1.weight, std=0.3)
    return PolicySelector(policy)


@torch.no_grad()
def one_by_one(encoder, selector, tokens):
    """Returns each document's logits and kept counts, alone."""
    alone = [
        reduced_forward(encoder, selector, tokens.take(torch.tensor([i])), POINTS, 0.0) for i in range(len(tokens))
    ]
    logits = torch.cat([encoder.logits(reduced.batch) for reduced in alone])
    return logits, torch.cat([reduced.kept for reduced in alone], 1)


@pytest.mark.parametrize("budget", [1, 16, 17, 30, 69, 1000])
def test_batches_hold_each_document_once_within_the_budget(budget):
    lengths = torch.tensor(LENGTHS)
    batches = list(batches_by_length(lengths, budget))
    assert sorted(torch.cat(batches).tolist()) == list(range(len(LENGTHS)))
    for batch in batches:
        assert int(lengths[batch].sum()) <= budget or len(batch) == 1
    # No two neighbours would have fitted into one.
    totals = [int(lengths[batch].sum()) for batch in batches]
    firsts = [int(lengths[batch[0]]) for batch in batches]
    assert all(total + first > budget for total, first in zip(totals, firsts[1:], strict=False))


def test_the_longest_documents_come_first():
    (batch,) = batches_by_length(torch.tensor(LENGTHS), 1000)
    assert batch.tolist() == [1, 4, 6, 3, 7, 0, 5, 2]


def test_no_documents_make_no_batches():
    assert list(batches_by_length(torch.tensor([], dtype=torch.long), 10)) == []


@pytest.mark.parametrize("budget", BUDGETS)
def test_answers_stand_in_the_datas_order_whatever_the_batches(budget, encoder, selector, tokens):
    logits, kept = one_by_one(encoder, selector, tokens)

    def forward(documents):
        return reduced_forward(encoder, selector, tokens.take(documents), POINTS, 0.0)

    found_logits, found_kept = reduced_logits(encoder, forward, tokens.lengths, budget)
    assert_close(found_logits, logits)
    assert torch.equal(found_kept, kept)
    assert len({*map(tuple, kept.T.tolist())}) > 3


@pytest.mark.parametrize("budget", BUDGETS)
def test_unreduced_answers_are_hugging_faces(budget, bert, encoder, tokens):
    with torch.no_grad():
        plain = torch.cat(
            [
                bert(input_ids=tokens.input_ids[a:b][None], token_type_ids=tokens.token_type_ids[a:b][None]).logits
                for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
            ]
        )
    assert_close(unreduced_logits(encoder, tokens, budget), plain)


def test_an_evaluation_is_the_same_for_any_batches(encoder, selector, tokens):
    cost = CostModel.of(encoder, selector.policy)
    logits, kept = one_by_one(encoder, selector, tokens)
    labels = logits.argmax(-1)
    labels[:2] = (labels[:2] + 1) % 3
    found = [evaluate(encoder, cost, selector, tokens, labels, POINTS, 0.0, budget) for budget in BUDGETS]
    ratio = cost.unreduced(tokens.lengths).sum() / cost.reduced(tokens.lengths, kept, POINTS).sum()
    for evaluation in found:
        assert evaluation.quality == 6 / 8
        assert evaluation.speed_up == pytest.approx(float(ratio))
        assert evaluation.kept == pytest.approx([float(row.sum()) / sum(LENGTHS) for row in kept])
    assert found[0].speed_up > 1


@pytest.mark.parametrize("budget", BUDGETS)
def test_throughput_is_documents_over_the_seconds_that_their_batches_took(
    budget, encoder, selector, tokens, monkeypatch
):
    # Eight documents of a quarter of a second each, by a clock that runs in the model alone.
    clock, batches, answer = [100.0], [], type(encoder).logits

    def slow(self, batch):
        batches.append(len(batch))
        clock[0] += 0.25 * len(batch)
        return answer(self, batch)

    monkeypatch.setattr(type(encoder), "logits", slow)
    monkeypatch.setattr(timed.time, "perf_counter", lambda: clock[0])
    labels = torch.zeros(len(LENGTHS), dtype=torch.long)
    cost = CostModel.of(encoder, selector.policy)
    reduced = evaluate(encoder, cost, selector, tokens, labels, POINTS, 0.0, budget)
    assert reduced.docs_per_second == 4.0
    assert evaluate_unreduced(encoder, tokens, labels, budget).docs_per_second == 4.0
    # 16, 16, 11 + 9, 7 + 5 + 3 + 2 tokens, where a batch may have 20; both times.
    assert batches == {1: [1] * 8, 20: [1, 1, 2, 4], 10_000: [8]}[budget] * 2


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "policy"])
def test_every_selector_is_evaluated_with_its_own_cost_and_evidence(name, encoder, selector, tokens):
    selector, labels = selector_of(name, selector.policy), torch.tensor([0, 1, 2, 2, 1, 0, 0, 1])
    cost = CostModel.of(encoder, selector.policy if name in LEARNED else None)
    one = [torch.tensor([i]) for i in range(len(tokens))]
    for dial in (selector.default_dial, *selector.dials[-4:]):
        with torch.no_grad():
            alone = [reduced_forward(encoder, selector, tokens.take(i), POINTS, dial, labels[i]) for i in one]
            logits = torch.cat([encoder.logits(reduced.batch) for reduced in alone])
        kept = torch.cat([reduced.kept for reduced in alone], 1)
        ratio = cost.unreduced(tokens.lengths).sum() / cost.reduced(tokens.lengths, kept, POINTS, name).sum()
        for budget in BUDGETS:
            evaluation = evaluate(encoder, cost, selector, tokens, labels, POINTS, dial, budget)
            assert evaluation.quality == float((logits.argmax(-1) == labels).double().mean())
            assert evaluation.speed_up == pytest.approx(float(ratio))
            assert evaluation.kept == pytest.approx([float(row.sum()) / sum(LENGTHS) for row in kept])


def test_the_unreduced_model_has_speed_up_one(encoder, tokens):
    labels = unreduced_logits(encoder, tokens).argmax(-1)
    labels[5] = (labels[5] + 1) % 3
    for budget in BUDGETS:
        evaluation = evaluate_unreduced(encoder, tokens, labels, budget)
        assert (evaluation.quality, evaluation.speed_up, evaluation.kept) == (7 / 8, 1.0, ())
