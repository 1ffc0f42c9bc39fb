"""Arrow tables that others wrote: damaged parquet files, wrong metadata, and types that hold no text."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trbert.data.readers import Format
from trbert.data.sources import Source, read_source
from trbert.data.splits import load_splits
from trbert.errors import InputError, TrbertError
from trbert.tasks.rows import Columns

COLUMNS = {"text": ["one", "two", "three", "four"], "label": [0, 1, 0, 1]}


def read(source: object) -> Source:
    return read_source(str(source), Columns(("text",), "label"), Format())


def refusal(source: object) -> str:
    with pytest.raises(InputError) as caught:
        read(source)
    return str(caught.value)


def written(folder: Path, columns: dict[str, Any], metadata: bytes | None = None) -> Path:
    table = pyarrow.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


def features(**label: object) -> bytes:
    return json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", **label}}}}).encode()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"[" * 100_000, "its brackets are nested too deeply"),
        (b"\xff\xfe\xfa", "'utf-16-le' codec can't decode byte 0xfa in position 2: truncated data"),
        (b"[]", "they must be an object that may hold 'info', and are the list []"),
        (b'{"info": 3}', "they must be an object that may hold 'features', and are the int 3"),
        (b'{"info": {"features": [1]}}', "the features must be an object, and are the list [1]"),
        (features(), "the class names of 'label' must be a list of strings, and are the NoneType None"),
        (features(names="ab"), "the class names of 'label' must be a list of strings, and are the str 'ab'"),
        (features(names=[]), "the class names of 'label' must be a list of strings, and are the list []"),
        (features(names=["a", 1]), "the class names of 'label' must be a list of strings, and are the list ['a', 1]"),
        (features(names=["a", "b", "a"]), "the class names of 'label' must be different, and 'a' stands there twice"),
    ],
)
def test_wrong_metadata_are_refused(tmp_path: Path, metadata: bytes, reason: str) -> None:
    assert refusal(written(tmp_path, COLUMNS, metadata)) == (
        f"a.parquet must have sound metadata of Hugging Face datasets, or none, and has wrong ones ({reason}): write "
        "the file without them, python -c 'import pyarrow.parquet as p; "
        'p.write_table(p.read_table("OLD").replace_schema_metadata(), "NEW.parquet")\''
    )


@pytest.mark.parametrize(
    "metadata", [b"{}", b'{"info": {}}', b'{"info": {"features": null}}', features(names=["x", "y"])]
)
def test_sound_metadata_are_taken(tmp_path: Path, metadata: bytes) -> None:
    names = read(written(tmp_path, COLUMNS, metadata)).tables["train"].target_names
    assert names == (("x", "y") if b"names" in metadata else None)


def test_class_names_that_do_not_fit_the_values_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {**COLUMNS, "label": [0, 1, 0, 7]}, features(names=["x", "y"]))
    with pytest.raises(
        InputError, match=r"label 7 of a\.parquet must be the index of one of the 2 names in a\.parquet"
    ):
        load_splits(str(path))


def test_values_of_a_dictionary_and_of_an_extension_are_read(tmp_path: Path) -> None:
    labels = pyarrow.array(["a", "b", "a", None]).dictionary_encode()
    texts = pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(COLUMNS["text"]))
    values = read(written(tmp_path, {"text": texts, "label": labels})).tables["train"].values
    assert values == {"text": COLUMNS["text"], "label": ["a", "b", "a", None]}


@pytest.mark.parametrize(
    "texts",
    [
        [{"a": "b"}] * 4,
        [[["a"]]] * 4,
        pyarrow.array([[("a", 1)]] * 4, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        pyarrow.array([2**62] * 4, pyarrow.timestamp("us")),  # a year that Python does not have
        pyarrow.array([1] * 4, pyarrow.duration("ns")),
        pyarrow.array([b"0123456789abcdef"] * 4, pyarrow.uuid()),
        pyarrow.array([b"\xff"] * 4),
        pyarrow.Array.from_buffers(  # strings that are no UTF-8
            pyarrow.string(), 4, [None, pyarrow.py_buffer(bytes(16) + b"\1\0\0\0"), pyarrow.py_buffer(b"\xff")]
        ),
    ],
    ids=str,
)
def test_a_text_column_without_texts_is_refused(tmp_path: Path, texts: Any) -> None:
    with pytest.raises(InputError, match=r"must have a string in column 'text'|cannot be read as that"):
        load_splits(str(written(tmp_path, {**COLUMNS, "text": texts})))


def saved(folder: Path, texts: Any, files: object = None, information: str = "{}") -> Path:
    """Writes a folder as `save_to_disk` of Hugging Face `datasets` does."""
    table = pyarrow.record_batch({"text": texts, "label": COLUMNS["label"]})
    with pyarrow.OSFile(str(folder / "a.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_batch(table)
    names = [{"filename": "a.arrow"}] if files is None else files
    (folder / "state.json").write_text(json.dumps({"_data_files": names}))
    (folder / "dataset_info.json").write_text(information)
    return folder


def reason_of(folder: Path) -> str:
    told = refusal(folder)
    start = f"folder '{folder}' must be whole as save_to_disk wrote it, and cannot be read ("
    end = "): save it again, or write parquet files with to_parquet"
    assert told.startswith(start)
    assert told.endswith(end)
    return told.removeprefix(start).removesuffix(end)


def test_wrong_offsets_in_a_saved_data_set_are_refused(tmp_path: Path) -> None:
    offsets = b"".join(end.to_bytes(4, "little") for end in (0, 1, 2_000_000_000, 3, 4))
    texts = pyarrow.Array.from_buffers(
        pyarrow.string(), 4, [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"abcd")]
    )
    assert "out of bounds" in reason_of(saved(tmp_path, texts))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([{"filename": "../a.arrow"}], "state.json must name what lies beside it, and names '../a.arrow'"),
        ([{"filename": "/etc/passwd"}], "state.json must name what lies beside it, and names '/etc/passwd'"),
        ([{"filename": 3}], "state.json must name what lies beside it, and names 3"),
        ([{"filename": "b.arrow"}], "b.arrow is missing"),
        ([], "state.json names no file"),
        ("a.arrow", "string indices must be integers, not 'str'"),
    ],
)
def test_a_saved_data_set_names_files_beside_it_alone(tmp_path: Path, files: object, reason: str) -> None:
    assert reason_of(saved(tmp_path, COLUMNS["text"], files)) == reason


@pytest.mark.parametrize(
    ("information", "reason"),
    [
        ("[" * 100_000, "its brackets are nested too deeply"),
        ('{"features": [1]}', "the features must be an object, and are the list [1]"),
        (
            features(names=["a", "a"]).decode()[9:-1],
            "the class names of 'label' must be different, and 'a' stands there twice",
        ),
    ],
)
def test_wrong_information_of_a_saved_data_set_is_refused(tmp_path: Path, information: str, reason: str) -> None:
    assert reason_of(saved(tmp_path, COLUMNS["text"], information=information)) == reason


def test_splits_outside_a_saved_data_set_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, COLUMNS["text"])
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/dataset_dict.json").write_text('{"splits": ["train", ".."]}')
    assert reason_of(tmp_path / "inner") == "dataset_dict.json must name what lies beside it, and names '..'"


@pytest.mark.slow
def test_no_damaged_byte_of_a_parquet_file_ends_the_process(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": COLUMNS["text"], "label": COLUMNS["label"]}, features(names=["x", "y"]))
    content = path.read_bytes()
    child = os.fork()
    if child == 0:
        status = 0
        for place in range(len(content)):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            try:
                load_splits(str(path))
            except TrbertError:
                continue
            except BaseException:
                status = 1
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
