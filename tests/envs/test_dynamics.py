"""Reset, transition, reward: by hand on known prices, and against the plain model."""

import dataclasses
import math

import pytest
import torch

from envs.dynamics import Dynamics, RewardTerms
from trbert.errors import InputError
from trbert.measure.cost import CostModel
from trbert.measure.latency import LatencyTable
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples

# Layers of 10 FLOPs a token and 1 a pair of tokens; nothing else costs. A layer on one token costs 11, on two 24; the
# plain model of four layers on two tokens 96.
SIMPLE = CostModel(
    embedding_per_token=0.0,
    layer_per_token=(10.0,) * 4,
    layer_per_pair=(1.0,) * 4,
    head_per_document=0.0,
)
TWO_TOKENS = Tokens.from_lists([[5, 6]], None)


@pytest.fixture
def reducer(encoder):
    return Reducer(encoder=encoder, task=TASKS["classification"], points=(0, 2))


@pytest.fixture
def priced(reducer):
    def make(keep_ratios, price="flops", penalty=2.0):
        return Dynamics(reducer, RewardTerms(penalty=penalty, keep_ratios=keep_ratios, price=price), SIMPLE)

    return make


def two_tokens(label):
    return Examples.of_documents(TWO_TOKENS, torch.tensor([label]))


def test_a_two_token_documents_reward_by_hand(priced):
    # Two tokens after point 0 (two layers, 2·24), one after point 1 (two layers, 2·11), of 96; all of it is charged.
    # Logits (0, 0, log 2) give the third class probability 1/2.
    logits = torch.tensor([[0.0, 0.0, math.log(2)]])
    reward = priced((0.0, 0.0)).reward(two_tokens(2), torch.tensor([[2], [1]]), logits)
    assert reward.item() == pytest.approx(math.log(0.5) - 2.0 * (48 + 22) / 96)


@pytest.mark.parametrize(
    ("kept", "keep_ratios", "charge"),
    [
        ([2, 2], (1.0, 1.0), 0.0),  # nothing above what is free
        ([1, 1], (0.5, 0.5), 0.0),  # 0.5 of two tokens is one: just free
        ([2, 1], (0.5, 0.5), (48 - 22) / 96),  # point 0 keeps one token too many
        ([1, 1], (1.0, 0.0), 22 / 96),  # keeping less than ρ at point 0 earns nothing for point 1
        ([2, 2], (0.0, 0.5), (48 + 48 - 22) / 96),
        # 0.25 of two tokens is half a token: 2·(10·0.5 + 0.25) = 10.5 of the 22 are free.
        ([1, 1], (0.25, 1.0), (22 - 10.5) / 96),
    ],
)
def test_what_exceeds_the_keep_ratio_is_charged_at_each_point_by_its_flops(priced, kept, keep_ratios, charge):
    got = priced(keep_ratios).charge(torch.tensor([2]), torch.tensor(kept)[:, None])
    assert got.item() == pytest.approx(charge)


def test_each_document_has_its_own_free_tokens_and_a_long_stretch_its_whole_price_by_hand(reducer):
    # Three layers follow point 0, and one follows point 3. A layer costs 24 on two tokens and 56 on four, so that the
    # unreduced documents cost 96 and 224. Half of the tokens is free at point 3 alone: 11 for one token, 24 for two.
    reducer = dataclasses.replace(reducer, points=(0, 3))
    dynamics = Dynamics(reducer, RewardTerms(penalty=2.0, keep_ratios=(0.0, 0.5)), SIMPLE)
    charges = dynamics.charges(torch.tensor([2, 4]), torch.tensor([[2, 4], [2, 4]]))
    expected = torch.tensor([[3 * 24 / 96, 3 * 56 / 224], [(24 - 11) / 96, (56 - 24) / 224]])
    torch.testing.assert_close(charges, expected)


