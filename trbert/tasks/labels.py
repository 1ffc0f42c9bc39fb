"""Finds the classes of a data set: the class of each label, in all splits alike."""

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from trbert.errors import InputError
from trbert.tasks.rows import Columns, Table
from trbert.tasks.texts import is_missing
from trbert.wording import briefly_listed, cut, did_you_mean, listed, shown

KINDS = {bool: "booleans", int: "integers", str: "strings"}
"""The types that a label can have, with their names in error messages."""
MANY = 20
"""The number of rows above which labels are asked whether they look like classes."""
WHOLE = re.compile(r"-?\d+(\.0+)?", re.ASCII)
"""A whole number as a string. pandas writes 1.0 for 1 in a column that has an empty cell."""
NO_LABEL = ("-1", -1)
"""What public data sets write for a label that is missing or kept secret."""
DASH = ("-",)
"""What data sets of inference write for a label on which nobody agreed."""
MAX_NAME = 1000
"""The most characters of the name of a class. What is longer is a text, and would fill every message and model card."""


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: the name of each class, in the order of the classes.
        targets: for each split, the class of each label; None where the row is to be left out.
        notes: sentences for the user that say what was left out, and what looks odd.
    """

    names: tuple[str, ...]
    targets: Mapping[str, list[int | None]]
    notes: tuple[str, ...]


def with_labels(tables: Mapping[str, Table], columns: Columns) -> tuple[dict[str, Table], list[str]]:
    """Returns train and the tables that have labels, and notes on the tables that have none.

    On the hub, a split whose labels are kept secret has -1 for each of them. Competitions leave them empty.
    """
    found: dict[str, Table] = {}
    notes = []
    for split, table in tables.items():
        whys = [_without_labels(table, tables["train"], column) for column in columns.targets]
        if split == "train" or not all(whys):
            found[split] = table
        else:
            notes.append(f"{split} is not used: {whys[0]}")
    return found, notes


def _without_labels(table: Table, train: Table, column: str) -> str:
    """Returns why no row of a table has a label, such as "its 3 labels are all empty"; "" where one may have."""
    labels = table.values[column]
    if all(map(is_missing, labels)):
        return f"its {len(labels)} labels are all empty"
    secret = all(label in NO_LABEL for label in labels) and not any(label in NO_LABEL for label in train.values[column])
    return f"its {len(labels)} labels are all -1, which stands for secret ones" if secret else ""


def label_of(table: Table, column: str, row: int) -> Any:
    """Returns the label of a row, which is a boolean, an integer or a string.

    Raises:
        InputError: It is missing or is no class.
    """
    label = table.values[column][row]
    if is_missing(label):
        raise InputError(
            f"row {row} of {table.origin} must have a label in column {column!r}, and has none: "
            "fill it in or remove the row"
        )
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if type(label) not in KINDS:
        raise InputError(
            f"row {row} of {table.origin} must have a string, an integer or a boolean in column {column!r}, and "
            f"has {shown(label)}: set --label-column to the column of the classes{table.unread}, or pass the --task "
            "that has such labels"
        )
    if isinstance(label, str) and len(label) > MAX_NAME:
        raise InputError(
            f"row {row} of {table.origin} must have a label of at most {MAX_NAME:,} characters in column "
            f"{column!r}, and has one of {len(label):,}, {cut(label)}: set --label-column to the column of the "
            f"classes{table.unread}"
        )
    return label


def check_one_type(table: Table, column: str, rows: Sequence[int], labels: Sequence[Any]) -> None:
    """Checks that the labels of these rows are of one type.

    Raises:
        InputError: They are of several types.
    """
    first: dict[type, int] = {}
    for row, label in zip(rows, labels, strict=True):
        first.setdefault(type(label), row)
    if len(first) > 1:
        found = " and ".join(
            f"{KINDS[kind]} (row {row}: {cut(table.values[column][row])})" for kind, row in first.items()
        )
        raise InputError(
            f"labels in column {column!r} of {table.origin} must be of one type, and are {found}: write all "
            "of them in the same way"
        )


def labels_with_rows(rows: Sequence[int], lists: Sequence[Sequence[Any]]) -> tuple[list[int], list[Any]]:
    """Returns the row of each label, and the labels, of rows that have lists of labels."""
    return (
        [row for row, own in zip(rows, lists, strict=True) for _ in own],
        [label for own in lists for label in own],
    )


def find_classes(
    tables: Mapping[str, Table],
    column: str,
    labels: Mapping[str, list[Any]],
    renames: Mapping[str, str] | None,
    owners: Mapping[str, Sequence[int]] | None = None,
) -> Classes:
    """Returns the classes of all splits.

    If one split has strings and another has integers or booleans, all labels become strings. If the source names the
    classes, they are in the order of the names. A label is then a name, or a place in the list of names.

    Args:
        tables: the table of each split, for messages and for the names of the classes.
        column: the column of the labels.
        labels: for each split, the labels of the rows that are used.
        renames: new names for labels. Labels of the same new name become one class. None renames nothing.
        owners: for each split, the row of each label. All labels of a row are left out where one is missing. None means
            that each row has one label.

    Raises:
        InputError: A label is not one of the names, or has no training rows. There is only one class. A new name is
            for a label that no row has. Or the labels do not look like classes.
    """
    train = tables["train"]
    found, names = _alike(tables, labels, renames)
    owners = owners or {split: range(len(own)) for split, own in found.items()}
    known = _known(found, names, owners)
    notes = _missing_notes(found, known, owners, train, column)
    present = Counter(label for label, is_known in zip(found["train"], known["train"], strict=True) if is_known)
    if names is None:
        _check_class_like(present, train, column)
        values = sorted(present, key=_sort_key(present))
    else:
        values = [name for name in names if name in present]
        if without := [name for name in names if name not in present]:
            notes.append(
                f"classes left out that no training row has: {briefly_listed(without)} (named in {train.names_origin})"
            )
    for split, own in found.items():
        _check_trained(own, known[split], tables[split], train, values)
    if len(values) < 2:
        raise InputError(
            f"{train.origin} must have rows of at least two classes, and all have {cut(values[0])} in column "
            f"{column!r}: set --label-column to the column of the classes{train.unread}"
        )
    if long := next((name for name in map(str, values) if len(name) > MAX_NAME), None):
        raise InputError(
            f"the name of a class must have at most {MAX_NAME:,} characters, and {cut(long)} has {len(long):,}: "
            f"give it a shorter name in {train.names_origin or '--label-map'}"
        )
    index = {value: position for position, value in enumerate(values)}
    targets = {
        split: [index[label] if is_known else None for label, is_known in zip(own, known[split], strict=True)]
        for split, own in found.items()
    }
    return Classes(tuple(map(str, values)), targets, (*notes, *_near_equal(present)))


def _alike(
    tables: Mapping[str, Table], labels: Mapping[str, list[Any]], renames: Mapping[str, str] | None
) -> tuple[dict[str, list[Any]], list[str] | None]:
    """Returns the labels of each split in one type and with their new names; and the names of the classes, or None."""
    found, names = _by_name(tables, labels), tables["train"].target_names
    if names is None and renames is None and len({type(label) for own in found.values() for label in own}) == 1:
        return found, None
    found = {split: list(map(str, own)) for split, own in found.items()}
    if renames is None:
        return found, None if names is None else list(names)
    there = {label for own in found.values() for label in own}
    check_renames(renames, sorted(there.union(names or ())))
    found = {split: [renames.get(label, label) for label in own] for split, own in found.items()}
    if names is None:
        return found, None
    missing = [renames[label] for label in map(str, NO_LABEL) if label in renames]  # it may have got a name
    return found, list(dict.fromkeys([*(renames.get(name, name) for name in names), *missing]))


def _known(
    labels: Mapping[str, list[Any]], names: Sequence[str] | None, owners: Mapping[str, Sequence[int]]
) -> dict[str, list[bool]]:
    """Returns for each label whether its row has labels. -1 is none, unless it is one of the names, or train has it."""
    is_class = "-1" in names if names is not None else any(label in NO_LABEL for label in labels["train"])
    missing = {*(() if is_class else NO_LABEL), *(DASH if _dash_is_missing(labels["train"], names) else ())}
    known = {}
    for split, own in labels.items():
        without = {row for row, label in zip(owners[split], own, strict=True) if label in missing}
        known[split] = [row not in without for row in owners[split]]
    return known


def _dash_is_missing(train: Sequence[Any], names: Sequence[str] | None) -> bool:
    """Returns whether "-" is no class: where two classes or more have names of letters, and no list has "-" as a name.

    The data sets of inference (SNLI, MNLI) write it where those who labelled a row did not agree. Of "+" and "-", both
    are classes.
    """
    others = set(train).difference(DASH)
    return (
        names is None and len(others) > 1 and all(isinstance(one, str) and re.search(r"[^\W\d]", one) for one in others)
    )


def _missing_notes(
    labels: Mapping[str, list[Any]],
    known: Mapping[str, list[bool]],
    owners: Mapping[str, Sequence[int]],
    train: Table,
    column: str,
) -> list[str]:
    """Returns notes on the rows without a label, and refuses a train split that has no other rows."""
    notes: list[str] = []
    for split, own in known.items():
        missing = own.count(False)
        if missing == len(own) and split == "train":
            raise InputError(
                f"{train.origin} must have labels in column {column!r}, and its {missing} labels are all -1, which "
                f"stands for missing ones: set --label-column to the column of the classes{train.unread}"
            )
        found = {str(label) for label, is_known in zip(labels[split], own, strict=True) if not is_known}
        marks = " or ".join(sorted(found.intersection(map(str, (*NO_LABEL, *DASH)))))
        if missing == len(own) > 0:
            notes.append(f"{split} is not used: its {missing} labels are all {marks}, which stands for secret ones")
        elif missing:
            rows = len({row for row, is_known in zip(owners[split], own, strict=True) if not is_known})
            notes.append(f"{split}: {rows} rows left out that are labelled {marks}, which stands for a missing label")
    return notes


def _by_name(tables: Mapping[str, Table], labels: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Returns the labels with the names of the classes, wherever the source has names.

    An integer is a place in the names of its own split, or in those of train. Strings are names. But where they are all
    whole numbers, and not all are names, they are places, too.
    """
    train = tables["train"]
    if train.target_names is None and not any(isinstance(label, str) for label in labels["train"]):
        return dict(labels)  # names that only another split has do not change what an integer in train means
    named = {split: table if table.target_names is not None else train for split, table in tables.items()}
    named = {split: table for split, table in named.items() if table.target_names is not None}
    strings = [(label, table) for split, table in named.items() for label in labels[split] if isinstance(label, str)]
    as_places = all(WHOLE.fullmatch(label) for label, _ in strings) and not all(
        label in NO_LABEL or label in (table.target_names or ()) for label, table in strings
    )
    found = dict(labels)
    for split, table in named.items():
        names = {label: _name(label, table, tables[split].origin, as_places) for label in dict.fromkeys(labels[split])}
        found[split] = [names[label] for label in labels[split]]
    return found


