"""The third stage on the tiny teacher: encoder and selector together, for every selector."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from envs.rollout import Draw, sample_trajectories
from tests.tune.learning.watching import Told, right, same, weights_of
from trbert.dial import NEAR, DialCurve
from trbert.packed.tokens import Tokens
from trbert.selection.selectors import SELECTORS
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from tune.budget import StageTimeout
from tune.learning import joint_stage
from tune.learning.joint_stage import SCOUTED, Joint, gold_share, train_jointly
from tune.learning.select_stage import flatten, load_flat, select_loss
from tune.learning.steps import Team, shuffled_batches
from tune.settings import ComputeSettings

LEARNED = [name for name, kind in SELECTORS.items() if kind.learns]
RULES = [name for name in SELECTORS if name not in LEARNED]


def joint_of(model):
    settings = model.settings
    temperature = settings.select.temperature if model.selector.relaxed else None
    gold = gold_share(settings.joint.distillation, 1.0, unlabelled=False)
    return Joint(model.dynamics, model.selector, settings.select, settings.joint, "float32", temperature, gold)


# What it is made of.


def test_the_task_loss_by_hand():
    # Two samples of two documents, one after the other. log 2 where the logits are even.
    even = torch.zeros(4, 2)
    tokens = Tokens.from_lists([[5]] * 2, None)
    gold_alone = Examples.of_documents(tokens, torch.tensor([0, 1])).repeat(2)
    teacher = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # (¼, ¾) and (½, ½)
    examples = gold_alone.with_teacher(teacher.repeat(2, 1))
    task = TASKS["classification"]
    tilted = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [0.0, math.log(3)], [0.0, 0.0]])
    gold = (math.log(4) + math.log(2)) / 2
    soft = (0.25 * math.log(4) + 0.75 * math.log(4 / 3) + math.log(2)) / 2
    for share, temperature, logits, expected in [
        (1.0, 1.0, tilted, gold),
        (0.0, 1.0, tilted, soft),
        (0.75, 1.0, tilted, 0.75 * gold + 0.25 * soft),
        (0.0, 2.0, even, 4 * math.log(2)),
    ]:
        found = task.learning_loss(logits, examples, share, temperature)
        assert found.mean().item() == pytest.approx(expected, rel=1e-5)
    assert task.learning_loss(tilted, gold_alone, 0.0).mean().item() == pytest.approx(gold, rel=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_a_document_without_a_label_has_no_loss_against_its_target_by_hand(share):
    task, tokens = TASKS["classification"], Tokens.from_lists([[5]] * 2, None)
    logits = torch.tensor([[0.0, math.log(3)]] * 2)  # (¼, ¾) of both documents
    teacher = torch.tensor([[0.0, 0.0]] * 2)  # (½, ½)
    gold, soft = math.log(4 / 3), 0.5 * math.log(4) + 0.5 * math.log(4 / 3)
    labelled = Examples.of_documents(tokens.take(torch.tensor([0])), torch.tensor([1])).with_teacher(teacher[:1])
    other = Examples.of_documents(tokens.take(torch.tensor([1])), torch.tensor([0])).judged(
        torch.tensor([1]), teacher[1:]
    )
    examples = labelled.followed_by(other)
    expected = torch.tensor([share * gold + (1 - share) * soft, soft])
    torch.testing.assert_close(task.learning_loss(logits, examples, share), expected)
    # Its reward is its agreement with the teacher, and that of the other one the log-probability of its label.
    torch.testing.assert_close(task.fidelity(logits, examples), -torch.tensor([gold, soft]))


@pytest.mark.parametrize(
    ("distillation", "passes", "unlabelled", "share"),
    [
        (None, 1.0, False, 0.5),
        (None, 2.0, False, 0.5),
        (None, 12.0, False, 1 / 12),  # a sixth of a half
        (0.2, 4.0, False, 0.4),
        (None, 2.0, True, 0.0),
        (0.5, 4.0, True, 0.25),
        (1.0, 1.0, False, 0.0),
        (0.0, 0.0, False, 1.0),
    ],
)
def test_the_more_often_a_document_is_seen_the_less_its_label_counts_by_hand(distillation, passes, unlabelled, share):
    assert gold_share(distillation, passes, unlabelled) == pytest.approx(share)


def test_a_stage_counts_unlabelled_documents_where_it_asks_how_often_it_sees_each(make_model, train, monkeypatch):
    shares = []
    monkeypatch.setattr("tune.learning.model.train_jointly", lambda joint, *_: shares.append(joint.gold))
    further = train.judged(train.targets, train.teacher)
    for changes in ({}, {"joint.distillation": 0.0}):
        model = make_model({"joint.documents": 4 * len(train)} | changes)
        model.join(train, lambda step: None)
        model.join(train.followed_by(further), lambda step: None)
    assert shares == pytest.approx([0.25, 0.0, 0.5, 1.0])  # four passes over the labelled ones are two over all


def draw_of(docs, version=7):
    return Draw(seed=0, version=version, documents=torch.arange(docs))


# The dials of thresholded trajectories.


def spread(name, make_model, changes=None, version=7, samples=2):
    """Dials of 4,000 documents, and their log costs, which are -2 at the selector's cheapest and -1 at its dearest."""
    joint = joint_of(make_model({"selector": name, "joint.fastest": 4.0} | (changes or {})))
    curve = linear(joint)
    dials = joint.thresholded(draw_of(4000, version), curve, samples)
    return dials, np.interp(dials[:-1].double().numpy(), curve.dials, curve.log_costs), joint


