"""How a model without a head makes a text's vector of its tokens' states, as sentence-transformers writes it down."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from trbert.checkpoint.entries import check_pooling
from trbert.checkpoint.json_text import read_json
from trbert.checkpoint.place import Place
from trbert.errors import UnsupportedModel
from trbert.wording import cut, the_first

_MODES = {
    **dict.fromkeys(("pooling_mode_mean_tokens", "mean"), "mean"),
    **dict.fromkeys(("pooling_mode_cls_token", "cls"), "first"),
}
"""The poolings that are known here, by the names that sentence-transformers gives them."""


def set_pooling(place: Place, config: Any) -> tuple[str, ...]:
    """Sets `pooling` and `normalised` of a model's config, in place, and returns notes on where they were found.

    They are those of `modules.json` and of the files that it names, else those of the config itself. A model that says
    nothing gets the mean of its tokens' states, not normalised.

    Args:
        place: where the model is: the folder around it where sentence-transformers has put it into a folder of its own.
        config: the Hugging Face configuration of the encoder.

    Raises:
        UnsupportedModel: The vector is made in another way than by the mean or the first token.
        DamagedCheckpoint: A file is missing, or does not say what it must.
    """
    path = place.file("modules.json")
    if path is not None:
        try:
            modules = [(str(each["type"]).rpartition(".")[2], str(each["path"])) for each in read_json(path)]
        except (OSError, ValueError) as error:
            raise place.damaged(error) from error
        except (LookupError, TypeError) as error:
            raise place.damaged(
                ValueError("modules.json must list modules, each with its type and its path")
            ) from error
        _check_modules(place, [kind for kind, _ in modules])
        config.pooling = _pooling(place, modules[1][1])
        config.normalised = len(modules) > 2
        length = ", scaled to length 1" if config.normalised else ""
        how = {"mean": "the mean of its tokens' last states", "first": "its first token's last state"}[config.pooling]
        return f"model {place.name}: a text's vector is {how}{length}, as modules.json says", *_unread(place)
    if hasattr(config, "pooling") or hasattr(config, "normalised"):
        check_pooling(f"config.json of model {place.name}", vars(config))
        return ()
    config.pooling, config.normalised = "mean", False
    notes = (
        f"model {place.name} does not say how it makes a text's vector (it has no modules.json of "
        "sentence-transformers): the mean of the tokens' last states is taken, not scaled to length 1",
    )
    heads = [each for each in config.architectures or () if "For" in each]
    if not heads:
        return notes
    return *notes, (
        f"model {place.name} was trained for something else than vectors of texts ({cut(heads[0])}), so that similar "
        "vectors need not mean similar texts: pass a model of sentence-transformers if there is one"
    )


def _check_modules(place: Place, kinds: Sequence[str]) -> None:
    """Checks that the modules are an encoder, a pooling, and perhaps a normalisation."""
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModel(
            f"modules.json of model {place.name} must list Transformer, Pooling and perhaps Normalize, because a "
            f"reduced model runs nothing else, and lists {the_first(6, map(cut, kinds)) or 'nothing'}: pass another "
            "model"
        )


def _pooling(place: Place, folder: str) -> str:
    """Returns which pooling a module's config.json names."""
    where = PurePosixPath(folder)
    if where.is_absolute() or ".." in where.parts:
        raise place.damaged(ValueError(f"modules.json must name folders within the model, and names {cut(folder)}"))
    entries = place.json(f"{folder}/config.json")
    modes = [name for name, value in entries.items() if name.startswith("pooling_mode_") and value is True]
    modes += [str(entries["pooling_mode"])] if "pooling_mode" in entries else []
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UnsupportedModel(
            f"{folder}/config.json of model {place.name} must say pooling_mode_mean_tokens or pooling_mode_cls_token, "
            f"because a reduced model pools in no other way, and says {the_first(6, map(cut, modes)) or 'nothing'}: "
            "pass another model"
        )
    return _MODES[modes[0]]


def _unread(place: Place) -> tuple[str, ...]:
    """Returns notes on what sentence-transformers would do with the texts before the tokenizer reads them."""
    notes = []
    if place.json("sentence_bert_config.json").get("do_lower_case"):
        notes.append(
            f"model {place.name}: sentence-transformers writes texts in lower case before it reads them "
            "(do_lower_case), and trbert does not: write them so in the data"
        )
    if prompt := place.json("config_sentence_transformers.json").get("default_prompt_name"):
        notes.append(
            f"model {place.name}: sentence-transformers puts the prompt {cut(str(prompt))} before each text, and "
            "trbert does not: put it there in the data"
        )
    return tuple(notes)
