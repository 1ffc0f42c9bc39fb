"""As little teaching as there can be, in a cache of its own."""

import pytest

from tune.settings import override


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settings(tiny_settings):
    """As little teaching as there can be."""
    return override(tiny_settings, {"teacher.epochs": 0.1})


@pytest.fixture
def no_training():
    """What trains a teacher; it fails the test."""

    def refuse(*arguments, key):
        pytest.fail("a teacher was trained")

    return refuse


@pytest.fixture
def untaught():
    """What trains a teacher; it leaves it as it is drawn."""
    return lambda *arguments, key: None


@pytest.fixture
def long_rows(tmp_path):
    """A csv file of 30 texts of 60 words."""
    path = tmp_path / "long.csv"
    rows = [f"{'alpha' if row % 2 else 'beta'} {f'w{row} ' * 59},{'AB'[row % 2]}" for row in range(30)]
    path.write_text("\n".join(["text,label", *rows]))
    return path
