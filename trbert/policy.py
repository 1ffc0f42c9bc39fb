"""Hidden states -> keep logits: one small head per reduction point."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.packed import PackedBatch
from trbert.shapes import TokenFloat


class PolicyHead(nn.Module):
    """logit = w₂ᵀ gelu(W₁ h + b₁ + C d) + b₂: the keep logit of one token from its hidden state.

    As in TR-BERT (Ye et al. 2021, section 3.1): 32 wide, erf gelu, N(0, 0.02) weights and zero biases, so that an
    untrained head keeps a token with probability about one half. The paper's head has no C: it sees a token's own
    state alone, at point 0 a bare embedding, and cannot spend more on a document that needs more. With `context` it
    also sees d, its document's remaining tokens' mean state and the log of its original length; C starts at zero, at
    the paper's head.
    """

    def __init__(self, dim: int, width: int, context: bool) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, 1)
        for linear in (self.linear_1, self.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.context: nn.Linear | None = None
        if context:
            self.context = nn.Linear(dim + 1, width, bias=False)
            nn.init.zeros_(self.context.weight)

    def forward(self, batch: PackedBatch) -> TokenFloat:
        """Returns the keep logits of a row's tokens; no gradient enters their states."""
        states = batch.hidden.detach().to(self.linear_1.weight.dtype)
        inner = self.linear_1(states)
        if self.context is not None:
            inner = inner + self.context(_summaries(batch, states))[batch.documents]
        return self.linear_2(nn.functional.gelu(inner))[:, 0]


def _summaries(batch: PackedBatch, states: Float[Tensor, "total dim"]) -> Float[Tensor, "docs dim+1"]:
    """Returns each document's mean state and log(n / 100), n its original tokens."""
    sums = states.new_zeros(len(batch), states.shape[1]).index_add(0, batch.documents, states)
    means = sums / batch.lengths.clamp(min=1)[:, None]
    return torch.cat([means, (batch.original_lengths[:, None] / 100).log().to(states.dtype)], 1)


class Policy(nn.Module):
    """The keep logits at every reduction point.

    Args:
        dim: width of a hidden state.
        num_points: how many reduction points there are.
        width: hidden width of each head.
        context: heads see a summary of the document beside the token.
    """

    def __init__(self, dim: int, num_points: int, width: int = 32, context: bool = False) -> None:
        super().__init__()
        self.width, self.context = width, context
        self.heads = nn.ModuleList(PolicyHead(dim, width, context) for _ in range(num_points))

    def logits(self, batch: PackedBatch, point: int) -> TokenFloat:
        """Returns the keep logit of each token entering reduction point `point` (0 is the first), in float32.

        The head learns, the encoder below does not learn from it.
        """
        with torch.autocast(batch.hidden.device.type, enabled=False):
            logits: Tensor = self.heads[point](batch)
            return logits.float()


def bernoulli_log_prob(logits: Tensor, masks: Tensor) -> Tensor:
    """Returns log π(mask): log σ(logit) where kept, log σ(−logit) where dropped; broadcasts, in nats."""
    return nn.functional.logsigmoid(torch.where(masks, logits, -logits))


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Returns the entropy of a keep decision, in nats."""
    keep = torch.sigmoid(logits)
    return -(keep * nn.functional.logsigmoid(logits) + (1 - keep) * nn.functional.logsigmoid(-logits))
