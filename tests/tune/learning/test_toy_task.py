"""A task is one file and one line in TASKS: tasks go through all stages, and loaded models say the same."""

import csv
import json
import random

import pytest
import torch
from torch.testing import assert_close

import trbert
from tests.trbert.tasks.toys import MarkWords
from trbert.packed.heads import plain_outputs
from trbert.tasks import TASKS
from tune.learning.model import Model, measure_along_dial
from tune.learning.prepare import prepare
from tune.settings import override

SHORT = {
    "teacher.epochs": 12.0,
    "select.points": (0, 2),
    "select.documents": 32,
    "select.samples": 2,
    "select.step_documents": 16,
    "select.warm_start_documents": 16,
    "joint.documents": 32,
}
ROWS = 120
WORDS = [f"w{index}" for index in range(10)]


def text(draw, marker):
    words = [draw.choice(WORDS) for _ in range(draw.randint(4, 8))]
    words[draw.randrange(len(words))] = marker
    return words


def write_choices(folder):
    """Of two options, the one with the word alpha is the right one, wherever it stands in the second text."""
    draw, path, lines = random.Random(0), folder / "choices.jsonl", []
    for row in range(ROWS):
        article, *options = (" ".join(text(draw, marker)) for marker in ("w1", "alpha", "beta"))
        question = ("w2 w3", "w2 _ w3")[draw.randrange(2)]
        right = row % 2
        lines.append({"article": article, "question": question, "options": options[:: 1 - 2 * right], "answer": right})
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def write_marks(folder):
    """The words alpha and beta are to be marked, and no other."""
    draw, path = random.Random(0), folder / "marks.jsonl"
    rows = [text(draw, ("alpha", "beta")[row % 2]) for row in range(ROWS)]
    lines = [{"text": " ".join(row), "label": [int(word in ("alpha", "beta")) for word in row]} for row in rows]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def write_labels(folder):
    """A text has the labels alpha and beta where it has these words: both, one, or none."""
    draw, path = random.Random(0), folder / "labels.jsonl"
    lines = []
    for row in range(ROWS):
        labels = [name for bit, name in enumerate(("alpha", "beta")) if row >> bit & 1]
        words = [draw.choice(WORDS) for _ in range(draw.randint(4, 8))] + labels
        draw.shuffle(words)
        lines.append(json.dumps({"text": " ".join(words), "label": labels}))
    path.write_text("\n".join(lines))
    return path


def write_scores(folder):
    """The number of a text is far from 0, and says how often the word alpha is there."""
    draw, path = random.Random(0), folder / "scores.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for row in range(ROWS):
            words = [draw.choice(WORDS) for _ in range(draw.randint(4, 8))] + ["alpha"] * (row % 4)
            draw.shuffle(words)
            rows.writerow([" ".join(words), 20.5 + row % 4])
    return path


def write_tags(folder):
    """The word alpha is a person, and the word beta a place."""
    draw, path = random.Random(0), folder / "tags.jsonl"
    rows = [text(draw, ("alpha", "beta")[row % 2]) for row in range(ROWS)]
    kinds = {"alpha": "B-PER", "beta": "B-LOC"}
    lines = [{"tokens": row, "tags": [kinds.get(word, "O") for word in row]} for row in rows]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def write_questions(folder):
    """The answer is the word alpha; a context with beta instead has none."""
    draw, path = random.Random(0), folder / "questions.jsonl"
    lines = []
    for row in range(ROWS):
        context = " ".join(text(draw, ("alpha", "beta")[row % 3 == 2]))
        there = "alpha" in context
        answers = {"text": ["alpha"] * there, "answer_start": [context.find("alpha")] * there}
        lines.append(json.dumps({"question": "w0 w1", "context": context, "answers": answers}))
    path.write_text("\n".join(lines))
    return path


def write_texts(folder):
    """Texts without any label."""
    draw, path = random.Random(0), folder / "texts.csv"
    lines = ["text", *(" ".join(text(draw, ("alpha", "beta")[row % 2])) for row in range(ROWS))]
    path.write_text("\n".join(lines))
    return path


def write_queries(folder):
    """Of a query's four documents, the one with the word alpha is relevant; every query has its own word."""
    draw, path = random.Random(0), folder / "queries.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["query", "document", "label"])
        for row in range(ROWS):
            right = draw.randrange(4)
            for number in range(4):
                rows.writerow(
                    [f"w{row}", " ".join(text(draw, "alpha" if number == right else "beta")), number == right]
                )
    return path


TOYS = {
    "embedding": (TASKS["embedding"], write_texts, "text"),
    "regression": (TASKS["regression"], write_scores, "text"),
    "multiple_choice": (TASKS["multiple_choice"], write_choices, "article,question,options"),
    "mark_words": (MarkWords(), write_marks, "text"),
    "multi_label": (TASKS["multi_label"], write_labels, "text"),
    "tagging": (TASKS["tagging"], write_tags, "tokens"),
    "question_answering": (TASKS["question_answering"], write_questions, "question,context"),
    "reranking": (TASKS["reranking"], write_queries, "query,document"),
    "listwise_reranking": (TASKS["listwise_reranking"], write_queries, "query,document"),
}


@pytest.fixture(params=TOYS)
def task(request, monkeypatch):
    """A toy task, registered by the one line that a task is registered by."""
    monkeypatch.setitem(TASKS, request.param, TOYS[request.param][0])
    return TASKS[request.param]


