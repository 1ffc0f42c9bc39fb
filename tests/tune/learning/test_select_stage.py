"""The second stage on a tiny teacher, for whom one marker word decides the class: the policy alone."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from tests.tune.learning.watching import Told, right, same, weights_of
from trbert.errors import Diverged, InputError
from trbert.measure.cost import CostModel
from trbert.packed.tokens import Tokens
from trbert.runners import Eager
from trbert.runners.spans import Spans
from trbert.selection.saliency import most_salient, saliency
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from tune.learning import model as module
from tune.learning import select_stage as stages
from tune.learning.select_stage import (
    RolloutItem,
    flatten,
    frozen_runner,
    load_flat,
    select_loss,
    train_policy,
    warm_start,
)
from tune.learning.steps import shuffled_batches
from tune.settings import PRESETS, override


def logits_at(model, batch, point=0):
    """Returns the policy's logits at dial 0."""
    return model.policy.logits(batch, point, torch.zeros(1, len(batch)))[0]


# Relaxed decisions learn of the tokens that were kept alone, and so more slowly, where few may stay not at all.
GUMBEL = {"selector": "gumbel", "select.penalty": 0.1, "select.documents": 640}
LEARNING = {"policy": {}, "gumbel": GUMBEL}
learning = pytest.mark.parametrize("changes", LEARNING.values(), ids=LEARNING)


