"""The objectives by hand, and the law: the surrogate's expected gradient is the exact policy gradient."""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

import envs.rollout
from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.packed.tokens import Tokens
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from tune.learning.objectives import (
    imitation_loss,
    leave_one_out_advantages,
    mean_advantages,
    policy_gradient_loss,
)
from tune.learning.select_stage import select_loss
from tune.settings import SelectSettings

# By hand.


def test_leave_one_out_advantages_by_hand():
    # First document: 1 − (2+6)/2, 2 − (1+6)/2, 6 − (1+2)/2. Second: all alike, so none stands out.
    returns = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    torch.testing.assert_close(leave_one_out_advantages(returns), torch.tensor([[-3.0, 0.0], [-1.5, 0.0], [4.5, 0.0]]))


def test_one_sample_has_no_others_to_compare_with():
    with pytest.raises(ValueError, match="samples must be at least 2 for a leave-one-out baseline, and is 1"):
        leave_one_out_advantages(torch.zeros(1, 3))


def test_mean_advantages_by_hand():
    # The mean of 1, 2, 6 is 3, own sample included.
    returns = torch.tensor([[1.0], [2.0], [6.0]])
    torch.testing.assert_close(mean_advantages(returns), torch.tensor([[-2.0], [-1.0], [3.0]]))


def test_the_policy_gradient_loss_by_hand():
    # 3·2/√4 = 3 for the one document alone. With a second of 9 tokens, (−1)·(−6)/√9 = 2 enters as −2: −(−3 + 2)/2 = ½.
    one = policy_gradient_loss(torch.tensor([[[-2.0]]]), torch.tensor([[[3.0]]]), torch.tensor([4]))
    assert one.item() == pytest.approx(3.0)
    two = policy_gradient_loss(torch.tensor([[[-2.0, -6.0]]]), torch.tensor([[[3.0, -1.0]]]), torch.tensor([4, 9]))
    assert two.item() == pytest.approx(0.5)
    # Points add up, each with its own advantage or all with one: 3·2/√4 + 5·4/√4, and 3·2/√4 + 3·4/√4.
    points = torch.tensor([[[-2.0]], [[-4.0]]])
    own = policy_gradient_loss(points, torch.tensor([[[3.0]], [[5.0]]]), torch.tensor([4]))
    assert own.item() == pytest.approx(13.0)
    assert policy_gradient_loss(points, torch.tensor([[[3.0]]]), torch.tensor([4])).item() == pytest.approx(9.0)


def test_each_point_has_a_baseline_of_its_own():
    # Two points, three samples: 1, 2, 6 as above, and 4, 0, 2: 4 − 1, 0 − 3, 2 − 2; against their mean of 2: 2, −2, 0.
    returns = torch.tensor([[[1.0], [2.0], [6.0]], [[4.0], [0.0], [2.0]]])
    expected = torch.tensor([[[-3.0], [-1.5], [4.5]], [[3.0], [-3.0], [0.0]]])
    torch.testing.assert_close(leave_one_out_advantages(returns), expected)
    means = torch.tensor([[[-2.0], [-1.0], [3.0]], [[2.0], [-2.0], [0.0]]])
    torch.testing.assert_close(mean_advantages(returns), means)


def test_no_gradient_flows_through_the_advantages():
    log_prob = torch.tensor([[[-2.0], [-1.0]]], requires_grad=True)
    advantages = torch.tensor([[[3.0], [-3.0]]], requires_grad=True)
    policy_gradient_loss(log_prob, advantages, torch.tensor([4])).backward()
    assert advantages.grad is None
    # −A/√4, meaned over two samples.
    torch.testing.assert_close(log_prob.grad, torch.tensor([[[-0.75], [0.75]]]))


