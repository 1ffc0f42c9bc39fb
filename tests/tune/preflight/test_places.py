"""Places to write to and files to read: what is found out about them, and that nothing is left behind."""

import os
from pathlib import Path

import pytest

from tune.preflight.places import files_of, resolved, why_not_readable
from tune.runs.places import below
from tune.settings import Search, Settings, override


def test_what_can_be_read_again_and_again_is_a_file_or_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    assert [why_not_readable(tmp_path / name) for name in ("file", ".", "none", "file/below")] == [None] * 4
    assert why_not_readable(tmp_path / "link") == "is a symbolic link to gone, which does not exist"
    assert why_not_readable(tmp_path / "pipe") == "is a pipe, which can be read only once"
    assert why_not_readable(Path("/dev/null")) == "is a device or a socket, which can be read only once"
    assert why_not_readable(tmp_path / ("a=b," * 100)) is None  # the text of a label map


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with a model, files, and files that have the names of something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("enc", "minilm", "pages"):
        (tmp_path / name).mkdir()
    for name in ("a.csv", "b,c.csv", "map.json", "times.json", "own.py"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "typed", "expected"),
    [
        ("model", "enc", "{here}/enc"),
        ("model", "~/enc", "{here}/enc"),
        ("model", "minilm", "minilm"),
        ("model", "some/hub-name", "some/hub-name"),
        ("data.source", "a.csv", "{here}/a.csv"),
        ("data.source", "b,c.csv", "{here}/b,c.csv"),
        ("data.source", "pages", "pages"),
        ("data.source", "./pages", "{here}/pages"),
        ("data.source", "imdb", "imdb"),
        ("data.source", "train=a.csv,test= ~/b,c.csv", "train={here}/a.csv,test={here}/b,c.csv"),
        ("data.source", "train=a.csv,test=gone.csv", "train={here}/a.csv,test=gone.csv"),
        ("data.label_map", "map.json", "{here}/map.json"),
        ("family", "own.py:FAMILY", "{here}/own.py:FAMILY"),
        ("family", "some.module:FAMILY", "some.module:FAMILY"),
        ("data.label_map", "old=new,a=b", "old=new,a=b"),
    ],
)
def test_what_lies_on_this_machine_gets_its_absolute_path(here, name, typed, expected):
    settings, _ = resolved(override(Settings(), {name: typed}), Search())
    assert settings == override(Settings(), {name: expected.format(here=here)})
    assert resolved(settings, Search())[0] == settings


def test_a_latency_table_and_a_storage_get_theirs_too_and_a_uri_stays(here):
    asked = override(Settings(), {"select.price": "latency", "select.latency_table": "times.json"})
    settings, search = resolved(asked, Search(storage="states"))
    assert settings.select.latency_table == f"{here}/times.json"
    assert search.storage == f"{here}/states"
    assert resolved(asked, Search(storage="~/states"))[1].storage == f"{here}/states"
    assert resolved(asked, Search(storage="s3://bucket/runs"))[1].storage == "s3://bucket/runs"
    assert resolved(asked, Search())[1].storage is None


def test_the_files_that_are_read_are_known_by_the_setting_that_names_them(here):
    named = {"data.source": "train=a.csv,test=b,c.csv", "data.unlabelled": ("d.txt",), "data.label_map": "a=b"}
    assert files_of(override(Settings(), named)) == {
        "model": [],
        "data.source": ["a.csv", "b,c.csv"],
        "data.unlabelled": ["d.txt"],
        "data.label_map": ["a=b"],
    }


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/a b#?c", "/a b#?c/name"),
        ("s3://bucket/runs/", "s3://bucket/runs/name"),
        ("s3://bucket/runs?region=eu", "s3://bucket/runs/name?region=eu"),
    ],
)
def test_a_name_below_a_place_comes_before_the_options_of_a_uri(place, expected):
    assert below(place, "name") == expected