def linear(joint):
    """A curve of the selector's dials whose log costs rise evenly from -2 to -1."""
    dials = joint.selector.dials
    return DialCurve(dials, np.linspace(-2.0, -1.0, len(dials)))


@pytest.mark.parametrize("name", SELECTORS)
def test_speed_ups_are_alike_in_log_between_the_fastest_and_what_the_selector_reaches(name, make_model):
    dials, costs, _ = spread(name, make_model)
    assert dials.shape == (2, 4000)
    # 4x is -1.39, which is dearer than the cheapest dial; -1 is the dearest.
    assert costs.min() == pytest.approx(-math.log(4), abs=1e-3)
    assert costs.max() == pytest.approx(-1.0, abs=1e-3)
    assert np.median(costs) == pytest.approx((-math.log(4) - 1) / 2, abs=0.02)
    _, faster, _ = spread(name, make_model, {"joint.fastest": 99.0})
    assert faster.min() == pytest.approx(-2.0, abs=1e-3)  # no faster than the cheapest dial


@pytest.mark.parametrize("name", SELECTORS)
def test_some_of_the_last_trajectories_keep_all_tokens(name, make_model):
    for share in (0.0, 0.1, 1.0):
        dials, _, joint = spread(name, make_model, {"joint.keep_all": share})
        whole = dials == joint.selector.keep_all
        assert not whole[0].any()
        assert float(whole[1].double().mean()) == pytest.approx(share, abs=0.015)


def test_a_documents_dials_depend_on_step_sample_and_document_alone(make_model):
    dials, _, joint = spread("policy", make_model)
    curve = linear(joint)
    part = Draw(seed=0, version=7, documents=torch.tensor([31, 4]))
    assert torch.equal(joint.thresholded(part, curve, 2), dials[:, [31, 4]])
    assert not torch.equal(dials[0], dials[1])
    assert not torch.equal(spread("policy", make_model, version=8)[0], dials)


@pytest.mark.parametrize("name", SELECTORS)
def test_the_costs_of_the_dials_are_those_of_the_model_as_it_is(name, make_model, train):
    model = make_model({"selector": name})
    joint, dials = joint_of(model), model.selector.dials
    costs = joint.curve(train).log_costs
    assert joint.curve(train).dials == dials
    assert (np.diff(costs) >= 0).all()
    assert costs[0] == pytest.approx(-math.log(model.evaluate(train, dials[0]).speed_up), abs=1e-6)
    # A dial between near ones is not measured: it is off by less than these differ.
    dear = -math.log(model.evaluate(train, dials[-2]).speed_up)
    assert costs[-2] == pytest.approx(dear, abs=NEAR)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.normal_(0, 3)
    assert np.array_equal(joint.curve(train).log_costs, costs) == (name not in LEARNED)


# The loss.


