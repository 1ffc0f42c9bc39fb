"""The int8 runner, for a CPU: linear layers in int8, with a scale for each output channel and for each token."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.errors import InputError
from trbert.runners.eager import Eager

_BLOCK_BYTES = 2 * 2**20
"""The size in bytes of the pieces in which a linear layer works: the states that enter a piece and those that leave it.

Pieces of this size stay in a core's cache between the steps. Measured on one core, for 4,096 tokens, from a width of
384 to one of 1,536:

| pieces         | time    |
|----------------|---------|
| one            | 21.8 ms |
| double size    | 9.3 ms  |
| this size      | 9.5 ms  |
| half this size | 10.8 ms |
"""


class Int8Linear(nn.Module):
    """A linear layer in int8: y = s_x · s_w · (q_x q_wᵀ) + b.

    q_x = round(x / s_x) are the int8 codes of a token's state x, with s_x = max |x| / 127 over that state. q_w and s_w
    are the same of the weight, over each output channel. There is no zero point.

    Each token has its own scale, so that a document's result does not depend on the other documents of its batch.
    PyTorch's dynamic quantisation has one scale for a whole tensor. There, an outlier in one document changes the
    results of the others.

    The product q_x q_wᵀ is computed by PyTorch's oneDNN operator, which sums exactly, in int32. Where the processor
    would overflow (`_sums_exactly`), it is computed in float32.

    Args:
        linear: the layer to quantise.
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
        """Returns y for each state. No gradient flows through it."""
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
        """Returns the weight in the operator's own layout.

        It is made at first use, because in this layout it can be neither copied nor pickled.
        """
        if self._packed is None:
            self._packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        """Returns the text that a printed model shows for this layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


@cache
def _sums_exactly() -> bool:
    """Returns whether oneDNN's product of int8 codes is exact on this processor.

    An x86 processor without VNNI adds pairs of products in 16 bits, which can overflow. There the codes are multiplied
    in float32 instead. The result is right, but it takes as long as float32 does.
    """
    found = torch.cpu.get_capabilities()
    if found.get("architecture") != "x86_64":
        return True
    return any(found.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def _scale(rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows 1"]:
    """Returns max |x| / 127 of each row, or 1 for a row of zeros."""
    largest = rows.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, largest / 127, 1.0)


class Int8(Eager):
    """Runs layers whose linear maps are in int8. Such a model runs on a CPU only; it can neither learn nor be saved."""

    name = "int8"

    def adopt(self, plain: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Replaces the linear maps of the layers, in place. The embeddings, the pooler and the head are not changed.

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
    """Returns whether any linear layer of a model is in int8."""
    return any(isinstance(module, Int8Linear) for module in model.modules())
