"""Multiple choice: its documents, its numbers by hand, which answers it reads, what it refuses, and its model."""

import doctest
import json
import math
import re

import numpy as np
import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.bench.speed import bench
from trbert.data.splits import load_splits
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.modeling import TrbertForMultipleChoice, assemble, load
from trbert.packed.tokens import Tokens
from trbert.pretrained import load_pretrained
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import FirstSelector
from trbert.tasks import TASKS, multiple_choice
from trbert.tasks.examples import Examples
from trbert.tasks.rows import Columns, Table

TASK = TASKS["multiple_choice"]
COLUMNS = TASK.columns()
SKIPPING = Columns(COLUMNS.inputs, COLUMNS.target, skip_bad=True)
OPTIONS = [["d", "a b"], ["c", "d"], ["b", "a"]]


def table(origin="a.jsonl", **changes):
    """Returns a table of three questions, with other values in some of its columns."""
    values = {
        "article": ["a b", "c c c", "d"],
        "question": ["c _", "a", "_ b"],
        "options": OPTIONS,
        "answer": ["A", "B", "A"],
    }
    return Table(origin, values | changes)


def rows_of(columns=COLUMNS, **changes):
    return TASK.read({"train": table(**changes)}, columns).rows["train"]


def refused(message, columns=COLUMNS, **changes):
    with pytest.raises(InputError, match=re.escape(message)):
        rows_of(columns, **changes)


def per_document(tokens):
    return [ids.tolist() for ids in tokens.input_ids.split(tokens.lengths.tolist())]


def marks(tokens):
    return [own.int().tolist() for own in tokens.protected.split(tokens.lengths.tolist())]


# Documents.


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(multiple_choice).attempted
    assert doctest.testmod(multiple_choice).failed == 0


def test_a_document_is_the_article_and_the_question_with_an_option(tokenizer):
    # [CLS] is 2, [SEP] is 3, and a to d are 4 to 7. The question and the option are never dropped.
    encoded = TASK.encode(rows_of(), tokenizer, 16)
    tokens = encoded.examples.tokens
    assert per_document(tokens) == [
        [2, 4, 5, 3, 6, 7, 3],
        [2, 4, 5, 3, 6, 4, 5, 3],
        [2, 6, 6, 6, 3, 4, 6, 3],
        [2, 6, 6, 6, 3, 4, 7, 3],
        [2, 7, 3, 5, 5, 3],
        [2, 7, 3, 4, 5, 3],
    ]
    assert marks(tokens)[0] == [1, 0, 0, 0, 1, 1, 1]
    assert tokens.token_type_ids[:7].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert encoded.examples.owner.tolist() == [0, 0, 1, 1, 2, 2]
    assert encoded.examples.targets.tolist() == [0, 1, 0]
    assert (encoded.truncated, encoded.kept.tolist(), encoded.notes) == (0, [0, 1, 2], ())


@pytest.mark.parametrize(
    ("question", "second"),
    [
        ("He is _ years old.", "He is NEW years old."),
        ("He is ____.", "He is NEW."),
        ("From _ to_ .", "From NEW toNEW ."),
        ("What is my_name?", "What is my_name? NEW"),
        ("What is a__b?", "What is a__b? NEW"),
        ("Why?", "Why? NEW"),
    ],
)
def test_an_option_takes_the_place_of_each_blank_or_follows_the_question(question, second):
    assert TASK.texts((("text",), (question,), (["NEW", r"\1"],)), None)[1][0] == second


def test_without_an_article_the_question_and_the_option_are_the_pair(tokenizer):
    columns = TASK.columns("question,options")
    rows = TASK.read({"train": table()}, columns).rows["train"]
    assert len(rows.inputs) == 2
    tokens = TASK.encode(rows, tokenizer, 16).examples.tokens
    assert per_document(tokens)[2:4] == [[2, 4, 3, 6, 3], [2, 4, 3, 7, 3]]


