"""The layers of MPNet on a packed row."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.errors import UnsupportedModel
from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.packed.grouped import Group, GroupedLayer, Groups, groups_with_relations


class MPNetLayer(GroupedLayer):
    """A layer of MPNet. All layers add one bias to the scores, for each head and each relative position.

    Raises:
        UnsupportedModel: The padding id of the model is not 1, which transformers' MPNet takes for granted.
    """

    maps = ("q", "k", "v")

    def __init__(self, base: Any, index: int, layer: nn.Module) -> None:
        if base.config.pad_token_id != base.embeddings.padding_idx:
            raise UnsupportedModel(
                f"pad_token_id must be {base.embeddings.padding_idx} for an mpnet model, because transformers counts "
                f"its positions from this id, and is {base.config.pad_token_id!r}: change it in the model's config.json"
            )
        super().__init__(base, index, layer)
        self._inner._modules["o"] = nn.Identity()

    @property
    def own(self) -> Any:
        """Hugging Face's attention module."""
        return self.layer.attention.attn

    @classmethod
    def positions(cls, base: Any, batch: PackedBatch) -> Groups:
        """Returns the groups of a row, with the bias of each pair of tokens."""
        encoder, longest = base.encoder, int(batch.original_lengths.max())
        difference = torch.arange(1 - longest, longest, device=batch.hidden.device)  # query − key
        # Hugging Face's own compute_position_bias takes no positions. It is these two steps.
        table = encoder.relative_attention_bias(encoder.relative_position_bucket(-difference))
        groups, back = groups_with_relations(batch, table)
        return Groups([Group(each.index, each.real, _heads_first(each.relation)) for each in groups], back)

    def attend(self, states: Float[Tensor, "1 total dim"], groups: Groups, probe: AttentionProbe | None) -> Tensor:
        """Returns what the layer's attention block returns, with the residual and the norm."""
        attention = self.layer.attention
        output = self.own.o(self.read(states, groups, None, probe))
        return cast(Tensor, attention.LayerNorm(attention.dropout(output) + states))

    def scores(self, states: Tensor, group: Group, table: Tensor | None, listens: bool) -> tuple[Tensor, Tensor | None]:
        """Returns what the attention module reads for one group, and its weights where `listens` is set."""
        mask = None
        if group.real is not None:
            mask = torch.zeros_like(group.real, dtype=states.dtype)
            mask = mask.masked_fill(~group.real, torch.finfo(states.dtype).min)[:, None, None, :]
        found = self._inner(states, mask, group.relation, output_attentions=listens)
        return found[0], found[1] if listens else None


def _heads_first(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.permute(0, 3, 1, 2).contiguous()
