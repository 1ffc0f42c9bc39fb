"""Packed attention against a softmax written as loops."""

import itertools
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from trbert.packed import attention
from trbert.packed.attention import AttentionProbe, packed_attention

MODULE = nn.Identity()


def weights_by_loop(query, key, positions, scaling, width):
    """Returns softmax(q · k · scaling) of one document and head, over keys at a distance below `width`."""
    n = len(positions)
    weights = torch.zeros(n, n)
    for i in range(n):
        seen = [j for j in range(n) if width is None or abs(positions[i] - positions[j]) < width]
        scores = [math.exp(float(query[i] @ key[j]) * scaling) for j in seen]
        for j, score in zip(seen, scores, strict=True):
            weights[i, j] = score / sum(scores)
    return weights


def attention_by_loop(query, key, value, lengths, positions, scaling, width):
    """Returns the outputs [total, heads, head_dim] and the attention each token received."""
    heads, total, head_dim = query.shape[1:]
    shared = heads // key.shape[1]
    output, received = torch.zeros(total, heads, head_dim), torch.zeros(total)
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        for head in range(heads):
            q, k, v = query[0, head, part], key[0, head // shared, part], value[0, head // shared, part]
            weights = weights_by_loop(q, k, positions[part], scaling, width)
            output[part, head] = weights @ v
            received[part] += weights.sum(0) / (heads * length)
        start += length
    return output, received


def random_states(heads, key_heads, total, head_dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(1, heads, total, head_dim, generator=generator),
        torch.randn(1, key_heads, total, head_dim, generator=generator),
        torch.randn(1, key_heads, total, head_dim, generator=generator),
    )


@pytest.mark.parametrize("scaling", [None, 0.3], ids=["default scale", "own scale"])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("width", [None, 3])
def test_a_row_is_attended_within_its_documents(width, key_heads, scaling):
    lengths = [4, 1, 1, 6, 3, 3]
    # Tokens were dropped before: the window counts original positions, not places in the row.
    positions = [0, 1, 2, 5, 0, 0, 0, 2, 3, 4, 9, 10, 0, 1, 2, 0, 2, 7]
    query, key, value = random_states(4, key_heads, 18, 8)
    probe = AttentionProbe()
    output, weights = packed_attention(
        MODULE,
        query,
        key,
        value,
        None,
        segments=lengths,
        token_positions=torch.tensor(positions),
        probe=probe,
        scaling=scaling,
        sliding_window=width,
    )
    expected = attention_by_loop(query, key, value, lengths, positions, scaling or 8**-0.5, width)
    assert weights is None
    assert output.shape == (1, 18, 4, 8)
    assert_close(output[0], expected[0])
    assert_close(probe.received, expected[1])


@pytest.mark.parametrize(("last", "seen"), [(2, True), (3, False)])
@pytest.mark.parametrize("between", [[], [1], [1, 2]])
def test_a_window_of_3_ends_between_distance_2_and_distance_3(last, seen, between):
    # Scores are equal, so that a token's output is the mean of the values it sees. The last token's value is 1, the
    # others' are 0.
    positions = [0, *(place for place in between if place < last), last]
    total = len(positions)
    value = torch.zeros(1, 1, total, 1)
    value[0, 0, -1] = 1.0
    flat, probe = torch.zeros(1, 1, total, 1), AttentionProbe()
    output, _ = packed_attention(
        MODULE,
        flat,
        flat,
        value,
        None,
        segments=[total],
        token_positions=torch.tensor(positions),
        probe=probe,
        sliding_window=3,
    )
    sees_last = [last - place < 3 for place in positions]
    of = [sum(abs(place - other) < 3 for other in positions) for place in positions]
    assert sees_last[0] == seen
    shares = [sees / count for sees, count in zip(sees_last, of, strict=True)]
    assert_close(output.flatten(), torch.tensor(shares))
    assert_close(probe.received[-1], torch.tensor(sum(shares) / total))


def test_attention_received_by_hand():
    # One head of width 1, scale 1, two documents of two tokens. Scores are q · k, so softmax(q · log a, q · log b).
    query = torch.tensor([1.0, 1.0, 0.0, 2.0]).view(1, 1, 4, 1)
    key = torch.tensor([math.log(1), math.log(3), 5.0, 5.0]).view(1, 1, 4, 1)
    probe = AttentionProbe()
    packed_attention(MODULE, query, key, key, None, segments=[2, 2], probe=probe, scaling=1.0)
    # Document 0: both queries give weights 1/4 and 3/4. Document 1: its keys are equal, 1/2 and 1/2.
    assert_close(probe.received, torch.tensor([0.25, 0.75, 0.5, 0.5]))


def test_attention_received_is_computed_in_float32_from_states_in_half_precision():
    probe = AttentionProbe()
    flat = torch.zeros(1, 1, 3, 2, dtype=torch.bfloat16)
    packed_attention(MODULE, flat, flat, flat, None, segments=[3], probe=probe)
    # Scores are equal, so each token receives 1/3. The nearest number in bfloat16 is 0.334.
    assert_close(probe.received, torch.full((3,), 1 / 3))


def test_the_attention_a_document_received_sums_to_one():
    query, key, value = random_states(4, 2, 12, 8)
    probe = AttentionProbe()
    packed_attention(MODULE, query, key, value, None, segments=[5, 1, 6], probe=probe)
    assert_close(torch.stack([part.sum() for part in probe.received.split([5, 1, 6])]), torch.ones(3))
    assert probe.received.std() > 0.05


def test_an_output_is_the_same_whether_attention_received_is_asked_for_or_not():
    query, key, value = random_states(2, 2, 5, 4)
    plain, _ = packed_attention(MODULE, query, key, value, None, segments=[2, 3])
    asked, _ = packed_attention(MODULE, query, key, value, None, segments=[2, 3], probe=AttentionProbe())
    assert torch.equal(plain, asked)


def test_gradients_stay_within_documents():
    query, key, value = (states.requires_grad_() for states in random_states(2, 1, 5, 4))
    output, _ = packed_attention(MODULE, query, key, value, None, segments=[2, 3])
    output[:, :2].sum().backward()
    for states in (query, key, value):
        assert states.grad[:, :, 2:].abs().max() == 0
    assert value.grad[:, :, :2].abs().min() > 0


def test_a_padded_call_is_hugging_faces_own():
    module = nn.Module()
    module.is_causal = False
    query, key, value = random_states(2, 2, 5, 4)
    mask = torch.tensor([True, True, True, False, False]).expand(1, 1, 5, 5)
    output, _ = packed_attention(module, query, key, value, mask)
    expected, _ = attention_by_loop(query[:, :, :3], key[:, :, :3], value[:, :, :3], [3], [0, 1, 2], 0.5, None)
    assert_close(output[0, :3], expected)


def test_neighbours_of_one_length_are_one_call_of_the_kernel(monkeypatch):
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counting(query, *arguments, **how):
        calls.append(tuple(query.shape))
        return kernel(query, *arguments, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    query, key, value = random_states(2, 2, 15, 4)
    packed_attention(MODULE, query, key, value, None, segments=[4, 4, 1, 1, 1, 4])
    assert calls == [(2, 2, 4, 4), (3, 2, 1, 4), (1, 2, 4, 4)]


# Half precision on a CPU: lengths in whole blocks of 16.


@pytest.mark.parametrize("scaling", [None, 0.3], ids=["default scale", "own scale"])
@pytest.mark.parametrize("key_heads", [4, 1])
@pytest.mark.parametrize("lengths", [[5, 20, 16, 3, 31], [1], [300, 7]], ids=str)
@torch.no_grad()
def test_rounding_lengths_up_to_whole_blocks_changes_nothing_but_the_last_bits(lengths, key_heads, scaling):
    total = sum(lengths)
    states = [part.bfloat16() for part in random_states(4, key_heads, total, 8)]
    output, _ = packed_attention(MODULE, *states, None, segments=lengths, scaling=scaling)
    exact, _ = packed_attention(MODULE, *(part.float() for part in states), None, segments=lengths, scaling=scaling)
    assert output.dtype == torch.bfloat16
    assert_close(output.float(), exact, atol=0.02, rtol=0.02)


@torch.no_grad()
def test_in_blocks_a_document_has_the_same_bits_beside_any_other():
    lengths = [13, 5, 45, 16]
    states = [part.bfloat16() for part in random_states(2, 2, sum(lengths), 8)]
    together, _ = packed_attention(MODULE, *states, None, segments=lengths)
    alone = [
        packed_attention(MODULE, *parts, None, segments=[length])[0]
        for length, *parts in zip(lengths, *(part.split(lengths, 2) for part in states), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone, 1))


@pytest.mark.parametrize(
    ("dtype", "learns", "calls"),
    [
        (torch.bfloat16, False, [(2, 16), (1, 32), (1, 300)]),
        (torch.bfloat16, True, [(1, 16), (1, 20), (1, 13), (1, 300)]),
        (torch.float32, False, [(1, 16), (1, 20), (1, 13), (1, 300)]),
    ],
)
def test_documents_of_as_many_blocks_are_one_call_where_that_is_faster(dtype, learns, calls, monkeypatch):
    seen = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counting(query, *arguments, **how):
        seen.append((query.shape[0], query.shape[2]))
        return kernel(query, *arguments, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    states = [part.to(dtype) for part in random_states(2, 2, 349, 8)]
    with torch.set_grad_enabled(learns):
        packed_attention(MODULE, *states, None, segments=[16, 20, 13, 300])
    assert seen == calls


class Kernels(TorchDispatchMode):
    """Collects the dtype in which each attention kernel really ran, below autocast."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(function):
            self.dtypes.add(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("learns", "ran_in"), [(True, torch.float32), (False, torch.bfloat16)])
def test_below_autocast_only_what_has_a_backward_pass_runs_in_float32(learns, ran_in):
    query, key, value = torch.randn(3, 1, 2, 9, 8, requires_grad=learns).bfloat16().unbind(0)
    with torch.autocast("cpu", torch.bfloat16), Kernels() as kernels:
        packed_attention(MODULE, query, key, value, None, segments=[4, 5])
    assert kernels.dtypes == {ran_in}


# The varlen kernel: its plumbing with a stand-in, and itself where there is a GPU.


def stand_in(query, key, value, offsets, longest, scale):
    """Returns what a varlen kernel should, by loops over its own arguments."""
    assert offsets.dtype == torch.int32
    assert longest == int(offsets.diff().max())
    parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(offsets)]
    outputs = []
    for part in parts:
        weights = torch.einsum("ihd,jhd->hij", query[part], key[part]).mul(scale).softmax(-1)
        outputs.append(torch.einsum("hij,jhd->ihd", weights, value[part]))
    return torch.cat(outputs)


@pytest.mark.parametrize("scaling", [None, 0.3], ids=["default scale", "own scale"])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_varlen_kernel_is_given_the_row_as_it_lies(monkeypatch, key_heads, scaling):
    monkeypatch.setattr(attention, "_takes_varlen", lambda query: True)
    monkeypatch.setattr(attention, "varlen_kernel", lambda: stand_in)
    lengths = [4, 1, 6]
    query, key, value = random_states(4, key_heads, 11, 8)
    offsets = torch.tensor([0, 4, 5, 5, 11], dtype=torch.int32)  # the third document has lost all its tokens
    probe = AttentionProbe()
    output, _ = packed_attention(
        MODULE, query, key, value, None, segments=lengths, offsets=offsets, scaling=scaling, probe=probe
    )
    expected = attention_by_loop(query, key, value, lengths, list(range(11)), scaling or 8**-0.5, None)
    assert_close(output[0], expected[0])
    assert_close(probe.received, expected[1])


def test_a_window_that_cuts_a_document_is_not_for_the_varlen_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(attention, "_takes_varlen", lambda query: True)
    monkeypatch.setattr(attention, "varlen_kernel", lambda: lambda *given: calls.append(1) or stand_in(*given))
    query, key, value = random_states(2, 2, 5, 4)
    arguments = {"segments": [5], "offsets": torch.tensor([0, 5], dtype=torch.int32), "sliding_window": 3}
    for positions, used in (([0, 1, 2, 3, 4], 0), ([0, 1, 1, 1, 2], 1)):
        packed_attention(MODULE, query, key, value, None, token_positions=torch.tensor(positions), **arguments)
        assert len(calls) == used


def test_pytorchs_own_varlen_kernel_sums_each_document_in_one_split(monkeypatch):
    def varlen_attn(query, key, value, starts, key_starts, longest, longest_key, *, scale=None, num_splits=None):
        return torch.tensor([longest, longest_key, scale, num_splits])

    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=varlen_attn))
    states, offsets = torch.zeros(5, 1, 2), torch.tensor([0, 2, 5], dtype=torch.int32)
    called = attention._own_varlen_kernel()(states, states, states, offsets, 3, 0.25)
    assert called.tolist() == [3.0, 3.0, 0.25, 1.0]


def test_a_varlen_kernel_that_takes_no_number_of_splits_is_called_without_one(monkeypatch):
    calls = []

    def varlen_attn(query, key, value, starts, key_starts, longest, longest_key, *, scale=None, num_splits=None):
        calls.append(num_splits)
        if num_splits is not None:
            raise RuntimeError("num_splits requires FA3. Register FA3 with `register_flash_attention_fa3()`")
        if scale == 0:
            raise RuntimeError("another error")
        return query

    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=varlen_attn))
    states, offsets = torch.zeros(5, 1, 2), torch.tensor([0, 2, 5], dtype=torch.int32)
    kernel = attention._own_varlen_kernel()
    assert all(kernel(states, states, states, offsets, 3, 0.25) is states for _ in range(2))
    assert calls == [1, None, None]
    with pytest.raises(RuntimeError, match="another error"):
        kernel(states, states, states, offsets, 3, 0.0)


@pytest.mark.parametrize(
    ("capability", "width", "takes"),
    [((9, 0), 64, True), ((7, 5), 64, False), ((8, 0), 20, False), ((9, 0), 264, False)],
)
def test_the_varlen_kernel_needs_a_new_gpu_and_heads_of_a_width_that_it_knows(monkeypatch, capability, width, takes):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    attention._has_varlen.cache_clear()
    with FakeTensorMode():  # its tensors have a device, and no values
        query = torch.empty(1, 4, 10, width, device="cuda", dtype=torch.bfloat16)
    assert attention._takes_varlen(query) == takes
    attention._has_varlen.cache_clear()


def test_a_varlen_kernel_without_a_scale_is_not_used(monkeypatch):
    module = SimpleNamespace(varlen_attn=lambda query, key, value, starts, key_starts, longest, longest_key: query)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    assert attention._own_varlen_kernel() is None


def test_a_cpu_and_float32_have_no_varlen_kernel():
    assert not attention._takes_varlen(torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16))
    assert not attention._takes_varlen(torch.zeros(1, 2, 3, 4, device="meta"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_varlen_kernel_agrees_with_the_fallback(key_heads, dtype):
    assert attention.varlen_kernel() is not None
    lengths = [64, 1, 300, 7]
    states = [part.cuda().to(dtype) for part in random_states(4, key_heads, sum(lengths), 32)]
    offsets = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()
    fast, _ = packed_attention(MODULE, *states, None, segments=lengths, offsets=offsets)
    slow, _ = packed_attention(MODULE, *states, None, segments=lengths)
    assert_close(fast, slow, atol=2e-2, rtol=2e-2)
    alone, _ = packed_attention(
        MODULE, *(part[:, :, 65:365] for part in states), None, segments=[300], offsets=offsets.new_tensor([0, 300])
    )
    assert torch.equal(alone[0], fast[0, 65:365])
