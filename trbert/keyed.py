"""Uniform random numbers keyed by what they are for, so that a draw never depends on its batch mates.

A counter-based generator (Salmon et al., SC'11, "Parallel random numbers: as easy as 1, 2, 3"): a number is a hash of
its key. The mixing function is that of splitmix64 (Steele et al., OOPSLA'14).
"""

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def keyed_uniform(*keys: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Returns uniform numbers in [0, 1), one for each element of the broadcast keys; the same key, the same number.

    Args:
        *keys: integers, or integer tensors that broadcast against each other; their order matters.
        device: where to put the result when every key is a plain integer.

    Example:
        >>> bool(keyed_uniform(3, torch.tensor([5, 6]))[1] == keyed_uniform(3, 6))
        True
    """
    state = torch.zeros((), dtype=torch.int64, device=device)
    for key in keys:
        if isinstance(key, Tensor):
            state = state.to(key.device)
        state = _mix(state + _GOLDEN + key)
    return _shift(state, 40).to(torch.float32) * 2.0**-24


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
