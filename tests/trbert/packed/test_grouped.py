"""Attention on groups of documents: what it reads, learns and tells is what Hugging Face's own model does."""

import re

import pytest
import torch
import transformers
from torch.testing import assert_close

from tests.trbert.conftest import BUCKETS, CONFIGS, DISENTANGLED, SHAPE
from trbert.encoder import Encoder
from trbert.errors import UnsupportedModel
from trbert.packed.batch import gather_kept
from trbert.packed.grouped import group_documents

# Of each other's group, with padding: 22, 20 and 21. Alone: 3 and 17. Of equal length: the two of 9.
LENGTHS = (20, 3, 22, 9, 21, 17, 9)

VARIANTS = {
    **{name: make for name, make in CONFIGS.items() if name.startswith(("mpnet", "deberta"))},
    "no relative positions": lambda: deberta(relative_attention=False),
    "relative positions that nothing reads": lambda: deberta(pos_att_type=[]),
    "positions of keys alone": lambda: deberta(pos_att_type=["c2p"]),
    "positions of queries alone": lambda: deberta(pos_att_type=["p2c"]),
    "shared keys, positions of keys alone": lambda: deberta(pos_att_type=["c2p"], share_att_key=True),
    "normed": lambda: deberta(norm_rel_ebd="layer_norm"),
    "few relative positions": lambda: deberta(max_relative_positions=5),
    "a wide convolution in groups": lambda: deberta(**BUCKETS, conv_kernel_size=5, conv_groups=4),
}


def deberta(**changes):
    return transformers.DebertaV2Config(**{**SHAPE, **DISENTANGLED, **changes})


@pytest.fixture(params=list(VARIANTS))
def model(request, build_model):
    """A classifier of every kind whose attention runs on groups."""
    return build_model(VARIANTS[request.param]())


def inputs_of(tokens, model):
    mask = torch.arange(int(tokens.lengths.max())) < tokens.lengths[:, None]
    ids = torch.full(mask.shape, model.config.pad_token_id).masked_scatter(mask, tokens.input_ids)
    return {"input_ids": ids, "attention_mask": mask.long()}, mask


def test_documents_are_grouped_with_those_of_similar_length():
    groups, back = group_documents(LENGTHS, torch.device("cpu"))
    assert [group.index.shape for group in groups] == [(3, 22), (1, 17), (2, 9), (1, 3)]
    assert groups[0].real.sum(1).tolist() == [22, 21, 20]
    assert all(group.real is None for group in groups[1:])
    assert groups[2].index[:, 0].tolist() == [45, 92]  # where the documents of 9 tokens start
    row = torch.cat([group.index.flatten() for group in groups])
    assert torch.equal(row[back], torch.arange(101))
    assert groups[0].index[2, 20:].tolist() == [0, 0]  # padding has the place of its document's first token


@torch.no_grad()
def test_the_states_after_every_layer_are_the_plain_models(model, make_tokens):
    tokens = make_tokens(*LENGTHS)
    inputs, mask = inputs_of(tokens, model)
    plain = model.base_model(**inputs, output_hidden_states=True).hidden_states
    encoder = Encoder(model)
    batch = encoder.embed(bare(tokens))
    assert_close(batch.hidden, plain[0][mask])
    for index in range(4):
        batch = encoder.run_layers(batch, index, index + 1)
        assert_close(batch.hidden, plain[index + 1][mask])


@torch.no_grad()
def test_the_attention_that_is_heard_is_the_plain_models(model, make_tokens):
    tokens = bare(make_tokens(*LENGTHS))
    inputs, mask = inputs_of(tokens, model)
    model.set_attn_implementation("eager")
    weights = model.base_model(**inputs, output_attentions=True).attentions[1]
    expected = (weights.mean(1) * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    encoder = Encoder(model)
    assert_close(encoder.run_layers(encoder.embed(tokens), 0, 2, listens=True).received, expected[mask])


def test_every_weight_learns_what_it_learns_in_the_plain_model(model, make_tokens):
    tokens = bare(make_tokens(*LENGTHS))
    inputs, _ = inputs_of(tokens, model)
    model(**inputs).logits.square().sum().backward()
    plain = {name: value.grad for name, value in model.named_parameters()}
    model.zero_grad()
    encoder = Encoder(model)
    encoder.read_documents(encoder.run_layers(encoder.embed(tokens), 0, 4)).square().sum().backward()
    for name, value in model.named_parameters():
        if plain[name] is not None:
            assert_close(value.grad, plain[name], msg=lambda told, name=name: f"{name}: {told}", rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_relative_positions_count_by_original_position(model, make_tokens):
    """Tokens that layer 0 never gets are masked in the plain model, where all others keep their positions."""
    tokens = bare(make_tokens(*LENGTHS))
    kept = torch.rand(101, generator=torch.Generator().manual_seed(0)) < 0.5
    kept |= tokens.protected
    inputs, mask = inputs_of(tokens, model)
    inputs["attention_mask"] = inputs["attention_mask"].masked_scatter(mask, kept.long())
    plain = model.base_model(**inputs).last_hidden_state[mask][kept]
    encoder = Encoder(model)
    batch = gather_kept(encoder.embed(tokens), kept[None])
    found = encoder.run_layers(batch, 0, 4).hidden
    assert_close(found, plain)


def test_the_plain_model_keeps_its_own_attention(model):
    Encoder(model)
    assert model.config._attn_implementation == "eager"


def test_an_mpnet_with_another_padding_id_is_refused(config_of, build_model):
    config = config_of("mpnet")
    config.pad_token_id = 0
    message = (
        "pad_token_id must be 1 for an mpnet model, because transformers counts its positions from this id, and is 0: "
        "change it in the model's config.json"
    )
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(message)}$"):
        Encoder(build_model(config))


def bare(tokens):
    """Returns the documents with one segment each."""
    return type(tokens)(tokens.input_ids, None, tokens.protected, tokens.offsets)
