"""How well vectors find the texts that belong to a query."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from trbert.errors import InputError


def mean_reciprocal_rank(
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "documents dim"],
    relevant: Int[Tensor, "pairs 2"],
) -> float:
    """Returns the mean over the queries of 1 / the rank of the first relevant document, by cosine.

    Equal cosines never help: a relevant document stands behind all others that are as near to the query. A query
    without a relevant document is left out.

    Args:
        queries: the vector of each query.
        documents: the vector of each document.
        relevant: pairs of the index of a query and the index of a document that is relevant to it.

    Raises:
        InputError: There is no pair.

    Example:
        >>> queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> documents = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
        >>> mean_reciprocal_rank(queries, documents, torch.tensor([[0, 0], [1, 2]]))  # ranks 2 and 1
        0.75
    """
    if len(relevant) == 0:
        raise InputError("relevant must hold a pair of a query and a document, and holds none: pass the relevant ones")
    near = F.normalize(queries.double(), dim=1) @ F.normalize(documents.double(), dim=1).T
    wanted = torch.zeros_like(near, dtype=torch.bool)
    wanted[relevant[:, 0], relevant[:, 1]] = True
    asked = wanted.any(1)
    first = near.masked_fill(~wanted, -torch.inf).amax(1, keepdim=True)
    ranks = 1 + ((near >= first) & ~wanted).sum(1)
    return float((1 / ranks[asked].double()).mean())
