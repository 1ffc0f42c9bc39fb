"""The reduced forward pass: where it may drop, that its stages are those of one pass, and what each token left."""

import re

import pytest
import torch
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.packed.batch import gather_kept, start_batch
from trbert.packed.tokens import Tokens
from trbert.selection.fusion import Fusion
from trbert.selection.policy import Policy
from trbert.selection.reduction import ReducedPass, Reducer, check_points
from trbert.selection.selectors import FirstSelector, PolicySelector, SaliencySelector
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples

T, F = True, False
FIRST = FirstSelector(Policy(32, 0))


@pytest.mark.parametrize("points", [(0,), (3,), (0, 2), (0, 1, 2, 3)])
def test_rising_layers_of_the_model_are_points(points):
    check_points(points, 4)


@pytest.mark.parametrize("points", [(), (2, 1), (1, 1), (-1, 2), (0, 4)])
def test_other_points_are_refused(points):
    message = (
        f"points must be rising layer indices from 0 to 3, and are {points}: "
        "use for example (0, 2), to drop after the embeddings and before layer 2"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_points(points, 4)


@torch.no_grad()
@pytest.mark.parametrize("points", [(0,), (1, 2), (0, 1, 2, 3)])
def test_keeping_all_at_any_points_is_the_plain_pass(points, make_reducer, make_tokens):
    tokens, reducer = make_tokens(5, 9), make_reducer(points)
    plain = reducer.encoder.run_layers(reducer.encoder.embed(tokens), 0, 4)
    reduced = reducer.run(FIRST, tokens, 1.0)
    assert_close(reduced.batch.hidden, plain.hidden)
    assert reduced.kept.tolist() == [[5, 9]] * len(points)
    assert reduced.point == len(points)


@torch.no_grad()
def test_a_model_without_points_has_finished_as_it_enters(encoder, make_tokens):
    tokens, reducer = make_tokens(5, 9), Reducer(encoder=encoder, task=TASKS["classification"])
    finished = reducer.enter(tokens)
    assert torch.equal(finished.batch.hidden, encoder.run_layers(encoder.embed(tokens), 0, 4).hidden)
    assert finished.kept.shape == (0, 2)
    assert torch.equal(finished.last_states, finished.batch.hidden)
    assert torch.equal(reducer.outputs(finished), reducer.unreduced_outputs(tokens))
    assert torch.equal(reducer.run(FIRST, tokens, 0.3).batch.hidden, finished.batch.hidden)


@torch.no_grad()
def test_the_saliency_rule_reads_at_each_point_the_saliency_at_that_point(monkeypatch, make_reducer, make_tokens):
    tokens, rule = make_tokens(1, 4), SaliencySelector(Policy(32, 0))
    examples = Examples.of_documents(tokens, torch.tensor([0, 1]))
    salient = torch.tensor([[0.0, 0.0, 3.0, 2.0, 1.0], [0.0, 0.0, 1.0, 2.0, 3.0]])
    monkeypatch.setattr("trbert.selection.reduction.saliency", lambda *_: ((), salient))
    finished = make_reducer((0, 2)).run(rule, tokens, 0.5, examples)
    # Point 0 keeps ⌈√0.5 · 4⌉ = 3 tokens of the second document: 0, 1 and 2. Point 1 keeps ⌈0.5 · 4⌉ = 2 of them. There
    # token 2 is more salient than token 1.
    assert finished.kept.tolist() == [[1, 3], [1, 2]]
    assert finished.batch.positions.tolist() == [0, 0, 2]


def test_a_pass_refuses_a_dial_that_its_selector_does_not_take(make_reducer, make_tokens):
    tokens, reducer = make_tokens(4), make_reducer((0,))
    with pytest.raises(InputError, match=r"^the dial of 'first' must be a fraction .* and is 1\.5: "):
        reducer.run(FIRST, tokens, 1.5)
    with pytest.raises(InputError, match=r"^the dial of 'policy' must be a finite number, and is nan: "):
        reducer.run(PolicySelector(Policy(32, 1)), tokens, float("nan"))


@torch.no_grad()
def test_several_masks_advance_as_many_trajectories(make_reducer, make_tokens):
    tokens, reducer = make_tokens(5, 9), make_reducer((1,))
    masks = torch.rand(3, 14, generator=torch.Generator().manual_seed(0)) < 0.5
    masks |= tokens.protected
    state = reducer.enter(tokens)
    together = reducer.outputs(reducer.advance(state, masks))
    alone = [reducer.outputs(reducer.advance(state, mask[None])) for mask in masks]
    assert_close(together, torch.cat(alone))


@torch.no_grad()
def test_the_counts_of_every_trajectory_are_kept_from_point_to_point(make_reducer, make_tokens):
    reducer = make_reducer((0, 1, 3))
    state = reducer.enter(make_tokens(2, 3))
    assert (state.point, state.kept.shape) == (0, (0, 2))
    state = reducer.advance(state, torch.tensor([[T, T, T, T, T]]))
    assert (state.point, state.kept.tolist()) == (1, [[2, 3]])
    state = reducer.advance(state, torch.tensor([[T, F, T, T, T], [T, T, T, F, F]]))
    assert (state.point, state.kept.tolist()) == (2, [[2, 3, 2, 3], [1, 3, 2, 1]])
    state = reducer.advance(state, torch.tensor([[T, T, F, T, T, F, T]]))
    assert (state.point, state.kept.tolist()) == (3, [[2, 3, 2, 3], [1, 3, 2, 1], [1, 2, 1, 1]])


def test_gates_scale_the_states_that_are_kept(make_reducer, make_tokens):
    tokens, reducer = make_tokens(5, 9), make_reducer((1, 3))
    mask = tokens.protected | (torch.arange(14) % 3 == 1)
    gates = torch.linspace(0.5, 2.0, int(mask.sum()), requires_grad=True)
    state = reducer.enter(tokens)

    def logits_of(state, gates=None):
        return reducer.encoder.read_documents(reducer.advance(state, mask[None], gates).batch)

    gated = logits_of(state, gates)
    scaled = state.batch.hidden.clone()
    scaled[mask] *= gates.detach()[:, None]
    plain = logits_of(ReducedPass(state.batch.with_hidden(scaled), 0, state.kept))
    assert_close(gated, plain)
    (gradient,) = torch.autograd.grad(gated.sum(), gates)
    assert gradient.abs().min() > 0
    assert torch.equal(logits_of(state, torch.ones(len(gates))), logits_of(state))


@torch.no_grad()
def test_gates_scale_what_fusion_has_left_of_each_kept_token_by_hand(make_reducer, make_tokens):
    fusion = Fusion(32, 1)
    fusion.maps[0].weight.copy_(torch.eye(32))
    states = torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None].expand(4, 32)
    state = ReducedPass(start_batch(make_tokens(4), states), 0, torch.zeros(0, 1, dtype=torch.long))
    mask, gates = torch.tensor([[True, False, True, False]]), torch.tensor([2.0, 3.0])
    # A point after the last layer runs none. 2 and 8 are dropped, and their mean is 5: (1 + 5) · 2 and 4 · 3.
    gated = make_reducer((4,), fusion).advance(state, mask, gates).batch
    assert gated.hidden[:, 0].tolist() == [12.0, 12.0]
    assert gated.hidden.std(1).max() == 0


