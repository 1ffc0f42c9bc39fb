"""Checks the config.json of a reduced model, which may have been written by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trbert.checkpoint.entries import check_entries, check_not_fetched, check_pooling
from trbert.checkpoint.json_text import not_json, read_object
from trbert.checkpoint.place import check_file
from trbert.errors import DamagedCheckpoint, InputError
from trbert.modeling.config import TrbertConfig
from trbert.packed.families import FAMILIES
from trbert.selection.selectors import selector_class
from trbert.tasks import Task, task_of
from trbert.wording import cut, shown

MOST_POINTS = 1000
"""The most reduction points of a model. There are never more than it has layers."""

_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "encoder": (
        f"an object whose model_type is one of {', '.join(sorted(FAMILIES))}",
        lambda value: isinstance(value, dict) and value.get("model_type") in tuple(FAMILIES),
    ),
    "points": (
        "a list of layer indices",
        lambda value: isinstance(value, list) and all(type(each) is int for each in value),
    ),
    "policy_width": ("a whole number above 0", lambda value: type(value) is int and value > 0),
    "policy_features": ("a list of names", lambda value: isinstance(value, list)),
    "dial": ("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value)),
    "max_tokens": ("a whole number above 0", lambda value: type(value) is int and value > 0),
    "fusion": ("true or false", lambda value: isinstance(value, bool)),
    "exits": ("true or false", lambda value: isinstance(value, bool)),
    "separator": ("a token id or null", lambda value: value is None or (type(value) is int and value >= 0)),
}
"""What `config.json` must hold: in words, and as a check. It may have been written by hand."""


def check_config(folder: Path) -> tuple[Task, dict[str, Any]]:
    """Checks that a folder holds the config of a reduced model that this version can read.

    Returns the task of the model, and the content of the config.
    """
    check_file(folder / "config.json")
    try:
        config = read_object(folder / "config.json")
    except ValueError as error:
        raise not_json(folder, error) from error
    if (kind := config.get("model_type")) != TrbertConfig.model_type:
        raise InputError(
            f"model_type in {folder}/config.json must be 'trbert', and is {kind!r}: "
            "load a plain model with transformers, or reduce it with tune/search.py --model"
        )
    if "task" not in config:
        raise InputError(
            f"{folder}/config.json must name the model's task, and does not, because an older version of trbert saved "
            "it: search again with this version, or load the model with the older one"
        )
    kind = config["encoder"].get("model_type") if isinstance(config.get("encoder"), dict) else None
    if isinstance(kind, str) and kind not in FAMILIES:
        raise DamagedCheckpoint(
            f"model_type of the encoder in {folder}/config.json must be one of {', '.join(sorted(FAMILIES))}, and is "
            f"{cut(kind)}: if it was made with a family of your own, call trbert.register_family(FAMILY) first, or "
            "pass --family to the command; if not, correct it, or copy or save it again"
        )
    for name, (words, holds) in _RULES.items():
        if not holds(config.get(name)):
            has = f"is {shown(config[name])}" if name in config else "is missing"
            raise DamagedCheckpoint(
                f"{name} in {folder}/config.json must be {words}, and {has}: correct it, or copy or save it again"
            )
    if len(config["points"]) > MOST_POINTS:
        raise DamagedCheckpoint(
            f"points in {folder}/config.json must be at most {MOST_POINTS}, and are {len(config['points'])}: correct "
            "it, or copy or save it again"
        )
    for where, entries in {"config.json": config, "`encoder` in config.json": config["encoder"]}.items():
        check_entries(f"{where} of model {folder}", entries)
        check_not_fetched(f"{where} of model {folder}", entries)
    # What somebody wrote there need not be text.
    selector_class(str(config.get("selector")))
    task = task_of(str(config["task"]))
    if not task.has_head:
        check_pooling(f"`encoder` in config.json of model {folder}", config["encoder"])
    return task, config