@learning
def test_select_leaves_the_encoder_bit_for_bit_and_raises_the_reward(make_model, train, changes):
    model = make_model(changes)
    encoder, policy = weights_of(model.reducer.encoder.plain), weights_of(model.policy)
    told = Told()
    model.select(train, model.sampler(train), told)
    assert same(weights_of(model.reducer.encoder.plain), encoder)
    assert all((parameter == 0).all() for parameter in model.reducer.fusion.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters)
    assert all(parameter.grad is None for parameter in model.reducer.encoder.plain.parameters())
    assert all(not torch.equal(value, policy[name]) for name, value in model.policy.named_parameters())
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
    (chosen,) = shuffled_batches(len(train), 16, 1, seed=0)
    items = [
        RolloutItem(index=index, version=0, examples=tuple(part.tolist())) for index, part in enumerate(chosen.split(8))
    ]
    by_hand = make_model()
    gradient = sum(each.gradient for each in by_hand.sampler(train).gradients(flatten(by_hand.policy), items)) / 16
    parts = torch.from_numpy(gradient).split([parameter.numel() for parameter in by_hand.policy.parameters()])
    for parameter, part in zip(by_hand.policy.parameters(), parts, strict=True):
        parameter.grad = part.view_as(parameter)
    torch.nn.utils.clip_grad_norm_(by_hand.policy.parameters(), 1.0)
    torch.optim.Adam(by_hand.policy.parameters(), lr=2e-2).step()
    train_policy(model.policy, model.sampler(train), train, model.settings.select, 0, lambda step: None)
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

    train_policy(model.policy, Even(), train, model.settings.select, 0, lambda step: None)
    np.testing.assert_allclose(before - flatten(model.policy), cut * along, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("selector", ["policy", "gumbel"])
def test_a_sampled_trajectory_has_no_gradient_for_the_encoder_which_gets_its_own_back(make_model, train, selector):
    model = make_model({"selector": selector})
    own = [*model.reducer.encoder.plain.parameters(), *model.reducer.fusion.parameters()]
    own[0].requires_grad_(False)  # as its user may have it
    documents = torch.arange(4)
    part = train.take(documents)
    item = RolloutItem(index=0, version=0, examples=(0, 1, 2, 3))
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
        model.sampler(train).gradient(flatten(model.policy), RolloutItem(index=0, version=0, examples=(0,)))
    assert all(parameter.requires_grad for parameter in model.reducer.encoder.plain.parameters())


@pytest.fixture
def numbered_source(model, train):
    """A source without gradients, whose items' rewards are 1, 2, 3 and so on; a list of the items of each step."""
    (item,) = model.sampler(train).gradients(flatten(model.policy), [RolloutItem(index=0, version=0, examples=(0, 1))])

    class Numbered(list):
        def gradients(self, weights, items):
            self.append(items)
            none = np.zeros_like(item.gradient)
            return [dataclasses.replace(item, gradient=none, reward=each.index + 1.0) for each in items]

    return Numbered()


def test_a_steps_items_and_what_is_told_of_them_by_hand(model, train, numbered_source, tiny_settings):
    # 33 documents are three steps of 16, each cut into items of 6, 6 and 4; the mean of 1, 2, 3 is 2.
    settings = dataclasses.replace(
        tiny_settings.select, documents=33, step_documents=16, item_documents=6, guided_share=0.0
    )
    told = Told()
    train_policy(model.policy, numbered_source, train, settings, 9, told)
    assert [[len(item.examples) for item in items] for items in numbered_source] == [[6, 6, 4]] * 3
    assert [[item.index for item in items] for items in numbered_source] == [[0, 1, 2]] * 3
    assert [{item.version for item in items} for items in numbered_source] == [{0}, {1}, {2}]
    assert [(step["step"], step["steps"], step["reward"]) for step in told] == [(1, 3, 2.0), (2, 3, 2.0), (3, 3, 2.0)]
    chosen = [[document for item in items for document in item.examples] for items in numbered_source]
    assert chosen == [each.tolist() for each in shuffled_batches(len(train), 16, 3, seed=9)]


def test_steps_and_items_have_so_many_documents_and_whole_examples_by_hand(model, numbered_source, tiny_settings):
    # Examples of four documents: 33 documents are 8 examples, 16 are 4, and 6 are 2.
    owner = torch.arange(10).repeat_interleave(4)
    queries = Examples(Tokens.from_lists([[2, 7]] * 40, None), torch.zeros(10), owner)
    settings = dataclasses.replace(
        tiny_settings.select, documents=33, step_documents=16, item_documents=6, guided_share=0.0
    )
    train_policy(model.policy, numbered_source, queries, settings, 0, lambda step: None)
    assert [[len(item.examples) for item in items] for items in numbered_source] == [[2, 2]] * 2


def test_items_have_eight_documents_on_a_processor_unless_it_is_set(model, train, numbered_source, tiny_settings):
    settings = dataclasses.replace(tiny_settings.select, documents=20, step_documents=20, item_documents=None)
    train_policy(model.policy, numbered_source, train, settings, 0, lambda step: None)
    assert [[len(item.examples) for item in items] for items in numbered_source] == [[8, 8, 4]]


@pytest.mark.parametrize(("share", "guided"), [(0.0, 0), (0.5, 2), (0.6, 3), (1.0, 4)])
def test_the_first_steps_are_guided_as_many_as_their_share_by_hand(
    model, train, numbered_source, tiny_settings, share, guided
):
    # Of four steps: 0, 2, 2.4 rounded up, 4.
    settings = dataclasses.replace(tiny_settings.select, documents=64, step_documents=16, guided_share=share)
    train_policy(model.policy, numbered_source, train, settings, 0, lambda step: None)
    found = [{item.guided for item in items} for items in numbered_source]
    assert found == [{True}] * guided + [{False}] * (4 - guided)


def test_what_an_item_tells_of_its_trajectories_by_hand(model, train):
    item, documents = RolloutItem(index=0, version=3, examples=(3, 1, 4)), torch.tensor([3, 1, 4])
    part = train.take(documents)
    rollout, *_ = model.sampler(train)._sample(part, documents, item)
    lengths, kept = part.tokens.lengths.repeat(model.settings.select.samples), rollout.state.kept
    assert (kept[1] < kept[0]).any()
    found = model.sampler(train).gradient(flatten(model.policy), item)
    # Tokens left after the last point, of all; the mean of the trajectories' charges.
    assert found.kept == pytest.approx(float(kept[1].sum() / lengths.sum()))
    assert found.charge == pytest.approx(float(model.dynamics.charge(lengths, kept).sum()) / len(lengths), rel=1e-5)


def test_items_together_give_what_each_gives_alone(model, train):
    weights, sampler = flatten(model.policy), model.sampler(train)
    first = RolloutItem(index=0, version=5, examples=(3, 1, 4))
    second = RolloutItem(index=1, version=5, examples=(15, 9, 2, 6))
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
    whole = sampler.gradient(weights, RolloutItem(index=0, version=5, examples=documents)).gradient
    cut = [
        sampler.gradient(weights, RolloutItem(index=index, version=5, examples=part)).gradient
        for index, part in enumerate([documents[:2], documents[2:6], documents[6:]])
    ]
    assert np.abs(whole).max() > 1e-3
    np.testing.assert_allclose(sum(cut), whole, rtol=1e-3, atol=1e-5)


@learning
@pytest.mark.parametrize("limit", ["budget", "memory"])
def test_an_item_over_budget_or_memory_is_cut_and_gives_the_same(make_model, train, changes, limit, monkeypatch):
    whole = make_model(changes)
    model = make_model(changes | ({"compute.tokens_per_batch": 100} if limit == "budget" else {}))
    item = RolloutItem(index=0, version=5, examples=(3, 1, 4, 15, 9, 2, 6))
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
    for name in ("reward", "charge"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-4)


@pytest.mark.parametrize("guided", [False, True])
@learning
def test_a_sampler_whose_layers_are_captured_gives_the_same_and_leaves_the_model_its_runner(
    make_model, train, changes, guided, monkeypatch
):
    """As on a GPU. Relaxed decisions need a gradient through the layers, so that these are not captured."""
    model = make_model(changes)
    item = RolloutItem(index=0, version=5, examples=(3, 1, 4, 15, 9, 2, 6), guided=guided)
    weights = flatten(model.policy)
    expected = model.sampler(train).gradient(weights, item)
    monkeypatch.setattr(module, "frozen_runner", lambda device: Spans())
    sampler = model.sampler(train)
    for _ in range(2):  # captured, and repeated
        found = sampler.gradient(weights, item)
        np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-3, atol=1e-5)
        for name in ("reward", "charge", "kept"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-5)
    runner = sampler.dynamics.reducer.encoder.runner
    assert type(runner) is Spans
    # Points 0 and 2 of 4 layers. The salient tokens are found without dropping any, in rows of other sizes.
    assert len(runner.captures) == (0 if changes else 2) + (2 if guided else 0)
    assert type(model.reducer.encoder.runner) is Eager
    assert model.dynamics.reducer is model.reducer


