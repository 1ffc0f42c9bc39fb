"""A run's folder: nothing half-written, nothing overwritten unasked."""

import errno
import importlib.metadata
import json
import re
from dataclasses import replace

import pytest

from trbert.errors import InputError, RunFolderError
from tune.runs import (
    RunFolder,
    SavedRun,
    check_name,
    copy_folder,
    existing_run,
    forget_run,
    free_name,
    held,
    make_free_run,
    make_run,
    versions,
    write_json,
    write_run,
)
from tune.settings import Search, Settings, override

VALUES = {"settings": {"seed": 3}, "search": {"budget": "20m"}}
SAVED = SavedRun(settings=override(Settings(), {"seed": 3}), search=Search(budget="20m"))


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
    copy_folder(source, target)
    assert contents(target) == contents(source) == {"config": "new", "weights": "new"}
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_a_copy_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = make_folder(tmp_path / "models" / "1", config="old")
    with pytest.raises(FileNotFoundError):
        copy_folder(tmp_path / "missing", target)
    assert contents(target) == {"config": "old"}
    assert [path.name for path in target.parent.iterdir()] == ["1"]


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
    folder = RunFolder(make_folder(tmp_path / "mine", thesis="precious"))
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
    monkeypatch.setattr("tune.runs.free_name", lambda runs, wanted: next(told))
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
        f"run folder {folder.path} must be of one search at a time, and another search is using it: wait until that "
        "search has ended, or start one under another --name"
    )
    with held(folder), pytest.raises(RunFolderError, match=f"^{re.escape(told)}$"), held(folder):
        pass
    with held(folder):
        assert list(folder.path.iterdir()) == []  # nothing of it is left on the disk


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


def test_nothing_to_resume_is_said(tmp_path):
    told = f"{tmp_path} must be the folder of a run, with a settings.json, and is not one: check --resume"
    with pytest.raises(RunFolderError, match=f"^{re.escape(told)}$"):
        existing_run(str(tmp_path))


EVERYTHING = Search(
    num_trials=3,
    num_rollout_workers=2,
    num_learners=2,
    gpus_per_worker=0.25,
    budget="1h30m",
    address="10.0.0.1:6379",
    storage="s3://bucket/runs",
    fixed=("select.points", "policy_width"),
)


@pytest.mark.parametrize("fitted", [None, override(Settings(), {"select.documents": 77})])
@pytest.mark.parametrize("search", [EVERYTHING, Search()])
def test_a_run_that_was_saved_is_the_same_run(search, fitted, tmp_path):
    settings = override(Settings(), {"select.points": (0, 2), "select.keep_ratios": (0.1, 0.0), "model": "ünï"})
    saved, folder = SavedRun(settings=settings, search=search, fitted=fitted), RunFolder(tmp_path / "mine")
    write_run(folder, saved)
    assert existing_run(str(folder.path)) == (folder, saved)
    values = json.loads(folder.settings.read_text())
    assert values["versions"] == versions()
    assert ("fitted" in values) == (fitted is not None)


def write_values(folder, **values):
    write_json(folder / "settings.json", {"settings": {}, "search": {}} | values)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"settings": {"select": {"dial_range": 2.0}}}, "there is no setting 'select.dial_range'"),
        ({"fitted": {"select": {"dial_range": 2.0}}}, "there is no setting 'select.dial_range'"),
        ({"settings": {"select": {"samples": 1}}}, "select.samples must be at least 2, and is 1"),
        ({"search": {"of_old": 1}}, "unexpected keyword argument 'of_old'"),
        ({"search": {"fixed": 3}}, "'int' object is not iterable"),
        ({"search": {"num_learners": 0}}, "--num-learners must be 1 or more, and is 0"),
        ({"search": {"budget": "soon"}}, "a budget must be a duration"),
        ({"search": {"budget": None}}, "budget must be text, and is None"),
        ({"search": {"num_trials": "two"}}, "num_trials must be a whole number or none, and is 'two'"),
        ({"search": {"address": 3}}, "address must be text or none, and is 3"),
        ({"search": {"fixed": [1]}}, "fixed must be text, and is 1"),
        ({"settings": {"model": None}}, "model must be text, and is None"),
        ({"settings": {"data": None}}, "there is no setting 'data'"),
        ({"fitted": 3}, "its fitted settings or its fingerprint are of another type"),
        ({"fingerprint": 3}, "its fitted settings or its fingerprint are of another type"),
    ],
)
def test_a_run_of_another_version_is_refused_with_the_remedy(values, why, tmp_path):
    write_values(tmp_path, **values)
    with pytest.raises(RunFolderError) as raised:
        existing_run(str(tmp_path))
    told = str(raised.value)
    assert told.startswith(f"{tmp_path}/settings.json was written by another version (")
    assert why in told
    assert told.endswith("): start the search again under another --name")


def test_the_fingerprint_of_the_examples_is_kept(tmp_path):
    folder, saved = RunFolder(tmp_path / "mine"), replace(SAVED, fingerprint="abc")
    write_run(folder, saved)
    assert existing_run(str(folder.path)) == (folder, saved)
    write_run(folder, SAVED)
    assert "fingerprint" not in json.loads(folder.settings.read_text())


def test_what_an_older_version_did_not_ask_for_is_as_it_is_by_default(tmp_path):
    write_values(tmp_path, search={"num_trials": 2, "budget": "20m"})
    assert existing_run(str(tmp_path))[1] == SavedRun(
        settings=Settings(), search=Search(num_trials=2, budget="20m"), fitted=None
    )


@pytest.mark.parametrize(
    "content",
    [b'{"settings": {', b"\xff\xfe", b"", b"[]", b"{}", b"null", b'{"settings": {}, "search": 3}'],
)
def test_settings_that_cannot_be_read_are_said(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    told = rf"^{re.escape(str(path))} cannot be read \(.+\): start the search again under another --name$"
    with pytest.raises(RunFolderError, match=told):
        existing_run(str(tmp_path))


def test_the_versions_that_a_result_depends_on_are_known():
    found = versions()
    assert {"python", "torch", "transformers", "ray", "numpy"} <= found.keys()
    assert all(re.match(r"\d+\.\d+", version) for version in found.values())


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
