"""Packing, dropping and scattering back, on rows small enough to read."""

import re

import pytest
import torch

from trbert.errors import InputError
from trbert.packed.batch import gather_kept, scatter_back, split_documents, start_batch
from trbert.packed.tokens import Tokens

T, F = True, False


def numbered(*lengths):
    """Returns a batch whose states are 0, 1, 2, … along the row, one column."""
    tokens = Tokens.from_lists([[9] * length for length in lengths], None)
    return start_batch(tokens, torch.arange(sum(lengths), dtype=torch.float)[:, None])


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


def test_a_mask_to_be_added_to_logits_is_refused():
    # Read as 0/1 it would keep the padding and drop the text.
    added = torch.tensor([[0.0, 0.0, -1e4]])
    with pytest.raises(InputError, match=r"^attention_mask must hold 0 and 1 alone, and holds more: pass"):
        Tokens.from_padded(torch.ones(1, 3, dtype=torch.long), added)


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


def test_a_new_batch_counts_positions_within_documents():
    batch = numbered(3, 1, 2)
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.documents.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.original_lengths.tolist() == [3, 1, 2]
    assert batch.segments == [3, 1, 2]
    assert len(batch) == 3


def test_kept_tokens_stand_in_a_shorter_row():
    kept = gather_kept(numbered(3, 1, 2), torch.tensor([[T, F, T, T, T, F]]))
    assert kept.hidden[:, 0].tolist() == [0, 2, 3, 4]
    assert kept.positions.tolist() == [0, 2, 0, 0]
    assert kept.documents.tolist() == [0, 0, 1, 2]
    assert kept.protected.tolist() == [T, F, T, T]
    assert kept.offsets.tolist() == [0, 2, 3, 4]
    assert kept.lengths.tolist() == [2, 1, 1]
    assert kept.original_lengths.tolist() == [3, 1, 2]
    assert kept.hidden[kept.offsets[:-1], 0].tolist() == [0, 3, 4]


def test_positions_stay_the_original_ones_through_several_reductions():
    batch = gather_kept(numbered(5), torch.tensor([[T, F, T, T, T]]))
    assert gather_kept(batch, torch.tensor([[T, F, T, T]])).positions.tolist() == [0, 3, 4]


def test_several_masks_start_as_many_trajectories():
    fanned = gather_kept(numbered(2, 3), torch.tensor([[T, T, T, F, F], [T, F, T, F, T], [T, F, T, T, T]]))
    # Sample 0: documents 0 and 1; sample 1: documents 2 and 3; sample 2: documents 4 and 5.
    assert fanned.hidden[:, 0].tolist() == [0, 1, 2, 0, 2, 4, 0, 2, 3, 4]
    assert fanned.documents.tolist() == [0, 0, 1, 2, 3, 3, 4, 5, 5, 5]
    assert fanned.lengths.tolist() == [2, 1, 1, 2, 1, 3]
    assert fanned.original_lengths.tolist() == [2, 3] * 3
    # A further reduction of the six trajectories is one mask again.
    again = gather_kept(fanned, torch.tensor([[T, F, T, T, T, F, T, T, F, T]]))
    assert again.hidden[:, 0].tolist() == [0, 2, 0, 2, 0, 2, 4]
    assert again.lengths.tolist() == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("most", [1, 4, 5, 9, 10, 100])
def test_pieces_hold_whole_documents_and_come_to_the_row(make_batch, most):
    mask = torch.rand(1, 20, generator=torch.Generator().manual_seed(0)) < 0.6
    batch = gather_kept(make_batch(3, 9, 1, 7), mask | make_batch(3, 9, 1, 7).protected)
    pieces = split_documents(batch, most)
    assert all(len(piece.hidden) <= most or len(piece) == 1 for piece in pieces)
    for name in ("hidden", "positions", "protected", "original_lengths"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(batch, name))
    assert torch.equal(torch.cat([piece.lengths for piece in pieces]), batch.lengths)
    first = 0
    for piece in pieces:
        assert int(piece.offsets[0]) == 0
        assert torch.equal(piece.documents, torch.arange(len(piece)).repeat_interleave(piece.lengths))
        first += len(piece)
    assert first == 4


def test_gathering_then_scattering_is_the_identity():
    batch = numbered(3, 1, 5)
    for seed in range(5):
        mask = torch.rand(1, 9, generator=torch.Generator().manual_seed(seed)) < 0.5
        assert torch.equal(scatter_back(batch.hidden, gather_kept(batch, mask | batch.protected)), batch.hidden)


def test_a_kept_token_gets_its_new_state_and_a_dropped_one_keeps_the_old():
    batch = numbered(3, 1, 2)
    kept = gather_kept(batch, torch.tensor([[T, F, T, T, T, F]]))
    kept = gather_kept(kept, torch.tensor([[T, T, T, F]]))  # document 2 without any token
    newer = scatter_back(batch.hidden, kept.with_hidden(kept.hidden + 100))
    assert newer[:, 0].tolist() == [100, 1, 102, 103, 4, 5]
    assert batch.hidden[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_trajectories_scatter_into_copies_of_the_unreduced_row():
    batch = numbered(2, 2)
    kept = gather_kept(batch, torch.tensor([[T, F, T, F], [T, T, T, F]]))
    newer = scatter_back(batch.hidden.repeat(2, 1), kept.with_hidden(kept.hidden + 10))
    assert newer[:, 0].tolist() == [10, 1, 12, 3, 10, 11, 12, 3]


def test_new_states_keep_the_tokens():
    batch = gather_kept(numbered(3, 2), torch.tensor([[T, F, T, T, T]]))
    newer = batch.with_hidden(torch.zeros(4, 7))
    assert newer.hidden.shape == (4, 7)
    assert newer.segments == [2, 2]
    assert newer.offsets is batch.offsets
