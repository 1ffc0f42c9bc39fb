"""Reads JSON files: rows one after the other, lists of rows, and the forms in which pandas writes a table."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trbert.data.decoding import read_text
from trbert.data.folders import split_of
from trbert.data.readers import Contents, Format, check_columns, empty_table, unused
from trbert.data.squad import is_squad, squad_rows
from trbert.errors import InputError
from trbert.limits import CELL, Room
from trbert.tasks.rows import Columns
from trbert.wording import briefly_listed, listed, shown

_HALF = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: Path, columns: Columns, format: Format, room: Room) -> Contents:
    """Returns the columns of a JSON file. A row that lacks one of them has None there.

    Args:
        path: the file. It may hold a row a line; rows that are indented; a list of rows; or one object that holds the
            columns, or the rows by their index, or one list of rows; or SQuAD's own form.
        columns: the columns to read.
        format: what the user says about the file.
        room: the memory that the data may take.

    Raises:
        InputError: The file cannot be decoded or is not JSON, holds no rows, lacks a column, or needs too much memory.
    """
    content = read_text(path, format.encoding, room)
    room.take(_size_of_values(content), path.name)
    text = content.decode()
    records, notes = _records(_values(text, path.name), columns, path.name)
    if not records:
        raise empty_table(path.name)
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(
                f"row {row} of {path.name} must be an object with {listed(name for _, name in columns.needed)}, "
                f"and is {shown(record)}: write one object for each row"
            )
    names = list(dict.fromkeys(name for record in records for name in record))
    check_columns(names, columns, path.name, _nested_remedy(records[0], columns))
    wanted = [name for name in names if name in columns.wanted]
    values = {name: [record.get(name) for record in records] for name in wanted}
    if _ESCAPED_HALF.search(text):
        notes += _mend_halves(values)
    return Contents(values=values, others=unused(names, columns), notes=tuple(notes))


def _size_of_values(content: bytes) -> int:
    """Returns about how many bytes the values of a JSON text take in Python, besides their characters."""
    values = sum(map(content.count, (b",", b":", b"[")))
    return CELL * (values + 4 * content.count(b"{"))  # an empty object takes as much as four other values


def _values(text: str, origin: str) -> list[Any]:
    """Returns the JSON values that stand one after the other in a text.

    Raises:
        InputError: Something in it is not JSON. The message names the line.
    """
    # splitlines() would also split at a U+2028 within a JSON string.
    lines = text.split("\n")
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except (ValueError, RecursionError):
        pass  # the values are longer than a line, or wrong
    decoder, blank = json.JSONDecoder(), re.compile(r"\s*")
    values: list[Any] = []
    at = 0
    try:
        while (at := blank.match(text, at).end()) < len(text):  # type: ignore[union-attr]
            value, at = decoder.raw_decode(text, at)
            values.append(value)
    except json.JSONDecodeError as error:
        line = text.count("\n", 0, error.pos) + 1
        if re.match(r"\s*[{\[]+\s*'", text):
            raise InputError(
                f"line {line} of {origin} must be JSON, and is Python with single quotation marks: convert the file, "
                "python -c 'import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]' "
                "< OLD > NEW.jsonl"
            ) from error
        there = text[error.pos :].split("\n", 1)[0]
        found = f"{error.msg}, before {there[:40]!r}" if there else f"{error.msg}, at the end of the line or file"
        raise InputError(
            f"line {line} of {origin} must be JSON, and is not ({found}): correct the line, or write one object a line"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        raise InputError(f"{origin} must be JSON that can be read, and is not ({error}): correct it") from error
    return values


def _records(values: list[Any], columns: Columns, origin: str) -> tuple[list[Any], list[str]]:
    """Returns the rows that JSON values hold, and notes on where they were found.

    Raises:
        InputError: The values hold several tables, or a table whose columns have no names.
    """
    if len(values) != 1:
        return values, []
    (value,) = values
    if isinstance(value, list):
        return value, []
    if not isinstance(value, dict):
        return values, []
    if not value:
        return [], []
    if is_squad(value):
        return squad_rows(value, origin), ["the rows are the questions of a file of SQuAD's form"]
    needed = [name for _, name in columns.needed]
    parts = list(value.values())
    is_row = columns.words and not all(_is_list_of(value.get(name), list) for name in needed)
    if "columns" in value and _is_list_of(value.get("data"), list):  # pandas: orient="split"
        if not _is_list_of(value["columns"], str):
            raise InputError(
                f'{origin} must have a list of strings as "columns" beside its "data", and has '
                f"{shown(value['columns'])}: write one name for each column"
            )
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"]], []
    if all(isinstance(part, dict) and part for part in parts):
        # pandas: orient="index" has a row under each name, orient="columns" a column.
        if any(name in part for part in parts for name in needed):
            return parts, []
        return _from_columns({name: list(part.values()) for name, part in value.items()}, origin), []
    if _is_columns(value):
        return ([value] if is_row else _from_columns(value, origin)), []
    tables = {name: part for name, part in value.items() if _is_list_of(part, dict) or _is_list_of(part, list)}
    if len(tables) > 1 and not set(needed) <= set(value):
        lists = any(_is_list_of(part, list) for part in tables.values())
        rows = f" (an object with {listed(needed)} for each row)" if lists else ""
        remedy = (
            f"save each in a file of its own, such as {next(iter(tables))}.jsonl{rows}, and name the files, "
            "train=a.jsonl,test=b.jsonl"
            if any(map(split_of, tables))
            else "save the one to be used in a file of its own"
        )
        raise InputError(f"{origin} must hold one list of rows, and holds {briefly_listed(tables)}: {remedy}")
    if len(tables) == 1 and not set(needed) <= set(value):
        (name,) = tables
        return tables[name], [f"the rows are those of the list {name!r}"]
    if all(isinstance(part, list) for part in parts) and not is_row:
        return _from_columns(value, origin), []
    return values, []


def _is_columns(value: Mapping[str, Any]) -> bool:
    """Returns whether an object holds a table by its columns, of which some hold lists or objects: not several tables.

    All are lists of one length, none has the name of a split, and not all hold objects.
    """
    parts = list(value.values())
    lists = len(parts) > 1 and all(isinstance(part, list) for part in parts)
    return (
        lists
        and len(set(map(len, parts))) == 1
        and not any(map(split_of, value))
        and not all(_is_list_of(part, dict) for part in parts)
    )


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, kind) for row in value)


def _from_columns(table: Mapping[str, Sequence[Any]], origin: str) -> list[dict[str, Any]]:
    """Returns the rows of a table that is written a column after the other.

    Raises:
        InputError: A column is longer than another one.
    """
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name!r} {length}" for name, length in list(lengths.items())[:10])
        raise InputError(
            f"{origin} must have columns of one length, and has these numbers of values: {found}: "
            "write one object for each row"
        )
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def _nested_remedy(record: Mapping[str, Any], columns: Columns) -> str:
    """Returns where a missing column may be: within another value; "" if it is not there either.

    A list is no text, such as the answers' texts in files of SQuAD's columns.
    """
    one_text = len(columns.inputs) == 1 and not columns.words
    for _, name in columns.needed:
        holder = next((key for key, part in record.items() if isinstance(part, dict) and name in part), None)
        if name not in record and holder is not None and not (one_text and isinstance(record[holder][name], list)):
            return f" ({name!r} stands within {holder!r}: write it one level up, since nested values are not read)"
    return ""


def _mended(value: Any) -> Any:
    """Returns a value with halves of characters replaced, in the strings that it holds, too; else the value itself."""
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value) if _HALF.search(value) else value
    if isinstance(value, list):
        parts = [_mended(part) for part in value]
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else parts
    if isinstance(value, dict):
        named = {name: _mended(part) for name, part in value.items()}
        return value if all(named[name] is value[name] for name in value) else named
    return value


def _mend_halves(values: Mapping[str, list[Any]]) -> list[str]:
    """Replaces halves of characters by U+FFFD, and returns notes on them. No tokenizer takes such a half.

    JSON writes a character beyond U+FFFF as two halves. A text that was cut between them ends in one.
    """
    notes = []
    for name, column in values.items():
        rows = []
        for row, value in enumerate(column):
            mended = _mended(value)
            if mended is not value:
                column[row] = mended
                rows.append(row)
        if rows:
            notes.append(
                f"{len(rows)} values in column {name!r}, the first in row {rows[0]}, hold half a character "
                "(a \\ud… that stands alone), which is read as \ufffd"
            )
    return notes
