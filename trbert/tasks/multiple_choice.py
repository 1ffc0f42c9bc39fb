"""Multiple choice: which one of several options answers a question, mostly about a text."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trbert.errors import InputError
from trbert.tasks.bad_rows import read_rows, rows_with_room
from trbert.tasks.examples import Encoded, Examples, Outputs, exact
from trbert.tasks.labels import with_labels
from trbert.tasks.over_texts import count_tokens, encode_texts, usable_rows
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.task import PerExample, Task
from trbert.tasks.texts import check_texts, is_blank, is_missing, written_rows
from trbert.wording import briefly_listed, cut, shown

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The letters of the options, in their order. There are at most so many options."""
BLANK = re.compile(r"(?<!\w)_+|_+(?!\w)")
"""The blank of a cloze question. Underscores between two letters are none."""


class MultipleChoice(Task):
    """Predicts which of several options answers a question. The example is the question; each option is a document.

    A document is a pair of texts: the article, and the question with the option. In a cloze question the option takes
    the place of each blank; elsewhere it follows the question. Hugging Face's code for RACE, which the original TR-BERT
    code took over, writes its documents like that. Without an article the pair is the question and the option.

    The target of an example is the index of the right option. The outputs are one number for each option.
    """

    name = "multiple_choice"
    head = "AutoModelForMultipleChoice"
    metric = "accuracy"
    text_column = "article,question,options"
    label_column = "answer"
    known_columns = ((text_column, label_column), ("question,options", label_column))
    protected_part = "second"

    def columns(self, text_column: str | None = None, label_column: str | None = None) -> Columns:
        """Returns the columns of the article, of the question, of the options, and of the answer.

        Raises:
            InputError: text_column names neither three columns nor two.
        """
        columns = super().columns(text_column, label_column)
        if len(columns.inputs) not in (2, 3):
            raise InputError(
                f"--text-column must name the columns of the article, of the question and of the options, and is "
                f"{text_column!r}: write {self.text_column}, or question,options where there is no article"
            )
        return columns

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the texts and the options of every split, with the index of the right option of each row.

        Rows with a blank article or question are left out. In a split other than train, so are rows that are in train,
        too. A split without any answers is not used. An answer is a letter, an index from 0 or from 1 on, or the text
        of an option: whichever of them fits the most rows of train. It is the text where that fits all of them. A note
        says so where two fit as many rows and give other options.

        Raises:
            InputError: A row has no list of options, another number of options than most rows, a blank option, or an
                answer that is no option. Or no row is left, or there is a map of labels.
        """
        if renames is not None:
            raise InputError("--label-map must be left out for multiple_choice, and is set: write answers in the data")
        tables, notes = with_labels(tables, columns)
        used: dict[str, list[int]] = {}
        for split, table in tables.items():
            used[split], left_out = usable_rows(split, table, replace(columns, inputs=columns.inputs[:-1]))
            notes += left_out
        train, name = tables["train"], columns.inputs[-1]
        lists = [train.values[name][row] for row in used["train"]]
        count = Counter(len(own) for own in lists if isinstance(own, list)).most_common(1)
        kind, told = _kind_of(train, columns, used["train"])
        notes += told
        rows = {}
        for split, table in tables.items():
            read = partial(_read, table, columns, count[0][0] if count else 0, kind)
            kept, answers, skipped = read_rows(split, table, columns, used[split], read)
            notes += skipped
            targets = np.array(answers, dtype=np.int64)
            rows[split] = Rows(
                table.inputs(columns, kept),
                targets,
                targets,
                places=table.places(kept),
                skip_bad=columns.skip_bad,
                together=0,
            )
        return Reading(rows=rows, labels=(), notes=tuple(notes))

    def written(self, table: Table, columns: Columns) -> list[int]:
        """Returns the indices of the rows that have an article and a question. The options are not looked at.

        Raises:
            InputError: No row has.
        """
        return written_rows(table, columns.inputs[:-1])

    def check_inputs(self, table: Table, columns: Columns, row: int) -> None:
        """Checks that a row has texts and a list of options.

        Raises:
            InputError: A value is no text, or no list of options.
        """
        check_texts(table, columns.inputs[:-1], row)
        _options(table, columns.inputs[-1], row)

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns how many questions train has, how often each option is the right one, and a row of train."""
        train = rows["train"]
        question, options = train.inputs[-2][0], train.inputs[-1][0]
        counts = np.bincount(train.targets, minlength=len(options)).tolist()
        each = ", ".join(f"{letter} {count:,}" for letter, count in zip(LETTERS, counts, strict=False))
        return [
            f"train: {len(train):,} questions of {len(options)} options; the right one is {each}",
            f"train: one of the questions is {cut(question)}, with the answer {cut(options[train.targets[0]])}",
        ]

    def texts(self, inputs: Sequence[Sequence[Any]], tokenizer: Any) -> tuple[tuple[str, ...], ...]:
        """Returns the pairs of texts of all options, one row after the other."""
        *first, options = inputs
        texts = zip(*first, strict=True)
        pairs = [_pair(own, option) for own, each in zip(texts, options, strict=True) for option in each]
        return tuple(zip(*pairs, strict=True))

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Returns an example for each row. It has a document for each option.

        The article alone is truncated. The first token of each document is protected, and so are the question and the
        option.

        Raises:
            InputError: A question with an option leaves no room for a token of the article.
        """
        if len(rows) == 0:
            raise InputError("rows must not be empty: pass at least one")
        counts = iter(count_tokens(tokenizer, self.texts(rows.inputs, tokenizer)[1]))
        longest = [max(islice(counts, len(options))) for options in rows.inputs[-1]]
        most = max_length - tokenizer.num_special_tokens_to_add(pair=True) - 1
        rule = f"a question that, with each option, leaves room for its text within {max_length} tokens"
        fitting, notes = rows_with_room(rows, longest, most, rule)
        options = torch.tensor([len(rows.inputs[-1][row]) for row in fitting])
        texts = self.texts(rows.take(fitting).inputs, tokenizer)
        tokens, truncated, documents = encode_texts(tokenizer, texts, max_length, "only_first", self.protect)
        # A row of which the tokenizer reads some options alone is left out, as one is without any token.
        owner = torch.arange(len(fitting)).repeat_interleave(options)[torch.tensor(documents)]
        whole = torch.bincount(owner, minlength=len(fitting)) == options
        tokens, owner = tokens.take(whole[owner].nonzero()[:, 0]), owner[whole[owner]]
        kept = fitting[whole.numpy()]
        examples = Examples(
            tokens=tokens,
            targets=torch.tensor(rows.targets[kept]),
            owner=owner.unique_consecutive(return_inverse=True)[1],
        )
        return Encoded(examples, truncated, kept, notes, skipped=len(rows) - len(fitting))

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that the targets are options of their examples. The head has one output, whatever its config says.

        Raises:
            InputError: They are not.
        """
        wrong = (examples.targets < 0) | (examples.targets >= examples.counts)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise InputError(
                f"the target of each example must be the index of one of its options, and that of example {row} is "
                f"{int(examples.targets[row])} of {int(examples.counts[row])}: count the options from 0"
            )

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns −log p(the right option) of each example, where p is a softmax over its options."""
        options = examples.counts
        return -examples.log_shares(exact(outputs))[options.cumsum(0) - options + examples.targets, 0]

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns T² · cross-entropy against the teacher's softened distribution (Hinton et al. 2015, section 2)."""
        shares = examples.log_shares(exact(teacher_outputs) / temperature).exp()
        losses = -shares * examples.log_shares(exact(outputs) / temperature)
        return temperature**2 * examples.per_example(losses[:, 0])

    def unlabelled(self, inputs: tuple[tuple[Any, ...], ...], train: Rows) -> Rows:
        """Returns questions without answers. Until the teacher has judged them, option 0 is right, which each has.

        A question may have another number of options than those of train.
        """
        return replace(super().unlabelled(inputs, train), targets=np.zeros(len(inputs[0]), dtype=np.int64))

    def targets_of(self, outputs: Outputs, examples: Examples) -> Tensor:
        """Returns the likeliest option of each example."""
        return torch.tensor(self.decode(outputs, examples))

    def prior(self, examples: Examples) -> float:
        """Returns the mean of log(number of options), in nats.

        Where the right option stands tells the head nothing, because it reads each option by itself. So a prediction
        that reads no text gives all options of a question the same probability.
        """
        same = torch.zeros(examples.num_outputs, 1, dtype=torch.float64, device=examples.targets.device)
        return float(self.loss(same, examples).mean())

    def decode(self, outputs: Outputs, examples: Examples) -> list[int]:
        """Returns the index of the most likely option of each example."""
        return [int(own.argmax()) for own in outputs[:, 0].split(examples.counts.tolist())]

    def commonest(self, train: Examples, examples: Examples) -> list[int]:
        """Returns the index that is most often the right one in train, for each example."""
        return [int(torch.bincount(train.targets).argmax())] * len(examples)

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns 1 for each example whose option is the right one, and 0 for the others."""
        return [float(one == right) for one, right in zip(decoded, examples.targets.tolist(), strict=True)]


def _pair(texts: Sequence[str], option: str) -> tuple[str, str]:
    """Returns the two texts of an option's document.

    Args:
        texts: the article and the question, or the question alone.
        option: the text of the option.

    Example:
        >>> _pair(("It rains.", "The weather is _ ."), "bad")
        ('It rains.', 'The weather is bad .')
        >>> _pair(("It rains.", "Why?"), "Who knows")
        ('It rains.', 'Why? Who knows')
    """
    if len(texts) == 1:
        return texts[0], option
    article, question = texts
    filled, blanks = BLANK.subn(lambda _: option, question)
    return article, filled if blanks else f"{question} {option}"


def _options(table: Table, name: str, row: int) -> list[str]:
    """Returns the options of a row.

    Raises:
        InputError: They are no list of two texts or more, or one of them is blank.
    """
    options = table.values[name][row]
    where = f"row {row} of {table.origin}"
    if not isinstance(options, list):
        raise InputError(
            f"{where} must have a list of options in column {name!r}, and has {shown(options)}: write a list in a "
            f".jsonl or .parquet file, or name the column of the options as the last one of --text-column"
            f"{table.unread}"
        )
    if not 2 <= len(options) <= len(LETTERS):
        raise InputError(
            f"{where} must have from 2 to {len(LETTERS)} options in column {name!r}, and has {len(options)}: correct "
            "or remove the row"
        )
    for place, option in enumerate(options):
        if not isinstance(option, str) or is_blank(option):
            raise InputError(
                f"option {place} of {where} must be a text, and is {shown(option)}: correct or remove the row"
            )
    return options


def _read(table: Table, columns: Columns, count: int, kind: str, row: int) -> int:
    """Returns the index of the right option of a row.

    Args:
        table: the table.
        columns: its columns.
        count: how many options there are to be.
        kind: how the answers are written.
        row: the index of the row.

    Raises:
        InputError: The options or the answer are wrong.
    """
    options = _options(table, columns.inputs[-1], row)
    if len(options) != count:
        raise InputError(
            f"row {row} of {table.origin} must have as many options as most rows of train, {count}, and has "
            f"{len(options)}: correct or remove the row"
        )
    answer = table.values[columns.target][row]
    found = _KINDS[kind](answer, options)
    if found is None:
        raise InputError(
            f"row {row} of {table.origin} must have one of its {count} options in column {columns.target!r}, as {kind} "
            f"as in most rows of train, and has {shown(answer)}: correct or remove the row, or set --label-column to "
            f"the column of the answers{table.unread}"
        )
    return found


def _letter(answer: Any, options: Sequence[str]) -> int | None:
    """Returns the index of the option that a letter names."""
    letter = answer.strip().upper() if isinstance(answer, str) else ""
    place = LETTERS.find(letter) if len(letter) == 1 else -1
    return place if 0 <= place < len(options) else None


def _index(first: int, answer: Any, options: Sequence[str]) -> int | None:
    """Returns the index that an answer is, where the first option has the number `first`."""
    if isinstance(answer, str):
        answer = int(answer) if answer.strip().isdecimal() and len(answer) < 9 else None
    whole = isinstance(answer, int | float) and not isinstance(answer, bool) and answer == answer // 1
    return int(answer) - first if whole and first <= answer < first + len(options) else None


def _text(answer: Any, options: Sequence[str]) -> int | None:
    """Returns the index of the one option whose text is the answer."""
    texts = [option.strip() for option in options]
    text = answer.strip() if isinstance(answer, str) else None
    return texts.index(text) if text is not None and texts.count(text) == 1 else None


_BY_TEXT = "the text of an option"
_KINDS: dict[str, Callable[[Any, Sequence[str]], int | None]] = {
    "a letter from A on": _letter,
    "an index from 0 on": partial(_index, 0),
    "an index from 1 on": partial(_index, 1),
    _BY_TEXT: _text,
}
"""How answers are written, in words, and what finds the option of an answer; None where it is none of the options."""


def _kind_of(table: Table, columns: Columns, rows: Sequence[int]) -> tuple[str, list[str]]:
    """Returns how the answers of train are written, and a note on other ways that fit as many rows.

    It is the first of the kinds that fit the most rows; but where each answer is the text of an option, it is that. It
    is decided for all rows together, because an option may itself be a letter or a number.

    Raises:
        InputError: There are answers, and none of them is an option.
    """
    options, answers = table.values[columns.inputs[-1]], table.values[columns.target]
    lists = [(answers[row], options[row]) for row in rows if isinstance(options[row], list)]
    pairs = [(answer, [str(each) for each in own]) for answer, own in lists if not is_missing(answer)]
    readings = {kind: [find(*pair) for pair in pairs] for kind, find in _KINDS.items()}
    fits = {kind: sum(option is not None for option in read) for kind, read in readings.items()}
    best = _BY_TEXT if fits[_BY_TEXT] == len(pairs) else max(fits, key=lambda kind: fits[kind])
    if pairs and not fits[best]:
        raise InputError(
            f"column {columns.target!r} of {table.origin} must say which option is right, and no row does: the first "
            f"answer is {shown(pairs[0][0])}, and its options are {briefly_listed(pairs[0][1])}: write each answer as "
            f"{' or '.join(_KINDS)}; or set --label-column to the column of the answers{table.unread}"
        )
    like = [kind for kind, read in readings.items() if fits[kind] == fits[best] and read != readings[best]]
    if not like:
        return best, []
    return best, [
        f"{table.origin}: each answer in column {columns.target!r} is read as {best}, although "
        f"{' and '.join(like)} fits as many rows: if it is meant otherwise, write the answers as letters from A on"
    ]