def test_salient_tokens_are_found_in_the_arithmetic_of_the_rollout(make_model, train, monkeypatch):
    # Two arithmetics in turn would drop what was captured at each item.
    arithmetic = []

    def listening(*given):
        arithmetic.append(torch.is_autocast_enabled("cpu"))
        return saliency(*given)

    monkeypatch.setattr(stages, "saliency", listening)
    for dtype in ("bfloat16", "float32"):
        sampler = make_model({"compute.dtype": dtype}).sampler(train)
        sampler.gradient(flatten(sampler.policy), RolloutItem(index=0, version=0, examples=(0, 1), guided=True))
    assert arithmetic == [True, False]


def test_the_layers_of_a_frozen_encoder_are_captured_on_a_gpu_alone():
    assert type(frozen_runner(torch.device("cuda", 0))) is Spans
    assert type(frozen_runner(torch.device("cpu"))) is Eager


def test_the_policys_gradient_takes_as_many_products_for_many_samples_as_for_few(make_model, train):
    counts = []
    for samples in (2, 16):
        model = make_model({"select.samples": samples})
        item = RolloutItem(index=0, version=0, examples=(0, 1, 2))
        rollout, _ = model.sampler(train)._sample(train.take(torch.arange(3)), torch.arange(3), item)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as told:
            torch.autograd.grad(rollout.log_prob.sum(), list(model.policy.parameters()))
        counts.append(sum(each.count for each in told.key_averages() if each.key == "aten::mm"))
    assert counts[0] == counts[1] > 0


