"""The three stages on a tiny teacher, for whom one marker word decides the class."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from envs.rollout import Draw
from trbert.errors import InputError
from trbert.saliency import most_salient, saliency
from tune.learner import shuffled_batches
from tune.settings import PRESETS, JointSettings, override
from tune.stages import (
    Examples,
    RolloutItem,
    _joint_dials,
    _task_loss,
    flatten,
    load_flat,
    select_loss,
    train_policy,
    train_teacher,
    training_seconds,
    warm_start,
)
from tune.training import Model

QUICK = {
    "select.points": (0, 2),
    "select.samples": 4,
    "select.documents": 320,
    "select.step_documents": 16,
    "select.item_documents": 8,
    "select.learning_rate": 2e-2,
    "select.warm_start_documents": 0,
    "joint.documents": 64,
    "joint.learning_rate": 1e-3,
}


@pytest.fixture(scope="module")
def train(prepared):
    return prepared.train.examples()


@pytest.fixture
def make_model(prepared, tiny_settings):
    """A function: changed settings -> a fresh copy of the teacher with an untrained policy."""

    def make(changes=None):
        return Model(prepared, override(tiny_settings, QUICK | (changes or {})))

    return make


@pytest.fixture
def model(make_model):
    return make_model()


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
        return encoder.logits(encoder.run_layers(encoder.embed(tokens), 0, len(encoder.layers)))


def right(encoder, examples):
    return float((logits_of(encoder, examples.tokens).argmax(-1) == examples.labels).double().mean())


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
    before, threads = weights_of(model.encoder.model), torch.get_num_threads()
    assert 0 < training_seconds(model.encoder, train, "float32", threads + 1) < 60
    assert torch.get_num_threads() == threads
    assert same(weights_of(model.encoder.model), before)
    assert all(parameter.grad is None for parameter in model.encoder.model.parameters())


# Select.


def test_select_leaves_the_encoder_bit_for_bit_and_raises_the_reward(model, train):
    encoder, policy = weights_of(model.encoder.model), weights_of(model.policy)
    told = Told()
    model.select(train, model.sampler(train), told)
    assert same(weights_of(model.encoder.model), encoder)
    assert all(parameter.requires_grad for parameter in model.encoder.model.parameters())
    assert all(parameter.grad is None for parameter in model.encoder.model.parameters())
    assert not same(weights_of(model.policy), policy)
    assert [step["step"] for step in told] == list(range(1, 21))
    first, last = (np.mean([step["reward"] for step in part]) for part in (told[:4], told[-4:]))
    assert last > first + 0.1


def test_select_learns_to_keep_the_word_that_decides(model, train, prepared):
    model.select(train, model.sampler(train), lambda step: None)
    markers = torch.tensor(prepared.tokenizer.convert_tokens_to_ids(["alpha", "beta"]))
    with torch.no_grad():
        state = model.dynamics.reset(train.tokens)
        keep = model.policy.logits(state.batch, 0).sigmoid()
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


def test_a_steps_gradient_does_not_depend_on_how_it_is_cut_into_items(model, train):
    weights, sampler = flatten(model.policy), model.sampler(train)
    documents = (3, 1, 4, 15, 9, 2, 6)
    whole = sampler.gradient(weights, RolloutItem(index=0, version=5, documents=documents)).gradient
    cut = [
        sampler.gradient(weights, RolloutItem(index=index, version=5, documents=part)).gradient
        for index, part in enumerate([documents[:2], documents[2:6], documents[6:]])
    ]
    assert np.abs(whole).max() > 1e-3
    np.testing.assert_allclose(sum(cut), whole, rtol=1e-3, atol=1e-5)


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
def rollout(make_model, train):
    """A finished rollout of two documents and two samples, to be given numbers by hand."""
    model = make_model({"select.samples": 2})
    part = train.take(torch.tensor([0, 1]), torch.device("cpu"))
    item = RolloutItem(index=0, version=0, documents=(0, 1))
    return model.sampler(train)._sample(part, torch.tensor([0, 1]), item)[0]


LOG_PROB = torch.tensor([[[-2.0, -1.0], [-3.0, -3.0]], [[0.0, 0.0], [-1.0, 0.0]]])
"""By point; -2, -1, -4, -3 in the sum."""
REWARDS = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
LENGTHS = torch.tensor([4, 16])


def test_the_policys_loss_by_hand(rollout, tiny_settings):
    # Leave one out: A = (1, −4) and (−1, 4). −mean A·log π/√n of −2/2, 4/4; 4/2, −12/4 is −(−1 + 1 + 2 − 3)/4.
    numbers = dataclasses.replace(
        rollout, log_prob=LOG_PROB, mean_log_prob=LOG_PROB / 10, entropy=LENGTHS * LOG_PROB.sum(0).abs()
    )
    assert select_loss(numbers, REWARDS, LENGTHS, tiny_settings.select).item() == pytest.approx(0.25)
    # Entropies per token 2, 1, 4, 3 are 2.5 in the mean.
    with_entropy = dataclasses.replace(tiny_settings.select, entropy=0.1)
    assert select_loss(numbers, REWARDS, LENGTHS, with_entropy).item() == pytest.approx(0.0, abs=1e-6)


def test_the_loss_of_siblings_by_hand(rollout, tiny_settings):
    # One document of 4 tokens, samples 0 and 2, 1 and 3 siblings; returns 1, 5, 3, 9. Shared −5, 5, −5, 5; parted −2,
    # −4, 2, 4. With log π of −1, −2, −1, −2 and −1, −2, −3, −4: 5 − 10 + 5 − 10 + 2 + 8 − 6 − 16 = −22, over −4·√4.
    log_prob = torch.tensor([[[-1.0], [-2.0], [-1.0], [-2.0]], [[-1.0], [-2.0], [-3.0], [-4.0]]])
    numbers = dataclasses.replace(rollout, log_prob=log_prob, mean_log_prob=log_prob, entropy=torch.zeros(4, 1))
    rewards = torch.tensor([[1.0], [5.0], [3.0], [9.0]])
    loss = select_loss(numbers, rewards, torch.tensor([4]), tiny_settings.select, siblings=2)
    assert loss.item() == pytest.approx(2.75)


def test_a_sampler_of_trees_compares_siblings(make_model, train):
    model = make_model({"select.samples": 4, "select.siblings": 2})
    sampler, documents = model.sampler(train), torch.arange(8)
    item = RolloutItem(index=0, version=0, documents=tuple(range(8)))
    part = train.take(documents, torch.device("cpu"))
    rollout, rewards = sampler._sample(part, documents, item)
    assert [len(masks) for masks in rollout.masks] == [2, 2]

    def gradient(siblings):
        loss = 8 * select_loss(rollout, rewards, part.tokens.lengths, sampler.settings, siblings)
        parts = torch.autograd.grad(loss, list(model.policy.parameters()), retain_graph=True)
        return torch.cat([g.flatten() for g in parts]).numpy()

    found = sampler.gradient(flatten(model.policy), item).gradient
    np.testing.assert_allclose(found, gradient(2), rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, gradient(1), rtol=1e-2)


def test_the_papers_loss_by_hand(rollout, tiny_settings):
    # Own sample in the baseline: A = (½, −2), (−½, 2); token averages −.2, −.1, −.4, −.3, whatever the length.
    # −mean of −.1, .2, .2, −.6 is .075.
    numbers = dataclasses.replace(rollout, log_prob=LOG_PROB, mean_log_prob=LOG_PROB / 10)
    paper = override(tiny_settings, PRESETS["tr-bert"]).select
    assert select_loss(numbers, REWARDS, LENGTHS, paper).item() == pytest.approx(0.075)


def test_the_task_loss_by_hand():
    # Two samples of two documents, one after the other. log 2 where the logits are even.
    even = torch.zeros(4, 2)
    labels = torch.tensor([0, 1, 0, 1])
    teacher = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # (¼, ¾) and (½, ½)
    tilted = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [0.0, math.log(3)], [0.0, 0.0]])
    gold = (math.log(4) + math.log(2)) / 2
    soft = (0.25 * math.log(4) + 0.75 * math.log(4 / 3) + math.log(2)) / 2
    for share, temperature, logits, expected in [
        (0.0, 1.0, tilted, gold),
        (1.0, 1.0, tilted, soft),
        (0.25, 1.0, tilted, 0.75 * gold + 0.25 * soft),
        (1.0, 2.0, even, 4 * math.log(2)),
    ]:
        settings = JointSettings(distillation=share, temperature=temperature)
        assert _task_loss(logits, labels, teacher, 2, settings).item() == pytest.approx(expected, rel=1e-5)
    assert _task_loss(tilted, labels, None, 2, JointSettings(distillation=1.0)).item() == pytest.approx(gold, rel=1e-5)


def draw_of(docs, version=7):
    return Draw(seed=0, version=version, documents=torch.arange(docs))


def test_every_document_of_the_joint_stage_is_also_deployed_at_a_dial_of_its_own():
    dials, deployed = _joint_dials(JointSettings(samples=3, dial_range=2.0, keep_all=0.1), draw_of(4000))
    assert dials.shape == (4, 4000)
    assert deployed.tolist() == [False, False, False, True]
    assert torch.equal(dials[:3], torch.zeros(3, 4000))
    whole = dials[3].isinf()
    assert float(whole.double().mean()) == pytest.approx(0.1, abs=0.015)
    assert (dials[3][whole] > 0).all()
    offsets = dials[3][~whole]
    assert offsets.abs().max() <= 2.0
    assert float(offsets.mean()) == pytest.approx(0.0, abs=0.07)
    assert float(offsets.std()) == pytest.approx(2.0 / math.sqrt(3), abs=0.05)


def test_a_documents_dial_depends_on_step_and_document_alone():
    settings = JointSettings()
    dials, _ = _joint_dials(settings, draw_of(50))
    part = Draw(seed=0, version=7, documents=torch.tensor([31, 4]))
    assert torch.equal(_joint_dials(settings, part)[0][-1], dials[-1, [31, 4]])
    assert not torch.equal(_joint_dials(settings, draw_of(50, version=8))[0], dials)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 50)])
def test_none_or_all_of_the_deployed_trajectories_may_keep_everything(share, expected):
    dials, _ = _joint_dials(JointSettings(keep_all=share), draw_of(50))
    assert int(dials[-1].isinf().sum()) == expected


def test_without_a_dial_range_no_trajectory_is_deployed():
    dials, deployed = _joint_dials(JointSettings(samples=2, dial_range=0.0), draw_of(5))
    assert torch.equal(dials, torch.zeros(2, 5))
    assert deployed.tolist() == [False, False]


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
    rollout, _ = model.sampler(train)._sample(part, documents, item)
    _, scores = saliency(model.encoder, part.tokens, part.labels, model.points)
    with torch.no_grad():
        probability = model.policy.logits(model.dynamics.reset(part.tokens).batch, 0).sigmoid()
    offsets = part.tokens.offsets.tolist()
    for start, end in itertools.pairwise(offsets):
        count = round(float(probability[start:end].sum()))
        ranked = sorted(range(start + 1, end), key=lambda place: -float(scores[0, place]))
        kept = {start, *ranked[: count - 1]}  # the first token is protected, and counts
        assert set((rollout.masks[0][-1, start:end].nonzero()[:, 0] + start).tolist()) == kept
    kept = rollout.state.kept.view(2, 3, 6)
    assert torch.equal(kept[0, -1], kept[1, -1])  # held to at the second point
    assert not torch.equal(kept[0, 0], kept[1, 0])  # as the drawn samples are not
    plain, _ = model.sampler(train)._sample(part, documents, dataclasses.replace(item, guided=False))
    assert torch.equal(plain.masks[0][:2], rollout.masks[0][:2])
    assert not torch.equal(plain.masks[0][2], rollout.masks[0][2])


# Warm start.


def agreement(model, train):
    """The share of unprotected tokens on which the policy's threshold and the saliency target agree."""
    (batch, _), scores = saliency(model.encoder, train.tokens, train.labels, model.points)
    targets = most_salient(batch, scores, 0.5 * train.tokens.lengths)[0]
    with torch.no_grad():
        keep = model.policy.logits(model.dynamics.reset(train.tokens).batch, 0) >= 0
    free = ~train.tokens.protected
    return float((keep == targets)[free].double().mean())


