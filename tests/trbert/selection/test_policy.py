"""The policy heads, and the probability of a decision."""

import dataclasses
import math
import re

import pytest
import torch
from torch.nn.functional import gelu
from torch.testing import assert_close

from trbert.errors import InputError
from trbert.packed.batch import document_means, gather_kept, start_batch
from trbert.packed.tokens import Tokens
from trbert.selection.policy import FEATURES, Policy, bernoulli_log_prob, features_for


def logits_of(policy, batch, point=0, dial=0.0):
    """Returns the keep logits at one dial for all documents."""
    return policy.logits(batch, point, torch.full((1, len(batch)), dial))[0]


def bare_head(*features):
    """A head of one number, without what it says of the token alone: its logit is gelu of what its features add."""
    policy = Policy(1, 1, width=1, features=features)
    head = policy.heads[0]
    with torch.no_grad():
        for linear in (head.linear_1, head.linear_2):
            linear.weight.zero_()
            linear.bias.zero_()
        head.linear_2.weight.fill_(1.0)
    return policy, head


def wide(*features, dim=8):
    """A policy whose features weigh as much as a token's own state."""
    torch.manual_seed(0)
    policy = Policy(dim, 1, features=features)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return policy


def remaining(batch, *places):
    mask = torch.zeros(1, len(batch.hidden), dtype=torch.bool)
    mask[0, list(places)] = True
    return gather_kept(batch, mask)


def test_an_untrained_policy_keeps_a_token_with_probability_one_half(make_batch):
    torch.manual_seed(0)
    for dim in (32, 384, 768):
        batch = make_batch(300, 200, dim=dim)
        policy = Policy(dim, 2)
        for point in (0, 1):
            keep = torch.sigmoid(logits_of(policy, batch, point))
            assert abs(keep.mean() - 0.5) < 0.01
            assert keep.std() < 0.012


def test_a_head_is_as_wide_as_the_papers_unless_told_otherwise():
    assert [head.linear_1.weight.shape for head in Policy(8, 2).heads] == [(32, 8)] * 2
    assert Policy(8, 2, width=5).heads[1].linear_2.weight.shape == (1, 5)


def test_a_head_is_two_linear_maps_with_an_erf_gelu(make_batch):
    policy = Policy(1, 1, width=2)
    head = policy.heads[0]
    with torch.no_grad():
        head.linear_1.weight.copy_(torch.tensor([[1.0], [-2.0]]))
        head.linear_1.bias.copy_(torch.tensor([0.0, 1.0]))
        head.linear_2.weight.copy_(torch.tensor([[3.0, 5.0]]))
        head.linear_2.bias.copy_(torch.tensor([0.5]))
    # h = 1: inner values 1 and -1; gelu(x) = x Φ(x), Φ(1) = 0.841345, so 3 · 0.841345 - 5 · 0.158655 + 0.5.
    batch = make_batch(1, dim=1).with_hidden(torch.ones(1, 1))
    assert_close(logits_of(policy, batch), torch.tensor([2.230759]))


def test_the_dial_is_an_offset_of_its_own_for_each_document_and_row(make_batch):
    batch, policy = make_batch(2, 3), wide()
    dials = torch.tensor([[0.0, 0.0], [1.5, -2.0], [torch.inf, 0.5]])
    logits = policy.logits(batch, 0, dials)
    assert logits.shape == (3, 5)
    offsets = torch.tensor([[1.5, 1.5, -2.0, -2.0, -2.0], [torch.inf, torch.inf, 0.5, 0.5, 0.5]])
    assert_close(logits[1:], logits[0] + offsets)


# What a head sees beside a token's own state.


def test_a_head_that_sees_the_document_adds_its_mean_and_length_by_hand(make_batch):
    policy, head = bare_head("document")
    with torch.no_grad():
        head.features["document"].weight.copy_(torch.tensor([[2.0, 3.0]]))
    batch = make_batch(2, 1, dim=1).with_hidden(torch.tensor([[1.0], [4.0], [7.0]]))
    inner = torch.tensor([2 * 2.5 + 3 * math.log(0.02)] * 2 + [2 * 7 + 3 * math.log(0.01)])
    assert_close(logits_of(policy, batch), gelu(inner))


