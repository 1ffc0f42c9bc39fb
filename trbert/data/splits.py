"""Makes train, validation and test rows from a source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64

from trbert.checkpoint.trained import Trained
from trbert.data.duplicates import Groups, duplicate_notes, text_groups, without_duplicates
from trbert.data.label_map import read_label_map
from trbert.data.readers import Format, NoColumn, empty_table
from trbert.data.recognition import Recognised, recognise, with_other_task
from trbert.data.sources import Source, read_source
from trbert.data.unlabelled import unlabelled_rows
from trbert.errors import InputError
from trbert.tasks import Task
from trbert.tasks.rows import Columns, Rows

Strata = Int64[np.ndarray, " rows"]

VALIDATION_ROWS = 1000
HELD_OUT_SHARE = 0.1
"""The share of the training rows that is held out as a test split."""
SMALL_SHARE, SMALL_ROWS = 0.2, 200
"""Of few training rows, this share is held out as a validation split, up to so many rows; else `HELD_OUT_SHARE` is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Splits:
    """The rows of a data set: train, validation and test.

    Attributes:
        train: the rows to learn from, in random order.
        validation: the rows on which every choice is made.
        test: the rows on which results are reported. Nothing is chosen on them.
        labels: the names of the head's outputs, in their order; () where they have no names.
        notes: sentences for the user that say what was done to the rows.
        task: the task that read the rows.
        columns: the columns that it read.
        why: what says that the data are for this task, in words; "" where the user named it.
        unlabelled: further rows without labels, to learn from the teacher's answers; None where there are none.
    """

    train: Rows
    validation: Rows
    test: Rows
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    task: Task
    columns: Columns
    why: str = ""
    unlabelled: Rows | None = None

    @property
    def rows(self) -> dict[str, Rows]:
        """The rows of train, validation and test, and the unlabelled rows if there are any."""
        further = {} if self.unlabelled is None else {"unlabelled": self.unlabelled}
        return {"train": self.train, "validation": self.validation, "test": self.test, **further}

    def with_rows(self, rows: Mapping[str, Rows]) -> "Splits":
        """Returns the same data set with other rows, by the names that `rows` has."""
        return replace(self, **rows)  # type: ignore[arg-type]

    def renumbered(self, order: Int64[np.ndarray, " classes"], labels: tuple[str, ...]) -> "Splits":
        """Returns the same rows with the classes numbered as another list of names numbers them.

        Args:
            order: for each class, its number in that list.
            labels: the list.
        """
        rows = {name: self.task.renumbered(own, order, labels) for name, own in self.rows.items()}
        return replace(self.with_rows(rows), labels=labels)


