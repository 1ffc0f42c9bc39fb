"""What a head that reads or averages all tokens is shown of a token that was dropped."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

import trbert
from tests.trbert.tasks.toys import MarkWords
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.modeling import assemble
from trbert.selection.exits import Exits
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import FirstSelector
from trbert.tasks import TASKS

POINTS = (0, 2)
FIRST = FirstSelector(Policy(32, 0))


def far_from_zero():
    torch.manual_seed(0)
    exits = Exits(32, len(POINTS))
    for parameter in exits.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return exits


@pytest.fixture
def reducer(build_model, config_of):
    """A tagger with exits that are far from zero."""
    plain = build_model(config_of("bert"), auto_class=MarkWords().auto_class)
    return Reducer(encoder=Encoder(plain), task=TASKS["tagging"], points=POINTS, exits=far_from_zero())


def test_three_tokens_by_hand():
    exits, states = Exits(2, 2), torch.tensor([[1.0, 0.0], [2.0, 4.0], [3.0, 5.0]])
    assert torch.equal(exits(states, torch.tensor([0, 1, 2])), states)  # as they start
    with torch.no_grad():
        exits.maps[0].bias.copy_(torch.tensor([10.0, 20.0]))
        exits.maps[1].weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    # The first token left at point 0, the second one at point 1: (2, 4) + (4, 2). The third one was kept.
    expected = torch.tensor([[11.0, 20.0], [6.0, 6.0], [3.0, 5.0]])
    assert torch.equal(exits(states, torch.tensor([0, 1, 2])), expected)


@torch.no_grad()
def test_what_was_kept_is_read_as_it_is_and_what_was_dropped_through_its_points_map(reducer, make_tokens):
    tokens = make_tokens(9, 4, 12)
    finished = reducer.run(FIRST, tokens, 0.4)
    left, states = finished.left_at, finished.last_states
    mapped = torch.stack([linear(states) + states for linear in reducer.exits.maps] + [states])
    expected = reducer.encoder.read_tokens(mapped[left, torch.arange(len(left))])
    assert sorted(set(left.tolist())) == [0, 1, 2]
    assert_close(reducer.outputs(finished), expected)
    assert_close(reducer.outputs(reducer.run(FIRST, tokens, 1.0)), reducer.unreduced_outputs(tokens))


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 3])
def test_a_mean_over_all_tokens_has_dropped_ones_through_their_points_map(samples, config_of, build_model, make_tokens):
    config = config_of("bert")
    config.pooling, config.normalised = "mean", False
    encoder, tokens = Encoder(build_model(config, auto_class=AutoModel)), make_tokens(9, 4, 12)
    reducer = Reducer(encoder=encoder, task=TASKS["embedding"], points=POINTS, exits=far_from_zero())
    state = reducer.enter(tokens)
    for rows in (samples, 1):  # the samples part at the first point
        state = reducer.advance(state, torch.rand(rows, len(state.batch.hidden)) < 0.6)
    left, states = state.left_at, state.last_states
    mapped = torch.stack([linear(states) + states for linear in reducer.exits.maps] + [states])
    shown = mapped[left, torch.arange(len(left))].split([9, 4, 12] * samples)
    assert sorted(set(left.tolist())) == [0, 1, 2]
    assert_close(reducer.outputs(state), torch.stack([each.mean(0) for each in shown]))
    whole = reducer.outputs(reducer.run(FIRST, tokens, 1.0))
    assert_close(whole, reducer.unreduced_outputs(tokens))


def test_a_gradient_reaches_the_maps_of_the_points_that_drop(reducer, make_tokens):
    outputs = reducer.outputs(reducer.run(FIRST, make_tokens(9, 4, 12), 0.4))
    outputs.square().sum().backward()
    assert all(bool((each.grad != 0).any()) for each in reducer.exits.parameters())


@torch.no_grad()
def test_exits_are_saved_with_a_model_and_their_cost_is_that_of_the_dropped_tokens(reducer, make_tokens, tmp_path):
    tokens = make_tokens(9, 4, 12)
    model = assemble(reducer, FIRST, 0.4, 40)
    model.save_pretrained(tmp_path)
    own = trbert.load(tmp_path)
    assert own.config.exits
    ids = tokens.input_ids.split(tokens.lengths.tolist())
    for document in ids:
        assert torch.equal(own(input_ids=document[None]).logits, model(input_ids=document[None]).logits)
    cost = CostModel.of(reducer)
    assert cost.exit_per_token == 2 * 32 * 32 == own.cost_model().exit_per_token
    finished = reducer.run(FIRST, tokens, 0.4)
    plain = CostModel.of(Reducer(encoder=reducer.encoder, task=reducer.task, points=POINTS))
    more = cost.reduced(tokens.lengths, finished.kept, POINTS, FIRST)
    less = plain.reduced(tokens.lengths, finished.kept, POINTS, FIRST)
    assert (more - less).tolist() == ((tokens.lengths - finished.kept[-1]) * 2 * 32 * 32).tolist()
