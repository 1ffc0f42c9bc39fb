"""Files are there whole, or as they were."""

import os
from pathlib import Path

import pytest

from trbert.files import cache_folder, free_bytes, why_not_writable, write_whole


def test_a_file_is_written_with_the_folders_it_needs(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_where_writing_fails_the_old_file_stays_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_cache_lies_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TRBERT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "trbert"


def test_two_processes_that_write_one_file_write_beside_each_other(tmp_path, monkeypatch):
    sources, move = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: sources.append(source.name) or move(source, target))
    for process in (11, 12):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        write_whole(tmp_path / "file", b"content")
    assert len(set(sources)) == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    for folder in (tmp_path, tmp_path / "new" / "deep"):
        assert why_not_writable(folder) is None
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_or_a_broken_link_or_in_proc_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert why_not_writable(tmp_path / "file" / "below") == f"{tmp_path}/file is not a folder"
    assert why_not_writable(tmp_path / "link") == f"{tmp_path}/link is not a folder"
    assert why_not_writable(tmp_path / ("long" * 100)) == "File name too long"
    assert why_not_writable(tmp_path / "new" / ("long" * 100)) == "File name too long"
    if os.path.isdir("/proc"):
        assert why_not_writable(Path("/proc/none")) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_the_free_bytes_are_those_of_the_disk_that_a_folder_will_lie_on(tmp_path):
    assert free_bytes(tmp_path / "none" / "deep") == pytest.approx(free_bytes(tmp_path), rel=0.1)
