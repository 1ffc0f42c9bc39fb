"""Where rows come from; the only file that knows Hugging Face data sets."""

import csv
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from trbert.errors import InputError
from trbert.pages import Page, documentation_pages

Labels = Int64[np.ndarray, " rows"]

PAGES = "pages"
SPLITS = ("train", "validation", "test")
SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")
VALIDATION_ROWS = 1000
HELD_OUT_SHARE = 0.1

_REMEDY = "pass a folder, a file, train=a.csv,test=b.csv, or --data pages"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labelled texts.

    Attributes:
        texts: one string a row, none of them blank.
        labels: class index of each row, in 0, …, classes − 1.
    """

    texts: tuple[str, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Int64[np.ndarray, " taken"]) -> "Rows":
        """Returns the named rows, in the given order."""
        return Rows(tuple(self.texts[row] for row in index.tolist()), self.labels[index])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Splits:
    """The rows of a task: to learn from, to choose by, to report on.

    Attributes:
        train: rows to learn from, in the order of a seeded shuffle.
        validation: rows that every choice is made on.
        test: rows that nothing is chosen on.
        label_names: name of each class.
        notes: what was done to the rows, one sentence each, for the user to read.
        fingerprint: SHA-256 over texts, labels and label names of all three splits; a cache key.
    """

    train: Rows
    validation: Rows
    test: Rows
    label_names: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


def load_splits(
    source: str,
    *,
    text_column: str = "text",
    label_column: str = "label",
    seed: int = 0,
    train_rows: int | None = None,
    validation_rows: int = VALIDATION_ROWS,
    test_rows: int | None = None,
) -> Splits:
    """Returns the train, validation and test rows of a data set, its labels as class indices.

    Without a test split the validation split is the test split. Without a validation split one is held out of train,
    stratified by label: `validation_rows`, at most a tenth of train. A train split alone is split 80/10/10.

    Args:
        source: `pages` (documentation of the installed libraries), a folder with `train`, `validation`, `test` files
            (.parquet, .csv, .jsonl, .json) and perhaps `labels.json`, one file, `train=a.csv,test=b.csv`, or a name on
            the Hugging Face hub (`name:configuration` where it has several).
        text_column: column of the texts.
        label_column: column of the labels: strings, integers or booleans.
        seed: of the hold-out, the subsamples and the order of train.
        train_rows: training rows to sample, after the hold-out; None takes all.
        validation_rows: most validation rows.
        test_rows: most test rows; None takes all.

    Raises:
        InputError: The source, a file, a column, a text or a label is not what it has to be.
    """
    for name, number in (("train_rows", train_rows), ("validation_rows", validation_rows), ("test_rows", test_rows)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, and is {number}: leave it out to take the default")
    tables = _read_source(source, _Columns(text_column, label_column))
    notes: list[str] = []
    tables = _usable(tables, source, notes)
    label_names, kept = _classes(tables)
    rng = np.random.default_rng(seed)

    splits = dict(kept)
    if "validation" in splits and "test" not in splits:
        splits["test"] = splits.pop("validation")
        notes.append(f"no test split: the {len(splits['test'])} validation rows are the test rows")
    if "test" not in splits:
        size = max(1, round(HELD_OUT_SHARE * len(splits["train"])))
        splits["train"], splits["test"] = _hold_out("test", splits["train"], size, seed, rng, notes)
        size = max(1, min(size, validation_rows))
        splits["train"], splits["validation"] = _hold_out("validation", splits["train"], size, seed, rng, notes)
    if "validation" not in splits:
        size = max(1, min(validation_rows, round(HELD_OUT_SHARE * len(splits["train"]))))
        splits["train"], splits["validation"] = _hold_out("validation", splits["train"], size, seed, rng, notes)
    for name, most in (("validation", validation_rows), ("test", test_rows)):
        splits[name] = _subsample(name, splits[name], most, seed, rng, notes)
    splits["train"] = _sample_train(splits["train"], train_rows, len(label_names), seed, rng, notes)
    train, validation, test = (splits[name] for name in SPLITS)
    return Splits(
        train=train,
        validation=validation,
        test=test,
        label_names=label_names,
        notes=tuple(notes),
        fingerprint=_fingerprint((train, validation, test), label_names),
    )


@dataclass(frozen=True, slots=True)
class _Columns:
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class _Table:
    """One split as it was read.

    Attributes:
        origin: file or split, as errors name it.
        texts: values of the text column.
        labels: values of the label column.
        in_train: the column `in_train`: True where the row also stands in train; None where there is none.
        label_names: names that the label values index or are among; None where the source gives none.
        names_origin: where the names come from.
    """

    origin: str
    texts: Sequence[Any]
    labels: Sequence[Any]
    in_train: Sequence[Any] | None = None
    label_names: tuple[str, ...] | None = None
    names_origin: str = ""


# --- reading -----------------------------------------------------------------------------------------------------


def _read_source(source: str, columns: _Columns) -> dict[str, _Table]:
    if source == PAGES:
        return _page_tables(documentation_pages())
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, columns)
    if path.is_file():
        return {"train": _read_file(path, columns)}
    if "=" in source:
        return _read_named_files(source, columns)
    if path.suffix in SUFFIXES or path.is_absolute() or source.startswith(("./", "../", "~")):
        raise InputError(f"data {source!r} must be a file or folder that exists, and is missing: {_REMEDY}")
    return _read_hub(source, columns)


def _page_tables(pages: Iterable[Page]) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    for split in SPLITS:
        of_split = [page for page in pages if page.split == split]
        tables[split] = _Table(split, [page.text for page in of_split], [page.library for page in of_split])
    return tables


def _read_folder(folder: Path, columns: _Columns) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    names = _read_label_names(folder / "labels.json")
    for split in SPLITS:
        files = [file for suffix in SUFFIXES if (file := folder / f"{split}{suffix}").is_file()]
        if len(files) > 1:
            raise InputError(
                f"folder {str(folder)!r} must have one {split} file, and has {_listed(file.name for file in files)}: "
                "move all but one away"
            )
        if files:
            tables[split] = _read_file(files[0], columns, names)
    if "train" not in tables:
        there = _listed(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
        raise InputError(
            f"folder {str(folder)!r} must have a train file (train{', train'.join(SUFFIXES)}), and has {there}: "
            "name the files one by one, train=a.csv,test=b.csv"
        )
    return tables


def _read_named_files(source: str, columns: _Columns) -> dict[str, _Table]:
    files: dict[str, Path] = {}
    for part in source.split(","):
        split, _, name = part.partition("=")
        split = split.strip()
        if split not in SPLITS or split in files or not name:
            raise InputError(
                f"data {source!r} must name each of train, validation and test at most once, and has {part!r}"
                f"{_did_you_mean(split, SPLITS)}: write train=a.csv,validation=b.csv,test=c.csv"
            )
        files[split] = Path(name.strip()).expanduser()
    if "train" not in files:
        raise InputError(f"data {source!r} must name a train file, and names {_listed(files)}: add train=a.csv")
    return {split: _read_file(file, columns) for split, file in files.items()}


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


def _read_file(path: Path, columns: _Columns, names: tuple[str, ...] | None = None) -> _Table:
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_json, ".json": _read_json}
    if not path.is_file():
        raise InputError(f"data file {str(path)!r} must exist, and is missing: check the path")
    if path.suffix not in readers:
        raise InputError(
            f"data file {str(path)!r} must end in {', '.join(SUFFIXES)}, and ends in {path.suffix!r}: convert it"
        )
    values, own_names = readers[path.suffix](path, columns)
    return _Table(
        path.name,
        values[columns.text],
        values[columns.label],
        values.get("in_train"),
        names or own_names,
        "labels.json" if names else path.name,
    )


_Values = tuple[Mapping[str, Sequence[Any]], tuple[str, ...] | None]


def _read_parquet(path: Path, columns: _Columns) -> _Values:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        _check_columns(schema.names, columns, path.name)
        wanted = [name for name in schema.names if name in (columns.text, columns.label, "in_train")]
        values = pyarrow.parquet.read_table(path, columns=wanted).to_pydict()
    except pyarrow.ArrowInvalid as error:
        raise _unreadable(path, "parquet", error) from error
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(columns.label, {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return values, tuple(names) if names else None


def _read_csv(path: Path, columns: _Columns) -> _Values:
    import pyarrow
    import pyarrow.csv

    try:
        table = pyarrow.csv.read_csv(
            path,
            # One block: a text may be longer than the default one, and types are inferred from the first.
            read_options=pyarrow.csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1)),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types={columns.text: pyarrow.string()}),
        )
    except pyarrow.ArrowInvalid as error:
        if not path.read_bytes().strip():
            raise _empty(path.name) from error
        raise _unreadable(path, "csv", error) from error
    _check_columns(table.column_names, columns, path.name)
    wanted = [name for name in table.column_names if name in (columns.text, columns.label, "in_train")]
    return table.select(wanted).to_pydict(), None


def _read_json(path: Path, columns: _Columns) -> _Values:
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
                f"row {row} of {path.name} must be an object with {columns.text!r} and {columns.label!r}, and is "
                f"{_shown(record)}: write one object a row"
            )
    names = dict.fromkeys(name for record in records for name in record)
    _check_columns(list(names), columns, path.name)
    wanted = [name for name in names if name in (columns.text, columns.label, "in_train")]
    return {name: [record.get(name) for record in records] for name in wanted}, None


def _read_hub(source: str, columns: _Columns) -> dict[str, _Table]:
    import datasets

    name, _, configuration = source.partition(":")
    try:
        _reach_hub(name)
        found = datasets.load_dataset(name, configuration or None)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        known = "the hub has no such data set" if _is_unknown(error) else "the hub is not reachable or cannot give it"
        raise InputError(
            f"data {source!r} is no file or folder here, and {known} ({type(error).__name__}: {reason}): {_REMEDY}"
        ) from error
    if "train" not in found:
        raise InputError(f"data {source!r} must have a train split, and has {_listed(found)}: {_REMEDY}")
    tables: dict[str, _Table] = {}
    for split in SPLITS:
        if split not in found:
            continue
        rows = found[split]
        _check_columns(rows.column_names, columns, f"{source} ({split})")
        label = rows.features[columns.label]
        tables[split] = _Table(
            f"{source} ({split})",
            rows[columns.text][:],
            rows[columns.label][:],
            rows["in_train"][:] if "in_train" in rows.column_names else None,
            tuple(label.names) if isinstance(label, datasets.ClassLabel) else None,
            source,
        )
    return tables


def _reach_hub(name: str) -> None:
    """Asks the hub once, as `load_dataset` asks for half a minute; what was loaded before needs no hub.

    Raises:
        OSError: The hub is not reachable, or has no such data set.
    """
    import datasets
    import huggingface_hub

    if (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir():
        return
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=10)
    except (OSError, ValueError):
        raise
    except Exception as error:  # the HTTP client's errors have no base class that stays from version to version
        raise ConnectionError(str(error)) from error