def test_the_token_price_without_keep_ratio_is_the_mean_kept_fraction_as_the_paper_has_it(priced):
    # Documents of 4 and 10 tokens: (3 + 1) / 2 / 4 and (10 + 5) / 2 / 10.
    charge = priced((0.0, 0.0), "tokens").charge(torch.tensor([4, 10]), torch.tensor([[3, 10], [1, 5]]))
    torch.testing.assert_close(charge, torch.tensor([0.5, 0.75]))


def test_the_token_price_is_free_up_to_the_keep_ratio(priced):
    # Of 4 tokens: 3 − 2 above the ratio at point 0, none at point 1; of 10 tokens: none, and 5 − 2.5.
    charge = priced((0.5, 0.25), "tokens").charge(torch.tensor([4, 10]), torch.tensor([[3, 5], [1, 5]]))
    torch.testing.assert_close(charge, torch.tensor([1 / 4 / 2, 2.5 / 10 / 2]))


def test_the_latency_price_is_the_share_of_the_measured_time(reducer):
    # Two layers on two tokens, two on one, of four on two; at ρ = 0.5 the time of one token is free at each point.
    times = LatencyTable(
        tokens=(1, 2), seconds=(1.0, 3.0), documents=1, layers=4, device="cpu", dtype="float32", threads=1
    )
    for keep_ratios, charge in {(0.0, 0.0): (6 + 2) / 12, (0.5, 0.5): (6 - 2) / 12}.items():
        terms = RewardTerms(penalty=2.0, keep_ratios=keep_ratios, price="latency", latency=times)
        got = Dynamics(reducer, terms, SIMPLE).charge(torch.tensor([2]), torch.tensor([[2], [1]]))
        assert got.item() == pytest.approx(charge)


@pytest.mark.parametrize("price", ["flops", "tokens"])
def test_a_latency_table_at_hand_prices_nothing_unless_time_is_the_price(reducer, price):
    times = LatencyTable(
        tokens=(1, 2), seconds=(1.0, 3.0), documents=1, layers=4, device="cpu", dtype="float32", threads=1
    )
    terms = RewardTerms(penalty=2.0, keep_ratios=(0.0, 0.0), price=price, latency=times)
    got = Dynamics(reducer, terms, SIMPLE).charge(torch.tensor([2]), torch.tensor([[2], [1]]))
    # Two tokens, then one: 48 and 22 FLOPs of 96, or 2/2 and 1/2 over two points. By time it would be 8/12.
    assert got.item() == pytest.approx({"flops": 70 / 96, "tokens": 0.75}[price])


@pytest.mark.parametrize("layers", [2, 12])
def test_a_latency_table_of_a_model_of_another_depth_is_refused(reducer, layers):
    times = LatencyTable(
        tokens=(1, 2), seconds=(1.0, 3.0), documents=1, layers=layers, device="cpu", dtype="float32", threads=1
    )
    terms = RewardTerms(penalty=2.0, keep_ratios=(0.0, 0.0), price="latency", latency=times)
    with pytest.raises(InputError, match=f"must be of a model of 4 layers, and is of one of {layers}"):
        Dynamics(reducer, terms, SIMPLE)


def test_a_latency_table_changes_no_other_price(reducer):
    times = LatencyTable(
        tokens=(1, 2), seconds=(1.0, 3.0), documents=1, layers=4, device="cpu", dtype="float32", threads=1
    )
    # As FLOPs: two layers on two tokens are 48, two on one 22, of 96. As tokens: (2 + 1) / 2 of 2.
    for price, charge in {"flops": (48 + 22) / 96, "tokens": 0.75}.items():
        terms = RewardTerms(penalty=2.0, keep_ratios=(0.0, 0.0), price=price, latency=times)
        got = Dynamics(reducer, terms, SIMPLE).charge(torch.tensor([2]), torch.tensor([[2], [1]]))
        assert got.item() == pytest.approx(charge)


def test_the_latency_price_needs_a_table():
    with pytest.raises(InputError, match="needs a latency table"):
        RewardTerms(penalty=1.0, keep_ratios=(0.0,), price="latency")


