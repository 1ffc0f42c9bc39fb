"""A tiny encoder with its tokenizer, rows of which one marker word decides the class, and a front of a few points."""

import copy
import csv
import dataclasses
import json
import os
import random

import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors

from trbert.tasks.examples import Examples
from tune.learning.model import Model
from tune.learning.prepare import prepare
from tune.learning.standing import COMMONEST, LINEAR, Baseline, Standing
from tune.results.front import Point, mark_front
from tune.results.table import write_front
from tune.settings import Settings, override

FILLERS = [f"w{index}" for index in range(30)]
MARKERS = {"alpha": "A", "beta": "B"}
LAYERS = 4
QUICK = {
    "select.points": (0, 2),
    "select.penalty": 1.0,
    "select.samples": 4,
    "select.documents": 320,
    "select.step_documents": 16,
    "select.item_documents": 8,
    "select.learning_rate": 2e-2,
    "select.warm_start_documents": 0,
    "joint.documents": 64,
    "joint.learning_rate": 1e-3,
}


def _tokenizer():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    ids = {word: index for index, word in enumerate([*special, *FILLERS, *MARKERS])}
    words = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **names)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a plain BERT encoder, four layers of 32, 32 positions, with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=4 + len(FILLERS) + len(MARKERS),
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.1,
    )
    transformers.BertModel(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A csv file of 300 short texts; the one marker word in each decides its class."""
    path = tmp_path_factory.mktemp("tiny") / "rows.csv"
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(300):
            words = [draw.choice(FILLERS) for _ in range(draw.randint(6, 14))]
            marker = ["alpha", "beta"][number % 2]
            words.insert(draw.randrange(len(words)), marker)
            rows.writerow([" ".join(words), MARKERS[marker]])
    return path


@pytest.fixture(scope="session")
def tiny_settings(tiny_model, tiny_data):
    """Settings under which the tiny encoder learns the tiny rows in seconds."""
    return override(
        Settings(),
        {
            "model": str(tiny_model),
            "policy_width": 8,
            "data.source": str(tiny_data),
            "data.max_length": 20,
            "data.validation_rows": 30,  # a tenth, so that 240 rows are left to learn from
            "teacher.epochs": 4.0,
            "teacher.learning_rate": 3e-3,
            "teacher.probe_documents": 0,  # an encoder with random weights has no features to fit a head on
            "compute.threads": 1,
            "compute.dtype": "float32",
        },
    )


@pytest.fixture(scope="session")
def prepared(tiny_settings, few_threads):
    """The tiny rows and a teacher that learned them; what trials share."""
    return prepare(tiny_settings, None, lambda line: None)


def _rows(split, share):
    """The split's first 20 documents, of which this share has label 0."""
    labels = torch.arange(20) >= round(20 * share)
    return Examples.of_documents(split.tokens.take(torch.arange(20)), labels.long())


@pytest.fixture
def certain(prepared):
    """A teacher that says class 0 of every document: it is right on 3 of 4 validation rows, and on 2 of 5 test rows.

    So is every model that is made from it, however many tokens are dropped.
    """
    weights = dict(prepared.weights)
    weights["classifier.weight"] = 0 * weights["classifier.weight"]
    weights["classifier.bias"] = weights["classifier.bias"] * 0
    weights["classifier.bias"][0] = 1.0
    return dataclasses.replace(
        prepared,
        weights=weights,
        validation=_rows(prepared.validation, 0.75),
        test=_rows(prepared.test, 0.4),
        teacher_validation=0.75,
        teacher_test=0.4,
        teacher_answers=[0] * 20,
    )


@pytest.fixture(scope="module")
def train(prepared):
    """The tiny rows to train on."""
    return prepared.train


@pytest.fixture
def make_model(prepared, tiny_settings):
    """A function: changed settings -> a fresh copy of the teacher with an untrained policy, for a short training."""

    def make(changes=None):
        return Model(prepared, override(tiny_settings, QUICK | (changes or {})))

    return make


@pytest.fixture
def model(make_model):
    """Such a copy."""
    return make_model()


class _Drawer:
    def __init__(self):
        self.state = None

    def load(self):
        return self.state

    def keep(self, state):
        self.state = copy.deepcopy(state())


@pytest.fixture
def drawer():
    """A keeper that holds the last state, as a file does."""
    return _Drawer()


@pytest.fixture(scope="module", autouse=True)
def one_thread(few_threads):
    """One thread: tensors this small gain nothing from a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_environment():
    """What a command sets in this process's environment is undone."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def _at(quality, speed_up, **changes):
    """A trained point; its quality on test is one point below validation."""
    values = {"trial": "1", "selector": "policy", "dial": 0.0, "points": (0, 2), "model": "models/1"} | changes
    return Point(quality_validation=quality, speed_up_validation=speed_up, **{"quality_test": quality - 0.01} | values)


def _unreduced(quality, trial="teacher"):
    return _at(quality, 1.0, trial=trial, selector="none", dial=None, points=(), model=f"models/{trial}", drop=0.0)


def _rule(name, quality, speed_up, points=(0, 2)):
    return _at(quality, speed_up, trial="free", selector=name, dial=0.1, points=points, model="", quality_test=quality)


def _small_front():
    return mark_front(
        [
            _unreduced(0.9),
            _at(0.896, 3.0, dial=-0.5, kept=(0.5, 0.25), drop=0.4, drop_interval=(-0.6, 1.54), docs_per_second=321.4),
            _at(0.89, 5.0, dial=-1.5, trial="2", model="models/2", drop=1.0, drop_interval=(-0.04, 2.0)),
            _at(0.85, 9.0, dial=-3.0, drop=5.0),
            _at(0.8, 4.0, quality_test=None),
            _rule("first", 0.8, 2.0),
            _rule("first", 0.7, 6.0),
            _rule("random", 0.6, 2.0),
            _rule("random", 0.4, 10.0),
        ]
    )


@pytest.fixture(scope="session")
def at():
    """Makes a trained point from its quality and speed-up."""
    return _at


@pytest.fixture(scope="session")
def unreduced():
    """Makes a point that keeps all tokens."""
    return _unreduced


@pytest.fixture(scope="session")
def rule():
    """Makes a free rule's point."""
    return _rule


@pytest.fixture(scope="session")
def small_front():
    """Makes a front of a teacher, two trained models and two free rules."""
    return _small_front


def _standing(ahead=0.35, behind=0.05, known=0.5, trained=True, error=0.02, has_head=True):
    """A teacher of 85 %; by how much it is ahead of the commonest answer, and of the linear model."""
    half = Baseline(name=COMMONEST, validation=0.5, test=0.5, rows=800, ahead=ahead, error=error)
    linear = Baseline(name=LINEAR, validation=0.8, test=0.8, rows=800, ahead=behind, error=0.02)
    figures = {"validation": 0.85, "test": 0.85, "known": known, "interval": 0.063}
    facts = {"trained": trained, "has_head": has_head, "train_rows": 800, "test_rows": 500}
    return Standing(baselines=(half, linear), **figures, **facts)


@pytest.fixture(scope="session")
def standing():
    """Makes a teacher's standing; it is good unless a figure is changed."""
    return _standing


@pytest.fixture
def run(tmp_path):
    """A finished run's folder, as the search leaves it."""
    folder = tmp_path / "run"
    for name in ("teacher", "1", "2"):
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "model.safetensors").write_bytes(b"weights of " + name.encode())
        (folder / "models" / name / "config.json").write_text(json.dumps({"model_type": "trbert", "dial": 0.0}))
    plain = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    (folder / "models" / "teacher" / "config.json").write_text(json.dumps(plain))
    write_front(folder / "front.csv", _small_front())
    return folder
