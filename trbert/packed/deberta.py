"""The layers of DeBERTa-v2 and v3 on a packed row."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.packed.grouped import Group, GroupedLayer, Groups, Part, group_documents, groups_with_relations
from trbert.shapes import TokenIndex

_FAR = 2**32
"""The distance between two documents, in tokens, where the places of all tokens stand on one line."""


class DebertaLayer(GroupedLayer):
    """A layer of DeBERTa-v2 or v3. Queries and keys are also multiplied with states of relative positions.

    Layer 0 may have a convolution beside it, over the tokens that enter it. Its neighbours are those of the original
    document, and a token that was dropped before counts as zeros, as padding does.
    """

    maps = ("query_proj", "key_proj", "value_proj")

    def __init__(self, base: Any, index: int, layer: nn.Module) -> None:
        super().__init__(base, index, layer)
        own, kinds = self.own, self.own.pos_att_type
        self.mixer = base.encoder.conv if index == 0 else None
        self.queries = self.keys = None
        if own.relative_attention:
            self.table_rows = 2 * own.pos_ebd_size
            # They are the names of the maps of the table. With shared keys, they are those of the tokens.
            self.queries = "query_proj" if own.share_att_key else "pos_query_proj" if "p2c" in kinds else None
            self.keys = "key_proj" if own.share_att_key else "pos_key_proj" if "c2p" in kinds else None
            self._inner._modules |= {
                "pos_dropout": nn.Identity(),
                "pos_query_proj": Part(0, self.width),
                "pos_key_proj": Part(1, self.width),
            }

    @property
    def own(self) -> Any:
        """Hugging Face's attention module."""
        return self.layer.attention.self

    @classmethod
    def positions(cls, base: Any, batch: PackedBatch) -> Groups:
        """Returns the groups of a row, with the relative position of each pair of tokens, as a row of the table."""
        encoder, longest = base.encoder, int(batch.original_lengths.max())
        if not encoder.relative_attention:
            return Groups(*group_documents(batch.segments, batch.hidden.device))
        # They have no width: only their number of tokens is read.
        one, all_ = (batch.hidden.new_empty(1, tokens, 0) for tokens in (1, longest))
        before, after = encoder.get_rel_pos(all_, one).flatten(), encoder.get_rel_pos(one, all_).flatten()
        groups, back = groups_with_relations(batch, torch.cat([before.flip(0), after[1:]]))
        return Groups(groups, back, encoder.get_rel_embedding())

    def mapped_once(self) -> list[nn.Module]:
        """Returns the linear maps that run on the table of relative positions, once for a row."""
        return [getattr(self.own, name) for name in (self.queries, self.keys) if name is not None]

    def products_with_table(self) -> int:
        """Returns how many products each token has with every row of the mapped table."""
        return len({"c2p", "p2c"} & set(self.own.pos_att_type)) if self.table_rows else 0

    def attend(self, states: Float[Tensor, "1 total dim"], groups: Groups, probe: AttentionProbe | None) -> Tensor:
        """Returns what the layer's attention block returns, with the residual and the norm."""
        context = self.read(states, groups, self._mapped(groups.table), probe)
        return cast(Tensor, self.layer.attention.output(context, states))

    def _mapped(self, table: Tensor | None) -> Tensor | None:
        if table is None or not (self.queries or self.keys):
            return table
        rows = self.own.pos_dropout(table[: self.table_rows])
        mapped = [each(rows) for each in self.mapped_once()]
        # Where one is missing, the module does not read it, and its part may hold anything.
        return torch.cat([mapped[0], mapped[-1]], -1)

    def scores(self, states: Tensor, group: Group, table: Tensor | None, listens: bool) -> tuple[Tensor, Tensor | None]:
        """Returns what the attention module reads for one group, and its weights where `listens` is set."""
        real = torch.ones_like(group.index, dtype=torch.bool) if group.real is None else group.real
        relation = group.relation
        if relation is not None and len(relation) > 1:  # the module takes one for all, or one for each head
            relation = relation.repeat_interleave(self.own.num_attention_heads, 0)[None]
        found: tuple[Tensor, Tensor | None] = self._inner(
            states, real[:, None, None, :], listens, relative_pos=relation, rel_embeddings=table
        )
        return found

    def finish(self, states: Tensor, output: Tensor, offsets: Tensor, positions: TokenIndex) -> Tensor:
        """Returns the output of the layer, with the convolution of what entered it where the layer has one."""
        return output if self.mixer is None else _mixed(self.mixer, states, output, offsets, positions)


# The compiler would make more graphs for rows of other lengths.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _mixed(mixer: Any, states: Tensor, output: Tensor, offsets: Tensor, positions: TokenIndex) -> Tensor:
    """Returns a layer's output, with the convolution of what entered the layer, as Hugging Face's `ConvLayer` does."""
    conv = mixer.conv
    near = _neighbours(states[0], offsets, positions, conv.kernel_size[0])
    mixed = nn.functional.conv1d(near, conv.weight, conv.bias, groups=conv.groups)[None, :, :, 0]
    mixed = ACT2FN[mixer.conv_act](mixer.dropout(mixed))
    return cast(Tensor, mixer.LayerNorm(output + mixed)).to(output.dtype)


def _neighbours(
    states: Float[Tensor, "total dim"], offsets: Tensor, positions: TokenIndex, kernel: int
) -> Float[Tensor, "total dim kernel"]:
    """Returns the states of each token's neighbours in its original document; zeros where one is gone.

    Args:
        states: the states of the row.
        offsets: where each document of the row starts, and the end of the row.
        positions: each token's original position.
        kernel: the number of neighbours, with the token itself in the middle.
    """
    row = torch.arange(len(states), device=states.device)
    # The places rise along the row, so that each neighbour is found by a search.
    places = positions + _FAR * torch.bucketize(row, offsets[1:], right=True)
    wanted = places[:, None] + torch.arange(kernel, device=row.device) - (kernel - 1) // 2
    found = torch.searchsorted(places, wanted).clamp(max=len(row) - 1)
    near = states[found] * (places[found] == wanted)[..., None]
    return near.transpose(1, 2)
