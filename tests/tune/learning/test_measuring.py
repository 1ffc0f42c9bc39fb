"""How long a pass takes, by hand."""

import types

import pytest
import torch

from trbert.packed.tokens import Tokens
from trbert.tasks.examples import Examples
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