def test_a_separator_in_an_article_begins_no_question(tokenizer):
    rows = rows_of(article=["a [SEP] b", "c", "d"])
    assert marks(TASK.encode(rows, tokenizer, 16).examples.tokens)[0] == [1, 0, 0, 0, 0, 1, 1, 1]
    # Seven tokens leave room for a alone where the second text is c a b, so that no separator of the article is left.
    tokens = TASK.encode(rows, tokenizer, 7).examples.tokens
    assert per_document(tokens)[1] == [2, 4, 3, 6, 4, 5, 3]
    assert marks(tokens)[:2] == [[1, 0, 0, 0, 1, 1, 1], [1, 0, 0, 1, 1, 1, 1]]


def test_the_article_alone_is_truncated(tokenizer):
    rows = rows_of(article=["a b c d", "c", "d"], question=["c c c _", "a", "b"])
    encoded = TASK.encode(rows, tokenizer, 9)
    assert per_document(encoded.examples.tokens)[:2] == [[2, 4, 5, 3, 6, 6, 6, 7, 3], [2, 4, 3, 6, 6, 6, 4, 5, 3]]
    assert encoded.truncated == 2


def test_a_question_that_leaves_no_room_for_its_article_is_refused_or_left_out(tokenizer):
    # Three special tokens, one token of the article, and c c c a b: 9.
    question = ["c", "c c c _", "b"]
    changes = {"question": question, "options": [["a", "b"], ["a", "a b"], ["b", "a"]]}
    assert len(TASK.encode(rows_of(**changes), tokenizer, 9).examples) == 3
    told = (
        "row 1 of a.jsonl must have a question that, with each option, leaves room for its text within 8 tokens, and "
        "has one of 5 tokens"
    )
    remedy = ": raise --max-length, shorten or remove the row, or pass --skip-bad-rows, which leaves such rows out"
    with pytest.raises(InputError, match=f"^{re.escape(told + remedy)}$"):
        TASK.encode(rows_of(**changes), tokenizer, 8)
    encoded = TASK.encode(rows_of(SKIPPING, **changes), tokenizer, 8)
    assert (encoded.kept.tolist(), encoded.skipped) == ([0, 2], 1)
    assert encoded.notes == (f"1 bad rows left out (--skip-bad-rows); the first one: {told}",)
    assert encoded.examples.owner.tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="raise --max-length, shorten or remove the row, or name the columns"):
        TASK.encode(rows_of(SKIPPING, **changes), tokenizer, 4)


