"""The cache gives back what was put into it, or nothing."""

import os
import re
import threading
from pathlib import Path

import pytest

from trbert.disk.cache import Entry, cache_folder, why_not_trusted
from trbert.errors import InputError


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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of an empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRBERT_CACHE", str(folder))
    return folder


def test_a_cache_that_is_too_large_forgets_the_entry_that_was_not_used_for_longest(cache, monkeypatch):
    monkeypatch.setenv("TRBERT_CACHE_SIZE", "2500B")
    for number, key in enumerate(("first", "second")):
        Entry("outputs", key).write(bytes(1000))
        os.utime(Entry("outputs", key).path, (number, number))
    assert Entry("outputs", "first").read() is not None  # so that the second one is the oldest
    Entry("teachers", "third").write(bytes(1000))
    assert Entry("outputs", "second").read() is None
    assert Entry("outputs", "first").read() == Entry("teachers", "third").read() == bytes(1000)


def test_the_newest_entry_stays_even_if_it_is_larger_than_the_cache(cache, monkeypatch):
    monkeypatch.setenv("TRBERT_CACHE_SIZE", "10B")
    Entry("teachers", "old").write(bytes(5))
    Entry("teachers", "new").write(bytes(1000))
    assert Entry("teachers", "old").read() is None
    assert Entry("teachers", "new").read() == bytes(1000)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"?", lambda _: b""])
def test_a_damaged_entry_is_none(cache, damage):
    entry = Entry("teachers", "abc")
    entry.write(b"content")
    entry.path.write_bytes(damage(entry.path.read_bytes()))
    assert entry.read() is None
    entry.write(b"again")
    assert entry.read() == b"again"


def test_a_planted_link_is_neither_read_nor_written_through(cache, tmp_path):
    entry = Entry("teachers", "abc")
    entry.write(b"content")
    other = tmp_path / "other"
    entry.path.rename(other)
    entry.path.symlink_to(other)
    before = other.read_bytes()
    assert entry.read() is None
    entry.write(b"mine")
    assert other.read_bytes() == before
    assert entry.read() == b"mine"


def test_a_kind_that_is_a_planted_link_is_refused(cache, tmp_path):
    cache.mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    (cache / "teachers").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=re.escape(str(cache / "teachers"))):
        Entry("teachers", "abc").write(b"content")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_another_user_owns_is_not_trusted(cache, monkeypatch):
    entry = Entry("teachers", "abc")
    entry.write(b"content")
    monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + 1)
    assert entry.read() is None
    assert why_not_trusted(cache) == "it belongs to another user"


def test_a_folder_that_others_may_write_is_refused(cache):
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(InputError, match=r"must be a folder that you alone can write, and is not \(other users may"):
        Entry("teachers", "abc").write(b"content")


def test_two_that_want_an_entry_make_it_once_and_the_second_is_told_by_whom(cache):
    entry, made, told = Entry("teachers", "abc"), [], []
    waiting, begun = threading.Event(), threading.Event()

    def want(name, pause):
        def wait_for(holder):
            told.append(holder)
            waiting.set()

        with entry.held(wait_for):
            begun.set()
            if entry.read() is None:
                pause()
                made.append(name)
                entry.write(name.encode())

    first = threading.Thread(target=want, args=("first", lambda: waiting.wait(10)))
    first.start()
    begun.wait(10)
    want("second", lambda: None)
    first.join()
    assert made == ["first"]
    assert len(told) == 1
    assert f"process {os.getpid()} on " in told[0]
