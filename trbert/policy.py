"""Hidden states -> keep logits: one small head per reduction point."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.packed import PackedBatch
from trbert.shapes import TokenFloat


class PolicyHead(nn.Module):
    """logit = w₂ᵀ gelu(W₁ h + b₁) + b₂: the keep logit of one token from its hidden state.

    As in TR-BERT (Ye et al. 2021, section 3.1): 32 wide, erf gelu, N(0, 0.02) weights and zero biases, so that an
    untrained head keeps a token with probability about one half.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, 1)
        for linear in (self.linear_1, self.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Float[Tensor, "total dim"]) -> Float[Tensor, " total"]:
        """Returns the keep logits of these states."""
        return self.linear_2(nn.functional.gelu(self.linear_1(hidden)))[:, 0]


class Policy(nn.Module):
    """The keep logits at every reduction point.

    Args:
        dim: width of a hidden state.
        num_points: how many reduction points there are.
        width: hidden width of each head.
    """

    def __init__(self, dim: int, num_points: int, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.heads = nn.ModuleList(PolicyHead(dim, width) for _ in range(num_points))

    def logits(self, batch: PackedBatch, point: int) -> TokenFloat:
        """Returns the keep logit of each token entering reduction point `point` (0 is the first), in float32.

        The head learns, the encoder below does not learn from it: no gradient enters `batch.hidden`.
        """
        head: Any = self.heads[point]
        with torch.autocast(batch.hidden.device.type, enabled=False):
            return head(batch.hidden.detach().to(head.linear_1.weight.dtype)).float()


def bernoulli_log_prob(logits: Tensor, masks: Tensor) -> Tensor:
    """Returns log π(mask): log σ(logit) where kept, log σ(−logit) where dropped; broadcasts, in nats."""
    return nn.functional.logsigmoid(torch.where(masks, logits, -logits))


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Returns the entropy of a keep decision, in nats."""
    keep = torch.sigmoid(logits)
    return -(keep * nn.functional.logsigmoid(logits) + (1 - keep) * nn.functional.logsigmoid(-logits))