def test_questions_about_one_article_stay_on_one_side_of_a_hold_out(tmp_path):
    lines = [
        {"article": f"w{row // 4}", "question": f"q{row}", "options": ["a", "b"], "answer": "AB"[row % 2]}
        for row in range(120)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    splits = load_splits(str(tmp_path / "a.jsonl"), task=TASK)
    parts = [set(part.inputs[0]) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert [len(splits.validation), len(splits.test)] == [24, 12]


def test_places_stay_with_their_rows():
    rows = rows_of().take(np.array([2, 0]))
    assert rows.places == ("row 2 of a.jsonl", "row 0 of a.jsonl")
    assert not rows.skip_bad


def test_a_row_with_an_option_without_a_token_is_left_out(tokenizer):
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.backend_tokenizer.normalizer = None
    inputs = (("", "a", " "), ("_", "b", "_"), (["a", " "], ["c", "d"], ["c", "d"]))
    rows = rows_of()
    rows = type(rows)(inputs, rows.targets, rows.strata)
    encoded = TASK.encode(rows, tokenizer, 8)
    assert encoded.kept.tolist() == [1, 2]
    assert encoded.examples.owner.tolist() == [0, 0, 1, 1]
    assert encoded.examples.targets.tolist() == [1, 0]


# Numbers.


def of_options(*targets, options=2):
    """Returns examples with so many options of one token each."""
    count = options * len(targets)
    owner = torch.arange(len(targets)).repeat_interleave(options)
    return Examples(Tokens.from_lists([[5]] * count, None), torch.tensor(targets), owner)


def test_the_loss_is_the_negative_log_of_a_softmax_over_options_by_hand():
    # softmax(log 1, log 3) = (1/4, 3/4), also where both are 500 more, whose exponential is no number.
    outputs = torch.tensor([0.0, math.log(3), 500.0, 500 + math.log(3)])[:, None]
    assert_close(TASK.loss(outputs, of_options(0, 1)), torch.tensor([math.log(4), math.log(4 / 3)]))
    assert TASK.decode(outputs, of_options(0, 1)) == [1, 1]
    assert TASK.correct([1, 1], of_options(0, 1)) == [0.0, 1.0]


def test_distillation_is_cross_entropy_at_a_temperature_by_hand():
    # At T = 2 the teacher's 2·log 3 is log 3: (1/4, 3/4). The student is even: 2² · log 2.
    teacher = torch.tensor([[0.0], [2 * math.log(3)]])
    assert TASK.distil(torch.zeros(2, 1), teacher, of_options(0), 2.0).item() == pytest.approx(4 * math.log(2))


def test_the_prior_is_the_log_of_the_number_of_options_however_often_each_is_right():
    # The head reads options one by one, so that it cannot know that the first one is always right.
    assert TASK.prior(of_options(0, 0, 0, options=4)) == pytest.approx(math.log(4))
    three = Examples(Tokens.from_lists([[5]] * 5, None), torch.tensor([0, 2]), torch.tensor([0, 0, 1, 1, 1]))
    assert TASK.prior(three) == pytest.approx((math.log(2) + math.log(3)) / 2)


def test_a_target_that_is_no_option_is_refused():
    told = "and that of example 1 is 2 of 2: count the options from 0"
    with pytest.raises(InputError, match=re.escape(told)):
        TASK.check_targets(of_options(0, 2), 1)


# Tables.


@pytest.mark.parametrize(
    "answers",
    [
        ["A", "B", "A"],
        [" a", "b", "a"],
        [0, 1, 0],
        ["0", "1", "0"],
        [0.0, 1.0, 0.0],
        ["d", "d", "b"],
    ],
)
def test_an_answer_is_a_letter_an_index_or_the_text_of_an_option(answers):
    assert rows_of(answer=answers).targets.tolist() == [0, 1, 0]


def test_how_answers_are_written_is_decided_for_all_rows():
    # "1" and "B" are options, too, and stand for themselves where other rows have other texts.
    options = [["1", "0"], ["7", "8"], ["B", "A"]]
    assert rows_of(options=options, answer=["1", "8", "B"]).targets.tolist() == [0, 1, 0]
    assert rows_of(options=options, answer=["1", "0", "1"]).targets.tolist() == [1, 0, 1]


def test_answers_that_are_all_texts_of_options_are_read_as_texts_with_a_note():
    own = table(options=[["3", "1", "2"]] * 3, answer=["3", "1", "2"])
    reading = TASK.read({"train": own}, COLUMNS)
    assert reading.rows["train"].targets.tolist() == [0, 1, 2]
    assert reading.notes[0] == (
        "a.jsonl: each answer in column 'answer' is read as the text of an option, although an index from 1 on fits as "
        "many rows: if it is meant otherwise, write the answers as letters from A on"
    )


def test_indices_that_may_count_from_0_or_from_1_are_read_from_0_with_a_note():
    own = table(options=[["a", "b", "c", "d"]] * 3, answer=["1", "2", "3"])
    reading = TASK.read({"train": own}, COLUMNS)
    assert reading.rows["train"].targets.tolist() == [1, 2, 3]
    assert "is read as an index from 0 on, although an index from 1 on fits as many rows" in reading.notes[0]
    assert TASK.read({"train": table(options=[["A", "B"]] * 3)}, COLUMNS).notes == ()  # as a letter and as a text alike


@pytest.mark.parametrize("write", [int, str, float])
def test_indices_may_count_from_1(write):
    assert rows_of(answer=[write(1), write(2), write(1)]).targets.tolist() == [0, 1, 0]
    refused(
        "row 2 of a.jsonl must have one of its 2 options in column 'answer', as an index from 1 on as in most rows",
        answer=[1, 2, 0, 2],
        article=["a"] * 4,
        question=["c"] * 4,
        options=[["d", "b"]] * 4,
    )


@pytest.mark.parametrize("secret", [None, "", -1])
def test_a_split_without_answers_is_not_used(secret):
    reading = TASK.read({"train": table(), "test": table("b.jsonl", answer=[secret] * 3)}, COLUMNS)
    assert [*reading.rows] == ["train"]
    assert reading.notes[0].startswith("test is not used: its 3 labels are all ")


def test_blank_texts_are_left_out_and_counted_and_so_are_rows_of_train():
    tables = {
        "train": table(article=["a b", " ", "d"]),
        "test": table("b.jsonl", in_train=[True, False, False]),
    }
    reading = TASK.read(tables, COLUMNS)
    assert reading.labels == ()
    assert reading.rows["train"].places == ("row 0 of a.jsonl", "row 2 of a.jsonl")
    assert reading.rows["test"].targets.tolist() == [1, 0]
    assert reading.notes == (
        "train: 1 empty texts left out",
        "test: 1 rows left out that are in train, too (in_train)",
    )


def test_options_of_different_number_are_refused():
    refused(
        "row 1 of a.jsonl must have as many options as most rows of train, 2, and has 3: correct or remove the row; or "
        "pass --skip-bad-rows, which leaves such rows out",
        options=[["d", "a b"], ["c", "d", "a"], ["b", "a"]],
    )


def test_options_of_another_number_than_those_of_train_are_refused():
    other = table("b.jsonl", options=[["a", "b", "c"]] * 3)
    with pytest.raises(InputError, match=r"row 0 of b\.jsonl must have as many options as most rows of train, 2"):
        TASK.read({"train": table(), "test": other}, COLUMNS)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("d", "row 0 of a.jsonl must have a list of options in column 'options', and has the str 'd': write a list in"),
        (["d"], "row 0 of a.jsonl must have from 2 to 26 options in column 'options', and has 1"),
        (["d", " "], "option 1 of row 0 of a.jsonl must be a text, and is the str ' ': correct or remove the row"),
        (["d", 3], "option 1 of row 0 of a.jsonl must be a text, and is the int 3"),
        (None, "row 0 of a.jsonl must have a list of options in column 'options', and has the NoneType None"),
    ],
)
def test_options_that_are_no_texts_are_refused_or_left_out(options, told):
    refused(told, options=[options, *OPTIONS[1:]])
    reading = TASK.read({"train": table(options=[options, *OPTIONS[1:]])}, SKIPPING)
    assert reading.rows["train"].places == ("row 1 of a.jsonl", "row 2 of a.jsonl")
    assert reading.rows["train"].skip_bad
    assert reading.notes[0].startswith(f"train: 1 bad rows left out (--skip-bad-rows); the first one: {told}")


