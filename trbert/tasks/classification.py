"""Classification: one label for a text, or for a pair of texts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks.examples import Examples, Outputs
from trbert.tasks.rows import Columns, Reading, Rows, Table, outside_train
from trbert.tasks.task import PerExample, Task
from trbert.wording import did_you_mean, listed, shown

KINDS = {bool: "booleans", int: "integers", str: "strings"}
"""The types that a label can have, with their names in error messages."""


class Classification(Task):
    """Predicts one of several classes for each document. A document is a text, or a pair of texts."""

    name = "classification"
    head = "AutoModelForSequenceClassification"
    metric = "accuracy"
    text_classes = True

    def columns(self, text_column: str, label_column: str) -> Columns:
        """Returns the columns of the texts and of the labels.

        Raises:
            InputError: text_column does not name one column or two.
        """
        columns = super().columns(text_column, label_column)
        if len(columns.inputs) > 2:
            raise InputError(
                f"--text-column must name one column, or two with a comma between them, and is {text_column!r}: "
                "write text, or question,sentence for pairs"
            )
        return columns

    def read(self, tables: Mapping[str, Table], columns: Columns) -> Reading:
        """Returns the texts of every split with their labels as class indices, and the names of the classes.

        Rows with a blank text are left out. A split other than train whose labels are all -1 is left out, too: on the
        hub, -1 stands for labels that are kept secret.

        Raises:
            InputError: A text is not a string, a label is not a class, or no row is left.
        """
        notes: list[str] = []
        found: dict[str, Table] = {}
        for split, table in tables.items():
            labels = table.values[columns.target]
            if split != "train" and len(labels) > 0 and all(label == -1 for label in labels):
                notes.append(f"{split} is not used: its {len(labels)} labels are all -1, which stands for secret ones")
                continue
            found[split], left_out = _usable(split, table, columns)
            notes += left_out
        values, names = _classes(found, columns)
        index = {value: position for position, value in enumerate(values)}
        rows = {split: _rows(table, columns, index) for split, table in found.items()}
        return Reading(rows=rows, labels=names, notes=tuple(notes))

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> tuple[Examples, int]:
        """Returns an example of one document for each row, and how many documents were truncated.

        The first token of each document is protected. In a pair, the longer text is truncated first.
        """
        tokens, truncated = encode_texts(tokenizer, rows.inputs, max_length)
        return Examples.of_documents(self.protect(tokens), torch.tensor(rows.targets)), truncated

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that the labels are class indices of the head.

        Raises:
            InputError: A label is below 0, or is not below the number of outputs.
        """
        labels = examples.targets
        if not 0 <= int(labels.min()) <= int(labels.max()) < num_outputs:
            raise InputError(
                f"labels must be from 0 to {num_outputs - 1}, and go from {int(labels.min())} to "
                f"{int(labels.max())}: pass class indices as the model numbers them"
            )

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns −log p(label) of each document."""
        return F.cross_entropy(_exact(outputs), examples.targets, reduction="none")

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns T² · cross-entropy against the teacher's softened distribution (Hinton et al. 2015, section 2)."""
        target = (_exact(teacher_outputs) / temperature).softmax(-1)
        return -(temperature**2) * (target * (_exact(outputs) / temperature).log_softmax(-1)).sum(-1)

    def prior(self, examples: Examples) -> float:
        """Returns the entropy of the labels' frequencies, in nats."""
        shares = torch.bincount(examples.targets).double() / len(examples)
        return float(torch.special.entr(shares).sum())

    def commonest(self, train: Examples, examples: Examples) -> list[int]:
        """Returns for each document the class that most training documents have."""
        return [int(torch.bincount(train.targets).argmax())] * len(examples)

    def decode(self, outputs: Outputs, examples: Examples) -> list[int]:
        """Returns the class index of each document."""
        decoded: list[int] = outputs.argmax(-1).tolist()
        return decoded

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns 1 for each document whose class is its label, and 0 for the others."""
        return [float(one == label) for one, label in zip(decoded, examples.targets.tolist(), strict=True)]


def encode_texts(tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int) -> tuple[Tokens, int]:
    """Returns the tokens of texts, or of pairs of texts, as one row, and how many documents were truncated.

    Args:
        tokenizer: a Hugging Face tokenizer.
        columns: one list of texts; or two lists, where a document is a pair of texts.
        max_length: the most tokens of a document, with its special tokens. In a pair, the longer text is truncated
            first.

    Raises:
        InputError: max_length leaves no room for a token beside the special ones, or there is no text.
    """
    texts = [list(column) for column in columns]
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    if max_length <= special:
        raise InputError(f"max_length must be more than the {special} special tokens, and is {max_length}")
    if not texts[0]:
        raise InputError("texts must not be empty: pass at least one document")
    encoded = tokenizer(*texts, truncation=False, verbose=False)
    truncated = sum(len(ids) > max_length for ids in encoded["input_ids"])
    if truncated:
        encoded = tokenizer(*texts, truncation="longest_first", max_length=max_length)
    return Tokens.from_lists(encoded["input_ids"], encoded.get("token_type_ids")), truncated


def _exact(outputs: Tensor) -> Tensor:
    """Returns the outputs in float32, or in float64 where they have it."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _usable(split: str, table: Table, columns: Columns) -> tuple[Table, list[str]]:
    """Returns a table without its unusable rows, and notes on what was left out.

    A row is unusable where one of its texts is blank. In a split other than train, so is a row that is in train, too.
    """
    written, notes = list(range(len(table))), []
    for name in columns.inputs:
        written = _written(table, name, written)
    if len(written) < len(table):
        notes.append(f"{split}: {len(table) - len(written)} empty texts left out")
    kept = written if split == "train" else outside_train(table, written)
    if len(kept) < len(written):
        notes.append(f"{split}: {len(written) - len(kept)} rows left out that are in train, too (in_train)")
    labels = _checked_labels(table, kept, columns.target)
    values = {name: [table.values[name][row] for row in kept] for name in columns.inputs} | {columns.target: labels}
    return Table(table.origin, values, table.target_names, table.names_origin), notes