def test_a_warm_start_imitates_saliency(make_model, train):
    model = make_model({"select.warm_start_documents": 240, "select.learning_rate": 1e-2})
    encoder, before = weights_of(model.encoder.model), agreement(model, train)
    settings = model.settings
    warm_start(model.policy, model.dynamics, train, settings.select, settings.compute, 0)
    assert agreement(model, train) > max(before, 0.5) + 0.06
    assert same(weights_of(model.encoder.model), encoder)


def test_without_documents_there_is_no_warm_start(make_model, train):
    model = make_model({"select.warm_start_documents": 0})
    before = flatten(model.policy)
    warm_start(model.policy, model.dynamics, train, model.settings.select, model.settings.compute, 0)
    assert np.array_equal(flatten(model.policy), before)


# Joint.


def test_the_joint_stage_trains_encoder_and_policy_alike_for_the_same_seed(make_model, train):
    found = []
    for seed in (0, 0, 1):
        model, told = make_model({"seed": seed}), Told()
        load_flat(model.policy, flatten(make_model().policy))
        encoder, policy = weights_of(model.encoder.model), weights_of(model.policy)
        model.join(train, told)
        assert [step["step"] for step in told] == [1, 2, 3, 4]
        assert all(math.isfinite(step["task"]) and math.isfinite(step["reward"]) for step in told)
        moved = [not torch.equal(value, encoder[name]) for name, value in model.encoder.model.state_dict().items()]
        assert all(moved)
        assert not same(weights_of(model.policy), policy)
        assert not model.encoder.model.training
        found.append(weights_of(model.encoder.model) | weights_of(model.policy))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_a_joint_stage_of_no_documents_is_left_out(make_model, train):
    model = make_model({"joint.documents": 0})
    before = weights_of(model.encoder.model)
    model.join(train, lambda step: pytest.fail("a step was taken"))
    assert same(weights_of(model.encoder.model), before)


