"""Turns a source that a user names into tables: the packaged pages, a file, several, a folder, or a name on the hub."""

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trbert.data.arrow_tables import read_parquet
from trbert.data.decoding import parsed_json, read_bytes, refuse_foreign, small_text
from trbert.data.folders import folder_files, split_of, unlabelled_files
from trbert.data.hub import REMEDY, is_saved, read_hub, read_saved
from trbert.data.json_rows import read_json
from trbert.data.pages import Page, documentation_pages
from trbert.data.readers import (
    SPLITS,
    SUFFIXES,
    WORD_SUFFIXES,
    Contents,
    Format,
    NoColumn,
    NoTarget,
    WordsAlone,
    check_columns,
    suffix_of,
    without_target,
)
from trbert.data.text_files.csv_tables import read_csv
from trbert.data.text_files.lines import read_lines
from trbert.data.text_files.trec import is_trec, read_trec
from trbert.data.text_files.word_columns import read_word_columns
from trbert.errors import InputError
from trbert.limits import MAX_CHARACTERS, Room, shown_size
from trbert.tasks.rows import Columns, Table
from trbert.wording import briefly_listed, cut, did_you_mean, listed

PAGES = "pages"


@dataclass(frozen=True, slots=True)
class Source:
    """What was read.

    Attributes:
        tables: the table of each split.
        notes: sentences for the user on how it was read.
    """

    tables: Mapping[str, Table]
    notes: tuple[str, ...]


def read_source(source: str, columns: Columns, format: Format) -> Source:
    """Returns the tables of the splits that a source has. One of them is train.

    Args:
        source: what the user names; `load_splits` lists the kinds.
        columns: the columns to read.
        format: how the text files are written, as far as the user says so.

    Raises:
        InputError: The source is missing, or a file of it cannot be read or needs too much memory. The message says
            how.
    """
    if source == PAGES:
        return _page_tables(documentation_pages(), columns)
    return _told(_read, source, columns, format, Room(format.max_bytes))


def read_unlabelled(source: str, columns: Columns, format: Format, room: Room) -> Source:
    """Returns the table of a source of texts without labels. What it has in other columns is not read.

    A folder's files are parts of one table, except those that are named after validation or test. A data set of the hub
    gives its split `unsupervised` or `unlabelled`, or else its train split.

    Args:
        source: a file, a folder, or a name on the hub.
        columns: the columns of the texts. In a .txt file that does not name them, each line is a text.
        format: how the text files are written, as far as the user says so.
        room: the memory that texts without labels may still take.

    Raises:
        InputError: As in `read_source`.
    """
    try:
        return _told(_read_unlabelled, source, columns, format, room)
    except NoColumn as error:
        name = next(name for name in columns.inputs if name not in error.there)
        lines = " or its name end in .txt if each of its lines is a text"
        may_be_lines = not columns.words and len(columns.inputs) == len(error.there) == 1
        raise InputError(
            f"--unlabelled {error.origin} must have the column {name!r}, in which the labelled rows have their texts, "
            f"and has {briefly_listed(error.there)}: let its columns have the names of the labelled ones"
            f"{f',{lines}' if may_be_lines else ''}"
        ) from error


def _told(read: Callable[..., Source], source: str, columns: Columns, format: Format, room: Room) -> Source:
    """Returns what a function reads, with its longest texts cut. What it cannot read is said in words."""
    try:
        return _cut_long(read(source, columns, format, room), columns)
    except MemoryError as error:
        raise InputError(
            f"data {cut(source)} must fit in the memory of this machine, and does not, after {shown_size(room.taken)} "
            "of them: use smaller files, or a machine with more memory"
        ) from error
    except OSError as error:  # such as a name that is too long, or a folder that may not be read
        raise InputError(
            f"data {cut(source)} must be files that you may read, and cannot be read ({error.strerror or error}): "
            "check the path and its permissions"
        ) from error


def _read(source: str, columns: Columns, format: Format, room: Room) -> Source:
    path = Path(os.path.expanduser(source))  # the method of a path raises an error for a user that is not there
    if path.is_dir() and is_trec(path):
        tables, found = read_trec(path, columns, format, room)
        return Source(tables, tuple(found))
    if path.is_dir() and not is_saved(path):
        files, notes = folder_files(path)
        return _read_files(files, columns, format, room, _label_names(path / "labels.json"), notes)
    if path.is_dir():
        return _with_others(*read_saved(path, columns, room))
    if path.is_file():
        return _read_files({"train": [path]}, columns, format, room)
    if path.exists():
        raise _not_on_a_disk(path)
    if "=" in source:
        return _read_files(_named_files(source), columns, format, room)
    if suffix_of(path) or path.is_absolute() or source.startswith(("./", "../", "~")):
        raise InputError(f"data {source!r} must be a file or folder that exists, and is missing: {REMEDY}")
    return _with_others(*read_hub(source, columns, room))


