"""Files of weights that say of themselves what is not so."""

import json
import re
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from trbert.checkpoint import headers
from trbert.checkpoint.headers import shapes_of, shards_of
from trbert.errors import DamagedCheckpoint, InputError
from trbert.modeling import load
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS


def written(header, body=b"", length=None):
    """Returns a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def weight(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


HOSTILE = {
    "no byte": b"",
    "half a length": b"\x01\x02",
    "a length beyond the file": written({}, length=1000),
    "a length of 2**63": written({}, length=2**63),
    "a length of 2**64 - 1": written({}, length=2**64 - 1),
    "no JSON": written(b"nonsense"),
    "deep brackets": written(b"[" * 100_000),
    "deep objects": written(b'{"a":' * 100_000),
    "a list": written([1]),
    "no offsets": written({"a": {"dtype": "F32", "shape": [2]}}, b"0" * 8),
    "an unknown dtype": written(weight(dtype="Q9"), b"0" * 8),
    "a negative size": written(weight(shape=[-2]), b"0" * 8),
    "a shape that overflows": written(weight(shape=[2**40, 2**40]), b"0" * 8),
    "a shape of more than its bytes": written(weight(shape=[10**8, 32]), b"0" * 8),
    "an offset beyond the file": written(weight(data_offsets=[0, 8]), b"0" * 4),
    "offsets that fall": written(weight(data_offsets=[8, 0]), b"0" * 8),
    "a gap": written(weight(data_offsets=[8, 16]), b"0" * 16),
    "two weights on one place": written(weight() | {"b": weight()["a"]}, b"0" * 8),
    "bytes that are no weight": written(weight(), b"0" * 9),
    "a size of 2**63": written(weight(shape=[0, 2**63], data_offsets=[0, 0])),
    "a size of 2**62": written(weight(shape=[0, 2**62, 2], data_offsets=[0, 0])),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_file_is_refused_by_both_loaders(folder, reduced, name):
    (folder / "model.safetensors").write_bytes(HOSTILE[name])
    with pytest.raises(DamagedCheckpoint, match=r": copy or save it again$"):
        load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe"))
    (reduced / "model.safetensors").write_bytes(HOSTILE[name])
    with pytest.raises(DamagedCheckpoint, match=r": copy or save it again$"):
        load(reduced)


def test_a_length_beyond_the_file_is_told(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE["a length of 2**63"])
    told = (
        "the header of model.safetensors must lie within the file and have at most 25 MB, and it has "
        "9223372036854775808 bytes in a file of 10"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        shapes_of([path])


def test_a_header_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_file({f"weight {index}": torch.zeros(1) for index in range(100)}, path)
    assert len(shapes_of([path])) == 100
    monkeypatch.setattr(headers, "HEADER", 1000)
    with pytest.raises(ValueError, match="must lie within the file"):
        shapes_of([path])


def test_the_shapes_are_those_of_the_weights(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    torch.save(weights, folder / "pytorch_model.bin")
    torch.save(weights, folder / "old.bin", _use_new_zipfile_serialization=False)
    for file in (path, folder / "pytorch_model.bin", folder / "old.bin"):
        assert shapes_of([file]) == {name: tuple(value.shape) for name, value in weights.items()}


# Indices of shards.


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "a\\b", "..", "", "a\0b"])
def test_an_index_names_files_that_are_beside_it_alone(folder, reduced, tmp_path, name):
    index = json.dumps({"metadata": {}, "weight_map": {"a": name}})
    for place in (folder, reduced):
        (place / "model.safetensors").rename(tmp_path / "other.safetensors")
        (place / "model.safetensors.index.json").write_text(index)
    told = "must name files that are beside it, and names "
    with pytest.raises(DamagedCheckpoint, match=told):
        load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe"))
    with pytest.raises(DamagedCheckpoint, match=told):
        load(reduced)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": [1]}', '{"weight_map": {"a": 3}}'])
def test_an_index_without_files_is_refused(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match=r"^index\.json must name the file of each weight, and does not$"):
        shards_of(tmp_path / "index.json")


def test_a_link_in_a_folder_that_the_user_named_is_followed(folder, tmp_path):
    """The cache of the hub holds links to its files."""
    for path in list(folder.iterdir()):
        path.rename(tmp_path / f"blob of {path.name}")
        path.symlink_to(tmp_path / f"blob of {path.name}")
    assert load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe")).fine_tuned


# pytorch_model.bin.


@pytest.fixture
def pickled(folder):
    """A function: the weights of the model in the folder, changed, are in pytorch_model.bin alone."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()

    def pickled(**options):
        torch.save(weights | options.pop("changes", {}), folder / "pytorch_model.bin", **options)
        return folder / "pytorch_model.bin"

    return pickled


@pytest.mark.parametrize("zipped", [True, False])
def test_a_weight_of_more_numbers_than_the_file_is_refused(folder, pickled, zipped):
    name = "bert.embeddings.word_embeddings.weight"
    wide = torch.zeros(1).expand(10**8, 32)  # one number, which is every number of it
    pickled(changes={name: wide}, _use_new_zipfile_serialization=zipped)
    told = rf"'{name}' in pytorch_model\.bin has the shape \[100000000, 32\], which is more than the file"
    with pytest.raises(DamagedCheckpoint, match=told):
        load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe"))


def test_a_compressed_pytorch_model_bin_is_refused(folder, pickled):
    path = pickled()
    with zipfile.ZipFile(path) as archive:
        contents = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in contents.items():
            archive.writestr(each, content)
    with pytest.raises(DamagedCheckpoint, match=r"pytorch_model\.bin must not be compressed, and '.*' within it is"):
        load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe"))


def test_a_pytorch_model_bin_of_one_tensor_is_refused(folder, pickled):
    torch.save(torch.zeros(3), pickled())
    with pytest.raises((DamagedCheckpoint, InputError), match="must hold weights by their names, and holds a Tensor"):
        load_pretrained(str(folder), TASKS["classification"], ("no", "yes", "maybe"))
