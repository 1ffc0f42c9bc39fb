"""A reduced embedding model as a Hugging Face model, and the vectors of texts."""

import json

import numpy as np
import pandas
import pytest
import tokenizers
import torch
import transformers
from torch.testing import assert_close

import trbert
from trbert.commands.cli import main
from trbert.errors import DamagedCheckpoint, InputError
from trbert.packed.heads import plain_outputs

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(50))]
TEXTS = ["w1 w2 w3 w4 w5 w6", "w7", "w9 w10 w11 w12", " ".join(f"w{number}" for number in range(30)), "w8 w7"]
KEEP_ALL = 1000.0


@pytest.fixture
def tokenizer():
    """Words w0 to w49, [CLS] before and [SEP] after."""
    own = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, model_max_length=40, **names)


@pytest.fixture
def saved(model, tokenizer, tmp_path):
    """The folder of the model and its tokenizer."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def inputs_of(tokenizer, texts):
    return tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")


@torch.no_grad()
def test_a_saved_model_gives_the_same_vectors_however_it_is_loaded(model, saved, tokenizer):
    inputs = inputs_of(tokenizer, TEXTS)
    expected = model(**inputs).sentence_embedding
    assert expected.shape == (5, 32)
    assert_close(expected.norm(dim=1), torch.ones(5))
    for again in (trbert.load(saved), transformers.AutoModel.from_pretrained(saved)):
        assert type(again) is trbert.TrbertForEmbedding
        assert (again.config.encoder["pooling"], again.config.encoder["normalised"]) == ("mean", True)
        assert torch.equal(again(**inputs).sentence_embedding, expected)


@torch.no_grad()
def test_keeping_all_gives_the_plain_models_vectors(saved, plain, tokenizer):
    inputs = inputs_of(tokenizer, TEXTS)
    own = trbert.load(saved, dial=KEEP_ALL)(**inputs).sentence_embedding
    assert_close(own, plain_outputs(plain, inputs))
    assert not torch.allclose(own, trbert.load(saved)(**inputs).sentence_embedding, atol=0.05)


def test_texts_get_the_vectors_that_each_has_alone_in_their_order(model, tokenizer):
    found = trbert.embed(model, tokenizer, TEXTS, batch_size=2)
    with torch.no_grad():
        alone = torch.cat([model(**inputs_of(tokenizer, [text])).sentence_embedding for text in TEXTS])
    assert_close(found, alone)
    assert found.dtype == torch.float32
    assert not found.requires_grad


def test_a_long_text_is_truncated_as_in_the_search(model, tokenizer):
    words = TEXTS[3].split()
    assert_close(*trbert.embed(model, tokenizer, [" ".join(words), " ".join(words[:14])]).unbind())


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([], "texts must hold at least one text, and hold none: pass a list of strings"),
        ("w1 w2", r"texts must be a list of strings, and is the str 'w1 w2': put it into a list, \[text\]"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(texts, told, model, tokenizer):
    with pytest.raises(InputError, match=f"^{told}$"):
        trbert.embed(model, tokenizer, texts)


@pytest.mark.parametrize("make", [tuple, iter, np.array, pandas.Series])
def test_texts_may_be_any_series_of_strings(make, model, tokenizer):
    assert_close(trbert.embed(model, tokenizer, make(TEXTS)), trbert.embed(model, tokenizer, TEXTS))


@pytest.mark.parametrize("odd", [None, 3, ["w1"], float("nan")])
def test_a_text_that_is_no_string_is_refused_with_its_place(odd, model, tokenizer):
    with pytest.raises(InputError, match=r"^texts must be strings, and text 1 is the .*: leave it out"):
        trbert.embed(model, tokenizer, ["w1", odd])


def test_a_text_with_half_a_character_is_refused_with_its_place(model, tokenizer):
    with pytest.raises(InputError, match=r"^texts must hold whole characters, and text 1 holds half a character"):
        trbert.embed(model, tokenizer, ["w1 \U0001f600", "w1 \ud83d"])


def test_a_batch_without_a_text_is_refused(model, tokenizer):
    with pytest.raises(InputError, match=r"^batch_size must be at least 1, and is 0"):
        trbert.embed(model, tokenizer, TEXTS, batch_size=0)


def test_vectors_of_a_model_with_a_head_are_refused(model, tokenizer):
    model.config.task = "classification"
    with pytest.raises(InputError, match="model must be of task embedding, and is of task classification: load"):
        trbert.embed(model, tokenizer, TEXTS)


def test_vectors_of_a_plain_model_are_refused(model, tokenizer):
    told = "model must be a reduced model of task embedding, as trbert.load returns it, and is of class BertModel: "
    with pytest.raises(InputError, match=told):
        trbert.embed(model.plain, tokenizer, TEXTS)


@pytest.mark.parametrize("name", ["last_hidden_state", "pooler_output", "hidden_states", "attentions"])
def test_states_of_single_tokens_are_refused_with_what_there_is(name, model, tokenizer):
    found = model(**inputs_of(tokenizer, TEXTS))
    assert list(found) == ["sentence_embedding"]
    with pytest.raises(AttributeError, match=f"^a reduced model has no {name}, because .*: use sentence_embedding"):
        getattr(found, name)
    assert not hasattr(found, "logits")
    assert len(model(**inputs_of(tokenizer, TEXTS), return_dict=False)) == 1


def test_vectors_as_labels_give_the_loss(model, tokenizer):
    inputs = inputs_of(tokenizer, TEXTS)
    own = model(**inputs).sentence_embedding.detach()
    assert model(**inputs, labels=own).loss.item() == pytest.approx(0, abs=1e-4)
    assert model(**inputs, labels=-own).loss.item() == pytest.approx(40)
    with pytest.raises(InputError, match=r"^labels must be a vector for each document, \[5, 32\], and have the shape"):
        model(**inputs, labels=torch.zeros(5))


def test_an_auto_class_of_another_task_is_refused(saved):
    told = (
        r"^the task of a TrbertForSequenceClassification must have the head AutoModelForSequenceClassification, and is "
        r"embedding, which has AutoModel: load the model with trbert\.load or transformers\.AutoModel$"
    )
    with pytest.raises(InputError, match=told):
        transformers.AutoModelForSequenceClassification.from_pretrained(saved)


def test_a_pipeline_gives_each_text_its_vector(saved, tokenizer, model):
    pipe = transformers.pipeline("feature-extraction", model=str(saved), tokenizer=tokenizer)
    assert_close(torch.tensor(pipe(TEXTS[:3])).squeeze(1), trbert.embed(model, tokenizer, TEXTS[:3]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"pooling": "max"},
            r"^pooling in `encoder` in config\.json of model .* must be 'mean' or 'first', and is the",
        ),
        ({"pooling": ["mean"]}, r"^pooling in `encoder` in config\.json of model .* must be 'mean' or 'first', and is"),
        ({"pooling": None}, r"^pooling in `encoder` in config\.json of model .* must be 'mean' or 'first', and is"),
        ({"normalised": 1}, r"^normalised in `encoder` in config\.json of model .* must be true or false, and is the"),
    ],
)
def test_another_pooling_in_a_config_is_refused(changes, told, saved):
    config = json.loads((saved / "config.json").read_text())
    config["encoder"] |= changes
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(DamagedCheckpoint, match=told):
        trbert.load(saved)


def test_other_runners_give_nearly_the_same_vectors(saved, tokenizer, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # compiling takes seconds
    for dial in (0.0, KEEP_ALL):
        expected = trbert.embed(trbert.load(saved, dial=dial), tokenizer, TEXTS)
        assert_close(trbert.embed(trbert.load(saved, dial=dial, runner="compiled"), tokenizer, TEXTS), expected)
    rounded = trbert.embed(trbert.load(saved, dial=KEEP_ALL, runner="int8"), tokenizer, TEXTS)
    assert 0.99 < float((rounded * expected).sum(1).min()) < 1 - 1e-6


def test_a_bench_times_the_model_and_a_rival(saved, plain, tokenizer, tmp_path):
    (tmp_path / "texts.csv").write_text("\n".join(["text", *TEXTS]))
    plain.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    words = ["bench", str(saved), "--data", str(tmp_path / "texts.csv"), "--against", str(tmp_path / "plain")]
    words += ["--batch", "2", "--rounds", "1", "--dtype", "float32", "int8", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    rows = json.loads((tmp_path / "out" / "speed.json").read_text())["rows"]
    assert {row["variant"] for row in rows} == {"padded", "sorted", "unpadded", "reduced +0", "against plain"}
