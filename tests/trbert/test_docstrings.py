"""The examples in the docstrings of trbert run, and the public functions that others build on have one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "trbert").rglob("*.py"))
    if " Example:\n" in path.read_text()
]
BASIS = ["packed.batch", "packed.tokens", "packed.families", "packed.attention", "measure.cost"]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("name", [f"trbert.{name}" for name in BASIS])
def test_each_public_function_of_the_basis_has_an_example(name):
    module = importlib.import_module(name)
    functions = {
        own: value
        for own, value in vars(module).items()
        if callable(value) and not own.startswith("_") and getattr(value, "__module__", None) == name
    }
    without = [
        own for own, value in functions.items() if not inspect.isclass(value) and ">>>" not in (value.__doc__ or "")
    ]
    # Which kernel is there depends on the machine.
    assert set(without) <= {"varlen_kernel"}
