"""Lets transformers' Auto classes open reduced models after `import trbert`, which loads no transformers itself."""

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

CONFIGS = "transformers.models.auto.configuration_auto"
"""The module of transformers that knows the class of each kind of configuration, by its name alone until it is used."""


def register_when_loaded() -> None:
    """Names the configuration of reduced models to transformers, now or as soon as it is imported.

    A folder with a reduced model then loads through transformers' Auto classes. `trbert.modeling` is imported when the
    first such folder is opened, and makes the model's class known.
    """
    if CONFIGS in sys.modules:
        _register(sys.modules[CONFIGS])
    else:
        sys.meta_path.insert(0, _Finder())


def _register(configs: Any) -> None:
    configs.CONFIG_MAPPING_NAMES["trbert"] = "TrbertConfig"
    configs.CONFIG_MAPPING._modules["trbert"] = sys.modules["trbert"]


class _Finder(MetaPathFinder):
    """Finds the module of transformers as Python does, and registers when it has run."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != CONFIGS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Loads a module by another loader, and registers then."""

    def __init__(self, own: Loader) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._own.exec_module(module)
        _register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)
