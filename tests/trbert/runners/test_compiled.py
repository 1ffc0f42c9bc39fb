"""Compiled layers: the same logits, whatever the lengths, without compiling anew; and a copy starts with none."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from tests.trbert.packed.lvbert import small_model
from trbert.encoder import Encoder
from trbert.runners import Compiled

# In a process of its own: the compiler would have to see through the type checks of a test run. The backend is
# PyTorch's own interpreter of what was captured, which takes no C++ compiler; one family is compiled for real.
SCRIPT = """
import functools, json, sys
import torch, torch._dynamo
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForSequenceClassification
from trbert.encoder import Encoder
from trbert.packed.batch import gather_kept
from trbert.packed.tokens import Tokens
from trbert.runners import Compiled

config, backend = json.loads(sys.argv[1]), sys.argv[2]
if config["model_type"] == "lvbert-toy":
    from trbert.packed.declared import declare
    declare("tests.trbert.packed.lvbert:FAMILY")
torch.compile = functools.partial(torch.compile, backend=backend)
torch.manual_seed(0)
model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**config)).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.2)
eager, compiled = Encoder(model), Encoder(model, Compiled())
worst, graphs = 0.0, []

def logits(encoder, tokens):
    batch = encoder.run_layers(encoder.embed(tokens), 0, 1)
    keep = torch.arange(len(batch.hidden)) % 3 != 1
    batch = gather_kept(batch, (keep | batch.protected)[None])
    return encoder.read_documents(encoder.run_layers(batch, 1, 4))

with torch.inference_mode():
    for lengths in ([9, 14, 3], [20], [5, 6, 7, 8, 21], [4, 4], [2] * 9):
        ids = [torch.randint(5, 60, (length,)).tolist() for length in lengths]
        tokens = Tokens.from_lists(ids, None)
        expected = logits(eager, tokens)
        worst = max(worst, float((logits(compiled, tokens) - expected).abs().max() / expected.abs().max()))
        graphs.append(counters["stats"]["unique_graphs"])
print(json.dumps({"worst": worst, "graphs": graphs, "spans": sorted(compiled.runner._spans)}))
"""


def run(config, backend):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(config), backend], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found):
    assert found["worst"] < 1e-4
    assert found["spans"] == [[0, 1], [1, 4]]
    # One graph a span, and no other for other lengths and numbers of documents.
    assert found["graphs"][0] >= 2
    assert found["graphs"][-1] == found["graphs"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["bert", "distilbert", "eurobert bos", "modernbert cls", "mpnet", "deberta-v2", "deberta-v2 with a convolution"],
)
def test_compiled_layers_give_the_same_logits_at_any_length(name, config_of):
    config = config_of(name)
    check(run({**config.to_diff_dict(), "model_type": config.model_type}, "eager"))


@pytest.mark.slow
def test_a_span_with_a_layer_that_is_run_by_document_is_not_compiled():
    config = small_model().config
    found = run({**config.to_diff_dict(), "model_type": config.model_type}, "eager")
    assert found["worst"] < 1e-4
    assert found["spans"] == [[0, 1]]


@pytest.mark.slow
def test_layers_compile_to_machine_code(config_of):
    check(run({**config_of("bert").to_diff_dict(), "model_type": "bert"}, "inductor"))


class Forbidden(Exception):
    pass


@pytest.fixture
def no_compiler(monkeypatch):
    def refuse(*_, **__):
        raise Forbidden

    monkeypatch.setattr(torch, "compile", refuse)


def test_only_a_pass_without_gradient_is_compiled(no_compiler, bert, make_tokens, make_reducer):
    encoder, tokens = Encoder(bert, Compiled()), make_tokens(5, 7)
    make_reducer(encoder=encoder).unreduced_outputs(tokens)
    batch = encoder.embed(tokens)
    with torch.no_grad():
        assert encoder.run_layers(batch, 0, 2, listens=True).received is not None
        with pytest.raises(Forbidden):
            encoder.run_layers(batch, 0, 2)


@torch.no_grad()
def test_each_span_is_compiled_once_whatever_the_lengths(monkeypatch, bert, make_tokens):
    made = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: made.append(dynamic) or function)
    encoder, plain = Encoder(bert, Compiled()), Encoder(bert)
    for lengths in ((5, 7), (9,), (3, 3, 3)):
        batch = encoder.embed(make_tokens(*lengths))
        for span in ((0, 2), (2, 4), (1, 2)):
            assert_close(encoder.run_layers(batch, *span).hidden, plain.run_layers(batch, *span).hidden)
    assert made == [True] * 3


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda runner: pickle.loads(pickle.dumps(runner))])
def test_a_copy_runs_nothing_of_the_model_it_was_copied_from(twin, no_compiler, bert, make_tokens):
    runner = Compiled()
    runner._spans[0, 1] = lambda states, *_: -states
    batch = Encoder(bert).embed(make_tokens(5))
    with torch.no_grad():
        assert torch.equal(Encoder(bert, runner).run_layers(batch, 0, 1).hidden, -batch.hidden)
        assert isinstance(twin(runner), Compiled)
        with pytest.raises(Forbidden):  # it would compile anew
            Encoder(bert, twin(runner)).run_layers(batch, 0, 1)
