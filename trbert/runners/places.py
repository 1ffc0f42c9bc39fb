"""Where the weights of a model lie in memory."""

from collections.abc import Hashable, Mapping

from torch import Tensor, nn


class Places:
    """Says where the weights of some modules lie, which is asked in every captured pass.

    To walk through a model takes as long as a captured pass of one document. So the dictionaries in which PyTorch keeps
    modules and weights are remembered, until a module is replaced.
    """

    def __init__(self) -> None:
        self._roots: tuple[nn.Module, ...] = ()
        self._tree: tuple[nn.Module | None, ...] = ()
        self._parts: list[dict[str, nn.Module | None]] = []
        self._kept: list[Mapping[str, Tensor | None]] = []

    def of(self, *roots: nn.Module) -> Hashable:
        """Returns a value that is another one once a module, a weight or a buffer is replaced or moved."""
        if roots != self._roots or self._modules() != self._tree:
            modules = [module for root in roots for module in root.modules()]
            self._parts = [module._modules for module in modules if module._modules]
            self._kept = [kept for module in modules for kept in (module._parameters, module._buffers) if kept]
            self._roots, self._tree = roots, self._modules()
        return self._tree, tuple(
            tensor.data_ptr() for kept in self._kept for tensor in kept.values() if tensor is not None
        )

    def _modules(self) -> tuple[nn.Module | None, ...]:
        return tuple(module for parts in self._parts for module in parts.values())
