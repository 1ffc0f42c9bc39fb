"""The list of checks: what each of them refuses or warns of, in one sentence, before anything is made."""

import os
import re
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from trbert.errors import InputError, RunFolderError
from tune.preflight import checks
from tune.preflight.checks import RAY_SOCKET, SOCKET_BYTES, run_checks
from tune.runs.folder import RunFolder
from tune.settings import Search, Settings, override


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine on which everything can be written, and which has a terabyte free."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    (tmp_path / "file").write_text("")
    return tmp_path


def check(settings=None, storage=None, address=None, folder="runs/mine"):
    return run_checks(
        override(Settings(), settings or {}), Search(storage=storage, address=address), RunFolder(Path(folder))
    )


def refused(told, error=InputError, **asked):
    with pytest.raises(error, match=f"^{re.escape(told)}$"):
        check(**asked)


def test_where_all_is_well_nothing_is_said_and_nothing_is_left(machine):
    assert check(storage=str(machine / "states"), settings={"data.source": "gone.csv"}) == []
    assert [path.name for path in machine.iterdir()] == ["file"]


def test_a_run_folder_that_cannot_be_written_is_told_with_its_option(machine):
    refused(
        "run folder file/mine must be a folder that can be written, and is not "
        f"({machine}/file is not a folder): choose another --runs",
        RunFolderError,
        folder="file/mine",
    )


def test_a_storage_that_cannot_be_written_is_told(machine):
    rule = "--storage must be a folder or a URI (s3://bucket/folder) that can be written, and {} cannot be ({}): "
    remedy = "choose another, or leave it out to use the run folder"
    place = f"{machine}/file/states"
    refused(rule.format(place, f"{machine}/file is not a folder") + remedy, storage=place)
    uri = f"file://{place}"
    refused(rule.format(uri, f"{machine}/file is not a folder") + remedy, storage=uri)
    unknown = "s4://bucket/runs"
    refused(rule.format(unknown, f"Unrecognized filesystem type in URI: {unknown}") + remedy, storage=unknown)
    assert check(storage=f"file://{machine}/states") == []


def test_a_cache_that_cannot_be_written_is_told_with_its_variable_unless_other_machines_have_it(machine, monkeypatch):
    monkeypatch.setenv("TRBERT_CACHE", str(machine / "file" / "cache"))
    refused(
        f"the cache folder {machine}/file/cache must be a folder that you alone can write, and is not "
        f"({machine}/file is not a folder): name another one in the environment, TRBERT_CACHE=/a/folder"
    )
    assert check(address="10.0.0.1:6379") == []


def test_without_a_home_folder_the_cache_is_told_of(machine, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TRBERT_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match=r"TRBERT_CACHE=/a/folder$"):
        check()


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_is_as_long_as_rays_sockets_allow(machine, monkeypatch, name):
    monkeypatch.delenv("RAY_TMPDIR")
    most = SOCKET_BYTES - len(RAY_SOCKET)
    short, long = "/tmp/".ljust(most, "x"), "/tmp/".ljust(most - 1, "x") + "ü"  # bytes count, not characters
    monkeypatch.setenv(name, short)
    assert check() == []
    monkeypatch.setenv(name, long)
    refused(
        f"{name} must be a path of at most {most} bytes, because Ray makes its sockets below it, and has {most + 1} "
        f"bytes ({long}): name a shorter folder, RAY_TMPDIR=/tmp/ray"
    )
    assert check(address="10.0.0.1:6379") == []  # a cluster's machines have their own


@pytest.mark.parametrize("relative", ["scratch", ""])
def test_a_temporary_folder_is_absolute(monkeypatch, relative):
    monkeypatch.setenv("RAY_TMPDIR", relative)
    refused(
        "RAY_TMPDIR must be a path that begins with '/', because Ray's processes have several working folders, and is "
        f"{relative!r}: name another folder, RAY_TMPDIR=/tmp/ray"
    )


