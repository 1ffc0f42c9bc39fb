"""Rows of Hugging Face data sets, from the hub or from a folder. This is the only file that knows `datasets`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trbert.data.folders import chosen_splits
from trbert.data.readers import NoTarget, check_columns, unused, without_target
from trbert.errors import InputError
from trbert.tasks.rows import Columns, Table
from trbert.wording import briefly_listed, first_line

REMEDY = "pass a folder, a file, train=a.csv,test=b.csv, or --data pages"


def read_hub(source: str, columns: Columns) -> tuple[dict[str, Table], list[str]]:
    """Returns the tables of a data set on the Hugging Face hub, and notes on its splits.

    Args:
        source: its name, or `name:configuration`.
        columns: the columns to read.

    Raises:
        InputError: The hub cannot be reached or has no such data set, or the data set lacks a split or a column.
    """
    import datasets
    import huggingface_hub

    name, _, configuration = source.partition(":")
    try:
        _reach_hub(name)
        found: Any = datasets.load_dataset(name, configuration or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        unknown = (datasets.exceptions.DatasetNotFoundError, huggingface_hub.errors.RepositoryNotFoundError)
        if isinstance(error, unknown):
            known = "the hub has no such data set"
        else:
            known = "the hub is not reachable" if isinstance(error, OSError) else "it could not be loaded from the hub"
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"data {source!r} is no file or folder here, and {known} ({reason}): {REMEDY}") from error
    return _tables(found, columns, source)


def is_saved(folder: Path) -> bool:
    """Returns whether `save_to_disk` of Hugging Face `datasets` wrote a folder."""
    whole = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return whole or (folder / "dataset_dict.json").is_file()


def read_saved(folder: Path, columns: Columns) -> tuple[dict[str, Table], list[str]]:
    """Returns the tables of a folder that `save_to_disk` wrote, and notes on its splits. A data set alone is train.

    Raises:
        InputError: The folder is not whole, or the data set lacks a split or a column.
    """
    import datasets

    try:
        found: Any = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"folder {str(folder)!r} must be whole as save_to_disk wrote it, and cannot be read ({first_line(error)}): "
            "save it again, or write parquet files with to_parquet"
        ) from error
    splits = found if isinstance(found, Mapping) else {"train": found}
    return _tables(splits, columns, folder.name)


def _tables(found: Mapping[str, Any], columns: Columns, source: str) -> tuple[dict[str, Table], list[str]]:
    import datasets

    chosen = chosen_splits(found)
    if "train" not in chosen:
        raise InputError(f"data {source!r} must have a train split, and has {briefly_listed(found)}: {REMEDY}")
    notes = [f"{source} ({name}) is the {split} split" for split, name in chosen.items() if name != split]
    unread = [name for name in found if name not in chosen.values()]
    if unread:
        notes.append(f"{source}: splits that are not used: {briefly_listed(unread)}")
    tables: dict[str, Table] = {}
    for split, name in chosen.items():
        rows = found[name]
        origin = f"{source} ({name})"
        try:
            check_columns(rows.column_names, columns, origin)
        except NoTarget:
            if split == "train":
                raise
            notes.append(without_target(split, origin, columns))
            continue
        target = rows.features[columns.target] if columns.target else None
        tables[split] = Table(
            origin,
            {column: rows[column][:] for column in rows.column_names if column in columns.wanted},
            tuple(target.names) if isinstance(target, datasets.ClassLabel) else None,
            source,
            unused(rows.column_names, columns),
        )
    return tables, notes


def _reach_hub(name: str) -> None:
    """Checks that the hub can be reached, with one short request. `load_dataset` would try for half a minute.

    A data set that was loaded before is in the cache, so that the hub is not asked.

    Raises:
        OSError: The hub cannot be reached, or has no such data set.
    """
    import datasets
    import huggingface_hub

    if (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir():
        return
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=10)
    except (OSError, ValueError):
        raise
    except Exception as error:  # the base class of the HTTP client's errors differs between versions
        raise ConnectionError(str(error)) from error