def test_a_gradient_that_is_not_finite_is_refused_and_leaves_the_policy(make_model, train):
    model = make_model({})

    class Broken:
        def gradients(self, weights, items):
            (own,) = model.sampler(train).gradients(weights, items[:1])
            return [dataclasses.replace(own, gradient=np.full_like(own.gradient, np.nan))]

    before = flatten(model.policy)
    with pytest.raises(Diverged, match=r"^the policy's gradient norm must be finite, and is nan: lower"):
        train_policy(model.policy, Broken(), train, model.settings.select, 0, print)
    assert np.array_equal(flatten(model.policy), before)


def test_another_version_or_seed_draws_other_trajectories(make_model, train):
    model = make_model()
    weights, documents = flatten(model.policy), tuple(range(8))
    one = model.sampler(train).gradient(weights, RolloutItem(index=0, version=1, examples=documents))
    two = model.sampler(train).gradient(weights, RolloutItem(index=0, version=2, examples=documents))
    other = make_model({"seed": 1}).sampler(train)
    three = other.gradient(weights, RolloutItem(index=0, version=1, examples=documents))
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
        train_policy(model.policy, source, train, model.settings.select, 0, lambda step: None)
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
        part = train.take(torch.tensor([0, 1]))
        item = RolloutItem(index=0, version=0, examples=(0, 1))
        return model.sampler(train)._sample(part, torch.tensor([0, 1]), item)[0]

    return make


@pytest.fixture
def rollout(make_rollout):
    """Such a rollout of two samples."""
    return make_rollout(2)


LOG_PROB = torch.tensor([[[-2.0, -1.0], [-3.0, -3.0]], [[0.0, 0.0], [-1.0, 0.0]]])
"""By point; -2, -1, -4, -3 in the sum."""
REWARDS = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
PART = Examples.of_documents(Tokens.from_lists([[2] * 4, [2] * 16], None), torch.tensor([0, 0]))
"""Of 4 and 16 tokens."""


def numbered(rollout, log_prob, **others):
    """Returns the rollout with numbers by hand."""
    return dataclasses.replace(rollout, log_prob=log_prob, mean_log_prob=log_prob / 10, **others)


def loss_of(model, rollout, returns, settings, part=PART):
    """Returns the select stage's loss and mean reward where trajectories [points, samples, examples] return this."""

    class Paying(Dynamics):
        def returns(self, examples, kept, outputs):
            assert len(examples) == returns[0].numel()
            return returns.flatten(1)

    paying = Paying(model.reducer, model.dynamics.terms, model.cost)
    samples = returns.shape[1]
    return select_loss(paying, rollout, torch.zeros(samples * len(part.tokens), 2), part, samples, settings)


LATER = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
"""Returns at the second point, where the first point's charges are past."""


def test_the_policys_loss_by_hand(model, rollout, tiny_settings):
    numbers = numbered(rollout, LOG_PROB)
    whole = dataclasses.replace(tiny_settings.select, reward_to_go=False)
    # Leave one out: A = (1, −4) and (−1, 4). −mean A·log π/√n of −2/2, 4/4; 4/2, −12/4 is −(−1 + 1 + 2 − 3)/4.
    returns = torch.stack([REWARDS, LATER])
    loss, reward = loss_of(model, numbers, returns, whole)
    assert loss.item() == pytest.approx(0.25)
    assert reward == pytest.approx(1.25)  # of the whole: 1, 0, 0, 4


def test_the_policys_loss_on_what_is_still_to_come_by_hand(model, rollout, tiny_settings):
    # First point as above, on log π of −2, −1; −3, −3: −2/2 + 4/4 + 3/2 − 12/4 = −1.5. Second: A = (3, 0), (−3, 0)
    # on 0, 0; −1, 0: 3/2. Together 0, over −4.
    numbers = numbered(rollout, LOG_PROB)
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
    numbers = numbered(rollout, LOG_PROB)
    paper = override(tiny_settings, PRESETS["tr-bert"]).select
    loss, _ = loss_of(model, numbers, torch.stack([REWARDS, LATER]), paper)
    assert loss.item() == pytest.approx(0.075)


