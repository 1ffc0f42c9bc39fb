"""Nothing is fetched, asked or run where the user named a folder."""

import ast
import json
import urllib.error
from email.message import Message
from pathlib import Path

import pytest

from trbert.checkpoint import place as places
from trbert.checkpoint.place import find_model
from trbert.errors import DamagedCheckpoint, ModelNotFound, UnsupportedModel
from trbert.modeling import load
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS

ROOT = Path(__file__).parents[3]
TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")

NEEDED = {
    "from_pretrained": {"trust_remote_code", "local_files_only"},
    "from_config": {"trust_remote_code"},
    "cached_file": {"local_files_only"},
    "get_config_dict": {"trust_remote_code", "local_files_only"},
    "hf_hub_download": {"local_files_only"},
    "snapshot_download": {"local_files_only"},
}
"""The functions by which transformers and the hub load something, and what each call must say."""


def calls(tree):
    """Yields (line, name of the function, names of the arguments, whether remote code may be run) for every call."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function, arguments = node.func, node.keywords
        if isinstance(function, ast.Name) and function.id == "partial":
            function = node.args[0]
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        trusts = [
            each
            for each in arguments
            if each.arg == "trust_remote_code" and getattr(each.value, "value", None) is not False
        ]
        yield node.lineno, name, {each.arg for each in arguments}, bool(trusts)


def test_every_call_that_loads_something_trusts_no_code_and_says_whether_it_may_ask_the_hub():
    wrong, seen = [], set()
    for folder in ("trbert", "tune", "envs", "benchmarks", "examples", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, name, given, trusts in calls(ast.parse(path.read_text())):
                if name in NEEDED and (trusts or not NEEDED[name] <= given):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} {name}")
                seen.add(name)
    assert not wrong
    assert {"from_pretrained", "from_config", "cached_file"} <= seen


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("AutoModel.from_pretrained(x, local_files_only=True)", True),
        ("AutoModel.from_pretrained(x, local_files_only=True, trust_remote_code=True)", True),
        ("AutoModel.from_pretrained(x, trust_remote_code=False)", True),
        ("partial(a.from_config, trust_remote_code=False)", False),
        ("a.b.from_config(c)", True),
    ],
)
def test_such_a_call_is_found(code, wrong):
    _, name, given, trusts = next(calls(ast.parse(code)))
    assert (trusts or not NEEDED[name] <= given) == wrong


def test_a_folder_is_loaded_without_the_network(folder, reduced, offline):
    assert load_pretrained(str(folder), TASK, LABELS).fine_tuned
    load(reduced)


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_lacks_in_a_folder_is_not_asked_for_elsewhere(folder, offline, lacking):
    (folder / lacking).unlink()
    with pytest.raises(DamagedCheckpoint):
        load_pretrained(str(folder), TASK, LABELS)


def test_an_adapter_within_a_folder_of_sentence_transformers_is_refused(folder, tmp_path):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    (tmp_path / "modules.json").write_text(json.dumps([{"path": folder.name}]))
    with pytest.raises(UnsupportedModel, match=r"is an adapter .*merge_and_unload"):
        find_model(str(tmp_path))


def test_a_reduced_model_with_an_adapter_is_refused(reduced, offline):
    (reduced / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    with pytest.raises(UnsupportedModel, match=r"is an adapter .*merge_and_unload"):
        load(reduced)


def test_parts_of_several_machines_are_refused(folder, reduced):
    for place in (folder, reduced):
        (place / "shard-00001-model-00001-of-00001.safetensors").touch()
    told = "must hold its weights in model.safetensors, and has parts of several machines, such as shard-00001-model"
    with pytest.raises(UnsupportedModel, match=told):
        load_pretrained(str(folder), TASK, LABELS)
    with pytest.raises(UnsupportedModel, match=told):
        load(reduced)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a/" * 3000])
def test_a_name_that_no_folder_can_have_is_said(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match="is no folder here and could not be fetched"):
        load_pretrained(name, TASK, LABELS)


@pytest.fixture
def hub(monkeypatch):
    """A function: what happens when the hub is asked -> the list to which each time is added."""
    monkeypatch.setattr(places, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    places.hub_answers.cache_clear()
    asked = []

    def hub(error):
        def urlopen(request, timeout):
            asked.append(request.full_url)
            raise error

        monkeypatch.setattr("urllib.request.urlopen", urlopen)
        return asked

    yield hub
    places.hub_answers.cache_clear()


def test_a_hub_that_cannot_be_reached_is_tried_once_and_quietly(hub, capsys):
    asked = hub(urllib.error.URLError(OSError(-2, "Name or service not known")))
    told = "no folder here and could not be fetched from the hub .https://huggingface.co does not answer.: pass --model"
    with pytest.raises(ModelNotFound, match=told):
        load_pretrained("nobody/nothing", TASK, LABELS)
    assert asked == ["https://huggingface.co"]
    assert capsys.readouterr() == ("", "")


def test_a_hub_that_refuses_is_one_that_answers(hub):
    hub(urllib.error.HTTPError("https://huggingface.co", 403, "Forbidden", Message(), None))
    assert places.hub_answers()


@pytest.mark.parametrize("content", ["[]", "{}", "[3]", '[{"path": 3}]', '[{"path": "../.."}]', '[{"path": "/"}]'])
def test_an_index_of_modules_that_names_no_folder_within_is_as_none(folder, content):
    (folder / "modules.json").write_text(content)
    assert find_model(str(folder))[0].source == str(folder)


@pytest.mark.parametrize("path", ["a" * 300, "a\\u0000b"])
def test_an_index_of_modules_that_names_no_folder_at_all_is_said(folder, path):
    (folder / "modules.json").write_text(f'[{{"path": "{path}"}}]')
    with pytest.raises(DamagedCheckpoint, match=r"must hold config\.json, and does not"):
        find_model(str(folder))
