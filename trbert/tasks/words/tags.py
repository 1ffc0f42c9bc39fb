"""Reads the words of tables and their tags, and refuses what does not fit together."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from trbert.errors import InputError
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.examples import PADDING
from trbert.tasks.labels import check_one_type, check_renames, labels_with_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.texts import is_blank, is_missing, outside_train
from trbert.tasks.words.entities import follows_scheme, misfit
from trbert.wording import briefly_listed, cut, did_you_mean, shown

NO_TAG = PADDING
"""The target where there is no tag: padding, a special token, and a token that is not the first one of a word."""
MOST_TAGS = 1000
"""The most different tags. More are no tags but words, lemmas or ids."""

Named = list[tuple[int, list[str]]]
"""The names of the tags of each used row, with the index of the row in its table."""


def written_rows(table: Table, name: str) -> list[int]:
    """Returns the indices of the rows that have something in the column of the words, be it words or not.

    Raises:
        InputError: No row has.
    """
    kept = [row for row, words in enumerate(table.values[name]) if not (is_missing(words) or words == [])]
    if not kept:
        raise InputError(
            f"{table.origin} must have words in column {name!r}, and its {len(table)} rows have none: set "
            f"--text-column to the column of the words{table.unread}"
        )
    return kept


def check_words(table: Table, name: str, row: int) -> None:
    """Checks that a row has a list of words.

    Raises:
        InputError: It has no list, or a word is empty or no string.
    """
    words = table.values[name][row]
    if not isinstance(words, list):
        raise InputError(
            f"row {row} of {table.origin} must have a list of words in column {name!r}, and has {shown(words)}: "
            f"write its words as a list, or set --text-column to the column of the words{table.unread}"
        )
    for place, word in enumerate(words):
        if not isinstance(word, str):
            raise InputError(
                f"word {place} of row {row} of {table.origin} must be a string, and is {shown(word)}: write it in "
                f"quotes, or set --text-column to the column of the words{table.unread}"
            )
        if is_blank(word):
            raise InputError(
                f"word {place} of row {row} of {table.origin} must have a character that can be seen, and is "
                f"{cut(word)}: remove it together with its tag"
            )


def read_tags(tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None) -> Reading:
    """Returns the words of every split with the numbers of their tags, and the names of the tags.

    Rows without a word are left out. In a split other than train, so are rows that are in train, too. A split without
    any tags is not used. The tags are those that rows of train have. They are in the order in which the source names
    them, and else sorted.

    Args:
        tables: the table of each split.
        columns: the column of the words and the column of the tags.
        renames: new names for tags; None renames nothing.

    Raises:
        InputError: A row has no list of words, an empty word, or another number of tags than of words. Or a tag is not
            one of those that train has, is of another type than the others, or does not fit their scheme. Or train has
            a single tag.
    """
    (words,) = columns.inputs
    notes: list[str] = []
    found: dict[str, Named] = {}
    for split, table in tables.items():
        tags = table.values[columns.target]
        if split != "train" and all(is_missing(own) or own == [] for own in tags):
            notes.append(f"{split} is not used: it has no tags")
            continue
        used = written_rows(table, words)
        if len(used) < len(table):
            notes.append(f"{split}: {len(table) - len(used)} rows without a word left out")
        kept = used if split == "train" else outside_train(table, used)
        if len(kept) < len(used):
            notes.append(f"{split}: {len(used) - len(kept)} rows left out that are in train, too (in_train)")
        named_in = table if table.target_names is not None else tables["train"]
        own, tags_of, bad = read_rows(split, table, columns, kept, partial(_named, table, named_in, columns))
        found[split] = list(zip(own, tags_of, strict=True))
        notes += bad
        if named_in.target_names is None:
            check_one_type(table, columns.target, *labels_with_rows(own, [tags[row] for row in own]))
    train = tables["train"]
    found, named = _renamed(found, train.target_names, renames)
    labels = _labels(found["train"], named, train, columns)
    for split, rows in found.items():
        _check_trained(rows, labels, tables[split], train)
    _check_scheme(labels, found["train"], train)
    width = max(len(own) for rows in found.values() for _, own in rows)
    return Reading(
        rows={split: _rows(tables[split], words, rows, labels, width) for split, rows in found.items()},
        labels=labels,
        notes=tuple(notes),
    )


def _named(table: Table, named: Table, columns: Columns, row: int) -> list[str]:
    """Returns the names of the tags of a row.

    Args:
        table: the table of the row.
        named: the table that has the names of the tags, if there are any.
        columns: the column of the words and the column of the tags.
        row: the index of the row.
    """
    (words,) = columns.inputs
    check_words(table, words, row)
    tags, count = table.values[columns.target][row], len(table.values[words][row])
    if not isinstance(tags, list):
        raise InputError(
            f"row {row} of {table.origin} must have a list of tags in column {columns.target!r}, and has "
            f"{shown(tags)}: write a tag for each of its words, or set --label-column to the column of the tags"
            f"{table.unread}"
        )
    if len(tags) != count:
        raise InputError(
            f"row {row} of {table.origin} must have a tag for each word, and has {count} words and {len(tags)} "
            f"tags: correct the row, or set --text-column and --label-column to columns that belong together"
            f"{table.unread}"
        )
    return [_name(tag, place, row, table, named) for place, tag in enumerate(tags)]


def _name(tag: Any, place: int, row: int, table: Table, named: Table) -> str:
    """Returns the name of a tag, which may be a place in the list of names.

    Args:
        tag: the tag.
        place: the index of its word in the row.
        row: the index of the row.
        table: the table of the row.
        named: the table that has the names, if there are any.
    """
    names = named.target_names
    where = f"the tag of word {place} of row {row} of {table.origin}"
    if isinstance(tag, str) and not is_blank(tag):
        if names is not None and tag in names:
            return tag
        tag = tag.strip()  # a line of a table of words may end with a blank
        if names is None or tag in names:
            return tag
        rule = f"one of the names in {named.names_origin}, {briefly_listed(names)}{did_you_mean(tag, names)}"
        raise InputError(f"{where} must be {rule}, and is {cut(tag)}: correct the row or the names")
    if not isinstance(tag, int) or isinstance(tag, bool) or tag < 0:
        raise InputError(
            f"{where} must be a string or a whole number from 0 on, and is {shown(tag)}: correct the row, or set "
            f"--label-column to the column of the tags{table.unread}"
        )
    if names is None:
        return str(tag)
    if tag >= len(names):
        raise InputError(
            f"{where} must be the index of one of the {len(names)} names in {named.names_origin}, and is {tag}: "
            "correct the row or the names"
        )
    return names[tag]


def _renamed(
    found: Mapping[str, Named], names: Sequence[str] | None, renames: Mapping[str, str] | None
) -> tuple[dict[str, Named], list[str] | None]:
    """Returns the tags of each split with their new names; and the names that the source gives, or None."""
    if renames is None:
        return dict(found), None if names is None else list(names)
    there = {tag for rows in found.values() for tag in _each(rows)}
    check_renames(renames, sorted(there.union(names or ())))
    changed = {
        split: [(row, [renames.get(tag, tag) for tag in own]) for row, own in rows] for split, rows in found.items()
    }
    return changed, None if names is None else list(dict.fromkeys(renames.get(name, name) for name in names))


def _labels(rows: Named, names: Sequence[str] | None, train: Table, columns: Columns) -> tuple[str, ...]:
    """Returns the tags that rows of train have, in the order of their names or else sorted."""
    there = Counter(_each(rows))
    if len(there) < 2:
        raise InputError(
            f"{train.origin} must have words of at least two tags, and all have {cut(next(iter(there)))} in column "
            f"{columns.target!r}: set --label-column to the column of the tags{train.unread}"
        )
    if len(there) > MOST_TAGS:
        raise InputError(
            f"{train.origin} must have at most {MOST_TAGS:,} different tags in column {columns.target!r}, and has "
            f"{len(there):,}, such as {cut(next(iter(there)))}: set --label-column to the column of the tags"
            f"{train.unread}"
        )
    if names is not None:
        return tuple(name for name in names if name in there)
    return tuple(sorted(there, key=int if all(tag.isdecimal() for tag in there) else None))


def _check_trained(rows: Named, labels: Sequence[str], table: Table, train: Table) -> None:
    """Checks that every tag of a split is one that train has."""
    known = set(labels)
    for row, own in rows:
        for place, tag in enumerate(own):
            if tag not in known:
                raise InputError(
                    f"the tag of word {place} of row {row} of {table.origin} must be one that a row of {train.origin} "
                    f"has, and is {cut(tag)}{did_you_mean(tag, labels)}: add training rows with it, remove the row, or "
                    "give the tag another name with --label-map"
                )


def _check_scheme(labels: Sequence[str], rows: Named, train: Table) -> None:
    """Checks that either all tags of train follow an entity scheme, or none does."""
    wrong = misfit(labels) if follows_scheme(labels) else None
    if wrong is not None:
        row, place = next((row, own.index(wrong)) for row, own in rows if wrong in own)
        raise InputError(
            f"the tag of word {place} of row {row} of {train.origin} must be O, or B-, I-, E- or S- and a type, as "
            f"other tags are that mark entities, and is {cut(wrong)}: correct the tag, or rename it with --label-map"
        )


def _rows(table: Table, words: str, named: Named, labels: Sequence[str], width: int) -> Rows:
    """Returns the used rows of a table.

    Args:
        table: the table.
        words: the column of the words.
        named: the tags of each used row.
        labels: the names of the tags, by their number.
        width: the most words of a row in any split. Equal rows of two splits then have equal targets.
    """
    number = {name: index for index, name in enumerate(labels)}
    targets = np.full((len(named), width), NO_TAG, dtype=np.int64)
    for place, (_, own) in enumerate(named):
        targets[place, : len(own)] = [number[tag] for tag in own]
    # A sample keeps the share of the rows that have nothing but the commonest tag, such as O.
    commonest = np.bincount(targets[targets != NO_TAG]).argmax()
    strata = ((targets != NO_TAG) & (targets != commonest)).any(1).astype(np.int64)
    return Rows((tuple(table.values[words][row] for row, _ in named),), targets, strata, tuple(labels))


def _each(rows: Named) -> Iterator[str]:
    return (tag for _, own in rows for tag in own)
