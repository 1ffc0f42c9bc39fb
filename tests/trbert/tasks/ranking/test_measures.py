"""Measures of an order: by hand, and against every order of tied documents."""

import math
import random
from itertools import permutations
from statistics import fmean

import pytest

from trbert.tasks.ranking.measures import average_precision, ndcg, reciprocal_rank

MEASURES = (average_precision, reciprocal_rank, ndcg)


def of(measure, scores, grades, **how):
    """Returns a measure of whole numbers."""
    return measure([float(score) for score in scores], [float(grade) for grade in grades], **how)


def test_measures_of_an_order_without_ties_are_those_of_trec_eval():
    # Relevant documents at places 2, 3 and 5: (1/2 + 2/3 + 3/5) / 3.
    scores, grades = [9, 8, 7, 6, 5], [0, 1, 2, 0, 1]
    assert of(average_precision, scores, grades) == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)
    assert of(reciprocal_rank, scores, grades) == 1 / 2
    # Gains 1, 2 and 1 there, over 2, 1 and 1 at places 1 to 3; log2(1 + place) are 1, 1.58496, 2, 2.32193, 2.58496.
    gained, best = 1 / 1.58496 + 2 / 2 + 1 / 2.58496, 2 + 1 / 1.58496 + 1 / 2
    assert of(ndcg, scores, grades) == pytest.approx(gained / best, rel=1e-5)


def test_the_order_of_the_data_does_not_matter():
    assert [of(each, [1, 3, 2], [0, 1, 0]) for each in MEASURES] == [1.0, 1.0, 1.0]
    assert [of(each, [3, 1, 2], [0, 1, 0]) for each in MEASURES] == [1 / 3, 1 / 3, 0.5]


def test_ndcg_looks_at_the_first_places_alone():
    scores = list(range(12, 0, -1))
    last = [0] * 10 + [1, 1]
    assert of(ndcg, scores, last) == 0
    assert of(ndcg, scores, last, depth=11) > 0
    assert of(ndcg, scores, [1] * 12) == 1.0  # the best order is cut, too


def test_a_query_without_a_relevant_document_has_nothing_to_find():
    assert [of(each, [2, 1], [0, 0]) for each in MEASURES] == [0.0, 0.0, 0.0]


def test_a_query_of_relevant_documents_alone_is_always_right():
    assert [of(each, [2, 1, 1], [1, 1, 1]) for each in MEASURES] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("seed", range(8))
def test_tied_documents_have_the_mean_over_all_their_orders(measure, seed):
    draw = random.Random(seed)
    size = draw.randint(2, 6)
    scores = [draw.randint(0, 2) for _ in range(size)]
    grades = [draw.choice([0, 0, 1, 3]) for _ in range(size)]
    orders = [
        of(measure, [score + 1e-3 * place for score, place in zip(scores, places, strict=True)], grades)
        for places in permutations(range(size))
    ]
    assert of(measure, scores, grades) == pytest.approx(fmean(orders))


def test_a_score_that_is_no_number_comes_last():
    scores, grades = [math.nan, 1.0, 2.0], [1.0, 0.0, 0.0]
    assert average_precision(scores, grades) == pytest.approx(1 / 3)
    assert reciprocal_rank(scores, grades) == pytest.approx(1 / 3)
    assert ndcg(scores, grades) == pytest.approx(0.5)  # 1 / log2(4)
