"""How long a pass takes, and where a dial is to count, by hand."""

import math
import types

import numpy as np
import pytest
import torch

from trbert.measure.cost import speed_up
from trbert.packed.tokens import Tokens
from trbert.selection.outputs import reduced_outputs
from trbert.tasks.examples import Examples
from tune.budget import Clock
from tune.learning import measuring
from tune.learning.measuring import pass_seconds


def test_the_seconds_are_those_of_a_whole_example_where_examples_have_several_documents_by_hand(
    make_model, monkeypatch
):
    # Two examples, of 4 and 8 tokens and of 12 and 16, of which the first one is timed: 9 seconds, and then 6. They
    # have 20 tokens on average, and the first one has 12: 6 · 20/12.
    tokens = Tokens.from_lists([[2, *[5] * (length - 1)] for length in (4, 8, 12, 16)], None)
    split = Examples(tokens, torch.tensor([0, 1]), owner=torch.tensor([0, 0, 1, 1]))
    clock, timed = iter([0.0, 9.0, 100.0, 106.0]), []
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(measuring, "unreduced_outputs", lambda reducer, few: timed.append(few.tokens.lengths.tolist()))
    assert pass_seconds(make_model().reducer, split, "float32", count=2) == pytest.approx(10)
    assert timed == [[4, 8]] * 2


STEEPNESSES = (1.0, 1 / 3, 1 / 8, 3.0, 8.0)


def set_widths(model, *widths):
    """Makes each head's logits so many times as wide, and centres them about 0.1."""
    with torch.no_grad():
        for head, width in zip(model.policy.heads, widths, strict=True):
            head.linear_2.weight.mul_(width)
            head.linear_2.bias.fill_(0.1)


def at_offsets(model, examples, offsets):
    """Returns the logarithm of the cost and the mean fidelity where each head's logits are moved by its offset."""
    before = [head.linear_2.bias.detach().clone() for head in model.policy.heads]
    with torch.no_grad():
        for head, offset in zip(model.policy.heads, offsets, strict=True):
            head.linear_2.bias.add_(offset)
        found = reduced_outputs(model.reducer, model.selector, examples.tokens, 0.0, examples)
        for head, bias in zip(model.policy.heads, before, strict=True):
            head.linear_2.bias.copy_(bias)
    lengths = examples.tokens.lengths
    flops = model.cost.reduced(lengths, found.kept, model.points, model.selector)
    cost = -math.log(speed_up(model.cost.unreduced(lengths), flops))
    return cost, float(model.reducer.task.fidelity(found.outputs, examples).mean())


def mean_height(points):
    """Returns the mean height of the line through the points, from many places on it."""
    across, height = zip(*sorted(points), strict=True)
    return float(np.interp(np.linspace(across[0], across[-1], 40001), across, height).mean())


def best_by_hand(model, examples, sign):
    """Returns the ratio of the factors under which a few dials on one side lose the least, and all their losses."""
    losses = {}
    for ratio in STEEPNESSES:
        factors = (1 / max(1, ratio), ratio / max(1, ratio))
        dials = (0.0, 1.0, 3.0, 9.0, 1e6)
        losses[ratio] = mean_height([at_offsets(model, examples, [sign * dial * f for f in factors]) for dial in dials])
    return max(losses, key=losses.get), losses


@pytest.mark.parametrize("widths", [(600.0, 30.0), (200.0, 1200.0)])
def test_the_dial_counts_where_the_outputs_stay_most_faithful(widths, make_model, prepared):
    model = make_model()
    model.reducer.encoder.plain.eval()
    set_widths(model, *widths)
    examples = prepared.train.spread(32)
    wanted = []
    for sign in (-1, 1):
        best, losses = best_by_hand(model, examples, sign)
        assert len({round(loss, 6) for loss in losses.values()}) > 2
        wanted.append([1 / max(1, best), best / max(1, best)])
    measuring.balance_dials(model.reducer, model.cost, model.selector, model.policy, examples, 4096, Clock())
    found = [head.dial_factors.tolist() for head in model.policy.heads]
    assert [list(side) for side in zip(*found, strict=True)] == [pytest.approx(side) for side in wanted]
    assert any(factor != 1 for side in wanted for factor in side)


def test_factors_rise_by_one_ratio_from_point_to_point():
    assert measuring._factors(4.0, 3) == pytest.approx([1 / 4, 1 / 2, 1])
    assert measuring._factors(1 / 4, 3) == pytest.approx([1, 1 / 2, 1 / 4])


def test_a_dial_counts_alike_where_the_time_is_over_or_where_nothing_is_measured(make_model, prepared):
    late = make_model()
    set_widths(late, 600.0, 30.0)
    late.policy.weigh_dials([0.5, 1.0], [1.0, 0.5])
    late.balance(prepared.train, Clock(1.0, used=2.0))
    assert [head.dial_factors.tolist() for head in late.policy.heads] == [[1, 1], [1, 1]]
    off = make_model({"select.balance_documents": 0})
    off.policy.weigh_dials([0.5, 1.0], [1.0, 0.5])
    off.balance(prepared.train)
    assert [head.dial_factors.tolist() for head in off.policy.heads] == [[0.5, 1], [1, 0.5]]
    rule = make_model({"selector": "random"})
    rule.balance(prepared.train)  # it has no head
