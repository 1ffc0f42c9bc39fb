"""Labelled rows from csv, JSON or parquet files, each row checked."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trbert.errors import InputError

SPLITS = ("train", "validation", "test")
SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")

# The types that a label can have, as errors name them.
KINDS = {bool: "booleans", int: "integers", str: "strings"}


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns to read.

    Attributes:
        texts: column of the texts; of pairs the columns of the first and of the second texts.
        label: column of the labels.
    """

    texts: tuple[str, ...]
    label: str

    @classmethod
    def named(cls, text_column: str, label_column: str) -> "Columns":
        """Returns the columns as a user names them.

        Raises:
            InputError: text_column names no column, or more than two.

        Example:
            >>> Columns.named("question,sentence", "label").texts
            ('question', 'sentence')
        """
        texts = tuple(text_column.split(","))
        if len(texts) > 2 or not all(name.strip() for name in texts):
            raise InputError(
                f"text_column must name one column, or two with a comma between them, and is {text_column!r}: "
                "write text, or question,sentence for pairs"
            )
        return cls(texts, label_column)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Columns to read where they are there."""
        return (*self.texts, self.label, "in_train")


@dataclass(frozen=True, slots=True)
class Table:
    """One split as it was read.

    Attributes:
        origin: file or split, as errors name it.
        texts: values of each text column.
        labels: values of the label column.
        in_train: the column `in_train`: True where the row also stands in train; None where there is none.
        label_names: names that the label values index or are among; None where the source gives none.
        names_origin: where the names come from.
    """

    origin: str
    texts: tuple[Sequence[Any], ...]
    labels: Sequence[Any]
    in_train: Sequence[Any] | None = None
    label_names: tuple[str, ...] | None = None
    names_origin: str = ""


def read_folder(folder: Path, columns: Columns) -> dict[str, Table]:
    """Returns the tables of a folder: of its train, validation and test files, classes named by `labels.json`.

    Raises:
        InputError: There is no train file, two of one split, or one that is not what it has to be.
    """
    tables: dict[str, Table] = {}
    names = _read_label_names(folder / "labels.json")
    for split in SPLITS:
        files = [file for suffix in SUFFIXES if (file := folder / f"{split}{suffix}").is_file()]
        if len(files) > 1:
            raise InputError(
                f"folder {str(folder)!r} must have one {split} file, and has {listed(file.name for file in files)}: "
                "move all but one away"
            )
        if files:
            tables[split] = read_file(files[0], columns, names)
    if "train" not in tables:
        there = listed(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
        raise InputError(
            f"folder {str(folder)!r} must have a train file (train{', train'.join(SUFFIXES)}), and has {there}: "
            "name the files one by one, train=a.csv,test=b.csv"
        )
    return tables


def read_named_files(source: str, columns: Columns) -> dict[str, Table]:
    """Returns the tables of `train=a.csv,test=b.csv`.

    Raises:
        InputError: No train file is named, a split is none or named twice, or a file is not what it has to be.
    """
    files: dict[str, Path] = {}
    for part in source.split(","):
        split, _, name = part.partition("=")
        split = split.strip()
        if split not in SPLITS or split in files or not name:
            raise InputError(
                f"data {source!r} must name each of train, validation and test at most once, and has {part!r}"
                f"{did_you_mean(split, SPLITS)}: write train=a.csv,validation=b.csv,test=c.csv"
            )
        files[split] = Path(name.strip()).expanduser()
    if "train" not in files:
        raise InputError(f"data {source!r} must name a train file, and names {listed(files)}: add train=a.csv")
    return {split: read_file(file, columns) for split, file in files.items()}


def _read_label_names(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InputError(f"{str(path)!r} must be a JSON list of different strings, one a class: mend it or remove it")
    return tuple(names)


def read_file(path: Path, columns: Columns, names: tuple[str, ...] | None = None) -> Table:
    """Returns the table of one file.

    Args:
        path: of a .parquet, .csv, .jsonl or .json file.
        columns: to read, and `in_train` where there is one.
        names: of the classes; None takes those that the file gives.

    Raises:
        InputError: The file is missing, damaged or empty, or lacks a column.
    """
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_json, ".json": _read_json}
    if not path.is_file():
        raise InputError(f"data file {str(path)!r} must exist, and is missing: check the path")
    if path.suffix not in readers:
        raise InputError(
            f"data file {str(path)!r} must end in {', '.join(SUFFIXES)}, and ends in {path.suffix!r}: convert it"
        )
    values, own_names = readers[path.suffix](path, columns)
    return Table(
        path.name,
        tuple(values[name] for name in columns.texts),
        values[columns.label],
        values.get("in_train"),
        names or own_names,
        "labels.json" if names else path.name,
    )


_Values = tuple[Mapping[str, Sequence[Any]], tuple[str, ...] | None]


def _read_parquet(path: Path, columns: Columns) -> _Values:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        check_columns(schema.names, columns, path.name)
        wanted = [name for name in schema.names if name in columns.wanted]
        values = pyarrow.parquet.read_table(path, columns=wanted).to_pydict()
    except pyarrow.ArrowInvalid as error:
        raise _unreadable(path, "parquet", error) from error
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(columns.label, {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return values, tuple(names) if names else None


def _read_csv(path: Path, columns: Columns) -> _Values:
    import pyarrow
    import pyarrow.csv

    try:
        table = pyarrow.csv.read_csv(
            path,
            # One block: a text may be longer than the default one, and is refused then.
            read_options=pyarrow.csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1)),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns.texts, pyarrow.string())),
        )
    except pyarrow.ArrowInvalid as error:
        if not path.read_bytes().strip():
            raise _empty(path.name) from error
        raise _unreadable(path, "csv", error) from error
    check_columns(table.column_names, columns, path.name)
    wanted = [name for name in table.column_names if name in columns.wanted]
    return table.select(wanted).to_pydict(), None


def _read_json(path: Path, columns: Columns) -> _Values:
    try:
        content = path.read_text(encoding="utf-8-sig").strip()
        if content.startswith("["):
            records = json.loads(content)
        else:
            # Not splitlines(): a JSON string may hold a bare U+2028.
            records = [json.loads(line) for line in content.split("\n") if line.strip()]
    except ValueError as error:
        raise _unreadable(path, "json", error) from error
    if not records:
        raise _empty(path.name)
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(
                f"row {row} of {path.name} must be an object with {listed(columns.texts)} and {columns.label!r}, "
                f"and is {_shown(record)}: write one object a row"
            )
    names = dict.fromkeys(name for record in records for name in record)
    check_columns(list(names), columns, path.name)
    wanted = [name for name in names if name in columns.wanted]
    return {name: [record.get(name) for record in records] for name in wanted}, None


def check_columns(there: Sequence[str], columns: Columns, origin: str) -> None:
    """Checks that all columns are there.

    Raises:
        InputError: One is not; the message names those that are.
    """
    settings = [*(("text_column", name) for name in columns.texts), ("label_column", columns.label)]
    for setting, name in settings:
        if name not in there:
            raise InputError(
                f"{origin} must have the column {name!r}, and has {listed(there)}{did_you_mean(name, there)}: "
                f"set {setting} to one of them"
            )


def usable(split: str, table: Table, columns: Columns, notes: list[str]) -> Table:
    """Returns a table without the rows that have a blank text, or that stand in train as well.

    Args:
        split: "train", "validation" or "test".
        table: as it was read.
        columns: as errors name them.
        notes: gains a sentence for each kind of row that is left out.

    Raises:
        InputError: A text is no string, a label is no class, or no row is left.
    """
    if len(table.labels) == 0:
        raise _empty(table.origin)
    written = list(range(len(table.labels)))
    for name, texts in zip(columns.texts, table.texts, strict=False):  # pages have one text, whatever is asked for
        written = _written(table.origin, name, texts, written)
    if len(written) < len(table.labels):
        notes.append(f"{split}: {len(table.labels) - len(written)} empty texts left out")
    kept = written
    if split != "train" and table.in_train is not None and all(isinstance(mark, bool) for mark in table.in_train):
        kept = [row for row in written if not table.in_train[row]]
        if not kept:
            raise InputError(
                f"{table.origin} must have rows that are not in train, and all {len(written)} are marked in_train: "
                "remove the column or add rows"
            )
        if len(kept) < len(written):
            notes.append(f"{split}: {len(written) - len(kept)} rows left out that also stand in train (in_train)")
    labels = _checked_labels(table, kept, columns)
    texts = tuple([column[row] for row in kept] for column in table.texts)
    return replace(table, texts=texts, labels=labels, in_train=None)


def _written(origin: str, name: str, texts: Sequence[Any], rows: Sequence[int]) -> list[int]:
    """Returns those of the rows whose text in this column is not blank."""
    for row, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"row {row} of {origin} must have a string in column {name!r}, and has {_shown(text)}: "
                "set text_column to the column of the texts"
            )
    written = [row for row in rows if texts[row] is not None and texts[row].strip()]
    if not written:
        raise InputError(
            f"{origin} must have a text in column {name!r}, and its {len(rows)} texts are all empty: "
            "set text_column to the column of the texts"
        )
    return written


def _checked_labels(table: Table, rows: Sequence[int], columns: Columns) -> list[Any]:
    """Returns the labels of the named rows: all booleans, all integers or all strings."""
    labels: list[Any] = []
    first: dict[type, int] = {}
    for row in rows:
        label = table.labels[row]
        if label is None or label != label or (isinstance(label, str) and not label.strip()):
            raise InputError(
                f"row {row} of {table.origin} must have a label in column {columns.label!r}, and has none: "
                "fill it in or remove the row"
            )
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if type(label) not in KINDS:
            raise InputError(
                f"row {row} of {table.origin} must have a string, an integer or a boolean in column "
                f"{columns.label!r}, and has {_shown(label)}: set label_column to the column of the classes"
            )
        first.setdefault(type(label), row)
        labels.append(label)
    if len(first) > 1:
        found = " and ".join(f"{KINDS[kind]} (row {row}: {table.labels[row]!r})" for kind, row in first.items())
        raise InputError(
            f"labels in column {columns.label!r} of {table.origin} must be of one type, and are {found}: write all "
            "of them one way"
        )
    return labels


def listed(names: Iterable[Any]) -> str:
    """Returns names as a message lists them."""
    return ", ".join(repr(name) for name in names)


def did_you_mean(name: str, there: Sequence[str]) -> str:
    """Returns the hint at the nearest name there is, or nothing."""
    close = difflib.get_close_matches(name, there, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shown(value: object) -> str:
    text = repr(value)
    return f"the {type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _empty(origin: str) -> InputError:
    return InputError(f"{origin} must have at least one row, and is empty: check that it was written whole")


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    reason = str(error).strip().partition("\n")[0]
    return InputError(f"data file {str(path)!r} must be {kind}, and cannot be read as that ({reason}): mend the file")