def load_splits(
    source: str,
    *,
    task: Task | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
    train_rows: int | None = None,
    validation_rows: int = VALIDATION_ROWS,
    test_rows: int | None = None,
    format: Format = Format(),  # noqa: B008  it is frozen
    label_map: str | None = None,
    drop_duplicates: bool = False,
    skip_bad_rows: bool = False,
    head: Trained | None = None,
    unlabelled: Sequence[str] = (),
) -> Splits:
    """Returns the train, validation and test rows of a data set, with the targets as numbers.

    A missing split is made from another one:

    * Without a test split, the validation split becomes the test split.
    * Without a validation split, a tenth of train is held out. Of fewer than 2,000 rows it is a fifth, but at most 200
      rows. In no case are they more than `validation_rows`. Each class keeps its share.
    * A train split alone is split into 80 % train, 10 % validation and 10 % test; up to 1,000 rows into 70 %, 20 % and
      10 %.

    Rows of equal texts stay on one side of a hold-out.

    Args:
        source: one of these:
            `pages`, the documentation of the installed libraries;
            a folder with files `train`, `validation` and `test` (.parquet, .csv, .tsv, .txt, .jsonl, .ndjson or .json),
            and perhaps a `labels.json` that names the classes; for a task that reads words also files with a word and
            its tags on each line (.conll, .conllu, .bio, .txt or .tsv);
            a folder that `save_to_disk` of Hugging Face `datasets` wrote;
            one file;
            the files one by one, as `train=a.csv,test=b.csv`;
            a name on the Hugging Face hub, with `name:configuration` where it has several configurations.
        task: the task; it reads the tables. None finds it by the model's head, the columns and the labels.
        text_column: the column of the texts. For pairs of texts both columns, such as `question,sentence`. None takes
            the column that the task has by default, such as `text`.
        label_column: the column of the labels. Labels are strings, integers or booleans. None takes the column that the
            task has by default, such as `label`. A task with several labels takes a column for each, such as
            `toxic,threat`.
        seed: the seed of the hold-out, of the samples and of the order of train.
        train_rows: the most training rows, after the hold-out; None takes all.
        validation_rows: the most validation rows.
        test_rows: the most test rows; None takes all.
        format: how the text files are written, as far as the user says so.
        label_map: new names for labels, as `old=new,old=new` or as a JSON file with an object of them.
        drop_duplicates: whether to keep the first row of each text in a split, and to leave out of validation and test
            the texts that stand in train.
        skip_bad_rows: whether rows that the task cannot read are left out and counted, and not refused.
        head: the head of the model that will learn, where it is to be used as it is. It is asked where no task is
            named.
        unlabelled: files, folders or names on the hub of further texts without labels.

    Raises:
        InputError: A number is below its least value. Or the source, a file, a column, a text or a label is wrong; the
            message says how. Or the data are for another task than the head.
    """
    for name, number, least in (
        ("train_rows", train_rows, 1),
        ("validation_rows", validation_rows, 1),
        ("test_rows", test_rows, 1),
        ("seed", seed, 0),
    ):
        if number is not None and number < least:
            raise InputError(f"{name} must be at least {least}, and is {number}: leave it out to take the default")
    renames = None if label_map is None else read_label_map(label_map)
    if label_column == "":
        raise InputError("--label-column must name a column, and is empty: write its name, or leave the option out")
    if task is None:
        found = recognise(partial(_read_source, source, format=format), text_column, label_column, head)
    else:
        columns = task.columns(text_column, label_column)
        try:
            found = Recognised(task, columns, _read_source(source, columns, format), "")
        except NoColumn as error:
            raise with_other_task(error, task) from error
    task, read, columns = found.task, found.source, replace(found.columns, skip_bad=skip_bad_rows)
    reading = task.read(read.tables, columns, renames)
    splits, notes = dict(reading.rows), [*read.notes, *reading.notes]

    if "validation" in splits and "test" not in splits:
        splits["test"] = splits.pop("validation")
        notes.append(f"no test split: the {len(splits['test'])} validation rows are the test rows")
    if drop_duplicates:
        splits, told = without_duplicates(splits)
        notes += told
    else:
        notes += duplicate_notes(splits)
    rows = len(splits["train"])
    if "test" not in splits:
        _hold_out("test", max(1, round(HELD_OUT_SHARE * rows)), splits, seed, notes)
    if "validation" not in splits:
        _hold_out("validation", min(validation_size(rows), validation_rows), splits, seed, notes)
    for split, most in (("validation", validation_rows), ("test", test_rows)):
        _sample(split, most, splits, seed, notes)
    _sample_train(train_rows, splits, seed, notes)
    splits["train"], told = task.learned_from(splits["train"])
    notes += [*told, *task.counts(splits, reading.labels)]
    further = None
    if unlabelled:
        further, told = unlabelled_rows(unlabelled, task, columns, format, splits)
        notes += told
    return Splits(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        labels=reading.labels,
        notes=tuple(notes),
        task=task,
        columns=columns,
        why=found.why,
        unlabelled=further,
    )


def load_inputs(
    source: str, *, task: Task, text_column: str | None, format: Format, rows: int, seed: int = 0
) -> tuple[tuple[str, ...], ...]:
    """Returns the inputs of some rows of a data set, such as their texts. No label is read.

    They are rows of the test split. Without one they are of validation, and without that of train.

    Args:
        source: as `load_splits` takes it.
        task: the task; it reads the table.
        text_column: the column of the texts, or both for pairs. None takes the column that the task has by default.
        format: how the text files are written, as far as the user says so.
        rows: the most rows. They keep their order.
        seed: the seed of the sample.

    Returns:
        For each input column, the value of each row.

    Raises:
        InputError: The source, a file, a column or a text is wrong; the message says how.
    """
    columns = task.columns(text_column, "")
    tables = _read_source(source, columns, format).tables
    inputs = task.inputs(next(tables[split] for split in ("test", "validation", "train") if split in tables), columns)
    sample = np.random.default_rng([seed, *b"inputs"]).permutation(len(inputs[0]))[:rows]
    return tuple(tuple(column[row] for row in np.sort(sample)) for column in inputs)


def _read_source(source: str, columns: Columns, format: Format) -> Source:
    """Returns the tables of a source, none of them empty."""
    read = read_source(source, columns, format)
    for table in read.tables.values():
        if len(table) == 0:
            raise empty_table(table.origin)
    return read


def validation_size(rows: int) -> int:
    """Returns how many of the training rows to hold out for validation.

    Every choice is made on these rows, and each of them is one less to learn from. docs/results/holdout.md has the
    simulation that weighs the two.
    """
    return max(1, round(HELD_OUT_SHARE * rows), min(round(SMALL_SHARE * rows), SMALL_ROWS))


