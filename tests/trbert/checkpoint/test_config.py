"""What somebody left in a config.json."""

import pytest
import torch

from trbert.errors import DamagedCheckpoint, UnsupportedModel
from trbert.pretrained import load_pretrained
from trbert.rehearsal import rehearse
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_attentions", True),
        ("output_hidden_states", True),
        ("return_dict", False),
        ("torchscript", True),
        ("gradient_checkpointing", True),
        ("chunk_size_feed_forward", 3),
        ("add_cross_attention", True),
        ("attn_implementation", "flash_attention_2"),
        ("_attn_implementation", "flash_attention_2"),
    ],
)
def test_what_changes_no_result_is_cleared_with_a_note(edit, bert, name, value):
    found = load_pretrained(edit(**{name: value}), TASK, LABELS)
    assert any(f"cleared in its config, because no result needs it: {name} = {value!r}" in one for one in found.notes)
    ids = torch.tensor([[3, 2, 2]])
    with torch.no_grad():
        assert torch.equal(found.model(ids).logits, bert(ids).logits)
    rehearse(found.model, found.tokenizer, TASK)


@pytest.mark.parametrize(
    ("name", "value"), [("use_cache", True), ("torch_dtype", "float16"), ("transformers_weights", "elsewhere")]
)
def test_what_most_configs_have_is_cleared_without_a_note(edit, name, value):
    found = load_pretrained(edit(**{name: value}), TASK, LABELS)
    assert found.notes == ()
    assert next(found.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("quantization_config", {"load_in_8bit": True}, "must be unset, because a quantised model cannot learn"),
        ("pruned_heads", {"0": [1]}, "must be empty"),
        ("position_embedding_type", "relative_key", "must be 'absolute', and is 'relative_key'"),
        ("is_decoder", True, "must be an encoder"),
    ],
)
def test_what_makes_another_model_of_it_is_refused(edit, name, value, told):
    with pytest.raises(UnsupportedModel, match=told):
        load_pretrained(edit(**{name: value}), TASK, LABELS)


def test_code_of_its_own_is_told_and_not_run(edit, folder):
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    code = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    found = load_pretrained(edit(auto_map=code), TASK, LABELS)
    assert any("names Python code of its own (auto_map), which is not run" in note for note in found.notes)
    assert not hasattr(found.model.config, "auto_map")
    with pytest.raises(UnsupportedModel, match="in auto_map, which trbert never runs"):
        load_pretrained(edit(auto_map=code, model_type="own"), TASK, LABELS)


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "nonsense"), ("hidden_size", 30), ("vocab_size", 50)])
def test_values_that_do_not_fit_are_told(edit, name, value):
    with pytest.raises(DamagedCheckpoint, match="is not whole"):
        load_pretrained(edit(**{name: value}), TASK, LABELS)


def test_layers_that_are_left_out_are_told(edit):
    found = load_pretrained(edit(num_hidden_layers=2), TASK, LABELS)
    assert any("32 of the weights in its files have no place" in note for note in found.notes)
