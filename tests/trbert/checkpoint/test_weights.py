"""Weights that are not safetensors, or not weights."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trbert.checkpoint.place import Place
from trbert.checkpoint.weights import read_state
from trbert.errors import DamagedCheckpoint, InputError, UnsupportedModel
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")


@pytest.fixture
def weights(folder):
    """The weights of the model in the folder, which are no longer there."""
    path = folder / "model.safetensors"
    found = load_file(path)
    path.unlink()
    return found


def load(folder):
    return load_pretrained(str(folder), TASK, LABELS)


def check(found, weights):
    for name, value in weights.items():
        assert torch.equal(found.model.state_dict()[name], value)
    assert sum("of which tensors alone are read and no code is run" in note for note in found.notes) == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_model_bin_alone_is_read(folder, weights, zipped):
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    check(load(folder), weights)


def test_a_sharded_pytorch_model_bin_is_read(folder, weights):
    names = list(weights)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in parts.items():
        torch.save({name: weights[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    check(load(folder), weights)


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_pytorch_model_bin_is_not_run(folder, weights, tmp_path):
    torch.save({"evil": Evil(tmp_path / "it ran")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"^pytorch_model\.bin of model .* must hold tensors alone, and holds other"):
        load(folder)
    with pytest.raises(InputError, match=r"^pytorch_model\.bin of model .* must hold tensors alone, and holds other"):
        read_state(Place("mine", str(folder), local=True), "pytorch_model.bin")
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_pytorch_model_bin_that_is_none_is_told(folder, weights, content):
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"must be a file that torch\.save wrote, and is not: copy it again$"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_told(folder, weights, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(DamagedCheckpoint, match="is a pointer of Git LFS: run `git lfs pull`"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("model.safetensors", os.mkdir),
        ("model.safetensors", os.mkfifo),
        ("model.safetensors", lambda path: path.symlink_to("gone")),
        ("tokenizer.json", os.mkdir),
        ("tokenizer.json", os.mkfifo),
    ],
)
def test_what_is_no_file_is_told(folder, weights, name, make):
    path = folder / name
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(DamagedCheckpoint, match=f"{name} must be a file, or a symbolic link to one, and is not"):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_told(folder, monkeypatch, name):
    (folder / name).touch()
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)  # the mode of a file does not bind root
    with pytest.raises(DamagedCheckpoint, match=r"is not whole \(.*Permission denied"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "library"), [("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax"), ("model.onnx", "ONNX")]
)
def test_weights_of_another_library_are_told(folder, weights, name, library):
    (folder / name).touch()
    with pytest.raises(UnsupportedModel, match=f"must hold weights of PyTorch .* holds those of {library} alone"):
        load(folder)


def test_an_adapter_is_told(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match=r"is an adapter .*merge_and_unload"):
        load(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_told(folder):
    with pytest.raises(InputError, match=r"--model must be a folder or a name on the hub, and is the file"):
        load(folder / "model.safetensors")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_told(folder, weights, wrong):
    weights["classifier.weight"][1, 2:4] = wrong
    torch.save(weights, folder / "pytorch_model.bin")
    told = "must be finite numbers, and 2 of the 96 in 'classifier.weight' are nan or inf"
    with pytest.raises(DamagedCheckpoint, match=told):
        load(folder)


def test_weights_under_other_names_are_told_with_one_of_them(folder, weights):
    torch.save({f"module.{name}": value for name, value in weights.items()}, folder / "pytorch_model.bin")
    with pytest.raises(DamagedCheckpoint, match=r"must hold the weight 'bert\..*', and does not, but 'module\.bert"):
        load(folder)