def _read_unlabelled(source: str, columns: Columns, format: Format, room: Room) -> Source:
    path = Path(os.path.expanduser(source))
    if path.is_dir() and is_saved(path):
        return _with_others(*read_saved(path, columns, room, without_labels=True))
    if path.is_dir():
        files, notes = unlabelled_files(path)
        return _read_files({"train": files}, columns, format, room, notes=notes, lines=True)
    if path.is_file():
        return _read_files({"train": [path]}, columns, format, room, lines=True)
    if path.exists():
        raise _not_on_a_disk(path)
    if suffix_of(path) or path.is_absolute() or source.startswith(("./", "../", "~")):
        raise InputError(
            f"--unlabelled {source!r} must be a file or folder that exists, and is missing: check the path"
        )
    return _with_others(*read_hub(source, columns, room, without_labels=True))


def _page_tables(pages: Sequence[Page], columns: Columns) -> Source:
    if "text" not in columns.inputs and (columns.words or len(columns.inputs) > 1):
        raise NoColumn(
            f"--data must have columns such as {listed(columns.inputs)}, and is the packaged {PAGES}, which have "
            "'text' and 'label' alone: pass --data with rows of yours"
        ).of(f"the packaged {PAGES}", ("text", "label"))
    tables: dict[str, Table] = {}
    for split in SPLITS:
        of_split = [page for page in pages if page.split == split]
        values = {"text": [page.text for page in of_split], "label": [page.library for page in of_split]}
        check_columns(list(values), columns, f"the packaged {PAGES} ({split})", ", or pass --data with rows of yours")
        tables[split] = Table(split, values)
    return Source(tables, ())


def _named_files(source: str) -> dict[str, list[Path]]:
    """Returns the file of each split that a user has named, such as `train=a.csv,test=b.csv`.

    A comma that no `name=` follows is part of a path.

    Raises:
        InputError: No train file is named, or a split is unknown or named twice.
    """
    files: dict[str, list[Path]] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", source):
        name, _, file = part.partition("=")
        split = split_of(name.strip())
        if split is None or split in files or not file.strip():
            raise InputError(
                f"data {source!r} must name each of train, validation and test at most once, and has {part!r}"
                f"{did_you_mean(name.strip(), SPLITS) if split is None else ''}: "
                "write train=a.csv,validation=b.csv,test=c.csv"
            )
        files[split] = [Path(os.path.expanduser(file.strip()))]
    if "train" not in files:
        raise InputError(f"data {source!r} must name a train file, and names {listed(files)}: add train=a.csv")
    return {split: files[split] for split in SPLITS if split in files}


def _label_names(path: Path) -> tuple[str, ...] | None:
    """Returns the names of the classes that a `labels.json` gives; None where there is no such file."""
    if not path.exists():
        return None
    try:
        names = parsed_json(small_text(path))
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InputError(
            f"{str(path)!r} must be a JSON list of different strings, one for each class: correct it or remove it"
        )
    return tuple(names)


def _read_files(
    files: Mapping[str, Sequence[Path]],
    columns: Columns,
    format: Format,
    room: Room,
    names: tuple[str, ...] | None = None,
    notes: Sequence[str] = (),
    *,
    lines: bool = False,
) -> Source:
    """Returns the tables of files.

    Args:
        files: the files of each split. Several are parts of one table.
        columns: the columns to read.
        format: how the text files are written, as far as the user says so.
        room: the memory that they may take.
        names: the names of the classes; None takes those that a file has, if any.
        notes: sentences that were found before.
        lines: whether each line of a .txt file that does not name the columns is a text.
    """
    tables: dict[str, Table] = {}
    origins: dict[str, list[str]] = {}
    for split, parts in files.items():
        try:
            read = [_read_file(part, columns, format, room, lines=lines) for part in parts]
        except NoTarget:
            if split == "train":
                raise
            notes = [*notes, without_target(split, parts[0].name, columns)]
            continue
        except NoColumn as error:
            if split == "train":
                raise
            others = ",".join(f"{other}={files[other][0]}" for other in files if other != split)
            raise InputError(f"{error}; or leave this file out, --data {shlex.quote(others)}") from error
        for part, contents in zip(parts, read, strict=True):
            for note in contents.notes:
                origins.setdefault(note, []).append(part.name)
        tables[split] = _joined(parts, read, names)
    own = [f"{', '.join(where)}: {note}" for note, where in origins.items()]
    return _with_others(tables, [*notes, *own])


