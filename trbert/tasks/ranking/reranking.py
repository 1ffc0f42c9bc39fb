"""Reranking: puts the documents of a query in order, by a score for each pair of the query and a document."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trbert.errors import InputError
from trbert.tasks.bad_rows import rows_with_room
from trbert.tasks.examples import Encoded, Examples, Outputs, exact
from trbert.tasks.over_texts import OverTexts, count_tokens, encode_texts
from trbert.tasks.ranking.measures import average_precision, ndcg, reciprocal_rank
from trbert.tasks.ranking.queries import NO_GRADE, read_queries, with_fewer_documents
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.task import PerExample
from trbert.wording import cut

Grades = Float[Tensor, " docs"]


class Ranking(OverTexts, ABC):
    """Puts the documents of each query in order. An example is a query, and has a document for each of its pairs.

    A cross-encoder reads a query together with a document, and gives the pair one score. The highest score comes first.
    The query is protected, so that only tokens of the documents are dropped.

    The targets are [queries, most documents]: how relevant each document is, from 0 to 1, and `NO_GRADE` as padding. A
    deployed model is given a target for each pair alone, [docs].

    The quality is MAP: the mean of each query's average precision. A query without a relevant document does not count,
    as in trec_eval; it is left out when the data is read. A query that has relevant documents alone counts as 1.
    Documents with equal scores have the mean over all their orders.
    """

    metric = "MAP"
    text_column = "query,document"
    protected_part = "first"
    gives = "one score"

    def check_config(self, config: Any) -> None:
        """Checks that a fine-tuned model gives each pair one score, as cross-encoders of sentence-transformers do.

        Raises:
            InputError: It has several outputs, or was trained to give numbers or several labels.
        """
        super().check_config(config)
        if config.num_labels != 1:
            raise InputError(
                f"model {config.name_or_path!r} must give each pair of a query and a document {self.gives}, and has "
                f"{config.num_labels} outputs: pass a cross-encoder with one output, or --new-head"
            )

    def columns(self, text_column: str | None = None, label_column: str | None = None) -> Columns:
        """Returns the columns of the queries, of the documents and of the grades.

        Raises:
            InputError: text_column does not name two columns.
        """
        columns = super().columns(text_column, label_column)
        if len(columns.inputs) != 2:
            raise InputError(
                f"--text-column must name the column of the queries and that of the documents for task {self.name}, "
                f"and is {text_column!r}: write query,document"
            )
        return columns

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the queries of every split with their documents, and how relevant these are.

        A row of a table is a query with one of its documents. Queries without a relevant document are left out.

        Raises:
            InputError: A text is not a string, a label is no grade, or no query is left. Or no query of train has
                documents of different grades.
        """
        return read_queries(tables, columns, renames)

    def learned_from(self, train: Rows) -> tuple[Rows, list[str]]:
        """Returns the queries of train with fewer documents, where a query has too many to hold them all in memory."""
        return with_fewer_documents(train)

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns how many queries and documents there are, a pair of train, and what does not count."""
        notes = []
        for split, own in rows.items():
            numbers, real = [len(documents) for documents in own.inputs[1]], own.targets != NO_GRADE
            relevant = float((own.targets > 0).sum() / real.sum())
            least, most = min(numbers), max(numbers)
            each = f"{least:,} each" if least == most else f"{least:,} to {most:,} each"
            notes.append(
                f"{split}: {len(own):,} queries with {sum(numbers):,} documents, {each}; {relevant:.0%} of the "
                "documents are relevant"
            )
            if sure := int(((own.targets > 0) | ~real).all(1).sum()):
                notes.append(f"{split}: {sure:,} queries have relevant documents alone, so that every order is right")
        query, document = rows["train"].inputs[0][0], rows["train"].inputs[1][0][0]
        notes.append(f"train: one of the pairs is the query {cut(query)} and the document {cut(document)}")
        return notes

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Returns an example for each query. A pair that is too long loses the end of its document, never of its query.

        The query is protected, and so is the first token of each pair.

        Raises:
            InputError: As in `Task.encode`. Or a query leaves no room for a token of a document.
        """
        if len(rows) == 0:
            raise InputError("rows must not be empty: pass at least one")
        most = max_length - tokenizer.num_special_tokens_to_add(pair=True) - 1
        rule = f"a query that leaves room for a document within {max_length} tokens"
        fitting, notes = rows_with_room(rows, count_tokens(tokenizer, rows.inputs[0]), most, rule)
        used = rows.take(fitting)
        of_pair = np.arange(len(used)).repeat([len(documents) for documents in used.inputs[1]])
        queries = [used.inputs[0][row] for row in of_pair.tolist()]
        documents = [document for own in used.inputs[1] for document in own]
        texts = (queries, documents)
        tokens, truncated, pairs = encode_texts(tokenizer, texts, max_length, "only_second", self.protect)
        kept, owner = np.unique(of_pair[pairs], return_inverse=True)
        grades = torch.tensor(used.targets[used.targets != NO_GRADE][pairs])
        targets = pad_sequence(
            grades.split(np.bincount(owner).tolist()), batch_first=True, padding_value=float(NO_GRADE)
        )
        examples = Examples(tokens, targets, torch.tensor(owner))
        return Encoded(examples, truncated, fitting[kept], notes, skipped=len(rows) - len(fitting))

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that each document has a target from 0 to 1, and that the head has one output.

        Raises:
            InputError: It is not so.
        """
        if num_outputs != 1:
            raise InputError(f"a head that scores pairs must have one output, and has {num_outputs}: make a new one")
        grades = _grades(examples)
        if len(grades) != len(examples.tokens) or not bool(((grades >= 0) & (grades <= 1)).all()):
            raise InputError(
                "targets must be a number from 0 to 1 for each document of an example, and are not: pad them with "
                f"{NO_GRADE}, and divide grades by the highest one"
            )

    def decode(self, outputs: Outputs, examples: Examples) -> list[list[float]]:
        """Returns for each query the scores of its documents, in their order in the data."""
        return [scores.tolist() for scores in outputs[:, 0].split(examples.counts.tolist())]

    def commonest(self, train: Examples, examples: Examples) -> list[list[float]]:
        """Returns equal scores for all documents, which leave each query without an order."""
        return [[0.0] * count for count in examples.counts.tolist()]

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns the average precision of each query."""
        return [average_precision(scores, grades) for scores, grades in _pairs(decoded, examples)]

    def figures(self, decoded: Sequence[Any], examples: Examples) -> dict[str, float]:
        """Returns further measures of a split: the mean reciprocal rank, and nDCG of the first ten documents."""
        pairs = _pairs(decoded, examples)
        return {
            "MRR": sum(reciprocal_rank(*pair) for pair in pairs) / len(pairs),
            "nDCG@10": sum(ndcg(*pair) for pair in pairs) / len(pairs),
        }


