"""Token ids of many documents as one row, on rows small enough to read."""

import re

import pytest
import torch

from trbert.errors import InputError
from trbert.packed.tokens import Tokens, spans

T, F = True, False


def test_lists_become_one_row_with_first_tokens_protected():
    tokens = Tokens.from_lists([[5, 6, 7], [8], [9, 10]], [[0, 0, 1], [0], [0, 1]])
    assert tokens.input_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert tokens.token_type_ids.tolist() == [0, 0, 1, 0, 0, 1]
    assert tokens.protected.tolist() == [T, F, F, T, T, F]
    assert tokens.offsets.tolist() == [0, 3, 4, 6]
    assert tokens.lengths.tolist() == [3, 1, 2]
    assert len(tokens) == 3


def test_a_document_without_tokens_is_refused():
    with pytest.raises(InputError, match=r"^document 1 has no token: leave it out$"):
        Tokens.from_lists([[5], [], [6]], None)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_on_either_side_is_left_out(side):
    pad = {"right": lambda row, fill: row + fill, "left": lambda row, fill: fill + row}[side]
    ids = torch.tensor([pad([5, 6], [0, 0]), [7, 8, 9, 10], pad([11], [0, 0, 0])])
    types = torch.tensor([pad([0, 1], [3, 3]), [0, 1, 0, 1], pad([1], [3, 3, 3])])
    mask = torch.tensor([pad([1, 1], [0, 0]), [1, 1, 1, 1], pad([1], [0, 0, 0])])
    tokens = Tokens.from_padded(ids, mask, types)
    assert tokens.input_ids.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert tokens.token_type_ids.tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert tokens.offsets.tolist() == [0, 2, 6, 7]
    assert tokens.protected.tolist() == [T, F, T, F, F, F, T]


def test_a_padded_batch_without_mask_is_all_text():
    tokens = Tokens.from_padded(torch.tensor([[5, 0], [6, 7]]))
    assert tokens.input_ids.tolist() == [5, 0, 6, 7]
    assert tokens.token_type_ids is None


def test_a_row_of_padding_alone_is_refused():
    message = "document 1 of the batch has no token: its attention_mask is all 0; leave it out"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Tokens.from_padded(torch.ones(3, 2, dtype=torch.long), torch.tensor([[1, 0], [0, 0], [0, 0]]))


def test_a_mask_of_another_shape_is_refused():
    message = (
        "attention_mask must have the shape of input_ids (2, 3), and has (2, 1, 1, 3): "
        "pass the tokenizer's own 0/1 mask"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Tokens.from_padded(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 1, 1, 3))


def test_types_of_another_shape_are_refused():
    ids = torch.ones(2, 3, dtype=torch.long)
    message = (
        "token_type_ids must have the shape of input_ids (2, 3), and have (2, 2): pass the tokenizer's own, or none"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Tokens.from_padded(ids, None, ids[:, :2])


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (
            torch.ones(3, dtype=torch.long),
            "input_ids must have two dimensions, documents and their tokens, and have the shape (3,): pass a batch, "
            "for a single text input_ids[None]",
        ),
        (
            torch.ones(0, 3, dtype=torch.long),
            "input_ids must hold at least one document, and hold none: leave the empty batch out",
        ),
        (
            torch.ones(2, 3),
            "input_ids must be of type int64 or int32, and are of type float32: pass the tokenizer's own",
        ),
    ],
)
def test_a_batch_that_is_none_is_refused(ids, told):
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        Tokens.from_padded(ids)


def test_ids_of_32_bits_are_taken():
    ids = torch.tensor([[7, 8]], dtype=torch.int32)
    assert Tokens.from_padded(ids, None, ids).input_ids.tolist() == [7, 8]


def test_segment_ids_that_are_no_whole_numbers_are_refused():
    told = "token_type_ids must be of type int64 or int32, and are of type float32: pass the tokenizer's own"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        Tokens.from_padded(torch.tensor([[7, 8]]), None, torch.zeros(1, 2))


def test_a_mask_to_be_added_to_logits_is_refused():
    # Read as 0/1 it would keep the padding and drop the text.
    added = torch.tensor([[0.0, 0.0, -1e4]])
    with pytest.raises(InputError, match=r"^attention_mask must hold only 0 and 1, and holds other values: pass"):
        Tokens.from_padded(torch.ones(1, 3, dtype=torch.long), added)


