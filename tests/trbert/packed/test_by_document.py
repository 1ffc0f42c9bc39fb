"""A layer that reads neighbouring tokens is run on each document by itself."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.trbert.packed.lvbert import FAMILY, small_model
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.modeling import assemble, load
from trbert.packed.by_document import ByDocument
from trbert.packed.families import FAMILIES
from trbert.packed.tokens import Tokens
from trbert.runners import RUNNERS
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import AttentionSelector, PolicySelector
from trbert.tasks import TASKS

LENGTHS = (7, 12, 3, 7, 1)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(FAMILIES, FAMILY.model_type, FAMILY)


def reducer_of(model, points=()):
    return Reducer(encoder=Encoder(model), task=TASKS["classification"], points=points)


def plain_outputs(model, tokens):
    """Returns what the plain model says of each document alone: padding would reach into its convolution."""
    alone = [tokens.take(torch.tensor([i])) for i in range(len(tokens))]
    inputs = [{"input_ids": each.input_ids[None], "token_type_ids": each.token_type_ids[None]} for each in alone]
    return torch.cat([model(**each).logits for each in inputs])


@torch.no_grad()
def test_keeping_all_equals_the_plain_model_on_each_document(make_tokens):
    model, tokens = small_model(), make_tokens(*LENGTHS)
    plain = plain_outputs(model, tokens)
    assert plain.std() > 0.05
    assert_close(reducer_of(model).unreduced_outputs(tokens), plain)


@torch.no_grad()
def test_the_convolution_reaches_its_own_document_alone(make_tokens):
    encoder, tokens = Encoder(small_model()), make_tokens(4, 5)
    batch = encoder.embed(tokens)
    after = encoder.run_layers(batch, 1, 2).hidden
    changed = batch.hidden.clone()
    changed[4] = changed[4].flip(0)  # the first token of the second document, beside the last one of the first
    others = encoder.run_layers(batch.with_hidden(changed), 1, 2).hidden
    assert torch.equal(others[:4], after[:4])
    assert not torch.allclose(others[5], after[5])  # its neighbour hears of it


@torch.no_grad()
def test_a_documents_result_depends_neither_on_batch_mates_nor_on_order(make_tokens):
    reducer, tokens = reducer_of(small_model(), (1, 2)), make_tokens(*LENGTHS)
    masks = torch.rand(2, sum(LENGTHS), generator=torch.Generator().manual_seed(1)) < 0.6
    masks |= tokens.protected

    def reduced(documents):
        first, second = masks[:, tokens.index_of(documents)]
        state = reducer.advance(reducer.enter(tokens.take(documents)), first[None])
        return reducer.outputs(reducer.advance(state, second[first][None]))

    order = torch.tensor([3, 1, 4, 0, 2])
    together = reduced(torch.arange(5))
    assert_close(reduced(order), together[order])
    for document in range(5):
        assert_close(reduced(torch.tensor([document])), together[document : document + 1])


@torch.no_grad()
def test_after_tokens_were_dropped_the_convolution_takes_those_that_are_left_as_neighbours(make_tokens):
    model, tokens = small_model(), make_tokens(9)
    kept = torch.tensor([0, 2, 3, 7])
    reducer = reducer_of(model, (1,))
    state = reducer.enter(tokens)
    states = state.batch.hidden[kept][None]
    for block in model.lvbert.blocks[1:]:
        states = block(states, attention_mask=None)
    mask = torch.zeros(1, 9, dtype=torch.bool).index_fill(1, kept, True)
    assert_close(reducer.advance(state, mask).batch.hidden, states[0])


def test_gradients_with_all_tokens_kept_are_those_of_the_plain_model(make_tokens):
    tokens = make_tokens(*LENGTHS)
    plain, ours = small_model(), small_model()
    plain_outputs(plain, tokens).square().sum().backward()
    reducer_of(ours).unreduced_outputs(tokens).square().sum().backward()
    found, wanted = dict(ours.named_parameters()), dict(plain.named_parameters())
    assert found["lvbert.blocks.1.conv.weight"].grad.norm() > 0.1
    for name, parameter in wanted.items():
        assert_close(found[name].grad, parameter.grad, rtol=1e-4, atol=1e-4)


def saved(folder):
    selector = PolicySelector(Policy(32, 2, 8))
    model = assemble(reducer_of(small_model(), (1, 2)), selector, 0.0, 40)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize("runner", [name for name in RUNNERS if name != "compiled"])
def test_a_saved_model_is_the_same_when_it_is_loaded(runner, make_tokens, tmp_path):
    model, tokens = saved(tmp_path), make_tokens(7, 7)
    inputs = {"input_ids": tokens.input_ids.view(2, 7), "token_type_ids": tokens.token_type_ids.view(2, 7)}
    again = load(tmp_path, runner=runner)
    if runner == "eager":
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert_close(again(**inputs).logits, model(**inputs).logits, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_the_attention_rule_hears_the_last_layer_that_attends(make_tokens):
    encoder, tokens = Encoder(small_model()), make_tokens(5, 9)
    batch = encoder.embed(tokens)
    heard = encoder.run_layers(batch, 0, 2, listens=True).received
    assert_close(heard, encoder.run_layers(batch, 0, 1, listens=True).received)
    assert heard.std() > 0.01
    nothing = encoder.run_layers(batch, 1, 2, listens=True).received
    assert_close(nothing, torch.tensor([1 / 5] * 5 + [1 / 9] * 9))
    reducer = reducer_of(small_model(), (1, 2))  # between the points there is the convolution alone
    kept = reducer.run(AttentionSelector(Policy(1, 0)), tokens, 0.25).kept
    assert kept[-1].tolist() == [2, 3]


def test_the_cost_counts_the_convolution_and_no_attention_where_there_is_none():
    cost = CostModel.of(reducer_of(small_model()))
    assert cost.layer_per_token[1] == 2 * 3 * 32 * 16  # a kernel of 3 over 32 channels in 2 groups
    assert cost.layer_per_pair == (128.0, 0.0, 128.0, 128.0)


class Turned(nn.Module):
    """A layer that turns each token's state by its rotary table."""

    def forward(self, hidden_states, attention_mask, position_embeddings):
        cos, sin = position_embeddings
        return hidden_states * cos + sin.cumsum(1)


def test_rotary_tables_go_with_their_tokens():
    states, cos, sin = torch.randn(1, 6, 4), torch.randn(1, 6, 4), torch.randn(1, 6, 4)
    after = ByDocument(Turned())(states, segments=[2, 1, 2, 1], position_embeddings=(cos, sin))
    sums = [part.cumsum(1) for part in sin.split([2, 1, 2, 1], 1)]
    assert_close(after, states * cos + torch.cat(sums, 1))


def test_a_row_of_no_documents_of_its_own_is_left_as_it_is():
    tokens = Tokens.from_lists([[7]], [[0]])
    encoder = Encoder(small_model())
    assert encoder.run_layers(encoder.embed(tokens), 0, 4).hidden.shape == (1, 32)
