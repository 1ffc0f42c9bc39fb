"""Reads text files with a word and its tags on each line and an empty line after each sentence, as CoNLL has them."""

import re
from collections.abc import Sequence
from pathlib import Path

from trbert.data.decoding import read_text
from trbert.data.readers import Contents, Format, NoTarget, suffix_of
from trbert.errors import InputError
from trbert.limits import CELL, Room
from trbert.tasks.rows import TAGS, WORDS, Columns

DOCUMENT = "-DOCSTART-"
"""What CoNLL wrote as the only word of a sentence where a new document begins."""
UNIVERSAL = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The names of the columns of CoNLL-U, in which Universal Dependencies are written."""
_NO_WORD = re.compile(r"\d+[-.]\d+\t")
"""Begins a line of CoNLL-U that is no word of the sentence: 1-2 for several words in one, 1.1 for an unwritten word."""


def read_word_columns(path: Path, columns: Columns, format: Format, room: Room) -> Contents:
    """Returns the words of each sentence of a file, and their tags.

    The columns have no names. They are called 1, 2 and so on. By default the words are in the first column and the tags
    in the last one. Tabs part them where the first line has a tab, and else blanks do.

    The columns of a file that ends in .conllu have the names of `UNIVERSAL`, too. By default `form` has the words, and
    `upos` their tags. Its comments are left out. So are the lines of several words in one (1-2) and of words that the
    text does not have (1.1).

    Args:
        path: the file.
        columns: the column of the words and the column of the tags, each by its number, its name or its default name.
        format: what the user says about the file.
        room: the memory that the data may take.

    Raises:
        InputError: The file cannot be decoded or needs too much memory, a line has another number of columns than the
            first one, or there is no column of that number.
    """
    content = read_text(path, format.encoding, room)
    room.take(CELL * 2 * content.count(b"\n"), path.name)
    separator = {None: None, "tab": "\t"}.get(format.separator, format.separator)
    names = UNIVERSAL if suffix_of(path) == ".conllu" else ()
    width, first, wanted = 0, 0, (0, 0)
    sentences: list[list[tuple[str, str]]] = []
    open_sentence = False
    for number, line in enumerate(content.decode().split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith(DOCUMENT):
            open_sentence = False
            continue
        if names and (line.startswith("#") or _NO_WORD.match(line)):
            continue
        if not width:
            separator = separator or ("\t" if "\t" in line else None)
        cells = line.split(separator) if separator else re.split("[ \t]+", line.strip(" \t"))
        if not width:
            width, first = len(cells), number
            wanted = _places(width, names, columns, path.name)
        if len(cells) != width:
            raise InputError(
                f"line {number} of {path.name} must have {width} columns, as line {first} has, and has {len(cells)}: "
                "write a word with its tags on each line, with a tab or a blank between two columns, and an empty line "
                "between two sentences"
            )
        if not open_sentence:
            sentences.append([])
            open_sentence = True
        sentences[-1].append((cells[wanted[0]], cells[wanted[1]]))
    (words,) = columns.inputs
    values = {words: [[word for word, _ in sentence] for sentence in sentences]}
    if columns.target:
        values[columns.target] = [[tag for _, tag in sentence] for sentence in sentences]
    called = names or tuple(str(place + 1) for place in range(width))
    others = tuple(name for place, name in enumerate(called) if place not in wanted)
    return Contents(values=values, others=others)


def _places(width: int, names: Sequence[str], columns: Columns, origin: str) -> tuple[int, int]:
    """Returns the places of the words and of the tags among so many columns; the words twice if no tags are wanted.

    Args:
        width: the number of the columns.
        names: the names of the columns of CoNLL-U; () for a file whose columns have no names.
        columns: the columns that are wanted.
        origin: the name of the file.
    """
    if names and width != len(names):
        raise InputError(
            f"{origin} must have the {len(names)} columns of CoNLL-U with tabs between them, and has {width}: rename "
            "it to end in .conll if it is another table of words"
        )
    (words,) = columns.inputs
    of_words, of_tags = (names.index("form"), names.index("upos")) if names else (0, width - 1)
    word = _place("--text-column", words, of_words if words == WORDS else None, width, names, origin)
    if not columns.target:
        return word, word
    if width == 1:
        raise NoTarget(
            f"{origin} must have the tag of each word beside it, after a tab or a blank, and has one column alone: add "
            "the tags, or write lists of words and of tags as jsonl or parquet, because a csv file holds no lists"
        )
    tags = of_tags if columns.target == TAGS else None
    return word, _place("--label-column", columns.target, tags, width, names, origin)


def _place(option: str, name: str, default: int | None, width: int, names: Sequence[str], origin: str) -> int:
    """Returns the place of a column that is named by its number, its name, or its default name."""
    if default is not None:
        return default
    if name in names:
        return names.index(name)
    if name.isdecimal() and 1 <= int(name) <= width:
        return int(name) - 1
    if names:
        rule, remedy = f"one of {', '.join(names)} for {origin}", "one of them"
    else:
        rule = f"a number from 1 to {width} for {origin}, whose columns have no names"
        remedy = "the number of the column"
    raise InputError(f"{option} must be {rule}, and is {name!r}: set it to {remedy}, or leave it out")
