"""Evaluation in batches by length: every document once, answers in the data's order."""

import pytest
import torch
from torch.testing import assert_close

from tests.trbert.tasks.toys import MarkWords
from trbert.encoder import Encoder
from trbert.measure import evaluate as timed
from trbert.measure.cost import CostModel
from trbert.measure.evaluate import (
    batches_by_length,
    evaluate,
    evaluate_forward,
    evaluate_unreduced,
    forward_at,
    predict,
    unreduced_outputs,
)
from trbert.selection.outputs import reduced_outputs
from trbert.selection.policy import Policy
from trbert.selection.selectors import SELECTORS, FirstSelector, PolicySelector, selector_class, selector_of
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples

LENGTHS = (5, 16, 2, 9, 16, 3, 11, 7)
POINTS = (1, 2)
BUDGETS = (1, 20, 10_000)


@pytest.fixture
def tokens(make_tokens):
    return make_tokens(*LENGTHS)


@pytest.fixture
def examples(tokens):
    return Examples.of_documents(tokens, torch.tensor([0, 1, 2, 2, 1, 0, 0, 1]))


@pytest.fixture
def reducer(make_reducer):
    return make_reducer(POINTS)


@pytest.fixture
def selector():
    torch.manual_seed(0)
    policy = Policy(32, 2)
    for head in policy.heads:
        torch.nn.init.normal_(head.linear_2.weight, std=0.3)
        torch.nn.init.normal_(head.linear_1.weight, std=0.3)
    return PolicySelector(policy)


@torch.no_grad()
def one_by_one(reducer, selector, examples, dial=0.0):
    """Returns each example's outputs and its documents' kept counts, alone."""
    parts = [examples.take(torch.tensor([i])) for i in range(len(examples))]
    alone = [reducer.run(selector, part.tokens, dial, part) for part in parts]
    outputs = torch.cat([reducer.outputs(finished) for finished in alone])
    return outputs, torch.cat([finished.kept for finished in alone], 1)


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


def test_a_batch_has_at_most_16384_tokens_where_the_caller_sets_no_limit(reducer, make_tokens, monkeypatch):
    ran = []
    monkeypatch.setattr(Encoder, "run_layers", lambda self, batch, *_: ran.append(len(batch)) or batch)
    # 409 documents of 40 tokens are 16,360 tokens. With one more they would be 16,400.
    examples = Examples.of_documents(make_tokens(*[40] * 410), torch.zeros(410, dtype=torch.long))
    unreduced_outputs(reducer, examples)
    assert ran == [409, 1]


def test_no_documents_make_no_batches():
    assert list(batches_by_length(torch.tensor([], dtype=torch.long), 10)) == []


@pytest.mark.parametrize("budget", BUDGETS)
def test_answers_stand_in_the_datas_order_whatever_the_batches(budget, reducer, selector, examples):
    logits, kept = one_by_one(reducer, selector, examples)
    found = predict(reducer, forward_at(reducer, selector, 0.0), examples, budget)
    assert_close(found.outputs, logits)
    assert found.decoded == logits.argmax(-1).tolist()
    assert torch.equal(found.kept, kept)
    assert len({*map(tuple, kept.T.tolist())}) > 3


def test_a_forward_pass_is_told_which_examples_it_runs(reducer, selector, examples):
    told = []

    def forward(chosen, part):
        told.append((chosen.tolist(), part.targets.tolist(), part.tokens.lengths.tolist()))
        return reduced_outputs(reducer, selector, part.tokens, 0.0)

    predict(reducer, forward, examples, 20)
    # 16, 16, 11 + 9, 7 + 5 + 3 + 2 tokens.
    assert told == [
        ([1], [1], [16]),
        ([4], [1], [16]),
        ([6, 3], [0, 2], [11, 9]),
        ([7, 0, 5, 2], [1, 0, 0, 2], [7, 5, 3, 2]),
    ]


@pytest.mark.parametrize("budget", BUDGETS)
def test_unreduced_answers_are_hugging_faces(budget, bert, reducer, examples):
    tokens = examples.tokens
    with torch.no_grad():
        plain = torch.cat(
            [
                bert(input_ids=tokens.input_ids[a:b][None], token_type_ids=tokens.token_type_ids[a:b][None]).logits
                for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
            ]
        )
    assert_close(unreduced_outputs(reducer, examples, budget), plain)