@pytest.mark.parametrize("penalty", [-0.1, float("nan"), float("inf")])
def test_a_penalty_that_is_no_price_is_refused(penalty):
    with pytest.raises(InputError, match=rf"^penalty must be 0 or more nats, and is {penalty}: "):
        RewardTerms(penalty=penalty, keep_ratios=(0.0,))


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_keep_ratio_that_is_no_fraction_is_refused(ratio):
    with pytest.raises(InputError, match=rf"^keep_ratios must be fractions from 0 to 1, and are \(0.5, {ratio}\): "):
        RewardTerms(penalty=1.0, keep_ratios=(0.5, ratio))


# What is still to come at each point.


def test_the_charges_of_the_points_add_up_to_the_whole(dynamics):
    lengths = torch.tensor([12, 7])
    kept = torch.tensor([[9, 7], [5, 4]])
    charges = dynamics.charges(lengths, kept)
    assert charges.shape == (2, 2)
    assert (charges > 0).all()
    torch.testing.assert_close(charges.sum(0), dynamics.charge(lengths, kept))
    # A point's charge is its own: it does not depend on what the other kept.
    other = dynamics.charges(lengths, torch.tensor([[9, 5], [8, 4]]))
    assert torch.equal(other[0, 0], charges[0, 0])
    assert torch.equal(other[1, 1], charges[1, 1])


def test_the_return_of_a_point_leaves_out_what_was_charged_before_by_hand(priced):
    # As above: 48/96 are charged at point 0 and 22/96 at point 1, at a penalty of 2; log ½ is the rest.
    logits = torch.tensor([[0.0, 0.0, math.log(2)]])
    dynamics, kept = priced((0.0, 0.0)), torch.tensor([[2], [1]])
    returns = dynamics.returns(two_tokens(2), kept, logits)
    assert returns[:, 0].tolist() == pytest.approx([math.log(0.5) - 2 * 70 / 96, math.log(0.5) - 2 * 22 / 96])
    assert returns[0].tolist() == dynamics.reward(two_tokens(2), torch.tensor([[2], [1]]), logits).tolist()


@pytest.mark.parametrize("price", ["flops", "tokens", "latency"])
def test_a_charge_carries_the_gradient_of_the_tokens_kept(reducer, price):
    # By finite differences, at counts that are not whole; below the keep ratio nothing changes.
    times = LatencyTable(
        tokens=(1, 8, 16), seconds=(1.0, 2.0, 6.0), documents=1, layers=4, device="cpu", dtype="float32", threads=1
    )
    terms = RewardTerms(penalty=2.0, keep_ratios=(0.5, 0.25), price=price, latency=times)
    dynamics, lengths = Dynamics(reducer, terms, SIMPLE), torch.tensor([12, 12])
    kept = torch.tensor([[9.3, 4.0], [5.0, 3.5]], requires_grad=True)
    charge = dynamics.charge(lengths, kept)
    (gradient,) = torch.autograd.grad(charge.sum(), kept)
    with torch.no_grad():
        for index in ((0, 0), (0, 1), (1, 0), (1, 1)):
            moved = torch.zeros(2, 2)
            moved[index] = 0.25
            slope = (dynamics.charge(lengths, kept + moved) - dynamics.charge(lengths, kept - moved)).sum() / 0.5
            torch.testing.assert_close(gradient[index], slope, rtol=1e-4, atol=1e-6)
    assert gradient[0, 1] == 0  # 4 of 12 are less than the half that is free
    assert (gradient[[0, 1, 1], [0, 0, 1]] > 0).all()


def test_without_penalty_the_reward_is_the_clipped_log_likelihood(priced):
    logits = torch.tensor([[0.0, 0.0, 100.0]])
    assert priced((0.0, 0.0), penalty=0.0).reward(two_tokens(0), torch.tensor([[2], [2]]), logits).item() == -5.0


