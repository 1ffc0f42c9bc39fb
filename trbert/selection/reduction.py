"""The reduced forward pass: run to a reduction point, drop, run on. Deployment, environment and training all use it."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.packed.batch import PackedBatch, gather_kept
from trbert.packed.tokens import Tokens
from trbert.selection.saliency import saliency
from trbert.selection.selectors import Selector
from trbert.shapes import DocFloat, DocIndex, Kept, SampleMasks, TokenFloat


@dataclass(frozen=True, slots=True)
class Reduced:
    """The end of a reduced forward pass.

    Attributes:
        batch: finished states of the tokens that were kept throughout.
        kept: tokens of each document left after each reduction point.
    """

    batch: PackedBatch
    kept: Kept


def check_points(points: tuple[int, ...], num_layers: int) -> None:
    """Raises InputError unless the reduction points rise and name layers of the model."""
    rising = all(a < b for a, b in pairwise(points))
    if not points or not rising or points[0] < 0 or points[-1] >= num_layers:
        raise InputError(
            f"points must be rising layer indices from 0 to {num_layers - 1}, and are {points}: "
            "use for example (0, 2), to drop after the embeddings and before layer 2"
        )


def enter(encoder: Encoder, tokens: Tokens, points: tuple[int, ...], received: TokenFloat | None = None) -> PackedBatch:
    """Returns the states that enter the first reduction point."""
    return encoder.run_layers(encoder.embed(tokens), 0, points[0], received)


def advance(
    encoder: Encoder,
    batch: PackedBatch,
    masks: SampleMasks,
    point: int,
    points: tuple[int, ...],
    received: Float[Tensor, " kept"] | None = None,
    gates: Float[Tensor, " kept"] | None = None,
) -> PackedBatch:
    """Returns the kept tokens' states at the next reduction point, or at the end after the last.

    Args:
        encoder: runs the layers.
        batch: what enters the point.
        masks: True = keep, one row a sample.
        point: which reduction point.
        points: all of them.
        received: filled in place with the attention that each kept token receives in the last layer before the next.
        gates: factors of the kept tokens' states, where a gradient is to reach the decision.
    """
    following = points[point + 1] if point + 1 < len(points) else len(encoder.layers)
    kept = encoder.fusion(batch, gather_kept(batch, masks), point)
    if gates is not None:
        kept = kept.with_hidden(kept.hidden * gates[:, None].to(kept.hidden.dtype))
    return encoder.run_layers(kept, points[point], following, received)


def reduced_forward(
    encoder: Encoder,
    selector: Selector,
    tokens: Tokens,
    points: tuple[int, ...],
    dial: float | DocFloat,
    labels: DocIndex | None = None,
) -> Reduced:
    """Returns the finished states after dropping, at each reduction point, what the selector does not keep.

    Args:
        encoder: in evaluation mode, or learning.
        selector: decides.
        tokens: the documents.
        points: the reduction points.
        dial: the selector's dial, one for all documents or one each.
        labels: the documents' classes, for a selector that reads saliency.

    Raises:
        InputError: The rule cannot stand at this dial; it reads attention, and its first point has no layer before it;
            or saliency, and there are no labels.
    """
    if not isinstance(dial, Tensor):
        selector.check_dial(dial)
    dials = torch.as_tensor(dial, dtype=torch.float32, device=tokens.offsets.device).expand(len(tokens))
    salient = None
    if selector.needs == "saliency" and labels is not None:
        salient = saliency(encoder, tokens, labels, points)[1]
    counts = []
    # No buffer at point 0: no layer would fill it, and its zeros would pass for attention.
    received = _buffer(selector, tokens.input_ids.numel(), tokens) if points[0] > 0 else None
    batch = enter(encoder, tokens, points, received)
    for point in range(len(points)):
        evidence = received
        if salient is not None:
            evidence = salient[point, tokens.offsets[batch.documents] + batch.positions]
        mask = selector.keep_mask(batch, point, len(points), dials, evidence)
        last = point + 1 == len(points)
        received = None if last else _buffer(selector, int(mask.sum()), tokens)
        batch = advance(encoder, batch, mask[None], point, points, received)
        counts.append(batch.lengths)
    return Reduced(batch, torch.stack(counts))


def _buffer(selector: Selector, total: int, tokens: Tokens) -> TokenFloat | None:
    return torch.zeros(total, device=tokens.offsets.device) if selector.needs == "attention" else None
