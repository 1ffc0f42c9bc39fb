"""Sampled trajectories: keyed randomness, their log-probability, and what may stand in for a draw."""

import pytest
import torch

import envs.rollout
from envs import rollout as rollouts
from envs.rollout import Draw, sample_trajectories
from trbert.keyed import keyed_uniform
from trbert.packed.tokens import Tokens
from trbert.selection.policy import Policy


def sample(dynamics, policy, tokens, documents, samples=3, seed=7, version=2, **how):
    """Returns the rollout, and its masks by (sample, document): the original positions kept after each point."""
    documents = torch.tensor(documents)
    dials = how.pop("dials", torch.zeros(samples, len(documents)))
    draw = Draw(seed=seed, version=version, documents=documents)
    with torch.no_grad():
        rollout = sample_trajectories(dynamics, policy, tokens.take(documents), draw, dials, **how)
        state = dynamics.reset(tokens.take(documents))
        kept = {}
        for masks in rollout.masks:
            state = dynamics.transition(state, masks)
            positions = state.batch.positions.split(state.batch.lengths.tolist())
            for number, places in enumerate(positions):
                key = (number // len(documents), documents[number % len(documents)].item())
                kept.setdefault(key, []).append(places.tolist())
    return rollout, kept


def even_policy():
    """Returns a policy whose logits are all 0."""
    policy = Policy(dim=16, num_points=2, width=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    return policy


@pytest.fixture(scope="module")
def seeing():
    """A policy that sees the token's document and its neighbours, each as much as the token."""
    torch.manual_seed(5)
    policy = Policy(dim=16, num_points=2, width=8, features=("document", "neighbours"))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.normal_(std=0.15 if "document" in name else 0.5)
    return policy


def test_a_documents_trajectories_do_not_depend_on_its_batch_mates_or_their_order(dynamics, policy, seeing, tokens):
    dials = torch.tensor([[0.0, 1.0, 0.0, 0.5, -1.0], [0.5, -1.0, 1.0, 0.0, 1.0], [torch.inf, -1.0, 0.0, 0.0, 0.0]])
    for own in (policy, seeing):
        _, together = sample(dynamics, own, tokens, [0, 1, 2, 3, 4], dials=dials)
        for documents in ([1], [4, 1, 0], [1, 4]):
            _, kept = sample(dynamics, own, tokens, documents, dials=dials[:, documents])
            assert kept == {key: together[key] for key in kept}
        assert len({str(places) for places in together.values()}) > 8


def test_a_sample_does_not_depend_on_how_many_there_are(dynamics, policy, tokens):
    _, four = sample(dynamics, policy, tokens, [0, 1, 4], samples=4)
    _, eight = sample(dynamics, policy, tokens, [0, 1, 4], samples=8)
    assert four == {key: eight[key] for key in four}
    assert four[2, 1] != four[1, 1]


def test_another_seed_version_or_document_gives_other_masks(dynamics, policy, tokens):
    # The second document is a copy of the first: only its number tells them apart.
    twins = tokens.take(torch.tensor([1, 1]))
    _, kept = sample(dynamics, policy, twins, [0, 1])
    assert kept[0, 0] != kept[0, 1]
    for other in ({"seed": 8}, {"version": 3}):
        _, different = sample(dynamics, policy, twins, [0, 1], **other)
        assert all(different[key] != kept[key] for key in kept)


def test_the_two_points_of_a_trajectory_draw_anew(dynamics, tokens):
    # Equal logits at both points: were the draws shared too, point 1 would keep all that point 0 kept.
    policy = Policy(dim=16, num_points=2, width=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    _, kept = sample(dynamics, policy, tokens, [1, 4], samples=8)
    assert any(first != second for first, second in kept.values())


def test_tokens_are_kept_as_often_as_the_policy_says(dynamics, tokens):
    policy = Policy(dim=16, num_points=2, width=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.heads[0].linear_2.bias.fill_(1.0)
    rollout, _ = sample(dynamics, policy, tokens, [1], samples=500)
    # 11 free tokens · 500 draws at σ(1) = .7311: standard deviation .006.
    assert rollout.masks[0][:, 1:].float().mean().item() == pytest.approx(0.7311, abs=0.024)


def test_log_prob_sums_the_free_tokens_decisions_of_each_point(dynamics, policy, tokens):
    rollout, _ = sample(dynamics, policy, tokens, [0, 2, 3])
    lengths = [7, 3, 1]
    starts = [0, 7, 10]
    with torch.no_grad():
        before = dynamics.reset(tokens.take(torch.tensor([0, 2, 3])))
        after = dynamics.transition(before, rollout.masks[0])
        keep = [
            policy.logits(state.batch, point, torch.zeros(1, len(state.batch)))[0].sigmoid()
            for point, state in enumerate((before, after))
        ]
    offsets = after.batch.offsets.tolist()
    for s in range(3):
        for d, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            summed, averaged = [], []
            for probs, mask, first, end in (
                (keep[0], rollout.masks[0][s], start, start + length),
                (keep[1], rollout.masks[1][0], offsets[3 * s + d], offsets[3 * s + d + 1]),
            ):
                # The first token of each document is protected: no decision, no log-probability.
                here = [torch.log(probs[i] if mask[i] else 1 - probs[i]) for i in range(first + 1, end)]
                summed.append(sum(here))
                averaged.append(sum(here) / (end - first))
            assert rollout.log_prob[:, s, d].tolist() == pytest.approx([float(x) for x in summed], abs=1e-4)
            assert rollout.mean_log_prob[:, s, d].tolist() == pytest.approx([float(x) for x in averaged], abs=1e-4)
    assert (rollout.log_prob[:, :, 2] == 0).all()  # one protected token decides nothing


def test_the_gradient_enters_the_policy_alone(dynamics, policy, tokens, encoder):
    draw = Draw(seed=0, version=0, documents=torch.arange(5))
    rollout = sample_trajectories(dynamics, policy, tokens, draw, torch.zeros(2, 5))
    heads = torch.autograd.grad(rollout.log_prob.sum(), list(policy.parameters()), retain_graph=True)
    assert all(gradient.abs().max() > 0 for gradient in heads)
    below = torch.autograd.grad(rollout.log_prob.sum(), list(encoder.plain.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in below)


def test_an_infinite_dial_keeps_everything_and_dials_are_each_trajectorys_own(dynamics, policy, tokens):
    dials = torch.tensor([[0.0, torch.inf], [-torch.inf, 0.0]])
    _, kept = sample(dynamics, policy, tokens, [0, 1], dials=dials)
    assert kept[0, 1] == [list(range(12))] * 2
    assert kept[1, 0] == [[0]] * 2
    _, plain = sample(dynamics, policy, tokens, [0, 1], samples=2)
    assert (kept[0, 0], kept[1, 1]) == (plain[0, 0], plain[1, 1])


def test_a_deployed_sample_thresholds_and_the_others_still_draw(dynamics, policy, tokens):
    deployed = torch.tensor([False, True, False])
    _, kept = sample(dynamics, policy, tokens, [0, 1], deployed=deployed)
    _, drawn = sample(dynamics, policy, tokens, [0, 1])
    assert all(kept[s, d] == drawn[s, d] for s in (0, 2) for d in (0, 1))
    with torch.no_grad():
        batch = dynamics.reset(tokens.take(torch.tensor([0, 1]))).batch
        keep = (policy.logits(batch, 0, torch.zeros(1, 2))[0] >= 0) | batch.protected
    assert kept[1, 0][0] == batch.positions[:7][keep[:7]].tolist()
    assert kept[1, 1][0] == batch.positions[7:][keep[7:]].tolist()


def test_a_deployed_logit_of_exactly_zero_is_kept(dynamics, tokens):
    rollout, _ = sample(dynamics, even_policy(), tokens, [1, 4], samples=2, deployed=torch.tensor([True, False]))
    assert rollout.masks[0][0].all()  # probability one half, at both points
    assert rollout.state.kept[:, :2].tolist() == [[12, 9]] * 2
    assert not rollout.masks[0][1].all()  # the other sample still draws


@pytest.mark.parametrize(("number", "dial"), [(0.5, 0.0), (0.0, -torch.inf)])
def test_a_number_equal_to_the_probability_drops(number, dial, dynamics, tokens, monkeypatch):
    # σ(0) is 0.5 and σ(−∞) is 0: numbers are from [0, 1), so that those below p are drawn with probability p.
    monkeypatch.setattr(rollouts, "keyed_uniform", lambda *keys: torch.full((1, len(keys[-1])), number))
    _, kept = sample(dynamics, even_policy(), tokens, [1], dials=torch.tensor([[dial]]))
    assert kept == {(0, 1): [[0], [0]]}


def test_even_odds_are_kept_where_they_are_thresholded(dynamics, tokens):
    policy = Policy(dim=16, num_points=2, width=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    _, kept = sample(dynamics, policy, tokens, [0, 1], samples=1, deployed=torch.tensor([True]))
    assert kept == {(0, 0): [list(range(7))] * 2, (0, 1): [list(range(12))] * 2}


def test_what_is_dropped_for_certain_is_dropped_whatever_the_draw(dynamics, policy, tokens, monkeypatch):
    # The lowest number that can be drawn is 0, which is not below a probability of 0.
    monkeypatch.setattr(
        envs.rollout,
        "keyed_uniform",
        lambda *keys: torch.zeros(()).expand(
            torch.broadcast_shapes(*(key.shape for key in keys if isinstance(key, torch.Tensor)))
        ),
    )
    _, kept = sample(dynamics, policy, tokens, [0, 1], samples=1, dials=torch.full((1, 2), -torch.inf))
    assert kept == {(0, 0): [[0]] * 2, (0, 1): [[0]] * 2}


def test_the_masks_of_a_rollout_hold_the_protected_tokens(dynamics, policy, tokens):
    rollout, _ = sample(dynamics, policy, tokens, [0, 1], dials=torch.full((2, 2), -torch.inf), samples=2)
    first = [place in (0, 7) for place in range(19)]  # each document's first token
    assert rollout.masks[0].tolist() == [first] * 2
    assert rollout.masks[1].tolist() == [[True] * 4]


def test_the_forced_mask_replaces_the_last_samples_draw_at_both_points(dynamics, policy, tokens):
    forced = torch.zeros(19, dtype=torch.bool)
    forced[[3, 7 + 4, 7 + 11]] = True
    _, kept = sample(dynamics, policy, tokens, [0, 1], forced=forced)
    assert kept[2, 0] == [[0, 3]] * 2
    assert kept[2, 1] == [[0, 4, 11]] * 2
    _, drawn = sample(dynamics, policy, tokens, [0, 1])
    assert all(kept[s, d] == drawn[s, d] for s in (0, 1) for d in (0, 1))


def test_a_trajectory_that_keeps_all_for_certain_spoils_no_gradient(dynamics, policy, tokens):
    draw = Draw(seed=0, version=0, documents=torch.tensor([0, 1]))
    dials = torch.tensor([[0.0, 0.0], [torch.inf, -torch.inf]])
    rollout = sample_trajectories(dynamics, policy, tokens.take(torch.tensor([0, 1])), draw, dials)
    assert (rollout.log_prob[:, 1] == 0).all()
    # The drawn sample alone enters the loss, as in the joint stage.
    gradients = torch.autograd.grad(rollout.log_prob[:, 0].sum(), list(policy.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


# Shared decisions.


def test_neighbours_share_a_decision_and_its_log_prob(dynamics, policy, tokens):
    # Each block of 4 positions is drawn with the mean of its free logits, and counts once in the log-probability.
    documents, lengths, together = [0, 2, 3], [7, 3, 1], 4
    rollout, _ = sample(dynamics, policy, tokens, documents, tokens_per_decision=together)
    zeros = torch.zeros(1, 9)
    with torch.no_grad():
        states = [dynamics.reset(tokens.take(torch.tensor(documents)))]
        states.append(dynamics.transition(states[0], rollout.masks[0]))
        rows = [
            policy.logits(states[0].batch, 0, zeros[:, :3]).expand(3, -1).flatten(),
            policy.logits(states[1].batch, 1, zeros)[0],
        ]
    places = [
        [(s, d, t) for s in range(3) for d, length in enumerate(lengths) for t in range(length)],
        [
            (trajectory // 3, trajectory % 3, position)
            for trajectory, position in zip(
                states[1].batch.documents.tolist(), states[1].batch.positions.tolist(), strict=True
            )
        ],
    ]
    shared, summed = 0, torch.zeros(2, 3, 3)
    for point, (logits, found) in enumerate(zip(rows, places, strict=True)):
        masks = rollout.masks[point].flatten().tolist()
        blocks = {}
        for number, (s, d, t) in enumerate(found):
            if t > 0:  # the first token of each document is protected
                blocks.setdefault((s, d, t // together), []).append(number)
        for (s, d, block), members in blocks.items():
            logit = sum(float(logits[i]) for i in members) / len(members)
            keep = bool(keyed_uniform(7, 2, documents[d], s, point, block) < torch.tensor(logit).sigmoid())
            assert [masks[i] for i in members] == [keep] * len(members)
            summed[point, s, d] += torch.nn.functional.logsigmoid(torch.tensor(logit if keep else -logit))
            shared += len(members) > 1
        assert any(masks)
        assert not all(masks)
    assert shared > 10
    assert torch.allclose(rollout.log_prob, summed, atol=1e-4)


def test_an_infinite_dial_keeps_or_drops_everything_in_shared_decisions(dynamics, policy, tokens):
    dials = torch.tensor([[0.0, torch.inf], [-torch.inf, 0.0]])
    rollout, kept = sample(dynamics, policy, tokens, [0, 1], dials=dials, tokens_per_decision=4)
    assert kept[0, 1] == [list(range(12))] * 2
    assert kept[1, 0] == [[0]] * 2
    assert rollout.log_prob.isfinite().all()


def test_shared_decisions_do_not_depend_on_batch_mates(dynamics, policy, tokens):
    _, together = sample(dynamics, policy, tokens, [0, 1, 2, 3, 4], tokens_per_decision=3)
    _, kept = sample(dynamics, policy, tokens, [4, 1], tokens_per_decision=3)
    assert kept == {key: together[key] for key in kept}


def test_a_deployed_sample_has_a_decision_for_each_token(dynamics, policy, tokens):
    deployed = torch.tensor([True, False])
    _, alone = sample(dynamics, policy, tokens, [0, 1, 4], samples=2, deployed=deployed)
    _, shared = sample(dynamics, policy, tokens, [0, 1, 4], samples=2, deployed=deployed, tokens_per_decision=4)
    assert all(alone[0, document] == shared[0, document] for document in (0, 1, 4))
    assert any(alone[1, document] != shared[1, document] for document in (0, 1, 4))


# Relaxed decisions.


class Table(Policy):
    """A policy of one logit for each point, document and position, so that a gradient tells whose it is."""

    def __init__(self, points, docs, length):
        super().__init__(dim=16, num_points=0)
        generator = torch.Generator().manual_seed(4)
        self.table = torch.nn.Parameter(torch.randn(points, docs, length, generator=generator))

    def logits(self, batch, point, dials):
        own = self.table[point, batch.documents % self.table.shape[1], batch.positions]
        return own + dials[:, batch.documents]


@pytest.fixture
def each():
    """One logit for each token of documents 1 and 4, of 12 and 9 tokens, at two points."""
    return Table(2, 2, 12)


def relaxed(dynamics, policy, tokens, documents=(1, 4), samples=3, temperature=0.7, dials=None, **how):
    documents = torch.tensor(documents)
    dials = torch.zeros(samples, len(documents)) if dials is None else dials
    draw = Draw(seed=7, version=2, documents=documents)
    part = tokens.take(documents)
    return sample_trajectories(dynamics, policy, part, draw, dials, temperature=temperature, **how)


def gradient_of(value, policy):
    (gradient,) = torch.autograd.grad(value, [policy.table], retain_graph=True)
    return gradient


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_relaxed_trajectories_are_those_drawn_without(temperature, dynamics, policy, seeing, tokens):
    dials = torch.tensor([[0.0, 0.5], [1.0, -1.0], [torch.inf, 0.5]])
    deployed = torch.tensor([False, False, True])
    for own in (policy, seeing):
        hard, soft = (
            relaxed(dynamics, own, tokens, temperature=tau, dials=dials, deployed=deployed)
            for tau in (None, temperature)
        )
        assert all(torch.equal(one, other) for one, other in zip(hard.masks, soft.masks, strict=True))
        assert torch.equal(soft.state.batch.hidden, hard.state.batch.hidden)
        assert torch.equal(soft.log_prob, hard.log_prob)
        assert hard.counts is None
        assert torch.equal(soft.counts.flatten(1), soft.state.kept.float())
        assert not torch.equal(soft.counts[0], soft.counts[1])


def test_the_gradient_of_the_tokens_left_is_the_relaxed_decisions_by_hand(dynamics, each, tokens):
    # σ'((l + noise)/τ)/τ with noise −logit(u), u the number that drew the decision: of kept tokens and dropped ones.
    rollout = relaxed(dynamics, each, tokens)
    position = torch.arange(12)
    for s, (d, document, length) in ((0, (0, 1, 12)), (1, (0, 1, 12)), (2, (1, 4, 9))):
        uniform = [keyed_uniform(7, 2, document, s, point, position) for point in (0, 1)]
        soft = [((each.table[t, d] - torch.logit(uniform[t])) / 0.7).sigmoid().detach() for t in (0, 1)]
        free = (position > 0) & (position < length)
        kept = [free & (uniform[t] < each.table[t, d].sigmoid()) for t in (0, 1)]
        slopes = [soft[t] * (1 - soft[t]) / 0.7 for t in (0, 1)]
        assert kept[0].any()
        assert (free & ~kept[0]).any()

        first, second = (gradient_of(rollout.counts[point, s, d], each) for point in (0, 1))
        torch.testing.assert_close(first[0, d], slopes[0] * free)
        assert (first[1] == 0).all()
        # A token is left after the second point if it came so far and is kept there, too.
        torch.testing.assert_close(second[0, d], slopes[0] * (kept[0] & kept[1]))
        torch.testing.assert_close(second[1, d], slopes[1] * kept[0])
        assert (second[:, 1 - d] == 0).all()  # nor any other document's


def test_the_gradient_of_the_outcome_reaches_what_was_kept_and_nothing_else(dynamics, each, tokens):
    rollout = relaxed(dynamics, each, tokens, samples=1)
    gradient = gradient_of(dynamics.reducer.outputs(rollout.state)[:, 0].sum(), each)
    for d, length in enumerate((12, 9)):
        start = 12 * d
        kept = torch.zeros(2, 12, dtype=torch.bool)
        kept[0, :length] = rollout.masks[0][0, start : start + length]
        entering = kept[0].nonzero()[:, 0]
        offset = int(kept[0].sum()) if d == 0 else int(rollout.masks[0][0, :12].sum())
        mask = rollout.masks[1][0][:offset] if d == 0 else rollout.masks[1][0][offset:]
        kept[1, entering[mask]] = True
        kept[:, 0] = False  # protected: no decision
        for point in (0, 1):
            assert kept[point].any()
            assert (gradient[point, d][kept[point]] != 0).all()
            assert (gradient[point, d][~kept[point]] == 0).all()


def test_one_tokens_gradient_is_its_gates_by_finite_difference(make_dynamics):
    # One document of a protected token and a free one, kept: dR/dl = dR/dg · σ'((l + noise)/τ)/τ at g = 1.
    dynamics, part = make_dynamics((2,), (0.0,)), Tokens.from_lists([[2, 5]], None)
    policy = Table(1, 1, 2)
    with torch.no_grad():
        policy.table.fill_(1.5)
    rollout = sample_trajectories(
        dynamics,
        policy,
        part,
        Draw(seed=7, version=2, documents=torch.tensor([2])),
        torch.zeros(1, 1),
        temperature=0.7,
    )
    assert rollout.state.kept.tolist() == [[2]]
    found = gradient_of(dynamics.reducer.outputs(rollout.state)[0, 1], policy)[0, 0]
    uniform = keyed_uniform(7, 2, 2, 0, 0, 1)
    soft = ((1.5 - torch.logit(uniform)) / 0.7).sigmoid()

    @torch.no_grad()
    def outcome(gate):
        state = dynamics.transition(dynamics.reset(part), torch.ones(1, 2, dtype=torch.bool), torch.tensor([1.0, gate]))
        return dynamics.reducer.outputs(state)[0, 1]

    slope = (outcome(1.01) - outcome(0.99)) / 0.02
    assert abs(slope) > 1e-3
    assert found[0] == 0
    torch.testing.assert_close(found[1], slope * soft * (1 - soft) / 0.7, rtol=2e-2, atol=1e-5)


def test_a_gate_of_one_point_does_not_scale_again_at_the_next_by_finite_difference(dynamics):
    # As above, of a token that is kept at both points: each decision's gradient is that of its own gate alone.
    part, policy = Tokens.from_lists([[2, 5]], None), Table(2, 1, 2)
    with torch.no_grad():
        policy.table.fill_(1.5)
    draw = Draw(seed=7, version=2, documents=torch.tensor([2]))
    rollout = sample_trajectories(dynamics, policy, part, draw, torch.zeros(1, 1), temperature=0.7)
    assert rollout.state.kept.tolist() == [[2], [2]]
    found = gradient_of(dynamics.reducer.outputs(rollout.state)[0, 1], policy)[:, 0, 1]

    @torch.no_grad()
    def outcome(*gates):
        state = dynamics.reset(part)
        for gate in gates:
            state = dynamics.transition(state, torch.ones(1, 2, dtype=torch.bool), torch.tensor([1.0, gate]))
        return dynamics.reducer.outputs(state)[0, 1]

    slopes = [(outcome(1.01, 1.0) - outcome(0.99, 1.0)) / 0.02, (outcome(1.0, 1.01) - outcome(1.0, 0.99)) / 0.02]
    for point, slope in enumerate(slopes):
        assert abs(slope) > 1e-3
        soft = ((1.5 - torch.logit(keyed_uniform(7, 2, 2, 0, point, 1))) / 0.7).sigmoid()
        torch.testing.assert_close(found[point], slope * soft * (1 - soft) / 0.7, rtol=2e-2, atol=1e-5)


def test_what_is_deployed_has_no_gradient_and_leaves_the_drawn_ones_theirs(dynamics, each, tokens):
    deployed = torch.tensor([False, True])
    dials = torch.tensor([[0.0, 0.0], [torch.inf, 0.3]])
    rollout = relaxed(dynamics, each, tokens, samples=2, dials=dials, deployed=deployed)
    logits = dynamics.reducer.outputs(rollout.state)
    assert (gradient_of(rollout.counts[:, 1].sum(), each) == 0).all()
    assert (gradient_of(logits[2:].sum(), each) == 0).all()
    alone = relaxed(dynamics, each, tokens, samples=1)
    own = dynamics.reducer.outputs(alone.state)
    for both, one in ((rollout.counts[:, :1], alone.counts), (logits[:2, 0], own[:, 0])):
        torch.testing.assert_close(gradient_of(both.sum(), each), gradient_of(one.sum(), each), rtol=1e-3, atol=1e-5)


def test_relaxed_decisions_reach_every_weight_of_the_policy_and_none_below(dynamics, seeing, tokens, encoder):
    rollout = relaxed(dynamics, seeing, tokens, dials=torch.tensor([[0.5, -0.5]] * 3))
    value = rollout.counts.sum() + dynamics.reducer.outputs(rollout.state)[:, 0].sum()
    heads = torch.autograd.grad(value, list(seeing.parameters()), retain_graph=True)
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in heads)
    below = torch.autograd.grad(rollout.counts.sum(), list(encoder.plain.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in below)  # the states that a decision is made on do not learn from it


def test_the_count_at_a_third_point_has_the_gradient_of_all_three_decisions_by_hand(make_dynamics):
    # One document of a protected token and a free one, which is kept at every point: each decision's gradient is
    # σ'((l + noise)/τ)/τ, because the other two gates are 1.
    dynamics, part = make_dynamics((0, 1, 2), (0.0,) * 3), Tokens.from_lists([[2, 5]], None)
    policy = Table(3, 1, 2)
    with torch.no_grad():
        policy.table.fill_(2.5)
    draw = Draw(seed=7, version=2, documents=torch.tensor([2]))
    rollout = sample_trajectories(dynamics, policy, part, draw, torch.zeros(1, 1), temperature=0.7)
    assert rollout.state.kept.tolist() == [[2]] * 3
    uniform = torch.stack([keyed_uniform(7, 2, 2, 0, point, 1) for point in range(3)])
    soft = ((2.5 - torch.logit(uniform)) / 0.7).sigmoid()
    torch.testing.assert_close(gradient_of(rollout.counts[2].sum(), policy)[:, 0, 1], soft * (1 - soft) / 0.7)
