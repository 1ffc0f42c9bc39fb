"""Reads Arrow tables: those of parquet files, and those that Hugging Face `datasets` keeps."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trbert.data.decoding import parsed_json, read_bytes, refuse_foreign
from trbert.data.readers import Contents, check_columns, unreadable, unused
from trbert.errors import InputError, TrbertError
from trbert.limits import CELL, Room
from trbert.tasks.rows import Columns
from trbert.wording import cut, first_line, shown

_ROWS = 256
"""The rows that are turned into Python's values at a time. The memory that they need is counted before."""


def read_parquet(path: Path, columns: Columns, room: Room) -> Contents:
    """Returns the columns of a parquet file, and the names of the classes where Hugging Face `datasets` wrote them.

    Args:
        path: the file.
        columns: the columns to read.
        room: the memory that the data may take. The rows that the file says it has are counted first, and the largest
            of its groups of rows. Then every piece of it is counted, because the file may say too little.

    Raises:
        InputError: The file is no parquet file, is damaged, lacks a column, or needs too much memory. Or its metadata
            names the classes wrongly.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_columns(schema.names, columns, path.name)
            wanted = [name for name in schema.names if name in columns.wanted]
            rows = file.metadata.num_rows
            # What it says of each column is not asked for: pyarrow ends the process if that is damaged.
            room.check(CELL * rows * len(wanted), path.name)
            # A row group may be a single piece, and is read before it can be counted.
            groups = (file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
            room.check(max(groups, default=0), path.name)
            values = python_values(file.iter_batches(batch_size=_ROWS, columns=wanted), wanted, room, path.name)
    except (TrbertError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises errors of nearly every kind for a damaged file
        with path.open("rb") as opened:
            foreign = opened.read(4) != b"PAR1"
        if foreign:
            refuse_foreign(read_bytes(path, room), path)
        raise unreadable(path, "parquet", error) from error
    for name, column in values.items():
        if len(column) != rows:
            raise unreadable(path, "parquet", ValueError(f"column {name!r} has {len(column)} rows of {rows}"))
    try:
        metadata = parsed_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = class_names(_member(_member(metadata, "info"), "features"), columns.target)
    except ValueError as error:
        raise InputError(
            f"{path.name} must have sound metadata of Hugging Face datasets, or none, and has wrong ones "
            f"({first_line(error)}): write the file without them, python -c 'import pyarrow.parquet as p; "
            'p.write_table(p.read_table("OLD").replace_schema_metadata(), "NEW.parquet")\''
        ) from error
    return Contents(values=values, others=unused(schema.names, columns), class_names=names)


def class_names(features: Any, target: str) -> tuple[str, ...] | None:
    """Returns the names of the classes that the features of a data set give; None where they give none.

    Args:
        features: what Hugging Face `datasets` writes of each column.
        target: the column of the labels.

    Raises:
        ValueError: They are not of that form, or the names are no different strings.
    """
    if not isinstance(features, Mapping):
        raise ValueError(f"the features must be an object, and are {shown(features)}")
    feature = features.get(target) if target else None
    if isinstance(feature, Mapping) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")  # a row has a list of labels
    if not isinstance(feature, Mapping) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"the class names of {target!r} must be a list of strings, and are {shown(names)}")
    if len(set(names)) < len(names):
        ((twice, _),) = Counter(names).most_common(1)
        raise ValueError(f"the class names of {target!r} must be different, and {cut(twice)} stands there twice")
    return tuple(names)


def python_values(batches: Iterable[Any], names: Sequence[str], room: Room, origin: str) -> dict[str, list[Any]]:
    """Returns columns as lists of Python's values.

    Bytes become strings and whole decimals become integers, as some programs write them. Bytes that are no UTF-8 stay.

    Args:
        batches: the record batches of the table. They may be wrong, and are checked.
        names: the columns.
        room: the memory that the data may take.
        origin: the name of the table, for messages.

    Raises:
        InputError: The values need too much memory.
        pyarrow.ArrowException: A batch is wrong.
    """
    values: dict[str, list[Any]] = {name: [] for name in names}
    for batch in batches:
        for name in names:
            whole = batch.column(name)
            whole.validate(full=True)  # wrong offsets would let pyarrow read anywhere in memory
            for piece in _pieces(whole):
                values[name] += _piece_values(piece, room, origin)
    return values


def _member(holder: Any, name: str) -> Any:
    """Returns a member of a JSON object, or an empty object where it is missing.

    Raises:
        ValueError: The holder is no object.
    """
    if not isinstance(holder, Mapping):
        raise ValueError(f"they must be an object that may hold {name!r}, and are {shown(holder)}")
    return {} if holder.get(name) is None else holder[name]


def _pieces(column: Any) -> Iterator[Any]:
    for start in range(0, len(column), _ROWS):
        yield column.slice(start, _ROWS)


def _piece_values(piece: Any, room: Room, origin: str) -> list[Any]:
    """Returns the values of a short array, after their size was taken from the room."""
    import pyarrow

    if isinstance(piece, pyarrow.ExtensionArray):
        return _piece_values(piece.storage, room, origin)
    if isinstance(piece, pyarrow.DictionaryArray):
        # Other rows than these may use most of the dictionary, so that only the used values are looked at.
        piece = piece.dictionary.take(piece.indices)
        return _piece_values(piece, room, origin)
    plain = _plain(piece)
    room.take(plain.nbytes + CELL * _count(plain), origin)
    found: list[Any] = plain.to_pylist()
    return found


def _count(array: Any) -> int:
    """Returns how many values an array has, with those that are nested in them."""
    import pyarrow

    of, kind = pyarrow.types, array.type
    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind) or of.is_map(kind):
        return len(array) + _count(array.flatten())
    if of.is_struct(kind):
        return len(array) + sum(map(_count, array.flatten()))
    if of.is_nested(kind) or of.is_run_end_encoded(kind):
        raise TypeError(f"its columns must hold plain values, lists or structs, and one holds {str(kind)[:60]}")
    return len(array)


def _plain(array: Any) -> Any:
    """Returns an array with its bytes as strings and its whole decimals as integers.

    An array of other values is returned as it is. So is one whose bytes are no UTF-8.
    """
    import pyarrow

    of, kind = pyarrow.types, array.type
    wanted = None
    if of.is_binary(kind) or of.is_large_binary(kind) or of.is_string_view(kind) or of.is_binary_view(kind):
        wanted = pyarrow.large_string()
    elif of.is_decimal(kind) and kind.scale == 0:
        wanted = pyarrow.int64()
    try:
        return array if wanted is None else array.cast(wanted)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return array
