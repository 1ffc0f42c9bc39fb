"""Question answering: its numbers by hand, the best span over windows, and what is said of rows that are left out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.bench.speed import Documents
from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.rows import Table
from trbert.tasks.spans.passages import NOT_ALLOWED
from trbert.tasks.spans.scores import LONGEST, best_spans

TASK = TASKS["question_answering"]
WINDOWED = "a b c d a"
"""Where a document has room for four tokens, its windows are a b c d and c d a: tokens 3 to 6 and 11 to 13 of 15."""


def rows_of(*rows, skip_bad=False):
    """Returns rows of (question, context, answers)."""
    values = dict(zip(("question", "context", "answers"), map(list, zip(*rows, strict=True)), strict=True))
    return TASK.read({"train": Table("a.jsonl", values)}, replace(TASK.columns(), skip_bad=skip_bad)).rows["train"]


@pytest.fixture
def encode(tokenizer):
    """A function: rows of (question, context, answers) -> examples, by documents of so many tokens."""

    def encode(*rows, max_length=8):
        return TASK.encode(rows_of(*rows), tokenizer, max_length).examples

    return encode


@pytest.fixture
def examples(encode):
    """A question of two windows, whose answer c d stands in both; one of a window; and one without an answer."""
    return encode(("a", WINDOWED, "c d"), ("b", "d c", "d"), ("b", "d c", []))


def saying(examples, **logits):
    """Returns outputs that are 0 but at these tokens, given as `s3` for the start logit of token 3."""
    outputs = torch.zeros(examples.num_outputs, 2)
    for place, value in logits.items():
        outputs[int(place[1:]), "se".index(place[0])] = value
    return outputs


def test_one_softmax_goes_over_all_windows_and_the_answer_counts_wherever_it_stands(examples):
    # 7 tokens of context in two windows and no answer: 8 places. The start c is at tokens 5 and 11, the end d at 6, 12.
    outputs = saying(examples, s5=math.log(3), s3=math.log(2))
    start = (3 + 1) / (6 + 3 + 2)
    assert TASK.loss(outputs, examples)[0].item() == pytest.approx(-(math.log(start) + math.log(2 / 8)) / 2)


def test_question_and_separators_are_no_places(examples):
    # Tokens 1, 2 and 7 are a, [SEP] and [SEP]. Token 8 is the [CLS] of the second window, surer than the first one.
    outputs = saying(examples, s1=50.0, e2=50.0, s7=50.0, e8=50.0)
    assert TASK.loss(outputs, examples)[0].item() == pytest.approx(math.log(8 / 2))


def test_no_answer_has_the_logits_of_the_window_that_is_least_sure_of_it(encode):
    examples = encode(("a", WINDOWED, []), ("b", "d c", "d"))
    # The first tokens of the windows are tokens 0 and 8. Their sums are 3 and 2, so the second one counts: e, e.
    outputs = saying(examples, s0=3.0, s8=1.0, e8=1.0)
    assert TASK.loss(outputs, examples)[0].item() == pytest.approx(-math.log(math.e / (7 + math.e)))
    outputs = saying(examples, s0=0.5, s8=1.0, e8=1.0)
    assert TASK.loss(outputs, examples)[0].item() == pytest.approx(
        -(math.log(math.exp(0.5) / (7 + math.exp(0.5))) + math.log(1 / 8)) / 2
    )


def test_large_logits_give_a_finite_loss_and_gradient(examples):
    outputs = saying(examples, s3=1e4, e5=-1e4, s6=-1e4).requires_grad_()
    loss = TASK.loss(outputs, examples)
    loss.sum().backward()
    assert loss[0].item() == pytest.approx(1e4 / 2 - math.log(2 / 7) / 2, rel=1e-3)
    assert outputs.grad.isfinite().all()


def test_distillation_at_the_teachers_outputs_is_the_entropy_of_its_distributions(examples):
    # The third question: d, c or none. Of the starts d has half, of the ends each a third.
    outputs = saying(examples, s25=math.log(2))
    entropy = (1.5 * math.log(2) + math.log(3)) / 2
    assert TASK.distil(outputs, outputs, examples, 1.0)[2].item() == pytest.approx(entropy)
    assert TASK.distil(2 * outputs, 2 * outputs, examples, 2.0)[2].item() == pytest.approx(4 * entropy)


def test_the_teachers_answers_are_targets_where_they_stand_by_hand(examples):
    # The best spans are tokens 12 to 13 and 18 to 19. For the third question, whose first token is 21, none is better.
    outputs = saying(examples, s12=3.0, e13=3.0, s18=1.0, e19=1.0, s21=2.0)
    judged = TASK.targets_of(outputs, examples)
    marks = [[place for place, mark in enumerate(own) if mark > 0] for own in judged.tolist()]
    assert marks == [[12, 13], [3, 4], [0]]
    assert [own[place] for own, places in zip(judged.tolist(), marks, strict=True) for place in places] == [
        1,
        2,
        1,
        2,
        3,
    ]
    assert torch.equal(judged == NOT_ALLOWED, examples.targets == NOT_ALLOWED)
    sure = TASK.loss(100 * outputs, replace(examples, targets=judged))
    assert_close(sure, torch.tensor([0.0, 0.0, math.log(3) / 2]), atol=1e-4, rtol=0)  # it says nothing of the third end


def test_the_prior_is_the_loss_of_a_uniform_choice(examples):
    # 2 of 8 places; 1 of 3; 1 of 3.
    assert TASK.prior(examples) == pytest.approx((math.log(8 / 2) + 2 * math.log(3)) / 3)


def test_the_answer_is_the_text_of_the_best_span_of_any_window(examples):
    outputs = saying(examples, s4=2.0, e5=2.0, s12=3.0, e13=3.0, s18=1.0, e19=1.0)
    assert TASK.decode(outputs, examples) == ["d a", "d c", "d"]


def test_no_answer_is_said_where_it_is_likelier_and_the_data_have_such_questions(encode, examples):
    outputs = saying(examples, s0=3.0, s8=3.0, s15=3.0, s18=4.0)
    assert TASK.decode(outputs, examples)[:2] == ["", "d"]
    answered = encode(("a", WINDOWED, "c d"), ("b", "d c", "d"))
    assert TASK.decode(outputs[:21], answered) == ["a", "d"]


def test_a_span_lies_in_one_window_and_does_not_end_before_it_starts(examples):
    # The start at the end of the first window, and the end at the start of the second one.
    outputs = saying(examples, s6=2.0, e11=2.0, e6=0.5)
    assert TASK.decode(outputs, examples)[0] == "d"
    outputs = saying(examples, s6=2.0, e3=2.5)
    assert TASK.decode(outputs, examples)[0] == "a"


def test_an_answer_has_at_most_so_many_tokens(encode):
    words = " ".join("abcd"[number % 4] for number in range(50))
    examples = encode(("a", words, "b"), max_length=64)
    outputs = saying(examples, s3=9.0, **{f"e{3 + LONGEST - 1}": 4.0, f"e{3 + LONGEST}": 5.0})
    assert len(TASK.decode(outputs, examples)[0].split()) == LONGEST


def test_the_best_spans_are_those_of_a_search_through_all(encode):
    draw = np.random.default_rng(0)
    rows = [("a", " ".join(draw.choice(list("abcd"), size)), []) for size in draw.integers(1, 40, 30)]
    examples = encode(("a", "b", "b"), *rows, max_length=16)
    outputs = torch.randn(examples.num_outputs, 2, generator=torch.Generator().manual_seed(0))
    found = best_spans(outputs, examples)
    offsets = examples.tokens.offsets.tolist()
    for number in range(len(examples)):
        spans, none = [], []
        for document in (examples.owner == number).nonzero().flatten().tolist():
            start, end = offsets[document], offsets[document + 1]
            none.append(float(outputs[start].sum()))
            places = range(start + 3, end - 1)
            spans += [
                (float(outputs[one, 0] + outputs[other, 1]), one, other)
                for one in places
                for other in places
                if one <= other < one + LONGEST
            ]
        assert (float(found.score[number]), int(found.first[number]), int(found.last[number])) == max(spans)
        assert float(found.none[number]) == min(none)


def test_the_quality_is_the_mean_f1_and_exact_matches_are_told_beside_it(examples):
    decoded = ["c d d", "d", "c"]  # 2 of 3 and 2 of 2 words; right; there is none
    assert TASK.correct(decoded, examples) == pytest.approx([4 / 5, 1, 0])
    assert TASK.quality(decoded, examples) == pytest.approx(3 / 5)
    assert TASK.figures(decoded, examples) == {
        "EM": pytest.approx(1 / 3),
        "F1 of answerable": pytest.approx(0.9),
        "F1 of unanswerable": 0.0,
    }


def test_data_in_which_each_question_has_an_answer_have_exact_matches_alone(encode):
    examples = encode(("a", WINDOWED, ["c d", "b"]), ("b", "d c", "d"))
    assert TASK.figures(["b", "c"], examples) == {"EM": 0.5}


def test_the_commonest_answer_is_none_or_the_first_sentence_whichever_is_better_on_train(encode):
    examples = encode(("a", "b c. d", "b"), ("a", "b", []), ("a", "c d", []))
    assert TASK.commonest(examples, examples) == [""] * 3
    answered = encode(("a", "b c. d", "b"), ("a", "b", "b"))
    assert TASK.commonest(answered, answered) == ["b c", "b"]


def test_the_question_is_protected_and_the_context_is_not(examples):
    assert examples.tokens.protected[:8].tolist() == [True] * 3 + [False] * 5


def test_a_question_that_holds_the_separator_is_protected_as_a_whole_in_each_window(encode):
    # [CLS] a [SEP] b [SEP] before four tokens of the context, and before the last two with one that overlaps.
    tokens = encode(("a [SEP] b", WINDOWED, "c d"), max_length=10).tokens
    assert tokens.lengths.tolist() == [10, 9]
    assert tokens.protected.int().tolist() == [1] * 5 + [0] * 5 + [1] * 5 + [0] * 4


def test_what_is_read_in_windows_and_what_is_left_out_is_said(tokenizer):
    rows = rows_of(("a", "d", "d"), ("a", WINDOWED, "c d"), ("a", "b   c", {"text": ["b "]}))
    encoded = TASK.encode(rows, tokenizer, 8)
    assert encoded.kept.tolist() == [0, 1, 2]
    assert (encoded.truncated, encoded.skipped) == (0, 0)
    assert encoded.notes == ("1 contexts are longer than a document, and read as several windows that overlap",)


def test_a_question_that_leaves_its_context_too_little_is_refused_or_left_out(tokenizer):
    # Three special tokens, and a quarter of 8 for the context: a question may have three tokens.
    rows = ("a b c", "d c", "d"), ("a b c d", "d c", "d"), ("a", "c", "c")
    told = (
        "row 1 of a.jsonl must have a question that leaves at least 2 of 8 tokens to its context, and has one of 4 "
        "tokens"
    )
    with pytest.raises(InputError) as caught:
        TASK.encode(rows_of(*rows), tokenizer, 8)
    assert str(caught.value) == (
        f"{told}: raise --max-length, shorten or remove the row, or pass --skip-bad-rows, which leaves such rows out"
    )
    encoded = TASK.encode(rows_of(*rows, skip_bad=True), tokenizer, 8)
    assert (encoded.kept.tolist(), encoded.skipped) == ([0, 2], 1)
    assert encoded.notes == (f"1 bad rows left out (--skip-bad-rows); the first one: {told}",)
    assert [passage.context for passage in encoded.examples.references] == ["d c", "c"]


def test_an_answer_without_a_token_is_left_out(tokenizer):
    rows = rows_of(("a", "b c", "b"), ("a", "b c", "c"))
    rows.targets[1] = [[1, 2]]  # the blank between them
    encoded = TASK.encode(rows, tokenizer, 8)
    assert encoded.kept.tolist() == [0]
    assert encoded.notes == ("1 rows left out, because the tokenizer gives no token for their answer or their context",)


def test_questions_that_are_all_too_long_are_refused(tokenizer):
    with pytest.raises(InputError) as caught:
        TASK.encode(rows_of(("a b c d", "d c", "d"), skip_bad=True), tokenizer, 8)
    assert str(caught.value) == (
        "row 0 of a.jsonl must have a question that leaves at least 2 of 8 tokens to its context, and has one of 4 "
        "tokens: raise --max-length, shorten or remove the row, or name the columns of --text-column in their right "
        "order"
    )


def test_a_head_with_another_number_of_outputs_is_refused(examples):
    with pytest.raises(InputError, match="the head must have two outputs for each token"):
        TASK.check_targets(examples, 3)


def test_the_targets_of_a_split_are_small(examples):
    assert examples.targets.dtype == torch.int8
    assert examples.targets[1, 6:].tolist() == [NOT_ALLOWED] * 9
    assert_close(examples.lengths, torch.tensor([15, 6, 6]))


def test_a_bench_reads_questions_with_their_contexts(tokenizer):
    columns = TASK.columns(None, "")
    inputs = TASK.inputs(Table("a.jsonl", {"question": ["a", "b"], "context": ["b c", " "]}), columns)
    assert inputs == (("a",), ("b c",))
    assert Documents(tokenizer, inputs, 8, torch.device("cpu")).lengths.tolist() == [6]


def test_a_checkpoint_whose_head_has_another_number_of_outputs_is_refused():
    TASK.check_config(transformers.BertConfig(num_labels=2))
    with pytest.raises(InputError) as caught:
        TASK.check_config(transformers.BertConfig(num_labels=3, name_or_path="my-model"))
    assert str(caught.value) == (
        "model 'my-model' must have two outputs for each token, that an answer starts there and that it ends there, "
        "and has 3: pass --new-head, or another model"
    )
