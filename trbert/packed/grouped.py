"""Layers whose attention transformers' interface for attention does not reach: the attention runs on groups, padded.

Such layers are wrapped. The linear maps, the norms and the feed-forward part run on the row, as in every other family.
Hugging Face's own attention module computes the scores and what they read, on groups of documents of similar lengths.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trbert.packed.attention import AttentionProbe
from trbert.packed.batch import PackedBatch
from trbert.shapes import TokenIndex

_SIMILAR = 9 / 8
"""A document is padded to the longest one of its group if that one is less than this many times as long."""


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


class Part(nn.Module):
    """Takes the place of a linear map where the map was computed before: it returns a part of what it is given."""

    def __init__(self, place: int, width: int) -> None:
        super().__init__()
        self.part = slice(place * width, (place + 1) * width)

    def forward(self, states: Tensor) -> Tensor:
        """Returns the part of these states that the linear map made."""
        return states[..., self.part]


class GroupedLayer(nn.Module, ABC):
    """A layer of a family, wrapped so that it takes what the layers of all other families take.

    Its attention module is Hugging Face's own, in a copy whose linear maps are `Part`. So every linear map runs on the
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
        parts = {name: Part(place, self.width) for place, name in enumerate(self.maps)}
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

    def finish(self, states: Tensor, output: Tensor, offsets: Tensor, positions: TokenIndex) -> Tensor:
        """Returns the states after the layer: its output, and in some layers what comes after it.

        Args:
            states: the states that entered the layer.
            output: the output of the layer.
            offsets: where each document of the row starts, and the end of the row.
            positions: each token's original position.
        """
        return output

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
        """Returns the states after the layer.

        Args:
            states: the states of the row.
            position_embeddings: what `positions` returned for the row.
            offsets: where each document of the row starts, and the end of the row.
            token_positions: each token's original position.
            probe: gets the attention that each token received; None asks for nothing.
            **_: what layers of other families take.
        """
        attended = self.attend(states, position_embeddings, probe)
        output = self.layer.output(self.layer.intermediate(attended), attended)
        return self.finish(states, output, offsets, token_positions)

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
@torch.compiler.disable  # type: ignore[untyped-decorator]
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


def groups_with_relations(batch: PackedBatch, table: Tensor) -> tuple[list[Group], TokenIndex]:
    """Returns the groups of a row; each has, for each pair of a query and a key, its row of `table`.

    Args:
        batch: the row.
        table: what belongs to each difference query − key of original positions, [2 · longest − 1, *what]. The first
            row belongs to the least difference.
    """
    groups, back = group_documents(batch.segments, batch.hidden.device)
    originals = batch.original_lengths.tolist()
    whole, middle = batch.segments == originals, max(originals) - 1
    found = []
    for group in groups:
        places = batch.positions[group.index]
        if whole:  # then all documents have the same positions
            places = torch.arange(places.shape[1], device=places.device)[None]
        relation = table[places[:, :, None] - places[:, None, :] + middle]
        found.append(Group(group.index, group.real, relation))
    return found, back
