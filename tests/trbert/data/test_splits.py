"""Rows from files: how they are read, split and refused."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from trbert.data import splits as data
from trbert.data.readers import Format
from trbert.data.splits import Splits, load_inputs, load_splits
from trbert.errors import InputError
from trbert.limits import MAX_CHARACTERS
from trbert.tasks import TASKS
from trbert.tasks.rows import Rows


def write_rows(path: Path, labels: Sequence[Any], texts: Sequence[Any] | None = None, **columns: Sequence[Any]) -> Path:
    """Writes one row a label to a .jsonl or .parquet file."""
    texts = [f"{path.stem} {row}" for row in range(len(labels))] if texts is None else texts
    table = {"text": texts, "label": labels, **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    else:
        records = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def write_three(folder: Path) -> Path:
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.jsonl", ["b", "a", "b"])
    return folder


def refusal(source: object, **arguments: Any) -> str:
    """Returns the message, without what test_bad_rows.py asks of the messages on single rows."""
    with pytest.raises(InputError) as caught:
        load_splits(str(source), **arguments)
    return str(caught.value).removesuffix("; or pass --skip-bad-rows, which leaves such rows out")


def all_texts(splits: Splits) -> list[str]:
    return sorted(splits.train.inputs[0] + splits.validation.inputs[0] + splits.test.inputs[0])


def rows_of(splits: Splits) -> list[object]:
    """Returns all that splits hold, to be compared."""
    parts = (splits.train, splits.validation, splits.test)
    return [splits.labels, *((part.inputs, part.targets.tolist()) for part in parts)]


def changes(splits: Splits) -> tuple[str, ...]:
    """Returns the notes on what was done to the rows, without those that count what is there."""
    counts = re.compile(r"(train|validation|test): ([\d,]+ rows of \d+ classes[:,] |one of the rows is |no row of )")
    return tuple(note for note in splits.notes if not counts.match(note))


def test_a_folder_of_three_files_is_read_as_it_is(tmp_path: Path) -> None:
    splits = load_splits(str(write_three(tmp_path)))
    assert splits.labels == ("a", "b")
    assert changes(splits) == ()
    assert splits.test.inputs[0] == ("test 0", "test 1", "test 2")
    assert splits.test.targets.tolist() == [1, 0, 1]
    assert splits.test.targets.dtype == np.int64
    labels = {"train 0": 1, "train 1": 0, "train 2": 1}
    assert dict(zip(splits.train.inputs[0], splits.train.targets.tolist(), strict=True)) == labels


def test_parquet_csv_json_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    texts, labels = ["one, two", 'a "quoted"\nline', "one\u2028line", "NA"] * 5, [10, 9] * 10
    write_rows(tmp_path / "a.parquet", labels, texts)
    write_rows(tmp_path / "a.jsonl", labels, texts)
    records = [{"label": label, "text": text} for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    lines = [f"{label},{text}" for text, label in zip(quoted, labels, strict=True)]
    (tmp_path / "a.csv").write_text("label,text\n" + "\n".join(lines))
    found = [rows_of(load_splits(str(file))) for file in tmp_path.iterdir()]
    assert len(found) == 4
    assert all(rows == found[0] for rows in found)


def test_a_csv_of_numbers_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{row},{row % 2}\n" for row in range(20)))
    assert all_texts(load_splits(str(tmp_path / "a.csv"))) == sorted(map(str, range(20)))


def test_a_text_of_many_megabytes_is_read_from_a_csv(tmp_path: Path) -> None:
    texts = ["short", "long\n" + "word " * 1_500_000] + [f"row {row}" for row in range(20)]
    lines = [f'"{text}",{row % 2}\n' for row, text in enumerate(texts)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(lines))
    splits = load_splits(str(tmp_path / "a.csv"))
    assert all_texts(splits) == sorted(text[:MAX_CHARACTERS] for text in texts)
    assert splits.notes[0] == (
        "a.csv: 1 of 22 texts in column 'text' have more than 1,000,000 characters and are cut to these, the first of "
        "them row 1 with 7,500,005"
    )


def test_labels_of_a_csv_are_of_one_type_however_long_the_file(tmp_path: Path) -> None:
    rows = [f"{row} {'word ' * 40_000},{row % 2}\n" for row in range(20)] + ["x,b\n", "y,b\n"]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(rows))
    assert load_splits(str(tmp_path / "a.csv")).labels == ("0", "1", "b")


def test_files_can_be_named_one_by_one(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "x.parquet", [True, False] * 10)
    test = write_rows(tmp_path / "y.jsonl", [True, False])
    splits = load_splits(f"train={train},test={test}")
    assert splits.labels == ("False", "True")
    assert splits.test.inputs[0] == ("y 0", "y 1")
    assert changes(splits) == ("validation held out: 4 of 20 train rows (seed 0)",)


def test_how_files_were_read_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(("ä1;x\n" * 20).encode("cp1252") + b"a;y\n" * 20)
    told = {"text_column": "1", "label_column": "2", "format": Format(encoding="cp1252", header=False)}
    splits = load_splits(str(tmp_path / "a.csv"), **told)
    assert splits.labels == ("x", "y")
    assert splits.notes[0] == "a.csv: the columns are separated by ';'"
    assert "ä1" in splits.train.inputs[0]


def test_one_file_of_few_rows_is_split_70_20_10_by_label(tmp_path: Path) -> None:
    splits = load_splits(str(write_rows(tmp_path / "all.jsonl", ["a"] * 150 + ["b"] * 50)))
    counts = [Counter(rows.targets.tolist()) for rows in (splits.train, splits.validation, splits.test)]
    assert counts == [{0: 105, 1: 35}, {0: 30, 1: 10}, {0: 15, 1: 5}]
    assert len(set(all_texts(splits))) == 200
    assert changes(splits) == (
        "test held out: 20 of 200 train rows (seed 0)",
        "validation held out: 40 of 180 train rows (seed 0)",
    )


@pytest.mark.parametrize(
    ("rows", "most", "held"),
    [
        (3, 1000, 1),  # a fifth of 3 rows rounds to one
        (500, 1000, 100),
        (1000, 1000, 200),
        (1500, 1000, 200),  # a fifth would be more than 200 rows, and a tenth is less
        (2010, 1000, 201),
        (2010, 150, 150),
    ],
)
def test_a_fifth_of_few_rows_and_a_tenth_of_many_are_held_out_for_validation(
    tmp_path: Path, rows: int, most: int, held: int
) -> None:
    for split, size in (("train", rows), ("test", 2)):
        write_rows(tmp_path / f"{split}.jsonl", (["a", "b"] * rows)[:size])
    splits = load_splits(str(tmp_path), validation_rows=most)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [rows - held, held, 2]


def test_the_validation_rows_of_one_file_are_a_share_of_all_its_rows(tmp_path: Path) -> None:
    splits = load_splits(str(write_rows(tmp_path / "all.jsonl", ["a", "b"] * 1500)))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2400, 300, 300]


def test_without_a_test_split_validation_is_the_test_split(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", ["a", "b"] * 20)
    write_rows(tmp_path / "validation.jsonl", ["a", "b"])
    splits = load_splits(str(tmp_path))
    assert splits.test.inputs[0] == ("validation 0", "validation 1")
    assert all(text.startswith("train") for text in splits.validation.inputs[0])
    assert changes(splits) == (
        "no test split: the 2 validation rows are the test rows",
        "validation held out: 8 of 40 train rows (seed 0)",
    )


def test_the_hold_out_follows_the_seed_and_leaves_every_class_a_training_row(tmp_path: Path) -> None:
    source = str(write_rows(tmp_path / "all.jsonl", ["a"] * 60 + ["b"] * 38 + ["c"]))
    first, again, other = load_splits(source), load_splits(source), load_splits(source, seed=1)
    assert rows_of(first) == rows_of(again) != rows_of(other)
    assert set(first.validation.inputs[0]) != set(other.validation.inputs[0])
    assert all(set(splits.train.targets.tolist()) == {0, 1, 2} for splits in (first, other))


def test_train_rows_counts_what_is_left_after_the_hold_out(tmp_path: Path) -> None:
    source = str(write_rows(tmp_path / "all.jsonl", ["a"] * 100 + ["b"] * 100 + ["c"] * 2))
    whole, cut = load_splits(source), load_splits(source, train_rows=20)
    assert len(cut.train) == 20
    assert set(cut.train.targets.tolist()) == {0, 1, 2}
    assert cut.validation.inputs[0] == whole.validation.inputs[0]
    assert cut.test.inputs[0] == whole.test.inputs[0]
    assert not set(cut.train.inputs[0]) & set(cut.validation.inputs[0] + cut.test.inputs[0])
    assert changes(cut)[-1] == f"train sampled: 20 of {len(whole.train)} rows (seed 0)"


def test_validation_and_test_are_cut_in_their_order(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", ["a", "b"] * 20)
    splits = load_splits(str(tmp_path), validation_rows=6, test_rows=4)
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [40, 6, 4]
    places = [int(text.split()[1]) for text in splits.test.inputs[0]]
    assert places == sorted(places)
    assert changes(splits) == ("validation sampled: 6 of 40 rows (seed 0)", "test sampled: 4 of 40 rows (seed 0)")


def test_validation_has_at_most_1000_rows_where_the_caller_sets_no_limit(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", ["a", "b"] * 501)
    splits = load_splits(str(tmp_path))
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [1002, 1000, 1002]


def test_a_split_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    first, second = (write_rows(tmp_path / f"{name}.jsonl", ["a", "b"]) for name in ("first", "second"))
    told = refusal(f"train={first},train={second}")
    assert f"must name each of train, validation and test at most once, and has 'train={second}'" in told


def test_a_column_that_the_first_row_of_a_json_file_lacks_is_a_column(tmp_path: Path) -> None:
    rows = ['{"text": "one"}', '{"text": "two", "label": "a"}', '{"text": "three", "label": "b"}']
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    assert refusal(tmp_path).startswith("row 0 of train.jsonl must have a label in column 'label', and has none: ")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_sample_holds_each_class_by_its_share_and_follows_the_seed(split: str, tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        write_rows(tmp_path / f"{name}.jsonl", ["a"] * 30 + ["b"] * 10)

    def sampled(seed: int) -> Rows:
        rows = getattr(load_splits(str(tmp_path), seed=seed, **{f"{split}_rows": 8}), split)
        # A fifth of 30 and of 10.
        assert Counter(rows.targets.tolist()) == {0: 6, 1: 2}
        assert all(
            (int(text.split()[1]) >= 30) == label for text, label in zip(rows.inputs[0], rows.targets, strict=True)
        )
        return rows

    drawn = [set(sampled(seed).inputs[0]) for seed in range(5)]
    assert len({frozenset(texts) for texts in drawn}) == 5
    assert sampled(3).inputs[0] == sampled(3).inputs[0]
    assert set(sampled(3).inputs[0]) == drawn[3]


def test_a_class_of_less_than_half_a_row_is_not_in_a_sample(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", ["a"] * 36 + ["b"] * 4)
    # A tenth of 4 rows are .4, of 5 rows .5: the fifth row may be of either class.
    splits = load_splits(str(tmp_path), validation_rows=4, test_rows=6)
    assert Counter(splits.validation.targets.tolist()) == {0: 4}
    assert Counter(splits.test.targets.tolist()) == {0: 5, 1: 1}


def test_as_many_rows_as_there_are_is_no_sample(tmp_path: Path) -> None:
    write_three(tmp_path)
    splits = load_splits(str(tmp_path), train_rows=3, validation_rows=3, test_rows=3)
    assert changes(splits) == ()
    assert rows_of(splits) == rows_of(load_splits(str(tmp_path)))


def test_as_few_training_rows_as_there_are_classes_are_one_of_each(tmp_path: Path) -> None:
    write_three(tmp_path)
    assert sorted(load_splits(str(tmp_path), train_rows=2).train.targets.tolist()) == [0, 1]


def test_splits_of_one_length_are_sampled_at_places_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", ["a", "b"] * 20)
    splits = load_splits(str(tmp_path), train_rows=10, validation_rows=10, test_rows=10)
    parts = (splits.train, splits.validation, splits.test)
    assert len({frozenset(text.split()[1] for text in rows.inputs[0]) for rows in parts}) == 3


def test_a_sample_of_train_stands_in_the_shuffled_order(tmp_path: Path) -> None:
    write_three(tmp_path)
    write_rows(tmp_path / "train.jsonl", ["a", "b"] * 20)
    whole, cut = load_splits(str(tmp_path)).train, load_splits(str(tmp_path), train_rows=12).train
    assert len(cut) == 12
    assert cut.inputs[0] == tuple(text for text in whole.inputs[0] if text in cut.inputs[0])
    assert cut.inputs[0] != tuple(sorted(cut.inputs[0], key=lambda text: int(text.split()[1])))


def test_no_more_rows_are_held_out_than_validation_may_have(tmp_path: Path) -> None:
    source = str(write_rows(tmp_path / "all.jsonl", ["a", "b"] * 100))
    splits = load_splits(source, validation_rows=5)
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [175, 5, 20]
    test = write_rows(tmp_path / "test.jsonl", ["a", "b"])
    splits = load_splits(f"train={source},test={test}", validation_rows=5)
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [195, 5, 2]


def test_train_labels_of_minus_one_are_a_class(tmp_path: Path) -> None:
    assert load_splits(str(write_rows(tmp_path / "a.jsonl", [-1, 1] * 10))).labels == ("-1", "1")
    assert refusal(write_rows(tmp_path / "b.jsonl", [-1] * 10)) == (
        "b.jsonl must have rows of at least two classes, and all have -1 in column 'label': "
        "set --label-column to the column of the classes"
    )


def test_the_order_of_train_follows_the_seed(tmp_path: Path) -> None:
    write_three(tmp_path)
    write_rows(tmp_path / "train.jsonl", ["a", "b"] * 20)
    orders = [load_splits(str(tmp_path), seed=seed).train.inputs[0] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_train_is_shuffled(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", ["a"] * 50 + ["b"] * 50)
    labels = load_splits(str(tmp_path)).train.targets
    assert 10 < labels[:50].sum() < 40


def test_rows_that_also_stand_in_train_are_left_out(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", ["a", "b"], in_train=[True, True])
    for split in ("validation", "test"):
        write_rows(tmp_path / f"{split}.parquet", ["a", "b", "a"], in_train=[False, True, False])
    splits = load_splits(str(tmp_path))
    assert splits.test.inputs[0] == ("test 0", "test 2")
    assert len(splits.train) == 2
    assert changes(splits) == (
        "validation: 1 rows left out that are in train, too (in_train)",
        "test: 1 rows left out that are in train, too (in_train)",
    )


def test_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    write_three(tmp_path)
    write_rows(tmp_path / "train.jsonl", ["a", "b", None, "a"], ["x", "y", " \n", None])
    splits = load_splits(str(tmp_path))
    assert sorted(splits.train.inputs[0]) == ["x", "y"]
    assert changes(splits) == ("train: 2 empty texts left out",)


def test_a_split_whose_labels_are_secret_is_not_used(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [0, 1] * 10)
    write_rows(tmp_path / "validation.jsonl", [0, 1])
    write_rows(tmp_path / "test.jsonl", [-1, -1, -1])
    splits = load_splits(str(tmp_path))
    assert splits.test.inputs[0] == ("validation 0", "validation 1")
    assert changes(splits)[0] == "test is not used: its 3 labels are all -1, which stands for secret ones"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([10, 9, 100], ("9", "10", "100")),
        (["10", "9", "100"], ("9", "10", "100")),
        (["10", "b", "9"], ("10", "9", "b")),
        ([1.0, 2.0, 0.0], ("0", "1", "2")),
    ],
)
def test_classes_come_in_sorted_order_numbers_by_value(tmp_path: Path, values: list[Any], names: tuple[str]) -> None:
    splits = load_splits(str(write_rows(tmp_path / "a.jsonl", values * 10)))
    assert splits.labels == names


@pytest.mark.parametrize("labels", [[0, 1, 1], ["neg", "pos", "pos"]])
def test_labels_json_names_the_classes_in_its_order(tmp_path: Path, labels: list[Any]) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", labels)
    (tmp_path / "labels.json").write_text('["neg", "pos"]')
    splits = load_splits(str(tmp_path))
    assert splits.labels == ("neg", "pos")
    assert splits.test.targets.tolist() == [0, 1, 1]
    (tmp_path / "labels.json").write_text('["pos", "neg"]')
    swapped = load_splits(str(tmp_path))
    assert swapped.labels == ("pos", "neg")
    assert swapped.test.targets.tolist() == ([0, 1, 1] if labels[0] == 0 else [1, 0, 0])


def test_a_class_label_in_a_parquet_file_names_the_classes(tmp_path: Path) -> None:
    feature = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    table = pyarrow.table({"text": list("abcdefghij"), "label": [0, 1] * 5}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert load_splits(str(tmp_path / "a.parquet")).labels == ("neg", "pos")


def test_labels_json_overrules_the_names_in_a_parquet_file(tmp_path: Path) -> None:
    feature = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    for split in ("train", "validation", "test"):
        table = pyarrow.table({"text": ["x", "y"], "label": [0, 1]}).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    (tmp_path / "labels.json").write_text('["bad", "good"]')
    assert load_splits(str(tmp_path)).labels == ("bad", "good")
    (tmp_path / "labels.json").write_text('["good", "good"]')
    assert "must be a JSON list of different strings, one for each class" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_json_file_may_begin_with_a_byte_order_mark(tmp_path: Path, suffix: str) -> None:
    records = [{"text": f"row {row}", "label": "ab"[row % 2]} for row in range(20)]
    content = json.dumps(records) if suffix == "json" else "\n".join(map(json.dumps, records))
    (tmp_path / f"a.{suffix}").write_text("\ufeff" + content, encoding="utf-8")
    assert all_texts(load_splits(str(tmp_path / f"a.{suffix}"))) == sorted(record["text"] for record in records)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_that_stand_in_train_are_left_out_where_a_cell_of_in_train_is_empty(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.{suffix}", ["a", "b", "a"], in_train=[None, True, False])
    assert load_splits(str(tmp_path)).test.inputs[0] == ("test 0", "test 2")


def test_rows_are_taken_in_the_given_order() -> None:
    strata = np.array([5, 6, 7])
    taken = Rows((("x", "y", "z"),), np.array([0, 1, 2]), strata).take(np.array([2, 0]))
    assert taken.inputs == (("z", "x"),)
    assert taken.targets.tolist() == [2, 0]
    assert taken.strata.tolist() == [7, 5]
    pairs = Rows((("x", "y", "z"), ("1", "2", "3")), np.array([0, 1, 2]), strata).take(np.array([2, 0]))
    assert pairs.inputs == (("z", "x"), ("3", "1"))


def test_splits_are_renumbered_for_a_model_that_numbers_the_classes_otherwise(tmp_path: Path) -> None:
    splits = load_splits(str(write_three(tmp_path)))
    other = splits.renumbered(np.array([2, 0]), ("b", "c", "a"))
    assert splits.labels == ("a", "b")
    assert other.labels == ("b", "c", "a")
    for split in ("train", "validation", "test"):
        before, after = getattr(splits, split), getattr(other, split)
        assert after.inputs == before.inputs
        assert [other.labels[target] for target in after.targets] == [
            splits.labels[target] for target in before.targets
        ]


def test_renumbered_targets_that_are_no_class_stay() -> None:
    rows = Rows((("x", "y"),), np.array([[0, 1, -100], [2, -100, -100]]), np.array([0, 0]))
    assert rows.renumbered(np.array([2, 0, 1])).targets.tolist() == [[2, 0, -100], [1, -100, -100]]


# What is said of the rows.


def test_the_classes_of_train_are_counted_after_all_sampling(tmp_path: Path) -> None:
    source = str(write_rows(tmp_path / "a.jsonl", ["a"] * 1500 + ["b"] * 1500))
    assert load_splits(source, test_rows=199, validation_rows=200).notes[-3:] == (
        "train: 2,500 rows of 2 classes: 'a' 1,250, 'b' 1,250",
        "train: one of the rows is 'a 1825', of class 'b'",
        "test: 199 rows of 2 classes, so that one row is 0.5 points",
    )
    assert load_splits(source, train_rows=50, validation_rows=40).notes[-3:] == (
        "train: 50 rows of 2 classes: 'a' 25, 'b' 25",
        "train: one of the rows is 'a 147', of class 'a'",
        "validation: 40 rows of 2 classes, so that one row is 2.5 points",
    )


def test_of_many_classes_the_smallest_and_the_largest_are_said(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        labels = [f"c{kind}" for kind in range(9) for _ in range(3 + kind)]
        write_rows(tmp_path / f"{split}.jsonl", labels)
    assert load_splits(str(tmp_path)).notes == (
        "train: 63 rows of 9 classes, from 3 of 'c0' to 11 of 'c8'",
        "train: one of the rows is 'train 12', of class 'c3'",
        "validation: 63 rows of 9 classes, so that one row is 1.6 points",
        "test: 63 rows of 9 classes, so that one row is 1.6 points",
    )


def test_classes_without_a_test_row_are_said(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", ["a", "b", "c"] * 4)
    write_rows(tmp_path / "test.jsonl", ["b"] * 4)
    assert "test: no row of 2 of 3 classes: 'a', 'c'" in load_splits(str(tmp_path)).notes


# Equal texts.


def copies(path: Path, times: int, texts: int) -> str:
    """Writes so many texts of two classes, each so many times."""
    numbers = list(range(texts)) * times
    return str(write_rows(path, ["AB"[number % 2] for number in numbers], [f"text {number}" for number in numbers]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("times", "texts", "held"), [(10, 20, (20, 40)), (2, 100, (20, 40)), (15, 10, (15, 30))])
def test_equal_texts_are_held_out_together(
    tmp_path: Path, times: int, texts: int, held: tuple[int, int], seed: int
) -> None:
    splits = load_splits(copies(tmp_path / "a.jsonl", times, texts), seed=seed)
    parts = [Counter(rows.inputs[0]) for rows in (splits.train, splits.validation, splits.test)]
    assert all(set(part.values()) == {times} for part in parts)
    assert sum(map(len, parts)) == texts
    assert (len(splits.test), len(splits.validation)) == held
    assert set(splits.train.targets.tolist()) == {0, 1}
    assert (
        changes(splits)[0] == f"train: {(times - 1) * texts} of {times * texts} rows repeat the text of another row: "
        "pass --drop-duplicates to leave them out"
    )
    assert changes(splits)[1].endswith(f"train rows (seed {seed}); equal texts stay together")


@pytest.mark.parametrize("seed", range(3))
def test_each_class_keeps_its_share_where_the_texts_of_one_repeat(tmp_path: Path, seed: int) -> None:
    # 20 of 200 rows are held out, 10 of each class, but those of b go in fours.
    texts = [f"a {row}" for row in range(100)] + [f"b {row // 4}" for row in range(100)]
    source = write_rows(tmp_path / "rows.jsonl", ["a"] * 100 + ["b"] * 100, texts)
    counts = Counter(load_splits(str(source), seed=seed).test.targets.tolist())
    assert sum(counts.values()) == 20
    assert counts[1] in (8, 12)


def test_a_class_of_one_text_stays_in_train(tmp_path: Path) -> None:
    labels, texts = ["a"] * 30 + ["b"] * 10, [f"text {row}" for row in range(30)] + ["the very same"] * 10
    splits = load_splits(str(write_rows(tmp_path / "a.jsonl", labels, texts)))
    assert Counter(splits.train.targets.tolist())[1] == 10
    assert "the very same" not in splits.test.inputs[0] + splits.validation.inputs[0]


def test_a_hold_out_from_classes_of_one_text_each_is_warned_of(tmp_path: Path) -> None:
    source = copies(tmp_path / "a.jsonl", 10, 2)
    splits = load_splits(source)
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [14, 4, 2]
    assert changes(splits)[1] == (
        "test held out: 2 of 20 train rows (seed 0); no class has two different texts, so texts of test also stand in "
        "train, and the accuracy on them says little: pass a test file, or add rows with other texts"
    )
    assert refusal(source, drop_duplicates=True) == (
        "train must have a class of two rows or more, so that a test split can be held out, and has 2 rows of 2 "
        "classes: pass a test file"
    )


def test_duplicates_are_dropped_before_the_hold_out(tmp_path: Path) -> None:
    splits = load_splits(copies(tmp_path / "a.jsonl", 3, 40), drop_duplicates=True)
    assert all_texts(splits) == sorted(f"text {number}" for number in range(40))
    assert changes(splits) == (
        "train: 80 of 120 rows left out that repeat the text of a row before",
        "test held out: 4 of 40 train rows (seed 0)",
        "validation held out: 8 of 36 train rows (seed 0)",
    )


def test_texts_of_train_in_other_splits_are_said_and_can_be_dropped(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", ["a", "b", "a"], ["x", "y", "z"])
    write_rows(tmp_path / "validation.jsonl", ["a", "b", "b"], [" x", "y", "w"])
    assert changes(load_splits(str(tmp_path), validation_rows=1))[:2] == (
        "no test split: the 3 validation rows are the test rows",
        "test: 2 of 3 rows have a text that also stands in train, so that any accuracy on them says little: "
        "pass --drop-duplicates to leave them out",
    )
    splits = load_splits(str(tmp_path), drop_duplicates=True)
    assert splits.test.inputs == (("w",),)
    assert changes(splits)[1] == "test: 2 of 3 rows left out whose text also stands in train"


# Labels.


def test_labels_are_renamed_from_words_and_from_a_file(tmp_path: Path) -> None:
    source = str(write_rows(tmp_path / "a.jsonl", ["Pos", "pos", "neg"] * 10))
    (tmp_path / "map.json").write_text('{"Pos": "positive", "pos": "positive"}')
    in_words = load_splits(source, label_map="Pos=positive,pos=positive")
    assert in_words.labels == ("neg", "positive")
    assert rows_of(load_splits(source, label_map=str(tmp_path / "map.json"))) == rows_of(in_words)
    assert refusal(source, label_map="Pos").startswith(
        "--label-map must give a new name to each label, and has 'Pos': "
    )
    assert "(did you mean 'neg'?)" in refusal(source, label_map="negg=x")


# Inputs alone.


def inputs_of(source: object, **more: Any) -> tuple[tuple[str, ...], ...]:
    given = {"task": TASKS["classification"], "text_column": "text", "format": Format(), "rows": 100} | more
    return load_inputs(str(source), **given)


def test_inputs_are_those_of_test_else_of_validation_else_of_train(tmp_path: Path) -> None:
    write_three(tmp_path)
    for split in ("test", "validation", "train"):
        assert inputs_of(tmp_path) == ((f"{split} 0", f"{split} 1", f"{split} 2"),)
        (tmp_path / f"{split}.jsonl").rename(tmp_path / f"unused {split}.jsonl")


def test_inputs_ask_for_no_label_and_leave_empty_texts_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,other\none,two\n ,three\nfour,\nfive,six\n")
    assert inputs_of(tmp_path / "a.csv") == (("one", "four", "five"),)
    assert inputs_of(tmp_path / "a.csv", text_column="other,text") == (("two", "six"), ("one", "five"))
    with pytest.raises(InputError, match="set --text-column to one of them"):
        inputs_of(tmp_path / "a.csv", text_column="body")


def test_inputs_are_sampled_with_the_seed_and_keep_their_order(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", ["a"] * 50, other=[f"other {row}" for row in range(50)])
    drawn = [inputs_of(source, rows=10, seed=seed, text_column="text,other") for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    first, second = drawn[0]
    numbers = [int(text.split()[1]) for text in first]
    assert len(numbers) == 10
    assert numbers == sorted(numbers)
    assert second == tuple(f"other {number}" for number in numbers)


# Pairs.


def second_of(rows: Rows) -> dict[str, str]:
    return dict(zip(*rows.inputs, strict=True))


def test_two_columns_make_pairs_that_stay_together(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", ["a", "b"] * 30, other=[f"other {row}" for row in range(60)])
    splits = load_splits(str(source), text_column="text,other", train_rows=20)
    pairs = second_of(splits.train) | second_of(splits.validation) | second_of(splits.test)
    assert len(pairs) == 20 + len(splits.validation) + len(splits.test)
    assert all(second == first.replace("a ", "other ") for first, second in pairs.items())


def test_pairs_from_parquet_csv_json_and_jsonl_are_the_same(tmp_path: Path) -> None:
    texts, second, labels = [f"one {row}" for row in range(20)], [str(row) for row in range(20)], ["b", "a"] * 10
    write_rows(tmp_path / "a.parquet", labels, texts, other=second)
    write_rows(tmp_path / "a.jsonl", labels, texts, other=second)
    rows = list(zip(texts, second, labels, strict=True))
    (tmp_path / "a.json").write_text(
        json.dumps([dict(zip(("text", "other", "label"), row, strict=True)) for row in rows])
    )
    (tmp_path / "a.csv").write_text("text,other,label\n" + "".join(",".join(row) + "\n" for row in rows))
    found = [load_splits(str(file), text_column="text,other") for file in tmp_path.iterdir()]
    assert len(found) == 4
    assert all(rows_of(splits) == rows_of(found[0]) for splits in found)


def test_a_pair_of_which_one_text_is_empty_is_left_out(tmp_path: Path) -> None:
    write_three(tmp_path)
    for split in ("validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", ["a", "b"], other=["x", "y"])
    train = {"texts": ["v", "w", "", "x", "y"], "other": ["1", " ", "3", None, "5"]}
    write_rows(tmp_path / "train.jsonl", ["a", "b", "a", "b", "b"], **train)
    splits = load_splits(str(tmp_path), text_column="text,other")
    assert second_of(splits.train) == {"v": "1", "y": "5"}
    assert changes(splits) == ("train: 3 empty texts left out",)


def test_what_is_wrong_with_a_second_column_is_said_of_it(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", ["a", "b"], sentence=["x", 3], blank=["", None])
    assert refusal(source, text_column="text,sentences") == (
        "a.jsonl must have the column 'sentences', and has 'text', 'label', 'sentence', 'blank' "
        "(did you mean 'sentence'?): set --text-column to one of them"
    )
    assert refusal(source, text_column="text,sentence") == (
        "row 1 of a.jsonl must have a string in column 'sentence', and has the int 3: "
        "write it in quotes, or remove the row"
    )
    assert refusal(source, text_column="text,blank") == (
        "a.jsonl must have a text in column 'blank', and its 2 texts are all empty: "
        "set --text-column to the column of the texts (not read: 'sentence')"
    )


@pytest.mark.parametrize("columns", ["a,", ",a", "a, ", ""])
def test_a_text_column_without_a_name_is_refused(tmp_path: Path, columns: str) -> None:
    assert refusal(write_rows(tmp_path / "a.jsonl", ["a", "b"]), text_column=columns) == (
        f"--text-column must name one column, or several with a comma between them, and is {columns!r}: "
        "write text, or question,sentence for pairs"
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["a", "a"],
            "a.jsonl must have rows of at least two classes, and all have 'a' in column 'label': "
            "set --label-column to the column of the classes",
        ),
        (
            ["a", None],
            "row 1 of a.jsonl must have a label in column 'label', and has none: fill it in or remove the row",
        ),
        (
            [1.0, float("nan")],
            "row 1 of a.jsonl must have a label in column 'label', and has none: fill it in or remove the row",
        ),
        (
            [1, 0.5],
            "row 1 of a.jsonl must have a string, an integer or a boolean in column 'label', and has the float 0.5: "
            "set --label-column to the column of the classes, or pass the --task that has such labels",
        ),
        (
            [["a"], ["b"]],
            "row 0 of a.jsonl must have a string, an integer or a boolean in column 'label', and has the list ['a']: "
            "set --label-column to the column of the classes, or pass the --task that has such labels",
        ),
        (
            [1, "b"],
            "labels in column 'label' of a.jsonl must be of one type, and are integers (row 0: 1) and strings "
            "(row 1: 'b'): write all of them in the same way",
        ),
        (
            ["a", "b"],
            "train must have a class of two rows or more, so that a test split can be held out, and has 2 rows of 2 "
            "classes: pass a test file",
        ),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: list[Any], message: str) -> None:
    assert refusal(write_rows(tmp_path / "a.jsonl", labels), task=TASKS["classification"]) == message


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["x", 3],
            "row 1 of a.jsonl must have a string in column 'text', and has the int 3: "
            "write it in quotes, or remove the row",
        ),
        (
            [None, ["x"], "y"],
            "row 1 of a.jsonl must have a string in column 'text', and has the list ['x']: "
            "write it as a string, or remove the row",
        ),
        (
            [None, 3, 4],
            "row 1 of a.jsonl must have a string in column 'text', and has the int 3: "
            "set --text-column to the column of the texts",
        ),
        (
            ["", " "],
            "a.jsonl must have a text in column 'text', and its 2 texts are all empty: "
            "set --text-column to the column of the texts",
        ),
    ],
)
def test_texts_that_are_none_are_refused(tmp_path: Path, texts: list[Any], message: str) -> None:
    assert refusal(write_rows(tmp_path / "a.jsonl", ["a", "b", "a"][: len(texts)], texts)) == message


@pytest.mark.parametrize(
    ("test_labels", "names", "message"),
    [
        (
            ["a", "c", "c"],
            None,
            "label 'c' of test.jsonl must have training rows, and has none in train.jsonl: add some, remove its 2 "
            "rows, or give them another class (--label-map c=CLASS)",
        ),
        (
            ["a", "B ", "b"],
            None,
            "label 'B ' of test.jsonl must have training rows, and has none in train.jsonl (did you mean 'b'?): add "
            "some, remove its 1 rows, or give them another class (--label-map 'B =b')",
        ),
        (
            [0, 1],
            None,
            "label '0' of test.jsonl must have training rows, and has none in train.jsonl: add some, remove its 1 "
            "rows, or give them another class (--label-map 0=CLASS,1=CLASS)",
        ),
        (
            ["a", "b"],
            ["a", "bb"],
            "label 'b' of train.jsonl must be one of the names in labels.json, 'a', 'bb' (did you mean 'bb'?): "
            "correct the row or the names",
        ),
    ],
)
def test_splits_and_names_must_agree(tmp_path: Path, test_labels: list[Any], names: Any, message: str) -> None:
    write_rows(tmp_path / "train.jsonl", ["b", "a", "b"])
    write_rows(tmp_path / "test.jsonl", test_labels)
    if names is not None:
        (tmp_path / "labels.json").write_text(json.dumps(names))
    assert refusal(tmp_path) == message


def test_an_index_beyond_the_names_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [0, 2, 1])
    (tmp_path / "labels.json").write_text('["a", "b"]')
    assert refusal(tmp_path) == (
        "label 2 of train.jsonl must be the index of one of the 2 names in labels.json: correct the row or the names"
    )
    (tmp_path / "labels.json").write_text('{"a": 0}')
    assert refusal(tmp_path) == (
        f"'{tmp_path / 'labels.json'}' must be a JSON list of different strings, one for each class: "
        "correct it or remove it"
    )


def test_counts_of_rows_are_checked(tmp_path: Path) -> None:
    write_three(tmp_path)
    assert refusal(tmp_path, test_rows=0) == (
        "test_rows must be at least 1, and is 0: leave it out to take the default"
    )
    assert refusal(tmp_path, train_rows=1) == (
        "train_rows must be at least the number of classes, 2, and is 1: take more rows"
    )


def test_importing_data_is_light() -> None:
    heavy = "{'datasets', 'pyarrow', 'pandas', 'ray'}"
    code = f"import sys, trbert.data.splits; print(sorted({heavy} & set(sys.modules)))"
    root = Path(data.__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_empty_name_of_the_label_column_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("text,label\na b,A\n")
    with pytest.raises(InputError, match="--label-column must name a column, and is empty"):
        load_splits(str(tmp_path / "x.csv"), label_column="")


@pytest.mark.parametrize("source", ["~nobody-here/x.csv", "train=~nobody-here/x.csv"])
def test_the_home_of_nobody_is_missing(source):
    with pytest.raises(InputError, match=r"nobody-here/x\.csv"):
        load_splits(source)
