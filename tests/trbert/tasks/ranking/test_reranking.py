"""Reranking: its losses by hand, what it reads of a pair, and what it says of the data."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from trbert.tasks.rows import Rows, Table

POINTWISE, LISTWISE = TASKS["reranking"], TASKS["listwise_reranking"]
BOTH = pytest.mark.parametrize("task", [POINTWISE, LISTWISE], ids=lambda task: task.name)


def rows_of(**found):
    """Returns rows of these queries, each with its documents and their grades."""
    width = max(map(len, found.values()))
    targets = np.full((len(found), width), -100, dtype=np.float32)
    for row, own in enumerate(found.values()):
        targets[row, : len(own)] = [*own.values()]
    return Rows((tuple(found), tuple([*own] for own in found.values())), targets, np.zeros(len(found), dtype=np.int64))


def examples_of(*grades):
    """Returns a query for each list of grades."""
    owner = torch.arange(len(grades)).repeat_interleave(torch.tensor([len(own) for own in grades]))
    targets = torch.full((len(grades), max(map(len, grades))), -100.0)
    for row, own in enumerate(grades):
        targets[row, : len(own)] = torch.tensor(own)
    return Examples(Tokens.from_lists([[7]] * len(owner), None), targets, owner)


def outputs_of(*scores):
    return torch.tensor(scores, dtype=torch.float32)[:, None]


ROWS = rows_of(a={"b c d": 0, "d": 1}, c={"a": 1, "b": 0.5, "c": 0})


def test_a_query_that_holds_the_separator_is_protected_as_a_whole(tokenizer):
    tokens = POINTWISE.encode(rows_of(**{"a [SEP] b": {"c d": 0, "d": 1}}), tokenizer, 16).examples.tokens
    cls, sep, a, b, c, d = range(2, 8)
    assert tokens.input_ids.tolist() == [cls, a, sep, b, sep, c, d, sep, cls, a, sep, b, sep, d, sep]
    assert tokens.protected.int().tolist() == [1] * 5 + [0] * 3 + [1] * 5 + [0] * 2
    # A pair whose document is cut off is read again.
    cut_off = POINTWISE.encode(rows_of(**{"a [SEP] b": {"c d": 0, "d": 1}}), tokenizer, 7).examples.tokens
    assert cut_off.protected.int().tolist() == [1] * 5 + [0] * 2 + [1] * 5 + [0] * 2


def test_a_query_is_an_example_of_its_pairs(tokenizer):
    encoded = POINTWISE.encode(ROWS, tokenizer, 16)
    examples = encoded.examples
    cls, sep, a, b, c, d = range(2, 8)
    first, second, *others = examples.tokens.input_ids.split(examples.tokens.lengths.tolist())
    assert first.tolist() == [cls, a, sep, b, c, d, sep]
    assert second.tolist() == [cls, a, sep, d, sep]
    assert [each[1].item() for each in others] == [c] * 3
    assert examples.owner.tolist() == [0, 0, 1, 1, 1]
    assert examples.targets.tolist() == [[0, 1, -100], [1, 0.5, 0]]
    assert encoded.kept.tolist() == [0, 1]
    assert examples.tokens.protected[:7].tolist() == [True] * 3 + [False] * 4


def test_a_long_pair_loses_the_end_of_its_document_alone(tokenizer):
    rows = rows_of(**{"a b c": {"d c b a": 1, "d": 0}})
    encoded = POINTWISE.encode(rows, tokenizer, 8)
    cls, sep, a, b, c, d = range(2, 8)
    assert encoded.truncated == 1
    assert encoded.examples.tokens.input_ids[:8].tolist() == [cls, a, b, c, sep, d, c, sep]
    assert POINTWISE.encode(rows, tokenizer, 7).examples.tokens.input_ids[:7].tolist() == [cls, a, b, c, sep, d, sep]


def test_a_query_that_leaves_no_room_for_a_document_is_refused_or_left_out(tokenizer):
    # Three special tokens, a token of the document, and a b c: 7.
    values = {"query": ["b", "a b c", "b"], "document": ["d", "d", "c"], "label": [1, 1, 0]}
    columns = POINTWISE.columns()

    def read(skip_bad=False):
        return POINTWISE.read({"train": Table("a.csv", values)}, replace(columns, skip_bad=skip_bad)).rows["train"]

    assert len(POINTWISE.encode(read(), tokenizer, 7).examples) == 2
    told = "row 1 of a.csv must have a query that leaves room for a document within 6 tokens, and has one of 3 tokens"
    with pytest.raises(InputError) as caught:
        POINTWISE.encode(read(), tokenizer, 6)
    assert str(caught.value) == (
        f"{told}: raise --max-length, shorten or remove the row, or pass --skip-bad-rows, which leaves such rows out"
    )
    encoded = POINTWISE.encode(read(skip_bad=True), tokenizer, 6)
    assert (encoded.kept.tolist(), encoded.skipped) == ([0], 1)
    assert encoded.notes == (f"1 bad rows left out (--skip-bad-rows); the first one: {told}",)
    assert encoded.examples.targets.tolist() == [[1, 0]]
    with pytest.raises(InputError, match=r"raise --max-length, .* in their right order$"):
        POINTWISE.encode(read(skip_bad=True), tokenizer, 4)


def test_the_pointwise_loss_is_the_mean_of_the_documents_cross_entropies():
    examples = examples_of([1.0, 0.0, 0.0], [1.0])
    found = POINTWISE.loss(outputs_of(1.0, -2.0, 0.0, 3.0), examples)
    first = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) + math.log(2)) / 3
    assert_close(found, torch.tensor([first, math.log1p(math.exp(-3))]))


def test_a_grade_between_is_lost_nothing_at_its_own_probability():
    examples = examples_of([0.25])
    assert_close(POINTWISE.loss(outputs_of(-math.log(3)), examples), torch.zeros(1), rtol=0, atol=1e-6)
    # At ½: ¼ log(¼ / ½) + ¾ log(¾ / ½).
    assert_close(POINTWISE.loss(outputs_of(0.0), examples), torch.tensor([math.log(1.5) - 0.25 * math.log(3)]))


def test_the_listwise_loss_is_the_divergence_from_the_shares_of_a_query():
    examples = examples_of([1.0, 0.5, 0.0], [1.0])
    scores = outputs_of(math.log(4), math.log(1), math.log(3), 5.0)  # shares ½, ⅛ and ⅜
    first = 2 / 3 * math.log(2 / 3 / 0.5) + 1 / 3 * math.log(1 / 3 / 0.125)
    assert_close(LISTWISE.loss(scores, examples), torch.tensor([first, 0.0]))


def test_a_list_without_a_relevant_document_has_no_loss_and_is_distilled():
    examples, scores = examples_of([0.0, 0.0]), outputs_of(2.0, -1.0).requires_grad_()
    loss = LISTWISE.loss(scores, examples)
    assert loss.tolist() == [0.0]
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient.abs().max() == 0
    soft = LISTWISE.distil(scores, outputs_of(0.0, 0.0), examples, 2.0)
    # 4 · −½ (log s + log(1 − s)), s the sigmoid of 3 / 2.
    share = 1 / (1 + math.exp(-1.5))
    assert_close(soft, torch.tensor([-2 * (math.log(share) + math.log(1 - share))]))


def test_large_scores_overflow_nowhere():
    examples = examples_of([1.0, 0.0])
    assert LISTWISE.loss(outputs_of(1e4, 0.0), examples).tolist() == [0.0]
    assert LISTWISE.loss(outputs_of(0.0, 1e4), examples).tolist() == [1e4]


def test_the_listwise_loss_does_not_depend_on_what_is_added_to_a_querys_scores():
    examples, scores = examples_of([1.0, 0.0], [0.0, 1.0]), outputs_of(1.0, 2.0, 3.0, 1.0)
    assert_close(LISTWISE.loss(scores + outputs_of(5, 5, -3, -3), examples), LISTWISE.loss(scores, examples))


def test_priors_are_the_losses_of_one_probability_and_of_equal_shares():
    examples = examples_of([1.0, 0.0, 0.0, 0.0], [1.0, 0.0])
    share = (1 / 4 + 1 / 2) / 2  # each query counts once
    assert POINTWISE.prior(examples) == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))
    assert POINTWISE.start(examples) == pytest.approx(math.log(share / (1 - share)))
    assert LISTWISE.prior(examples) == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert LISTWISE.start(examples) == 0


def test_a_deployed_model_has_a_loss_against_a_label_for_each_pair():
    tokens, scores = Tokens.from_lists([[7]] * 3, None), outputs_of(1.0, -2.0, 0.0)
    for labels in (torch.tensor([1, 0, 0]), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[1.0], [0.0], [0.0]])):
        own = Examples.of_documents(tokens, labels)
        whole = POINTWISE.loss(scores, examples_of([1.0, 0.0, 0.0]))
        assert_close(POINTWISE.loss(scores, own).mean(), whole.mean())
    # The batch is one query.
    own = Examples.of_documents(tokens, torch.tensor([1, 0, 0]))
    assert_close(LISTWISE.loss(scores, own).mean(), LISTWISE.loss(scores, examples_of([1.0, 0.0, 0.0])).mean())


@BOTH
def test_quality_is_the_mean_average_precision_and_further_figures_are_given(task):
    examples = examples_of([0.0, 1.0, 0.5], [1.0, 0.0])
    decoded = task.decode(outputs_of(3.0, 2.0, 1.0, 1.0, 0.0), examples)
    assert decoded == [[3.0, 2.0, 1.0], [1.0, 0.0]]
    first = (1 / 2 + 2 / 3) / 2
    assert task.correct(decoded, examples) == pytest.approx([first, 1.0])
    assert task.quality(decoded, examples) == pytest.approx((first + 1) / 2)
    gained, best = 1 / math.log2(3) + 0.5 / 2, 1 + 0.5 / math.log2(3)
    figures = task.figures(decoded, examples)
    assert figures == pytest.approx({"MRR": 0.75, "nDCG@10": (gained / best + 1) / 2})
    assert task.commonest(examples, examples) == [[0.0] * 3, [0.0] * 2]


@BOTH
def test_targets_must_be_one_from_0_to_1_for_each_document(task):
    examples = examples_of([0.0, 1.0], [0.5])
    task.check_targets(examples, 1)
    with pytest.raises(InputError, match="must have one output, and has 2"):
        task.check_targets(examples, 2)
    lacking = Examples(examples.tokens, torch.tensor([[0.0, -100.0], [0.5, -100.0]]), examples.owner)
    with pytest.raises(InputError, match="a number from 0 to 1 for each document"):
        task.check_targets(lacking, 1)


@BOTH
def test_a_fine_tuned_model_must_give_a_pair_one_score(task):
    config = transformers.BertConfig(num_labels=1)
    task.check_config(config)
    with pytest.raises(InputError, match=r"has 2 outputs: pass a cross-encoder with one output, or --new-head"):
        task.check_config(transformers.BertConfig(num_labels=2))
    with pytest.raises(InputError, match=r"was trained to give it a number .*--new-head"):
        task.check_config(transformers.BertConfig(num_labels=1, problem_type="regression"))


def test_queries_with_as_many_documents_each_are_told_by_one_number():
    rows = {"train": rows_of(a={"b": 1, "c": 0}, d={"e": 0, "f": 1})}
    told = "train: 2 queries with 4 documents, 2 each; 50% of the documents are relevant"
    assert POINTWISE.counts(rows, ())[0] == told


def test_what_is_said_of_the_data():
    rows = {"train": ROWS, "test": rows_of(a={"b": 1, "c": 1}, d={"e": 0, "f": 1, "g": 0})}
    assert POINTWISE.counts(rows, ()) == [
        "train: 2 queries with 5 documents, 2 to 3 each; 60% of the documents are relevant",
        "test: 2 queries with 5 documents, 2 to 3 each; 60% of the documents are relevant",
        "test: 1 queries have relevant documents alone, so that every order is right",
        "train: one of the pairs is the query 'a' and the document 'b c d'",
    ]
