"""Baselines: answers that need no encoder. A teacher that is no better than they are is not worth reducing."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from trbert.data.splits import Splits
from trbert.measure.intervals import interval, resamples
from trbert.tasks import Task
from trbert.tasks.examples import Examples, Outputs
from trbert.tasks.rows import Rows
from tune.learning.standing import COMMONEST, LINEAR, Baseline, Standing

ROWS = 25_000
"""The most training rows of the linear model."""
SECONDS = 10.0
"""How long the linear model takes on one core, with as many rows as all caps allow."""
ROWS_TIMES_CLASSES = 1_000_000
"""The most training rows of the linear model, times the number of classes."""
CHARACTERS = 40_000_000
"""The most characters of the linear model's training texts together."""
TEXT_CHARACTERS = 10_000
"""The number of characters of a text that the linear model reads."""
TERMS, TERMS_TIMES_CLASSES = 200_000, 4_000_000
"""The most terms of the linear model; and the most weights, which are the terms times the number of classes."""
SHARED_TERMS = 2
"""Texts whose words have fewer terms than this in common with other texts, on average, are read by characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers of a baseline, as `Task.decode` would return them.

    Attributes:
        name: of the baseline.
        validation: the answers for validation.
        test: the answers for test.
        rows: the number of training rows that it learned from.
    """

    name: str
    validation: list[Any]
    test: list[Any]
    rows: int


def baselines(
    task: Task, splits: Splits, examples: Mapping[str, Examples], seed: int, seconds: float = SECONDS
) -> list[Answers]:
    """Returns the answers of the commonest answer, and of a linear model of words where the task has text classes.

    Args:
        task: what is predicted.
        splits: the rows, with their texts.
        examples: the same rows tokenised, by the name of their split.
        seed: draws the rows of the linear model where there are too many of them.
        seconds: how long the linear model may take.
    """
    train, validation, test = (examples[name] for name in ("train", "validation", "test"))
    found = [
        Answers(
            name=COMMONEST,
            validation=task.commonest(train, validation),
            test=task.commonest(train, test),
            rows=len(train),
        )
    ]
    linear = linear_answers(splits, seed, seconds) if task.text_classes else None
    return found if linear is None else [*found, linear]


def linear_answers(splits: Splits, seed: int, seconds: float = SECONDS) -> Answers | None:
    """Returns the classes that logistic regression on TF-IDF weights of words gives to validation and test.

    Texts without words that others share, such as Chinese, are read by characters and pairs of characters. The answer
    is None where texts share neither, or where the training rows that were drawn are all of one class.

    Args:
        splits: the rows. The texts of a pair are joined, and the targets are class indices.
        seed: draws the training rows where there are more than `ROWS`, `ROWS_TIMES_CLASSES` or `CHARACTERS` allow.
        seconds: with less than `SECONDS` there are fewer training rows, in proportion.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    texts, classes = _texts(splits.train), len(np.unique(splits.train.targets))
    chosen = _drawn(texts, classes, seed, min(1.0, seconds / SECONDS))
    texts, targets = [texts[row] for row in chosen], splits.train.targets[chosen]
    vectorizer, weights = _weighted(texts, classes)
    if vectorizer is None or len(np.unique(targets)) < 2:
        return None
    # More steps give no better answers on 20 Newsgroups and IMDB, and take three times as long.
    model = LogisticRegression(C=5.0, max_iter=30)
    # Threads gain nothing on sparse rows. One of them keeps sums in the same order.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(weights, targets)
    validation, test = (
        model.predict(vectorizer.transform(_texts(rows))).tolist() for rows in (splits.validation, splits.test)
    )
    return Answers(name=LINEAR, validation=validation, test=test, rows=len(chosen))


def standing_of(
    task: Task,
    answers: Sequence[Answers],
    examples: Mapping[str, Examples],
    outputs: Mapping[str, Outputs],
    known: float,
    trained: bool,
) -> Standing:
    """Returns where the teacher stands beside the baselines.

    Args:
        task: what is predicted.
        answers: of the baselines, as `baselines` returned them.
        examples: of each split.
        outputs: the teacher's outputs for these examples.
        known: what the teacher knows of its training labels, in nats, as `Task.known` says.
        trained: whether the search trained the teacher.
    """
    parts = {name: examples[name] for name in ("validation", "test")}
    own = _qualities(task, {name: task.decode(outputs[name], part) for name, part in parts.items()}, parts)
    shares = {name: len(part) / sum(map(len, parts.values())) for name, part in parts.items()}
    found = []
    for each in answers:
        given = _qualities(task, {"validation": each.validation, "test": each.test}, parts)
        ahead = sum(shares[name] * (own[name] - given[name]) for name in parts)
        figures = {"ahead": float(ahead[0]), "error": float(ahead[1:].std())}
        found.append(Baseline(name=each.name, rows=each.rows, **figures, **_first(given)))
    low, high = interval(own["test"][1:])
    return Standing(
        **_first(own),
        known=float(known),
        trained=trained,
        has_head=task.has_head,
        train_rows=len(examples["train"]),
        test_rows=len(parts["test"]),
        interval=high - low,
        baselines=tuple(found),
    )


def _qualities(
    task: Task, decoded: Mapping[str, Sequence[Any]], parts: Mapping[str, Examples]
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Returns the quality of each split, and after it those of resamples of it, which are the same in each call."""
    return {
        name: task.qualities(decoded[name], part, chain([np.ones((1, len(part)))], resamples(len(part), seed)))
        for seed, (name, part) in enumerate(parts.items())
    }


def _first(qualities: Mapping[str, Float[np.ndarray, " resamples"]]) -> dict[str, float]:
    """Returns the quality of each split itself."""
    return {name: float(own[0]) for name, own in qualities.items()}


def _texts(rows: Rows) -> list[str]:
    """Returns the text of each row, cut to `TEXT_CHARACTERS`; the texts of a pair are joined."""
    return [" ".join(text[:TEXT_CHARACTERS] for text in texts) for texts in zip(*rows.inputs, strict=True)]


def _drawn(texts: Sequence[str], classes: int, seed: int, share: float = 1.0) -> Int64[np.ndarray, " drawn"]:
    """Returns the rows that the linear model learns from: all of them, or as many as a share of the caps allows."""
    mean = sum(map(len, texts)) / len(texts)
    most = int(share * min(ROWS, ROWS_TIMES_CLASSES // classes, int(CHARACTERS / max(1.0, mean))))
    return np.sort(np.random.default_rng(seed).permutation(len(texts))[: max(1, most)])


def _weighted(texts: Sequence[str], classes: int) -> tuple[Any, Any]:
    """Returns a fitted vectorizer and the TF-IDF weights of these texts; (None, None) where texts share no terms."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    for reads in ({"analyzer": "word"}, {"analyzer": "char", "ngram_range": (1, 2)}):
        most = max(1, min(TERMS, TERMS_TIMES_CLASSES // classes))
        vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=most, **reads)
        try:
            weights = vectorizer.fit_transform(texts)
        except ValueError:  # no term stands in two texts
            continue
        if weights.nnz >= SHARED_TERMS * len(texts) or reads["analyzer"] == "char":
            return vectorizer, weights
    return None, None