def test_the_charge_is_never_negative_and_grows_with_the_tokens_kept(dynamics):
    lengths = torch.full((12,), 12)
    charges = dynamics.charge(lengths, torch.arange(1, 13).repeat(2, 1))
    assert charges[0] == 0
    assert (charges.diff() >= 0).all()
    assert charges[-1] > 0.5


def test_keeping_all_gives_the_plain_models_logits(dynamics, encoder, tokens):
    with torch.no_grad():
        state = dynamics.reset(tokens)
        while state.point < dynamics.num_points:
            state = dynamics.transition(state, torch.ones(1, len(state.batch.hidden), dtype=torch.bool))
        packed = dynamics.reducer.outputs(state)
        for i, ids in enumerate(tokens.input_ids.split(tokens.lengths.tolist())):
            torch.testing.assert_close(packed[i], encoder.plain(input_ids=ids[None]).logits[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.kept, tokens.lengths.repeat(2, 1))


def test_protected_tokens_are_kept_whatever_the_masks_say(dynamics, tokens):
    state = dynamics.transition(dynamics.reset(tokens), torch.zeros(2, 32, dtype=torch.bool))
    assert state.kept.tolist() == [[1] * 10]
    assert state.batch.positions.tolist() == [0] * 10
    assert state.batch.protected.all()


@pytest.mark.parametrize("points", [(0, 2), (1, 3)])
def test_samples_that_share_a_prefix_equal_samples_run_alone(make_dynamics, tokens, examples, points):
    dynamics = make_dynamics(points)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        start = dynamics.reset(tokens)
        first = torch.rand(4, 32, generator=generator) < 0.6
        together = dynamics.transition(start, first)
        second = torch.rand(1, len(together.batch.hidden), generator=generator) < 0.6
        pieces = second[0].split(together.kept[0].view(4, -1).sum(1).tolist())
        together = dynamics.transition(together, second)
        alone = []
        for row, piece in zip(first, pieces, strict=True):
            state = dynamics.transition(dynamics.reset(tokens), row[None])
            alone.append(dynamics.transition(state, piece[None]))
        hidden = torch.cat([state.batch.hidden for state in alone])
        torch.testing.assert_close(together.batch.hidden, hidden, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.kept, torch.cat([state.kept for state in alone], 1))
        rewards = dynamics.reward(examples.repeat(4), together.kept, dynamics.reducer.outputs(together))
        expected = [dynamics.reward(examples, s.kept, dynamics.reducer.outputs(s)) for s in alone]
    torch.testing.assert_close(rewards, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_a_branch_can_branch_again(dynamics, tokens):
    part = tokens.take(torch.tensor([0, 2]))
    with torch.no_grad():
        state = dynamics.transition(dynamics.reset(part), torch.ones(3, 10, dtype=torch.bool))
        masks = torch.zeros(2, 30, dtype=torch.bool)
        masks[1] = True
        tree = dynamics.transition(state, masks)
    # 2 documents · 3 branches, then twice: the first six keep one token each, the last six all.
    assert tree.kept.tolist() == [[7, 3] * 6, [1] * 6 + [7, 3] * 3]


@pytest.mark.parametrize(
    ("points", "keep_ratios", "message"),
    [
        ((0, 2), (0.5,), r"keep_ratios must be one for each of the points \(0, 2\), and are \(0.5,\)"),
        ((2, 0), (0.5, 0.5), "points must be rising layer indices from 0 to 3"),
        ((0, 4), (0.5, 0.5), "points must be rising layer indices from 0 to 3"),
    ],
)
def test_impossible_dynamics_are_refused(make_dynamics, points, keep_ratios, message):
    with pytest.raises(InputError, match=message):
        make_dynamics(points, keep_ratios)


# Examples of several documents.

PAIR = Tokens.from_lists([[5], [6, 7]], None)
"""Unreduced, the first document costs 44 in the simple prices (4 layers of 11), the second 96: together 140."""


def pair(label):
    return Examples(PAIR, torch.tensor([label]), owner=torch.tensor([0, 0]))


def test_an_example_of_two_documents_is_charged_as_they_cost_together_by_hand(priced):
    # The one token stays: 22 at each point. Of the two tokens both go on at point 0 and one at point 1: 48 and 22.
    dynamics, kept = priced((0.0, 0.0)), torch.tensor([[1, 2], [1, 1]])
    charges = dynamics.charges(PAIR.lengths, kept)
    torch.testing.assert_close(charges, torch.tensor([[22 / 44, 48 / 96], [22 / 44, 22 / 96]]))
    together = dynamics.of_examples(pair(0), charges)
    torch.testing.assert_close(together, torch.tensor([[(22 + 48) / 140], [(22 + 22) / 140]]))


def test_documents_weigh_by_their_unreduced_price_whatever_the_charge_is_in_by_hand(priced):
    # As tokens over two points: ½ of the whole at both points of the first; 2/2/2 and 1/2/2 of the second.
    dynamics = priced((0.0, 0.0), "tokens")
    charges = dynamics.charges(PAIR.lengths, torch.tensor([[1, 2], [1, 1]]))
    torch.testing.assert_close(charges, torch.tensor([[0.5, 0.5], [0.5, 0.25]]))
    expected = torch.tensor([[0.5], [(0.5 * 44 + 0.25 * 96) / 140]])
    torch.testing.assert_close(dynamics.of_examples(pair(0), charges), expected)


def test_the_returns_of_an_example_of_two_documents_by_hand(priced, pick_one):
    # Scores of 0 and log 3: the second document is picked with ¾. Two samples; in the other one nothing is kept that
    # need not be: 22 of each document at each point.
    dynamics = priced((0.0, 0.0))
    dynamics = dataclasses.replace(dynamics, reducer=dataclasses.replace(dynamics.reducer, task=pick_one))
    examples = pair(1).repeat(2)
    assert examples.owner.tolist() == [0, 0, 1, 1]
    outputs = torch.tensor([[0.0, 9.0, 9.0], [math.log(3), 0.0, 0.0]] * 2)
    kept = torch.tensor([[1, 2, 1, 1], [1, 1, 1, 1]])
    returns = dynamics.returns(examples, kept, outputs)
    fidelity, whole = math.log(0.75), torch.tensor([[22 + 48 + 22 + 22, 4 * 22], [22 + 22, 2 * 22]]) / 140
    torch.testing.assert_close(returns, fidelity - 2.0 * whole)
    assert torch.equal(dynamics.reward(examples, kept, outputs), returns[0])


def test_documents_of_unequal_numbers_go_to_their_own_examples_by_hand(priced):
    # Examples of one, three and one documents, all of one token or two; in simple prices 44 or 96.
    tokens = Tokens.from_lists([[5, 6], [5], [5, 6], [5], [5]], None)
    examples = Examples(tokens, torch.tensor([0, 0, 0]), owner=torch.tensor([0, 1, 1, 1, 2]))
    charges = torch.tensor([[0.3, 1.0, 0.5, 0.0, 0.9], [0.0, 0.0, 0.0, 1.0, 0.1]])
    expected = torch.tensor([[0.3, (44 + 48) / 184, 0.9], [0.0, 44 / 184, 0.1]])
    torch.testing.assert_close(priced((0.0, 0.0)).of_examples(examples, charges), expected)


def test_an_example_of_one_document_is_charged_exactly_what_the_document_is(dynamics, examples):
    kept = torch.stack([examples.tokens.lengths, (examples.tokens.lengths + 1) // 2])
    charges = dynamics.charges(examples.tokens.lengths, kept)
    assert (charges > 0).any()
    assert torch.equal(dynamics.of_examples(examples, charges), charges)


def test_the_charge_of_an_example_carries_its_documents_gradients_by_their_shares(priced):
    charges = torch.zeros(1, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(priced((0.0, 0.0)).of_examples(pair(0), charges).sum(), charges)
    torch.testing.assert_close(gradient, torch.tensor([[44 / 140, 96 / 140]]))
