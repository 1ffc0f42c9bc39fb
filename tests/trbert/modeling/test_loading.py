"""What is said of a folder that holds no whole model."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trbert.disk.checksums import write_checksums
from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound
from trbert.modeling import load
from trbert.tasks import TASKS


def test_a_folder_that_does_not_exist_is_said(tmp_path):
    told = f"path must be a folder with a saved model, and is '{tmp_path / 'gone'}', which does not exist"
    with pytest.raises(ModelNotFound, match=f"^{re.escape(told)}$"):
        load(tmp_path / "gone")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_said(saved, name):
    (saved / name).unlink()
    told = f"{saved} must hold {name}, and does not: copy or save the model again"
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load(saved)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"[1]", b'"trbert"'])
def test_a_config_that_is_no_json_object_is_said(saved, content):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"config\.json is no JSON object \(.+\): copy it again$"):
        load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": {"model_type": "no-such-type"}},
        {"encoder": {"hidden_size": 32}},
        {"encoder": 3},
        {"points": [0, 9]},
        {"points": "all"},
        {"policy_width": "wide"},
        {"policy_features": "document"},
        {"max_tokens": "many"},
        {"fusion": "yes"},
        {"dial": "fast"},
        {"dial": float("nan")},
        {"id2label": 5},
        {"encoder": {"model_type": "bert", "hidden_size": "big"}},
        {"encoder": {"model_type": "bert", "num_attention_heads": 0}},
        {"encoder": {"model_type": "bert", "vocab_size": 9, "pad_token_id": 99}},
    ],
    ids=str,
)
def test_a_config_of_no_whole_model_is_said(saved, changes):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(DamagedCheckpoint, match=r"copy or save it again$"):
        load(saved)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_weights_are_said(saved, share):
    path = saved / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    told = rf"^{re.escape(str(saved))} does not hold a whole model \(.+\): copy or save it again$"
    with pytest.raises(DamagedCheckpoint, match=told):
        load(saved)


@pytest.mark.parametrize(
    "name",
    [
        "policy.heads.1.linear_2.weight",
        "plain.classifier.bias",
        "plain.bert.encoder.layer.3.output.dense.weight",
    ],
)
def test_a_missing_weight_is_said(saved, name):
    weights = load_file(saved / "model.safetensors")
    del weights[name]
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    told = f"{saved}/model.safetensors does not fit config.json: {name}: copy or save it again"
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load(saved)


def test_a_weight_of_no_use_is_said(saved):
    weights = load_file(saved / "model.safetensors")
    save_file(weights | {"policy.heads.2.bias": torch.zeros(1)}, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedCheckpoint, match=r"does not fit config\.json: policy\.heads\.2\.bias: copy"):
        load(saved)


def test_nothing_of_a_damaged_model_is_printed_as_it_stands(saved, capfd):
    weights = load_file(saved / "model.safetensors")
    weights["plain.bert.\x1b[31m"] = weights.pop("plain.bert.embeddings.LayerNorm.bias")
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedCheckpoint, match=r"does not fit config\.json") as told:
        load(saved)
    assert str(told.value).isprintable()
    said = "".join(capfd.readouterr())
    assert "\x1b" not in said
    assert "REPORT" not in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_said(saved, monkeypatch, name):
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)  # the mode of a file does not bind root
    with pytest.raises(DamagedCheckpoint, match=r"does not hold a whole model \(.*Permission denied"):
        load(saved)


def test_a_model_that_loads_and_cannot_run_is_said(saved):
    config = json.loads((saved / "config.json").read_text())
    write_config(saved, {"encoder": config["encoder"] | {"layer_norm_eps": "small"}})
    with pytest.raises(DamagedCheckpoint, match=r"does not hold a whole model \(.*eps.*\): copy or save it again"):
        load(saved)


def test_a_model_whose_outputs_are_no_numbers_is_said(saved):
    config = json.loads((saved / "config.json").read_text())
    write_config(saved, {"encoder": config["encoder"] | {"layer_norm_eps": -1000.0}})
    with pytest.raises(DamagedCheckpoint, match=r"does not hold a whole model \(its outputs are no finite numbers\)"):
        load(saved)


def write_config(folder, changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"points": [0.5]}, "points in {} must be a list of layer indices, and is the list [0.5]"),
        ({"points": "gone"}, "points in {} must be a list of layer indices, and is missing"),
        ({"max_tokens": 0}, "max_tokens in {} must be a whole number above 0, and is the int 0"),
        ({"fusion": 1}, "fusion in {} must be true or false, and is the int 1"),
        (
            {"encoder": "gone"},
            "encoder in {} must be an object whose model_type is one of albert, bert, camembert, deberta-v2, "
            "distilbert, electra, ernie, eurobert, modernbert, mpnet, nomic_bert, roberta, xlm-roberta, and is missing",
        ),
    ],
)
def test_what_is_wrong_in_a_config_is_named(saved, changes, told):
    write_config(saved, changes)
    told = f"{told.format(saved / 'config.json')}: correct it, or copy or save it again"
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load(saved)


def test_a_weight_of_a_wrong_shape_is_said(saved):
    weights = load_file(saved / "model.safetensors")
    weights["policy.heads.0.linear_1.weight"] = torch.zeros(9, 32)
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    told = f"{saved}/model.safetensors does not fit config.json: policy.heads.0.linear_1.weight: copy or save it again"
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load(saved)


def test_a_plain_model_is_told_from_a_reduced_one(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    told = (
        f"model_type in {tmp_path}/config.json must be 'trbert', and is 'bert': "
        "load a plain model with transformers, or reduce it with tune/search.py --model"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        load(tmp_path)


def without_task(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["task"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["task", "selector"])
def test_a_name_in_a_config_that_is_no_text_is_refused(saved, name):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, name: ["policy"]}))
    with pytest.raises(InputError, match=rf"^{name} must be one of .*, and is \"\['policy'\]\": "):
        load(saved)


def test_a_model_of_an_older_version_is_refused_with_a_remedy(saved):
    without_task(saved)
    told = (
        f"{saved}/config.json must name the model's task, and does not, because an older version of trbert saved it: "
        "search again with this version, or load the model with the older one"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        load(saved)


def test_a_task_that_does_not_exist_is_said(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"task": "clasification"}))
    with pytest.raises(InputError, match=f"^task must be one of {', '.join(TASKS)}, and is 'clasification': "):
        load(saved)


def test_a_policy_feature_that_does_not_exist_is_said(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"policy_features": ["document", "dial"]}))
    told = "(policy features must be among document, neighbours, question, and hold 'dial': leave it out)"
    with pytest.raises(DamagedCheckpoint, match=f"{re.escape(told)}: copy or save it again$"):
        load(saved)


def test_a_model_is_verified_when_asked_before_anything_is_made_of_it(saved):
    with pytest.raises(DamagedCheckpoint, match="must hold SHA256SUMS to be verified, and does not"):
        load(saved, verify=True)
    write_checksums(saved)
    assert load(saved, verify=True).config.to_dict() == load(saved).config.to_dict()
    weights = bytearray((saved / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # a changed weight, which the model loads with
    (saved / "model.safetensors").write_bytes(weights)
    load(saved)
    with pytest.raises(DamagedCheckpoint, match=r"changed: 'model\.safetensors'"):
        load(saved, verify=True)
