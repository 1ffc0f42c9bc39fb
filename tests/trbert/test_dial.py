"""A few documents from all over a split, and what a dial costs on them."""

import math

import torch

from trbert.dial import log_costs, some_of
from trbert.tasks.examples import Examples


def test_a_few_documents_come_from_all_over_the_split_by_hand(train):
    numbered = Examples(train.tokens, torch.arange(240))  # labels that tell which documents were taken
    few = some_of(numbered, 8)
    assert few.labels.tolist() == [0, 30, 60, 90, 120, 150, 180, 210]
    assert few.tokens.lengths.tolist() == train.tokens.lengths[::30].tolist()
    assert some_of(numbered, 100).labels.tolist() == list(range(0, 240, 2))  # about so many
    assert len(some_of(numbered, 1000).labels) == 240


def test_costs_never_fall_along_the_dials_by_hand():
    # At the second dial a few documents happen to be faster than at the first: its cost stays that of the first.
    speed_ups = {-1.0: 4.0, 0.0: 5.0, 1.0: 2.0, 2.0: 1.0}
    costs = log_costs(speed_ups.__getitem__, tuple(speed_ups))
    assert costs.tolist() == [-math.log(4), -math.log(4), -math.log(2), 0.0]
