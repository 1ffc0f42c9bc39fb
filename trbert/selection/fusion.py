"""Fusion: the mean of the dropped tokens is added to the first token, by one linear map for each reduction point."""

import torch
from torch import nn

from trbert.packed.batch import PackedBatch, document_sums


class Fusion(nn.Module):
    """Adds what a document drops to its first token: h₀ ← h₀ + W_t · (mean of the states dropped at point t).

    h₀ is the state of the document's first token, which is never dropped. EViT (Liang et al., ICLR 2022) makes one new
    token of the dropped ones. Here their mean is added to a token that is there already, so that no layer has more to
    do. Every W_t starts at zero, which is plain dropping, and learns in the joint stage. Where a document drops
    nothing, nothing is added. So the model with all tokens kept is the plain model.

    Args:
        dim: the width of a hidden state.
        num_points: the number of reduction points; 0 adds nothing anywhere.
    """

    def __init__(self, dim: int, num_points: int) -> None:
        super().__init__()
        maps = [nn.Linear(dim, dim, bias=False) for _ in range(num_points)]
        for linear in maps:
            nn.init.zeros_(linear.weight)
        self.maps = nn.ModuleList(maps)

    @classmethod
    def none(cls) -> "Fusion":
        """Returns a fusion that adds nothing anywhere."""
        return cls(0, 0)

    def forward(self, batch: PackedBatch, kept: PackedBatch, point: int) -> PackedBatch:
        """Returns the kept tokens, with the mean of the dropped ones added to the first token of each document.

        Args:
            batch: the batch that entered the reduction point.
            kept: the batch that `gather_kept` made of it, with one or several samples of each document.
            point: the number of the reduction point; 0 is the first.
        """
        if not len(self.maps):
            return kept
        samples = len(kept) // len(batch)
        whole = document_sums(batch, batch.hidden).repeat(samples, 1)
        stays = document_sums(kept, kept.hidden)
        dropped = (batch.lengths.repeat(samples) - kept.lengths)[:, None]
        mean = (whole - stays) / dropped.clamp(min=1)
        # On a GPU two sums of the same states may differ a little, because they are added in another order. Where
        # nothing is dropped, that difference must not be added.
        told = self.maps[point](mean.to(kept.hidden.dtype))
        told = torch.where(dropped > 0, told, 0).to(kept.hidden.dtype)
        # A document without a token, at the end of a full row, starts behind it.
        first = kept.offsets[:-1].clamp(max=len(kept.hidden) - 1)
        return kept.with_hidden(kept.hidden.index_add(0, first, told))
