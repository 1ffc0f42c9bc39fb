"""Entries of a config.json that would fetch or run something, or that are of a wrong kind."""

import json
import re

import pytest

from trbert.errors import DamagedCheckpoint, TrbertError, UnsupportedModel
from trbert.modeling import load
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")
KERNEL = "kernels-community/flash-attn2"


@pytest.fixture
def edit_reduced(reduced):
    """A function: where, entries -> the folder of the reduced model, with these in its config.json or its encoder."""

    def edit_reduced(within, **entries):
        path = reduced / "config.json"
        config = json.loads(path.read_text())
        (config["encoder"] if within else config).update(entries)
        path.write_text(json.dumps(config))
        return reduced

    return edit_reduced


@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
def test_a_kernel_that_a_plain_model_names_is_cleared_and_not_fetched(edit, offline, name):
    found = load_pretrained(edit(**{name: KERNEL}), TASK, LABELS)
    assert any(f"cleared in its config, because no result needs it: {name} = '{KERNEL}'" in one for one in found.notes)
    assert found.model.config._attn_implementation in ("sdpa", "eager", None)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
def test_a_kernel_that_a_reduced_model_names_is_refused_and_not_fetched(edit_reduced, offline, name, within):
    told = f"must be unset, because a reduced model computes its own attention, and is the str '{KERNEL}': remove it"
    with pytest.raises(UnsupportedModel, match=rf"^{name} in .*config\.json of model .* {re.escape(told)}$"):
        load(edit_reduced(within, **{name: KERNEL}))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("name", ["auto_map", "transformers_weights", "configuration_files"])
def test_code_and_files_that_a_reduced_model_names_are_refused(edit_reduced, reduced, offline, name, within):
    (reduced / "own.py").write_text("raise SystemExit('it ran')")
    told = "must be unset, because trbert runs no code and reads no file that a config names: remove it"
    with pytest.raises(UnsupportedModel, match=f"^{name} in .*{told}$"):
        load(edit_reduced(within, **{name: {"AutoModelForSequenceClassification": "own.Model"}}))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quantization_config", "must be unset, because a quantised model cannot learn"),
        ("compression_config", "must be unset, because a compressed model cannot learn"),
        ("fusion_config", "must be unset, because trbert runs no modules in place"),
        ("distributed_config", "must be unset, because trbert loads a model whole"),
        ("pruned_heads", "must be empty"),
    ],
)
def test_what_makes_another_model_of_it_is_refused(edit, edit_reduced, offline, name, told):
    entry = {name: {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    with pytest.raises(UnsupportedModel, match=f"^{name} in config.json of model .* {told}"):
        load_pretrained(edit(**entry), TASK, LABELS)
    for within in (True, False):
        with pytest.raises(UnsupportedModel, match=f"^{name} in .* {told}"):
            load(edit_reduced(within, **entry))


def test_documents_in_chunks_are_refused_of_a_reduced_model_and_cleared_of_a_plain_one(edit, edit_reduced, offline):
    load_pretrained(edit(chunk_size_feed_forward=3), TASK, LABELS)
    told = "must be 0, because trbert computes the tokens of all documents at once"
    for within in (True, False):
        with pytest.raises(UnsupportedModel, match=f"^chunk_size_feed_forward in .* {told}"):
            load(edit_reduced(within, chunk_size_feed_forward=3))


def test_another_config_that_a_plain_model_names_is_not_read(edit, folder):
    (folder / "config.4.0.0.json").write_text('{"model_type": "gpt2"}')
    found = load_pretrained(edit(configuration_files=["config.4.0.0.json"]), TASK, LABELS)
    assert found.model.config.model_type == "bert"
    assert not hasattr(found.model.config, "configuration_files")


WRONG = {
    "hidden_size": ["32", 32.0, [32], True, -1, 0, 10**30],
    "num_hidden_layers": ["4", 0, -4, {}],
    "num_labels": [-1, "3", [3]],
    "hidden_act": ["nonsense", 3, ["gelu"], "../gelu"],
    "layer_norm_eps": ["x", [1]],
    "initializer_range": ["x", {}],
    "hidden_dropout_prob": [7, -1, "x"],
    "pad_token_id": [10**9, "x", -99],
    "is_decoder": ["yes", 1],
    "problem_type": [[1], 3],
    "architectures": [3, [3], "BertModel", {"a": 1}],
    "model_type": [None, 3, ["bert"], "", "bert\x00"],
    "num_attention_heads": [3, 0, "4", 10**6],
    "layer_types": [["x"] * 4, 3],
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_value_of_a_wrong_kind_is_refused_by_both_loaders(edit, reduced, edit_reduced, name):
    before = (reduced / "config.json").read_text()
    for value in WRONG[name]:
        with pytest.raises(TrbertError, match=r"(copy or save it again|pass an(other)? encoder).*$"):
            load_pretrained(edit(**{name: value}), TASK, LABELS)
        if name == "architectures" or value is None:
            continue
        (reduced / "config.json").write_text(before)
        with pytest.raises(TrbertError):
            load(edit_reduced(True, **{name: value}))


def test_an_unknown_activation_is_named(edit, edit_reduced):
    told = "transformers does not know 'nonsense', which its config.json names"
    with pytest.raises(DamagedCheckpoint, match=told):
        load_pretrained(edit(hidden_act="nonsense"), TASK, LABELS)
    with pytest.raises(DamagedCheckpoint, match=told):
        load(edit_reduced(True, hidden_act="nonsense"))