@torch.no_grad()
def test_gates_of_float32_leave_half_precision_states_in_theirs(bert, make_reducer, make_tokens):
    reducer = make_reducer((1, 3), encoder=Encoder(bert.to(torch.bfloat16)))
    state = reducer.enter(make_tokens(5))
    gated = reducer.advance(state, torch.ones(1, 5, dtype=torch.bool), torch.full((5,), 0.5))
    assert gated.batch.hidden.dtype == torch.bfloat16


@torch.no_grad()
def test_attention_is_heard_of_the_layer_before_each_point_where_it_is_asked_for(make_reducer, make_tokens):
    reducer, tokens = make_reducer((1, 3)), make_tokens(5, 9)
    encoder = reducer.encoder
    state = reducer.enter(tokens, listens=True)
    first = encoder.run_layers(encoder.embed(tokens), 0, 1, listens=True)
    assert_close(state.batch.received, first.received)
    all_kept = torch.ones(1, 14, dtype=torch.bool)
    third = encoder.run_layers(first, 1, 3, listens=True)
    assert_close(reducer.advance(state, all_kept, listens=True).batch.received, third.received)
    assert reducer.advance(state, all_kept).batch.received is None
    assert reducer.enter(tokens).batch.received is None
    assert make_reducer((0, 2)).enter(tokens, listens=True).batch.received is None


# Law 3: gather, then scatter, is the identity on kept tokens, and a dropped token keeps the state in which it went.


def numbered(*lengths):
    """Returns a batch whose states are 0, 1, 2, … along the row, one column."""
    tokens = Tokens.from_lists([[9] * length for length in lengths], None)
    return start_batch(tokens, torch.arange(sum(lengths), dtype=torch.float)[:, None])


def passed(batch, *entered):
    """Returns a pass that has come to `batch` by points which these batches entered."""
    return ReducedPass(batch, len(entered), torch.zeros(len(entered), len(batch), dtype=torch.long), entered)


def moved(batch, distance):
    """Returns the batch after layers that add a number to every state."""
    return batch.with_hidden(batch.hidden + distance)


