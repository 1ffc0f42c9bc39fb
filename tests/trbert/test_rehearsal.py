"""The rehearsal finds out before learning what would fail after it."""

import pytest
import tokenizers
import transformers

from trbert.errors import DamagedCheckpoint
from trbert.rehearsal import rehearse
from trbert.tasks import TASKS

TASK = TASKS["classification"]


@pytest.fixture
def tokenizer():
    """A tokenizer of one word."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "word": 2}, unk_token="[UNK]"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


def test_a_model_of_every_family_passes(family_config, build_model, tokenizer):
    rehearse(build_model(family_config), tokenizer, TASK)


def test_a_config_that_cannot_be_saved_is_told(bert, tokenizer):
    bert.config._output_attentions = True
    with pytest.raises(DamagedCheckpoint, match=r"must load again, and does not \(.*output_attentions"):
        rehearse(bert, tokenizer, TASK)


def test_a_config_that_does_not_describe_the_weights_is_told(bert, tokenizer):
    bert.config.vocab_size = 50
    with pytest.raises(DamagedCheckpoint, match=r"has another weight '.*word_embeddings\.weight'"):
        rehearse(bert, tokenizer, TASK)


def test_a_model_that_cannot_run_is_told(bert, tokenizer):
    bert.bert.encoder.layer[1].chunk_size_feed_forward = 3  # of 4 tokens, as a config.json can have it
    with pytest.raises(DamagedCheckpoint, match=r"must run on a few tokens, and does not \(ValueError: .*config\.json"):
        rehearse(bert, tokenizer, TASK)


def test_a_tokenizer_that_is_saved_as_another_is_told(bert, tokenizer, monkeypatch):
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]")),
        pad_token="[PAD]",
        unk_token="[UNK]",
    )
    monkeypatch.setattr(tokenizer, "save_pretrained", other.save_pretrained)
    with pytest.raises(
        DamagedCheckpoint, match="must be as the model is, and has a tokenizer with another pad_token_id"
    ):
        rehearse(bert, tokenizer, TASK)
