"""JSON that somebody else wrote, within limits."""

import pytest

from trbert.checkpoint import json_text
from trbert.checkpoint.json_text import DEPTH, BrokenLimit, read_json, read_object
from trbert.errors import DamagedCheckpoint
from trbert.modeling import load
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS

DEEP = "[" * 100_000 + "]" * 100_000
BROKEN = {
    "NaN": ('{"a": NaN}', "must hold finite numbers, and holds NaN"),
    "Infinity": ('{"a": [-Infinity]}', "must hold finite numbers, and holds -Infinity"),
    "a number beyond floats": ('{"a": 1e999}', "must hold finite numbers, and holds 1e999"),
    "a long number": ('{"a": ' + "9" * 5000 + "}", "must hold numbers of at most 40 digits, and holds one of 5000"),
    "an entry twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "must hold each entry once, and holds 'c' twice"),
    "deep brackets": ('{"a": ' + DEEP + "}", "must have at most 50 levels of brackets within brackets, and has more"),
    "many levels": ('{"a": ' * 51 + "1" + "}" * 51, "must have at most 50 levels of brackets within brackets"),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.json"


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_breaks_a_limit_is_refused_by_its_name(path, name):
    content, told = BROKEN[name]
    path.write_text(content)
    with pytest.raises(BrokenLimit, match=rf"^some\.json {told}"):
        read_json(path)


def test_a_file_that_is_too_large_is_refused_and_not_read_whole(path, monkeypatch):
    monkeypatch.setattr(json_text, "SIZE", 1_000_000)
    path.write_text(" " * 1_000_000 + "{}")
    with pytest.raises(BrokenLimit, match=r"^some\.json must have at most 1 MB, and has more$"):
        read_json(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]", b"3", b"null"])
def test_what_is_no_object_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^some\.json is no JSON object \("):
        read_object(path)


def test_what_is_within_the_limits_is_read(path):
    path.write_text("[" * DEPTH + "-1.5e3" + "]" * DEPTH)
    found = read_json(path)
    for _ in range(DEPTH):
        (found,) = found
    assert found == -1500.0
    path.write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert read_object(path) == {"model_max_length": 1000000000000000019884624838656}


@pytest.mark.parametrize("name", list(BROKEN))
@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
)
def test_a_plain_model_with_such_a_file_is_refused(folder, file, name):
    content, told = BROKEN[name]
    (folder / file).write_text(content)
    with pytest.raises(DamagedCheckpoint, match=rf"is not whole \({file} {told}.*\): copy or save it again$"):
        load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe"))


@pytest.mark.parametrize("content", [DEEP, '{"a":' * 100_000, "{", '{"model": ' + DEEP + "}"])
def test_a_deep_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(DamagedCheckpoint, match=r"is not whole \(.+\): copy or save it again$"):
        load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe"))


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_reduced_model_with_such_a_config_is_refused(reduced, name):
    content, told = BROKEN[name]
    (reduced / "config.json").write_text(content)
    with pytest.raises(DamagedCheckpoint, match=rf"/config\.json {told}.*: correct it, or copy or save it again$"):
        load(reduced)


def test_a_deep_index_of_modules_is_as_none(folder):
    (folder / "modules.json").write_text(DEEP)
    assert load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe")).fine_tuned
