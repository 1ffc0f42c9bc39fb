"""The price of a reduced forward pass in FLOPs. Every linear map and attention product that runs is counted.

docs/cost.md explains the numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.packed.by_document import ByDocument
from trbert.packed.grouped import GroupedLayer
from trbert.packed.heads import has_head
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector, Selector
from trbert.shapes import DocFloat, DocIndex, Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """The FLOPs of each part of a model; a multiplication with an addition counts two.

    For n tokens, a layer of BERT's shape and width d has 24·n·d² + 4·n²·d FLOPs. Everywhere, 0 means that the model
    does not have this part.

    Attributes:
        embedding_per_token: the linear maps between the embeddings and layer 0, for one token.
        layer_per_token: the linear maps and convolutions of each layer, for one token, and its products with what the
            layer mapped once.
        layer_per_pair: the two attention products of each layer, for one pair of a query and a key.
        layer_per_document: what each layer maps once for a whole row, for one document that is a row by itself. In a
            row of several documents, they share it. DeBERTa's layers map the states of relative positions.
        head_per_document: the pooler and the head, for one document. The pooling of a model without a head is not
            counted, since it has no linear map and runs no pooler.
        head_per_token: a head that reads every remaining token and averages the logits, for one token. EuroBERT has one
            where its `classifier_pooling` is "late".
        head_per_original_token: a head that reads the last state of every original token, for one token.
        policy_per_token: the part of a policy head that runs for each token that enters its point.
        policy_per_pair: the attention products of a policy head that compares tokens with the question, for one pair.
        policy_per_document: the part of a policy head that runs once for each document.
        exit_per_token: the linear map of the last state of a token that was dropped.
        fusion_per_document: the linear map that adds the mean of the dropped tokens to the first one, for one point.
    """

    embedding_per_token: float
    layer_per_token: tuple[float, ...]
    layer_per_pair: tuple[float, ...]
    head_per_document: float
    layer_per_document: tuple[float, ...] = ()
    policy_per_token: float = 0.0
    policy_per_pair: float = 0.0
    policy_per_document: float = 0.0
    head_per_token: float = 0.0
    head_per_original_token: float = 0.0
    fusion_per_document: float = 0.0
    exit_per_token: float = 0.0

    @classmethod
    def of(cls, reducer: Reducer, policy: Policy | None = None) -> "CostModel":
        """Returns the cost model of a model, from the shapes of its linear layers.

        Args:
            reducer: the model.
            policy: its policy; None, or a policy without heads, where no head runs.
        """
        encoder = reducer.encoder
        model, base = encoder.plain, encoder.base
        config: Any = base.config
        within_layers = {id(module) for layer in encoder.layers for module in layer.modules()}
        within_base = {id(module) for module in base.modules()}
        poolers = [getattr(base, "pooler", None)]
        pooling = {id(module) for pooler in poolers if pooler is not None for module in pooler.modules()}
        embedding = [m for m in base.modules() if id(m) not in within_layers | pooling]
        head = [m for m in model.modules() if id(m) not in within_base or id(m) in pooling] if has_head(model) else []
        width = config.hidden_size
        head_width = getattr(config, "head_dim", None) or width // config.num_attention_heads
        attentions = getattr(config, "inner_group_num", 1)  # an ALBERT layer may hold several
        first: Any = next(iter(policy.heads), None) if policy is not None else None  # the heads are alike
        compared_token, compared_pair = first.compared if first else (0.0, 0.0)
        reads_tokens = reducer.task.reads == "tokens"
        reads_remaining = not reads_tokens and getattr(config, "classifier_pooling", None) == "late"
        return cls(
            embedding_per_token=_linear_flops(embedding),
            layer_per_token=tuple(_flops_per_token(layer) for layer in encoder.layers),
            layer_per_pair=tuple(
                4.0 * config.num_attention_heads * head_width * attentions * _attends(layer) for layer in encoder.layers
            ),
            layer_per_document=tuple(_flops_per_row(layer) for layer in encoder.layers),
            head_per_document=0.0 if reads_tokens or reads_remaining else _linear_flops(head),
            policy_per_token=_linear_flops(first.per_token) + compared_token if first else 0.0,
            policy_per_pair=compared_pair,
            policy_per_document=_linear_flops(first.per_document) if first else 0.0,
            head_per_token=_linear_flops(head) if reads_remaining else 0.0,
            head_per_original_token=_linear_flops(head) if reads_tokens else 0.0,
            fusion_per_document=_linear_flops(reducer.fusion.maps[:1]),  # the maps are alike
            exit_per_token=_linear_flops(reducer.exits.maps[:1]),
        )

    def layers(self, first: int, last: int, lengths: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns the FLOPs of the layers first, …, last − 1 on documents of these lengths.

        Args:
            first: the index of the first layer.
            last: the index after the last layer.
            lengths: the number of tokens of each document, in a tensor of any shape.

        Example:
            >>> cost = CostModel(embedding_per_token=0.0, layer_per_token=(10.0, 10.0), layer_per_pair=(1.0, 1.0),
            ...                  head_per_document=0.0)
            >>> cost.layers(0, 2, torch.tensor([2.0, 3.0]))  # 2 layers of 10·n + n²
            tensor([48., 78.])
        """
        per_token, per_pair = sum(self.layer_per_token[first:last]), sum(self.layer_per_pair[first:last])
        return per_token * lengths + per_pair * lengths.square() + sum(self.layer_per_document[first:last])

    def unreduced(self, lengths: DocIndex) -> DocFloat:
        """Returns the FLOPs of the plain model on each document, without padding and without a policy.

        Args:
            lengths: the number of tokens of each document.

        Example:
            >>> cost = CostModel(embedding_per_token=0.0, layer_per_token=(10.0,), layer_per_pair=(1.0,),
            ...                  head_per_document=5.0)
            >>> cost.unreduced(torch.tensor([2])).item()  # 2·10 + 2² + 5
            29.0
        """
        n = lengths.double()
        per_token = self.embedding_per_token + self.head_per_token + self.head_per_original_token
        return per_token * n + self.layers(0, len(self.layer_per_token), n) + self.head_per_document

    def reduced(
        self,
        lengths: DocIndex,
        kept: Kept,
        points: tuple[int, ...],
        selector: Selector | type[Selector] = PolicySelector,
    ) -> DocFloat:
        """Returns the FLOPs of the reduced pass on each document.

        Args:
            lengths: the original number of tokens of each document.
            kept: the number of tokens of each document that were left after each point.
            points: the reduction points.
            selector: the selector that decided. One that learns pays for its heads. One that needs attention pays for
                computing the attention weights a second time. Others cost nothing.

        Example:
            >>> cost = CostModel(embedding_per_token=0.0, layer_per_token=(10.0, 10.0), layer_per_pair=(1.0, 1.0),
            ...                  head_per_document=0.0)
            >>> cost.reduced(torch.tensor([4]), torch.tensor([[2]]), (1,)).item()  # 4·10 + 4² + 2·10 + 2²
            80.0
        """
        entering = torch.cat([lengths[None], kept]).double()
        bounds = (0, *points, len(self.layer_per_token))
        flops = (self.embedding_per_token + self.head_per_original_token) * entering[0]
        flops = flops + self.head_per_token * entering[-1]
        flops = flops + self.head_per_document + len(points) * self.fusion_per_document
        flops = flops + self.exit_per_token * (entering[0] - entering[-1])
        for index, tokens in enumerate(entering):
            flops = flops + self.layers(bounds[index], bounds[index + 1], tokens)
            if index < len(points) and selector.learns:
                flops = flops + self.policy_per_token * tokens + self.policy_per_document
                flops = flops + self.policy_per_pair * tokens.square()
            if index < len(points) and selector.needs == "attention":
                flops = flops + self.layer_per_pair[points[index] - 1] / 2 * tokens.square()
        return flops

    def price(self, points: tuple[int, ...], tokens: Float[Tensor, "points docs"], lengths: DocIndex) -> Tensor:
        """Returns c_t(m): the FLOPs of the layers from point t to the next one on m tokens, as a share of all.

        All is what the unreduced document costs.

        Args:
            points: the reduction points.
            tokens: m for each point and document; it need not be whole.
            lengths: the original number of tokens of each document.

        Returns:
            Fractions, [points, docs].

        Example:
            >>> cost = CostModel(embedding_per_token=0.0, layer_per_token=(10.0, 10.0), layer_per_pair=(0.0, 0.0),
            ...                  head_per_document=0.0)
            >>> cost.price((1,), torch.tensor([[2.0]]), torch.tensor([4])).item()  # 2·10 of 4·10 + 4·10
            0.25
        """
        bounds = (*points, len(self.layer_per_token))
        stages = [self.layers(bounds[t], bounds[t + 1], tokens[t].double()) for t in range(len(points))]
        return (torch.stack(stages) / self.unreduced(lengths)).float()


