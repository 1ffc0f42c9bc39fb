"""A run says what it was made with."""

import importlib.metadata
import re

import pytest

from tune.runs.versions import versions


@pytest.fixture(autouse=True)
def asked_anew():
    versions.cache_clear()
    yield
    versions.cache_clear()


def test_the_versions_that_a_result_depends_on_are_known():
    found = versions()
    assert {"python", "torch", "transformers", "ray", "numpy"} <= found.keys()
    assert all(re.match(r"\d+\.\d+", version) for name, version in found.items() if name != "commit")


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    known = importlib.metadata.version

    def version(name):
        if name == "datasets":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions()
    assert "datasets" not in found
    assert "torch" in found