def test_relaxed_trajectories_pay_for_the_tokens_that_they_leave_by_hand(model, rollout, tiny_settings):
    # Documents of 4 and 16 tokens, λ = 2, tokens the price: sample 0 leaves (4, 2) and (8, 4), ¾ and ⅜ of the price;
    # sample 1 leaves (2, 1) and (16, 16), ⅜ and 1.
    counts = torch.tensor([[[4.0, 8.0], [2.0, 16.0]], [[2.0, 4.0], [1.0, 16.0]]], requires_grad=True)
    numbers = numbered(rollout, LOG_PROB, counts=counts)
    terms = RewardTerms(penalty=2.0, keep_ratios=(0.0, 0.0), price="tokens")
    dynamics = Dynamics(model.reducer, terms, model.cost)
    kept = counts.detach().long().flatten(1)
    numbers = dataclasses.replace(numbers, state=dataclasses.replace(numbers.state, kept=kept))
    loss, reward = select_loss(dynamics, numbers, torch.zeros(4, 2), PART, 2, tiny_settings.select)
    paid = [2 * 3 / 4, 2 * 3 / 8, 2 * 3 / 8, 2 * 1]
    assert loss.item() == pytest.approx(sum(paid) / 4)
    assert reward == pytest.approx(-math.log(2) - sum(paid) / 4)
    (gradient,) = torch.autograd.grad(loss, counts)
    # λ / (two points · n · four trajectories).
    expected = torch.tensor([2 / (2 * 4 * 4), 2 / (2 * 16 * 4)]).expand(2, 2, 2)
    assert_close(gradient, expected)


def test_only_drawn_trajectories_count_and_the_further_one_does_not(model, make_rollout, tiny_settings):
    # A third sample, deployed, of any numbers: the loss of the first two is as if it were not there.
    more = torch.cat([LOG_PROB, torch.full((2, 1, 2), -70.0)], 1)
    returns = torch.stack([REWARDS, LATER])
    found = loss_of(model, numbered(make_rollout(3), more), returns, tiny_settings.select)
    expected = loss_of(model, numbered(make_rollout(2), LOG_PROB), returns, tiny_settings.select)
    assert found[0].item() == pytest.approx(expected[0].item())


@learning
def test_an_items_gradient_is_that_of_the_environments_returns(make_model, train, changes):
    model = make_model(changes)
    item = RolloutItem(index=0, version=3, examples=(3, 1, 4, 15))
    found = model.sampler(train).gradient(flatten(model.policy), item)
    documents = torch.tensor(item.examples)
    part, draw = train.take(documents), Draw(seed=0, version=3, documents=documents)
    dials = torch.zeros(4, 4)
    tau = model.settings.select.temperature if "selector" in changes else None
    rollout = sample_trajectories(model.dynamics, model.policy, part.tokens, draw, dials, temperature=tau)
    outputs, drawn = model.reducer.outputs(rollout.state), part.repeat(4)
    returns = model.dynamics.returns(drawn, rollout.state.kept, outputs.detach()).view(2, 4, 4)
    assert found.reward == pytest.approx(float(returns[0].mean()), abs=1e-5)
    if tau is None:
        others = (returns.sum(1, keepdim=True) - returns) / 3
        log_prob = rollout.log_prob / part.tokens.lengths.sqrt()
        loss = -((returns - others) * log_prob).sum() / 4  # summed over documents, meaned over samples
    else:
        paid = model.settings.select.penalty * model.dynamics.charge(drawn.tokens.lengths, rollout.counts.flatten(1))
        loss = (torch.nn.functional.cross_entropy(outputs, drawn.targets, reduction="none") + paid).sum() / 4
    parts = torch.autograd.grad(loss, list(model.policy.parameters()))
    gradient = torch.cat([part.flatten() for part in parts]).numpy()
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-3, atol=1e-5)


