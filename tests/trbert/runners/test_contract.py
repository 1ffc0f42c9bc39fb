"""One contract over all runners: whatever runs the layers, the laws hold."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.modeling import assemble, load
from trbert.packed.tokens import Tokens
from trbert.runners import RUNNERS, Compiled, Eager, Graphed, Int8, runner_of
from trbert.runners.spans import Spans
from trbert.selection.outputs import reduced_outputs
from trbert.selection.policy import Policy
from trbert.selection.selectors import FirstSelector, PolicySelector

LENGTHS = (9, 14, 3, 1)
POINTS = (1, 3)

# How far a runner's logits may be from the plain model's, as a share of their norm. A new runner that sums otherwise,
# or in other arithmetic, is one line here.
TOLERANCES = {"int8": 0.2}


@pytest.fixture(autouse=True)
def compiles_nothing(monkeypatch):
    """What was captured is run as it is; tests/trbert/runners/test_compiled.py compiles in processes of their own."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *given: function(*given))


# Every runner; a new one is tested by having a name. `Spans` has none that a user could give: rollouts alone use it.
@pytest.fixture(params=[*RUNNERS.values(), Spans], ids=[*RUNNERS, Spans.name])
def runner(request):
    return request.param()


@pytest.fixture
def plain(build_model, config_of):
    """The model as Hugging Face made it, which no runner has touched."""
    return build_model(config_of("bert"))


@pytest.fixture
def run_by(bert, make_reducer):
    """A function: a runner -> the same model, its layers run by this runner."""

    def make(runner, points=POINTS):
        runner.adopt(bert, Encoder(bert).layers)
        return make_reducer(points, encoder=Encoder(bert, runner))

    return make


def padded(tokens):
    """Returns the documents as Hugging Face takes them."""
    mask = torch.arange(int(tokens.lengths.max())) < tokens.lengths[:, None]
    ids, types = torch.zeros(2, *mask.shape, dtype=torch.long)
    ids[mask], types[mask] = tokens.input_ids, tokens.token_type_ids
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask.long()}


def assert_near(actual, expected, runner):
    """Equal but for rounding, or as near as the runner's own arithmetic brings it."""
    if runner.name in TOLERANCES:
        assert (actual - expected).norm() < TOLERANCES[runner.name] * expected.norm()
    else:
        assert_close(actual, expected)


@torch.no_grad()
def test_keeping_all_equals_the_plain_model(runner, plain, run_by, make_tokens):
    tokens, reducer = make_tokens(*LENGTHS), run_by(runner)
    expected = plain(**padded(tokens)).logits
    assert expected.std() > 0.1  # weights large enough to tell right from wrong
    assert_near(reducer.unreduced_outputs(tokens), expected, runner)
    assert_near(reduced_outputs(reducer, FirstSelector(Policy(32, 0)), tokens, 1.0).outputs, expected, runner)


@torch.no_grad()
def test_what_drops_tokens_drops_the_same_and_says_the_same(runner, plain, run_by, make_tokens, make_reducer):
    tokens, rule = make_tokens(*LENGTHS), FirstSelector(Policy(32, 0))
    eager, reducer = make_reducer(POINTS, encoder=Encoder(plain)), run_by(runner)
    expected, found = eager.run(rule, tokens, 0.3), reduced_outputs(reducer, rule, tokens, 0.3)
    assert torch.equal(found.kept, expected.kept)
    assert torch.equal(reducer.run(rule, tokens, 0.3).batch.positions, expected.batch.positions)
    assert_near(found.outputs, eager.outputs(expected), runner)


@torch.no_grad()
def test_a_documents_result_depends_neither_on_batch_mates_nor_on_order(runner, run_by, make_tokens):
    tokens, reducer, rule = make_tokens(*LENGTHS), run_by(runner), FirstSelector(Policy(32, 0))
    together = reduced_outputs(reducer, rule, tokens, 0.3).outputs
    order = torch.tensor([3, 1, 0, 2])
    assert_close(reduced_outputs(reducer, rule, tokens.take(order), 0.3).outputs, together[order])
    for document in range(len(tokens)):
        alone = reduced_outputs(reducer, rule, tokens.take(torch.tensor([document])), 0.3).outputs
        assert_close(alone, together[document : document + 1])


@torch.no_grad()
def test_what_a_layer_hears_is_what_it_hears_eagerly(runner, run_by, make_tokens):
    encoder = run_by(runner).encoder
    batch = encoder.embed(make_tokens(*LENGTHS))
    heard = encoder.run_layers(batch, 0, 3, listens=True)
    eager = Encoder(encoder.plain).run_layers(batch, 0, 3, listens=True)
    assert_close(heard.received, eager.received)
    # Each query of a document gives away one share.
    assert_close(torch.stack([part.sum() for part in heard.received.split(list(LENGTHS))]), torch.ones(4))
    assert heard.received.std() > 0.05
    assert encoder.run_layers(batch, 0, 3).received is None


@torch.no_grad()
def test_the_states_are_the_same_whether_attention_is_heard_or_not(runner, run_by, make_tokens):
    encoder = run_by(runner).encoder
    batch = encoder.embed(make_tokens(*LENGTHS))
    heard = encoder.run_layers(batch, 0, 3, listens=True)
    assert_close(heard.hidden, encoder.run_layers(batch, 0, 3).hidden)


@torch.no_grad()
def test_a_row_run_in_pieces_gives_the_same_states_and_attention(runner, run_by, make_tokens, monkeypatch):
    encoder = run_by(runner).encoder
    batch = encoder.embed(make_tokens(*LENGTHS))
    whole = encoder.run_layers(batch, 0, 3, listens=True)
    monkeypatch.setattr(encoder, "_tokens_at_once", lambda: 15)
    monkeypatch.setattr(encoder.runner, "run", counting(encoder.runner.run, rows := []))
    pieces = encoder.run_layers(batch, 0, 3, listens=True)
    assert rows == [9, 14, 4]  # 9 and 14 together are too many, 14 and 3 as well; 3 and 1 are not
    assert_close(pieces.hidden, whole.hidden)
    assert_close(pieces.received, whole.received)