def test_distillation_follows_the_teacher_and_gold_labels_do_not(make_model, train):
    turned = Examples(train.tokens, train.labels, train.teacher_logits.flip(1))
    shares = []
    for distillation in (1.0, 0.0):
        model = make_model({"joint.distillation": distillation, "joint.documents": 640, "joint.learning_rate": 2e-3})
        model.join(turned, lambda step: None)
        shares.append(right(model.encoder, train))
    assert shares[0] < 0.3
    assert shares[1] > 0.7


@pytest.mark.parametrize("changes", [{"joint.keep_all": 1.0}, {"joint.dial_range": 0.0}, {"joint.distillation": 0.0}])
def test_no_setting_of_the_joint_stage_makes_a_weight_not_a_number(make_model, train, changes):
    model = make_model(changes | {"joint.documents": 32})
    model.join(train, lambda step: None)
    for value in (weights_of(model.encoder.model) | weights_of(model.policy)).values():
        assert value.isfinite().all()


def test_a_step_cut_by_its_token_budget_learns_the_same(make_model, train):
    found = []
    for tokens in (16384, 40):
        model = make_model({"joint.documents": 16, "compute.tokens_per_batch": tokens})
        told = Told()
        model.join(train, told)
        found.append((told[0]["loss"], flatten(model.policy)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    # Adam's first step moves each weight by about its learning rate, here 5e-4; rounding must not turn it.
    close = np.isclose(found[0][1], found[1][1], rtol=0, atol=2e-5)
    assert close.mean() > 0.98


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
