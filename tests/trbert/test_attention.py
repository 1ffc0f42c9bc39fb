"""Packed attention against a softmax written as loops."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from trbert.attention import packed_attention

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
    lengths = [4, 1, 6]
    # Tokens were dropped before: the window counts original positions, not places in the row.
    positions = [0, 1, 2, 5, 0, 0, 2, 3, 4, 9, 10]
    query, key, value = random_states(4, key_heads, 11, 8)
    received = torch.full((11,), torch.nan)
    output, weights = packed_attention(
        MODULE,
        query,
        key,
        value,
        None,
        segments=lengths,
        token_positions=torch.tensor(positions),
        received=received,
        scaling=scaling,
        sliding_window=width,
    )
    expected = attention_by_loop(query, key, value, lengths, positions, scaling or 8**-0.5, width)
    assert weights is None
    assert output.shape == (1, 11, 4, 8)
    assert_close(output[0], expected[0])
    assert_close(received, expected[1])


def test_attention_received_by_hand():
    # One head of width 1, scale 1, two documents of two tokens. Scores are q · k, so softmax(q · log a, q · log b).
    query = torch.tensor([1.0, 1.0, 0.0, 2.0]).view(1, 1, 4, 1)
    key = torch.tensor([math.log(1), math.log(3), 5.0, 5.0]).view(1, 1, 4, 1)
    received = torch.zeros(4)
    packed_attention(MODULE, query, key, key, None, segments=[2, 2], received=received, scaling=1.0)
    # Document 0: both queries give weights 1/4 and 3/4. Document 1: its keys are equal, 1/2 and 1/2.
    assert_close(received, torch.tensor([0.25, 0.75, 0.5, 0.5]))


def test_the_attention_a_document_received_sums_to_one():
    query, key, value = random_states(4, 2, 12, 8)
    received = torch.zeros(12)
    packed_attention(MODULE, query, key, value, None, segments=[5, 1, 6], received=received)
    assert_close(torch.stack([part.sum() for part in received.split([5, 1, 6])]), torch.ones(3))
    assert received.std() > 0.05


def test_an_output_is_the_same_whether_attention_received_is_asked_for_or_not():
    query, key, value = random_states(2, 2, 5, 4)
    plain, _ = packed_attention(MODULE, query, key, value, None, segments=[2, 3])
    asked, _ = packed_attention(MODULE, query, key, value, None, segments=[2, 3], received=torch.zeros(5))
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
