"""Rows of Hugging Face data sets, from the hub or from a folder. This is the only file that knows `datasets`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trbert.data.arrow_tables import class_names, python_values
from trbert.data.decoding import parsed_json, small_text
from trbert.data.folders import chosen_splits, unlabelled_split
from trbert.data.readers import Contents, NoTarget, check_columns, unused, without_target
from trbert.errors import InputError, TrbertError
from trbert.limits import Room
from trbert.tasks.rows import Columns, Table
from trbert.wording import briefly_listed, cut, first_line

REMEDY = "pass a folder, a file, train=a.csv,test=b.csv, or --data pages"
_UNLABELLED = "pass files or folders of texts"


def read_hub(
    source: str, columns: Columns, room: Room, *, without_labels: bool = False
) -> tuple[dict[str, Table], list[str]]:
    """Returns the tables of a data set on the Hugging Face hub, and notes on its splits.

    Args:
        source: its name, or `name:configuration`.
        columns: the columns to read.
        room: the memory that the data may take.
        without_labels: whether texts without labels are wanted: one table, in place of train.

    Raises:
        InputError: The hub cannot be reached or has no such data set, or the data set lacks a split or a column, or
            needs too much memory.
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
        what, remedy = ("--unlabelled", _UNLABELLED) if without_labels else ("data", REMEDY)
        raise InputError(f"{what} {source!r} is no file or folder here, and {known} ({reason}): {remedy}") from error
    return _tables(
        found,
        lambda name, origin: _loaded_split(found[name], origin, columns, room),
        columns,
        source,
        without_labels=without_labels,
    )


def _loaded_split(rows: Any, origin: str, columns: Columns, room: Room) -> Contents:
    """Returns what a split of a data set of the hub holds. Its pictures and sounds are not decoded."""
    import datasets

    check_columns(rows.column_names, columns, origin)
    wanted = [name for name in rows.column_names if name in columns.wanted]
    table = rows.select_columns(wanted).with_format("arrow")[:]
    target = rows.features[columns.target] if columns.target else None
    target = getattr(target, "feature", target)  # a row may have a list of labels
    return Contents(
        values=python_values(table.to_batches(), wanted, room, origin),
        others=unused(rows.column_names, columns),
        class_names=tuple(target.names) if isinstance(target, datasets.ClassLabel) else None,
    )


def is_saved(folder: Path) -> bool:
    """Returns whether `save_to_disk` of Hugging Face `datasets` wrote a folder."""
    whole = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return whole or (folder / "dataset_dict.json").is_file()


def read_saved(
    folder: Path, columns: Columns, room: Room, *, without_labels: bool = False
) -> tuple[dict[str, Table], list[str]]:
    """Returns the tables of a folder that `save_to_disk` wrote, and notes on its splits. A data set alone is train.

    The files are read here and not by `datasets`, which believes what they say: of their own size, of other files to
    read, and of the objects to make.

    Args:
        folder: the folder.
        columns: the columns to read.
        room: the memory that the data may take.
        without_labels: whether texts without labels are wanted: one table, in place of train.

    Raises:
        InputError: The folder is not whole, or the data set lacks a split or a column, or needs too much memory.
    """
    try:
        places = {"train": folder}
        if (folder / "dataset_dict.json").is_file():
            places = {name: folder / name for name in _names(folder / "dataset_dict.json", "splits")}
        return _tables(
            places,
            lambda name, origin: _saved_split(places[name], origin, columns, room),
            columns,
            folder.name,
            without_labels=without_labels,
        )
    except (TrbertError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises errors of nearly every kind for a damaged file
        raise InputError(
            f"folder {str(folder)!r} must be whole as save_to_disk wrote it, and cannot be read ({first_line(error)}): "
            "save it again, or write parquet files with to_parquet"
        ) from error


def _saved_split(folder: Path, origin: str, columns: Columns, room: Room) -> Contents:
    """Returns what a folder of one split holds."""
    import pyarrow

    information = parsed_json(small_text(folder / "dataset_info.json"))
    values: dict[str, list[Any]] = {}
    there: list[str] | None = None
    for file in _names(folder / "state.json", "_data_files", "filename"):
        if not (folder / file).is_file():
            raise ValueError(f"{file} is missing")
        with pyarrow.memory_map(str(folder / file)) as opened, pyarrow.ipc.open_stream(opened) as stream:
            if there is not None and stream.schema.names != there:
                raise ValueError(f"{file} has other columns than the files before it")
            there = stream.schema.names
            check_columns(there, columns, origin)
            wanted = [name for name in there if name in columns.wanted]
            for name, part in python_values(stream, wanted, room, origin).items():
                values.setdefault(name, []).extend(part)
    if there is None:
        raise ValueError("state.json names no file")
    names = class_names(information.get("features") or {}, columns.target)
    return Contents(values=values, others=unused(there, columns), class_names=names)


def _names(path: Path, member: str, inner: str | None = None) -> list[str]:
    """Returns the names of files or folders that a JSON file lists. They lie beside it.

    Args:
        path: the file.
        member: the list in its object.
        inner: the member of each item of the list that is the name; None where the item is the name.

    Raises:
        ValueError: It lists none, or one that lies elsewhere.
    """
    names = [item[inner] if inner else item for item in parsed_json(small_text(path))[member]]
    wrong = [name for name in names if not isinstance(name, str) or Path(name).name != name or name == ".."]
    if wrong:
        raise ValueError(f"{path.name} must name what lies beside it, and names {cut(wrong[0])}")
    return names


def _tables(
    found: Iterable[str],
    read: Callable[[str, str], Contents],
    columns: Columns,
    source: str,
    *,
    without_labels: bool = False,
) -> tuple[dict[str, Table], list[str]]:
    """Returns the table of each split of a data set, and notes on its splits.

    Args:
        found: the names of its splits.
        read: reads a split, given its name and how messages call it.
        columns: the columns to read.
        source: what the user names.
        without_labels: whether texts without labels are wanted: one table, in place of train.
    """
    there = list(found)
    chosen = unlabelled_split(there) if without_labels else chosen_splits(there)
    if "train" not in chosen and without_labels:
        raise InputError(
            f"--unlabelled {source!r} must have a split unsupervised, unlabelled or train, and has "
            f"{briefly_listed(there)}: pass another data set, or files of texts"
        )
    if "train" not in chosen:
        raise InputError(f"data {source!r} must have a train split, and has {briefly_listed(there)}: {REMEDY}")
    told = f"{source} ({{}}) is {'read' if without_labels else 'the {} split'}"
    notes = [told.format(name, split) for split, name in chosen.items() if name != split]
    unread = [name for name in there if name not in chosen.values()]
    if unread:
        notes.append(f"{source}: splits that are not used: {briefly_listed(unread)}")
    tables: dict[str, Table] = {}
    for split, name in chosen.items():
        origin = f"{source} ({name})"
        try:
            contents = read(name, origin)
        except NoTarget:
            if split == "train":
                raise
            notes.append(without_target(split, origin, columns))
            continue
        tables[split] = Table(origin, contents.values, contents.class_names, source, contents.others)
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
