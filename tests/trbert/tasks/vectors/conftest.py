"""A tiny encoder without a head, and a reduced model of it."""

import pytest
import torch
import transformers

from trbert.encoder import Encoder
from trbert.modeling import assemble
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS


@pytest.fixture
def plain(bert):
    """A tiny BERT without a head, whose vectors are normalised means."""
    model = transformers.BertModel(bert.config).eval()
    model.load_state_dict(bert.bert.state_dict())
    model.config.pooling, model.config.normalised = "mean", True
    return model


@pytest.fixture
def reducer(plain):
    """The encoder, which may drop tokens before layers 0 and 2."""
    return Reducer(encoder=Encoder(plain), task=TASKS["embedding"], points=(0, 2))


@pytest.fixture
def model(reducer):
    """A reduced model that drops about half of the tokens."""
    policy, generator = Policy(32, 2, width=8), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return assemble(reducer, PolicySelector(policy), 0.0, max_tokens=16)