def test_a_head_that_sees_the_neighbours_adds_both_by_hand_within_documents(make_batch):
    policy, head = bare_head("neighbours")
    with torch.no_grad():
        head.features["neighbours"].weight.copy_(torch.tensor([[0.2], [0.3]]))  # of the one before, of the one after
    batch = make_batch(3, 1, 2, dim=1).with_hidden(torch.tensor([[1.0], [4.0], [-7.0], [50.0], [10.0], [-20.0]]))
    # Documents (1, 4, −7), (50), (10, −20): no token sees over the end of its own.
    inner = torch.tensor([0.3 * 4, 0.2 * 1 - 0.3 * 7, 0.2 * 4, 0.0, -0.3 * 20, 0.2 * 10])
    assert_close(logits_of(policy, batch), gelu(inner))


def test_the_neighbours_are_those_that_remain(make_batch):
    policy, head = bare_head("neighbours")
    with torch.no_grad():
        head.features["neighbours"].weight.copy_(torch.tensor([[0.2], [0.3]]))
    batch = make_batch(4, 3, dim=1).with_hidden(torch.tensor([[1.0], [4.0], [-7.0], [2.0], [5.0], [6.0], [8.0]]))
    # Left are (1, −7, 2) and (5, 8).
    inner = torch.tensor([-0.3 * 7, 0.2 * 1 + 0.3 * 2, -0.2 * 7, 0.3 * 8, 0.2 * 5])
    assert_close(logits_of(policy, remaining(batch, 0, 2, 3, 4, 6)), gelu(inner))


def test_trajectories_of_one_document_are_no_neighbours(make_batch):
    # The last token of one and the first of the next lie side by side in the row.
    policy, batch = wide("document", "neighbours"), make_batch(4)
    masks = torch.tensor([[True, True, False, True], [True, False, True, False], [True] * 4])
    together = logits_of(policy, gather_kept(batch, masks))
    alone = [logits_of(policy, gather_kept(batch, mask[None])) for mask in masks]
    assert_close(together, torch.cat(alone))


def test_the_document_is_that_of_the_remaining_tokens(make_batch):
    policy = wide("document")
    batch = make_batch(5, 7)
    left = remaining(batch, 0, 2, 5, 6, 11)
    both = logits_of(policy, left)
    head, states = policy.heads[0], left.hidden[:2]
    summary = torch.cat([states.mean(0), torch.tensor([0.05]).log()])
    inner = head.linear_1(states) + head.features["document"](summary)
    assert_close(both[:2], head.linear_2(gelu(inner))[:, 0])
    own = start_batch(Tokens.from_lists([[7, 8]], None), left.hidden[:2])
    own = dataclasses.replace(own, original_lengths=torch.tensor([5]))
    assert_close(logits_of(policy, own), both[:2])
    own = dataclasses.replace(own, original_lengths=torch.tensor([6]))
    assert not torch.allclose(logits_of(policy, own), both[:2], atol=1e-3)


def test_a_head_that_sees_the_question_adds_what_matches_it(make_batch):
    policy, batch = wide("question", dim=8), make_batch(9, 4)
    batch.protected[[1, 2, 10]] = True
    head = policy.heads[0]
    matches = head.question(batch, batch.hidden, document_means(batch, batch.hidden))
    inner = head.linear_1(batch.hidden) + head.features["question"](matches)
    assert_close(logits_of(policy, batch), head.linear_2(gelu(inner))[:, 0])
    asked = logits_of(policy, batch)
    batch.protected[[1, 2, 10]] = False
    assert not torch.allclose(logits_of(policy, batch), asked, atol=1e-2)


def test_features_need_what_they_tell_of():
    assert features_for(FEATURES, protects=True) == FEATURES
    assert features_for(FEATURES, protects=False) == ("document", "neighbours")
    assert features_for((), protects=True) == ()


def test_which_token_matters_more_does_not_depend_on_the_dial(make_batch):
    batch, policy = make_batch(20), wide(*FEATURES)
    own = [logits_of(policy, batch, dial=dial) - dial for dial in (-2.0, 2.0)]
    assert_close(*own)


