"""Files are there whole, or as they were."""

import contextlib
import errno
import json
import os
import stat
from pathlib import Path

import pytest

from trbert.disk.files import copy_tree, free_bytes, why_not_writable, write_json, write_whole
from trbert.errors import InputError


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
    with pytest.raises(OSError, match="No space left") as raised:
        write_whole(path, b"new")
    assert raised.value.filename == (str(path) if step == "fsync" else None)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_two_that_write_one_file_write_beside_each_other(tmp_path, monkeypatch):
    sources, move = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: sources.append(source.name) or move(source, target))
    for _ in range(2):
        write_whole(tmp_path / "file", b"content")
    assert len(set(sources)) == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "file").symlink_to("precious")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "file").is_symlink()


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_files_and_copies_have_the_modes_that_the_umask_leaves(umask, tmp_path):
    source = make_folder(tmp_path / "source", config="new")
    source.chmod(0o700)
    (source / "config").chmod(0o4777)
    copy_tree(source, tmp_path / "copy")
    write_whole(tmp_path / "file", b"content")
    modes = [path.stat().st_mode & 0o7777 for path in (tmp_path / "copy", tmp_path / "copy" / "config")]
    assert modes == [0o750, 0o640]
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o640


def test_what_is_written_is_on_the_disk_and_so_is_its_name(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(tmp_path / "file", b"content")
    assert synced[0].startswith(str(tmp_path / ".file."))
    assert synced[1:] == [str(tmp_path)]
    synced.clear()
    copy_tree(make_folder(tmp_path / "source", config="new"), tmp_path / "copy")
    assert [Path(name).name for name in synced] == ["config", "new", tmp_path.name]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_disk_that_cannot_sync_a_folder_is_passed_over_and_one_that_fails_is_not(tmp_path, monkeypatch, number):
    real = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output") if number == errno.EIO else contextlib.nullcontext():
        write_whole(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


VALUES = {"settings": {"seed": 3}, "search": {"budget": "20m"}}


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


def test_what_is_written_is_read_again(tmp_path):
    write_json(tmp_path / "deep" / "settings.json", VALUES)
    assert json.loads((tmp_path / "deep" / "settings.json").read_text()) == VALUES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["settings.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "settings.json"
    write_json(path, VALUES)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"settings": [1] * 10_000, "bad": object()})
    assert json.loads(path.read_text()) == VALUES
    assert [each.name for each in tmp_path.iterdir()] == ["settings.json"]


def make_folder(path, **files):
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return path


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_copied_folder_replaces_the_one_that_is_there_whole(tmp_path):
    source = make_folder(tmp_path / "source", config="new", weights="new")
    target = make_folder(tmp_path / "models" / "1", config="old", left_over="old")
    copy_tree(source, target)
    assert contents(target) == contents(source) == {"config": "new", "weights": "new"}
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_a_copy_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = make_folder(tmp_path / "models" / "1", config="old")
    with pytest.raises(FileNotFoundError):
        copy_tree(tmp_path / "missing", target)
    assert contents(target) == {"config": "old"}
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_a_copy_of_what_is_there_already_changes_nothing(tmp_path):
    source, target = make_folder(tmp_path / "source", config="new"), tmp_path / "copy"
    copy_tree(source, target)
    before = target.stat().st_ino
    copy_tree(source, target)
    assert target.stat().st_ino == before
    (source / "config").write_text("neu")
    copy_tree(source, target)
    assert contents(target) == {"config": "neu"}


@pytest.mark.parametrize("kind", ["a symbolic link", "a pipe"])
def test_what_is_neither_a_file_nor_a_folder_is_not_copied(kind, tmp_path):
    source = make_folder(tmp_path / "source", config="new")
    if kind == "a pipe":
        os.mkfifo(source / "odd")
    else:
        (source / "odd").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=rf"must hold files and folders alone, and .*/odd is {kind}"):
        copy_tree(source, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
