"""Hidden states -> keep logits: one small head per reduction point."""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.errors import InputError
from trbert.packed.batch import PackedBatch, document_sums

FEATURES = ("document", "neighbours")
"""What a head may see beside the token's own state: its document's summary, the tokens next to it."""


class PolicyHead(nn.Module):
    """logit = w₂ᵀ gelu(W₁ h + b₁ + Σ_f C_f x_f) + b₂ + dial: the keep logit of one token from its hidden state h.

    As in TR-BERT (Ye et al. 2021, section 3.1): 32 wide, erf gelu, N(0, 0.02) weights and zero biases, so that an
    untrained head keeps a token with probability about one half. The paper's head has no features: it sees a token's
    own state alone, at point 0 a bare embedding, and cannot spend more on a document that needs more. Ours may see

    * "document": its remaining tokens' mean state and the log of its original length;
    * "neighbours": the states of the remaining tokens before and after it.

    Every C_f starts at zero, at the paper's head.
    """

    def __init__(self, dim: int, width: int, features: Collection[str]) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, 1)
        for linear in (self.linear_1, self.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        inputs = {"document": dim + 1, "neighbours": dim}
        outputs = {"document": width, "neighbours": 2 * width}
        added = {name: nn.Linear(inputs[name], outputs[name], bias=False) for name in inputs if name in features}
        for linear in added.values():
            nn.init.zeros_(linear.weight)
        self.features = nn.ModuleDict(added)

    def forward(self, batch: PackedBatch, dials: Float[Tensor, "rows docs"]) -> Float[Tensor, "rows total"]:
        """Returns the keep logits of a row's tokens at each row of dials; no gradient enters their states."""
        states = batch.hidden.detach().to(self.linear_1.weight.dtype)
        inner = self.linear_1(states)
        if "document" in self.features:
            inner = inner + self.features["document"](_summaries(batch, states))[batch.documents]
        if "neighbours" in self.features:
            inner = inner + _beside(self.features["neighbours"](states), batch.documents)
        return self.linear_2(nn.functional.gelu(inner))[:, 0] + dials[:, batch.documents]

    @property
    def per_token(self) -> list[nn.Linear]:
        """The maps that every token pays for."""
        return [self.linear_1, self.linear_2, *self._of("neighbours")]

    @property
    def per_document(self) -> list[nn.Linear]:
        """The maps that a document pays for once."""
        return self._of("document")

    def _of(self, name: str) -> list[nn.Linear]:
        return [linear for each, linear in self.features.items() if each == name and isinstance(linear, nn.Linear)]


def _summaries(batch: PackedBatch, states: Float[Tensor, "total dim"]) -> Float[Tensor, "docs dim+1"]:
    """Returns each document's mean state and log(n / 100), n its original tokens."""
    means = document_sums(batch, states) / batch.lengths.clamp(min=1)[:, None]
    return torch.cat([means, (batch.original_lengths[:, None] / 100).log().to(states.dtype)], 1)


def _beside(values: Float[Tensor, "total both"], documents: Tensor) -> Float[Tensor, "total half"]:
    """Returns for each token the first half of what stands before it, plus the second half of what follows it."""
    before, after = values.chunk(2, -1)
    same = (documents[1:] == documents[:-1])[:, None]
    none = values.new_zeros(1, before.shape[1])
    return torch.cat([none, before[:-1] * same]) + torch.cat([after[1:] * same, none])


class Policy(nn.Module):
    """The keep logits at every reduction point.

    Args:
        dim: width of a hidden state.
        num_points: how many reduction points there are.
        width: hidden width of each head.
        features: what the heads see beside a token's own state.

    Raises:
        InputError: There is no such feature.
    """

    def __init__(self, dim: int, num_points: int, width: int = 32, features: Collection[str] = ()) -> None:
        super().__init__()
        if unknown := sorted(set(features) - set(FEATURES)):
            raise InputError(
                f"policy features must be among {', '.join(FEATURES)}, and hold {unknown[0]!r}: leave it out"
            )
        self.width, self.features = width, tuple(features)
        self.heads = nn.ModuleList(PolicyHead(dim, width, features) for _ in range(num_points))

    def logits(self, batch: PackedBatch, point: int, dials: Float[Tensor, "rows docs"]) -> Float[Tensor, "rows total"]:
        """Returns the keep logit of each token entering reduction point `point` (0 is the first), in float32.

        The head learns, the encoder below does not learn from it.

        Args:
            batch: the remaining tokens.
            point: which reduction point.
            dials: added to every logit of a document; one row of logits each.
        """
        with torch.autocast(batch.hidden.device.type, enabled=False):
            logits: Tensor = self.heads[point](batch, dials)
            return logits.float()


def bernoulli_log_prob(logits: Tensor, masks: Tensor) -> Tensor:
    """Returns log π(mask): log σ(logit) where kept, log σ(−logit) where dropped; broadcasts, in nats."""
    return nn.functional.logsigmoid(torch.where(masks, logits, -logits))