def test_an_infinite_dial_keeps_all_and_spoils_no_gradient(make_batch):
    batch, policy = make_batch(4, 3), wide("document", "neighbours")
    logits = policy.logits(batch, 0, torch.tensor([[torch.inf, 0.0], [0.5, torch.inf]]))
    assert (logits[0, :4] == torch.inf).all()
    assert (logits[1, 4:] == torch.inf).all()
    kept = bernoulli_log_prob(logits, torch.ones(2, 7, dtype=torch.bool))
    assert (kept[0, :4] == 0).all()
    gradients = torch.autograd.grad(kept.sum(), list(policy.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("features", [("document",), ("neighbours",), ("question",), FEATURES])
def test_features_that_have_learned_nothing_leave_the_papers_head(features, make_batch):
    batch, dials = make_batch(5, 7), torch.tensor([[0.0, 0.0], [1.0, -9.0]])
    batch.protected[[1, 6]] = True  # a question of one token
    plain, policy = Policy(8, 2), Policy(8, 2, features=features)
    policy.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(policy.logits(batch, 1, dials), plain.logits(batch, 1, dials))
    # And they can learn: each has a gradient.
    policy.logits(batch, 1, dials)[1].square().sum().backward()
    assert all(linear.weight.grad.abs().max() > 0 for linear in policy.heads[1].features.values())


@pytest.mark.parametrize("unknown", ["context", "dial"])
def test_an_unknown_feature_is_refused(unknown):
    message = f"policy features must be among document, neighbours, question, and hold {unknown!r}: leave it out"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Policy(8, 1, features=("document", unknown))


# The heads together.


def test_each_point_has_a_head_of_its_own(make_batch):
    torch.manual_seed(0)
    batch, policy = make_batch(5), Policy(8, 2)
    assert not torch.allclose(logits_of(policy, batch, 0), logits_of(policy, batch, 1))
    logits_of(policy, batch, 1).sum().backward()
    assert policy.heads[0].linear_1.weight.grad is None
    assert policy.heads[1].linear_1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("features", [(), FEATURES])
def test_no_gradient_enters_the_states(features, make_batch):
    batch = make_batch(5)
    batch.hidden.requires_grad_()
    logits = logits_of(wide(*features), batch)
    assert logits.requires_grad
    logits.sum().backward()
    assert batch.hidden.grad is None


@pytest.mark.parametrize("features", [(), FEATURES])
def test_logits_are_float32_below_autocast_and_half_precision(features, make_batch):
    batch, policy = make_batch(5, 3), Policy(8, 1, features=features)
    plain = logits_of(policy, batch, dial=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logits_of(policy, batch, dial=0.5), plain)
    half = logits_of(policy, batch.with_hidden(batch.hidden.bfloat16()), dial=0.5)
    assert half.dtype == torch.float32
    assert_close(half, plain, atol=1e-3, rtol=0)
    own = logits_of(policy.to(torch.bfloat16), batch, dial=0.5)  # a model that was cast whole
    assert own.dtype == torch.float32
    assert_close(own, plain, atol=1e-2, rtol=0)


def test_in_half_precision_a_head_says_what_it_says_in_float32(make_batch):
    policy, batch = wide(*FEATURES, dim=32), make_batch(9, 1, 6, dim=32)
    # What bfloat16 can say, so that only the sums are rounded.
    policy.load_state_dict({name: value.bfloat16().float() for name, value in policy.state_dict().items()})
    batch = batch.with_hidden(batch.hidden.bfloat16().float())
    exact = logits_of(policy, batch)
    rounded = logits_of(policy.bfloat16(), batch.with_hidden(batch.hidden.bfloat16()))
    assert exact.std() > 1
    assert_close(rounded, exact, atol=0.15, rtol=0.05)


def test_log_probability_by_hand():
    # σ(log 3) = 3/4.
    logits = torch.tensor([math.log(3), math.log(3), 0.0])
    masks = torch.tensor([[True, False, True], [False, True, False]])
    expected = torch.tensor([[3 / 4, 1 / 4, 1 / 2], [1 / 4, 3 / 4, 1 / 2]]).log()
    assert_close(bernoulli_log_prob(logits, masks), expected)


def test_log_probability_stays_finite_far_out():
    logits = torch.tensor([200.0, 200.0], requires_grad=True)
    log_prob = bernoulli_log_prob(logits, torch.tensor([True, False]))
    assert log_prob.tolist() == [0.0, -200.0]
    log_prob.sum().backward()
    assert logits.grad.tolist() == [0.0, -1.0]
