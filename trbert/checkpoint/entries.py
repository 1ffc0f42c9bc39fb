"""What the entries of a config.json may say, before anything is made from them."""

from collections.abc import Mapping
from typing import Any

from trbert.errors import DamagedCheckpoint, UnsupportedModel
from trbert.packed.heads import POOLINGS
from trbert.wording import shown

_REMEDY = "correct it, or copy or save it again"

SIZES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("num_hidden_layers", "n_layers", "num_hidden_groups", "inner_group_num"), (1, 1000)),
    **dict.fromkeys(("num_attention_heads", "n_heads", "num_key_value_heads"), (1, 10_000)),
    **dict.fromkeys(("hidden_size", "dim", "embedding_size", "head_dim"), (1, 10_000_000)),
    **dict.fromkeys(("intermediate_size", "hidden_dim"), (1, 10_000_000)),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), (1, 1_000_000_000)),
    "type_vocab_size": (0, 1_000_000_000),
    "num_labels": (0, 1_000_000),
    "local_attention": (1, 1_000_000_000),
    "global_attn_every_n_layers": (1, 1000),
}
"""The least and the most that a size may be. What is within is compared with the weights.

Modules and lists are made from some sizes before weights are read. Without a limit, they alone would fill the memory.
"""

FOREIGN = {
    "quantization_config": "unset, because a quantised model cannot learn: save the model as it was before it was "
    "quantised, or call model.dequantize() and save that",
    "pruned_heads": "empty, because transformers no longer loads models without some of their heads: pass the model "
    "as it was before its heads were pruned",
    "chunk_size_feed_forward": "0, because trbert computes the tokens of all documents at once, which are any number: "
    "set it to 0, which changes no result",
    "fusion_config": "unset, because trbert runs no modules in place of those of the family: remove it",
    "distributed_config": "unset, because trbert loads a model whole: remove it",
    "compression_config": "unset, because a compressed model cannot learn: save the model as it was before it was "
    "compressed",
}
"""Entries that make another model of it, with what they must be, why, and the remedy."""

ATTENTIONS = ("eager", "sdpa", None)
RUNNING = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal")
"""Entries that say by which code the attention is computed. A name with a / would be fetched from the hub, and run."""


def check_entries(where: str, entries: Mapping[str, Any]) -> None:
    """Checks what a config says of a model, as far as that can be known without its weights.

    Args:
        where: the config, as a message names it.
        entries: its content.

    Raises:
        UnsupportedModel: An entry makes another model of it.
        DamagedCheckpoint: A size is no number, or is out of every range.
    """
    for name, rule in FOREIGN.items():
        if entries.get(name):
            raise UnsupportedModel(f"{name} in {where} must be {rule}")
    for name, (least, most) in SIZES.items():
        value = entries.get(name)
        if value is not None and not (type(value) is int and least <= value <= most):
            raise DamagedCheckpoint(
                f"{name} in {where} must be a whole number from {least} to {most}, and is {shown(value)}: {_REMEDY}"
            )
    heads = entries.get("architectures") or []
    if not isinstance(heads, list) or not all(isinstance(head, str) for head in heads):
        raise DamagedCheckpoint(f"architectures in {where} must be a list of names, and is {shown(heads)}: {_REMEDY}")
    problem = entries.get("problem_type")
    if not isinstance(problem, str | None):
        raise DamagedCheckpoint(f"problem_type in {where} must be a name or null, and is {shown(problem)}: {_REMEDY}")


def check_pooling(where: str, entries: Mapping[str, Any]) -> None:
    """Checks what a config says of how a model without a head makes a document's vector.

    Raises:
        DamagedCheckpoint: `pooling` is none that is known, or `normalised` is not true or false.
    """
    if (pooling := entries.get("pooling")) not in POOLINGS:
        raise DamagedCheckpoint(
            f"pooling in {where} must be {' or '.join(map(repr, POOLINGS))}, and is {shown(pooling)}: {_REMEDY}"
        )
    if not isinstance(normalised := entries.get("normalised"), bool):
        raise DamagedCheckpoint(f"normalised in {where} must be true or false, and is {shown(normalised)}: {_REMEDY}")


def check_not_fetched(where: str, entries: Mapping[str, Any]) -> None:
    """Checks that a config names no code: no kernel of the hub, and no Python file.

    Raises:
        UnsupportedModel: It does.
    """
    for name in RUNNING:
        if entries.get(name) not in ATTENTIONS:
            raise UnsupportedModel(
                f"{name} in {where} must be unset, because a reduced model computes its own attention, and is "
                f"{shown(entries[name])}: remove it"
            )
    for name in ("auto_map", "transformers_weights", "configuration_files"):
        if entries.get(name):
            raise UnsupportedModel(
                f"{name} in {where} must be unset, because trbert runs no code and reads no file that a config names: "
                "remove it"
            )
