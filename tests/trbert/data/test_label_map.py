"""New names for labels: as words, as a file, and what is refused."""

import json
import os

import pytest

from trbert.data.label_map import read_label_map
from trbert.errors import InputError

REMEDY = 'write --label-map \'old=new,old=new\', or a JSON file such as {"old": "new"} for names with , or ='


def refused(text):
    with pytest.raises(InputError) as caught:
        read_label_map(str(text))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "renames"),
    [
        ("a=b", {"a": "b"}),
        ("a=b,c=b", {"a": "b", "c": "b"}),
        ("pos =pos, neg= neg", {"pos ": "pos", " neg": "neg"}),
        ("very bad=bad,0=bad", {"very bad": "bad", "0": "bad"}),
        ("a=b,a=b", {"a": "b"}),
    ],
)
def test_pairs_are_old_and_new_names(text, renames):
    assert read_label_map(text) == renames


def test_a_file_holds_names_that_words_cannot(tmp_path):
    renames = {"a,b": "c=d", "caf\u00e9": "x"}
    (tmp_path / "map.json").write_text("\ufeff" + json.dumps(renames), encoding="utf-8")
    assert read_label_map(str(tmp_path / "map.json")) == renames
    (tmp_path / "map").write_text(json.dumps(renames))
    assert read_label_map(str(tmp_path / "map")) == renames


@pytest.mark.parametrize(("text", "part"), [("a", "a"), ("", ""), ("a=b,", ""), ("a=b,c", "c"), ("a=b=c", "a=b=c")])
def test_words_that_are_no_pairs_are_refused(text, part):
    assert refused(text) == f"--label-map must give a new name to each label, and has {part!r}: {REMEDY}"


@pytest.mark.parametrize(("text", "old", "new"), [("a=", "a", ""), ("a= ", "a", " "), ("=b", "", "b")])
def test_a_blank_name_is_refused(text, old, new):
    told = f"--label-map must give a new name to each label, and gives {new!r} to {old!r}: {REMEDY}"
    assert refused(text) == told


def test_two_new_names_for_a_label_are_refused(tmp_path):
    told = "--label-map must give one new name to each label, and gives 'b' and 'c' to 'a': remove one of them"
    assert refused("a=b,a=c") == told
    (tmp_path / "map.json").write_text('{"a": "b", "a": "c"}')
    assert refused(tmp_path / "map.json") == told


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    path = tmp_path / "map.json"
    told = f"--label-map file '{path}' must be "
    assert refused(path) == f"{told}a file that can be read, and is not (No such file or directory): {REMEDY}"
    (tmp_path / "folder.json").mkdir()
    assert "must be a file that can be read, and is not (Is a directory): " in refused(tmp_path / "folder.json")
    path.write_text("{a: 1}")
    assert refused(path).startswith(f"{told}JSON, and is not (")
    path.write_bytes(b"\xff\xfe\x00")
    assert refused(path).startswith(f"{told}JSON, and is not (")


@pytest.mark.parametrize("content", ['["a"]', "3", '"a=b"', "null"])
def test_a_file_of_no_object_is_refused(tmp_path, content):
    (tmp_path / "map.json").write_text(content)
    assert " must hold an object of strings, and holds " in refused(tmp_path / "map.json")


@pytest.mark.parametrize("new", ["1", "null", '{"x": "y"}', '""'])
def test_a_new_name_in_a_file_is_a_string(tmp_path, new):
    (tmp_path / "map.json").write_text(f'{{"a": {new}}}')
    assert refused(tmp_path / "map.json").startswith("--label-map must give a new name to each label, and gives ")


def test_an_empty_object_is_refused(tmp_path):
    (tmp_path / "map.json").write_text("{}")
    assert refused(tmp_path / "map.json").startswith("--label-map must give a new name to a label, and ")


def test_a_file_that_never_ends_or_is_nested_too_deeply_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    assert "must be a file that can be read, and is not (it is a pipe or a device): " in refused(tmp_path / "pipe.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert "must be JSON, and is not (its brackets are nested too deeply): " in refused(tmp_path / "deep.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(10**12)  # it takes no room on the disk
    assert "must be JSON, and is not (it has more than 100 MB): " in refused(tmp_path / "huge.json")


def test_a_text_longer_than_any_path_is_no_file():
    assert refused("a" * 5000).startswith("--label-map must give a new name to each label, and has 'aaa")


@pytest.mark.parametrize("text", ["~nobody-here/x", "a" * 300])
def test_what_can_be_no_path_is_no_map(text):
    with pytest.raises(InputError, match="--label-map must give a new name to each label"):
        read_label_map(text)
