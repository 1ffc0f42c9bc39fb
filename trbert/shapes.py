"""Types of tensors with their shapes, for signatures.

A dimension has the same name everywhere:

* `total`: the tokens of all documents of a row
* `docs`: the documents
* `dim`: the width of a hidden state
* `heads`: the attention heads
* `classes`: the outputs of the head
* `points`: the reduction points
* `samples`: the trajectories of each document

jaxtyping and beartype check the shapes in every test run.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Hidden = Float[Tensor, "total dim"]
TokenFloat = Float[Tensor, "total"]
TokenIndex = Int[Tensor, "total"]
TokenMask = Bool[Tensor, "total"]
SampleMasks = Bool[Tensor, "samples total"]
DocFloat = Float[Tensor, "docs"]
DocIndex = Int[Tensor, "docs"]
Logits = Float[Tensor, "docs classes"]
Kept = Int[Tensor, "points docs"]

__all__ = [
    "Bool",
    "DocFloat",
    "DocIndex",
    "Float",
    "Hidden",
    "Int",
    "Kept",
    "Logits",
    "SampleMasks",
    "TokenFloat",
    "TokenIndex",
    "TokenMask",
]