def speed_up(unreduced: DocFloat, reduced: DocFloat) -> float:
    """Returns Σ unreduced FLOPs / Σ reduced FLOPs. In this ratio of sums, a document counts by what it costs.

    Args:
        unreduced: the FLOPs of the plain model on each document.
        reduced: the FLOPs of the reduced pass on each document.

    Example:
        >>> speed_up(torch.tensor([10.0, 90.0]), torch.tensor([10.0, 30.0]))
        2.5
    """
    return float(unreduced.sum() / reduced.sum())


def _flops_per_token(layer: nn.Module) -> float:
    """Returns the FLOPs of a layer for one token, but for the attention products."""
    flops = _linear_flops(layer.modules())
    if isinstance(layer, GroupedLayer):
        flops -= _linear_flops(layer.maps_of_table_alone())
        flops += 2.0 * layer.table_rows * layer.width * layer.products_with_table()
    return flops


def _flops_per_row(layer: nn.Module) -> float:
    """Returns the FLOPs of what a layer maps once for a row."""
    return layer.table_rows * _linear_flops(layer.mapped_once()) if isinstance(layer, GroupedLayer) else 0.0


def _attends(layer: nn.Module) -> bool:
    """Returns whether a layer has attention. Of those run by document, one has if a module in it is called so."""
    return not isinstance(layer, ByDocument) or any("attention" in type(m).__name__.lower() for m in layer.modules())


def _linear_flops(modules: Iterable[nn.Module]) -> float:
    return float(sum(_flops(each) for each in modules))


def _flops(module: Any) -> int:
    """Returns the FLOPs of one linear map or one convolution over the tokens, for one token; 0 for other modules."""
    if isinstance(module, nn.Conv1d):
        return 2 * module.in_channels // module.groups * module.kernel_size[0] * module.out_channels
    return 2 * module.in_features * module.out_features if _is_linear(module) else 0


def _is_linear(module: Any) -> TypeGuard[nn.Linear]:
    """Returns whether a module is a linear map, be it quantised or not.

    It is known by its two widths, because each way to quantise has a class of its own. A module that wraps a linear map
    may have them as well. Then the map within it is counted, and the wrapper is not.
    """
    return hasattr(module, "out_features") and not any(hasattr(each, "out_features") for each in module.children())
