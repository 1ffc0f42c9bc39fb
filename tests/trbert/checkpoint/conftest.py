"""A folder with a tiny fine-tuned classifier, whose files a test then changes."""

import json
import socket

import pytest
import tokenizers
import transformers

from trbert.encoder import Encoder
from trbert.modeling import assemble
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS

LABELS = ("no", "yes", "maybe")


def _tokenizer():
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "word": 2, "[CLS]": 3}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 3)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


@pytest.fixture
def tokenizer():
    """A tokenizer of one word, which puts [CLS] before a text."""
    return _tokenizer()


@pytest.fixture
def folder(bert, tokenizer, tmp_path):
    """The folder of a classifier of LABELS."""
    bert.config.id2label = dict(enumerate(LABELS))
    bert.config.label2id = {name: index for index, name in enumerate(LABELS)}
    bert.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def edit(folder):
    """A function: entries -> the folder, with these entries in its config.json."""

    def edit(**entries):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))
        return str(folder)

    return edit


@pytest.fixture
def reduced(bert, tmp_path):
    """The folder of a reduced model with two points."""
    reducer = Reducer(encoder=Encoder(bert), task=TASKS["classification"], points=(1, 2))
    assemble(reducer, PolicySelector(Policy(32, 2, 8)), 0.0, 40).save_pretrained(tmp_path / "reduced")
    return tmp_path / "reduced"


@pytest.fixture
def offline(monkeypatch):
    """No process can be reached while the test runs."""

    def refused(*_):
        raise AssertionError("something was asked over the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr("builtins.input", refused)