def test_an_evaluation_is_the_same_for_any_batches(reducer, selector, examples):
    cost = CostModel.of(reducer, selector.policy)
    logits, kept = one_by_one(reducer, selector, examples)
    labels = logits.argmax(-1)
    labels[:2] = (labels[:2] + 1) % 3
    labelled, lengths = Examples.of_documents(examples.tokens, labels), examples.tokens.lengths
    found = [evaluate(reducer, cost, selector, labelled, 0.0, budget) for budget in BUDGETS]
    ratio = cost.unreduced(lengths).sum() / cost.reduced(lengths, kept, POINTS).sum()
    for evaluation in found:
        assert evaluation.quality == 6 / 8
        assert evaluation.speed_up == pytest.approx(float(ratio))
        assert evaluation.kept == pytest.approx([float(row.sum()) / sum(LENGTHS) for row in kept])
    assert found[0].speed_up > 1


@pytest.mark.parametrize("budget", BUDGETS)
def test_throughput_is_documents_over_the_seconds_that_their_batches_took(
    budget, reducer, selector, examples, monkeypatch
):
    # Eight documents of a quarter of a second each, by a clock that runs in the head alone.
    clock, batches, answer = [100.0], [], Encoder.read_documents

    def slow(self, batch):
        batches.append(len(batch))
        clock[0] += 0.25 * len(batch)
        return answer(self, batch)

    monkeypatch.setattr(Encoder, "read_documents", slow)
    monkeypatch.setattr(timed.time, "perf_counter", lambda: clock[0])
    cost = CostModel.of(reducer, selector.policy)
    reduced = evaluate(reducer, cost, selector, examples, 0.0, budget)
    assert reduced.docs_per_second == 4.0
    assert evaluate_unreduced(reducer, examples, budget).docs_per_second == 4.0
    # 16, 16, 11 + 9, 7 + 5 + 3 + 2 tokens, where a batch may have 20; both times.
    assert batches == {1: [1] * 8, 20: [1, 1, 2, 4], 10_000: [8]}[budget] * 2


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "policy"])
def test_every_selector_is_evaluated_with_its_own_cost_and_evidence(name, reducer, selector, examples):
    policy = selector.policy if selector_class(name).learns else Policy(32, 0)
    selector, lengths = selector_of(name, policy), examples.tokens.lengths
    cost = CostModel.of(reducer, policy)
    for dial in (selector.default_dial, *selector.dials[-4:]):
        logits, kept = one_by_one(reducer, selector, examples, dial)
        ratio = cost.unreduced(lengths).sum() / cost.reduced(lengths, kept, POINTS, selector).sum()
        for budget in BUDGETS:
            evaluation = evaluate(reducer, cost, selector, examples, dial, budget)
            assert evaluation.quality == float((logits.argmax(-1) == examples.targets).double().mean())
            assert evaluation.speed_up == pytest.approx(float(ratio))
            assert evaluation.kept == pytest.approx([float(row.sum()) / sum(LENGTHS) for row in kept])


def test_the_unreduced_model_has_speed_up_one(reducer, examples):
    labels = unreduced_outputs(reducer, examples).argmax(-1)
    labels[5] = (labels[5] + 1) % 3
    labelled = Examples.of_documents(examples.tokens, labels)
    for budget in BUDGETS:
        evaluation = evaluate_unreduced(reducer, labelled, budget)
        assert (evaluation.quality, evaluation.speed_up, evaluation.kept) == (7 / 8, 1.0, ())


# Examples of several documents, and heads that read tokens.


@pytest.fixture
def choices(tokens):
    """Four examples of two documents each: 5 + 16, 2 + 9, 16 + 3 and 11 + 7 tokens."""
    return Examples(tokens, torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))


@pytest.fixture
def choosing(make_reducer, build_model, config_of):
    config = config_of("bert")
    config.num_labels = 1
    return make_reducer(POINTS, encoder=Encoder(build_model(config)), task=TASKS["multiple_choice"])


