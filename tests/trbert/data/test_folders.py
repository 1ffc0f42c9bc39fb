"""Files of a folder, and the splits that their names stand for."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from trbert.data.folders import chosen_splits, folder_files
from trbert.errors import InputError


def touch(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path) -> dict[str, list[str]]:
    return {split: [file.name for file in files] for split, files in folder_files(folder)[0].items()}


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        folder_files(folder)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "ndjson", "parquet", "CSV", "csv.gz", "jsonl.GZ"])
def test_files_of_every_suffix_are_splits(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, [f"{split}.{suffix}" for split in ("train", "validation", "test")])
    assert found(tmp_path) == {split: [f"{split}.{suffix}"] for split in ("train", "validation", "test")}
    assert folder_files(tmp_path)[1] == []


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("training", "train"),
        *((name, "validation") for name in ("valid", "dev", "val", "Dev")),
        *((name, "test") for name in ("testing", "eval", "evaluation", "TEST")),
    ],
)
def test_other_names_of_splits_are_taken_and_said(tmp_path: Path, name: str, split: str) -> None:
    touch(tmp_path, [f"{name}.csv"] if split == "train" else ["train.csv", f"{name}.csv"])
    files, notes = folder_files(tmp_path)
    assert [file.name for file in files[split]] == [f"{name}.csv"]
    assert notes == ([] if name == "TEST" else [f"{name}.csv is the {split} split"])


def test_the_exact_name_wins_and_the_other_is_named() -> None:
    assert chosen_splits(["dev", "val", "validation", "train", "training"]) == {
        "train": "train",
        "validation": "validation",
    }


def test_data_beside_the_splits_that_is_not_used_is_named(tmp_path: Path) -> None:
    beside = ["dev2.csv", "val.csv", "old.xlsx", "data/test.csv"]
    no_data = [".hidden.csv", "README.md", "labels.json", "dataset_infos.json", "~$old.xlsx", "notes.txt"]
    touch(tmp_path, ["train.csv", "validation.csv", *beside, *no_data])
    assert folder_files(tmp_path)[1] == [
        "'dev2.csv', 'old.xlsx', 'val.csv', 'data/test.csv' lie in the folder and are not used: to use a file, name "
        "all of them one by one, as train=train.csv,validation=dev2.csv"
    ]


def test_parts_are_one_split_in_their_order(tmp_path: Path) -> None:
    parts = [f"train-{part:05}-of-00012.parquet" for part in range(12)]
    touch(tmp_path, [*reversed(parts), "dev-00000-of-00001-a09b74b3ef9c3b56.parquet"])
    assert found(tmp_path) == {"train": parts, "validation": ["dev-00000-of-00001-a09b74b3ef9c3b56.parquet"]}


def test_the_folder_data_of_a_snapshot_is_read(tmp_path: Path) -> None:
    touch(tmp_path, ["README.md", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"])
    assert found(tmp_path) == {"train": ["train-00000-of-00001.parquet"], "test": ["test-00000-of-00001.parquet"]}
    assert folder_files(tmp_path)[1] == []


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ["train-00000-of-00003.csv", "train-00002-of-00003.csv"])
    assert refusal(tmp_path) == (
        f"folder '{tmp_path}' must have all 3 parts of train, and lacks 'train-00001-of-00003': "
        "copy or download the rest"
    )


@pytest.mark.parametrize(
    "names",
    [
        ["train.csv", "train.json"],
        ["train.csv", "train.csv.gz"],
        ["train-00000-of-00001.csv", "train.csv"],
        ["train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"],
        ["train-00000-of-00002.csv", "train-00001-of-00002.json"],
        ["train-00000-of-00001.csv", "train-00001-of-00002.csv"],
    ],
)
def test_two_files_of_one_split_are_refused(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, names)
    assert refusal(tmp_path) == (
        f"folder '{tmp_path}' must have one train file, and has {', '.join(map(repr, sorted(names)))}: "
        "move all but one away"
    )


def test_a_folder_without_train_is_refused_with_what_it_has(tmp_path: Path) -> None:
    files = "train.parquet, train.csv, train.tsv, train.txt, train.jsonl, train.ndjson, train.json"
    rule = f"must have a train file ({files}), and has"
    assert refusal(tmp_path) == f"folder '{tmp_path}' {rule} nothing: name the files one by one, train=a.csv,test=b.csv"
    touch(tmp_path, ["test.jsonl"])
    assert refusal(tmp_path) == (
        f"folder '{tmp_path}' {rule} 'test.jsonl': name the files one by one, train=a.csv,test=b.csv"
    )
    touch(tmp_path, ["en/train.csv"])
    assert refusal(tmp_path) == (
        f"folder '{tmp_path}' {rule} 'en', 'test.jsonl': pass one of its folders, such as '{tmp_path / 'en'}'"
    )