@pytest.fixture
def toy_settings(task, settings, tmp_path, cache):
    """As little of every stage as there can be, on a tiny file of the task's own."""
    _, write, column = TOYS[task.name]
    changes = {"task": task.name, "data.source": str(write(tmp_path)), "data.text_column": column}
    changes |= {"data.validation_rows": 12}
    return override(settings, SHORT | changes)


def padded(tokens):
    """Returns documents as a user passes them: padded, with their mask and their segments."""
    mask = torch.arange(int(tokens.lengths.max())) < tokens.lengths[:, None]
    inputs = {"attention_mask": mask.long()}
    for name, row in (("input_ids", tokens.input_ids), ("token_type_ids", tokens.token_type_ids)):
        if row is not None:
            inputs[name] = torch.zeros_like(mask, dtype=torch.long).masked_scatter(mask, row)
    return inputs


SELECTORS = ["policy", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gumbel", "attention"))]


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_toy_task_runs_every_stage_and_what_is_loaded_says_the_same(task, toy_settings, selector, tmp_path):
    prepared = prepare(toy_settings, None, lambda line: None)
    assert prepared.task is task
    documents = {"multiple_choice": 2, "reranking": 4, "listwise_reranking": 4}.get(task.name, 1)
    assert [len(part) for part in (prepared.train, prepared.validation, prepared.test)] == [96, 12, 12]
    assert len(prepared.train.tokens) == 96 * documents
    assert len(prepared.train.teacher) == prepared.train.num_outputs
    assert prepared.teacher_validation > 0.9  # of two texts the right one, or nearly every word

    model, steps = Model(prepared, override(toy_settings, {"selector": selector})), []
    of_all = task.reads == "tokens" or task.name == "embedding"  # the toy's vector is the mean over tokens
    assert len(model.reducer.exits.maps) == (len(model.points) if of_all else 0)
    model.select(prepared.train, model.sampler(prepared.train), lambda step: steps.append("select"))
    model.join(prepared.train, lambda step: steps.append("joint"))
    assert steps == ["select"] * (2 if model.selector.learns else 0) + ["joint"] * 2

    curve = measure_along_dial(model, prepared.validation, lambda share: None)
    assert curve[0][1].speed_up > curve[-1][1].speed_up
    assert curve[-1][1].kept == (1.0,) * len(model.points)
    unreduced = model.reducer.unreduced_outputs(prepared.validation.tokens)
    assert curve[-1][1].quality == task.quality(task.decode(unreduced, prepared.validation), prepared.validation)

    split, tokens = prepared.test, prepared.test.tokens
    model.deployable().save_pretrained(tmp_path / "saved")
    for dial in (curve[0][0], model.selector.default_dial, model.selector.keep_all):
        own = trbert.load(tmp_path / "saved", dial=dial)
        assert own.config.task == task.name
        finished = model.reducer.run(model.selector, tokens, dial)
        expected = model.reducer.outputs(finished)
        assert len(expected) == split.num_outputs
        with torch.no_grad():
            inputs = padded(tokens)
            said = plain_outputs(own, inputs)
        if task.reads == "tokens":  # padded as the inputs are
            said = said[inputs["attention_mask"].bool()]
        assert_close(said, expected.detach(), rtol=1e-4, atol=1e-5)
        assert model.evaluate(split, dial).quality == task.quality(task.decode(said, split), split)


@pytest.mark.parametrize("task", ["multi_label"], indirect=True)
def test_a_threshold_is_chosen_for_the_teacher_and_again_for_what_was_learned(toy_settings, task):
    prepared = prepare(toy_settings, None, lambda line: None)
    model, part = Model(prepared, toy_settings), prepared.validation
    found = []
    for shift in (3.0, -3.0):
        with torch.no_grad():
            model.reducer.encoder.plain.classifier.bias.add_(shift)
            model.settle(part)
            outputs = model.reducer.unreduced_outputs(part.tokens)
        found.append(task.quality(task.decode(outputs, part), part))
        assert task.threshold(outputs, part) == pytest.approx(0.0, abs=1e-4)
    assert found == [prepared.teacher_validation] * 2
    with torch.no_grad():
        teacher = Model(prepared, toy_settings).reducer.unreduced_outputs(prepared.train.tokens)
    assert_close(prepared.train.teacher, teacher, rtol=1e-4, atol=1e-4)
    assert prepared.config.problem_type == "multi_label_classification"
    assert model.deployable().config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("task", ["mark_words"], indirect=True)
def test_a_head_that_reads_tokens_says_something_of_those_that_were_dropped(toy_settings, task):
    prepared = prepare(toy_settings, None, lambda line: None)
    model = Model(prepared, override(toy_settings, {"selector": "first", "exits": False}))
    tokens = prepared.test.tokens
    with torch.no_grad():
        finished = model.reducer.run(model.selector, tokens, 0.1)
        outputs = model.reducer.outputs(finished)
        # At point 0 a dropped token has its embedding alone.
        embedded = model.reducer.encoder.read_tokens(model.reducer.encoder.embed(tokens).hidden)
    gone = finished.left_at == 0
    assert gone.sum() > len(tokens)
    assert_close(outputs[gone], embedded[gone], rtol=1e-4, atol=1e-5)
