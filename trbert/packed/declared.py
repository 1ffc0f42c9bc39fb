"""Families that a user declares in Python code of their own, by the name that `--family` takes."""

import hashlib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trbert.errors import InputError, TrbertError
from trbert.packed.families import Family, register_family
from trbert.wording import did_you_mean, first_line, shown


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declared family that is registered in this process. Where it is unpickled, it is registered first.

    A config or a model of the user's own class can be unpickled only where that class was imported. So an object that
    holds one holds its declaration before it.

    Attributes:
        name: where the family is, as `declare` takes it.
        model_type: the `model_type` of its models.
    """

    name: str
    model_type: str

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return declare, (self.name,)


_DECLARED: dict[str, Declaration] = {}


def declare(name: str) -> Declaration:
    """Imports and registers the family of this name, unless this process has done so before.

    Args:
        name: a module and a name in it, such as "my_package.families:FAMILY", or the path of a Python file and a name
            in it, such as "my_family.py:FAMILY". A module is looked for among the installed ones and then in the
            working directory, which is added to `sys.path`.

    Raises:
        InputError: The name has another form, its module cannot be imported, or there is no family of that name.
    """
    if name not in _DECLARED:
        family = _found(name)
        register_family(family)
        assert family.model_type is not None  # else it is not registered
        _DECLARED[name] = Declaration(name, family.model_type)
    return _DECLARED[name]


def declaration_of(config: Any) -> Declaration | None:
    """Returns the declaration of the family of a model, or None if trbert describes the family itself.

    Args:
        config: the Hugging Face configuration of the model.
    """
    return next((each for each in _DECLARED.values() if each.model_type == config.model_type), None)


def _found(name: str) -> Family:
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise InputError(
            "--family must be a module and a name in it, such as my_package.families:FAMILY or my_family.py:FAMILY, "
            f"and is {name!r}"
        )
    try:
        module = _file(place) if place.endswith(".py") else _module(place)
    except TrbertError:
        raise
    except Exception as error:  # the user's code may raise any error
        raise InputError(
            f"--family must name Python code that can be imported, and {place!r} cannot be "
            f"({type(error).__name__}: {first_line(error)}): correct it, install it, or start where it lies"
        ) from error
    if not hasattr(module, attribute):
        raise InputError(
            f"--family must name a trbert.Family in {place!r}, which has no {attribute!r}"
            f"{did_you_mean(attribute, sorted(vars(module)))}: write its name there after the colon"
        )
    family = getattr(module, attribute)
    if not isinstance(family, Family):
        raise InputError(
            f"--family must name a trbert.Family, and {name!r} is {shown(family)}: write "
            f"{attribute} = trbert.Family(model_type=...) there"
        )
    return family


def _module(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:  # at the end, so that no installed package is replaced by a file beside the user
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def _file(path: str) -> ModuleType:
    """Imports a file under a name of its own, so that the classes in it can be pickled."""
    path = os.path.abspath(os.path.expanduser(path))
    name = f"trbert_family_{hashlib.sha256(path.encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name of the file ends with .py
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
