"""Sampled trajectories: keyed randomness, their log-probability, and what may stand in for a draw."""

import pytest
import torch

from envs.rollout import Draw, sample_trajectories
from trbert.errors import InputError
from trbert.policy import Policy


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


def test_a_documents_trajectories_do_not_depend_on_its_batch_mates_or_their_order(dynamics, policy, tokens):
    _, together = sample(dynamics, policy, tokens, [0, 1, 2, 3, 4])
    for documents in ([1], [4, 1, 0], [1, 4]):
        _, kept = sample(dynamics, policy, tokens, documents)
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


def test_log_prob_sums_the_free_tokens_decisions_over_both_points(dynamics, policy, tokens):
    rollout, _ = sample(dynamics, policy, tokens, [0, 2, 3])
    lengths = [7, 3, 1]
    starts = [0, 7, 10]
    with torch.no_grad():
        before = dynamics.reset(tokens.take(torch.tensor([0, 2, 3])))
        after = dynamics.transition(before, rollout.masks[0])
        keep = [policy.logits(state.batch, point).sigmoid() for point, state in enumerate((before, after))]
    offsets = after.batch.offsets.tolist()
    for s in range(3):
        for d, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            terms, averaged = [], []
            for probs, mask, first, end in (
                (keep[0], rollout.masks[0][s], start, start + length),
                (keep[1], rollout.masks[1][0], offsets[3 * s + d], offsets[3 * s + d + 1]),
            ):
                # The first token of each document is protected: no decision, no log-probability.
                here = [torch.log(probs[i] if mask[i] else 1 - probs[i]) for i in range(first + 1, end)]
                terms += here
                averaged.append(sum(here) / (end - first))
            assert rollout.log_prob[:, s, d].sum().item() == pytest.approx(float(sum(terms)), abs=1e-4)
            assert rollout.mean_log_prob[:, s, d].tolist() == pytest.approx([float(x) for x in averaged], abs=1e-4)
    assert (rollout.log_prob[:, :, 2] == 0).all()  # one protected token decides nothing
    assert (rollout.entropy[:, 2] == 0).all()