@pytest.mark.parametrize(
    ("answers", "shown", "kind"),
    [
        (["A", "C", "A"], "the str 'C'", "a letter from A on"),
        (["A", None, "A"], "the NoneType None", "a letter from A on"),
        ([0, 2, 1], "the int 2", "an index from 0 on"),
        ([0, True, 1], "the bool True", "an index from 0 on"),
        ([0, 0.5, 1], "the float 0.5", "an index from 0 on"),
        (["d", "x", "b"], "the str 'x'", "the text of an option"),
    ],
)
def test_an_answer_that_is_no_option_is_refused(answers, shown, kind):
    refused(
        f"row 1 of a.jsonl must have one of its 2 options in column 'answer', as {kind} as in most rows of train, and "
        f"has {shown}: correct or remove the row, or set --label-column to the column of the answers",
        answer=answers,
    )


def test_answers_of_which_none_is_an_option_are_told_together():
    refused(
        "column 'answer' of a.jsonl must say which option is right, and no row does: the first answer is the str "
        "'right', and its options are 'd', 'b': write each answer as a letter from A on or an index from 0 on or "
        "an index from 1 on or the text of an option; or set --label-column to the column of the answers",
        options=[["d", "b"], ["c", "x"], ["b", "a"]],
        answer=["right", "wrong", "right"],
    )


def test_a_text_that_two_options_have_is_no_answer():
    refused("row 1 of a.jsonl must have one of", options=[["d", "b"], ["c", "c"], ["b", "a"]], answer=["d", "c", "b"])


def test_a_map_of_labels_is_refused():
    with pytest.raises(InputError, match="--label-map must be left out for multiple_choice"):
        TASK.read({"train": table()}, COLUMNS, {"A": "B"})


@pytest.mark.parametrize("columns", ["text", "a,b,c,d"])
def test_another_number_of_columns_is_refused(columns):
    told = f"and is '{columns}': write article,question,options, or question,options where there is no article"
    with pytest.raises(InputError, match=re.escape(told)):
        TASK.columns(columns)


