"""Baselines: what they answer, from which rows, and where the teacher stands beside them."""

import random

import numpy as np
import pytest
import torch

from tests.trbert.tasks.toys import MarkWords
from trbert.data.splits import Splits, load_splits
from trbert.packed.tokens import Tokens
from trbert.tasks import TASKS
from trbert.tasks.classification import Classification
from trbert.tasks.examples import Examples
from trbert.tasks.rows import Columns, Rows
from tune.learning import baselines as module
from tune.learning.baselines import Answers, baselines, linear_answers, standing_of
from tune.learning.standing import COMMONEST, LINEAR


def rows(texts, targets):
    """Rows of one text each, or of several where a text is a tuple."""
    columns = zip(*texts, strict=True) if isinstance(texts[0], tuple) else [texts]
    labels = np.array(targets, dtype=np.int64)
    return Rows(tuple(map(tuple, columns)), labels, labels)


def splits(train, validation, test):
    task, columns = TASKS["classification"], Columns.named("text", "label")
    return Splits(
        train=train, validation=validation, test=test, labels=("a", "b"), notes=(), task=task, columns=columns
    )


def marked(count, words, join=" ", seed=0):
    """So many texts of eight fillers, with a marker of the class among them; the classes take turns."""
    draw, targets = random.Random(seed), [number % 2 for number in range(count)]
    texts = []
    for target in targets:
        text = [draw.choice(words[2:]) for _ in range(8)]
        text.insert(draw.randrange(9), words[target])
        texts.append(join.join(text))
    return rows(texts, targets)


def examples(targets):
    labels = torch.tensor(targets)
    return Examples.of_documents(Tokens.from_lists([[1]] * len(labels), None), labels)


NO_ROWS = splits(*[rows(["unread"], [0])] * 3)
WORDS = ["good", "bad", *(f"word{number}" for number in range(20))]
CHINESE = ["好", "坏", *"电影剧情演员导演音乐画面故事人物时间地方"]


@pytest.mark.parametrize(("words", "join"), [(WORDS, " "), (CHINESE, "")], ids=["words", "no blanks"])
def test_the_linear_model_finds_what_marks_a_class(words, join):
    found = linear_answers(splits(*(marked(count, words, join, count) for count in (200, 20, 30))), 0)
    assert (found.name, found.rows) == (LINEAR, 200)
    assert found.validation == [0, 1] * 10
    assert found.test == [0, 1] * 15


def test_the_texts_of_a_pair_are_read_together():
    def pairs(count):
        own = marked(count, WORDS)
        # The marker stands in the second text of one half of the rows, and in the first of the other.
        both = [(text, "word1") if number % 4 < 2 else ("word1", text) for number, text in enumerate(own.inputs[0])]
        return rows(both, own.targets)

    assert linear_answers(splits(pairs(200), pairs(20), pairs(20)), 0).test == [0, 1] * 10


@pytest.mark.parametrize(
    ("texts", "targets"),
    [
        (["a", "b"], [0, 1]),  # nothing in common, of a character each
        (["!", "?"] * 2, [0, 1] * 2),  # no words, and characters in common
        (["77301", "4482", "9955", "1206"] * 5, [0, 1] * 10),
        ([" "] * 4, [0, 1] * 2),
    ],
)
def test_texts_without_words_stop_nothing(texts, targets):
    own = rows(texts, targets)
    found = linear_answers(splits(own, own, own), 0)
    assert found is None or set(found.test) <= {0, 1}


def test_rows_that_are_drawn_from_one_class_alone_have_no_linear_model(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 20)
    texts = marked(200, WORDS).inputs[0]
    (left_out, *_) = set(range(200)) - set(module._drawn(texts, 2, 0).tolist())
    own = rows(texts, [int(row == left_out) for row in range(200)])
    assert linear_answers(splits(own, own, own), 0) is None


