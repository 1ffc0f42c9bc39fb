"""What the embeddings of an encoder can read: ids, segments, lengths."""

import re

import pytest
import torch

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.packed.tokens import Tokens

NO_TOKEN = (
    "token ids must be from 0 to 59, because the model's table of embeddings has 60 rows, and one is {}: use the "
    "model's own tokenizer; where tokens were added to it, call model.resize_token_embeddings(len(tokenizer)), and "
    "save the model again"
)
NO_SEGMENT = (
    "token_type_ids must be from 0 to 1, because the model knows 2 segments, and one is {}: use the model's own "
    "tokenizer"
)
TOO_LONG = "a document may have at most 40 tokens for this model, and one has 41: tokenise with truncation=True"


@pytest.mark.parametrize("id", [60, -1])
@pytest.mark.parametrize("reads", [Encoder.check_tokens, Encoder.embed], ids=["check", "embed"])
def test_a_token_beyond_the_table_is_said(encoder, reads, id):
    tokens = Tokens.from_lists([[7, 8], [9, id, 10]], None)
    with pytest.raises(InputError, match=f"^{re.escape(NO_TOKEN.format(id))}$"):
        reads(encoder, tokens)


@pytest.mark.parametrize("kind", [2, -1])
@pytest.mark.parametrize("reads", [Encoder.check_tokens, Encoder.embed], ids=["check", "embed"])
def test_a_segment_beyond_those_that_the_model_knows_is_said(encoder, reads, kind):
    tokens = Tokens.from_lists([[7, 8], [9, 10]], [[0, 1], [0, kind]])
    with pytest.raises(InputError, match=f"^{re.escape(NO_SEGMENT.format(kind))}$"):
        reads(encoder, tokens)


@pytest.mark.parametrize("reads", [Encoder.check_tokens, Encoder.embed], ids=["check", "embed"])
def test_a_document_too_long_is_said_wherever_positions_are_learned(family_config, build_model, reads):
    family_config.vocab_size = 60
    encoder = Encoder(build_model(family_config))
    longest = encoder.max_tokens
    reads(encoder, Tokens.from_lists([[7] * longest, [8]], None))
    longer = Tokens.from_lists([[8], [7] * (longest + 1)], None)
    if not encoder.family.learns_positions(family_config):
        reads(encoder, longer)
        return
    told = TOO_LONG.replace("40", str(longest)).replace("41", str(longest + 1))
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        reads(encoder, longer)


@torch.no_grad()
def test_segments_are_not_read_where_the_model_knows_none_or_one(family_config, build_model):
    if hasattr(family_config, "type_vocab_size"):
        family_config.type_vocab_size = 1
    encoder = Encoder(build_model(family_config))
    pair = Tokens.from_lists([[7, 8, 9, 10]], [[0, 0, 1, 1]])
    encoder.check_tokens(pair)
    assert torch.equal(encoder.embed(pair).hidden, encoder.embed(Tokens.from_lists([[7, 8, 9, 10]], None)).hidden)


@torch.no_grad()
def test_segments_are_read_where_the_model_knows_two(encoder):
    encoder.check_tokens(pair := Tokens.from_lists([[7, 8, 9, 10]], [[0, 0, 1, 1]]))
    assert not torch.equal(encoder.embed(pair).hidden, encoder.embed(Tokens.from_lists([[7, 8, 9, 10]], None)).hidden)


def test_other_errors_of_the_embeddings_are_not_hidden(encoder, monkeypatch):
    def fails(*_, **__):
        raise IndexError("something else")

    monkeypatch.setattr(encoder.base.embeddings, "forward", fails)
    with pytest.raises(IndexError, match=r"^something else$"):
        encoder.embed(Tokens.from_lists([[7, 8]], None))