def test_rays_own_variable_comes_before_that_of_the_system(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp/".ljust(200, "x"))
    assert check() == []


def test_a_temporary_folder_that_cannot_be_written_is_told(machine, monkeypatch):
    monkeypatch.setattr(checks, "SOCKET_BYTES", 1000)  # pytest's own folders are long
    monkeypatch.setenv("RAY_TMPDIR", str(machine / "file"))
    refused(
        f"RAY_TMPDIR must be a folder that can be written, and {machine}/file cannot be "
        f"({machine}/file is not a folder): name another one, RAY_TMPDIR=/a/folder"
    )


@pytest.mark.parametrize(
    ("setting", "option"), [("model", "--model"), ("data.source", "--data"), ("data.label_map", "--label-map")]
)
def test_a_pipe_or_a_broken_link_is_told_with_its_option(machine, setting, option):
    os.mkfifo(machine / "pipe")
    (machine / "link").symlink_to("gone")
    rule = f"{option} must name files or folders that can be read, and"
    refused(f"{rule} pipe is a pipe, which can be read only once", settings={setting: "pipe"})
    refused(
        f"{rule} link is a symbolic link to gone, which does not exist",
        settings={setting: "link"},
    )


def test_a_broken_link_among_the_files_of_the_splits_is_told(machine):
    (machine / "link").symlink_to("gone")
    with pytest.raises(InputError, match=r"^--data must name files .* link is a symbolic link to gone"):
        check(settings={"data.source": "train=file,test=link"})


def test_an_address_of_another_form_is_told():
    with pytest.raises(InputError, match=r"^--address must be 'auto', or a host with a port"):
        check(address="head")


def test_a_disk_with_little_space_is_warned_of(monkeypatch, machine):
    free = {"runs/mine": 0.5, str(machine / "cache"): 0.4, str(machine / "states"): 0.3}
    monkeypatch.setattr(checks, "free_bytes", lambda folder: free.get(str(folder), 99) * 1e9)
    told = (
        "the disk of {} has {} GB free, and the models may need 1.1 GB: free some space, or choose another disk with {}"
    )
    assert check() == [told.format("runs/mine", 0.5, "--runs")]
    del free["runs/mine"]
    assert check() == [told.format(machine / "cache", 0.4, "TRBERT_CACHE")]
    assert check(address="auto", storage=str(machine / "states")) == [told.format(machine / "states", 0.3, "--storage")]


def test_a_large_model_needs_more_space(monkeypatch, machine):
    (machine / "enc").mkdir()
    with (machine / "enc" / "model.safetensors").open("wb") as file:
        file.truncate(1 << 30)  # takes no space on the disk
    monkeypatch.setattr(checks, "free_bytes", lambda folder: 8e9)
    (told,) = check(settings={"model": "enc"})
    assert "has 8.0 GB free, and the models may need 8.6 GB" in told


@pytest.mark.parametrize(("most", "warned"), [(255, True), (256, False), (resource.RLIM_INFINITY, False)])
def test_few_open_files_are_warned_of(monkeypatch, most, warned):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (64, most))
    told = "a process may have only 255 files open, and Ray needs some hundred: raise the limit (ulimit -Hn)"
    assert check() == ([told] if warned else [])


@pytest.mark.parametrize("setting", ["model", "data.source", "select.latency_table"])
def test_what_a_resumed_search_started_with_must_still_be_there(machine, setting):
    gone = {setting: f"{machine}/gone"} | ({"select.price": "latency"} if "latency" in setting else {})
    assert check(settings=gone) == []
    (machine / "mine").mkdir()
    (machine / "mine" / "settings.json").write_text("{}")
    refused(
        f"a resumed search must find what it started with, and {machine}/gone is missing: put it back there, or start "
        "another search",
        settings=gone,
        folder=machine / "mine",
    )
    assert check(settings={"data.label_map": "/a=b", "model": "a/b"}, folder=machine / "mine") == []