# Examples of two documents each.

TWO_EACH = Examples(
    Tokens.from_lists([[2] * 4, [2] * 16, [2] * 1, [2] * 9], None), torch.tensor([0, 0]), torch.tensor([0, 0, 1, 1])
)
"""Two examples: of 4 and 16 tokens, and of 1 and 9."""


def test_both_documents_of_an_example_get_its_advantage_by_hand(model, make_rollout, tiny_settings):
    # The first example returns 1 and 4 in the two samples, the second 2 and 2: A = (−3, 0) and (3, 0).
    returns = torch.tensor([[[1.0, 2.0], [4.0, 2.0]]])
    log_prob = torch.tensor([[[-2.0, -4.0, -5.0, -6.0], [-8.0, -1.0, -7.0, -9.0]]], requires_grad=True)
    whole = dataclasses.replace(tiny_settings.select, reward_to_go=False)
    numbers = numbered(make_rollout(2), log_prob)
    loss, reward = loss_of(model, numbers, returns, whole, TWO_EACH)
    # A · log π / √n of −3·(−2/2 − 4/4) = 6 and 3·(−8/2 − 1/4) = −12.75: their sum −6.75, over two samples of two
    # examples.
    assert loss.item() == pytest.approx(6.75 / 4)
    assert reward == pytest.approx(9 / 4)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert_close(gradient, torch.tensor([[[3 / 2, 3 / 4, 0, 0], [-3 / 2, -3 / 4, 0, 0]]]) / 4)


def test_the_papers_loss_of_examples_of_two_documents_by_hand(model, make_rollout, tiny_settings):
    # Own sample in the baseline: A = (−1.5, 1.5) for the first example. Token averages are a tenth of log π:
    # −1.5·(−.2 − .4) + 1.5·(−.8 − .1) = −.45, over two samples of two examples.
    returns = torch.tensor([[[1.0, 2.0], [4.0, 2.0]]])
    log_prob = torch.tensor([[[-2.0, -4.0, -5.0, -6.0], [-8.0, -1.0, -7.0, -9.0]]])
    paper = override(tiny_settings, PRESETS["tr-bert"]).select
    loss, _ = loss_of(model, numbered(make_rollout(2), log_prob), returns, paper, TWO_EACH)
    assert loss.item() == pytest.approx(0.45 / 4)


def test_relaxed_examples_pay_for_their_documents_together_by_hand(model, make_rollout, tiny_settings):
    # A price of 1 a token at each of four layers, and nothing else: unreduced the documents cost 4 · (4, 16, 1, 9). Two
    # layers follow each point. With λ = 2 and sample 0 leaving all, sample 1 one token of each:
    # 2·(4 + 16)·4/(4·20) = 2 and 2·(1 + 1)·4/(4·20) = .2 of the first example, 2 and 2·2·4/(4·10) = .4 of the second.
    cost = CostModel(
        embedding_per_token=0.0, layer_per_token=(1.0,) * 4, layer_per_pair=(0.0,) * 4, head_per_document=0.0
    )
    reducer = dataclasses.replace(model.reducer, task=TASKS["multiple_choice"])
    dynamics = Dynamics(reducer, RewardTerms(penalty=2.0, keep_ratios=(0.0, 0.0)), cost)
    counts = torch.tensor([[[4.0, 16.0, 1.0, 9.0], [1.0, 1.0, 1.0, 1.0]]] * 2, requires_grad=True)
    numbers = numbered(make_rollout(2), torch.zeros(2, 2, 4), counts=counts)
    kept = counts.detach().long().flatten(1)
    numbers = dataclasses.replace(numbers, state=dataclasses.replace(numbers.state, kept=kept))
    loss, reward = select_loss(dynamics, numbers, torch.zeros(8, 1), TWO_EACH, 2, tiny_settings.select)
    assert loss.item() == pytest.approx((2 + 0.2 + 2 + 0.4) / 4)
    assert reward == pytest.approx(-math.log(2) - (2 + 0.2 + 2 + 0.4) / 4)  # one of two is right
    (gradient,) = torch.autograd.grad(loss, counts)
    # λ · two layers / (the example's whole price), over two samples of two examples.
    assert_close(gradient, torch.tensor([4 / 80, 4 / 80, 4 / 40, 4 / 40]).expand(2, 2, 4) / 4)