def test_the_imitation_loss_by_hand():
    # Odds of 3 to 1 for keeping: −log ¾ where kept, −log ¼ where dropped; the third token's weight is 0.
    logits = torch.full((3,), math.log(3))
    loss = imitation_loss(logits, torch.tensor([True, False, False]), torch.tensor([1.0, 1.0, 0.0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert imitation_loss(logits, torch.ones(3), torch.zeros(3)).item() == 0.0


# The law. Every trajectory of a small document, from the rollout itself: its keyed draws are replaced by a table.


@dataclass
class Enumerated:
    """Every trajectory of one document: log π and return of each point (the first with its gradient), tokens left."""

    by_point: Tensor
    returns: Tensor
    kept: Tensor
    length: int

    @property
    def log_prob(self):
        return self.by_point.sum(0)

    @property
    def reward(self):
        return self.returns[0]


def trajectories(length):
    """Lists every (positions kept at point 0, positions kept at point 1); position 0 is protected."""
    subsets = [set(c) for r in range(length) for c in itertools.combinations(range(1, length), r)]
    return [(first, second) for first in subsets for second in subsets if second <= first]


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(3)
    policy = Policy(dim=8, num_points=2, width=4)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=0.7)
    return policy


@pytest.fixture(scope="module")
def dynamics():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        initializer_range=0.5,
    )
    encoder = Encoder(BertForSequenceClassification(config).eval())
    reducer = Reducer(encoder=encoder, task=TASKS["classification"], points=(0, 1))
    return Dynamics(reducer, RewardTerms(penalty=1.5, keep_ratios=(0.3, 0.3)), CostModel.of(reducer))


@pytest.fixture
def every(dynamics, policy, monkeypatch):
    """A function: ids -> the rollout of every trajectory of a document at a dial, as samples."""

    def run(ids, dial=0.0):
        pairs = trajectories(len(ids))
        kept = torch.zeros(len(pairs), 2, len(ids))
        for row, pair in enumerate(pairs):
            for point, positions in enumerate(pair):
                kept[row, point, list(positions)] = 1

        def draw_from_the_table(_seed, _version, _document, sample, point, positions):
            return 1 - kept[sample, point, positions]  # 0 is below any probability, 1 above

        monkeypatch.setattr(envs.rollout, "keyed_uniform", draw_from_the_table)
        rollout = sample_trajectories(
            dynamics,
            policy,
            Tokens.from_lists([ids], None),
            Draw(seed=0, version=0, documents=torch.tensor([0])),
            torch.full((len(pairs), 1), dial),
        )
        assert rollout.state.kept.T.tolist() == [[len(positions) + 1 for positions in pair] for pair in pairs]
        return rollout

    return run


@pytest.fixture
def enumerated(dynamics, every):
    """Two documents at dials of their own."""
    documents = []
    for ids, label, dial in (([3, 7, 11], 0, 0.0), ([5, 2, 9, 4], 2, -0.5)):
        rollout = every(ids, dial)
        kept = rollout.state.kept
        examples = Examples.of_documents(Tokens.from_lists([ids], None), torch.tensor([label])).repeat(kept.shape[1])
        with torch.no_grad():
            returns = dynamics.returns(examples, kept, dynamics.reducer.outputs(rollout.state))
        by_point = rollout.log_prob[:, :, 0].double()
        documents.append(Enumerated(by_point, returns.double(), kept[0], len(ids)))
    return documents


def gradient(loss, policy):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()), retain_graph=True)])


def exact_objective(enumerated):
    """−n^(−1/2)·J, meaned over documents, with J = Σ π(τ) R(τ) over every trajectory."""
    return -torch.stack([(d.log_prob.exp() * d.reward).sum() / d.length**0.5 for d in enumerated]).mean()


def of_the_whole(document):
    """One return for all points: the reward."""
    return document.returns[:1]


def of_each_point(document):
    """What is still to come at each point."""
    return document.returns


def expected_surrogate(enumerated, advantages, tokens, returns=of_the_whole):
    """The loss of K = 2 samples, in expectation over every pair; `tokens(document, trajectory)` is its n."""
    means = []
    for document in enumerated:
        prob = document.log_prob.detach().exp()
        total = torch.zeros((), dtype=torch.double)
        for pair in itertools.product(range(len(prob)), repeat=2):
            advantage = advantages(returns(document)[:, list(pair), None])
            losses = [
                policy_gradient_loss(
                    document.by_point[:, i, None, None],
                    advantage[:, k, None],
                    torch.tensor([tokens(document, i)]),
                )
                for k, i in enumerate(pair)
            ]
            total = total + prob[pair[0]] * prob[pair[1]] * torch.stack(losses).mean()
        means.append(total)
    return torch.stack(means).mean()


def original_length(document, _):
    return document.length


def test_the_enumerated_trajectories_have_probability_one(enumerated):
    # 3² and 3³ trajectories: each free token is dropped first, dropped second, or kept.
    assert [len(document.log_prob) for document in enumerated] == [9, 27]
    for document in enumerated:
        assert document.log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
        assert document.reward.max() - document.reward.min() > 0.3


@pytest.mark.parametrize("returns", [of_the_whole, of_each_point])
def test_the_surrogates_expected_gradient_is_the_exact_policy_gradient(returns, enumerated, policy):
    exact = gradient(exact_objective(enumerated), policy)
    expected = gradient(expected_surrogate(enumerated, leave_one_out_advantages, original_length, returns), policy)
    assert exact.abs().max() > 0.01
    torch.testing.assert_close(expected, exact, rtol=0, atol=1e-5)


def test_leaving_out_a_points_own_charge_would_bias_the_gradient(enumerated, policy):
    # So that the law can fail: only what was charged before a point does not depend on what is decided there.
    def too_late(document):
        return torch.stack([document.returns[1], document.returns[1]])

    exact = gradient(exact_objective(enumerated), policy)
    biased = gradient(expected_surrogate(enumerated, leave_one_out_advantages, original_length, too_late), policy)
    assert (biased - exact).abs().max() > 0.1 * exact.abs().max()


