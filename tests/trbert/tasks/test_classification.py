"""Classification: encoding, fidelity, quality."""

import math
import re

import pytest
import tokenizers
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close

from trbert.errors import InputError
from trbert.tasks.classification import FIDELITY_FLOOR, accuracy, encode, gold_log_likelihood

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


@pytest.fixture
def tokenizer():
    """Words a to d, [CLS] before and [SEP] after; the second text of a pair is segment 1."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def test_texts_become_one_row_of_tokens(tokenizer):
    tokens, truncated = encode(tokenizer, ["a b", "c", "d x"], 10)
    assert tokens.input_ids.tolist() == [2, 4, 5, 3, 2, 6, 3, 2, 7, 1, 3]
    assert tokens.protected.nonzero()[:, 0].tolist() == [0, 4, 7]
    assert tokens.lengths.tolist() == [4, 3, 4]
    assert truncated == 0


def test_long_texts_are_truncated_and_counted(tokenizer):
    tokens, truncated = encode(tokenizer, ["a b c d", "a b", "a b c"], 4)
    assert tokens.input_ids.tolist() == [2, 4, 5, 3] * 3
    assert truncated == 2


def test_a_pair_is_the_tokenizers_own_and_its_first_token_alone_is_protected(tokenizer):
    tokens, truncated = encode(tokenizer, ["a b", "c"], 10, ["c d a", "d"])
    assert tokens.input_ids.tolist() == [2, 4, 5, 3, 6, 7, 4, 3, 2, 6, 3, 7, 3]
    assert tokens.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1]
    assert tokens.protected.nonzero()[:, 0].tolist() == [0, 8]
    assert truncated == 0


def test_of_a_long_pair_the_longer_text_is_truncated(tokenizer):
    # Six tokens, three of them special: the one-word text stays, whichever it is.
    tokens, truncated = encode(tokenizer, ["a b c d", "a", "a b"], 6, ["d", "d c b a", "d"])
    assert tokens.input_ids.tolist() == [2, 4, 5, 3, 7, 3, 2, 4, 3, 7, 6, 3, 2, 4, 5, 3, 7, 3]
    assert tokens.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert truncated == 2


def test_a_pair_has_no_segments_where_the_tokenizer_gives_none(tokenizer):
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert encode(tokenizer, ["a"], 8, ["b"])[0].token_type_ids is None


def test_an_empty_text_is_its_special_tokens(tokenizer):
    assert encode(tokenizer, [""], 4)[0].input_ids.tolist() == [2, 3]


def test_a_length_without_room_for_text_is_refused(tokenizer):
    message = "max_length must be more than the 2 special tokens, and is 2"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        encode(tokenizer, ["a"], 2)
    with pytest.raises(InputError, match=r"^max_length must be more than the 3 special tokens, and is 3$"):
        encode(tokenizer, ["a"], 3, ["b"])


def test_no_text_is_refused(tokenizer):
    message = "texts must not be empty: pass at least one document"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        encode(tokenizer, [], 8)


def test_fidelity_is_the_labels_log_probability_down_to_a_floor():
    # softmax(log 1, log 3) = (1/4, 3/4); a label at odds e^-20 would be worth -20 nats.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [0.0, -20.0]])
    expected = torch.tensor([math.log(0.25), math.log(0.75), -5.0])
    assert_close(gold_log_likelihood(logits, torch.tensor([0, 1, 1])), expected)
    assert FIDELITY_FLOOR == -5.0


def test_accuracy_by_hand():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1])) == pytest.approx(2 / 3)
