"""Pooled states, by hand and against the arithmetic of sentence-transformers."""

import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.packed.heads import has_head, plain_outputs, pooled, pooling_of
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import FirstSelector
from trbert.tasks import TASKS

STATES = torch.tensor([[[3.0, 0.0], [1.0, 4.0], [9.0, 9.0]], [[9.0, 9.0], [0.0, 5.0], [6.0, 7.0]]])
"""Two documents of two tokens: the first is padded on the right, and the second on the left."""
MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])
POOLINGS = [("mean", False), ("mean", True), ("first", False), ("first", True)]


@pytest.fixture
def build_encoder(build_model):
    """A function: configuration, pooling, normalised -> an encoder without a head, with random weights."""

    def build(config, pooling="mean", normalised=True):
        model = transformers.AutoModel.from_config(config).eval()
        model.load_state_dict(build_model(config).base_model.state_dict(), strict=False)
        model.config.pooling, model.config.normalised = pooling, normalised
        return model

    return build


@pytest.mark.parametrize(
    ("pooling", "normalised", "expected"),
    [
        ("mean", False, [[2.0, 2.0], [3.0, 6.0]]),
        ("mean", True, [[0.5**0.5, 0.5**0.5], [0.2**0.5, 0.8**0.5]]),
        ("first", False, [[3.0, 0.0], [0.0, 5.0]]),
        ("first", True, [[1.0, 0.0], [0.0, 1.0]]),
    ],
)
def test_a_vector_is_pooled_from_tokens_and_never_from_padding(pooling, normalised, expected, build_encoder, config_of):
    plain = build_encoder(config_of("bert"), pooling, normalised)
    assert_close(pooled(plain, STATES, MASK), torch.tensor(expected))


def test_a_model_with_a_head_has_no_pooling(bert, build_encoder, config_of):
    assert has_head(bert)
    assert pooling_of(bert) is None
    plain = build_encoder(config_of("bert"), "first")
    assert not has_head(plain)
    assert pooling_of(plain) == ("first", True)


def padded(tokens, config):
    mask = torch.arange(int(tokens.lengths.max())) < tokens.lengths[:, None]
    ids, types = torch.zeros(mask.shape, dtype=torch.long), torch.zeros(mask.shape, dtype=torch.long)
    ids[mask], types[mask] = tokens.input_ids, tokens.token_type_ids
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    return inputs | ({"token_type_ids": types} if getattr(config, "type_vocab_size", 1) > 1 else {})


@pytest.mark.parametrize(("pooling", "normalised"), POOLINGS)
@torch.no_grad()
def test_keeping_all_gives_the_vectors_of_sentence_transformers(
    pooling, normalised, family_config, build_encoder, make_tokens
):
    plain, tokens = build_encoder(family_config, pooling, normalised), make_tokens(7, 12, 3, config=family_config)
    inputs = padded(tokens, family_config)
    states, mask = plain(**inputs).last_hidden_state, inputs["attention_mask"][..., None].float()
    expected = states[:, 0]
    if pooling == "mean":
        expected = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    if normalised:
        expected = torch.nn.functional.normalize(expected, p=2, dim=1)
    assert expected.std() > 0.05
    assert torch.equal(plain_outputs(plain, inputs), expected)
    reducer = Reducer(encoder=Encoder(plain), task=TASKS["embedding"], points=(1, 2))
    first = FirstSelector(Policy(1, 0))
    assert_close(reducer.unreduced_outputs(tokens), expected, rtol=1e-4, atol=2e-5)
    assert_close(reducer.outputs(reducer.run(first, tokens, first.keep_all)), expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_a_dropped_token_is_no_part_of_the_mean(build_encoder, config_of, make_tokens):
    plain, tokens = build_encoder(config_of("bert"), normalised=False), make_tokens(7, 12, 3)
    reducer = Reducer(encoder=Encoder(plain), task=TASKS["embedding"], points=(1, 3))
    finished = reducer.run(FirstSelector(Policy(1, 0)), tokens, 0.5)
    counts = finished.kept[-1].tolist()
    assert sum(counts) < 22
    expected = torch.stack([states.mean(0) for states in finished.batch.hidden.split(counts)])
    assert_close(reducer.outputs(finished), expected)
