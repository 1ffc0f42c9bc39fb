"""Tagging: a tag for each word of a text, such as its part of speech, or the entity that it belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks.examples import Encoded, Examples, Outputs, exact
from trbert.tasks.rows import TAGS, WORDS, Columns, Reading, Rows, Table
from trbert.tasks.task import PerExample, Task
from trbert.tasks.texts import mostly
from trbert.tasks.words.entities import Entity, entities, f1, follows_scheme, orphans, scheme_of
from trbert.tasks.words.tags import NO_TAG, check_words, read_tags, written_rows
from trbert.tasks.words.windows import Window, windows_of
from trbert.wording import cut, the_first

LISTED = 8
"""The most tags whose words are counted one by one in what is said of the data."""


class Tagging(Task):
    """Predicts a tag for each word of a row. The first token of a word says its tag, as is usual.

    A row with more tokens than a document may have becomes an example of several documents, so that each word gets a
    tag. The quality is the F1 score of entities where the tags follow an entity scheme, and else the share of words
    with the right tag.

    The targets of an example have an entry for each of its tokens, over all its documents: the number of a tag at the
    first token of a word, and `NO_TAG` elsewhere and as padding.
    """

    name = "tagging"
    head = "AutoModelForTokenClassification"
    reads = "tokens"
    metric = "accuracy"
    text_column = WORDS
    label_column = TAGS
    known_columns = tuple(
        (words, tags) for words in (WORDS, "words") for tags in (TAGS, "ner_tags", "labels", "pos_tags", "upos", "xpos")
    )

    def metric_of(self, names: Sequence[str]) -> str:
        """Returns "entity F1" where the tags follow an entity scheme, and "accuracy" elsewhere."""
        return "entity F1" if follows_scheme(names) else self.metric

    def columns(self, text_column: str | None = None, label_column: str | None = None) -> Columns:
        """Returns the column of the words and the column of their tags.

        Raises:
            InputError: text_column names several columns.
        """
        columns = super().columns(text_column, label_column)
        if len(columns.inputs) > 1:
            raise InputError(
                f"--text-column must name one column for tagging, that of the words, and is {text_column!r}: write "
                f"{columns.inputs[0]}"
            )
        return Columns(columns.inputs, columns.target, words=True)

    def sign(self, table: Table, columns: Columns) -> str:
        """Returns that a row has a list of words and a list of as many tags."""
        (words,) = columns.inputs
        pairs = list(zip(table.values[words], table.values[columns.target], strict=True))
        lists = mostly(pairs, lambda pair: isinstance(pair[0], list) and isinstance(pair[1], list))
        return f"columns {words!r} and {columns.target!r} of {table.origin} have lists" if pairs and lists else ""

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the words of every split with the numbers of their tags, and the names of the tags.

        Rows without a word are left out. In a split other than train, so are rows that are in train, too. A split
        without any tags is not used.

        Raises:
            InputError: A row has no list of words, an empty word, or another number of tags than of words. Or a tag is
                not one of those that train has, or does not fit the scheme of the others. Or train has a single tag.
        """
        return read_tags(tables, columns, renames)

    def written(self, table: Table, columns: Columns) -> list[int]:
        """Returns the indices of the rows that have something in the column of the words. The tags are not looked at.

        Raises:
            InputError: No row has.
        """
        return written_rows(table, columns.inputs[0])

    def check_inputs(self, table: Table, columns: Columns, row: int) -> None:
        """Checks that a row has a list of words.

        Raises:
            InputError: It has none, or a word is empty.
        """
        check_words(table, columns.inputs[0], row)

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns how many words of train have each tag, a row of train, what test lacks, and what the quality is."""
        train = rows["train"]
        counts = np.bincount(train.targets[train.targets != NO_TAG], minlength=len(labels)).tolist()
        ranked = sorted(zip(counts, labels, strict=True), key=lambda pair: -pair[0])
        each = the_first(LISTED, (f"{cut(name)} {count:,}" for count, name in ranked))
        sequences = [[labels[tag] for tag in own if tag != NO_TAG] for own in train.targets.tolist()]
        found = [
            f"train: {len(train):,} rows of {sum(counts):,} words and {len(labels)} tags: {each}",
            f"train: one of the rows is {cut(' '.join(train.inputs[0][0]))}, with the tags "
            f"{cut(' '.join(sequences[0]))}",
        ]
        tested = set(rows["test"].targets.ravel().tolist())
        if missing := [cut(name) for index, name in enumerate(labels) if index not in tested]:
            found.append(f"test: no word of {len(missing)} of {len(labels)} tags: {the_first(LISTED, missing)}")
        if not follows_scheme(labels):
            return [*found, "the tags follow no entity scheme, so that words are counted"]
        scheme = scheme_of(sequences)
        if scheme != "IOB1" and (alone := sum(map(orphans, sequences))):
            found.append(
                f"train: {alone:,} words continue an entity that no tag begins, so that each begins one itself"
            )
        return [*found, f"the tags follow the scheme {scheme}, so that entities are counted, as seqeval does"]

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Returns an example for each row that has a token: one document, or several where the row is too long for one.

        The first token of each document is protected.
        """
        if len(rows) == 0:
            raise InputError("rows must not be empty: pass at least one")
        found = windows_of(tokenizer, rows.inputs[0], max_length)
        kept = [row for row, own in enumerate(found) if any(each.first for each in own)]
        if not kept:
            raise InputError(
                f"tokenizer must give tokens for the words, and gives none for any of the {len(rows)} rows, such as "
                f"{cut(' '.join(rows.inputs[0][0]))}: pass a model whose tokenizer knows this language"
            )
        windows = [[each for each in found[row] if each.first] for row in kept]
        every = [each for own in windows for each in own]
        kinds = [each.kinds for each in every if each.kinds is not None]
        targets = [
            torch.cat([_targets(each, rows.targets[row]) for each in own])
            for row, own in zip(kept, windows, strict=True)
        ]
        examples = Examples(
            tokens=Tokens.from_lists([each.ids for each in every], kinds or None),
            targets=pad_sequence(targets, batch_first=True, padding_value=NO_TAG),
            owner=torch.arange(len(kept)).repeat_interleave(torch.tensor([len(own) for own in windows])),
            reads=self.reads,
            names=rows.names,
        )
        notes = []
        if long := sum(len(own) > 1 for own in windows):
            notes.append(f"{long:,} rows are longer than a document, and read as several, so that no word is cut off")
        words, with_token = sum(map(len, rows.inputs[0])), sum(len(each.first) for each in every)
        if with_token < words:
            notes.append(
                f"{words - with_token:,} of {words:,} words left out, because the tokenizer gives no token for them"
            )
        truncated = sum(each.cut for each in every)
        return Encoded(examples, truncated, np.array(kept, dtype=np.int64), tuple(notes))

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that the tags are outputs of the head.

        Raises:
            InputError: The number of a tag is below 0, or is not below the number of outputs.
        """
        tags = examples.targets[examples.targets != NO_TAG]
        if not 0 <= int(tags.min()) <= int(tags.max()) < num_outputs:
            raise InputError(
                f"tags must be from 0 to {num_outputs - 1}, and go from {int(tags.min())} to {int(tags.max())}: pass "
                "tags as the model numbers them"
            )

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns the mean of −log p(tag) over the words of each example."""
        tags = examples.token_targets
        losses = F.cross_entropy(exact(outputs), tags, ignore_index=NO_TAG, reduction="none")
        return _mean_over_words(losses, tags, examples)

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns the mean over words of T² · cross-entropy against the teacher's softened distribution.

        Hinton et al. 2015, section 2. The teacher's outputs for tokens that are not the first one of a word are not
        looked at.
        """
        shares = (exact(teacher_outputs) / temperature).softmax(-1)
        losses = -(temperature**2) * (shares * (exact(outputs) / temperature).log_softmax(-1)).sum(-1)
        return _mean_over_words(losses, examples.token_targets, examples)

    def unlabelled(self, inputs: tuple[tuple[Any, ...], ...], train: Rows) -> Rows:
        """Returns rows of words without tags. Until the teacher has judged them, each word has tag 0."""
        longest = max(map(len, inputs[0]))
        return replace(super().unlabelled(inputs, train), targets=np.zeros((len(inputs[0]), longest), dtype=np.int64))

    def targets_of(self, outputs: Outputs, examples: Examples) -> Tensor:
        """Returns the likeliest tag of each word, at its first token."""
        return examples.with_token_targets(outputs.argmax(-1).where(examples.token_targets != NO_TAG, NO_TAG))

    def prior(self, examples: Examples) -> float:
        """Returns the entropy of the tags' frequencies, in nats. Each example counts once, however long it is."""
        tags = examples.token_targets
        words = tags != NO_TAG
        weights = (1 / _words(examples).double()).repeat_interleave(examples.lengths)
        shares = torch.bincount(tags[words], weights[words]) / len(examples)
        return float(torch.special.entr(shares).sum())

    def decode(self, outputs: Outputs, examples: Examples) -> list[list[int]]:
        """Returns for each example the number of the tag of each word that has a token."""
        said = outputs.argmax(-1)[examples.token_targets != NO_TAG]
        return [own.tolist() for own in said.split(_words(examples).tolist())]

    def commonest(self, train: Examples, examples: Examples) -> list[list[int]]:
        """Returns the most frequent tag of train for each word."""
        tag = int(torch.bincount(train.targets[train.targets != NO_TAG]).argmax())
        return [[tag] * count for count in _words(examples).tolist()]

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns for each example its own quality: the F1 score of its entities, or the share of right words.

        An example in which there is no entity and none was found is right.
        """
        if follows_scheme(examples.names):
            return [
                f1(len(said & true), len(said), len(true)) if said or true else 1.0
                for said, true in _entities(decoded, examples)
            ]
        return [right / words for right, words in _right(decoded, examples)]

    def weights(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns how many entities each example has and was given together, or how many words it has.

        So the quality is the F1 score over all entities of a split, or the share of its right words. A long example
        counts for more.
        """
        if follows_scheme(examples.names):
            return [float(len(said) + len(true)) for said, true in _entities(decoded, examples)]
        return [float(words) for _, words in _right(decoded, examples)]

    def figures(self, decoded: Sequence[Any], examples: Examples) -> dict[str, float]:
        """Returns the accuracy over words where the quality is that of entities."""
        if not follows_scheme(examples.names):
            return {}
        counts = _right(decoded, examples)
        return {"accuracy": sum(right for right, _ in counts) / sum(words for _, words in counts)}


