"""Where weights lie: whatever is moved or replaced is noticed, and nothing else."""

import pytest
import torch
from torch import nn

from trbert.runners.places import Places


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2, bias=False)))


def learn(model):
    with torch.no_grad():
        model[0].weight.add_(1.0)
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})


def test_new_values_at_the_same_places_change_nothing(model):
    places = Places()
    before = places.of(model)
    learn(model)
    assert places.of(model) == before


def replace_weight(model):
    model[1][1].weight = nn.Parameter(torch.zeros(2, 3))


def replace_data(model):
    model[0].bias.data = torch.zeros(3)


def replace_buffer(model):
    model[1][0].running_mean = torch.zeros(3)


def replace_module(model):
    model[1][1] = nn.Linear(3, 2)


def replace_branch(model):
    model[1] = nn.Sequential(nn.Identity(), nn.Linear(3, 2))


def change_type(model):
    model.double()


@pytest.mark.parametrize(
    "change", [replace_weight, replace_data, replace_buffer, replace_module, replace_branch, change_type]
)
def test_what_is_replaced_or_moved_is_noticed(model, change):
    places = Places()
    kept = [model[1], *model[1], *model.parameters()]  # nothing new can lie where they lie
    before = places.of(model)
    change(model)
    after = places.of(model)
    assert after != before
    assert places.of(model) == after
    assert kept


def test_other_modules_are_other_places(model):
    places = Places()
    assert places.of(model[0], model[1]) != places.of(model[1])
    assert places.of(model[1]) == Places().of(model[1])