def _name(label: Any, named: Table, origin: str, as_place: bool) -> str:
    """Returns the name of the class of a label; "-1" where the label is missing.

    Args:
        label: the label.
        named: the table that names the classes.
        origin: the name of the label's own table.
        as_place: whether a string is a place in the list of names.
    """
    names = named.target_names or ()
    if isinstance(label, str) and not as_place:
        if label in names or label in NO_LABEL:
            return label
        rule = f"be one of the names in {named.names_origin}, {briefly_listed(names)}{did_you_mean(label, names)}"
    else:
        place = int(Decimal(label))
        if place == -1:
            return "-1"
        if 0 <= place < len(names):
            return names[place]
        rule = f"be the index of one of the {len(names)} names in {named.names_origin}"
    raise InputError(f"label {cut(label)} of {origin} must {rule}: correct the row or the names")


def check_renames(renames: Mapping[str, str], labels: Sequence[str]) -> None:
    """Checks that every label that gets a new name is one of those that rows have.

    Raises:
        InputError: One is not.
    """
    for old in renames:
        if old not in labels:
            raise InputError(
                f"--label-map must name labels that rows have, and {cut(old)} is none of them"
                f"{did_you_mean(old, labels)}: the labels are {briefly_listed(labels)}"
            )


def _check_class_like(counts: Mapping[Any, int], table: Table, column: str) -> None:
    """Checks that the labels of train look like classes, and not like ids or texts."""
    rows, alone = sum(counts.values()), [label for label, count in counts.items() if count == 1]
    if rows > MANY and len(alone) > rows / 2:
        raise InputError(
            f"labels in column {column!r} of {table.origin} must be classes, and {len(alone)} of {rows} rows have one "
            f"that no other row has, such as {cut(alone[0])}, as ids, texts and numbers to regress do: set "
            f"--label-column to the column of the classes{table.unread}"
            f"{', or pass --task regression' if _numbers(counts) else ''}"
        )


