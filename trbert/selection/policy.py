"""The policy: one small head for each reduction point, which gives each token a keep logit."""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trbert.errors import InputError
from trbert.packed.batch import PackedBatch, document_means
from trbert.selection.question import DOUBLINGS, Question

FEATURES = ("document", "neighbours", "question")
"""What a head may see beside the token's own state.

These are a summary of its document, the tokens next to it, and how well the words around it match the question.
"""


class PolicyHead(nn.Module):
    """Computes the keep logit of each token: logit = w₂ᵀ gelu(W₁ h + b₁ + Σ_f C_f x_f) + b₂ + dial.

    Here h is the token's hidden state, and x_f is the value of feature f. Without features this is the head of TR-BERT
    (Ye et al. 2021, section 3.1), 32 wide, with the exact (erf) gelu. The weights start as N(0, 0.02) and the biases at
    zero, so that an untrained head keeps a token with a probability of about one half.

    The paper's head sees the token's own state alone, which at point 0 is a bare embedding. It cannot keep more of a
    document that needs more. Three features change that:

    * "document": the mean state of the document's remaining tokens, and the logarithm of its original length;
    * "neighbours": the states of the remaining tokens before and after the token;
    * "question": how well the words around the token match the protected ones (`trbert.selection.question`).

    Every C_f starts at zero, so that training starts at the paper's head.

    Args:
        dim: the width of a hidden state.
        width: the width of the head's inner layer.
        features: names from `FEATURES`.
    """

    def __init__(self, dim: int, width: int, features: Collection[str]) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, 1)
        for linear in (self.linear_1, self.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        inputs = {"document": dim + 1, "neighbours": dim, "question": len(DOUBLINGS)}
        outputs = {"document": width, "neighbours": 2 * width, "question": width}
        added = {name: nn.Linear(inputs[name], outputs[name], bias=False) for name in inputs if name in features}
        for linear in added.values():
            nn.init.zeros_(linear.weight)
        self.features = nn.ModuleDict(added)
        self.question = Question(dim) if "question" in added else None

    def forward(self, batch: PackedBatch, dials: Float[Tensor, "rows docs"]) -> Float[Tensor, "rows total"]:
        """Returns the keep logits of all tokens, one row for each row of dials. No gradient flows into the states.

        Args:
            batch: the remaining tokens.
            dials: an offset for each document, added to the logits of its tokens.
        """
        states = batch.hidden.detach().to(self._arithmetic)
        inner, *beside = self._of_tokens(states).split(self.linear_1.out_features, 1)
        matches = None
        if "document" in self.features or self.question is not None:
            means = document_means(batch, states)
            if "document" in self.features:
                summaries = _summaries(batch, means).to(states.dtype)
                inner = inner + self.features["document"](summaries).index_select(0, batch.documents)
            if self.question is not None:
                matches = self.question(batch, states, means)
        if beside:
            before, after = beside
            inner = inner + _beside(before, after, batch.offsets)
        if matches is not None:
            inner = inner + self.features["question"](matches)
        return self.linear_2(nn.functional.gelu(inner))[:, 0] + dials.index_select(1, batch.documents)

    def _of_tokens(self, states: Float[Tensor, "total dim"]) -> Float[Tensor, "total columns"]:
        """Returns what the head reads of each token: for the token itself, for the one after it, for the one before it.

        In half precision it is one product, because two small ones take longer. In float32 one product takes as long as
        two, and sums in another order, so that a training would not find the same figures again.
        """
        maps = [self.linear_1, *self._of("neighbours")]
        plain = [linear for linear in maps if type(linear) is nn.Linear]
        if states.dtype == torch.float32 or len(maps) == 1 or len(plain) < len(maps):
            return torch.cat([linear(states) for linear in maps], 1)
        weight, width = torch.cat([linear.weight for linear in plain]), self.linear_1.out_features
        return nn.functional.linear(states, weight, nn.functional.pad(self.linear_1.bias, (0, len(weight) - width)))

    @property
    def _arithmetic(self) -> torch.dtype:
        """The arithmetic that the first map takes."""
        # A map that was quantised takes float32. It holds integers, and in torch.ao `weight` is a method.
        weight: Any = self.linear_1.weight
        return weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else torch.float32

    @property
    def per_token(self) -> list[nn.Module]:
        """The linear maps that run once for each token."""
        return [self.linear_1, self.linear_2, *self._of("neighbours"), *self._of("question")]

    @property
    def per_document(self) -> list[nn.Module]:
        """The linear maps that run once for each document."""
        return self._of("document")

    @property
    def compared(self) -> tuple[float, float]:
        """The FLOPs of the comparison with the question: for each token, and for each pair of tokens of a document."""
        return (0.0, 0.0) if self.question is None else (self.question.flops_per_token, self.question.flops_per_pair)

    def _of(self, name: str) -> list[nn.Module]:
        return [linear for each, linear in self.features.items() if each == name]


def _summaries(batch: PackedBatch, means: Float[Tensor, "docs dim"]) -> Float[Tensor, "docs dim+1"]:
    """Returns each document's mean state and log(n / 100), where n is its original number of tokens."""
    return torch.cat([means, (batch.original_lengths[:, None] / 100).log().to(means.dtype)], 1)


def _beside(
    before: Float[Tensor, "total width"], after: Float[Tensor, "total width"], offsets: Int[Tensor, " docs_and_one"]
) -> Float[Tensor, "total width"]:
    """Returns for each token what the token before it gives, plus what the token after it gives.

    A token at the edge of its document has none on that side, which counts as zero.

    Args:
        before: what each token gives the one after it.
        after: what each token gives the one before it.
        offsets: where each document starts, and the end of the row. An empty document may start there.
    """
    # Not products: the states of a filler may be anything, and NaN · 0 is NaN.
    first = nn.functional.pad(before, (0, 0, 1, 0)).index_fill_(0, offsets[:-1], 0)
    last = nn.functional.pad(after, (0, 0, 0, 1)).index_fill_(0, offsets[1:], 0)
    return first[:-1] + last[1:]


class Policy(nn.Module):
    """The heads of all reduction points.

    Args:
        dim: the width of a hidden state.
        num_points: the number of reduction points.
        width: the width of each head's inner layer.
        features: what the heads see beside a token's own state, as names from `FEATURES`.

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
        """Returns the keep logits of the tokens that enter a reduction point, in float32.

        A gradient of the logits reaches the head, but not the encoder below it.

        Args:
            batch: the remaining tokens.
            point: the number of the reduction point; 0 is the first.
            dials: an offset for each document, added to the logits of its tokens. Each row of dials gives one row of
                logits.
        """
        with torch.autocast(batch.hidden.device.type, enabled=False):
            logits: Tensor = self.heads[point](batch, dials)
            return logits.float()


def features_for(wanted: Collection[str], protects: bool) -> tuple[str, ...]:
    """Returns the features that a policy can have; without a protected part there is no question.

    Args:
        wanted: names from `FEATURES`.
        protects: whether the documents have a part that is protected.

    Example:
        >>> features_for(("document", "question"), protects=False)
        ('document',)
    """
    return tuple(name for name in wanted if protects or name != "question")


def bernoulli_log_prob(logits: Tensor, masks: Tensor) -> Tensor:
    """Returns log π(mask) of each token, in nats: log σ(logit) where it is kept, log σ(−logit) where it is dropped.

    Args:
        logits: the keep logits.
        masks: True = keep; a shape that broadcasts with that of the logits.

    Example:
        >>> bernoulli_log_prob(torch.zeros(2), torch.tensor([True, False])).exp()
        tensor([0.5000, 0.5000])
    """
    return nn.functional.logsigmoid(torch.where(masks, logits, -logits))
