"""The attention function that Hugging Face's own layers call: attention within each document of a packed row.

transformers passes every keyword argument of a layer on to the attention function. Our function is registered as
`trbert_packed`. It reads from these arguments where each document of the row starts. A plain call of a model, with a
padded batch, passes none of these arguments. Then our function calls Hugging Face's own SDPA.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trbert.packed.batch import check_readable, segments_of
from trbert.shapes import TokenFloat, TokenIndex

PACKED_ATTENTION = "trbert_packed"

Windows = list[Tensor | None] | None
"""For each document a mask [n, n] of which token attends to which; None where all of its tokens attend to all.

None instead of the list where that holds for every document of the row.
"""

_BLOCK = 16
"""How many scores the CPU's kernel computes at once in half precision. It computes the rest of a row one by one.

So in bfloat16 a document of 63 tokens took 167 μs, where one of 64 took 76 μs (12 heads of 32, one core).
"""
_LONG = 256
"""Longer documents are not rounded up, because there the mask costs more than the rest of a row."""

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, int, float], Tensor]
"""A kernel for documents of various lengths.

It takes query, key and value, each [width, heads, head_dim], the offsets, the length of the longest document and the
scale. It returns [width, heads, head_dim].
"""


class AttentionProbe:
    """A place where one layer leaves the attention that each token received.

    It is needed because Hugging Face's layers return states only.

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
    longest: int | None = None,
    offsets: Int32[Tensor, " docs_and_one"] | None = None,
    token_positions: TokenIndex | None = None,
    probe: AttentionProbe | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch width heads head_dim"], None]:
    """Returns softmax(QKᵀ · scaling) V within each document of the row, and no weights.

    On a GPU in half precision, one call of a varlen kernel does the whole row. Elsewhere PyTorch's SDPA is called once
    for each run of neighbouring documents of equal length. The alternative is to pad groups of similar lengths. In
    float32 it was measured on two CPU cores: for documents of 20 to 512 tokens it was not faster. In half precision on
    a CPU it is, if the lengths are rounded up to whole blocks (`_BLOCK`). It is done there where no gradient is wanted.

    A packed row gets no dropout on attention weights, not even in training. The CPU's fused kernel has no dropout, and
    a step without that kernel takes several times as long. The layers' own dropout on hidden states is not touched.

    A plain, padded call is one with neither `segments` nor `offsets`.

    Args:
        module: the attention layer that calls.
        query: the queries of the whole row. `batch` is 1 unless the call is plain.
        key: the keys of the whole row. It has fewer heads than `query` where several query heads share one.
        value: the values of the whole row, with as many heads as `key`.
        attention_mask: the mask of the padded batch. Only a plain call uses it.
        segments: the number of tokens of each document; their sum is `width`. None computes them from `offsets`.
        longest: no document has more tokens; None computes it from `segments`. With it and `offsets` the varlen kernel
            reads nothing back from the device.
        offsets: where each document starts, and the end of the row. The varlen kernel and compiled layers need it.
        token_positions: each token's original position. Layers that attend within a window need it.
        probe: gets the attention that each token received: the mean over the heads and over the queries of its own
            document. This computes a second softmax. None asks for nothing.
        dropout: the probability of dropping an attention weight. Only a plain call uses it.
        scaling: the factor on the scores; None means head_dim ** -0.5.
        sliding_window: two tokens attend to each other where their original positions differ by less than this. None
            means that all tokens of a document do.
        **kwargs: other arguments of the family's layers. Only a plain call uses them.

    Example:
        >>> query = key = torch.zeros(1, 1, 3, 2)  # equal scores: each token reads the mean of its own document
        >>> value = torch.tensor([1.0, 3.0, 7.0]).expand(1, 1, 2, 3).mT
        >>> packed_attention(nn.Module(), query, key, value, None, segments=[2, 1])[0][0, :, 0, 0]
        tensor([2., 2., 7.])
    """
    if offsets is not None and torch.compiler.is_compiling():
        found = torch.ops.trbert.attend(query, key, value, offsets, token_positions, sliding_window, scaling, longest)
        return found, None
    if segments is None and offsets is None:
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
    found = _attend(
        query, key, value, segments, offsets, token_positions, sliding_window, scaling, longest=longest, probe=probe
    )
    return found, None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[int] | None,
    offsets: Int32[Tensor, " docs_and_one"] | None,
    positions: Tensor | None,
    window: int | None,
    scaling: float | None,
    *,
    longest: int | None = None,
    probe: AttentionProbe | None = None,
) -> Float[Tensor, "1 width heads head_dim"]:
    kernel = varlen_kernel() if offsets is not None and _takes_varlen(query) else None
    if kernel is not None and offsets is not None and longest is not None and window is None and probe is None:
        return _varlen(kernel, query, key, value, offsets, longest, scaling)
    if segments is None and offsets is not None:
        if longest is not None:
            check_readable(offsets)
        segments = segments_of(offsets)
    lengths = list(segments or ())
    windows = _windows(positions, lengths, window)
    if probe is not None:
        probe.received = _attention_received(query, key, lengths, windows, scaling)
    if kernel is not None and offsets is not None and windows is None:
        return _varlen(kernel, query, key, value, offsets, max(lengths), scaling)
    half_on_cpu = query.device.type == "cpu" and query.dtype.itemsize == 2 and not torch.is_grad_enabled()
    if half_on_cpu and windows is None and any(length % _BLOCK and length <= _LONG for length in lengths):
        return _by_block(query, key, value, tuple(lengths), scaling)
    return _by_document(query, key, value, lengths, windows, scaling)


