"""Uniform random numbers that are computed from keys, which say what a number is for.

So the random number of a token does not depend on the other documents of its batch. This is a counter-based generator:
a number is a hash of its keys (Salmon et al., SC'11, "Parallel random numbers: as easy as 1, 2, 3"). The hash is that
of splitmix64 (Steele et al., OOPSLA'14).
"""

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def keyed_uniform(*keys: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Returns uniform numbers in [0, 1), one for each element of the broadcast keys. Equal keys give equal numbers.

    Args:
        *keys: integers, or integer tensors that broadcast against each other. Their order matters.
        device: the device of the result where all keys are plain integers.

    Example:
        >>> bool(keyed_uniform(3, torch.tensor([5, 6]))[1] == keyed_uniform(3, 6))
        True
    """
    # It begins on the device of the keys: a number that is moved there later is waited for.
    device = next((key.device for key in keys if isinstance(key, Tensor)), device)
    state = torch.zeros((), dtype=torch.int64, device=device)
    for key in keys:
        state = _mix(state + _GOLDEN + key)
    return _shift(state, 40).to(torch.float32) * 2.0**-24


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Returns the value shifted right, filled with zeros. PyTorch's own shift fills with the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
