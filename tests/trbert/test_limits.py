"""The memory that data may take: what a small file may grow to, whatever its format."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from trbert.data import sources
from trbert.data.readers import Format
from trbert.data.sources import Source, read_source
from trbert.errors import InputError
from trbert.limits import MAX_BYTES, MAX_SIZE, Room, parse_size, shown_size
from trbert.tasks.rows import Columns

MB = 10**6


def read(source: object, most: int = MAX_BYTES) -> Source:
    return read_source(str(source), Columns(("text",), "label"), Format(max_bytes=most))


def refusal(source: object, most: int) -> str:
    with pytest.raises(InputError) as caught:
        read(source, most)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500 * MB), ("8GB", 8000 * MB), (" 1.5 gb ", 1500 * MB), ("123", 123), ("2kB", 2000)]
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0GB", "-1GB", "8 apples", "1e9", "nan", "GB", "9" * 40, "٣GB", "0.1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_size(text)
    assert str(caught.value) == (
        f"--max-data-size must be a size above 0, and is {text!r}: write for example 500MB or 8GB"
    )


def test_the_default_is_the_same_in_both_forms() -> None:
    assert parse_size(MAX_SIZE) == MAX_BYTES == Format().max_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [(7, "7 bytes"), (4 * 10**9, "4 GB"), (6_240 * MB, "6.2 GB"), (209 * MB, "209 MB"), (2000, "2 KB")],
)
def test_a_size_is_shown(size: int, text: str) -> None:
    assert shown_size(size) == text


def test_what_is_taken_is_no_longer_there() -> None:
    room = Room(100)
    room.take(60, "a")
    room.check(40, "b")
    with pytest.raises(InputError, match="at most 100 bytes in memory, and b brings them to 101 bytes or more"):
        room.take(41, "b")
    assert room.taken == 60


def test_a_parquet_file_that_grows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["a" * 100_000] * 100, "label": [0, 1] * 50})
    pyarrow.parquet.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 3000
    assert refusal(path, 8 * MB) == (
        "the data must take at most 8 MB in memory, and a.parquet brings them to 10 MB or more: use a smaller file, "
        "or pass a larger --max-data-size, such as 1GB, if you trust the file and the machine has the memory"
    )
    assert len(read(path).tables["train"]) == 100


def test_a_parquet_file_is_counted_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 1000] * 20_000, "label": [0, 1] * 10_000}), path)
    assert "a.parquet brings them to 5.2 MB or more" in refusal(path, 5 * MB)  # and not to 22 MB


def test_a_parquet_file_that_says_it_has_too_many_rows_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.nulls(MB), "label": pyarrow.nulls(MB)}), path)
    monkeypatch.setattr("trbert.data.arrow_tables.python_values", lambda *_: pytest.fail("it was read"))
    assert "a.parquet brings them to 120 MB or more" in refusal(path, 100 * MB)


def test_lists_within_cells_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    lists = pyarrow.array([[None] * 100_000] * 10, pyarrow.list_(pyarrow.null()))
    pyarrow.parquet.write_table(pyarrow.table({"text": lists, "label": [0] * 10}), path)
    assert "a.parquet brings them to 60 MB or more" in refusal(path, 50 * MB)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json", "a.txt"])  # a packed file may have any name
def test_a_packed_file_that_grows_is_refused_before_it_is_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"text,label\n" + b"a" * 20 * MB))
    tracemalloc.start()
    told = refusal(tmp_path / name, MB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told.startswith(f"the data must take at most 1 MB in memory, and {name} brings them to 1 MB or more: ")
    assert peak < 10 * MB


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(10**12)  # it takes no room on the disk
    assert "a.csv brings them to 1 TB or more" in refusal(tmp_path / "a.csv", MAX_BYTES)


def test_the_cells_of_many_short_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "a,b\n" * 10_000)
    assert "a.csv brings them to 1.2 MB or more" in refusal(tmp_path / "a.csv", MB)
    (tmp_path / "b.csv").write_text("text, label\n" + "a, b\n" * 10_000)  # which is read row by row
    with pytest.raises(InputError, match=r"b\.csv brings them to 1 MB or more"):
        read(tmp_path / "b.csv", MB)


def test_quotation_marks_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"' + '"' * 100_000 + '",b\n')
    assert "a.csv brings them to 2.5 MB or more" in refusal(tmp_path / "a.csv", MB)


@pytest.mark.parametrize("value", ["{},", "[],", '{"a":1},', "1,"])
def test_the_values_of_a_json_file_are_counted(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.json").write_text("[" + value * 20_000 + "1]")
    assert "a.json brings them to " in refusal(tmp_path / "a.json", MB)


def test_all_files_of_a_source_share_the_memory(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + f"{'a' * 600_000},b\n")
    assert "train.csv brings them" not in (told := refusal(tmp_path, MB))
    assert "test.csv brings them to 1.2 MB or more" in told
    assert set(read(tmp_path, 2 * MB).tables) == {"train", "test"}


def test_a_saved_data_set_is_counted(tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["a" * MB] * 3, "label": [0, 1, 0]})
    with pyarrow.OSFile(str(tmp_path / "data.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as to:
        to.write_table(table)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (tmp_path / "dataset_info.json").write_text("{}")
    assert "(train) brings them to 3 MB or more" in refusal(tmp_path, 2 * MB)
    assert len(read(tmp_path).tables["train"]) == 3


def test_the_end_of_the_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sources, "read_csv", fail)
    assert (
        refusal(tmp_path / "a.csv", MB)
        == (
            f"data '{tmp_path}/a.csv' must fit in the memory of this machine, and does not, after 0 bytes of them: use "
            "smaller files, or a machine with more memory"
        )
        or len(str(tmp_path)) > 40
    )
