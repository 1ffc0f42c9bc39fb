"""Finds rows of equal texts, which make results look better than they are."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from trbert.errors import InputError
from trbert.tasks.rows import Rows
from trbert.tasks.texts import text_of
from trbert.wording import cut

Groups = Int64[np.ndarray, " rows"]

_KEEP_NONE = "pass --drop-duplicates to leave them out"


def text_groups(rows: Rows) -> Groups:
    """Returns for each row the index of the first row that a hold-out keeps on the same side.

    Those are rows with the same inputs, or with the same value in the column that `together` of the rows names. Blanks
    at the ends of a text make no difference. Pairs are the same where both of their texts are.

    Example:
        >>> labels = np.array([0, 1, 0])
        >>> text_groups(Rows((("a", "b", " a"),), labels, labels))
        array([0, 1, 0])
    """
    keys = _keys(rows)
    return _first(keys if rows.together is None else [(key[rows.together],) for key in keys])


def duplicate_notes(splits: Mapping[str, Rows]) -> list[str]:
    """Returns a sentence for each kind of duplicates that the splits have, with their number."""
    notes: list[str] = []
    in_train = set(_keys(splits["train"]))
    for split, rows in splits.items():
        if split == "train":
            if repeats := len(rows) - len(in_train):
                notes.append(f"train: {repeats} of {len(rows)} rows repeat the text of another row: {_KEEP_NONE}")
        elif known := sum(key in in_train for key in _keys(rows)):
            notes.append(
                f"{split}: {known} of {len(rows)} rows have a text that also stands in train, so that any accuracy on "
                f"them says little: {_KEEP_NONE}"
            )
    return notes + _contradictions(splits, "no model can be right on all these rows")


def without_duplicates(splits: Mapping[str, Rows]) -> tuple[dict[str, Rows], list[str]]:
    """Returns the splits with the first row of each text, and without those of train in the others; and notes on it.

    Raises:
        InputError: No row of a split is left, or no training row of a class.
    """
    notes: list[str] = []
    found: dict[str, Rows] = {}
    in_train = set(_keys(splits["train"]))
    for split, rows in splits.items():
        first = _first(_keys(rows)) == np.arange(len(rows))
        outside = np.array([split == "train" or key not in in_train for key in _keys(rows)], dtype=bool)
        found[split] = rows.take(np.flatnonzero(first & outside))
        if repeats := int((outside & ~first).sum()):
            notes.append(f"{split}: {repeats} of {len(rows)} rows left out that repeat the text of a row before")
        if known := int((~outside).sum()):
            notes.append(f"{split}: {known} of {len(rows)} rows left out whose text also stands in train")
        if len(found[split]) == 0:
            raise InputError(
                f"{split} must have a text that is not in train, and all its {len(rows)} rows have one that is: "
                f"pass other rows as {split}, or leave out --drop-duplicates"
            )
    train = splits["train"]
    lost = np.flatnonzero(~np.isin(train.strata, found["train"].strata))
    if len(lost) and np.array_equal(train.strata, train.targets):  # strata of another kind may be lost
        text = text_of(train.inputs[0][lost[0]])
        raise InputError(
            f"train must keep a row of each class, and --drop-duplicates leaves out the {len(lost)} rows of one, whose "
            f"texts stand before with another label, such as {cut(text)}: correct these labels"
        )
    return found, notes + _contradictions(splits, "the first one counts")


def without_known(rows: Rows, splits: Mapping[str, Rows]) -> tuple[Rows, list[str]]:
    """Returns unlabelled rows without those whose text stands in a split or in a row before; and notes on it.

    Args:
        rows: the unlabelled rows.
        splits: the rows of train, validation and test.

    Raises:
        InputError: No row is left.
    """
    keys = _keys(rows)
    left, notes = _first(keys) == np.arange(len(rows)), []
    if repeats := int((~left).sum()):
        notes.append(f"unlabelled: {repeats:,} of {len(rows):,} rows left out that repeat the text of a row before")
    for split, own in splits.items():
        there = set(_keys(own))
        known = left & np.array([key in there for key in keys], dtype=bool)
        if many := int(known.sum()):
            notes.append(f"unlabelled: {many:,} of {len(rows):,} rows left out whose text also stands in {split}")
        left &= ~known
    if not left.any():
        raise InputError(
            f"--unlabelled must have a text that stands in none of train, validation and test, and all its "
            f"{len(rows):,} texts stand there: pass other texts, or leave it out"
        )
    return rows.take(np.flatnonzero(left)), notes


def _first(keys: Sequence[tuple[str, ...]]) -> Groups:
    """Returns for each row the index of the first row with the same key."""
    first: dict[tuple[str, ...], int] = {}
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], dtype=np.int64)


def _keys(rows: Rows) -> list[tuple[str, ...]]:
    return [tuple(text_of(value).strip() for value in row) for row in zip(*rows.inputs, strict=True)]


def _contradictions(splits: Mapping[str, Rows], so: str) -> list[str]:
    """Returns a note on the texts that stand with different targets, within a split or in two of them.

    Args:
        splits: the rows of each split.
        so: what follows from it, to end the note.
    """
    targets: dict[tuple[str, ...], set[bytes]] = {}
    for rows in splits.values():
        for key, target in zip(_keys(rows), rows.targets, strict=True):
            targets.setdefault(key, set()).add(target.tobytes())
    several = [key for key, found in targets.items() if len(found) > 1]
    if not several:
        return []
    texts = "1 text stands" if len(several) == 1 else f"{len(several)} texts stand"
    return [f"{texts} with more than one label, such as {cut(several[0][0])}: {so}"]
