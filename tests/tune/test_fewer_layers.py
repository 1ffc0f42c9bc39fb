"""benchmarks/fewer_layers.py: what a smaller encoder and early exit cost, when documents leave, and what they learn."""

import doctest
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fewer_layers
from fewer_layers import Shallow, depth_of

from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.selection.reduction import Reducer
from tune.settings import override

LAYERS = 4
"""The layers of the tiny encoder."""


@pytest.fixture
def split(prepared):
    """Thirty rows of validation."""
    return prepared.validation.take(torch.arange(30))


def make(prepared, settings, depths, **changes):
    return Shallow(prepared, override(settings, {"compute.dtype": "float32", **changes}), depths)


def test_the_examples_run():
    assert doctest.testmod(fewer_layers).attempted
    assert doctest.testmod(fewer_layers).failed == 0


def test_before_it_learns_the_last_head_says_what_the_teacher_says(prepared, tiny_settings):
    model = make(prepared, tiny_settings, (1, LAYERS))
    teacher = Reducer(encoder=Encoder(prepared.plain(torch.device("cpu"))), task=prepared.task)
    few = prepared.validation.take(torch.arange(7))
    predicted = model.predict(few)
    torch.testing.assert_close(predicted[-1], teacher.unreduced_outputs(few.tokens).detach(), atol=1e-5, rtol=1e-5)
    # The first head reads the states after one layer.
    batch = teacher.encoder.run_layers(teacher.encoder.embed(few.tokens), 0, 1)
    torch.testing.assert_close(predicted[0], teacher.encoder.read_documents(batch).detach(), atol=1e-5, rtol=1e-5)


def test_predictions_stand_in_the_order_of_the_split(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings, (2,), **{"compute.tokens_per_batch": 64})
    one_by_one = [model.predict(split.take(torch.tensor([place])))[:, 0] for place in range(len(split))]
    torch.testing.assert_close(model.predict(split), torch.stack(one_by_one, 1), atol=1e-5, rtol=1e-5)


def test_it_costs_the_layers_that_run_and_each_head_on_the_way(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings, (1, 3, LAYERS))
    cost, lengths = model.cost, split.tokens.lengths
    first, second, last = model.flops(split)
    assert torch.allclose(last, cost.unreduced(lengths) + 2 * cost.head_per_document)
    assert torch.allclose(second - first, cost.layers(1, 3, lengths.double()) + cost.head_per_document)


def test_a_document_leaves_at_the_first_head_that_is_sure(prepared, tiny_settings):
    model = make(prepared, tiny_settings, (1, 2, LAYERS))
    three = prepared.validation.take(torch.arange(3))
    sure, unsure = torch.tensor([5.0, 0.0]), torch.tensor([0.1, 0.0])
    # The first document is sure at once, the second at the second head, the third never.
    predicted = torch.stack(
        [torch.stack([sure, unsure, unsure]), torch.stack([unsure, sure, unsure]), torch.stack([unsure] * 3)]
    )
    (outputs, flops), costs, every = model.exits(predicted, three, 0.2), model.flops(three), torch.arange(3)
    assert torch.equal(outputs, torch.stack([sure, sure, unsure]))
    assert torch.equal(flops, costs[every, every])
    assert torch.equal(model.exits(predicted, three, -1.0)[1], costs[-1])
    assert torch.equal(model.exits(predicted, three, math.inf)[1], costs[0])


def test_the_threshold_is_the_least_that_is_fast_enough(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings, (1, 2, LAYERS))
    predicted = model.predict(split)
    whole = model.cost.unreduced(split.tokens.lengths).sum()

    def gain(threshold):
        return float(whole / model.exits(predicted, split, threshold)[1].sum())

    found = model.threshold(predicted, split, 1.5)
    assert gain(found) >= 1.5
    below = [each for each in fewer_layers.entropies(predicted).flatten().tolist() if each < found - 1e-3]
    assert all(gain(each) < 1.5 for each in below)
    assert model.threshold(predicted, split, 1000.0) == math.inf


def test_a_target_has_the_most_layers_that_are_fast_enough(prepared, split):
    cost = CostModel.of(Reducer(encoder=Encoder(prepared.plain(torch.device("cpu"))), task=prepared.task))
    assert [depth_of(cost, split, target) for target in (1.0, 2.0, 3.9, 1000.0)] == [LAYERS - 1, 2, 1, 0]


def test_encoder_and_heads_learn_and_layers_that_never_run_do_not(prepared, tiny_settings):
    model = make(prepared, tiny_settings, (1, 2), **{"joint.documents": 960, "joint.learning_rate": 3e-3})
    before = [head.plain.classifier.weight.detach().clone() for head in model.heads]
    assert torch.equal(before[0], before[1])
    last = [weight.detach().clone() for weight in model.encoder.layers[-1].parameters()]
    losses = []
    model.learn(lambda told: losses.append(told["loss"]))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    after = [head.plain.classifier.weight for head in model.heads]
    assert not torch.equal(after[0], after[1])
    assert all(map(torch.equal, last, model.encoder.layers[-1].parameters()))
    task, test = prepared.task, prepared.validation
    assert task.quality(task.decode(model.predict(test)[1], test), test) > 0.9
