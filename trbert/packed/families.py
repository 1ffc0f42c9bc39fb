"""The encoder families: where the parts of each are, how it counts positions, and what its layers take.

A new family is one entry in `FAMILIES`, and one line in the contract test of `tests/trbert/packed/test_families.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from trbert.errors import InputError, UnsupportedModel
from trbert.packed.deberta import DebertaLayer
from trbert.packed.grouped import GroupedLayer
from trbert.packed.mpnet import MPNetLayer
from trbert.wording import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where the parts of a Hugging Face encoder are. Each name of a part is an attribute path from the base model.

    Attributes:
        layers: the stack of layers, or a function that takes the base model and lists its layers in their order.
        embeddings: the module that turns token ids into states.
        projection: the linear map from the width of the embeddings to the width of the layers. Some models of a family
            have it and others do not; None where none has.
        final_norm: the normalisation after the last layer, or None.
        pooler: the module that maps the first token's state to what the head reads, or None.
        pooler_activation: the activation after the pooler, where it is a module beside the pooler and not within it.
            Such a pooler is one linear map, and takes the first token's state alone. None elsewhere.
        embeds_positions: whether the embeddings take `position_ids`. Where that differs within the family, it is the
            name of the setting that says whether the embeddings have a table of positions.
        embeds_segments: whether the embeddings take `token_type_ids`.
        first_position_after_padding: whether positions start at `pad_token_id + 1`, and padding ids have the position
            `pad_token_id`, as in RoBERTa.
        rotary: the module that gives (cos, sin) for positions, which every layer takes; None without rotary positions.
        rotary_by_layer_type: whether (cos, sin) differ by a layer's `attention_type`, as in ModernBERT.
        grouped: what wraps each layer where transformers' `AttentionInterface` does not reach the attention. Hugging
            Face's own attention module then runs on groups of documents. None elsewhere.
        model_type: the `model_type` of the models that it describes, as their config.json names it. A family that is
            registered needs it. It is None for those of `FAMILIES` itself.
        by_document: the names of the classes of those layers that are run on each document by itself. Such a layer may
            be of any kind, for example a convolution. It takes the states and `attention_mask=None`.
    """

    layers: str | Callable[[Any], list[nn.Module]]
    embeddings: str = "embeddings"
    projection: str | None = None
    final_norm: str | None = None
    pooler: str | None = None
    pooler_activation: str | None = None
    embeds_positions: bool | str = True
    embeds_segments: bool = True
    first_position_after_padding: bool = False
    rotary: str | None = None
    rotary_by_layer_type: bool = False
    grouped: type[GroupedLayer] | None = None
    model_type: str | None = None
    by_document: tuple[str, ...] = ()

    def layer_list(self, base: nn.Module) -> list[nn.Module]:
        """Returns the layers in the order in which they run. In ALBERT the same layer comes several times."""
        return self.layers(base) if callable(self.layers) else list(attrgetter(self.layers)(base))

    def learns_positions(self, config: Any) -> bool:
        """Returns whether the embeddings have a table of positions, which limits the tokens of a document."""
        learns = self.embeds_positions
        return bool(getattr(config, learns)) if isinstance(learns, str) else learns

    def reserved_positions(self, config: Any) -> int:
        """Returns how many first rows of the position table are never the position of a token."""
        return config.pad_token_id + 1 if self.first_position_after_padding else 0

    def num_segments(self, config: Any) -> int:
        """Returns the number of segments that the embeddings tell apart; 1 where they tell none apart."""
        return int(config.type_vocab_size) if self.embeds_segments else 1

    def max_tokens(self, config: Any) -> int:
        """Returns the most tokens that a document may have, with its special tokens."""
        return int(config.max_position_embeddings) - self.reserved_positions(config)

    def pool(self, base: Any, states: Tensor) -> Tensor | None:
        """Returns the pooled state of each document's first token, or None where the model has no pooler.

        Args:
            base: the base model.
            states: the finished states, [docs, width, dim].
        """
        pooler = getattr(base, self.pooler, None) if self.pooler else None
        if pooler is None:
            return None
        if self.pooler_activation is None:
            return pooler(states)
        return getattr(base, self.pooler_activation)(pooler(states[:, 0]))


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
    "albert": Family(
        layers=_albert_layers,
        projection="encoder.embedding_hidden_mapping_in",
        pooler="pooler",
        pooler_activation="pooler_activation",
    ),
    "mpnet": Family(
        layers="encoder.layer",
        pooler="pooler",
        embeds_segments=False,
        first_position_after_padding=True,
        grouped=MPNetLayer,
    ),
    "deberta-v2": Family(layers="encoder.layer", embeds_positions="position_biased_input", grouped=DebertaLayer),
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


