"""What tasks have in common that read a text, a pair of texts, or more of them, as one document."""

from abc import ABC
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks.bad_rows import read_rows
from trbert.tasks.examples import Encoded, Examples
from trbert.tasks.panics import tokenizer_told
from trbert.tasks.parts import typed_separators
from trbert.tasks.rows import Columns, Rows, Table
from trbert.tasks.task import Task
from trbert.tasks.texts import check_texts, outside_train, written_rows
from trbert.wording import cut

Truncation = Literal["longest_first", "only_first", "only_second"]

Protect = Callable[[Tokens, int | None, Int[Tensor, " docs"] | None], Tokens]
"""`Task.protect` of a task."""

_TRAINED = {
    "single_label_classification": "one label",
    "multi_label_classification": "several labels",
    "regression": "a number",
}
"""What a head gives each text, by the `problem_type` in its config."""


class OverTexts(Task, ABC):
    """A task whose documents are texts, pairs of texts, or more texts. An example is one document.

    Attributes:
        gives: what it gives each text, in words.
        least_outputs: the fewest outputs of a head that can have learned it.
    """

    head = "AutoModelForSequenceClassification"
    gives: ClassVar[str]
    least_outputs: ClassVar[int] = 1

    def check_config(self, config: Any) -> None:
        """Checks that a fine-tuned model gives each text what this task does.

        Raises:
            InputError: It was trained to give something else.
        """
        problem = getattr(config, "problem_type", None)
        if problem in _TRAINED and problem != (self.problem_type or "single_label_classification"):
            raise InputError(
                f"model {config.name_or_path!r} must give each text {self.gives}, and was trained to give it "
                f"{_TRAINED[problem]} (problem_type {problem}): pass --new-head, or another model"
            )
        if self.least_outputs > config.num_labels:
            raise InputError(
                f"model {config.name_or_path!r} must give each text {self.gives}, and was trained for something else "
                f"({config.num_labels} output): pass --new-head, or another model"
            )

    def texts(self, inputs: Sequence[Sequence[Any]], tokenizer: Any) -> tuple[tuple[str, ...], ...]:
        """Returns the texts as a text or a pair of texts. The second one of a pair joins all columns after the first.

        The separating token stands between them, as KG-BERT writes triples (Yao et al. 2019, section 3.2):
        [CLS] head [SEP] relation [SEP] tail [SEP].

        Raises:
            InputError: There are more than two columns, and the tokenizer has no separating token.
        """
        first, *later = (tuple(column) for column in inputs)
        if len(later) < 2:
            return (first, *later)
        separator = tokenizer.sep_token
        if separator is None:
            raise InputError(
                f"the tokenizer must have a separating token to join the {len(later) + 1} columns of --text-column, "
                "and has none: name one column or two, or pass another --model"
            )
        # Without blanks: a tokenizer of bytes, such as RoBERTa's, would read one before the separator as a token.
        return first, tuple(map(separator.join, zip(*later, strict=True)))

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Returns an example of one document for each row that has a token.

        The first token of each document is protected. In a pair, the longer text is truncated first. All texts after
        the first one count as one text.
        """
        texts = self.texts(rows.inputs, tokenizer)
        tokens, truncated, kept = encode_texts(tokenizer, texts, max_length, protect=self.protect)
        return Encoded(Examples.of_documents(tokens, torch.tensor(rows.targets[kept])), truncated, kept)


def macro_f1(right: Int64[np.ndarray, " classes"], both: Int64[np.ndarray, " classes"]) -> dict[str, float]:
    """Returns the mean of the F1 of each class, by its name; nothing where no class occurs.

    A class that no example has, and that none was given, does not count.

    Args:
        right: how many examples were rightly given each class.
        both: how many examples have each class, plus how many were given it.

    Example:
        >>> macro_f1(np.array([1, 0, 0]), np.array([2, 3, 0]))  # 1 and 0
        {'macro F1': 0.5}
    """
    occurs = both > 0
    return {"macro F1": float((2 * right[occurs] / both[occurs]).mean())} if occurs.any() else {}


def usable_rows(split: str, table: Table, columns: Columns) -> tuple[list[int], list[str]]:
    """Returns the indices of a table's usable rows, and notes on what was left out.

    A row is unusable where one of its texts is blank. In a split other than train, so is a row that is in train, too.

    Raises:
        InputError: A text is no string, and bad rows are not left out. Or no row is usable.
    """
    written, notes = written_rows(table, columns.inputs), []
    if len(written) < len(table):
        notes.append(f"{split}: {len(table) - len(written)} empty texts left out")
    kept = written if split == "train" else outside_train(table, written)
    if len(kept) < len(written):
        notes.append(f"{split}: {len(written) - len(kept)} rows left out that are in train, too (in_train)")
    kept, _, bad = read_rows(split, table, columns, kept, partial(check_texts, table, columns.inputs))
    return kept, [*notes, *bad]


def encode_texts(
    tokenizer: Any,
    columns: Sequence[Sequence[str]],
    max_length: int,
    truncation: Truncation = "longest_first",
    protect: Protect | None = None,
) -> tuple[Tokens, int, Int64[np.ndarray, " docs"]]:
    """Returns the tokens of texts as one row, how many documents were truncated, and which documents these are.

    A document for which the tokenizer gives no token is left out.

    Args:
        tokenizer: a Hugging Face tokenizer.
        columns: one list of texts; or two lists, where a document is a pair of texts.
        max_length: the most tokens of a document, with its special tokens.
        truncation: which text of a pair is truncated: the longer one first, or one of them alone.
        protect: `Task.protect` of the task; None protects the first token of each document alone.

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
    with tokenizer_told():
        ids, kinds, typed, long = _read(tokenizer, texts, max_length, truncation)
    kept = np.flatnonzero([len(own) > 0 for own in ids])
    if len(kept) == 0:
        raise InputError(
            f"tokenizer must give tokens for the texts, and gives none for any of the {len(ids)}, such as "
            f"{cut(texts[0][0])}: pass a model whose tokenizer knows this language"
        )
    own_ids, own_kinds = [ids[row] for row in kept], None if kinds is None else [kinds[row] for row in kept]
    tokens = Tokens.from_lists(own_ids, own_kinds)
    if protect is not None:
        tokens = protect(tokens, tokenizer.sep_token_id, torch.tensor(typed)[torch.from_numpy(kept)])
    return tokens, long, kept


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Returns the number of tokens of each text, without special ones.

    Raises:
        InputError: The tokenizer fails.
    """
    with tokenizer_told():
        found = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return [len(ids) for ids in found]


def _read(
    tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int, truncation: Truncation
) -> tuple[list[list[int]], list[list[int]] | None, list[int], int]:
    """Returns the ids and the types of the tokens of each text, its typed separators, and how many were truncated."""
    encoded = tokenizer(*texts, truncation=False, verbose=False)
    ids, kinds = encoded["input_ids"], encoded.get("token_type_ids")
    separator = tokenizer.sep_token_id if len(texts) == 2 else None
    typed = [typed_separators(encoded, row, separator) for row in range(len(ids))]
    long = [row for row, own in enumerate(ids) if len(own) > max_length]
    if long:  # they alone are read again
        cut_off = tokenizer(
            *([column[row] for row in long] for column in texts), truncation=truncation, max_length=max_length
        )
        for place, row in enumerate(long):
            ids[row] = cut_off["input_ids"][place]
            typed[row] = typed_separators(cut_off, place, separator)
            if kinds is not None:
                kinds[row] = cut_off["token_type_ids"][place]
    return ids, kinds, typed, len(long)
