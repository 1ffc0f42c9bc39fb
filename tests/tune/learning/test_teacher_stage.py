"""The first stage on a tiny encoder: the teacher, for whom one marker word decides the class."""

import dataclasses
import math
import types

import pytest
import torch
from torch.testing import assert_close

from tests.tune.learning.watching import Told, same, weights_of
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from tune.budget import StageTimeout
from tune.learning import teacher_stage
from tune.learning.steps import Team, shuffled_batches
from tune.learning.teacher_stage import train_teacher, training_seconds
from tune.settings import TeacherSettings


@pytest.fixture
def reducer(model):
    return model.reducer


@pytest.fixture
def plain(reducer):
    return reducer.encoder.plain


@pytest.fixture
def passes(monkeypatch):
    """The documents of each unreduced pass."""
    seen, unreduced_outputs = [], Reducer.unreduced_outputs

    def watched(self, tokens):
        seen.append(tokens)
        return unreduced_outputs(self, tokens)

    monkeypatch.setattr(Reducer, "unreduced_outputs", watched)
    return seen


def test_the_teacher_learns_the_marker_word(prepared):
    assert prepared.teacher_validation > 0.9
    assert prepared.teacher_test > 0.9


def test_the_teacher_takes_its_steps_with_dropout_and_is_left_without(reducer, plain, train, tiny_settings):
    modes, told = [], Told()

    def progress(step):
        modes.append(plain.training)
        told(step)

    settings = dataclasses.replace(tiny_settings.teacher, epochs=0.2, batch_size=16)
    train_teacher(reducer, train, settings, tiny_settings.compute, 0, progress)
    steps = math.ceil(0.2 * len(train) / 16)
    assert [step["step"] for step in told] == list(range(1, steps + 1))
    assert {step["steps"] for step in told} == {steps}
    assert modes == [True] * steps
    assert not plain.training


def test_the_same_seed_trains_the_same_teacher(make_model, train, tiny_settings):
    found = []
    for seed in (0, 0, 1):
        reducer = make_model().reducer
        settings = dataclasses.replace(tiny_settings.teacher, epochs=0.1)
        train_teacher(reducer, train, settings, tiny_settings.compute, seed, lambda step: None)
        found.append(weights_of(reducer.encoder.plain))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_measuring_a_training_pass_changes_nothing(reducer, plain, train):
    before = weights_of(reducer.encoder.plain)
    training_seconds(reducer, train, "float32", 1)
    assert same(weights_of(reducer.encoder.plain), before)
    assert all(parameter.grad is None for parameter in plain.parameters())


def test_the_seconds_of_a_training_pass_are_the_best_of_three_by_hand(reducer, passes, monkeypatch):
    # Three documents of 4, 8 and 12 tokens, of which the first two are timed: 9, 4 and 6 seconds, 2 a document at
    # best. They have 6 tokens on average, and all three have 8: 2 · 8/6.
    tokens = Tokens.from_lists([[2, *[5] * (length - 1)] for length in (4, 8, 12)], None)
    split = Examples.of_documents(tokens, torch.tensor([0, 1, 0]))
    clock = iter([0.0, 9.0, 100.0, 104.0, 200.0, 206.0])
    threads = []
    monkeypatch.setattr(teacher_stage, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert training_seconds(reducer, split, "float32", 7, count=2) == pytest.approx(8 / 3)
    assert [tokens.lengths.tolist() for tokens in passes] == [[4, 8]] * 3
    assert threads == [7, 1]  # as many as asked for, then as many as before


def test_the_seconds_are_those_of_one_document_where_examples_have_two_by_hand(reducer, passes, monkeypatch):
    # Two examples, of 4 and 8 tokens and of 12 and 16. The first one's documents take 4 seconds at best, 2 each; they
    # have 6 tokens on average, and all four documents have 10: 2 · 10/6.
    tokens = Tokens.from_lists([[2, *[5] * (length - 1)] for length in (4, 8, 12, 16)], None)
    split = Examples(tokens, torch.tensor([0, 1]), owner=torch.tensor([0, 0, 1, 1]))
    clock = iter([0.0, 9.0, 100.0, 104.0, 200.0, 206.0])
    monkeypatch.setattr(teacher_stage, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    picks = dataclasses.replace(reducer, task=TASKS["multiple_choice"])
    assert training_seconds(picks, split, "float32", 1, count=1) == pytest.approx(10 / 3)
    assert [tokens.lengths.tolist() for tokens in passes] == [[4, 8]] * 3


def test_a_teachers_weights_decay_by_hand(reducer, plain, train, tiny_settings):
    unread = plain.get_input_embeddings().weight[1]  # [UNK], which stands in no document
    before = unread.detach().clone()
    settings = dataclasses.replace(tiny_settings.teacher, epochs=1e-3, learning_rate=0.1)
    told = Told()
    train_teacher(reducer, train, settings, tiny_settings.compute, 0, told)
    # One step, at the highest learning rate: without a gradient AdamW takes .1 · .01 of a weight, and nothing else.
    assert len(told) == 1
    assert_close(unread.detach(), before * (1 - 0.1 * 0.01), rtol=1e-6, atol=0)
    assert before.abs().max() > 0.1


def test_a_process_of_a_team_runs_its_share_of_the_teachers_documents_with_dropout_of_its_own(
    reducer, passes, train, tiny_settings, monkeypatch
):
    summed, seeds = [], []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: summed.append(len(flat)))
    settings = dataclasses.replace(tiny_settings.teacher, epochs=2 * 16 / 240, probe_documents=0)
    team = Team(1, 2)
    compute = tiny_settings.compute
    train_teacher(reducer, train, settings, compute, 5, lambda step: seeds.append(torch.initial_seed()), team=team)
    shares = [chosen[1::2] for chosen in shuffled_batches(len(train), 16, 2, seed=5)]
    assert [tokens.input_ids.tolist() for tokens in passes] == [
        train.tokens.take(share).input_ids.tolist() for share in shares
    ]
    assert len(summed) == 2
    assert seeds == [5 + 1] * 2  # the seed and the rank


def test_a_teacher_that_died_goes_on_as_if_it_had_lived(make_model, train, tiny_settings, drawer):
    def die(step):
        if step["step"] == 2:
            raise StageTimeout

    settings = dataclasses.replace(tiny_settings.teacher, epochs=4 * 16 / 240)

    def teach(progress, keeper=None):
        reducer = make_model().reducer
        train_teacher(reducer, train, settings, tiny_settings.compute, 0, progress, keeper)
        return weights_of(reducer.encoder.plain)

    told = Told()
    expected = teach(lambda step: None)
    with pytest.raises(StageTimeout):
        teach(die, drawer)
    assert same(teach(told, drawer), expected)
    assert [step["step"] for step in told] == [2, 3, 4]


def test_a_teachers_learning_rate_rises_for_a_tenth_of_the_steps_and_the_last_half_batch_counts_by_hand(
    model, train, settings, monkeypatch
):
    rates = []

    def step(optimizer, *others):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        return 0.0

    monkeypatch.setattr(teacher_stage, "step_in_budget", step)
    # 39 documents in twos: 19 whole steps and a half one. Two of the twenty rise, and the others fall to an eighteenth.
    few, asked = train.take(torch.arange(39)), TeacherSettings(epochs=1.0, batch_size=2, learning_rate=1e-3)
    train_teacher(model.reducer, few, asked, settings.compute, 0, lambda step: None)
    factors = [1 / 2, 1.0, *(left / 18 for left in range(18, 0, -1))]
    assert rates == [pytest.approx(1e-3 * factor) for factor in factors]
