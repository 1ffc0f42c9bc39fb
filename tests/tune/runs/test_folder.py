"""A run's folder: nothing half-written, nothing overwritten unasked."""

import errno
import os
import re
import socket

import pytest

from trbert.errors import InputError, RunFolderError
from tune.runs.folder import (
    RunFolder,
    check_name,
    check_new,
    forget_run,
    free_name,
    held,
    make_free_run,
    make_run,
)
from tune.runs.record import SavedRun, existing_run, write_run
from tune.settings import Search, Settings, override

SAVED = SavedRun(id="mine-1", settings=override(Settings(), {"seed": 3}), search=Search(budget="20m"))


def test_a_new_run_makes_its_folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "mine")
    make_run(folder)
    assert folder.path.is_dir()
    make_run(folder)  # still empty


def test_a_run_that_exists_is_not_touched(tmp_path):
    folder = RunFolder(tmp_path / "mine")
    write_run(folder, SAVED)
    told = (
        f"run folder {folder.path} must not exist yet, and does: choose another --name, "
        f"or continue it with --resume {folder.path}"
    )
    with pytest.raises(RunFolderError, match=f"^{re.escape(told)}$"):
        make_run(folder)
    assert existing_run(str(folder.path)) == (folder, SAVED)


def test_a_folder_with_other_files_is_no_place_for_a_run(tmp_path):
    folder = RunFolder(tmp_path / "mine")
    folder.path.mkdir()
    (folder.path / "thesis").write_text("precious")
    told = f"run folder {folder.path} holds other files: choose another --name, or empty it"
    with pytest.raises(RunFolderError, match=f"^{re.escape(told)}$"):
        make_run(folder)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_run_folder_that_cannot_be_made_is_said(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"^run folder .* cannot be made \(.+\): choose another --"):
        make_run(RunFolder(tmp_path / name))


def test_a_free_name_is_the_wanted_one_or_the_next_number(tmp_path):
    assert free_name(tmp_path, "search") == "search"
    (tmp_path / "search").mkdir()
    assert free_name(tmp_path, "search") == "search-2"
    (tmp_path / "search-2").write_text("")
    assert free_name(tmp_path, "search") == "search-3"
    assert free_name(tmp_path / "none", "search") == "search"


def test_a_free_folder_is_made_by_one_search_alone(tmp_path, monkeypatch):
    assert make_free_run(tmp_path / "runs", "search") == RunFolder(tmp_path / "runs" / "search")
    # Another search looks for a free name at the same time: it was told that "search" is free just before.
    told = iter(["search", "search-2"])
    monkeypatch.setattr("tune.runs.folder.free_name", lambda runs, wanted: next(told))
    assert make_free_run(tmp_path / "runs", "search") == RunFolder(tmp_path / "runs" / "search-2")


def test_a_broken_link_is_no_free_name(tmp_path):
    (tmp_path / "search").symlink_to("gone")
    assert free_name(tmp_path, "search") == "search-2"


def test_a_free_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"^run folder .*/file/search cannot be made \(Not a directory\): choose "):
        make_free_run(tmp_path / "file", "search")


def test_a_run_is_of_one_search_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "mine")
    make_run(folder)
    told = (
        rf"^run folder {re.escape(str(folder.path))} must be of one search at a time, and another search is using it "
        rf"\(process {os.getpid()} on {re.escape(socket.gethostname())}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\): "
        "wait until that search has ended, or start one under another --name$"
    )
    with held(folder), pytest.raises(RunFolderError, match=told), held(folder):
        pass
    with held(folder):
        pass
    assert list(folder.path.iterdir()) == []  # nothing of it is left on the disk


def test_a_run_that_another_search_has_just_made_is_still_new(tmp_path):
    folder = RunFolder(tmp_path / "mine")
    make_run(folder)
    with held(folder):
        check_new(folder)


def test_where_a_file_system_has_no_locks_the_search_goes_on(tmp_path, monkeypatch):
    def unsupported(handle, how):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with held(RunFolder(tmp_path)):
        pass


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a"])
def test_a_name_is_that_of_one_folder(name):
    told = f"--name must be the name of a folder, without '/', and is {name!r}: choose where it lies with --runs"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        check_name(name)


def test_a_name_leaves_room_for_the_names_that_are_made_of_it():
    check_name("ü" * 100)
    told = "--name must have at most 200 bytes, because other names are made of it, and has 202: choose a shorter one"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        check_name("ü" * 101)


@pytest.mark.parametrize("name", ["mine", "-x", "a b#%41,'ü", "..."])
def test_a_name_may_have_any_other_characters(name):
    check_name(name)


def test_every_path_of_a_run_lies_in_its_folder(tmp_path):
    folder = RunFolder(tmp_path)
    names = {folder.settings.name, folder.front_table.name, folder.front_picture.name}
    assert names == {"settings.json", "front.csv", "front.png"}
    assert {folder.models.parent, folder.trials.parent, folder.settings.parent} == {tmp_path}
    paths = [folder.settings, folder.front_table, folder.front_picture, folder.models, folder.trials]
    assert len(set(paths)) == 5


def test_a_run_is_forgotten_only_while_its_settings_are_all_that_it_has(tmp_path):
    fresh, begun = RunFolder(tmp_path / "fresh"), RunFolder(tmp_path / "begun")
    for folder in (fresh, begun):
        write_run(folder, SAVED)
    begun.models.mkdir()
    forget_run(fresh)
    forget_run(begun)
    assert not fresh.path.exists()
    assert existing_run(str(begun.path)) == (begun, SAVED)