def test_entropy_at_even_odds_is_log_two_for_each_free_token(dynamics, tokens):
    policy = Policy(dim=16, num_points=2, width=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    rollout, _ = sample(dynamics, policy, tokens, [1], samples=4)
    free = 11 + (rollout.state.kept[0] - 1)
    torch.testing.assert_close(rollout.entropy[:, 0], free * torch.log(torch.tensor(2.0)))


def test_the_gradient_enters_the_policy_alone(dynamics, policy, tokens, encoder):
    draw = Draw(seed=0, version=0, documents=torch.arange(5))
    rollout = sample_trajectories(dynamics, policy, tokens, draw, torch.zeros(2, 5))
    heads = torch.autograd.grad(rollout.log_prob.sum(), list(policy.parameters()), retain_graph=True)
    assert all(gradient.abs().max() > 0 for gradient in heads)
    below = torch.autograd.grad(rollout.log_prob.sum(), list(encoder.model.parameters()), allow_unused=True)
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
        keep = (policy.logits(batch, 0) >= 0) | batch.protected
    assert kept[1, 0][0] == batch.positions[:7][keep[:7]].tolist()
    assert kept[1, 1][0] == batch.positions[7:][keep[7:]].tolist()


def test_the_forced_mask_replaces_the_last_samples_draw_at_both_points(dynamics, policy, tokens):
    forced = torch.zeros(19, dtype=torch.bool)
    forced[[3, 7 + 4, 7 + 11]] = True
    _, kept = sample(dynamics, policy, tokens, [0, 1], forced=forced)
    assert kept[2, 0] == [[0, 3]] * 2
    assert kept[2, 1] == [[0, 4, 11]] * 2
    _, drawn = sample(dynamics, policy, tokens, [0, 1])
    assert all(kept[s, d] == drawn[s, d] for s in (0, 1) for d in (0, 1))


def test_a_trajectory_that_keeps_all_for_certain_has_no_entropy_and_spoils_no_gradient(dynamics, policy, tokens):
    draw = Draw(seed=0, version=0, documents=torch.tensor([0, 1]))
    dials = torch.tensor([[0.0, 0.0], [torch.inf, -torch.inf]])
    rollout = sample_trajectories(dynamics, policy, tokens.take(torch.tensor([0, 1])), draw, dials)
    assert (rollout.entropy[1] == 0).all()
    assert (rollout.log_prob[:, 1] == 0).all()
    # The drawn sample alone enters the loss, as in the joint stage.
    for value in (rollout.entropy[0].sum(), rollout.log_prob[:, 0].sum()):
        gradients = torch.autograd.grad(value, list(policy.parameters()), retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)


# Siblings: a tree.


def test_siblings_share_what_lies_before_the_last_point_and_part_there(dynamics, policy, tokens):
    rollout, kept = sample(dynamics, policy, tokens, [0, 1, 4], samples=6, siblings=2)
    assert [len(masks) for masks in rollout.masks] == [3, 2]
    parted = 0
    for document in (0, 1, 4):
        for s in range(3):
            first, second = kept[s, document]
            (other,) = kept[s + 3, document]  # of the second sibling there is no first point
            assert {*second, *other} <= {*first}
            parted += second != other
        assert len({str(kept[s, document][0]) for s in range(3)}) > 1
    assert parted > 5
    assert torch.equal(rollout.log_prob[0, :3], rollout.log_prob[0, 3:])
    assert not torch.equal(rollout.log_prob[1, :3], rollout.log_prob[1, 3:])


def test_the_first_of_the_siblings_are_the_samples_of_a_flat_rollout(dynamics, policy, tokens):
    # So that a tree, too, gives the same trajectories in any batch and on any worker.
    flat, alone = sample(dynamics, policy, tokens, [0, 1, 4], samples=3)
    tree, kept = sample(dynamics, policy, tokens, [0, 1, 4], samples=6, siblings=2)
    assert alone == {key: kept[key] for key in alone}
    torch.testing.assert_close(tree.log_prob[:, :3], flat.log_prob)
    torch.testing.assert_close(tree.mean_log_prob[:, :3], flat.mean_log_prob)
    torch.testing.assert_close(tree.entropy[:3], flat.entropy)
    torch.testing.assert_close(tree.state.kept[:, :9], flat.state.kept)


def test_every_trajectory_of_a_tree_draws_its_own(dynamics, tokens):
    # Even odds everywhere: two trajectories that shared their draws would agree on every token that both still have.
    policy = Policy(dim=16, num_points=2, width=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    documents = [0, 1, 4]
    draws = [sample(dynamics, policy, tokens, documents, samples=6, siblings=2, version=v)[1] for v in range(5)]
    for s in range(6):
        for t in range(s):
            differs = [
                position
                for kept in draws
                for document in documents
                for position in {*kept[s % 3, document][0]} & {*kept[t % 3, document][0]}
                if (position in kept[s, document][-1]) != (position in kept[t, document][-1])
            ]
            assert differs, (s, t)


def test_a_tree_runs_the_layers_between_the_points_once_for_all_siblings(dynamics, policy, tokens, monkeypatch):
    ran = []
    run = type(dynamics.encoder).run_layers

    def counting(self, batch, first, last, received=None):
        ran.append((first, last, len(batch.hidden)))
        return run(self, batch, first, last, received)

    monkeypatch.setattr(type(dynamics.encoder), "run_layers", counting)
    draw = Draw(seed=0, version=0, documents=torch.arange(5))
    rollout = sample_trajectories(dynamics, policy, tokens, draw, torch.zeros(6, 5), siblings=2)
    kept = rollout.state.kept
    first, last = dynamics.points
    layers = len(dynamics.encoder.layers)
    assert ran[1:] == [(first, last, int(kept[0].sum()) // 2), (last, layers, int(kept[1].sum()))]


@pytest.mark.parametrize(("samples", "siblings"), [(5, 2), (3, 2)])
def test_siblings_that_do_not_divide_the_samples_are_refused(dynamics, policy, tokens, samples, siblings):
    with pytest.raises(InputError, match=f"are {siblings} of {samples} samples"):
        sample(dynamics, policy, tokens, [0, 1], samples=samples, siblings=siblings)