def _check_trained(
    labels: Sequence[Any], known: Sequence[bool], table: Table, train: Table, values: Sequence[Any]
) -> None:
    """Checks that every label of a split is a class that train has."""
    trained = set(values)
    counts = Counter(label for label, is_known in zip(labels, known, strict=True) if is_known and label not in trained)
    if not counts:
        return
    label, count = next(iter(counts.items()))
    names = list(map(str, values))
    same = _same(str(label), names)
    hint = f" (did you mean {same!r}?)" if same else did_you_mean(str(label), names)
    # A name that is only spelled alike may be another class, so that it is no rename to paste.
    renamed = _label_map({str(one): _same(str(one), names) or "CLASS" for one in counts})
    raise InputError(
        f"label {cut(label)} of {table.origin} must have training rows, and has none in {train.origin}{hint}: add "
        f"some, remove its {count} rows, or give them another class ({renamed})"
    )


def _same(label: str, names: Sequence[str]) -> str | None:
    """Returns the name that equals a label but for case, blanks and Unicode form, or that is the same number."""
    numbers = _numbers([label, *names])
    if numbers is not None:
        return next((name for name in names if numbers[name] == numbers[label]), None)
    return next((name for name in names if _folded(name) == _folded(label)), None)


def _near_equal(counts: Mapping[Any, int]) -> list[str]:
    """Returns a note on class names that differ by case, blanks or Unicode form alone."""
    groups: dict[str, list[str]] = {}
    for label in counts:
        if isinstance(label, str):
            groups.setdefault(_folded(label), []).append(label)
    near = [sorted(group) for group in groups.values() if len(group) > 1]
    if not near:
        return []
    renames: dict[str, str] = {}
    for group in near:
        commonest = max(group, key=lambda name: (counts[name], name == name.strip()))
        renames |= {name: commonest.strip() for name in group if name != commonest.strip()}
    groups_shown = "; ".join(listed(group) for group in near[:5]) + (f" and {len(near) - 5} more" if near[5:] else "")
    return [
        f"class names that differ by case, blanks or Unicode form alone are kept apart: {groups_shown}. "
        f"To make them one, pass {_label_map(renames)}"
    ]


def _folded(name: str) -> str:
    """Returns a name without case, blanks, characters that cannot be seen, and differences of Unicode form."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if unicodedata.category(character)[0] not in "ZC")


def _label_map(renames: Mapping[str, str]) -> str:
    """Returns the option that renames labels, as a user can paste it; its form in a file where it cannot be pasted."""
    words = ",".join(f"{old}={new}" for old, new in renames.items())
    if (
        len(words) > 200
        or not words.isprintable()
        or any(mark in "".join(pair) for pair in renames.items() for mark in ",=")
    ):
        return '--label-map with a JSON file such as {"old": "new"}'
    return f"--label-map {shlex.quote(words)}"


def _sort_key(labels: Iterable[Any]) -> Callable[[Any], Any] | None:
    """Returns the sort key for labels. Labels that are all numbers, or strings of them, are sorted by value."""
    numbers = _numbers(labels)
    return None if numbers is None else lambda label: (numbers[label], str(label))


def _numbers(labels: Iterable[Any]) -> dict[Any, Decimal] | None:
    """Returns each label as a number; None where one is no number."""
    try:
        numbers = {label: Decimal(label) for label in labels}
    except InvalidOperation:
        return None
    return numbers if all(number.is_finite() for number in numbers.values()) else None
