"""The first fit of a new head: the last linear map alone, on what it reads from the frozen encoder."""

import copy
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.testing import assert_close

from tests.trbert.tasks.test_contract import CASES
from tests.trbert.tasks.toys import word_tokenizer
from tests.tune.learning.watching import right, same, weights_of
from trbert.encoder import Encoder
from trbert.errors import Diverged
from trbert.measure.evaluate import unreduced_outputs
from trbert.packed.tokens import Tokens
from trbert.pretrained import output_layer
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from trbert.tasks.rows import Table
from tune.learning import teacher_stage
from tune.learning.prepare import prepare
from tune.learning.steps import Team, linear_schedule, shuffled_batches
from tune.learning.teacher_stage import fit, fit_output_layer, train_teacher
from tune.settings import ComputeSettings, TeacherSettings, override

COMPUTE = ComputeSettings(device="cpu", dtype="float32", threads=1)


def classifier(task, outputs, vocabulary=60):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        num_labels=outputs,
        initializer_range=0.2,
    )
    return Reducer(encoder=Encoder(task.auto_class.from_config(config).eval()), task=task)


def examples_of(case):
    rows = case.task.read({"train": Table("a.csv", case.values)}, case.task.columns(*case.columns)).rows["train"]
    return case.task.encode(rows, word_tokenizer(), 16).examples


@pytest.fixture
def separable():
    """Documents of three words; the first word is the class."""
    words = torch.randint(10, 60, (90, 3), generator=torch.Generator().manual_seed(0))
    words[:, 0] = 5 + torch.arange(90) % 3
    tokens = Tokens.from_lists([[2, *row] for row in words.tolist()], None)
    return Examples.of_documents(tokens, torch.arange(90) % 3)


@pytest.fixture
def reducer():
    return classifier(TASKS["classification"], 3)


def mean_loss(reducer, examples):
    return float(reducer.task.loss(unreduced_outputs(reducer, examples), examples).mean())


def test_a_fitted_layer_separates_what_is_separable_and_nothing_else_changes(reducer, separable, monkeypatch):
    monkeypatch.setattr(teacher_stage, "DECAY", 1e-3)
    plain = reducer.encoder.plain
    before, loss = weights_of(plain), mean_loss(reducer, separable)
    fit_output_layer(reducer, separable, 90, COMPUTE, seed=0)
    after = weights_of(plain)
    assert mean_loss(reducer, separable) < 0.5 * loss
    assert right(reducer, separable) > 0.95
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert not plain.training


@pytest.mark.parametrize("case", [case for case in CASES if not case.pools], ids=lambda case: case.task.name)
def test_the_last_layer_of_every_tasks_head_is_fitted(case):
    examples = examples_of(case)
    reducer = classifier(case.task, case.outputs)
    plain, loss = reducer.encoder.plain, mean_loss(reducer, examples)
    before = weights_of(plain)
    fit_output_layer(reducer, examples, 10**6, COMPUTE, seed=0)
    changed = [name for name, value in plain.state_dict().items() if not torch.equal(before[name], value)]
    (layer,) = (name for name, module in plain.named_modules() if module is output_layer(plain))
    assert mean_loss(reducer, examples) < loss
    assert f"{layer}.weight" in changed
    assert set(changed) <= {f"{layer}.weight", f"{layer}.bias"}


def test_a_model_without_a_head_is_left_as_it_is(separable):
    reducer = classifier(TASKS["embedding"], 3)
    before = weights_of(reducer.encoder.plain)
    fit_output_layer(reducer, separable, 90, COMPUTE, seed=0)
    assert same(weights_of(reducer.encoder.plain), before)


def test_a_layer_whose_rows_are_not_the_outputs_rows_is_left_as_it_is(reducer, separable, monkeypatch):
    outputs = Reducer.unreduced_outputs
    monkeypatch.setattr(
        Reducer, "unreduced_outputs", lambda self, tokens: outputs(self, tokens) + outputs(self, tokens)
    )
    before = weights_of(reducer.encoder.plain)
    fit_output_layer(reducer, separable, 90, COMPUTE, seed=0)
    assert same(weights_of(reducer.encoder.plain), before)


def test_the_same_seed_fits_the_same_layer_on_as_many_documents_as_asked_for(reducer, separable, monkeypatch):
    found, seen = [], []
    monkeypatch.setattr(teacher_stage, "fit", lambda *asked: (seen.append(len(asked[2])), fit(*asked)))
    for seed in (0, 0, 1):
        own = dataclasses.replace(reducer, encoder=Encoder(copy.deepcopy(reducer.encoder.plain)))
        fit_output_layer(own, separable, 20, COMPUTE, seed)
        found.append(weights_of(own.encoder.plain))
    assert seen == [20] * 3
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_a_head_that_reads_tokens_is_fitted_on_no_more_rows_than_memory_is_for(monkeypatch):
    (case,) = (case for case in CASES if case.task.name == "mark_words")
    examples, seen = examples_of(case), []
    monkeypatch.setattr(teacher_stage, "fit", lambda *asked: seen.append(len(asked[2])))
    monkeypatch.setattr(teacher_stage, "MOST_ROWS", 10)
    # Five texts of 5, 3, 7, 4 and 4 tokens, which are 23: ten rows are two texts of mean length.
    fit_output_layer(classifier(case.task, case.outputs), examples, 100, COMPUTE, seed=0)
    assert seen == [2]