def _not_on_a_disk(path: Path) -> InputError:
    return InputError(
        f"data file {str(path)!r} must be a file on a disk, and is a pipe or a device: write its contents to a file"
    )


def _read_file(path: Path, columns: Columns, format: Format, room: Room, *, lines: bool = False) -> Contents:
    suffix = suffix_of(path)
    if path.is_dir():
        raise InputError(f"data file {str(path)!r} must be a file, and is a folder: name a file in it")
    if not path.is_file() and path.exists():
        raise _not_on_a_disk(path)
    if not path.is_file():
        raise InputError(f"data file {str(path)!r} must exist, and is missing: check the path")
    if suffix is None and path.suffix:
        content = read_bytes(path, room)
        refuse_foreign(content, path)
        text = content and b"\0" not in content
        endings = (*SUFFIXES, *WORD_SUFFIXES) if columns.words else SUFFIXES
        raise InputError(
            f"data file {str(path)!r} must end in {', '.join(endings)}, and ends in {path.suffix!r}: "
            f"{'rename it to end in .txt if it is a table, or else ' if text else ''}convert it"
        )
    if suffix == ".parquet":
        return read_parquet(path, columns, room)
    if suffix in WORD_SUFFIXES and not columns.words:
        error = WordsAlone(
            f"data file {str(path)!r} must be a table of texts, and is one of words with a tag each: leave out --task "
            "or pass --task tagging, or rename it to end in .txt if it is a table of texts"
        )
        error.origin = path.name
        raise error
    if columns.words and suffix in (".csv", ".tsv", ".txt", *WORD_SUFFIXES, None):
        return read_word_columns(path, columns, format, room)
    if lines and suffix in (".txt", None) and len(columns.inputs) == 1 and format.header:
        return read_lines(path, columns, format, room)
    return (read_csv if suffix in (".csv", ".tsv", ".txt", None) else read_json)(path, columns, format, room)


def _joined(files: Sequence[Path], read: Sequence[Contents], names: tuple[str, ...] | None) -> Table:
    """Returns the table of a split whose parts were read. It has the columns that all parts have."""
    first = read[0]
    origin = files[0].name
    values = first.values
    if len(read) > 1:
        shards = re.sub(r"-\d{5}-of-", "-*-of-", origin)
        more = f"{len(read) - 1} more file{'s' * (len(read) > 2)}"
        origin = f"{origin} and {more} (read as one)" if shards == origin else shards
        shared = [name for name in first.values if all(name in part.values for part in read)]
        values = {name: [value for part in read for value in part.values[name]] for name in shared}
    others = tuple(dict.fromkeys(name for part in read for name in part.others))
    return Table(origin, values, names or first.class_names, "labels.json" if names else origin, others)


def _cut_long(source: Source, columns: Columns) -> Source:
    """Returns the tables with their longest texts cut, and notes on these."""
    tables, notes = dict(source.tables), list(source.notes)
    for split, table in tables.items():
        for name in columns.inputs:
            texts = table.values[name]
            long = [row for row, text in enumerate(texts) if isinstance(text, str) and len(text) > MAX_CHARACTERS]
            if long:
                known = set(long)
                short = [text[:MAX_CHARACTERS] if row in known else text for row, text in enumerate(texts)]
                table = replace(table, values={**table.values, name: short})
                notes.append(
                    f"{table.origin}: {len(long)} of {len(texts)} texts in column {name!r} have more than "
                    f"{MAX_CHARACTERS:,} characters and are cut to these, the first of them row {long[0]} with "
                    f"{len(texts[long[0]]):,}"
                )
        tables[split] = table
    return Source(tables, tuple(notes))


def _with_others(tables: Mapping[str, Table], notes: Sequence[str]) -> Source:
    """Returns the tables with a last note on the columns of train that are not used."""
    train = tables["train"]
    if train.others:
        notes = [*notes, f"{train.origin}: columns that are not used: {briefly_listed(train.others)}"]
    return Source(tables, tuple(notes))
