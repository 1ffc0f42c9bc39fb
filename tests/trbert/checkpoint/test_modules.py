"""Folders of sentence-transformers, built by hand: their own pooling is taken, or refused."""

import json
import shutil

import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.errors import DamagedCheckpoint, UnsupportedModel
from trbert.packed.heads import pooling_of
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS

TASK = TASKS["embedding"]
KIND = "sentence_transformers.models."
MEAN = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
FIRST = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
WHOLE = ["Transformer", "Pooling", "Normalize"]


@pytest.fixture
def plain(bert, tokenizer, tmp_path):
    """The folder of an encoder without a head."""
    bert.bert.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def sentences(plain, tmp_path):
    """A function: kinds of modules, the pooling's config, the encoder's folder -> a folder as the library writes it."""

    def make(kinds=WHOLE, pooling=MEAN, within="", kind=KIND, folder="1_Pooling"):
        whole = tmp_path / "sentences"
        shutil.copytree(plain, whole / within, dirs_exist_ok=True)
        paths = [within, folder, *(f"{number}_{name}" for number, name in enumerate(kinds[2:], start=2))]
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": kind + name}
            for number, (name, path) in enumerate(zip(kinds, paths, strict=False))
        ]
        (whole / "modules.json").write_text(json.dumps(modules))
        if pooling is not None:
            (whole / "1_Pooling").mkdir(exist_ok=True)
            (whole / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        return str(whole)

    return make


@pytest.mark.parametrize(
    ("made", "expected", "told"),
    [
        ({}, ("mean", True), "is the mean of its tokens' last states, scaled to length 1, as modules.json says"),
        ({"kinds": WHOLE[:2]}, ("mean", False), "is the mean of its tokens' last states, as modules.json says"),
        ({"pooling": FIRST}, ("first", True), "is its first token's last state, scaled to length 1, as modules.json"),
        ({"within": "0_Transformer"}, ("mean", True), "scaled to length 1"),
        ({"pooling": {"pooling_mode": "cls"}, "kind": "of.another.version."}, ("first", True), "first token"),
    ],
)
def test_the_pooling_of_sentence_transformers_is_taken(made, expected, told, sentences, bert):
    found = load_pretrained(sentences(**made), TASK, ())
    assert type(found.model) is transformers.BertModel
    assert found.fine_tuned
    assert pooling_of(found.model) == expected
    assert told in found.notes[0]
    assert len(found.notes) == 1
    for name, value in bert.bert.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            {"kinds": [*WHOLE[:2], "Dense", "Normalize"]},
            "and lists 'Transformer', 'Pooling', 'Dense', 'Normalize': pass",
        ),
        ({"kinds": ["Transformer"]}, "and lists 'Transformer': pass another model"),
        ({"kinds": []}, "and lists nothing: pass another model"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "and says 'pooling_mode_max_tokens': pass another model"),
        ({"pooling": MEAN | {"pooling_mode_cls_token": True}}, "says 'pooling_mode_cls_token', 'pooling_mode_mean_tok"),
        ({"pooling": {"pooling_mode_weightedmean_tokens": True}}, "and says 'pooling_mode_weightedmean_tokens': pass"),
        ({"pooling": {"pooling_mode_mean_tokens": False}}, "and says nothing: pass another model"),
        ({"pooling": {"pooling_mode": "lasttoken"}}, "and says 'lasttoken': pass another model"),
        ({"pooling": None}, "and says nothing: pass another model"),
    ],
)
def test_another_way_to_make_a_vector_is_refused(made, told, sentences):
    with pytest.raises(UnsupportedModel) as raised:
        load_pretrained(sentences(**made), TASK, ())
    assert told in str(raised.value)


@pytest.mark.parametrize("folder", ["../1_Pooling", "/etc"])
def test_a_pooling_outside_the_folder_is_not_read(folder, sentences):
    with pytest.raises(DamagedCheckpoint, match="must name folders within the model, and names"):
        load_pretrained(sentences(folder=folder), TASK, ())


@pytest.mark.parametrize("content", ["{", '[{"type": "a"}]', "3", "[3]"])
def test_a_list_of_modules_that_is_none_is_refused(content, plain):
    (plain / "modules.json").write_text(content)
    with pytest.raises(DamagedCheckpoint, match=r"plain is not whole \(.*modules\.json.*copy or save it again"):
        load_pretrained(str(plain), TASK, ())


def test_a_model_that_says_nothing_gives_the_mean_and_that_is_said(plain):
    found = load_pretrained(str(plain), TASK, ())
    assert pooling_of(found.model) == ("mean", False)
    assert [note.partition(": ")[2] for note in found.notes] == [
        "the mean of the tokens' last states is taken, not scaled to length 1"
    ]


@pytest.mark.parametrize("kind", [transformers.BertForMaskedLM, transformers.BertForSequenceClassification])
def test_a_model_that_was_trained_for_something_else_is_taken_and_that_is_said(kind, config_of, tokenizer, tmp_path):
    model = kind(config_of("bert"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load_pretrained(str(tmp_path), TASK, ())
    assert found.fine_tuned
    assert torch.equal(
        found.model.encoder.layer[3].output.dense.weight, model.bert.encoder.layer[3].output.dense.weight
    )
    assert f"for something else than vectors of texts ('{kind.__name__}')" in found.notes[1]
    assert len(found.notes) == 2


def test_a_missing_layer_is_refused(plain):
    path = plain / "model.safetensors"
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    del state["encoder.layer.2.output.dense.bias"]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(DamagedCheckpoint, match=r"must hold the weight 'encoder\.layer\.2\.output\.dense\.bias', and"):
        load_pretrained(str(plain), TASK, ())


def test_a_saved_plain_model_keeps_its_pooling(sentences, tmp_path):
    found = load_pretrained(sentences(pooling=FIRST), TASK, ())
    found.model.save_pretrained(tmp_path / "again")
    found.tokenizer.save_pretrained(tmp_path / "again")
    again = load_pretrained(str(tmp_path / "again"), TASK, ())
    assert pooling_of(again.model) == ("first", True)
    assert again.notes == ()
    ids = torch.tensor([[3, 2, 2]])
    assert_close(again.model(input_ids=ids).last_hidden_state, found.model(input_ids=ids).last_hidden_state)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    (tmp_path / "again" / "config.json").write_text(json.dumps(config | {"pooling": "max"}))
    with pytest.raises(
        DamagedCheckpoint, match=r"pooling in config.json of model .* must be 'mean' or 'first', and is"
    ):
        load_pretrained(str(tmp_path / "again"), TASK, ())


def test_what_sentence_transformers_does_to_texts_before_is_said(sentences, tmp_path):
    folder = sentences()
    for name, entries in (
        ("sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": True}),
        ("config_sentence_transformers.json", {"prompts": {"query": "query: "}, "default_prompt_name": "query"}),
    ):
        (tmp_path / "sentences" / name).write_text(json.dumps(entries))
    notes = load_pretrained(folder, TASK, ()).notes
    assert "writes texts in lower case" in notes[1]
    assert "puts the prompt 'query' before each text" in notes[2]


def test_the_packaged_encoder_is_pooled_as_it_was_trained():
    assert pooling_of(load_pretrained("minilm", TASK, ()).model) == ("mean", True)
