"""The first two stages on a tiny teacher, for whom one marker word decides the class."""

import dataclasses
import itertools
import math
import types

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from trbert.errors import Diverged, InputError
from trbert.packed.tokens import Tokens
from trbert.selection.saliency import most_salient, saliency
from trbert.tasks.examples import Examples
from tune.learning import select_stage as stages
from tune.learning.select_stage import (
    RolloutItem,
    drawn_dials,
    flatten,
    load_flat,
    select_loss,
    train_policy,
    warm_start,
)
from tune.learning.steps import StageTimeout, Team, shuffled_batches
from tune.learning.teacher_stage import train_teacher, training_seconds
from tune.settings import PRESETS, override


class Told(list):
    """Collects what a stage tells of its steps."""

    def __call__(self, step):
        self.append(dict(step))


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def logits_of(encoder, tokens):
    with torch.no_grad():
        return encoder.unreduced_logits(tokens)


def right(encoder, examples):
    return float((logits_of(encoder, examples.tokens).argmax(-1) == examples.labels).double().mean())


def logits_at(model, batch, point=0):
    """Returns the policy's logits at dial 0."""
    return model.policy.logits(batch, point, torch.zeros(1, len(batch)))[0]


# Teacher.


def test_the_teacher_learns_the_marker_word(prepared):
    assert prepared.teacher_validation > 0.9
    assert prepared.teacher_test > 0.9


def test_the_teacher_takes_its_steps_with_dropout_and_is_left_without(model, train, tiny_settings):
    modes, told = [], Told()

    def progress(step):
        modes.append(model.encoder.model.training)
        told(step)

    settings = dataclasses.replace(tiny_settings.teacher, epochs=0.2, batch_size=16)
    train_teacher(model.encoder, train, settings, tiny_settings.compute, 0, progress)
    steps = math.ceil(0.2 * len(train.tokens) / 16)
    assert [step["step"] for step in told] == list(range(1, steps + 1))
    assert {step["steps"] for step in told} == {steps}
    assert modes == [True] * steps
    assert not model.encoder.model.training


