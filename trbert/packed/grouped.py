"""Layers whose attention transformers' interface for attention does not reach: the attention runs on groups, padded.

Such layers are wrapped. The linear maps, the norms and the feed-forward part run on the row, as in every other family.
Hugging Face's own attention module computes the scores and what they read, on groups of documents of similar lengths.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.activations import ACT2FN

from trbert.errors import UnsupportedModel
from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.shapes import TokenIndex

_SIMILAR = 9 / 8
"""A document is padded to the longest one of its group if that one is less than this many times as long."""

_FAR = 2**32
"""The distance between two documents, in tokens, where the places of all tokens stand on one line."""


@dataclass(frozen=True, slots=True)
class Group:
    """Documents of similar lengths.

    Attributes:
        index: the place in the row of each of their tokens. Padding has the place of its document's first token.
        real: False at padding; None where nothing is padded.
        relation: what the attention adds or reads for each pair of a query and a key. Its first dimension is 1 where it
            is the same for all documents.
    """

    index: Int[Tensor, "docs width"]
    real: Bool[Tensor, "docs width"] | None
    relation: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Groups:
    """How the documents of a row are grouped, and what the layers take of relative positions.

    Attributes:
        groups: the groups. Each document with a token is in one of them.
        back: the place of each token of the row in the states of all groups, one after the other.
        table: the states of relative positions, which every layer maps by its own weights; None where there are none.
    """

    groups: list[Group]
    back: TokenIndex
    table: Tensor | None = None


def group_documents(lengths: Sequence[int], device: torch.device) -> tuple[list[Group], TokenIndex]:
    """Returns the documents of a row in groups of similar lengths, and the way back to the row.

    Args:
        lengths: the number of tokens of each document; their sum is that of the row.
        device: where to make the tensors.

    Example:
        >>> groups, back = group_documents([2, 20, 2], torch.device("cpu"))
        >>> groups[1].index.tolist()
        [[0, 1], [22, 23]]
        >>> torch.cat([group.index.flatten() for group in groups])[back].equal(torch.arange(24))
        True
    """
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    members: list[list[int]] = []
    for document in sorted(range(len(lengths)), key=lambda each: lengths[each], reverse=True):
        longest = lengths[members[-1][0]] if members else 0
        if members and (longest == lengths[document] or longest < _SIMILAR * lengths[document]):
            members[-1].append(document)
        else:
            members.append([document])
    groups, back, first = [], torch.empty(starts[-1], dtype=torch.long), 0
    for group in members:
        width = lengths[group[0]]
        start = torch.tensor([starts[each] for each in group])[:, None]
        real = torch.arange(width) < torch.tensor([lengths[each] for each in group])[:, None]
        index = torch.where(real, start + torch.arange(width), start)
        back[index[real]] = first + real.flatten().nonzero()[:, 0]
        first += real.numel()
        groups.append(Group(index.to(device), None if bool(real.all()) else real.to(device)))
    return groups, back.to(device)


class _Part(nn.Module):
    """Takes the place of a linear map where the map was computed before: it returns a part of what it is given."""

    def __init__(self, place: int, width: int) -> None:
        super().__init__()
        self.part = slice(place * width, (place + 1) * width)

    def forward(self, states: Tensor) -> Tensor:
        return states[..., self.part]


class GroupedLayer(nn.Module, ABC):
    """A layer of a family, wrapped so that it takes what the layers of all other families take.

    Its attention module is Hugging Face's own, in a copy whose linear maps are `_Part`. So every linear map runs on the
    row, once, and padding costs none of them. Dropout on attention weights is that of the module.

    Args:
        base: the base model.
        index: the index of the layer.
        layer: the layer.
    """

    maps: tuple[str, str, str]
    """The names of the linear maps that make queries, keys and values, in the attention module."""

    table_rows = 0
    """The number of relative positions whose states the layer maps by its own weights."""

    _inner: Any

    def __init__(self, base: Any, index: int, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer
        self.width: int = base.config.hidden_size
        # It is not registered as a child, because its weights belong to the layer.
        object.__setattr__(self, "_inner", copy.copy(self.own))
        parts = {name: _Part(place, self.width) for place, name in enumerate(self.maps)}
        self._inner._modules = {**self.own._modules, **parts}

    @property
    @abstractmethod
    def own(self) -> Any:
        """Hugging Face's attention module."""

    @classmethod
    @abstractmethod
    def positions(cls, base: Any, batch: PackedBatch) -> Groups:
        """Returns the groups of a row, with what the layers take of its relative positions."""

    @abstractmethod
    def attend(self, states: Float[Tensor, "1 total dim"], groups: Groups, probe: AttentionProbe | None) -> Tensor:
        """Returns what the layer's attention block returns, with the residual and the norm."""

    @abstractmethod
    def scores(self, states: Tensor, group: Group, table: Tensor | None, listens: bool) -> tuple[Tensor, Tensor | None]:
        """Returns what the attention module reads for one group, and its weights where `listens` is set.

        Args:
            states: queries, keys and values, [docs, width, 3 · dim].
            group: the group.
            table: the mapped states of relative positions, [rows, 2 · dim].
            listens: whether the weights are wanted.
        """

    def mapped_once(self) -> list[nn.Module]:
        """Returns the linear maps that run on the table of relative positions, once for a row."""
        return []

    def maps_of_table_alone(self) -> list[nn.Module]:
        """Returns those of `mapped_once` that run on no token."""
        of_tokens = [getattr(self.own, name) for name in self.maps]
        return [each for each in self.mapped_once() if not any(each is other for other in of_tokens)]

    def products_with_table(self) -> int:
        """Returns how many products each token has with every row of the mapped table."""
        return 0

    def forward(
        self,
        states: Float[Tensor, "1 total dim"],
        *,
        position_embeddings: Groups,
        probe: AttentionProbe | None = None,
        **_: Any,
    ) -> Float[Tensor, "1 total dim"]:
        """Returns the states after the layer.

        Args:
            states: the states of the row.
            position_embeddings: what `positions` returned for the row.
            probe: gets the attention that each token received; None asks for nothing.
            **_: what layers of other families take.
        """
        attended = self.attend(states, position_embeddings, probe)
        output: Tensor = self.layer.output(self.layer.intermediate(attended), attended)
        return output

    def read(self, states: Tensor, groups: Groups, table: Tensor | None, probe: AttentionProbe | None) -> Tensor:
        """Returns what the tokens of the row read of each other, before the map that ends the attention.

        Args:
            states: the states of the row that enter the layer, [1, total, dim].
            groups: the groups of the row.
            table: the mapped states of relative positions; None where the layer has none.
            probe: gets the attention that each token received; None asks for nothing.
        """
        row = torch.cat([getattr(self.own, name)(states[0]) for name in self.maps], -1)
        return _read(self, row, groups, table, probe)[None]


