"""Shape aliases for signatures: the names of dimensions used throughout.

`total` tokens of all documents in a row · `docs` documents · `dim` width of a hidden state · `heads` attention heads ·
`classes` labels · `points` reduction points · `samples` trajectories of each document. Checked in every test run by
jaxtyping and beartype.
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
