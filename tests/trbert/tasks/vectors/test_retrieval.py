"""Ranks that can be counted by hand."""

import pytest
import torch

from trbert.errors import InputError
from trbert.tasks.vectors.retrieval import mean_reciprocal_rank

# Seen from (1, 0), the documents stand in the order 0, 1, 2, 3; seen from (0, 1), in the opposite one.
DOCUMENTS = torch.tensor([[5.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 0.1]])
QUERIES = torch.tensor([[1.0, 0.0], [0.0, 3.0]])


def rank(*pairs, documents=DOCUMENTS):
    return mean_reciprocal_rank(QUERIES, documents, torch.tensor(pairs))


def test_only_the_first_relevant_document_of_a_query_counts():
    assert rank([0, 0], [1, 3]) == 1.0
    assert rank([0, 2], [1, 3]) == pytest.approx((1 / 3 + 1) / 2)
    assert rank([0, 2], [0, 1], [0, 3], [1, 3]) == pytest.approx((1 / 2 + 1) / 2)


def test_a_query_without_a_relevant_document_is_left_out():
    assert rank([1, 2]) == 0.5


def test_equal_documents_never_help():
    same = torch.ones(4, 2)
    assert rank([0, 0], documents=same) == 0.25
    assert rank([0, 0], [0, 1], documents=same) == pytest.approx(1 / 3)  # behind the two that are not relevant


def test_lengths_of_vectors_do_not_matter():
    assert rank([0, 1], [1, 0], documents=DOCUMENTS * torch.tensor([[9.0], [0.1], [3.0], [1.0]])) == rank(
        [0, 1], [1, 0]
    )


def test_no_pair_is_refused():
    with pytest.raises(InputError, match="relevant must hold a pair of a query and a document, and holds none"):
        mean_reciprocal_rank(QUERIES, DOCUMENTS, torch.zeros(0, 2, dtype=torch.long))