def test_an_item_of_examples_of_two_documents_is_their_mean_wherever_it_is_cut(make_model, train):
    # The same gradient, summed over examples, from one item or two; and the reward of both is their mean.
    model = make_model({})
    reducer = dataclasses.replace(model.reducer, task=TASKS["multiple_choice"])
    picks = dataclasses.replace(model.dynamics, reducer=reducer)
    examples = Examples(train.tokens.take(torch.arange(12)), train.targets[:6], torch.arange(6).repeat_interleave(2))
    sampler = stages.Sampler(picks, model.policy, examples, model.settings.select, model.settings.compute, 0)
    weights = flatten(model.policy)
    whole = sampler.gradient(weights, RolloutItem(index=0, version=3, examples=(4, 1, 5)))
    one = sampler.gradient(weights, RolloutItem(index=0, version=3, examples=(4,)))
    two = sampler.gradient(weights, RolloutItem(index=1, version=3, examples=(1, 5)))
    assert np.abs(whole.gradient).max() > 1e-3
    np.testing.assert_allclose(one.gradient + two.gradient, whole.gradient, rtol=1e-3, atol=1e-5)
    assert whole.reward == pytest.approx((one.reward + 2 * two.reward) / 3, rel=1e-4)


# A rule.


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
    part = train.take(documents)
    item = RolloutItem(index=0, version=0, examples=tuple(documents.tolist()), guided=True)
    rollout, *_ = model.sampler(train)._sample(part, documents, item)
    _, scores = saliency(model.reducer.encoder, model.reducer.task, part, model.points)
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
    (batch, _), scores = saliency(model.reducer.encoder, model.reducer.task, train, model.points)
    targets = most_salient(batch, scores, 0.5 * train.tokens.lengths)[0]
    with torch.no_grad():
        keep = logits_at(model, model.dynamics.reset(train.tokens).batch) >= 0
    free = ~train.tokens.protected
    return float((keep == targets)[free].double().mean())


def test_a_warm_start_imitates_saliency(make_model, train):
    model = make_model({"select.warm_start_documents": 240, "select.learning_rate": 1e-9})
    encoder, before = weights_of(model.reducer.encoder.plain), agreement(model, train)
    settings = model.settings
    warm_start(model.policy, model.dynamics, train, settings.select, settings.compute, 0)
    assert agreement(model, train) > max(before, 0.5) + 0.06
    assert same(weights_of(model.reducer.encoder.plain), encoder)


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
    for chosen in shuffled_batches(len(train), 16, 2, seed=3):
        part = train.take(chosen)
        states, scores = saliency(by_hand.reducer.encoder, by_hand.reducer.task, part, by_hand.points)
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

    def watched(encoder, task, part, points):
        cut.append(int(part.lengths.sum()))
        return saliency(encoder, task, part, points)

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

    def watched(encoder, task, part, points):
        seen.append(len(part))
        return saliency(encoder, task, part, points)

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
    before, encoder = flatten(model.policy), weights_of(model.reducer.encoder.plain)

    class Stop(Exception):
        pass

    def stop(step):
        if step["step"] == 2:
            raise Stop

    with pytest.raises(Stop):
        model.select(train, model.sampler(train), stop)
    assert not np.array_equal(flatten(model.policy), before)
    assert same(weights_of(model.reducer.encoder.plain), encoder)
    assert all(parameter.requires_grad for parameter in model.reducer.encoder.plain.parameters())
    assert_close(right(model.reducer, train), right(make_model().reducer, train))
