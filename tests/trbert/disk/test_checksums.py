"""Checksums tell damage to any file of a model, and sha256sum reads them."""

import doctest
import os
import shutil
import subprocess

import pytest

from trbert.disk import checksums as checksums_module
from trbert.disk.checksums import SUMS, check_checksums, write_checksums
from trbert.errors import DamagedCheckpoint

ODD = ["with space", "ümlaut", "line\nbreak", "back\\slash", "both\\\nof them", "\r", os.fsdecode(b"no text \xff")]


@pytest.fixture
def folder(tmp_path):
    """A model's folder with checksums, some of its files in a folder of their own."""
    made = tmp_path / "model"
    (made / "onnx" / "deep").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"weights" * 100_000)
    (made / "onnx" / "deep" / "more").write_bytes(b"")
    write_checksums(made)
    return made


def refused(folder):
    with pytest.raises(DamagedCheckpoint) as raised:
        check_checksums(folder)
    return str(raised.value)


def test_a_folder_as_it_was_written_is_whole_and_stays_so_when_its_checksums_are_written_again(folder):
    check_checksums(folder)
    before = (folder / SUMS).read_bytes()
    write_checksums(folder)
    assert (folder / SUMS).read_bytes() == before
    assert [line.split("  ")[1] for line in before.decode().splitlines()] == [
        "config.json",
        "model.safetensors",
        "onnx/deep/more",
    ]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_sha256sum_reads_the_checksums_whatever_the_files_are_called(folder):
    for name in ODD:
        (folder / name).write_text(name, errors="surrogateescape")
    write_checksums(folder)
    check_checksums(folder)
    command = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    (folder / ODD[3]).write_text("changed")
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 1
    assert f"changed: {ODD[3]!r}" in refused(folder)


def test_a_file_that_is_missing_changed_or_not_listed_is_named(folder):
    (folder / "config.json").unlink()
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "onnx" / "new").write_text("")
    assert refused(folder) == (
        f"the files of {folder} must be those that SHA256SUMS lists, and some are not (missing: 'config.json'; "
        "changed: 'model.safetensors'; not listed: 'onnx/new'): copy the model again, or save it again"
    )


def test_a_file_that_was_cut_off_is_told(folder):
    os.truncate(folder / "model.safetensors", 699_999)
    assert "changed: 'model.safetensors'" in refused(folder)


def test_a_folder_without_checksums_says_so(folder):
    (folder / SUMS).unlink()
    assert refused(folder) == (
        f"{folder} must hold SHA256SUMS to be verified, and does not, so that damage cannot be told: load it without "
        "verifying, or save it again with this version of trbert"
    )


@pytest.mark.parametrize("content", [b"\x00", b"not a line\n", b"0" * 63 + b"  config.json\n"])
def test_checksums_that_are_none_are_told_with_their_line(folder, content):
    (folder / SUMS).write_bytes(content)
    assert refused(folder).startswith(
        f"{folder}/SHA256SUMS must have lines as sha256sum writes them, and line 1 is not"
    )


def test_checksums_of_a_file_elsewhere_open_nothing_there(folder, tmp_path):
    (tmp_path / "outside").write_text("{}")
    listed = (folder / SUMS).read_text().replace("config.json", "../outside")
    (folder / SUMS).write_text(listed)
    assert "missing: '../outside'; not listed: 'config.json'" in refused(folder)


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    assert "not listed: 'pipe'" in refused(folder)
    with pytest.raises(DamagedCheckpoint, match=r"'pipe' cannot \(it is a pipe\): remove it, or save the model again"):
        write_checksums(folder)
    (folder / "pipe").unlink()
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "unreadable: 'config.json'" in refused(folder)
    (folder / SUMS).unlink()
    os.mkfifo(folder / SUMS)
    assert refused(folder) == f"{folder}/SHA256SUMS cannot be read (it is a pipe): copy the model again"


def test_links_to_files_are_followed_as_the_cache_of_a_hub_has_them(folder, tmp_path):
    (tmp_path / "blobs").mkdir()
    for name in ("config.json", SUMS):
        shutil.move(folder / name, tmp_path / "blobs" / name)
        (folder / name).symlink_to(tmp_path / "blobs" / name)
    check_checksums(folder)
    (tmp_path / "blobs" / "config.json").write_text("changed")
    assert "changed: 'config.json'" in refused(folder)
    (folder / "loop").symlink_to("loop")
    assert "not listed: 'loop'" in refused(folder)


def test_folders_without_an_end_are_refused(folder):
    deep = folder.joinpath(*["d"] * 20)
    deep.mkdir(parents=True)
    (deep / "file").write_text("")
    assert "cannot be read as one (it has more than 10,000 files, or folders too deep)" in refused(folder)


def test_a_folder_that_is_gone_is_told(tmp_path):
    with pytest.raises(DamagedCheckpoint, match=r"must be the folder of a model, and cannot be read as one \(No such"):
        write_checksums(tmp_path / "gone")


def test_the_examples_run():
    failed, tried = doctest.testmod(checksums_module)
    assert failed == 0
    assert tried >= 4
