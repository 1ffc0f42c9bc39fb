"""Baselines: what they answer, from which rows, and where the teacher stands beside them."""

import random

import numpy as np
import pytest
import torch

from tests.trbert.tasks.toys import MarkWords
from trbert.data.splits import load_splits
from trbert.packed.tokens import Tokens
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS
from trbert.tasks.classification import Classification
from trbert.tasks.examples import Examples
from tune.learning import baselines as module
from tune.learning.baselines import Answers, baselines, linear_answers, standing_of
from tune.learning.standing import COMMONEST, LINEAR


def examples(targets, ids=None):
    """Examples of one document each, with these ids, or else all of the same token."""
    labels = torch.tensor(targets)
    return Examples.of_documents(Tokens.from_lists(ids or [[1]] * len(labels), None), labels)


def marked(count, seed=0):
    """So many documents: the first token of all, eight fillers, and a mark of their class; the classes take turns."""
    draw, targets = random.Random(seed), [number % 2 for number in range(count)]
    ids = []
    for target in targets:
        own = [draw.randrange(20, 40) for _ in range(8)]
        own.insert(draw.randrange(9), 10 + target)
        ids.append([2, *own])
    return examples(targets, ids)


def splits(train, validation=None, test=None):
    return {"train": train, "validation": validation or train, "test": test or train}


def test_the_linear_model_finds_what_marks_a_class():
    found = linear_answers(splits(marked(200), marked(20, 1), marked(30, 2)), 0)
    assert (found.name, found.rows) == (LINEAR, 200)
    assert found.validation == [0, 1] * 10
    assert found.test == [0, 1] * 15


@pytest.mark.parametrize(
    ("ids", "targets"),
    [
        ([[2, 11], [2, 12]], [0, 1]),  # a token that all have, and tokens that no two have
        ([[2, 11, 11], [2, 12, 12]], [0, 1]),  # twice in one document is not in two
        ([[2], [2], [2], [2]], [0, 1, 0, 1]),
        ([[2, 10], [2, 11]] * 4, [1] * 8),  # one class
    ],
)
def test_without_shared_tokens_or_with_one_class_there_is_no_linear_model(ids, targets):
    assert linear_answers(splits(examples(targets, ids)), 0) is None


def test_the_linear_model_learns_from_rows_that_the_budget_left_out():
    parts = splits(marked(200).take(torch.arange(40)), marked(20, 1), marked(30, 2))
    commonest, linear = baselines(Classification(), parts, marked(200), 0)
    assert (commonest.rows, linear.rows) == (40, 200)


def test_tokens_that_train_does_not_have_are_not_read():
    odd = examples([0, 1], [[2, 10, 5, 30_000], [2, 11, 500]])
    assert linear_answers(splits(marked(200), odd, odd), 0).test == [0, 1]


def test_rows_that_are_drawn_from_one_class_alone_have_no_linear_model(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 20)
    ids = [own.tolist() for own in marked(200).tokens.input_ids.split(10)]
    (left_out, *_) = set(range(200)) - set(module._drawn(marked(200), 2, 0).tolist())
    own = examples([int(row == left_out) for row in range(200)], ids)
    assert linear_answers(splits(own), 0) is None


@pytest.mark.parametrize(
    ("cap", "value", "left"),
    [("ROWS", 50, 50), ("ROWS_TIMES_CLASSES", 60, 30), ("TOKENS", 400, 40), ("ROWS", 1000, 200)],
)
def test_the_linear_model_learns_from_as_many_rows_as_its_caps_allow(monkeypatch, cap, value, left):
    monkeypatch.setattr(module, cap, value)
    assert linear_answers(splits(marked(200)), 0).rows == left  # of 10 tokens each


def test_half_the_seconds_are_for_half_of_the_rows_that_the_caps_allow(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 100)
    assert linear_answers(splits(marked(200)), 0, seconds=module.SECONDS / 2).rows == 50


def test_the_commonest_kinds_of_token_are_read_where_there_are_too_many():
    tokens = examples([0] * 4, [[2, 7, 7, 9], [2, 5, 7], [2, 5, 7, 9], [2, 9]]).tokens
    assert module._kinds(tokens, 10).tolist() == [5, 7, 9]  # all four have 2
    assert module._kinds(tokens, 2).tolist() == [7, 9]
    assert module._counts(tokens, np.array([7, 9])).toarray().tolist() == [[2, 1], [1, 0], [1, 1], [0, 1]]


