"""What was asked for is there when a run is continued, and a record that somebody else wrote does no harm."""

import json
import os
import re
from dataclasses import asdict, replace

import pytest

from trbert.disk.files import write_json
from trbert.errors import RunFolderError
from tune.budget import Plan
from tune.runs.folder import RunFolder
from tune.runs.record import LARGEST, SavedRun, existing_run, new_id, write_run
from tune.runs.versions import versions
from tune.settings import Search, Settings, override

SAVED = SavedRun(id="mine-1", settings=override(Settings(), {"seed": 3}), search=Search(budget="20m"))


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


PLAN = Plan(seconds=600.0, concurrent=1, trials=2, trial_seconds=12.5, threads=2)


@pytest.mark.parametrize("fitted", [None, override(Settings(), {"select.documents": 77})])
@pytest.mark.parametrize("search", [EVERYTHING, Search()])
def test_a_run_that_was_saved_is_the_same_run(search, fitted, tmp_path):
    settings = override(Settings(), {"select.points": (0, 2), "select.keep_ratios": (0.1, 0.0), "model": "ünï"})
    times = {"documents": {"train": 7, "test": 5}, "plan": PLAN, "spent": 40.25} if fitted else {}
    saved = SavedRun(id="mine-1", settings=settings, search=search, fitted=fitted, **times)
    folder = RunFolder(tmp_path / "mine")
    write_run(folder, saved)
    assert existing_run(str(folder.path)) == (folder, saved)
    values = json.loads(folder.settings.read_text())
    assert values["versions"] == versions()
    assert ("fitted" in values) == (fitted is not None)


def write_values(folder, **values):
    write_json(
        folder / "settings.json", {"id": "mine-1", "settings": {}, "search": {}, "versions": versions()} | values
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"settings": {"select": {"dial_range": 2.0}}}, "there is no setting 'select.dial_range'"),
        ({"fitted": {"select": {"dial_range": 2.0}}}, "there is no setting 'select.dial_range'"),
        ({"documents": {"train": 1.5}}, "its documents are no whole numbers"),
        ({"spent": "long"}, "its seconds are no number with a decimal point"),
        (
            {"plan": asdict(PLAN) | {"trial_seconds": "long"}},
            "its plan's trial_seconds must be like 1.0, and is the str",
        ),
        ({"plan": asdict(PLAN) | {"trials": 0}}, "its plan's trials must be like 1, and is the int 0"),
        ({"plan": [1]}, "its plan is no JSON object"),
        ({"plan": asdict(PLAN) | {"rooms": 3}}, "unexpected keyword argument 'rooms'"),
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
        ({"id": 3}, "its id must be a name without '/', and is the int 3"),
        ({"id": "../../x"}, "its id must be a name without '/', and is the str '../../x'"),
        ({"id": "a?b"}, "its id must be a name without '/', and is the str 'a?b'"),
        ({"versions": versions() | {"torch": 3}}, "its versions are no texts"),
        ({"settings": {"model": "m" * 1000, "select": {"samples": "x" * 1000}}}, "xxx..."),
    ],
)
def test_a_run_of_another_version_is_refused_with_the_remedy(values, why, tmp_path):
    write_values(tmp_path, **values)
    with pytest.raises(RunFolderError) as raised:
        existing_run(str(tmp_path))
    told = str(raised.value)
    assert told.startswith(f"{tmp_path}/settings.json holds what this version of trbert does not write (")
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
        id="mine-1", settings=Settings(), search=Search(num_trials=2, budget="20m"), fitted=None
    )


