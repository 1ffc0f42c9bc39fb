"""Saliency: how much each token matters to a trained model. The warm start of the policy imitates it."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from trbert.encoder import Encoder
from trbert.packed.batch import PackedBatch
from trbert.selection.selectors import rank_in_document
from trbert.shapes import SampleMasks
from trbert.tasks import Task
from trbert.tasks.examples import Examples


def saliency(
    encoder: Encoder, task: Task, examples: Examples, points: tuple[int, ...]
) -> tuple[tuple[PackedBatch, ...], Float[Tensor, "points total"]]:
    """Returns the unreduced states h_w that enter each reduction point w, and each token's saliency there.

    The saliency of a token at point w is |⟨∂L/∂h_r, h_r − h_w⟩|. To first order, that is how much the loss L would
    change if the token's state did not change between point w and layer r (TR-BERT, Ye et al. 2021, section 3.2).
    Their r is layer 9 of 12. Here r is ¾ of the number of layers, rounded, and at least the layer after the
    last point. Where a task senses several numbers in place of L, it is the root of the sum of the squares.

    Args:
        encoder: the trained model in stages.
        task: gives the loss, as `Task.sensed`.
        examples: the documents with their targets.
        points: the reduction points.

    Returns:
        A batch for each point, and the saliencies, [points, total].
    """
    reference = max(points[-1] + 1, round(0.75 * len(encoder.layers)))
    states = []
    with torch.no_grad():
        batch = encoder.embed(examples.tokens)
        for first, last in pairwise((0, *points, reference)):
            batch = encoder.run_layers(batch, first, last)
            states.append(batch)
    with torch.enable_grad():
        hidden = batch.hidden.detach().requires_grad_()
        finished = encoder.run_layers(batch.with_hidden(hidden), reference, len(encoder.layers))
        sensed = task.sensed(encoder.read(finished, task.reads), examples).sum(-1)
        gradients = [torch.autograd.grad(each, hidden, retain_graph=True)[0] for each in sensed]
    entering = tuple(states[:-1])
    scores = []
    for state in entering:
        moved = (hidden - state.hidden).detach()
        changes = torch.stack([(gradient * moved).sum(-1) for gradient in gradients])
        scores.append(changes.float().square().sum(0).sqrt())
    return entering, torch.stack(scores)


def most_salient(
    batch: PackedBatch, scores: Float[Tensor, "points total"], keep: Float[Tensor, " docs"]
) -> SampleMasks:
    """Returns for each point a mask that keeps the ⌈keep⌉ most salient tokens of each document.

    Protected tokens count as the most salient ones. They are all kept, even where there are more of them.

    Args:
        batch: the unreduced documents.
        scores: the saliencies.
        keep: the number of tokens to keep of each document; it need not be whole.
    """
    wanted = keep.ceil()[batch.documents]
    ranked = [rank_in_document(batch, row.masked_fill(batch.protected, torch.inf)) for row in scores]
    return torch.stack([(ranks < wanted) | batch.protected for ranks in ranked])