def test_the_seed_draws_the_rows_and_nothing_else_does(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 40)
    own = marked(200)
    first, again, other = (module._drawn(own, 2, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert first == sorted(set(first))


def test_a_task_without_text_classes_has_the_commonest_answer_alone():
    pairs = Examples(
        Tokens.from_lists([[1]] * 8, None), torch.tensor([1, 1, 0, 1]), torch.arange(4).repeat_interleave(2)
    )
    (found,) = baselines(TASKS["multiple_choice"], splits(pairs), pairs, 0)
    assert found == Answers(name=COMMONEST, validation=[1] * 4, test=[1] * 4, rows=4)


def test_the_commonest_answer_of_a_task_is_one_that_it_can_judge():
    marks = torch.tensor([[-100, 0, 1, 1, -100], [-100, 1, -100, -100, -100]])
    own = Examples.of_documents(Tokens.from_lists([[2, 5, 6, 7, 3], [2, 8, 3]], None), marks, "tokens")
    (found,) = baselines(MarkWords(), splits(own), own, 0)
    assert MarkWords().correct(found.test, own) == [pytest.approx(2 / 3), 1.0]


def test_a_teachers_standing_by_hand():
    # Train says class 1. Of four validation rows two are of class 1, of four test rows one.
    parts = {"train": examples([1, 1, 0]), "validation": examples([1, 1, 0, 0]), "test": examples([0, 1, 0, 0])}
    (commonest,) = baselines(Classification(), parts, parts["train"], 0)
    outputs = {name: torch.eye(2)[part.targets] for name, part in parts.items()}
    outputs["test"] = torch.eye(2)[torch.tensor([0, 0, 0, 0])]  # wrong on one
    found = standing_of(Classification(), [commonest], parts, outputs, known=0.5, trained=True)
    assert (found.validation, found.test, found.known, found.trained) == (1.0, 0.75, 0.5, True)
    assert (found.train_rows, found.test_rows) == (3, 4)
    (own,) = found.baselines
    assert (own.name, own.validation, own.test, own.rows) == (COMMONEST, 0.5, 0.25, 3)
    # Differences: 0, 0, 1, 1 on validation; 1, -1, 1, 1 on test. Their mean is 4/8. A mean over resamples of 4 rows has
    # a quarter of the rows' variance, which is 1/4 and 3/4; the two splits have half of the rows each.
    assert own.ahead == pytest.approx(0.5)
    assert own.error == pytest.approx((1 / 4 * (1 / 4 + 3 / 4) / 4) ** 0.5, rel=0.1)
    # Three of four are right. None is right in 1/256 of the resamples, one in 12/256, and all in 81/256.
    assert found.interval == pytest.approx(0.75)


def test_a_teachers_lead_is_that_of_the_metric_and_not_of_a_score_of_rows():
    # Nine rows have no label, and the commonest answer is right there. It finds none of the labels of the tenth.
    targets = torch.tensor([[0, 0]] * 9 + [[1, 1]])
    part = Examples.of_documents(Tokens.from_lists([[2]] * 10, None), targets)
    parts, task = {"train": part, "validation": part, "test": part}, TASKS["multi_label"]
    (commonest,) = baselines(task, parts, part, 0)
    outputs = torch.tensor([[1.0, -1.0]] * 2 + [[-1.0, -1.0]] * 7 + [[1.0, 1.0]])  # two labels too many
    found = standing_of(task, [commonest], parts, dict.fromkeys(parts, outputs), known=0.5, trained=True)
    assert sum(task.correct(commonest.test, part)) > sum(task.correct(task.decode(outputs, part), part))
    assert (found.test, found.baselines[0].test) == (pytest.approx(2 * 2 / (4 + 2)), 0.0)
    assert found.baselines[0].ahead == pytest.approx(2 / 3)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("name", "least"), [("20news", 0.79), ("imdb", 0.85)])
def test_real_texts_have_a_linear_model_that_is_good(shared_data, name, least):
    own = load_splits(str(shared_data / name), validation_rows=500, test_rows=2000)
    task, tokenizer = own.task, load_pretrained("minilm", own.task, own.labels).tokenizer
    found = {split: task.encode(rows, tokenizer, 256).examples for split, rows in own.rows.items()}
    assert task.quality(linear_answers(found, 0).test, found["test"]) > least
