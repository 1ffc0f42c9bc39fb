"""How much a token matters to a trained model, by first order: the warm start's target."""

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
    """Returns the unreduced states h_w entering each reduction point w, and |⟨∂L/∂h_r, h_r − h_w⟩| of each token there.

    The first-order change of the loss L if the token's state stayed at layer r what it was at point w (TR-BERT,
    Ye et al. 2021, section 3.2; their r is layer 9 of 12, ours round(¾ L)).
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
        loss = task.loss(encoder.read(finished, task.reads), examples).sum()
        (gradient,) = torch.autograd.grad(loss, hidden)
    entering = tuple(states[:-1])
    scores = [((gradient * (hidden - state.hidden)).sum(-1)).abs().detach().float() for state in entering]
    return entering, torch.stack(scores)


def most_salient(
    batch: PackedBatch, scores: Float[Tensor, "points total"], keep: Float[Tensor, " docs"]
) -> SampleMasks:
    """Returns, for each point, the mask of each document's k most salient tokens, k = ⌈keep⌉, and all protected."""
    wanted = keep.ceil()[batch.documents]
    ranked = [rank_in_document(batch, row.masked_fill(batch.protected, torch.inf)) for row in scores]
    return torch.stack([(ranks < wanted) | batch.protected for ranks in ranked])
