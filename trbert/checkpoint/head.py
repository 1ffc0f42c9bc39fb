"""The outputs of a fine-tuned head: their names, and which of them stands for which label of the data."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trbert.errors import InputError
from trbert.wording import cut, the_first

SHOWN = 8
"""The most labels that a message lists."""


def label_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the names of a head's outputs in the head's order, as a config.json says them; None if it says none.

    The numbers in `id2label` may start at 1 or have gaps. Their order is then the order of the outputs.

    Args:
        config: the content of config.json.
    """
    numbered = config.get("id2label")
    if isinstance(numbered, Sequence) and not isinstance(numbered, str):
        numbered = dict(enumerate(numbered))
    inverse = config.get("label2id")
    for candidate in (numbered, _inverted(numbered), _inverted(inverse)):
        names = _in_order(candidate)
        if names is not None:
            return names
    return None


def unnamed(names: Sequence[str]) -> bool:
    """Returns whether these names are those that transformers gives to outputs without a name, such as LABEL_0.

    Example:
        >>> unnamed(["LABEL_0", "LABEL_1"])
        True
    """
    return list(names) == [f"LABEL_{index}" for index in range(len(names))]


def match_labels(source: str, names: Sequence[str], labels: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns for each label of the data the index of the output that stands for it, and notes on how it was found.

    A label stands for the output of the same name. Case and blanks at the ends may differ where no other name is like
    it. Outputs without a name are taken in the order of the labels.

    Args:
        source: the model, as the user calls it.
        names: the names of the head's outputs, in their order.
        labels: the labels of the data.

    Raises:
        InputError: A label has no output, or it could be one of several.
    """
    if unnamed(names) and len(names) == len(labels) and list(names) != list(labels):
        return tuple(range(len(names))), (
            f"labels: model {source} has no names for its labels, so they are taken in the order of the data's: "
            f"{the_first(3, [f'{name} is {label!r}' for name, label in zip(names, labels, strict=True)])}; if that is "
            "wrong, rename the labels with --label-map, or pass --new-head",
        )
    order = [_place(label, names, labels) for label in labels]
    if None in order or len(set(order)) < len(order):
        raise InputError(_refusal(source, names, labels, order))
    places = tuple(place for place in order if place is not None)
    return places, _notes(source, names, labels, places)


def _place(label: str, names: Sequence[str], labels: Sequence[str]) -> int | None:
    """Returns the index of the one name that a label can mean, or None."""
    same = [index for index, name in enumerate(names) if name == label]
    if len(same) == 1:
        return same[0]
    alike = [index for index, name in enumerate(names) if _folded(name) == _folded(label)]
    rivals = [other for other in labels if _folded(other) == _folded(label)]
    return alike[0] if len(alike) == 1 and len(rivals) == 1 else None


def _notes(source: str, names: Sequence[str], labels: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    notes = []
    respelt = [
        f"{label!r} is the model's {names[place]!r}"
        for label, place in zip(labels, places, strict=True)
        if names[place] != label
    ]
    if respelt:
        notes.append(f"labels: matched by name with those of model {source}: {the_first(3, respelt)}")
    elif list(places) != sorted(places):
        notes.append(f"labels: matched by name with those of model {source}, which has them in another order")
    others = [name for index, name in enumerate(names) if index not in places]
    if others:
        notes.append(
            f"labels: model {source} also knows {the_first(SHOWN, map(cut, others))}, of which the data has no row: "
            "it may still predict them; pass --new-head for a head with the labels of the data alone"
        )
    return tuple(notes)


def _refusal(source: str, names: Sequence[str], labels: Sequence[str], order: Sequence[int | None]) -> str:
    lacking = [
        label for label, place in zip(labels, order, strict=True) if place is None or list(order).count(place) > 1
    ]
    own = f"{len(names)} labels without names" if unnamed(names) else f"the labels {_list(names)}"
    told = f"model {source} was fine-tuned for {own}, and the data has {_list(labels)}"
    taken = [place for place in order if list(order).count(place) == 1]
    free = [name for index, name in enumerate(names) if index not in taken and names.count(name) == 1]
    if len(free) < len(lacking):
        return f"{told}: pass --new-head to take its encoder with a new head"
    # With several labels on either side nobody but the user knows which is which.
    certain = len(lacking) == len(free) == 1
    pairs = ",".join(f"{label}={free[0] if certain else 'NAME'}" for label in lacking)
    names_there = "" if certain else f", each NAME one of {_list(free)}"
    return (
        f"{told}, of which {the_first(3, map(cut, lacking))} {'is' if len(lacking) == 1 else 'are'} not clearly "
        "one of the model's: pass --new-head to take its encoder with a new head, or, where only the spelling differs, "
        f"rename labels of the data to those of the model, such as --label-map {shlex.quote(pairs)}{names_there}"
    )


def _in_order(numbered: Any) -> tuple[str, ...] | None:
    """Returns the values of a mapping from numbers in the order of the numbers; None if it is no such mapping."""
    if not isinstance(numbered, Mapping) or not numbered:
        return None
    try:
        ranked = sorted((int(key), str(value)) for key, value in numbered.items())
    except (TypeError, ValueError):
        return None
    return tuple(value for _, value in ranked)


def _inverted(named: Any) -> dict[Any, Any] | None:
    """Returns a mapping from the values to the keys; None if several keys have the same value."""
    if not isinstance(named, Mapping):
        return None
    pairs = {str(value): key for key, value in named.items()}
    return pairs if len(pairs) == len(named) else None


def _folded(name: str) -> str:
    return name.strip().casefold()


def _list(names: Iterable[str]) -> str:
    return f"[{the_first(SHOWN, map(cut, names))}]"
