"""Reads the config.json of a plain model, without what somebody left in it that has no meaning for an encoder."""

from typing import Any

from transformers import AutoConfig

from trbert.checkpoint.entries import FOREIGN, check_entries
from trbert.checkpoint.head import label_names
from trbert.checkpoint.place import Place
from trbert.errors import DamagedCheckpoint, UnsupportedModel
from trbert.packed.families import FAMILIES, Family, family_of

LEFT_OVER: dict[str, Any] = {
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "torchscript": False,
    "gradient_checkpointing": False,
    "chunk_size_feed_forward": 0,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "_attn_implementation": None,
    "attn_implementation": None,
    "reference_compile": None,
}
"""Entries that say how a model was once run, with the value that says nothing. Other values are cleared with a note.

They change no result. But some make a model that cannot be saved, or that cannot run on packed rows.
"""

SILENT = ("use_cache", "dtype", "torch_dtype", "transformers_weights", "transformers_version", "_name_or_path")
"""Entries that are cleared without a note, since nearly every config has them."""

IGNORED = (*FOREIGN, "configuration_files")
"""Entries that are cleared without a note, since they are unset here, or name files that are not read."""


def read_config(place: Place) -> tuple[Any, tuple[str, ...] | None, tuple[str, ...]]:
    """Returns a model's configuration, the names of its head's outputs or None, and notes on what was cleared.

    Args:
        place: where the model is.

    Raises:
        ModelNotFound: There is no such model on the hub.
        DamagedCheckpoint: config.json cannot be read, or its values do not fit together.
        UnsupportedModel: The model is not an encoder of a known family, or was changed in a way that transformers
            cannot load.
    """
    if not place.file("config.json"):
        raise place.failed(FileNotFoundError("it has no config.json"))
    raw = place.json("config.json")
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        _check_known(place, raw)
    # What is left over is cleared below, so that it need not be right.
    check_entries(
        f"config.json of model {place.name}", {name: value for name, value in raw.items() if name not in LEFT_OVER}
    )
    distance = raw.get("position_embedding_type", "absolute")
    if distance not in ("absolute", "rope", "rotary", None):
        raise UnsupportedModel(
            f"position_embedding_type in config.json of model {place.name} must be 'absolute', and is {distance!r}: "
            "transformers no longer has relative positions for this family, so pass another encoder"
        )
    notes = _clear(place, raw)
    names, problem = label_names(raw), raw.pop("problem_type", None)
    for name in ("id2label", "label2id"):
        raw.pop(name, None)
    outputs = raw.pop("num_labels", None)
    try:
        config = AutoConfig.for_model(raw.pop("model_type"), **raw)
    except Exception as error:  # transformers checks the values of a config with errors of many classes
        raise DamagedCheckpoint(
            f"config.json of model {place.name} is not whole ({' '.join(str(error).split())}): copy or save it again"
        ) from error
    family = family_of(config)
    _check_padding(place, config, family)
    if names is not None:
        name_outputs(config, names)
    elif outputs:
        config.num_labels = outputs
    config.problem_type = problem
    config._name_or_path = place.source
    return config, names, notes


def name_outputs(config: Any, names: tuple[str, ...]) -> None:
    """Gives the outputs of a head these names, in place."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _check_known(place: Place, raw: dict[str, Any]) -> None:
    """Raises the error for a config whose family is not known here."""
    kind = raw.get("model_type")
    code = " (its config.json names Python code of its own in auto_map, which trbert never runs)"
    custom = code if raw.get("auto_map") else ""
    try:
        family_of(AutoConfig.for_model(str(kind)))
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{error}{custom}") from error
    except Exception as error:  # so that a model type that transformers does not know raises what says it
        reason = f"model_type is {kind!r}" if "model_type" in raw else "it has no model_type"
        raise UnsupportedModel(
            f"model {place.name} must be an encoder of one of the families {', '.join(sorted(FAMILIES))}, "
            f"and transformers does not know its config ({reason}){custom}: pass another encoder, or "
            "describe this one with --family, in code that also makes its classes known by AutoConfig.register"
        ) from error


def _clear(place: Place, raw: dict[str, Any]) -> tuple[str, ...]:
    """Removes what is left over from a config, in place, and returns notes on it."""
    notes = []
    for name in SILENT:
        raw.pop(name, None)
    cleared = [
        f"{name} = {value!r}"
        for name, harmless in LEFT_OVER.items()
        if (value := raw.pop(name, harmless)) != harmless and value is not None
    ]
    for name in [each for each in raw if each in IGNORED or each.startswith("_")]:
        del raw[name]
    if cleared:
        notes.append(f"model {place.name}: cleared in its config, because no result needs it: {', '.join(cleared)}")
    if raw.pop("auto_map", None):
        notes.append(
            f"model {place.name}: its config.json names Python code of its own (auto_map), which is not run; "
            f"the {raw['model_type']} model of transformers is used"
        )
    return tuple(notes)


def _check_padding(place: Place, config: Any, family: Family) -> None:
    if family.first_position_after_padding and not isinstance(config.pad_token_id, int):
        raise DamagedCheckpoint(
            f"pad_token_id in config.json of model {place.name} must be a number, because a {config.model_type} model "
            f"counts its positions from it, and is {config.pad_token_id!r}: write the id of the padding token there "
            "(it is 1 unless somebody changed it)"
        )
