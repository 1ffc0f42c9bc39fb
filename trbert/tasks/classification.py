"""Classification: one label for a text, or for a pair of texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks.examples import Encoded, Examples, Outputs
from trbert.tasks.labels import checked_labels, find_classes, without_labels
from trbert.tasks.panics import panics_told
from trbert.tasks.rows import Columns, Reading, Rows, Table, outside_train
from trbert.tasks.task import PerExample, Task
from trbert.tasks.texts import rows_with_texts
from trbert.wording import cut, first_line, the_first

LISTED = 8
"""The most classes whose rows are counted one by one in what is said of the data."""
HALF_A_POINT = 200
"""The number of rows below which one row is more than half a point of accuracy."""


class Classification(Task):
    """Predicts one of several classes for each document. A document is a text, or a pair of texts."""

    name = "classification"
    head = "AutoModelForSequenceClassification"
    metric = "accuracy"
    text_classes = True

    def columns(self, text_column: str | None = None, label_column: str | None = None) -> Columns:
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

    def check_config(self, config: Any) -> None:
        """Checks that a fine-tuned model gives each text one label.

        Raises:
            InputError: It was trained to give several labels, or a number.
        """
        trained = {"multi_label_classification": "several labels", "regression": "a number"}
        problem = getattr(config, "problem_type", None)
        if problem in trained:
            raise InputError(
                f"model {config.name_or_path!r} must give each text one label, and was trained to give it "
                f"{trained[problem]} (problem_type {problem}): pass --new-head, or another "
                "model"
            )

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the texts of every split with their labels as class indices, and the names of the classes.

        Rows with a blank text are left out. In a split other than train, so are rows that are in train, too. Rows
        labelled -1 are left out unless train has -1 as a class: -1 stands for labels that are missing or secret. A
        split without any label is not used.

        Raises:
            InputError: A text is not a string, a label is not a class, or no row is left.
        """
        notes: list[str] = []
        used: dict[str, list[int]] = {}
        named = "-1" in (renames or ())  # the user gives a class to rows that would be without one
        for split, table in tables.items():
            why = "" if split == "train" or named else without_labels(table, tables["train"], columns.target)
            if why:
                notes.append(f"{split} is not used: {why}")
                continue
            used[split], left_out = _usable(split, table, columns)
            notes += left_out
        labels = {
            split: checked_labels(tables[split], columns.target, rows, mixed=renames is not None)
            for split, rows in used.items()
        }
        classes = find_classes({split: tables[split] for split in used}, columns.target, labels, renames)
        rows = {
            split: _rows(tables[split], columns, used[split], targets)
            for split, targets in classes.targets.items()
            if any(target is not None for target in targets)
        }
        return Reading(rows=rows, labels=classes.names, notes=(*notes, *classes.notes))

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns how many training rows each class has, a row of train, and what small splits lack."""
        counts = np.bincount(rows["train"].targets, minlength=len(labels)).tolist()
        what = f"train: {len(rows['train']):,} rows of {len(labels)} classes"
        if len(labels) > LISTED:
            least, most = counts.index(min(counts)), counts.index(max(counts))
            each = f", from {counts[least]:,} of {cut(labels[least])} to {counts[most]:,} of {cut(labels[most])}"
            if counts[least] == counts[most]:
                each = f", {counts[most]:,} of each"
        else:
            each = ": " + ", ".join(f"{cut(name)} {count:,}" for name, count in zip(labels, counts, strict=True))
        sample = " and ".join(cut(column[0]) for column in rows["train"].inputs)
        found = [what + each, f"train: one of the rows is {sample}, of class {cut(labels[rows['train'].targets[0]])}"]
        tested = set(rows["test"].targets.tolist())
        if missing := [cut(name) for index, name in enumerate(labels) if index not in tested]:
            found.append(f"test: no row of {len(missing)} of {len(labels)} classes: {the_first(LISTED, missing)}")
        for split in ("validation", "test"):
            if (many := len(rows[split])) < HALF_A_POINT:
                found.append(
                    f"{split}: {many} rows of {len(labels)} classes, so that one row is {100 / many:.1f} points"
                )
        return found

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Returns an example of one document for each row that has a token.

        The first token of each document is protected. In a pair, the longer text is truncated first.
        """
        tokens, truncated, kept = encode_texts(tokenizer, rows.inputs, max_length)
        return Encoded(Examples.of_documents(self.protect(tokens), torch.tensor(rows.targets[kept])), truncated, kept)

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

    def decode(self, outputs: Outputs, examples: Examples) -> list[int]:
        """Returns the class index of each document."""
        decoded: list[int] = outputs.argmax(-1).tolist()
        return decoded

    def commonest(self, train: Examples, examples: Examples) -> list[int]:
        """Returns the most frequent class of train for each document."""
        return [int(torch.bincount(train.targets).argmax())] * len(examples)

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns 1 for each document whose class is its label, and 0 for the others."""
        return [float(one == label) for one, label in zip(decoded, examples.targets.tolist(), strict=True)]


def encode_texts(
    tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int
) -> tuple[Tokens, int, Int64[np.ndarray, " docs"]]:
    """Returns the tokens of texts as one row, how many documents were truncated, and which documents these are.

    A document for which the tokenizer gives no token is left out.

    Args:
        tokenizer: a Hugging Face tokenizer.
        columns: one list of texts; or two lists, where a document is a pair of texts.
        max_length: the most tokens of a document, with its special tokens. In a pair, the longer text is truncated
            first.

    Raises:
        InputError: max_length leaves no room for a token beside the special ones. There is no text. Or the tokenizer
            fails, or gives no token for any of them.
    """
    texts = [list(column) for column in columns]
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    if max_length <= special:
        raise InputError(f"max_length must be more than the {special} special tokens, and is {max_length}")
    if not texts[0]:
        raise InputError("texts must not be empty: pass at least one document")
    try:
        with panics_told():
            ids, kinds, long = _read(tokenizer, texts, max_length)
    except Exception as error:  # as the tokenizers library raises it
        raise InputError(
            f"tokenizer must read the texts of the data, and does not ({first_line(error)}): correct tokenizer.json, "
            "or pass another --model"
        ) from error
    kept = np.flatnonzero([len(own) > 0 for own in ids])
    if len(kept) == 0:
        raise InputError(
            f"tokenizer must give tokens for the texts, and gives none for any of the {len(ids)}, such as "
            f"{cut(texts[0][0])}: pass a model whose tokenizer knows this language"
        )
    own_ids, own_kinds = [ids[row] for row in kept], None if kinds is None else [kinds[row] for row in kept]
    return Tokens.from_lists(own_ids, own_kinds), long, kept


def _read(
    tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int
) -> tuple[list[list[int]], list[list[int]] | None, int]:
    """Returns the ids and the types of the tokens of each text, and how many texts were truncated."""
    encoded = tokenizer(*texts, truncation=False, verbose=False)
    ids, kinds = encoded["input_ids"], encoded.get("token_type_ids")
    long = [row for row, own in enumerate(ids) if len(own) > max_length]
    if long:  # they alone are read again
        cut_off = tokenizer(
            *([column[row] for row in long] for column in texts), truncation="longest_first", max_length=max_length
        )
        for place, row in enumerate(long):
            ids[row] = cut_off["input_ids"][place]
            if kinds is not None:
                kinds[row] = cut_off["token_type_ids"][place]
    return ids, kinds, len(long)


def _exact(outputs: Tensor) -> Tensor:
    """Returns the outputs in float32, or in float64 where they have it."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _usable(split: str, table: Table, columns: Columns) -> tuple[list[int], list[str]]:
    """Returns the indices of a table's usable rows, and notes on what was left out.

    A row is unusable where one of its texts is blank. In a split other than train, so is a row that is in train, too.
    """
    written, notes = rows_with_texts(table, columns.inputs), []
    if len(written) < len(table):
        notes.append(f"{split}: {len(table) - len(written)} empty texts left out")
    kept = written if split == "train" else outside_train(table, written)
    if len(kept) < len(written):
        notes.append(f"{split}: {len(written) - len(kept)} rows left out that are in train, too (in_train)")
    return kept, notes


def _rows(table: Table, columns: Columns, used: Sequence[int], targets: Sequence[int | None]) -> Rows:
    """Returns the used rows of a table that have a class."""
    kept = [(row, target) for row, target in zip(used, targets, strict=True) if target is not None]
    labels = np.array([target for _, target in kept], dtype=np.int64)
    return Rows(tuple(tuple(table.values[name][row] for row, _ in kept) for name in columns.inputs), labels, labels)