def test_what_is_said_of_the_data():
    assert TASK.counts({"train": rows_of()}, ()) == [
        "train: 3 questions of 2 options; the right one is A 2, B 1",
        "train: one of the questions is 'c _', with the answer 'd'",
    ]


# In use.


@pytest.fixture
def model(config_of):
    """A reduced model that keeps the first half of each document before layer 1, beside the question and the option."""
    torch.manual_seed(0)
    plain = transformers.AutoModelForMultipleChoice.from_config(config_of("bert")).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reducer = Reducer(encoder=Encoder(plain), task=TASK, points=(1,), separator=3)
    return assemble(reducer, FirstSelector(Policy(32, 0)), 0.5, 40)


@pytest.fixture
def batch(tokenizer):
    """Three questions of two options, as [3, 2, width]."""
    texts = TASK.texts(rows_of().inputs, tokenizer)
    found = tokenizer(*map(list, texts), padding=True, return_tensors="pt")
    return {name: value.view(3, 2, -1) for name, value in found.items()}


@torch.no_grad()
def test_the_model_takes_and_returns_what_the_plain_model_does(model, batch):
    labels = torch.tensor([1, 0, 1])
    model.config.dial = 1.0
    expected = model.plain(**batch, labels=labels)
    found = model(**batch, labels=labels)
    assert type(found) is type(expected)
    assert found.logits.shape == (3, 2)
    assert_close(found.logits, expected.logits)
    assert_close(found.loss, expected.loss)
    assert_close(model(**batch, labels=labels, return_dict=False), (expected.loss, expected.logits))


@torch.no_grad()
def test_a_reduced_model_drops_tokens_of_articles_alone(model, batch):
    ids, types, mask = (value.flatten(0, 1) for value in batch.values())
    reducer, model.config.dial = model.reducer, 0.1
    finished = reducer.run(model.selector, reducer.protect(Tokens.from_padded(ids, mask, types)), 0.1)
    # [CLS] and what follows the first [SEP]: c d [SEP], c a b [SEP], a c [SEP], and so on.
    assert finished.kept.tolist() == [[4, 5, 4, 4, 4, 4]]
    assert_close(model(**batch).logits, reducer.outputs(finished).view(3, 2))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_ids": torch.ones(2, 5, dtype=torch.long)}, r"input_ids must have three dimensions, .* \(2, 5\)"),
        ({"labels": torch.tensor([[1]])}, "labels must be a tensor with one choice for each of the 3 examples"),
        ({"labels": [1, 0]}, "labels must be a tensor with one choice for each of the 3 examples"),
        ({"attention_mask": torch.ones(4, 3)}, "attention_mask must have the shape"),
        ({"inputs_embeds": torch.ones(1)}, "was passed inputs_embeds"),
    ],
)
def test_other_inputs_are_refused(model, batch, changes, told):
    with pytest.raises(InputError, match=told):
        model(**batch | changes)


@torch.no_grad()
def test_the_auto_class_loads_it(model, batch, tmp_path):
    model.save_pretrained(tmp_path / "model")
    found = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path / "model")
    assert type(found) is type(load(tmp_path / "model")) is TrbertForMultipleChoice
    assert found.config.separator == 3
    assert torch.equal(found(**batch).logits, model(**batch).logits)


def test_a_fine_tuned_model_of_transformers_is_a_teacher_as_it_is(config_of, tokenizer, tmp_path):
    # Its config says two labels, as every config does, and its head has one output.
    config = config_of("bert")
    config.num_labels = 2
    plain = transformers.BertForMultipleChoice(config)
    plain.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    found = load_pretrained(str(tmp_path / "plain"), TASK, ())
    assert found.fine_tuned
    assert torch.equal(found.model.classifier.weight, plain.classifier.weight)
    TASK.check_targets(of_options(0, 1), found.model.config.num_labels)


def test_a_bench_times_as_many_options_as_it_was_given_rows(model, tokenizer):
    inputs = TASK.inputs(table(), TASK.columns(None, ""))
    report = bench(
        model, tokenizer, inputs, dials=[0.5], batches=[2], dtypes=["float32"], rounds=1, say=lambda line: None
    )
    assert report.documents == 3
    assert report.lengths == (7, 8, 8)
