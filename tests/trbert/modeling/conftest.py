"""A tiny reduced model, in memory and saved."""

import pytest
import torch

from trbert.encoder import Encoder
from trbert.modeling import assemble
from trbert.selection.fusion import Fusion
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS

LENGTHS = (9, 14, 3, 20, 1)
POINTS = (0, 2)
KEEP_ALL = 1000.0
NAMES = {0: "no", 1: "maybe", 2: "yes"}


def wide_policy(dim):
    """A policy whose keep logits are far from 0 on both sides, so that a rounding error changes no mask."""
    policy = Policy(dim, len(POINTS), width=8, features=("document", "neighbours"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for head in policy.heads:
            head.features["document"].weight.mul_(0.1)  # its mean would move all of a document's logits to one side
    return policy


def reducer_of(plain, points=POINTS, fusion=None):
    return Reducer(encoder=Encoder(plain), task=TASKS["classification"], points=points, fusion=fusion or Fusion.none())


def reduced(plain, dial=0.0):
    return assemble(reducer_of(plain), PolicySelector(wide_policy(plain.config.hidden_size)), dial, max_tokens=40)


@pytest.fixture
def model(bert):
    """The tiny BERT with a policy that drops about half of the tokens."""
    bert.config.id2label = dict(NAMES)
    bert.config.label2id = {name: index for index, name in NAMES.items()}
    return reduced(bert)


@pytest.fixture
def saved(model, tmp_path):
    """Its folder."""
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def tokens(make_tokens):
    return make_tokens(*LENGTHS)