def _targets(window: Window, tags: Int[np.ndarray, " words"]) -> Tensor:
    """Returns the tag of each token of a document: that of a word at its first token, and `NO_TAG` elsewhere."""
    targets = torch.full((len(window.ids),), NO_TAG)
    targets[torch.tensor([*window.first.values()])] = torch.tensor(tags[[*window.first]])
    return targets


def _words(examples: Examples) -> Int[Tensor, " examples"]:
    """Returns the number of words of each example."""
    return (examples.targets != NO_TAG).sum(1)


def _mean_over_words(values: Float[Tensor, " tokens"], tags: Int[Tensor, " tokens"], examples: Examples) -> PerExample:
    """Returns the mean of a value over the words of each example. A word has the value of its first token."""
    sums = values.new_zeros(len(examples)).index_add(0, examples.output_owner, values * (tags != NO_TAG))
    return sums / _words(examples)


def _true(examples: Examples) -> list[list[int]]:
    """Returns the tags of the words of each example."""
    return [[tag for tag in own if tag != NO_TAG] for own in examples.targets.tolist()]


def _right(decoded: Sequence[Sequence[int]], examples: Examples) -> list[tuple[int, int]]:
    """Returns for each example the number of words whose tag is right, and the number of its words."""
    return [
        (sum(one == tag for one, tag in zip(said, true, strict=True)), len(true))
        for said, true in zip(decoded, _true(examples), strict=True)
    ]


def _entities(decoded: Sequence[Sequence[int]], examples: Examples) -> list[tuple[set[Entity], set[Entity]]]:
    """Returns for each example the entities that were found, and those that are true."""
    names = examples.names
    return [
        (entities([names[tag] for tag in said]), entities([names[tag] for tag in true]))
        for said, true in zip(decoded, _true(examples), strict=True)
    ]
