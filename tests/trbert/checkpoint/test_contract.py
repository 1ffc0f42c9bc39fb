"""A family that a user declared is tried on its model before anything long starts."""

import json
import re
from dataclasses import replace

import pytest
import torch
import transformers

from tests.trbert.packed.lvbert import FAMILY, ConvLayer, small_model
from trbert import register_family
from trbert.checkpoint import contract
from trbert.checkpoint.contract import check_declared
from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint, UnsupportedModel
from trbert.modeling import assemble, load
from trbert.packed.families import FAMILIES, Family
from trbert.pretrained import load_pretrained
from trbert.rehearsal import rehearse
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(FAMILIES, FAMILY.model_type, FAMILY)


@pytest.fixture
def own_folder(tokenizer, tmp_path):
    """The folder of a model that trbert does not describe itself, with a tokenizer."""
    small_model().save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    return tmp_path / "own"


def refusal(changes, model=None):
    """Returns the message for a family with these changes."""
    register_family(replace(FAMILY, **changes))
    with pytest.raises(UnsupportedModel) as told:
        check_declared(model or small_model(), "documents", "toy")
    begin = "the family registered for 'lvbert-toy' must describe model toy, and "
    assert str(told.value).startswith(begin)
    return str(told.value).removeprefix(begin)


def test_a_declaration_that_fits_passes_and_changes_nothing():
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_declared(model, "documents", "toy")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_family_of_transformers_passes_where_all_layers_are_run_by_document():
    config = transformers.ConvBertConfig(
        vocab_size=60, hidden_size=32, embedding_size=16, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40, num_labels=3,
    )  # fmt: skip
    family = Family(
        model_type="convbert", layers="encoder.layer", projection="embeddings_project", by_document=("ConvBertLayer",)
    )
    register_family(family)
    try:
        for auto, reads in (("SequenceClassification", "documents"), ("TokenClassification", "tokens")):
            model = getattr(transformers, f"AutoModelFor{auto}").from_config(config).eval()
            check_declared(model, reads, "toy")
    finally:
        del FAMILIES["convbert"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"layers": "encoder.layer"},
            "its layers must be at 'encoder.layer', and LvBertModel has no 'encoder' (it has embeddings, blocks, "
            "pooler): write the attribute path that begins in LvBertModel",
        ),
        (
            {"by_document": ("Convolution",)},
            "by_document names 'Convolution', of which it has no layer: its layers are of the classes BertLayer, "
            "ConvLayer",
        ),
        (
            {"layers": lambda base: list(base.blocks)[:2]},
            "layers are 2 where num_hidden_layers is 4: list them in the order they run in",
        ),
        (
            {"layers": lambda base: list(base.blocks)[::-1]},
            "it runs other layers, or in another order, than the family lists: list its layers in the order they run "
            "in; nothing may be computed between two of them",
        ),
    ],
    ids=["path", "by_document", "number", "order"],
)
def test_a_part_that_is_elsewhere_is_named(changes, told):
    assert refusal(changes) == told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"by_document": ()}, r"its layer 1 \(ConvLayer\) cannot run \(TypeError: .*'segments'\): .*by_document"),
        ({"embeddings": "pooler"}, r"its embeddings cannot run \(TypeError: .*'position_ids'\): correct embeddings, "),
        (
            {"embeds_positions": False},
            r"its embeddings cannot run \(RuntimeError: .*: correct embeddings, .*embeds_positions",
        ),
        ({"embeds_segments": False}, r"its embeddings gives other numbers than the plain model"),
        ({"first_position_after_padding": True}, r"its embeddings gives other numbers than the plain model"),
        ({"projection": "pooler"}, r"its embeddings (gives the shape|cannot run \(TypeCheckError)"),
        ({"rotary": "pooler"}, r"its rotary cannot run \(TypeError: .*: correct rotary and rotary_by_layer_type"),
        ({"final_norm": "embeddings.LayerNorm"}, r"its final_norm gives other numbers than .*: correct final_norm, "),
        ({"pooler": None}, r"its pooler gives the shape \[0\] where the plain model has \[1, 32\]: .*pooler"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_part_that_differs_from_the_plain_model_is_named(changes, told):
    model = small_model()
    torch.nn.init.normal_(model.lvbert.embeddings.LayerNorm.weight)
    assert re.match(told, refusal(changes, model))


def test_a_layer_that_reads_the_whole_row_is_named():
    class Leaking(ConvLayer):
        def forward(self, hidden_states, attention_mask=None, **_):
            return super().forward(hidden_states)

    model = small_model()
    model.lvbert.blocks[1].__class__ = Leaking
    told = refusal({"by_document": ()}, model)
    assert told.startswith("its layer 1 (Leaking) gives other numbers than the plain model")
    assert told.endswith(
        "so name the classes of layers that read other tokens in another way in by_document of the family"
    )


def test_a_layer_by_document_that_returns_more_than_states_is_named():
    class Several(ConvLayer):
        def forward(self, hidden_states, attention_mask=None):
            return super().forward(hidden_states), None

    model = small_model()
    model.lvbert.blocks[1].__class__ = Several
    forward = type(model.lvbert).forward
    model.lvbert.forward = lambda *args, **kwargs: forward(model.lvbert, *args, **kwargs)
    told = refusal({"by_document": ("Several",)}, model)
    assert "cannot run (" in told


def test_what_is_computed_between_two_layers_is_named():
    model = small_model()
    block = model.lvbert.blocks[2]
    run = block.__call__

    class Doubling(type(block)):
        def __call__(self, states, **kwargs):
            return super().__call__(2 * states, **kwargs)

    assert run is not None
    block.__class__ = Doubling
    told = refusal({}, model)
    assert told.startswith("its step from layer 1 to the next one gives other numbers than the plain model")


def test_a_window_that_only_a_long_document_reaches_beyond_is_found(monkeypatch):
    class Banded(transformers.BertModel):
        def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, **named):
            width = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
            place = torch.arange(width)
            far = (place[:, None] - place).abs() >= 16
            mask = torch.zeros(1, 1, width, width).masked_fill(far, -1e30)
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=mask, **named)

    family = Family(model_type="banded", layers="encoder.layer", pooler="pooler")
    monkeypatch.setitem(FAMILIES, family.model_type, family)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=60, max_position_embeddings=40, initializer_range=0.5, **shape)
    model = transformers.BertForSequenceClassification(config).eval()
    model.bert.__class__ = Banded
    config.model_type = "banded"
    with pytest.raises(UnsupportedModel, match=r"its layer 0 .* gives other numbers than the plain model"):
        check_declared(model, "documents", "toy")


