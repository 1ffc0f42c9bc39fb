"""Tokenizers that lack something, or that do not fit the encoder."""

import json

import pytest
import torch
import transformers

from trbert.checkpoint import tokenizer as module
from trbert.checkpoint.tokenizer import check_vocabulary
from trbert.errors import InputError, UnsupportedModel
from trbert.pretrained import load_pretrained
from trbert.rehearsal import rehearse
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", "more"]


def load(folder):
    return load_pretrained(str(folder), TASK, LABELS)


@pytest.fixture
def bare(folder):
    """The folder without its tokenizer."""
    for path in folder.glob("*token*"):
        path.unlink()
    return folder


@pytest.mark.parametrize(("own", "length"), [(None, 40), (1000, 40), (16, 16)])
def test_the_tokenizer_knows_the_length_of_the_encoder(folder, tokenizer, own, length):
    if own:
        tokenizer.model_max_length = own
    tokenizer.save_pretrained(folder)
    found = load(folder)
    assert found.tokenizer.model_max_length == length
    assert len(found.tokenizer("word " * 90, truncation=True)["input_ids"]) == length


def test_vocab_txt_alone_is_a_tokenizer(bare):
    (bare / "vocab.txt").write_text("\n".join(WORDS))
    found = load(bare)
    assert found.tokenizer("Word more")["input_ids"] == [2, 5, 6, 3]
    rehearse(found.model, found.tokenizer, TASK)


def test_vocab_txt_with_capitals_is_read_with_capitals(bare):
    (bare / "vocab.txt").write_text("\n".join([*WORDS, "Word"]))
    found = load(bare)
    assert found.tokenizer("Word word")["input_ids"] == [2, 7, 5, 3]
    assert any("texts are not made lower-case" in note for note in found.notes)


def test_a_sentencepiece_file_that_cannot_be_read_is_told_with_the_package(bare, monkeypatch):
    monkeypatch.setattr(module, "_installed", lambda name: name != "sentencepiece")
    config = json.loads((bare / "config.json").read_text()) | {"tokenizer_class": "AlbertTokenizer"}
    (bare / "config.json").write_text(json.dumps(config))
    (bare / "spiece.model").write_bytes(b"none")
    told = r"has its tokenizer in spiece\.model alone, which cannot be read without sentencepiece: pip install"
    with pytest.raises(UnsupportedModel, match=told):
        load(bare)


def test_a_tokenizer_of_its_own_code_is_told(bare):
    said = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (bare / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(UnsupportedModel, match=r"\(Own\) must be one of transformers, and is Python code of its own"):
        load(bare)


def test_a_tokenizer_without_special_tokens_is_told(folder, tokenizer):
    assert load(folder).notes == ()
    tokenizer.backend_tokenizer.post_processor = None
    content = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (note,) = load(folder).notes
    assert "puts no special token before a text, so that the first token of its first word is never dropped" in note


def test_a_missing_padding_token_is_replaced(folder):
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text())
    del said["pad_token"]
    path.write_text(json.dumps(said))
    found = load(folder)
    assert found.tokenizer.pad_token == "[PAD]"  # that of the config's id
    assert found.tokenizer(["word", "word word"], padding=True)["input_ids"] == [[3, 2, 0], [3, 2, 2]]
    assert any("no padding token of which the encoder has an embedding, so '[PAD]' is taken" in n for n in found.notes)


def test_a_padding_token_without_embedding_is_replaced(folder, tokenizer):
    tokenizer.add_tokens([f"<{index}>" for index in range(60)])
    tokenizer.add_special_tokens({"pad_token": "[PADDING]"})
    tokenizer.save_pretrained(folder)
    assert load(folder).tokenizer.pad_token == "[PAD]"


def test_another_padding_id_becomes_that_of_the_config(folder, tokenizer):
    tokenizer.pad_token = "[UNK]"
    tokenizer.save_pretrained(folder)
    assert load(folder).model.config.pad_token_id == 1


def test_a_padding_id_that_positions_are_counted_from_stays_and_is_told(config_of, build_model, tokenizer, tmp_path):
    build_model(config_of("roberta")).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load(tmp_path)
    assert found.model.config.pad_token_id == 1
    assert any("pads with '[PAD]' (id 0), and pad_token_id in config.json is 1" in note for note in found.notes)


def test_tokens_without_embedding_are_named(folder, tokenizer):
    tokenizer.add_tokens([f"<{index}>" for index in range(60)])
    tokenizer.save_pretrained(folder)
    (note,) = load(folder).notes
    assert "has 64 tokens, and the encoder has embeddings of 60: texts with '<56>', '<57>', '<58>' and others" in note


def test_data_with_a_token_without_embedding_is_refused(bert, tokenizer):
    tokenizer.add_tokens([f"<{index}>" for index in range(60)])
    check_vocabulary(bert, tokenizer, torch.tensor([0, 59, 3]))
    told = (
        r"^the tokens of the data must be among the 60 of which the encoder has embeddings, and '<57>' is not: the "
        r"tokenizer has 64, so call model\.resize_token_embeddings\(len\(tokenizer\)\), and save"
    )
    for used in (torch.tensor([0, 61, 61]), [61, 2]):
        with pytest.raises(InputError, match=told):
            check_vocabulary(bert, tokenizer, used)


def test_the_copy_of_the_loaded_tokenizer_knows_the_length(folder, tmp_path):
    load(folder).tokenizer.save_pretrained(tmp_path / "copy")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "copy").model_max_length == 40
