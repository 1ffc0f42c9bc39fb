"""The policy heads, and the probability of a decision."""

import dataclasses
import math

import torch
from torch.testing import assert_close

from trbert.packed import Tokens, gather_kept, start_batch
from trbert.policy import Policy, bernoulli_entropy, bernoulli_log_prob


def test_an_untrained_policy_keeps_a_token_with_probability_one_half(make_batch):
    torch.manual_seed(0)
    for dim in (32, 384, 768):
        batch = make_batch(300, 200, dim=dim)
        policy = Policy(dim, 2)
        for point in (0, 1):
            keep = torch.sigmoid(policy.logits(batch, point))
            assert abs(keep.mean() - 0.5) < 0.01
            assert keep.std() < 0.012


def test_a_head_is_two_linear_maps_with_an_erf_gelu(make_batch):
    policy = Policy(1, 1, width=2)
    head = policy.heads[0]
    with torch.no_grad():
        head.linear_1.weight.copy_(torch.tensor([[1.0], [-2.0]]))
        head.linear_1.bias.copy_(torch.tensor([0.0, 1.0]))
        head.linear_2.weight.copy_(torch.tensor([[3.0, 5.0]]))
        head.linear_2.bias.copy_(torch.tensor([0.5]))
    # h = 1: inner values 1 and -1; gelu(x) = x Φ(x), Φ(1) = 0.841345, so 3 · 0.841345 - 5 · 0.158655 + 0.5.
    batch = make_batch(1, dim=1)
    assert_close(head(batch.with_hidden(torch.ones(1, 1))), torch.tensor([2.230759]))


def test_a_head_with_context_adds_its_documents_mean_and_length_by_hand(make_batch):
    head = Policy(1, 1, width=1, context=True).heads[0]
    with torch.no_grad():
        head.linear_1.weight.fill_(0.0)
        head.linear_1.bias.fill_(0.0)
        head.linear_2.weight.fill_(1.0)
        head.linear_2.bias.fill_(0.0)
        head.context.weight.copy_(torch.tensor([[2.0, 3.0]]))
    batch = make_batch(2, 1, dim=1).with_hidden(torch.tensor([[1.0], [4.0], [7.0]]))
    inner = torch.tensor([2 * 2.5 + 3 * math.log(0.02)] * 2 + [2 * 7 + 3 * math.log(0.01)])
    assert_close(head(batch), torch.nn.functional.gelu(inner))


def test_an_untrained_context_changes_nothing(make_batch):
    batch = make_batch(5, 7)
    torch.manual_seed(0)
    plain = Policy(8, 1).logits(batch, 0)
    torch.manual_seed(0)
    assert_close(Policy(8, 1, context=True).logits(batch, 0), plain)


def test_the_context_is_of_the_remaining_tokens_of_the_own_document(make_batch):
    torch.manual_seed(0)
    policy = Policy(8, 1, context=True)
    torch.nn.init.normal_(policy.heads[0].context.weight)
    batch = make_batch(5, 7)
    mask = torch.zeros(1, 12, dtype=torch.bool)
    mask[0, [0, 2, 5, 6, 11]] = True
    left = gather_kept(batch, mask)
    both = policy.logits(left, 0)
    head, states = policy.heads[0], left.hidden[:2]
    inner = head.linear_1(states) + head.context(torch.cat([states.mean(0), torch.tensor([0.05]).log()]))
    assert_close(both[:2], head.linear_2(torch.nn.functional.gelu(inner))[:, 0])
    own = start_batch(Tokens.from_lists([[7, 8]], None), left.hidden[:2])
    own = dataclasses.replace(own, original_lengths=torch.tensor([5]))
    assert_close(policy.logits(own, 0), both[:2])
    own = dataclasses.replace(own, original_lengths=torch.tensor([6]))
    assert not torch.allclose(policy.logits(own, 0), both[:2], atol=1e-3)


def test_each_point_has_a_head_of_its_own(make_batch):
    torch.manual_seed(0)
    batch, policy = make_batch(5), Policy(8, 2)
    assert not torch.allclose(policy.logits(batch, 0), policy.logits(batch, 1))
    policy.logits(batch, 1).sum().backward()
    assert policy.heads[0].linear_1.weight.grad is None
    assert policy.heads[1].linear_1.weight.grad.abs().sum() > 0


def test_no_gradient_enters_the_states(make_batch):
    batch = make_batch(5)
    batch.hidden.requires_grad_()
    logits = Policy(8, 1).logits(batch, 0)
    assert logits.requires_grad
    logits.sum().backward()
    assert batch.hidden.grad is None


def test_logits_are_float32_below_autocast_and_half_precision(make_batch):
    batch, policy = make_batch(5), Policy(8, 1)
    plain = policy.logits(batch, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(policy.logits(batch, 0), plain)
    half = policy.logits(batch.with_hidden(batch.hidden.bfloat16()), 0)
    assert half.dtype == torch.float32
    assert_close(half, plain, atol=1e-3, rtol=0)


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


def test_entropy_by_hand():
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    logits = torch.tensor([0.0, math.log(3), -math.log(3), 100.0, -100.0])
    assert_close(bernoulli_entropy(logits), torch.tensor([math.log(2), quarter, quarter, 0.0, 0.0]))
