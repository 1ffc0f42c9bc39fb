"""Reads parquet files."""

import json
from pathlib import Path
from typing import Any

from trbert.data.decoding import read_bytes, refuse_foreign
from trbert.data.readers import Contents, check_columns, unreadable, unused
from trbert.tasks.rows import Columns


def read_parquet(path: Path, columns: Columns) -> Contents:
    """Returns the columns of a parquet file, and the names of the classes where Hugging Face `datasets` wrote them.

    Raises:
        InputError: The file is no parquet file, is damaged, or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        check_columns(schema.names, columns, path.name)
        wanted = [name for name in schema.names if name in columns.wanted]
        table = pyarrow.parquet.read_table(path, columns=wanted, partitioning=None)
        values = {name: _plain(table[name]).to_pylist() for name in wanted}
    except (pyarrow.ArrowInvalid, OSError) as error:
        content = read_bytes(path)
        if not content.startswith(b"PAR1"):
            refuse_foreign(content, path)
        raise unreadable(path, "parquet", error) from error
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(columns.target, {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return Contents(values=values, others=unused(schema.names, columns), class_names=tuple(names) if names else None)


def _plain(column: Any) -> Any:
    """Returns a column with its bytes as strings and its whole decimals as integers, as some programs write them.

    A column of other values is returned as it is. So is one whose bytes are no UTF-8.
    """
    import pyarrow

    of = pyarrow.types
    wanted = None
    if of.is_binary(column.type) or of.is_large_binary(column.type):
        wanted = pyarrow.large_string()
    elif of.is_decimal(column.type) and column.type.scale == 0:
        wanted = pyarrow.int64()
    try:
        return column if wanted is None else column.cast(wanted)
    except pyarrow.ArrowInvalid:
        return column