def test_a_head_that_cannot_take_states_is_named():
    model = small_model()
    model.forward = lambda input_ids=None, attention_mask=None, token_type_ids=None: None
    assert re.match(
        r"its head cannot run \(.*\): its head must be a class of transformers, or like one", refusal({}, model)
    )


def test_a_config_without_a_size_is_named():
    model = small_model()
    model.config = type("Bare", (transformers.PreTrainedConfig,), {"model_type": "lvbert-toy"})()
    model.config.hidden_size, model.config.num_hidden_layers = 32, 4
    assert refusal({}, model) == (
        "its config has no num_attention_heads: give the config this entry, or an attribute_map from its own name"
    )


def test_families_of_trbert_are_not_tried(bert, monkeypatch):
    monkeypatch.setattr(contract, "_Trial", None)
    check_declared(bert, "documents", "toy")


# Where models are loaded.


def test_a_model_of_a_declared_family_is_loaded_and_can_be_searched(own_folder):
    found = load_pretrained(str(own_folder), TASK, LABELS, new_head=True)
    assert found.model.config.model_type == "lvbert-toy"
    rehearse(found.model, found.tokenizer, TASK)


def test_a_declaration_that_does_not_fit_is_refused_where_a_model_is_loaded(own_folder):
    register_family(replace(FAMILY, by_document=()))
    with pytest.raises(
        UnsupportedModel, match=rf"must describe model {own_folder}, and its layer 1 \(ConvLayer\) cannot"
    ):
        load_pretrained(str(own_folder), TASK, LABELS)


def test_a_model_of_no_known_family_is_refused_with_the_option(own_folder):
    del FAMILIES[FAMILY.model_type]
    with pytest.raises(UnsupportedModel, match=r"and is 'lvbert-toy': .*name your description with --family"):
        load_pretrained(str(own_folder), TASK, LABELS)


@pytest.fixture
def own_reduced(tmp_path):
    """The folder of a reduced model of a declared family."""
    reducer = Reducer(encoder=Encoder(small_model()), task=TASK, points=(1, 2))
    assemble(reducer, PolicySelector(Policy(32, 2, 8)), 0.0, 40).save_pretrained(tmp_path / "reduced")
    return tmp_path / "reduced"


def test_a_saved_model_needs_its_family_to_be_registered_first(own_reduced):
    load(own_reduced)
    del FAMILIES[FAMILY.model_type]
    told = (
        f"model_type of the encoder in {own_reduced}/config.json must be one of {', '.join(sorted(FAMILIES))}, and is "
        "'lvbert-toy': if it was made with a family of your own, call trbert.register_family(FAMILY) first, or pass "
        "--family to the command; if not, correct it, or copy or save it again"
    )
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load(own_reduced)


def test_a_saved_model_names_no_code(own_reduced):
    said = json.loads((own_reduced / "config.json").read_text())
    assert "auto_map" not in said
    assert "tests.trbert" not in json.dumps(said)


def test_a_saved_model_is_refused_with_a_declaration_that_does_not_fit(own_reduced):
    register_family(replace(FAMILY, by_document=()))
    with pytest.raises(UnsupportedModel, match=r"its layer 1 \(ConvLayer\) cannot run"):
        load(own_reduced)
