"""The encoder families: where each keeps its embeddings and layers, how it counts positions, what its layers want.

A new family is one entry in `FAMILIES` (and one line in the contract test of `tests/trbert/test_families.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from trbert.errors import UnsupportedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where the parts of a Hugging Face encoder are; names are attribute paths from its base model.

    Attributes:
        layers: the stack of layers, or a function of the base model that lists them in order.
        embeddings: the module that turns ids into states.
        projection: linear map from embedding width to layer width, applied where the model has one.
        final_norm: normalisation after the last layer.
        pooler: maps the first token's state to what the head reads.
        embeds_positions: the embeddings take `position_ids`.
        embeds_segments: the embeddings take `token_type_ids`.
        first_position_after_padding: positions start at `pad_token_id + 1`, and padding ids stay at it (RoBERTa).
        rotary: module giving (cos, sin) for positions; its tables go to every layer.
        rotary_by_layer_type: the tables differ by the layer's `attention_type` (ModernBERT).
    """

    layers: str | Callable[[Any], list[nn.Module]]
    embeddings: str = "embeddings"
    projection: str | None = None
    final_norm: str | None = None
    pooler: str | None = None
    embeds_positions: bool = True
    embeds_segments: bool = True
    first_position_after_padding: bool = False
    rotary: str | None = None
    rotary_by_layer_type: bool = False

    def layer_list(self, base: nn.Module) -> list[nn.Module]:
        """Returns the layers in the order in which they run; ALBERT's repeat."""
        return self.layers(base) if callable(self.layers) else list(attrgetter(self.layers)(base))

    def reserved_positions(self, config: Any) -> int:
        """Returns the first rows of the position table, which no token of a text takes."""
        return config.pad_token_id + 1 if self.first_position_after_padding else 0

    def pool(self, base: Any, states: Tensor) -> Tensor | None:
        """Returns the pooled first state, or None where the family has no pooler, or this model was built without."""
        pooler = getattr(base, self.pooler, None) if self.pooler else None
        if pooler is None:
            return None
        if isinstance(pooler, nn.Linear):  # ALBERT's pooler is a bare linear layer beside its activation
            return base.pooler_activation(pooler(states[:, 0]))
        return pooler(states)


def _albert_layers(base: Any) -> list[nn.Module]:
    config, groups = base.config, base.encoder.albert_layer_groups
    layers_per_group = config.num_hidden_layers / config.num_hidden_groups
    return [groups[int(index / layers_per_group)] for index in range(config.num_hidden_layers)]


_BERT = Family(layers="encoder.layer", pooler="pooler")
_ROBERTA = Family(layers="encoder.layer", pooler="pooler", first_position_after_padding=True)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "ernie": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(layers="transformer.layer", embeds_segments=False),
    "electra": Family(layers="encoder.layer", projection="embeddings_project"),
    "albert": Family(layers=_albert_layers, projection="encoder.embedding_hidden_mapping_in", pooler="pooler"),
    "nomic_bert": Family(layers="layers", pooler="pooler", embeds_positions=False, rotary="rotary_emb"),
    "eurobert": Family(
        layers="layers",
        embeddings="embed_tokens",
        final_norm="norm",
        embeds_positions=False,
        embeds_segments=False,
        rotary="rotary_emb",
    ),
    "modernbert": Family(
        layers="layers",
        final_norm="final_norm",
        embeds_positions=False,
        embeds_segments=False,
        rotary="rotary_emb",
        rotary_by_layer_type=True,
    ),
}


def family_of(config: Any) -> Family:
    """Returns the family that describes a Hugging Face configuration.

    Raises:
        UnsupportedModel: No family has this `model_type`, or the model is a decoder.
    """
    known = ", ".join(sorted(FAMILIES))
    if config.model_type not in FAMILIES:
        raise UnsupportedModel(
            f"model_type must be one of {known}, and is {config.model_type!r}: "
            "pass an encoder of one of these families, or add an entry to trbert/packed/families.py"
        )
    if getattr(config, "is_decoder", False):
        raise UnsupportedModel(
            f"a {config.model_type} model must be an encoder, and its config has is_decoder=True: pass an encoder"
        )
    return FAMILIES[config.model_type]