def _compiled_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    positions: Tensor | None,
    window: int | None,
    scaling: float | None,
    longest: int | None,
) -> Tensor:
    """Returns what `packed_attention` returns, for compiled layers.

    The compiler sees one operator and does not look into it, because each row has documents of other lengths.
    """
    return _attend(query, key, value, None, offsets, positions, window, scaling, longest=longest).contiguous()


def _by_document(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], windows: Windows, scaling: float | None
) -> Float[Tensor, "1 width heads head_dim"]:
    """Returns the attention of each document, computed by SDPA. It works on every device and in every arithmetic."""
    shared_heads = query.shape[1] != key.shape[1]
    precision: AbstractContextManager[None] = nullcontext()
    if query.requires_grad and query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # On a CPU the backward pass of the fused kernel is several times slower in bfloat16 than in float32, because in
        # bfloat16 it makes new kernels for every length of a document. So the states are cast to float32. Autocast
        # would cast them back, so it is switched off here.
        query, key, value = query.float(), key.float(), value.float()
        precision = torch.autocast("cpu", enabled=False)
    runs: list[tuple[int, int, Tensor | None]]
    if windows is None:
        # The kernel takes neighbouring documents of equal length as one batch, so a row of them alone is never copied.
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


def _by_block(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scaling: float | None
) -> Float[Tensor, "1 width heads head_dim"]:
    """Returns the attention of each document. One call of SDPA does all documents of as many blocks."""
    shared_heads = query.shape[1] != key.shape[1]
    groups, back = _blocks(lengths)
    outputs = []
    for index, mask in groups:
        # The states are transposed views of [width, heads, head_dim]. Transposing them back copies nothing.
        q, k, v = (
            states[0].transpose(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)
            for states in (query, key, value)
        )
        added = None if mask is None else mask.to(q.dtype)
        output = F.scaled_dot_product_attention(q, k, v, added, scale=scaling, enable_gqa=shared_heads)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).index_select(0, back)[None]


@lru_cache(maxsize=16)  # all layers from one reduction point to the next ask for the same lengths
def _blocks(lengths: tuple[int, ...]) -> tuple[list[tuple[Tensor, Tensor | None]], Tensor]:
    """Returns the documents of a row in groups of as many blocks, and the way back to the row.

    Returns:
        Of each group the place in the row of each token, [docs, width], and what is added to the scores of its keys,
        [docs, 1, 1, width]: 0, and minus infinity at padding. It is None where nothing is padded. And for each token of
        the row its place in the outputs of all groups, one after the other.

    Example:
        >>> groups, back = _blocks((15, 300, 16))
        >>> [tuple(index.shape) for index, _ in groups], back[[0, 15, 315]].tolist()
        ([(2, 16), (1, 300)], [0, 32, 16])
    """
    starts: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for length in lengths:
        width = length if length > _LONG else -(-length // _BLOCK) * _BLOCK
        starts.setdefault(width, []).append((start, length))
        start += length
    back, groups, first = torch.empty(start, dtype=torch.long), [], 0
    for width, members in starts.items():
        begins, sizes = torch.tensor(members)[:, :, None].unbind(1)
        columns = torch.arange(width)
        real = columns < sizes
        index = torch.where(real, begins + columns, begins)
        back[index[real]] = first + real.flatten().nonzero()[:, 0]
        first += real.numel()
        padded = any(length < width for _, length in members)
        mask = torch.zeros(real.shape).masked_fill(~real, -torch.inf)[:, None, None] if padded else None
        groups.append((index, mask))
    return groups, back


def _takes_varlen(query: Tensor) -> bool:
    half_on_gpu = query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16)
    return half_on_gpu and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256 and _has_varlen(query.device)


@cache
def _has_varlen(device: torch.device) -> bool:
    """Returns whether a GPU is new enough for the kernel: NVIDIA's Ampere, or AMD's."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


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
    # The states are transposed views of [width, heads, head_dim]. Transposing them back copies nothing.
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return kernel(q, k, v, offsets, longest, scale)[None]


@cache
def varlen_kernel() -> Varlen | None:
    """Returns the kernel for half precision on a GPU, or None.

    It is the one of flash-attn where that package is installed. Else it is PyTorch's own, where this PyTorch has it and
    lets a caller choose the scale.
    """
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
    # A split is a part of a document's keys that is summed by itself. By default the kernel chooses the number of
    # splits by the longest document of the row. With one split, a result does not depend on the other documents.
    splits: dict[str, Any] = {"num_splits": 1} if "num_splits" in known else {}

    def own(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, scale: float) -> Tensor:
        try:
            output = varlen_attn(q, k, v, offsets, offsets, longest, longest, scale=scale, **splits)
        except RuntimeError as error:
            # PyTorch 2.12 has the argument, but not every kernel of it takes one. Such a kernel splits nothing here.
            if "num_splits" not in str(error) or not splits:
                raise
            splits.clear()
            return own(q, k, v, offsets, longest, scale)
        assert isinstance(output, Tensor)  # it is a pair only where a caller asks for the log-sum-exp of the scores
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
    "attend(Tensor query, Tensor key, Tensor value, Tensor offsets, Tensor? positions, int? window, float? scaling,"
    " SymInt? longest) -> Tensor"
)
_library.impl("attend", _compiled_attend, "CompositeExplicitAutograd")
_library.impl("attend", lambda query, *_: query.new_empty(query.transpose(1, 2).shape), "Meta")
AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
