"""Baselines: answers that need no encoder. A teacher that is no better than they are is not worth reducing."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trbert.measure.intervals import interval, resamples
from trbert.packed.tokens import Tokens
from trbert.tasks import Task
from trbert.tasks.examples import Examples, Outputs
from tune.learning.standing import COMMONEST, LINEAR, Baseline, Standing

ROWS = 25_000
"""The most training rows of the linear model."""
SECONDS = 10.0
"""How long the linear model takes on one core, with as many rows as all caps allow."""
ROWS_TIMES_CLASSES = 1_000_000
"""The most training rows of the linear model, times the number of classes."""
TOKENS = 10_000_000
"""The most tokens of the linear model's training rows together."""
WEIGHTS = 4_000_000
"""The most weights of the linear model, which are the kinds of token that it reads times the number of classes."""


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
    task: Task, examples: Mapping[str, Examples], whole: Examples, seed: int, seconds: float = SECONDS
) -> list[Answers]:
    """Returns the answers of the commonest answer, and of a linear model of tokens where the task has text classes.

    Args:
        task: what is predicted.
        examples: of each split, by its name. Their targets are settled.
        whole: all training examples, from which the linear model learns. The budget may have left some out of train.
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
    linear = linear_answers({**examples, "train": whole}, seed, seconds) if task.text_classes else None
    return found if linear is None else [*found, linear]


def linear_answers(examples: Mapping[str, Examples], seed: int, seconds: float = SECONDS) -> Answers | None:
    """Returns the classes that logistic regression on TF-IDF weights of tokens gives to validation and test.

    It reads the same tokens of the same rows as the teacher: words and parts of words, cut where the teacher's texts
    are cut. The answer is None where no token stands in two of its training rows, or where these are all of one class.

    Args:
        examples: of each split. Each has one document, and its target is a class index.
        seed: draws the training rows where there are more than `ROWS`, `ROWS_TIMES_CLASSES` or `TOKENS` allow.
        seconds: with less than `SECONDS` there are fewer training rows, in proportion.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    train = examples["train"]
    classes = len(train.targets.unique())
    chosen = _drawn(train, classes, seed, min(1.0, seconds / SECONDS))
    train = train.take(chosen)
    targets, kinds = train.targets.numpy(), _kinds(train.tokens, WEIGHTS // classes)
    if len(kinds) == 0 or len(np.unique(targets)) < 2:
        return None
    weighted = TfidfTransformer(sublinear_tf=True)
    # More steps give no better answers on 20 Newsgroups and IMDB, and take three times as long.
    model = LogisticRegression(C=5.0, max_iter=30)
    # Threads gain nothing on sparse rows. One of them keeps sums in the same order.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(weighted.fit_transform(_counts(train.tokens, kinds)), targets)
    validation, test = (
        model.predict(weighted.transform(_counts(examples[name].tokens, kinds))).tolist()
        for name in ("validation", "test")
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


def _drawn(train: Examples, classes: int, seed: int, share: float = 1.0) -> Int64[Tensor, " drawn"]:
    """Returns the rows that the linear model learns from: all of them, or as many as a share of the caps allows."""
    mean = len(train.tokens.input_ids) / len(train)
    most = int(share * min(ROWS, ROWS_TIMES_CLASSES // classes, int(TOKENS / mean)))
    order = np.random.default_rng(seed).permutation(len(train))
    return torch.from_numpy(np.sort(order[: max(1, most)]))


def _places(tokens: Tokens) -> tuple[Int64[np.ndarray, " total"], Int64[np.ndarray, " total"]]:
    """Returns the id of each token, and the index of its document."""
    return tokens.input_ids.numpy(), np.repeat(np.arange(len(tokens)), tokens.lengths.numpy())


def _kinds(tokens: Tokens, most: int) -> Int64[np.ndarray, " kinds"]:
    """Returns the ids that stand in two documents or more, but not in all: the `most` commonest ones, rising."""
    ids, documents = _places(tokens)
    once = np.unique(np.stack([ids, documents]), axis=1)
    found, count = np.unique(once[0], return_counts=True)
    useful = (count >= 2) & (count < len(tokens))
    found, count = found[useful], count[useful]
    return np.sort(found[np.argsort(-count, kind="stable")[:most]]).astype(np.int64)


def _counts(tokens: Tokens, kinds: Int64[np.ndarray, " kinds"]) -> Any:
    """Returns how often each of these ids stands in each document, as a sparse matrix [docs, kinds]."""
    from scipy.sparse import csr_matrix

    ids, documents = _places(tokens)
    places = np.searchsorted(kinds, ids).clip(max=len(kinds) - 1)
    read = kinds[places] == ids
    places, documents = places[read], documents[read]
    return csr_matrix((np.ones(len(places)), (documents, places)), shape=(len(tokens), len(kinds)))