def counting(run, rows):
    def counted(layers, span, batch, rotary, probe):
        rows.append(len(batch.hidden))
        return run(layers, span, batch, rotary, probe)

    return counted


@torch.no_grad()
def test_a_copy_of_a_model_runs_on_the_weights_of_the_copy(runner, make_reducer, make_tokens):
    torch.manual_seed(0)
    model = assemble(make_reducer(POINTS), PolicySelector(Policy(32, 2)), 1000.0, 40)
    model.run_with(runner)
    tokens = make_tokens(*LENGTHS)
    inputs = padded(tokens)
    before = model(**inputs).logits  # whatever the runner makes at first use is made
    twin = copy.deepcopy(model)
    assert type(twin.runner) is type(runner)
    assert twin.runner is not runner
    assert torch.equal(twin(**inputs).logits, before)
    for module in twin.plain.base_model.encoder.modules():
        if isinstance(module, nn.LayerNorm):  # in int8 too
            module.weight.mul_(1.5)
    changed = twin(**inputs).logits
    assert not torch.allclose(changed, before, atol=1e-2)
    own = Encoder(twin.plain)
    assert_close(changed, own.read_documents(own.run_layers(own.embed(tokens), 0, 4)))
    assert torch.equal(model(**inputs).logits, before)


@torch.no_grad()
def test_a_model_that_has_run_can_be_pickled(runner, make_reducer, make_tokens):
    torch.manual_seed(0)
    model = assemble(make_reducer(POINTS), PolicySelector(Policy(32, 2)), 1000.0, 40)
    model.run_with(runner)
    inputs = padded(make_tokens(*LENGTHS))
    before = model(**inputs).logits  # whatever the runner makes at first use is made
    twin = pickle.loads(pickle.dumps(model))
    assert type(twin.runner) is type(runner)
    assert torch.equal(twin(**inputs).logits, before)


@torch.no_grad()
def test_a_batch_of_no_documents_is_refused(run_by, runner):
    nothing, reducer = Tokens.from_lists([], None), run_by(runner)
    for pays in (None, lambda *size: False):
        message = "a batch must hold at least one document, and holds none: leave the empty batch out"
        with pytest.raises(InputError, match=f"^{message}$"):
            reduced_outputs(reducer, FirstSelector(Policy(32, 0)), nothing, 0.3, pays=pays)


def test_inference_mode_autocast_and_training_mode_in_any_order_give_no_wrong_number(runner, run_by, make_tokens):
    """Each leaves the answers of the next call as they are: what a runner has made serves one of them alone."""
    tokens, reducer, rule = make_tokens(*LENGTHS), run_by(runner), FirstSelector(Policy(32, 0))
    modes = [torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.no_grad(), torch.inference_mode()]
    with torch.no_grad():
        expected = reduced_outputs(reducer, rule, tokens, 0.3)
    for mode in modes:
        with mode:
            found = reduced_outputs(reducer, rule, tokens, 0.3)
        assert torch.equal(found.kept, expected.kept)
        near = 0.1 if isinstance(mode, torch.autocast) else 1e-5
        assert (found.outputs.detach() - expected.outputs).norm() < near * expected.outputs.norm()
    plain = reducer.encoder.plain
    plain.train()
    for part in plain.modules():
        if isinstance(part, nn.Dropout):
            part.p = 1.0
    with torch.no_grad():
        dropped = reduced_outputs(reducer, rule, tokens, 0.3).outputs
        plain.eval()
        assert not torch.allclose(dropped, expected.outputs, atol=1e-2)  # dropout is at work
        assert_close(reduced_outputs(reducer, rule, tokens, 0.3).outputs, expected.outputs)


@torch.no_grad()
@pytest.mark.parametrize("runner", [made() for made in RUNNERS.values()], ids=list(RUNNERS))
def test_a_saved_model_is_loaded_with_its_runner(runner, make_reducer, make_tokens, tmp_path):
    torch.manual_seed(0)
    assemble(make_reducer(POINTS), PolicySelector(Policy(32, 2)), 1000.0, 40).save_pretrained(tmp_path)
    inputs = padded(make_tokens(*LENGTHS))
    own = load(tmp_path, runner=runner.name)
    assert type(own.runner) is type(runner)
    assert own.reducer.encoder.runner is own.runner
    assert_near(own(**inputs).logits, load(tmp_path)(**inputs).logits, runner)
    assert type(load(tmp_path).runner) is Eager


def test_every_runner_is_made_by_its_name():
    assert {"eager": Eager, "compiled": Compiled, "graphed": Graphed, "int8": Int8} == RUNNERS
    for name, made in RUNNERS.items():
        assert type(runner_of(name)) is made
        assert made.name == name
        assert runner_of(name) is not runner_of(name)  # what one model compiles is no other's


def test_an_unknown_runner_is_refused_before_anything_is_read(tmp_path):
    message = "runner must be one of eager, compiled, graphed, int8, and is 'Eager': 'eager' is the default"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        runner_of("Eager")
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load(tmp_path / "gone", runner="Eager")


@pytest.mark.parametrize("name", ["eager", "compiled"])
def test_gradients_pass(name, run_by, make_tokens):
    reducer = run_by(runner_of(name))
    reducer.unreduced_outputs(make_tokens(5)).sum().backward()
    assert all(layer.output.dense.weight.grad.abs().sum() > 0 for layer in reducer.encoder.layers)