@pytest.mark.parametrize("changes", [{}, {"selector": "gumbel"}])
def test_the_loss_of_a_policy_is_the_tasks_on_every_trajectory_and_its_own_on_the_drawn(make_model, train, changes):
    model = make_model(changes)
    joint, documents = joint_of(model), torch.arange(6)
    part, draw = train.take(documents), Draw(seed=0, version=9, documents=documents)
    curve = joint.curve(train)
    loss, told = joint.loss(part, draw, curve)
    dials = torch.cat([torch.zeros(2, 6), joint.thresholded(draw, curve, 1)])
    deployed = torch.tensor([False, False, True])
    rollout = sample_trajectories(
        model.dynamics, model.policy, part.tokens, draw, dials, deployed, temperature=joint.temperature
    )
    outputs, teacher = model.reducer.outputs(rollout.state), part.teacher.repeat(3, 1).softmax(-1)
    task = 0.5 * cross_entropy(outputs, part.targets.repeat(3)) + 0.5 * cross_entropy(outputs, teacher)
    learned, reward = select_loss(model.dynamics, rollout, outputs, part, 2, joint.select)
    assert loss.item() == pytest.approx((task + learned).item(), rel=1e-4)
    assert told == {"reward": pytest.approx(reward, rel=1e-4), "task": pytest.approx(task.item(), rel=1e-4)}
    # What the policy learns from: of drawn decisions the reward alone, of relaxed ones the task as well.
    learns_of_task = torch.autograd.grad(task, list(model.policy.parameters()), allow_unused=True)
    assert all((g is not None and g.abs().max() > 0) == ("selector" in changes) for g in learns_of_task)


