"""Packing, dropping and splitting, on rows small enough to read."""

import pytest
import torch

from trbert.packed.batch import document_sums, gather_kept, split_documents, start_batch
from trbert.packed.tokens import Tokens

T, F = True, False


def numbered(*lengths):
    """Returns a batch whose states are 0, 1, 2, … along the row, one column."""
    tokens = Tokens.from_lists([[9] * length for length in lengths], None)
    return start_batch(tokens, torch.arange(sum(lengths), dtype=torch.float)[:, None])


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


def test_new_states_keep_the_tokens():
    batch = gather_kept(numbered(3, 2), torch.tensor([[T, F, T, T, T]]))
    newer = batch.with_hidden(torch.zeros(4, 7))
    assert newer.hidden.shape == (4, 7)
    assert newer.segments == [2, 2]
    assert newer.offsets is batch.offsets


def test_attention_received_is_that_of_the_states_it_came_with():
    batch = numbered(3, 2)
    received = torch.tensor([0.5, 0.3, 0.2, 0.9, 0.1])
    heard = batch.with_hidden(batch.hidden, received)
    assert batch.received is None
    assert heard.received is received
    # Neither newer states nor fewer tokens: what was received belongs to one layer's output.
    assert heard.with_hidden(batch.hidden).received is None
    assert gather_kept(heard, torch.ones(1, 5, dtype=torch.bool)).received is None


def test_each_remaining_token_knows_its_place_in_the_unreduced_row():
    batch = numbered(3, 1, 2)
    assert batch.original_index.tolist() == [0, 1, 2, 3, 4, 5]
    kept = gather_kept(batch, torch.tensor([[T, F, T, T, T, F], [T, T, F, T, T, T]]))
    # The second sample's documents stand six places on. The states are the places of the first sample's row.
    assert kept.original_index.tolist() == [0, 2, 3, 4, 6, 7, 9, 10, 11]
    assert (kept.original_index % 6).tolist() == kept.hidden[:, 0].tolist()
    # One document has lost all of its tokens, and still takes its three places.
    assert gather_kept(batch, torch.tensor([[F, F, F, T, F, T]])).original_index.tolist() == [3, 5]


def test_the_states_of_each_document_are_summed():
    batch = numbered(3, 1, 2)
    assert document_sums(batch, batch.hidden).tolist() == [[0 + 1 + 2], [3], [4 + 5]]
    kept = gather_kept(batch, torch.tensor([[F, F, F, T, F, T]]))
    assert document_sums(kept, kept.hidden).tolist() == [[0], [3], [5]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_sums_of_many_states_are_exact_in_every_arithmetic(dtype, make_batch):
    batch = make_batch(3000, 1)
    sums = document_sums(batch, torch.ones(3001, 2, dtype=dtype))
    assert sums.tolist() == [[3000.0, 3000.0], [1.0, 1.0]]
    assert sums.dtype == torch.promote_types(dtype, torch.float32)
