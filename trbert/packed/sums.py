"""Sums over the documents of a row on a GPU: a small Triton kernel, where Triton is installed."""

import os
import shutil
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trbert.shapes import Hidden

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

_ROWS, _COLUMNS = 16, 64
"""How many rows a program adds at once, and how many columns it adds up."""


@cache
def sums_by_triton() -> bool:
    """Returns whether the kernel can be made here. For this Triton calls a C compiler."""
    return triton is not None and any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))


def segment_sums(states: Hidden, offsets: Int[Tensor, " docs_and_one"]) -> Float[Tensor, "docs dim"]:
    """Returns the sum of the states of each document, in float32. The same row always has the same bits.

    One program of the kernel adds 64 columns of one document, in the order of the row. Where the kernel cannot be made,
    `torch.segment_reduce` does the same.

    Args:
        states: one row for each token.
        offsets: where each document starts, and the end of the row.
    """
    if not sums_by_triton():
        return torch.segment_reduce(states.float(), "sum", offsets=offsets, unsafe=True)
    states, (docs, dim) = states.contiguous(), (len(offsets) - 1, states.shape[1])
    found = states.new_empty(docs, dim, dtype=torch.float32)
    with torch.cuda.device_of(states):
        _add[docs, triton.cdiv(dim, _COLUMNS)](states, offsets.contiguous(), found, dim, _ROWS, _COLUMNS)
    return found


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _add(states, offsets, found, dim, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        document = tl.program_id(0)
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        first, last = tl.load(offsets + document), tl.load(offsets + document + 1)
        total = tl.zeros((COLUMNS,), tl.float32)
        for start in range(first, last, ROWS):
            rows = start + tl.arange(0, ROWS)
            inside = (rows < last)[:, None] & (columns < dim)[None, :]
            part = tl.load(states + rows[:, None] * dim + columns[None, :], mask=inside, other=0.0)
            total += tl.sum(part.to(tl.float32), 0)
        tl.store(found + document * dim + columns, total, mask=columns < dim)