# The groups of each row have other shapes, and the compiler would make a graph for each.
@torch.compiler.disable
def _read(
    layer: GroupedLayer, row: Tensor, groups: Groups, table: Tensor | None, probe: AttentionProbe | None
) -> Float[Tensor, "total dim"]:
    outputs, columns = [], []
    for group in groups.groups:
        context, weights = layer.scores(row[group.index], group, table, probe is not None)
        outputs.append(context.flatten(0, 1))
        if weights is not None:
            columns.append(_received(weights.detach().float(), group.real).flatten())
    if probe is not None:
        probe.received = torch.cat(columns)[groups.back]
    return torch.cat(outputs)[groups.back]


def _received(weights: Float[Tensor, "docs heads width width"], real: Tensor | None) -> Float[Tensor, "docs width"]:
    """Returns the mean over the heads and over the queries that are no padding."""
    if real is None:
        return weights.mean((1, 2))
    weights = weights.mean(1) * real[:, :, None]
    return weights.sum(1) / real.sum(1, keepdim=True)


def _with_relations(batch: PackedBatch, table: Tensor) -> tuple[list[Group], TokenIndex]:
    """Returns the groups of a row; each has, for each pair of a query and a key, its row of `table`.

    Args:
        batch: the row.
        table: what belongs to each difference query − key of original positions, [2 · longest − 1, *what]. The first
            row belongs to the least difference.
    """
    groups, back = group_documents(batch.segments, batch.hidden.device)
    originals = batch.original_lengths.tolist()
    whole, middle = sum(originals) == len(batch.hidden), max(originals) - 1
    found = []
    for group in groups:
        places = batch.positions[group.index]
        if whole:  # then all documents have the same positions
            places = torch.arange(places.shape[1], device=places.device)[None]
        relation = table[places[:, :, None] - places[:, None, :] + middle]
        found.append(Group(group.index, group.real, relation))
    return found, back


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
        groups, back = _with_relations(batch, table)
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
                "pos_query_proj": _Part(0, self.width),
                "pos_key_proj": _Part(1, self.width),
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
        groups, back = _with_relations(batch, torch.cat([before.flip(0), after[1:]]))
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
        rows = self.own.pos_dropout(table)[: self.table_rows]
        mapped = [each(rows) for each in self.mapped_once()]
        # Where one is missing, the module does not read it, and its part may hold anything.
        return torch.cat([mapped[0], mapped[-1]], -1)

    def scores(self, states: Tensor, group: Group, table: Tensor | None, listens: bool) -> tuple[Tensor, Tensor | None]:
        """Returns what the attention module reads for one group, and its weights where `listens` is set."""
        docs, width = group.index.shape
        real = torch.ones_like(group.index, dtype=torch.bool) if group.real is None else group.real
        relation = group.relation
        if relation is not None and len(relation) > 1:  # the module takes one for all, or one for each head
            relation = relation.repeat_interleave(self.own.num_attention_heads, 0)[None]
        found: tuple[Tensor, Tensor | None] = self._inner(
            states, real[:, None, None, :], listens, relative_pos=relation, rel_embeddings=table
        )
        return found

    def forward(
        self,
        states: Float[Tensor, "1 total dim"],
        *,
        position_embeddings: Groups,
        offsets: Tensor,
        token_positions: TokenIndex,
        probe: AttentionProbe | None = None,
        **_: Any,
    ) -> Float[Tensor, "1 total dim"]:
        """Returns the states after the layer, and after the convolution where the layer has one.

        Args:
            states: the states of the row.
            position_embeddings: what `positions` returned for the row.
            offsets: where each document of the row starts, and the end of the row.
            token_positions: each token's original position.
            probe: gets the attention that each token received; None asks for nothing.
            **_: what layers of other families take.
        """
        output = super().forward(states, position_embeddings=position_embeddings, probe=probe)
        if self.mixer is None:
            return output
        conv = self.mixer.conv
        near = _neighbours(states[0], offsets, token_positions, conv.kernel_size[0])
        mixed = nn.functional.conv1d(near, conv.weight, conv.bias, groups=conv.groups)[None, :, :, 0]
        mixed = ACT2FN[self.mixer.conv_act](self.mixer.dropout(mixed))
        return cast(Tensor, self.mixer.LayerNorm(output + mixed)).to(output.dtype)


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
    places = positions + _FAR * torch.bucketize(row, offsets[1:], right=True)
    wanted = places[:, None] + torch.arange(kernel, device=row.device) - (kernel - 1) // 2
    found = torch.searchsorted(places, wanted).clamp(max=len(row) - 1)
    near = states[found] * (places[found] == wanted)[..., None]
    return near.transpose(1, 2)
