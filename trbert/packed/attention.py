"""Attention over a packed row, within documents: the function that Hugging Face's own layers call.

transformers passes every keyword argument of a layer on to the attention function. Our function is registered as
`trbert_packed`. It reads from these arguments how the row falls into documents. A model that is used in the plain way
passes none of them; then our function calls Hugging Face's own SDPA.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trbert.packed.batch import segments_of
from trbert.shapes import TokenFloat, TokenIndex

PACKED_ATTENTION = "trbert_packed"

Windows = list[Tensor | None] | None
"""For each document, which of its tokens see which, [n, n]; None for a document whose tokens all see one another.

None for the whole row where that holds for every document.
"""

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, int, float], Tensor]
"""(query, key, value, each [width, heads, head_dim]; offsets; longest document; scale) -> [width, heads, head_dim]."""


class AttentionProbe:
    """Takes one layer's received attention out of Hugging Face's modules, which hand on nothing but states.

    Attributes:
        received: the attention that each token of the row received; None until a layer has run with this probe.
    """

    def __init__(self) -> None:
        self.received: TokenFloat | None = None


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads width head_dim"],
    key: Float[Tensor, "batch key_heads width head_dim"],
    value: Float[Tensor, "batch key_heads width head_dim"],
    attention_mask: Tensor | None,
    *,
    segments: Sequence[int] | None = None,
    offsets: Int32[Tensor, " docs_and_one"] | None = None,
    token_positions: TokenIndex | None = None,
    probe: AttentionProbe | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch width heads head_dim"], None]:
    """Returns softmax(QKᵀ · scaling) V within each document of the row, and no weights.

    On a GPU in half precision one varlen kernel takes the whole row. Elsewhere PyTorch's SDPA is called once for each
    run of neighbouring documents of one length. Padding groups of similar lengths was measured on two CPU cores as the
    alternative: for documents of 20 to 512 tokens it was not faster.

    A packed row gets no dropout on attention weights, not even in training. The CPU's fused kernel has no dropout, and
    a step without that kernel takes several times as long. Dropout on hidden states belongs to the layers, and stays.

    Args:
        module: the calling attention layer.
        query: states of the whole row; `batch` is 1 when `segments` is given.
        key: likewise; fewer heads where the family shares them among queries.
        value: likewise.
        attention_mask: used by the plain, padded call only.
        segments: tokens of each document, summing to `width`; read off `offsets` when None.
        offsets: where each document starts, and the row's end, as the varlen kernel and compiled layers take it; None
            with `segments` None for the plain, padded call.
        token_positions: each token's original position; needed by layers that attend within a window.
        probe: where given, is left the attention that each token received: the mean over heads and over the queries
            of its own document. It costs a second softmax.
        dropout: probability of dropping an attention weight, in the plain call only.
        scaling: factor on the scores; head_dim ** -0.5 by default.
        sliding_window: tokens attend where |original distance| < this; everywhere when None.
        **kwargs: what else a family passes; handed on in the plain call.
    """
    if offsets is not None and torch.compiler.is_compiling():
        return torch.ops.trbert.attend(query, key, value, offsets, token_positions, sliding_window, scaling), None
    if segments is None and offsets is not None:
        segments = segments_of(offsets)
    if segments is None:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **kwargs,
        )
    lengths = list(segments)
    windows = _windows(token_positions, lengths, sliding_window)
    if probe is not None:
        probe.received = _attention_received(query, key, lengths, windows, scaling)
    return _attend(query, key, value, lengths, offsets, windows, scaling), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    offsets: Int32[Tensor, " docs_and_one"] | None,
    windows: Windows,
    scaling: float | None,
) -> Float[Tensor, "1 width heads head_dim"]:
    if offsets is not None and windows is None and _takes_varlen(query) and (kernel := varlen_kernel()) is not None:
        return _varlen(kernel, query, key, value, offsets, max(lengths), scaling)
    return _by_document(query, key, value, lengths, windows, scaling)


def _compiled_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    positions: Tensor | None,
    window: int | None,
    scaling: float | None,
) -> Tensor:
    """What a compiled layer calls. It is one operator to the compiler, because every row has other documents."""
    lengths = segments_of(offsets)
    return _attend(query, key, value, lengths, offsets, _windows(positions, lengths, window), scaling).contiguous()


def _by_document(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], windows: Windows, scaling: float | None
) -> Float[Tensor, "1 width heads head_dim"]:
    """Always right, on any device and in any arithmetic."""
    shared_heads = query.shape[1] != key.shape[1]
    precision: AbstractContextManager[None] = nullcontext()
    if query.requires_grad and query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # In bfloat16 the backward pass of the CPU's fused kernel is several times slower than in float32: it makes new
        # kernels for every length of a document. Autocast would undo the cast, so it is switched off here.
        query, key, value = query.float(), key.float(), value.float()
        precision = torch.autocast("cpu", enabled=False)
    runs: list[tuple[int, int, Tensor | None]]
    if windows is None:
        # The kernel takes neighbours of one length as one batch, so that documents of equal length are never copied.
        runs = [(length, len(list(same)), None) for length, same in groupby(lengths)]
    else:
        runs = [(length, 1, window) for length, window in zip(lengths, windows, strict=True)]
    sizes = [length * count for length, count, _ in runs]
    rows = (states[0].split(sizes, 1) for states in (query, key, value))
    outputs = []
    with precision:
        for q, k, v, (length, count, window) in zip(*rows, runs, strict=True):
            q, k, v = (part.unflatten(1, (count, length)).transpose(0, 1) for part in (q, k, v))
            output = F.scaled_dot_product_attention(q, k, v, window, scale=scaling, enable_gqa=shared_heads)
            outputs.append(output.transpose(1, 2).flatten(0, 1))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None]


def _takes_varlen(query: Tensor) -> bool:
    return query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16)


def _varlen(
    kernel: Varlen,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Int32[Tensor, " docs_and_one"],
    longest: int,
    scaling: float | None,
) -> Float[Tensor, "1 width heads head_dim"]:
    groups = query.shape[1] // key.shape[1]
    # The layers made these views of [width, heads, head_dim]: transposing back copies nothing.
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return kernel(q, k, v, offsets, longest, scale)[None]


@cache
def varlen_kernel() -> Varlen | None:
    """Returns flash-attn's kernel where it is installed, else PyTorch's own where it is new enough; else None."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return _own_varlen_kernel()
    return lambda q, k, v, offsets, longest, scale: flash_attn_varlen_func(
        q, k, v, offsets, offsets, longest, longest, softmax_scale=scale
    )


