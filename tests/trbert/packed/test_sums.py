"""Sums over the documents of a row on a GPU."""

import pytest
import torch
from torch.testing import assert_close

from trbert.packed import sums
from trbert.packed.sums import segment_sums


def test_without_triton_the_documents_are_summed_by_hand(monkeypatch):
    monkeypatch.setattr(sums, "sums_by_triton", lambda: False)
    states = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]], dtype=torch.bfloat16)
    found = segment_sums(states, torch.tensor([0, 2, 2, 3]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[5.0, 10.0], [0.0, 0.0], [16.0, 32.0]]


@pytest.mark.parametrize("compiler", ["gcc", None])
def test_the_kernel_needs_a_compiler(compiler, monkeypatch):
    monkeypatch.setattr(sums, "triton", object())
    monkeypatch.setattr(sums.shutil, "which", lambda name: compiler if name == compiler else None)
    assert sums.sums_by_triton.__wrapped__() == (compiler is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_adds_as_segment_reduce_does_with_the_same_bits_each_time(dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    states = torch.randn(1000, 100, generator=generator, device="cuda", dtype=torch.float32).to(dtype)
    offsets = torch.tensor([0, 1, 1, 18, 500, 1000, 1000], device="cuda")  # two documents are empty
    found = segment_sums(states, offsets)
    expected = torch.segment_reduce(states.float(), "sum", offsets=offsets, unsafe=True)
    assert found.dtype == torch.float32
    assert_close(found, expected)
    assert all(torch.equal(segment_sums(states, offsets), found) for _ in range(20))
