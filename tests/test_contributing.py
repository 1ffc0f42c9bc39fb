"""The worked examples of CONTRIBUTING.md run as they stand there."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from tests.trbert.tasks.toys import worked_example
from trbert.encoder import Encoder
from trbert.modeling import assemble
from trbert.packed import declared
from trbert.packed.declared import declare
from trbert.packed.families import FAMILIES
from trbert.packed.tokens import Tokens
from trbert.pretrained import load_pretrained
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS, task_of
from trbert.tasks.examples import Examples
from tune.search import _parser

ROOT = Path(__file__).resolve().parents[1]
TASK = TASKS["classification"]


def section(title):
    """Returns the text below a heading, up to the next one."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.split(r"\n##", text.split(f"\n### {title}\n")[1])[0]


@pytest.fixture
def convbert(tmp_path, monkeypatch):
    """The working directory, with a tiny ConvBERT of random weights in the folder that the example names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(declared, "_DECLARED", {})
    config = transformers.ConvBertConfig(
        vocab_size=60, hidden_size=32, embedding_size=16, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "my" / "convbert")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "word": 2}, unk_token="[UNK]"))
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    own.save_pretrained(tmp_path / "my" / "convbert")
    yield tmp_path
    FAMILIES.pop("convbert", None)
    sys.modules.pop("convbert_family", None)


def test_the_example_of_a_task_has_less_than_forty_lines():
    assert len(section("A new task").splitlines()) < 40


def test_the_example_of_a_task_answers_by_the_median_and_pays_for_nearness():
    # The shares are .4, .1, .1 and .4. Half of it lies in the first two classes: an answer of the second is nearest.
    ordinal, _ = worked_example()
    task, outputs = ordinal(), torch.tensor([[0.4, 0.11, 0.09, 0.4]]).log()
    own = Examples.of_documents(Tokens.from_lists([[1]], None), torch.tensor([3]))
    assert task.decode(outputs, own) == [1]
    assert task.correct([1], own) == [1 / 3]


def test_the_example_of_a_task_is_found_by_its_name(monkeypatch):
    # The contract of tasks runs over it, too.
    ordinal, _ = worked_example()
    monkeypatch.setitem(TASKS, ordinal.name, ordinal())
    assert task_of(_parser().parse_args(["--task", "ordinal"]).task).metric == "closeness"


def test_the_example_of_a_family_has_less_than_forty_lines():
    assert len(section("A new family").splitlines()) < 40


@torch.no_grad()
def test_the_example_of_a_family_is_tried_on_a_model_saved_and_loaded(convbert):
    text = section("A new family")
    family, loading = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"^    python tune/search\.py (.*)$", text, re.MULTILINE)
    (convbert / "convbert_family.py").write_text(family)
    options = _parser().parse_args(shlex.split(command))
    declare(options.family)
    found = load_pretrained(options.model, TASK, ("no", "yes"))
    reducer = Reducer(encoder=Encoder(found.model), task=TASK, points=(1,))
    reduced = assemble(reducer, PolicySelector(Policy(32, 1, 8)), 0.0, 40)
    reduced.save_pretrained(convbert / "picked")
    FAMILIES.pop("convbert")
    importlib.invalidate_caches()
    names = {}
    exec(loading, names)
    inputs = {"input_ids": torch.tensor([[2, 7, 9], [5, 6, 8]])}
    assert torch.equal(names["model"](**inputs).logits, reduced(**inputs).logits)