def test_without_a_fastest_no_trajectory_is_thresholded(make_model, train):
    model = make_model({"joint.fastest": 0.0, "joint.distillation": 0.0})
    joint, documents = joint_of(model), torch.arange(6)
    part, draw = train.take(documents), Draw(seed=0, version=9, documents=documents)
    rollout = sample_trajectories(model.dynamics, model.policy, part.tokens, draw, torch.zeros(2, 6))
    task = cross_entropy(model.reducer.outputs(rollout.state), part.targets.repeat(2))
    assert joint.loss(part, draw, joint.curve(train))[1]["task"] == pytest.approx(task.item(), rel=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_the_loss_of_a_rule_is_the_tasks_at_each_trajectorys_dial(name, make_model, train):
    model = make_model({"selector": name, "joint.distillation": 0.0, "select.points": (1, 2)})
    joint, documents = joint_of(model), torch.arange(6)
    part, draw = train.take(documents), Draw(seed=0, version=9, documents=documents)
    curve = joint.curve(train)
    loss, told = joint.loss(part, draw, curve)
    losses = []
    for row in joint.thresholded(draw, curve, joint.settings.samples + 1):
        for document, dial in enumerate(row.tolist()):
            own = train.take(torch.tensor([document]))
            finished = model.reducer.run(model.selector, own.tokens, dial, own)
            losses.append(cross_entropy(model.reducer.outputs(finished), own.targets))
    assert len(losses) == 18
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    assert told == {"task": pytest.approx(loss.item())}


# The stage.


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_is_trained_with_its_encoder_alike_for_the_same_seed(name, make_model, train):
    found = []
    for seed in (0, 0, 1):
        model, told = make_model({"selector": name, "seed": seed, "joint.documents": 32}), Told()
        plain, fusion = model.reducer.encoder.plain, model.reducer.fusion
        if name in LEARNED:
            load_flat(model.policy, flatten(make_model({"selector": name}).policy))
        encoder, policy = weights_of(plain), weights_of(model.policy)
        assert all((parameter == 0).all() for parameter in fusion.parameters())
        model.join(train, told)
        assert [step["step"] for step in told] == [1, 2]
        assert all(math.isfinite(step["task"]) for step in told)
        assert all(("reward" in step) == (name in LEARNED) for step in told)
        assert all(not torch.equal(value, encoder[key]) for key, value in plain.state_dict().items())
        assert all(not torch.equal(value, policy[key]) for key, value in model.policy.state_dict().items())
        assert len(fusion.maps) == len(model.points)
        assert all((parameter != 0).any() for parameter in fusion.parameters())
        assert not plain.training
        found.append(weights_of(plain) | weights_of(model.policy) | weights_of(fusion))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_an_encoder_learns_to_do_with_the_tokens_that_a_rule_leaves(make_model, train, prepared):
    model = make_model({"selector": "saliency", "joint.documents": 640, "joint.learning_rate": 2e-3})
    split = prepared.validation
    before = model.evaluate(split, 0.2)
    model.join(train, lambda step: None)
    after = model.evaluate(split, 0.2)
    assert after.kept == pytest.approx(before.kept)
    assert after.quality > before.quality + 0.2
    assert model.evaluate(split, model.selector.keep_all).quality > 0.9  # and what it could it still can


def test_dropout_is_off_while_the_joint_stage_learns(make_model, train):
    model = make_model({})
    model.reducer.encoder.plain.train()
    modes = []
    model.join(train, lambda step: modes.append(model.reducer.encoder.plain.training))
    assert set(modes) == {False}


def test_the_encoders_weights_decay_and_the_policys_do_not_by_hand(make_model, train):
    rate = 0.1
    model = make_model({"joint.documents": 16, "joint.learning_rate": rate, "joint.policy_learning_rate": rate})
    with torch.no_grad():
        for head in model.policy.heads:
            head.linear_2.weight.zero_()  # so that no gradient reaches what is below
    unread = model.reducer.encoder.plain.get_input_embeddings().weight[1]  # [UNK], which stands in no document
    below = [head.linear_1.weight for head in model.policy.heads]
    before, kept = unread.detach().clone(), [weight.detach().clone() for weight in below]
    model.join(train, lambda step: None)
    # One step, at the highest learning rate: without a gradient AdamW takes rate · .01 of a weight, and nothing else.
    torch.testing.assert_close(unread.detach(), before * (1 - rate * 0.01), rtol=1e-6, atol=0)
    assert before.abs().max() > 0.1
    assert all(torch.equal(one, other) for one, other in zip(below, kept, strict=True))


@pytest.fixture
def scouting(monkeypatch):
    """Scouted costs are numbered 1, 2, 3 and so on; a list of those that each step's loss was given."""
    used, scouted, loss = [], itertools.count(1), Joint.loss

    def curve(self, some):
        assert len(some) == SCOUTED  # of 240
        dials = self.selector.dials
        return DialCurve(dials, np.linspace(-next(scouted), 0.0, len(dials)))

    def watched(self, part, draw, curve):
        used.append(-float(curve.log_costs[0]))
        return loss(self, part, draw, curve)

    monkeypatch.setattr(joint_stage, "SCOUT_EVERY", 1)
    monkeypatch.setattr(Joint, "curve", curve)
    monkeypatch.setattr(Joint, "loss", watched)
    return used


TWENTY_STEPS = {"selector": "first", "joint.documents": 20, "joint.batch_size": 1}


def test_the_costs_of_the_dials_are_scouted_ten_times_in_the_stage_by_hand(make_model, train, scouting):
    make_model(TWENTY_STEPS).join(train, lambda step: None)
    # Twenty steps: before every second one.
    assert scouting == [number for number in range(1, 11) for _ in range(2)]


def test_a_short_stage_scouts_less_often_by_hand(make_model, train, scouting, monkeypatch):
    monkeypatch.setattr(joint_stage, "SCOUT_EVERY", 8)
    make_model(TWENTY_STEPS).join(train, lambda step: None)
    assert scouting == [number for number, steps in ((1, 8), (2, 8), (3, 4)) for _ in range(steps)]


def test_the_costs_of_the_dials_outlive_the_process_that_scouted_them(make_model, train, scouting, drawer):
    def die(step):
        if step["step"] == 2:
            raise StageTimeout

    with pytest.raises(StageTimeout):
        make_model(TWENTY_STEPS).join(train, die, drawer)
    assert scouting == [1, 1]
    # It goes on at the second step, before which nothing is scouted.
    make_model(TWENTY_STEPS).join(train, lambda step: None, drawer)
    assert scouting[2:4] == [1, 2]
    assert len(scouting) == 2 + 19


@pytest.mark.parametrize("name", ["policy", "first"])
def test_a_joint_stage_that_died_between_two_scoutings_goes_on_as_if_it_had_lived(
    make_model, train, drawer, monkeypatch, name
):
    def die(step):
        if step["step"] == 3:  # of six, scouted before the first and the fourth: none comes before the third
            raise StageTimeout

    monkeypatch.setattr(joint_stage, "SCOUTINGS", 2)
    monkeypatch.setattr(joint_stage, "SCOUT_EVERY", 6)
    found = []

    def learn(told, keeper=None):
        model = make_model({"selector": name, "joint.documents": 36, "joint.batch_size": 6})
        model.join(train, told, keeper)
        found.append(weights_of(model.reducer.encoder.plain) | weights_of(model.policy))

    steps = []
    learn(lambda step: None)
    with pytest.raises(StageTimeout):
        learn(die, drawer)
    learn(lambda step: steps.append(step["step"]), drawer)
    assert steps == [3, 4, 5, 6]
    assert same(found[0], found[1])


def test_a_process_of_a_team_runs_its_share_of_the_joint_stages_documents(make_model, train, monkeypatch):
    summed, seen, loss = [], [], Joint.loss

    def watched(self, part, draw, curve):
        seen.append(draw.documents.tolist())
        return loss(self, part, draw, curve)

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: summed.append(len(flat)))
    monkeypatch.setattr(Joint, "loss", watched)
    model = make_model({"joint.documents": 32, "seed": 4})
    model.join(train, lambda step: None, team=Team(1, 2))
    # Every second document of each step, in the order of the stage's own seed.
    assert seen == [chosen[1::2].tolist() for chosen in shuffled_batches(len(train), 16, 2, seed=5)]
    assert summed == [sum(parameter.numel() for parameter in model.parameters) + 1] * 2  # the loss beside the gradients