_STRETCHED_ROPES = {"dynamic", "longrope"}
"""Kinds of rotary positions whose frequencies transformers takes from the longest document of a batch."""


def family_of(config: Any) -> Family:
    """Returns the family of the model that a Hugging Face configuration describes.

    Raises:
        UnsupportedModel: No family has this `model_type`, the model is a decoder, or what it gives for a document
            depends on the other documents of a batch.

    Example:
        >>> from transformers import BertConfig
        >>> family_of(BertConfig()).layers
        'encoder.layer'
    """
    known = ", ".join(sorted(FAMILIES))
    if config.model_type == "trbert":
        raise UnsupportedModel(
            "a model to reduce must be a plain encoder, and is a reduced model already: pass the model that it was "
            "made of, such as models/teacher in the folder of its run"
        )
    if config.model_type not in FAMILIES and _is_decoder(config.model_type):
        raise UnsupportedModel(
            f"a {config.model_type} model must be an encoder, and is a decoder, in which a token sees those before it "
            f"alone: pass an encoder of one of the families {known}"
        )
    if config.model_type not in FAMILIES:
        raise UnsupportedModel(
            f"model_type must be one of {known}, and is {config.model_type!r}: "
            "pass an encoder of one of these families, or describe this one yourself, and name your description with "
            "--family (in Python: trbert.register_family)"
        )
    if getattr(config, "is_decoder", False):
        raise UnsupportedModel(
            f"a {config.model_type} model must be an encoder, and its config has is_decoder=True: pass an encoder"
        )
    if stretched := _rope_types(config) & _STRETCHED_ROPES:
        raise UnsupportedModel(
            f"the rope_type of a {config.model_type} model must not depend on the longest document of a batch, and is "
            f"{stretched.pop()!r}: set it to 'default' in config.json if no document has more tokens than the model "
            "was trained with, or pass another encoder"
        )
    return FAMILIES[config.model_type]


def _is_decoder(model_type: str) -> bool:
    """Returns whether transformers has models of a type that write text, and none that fill in masked words."""
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _rope_types(config: Any) -> set[Any]:
    """Returns the kinds of rotary positions that a configuration names, for all layers or for each type of layer."""
    entries = getattr(config, "rope_parameters", None) or {}
    each = [entry for entry in entries.values() if isinstance(entry, dict)] or [entries]
    return {entry.get("rope_type") for entry in each}


BUILT_IN = frozenset(FAMILIES)
"""The `model_type` of each family that trbert describes itself. The others were registered."""


def register_family(family: object) -> None:
    """Makes a family known that trbert does not describe itself, in this process.

    Register it before you load a model of it. A saved model never does so by itself, because a model's files name no
    code that trbert would run.

    Args:
        family: the family; its `model_type` says which models it describes. An earlier one of that type is replaced.

    Raises:
        InputError: It is no `Family`, it has no `model_type`, or trbert describes this `model_type` itself.

    Example:
        >>> register_family(Family(model_type="mine", layers="blocks"))
        >>> FAMILIES.pop("mine").layers
        'blocks'
    """
    if not isinstance(family, Family):
        raise InputError(
            f"a family must be a trbert.Family, and is {shown(family)}: write FAMILY = trbert.Family(model_type=...)"
        )
    kind = family.model_type
    if not isinstance(kind, str) or not kind:
        raise InputError(
            f"model_type of a family must be the model_type in config.json of its models, and is {kind!r}: write "
            "trbert.Family(model_type='...')"
        )
    if kind in BUILT_IN:
        raise InputError(
            f"model_type of a family must be one that trbert does not describe itself, and is {kind!r}: leave the "
            "family out (--family)"
        )
    FAMILIES[kind] = family
