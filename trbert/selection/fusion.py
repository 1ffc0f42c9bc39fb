"""What is dropped leaves its mean: one linear map per reduction point, into the first token's state."""

from torch import nn

from trbert.packed.batch import PackedBatch, document_sums


class Fusion(nn.Module):
    """h₀ ← h₀ + W_t · mean of the states that a document drops at point t; h₀ is its first token, which always stays.

    One token made of those that are not worth one each, as in EViT (Liang et al., ICLR 2022), but added to a token that
    is there already, so that no layer has more to do. Every W_t starts at zero, at plain dropping, and learns in the
    joint stage; where nothing is dropped nothing is added, so that the model with all tokens kept is the plain one.

    Args:
        dim: width of a hidden state.
        num_points: how many reduction points there are; 0 adds nothing anywhere.
    """

    def __init__(self, dim: int, num_points: int) -> None:
        super().__init__()
        maps = [nn.Linear(dim, dim, bias=False) for _ in range(num_points)]
        for linear in maps:
            nn.init.zeros_(linear.weight)
        self.maps = nn.ModuleList(maps)

    @classmethod
    def none(cls) -> "Fusion":
        """Returns one that adds nothing anywhere."""
        return cls(0, 0)

    def forward(self, batch: PackedBatch, kept: PackedBatch, point: int) -> PackedBatch:
        """Returns the kept tokens, the first of each document knowing what was dropped beside it.

        Args:
            batch: what entered the point.
            kept: what `gather_kept` left of it, one or several samples of each document.
            point: which reduction point.
        """
        if not len(self.maps):
            return kept
        samples = len(kept) // len(batch)
        whole = document_sums(batch, batch.hidden.float()).repeat(samples, 1)
        stays = document_sums(kept, kept.hidden.float())
        dropped = (batch.lengths.repeat(samples) - kept.lengths)[:, None]
        mean = (whole - stays) / dropped.clamp(min=1)
        # On a GPU two sums of the same states may differ by their order: nothing dropped must add nothing.
        told = self.maps[point](mean.to(kept.hidden.dtype)) * (dropped > 0)
        return kept.with_hidden(kept.hidden.index_add(0, kept.offsets[:-1], told.to(kept.hidden.dtype)))
