"""Exits: what a head that reads every token is shown of a token that was dropped."""

import torch
from torch import nn

from trbert.shapes import Hidden, TokenIndex


class Exits(nn.Module):
    """Brings the state of a token that was dropped at point t near to its last state: h ← h + W_t · h + b_t.

    A head was trained on last states, and reads states of earlier layers badly. A linear map of those states says most
    of what the later layers would make of them (the tuned lens, Belrose et al. 2023, arXiv 2303.08112, section 3). The
    state of a token that was kept is not changed. So the model with all tokens kept is the plain model.

    Args:
        dim: the width of a hidden state.
        num_points: the number of reduction points; 0 changes nothing.
    """

    def __init__(self, dim: int, num_points: int) -> None:
        super().__init__()
        maps = [nn.Linear(dim, dim) for _ in range(num_points)]
        for linear in maps:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.maps = nn.ModuleList(maps)

    @classmethod
    def none(cls) -> "Exits":
        """Returns exits that change nothing."""
        return cls(0, 0)

    def at(self, states: Hidden, point: int) -> Hidden:
        """Returns the last states of tokens that are dropped at one point, from the states with which they enter it."""
        return states if not len(self.maps) else states + self.maps[point](states).to(states.dtype)

    def forward(self, states: Hidden, left_at: TokenIndex) -> Hidden:
        """Returns the last states, in which those of dropped tokens are mapped.

        Args:
            states: the last state of each original token.
            left_at: the point at which each token was dropped; the number of points where it was not.
        """
        for point in range(len(self.maps)):
            (dropped,) = torch.nonzero(left_at == point, as_tuple=True)
            states = states.index_copy(0, dropped, self.at(states[dropped], point))
        return states