def _own_varlen_kernel() -> Varlen | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if "scale" not in known:
        return None
    # One split. With more, the order of a document's sums would depend on the longest of its batch mates.
    splits: dict[str, Any] = {"num_splits": 1} if "num_splits" in known else {}

    def own(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, scale: float) -> Tensor:
        output = varlen_attn(q, k, v, offsets, offsets, longest, longest, scale=scale, **splits)
        assert isinstance(output, Tensor)  # a pair only where asked for the scores' sums
        return output

    return own


def _windows(positions: TokenIndex | None, lengths: list[int], width: int | None) -> Windows:
    if width is None or positions is None:
        return None
    masks: list[Tensor | None] = []
    for place in positions.split(lengths):
        distance = (place[:, None] - place[None, :]).abs()
        masks.append(None if int(place[-1] - place[0]) < width else distance < width)
    return None if all(mask is None for mask in masks) else masks


@torch.no_grad()
def _attention_received(
    query: Tensor, key: Tensor, lengths: list[int], windows: Windows, scaling: float | None
) -> TokenFloat:
    if query.shape[1] != key.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    columns = []
    masks = windows or [None] * len(lengths)
    for q, k, window in zip(query.split(lengths, 2), key.split(lengths, 2), masks, strict=True):
        scores = (q @ k.transpose(2, 3)).float() * scale
        if window is not None:
            scores = scores.masked_fill(~window, -torch.inf)
        columns.append(scores.softmax(-1).mean((0, 1, 2)))
    return torch.cat(columns)


_library = torch.library.Library("trbert", "DEF")
_library.define(
    "attend(Tensor query, Tensor key, Tensor value, Tensor offsets, Tensor? positions, int? window, float? scaling)"
    " -> Tensor"
)
_library.impl("attend", _compiled_attend, "CompositeExplicitAutograd")
_library.impl("attend", lambda query, *_: query.new_empty(query.transpose(1, 2).shape), "Meta")
AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
