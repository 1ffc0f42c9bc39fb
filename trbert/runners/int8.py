"""Linear layers in int8 on a CPU: weights scaled by output channel, activations by token."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.errors import InputError
from trbert.runners.eager import Eager

_BLOCK_BYTES = 2 * 2**20
"""About how large a piece's states are, in and out, so that they stay in a core's cache between the steps. Measured on
one core, 4,096 tokens, 384 to 1,536 wide: whole 21.8 ms, in such pieces 9.5 ms, in halves 10.8, in doubles 9.3."""


class Int8Linear(nn.Module):
    """y = s_x · s_w · (q_x q_wᵀ) + b, with q_x = round(x / s_x), s_x = max |x| / 127 over each token's own state.

    One scale a token, so that a document's result does not depend on its batch mates: with one scale a tensor, as
    PyTorch's own dynamic quantisation has it, an outlier elsewhere in the batch changes it. The product of codes is
    PyTorch's oneDNN operator, exact in int32; where it would overflow, float32's.

    Args:
        linear: what is quantised; its weight scales are max |w| / 127 over each output channel (no zero point).
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = _scale(weight)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self._packed: Tensor | None = None

    def forward(self, states: Float[Tensor, "*rows in_features"]) -> Float[Tensor, "*rows out_features"]:
        """Returns the product; no gradient passes."""
        row = states.detach().reshape(-1, self.in_features)
        output = row.new_empty(len(row), self.out_features)
        most = max(1, _BLOCK_BYTES // (4 * (self.in_features + self.out_features)))
        for piece, into in zip(row.split(most), output.split(most), strict=True):
            self._multiply(piece, into)
        return output.view(*states.shape[:-1], self.out_features)

    def _multiply(self, states: Tensor, into: Tensor) -> None:
        states = states.float()
        scale = _scale(states)
        codes = (states / scale).round_().to(torch.int8)
        if _sums_exactly():
            product = torch.ops.onednn.qlinear_pointwise(
                codes, 1.0, 0, self._weight(), self.scale.float(), None, None, 1.0, 0, torch.float32, "none", [], ""
            )
        else:
            product = (codes.float() @ self.weight.float().T).mul_(self.scale.float())
        into.copy_(product.mul_(scale) if self.bias is None else torch.addcmul(self.bias.float(), product, scale))

    def _weight(self) -> Tensor:
        """Returns the weight as the operator wants it; made at first use, since it neither copies nor pickles."""
        if self._packed is None:
            self._packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        """Returns what a printed model shows of it."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


@cache
def _sums_exactly() -> bool:
    """Returns whether oneDNN's product of codes is exact here.

    An x86 processor without VNNI adds pairs of products in 16 bits, which overflow: there the codes are multiplied in
    float32, right and no faster than it.
    """
    found = torch.cpu.get_capabilities()
    if found.get("architecture") != "x86_64":
        return True
    return any(found.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def _scale(rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows 1"]:
    """Returns max |x| / 127 of each row; 1 for a row of zeros."""
    largest = rows.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, largest / 127, 1.0)


class Int8(Eager):
    """Runs layers whose linear maps are in int8: on a CPU, for use alone, neither to learn nor to save."""

    name = "int8"

    def adopt(self, plain: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Replaces the layers' linear maps, in place; embeddings, pooler and head stay as they are.

        Raises:
            InputError: The model is not on a CPU, or this PyTorch has no oneDNN.
        """
        device = next(plain.parameters()).device
        if device.type != "cpu" or not torch.backends.mkldnn.is_available():
            raise InputError(
                f"int8 runs on a CPU with PyTorch's oneDNN operators, and the model is on {device.type!r}: "
                "load it with another runner, and use bfloat16 or float16 there"
            )
        for layer in layers:
            for parent in list(layer.modules()):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, Int8Linear(child))
        plain.requires_grad_(False)


def is_quantised(model: nn.Module) -> bool:
    """Returns whether some of a model's linear layers run in int8."""
    return any(isinstance(module, Int8Linear) for module in model.modules())
