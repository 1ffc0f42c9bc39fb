"""Bytes of text files become characters, or the message says what they are."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from trbert.data.decoding import read_text
from trbert.errors import InputError
from trbert.limits import MAX_BYTES, Room

WORDS = "Grüße, très bon 🙂\n"


def refusal(path: Path, encoding: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_text(path, encoding, Room(MAX_BYTES))
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_utf_8_and_marked_files_are_read_packed_or_not(tmp_path: Path, encoding: str, packed: bool) -> None:
    content = WORDS.encode(encoding)
    (tmp_path / "a.csv").write_bytes(gzip.compress(content) if packed else content)
    assert read_text(tmp_path / "a.csv", None, Room(MAX_BYTES)).decode() == WORDS


def test_big_endian_utf_16_is_read_by_its_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xfe\xff" + WORDS.encode("utf-16-be"))
    assert read_text(tmp_path / "a.csv", None, Room(MAX_BYTES)).decode() == WORDS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_mark_is_no_character_where_the_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes(("\ufeff" + WORDS).encode(encoding))
    assert read_text(tmp_path / "a.csv", encoding, Room(MAX_BYTES)).decode() == WORDS


def test_another_encoding_is_told_with_its_place_and_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\nschön,A\n".encode("cp1252"))
    assert refusal(tmp_path / "a.csv") == (
        "a.csv must be UTF-8, and its byte 0xf6 at position 14 (line 2), after 'text,label\\nsch' does not fit: "
        "name its encoding, for example --encoding cp1252 for Western Europe or cp1251 for Cyrillic"
    )
    assert read_text(tmp_path / "a.csv", "cp1252", Room(MAX_BYTES)).decode() == "text,label\nschön,A\n"


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("words", ["text,label\ngut,A\n", "очень хорошо,да\n" * 9])
def test_utf_16_without_a_mark_is_told_with_its_name(tmp_path: Path, order: str, words: str) -> None:
    (tmp_path / "a.csv").write_bytes(words.encode(order))
    assert refusal(tmp_path / "a.csv").endswith(f"set --encoding {order}")
    assert read_text(tmp_path / "a.csv", order, Room(MAX_BYTES)).decode() == words


@pytest.mark.parametrize("encoding", ["nope", "base64", "a\0b", "undefined"])
def test_an_encoding_that_is_none_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes(b"text")
    assert refusal(tmp_path / "a.csv", encoding) == (
        f"--encoding must be one that Python knows for texts, and is {encoding!r}: "
        "write for example cp1252, latin-1, utf-16-le or gb18030"
    )


def test_an_encoding_that_does_not_fit_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\n\xe4")
    assert refusal(tmp_path / "a.csv", "ascii") == (
        "--encoding must be the encoding of a.csv, and 'ascii' does not fit its byte 0xe4 at position 5 (line 2): "
        "name another encoding"
    )


def test_a_gzip_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(WORDS.encode() * 50)[:-9])
    told = refusal(tmp_path / "a.csv.gz")
    assert told.startswith("a.csv.gz must be a whole gzip file, and cannot be unpacked (")
    assert told.endswith("): copy it again")


def zipped(name: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "x" * 20_000)
    return archive.getvalue()


def parquet() -> bytes:
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (bz2.compress(b"text"), "is a bzip2 archive: unpack it with bunzip2"),
        (lzma.compress(b"text"), "is an xz archive: unpack it with unxz"),
        (b"\x28\xb5\x2f\xfdabc", "is a zstd archive: unpack it with unzstd"),
        (zipped("a.csv"), "is a zip archive: unpack it with unzip"),
        (gzip.compress(zipped("a.csv")), "is a zip archive: unpack it with unzip"),
        (zipped("xl/workbook.xml"), "is an Excel workbook: save the sheet as csv (UTF-8)"),
        (parquet(), "is a parquet file: let its name end in .parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "fetch the file with git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "is a web page: download the raw file"),
    ],
)
def test_what_is_no_text_is_told_by_its_name(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    found = refusal(tmp_path / "a.csv")
    assert found.startswith("a.csv must hold what its name says, and is ")
    assert found.endswith(told)


@pytest.mark.parametrize("words", ["PK is a name", "<b>bold</b>", "PAR1 is a word", "BZh9 too"])
def test_a_text_that_begins_a_little_like_another_format_is_a_text(tmp_path: Path, words: str) -> None:
    (tmp_path / "a.csv").write_text(words)
    assert read_text(tmp_path / "a.csv", None, Room(MAX_BYTES)).decode() == words
