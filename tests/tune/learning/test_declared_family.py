"""A model of a family that the user declares goes through all stages, and reaches other processes."""

import io
import pickle

import pytest
import torch

import trbert
from tests.trbert.packed.lvbert import FAMILY, small_model
from trbert.errors import DamagedCheckpoint, InputError
from trbert.packed import declared
from trbert.packed.families import FAMILIES
from tune.learning.inputs import read_inputs
from tune.learning.model import Model, measure_along_dial, save_deployable
from tune.learning.prepare import prepare
from tune.settings import override

PLACE = "tests.trbert.packed.lvbert:FAMILY"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test registers is unknown after it."""
    monkeypatch.setattr(declared, "_DECLARED", {})
    yield
    FAMILIES.pop(FAMILY.model_type, None)


@pytest.fixture
def own_settings(settings, tiny_model, tmp_path, cache):
    """Settings for a tiny model of four layers, one of them a convolution, and its family."""
    small_model().save_pretrained(tmp_path / "own")
    for path in tiny_model.glob("*token*"):
        (tmp_path / "own" / path.name).write_bytes(path.read_bytes())
    changes = {
        "model": str(tmp_path / "own"),
        "family": PLACE,
        "new_head": True,
        "data.train_rows": 32,
        "data.validation_rows": 16,
        "data.test_rows": 16,
        "select.points": (1, 2),
        "select.documents": 16,
        "select.samples": 2,
        "select.warm_start_documents": 16,
        "joint.documents": 16,
    }
    return override(settings, changes)


class Noted(pickle.Unpickler):
    """Notes the names of what is imported, in their order."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))
        self.names = []

    def find_class(self, module, name):
        self.names.append(name)
        return super().find_class(module, name)


@pytest.mark.slow
def test_a_model_is_prepared_trained_measured_saved_and_loaded(own_settings, tmp_path):
    prepared = prepare(own_settings, None, lambda line: None)
    model = Model(prepared, own_settings)
    train = prepared.train.take(torch.arange(16))
    model.select(train, model.sampler(train), lambda step: None)
    model.join(train, lambda step: None)
    model.reducer.encoder.plain.eval()
    along = measure_along_dial(model, prepared.validation, lambda share: None)
    assert along[0][1].speed_up > 1
    save_deployable(model, prepared.tokenizer, tmp_path / "saved")
    inputs = prepared.tokenizer(["w1 alpha w2", "beta"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.deployable()(**inputs).logits
        assert torch.equal(trbert.load(tmp_path / "saved")(**inputs).logits, expected)
    FAMILIES.pop(FAMILY.model_type)
    with pytest.raises(DamagedCheckpoint, match=r"call trbert\.register_family\(FAMILY\) first"):
        trbert.load(tmp_path / "saved")


def test_another_process_registers_the_family_before_it_reads_the_config(own_settings):
    content = pickle.dumps(prepare(own_settings, None, lambda line: None, train=lambda *inputs, key: None))
    FAMILIES.pop(FAMILY.model_type)
    declared._DECLARED.clear()
    reader = Noted(content)
    again = reader.load()
    assert reader.names.index("declare") < reader.names.index("LvBertConfig")
    assert FAMILIES[again.config.model_type].layers == "blocks"
    Model(again, own_settings)


def test_a_family_for_another_model_type_is_refused(own_settings, tiny_model):
    told = (
        f"^--family must describe the model that --model names, and {PLACE} is for model_type 'lvbert-toy', while that "
        "model has 'bert': leave it out, or name another family or model$"
    )
    with pytest.raises(InputError, match=told):
        read_inputs(override(own_settings, {"model": str(tiny_model)}), lambda line: None)


def test_without_the_option_the_model_is_refused(own_settings):
    with pytest.raises(trbert.UnsupportedModel, match="name your description with --family"):
        read_inputs(override(own_settings, {"family": None}), lambda line: None)