def _hold_out(split: str, size: int, splits: dict[str, Rows], seed: int, notes: list[str]) -> None:
    """Moves about `size` rows of train to a new split. Each class keeps its share, and at least one training row.

    Rows of equal texts go together. So more rows than `size` are moved where no texts fit. Where no class can spare a
    text, equal texts come to stand on both sides; a note warns of it.
    """
    train = splits["train"]
    alone, groups = np.arange(len(train)), text_groups(train)
    index, how = _held_out(train.strata, groups, size, seed, split), "equal texts stay together"
    if len(index) == 0:
        index = _held_out(train.strata, alone, size, seed, split)
        how = (
            f"no class has two different texts, so texts of {split} also stand in train, and the accuracy on them says "
            f"little: pass a {split} file, or add rows with other texts"
        )
    if len(index) == 0:
        raise InputError(
            f"train must have a class of two rows or more, so that a {split} split can be held out, and has "
            f"{len(train)} rows of {len(np.unique(train.strata))} classes: pass a {split} file"
        )
    splits["train"] = train.take(np.setdiff1d(alone, index))
    splits[split] = train.take(index)
    note = f"{split} held out: {len(index)} of {len(train)} train rows (seed {seed})"
    notes.append(note if np.array_equal(groups, alone) else f"{note}; {how}")


def _held_out(strata: Strata, groups: Groups, size: int, seed: int, split: str) -> Int64[np.ndarray, " held"]:
    """Returns the indices of the rows to hold out; none where no text can be spared."""
    rank, share, order = _strata(strata, seed, split)
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    left, held = np.bincount(strata), np.zeros(strata.max() + 1, dtype=np.int64)
    taken: list[int] = []
    too_many: list[list[int]] = []
    for row in order[np.argsort(share[order], kind="stable")].tolist():
        together = members.get(int(groups[row]), [])
        moved = np.bincount(strata[together], minlength=len(left))
        # Rows that went with others count for their class: it has its share already.
        if not together or held[strata[row]] > rank[row] or bool(((moved > 0) & (left - moved < 1)).any()):
            continue
        if len(taken) + len(together) > size:
            too_many.append(together)
            continue
        taken += together
        left, held = left - moved, held + moved
        del members[int(groups[row])]
        if len(taken) == size:
            break
    return np.sort(np.array(taken or min(too_many, key=len, default=[]), dtype=np.int64))


def _sample(split: str, most: int | None, splits: dict[str, Rows], seed: int, notes: list[str]) -> None:
    """Cuts a split to at most `most` rows. Each class keeps its share, and the rows keep their order."""
    rows = splits[split]
    if most is None or len(rows) <= most:
        return
    _, share, order = _strata(rows.strata, seed, f"{split} sample")
    index = np.sort(order[np.argsort(share[order], kind="stable")][:most])
    splits[split] = rows.take(index)
    notes.append(f"{split} sampled: {most} of {len(rows)} rows (seed {seed})")


def _sample_train(most: int | None, splits: dict[str, Rows], seed: int, notes: list[str]) -> None:
    """Shuffles train and cuts it to at most `most` rows. Each class keeps its share, and at least one row."""
    rows = splits["train"]
    rank, share, order = _strata(rows.strata, seed, "train sample")
    index, classes = order, len(np.unique(rows.strata))
    if most is not None and most < classes:
        raise InputError(f"train_rows must be at least the number of classes, {classes}, and is {most}: take more rows")
    if most is not None and most < len(rows):
        first = np.where(rank == 0, -1.0, share)
        taken = np.isin(order, order[np.argsort(first[order], kind="stable")][:most])
        index = order[taken]
        notes.append(f"train sampled: {most} of {len(rows)} rows (seed {seed})")
    splits["train"] = rows.take(index)


def _strata(
    strata: Strata, seed: int, purpose: str
) -> tuple[Int64[np.ndarray, " rows"], Float64[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
    """Returns each row's random rank within its class, that rank as a share of the class, and all rows in random order.

    The ranks follow the random order. The rows with the lowest shares are a sample in which each class keeps its share.

    Args:
        strata: the class of each row.
        seed: the seed of the order.
        purpose: what the sample is for. Samples for different purposes are independent.
    """
    order = np.random.default_rng([seed, *purpose.encode()]).permutation(len(strata))
    rank = np.empty(len(strata), dtype=np.int64)
    share = np.empty(len(strata), dtype=np.float64)
    for kind in np.unique(strata):
        rows = order[strata[order] == kind]
        rank[rows] = np.arange(len(rows))
        share[rows] = (rank[rows] + 0.5) / len(rows)
    return rank, share, order