def test_a_joint_stage_without_a_fastest_scouts_no_costs(make_model, train, monkeypatch):
    monkeypatch.setattr(Joint, "curve", lambda self, some: pytest.fail("costs were scouted"))
    told = Told()
    make_model({"joint.fastest": 0.0, "joint.documents": 16}).join(train, told)
    assert len(told) == 1


def test_a_last_step_that_is_not_full_is_taken_too(make_model, train):
    told = Told()
    make_model({"selector": "first", "joint.documents": 17, "joint.batch_size": 8}).join(train, told)
    assert [(step["step"], step["steps"]) for step in told] == [(1, 3), (2, 3), (3, 3)]  # 17 / 8, rounded up


def test_the_learning_rates_of_encoder_and_policy_rise_for_a_tenth_of_the_steps_by_hand(make_model, train, monkeypatch):
    rates = []

    def step(optimizer, *others):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        return 0.0

    monkeypatch.setattr(joint_stage, "step_in_budget", step)
    twenty = {"joint.documents": 20, "joint.batch_size": 1, "joint.fastest": 0.0}
    make_model(twenty | {"joint.learning_rate": 1e-3, "joint.policy_learning_rate": 5e-3}).join(
        train, lambda step: None
    )
    # Of twenty steps two rise. The other eighteen fall to an eighteenth.
    factors = [1 / 2, 1.0, *(left / 18 for left in range(18, 0, -1))]
    assert rates == [[pytest.approx(1e-3 * factor), pytest.approx(5e-3 * factor)] for factor in factors]


def test_a_joint_stage_of_no_documents_is_left_out(make_model, train):
    model = make_model({"joint.documents": 0})
    before = weights_of(model.reducer.encoder.plain)
    model.join(train, lambda step: pytest.fail("a step was taken"))
    assert same(weights_of(model.reducer.encoder.plain), before)


@pytest.mark.slow
def test_distillation_follows_the_teacher_and_gold_labels_do_not(make_model, train):
    turned = train.with_teacher(train.teacher.flip(1))
    shares = []
    for distillation in (1.0, 0.0):
        model = make_model({"joint.distillation": distillation, "joint.documents": 640, "joint.learning_rate": 2e-3})
        model.join(turned, lambda step: None)
        shares.append(right(model.reducer, train))
    assert shares[0] < 0.3
    assert shares[1] > 0.7


RANGES = [{"joint.keep_all": 1.0}, {"joint.fastest": 99.0}, {"joint.distillation": 0.0}]


@pytest.mark.parametrize(("changes", "selector"), list(itertools.product(RANGES, ["policy", "gumbel", "first"])))
def test_no_setting_of_the_joint_stage_makes_a_weight_not_a_number(make_model, train, changes, selector):
    model = make_model(changes | {"joint.documents": 32, "selector": selector})
    model.join(train, lambda step: None)
    for value in (weights_of(model.reducer.encoder.plain) | weights_of(model.policy)).values():
        assert value.isfinite().all()


