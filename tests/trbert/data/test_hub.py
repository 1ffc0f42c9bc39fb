"""Hugging Face data sets, from the hub and from folders that `save_to_disk` wrote."""

from pathlib import Path

import datasets
import huggingface_hub
import pytest

from trbert.data.hub import REMEDY, is_saved
from trbert.data.readers import Format
from trbert.data.sources import Source, read_source
from trbert.errors import InputError
from trbert.tasks.rows import Columns

FEATURES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})


def read(source: object) -> Source:
    return read_source(str(source), Columns(("text",), "label"), Format())


def refusal(source: object) -> str:
    with pytest.raises(InputError) as caught:
        read(source)
    return str(caught.value)


def rows(name: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [f"{name} 0", f"{name} 1"], "label": [0, 1]}, features=FEATURES)


def test_without_the_hub_a_name_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    assert refusal("imdb") == (
        "data 'imdb' is no file or folder here, and the hub is not reachable (ConnectionError: no network): " + REMEDY
    )


@pytest.fixture
def on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.DatasetDict:
    """A data set `someone/set`, to which a test adds the splits."""
    found = datasets.DatasetDict()

    def load(*arguments: object) -> datasets.DatasetDict:
        assert arguments == ("someone/set", "small")
        return found

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    (tmp_path / "someone___set").mkdir()
    return found


def test_a_name_is_loaded_from_the_hub(on_the_hub: datasets.DatasetDict) -> None:
    on_the_hub |= {name: rows(name) for name in ("train", "dev", "test")}
    found = read("someone/set:small")
    assert list(found.tables) == ["train", "validation", "test"]
    assert list(found.tables["validation"].values["text"]) == ["dev 0", "dev 1"]
    assert found.tables["train"].target_names == ("neg", "pos")
    assert found.notes == ("someone/set:small (dev) is the validation split",)


def test_splits_that_are_not_used_are_named(on_the_hub: datasets.DatasetDict) -> None:
    on_the_hub |= {name: rows(name).add_column("id", [1, 2]) for name in ("train", "val", "validation", "unsupervised")}
    found = read("someone/set:small")
    assert list(found.tables["validation"].values["text"]) == ["validation 0", "validation 1"]
    assert found.notes == (
        "someone/set:small: splits that are not used: 'val', 'unsupervised'",
        "someone/set:small (train): columns that are not used: 'id'",
    )


def test_a_data_set_without_train_is_refused(on_the_hub: datasets.DatasetDict) -> None:
    on_the_hub |= {"test": rows("test")}
    assert refusal("someone/set:small") == f"data 'someone/set:small' must have a train split, and has 'test': {REMEDY}"


def test_saved_splits_are_read_with_their_class_names(tmp_path: Path) -> None:
    datasets.DatasetDict({name: rows(name) for name in ("train", "valid")}).save_to_disk(tmp_path / "saved")
    found = read(tmp_path / "saved")
    assert list(found.tables["validation"].values["text"]) == ["valid 0", "valid 1"]
    assert found.tables["train"].target_names == ("neg", "pos")
    assert found.notes == ("saved (valid) is the validation split",)


def test_a_saved_data_set_is_train(tmp_path: Path) -> None:
    rows("x").save_to_disk(tmp_path / "saved")
    table = read(tmp_path / "saved").tables["train"]
    assert {name: list(column) for name, column in table.values.items()} == {"text": ["x 0", "x 1"], "label": [0, 1]}


def test_a_saved_data_set_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": rows("x")}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/train/state.json").unlink()
    told = refusal(tmp_path / "saved")
    assert told.startswith(
        f"folder '{tmp_path / 'saved'}' must be whole as save_to_disk wrote it, and cannot be read ("
    )
    assert told.endswith("): save it again, or write parquet files with to_parquet")


def test_a_folder_with_a_state_beside_its_files_is_no_saved_data_set(tmp_path: Path) -> None:
    (tmp_path / "state.json").touch()
    assert not is_saved(tmp_path)


def test_a_saved_split_without_labels_is_not_used(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": rows("train"), "test": rows("test").remove_columns("label")}).save_to_disk(tmp_path)
    found = read(tmp_path)
    assert set(found.tables) == {"train"}
    assert found.notes == (f"test is not used: {tmp_path.name} (test) has no column 'label'",)