@pytest.mark.parametrize("hole", [[1, 0, 1, 1], [0, 1, 0, 1]])
def test_a_mask_with_a_hole_is_refused(hole):
    # Without its place the token after it would have another position than in the plain model.
    told = (
        "the tokens of a document must lie side by side, and the attention_mask of document 1 has a 0 between two of "
        "them: padding stands before or after a document; put the tokenizer's mask token in place of tokens that are "
        "to be hidden, or leave them out"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        Tokens.from_padded(torch.ones(2, 4, dtype=torch.long), torch.tensor([[1, 1, 1, 0], hole]))


def test_padding_may_stand_on_both_sides():
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]])
    assert Tokens.from_padded(torch.arange(12).view(3, 4), mask).input_ids.tolist() == [1, 2, 4, 5, 6, 7, 11]


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32])
def test_a_mask_may_be_of_any_kind(kind):
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).to(kind)
    assert Tokens.from_padded(torch.ones(2, 3, dtype=torch.long), mask).lengths.tolist() == [2, 1]


def test_documents_are_taken_in_the_given_order():
    tokens = Tokens.from_lists([[5, 6, 7], [8], [9, 10]], [[0, 0, 1], [0], [0, 1]])
    tokens.protected[2] = True
    taken = tokens.take(torch.tensor([2, 0, 2]))
    assert taken.input_ids.tolist() == [9, 10, 5, 6, 7, 9, 10]
    assert taken.token_type_ids.tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert taken.protected.tolist() == [T, F, T, F, T, T, F]
    assert taken.offsets.tolist() == [0, 2, 5, 7]


def test_a_row_without_types_is_taken_without():
    tokens = Tokens.from_lists([[5, 6], [7]], None).take(torch.tensor([1]))
    assert tokens.input_ids.tolist() == [7]
    assert tokens.token_type_ids is None


def test_no_document_may_be_taken():
    taken = Tokens.from_lists([[5, 6], [7]], None).take(torch.tensor([], dtype=torch.long))
    assert len(taken) == 0
    assert taken.input_ids.tolist() == []
    assert taken.offsets.tolist() == [0]


def test_the_places_of_documents_are_those_of_their_tokens_in_the_row():
    tokens = Tokens.from_lists([[5, 6, 7], [8], [9, 10]], None)
    # The documents stand at 0 to 2, at 3, and at 4 to 5.
    assert tokens.index_of(torch.tensor([2, 0, 2])).tolist() == [4, 5, 0, 1, 2, 4, 5]
    assert tokens.index_of(torch.tensor([1])).tolist() == [3]
    assert tokens.index_of(torch.tensor([], dtype=torch.long)).tolist() == []


def test_a_repeated_row_is_all_documents_and_then_all_of_them_again():
    tokens = Tokens.from_lists([[5, 6], [7]], [[0, 1], [0]])
    tokens.protected[1] = True
    repeated = tokens.repeat(3)
    assert repeated.input_ids.tolist() == [5, 6, 7, 5, 6, 7, 5, 6, 7]
    assert repeated.token_type_ids.tolist() == [0, 1, 0] * 3
    assert repeated.protected.tolist() == [T, T, T] * 3
    assert repeated.offsets.tolist() == [0, 2, 3, 5, 6, 8, 9]


def test_spans_are_counted_from_their_starts_one_after_the_other():
    index, offsets = spans(torch.tensor([7, 0, 4]), torch.tensor([2, 1, 3]))
    assert index.tolist() == [7, 8, 0, 4, 5, 6]
    assert offsets.tolist() == [0, 2, 3, 6]


def test_a_span_of_no_places_takes_none():
    index, offsets = spans(torch.tensor([7, 3, 4]), torch.tensor([1, 0, 2]))
    assert index.tolist() == [7, 4, 5]
    assert offsets.tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize("types", [None, [[0, 1], [0]]])
def test_a_row_moves_whole_to_another_device(types):
    moved = Tokens.from_lists([[5, 6], [7]], types).to("meta")
    parts = [moved.input_ids, moved.protected, moved.offsets, *([] if types is None else [moved.token_type_ids])]
    assert all(part.device.type == "meta" for part in parts)
    assert (moved.token_type_ids is None) == (types is None)
