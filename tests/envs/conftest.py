"""A decision process over a tiny random BERT, with weights wide enough for every dropped token to matter."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from envs.dynamics import Dynamics, RewardTerms
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.packed.tokens import Tokens
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples

LENGTHS = (7, 12, 3, 1, 9)


@pytest.fixture(scope="module", autouse=True)
def one_thread(few_threads):
    """Tensors this small gain nothing from a second thread, and wait for it where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def encoder():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
        initializer_range=0.4,
    )
    return Encoder(BertForSequenceClassification(config).eval())


@pytest.fixture
def make_dynamics(encoder):
    def make(points=(0, 2), keep_ratios=(0.5, 0.25), penalty=2.0, price="flops"):
        terms = RewardTerms(penalty=penalty, keep_ratios=keep_ratios, price=price)
        reducer = Reducer(encoder=encoder, task=TASKS["classification"], points=points)
        return Dynamics(reducer, terms, CostModel.of(reducer, Policy(16, len(points), width=8)))

    return make


@pytest.fixture
def dynamics(make_dynamics):
    return make_dynamics()


@pytest.fixture(scope="session")
def tokens():
    generator = torch.Generator().manual_seed(1)
    return Tokens.from_lists([torch.randint(1, 40, (n,), generator=generator).tolist() for n in LENGTHS], None)


@pytest.fixture(scope="session")
def labels():
    return torch.tensor([0, 1, 2, 0, 1])


@pytest.fixture(scope="session")
def examples(tokens, labels):
    return Examples.of_documents(tokens, labels)


@pytest.fixture(scope="session")
def pick_one():
    """A task whose examples own two documents each."""
    return TASKS["multiple_choice"]


@pytest.fixture(scope="session")
def policy():
    """Wide weights: keep probabilities far from one half, different for each token."""
    torch.manual_seed(2)
    policy = Policy(dim=16, num_points=2, width=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=0.5)
    return policy