def test_what_is_left_out_differs_between_trajectories_that_agree_on_the_rest(enumerated):
    # Else returns of each point would be those of the whole, less a constant that the baseline takes away.
    for document in enumerated:
        assert (document.returns[1] - document.returns[0]).std() > 0.05


def test_scaling_by_the_remaining_tokens_would_bias_the_gradient(enumerated, policy):
    # So that the law can fail: the count that a trajectory's own actions leave is no constant.
    exact = gradient(exact_objective(enumerated), policy)
    biased = gradient(
        expected_surrogate(enumerated, leave_one_out_advantages, lambda document, i: int(document.kept[i])), policy
    )
    assert (biased - exact).abs().max() > 0.1 * exact.abs().max()
    # Nor is it the same direction, longer.
    assert torch.cosine_similarity(biased, exact, dim=0) < 0.999


def test_the_own_sample_in_the_baseline_halves_the_gradient_of_two(enumerated, policy):
    # E[(R₁ − (R₁+R₂)/2) ∇log π₁] = ½ E[(R₁ − R₂) ∇log π₁]: (K−1)/K of the exact one.
    exact = gradient(exact_objective(enumerated), policy)
    expected = gradient(expected_surrogate(enumerated, mean_advantages, original_length), policy)
    torch.testing.assert_close(expected, exact / 2, rtol=0, atol=1e-5)


def test_a_protected_tokens_logit_moves_no_log_probability(dynamics, policy):
    tokens = Tokens.from_lists([[3]], None)
    rollout = sample_trajectories(
        dynamics, policy, tokens, Draw(seed=0, version=0, documents=torch.tensor([0])), torch.zeros(2, 1)
    )
    assert (rollout.log_prob == 0).all()
    assert (gradient(rollout.log_prob.sum(), policy) == 0).all()


# The same law for an example of two documents, of which one is the right one: their returns are one number.


@pytest.mark.parametrize("reward_to_go", [True, False])
def test_the_select_loss_of_an_example_of_two_documents_has_the_exact_gradient(dynamics, policy, every, reward_to_go):
    picks = dataclasses.replace(dynamics, reducer=dataclasses.replace(dynamics.reducer, task=TASKS["multiple_choice"]))
    ids = [[3, 7], [5, 2, 9]]
    example = Examples(Tokens.from_lists(ids, None), torch.tensor([1]), owner=torch.tensor([0, 0]))
    rollouts = [every(own) for own in ids]
    outputs = [dynamics.reducer.outputs(rollout.state).detach() for rollout in rollouts]
    together = list(itertools.product(range(3), range(9)))  # every trajectory of the one with every one of the other

    def of_both(pairs, values):
        """Values [..., trajectories] of each document, as [..., samples · documents]."""
        return torch.stack([values[d][..., pair[d]] for pair in pairs for d in (0, 1)], -1)

    kept = of_both(together, [rollout.state.kept for rollout in rollouts])
    said = of_both(together, [each.T for each in outputs]).T
    with torch.no_grad():
        rewards = picks.reward(example.repeat(27), kept, said).double().view(3, 9)
    assert rewards.std() > 0.1
    # J = Σ π₁ π₂ R; each document's gradient is scaled by its own length.
    first, second = (rollout.log_prob[:, :, 0].sum(0).double().exp() for rollout in rollouts)
    assert (first.sum() * second.sum()).item() == pytest.approx(1.0, abs=1e-6)
    exact = -(first @ rewards @ second.detach() / 2**0.5 + first.detach() @ rewards @ second / 3**0.5)

    settings = SelectSettings(reward_to_go=reward_to_go)
    expected = torch.zeros((), dtype=torch.double)
    for pair in itertools.combinations_with_replacement(together, 2):
        log_prob = of_both(pair, [rollout.log_prob[:, :, 0] for rollout in rollouts]).view(2, 2, 2)
        drawn = dataclasses.replace(
            rollouts[0],
            state=dataclasses.replace(
                rollouts[0].state, kept=of_both(pair, [rollout.state.kept for rollout in rollouts])
            ),
            log_prob=log_prob,
            mean_log_prob=log_prob,
        )
        loss, _ = select_loss(picks, drawn, of_both(pair, [each.T for each in outputs]).T, example, 2, settings)
        probability = torch.stack([first[one] * second[other] for one, other in pair]).prod().detach()
        orders = 1 if pair[0] == pair[1] else 2  # the loss is a mean over samples: their order does not matter
        expected = expected + orders * probability * loss
    wanted = gradient(exact, policy)
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(gradient(expected, policy), wanted, rtol=0, atol=1e-5)