@pytest.mark.parametrize("changes", [{}, {"selector": "gumbel"}])
def test_a_step_cut_by_its_token_budget_learns_the_same(make_model, train, changes):
    found = []
    for tokens in (16384, 40):
        model = make_model({"joint.documents": 16, "compute.tokens_per_batch": tokens} | changes)
        told = Told()
        model.join(train, told)
        found.append((told[0]["loss"], flatten(model.policy)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    # Adam's first step moves each weight by about its learning rate, here 5e-4; rounding must not turn it.
    close = np.isclose(found[0][1], found[1][1], rtol=0, atol=2e-5)
    assert close.mean() > 0.98


@pytest.mark.parametrize("changes", [{}, {"joint.fastest": 0.0}, {"selector": "first"}])
def test_a_token_budget_counts_every_trajectory(make_model, train, changes, monkeypatch):
    budget, seen = 100, []
    model = make_model({"joint.documents": 16, "compute.tokens_per_batch": budget} | changes)
    loss = Joint.loss

    def told(self, part, draw, curve):
        seen.append(int(part.tokens.lengths.sum()))
        return loss(self, part, draw, curve)

    monkeypatch.setattr(Joint, "loss", told)
    model.join(train, lambda step: None)
    trajectories = model.settings.joint.samples + (model.settings.joint.fastest > 0)
    assert len(seen) > 1
    assert max(seen) * trajectories <= budget < 3 * max(seen) * trajectories


def test_a_rules_step_cut_by_its_token_budget_has_the_same_loss(make_model, train):
    found = []
    for tokens in (16384, 40):
        model, told = (
            make_model({"selector": "random", "joint.documents": 16, "compute.tokens_per_batch": tokens}),
            Told(),
        )
        model.join(train, told)
        found.append(told[0]["loss"])
    assert found[1] == pytest.approx(found[0], rel=1e-4)


# Examples of two documents each.


@pytest.fixture
def picks(make_model, train):
    """A function: settings -> the joint stage of a task of two documents an example, and six such examples."""

    def make(changes):
        model = make_model(changes)
        reducer = dataclasses.replace(model.reducer, task=TASKS["multiple_choice"])
        dynamics = dataclasses.replace(model.dynamics, reducer=reducer)
        joint = dataclasses.replace(joint_of(model), dynamics=dynamics)
        teacher = train.teacher[:12]
        owner = torch.arange(6).repeat_interleave(2)
        return joint, Examples(train.tokens.take(torch.arange(12)), train.targets[:6], owner).with_teacher(teacher)

    return make


def test_the_loss_of_a_rule_is_a_mean_over_examples_whose_documents_have_dials_of_their_own(picks):
    joint, examples = picks({"selector": "first", "joint.distillation": 0.25, "joint.keep_all": 0.0})
    reducer, curve = joint.dynamics.reducer, joint.curve(examples)
    draw = Draw(seed=0, version=9, documents=torch.arange(12))
    loss, _ = joint.loss(examples, draw, curve)
    losses = []
    for row in joint.thresholded(draw, curve, 3):
        assert len(row) == len(set(row.tolist())) == 12
        for number in range(6):
            own, said = examples.take(torch.tensor([number])), []
            for document in (0, 1):
                tokens = own.tokens.take(torch.tensor([document]))
                finished = reducer.run(joint.selector, tokens, float(row[2 * number + document]))
                said.append(reducer.outputs(finished)[0, 0])
            shares = torch.stack(said).log_softmax(0)
            teacher = examples.teacher[2 * number : 2 * number + 2, 0].softmax(0)
            losses.append(-0.75 * shares[own.targets[0]] - 0.25 * (teacher * shares).sum())
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"selector": "gumbel"}, {"selector": "random"}])
def test_a_joint_step_of_examples_of_two_documents_is_the_same_where_its_budget_cuts_it(picks, changes, monkeypatch):
    found, parts, loss = [], [], Joint.loss

    def watched(self, part, draw, curve):
        value = loss(self, part, draw, curve)
        parts.append((len(part), len(part.tokens), float(value[0].detach())))
        # What is drawn for a document is keyed by its place in the split.
        assert torch.equal(part.tokens.input_ids, examples.tokens.take(draw.documents).input_ids)
        return value

    monkeypatch.setattr(Joint, "loss", watched)
    for tokens in (16384, 60):
        joint, examples = picks({"joint.documents": 12, "joint.batch_size": 12} | changes)
        compute, told = ComputeSettings(dtype="float32", tokens_per_batch=tokens), Told()
        train_jointly(joint, examples, compute, 0, told)
        found.append(told[0]["loss"])
    (whole, *cut) = parts
    assert whole == (6, 12, pytest.approx(found[0]))
    assert len(cut) > 1
    assert all(documents == 2 * count for count, documents, _ in cut)  # no example is cut
    assert found[1] == pytest.approx(sum(count * value for count, _, value in cut) / 6, rel=1e-4)
    assert found[1] == pytest.approx(found[0], rel=1e-4)