def _written(table: Table, name: str, rows: Sequence[int]) -> list[int]:
    """Returns those of the given rows whose text in this column is not blank."""
    texts = table.values[name]
    for row, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"row {row} of {table.origin} must have a string in column {name!r}, and has {shown(text)}: "
                "set --text-column to the column of the texts"
            )
    written = [row for row in rows if texts[row] is not None and texts[row].strip()]
    if not written:
        raise InputError(
            f"{table.origin} must have a text in column {name!r}, and its {len(rows)} texts are all empty: "
            "set --text-column to the column of the texts"
        )
    return written


def _checked_labels(table: Table, rows: Sequence[int], column: str) -> list[Any]:
    """Returns the labels of the given rows, which are all booleans, all integers or all strings."""
    labels: list[Any] = []
    first: dict[type, int] = {}
    for row in rows:
        label = table.values[column][row]
        if label is None or label != label or (isinstance(label, str) and not label.strip()):
            raise InputError(
                f"row {row} of {table.origin} must have a label in column {column!r}, and has none: "
                "fill it in or remove the row"
            )
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if type(label) not in KINDS:
            raise InputError(
                f"row {row} of {table.origin} must have a string, an integer or a boolean in column {column!r}, and "
                f"has {shown(label)}: set --label-column to the column of the classes"
            )
        first.setdefault(type(label), row)
        labels.append(label)
    if len(first) > 1:
        found = " and ".join(f"{KINDS[kind]} (row {row}: {table.values[column][row]!r})" for kind, row in first.items())
        raise InputError(
            f"labels in column {column!r} of {table.origin} must be of one type, and are {found}: write all "
            "of them in the same way"
        )
    return labels


def _classes(tables: Mapping[str, Table], columns: Columns) -> tuple[list[Any], tuple[str, ...]]:
    """Returns the value of a label of each class, and the name of each class, both in the order of the classes."""
    train = tables["train"]
    labels = train.values[columns.target]
    for table in tables.values():
        kind, train_kind = type(table.values[columns.target][0]), type(labels[0])
        if kind is not train_kind:
            raise InputError(
                f"labels in column {columns.target!r} must be of one type in all splits, and are {KINDS[train_kind]} "
                f"in {train.origin} and {KINDS[kind]} in {table.origin}: write all of them in the same way"
            )
    names = train.target_names
    if names is None:
        values = sorted(set(labels), key=_sort_key(labels))
        names = tuple(map(str, values))
    else:
        values = list(names) if isinstance(labels[0], str) else list(range(len(names)))
        for table in tables.values():
            _check_named(table, columns.target, train, values)
    present = set(labels)
    for table in tables.values():
        own = table.values[columns.target]
        without = [value for value in dict.fromkeys(own) if value not in present]
        if without:
            count = sum(label == without[0] for label in own)
            raise InputError(
                f"label {without[0]!r} of {table.origin} must have training rows, and has none in {train.origin}: add "
                f"some, or remove its {count} rows"
            )
    for name, value in zip(names, values, strict=True):
        if value not in present:
            raise InputError(
                f"label name {name!r} of {train.names_origin} must have training rows, and no row has it: add some, "
                "or remove the name"
            )
    if len(values) < 2:
        raise InputError(
            f"{train.origin} must have rows of at least two classes, and all have {values[0]!r} in column "
            f"{columns.target!r}: set --label-column to the column of the classes"
        )
    return values, names


def _rows(table: Table, columns: Columns, index: Mapping[Any, int]) -> Rows:
    labels = np.array([index[label] for label in table.values[columns.target]], dtype=np.int64)
    return Rows(tuple(tuple(table.values[name]) for name in columns.inputs), labels, labels)


def _check_named(table: Table, column: str, train: Table, values: Sequence[Any]) -> None:
    for label in table.values[column]:
        if label in values:
            continue
        if isinstance(label, str):
            rule = f"be one of the names in {train.names_origin}, {listed(values)}{did_you_mean(label, values)}"
        else:
            rule = f"be the index of one of the {len(values)} names in {train.names_origin}"
        raise InputError(f"label {label!r} of {table.origin} must {rule}: correct the row or the names")


def _sort_key(labels: Iterable[Any]) -> Callable[[Any], Any] | None:
    """Returns the sort key for labels. Labels that are all whole numbers, or strings of them, are sorted by value."""
    try:
        numbers = {label: int(label) for label in labels}
    except ValueError:
        return None
    return lambda label: (numbers[label], str(label))
