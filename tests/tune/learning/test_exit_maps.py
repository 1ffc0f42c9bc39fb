"""The maps of the exits: a ridge regression from the states that enter a layer to the last ones."""

import numpy as np
import pytest
import torch

from tests.trbert.tasks.toys import MarkWords
from trbert.encoder import Encoder
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.tasks.examples import Examples
from tune.learning import exit_maps
from tune.learning.exit_maps import exits_at, fit_exits, ridge


@pytest.fixture
def reducer(tiny_model):
    """A tagger that was not trained."""
    torch.manual_seed(0)
    plain = MarkWords().auto_class.from_pretrained(tiny_model)
    return Reducer(encoder=Encoder(plain.eval()), task=MarkWords())


@pytest.fixture
def train():
    """Sixty random documents, of fewer tokens than a map has numbers in all, and of more than it has columns."""
    draw = torch.Generator().manual_seed(1)
    lists = [torch.randint(5, 30, (int(length),), generator=draw).tolist() for length in range(4, 24)] * 3
    tokens = Tokens.from_lists(lists, None)
    return Examples.of_documents(tokens, torch.zeros(len(lists), 30, dtype=torch.long), "tokens")


@torch.no_grad()
def states_of(reducer, tokens):
    batch, found = reducer.encoder.embed(tokens), []
    for layer in range(len(reducer.encoder.layers)):
        found.append(batch.hidden.double().numpy())
        batch = reducer.encoder.run_layers(batch, layer, layer + 1)
    return found, batch.hidden.double().numpy()


def test_the_maps_are_those_of_the_ridge_regression_however_the_documents_are_cut(reducer, train):
    maps = fit_exits(reducer, train, 10_000)
    entered, last = states_of(reducer, train.tokens)
    for states, found in zip(entered, maps, strict=True):
        dim = states.shape[1]
        penalty = exit_maps.RIDGE * (states**2).sum(0).mean()
        x = np.vstack([np.hstack([states, np.ones((len(states), 1))]), np.sqrt(penalty) * np.eye(dim, dim + 1)])
        y = np.vstack([last - states, np.zeros((dim, dim))])
        expected = np.linalg.lstsq(x, y, rcond=None)[0].T
        assert np.abs(found - expected).max() < 1e-3
    assert np.abs(fit_exits(reducer, train, 50) - maps).max() < 1e-3


@torch.no_grad()
def test_exits_come_nearer_to_the_last_states_than_the_states_themselves(reducer, train):
    maps = fit_exits(reducer, train, 10_000)
    entered, last = states_of(reducer, train.tokens)
    for layer, states in enumerate(entered):
        left = torch.zeros(len(states), dtype=torch.long)
        mapped = exits_at((layer,), maps)(torch.from_numpy(states).float(), left).double().numpy()
        assert ((mapped - last) ** 2).sum() < 0.5 * ((states - last) ** 2).sum()


def test_each_point_has_the_map_of_its_layer(reducer, train):
    maps = fit_exits(reducer, train, 10_000)
    exits = exits_at((0, 1), maps)
    for linear, own in zip(exits.maps, maps[:2], strict=True):
        assert torch.equal(linear.weight, torch.from_numpy(own[:, :-1]))
        assert torch.equal(linear.bias, torch.from_numpy(own[:, -1]))


def test_regressions_of_the_size_of_a_model_are_solved_on_several_threads():
    """An LU of them fails on two threads of some processors."""
    draw, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    inputs = torch.cat([torch.randn(6, 800, 384, generator=draw), torch.ones(6, 800, 1)], 2).double()
    wanted = torch.randn(6, 385, 384, generator=draw).double()
    squares, products = inputs.mT @ inputs, inputs.mT @ (inputs @ wanted)
    try:
        torch.set_num_threads(2)
        found = ridge(squares, products)
    finally:
        torch.set_num_threads(threads)
    assert (found - wanted).abs().max() < 0.03  # the penalty draws them towards 0 a little
