"""How good an order of documents is: average precision, reciprocal rank, and discounted cumulative gain.

Documents with equal scores have no order. Each measure is then the mean over all orders that they could have, so that a
tie neither helps nor harms (McSherry and Najork, ECIR 2008). A document is relevant if its grade is above 0.
"""

import math
from collections.abc import Sequence
from itertools import groupby

DEPTH = 10
"""The number of first places that nDCG looks at."""


def average_precision(scores: Sequence[float], grades: Sequence[float]) -> float:
    """Returns the mean, over the relevant documents, of the share of relevant ones up to each of them.

    It is 0 where no document is relevant. The mean of this number over queries is MAP, as trec_eval computes it.

    Args:
        scores: of the documents of a query; the highest one comes first.
        grades: how relevant each of them is; 0 is not relevant.

    Example:
        >>> average_precision([3.0, 2.0, 1.0], [1.0, 0.0, 1.0])  # (1/1 + 2/3) / 2
        0.8333333333333333
        >>> average_precision([1.0, 1.0], [0.0, 1.0])  # it is the first one, or the second one: (1 + 1/2) / 2
        0.75
    """
    before, found, total = 0, 0, 0.0
    for group in _tied(scores, grades):
        size, relevant = len(group), sum(grade > 0 for grade in group)
        # Beside a relevant document, each other one of its group is relevant with this probability.
        others = (relevant - 1) / (size - 1) if size > 1 else 0.0
        precisions = ((found + 1 + place * others) / (before + place + 1) for place in range(size))
        total += relevant / size * sum(precisions) if relevant else 0.0
        before, found = before + size, found + relevant
    return total / found if found else 0.0


def reciprocal_rank(scores: Sequence[float], grades: Sequence[float]) -> float:
    """Returns 1 / the place of the first relevant document; 0 where no document is relevant.

    The mean of this number over queries is MRR.

    Args:
        scores: of the documents of a query; the highest one comes first.
        grades: how relevant each of them is; 0 is not relevant.

    Example:
        >>> reciprocal_rank([3.0, 2.0, 1.0], [0.0, 1.0, 1.0])
        0.5
    """
    before = 0
    for group in _tied(scores, grades):
        size, relevant = len(group), sum(grade > 0 for grade in group)
        if relevant:
            ways = math.comb(size, relevant)
            places = range(size - relevant + 1)
            first = (math.comb(size - place - 1, relevant - 1) / ways for place in places)
            return sum(share / (before + place + 1) for place, share in zip(places, first, strict=True))
        before += size
    return 0.0


def ndcg(scores: Sequence[float], grades: Sequence[float], depth: int = DEPTH) -> float:
    """Returns the discounted gain of the first documents over that of the best order; 0 where no document is relevant.

    The gain of a document is its grade, and its discount is 1 / log2(1 + place), as in trec_eval (Järvelin and
    Kekäläinen 2002).

    Args:
        scores: of the documents of a query; the highest one comes first.
        grades: how relevant each of them is; 0 is not relevant.
        depth: the number of first places that count.

    Example:
        >>> round(ndcg([2.0, 1.0], [0.0, 1.0]), 4)  # (1 / log2(3)) / 1
        0.6309
    """
    best = sum(grade * _discount(place) for place, grade in enumerate(sorted(grades, reverse=True)[:depth]))
    before, gained = 0, 0.0
    for group in _tied(scores, grades):
        places = range(before, min(depth, before + len(group)))
        gained += sum(group) / len(group) * sum(map(_discount, places))
        before += len(group)
    return gained / best if best else 0.0


def _discount(place: int) -> float:
    """Returns the discount of a place; the first one is 0."""
    return 1 / math.log2(place + 2)


def _tied(scores: Sequence[float], grades: Sequence[float]) -> list[list[float]]:
    """Returns the grades of the documents of each score, the highest score first. What is no number comes last."""
    ordered = (-math.inf if math.isnan(score) else score for score in scores)
    ranked = sorted(zip(ordered, grades, strict=True), key=lambda pair: -pair[0])
    return [[grade for _, grade in group] for _, group in groupby(ranked, key=lambda pair: pair[0])]