def test_the_same_seed_trains_the_same_teacher(make_model, train, tiny_settings):
    found = []
    for seed in (0, 0, 1):
        encoder = make_model().encoder
        settings = dataclasses.replace(tiny_settings.teacher, epochs=0.1)
        train_teacher(encoder, train, settings, tiny_settings.compute, seed, lambda step: None)
        found.append(weights_of(encoder.model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_measuring_a_training_pass_changes_nothing(model, train):
    before = weights_of(model.encoder.model)
    training_seconds(model.encoder, train, "float32", 1)
    assert same(weights_of(model.encoder.model), before)
    assert all(parameter.grad is None for parameter in model.encoder.model.parameters())


def test_the_seconds_of_a_training_pass_are_the_best_of_three_by_hand(model, monkeypatch):
    # Three documents of 4, 8 and 12 tokens, of which the first two are timed: 9, 4 and 6 seconds, 2 a document at
    # best. They have 6 tokens on average, and all three have 8: 2 · 8/6.
    tokens = Tokens.from_lists([[2, *[5] * (length - 1)] for length in (4, 8, 12)], None)
    split = Examples(tokens, torch.tensor([0, 1, 0]))
    clock = iter([0.0, 9.0, 100.0, 104.0, 200.0, 206.0])
    threads, passes, unreduced_logits = [], [], model.encoder.unreduced_logits

    def watched(tokens):
        passes.append(tokens.lengths.tolist())
        return unreduced_logits(tokens)

    monkeypatch.setattr(stages, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(model.encoder, "unreduced_logits", watched)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert training_seconds(model.encoder, split, "float32", 7, documents=2) == pytest.approx(8 / 3)
    assert passes == [[4, 8]] * 3
    assert threads == [7, 1]  # as many as asked for, then as many as before


def test_a_teachers_weights_decay_by_hand(model, train, tiny_settings):
    unread = model.encoder.model.get_input_embeddings().weight[1]  # [UNK], which stands in no document
    before = unread.detach().clone()
    settings = dataclasses.replace(tiny_settings.teacher, epochs=1e-3, learning_rate=0.1)
    told = Told()
    train_teacher(model.encoder, train, settings, tiny_settings.compute, 0, told)
    # One step, at the highest learning rate: without a gradient AdamW takes .1 · .01 of a weight, and nothing else.
    assert len(told) == 1
    assert_close(unread.detach(), before * (1 - 0.1 * 0.01), rtol=1e-6, atol=0)
    assert before.abs().max() > 0.1


def test_a_process_of_a_team_runs_its_share_of_the_teachers_documents_with_dropout_of_its_own(
    model, train, tiny_settings, monkeypatch
):
    summed, seen, seeds, unreduced_logits = [], [], [], model.encoder.unreduced_logits

    def watched(tokens):
        seen.append(tokens.input_ids.tolist())
        return unreduced_logits(tokens)

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: summed.append(len(flat)))
    monkeypatch.setattr(model.encoder, "unreduced_logits", watched)
    settings = dataclasses.replace(tiny_settings.teacher, epochs=2 * 16 / 240)
    team = Team(1, 2)
    compute = tiny_settings.compute
    train_teacher(
        model.encoder, train, settings, compute, 5, lambda step: seeds.append(torch.initial_seed()), team=team
    )
    shares = [chosen[1::2] for chosen in shuffled_batches(len(train.tokens), 16, 2, seed=5)]
    assert seen == [train.tokens.take(share).input_ids.tolist() for share in shares]
    assert len(summed) == 2
    assert seeds == [5 + 1] * 2  # the seed and the rank


def test_a_teacher_that_died_goes_on_as_if_it_had_lived(make_model, train, tiny_settings, drawer):
    def die(step):
        if step["step"] == 2:
            raise StageTimeout

    settings = dataclasses.replace(tiny_settings.teacher, epochs=4 * 16 / 240)

    def teach(progress, keeper=None):
        encoder = make_model().encoder
        train_teacher(encoder, train, settings, tiny_settings.compute, 0, progress, keeper)
        return weights_of(encoder.model)

    told = Told()
    expected = teach(lambda step: None)
    with pytest.raises(StageTimeout):
        teach(die, drawer)
    assert same(teach(told, drawer), expected)
    assert [step["step"] for step in told] == [2, 3, 4]


# Select.


DIALS = {"select.dial_range": 1.0}
# Relaxed decisions learn of the tokens that were kept alone, and so more slowly, where few may stay not at all.
GUMBEL = {"selector": "gumbel", "select.penalty": 0.1, "select.documents": 640}
ONE = {"select.dial_range": 0.0}
LEARNING = {"policy": ONE, "policy, dials": DIALS, "gumbel": GUMBEL | ONE, "gumbel, dials": GUMBEL | DIALS}
learning = pytest.mark.parametrize("changes", LEARNING.values(), ids=LEARNING)


@learning
def test_select_leaves_the_encoder_bit_for_bit_and_raises_the_reward(make_model, train, changes):
    model = make_model(changes)
    encoder, policy = weights_of(model.encoder.model), weights_of(model.policy)
    told = Told()
    model.select(train, model.sampler(train), told)
    assert same(weights_of(model.encoder.model), encoder)
    assert all((parameter == 0).all() for parameter in model.encoder.fusion.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters)
    assert all(parameter.grad is None for parameter in model.encoder.model.parameters())
    assert all(not torch.equal(value, policy[name]) for name, value in weights_of(model.policy).items())
    assert [step["step"] for step in told] == list(range(1, model.settings.select.documents // 16 + 1))
    first, last = (np.mean([step["reward"] for step in part]) for part in (told[:4], told[-4:]))
    assert last > first + 0.1


def test_select_learns_to_keep_the_word_that_decides(model, train, prepared):
    model.select(train, model.sampler(train), lambda step: None)
    markers = torch.tensor(prepared.tokenizer.convert_tokens_to_ids(["alpha", "beta"]))
    with torch.no_grad():
        state = model.dynamics.reset(train.tokens)
        keep = logits_at(model, state.batch).sigmoid()
    is_marker = torch.isin(train.tokens.input_ids, markers)
    others = ~is_marker & ~train.tokens.protected
    assert keep[is_marker].mean() > keep[others].mean() + 0.1


def test_one_step_of_select_by_hand(make_model, train):
    model = make_model({"select.documents": 16})
    (chosen,) = shuffled_batches(len(train.tokens), 16, 1, seed=0)
    items = [
        RolloutItem(index=index, version=0, documents=tuple(part.tolist()))
        for index, part in enumerate(chosen.split(8))
    ]
    by_hand = make_model()
    gradient = sum(each.gradient for each in by_hand.sampler(train).gradients(flatten(by_hand.policy), items)) / 16
    parts = torch.from_numpy(gradient).split([parameter.numel() for parameter in by_hand.policy.parameters()])
    for parameter, part in zip(by_hand.policy.parameters(), parts, strict=True):
        parameter.grad = part.view_as(parameter)
    torch.nn.utils.clip_grad_norm_(by_hand.policy.parameters(), 1.0)
    torch.optim.Adam(by_hand.policy.parameters(), lr=2e-2).step()
    train_policy(model.policy, model.sampler(train), len(train.tokens), model.settings.select, 0, lambda step: None)
    np.testing.assert_allclose(flatten(model.policy), flatten(by_hand.policy), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("length", "cut"), [(0.5, 0.5), (1.0, 1.0), (30.0, 1.0)])
def test_a_long_gradient_of_the_policy_is_cut_to_length_1_by_hand(make_model, train, monkeypatch, length, cut):
    # Plain gradient descent in Adam's place shows how long the gradient is. Each of the two items brings half of it,
    # summed over its 8 documents of 16.
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    model = make_model({"select.documents": 16, "select.learning_rate": 1.0})
    before = flatten(model.policy)
    along = np.full_like(before, len(before) ** -0.5)  # of length 1

    class Even:
        def gradients(self, weights, items):
            found = model.sampler(train).gradients(weights, items)
            return [dataclasses.replace(each, gradient=8 * length * along) for each in found]

    train_policy(model.policy, Even(), len(train.tokens), model.settings.select, 0, lambda step: None)
    np.testing.assert_allclose(before - flatten(model.policy), cut * along, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("selector", ["policy", "gumbel"])
def test_a_sampled_trajectory_has_no_gradient_for_the_encoder_which_gets_its_own_back(make_model, train, selector):
    model = make_model({"selector": selector})
    own = [*model.encoder.model.parameters(), *model.encoder.fusion.parameters()]
    own[0].requires_grad_(False)  # as its user may have it
    documents = torch.arange(4)
    part = train.take(documents, torch.device("cpu"))
    item = RolloutItem(index=0, version=0, documents=(0, 1, 2, 3))
    _, logits, *_ = model.sampler(train)._sample(part, documents, item)
    assert logits.requires_grad == (selector == "gumbel")  # gates lead to the policy
    assert [parameter.requires_grad for parameter in own] == [False, *[True] * (len(own) - 1)]
    if selector == "gumbel":
        found = torch.autograd.grad(logits.sum(), [*own[1:], *model.policy.parameters()], allow_unused=True)
        assert all(gradient is None for gradient in found[: len(own) - 1])
        assert all(gradient is not None for gradient in found[len(own) - 1 :])


def test_an_encoder_gets_its_gradients_back_where_sampling_fails(model, train, monkeypatch):
    def broken(*arguments, **named):
        raise RuntimeError("sampling failed")

    monkeypatch.setattr(stages, "sample_trajectories", broken)
    with pytest.raises(RuntimeError, match="sampling failed"):
        model.sampler(train).gradient(flatten(model.policy), RolloutItem(index=0, version=0, documents=(0,)))
    assert all(parameter.requires_grad for parameter in model.encoder.model.parameters())


@pytest.fixture
def numbered_source(model, train):
    """A source without gradients, whose items' rewards are 1, 2, 3 and so on; a list of the items of each step."""
    (item,) = model.sampler(train).gradients(flatten(model.policy), [RolloutItem(index=0, version=0, documents=(0, 1))])

    class Numbered(list):
        def gradients(self, weights, items):
            self.append(items)
            none = np.zeros_like(item.gradient)
            return [dataclasses.replace(item, gradient=none, reward=each.index + 1.0) for each in items]

    return Numbered()


def test_a_steps_items_and_what_is_told_of_them_by_hand(model, numbered_source, tiny_settings):
    # 33 documents are three steps of 16, each cut into items of 6, 6 and 4; the mean of 1, 2, 3 is 2.
    settings = dataclasses.replace(
        tiny_settings.select, documents=33, step_documents=16, item_documents=6, guided_share=0.0
    )
    told = Told()
    train_policy(model.policy, numbered_source, 240, settings, 9, told)
    assert [[len(item.documents) for item in items] for items in numbered_source] == [[6, 6, 4]] * 3
    assert [[item.index for item in items] for items in numbered_source] == [[0, 1, 2]] * 3
    assert [{item.version for item in items} for items in numbered_source] == [{0}, {1}, {2}]
    assert [(step["step"], step["steps"], step["reward"]) for step in told] == [(1, 3, 2.0), (2, 3, 2.0), (3, 3, 2.0)]
    chosen = [[document for item in items for document in item.documents] for items in numbered_source]
    assert chosen == [each.tolist() for each in shuffled_batches(240, 16, 3, seed=9)]


@pytest.mark.parametrize(("share", "guided"), [(0.0, 0), (0.5, 2), (0.6, 3), (1.0, 4)])
def test_the_first_steps_are_guided_as_many_as_their_share_by_hand(
    model, numbered_source, tiny_settings, share, guided
):
    # Of four steps: 0, 2, 2.4 rounded up, 4.
    settings = dataclasses.replace(tiny_settings.select, documents=64, step_documents=16, guided_share=share)
    train_policy(model.policy, numbered_source, 240, settings, 0, lambda step: None)
    found = [{item.guided for item in items} for items in numbered_source]
    assert found == [{True}] * guided + [{False}] * (4 - guided)


def test_what_an_item_tells_of_its_trajectories_by_hand(model, train):
    item, documents = RolloutItem(index=0, version=3, documents=(3, 1, 4)), torch.tensor([3, 1, 4])
    part = train.take(documents, torch.device("cpu"))
    rollout, *_ = model.sampler(train)._sample(part, documents, item)
    lengths, kept = part.tokens.lengths.repeat(model.settings.select.samples), rollout.state.kept
    assert (kept[1] < kept[0]).any()
    found = model.sampler(train).gradient(flatten(model.policy), item)
    # Tokens left after the last point, of all; the mean of the trajectories' charges.
    assert found.kept == pytest.approx(float(kept[1].sum() / lengths.sum()))
    assert found.charge == pytest.approx(float(model.dynamics.charge(lengths, kept).sum()) / len(lengths), rel=1e-5)


def test_items_together_give_what_each_gives_alone(model, train):
    weights, sampler = flatten(model.policy), model.sampler(train)
    first = RolloutItem(index=0, version=5, documents=(3, 1, 4))
    second = RolloutItem(index=1, version=5, documents=(15, 9, 2, 6))
    together = sampler.gradients(weights, [first, second])
    alone = [*make_alone(sampler, weights, second), *make_alone(sampler, weights, first)]
    assert [each.index for each in together] == [0, 1]
    for own, other in zip(together, reversed(alone), strict=True):
        assert np.array_equal(own.gradient, other.gradient)
        assert (own.reward, own.charge, own.kept) == (other.reward, other.charge, other.kept)


def make_alone(sampler, weights, item):
    load_flat(sampler.policy, np.zeros_like(weights))  # an item brings its own weights
    return sampler.gradients(weights, [item])


@learning
def test_a_steps_gradient_does_not_depend_on_how_it_is_cut_into_items(make_model, train, changes):
    model = make_model(changes)
    weights, sampler = flatten(model.policy), model.sampler(train)
    documents = (3, 1, 4, 15, 9, 2, 6)
    whole = sampler.gradient(weights, RolloutItem(index=0, version=5, documents=documents)).gradient
    cut = [
        sampler.gradient(weights, RolloutItem(index=index, version=5, documents=part)).gradient
        for index, part in enumerate([documents[:2], documents[2:6], documents[6:]])
    ]
    assert np.abs(whole).max() > 1e-3
    np.testing.assert_allclose(sum(cut), whole, rtol=1e-3, atol=1e-5)


@learning
@pytest.mark.parametrize("limit", ["budget", "memory"])
def test_an_item_over_budget_or_memory_is_cut_and_gives_the_same(make_model, train, changes, limit, monkeypatch):
    whole = make_model(changes)
    model = make_model(changes | ({"compute.tokens_per_batch": 100} if limit == "budget" else {}))
    item = RolloutItem(index=0, version=5, documents=(3, 1, 4, 15, 9, 2, 6))
    sampler, cut = model.sampler(train), []
    sample = sampler._sample

    def limited(part, documents, item):
        cut.append(int(part.tokens.lengths.sum()) * sampler.settings.samples)
        if limit == "memory" and len(documents) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return sample(part, documents, item)

    monkeypatch.setattr(sampler, "_sample", limited)
    weights = flatten(whole.policy)
    expected, found = whole.sampler(train).gradient(weights, item), sampler.gradient(weights, item)
    assert len(cut) > 2
    assert limit == "memory" or max(cut) <= 100
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-3, atol=1e-5)
    for name in ("reward", "charge", "entropy"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-4)


def test_a_gradient_that_is_not_finite_is_refused_and_leaves_the_policy(make_model, train):
    model = make_model({})

    class Broken:
        def gradients(self, weights, items):
            (own,) = model.sampler(train).gradients(weights, items[:1])
            return [dataclasses.replace(own, gradient=np.full_like(own.gradient, np.nan))]

    before = flatten(model.policy)
    with pytest.raises(Diverged, match=r"^the policy's gradient norm must be finite, and is nan: lower"):
        train_policy(model.policy, Broken(), len(train.tokens), model.settings.select, 0, print)
    assert np.array_equal(flatten(model.policy), before)


def test_another_version_or_seed_draws_other_trajectories(make_model, train):
    model = make_model()
    weights, documents = flatten(model.policy), tuple(range(8))
    one = model.sampler(train).gradient(weights, RolloutItem(index=0, version=1, documents=documents))
    two = model.sampler(train).gradient(weights, RolloutItem(index=0, version=2, documents=documents))
    other = make_model({"seed": 1}).sampler(train)
    three = other.gradient(weights, RolloutItem(index=0, version=1, documents=documents))
    assert not np.array_equal(one.gradient, two.gradient)
    assert not np.array_equal(one.gradient, three.gradient)


def test_a_step_sums_its_items_in_their_order_wherever_they_were_computed(make_model, train):
    class Backwards:
        """As workers do: the last item first, answers in item order."""

        def __init__(self, sampler):
            self.sampler = sampler

        def gradients(self, weights, items):
            return [*reversed([self.sampler.gradient(weights, item) for item in reversed(items)])]

    learned = []
    for wrap in (lambda sampler: sampler, Backwards):
        model = make_model({"select.documents": 64, "select.item_documents": 5})
        source = wrap(model.sampler(train))
        train_policy(model.policy, source, len(train.tokens), model.settings.select, 0, lambda step: None)
        learned.append(flatten(model.policy))
    assert np.array_equal(learned[0], learned[1])


def test_the_policys_weights_travel_as_one_read_only_vector(make_model):
    source, target = make_model().policy, make_model({"seed": 5}).policy
    vector = flatten(source)
    vector.flags.writeable = False
    load_flat(target, vector)
    assert same(weights_of(source), weights_of(target))
    with torch.no_grad():
        next(target.parameters()).add_(1.0)
    assert np.array_equal(vector, flatten(source))  # the copy is the policy's own


# What the losses are made of.


@pytest.fixture
def make_rollout(make_model, train):
    """A function: how many samples -> a finished rollout of two documents, to be given numbers by hand."""

    def make(samples):
        model = make_model({"select.samples": samples})
        part = train.take(torch.tensor([0, 1]), torch.device("cpu"))
        item = RolloutItem(index=0, version=0, documents=(0, 1))
        return model.sampler(train)._sample(part, torch.tensor([0, 1]), item)[0]

    return make


@pytest.fixture
def rollout(make_rollout):
    """Such a rollout of two samples."""
    return make_rollout(2)


LOG_PROB = torch.tensor([[[-2.0, -1.0], [-3.0, -3.0]], [[0.0, 0.0], [-1.0, 0.0]]])
"""By point; -2, -1, -4, -3 in the sum."""
REWARDS = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
LENGTHS = torch.tensor([4, 16])


def numbered(rollout, lengths, log_prob, **others):
    """Returns the rollout with numbers by hand; its documents are of these lengths."""
    batch = rollout.state.batch
    batch = dataclasses.replace(batch, original_lengths=lengths.repeat(len(batch) // len(lengths)))
    state = dataclasses.replace(rollout.state, batch=batch)
    return dataclasses.replace(rollout, state=state, log_prob=log_prob, mean_log_prob=log_prob / 10, **others)


def loss_of(model, rollout, returns, settings):
    """Returns the select stage's loss and mean reward where trajectories [points, samples, docs] return this."""

    class Paying(Dynamics):
        def returns(self, lengths, kept, logits, labels, dials=None):
            return returns.flatten(1)

    paying = Paying(model.dynamics.encoder, model.points, model.dynamics.terms, model.cost)
    _, samples, docs = returns.shape
    counted = samples * docs
    return select_loss(
        paying,
        rollout,
        torch.zeros(counted, 2),
        torch.zeros(counted, dtype=torch.long),
        torch.zeros(samples, docs),
        settings,
    )


LATER = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
"""Returns at the second point, where the first point's charges are past."""


def test_the_policys_loss_by_hand(model, rollout, tiny_settings):
    numbers = numbered(rollout, LENGTHS, LOG_PROB)
    whole = dataclasses.replace(tiny_settings.select, reward_to_go=False)
    # Leave one out: A = (1, −4) and (−1, 4). −mean A·log π/√n of −2/2, 4/4; 4/2, −12/4 is −(−1 + 1 + 2 − 3)/4.
    returns = torch.stack([REWARDS, LATER])
    loss, reward = loss_of(model, numbers, returns, whole)
    assert loss.item() == pytest.approx(0.25)
    assert reward == pytest.approx(1.25)  # of the whole: 1, 0, 0, 4


def test_the_policys_loss_on_what_is_still_to_come_by_hand(model, rollout, tiny_settings):
    # First point as above, on log π of −2, −1; −3, −3: −2/2 + 4/4 + 3/2 − 12/4 = −1.5. Second: A = (3, 0), (−3, 0)
    # on 0, 0; −1, 0: 3/2. Together 0, over −4.
    numbers = numbered(rollout, LENGTHS, LOG_PROB)
    assert tiny_settings.select.reward_to_go
    loss, reward = loss_of(model, numbers, torch.stack([REWARDS, LATER]), tiny_settings.select)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert reward == pytest.approx(1.25)
    # Were the second point's advantages (−5, 0), (5, 0), it were −1.5 − 5/2 = −4, over −4.
    other = torch.stack([REWARDS, torch.tensor([[0.0, 1.0], [5.0, 1.0]])])
    assert loss_of(model, numbers, other, tiny_settings.select)[0].item() == pytest.approx(1.0)


def test_the_papers_loss_by_hand(model, rollout, tiny_settings):
    # Own sample in the baseline: A = (½, −2), (−½, 2); token averages −.2, −.1, −.4, −.3, whatever the length.
    # −mean of −.1, .2, .2, −.6 is .075.
    numbers = numbered(rollout, LENGTHS, LOG_PROB)
    paper = override(tiny_settings, PRESETS["tr-bert"]).select
    loss, _ = loss_of(model, numbers, torch.stack([REWARDS, LATER]), paper)
    assert loss.item() == pytest.approx(0.075)


def test_relaxed_trajectories_pay_for_the_tokens_that_they_leave_by_hand(model, rollout, tiny_settings):
    # Documents of 4 and 16 tokens, λ = 2, tokens the price: sample 0 leaves (4, 2) and (8, 4), ¾ and ⅜ of the price;
    # sample 1 leaves (2, 1) and (16, 16), ⅜ and 1. At dials 0 and −log 2 the second document's penalty is 4.
    counts = torch.tensor([[[4.0, 8.0], [2.0, 16.0]], [[2.0, 4.0], [1.0, 16.0]]], requires_grad=True)
    numbers = numbered(rollout, LENGTHS, LOG_PROB, counts=counts)
    terms = RewardTerms(penalty=2.0, keep_ratios=(0.0, 0.0), price="tokens")
    dynamics = Dynamics(model.encoder, model.points, terms, model.cost)
    dials = torch.tensor([[0.0, -math.log(2)]] * 2)
    logits, labels = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    kept = counts.detach().long().flatten(1)
    numbers = dataclasses.replace(numbers, state=dataclasses.replace(numbers.state, kept=kept))
    loss, reward = select_loss(dynamics, numbers, logits, labels, dials, tiny_settings.select)
    paid = [2 * 3 / 4, 4 * 3 / 8, 2 * 3 / 8, 4 * 1]
    assert loss.item() == pytest.approx(sum(paid) / 4)
    assert reward == pytest.approx(-math.log(2) - sum(paid) / 4)
    (gradient,) = torch.autograd.grad(loss, counts)
    # λ·e^−dial / (two points · n · four trajectories).
    expected = torch.tensor([2 / (2 * 4 * 4), 4 / (2 * 16 * 4)]).expand(2, 2, 2)
    assert_close(gradient, expected)


def test_only_drawn_trajectories_count_and_the_further_one_does_not(model, make_rollout, tiny_settings):
    # A third sample, deployed, of any numbers: the loss of the first two is as if it were not there.
    more = torch.cat([LOG_PROB, torch.full((2, 1, 2), -70.0)], 1)
    returns = torch.stack([REWARDS, LATER])
    found = loss_of(model, numbered(make_rollout(3), LENGTHS, more), returns, tiny_settings.select)
    expected = loss_of(model, numbered(make_rollout(2), LENGTHS, LOG_PROB), returns, tiny_settings.select)
    assert found[0].item() == pytest.approx(expected[0].item())


@learning
def test_an_items_gradient_is_that_of_the_environments_returns(make_model, train, changes):
    model = make_model(changes)
    item = RolloutItem(index=0, version=3, documents=(3, 1, 4, 15))
    found = model.sampler(train).gradient(flatten(model.policy), item)
    documents = torch.tensor(item.documents)
    part, draw = train.take(documents, torch.device("cpu")), Draw(seed=0, version=3, documents=documents)
    dials = drawn_dials(model.settings.select, draw, 4)
    tau = model.settings.select.temperature if "selector" in changes else None
    rollout = sample_trajectories(model.dynamics, model.policy, part.tokens, draw, dials, temperature=tau)
    logits, labels = model.encoder.logits(rollout.state.batch), part.labels.repeat(4)
    lengths, kept = part.tokens.lengths.repeat(4), rollout.state.kept
    returns = model.dynamics.returns(lengths, kept, logits.detach(), labels, dials.flatten()).view(2, 4, 4)
    assert found.reward == pytest.approx(float(returns[0].mean()), abs=1e-5)
    if tau is None:
        others = (returns.sum(1, keepdim=True) - returns) / 3
        log_prob = rollout.log_prob / part.tokens.lengths.sqrt()
        loss = -((returns - others) * log_prob).sum() / 4  # summed over documents, meaned over samples
    else:
        charge = model.dynamics.charge(lengths, rollout.counts.flatten(1))
        paid = model.settings.select.penalty * torch.exp(-dials.flatten()) * charge
        loss = (torch.nn.functional.cross_entropy(logits, labels, reduction="none") + paid).sum() / 4
    parts = torch.autograd.grad(loss, list(model.policy.parameters()))
    gradient = torch.cat([part.flatten() for part in parts]).numpy()
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-3, atol=1e-5)


# Dials in training.


def test_a_document_has_one_dial_for_all_its_samples_and_its_own_in_each_step(tiny_settings):
    settings = dataclasses.replace(tiny_settings.select, dial_range=2.0)
    dials = drawn_dials(settings, Draw(seed=0, version=7, documents=torch.arange(4000)), 3)
    assert dials.shape == (3, 4000)
    assert torch.equal(dials[0].expand(3, -1), dials)
    assert dials.abs().max() <= 2.0
    assert float(dials.mean()) == pytest.approx(0.0, abs=0.07)
    assert float(dials.std()) == pytest.approx(2.0 / math.sqrt(3), abs=0.05)
    part = drawn_dials(settings, Draw(seed=0, version=7, documents=torch.tensor([31, 4])), 2)
    assert torch.equal(part, dials[:2, [31, 4]])
    for draw in (
        Draw(seed=0, version=8, documents=torch.arange(50)),
        Draw(seed=1, version=7, documents=torch.arange(50)),
    ):
        assert not torch.equal(drawn_dials(settings, draw, 1)[0], dials[0, :50])


def test_without_a_range_every_dial_is_0(tiny_settings):
    one = dataclasses.replace(tiny_settings.select, dial_range=0.0)
    dials = drawn_dials(one, Draw(seed=0, version=7, documents=torch.arange(5)), 3)
    assert torch.equal(dials, torch.zeros(3, 5))


def test_a_policy_of_a_range_of_dials_sees_them_and_samples_along_them(make_model, train):
    assert make_model({"select.dial_range": 0.0}).policy.features == ("document", "neighbours")
    model = make_model({"select.dial_range": 6.0})
    assert model.policy.features == ("document", "neighbours", "dial")
    documents = torch.arange(40)
    item = RolloutItem(index=0, version=0, documents=tuple(range(40)))
    part = train.take(documents, torch.device("cpu"))
    rollout, _, dials = model.sampler(train)._sample(part, documents, item)
    assert torch.equal(dials, drawn_dials(model.settings.select, Draw(seed=0, version=0, documents=documents), 4))
    kept = rollout.state.kept.view(2, 4, 40).sum((0, 1)) / part.tokens.lengths
    assert kept[dials[0] > 2].min() > kept[dials[0] < -2].max()  # an untrained policy keeps by the dial alone


def test_a_rule_has_nothing_to_select(make_model, train):
    class Untouched:
        def gradients(self, weights, items):
            pytest.fail("a gradient was asked for")

    model = make_model({"selector": "first", "select.warm_start_documents": 240})
    model.select(train, Untouched(), lambda step: pytest.fail("a step was taken"))
    assert not list(model.policy.parameters())


# The paper's recipe.


def test_the_papers_recipe_runs_with_its_guided_sample(make_model, train):
    model = make_model(PRESETS["tr-bert"] | {"select.points": (0, 2), "select.documents": 96, "joint.documents": 32})
    guided = []

    class Watched:
        def __init__(self, sampler):
            self.sampler = sampler

        def gradients(self, weights, items):
            guided.append({item.guided for item in items})
            return self.sampler.gradients(weights, items)

    told = Told()
    model.select(train, Watched(model.sampler(train)), told)
    assert guided == [{True}, {True}, {False}]  # the first half of three steps
    assert all(math.isfinite(step["reward"]) for step in told)
    model.join(train, told)
    assert {step["steps"] for step in told} == {3, 1}


def test_the_guided_sample_keeps_the_most_salient_tokens_and_then_all_of_them(make_model, train):
    model = make_model({"select.samples": 3})
    documents = torch.arange(10, 16)
    part = train.take(documents, torch.device("cpu"))
    item = RolloutItem(index=0, version=0, documents=tuple(documents.tolist()), guided=True)
    rollout, *_ = model.sampler(train)._sample(part, documents, item)
    _, scores = saliency(model.encoder, part.tokens, part.labels, model.points)
    with torch.no_grad():
        probability = logits_at(model, model.dynamics.reset(part.tokens).batch).sigmoid()
    offsets = part.tokens.offsets.tolist()
    for start, end in itertools.pairwise(offsets):
        count = round(float(probability[start:end].sum()))
        ranked = sorted(range(start + 1, end), key=lambda place: -float(scores[0, place]))
        kept = {start, *ranked[: count - 1]}  # the first token is protected, and counts
        assert set((rollout.masks[0][-1, start:end].nonzero()[:, 0] + start).tolist()) == kept
    kept = rollout.state.kept.view(2, 3, 6)
    assert torch.equal(kept[0, -1], kept[1, -1])  # held to at the second point
    assert not torch.equal(kept[0, 0], kept[1, 0])  # as the drawn samples are not
    plain, *_ = model.sampler(train)._sample(part, documents, dataclasses.replace(item, guided=False))
    assert torch.equal(plain.masks[0][:2], rollout.masks[0][:2])
    assert not torch.equal(plain.masks[0][2], rollout.masks[0][2])


# Warm start.


def agreement(model, train):
    """The share of unprotected tokens on which the policy's threshold and the saliency target agree."""
    (batch, _), scores = saliency(model.encoder, train.tokens, train.labels, model.points)
    targets = most_salient(batch, scores, 0.5 * train.tokens.lengths)[0]
    with torch.no_grad():
        keep = logits_at(model, model.dynamics.reset(train.tokens).batch) >= 0
    free = ~train.tokens.protected
    return float((keep == targets)[free].double().mean())


def test_a_warm_start_imitates_saliency(make_model, train):
    model = make_model({"select.warm_start_documents": 240, "select.learning_rate": 1e-9})
    encoder, before = weights_of(model.encoder.model), agreement(model, train)
    settings = model.settings
    warm_start(model.policy, model.dynamics, train, settings.select, settings.compute, 0)
    assert agreement(model, train) > max(before, 0.5) + 0.06
    assert same(weights_of(model.encoder.model), encoder)


def most_salient_half(scores, offsets):
    """Returns the half of each document's tokens, rounded up, that scores highest, its first token among them."""
    target = torch.zeros(offsets[-1])
    for start, end in itertools.pairwise(offsets):
        ranked = sorted(range(start + 1, end), key=lambda place: -float(scores[place]))
        target[[start, *ranked[: math.ceil((end - start) / 2) - 1]]] = 1
    return target


def test_two_steps_of_a_warm_start_by_hand(make_model, train, monkeypatch):
    # Plain gradient descent in Adam's place shows how long each gradient is: that of the mean over the step's free
    # tokens of the cross-entropies at both points.
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    model, by_hand = (make_model({"select.warm_start_documents": 32}) for _ in range(2))
    with torch.no_grad():
        for one, other in zip(model.policy.parameters(), by_hand.policy.parameters(), strict=True):
            other.copy_(one.mul_(20))  # wide enough for the second step's gradient to differ from the first's
    before, parameters = flatten(model.policy), list(by_hand.policy.parameters())
    warm_start(model.policy, model.dynamics, train, model.settings.select, model.settings.compute, 3)
    for chosen in shuffled_batches(len(train.tokens), 16, 2, seed=3):
        part = train.take(chosen, torch.device("cpu"))
        states, scores = saliency(by_hand.encoder, part.tokens, part.labels, by_hand.points)
        free, offsets = ~part.tokens.protected, part.tokens.offsets.tolist()
        loss = torch.zeros(())
        for point, state in enumerate(states):
            target, logits = most_salient_half(scores[point], offsets), logits_at(by_hand, state, point)
            loss = loss + binary_cross_entropy_with_logits(logits[free], target[free], reduction="sum") / free.sum()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.sub_(1e-2 * gradient)
    moved = flatten(model.policy) - before
    expected = flatten(by_hand.policy) - before
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=2e-6)


def test_a_warm_start_cut_by_its_token_budget_learns_the_same(make_model, train, monkeypatch):
    found, cut = [], []

    def watched(encoder, tokens, labels, points):
        cut.append(len(tokens.input_ids))
        return saliency(encoder, tokens, labels, points)

    monkeypatch.setattr(stages, "saliency", watched)
    for tokens in (16384, 25):
        model = make_model({"select.warm_start_documents": 16, "compute.tokens_per_batch": tokens})
        settings = model.settings
        warm_start(model.policy, model.dynamics, train, settings.select, settings.compute, 0)
        found.append(flatten(model.policy))
    assert cut[0] > 25
    assert len(cut) > 2
    assert max(cut[1:]) <= 25
    # Adam's steps are of 1e-2; rounding must not turn one.
    assert np.isclose(*found, rtol=0, atol=5e-4).mean() > 0.98


def test_a_warm_start_takes_no_document_twice_where_it_asks_for_more_than_there_are(make_model, train, monkeypatch):
    seen = []

    def watched(encoder, tokens, labels, points):
        seen.append(len(tokens))
        return saliency(encoder, tokens, labels, points)

    monkeypatch.setattr(stages, "saliency", watched)
    model = make_model({"select.warm_start_documents": 1000, "select.step_documents": 80})
    warm_start(model.policy, model.dynamics, train, model.settings.select, model.settings.compute, 0)
    assert seen == [80, 80, 80]  # of 240


def test_without_documents_there_is_no_warm_start(make_model, train):
    model = make_model({"select.warm_start_documents": 0})
    before = flatten(model.policy)
    warm_start(model.policy, model.dynamics, train, model.settings.select, model.settings.compute, 0)
    assert np.array_equal(flatten(model.policy), before)


# The model around them.


def test_points_that_do_not_fit_the_encoder_are_refused(make_model):
    with pytest.raises(InputError, match="points must be rising layer indices from 0 to 3"):
        make_model({"select.points": (1, 4)})


def test_unset_points_are_the_papers(make_model):
    assert make_model({"select.points": None}).points == (1, 2)


def test_a_stage_that_is_stopped_keeps_what_it_learned(make_model, train):
    model = make_model()
    before, encoder = flatten(model.policy), weights_of(model.encoder.model)

    class Stop(Exception):
        pass

    def stop(step):
        if step["step"] == 2:
            raise Stop

    with pytest.raises(Stop):
        model.select(train, model.sampler(train), stop)
    assert not np.array_equal(flatten(model.policy), before)
    assert same(weights_of(model.encoder.model), encoder)
    assert all(parameter.requires_grad for parameter in model.encoder.model.parameters())
    assert_close(right(model.encoder, train), right(make_model().encoder, train))