def test_texts_that_share_one_phrase_alone_are_read_by_characters():
    # A word is what stands between blanks or punctuation: here the phrase, and one long word of each text's own.
    def phrased(count):
        own = marked(count, CHINESE, "", count)
        return rows([f"今天，{text}" for text in own.inputs[0]], own.targets)

    assert linear_answers(splits(phrased(200), phrased(20), phrased(30)), 0).test == [0, 1] * 15


@pytest.mark.parametrize(
    ("cap", "value", "left"),
    [("ROWS", 50, 50), ("ROWS_TIMES_CLASSES", 60, 30), ("CHARACTERS", 400, 40), ("ROWS", 1000, 200)],
)
def test_the_linear_model_learns_from_as_many_rows_as_its_caps_allow(monkeypatch, cap, value, left):
    own = rows(["good word"[:4] + " filling"[:6]] * 200, [0, 1] * 100)  # of 10 characters each
    monkeypatch.setattr(module, cap, value)
    assert linear_answers(splits(own, own, own), 0).rows == left


def test_the_seed_draws_the_rows_and_nothing_else_does(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 40)
    texts = ["text"] * 200
    first, again, other = (module._drawn(texts, 2, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert first == sorted(set(first))


def test_a_long_text_is_read_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(module, "TEXT_CHARACTERS", 12)
    assert module._texts(rows([("x" * 50, "y"), ("z", "w" * 50)], [0, 1])) == [f"{'x' * 12} y", f"z {'w' * 12}"]


def test_a_task_without_text_classes_has_the_commonest_answer_alone():
    pairs = Examples(
        Tokens.from_lists([[1]] * 8, None), torch.tensor([1, 1, 0, 1]), torch.arange(4).repeat_interleave(2)
    )
    (found,) = baselines(TASKS["multiple_choice"], NO_ROWS, {"train": pairs, "validation": pairs, "test": pairs}, 0)
    assert found == Answers(name=COMMONEST, validation=[1] * 4, test=[1] * 4, rows=4)


def test_the_commonest_answer_of_a_task_is_one_that_it_can_judge():
    marks = torch.tensor([[-100, 0, 1, 1, -100], [-100, 1, -100, -100, -100]])
    own = Examples.of_documents(Tokens.from_lists([[2, 5, 6, 7, 3], [2, 8, 3]], None), marks, "tokens")
    (found,) = baselines(MarkWords(), NO_ROWS, {"train": own, "validation": own, "test": own}, 0)
    assert MarkWords().correct(found.test, own) == [pytest.approx(2 / 3), 1.0]


def test_a_teachers_standing_by_hand():
    # Train says class 1. Of four validation rows two are of class 1, of four test rows one.
    parts = {"train": examples([1, 1, 0]), "validation": examples([1, 1, 0, 0]), "test": examples([0, 1, 0, 0])}
    texts = {name: rows(["word"] * len(part), part.targets.tolist()) for name, part in parts.items()}
    (commonest, *_) = baselines(Classification(), splits(**texts), parts, 0)
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
    (commonest,) = baselines(task, NO_ROWS, parts, 0)
    outputs = torch.tensor([[1.0, -1.0]] * 2 + [[-1.0, -1.0]] * 7 + [[1.0, 1.0]])  # two labels too many
    found = standing_of(task, [commonest], parts, dict.fromkeys(parts, outputs), known=0.5, trained=True)
    assert sum(task.correct(commonest.test, part)) > sum(task.correct(task.decode(outputs, part), part))
    assert (found.test, found.baselines[0].test) == (pytest.approx(2 * 2 / (4 + 2)), 0.0)
    assert found.baselines[0].ahead == pytest.approx(2 / 3)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("name", "least"), [("20news", 0.82), ("imdb", 0.87)])
def test_real_texts_have_a_linear_model_that_is_good(shared_data, name, least):
    own = load_splits(str(shared_data / name), validation_rows=500, test_rows=2000)
    assert float(np.mean(own.test.targets == linear_answers(own, 0).test)) > least