# Examples of 21, 11, 19 and 18 tokens: longest first each alone; in pairs; all at once.
CHOICES = {1: [[0], [2], [3], [1]], 30: [[0], [2], [3, 1]], 10_000: [[0, 2, 3, 1]]}


@pytest.mark.parametrize("budget", CHOICES)
def test_examples_of_two_documents_are_run_whole_and_their_counts_put_back(budget, choosing, selector, choices):
    outputs, kept = one_by_one(choosing, selector, choices)
    assert len({*map(tuple, kept.T.tolist())}) > 3
    ran = []

    def forward(chosen, part):
        ran.append(chosen.tolist())
        return reduced_outputs(choosing, selector, part.tokens, 0.0)

    found = predict(choosing, forward, choices, budget)
    assert ran == CHOICES[budget]
    assert_close(found.outputs, outputs)
    assert torch.equal(found.kept, kept)
    expected = [int(pair[1] > pair[0]) for pair in outputs[:, 0].view(4, 2)]
    assert found.decoded == expected
    assert_close(unreduced_outputs(choosing, choices, budget), unreduced_outputs(choosing, choices))


@pytest.mark.parametrize("budget", CHOICES)
def test_quality_is_of_examples_and_throughput_of_documents(budget, choosing, selector, choices, monkeypatch):
    clock, answer = [100.0], Encoder.read_documents

    def slow(self, batch):
        clock[0] += 0.25 * len(batch)
        return answer(self, batch)

    monkeypatch.setattr(Encoder, "read_documents", slow)
    monkeypatch.setattr(timed.time, "perf_counter", lambda: clock[0])
    cost, lengths = CostModel.of(choosing, selector.policy), choices.tokens.lengths
    outputs, kept = one_by_one(choosing, selector, choices)
    right = torch.tensor([int(pair[1] > pair[0]) for pair in outputs[:, 0].view(4, 2)])
    right[2] = 1 - right[2]
    labelled = Examples(choices.tokens, right, choices.owner)
    found = evaluate(choosing, cost, selector, labelled, 0.0, budget)
    assert found.quality == 3 / 4
    assert found.docs_per_second == 4.0
    assert found.speed_up == pytest.approx(
        float(cost.unreduced(lengths).sum() / cost.reduced(lengths, kept, POINTS).sum())
    )
    assert found.kept == pytest.approx([float(row.sum()) / sum(LENGTHS) for row in kept])


@pytest.mark.parametrize("budget", BUDGETS)
def test_outputs_of_tokens_stand_in_the_datas_order(budget, make_reducer, tokens, config_of):
    torch.manual_seed(0)
    plain = MarkWords().auto_class.from_config(config_of("bert")).eval()
    reducer = make_reducer(POINTS, encoder=Encoder(plain), task=MarkWords())
    examples = Examples.of_documents(tokens, torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long), "tokens")
    first = FirstSelector(Policy(1, 0))
    outputs, kept = one_by_one(reducer, first, examples, 0.3)
    found = predict(reducer, forward_at(reducer, first, 0.3), examples, budget)
    assert found.outputs.shape == (sum(LENGTHS), 3)
    assert_close(found.outputs, outputs)
    assert torch.equal(found.kept, kept)
    assert [len(own) for own in found.decoded] == list(LENGTHS)
    with torch.no_grad():
        assert_close(unreduced_outputs(reducer, examples, budget), reducer.unreduced_outputs(tokens))


def test_masks_from_elsewhere_cost_what_the_selector_says(reducer, selector, examples):
    # All of them kept at both points: the model's own cost, and what the policy's heads read.
    cost, lengths = CostModel.of(reducer, selector.policy), examples.tokens.lengths
    keep_all = forward_at(reducer, FirstSelector(Policy(1, 0)), 1.0)
    found = evaluate_forward(reducer, cost, selector, examples, keep_all)
    whole = float(cost.unreduced(lengths).sum())
    heads = 2 * (sum(LENGTHS) * cost.policy_per_token + len(LENGTHS) * cost.policy_per_document)
    assert found.kept == (1.0, 1.0)
    assert found.speed_up == pytest.approx(whole / (whole + heads))
