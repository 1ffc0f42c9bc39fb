"""Turns the bytes of a file into characters: unpacks gzip, finds the encoding, names what is no text."""

import errno
import gzip
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trbert.errors import InputError
from trbert.limits import Room, shown_size

_FOREIGN = (
    (rb"BZh[1-9]1AY&SY", "a bzip2 archive", "unpack it with bunzip2"),
    (rb"\xfd7zXZ\0", "an xz archive", "unpack it with unxz"),
    (rb"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it with unzstd"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (rb"PK\x03\x04(?s:.*)xl/", "an Excel workbook", "save the sheet as csv (UTF-8)"),
    (rb"PK\x03\x04", "a zip archive", "unpack it with unzip"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", "save the sheet as csv (UTF-8)"),
    (rb"(?s:.{257})ustar", "a tar archive", "unpack it with tar -xf"),
    (rb"PAR1(?s:.*)PAR1\Z", "a parquet file", "let its name end in .parquet"),
    (rb"ARROW1\0\0", "an Arrow file", "save it as parquet"),
    (rb"SQLite format 3\0", "an SQLite database", "save the table as csv"),
    (rb"\x89HDF\r\n", "an HDF5 file", "save the table as csv or parquet"),
    (rb"\x80[\x02-\x05](?s:.*)\.\Z", "a pickle", "save the table as csv or parquet, since a pickle can run any code"),
    (rb"%PDF-", "a PDF", "save its texts as csv"),
    (rb"version https://git-lfs\.", "a pointer of Git LFS, not the file itself", "fetch the file with git lfs pull"),
    (rb"\s*<(?i:!doctype html|html)", "a web page", "download the raw file"),
)
"""What a file that is no text begins with, its name, and what can be done about it."""

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""The byte order marks, each with the encoding that it stands for. The marks of UTF-32 come first, because one of them
begins like one of UTF-16."""

_SAMPLE = 4096
_CHUNK = 1 << 24
_LABEL_FILE = 100_000_000
"""The most bytes of a file that names or renames classes."""


def read_text(path: Path, encoding: str | None, room: Room) -> bytes:
    """Returns the characters of a text file as UTF-8, without a byte order mark.

    A file that gzip has packed is unpacked, whatever its name is.

    Args:
        path: the file.
        encoding: the encoding of the characters. None takes the one that a byte order mark names, or else UTF-8.
        room: the memory that the data may take.

    Raises:
        InputError: The file cannot be opened, is no text, is in another encoding, or needs too much memory.
    """
    content = read_bytes(path, room)
    refuse_foreign(content, path)
    if encoding is not None:
        text = _decode(content, encoding, path, given=True)
    elif marked := next((name for mark, name in _MARKS if content.startswith(mark)), None):
        text = _decode(content, marked, path, given=False)
    else:
        _refuse_unmarked_utf16(content, path)
        if not content.isascii():
            _decode(content, "utf-8", path, given=False)
        return content
    return text.removeprefix("\ufeff").encode(errors="replace")


def read_bytes(path: Path, room: Room) -> bytes:
    """Returns the bytes of a file. Those of a file that gzip has packed are unpacked piece by piece.

    Args:
        path: the file.
        room: the memory that the data may take.

    Raises:
        InputError: It cannot be opened or unpacked, or needs too much memory.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                room.check(path.stat().st_size, path.name)
                return _drained(file.read, room, path.name)
            try:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    return _drained(unpacked.read, room, path.name)
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(
                    f"{path.name} must be a whole gzip file, and cannot be unpacked ({error}): copy it again"
                ) from error
    except OSError as error:
        raise InputError(
            f"data file {str(path)!r} must be one that you may read, and cannot be opened ({error.strerror}): "
            "check its permissions"
        ) from error


def parsed_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Returns the value of a JSON text.

    Args:
        text: the text.
        pairs: what makes a value of the pairs of each object.

    Raises:
        ValueError: It is no JSON, or its brackets are nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def small_text(path: Path) -> str:
    """Returns the text of a file that names or renames classes.

    Raises:
        OSError: It cannot be opened, or is a pipe or a device, which might never end.
        ValueError: It is no UTF-8, or is far too long.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device")
    with path.open("rb") as file:
        content = file.read(_LABEL_FILE + 1)
    if len(content) > _LABEL_FILE:
        raise ValueError(f"it has more than {shown_size(_LABEL_FILE)}")
    return content.decode("utf-8-sig")


def _drained(read: Callable[[int], bytes], room: Room, origin: str) -> bytes:
    chunks: list[bytes] = []
    while chunk := read(min(_CHUNK, room.left + 1)):
        room.take(len(chunk), origin)
        chunks.append(chunk)
    return b"".join(chunks)


def refuse_foreign(content: bytes, path: Path) -> None:
    """Refuses what has a format of its own, such as an archive, whatever the name of the file is.

    Raises:
        InputError: The bytes are such a format.
    """
    ends = content if len(content) <= 2 * _SAMPLE else content[:_SAMPLE] + content[-_SAMPLE:]
    for pattern, name, remedy in _FOREIGN:
        if re.match(pattern, ends):
            raise InputError(f"{path.name} must hold what its name says, and is {name}: {remedy}")


def _refuse_unmarked_utf16(content: bytes, path: Path) -> None:
    """Refuses a file in which every second byte is often zero. UTF-8 would read the zeros as characters."""
    even, odd = content[:_SAMPLE:2].count(0), content[1:_SAMPLE:2].count(0)
    if max(even, odd) * 50 > len(content[:_SAMPLE]) and min(even, odd) == 0:
        order = "utf-16-le" if odd else "utf-16-be"
        raise InputError(
            f"{path.name} must be UTF-8 or begin with a byte order mark, and has a zero in every second byte as "
            f"UTF-16 has: set --encoding {order}"
        )


def _decode(content: bytes, encoding: str, path: Path, *, given: bool) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = f"byte 0x{content[error.start]:02x} at position {error.start} (line {line})"
        if given:
            raise InputError(
                f"--encoding must be the encoding of {path.name}, and {encoding!r} does not fit its {place}: "
                "name another encoding"
            ) from error
        before = content[max(0, error.start - 20) : error.start].decode("utf-8", errors="ignore")
        after = f", after {before!r}" if before.strip() and encoding.startswith("utf-8") else ""
        raise InputError(
            f"{path.name} must be {encoding.removesuffix('-sig').upper()}, and its {place}{after} does not fit: "
            "name its encoding, for example --encoding cp1252 for Western Europe or cp1251 for Cyrillic"
        ) from error
    except (LookupError, ValueError) as error:
        raise InputError(
            f"--encoding must be one that Python knows for texts, and is {encoding!r}: "
            "write for example cp1252, latin-1, utf-16-le or gb18030"
        ) from error