def test_the_fit_is_the_least_penalised_loss_whatever_the_size_of_the_features(separable):
    task, features = TASKS["classification"], torch.randn(90, 4, generator=torch.Generator().manual_seed(1))
    features[:, 0] += separable.targets
    outputs = []
    for scale, shift in ((1.0, 0.0), (100.0, -7.0)):
        layer = nn.Linear(4, 3)
        fit(layer, scale * features + shift, separable, task)
        outputs.append(layer(scale * features + shift).detach().log_softmax(1))
    assert_close(outputs[0], outputs[1], atol=2e-3, rtol=0)
    # At the least, a weight's gradient is that of the penalty: the mean of (p − y) x is −2 w, with x of variance 1.
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    errors = outputs[0].exp() - F.one_hot(separable.targets, 3)
    logits = outputs[0] - outputs[0].mean(1, keepdim=True)
    weight = torch.linalg.lstsq(scaled, logits - logits.mean(0)).solution
    assert_close(scaled.T @ errors / 90, -2 * weight, atol=1e-3, rtol=0)
    assert_close(errors.sum(0) / 90, torch.zeros(3), atol=1e-3, rtol=0)
    assert weight.abs().max() > 0.02


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1e3, 1e9])
def test_the_fit_of_numbers_is_the_same_whatever_they_are_measured_in(unit, separable):
    task = TASKS["regression"]
    numbers = separable.targets - 1.0  # their mean is 0, and so is the bias

    def fitted(size):
        reducer = classifier(task, 1)
        targets = torch.stack([size * numbers, torch.full((90,), size)], 1)
        fit_output_layer(reducer, dataclasses.replace(separable, targets=targets), 90, COMPUTE, 0)
        return output_layer(reducer.encoder.plain).weight / size

    expected = fitted(1.0)
    assert expected.norm() > 0.1
    assert_close(fitted(unit), expected, rtol=1e-3, atol=1e-4)


def test_features_that_are_not_finite_are_refused_and_leave_the_layer_as_it_is(separable):
    layer = nn.Linear(4, 3)
    before = weights_of(layer)
    with pytest.raises(Diverged, match="what the last layer of a new head reads must be finite, and is nan"):
        fit(layer, torch.full((90, 4), torch.nan), separable, TASKS["classification"])
    assert same(weights_of(layer), before)


# In the teacher's stage.


@pytest.fixture
def asked(monkeypatch):
    """For how many documents a fit was asked, each time."""
    seen = []
    monkeypatch.setattr(teacher_stage, "fit_output_layer", lambda *asked: seen.append(asked[2]))
    return seen


def teach(reducer, examples, documents, keeper=None):
    settings = TeacherSettings(epochs=0.4, probe_documents=documents)
    train_teacher(reducer, examples, settings, COMPUTE, 0, lambda step: None, keeper)
    return weights_of(reducer.encoder.plain)


def test_a_teacher_without_a_probe_is_the_teacher_as_it_was(reducer, separable, asked):
    plain = reducer.encoder.plain
    model = copy.deepcopy(plain)
    found = teach(reducer, separable, 0)
    assert asked == []
    # The same three steps, written out.
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    schedule = linear_schedule(optimizer, 3, 0.1)
    own = Reducer(encoder=Encoder(model), task=reducer.task)
    for chosen in shuffled_batches(90, 16, 3, seed=0):
        optimizer.zero_grad()
        part = separable.take(chosen)
        loss = reducer.task.loss(own.unreduced_outputs(part.tokens), part).sum()
        loss.backward()
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad.div_(16)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert same(found, weights_of(model))


def test_a_teacher_that_goes_on_from_a_state_is_not_fitted_again(reducer, separable, asked, drawer):
    teach(reducer, separable, 20, drawer)
    assert asked == [20]
    assert drawer.state is not None
    teach(reducer, separable, 20, drawer)
    assert asked == [20]


def test_a_fit_draws_no_random_number_that_the_training_would_have_drawn(reducer, separable, monkeypatch):
    seen = []
    monkeypatch.setattr(
        teacher_stage, "Learner", lambda *asked, **more: seen.append(torch.get_rng_state()) or Nothing()
    )
    for documents in (0, 20):
        teach(reducer, separable, documents)
    assert torch.equal(*seen)


class Nothing:
    """A learner without steps."""

    def batches(self, *asked):
        return iter(())


def test_a_model_that_was_fine_tuned_is_the_teacher_as_it_is(prepared, tiny_settings, cache, tmp_path, asked):
    folder = tmp_path / "model"
    prepared.plain(torch.device("cpu")).save_pretrained(folder)
    prepared.tokenizer.save_pretrained(folder)
    prepare(override(tiny_settings, {"model": str(folder)}), None, lambda line: None)
    assert asked == []


# In a team.


class Meeting:
    """Stands in for torch.distributed: processes, here threads, that bring a tensor each leave with the sum."""

    def __init__(self, size):
        self.barrier, self.brought = threading.Barrier(size, timeout=20), {}

    def all_reduce(self, values):
        self.brought[threading.get_ident()] = values.clone()
        self.barrier.wait()
        total = sum(self.brought[each] for each in sorted(self.brought))
        self.barrier.wait()
        values.copy_(total)


def test_the_processes_of_a_team_find_the_map_that_one_finds(reducer, separable, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", Meeting(2).all_reduce)
    models = [copy.deepcopy(reducer.encoder.plain) for _ in range(2)]

    def process(rank):
        own = Reducer(encoder=Encoder(models[rank]), task=reducer.task)
        fit_output_layer(own, separable, 41, COMPUTE, 0, Team(rank, 2))

    with ThreadPoolExecutor(2) as processes:
        list(processes.map(process, range(2)))
    assert same(*map(weights_of, models))
    fit_output_layer(reducer, separable, 41, COMPUTE, 0)
    assert_close(models[0].classifier.weight, reducer.encoder.plain.classifier.weight, atol=1e-2, rtol=1e-2)
    assert not torch.equal(models[0].classifier.bias, torch.zeros(3))