def test_gathering_then_scattering_is_the_identity():
    batch = numbered(3, 1, 5)
    for seed in range(5):
        mask = torch.rand(1, 9, generator=torch.Generator().manual_seed(seed)) < 0.5
        kept = gather_kept(batch, mask | batch.protected)
        assert torch.equal(passed(kept, batch).last_states, batch.hidden)


def test_a_kept_token_has_its_new_state_and_a_dropped_one_its_old():
    batch = numbered(3, 1, 2)
    second = moved(gather_kept(batch, torch.tensor([[T, F, T, T, T, F]])), 10)  # 10, 12, 13, 14 enter point 1
    last = moved(gather_kept(second, torch.tensor([[T, T, T, F]])), 100)  # document 2 is without any token
    finished = passed(last, batch, second)
    assert finished.last_states[:, 0].tolist() == [110, 1, 112, 113, 14, 5]
    assert finished.left_at.tolist() == [2, 0, 2, 2, 1, 0]
    assert batch.hidden[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert second.hidden[:, 0].tolist() == [10, 12, 13, 14]


def test_trajectories_leave_their_states_in_copies_of_the_unreduced_row():
    batch = numbered(2, 2)
    second = moved(gather_kept(batch, torch.tensor([[T, F, T, F], [T, T, T, F]])), 10)
    halfway = passed(second, batch)
    assert halfway.last_states[:, 0].tolist() == [10, 1, 12, 3, 10, 11, 12, 3]
    assert halfway.left_at.tolist() == [1, 0, 1, 0, 1, 1, 1, 0]
    # What enters point 1 is 10 | 12 | 10, 11 | 12; the second sample's 11 goes there.
    last = moved(gather_kept(second, torch.tensor([[T, T, T, F, T]])), 100)
    finished = passed(last, batch, second)
    assert finished.last_states[:, 0].tolist() == [110, 1, 112, 3, 110, 11, 112, 3]
    assert finished.left_at.tolist() == [2, 0, 2, 0, 2, 1, 2, 0]


@torch.no_grad()
def test_trajectories_that_part_at_a_later_point_share_what_each_token_left_before(
    make_reducer, make_tokens, token_task
):
    # Documents of 2 and 3 tokens. Point 0 drops the last of the second one; point 1 parts into two samples, of which
    # the second drops the last token that is left of the first document too.
    tokens, reducer = make_tokens(2, 3), make_reducer((0, 2), task=token_task)
    state = reducer.enter(tokens)
    entered = state.batch.hidden
    state = reducer.advance(state, torch.tensor([[T, T, T, T, F]]))
    between = state.batch.hidden
    state = reducer.advance(state, torch.tensor([[T, T, T, T], [T, F, T, T]]))
    assert state.left_at.tolist() == [2, 2, 2, 2, 0, 2, 1, 2, 2, 0]
    states = state.last_states
    assert torch.equal(states[[4, 9]], entered[[4, 4]])
    assert torch.equal(states[6], between[1])
    assert torch.equal(states[[0, 1, 2, 3, 5, 7, 8]], state.batch.hidden)


def test_a_pass_at_its_first_point_has_dropped_nothing():
    batch = numbered(3, 1)
    assert passed(batch).last_states is batch.hidden
    assert passed(batch).left_at.tolist() == [0] * 4


def test_states_of_other_arithmetic_are_left_in_that_of_the_row():
    # Below autocast the embeddings are float32 and the layers' states bfloat16, or the other way round.
    batch = numbered(3)
    kept = gather_kept(batch, torch.tensor([[T, F, T]]))
    finished = passed(kept.with_hidden(kept.hidden.bfloat16() + 1), batch)
    assert finished.last_states.dtype == torch.float32
    assert finished.last_states[:, 0].tolist() == [1, 1, 3]


FIRST_MASKS = torch.tensor([[T, F, T, T, F, T, T, F], [T, T, T, F, F, T, F, T]])  # of documents of 5 and 3 tokens
SECOND_MASKS = [[T, F, T, T, F], [T, F, T, T, T]]  # of those that are left in each row
# At which point each token of either row is dropped; 2 where it never is.
LEFT_AT = [[2, 0, 1, 2, 0, 2, 1, 0], [2, 1, 2, 0, 0, 2, 0, 2]]


@torch.no_grad()
@pytest.mark.parametrize("rows", [[0], [1], [0, 1]], ids=["one sample", "another", "both"])
@pytest.mark.parametrize("points", [(0, 2), (1, 3)])
def test_a_dropped_token_leaves_the_state_that_entered_the_point_where_it_went(
    rows, points, make_reducer, make_tokens, token_task
):
    reducer, tokens = make_reducer(points, task=token_task), make_tokens(5, 3)
    first = reducer.enter(tokens)
    second = reducer.advance(first, FIRST_MASKS[rows])
    finished = reducer.advance(second, torch.tensor([[keep for row in rows for keep in SECOND_MASKS[row]]]))
    left_at = torch.tensor([point for row in rows for point in LEFT_AT[row]])
    assert torch.equal(finished.left_at, left_at)
    assert torch.equal(second.left_at, left_at.clamp(max=1))
    states = finished.last_states
    assert torch.equal(states[left_at == 0], first.batch.hidden.repeat(len(rows), 1)[left_at == 0])
    enters_second = left_at[left_at > 0]  # in the order of the row that entered point 1
    assert torch.equal(states[left_at == 1], second.batch.hidden[enters_second == 1])
    assert torch.equal(states[left_at == 2], finished.batch.hidden)
    # Each is a state of its own: no two of the three agree anywhere.
    assert not torch.allclose(first.batch.hidden.repeat(len(rows), 1)[left_at == 1], states[left_at == 1], atol=1e-2)


@torch.no_grad()
def test_a_dropped_tokens_state_is_not_what_fusion_or_gates_made_of_it(make_reducer, make_tokens, token_task):
    torch.manual_seed(0)
    fusion = Fusion(32, 2)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reducer = make_reducer((0, 2), fusion, task=token_task)
    first = reducer.enter(make_tokens(5, 3))
    second = reducer.advance(first, FIRST_MASKS[:1], gates=torch.full((5,), 0.5))
    left = second.left_at == 0
    assert torch.equal(second.last_states[left], first.batch.hidden[left])
    assert torch.equal(second.last_states[~left], second.batch.hidden)


@torch.no_grad()
def test_keeping_all_leaves_the_finished_states(make_reducer, make_tokens, token_task):
    reducer, tokens = make_reducer((0, 1, 3), task=token_task), make_tokens(5, 9)
    finished = reducer.run(FIRST, tokens, 1.0)
    assert torch.equal(finished.last_states, finished.batch.hidden)
    plain = reducer.encoder.run_layers(reducer.encoder.embed(tokens), 0, 4)
    assert_close(finished.last_states, plain.hidden)
    assert finished.left_at.tolist() == [3] * 14


@torch.no_grad()
def test_a_head_that_reads_documents_remembers_when_each_token_left_but_no_states(make_reducer, make_tokens):
    reducer = make_reducer((0, 2))
    state = reducer.advance(reducer.enter(make_tokens(5, 3)), FIRST_MASKS)
    finished = reducer.advance(state, torch.tensor([SECOND_MASKS[0] + SECOND_MASKS[1]]))
    assert finished.left_at.tolist() == LEFT_AT[0] + LEFT_AT[1]
    assert [batch.hidden.numel() for batch in finished.entered] == [0, 0]


def test_gradients_flow_through_every_tokens_last_state(make_reducer, make_tokens, token_task):
    reducer = make_reducer((1, 3), task=token_task)
    state = reducer.advance(reducer.enter(make_tokens(5, 3)), FIRST_MASKS[:1])
    finished = reducer.advance(state, torch.tensor([SECOND_MASKS[0]]))
    biases = [layer.output.dense.bias for layer in reducer.encoder.layers]
    # A token that left before layer 1 learns from layer 0 alone, one that left before layer 3 from the first three.
    for point, layers in ((0, 1), (1, 3), (2, 4)):
        total = finished.last_states[finished.left_at == point].square().sum()
        gradients = torch.autograd.grad(total, biases, retain_graph=True, allow_unused=True)
        reached = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
        assert reached == [index < layers for index in range(4)]


@torch.no_grad()
def test_a_head_that_reads_tokens_says_of_a_dropped_one_what_it_says_of_its_last_state(
    make_reducer, make_tokens, token_task, token_encoder
):
    reducer, tokens = make_reducer((0, 2), encoder=token_encoder, task=token_task), make_tokens(5, 3)
    first = reducer.enter(tokens)
    second = reducer.advance(first, FIRST_MASKS)
    finished = reducer.advance(second, torch.tensor([SECOND_MASKS[0] + SECOND_MASKS[1]]))
    outputs = reducer.outputs(finished)
    classifier = token_encoder.plain.classifier
    left_at = torch.tensor(LEFT_AT[0] + LEFT_AT[1])
    assert outputs.shape == (16, 3)  # two samples of eight tokens
    assert_close(outputs[left_at == 0], classifier(first.batch.hidden.repeat(2, 1)[left_at == 0]))
    assert_close(outputs[left_at == 2], classifier(finished.batch.hidden))
    kept = reducer.run(FIRST, tokens, 1.0)
    assert_close(reducer.outputs(kept), reducer.unreduced_outputs(tokens))
    assert not torch.allclose(outputs[:8], reducer.unreduced_outputs(tokens), atol=1e-2)
