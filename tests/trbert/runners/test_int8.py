"""Linear layers in int8: exact where the codes are, bounded elsewhere, and each token's own affair."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.cost import CostModel
from trbert.modeling import assemble, load
from trbert.runners import int8
from trbert.runners.int8 import Int8, Int8Linear, is_quantised
from trbert.selection.policy import Policy
from trbert.selection.selectors import PolicySelector


def linear(inner, outer, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(inner, outer, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def random_row(tokens, width, seed=1):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        # Scales by channel 1/127 and 2/127; codes (127, -64) and (127, 0).
        layer.weight.copy_(torch.tensor([[1.0, -64 / 127], [2.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
    # Scales by token 1/127 and 100/127; codes (127, 127) and (127, -64), the latter of -50/100 · 127 = -63.5.
    states = torch.tensor([[1.0, 1.0], [100.0, -50.0]])
    expected = [
        [(127 * 127 - 64 * 127) / 127**2 + 0.5, 2 * 127 * 127 / 127**2 - 1],
        [100 * (127 * 127 + 64 * 64) / 127**2 + 0.5, 200 * 127 * 127 / 127**2 - 1],
    ]
    assert_close(Int8Linear(layer)(states), torch.tensor(expected))


@pytest.mark.parametrize("bias", [True, False])
def test_the_error_is_within_half_a_step_of_each_factor(bias):
    layer, states = linear(48, 20, bias), random_row(7, 48)
    got = Int8Linear(layer)(states)
    # |xw − x̂ŵ| ≤ |x| δw + |w| δx + δx δw, with δ half of a scale.
    half_w = layer.weight.abs().amax(1) / 254
    half_x = states.abs().amax(1, keepdim=True) / 254
    bound = states.abs().sum(1, keepdim=True) * half_w + half_x * layer.weight.abs().sum(1) + 48 * half_x * half_w
    error = (got - layer(states)).abs()
    assert (error <= bound + 1e-4).all()
    assert error.max() > 1e-4  # it is int8 indeed


def test_a_tokens_result_depends_on_that_token_alone():
    layer, states = Int8Linear(linear(48, 20)), random_row(9, 48)
    together = layer(torch.cat([1000 * random_row(1, 48, seed=2), states]))[1:]
    assert torch.equal(together, layer(states))
    assert torch.equal(layer(states[4:5]), together[4:5])


def test_a_row_in_pieces_is_the_row(monkeypatch):
    layer, states = Int8Linear(linear(48, 20)), random_row(50, 48)
    whole = layer(states)
    monkeypatch.setattr(int8, "_BLOCK_BYTES", 4 * (48 + 20) * 7)  # pieces of seven tokens
    assert torch.equal(layer(states), whole)


def test_zeros_give_the_bias():
    layer = linear(8, 3)
    assert_close(Int8Linear(layer)(torch.zeros(1, 2, 8)), layer.bias.expand(1, 2, 3))
    nn.init.zeros_(layer.weight)
    assert_close(Int8Linear(layer)(torch.ones(2, 8)), layer.bias.expand(2, 3))


def test_the_scale_of_a_row_is_its_largest_size_over_127_and_1_for_zeros():
    # Dividing by a scale of 0 would give no number, and what int8 code that becomes depends on the processor.
    assert int8._scale(torch.tensor([[0.0, 0.0], [127.0, -254.0]])).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_used_layer_copies_and_pickles(twin):
    layer, states = Int8Linear(linear(48, 20)), random_row(3, 48)
    expected = layer(states)
    assert torch.equal(twin(layer)(states), expected)


def test_half_precision_goes_in_and_comes_out():
    layer, states = linear(48, 20), random_row(5, 48)
    half = Int8Linear(layer).bfloat16()(states.bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), layer(states), atol=0.6, rtol=0.02)  # outputs are about 7 wide


# A whole encoder.


def quantise(encoder):
    encoder.runner = Int8()
    encoder.runner.adopt(encoder.plain, encoder.layers)


def test_every_family_runs_in_int8_near_its_float32_self(build_model, family_config, make_tokens, make_reducer):
    reducer = make_reducer(encoder=Encoder(build_model(family_config)))
    tokens = make_tokens(9, 14, 3, config=family_config)
    with torch.no_grad():
        exact = reducer.unreduced_outputs(tokens)
        quantise(reducer.encoder)
        near = reducer.unreduced_outputs(tokens)
    layers = [module for layer in reducer.encoder.layers for module in layer.modules()]
    assert any(isinstance(module, Int8Linear) for module in layers)
    assert not any(isinstance(module, nn.Linear) for module in layers)
    assert 0 < (near - exact).norm() < 0.2 * exact.norm()


def test_its_flops_are_its_float32_selfs(make_reducer):
    reducer = make_reducer()
    exact = CostModel.of(reducer)
    quantise(reducer.encoder)
    assert CostModel.of(reducer) == exact


def test_batch_mates_do_not_enter(make_reducer, make_tokens):
    reducer, tokens = make_reducer(), make_tokens(9, 14, 3, 1)
    quantise(reducer.encoder)
    together = reducer.unreduced_outputs(tokens)
    for document in range(len(tokens)):
        alone = reducer.unreduced_outputs(tokens.take(torch.tensor([document])))
        assert_close(alone, together[document : document + 1])


@pytest.fixture
def saved(make_reducer, tmp_path):
    policy = Policy(32, 2, width=8)
    for head in policy.heads:
        nn.init.normal_(head.linear_1.weight, generator=torch.Generator().manual_seed(0))
        nn.init.normal_(head.linear_2.weight, generator=torch.Generator().manual_seed(1))
    assemble(make_reducer((0, 2)), PolicySelector(policy), 0.0, max_tokens=40).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_is_loaded_in_int8(saved):
    exact, fast = load(saved), load(saved, runner="int8")
    ids = torch.randint(5, 60, (4, 12), generator=torch.Generator().manual_seed(0))
    assert is_quantised(fast)
    assert not is_quantised(exact)
    assert not any(isinstance(module, Int8Linear) for module in [*fast.policy.modules(), fast.plain.classifier])
    logits = fast(ids).logits  # gradients on: an int8 layer passes none
    assert not logits.requires_grad
    assert (logits - exact(ids).logits).abs().max() < 0.15 * exact(ids).logits.std()


def test_an_int8_model_cannot_be_saved(saved, tmp_path):
    model = load(saved, runner="int8")
    with pytest.raises(InputError, match="a model in int8 cannot be saved"):
        model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_int8_elsewhere_than_on_a_cpu_is_refused(bert):
    encoder = Encoder(bert.to("meta"))
    with pytest.raises(InputError, match=r"int8 runs on a CPU .* on 'meta': load it with another runner"):
        quantise(encoder)


# Processors on which oneDNN's product of codes is not exact.


@pytest.mark.parametrize("bias", [True, False])
def test_codes_that_cannot_be_summed_exactly_are_multiplied_in_float32(bias, monkeypatch):
    layer, states = linear(48, 20, bias), random_row(7, 48)
    monkeypatch.setattr(int8, "_sums_exactly", lambda: False)
    monkeypatch.setattr(Int8Linear, "_weight", lambda self: pytest.fail("oneDNN's product was asked for"))
    scale_w, scale_x = layer.weight.abs().amax(1, keepdim=True) / 127, states.abs().amax(1, keepdim=True) / 127
    expected = ((states / scale_x).round() * scale_x) @ ((layer.weight / scale_w).round() * scale_w).T
    if bias:
        expected = expected + layer.bias
    assert_close(Int8Linear(layer)(states), expected.detach())


@pytest.mark.parametrize(
    ("capabilities", "exact"),
    [
        ({"architecture": "x86_64", "avx2": True}, False),
        ({"architecture": "x86_64", "avx2": True, "avx512_vnni": False, "avx_vnni": True}, True),
        ({"architecture": "x86_64", "avx512_vnni": True}, True),
        ({"architecture": "x86_64", "amx_int8": True}, True),
        ({"architecture": "aarch64"}, True),
    ],
)
def test_sums_are_exact_where_the_processor_adds_in_32_bits(capabilities, exact, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert int8._sums_exactly.__wrapped__() is exact
