"""Reads tables from csv, JSON and parquet files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trbert.errors import InputError
from trbert.tasks.rows import Columns, Table
from trbert.wording import did_you_mean, listed, shown

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How the text files are written, as far as the user says so. What is None is found out for each file.

    Attributes:
        encoding: the encoding of the characters, such as "cp1252".
        separator: what stands between two columns of a csv file.
        header: whether the first row of a csv file names the columns.
    """

    encoding: str | None = None
    separator: str | None = None
    header: bool = True


SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")


def read_folder(folder: Path, columns: Columns) -> dict[str, Table]:
    """Returns the tables of the train, validation and test files in a folder.

    If the folder holds a `labels.json`, it names the classes.

    Raises:
        InputError: There is no train file, a split has two files, or a file cannot be read.
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
    """Returns the tables of the files that a user has named one by one.

    Args:
        source: splits and their files, such as `train=a.csv,test=b.csv`.
        columns: the columns to read.

    Raises:
        InputError: No train file is named, a split is unknown or named twice, or a file cannot be read.
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
        raise InputError(
            f"{str(path)!r} must be a JSON list of different strings, one for each class: correct it or remove it"
        )
    return tuple(names)


def read_file(path: Path, columns: Columns, names: tuple[str, ...] | None = None) -> Table:
    """Returns the table of one file.

    Args:
        path: a .parquet, .csv, .jsonl or .json file.
        columns: the columns to read. The column `in_train` is read, too, where there is one.
        names: the names of the classes; None takes those that the file has, if any.

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
    return Table(path.name, values, names or own_names, "labels.json" if names else path.name)


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
    feature = metadata.get("info", {}).get("features", {}).get(columns.target, {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return values, tuple(names) if names else None


def _read_csv(path: Path, columns: Columns) -> _Values:
    import pyarrow
    import pyarrow.csv

    try:
        table = pyarrow.csv.read_csv(
            path,
            # The file is read as one block. With the default block size, a longer text would be refused.
            read_options=pyarrow.csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1)),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns.inputs, pyarrow.string())),
        )
    except pyarrow.ArrowInvalid as error:
        if not path.read_bytes().strip():
            raise empty_table(path.name) from error
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
            # splitlines() would also split at a U+2028 within a JSON string.
            records = [json.loads(line) for line in content.split("\n") if line.strip()]
    except ValueError as error:
        raise _unreadable(path, "json", error) from error
    if not records:
        raise empty_table(path.name)
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(
                f"row {row} of {path.name} must be an object with {listed(columns.inputs)} and {columns.target!r}, "
                f"and is {shown(record)}: write one object for each row"
            )
    names = dict.fromkeys(name for record in records for name in record)
    check_columns(list(names), columns, path.name)
    wanted = [name for name in names if name in columns.wanted]
    return {name: [record.get(name) for record in records] for name in wanted}, None


def check_columns(there: Sequence[str], columns: Columns, origin: str) -> None:
    """Checks that a table has all the columns that are needed.

    Args:
        there: the names of the columns that the table has.
        columns: the columns that are needed.
        origin: the name of the table, for the message.

    Raises:
        InputError: A column is missing. The message names the columns that are there.
    """
    for option, name in columns.needed:
        if name not in there:
            raise InputError(
                f"{origin} must have the column {name!r}, and has {listed(there)}{did_you_mean(name, there)}: "
                f"set {option} to one of them"
            )


def empty_table(origin: str) -> InputError:
    """Returns the error for a table without rows."""
    return InputError(f"{origin} must have at least one row, and is empty: check that it was written whole")


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    reason = str(error).strip().partition("\n")[0]
    return InputError(f"data file {str(path)!r} must be {kind}, and cannot be read as that ({reason}): correct it")
