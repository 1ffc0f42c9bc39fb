"""The cache gives back what was put into it, or nothing."""

from pathlib import Path

from trbert.disk.cache import Entry, cache_folder


def test_the_cache_lies_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TRBERT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "trbert"


def test_an_entry_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    entry = Entry("teachers", "abc")
    assert entry.read() is None
    entry.write(b"two\nlines")
    assert entry.read() == b"two\nlines"
    assert entry.path == tmp_path / "cache" / "teachers" / "abc.cached"
    assert Path(entry.path).parent.stat().st_mode & 0o777 == 0o700