@pytest.mark.parametrize(
    "content",
    [
        *(b'{"settings": {', b"\xff\xfe", b"", b"[]", b"{}", b"null", b'{"settings": {}, "search": 3}'),
        *(b"[" * 100_000, b'{"settings": {}, "search": {}}', b'{"a": "' + b"x" * LARGEST + b'"}', b"9" * 10_000),
    ],
)
def test_settings_that_cannot_be_read_are_said(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    told = (
        rf"^{re.escape(str(path))} must hold the settings of a run, and does not \(.{{1,200}}\), and without it "
        "the run cannot be continued: copy it back, or start the search again under another --name; its finished "
        "models can still be looked at and picked$"
    )
    with pytest.raises(RunFolderError, match=told):
        existing_run(str(tmp_path))


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize("setting", ["model", "data.source", "data.label_map"])
def test_a_text_that_can_be_no_file_is_refused(tmp_path, setting, text):
    folder = RunFolder(tmp_path / "mine")
    write_run(folder, replace(SAVED, settings=override(Settings(), {setting: text})))
    with pytest.raises(RunFolderError, match=r"settings\.json must hold the settings of a run, and does not"):
        existing_run(str(folder.path))


def test_a_file_name_that_is_no_utf8_is_kept(tmp_path):
    folder = RunFolder(tmp_path / "mine")
    saved = replace(SAVED, settings=override(Settings(), {"data.source": os.fsdecode(b"caf\xe9.csv")}))
    write_run(folder, saved)
    assert existing_run(str(folder.path)) == (folder, saved)


def test_two_runs_of_one_name_have_two_ids():
    assert new_id("mine") != new_id("mine")
    assert new_id("mine").startswith("mine-")


def test_a_run_of_another_version_of_trbert_is_not_continued(tmp_path):
    write_run(RunFolder(tmp_path), replace(SAVED, made_by=versions() | {"trbert": "9.9"}))
    told = (
        f"a run must be continued with the trbert that it was started with, and {tmp_path} was started with '9.9' "
        f"while this is {versions()['trbert']!r}: install that one, or start the search again under another --name"
    )
    with pytest.raises(RunFolderError, match=f"^{re.escape(told)}$"):
        existing_run(str(tmp_path))


def test_settings_are_not_read_through_a_link(tmp_path):
    other, folder = RunFolder(tmp_path / "other"), RunFolder(tmp_path / "mine")
    write_run(other, SAVED)
    folder.path.mkdir()
    folder.settings.symlink_to(other.settings)
    with pytest.raises(RunFolderError, match="must be the folder of a run, with a settings"):
        existing_run(str(folder.path))


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to another user, which root alone may")
@pytest.mark.parametrize("name", ["", "settings.json", "trials", "study.log"])
def test_a_run_of_another_user_is_continued_only_where_that_user_is_trusted(name, tmp_path):
    folder = RunFolder(tmp_path / "mine")
    write_run(folder, SAVED)
    folder.trials.mkdir()
    folder.study.write_text("")
    os.chown(folder.path / name, 12345, -1)
    told = (
        "a run that is continued must belong to you, because Ray's files in it can run any code, and "
        f"{folder.path / name} belongs to user 12345: pass --trust if you trust that user, or start another search"
    )
    with pytest.raises(RunFolderError, match=f"^{re.escape(told)}$"):
        existing_run(str(folder.path))
    assert existing_run(str(folder.path), trusted=True)[1] == SAVED


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to another user, which root alone may")
@pytest.mark.parametrize("name", ["states", "states/mine-1-trials"])
def test_trials_in_a_storage_of_another_user_are_continued_only_where_that_user_is_trusted(name, tmp_path):
    folder, storage = RunFolder(tmp_path / "mine"), tmp_path / "states"
    saved = replace(SAVED, id="mine-1", search=replace(SAVED.search, storage=str(storage)))
    write_run(folder, saved)
    (storage / "mine-1-trials").mkdir(parents=True)
    assert existing_run(str(folder.path))[1] == saved
    os.chown(tmp_path / name, 12345, -1)
    with pytest.raises(RunFolderError, match=rf" and {tmp_path / name} belongs to user 12345: pass --trust if you "):
        existing_run(str(folder.path))
    assert existing_run(str(folder.path), trusted=True)[1] == saved