class Reranking(Ranking):
    """Learns how relevant each document is, by itself. The sigmoid of a score is the probability that it is relevant.

    This is how cross-encoders of sentence-transformers are trained. The scores of different queries can be compared,
    and the text-classification pipeline of transformers shows the probability.
    """

    name = "reranking"

    def start(self, train: Examples) -> float:
        """Returns the output whose sigmoid is the mean of the targets, in which each query counts once."""
        return float(torch.logit(_mean(_grades(train), train).mean(), eps=1e-4))

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns the mean over documents of the binary cross-entropy with the grade, above its least value.

        The least value is 0 for a grade of 0 or 1.
        """
        scores = exact(outputs)[:, 0]
        grades = _grades(examples, scores.dtype)
        losses = F.binary_cross_entropy_with_logits(scores, grades, reduction="none") - _entropy(grades)
        return _mean(losses, examples)

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns T² · the mean over documents of the binary cross-entropy with the teacher's softened probability."""
        wanted = (exact(teacher_outputs)[:, 0] / temperature).sigmoid()
        losses = F.binary_cross_entropy_with_logits(exact(outputs)[:, 0] / temperature, wanted, reduction="none")
        return temperature**2 * _mean(losses, examples)

    def prior(self, examples: Examples) -> float:
        """Returns the mean loss where every document has the same probability, which is the mean of the grades."""
        grades = _grades(examples)
        return float(_entropy(_mean(grades, examples).mean()) - _mean(_entropy(grades), examples).mean())


class ListwiseReranking(Ranking):
    """Learns the shares of a query's documents in its relevance, all at once. A score means something within its query.

    The shares that a model gives are the softmax over the scores of a query's documents: ListNet (Cao et al., ICML
    2007) with the grades themselves as the true shares. A query without a relevant document has no loss against its
    targets. Where a deployed model is given labels, its batch is taken to be the documents of one query.
    """

    name = "listwise_reranking"

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns the Kullback-Leibler divergence of the softmax over a query's documents from the true shares."""
        if examples.targets.dim() == 1:
            examples = replace(examples, targets=examples.targets[None], owner=torch.zeros_like(examples.owner))
        given = examples.log_shares(exact(outputs))[:, 0]
        grades = _grades(examples, given.dtype)
        total = examples.per_example(grades).clamp(min=torch.finfo(grades.dtype).tiny)
        shares = grades / total[examples.owner]
        return examples.per_example(torch.special.xlogy(shares, shares) - shares * given)

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns T² · cross-entropy against the teacher's softened shares of a query's documents."""
        wanted = examples.log_shares(exact(teacher_outputs) / temperature).exp()
        losses = -wanted * examples.log_shares(exact(outputs) / temperature)
        return temperature**2 * examples.per_example(losses[:, 0])

    def prior(self, examples: Examples) -> float:
        """Returns the mean loss where all documents of a query have the same share."""
        equal = torch.zeros(len(examples.tokens), 1, dtype=torch.float64, device=examples.targets.device)
        return float(self.loss(equal, examples).mean())


def _grades(examples: Examples, dtype: torch.dtype = torch.float64) -> Grades:
    """Returns the target of each document."""
    return examples.targets[examples.targets != NO_GRADE].to(dtype)


def _mean(values: Float[Tensor, " docs"], examples: Examples) -> PerExample:
    """Returns the mean of a value over the documents of each example."""
    return examples.per_example(values) / examples.counts


def _entropy(probabilities: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Returns the entropy of a yes or no of each probability, in nats."""
    return torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)


def _pairs(decoded: Sequence[Any], examples: Examples) -> list[tuple[Sequence[float], list[float]]]:
    """Returns for each query the scores of its documents, and their grades."""
    grades = [[grade for grade in own if grade != NO_GRADE] for own in examples.targets.tolist()]
    return list(zip(decoded, grades, strict=True))
