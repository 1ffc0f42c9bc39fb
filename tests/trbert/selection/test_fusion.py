"""What is dropped leaves its mean in the first token."""

from itertools import count

import pytest
import torch
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.packed.batch import document_sums, gather_kept, start_batch
from trbert.packed.tokens import Tokens
from trbert.selection.fusion import Fusion
from trbert.selection.policy import Policy
from trbert.selection.selectors import FirstSelector

POINTS = (0, 2)
FIRST = FirstSelector(Policy(32, 0))


def far_from_zero(dim):
    torch.manual_seed(0)
    fusion = Fusion(dim, len(POINTS))
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return fusion


@pytest.fixture
def fusion():
    """Maps for the tiny BERT."""
    return far_from_zero(32)


def test_two_documents_by_hand():
    hidden = torch.tensor([[1.0, 0.0], [2.0, 4.0], [4.0, 8.0], [9.0, 9.0], [5.0, 5.0]])
    batch = start_batch(Tokens.from_lists([[7, 8, 9], [7, 8]], None), hidden)
    kept = gather_kept(batch, torch.tensor([[True, False, False, True, True]]))
    fusion = Fusion(2, 2)
    assert torch.equal(fusion(batch, kept, 1).hidden, kept.hidden)  # as it starts
    with torch.no_grad():
        fusion.maps[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 10.0]]))
    # The mean of (2, 4) and (4, 8) is (3, 6); the second document drops nothing.
    told = torch.tensor([[1.0 + 3.0, 60.0], [9.0, 9.0], [5.0, 5.0]])
    assert torch.equal(fusion(batch, kept, 1).hidden, told)
    assert torch.equal(fusion(batch, kept, 0).hidden, kept.hidden)  # each point has a map of its own


def test_the_mean_is_over_what_this_point_drops_not_over_what_an_earlier_one_dropped():
    hidden = torch.tensor([[1.0, 0.0], [7.0, 7.0], [2.0, 4.0], [4.0, 8.0], [9.0, 9.0], [5.0, 5.0]])
    batch = start_batch(Tokens.from_lists([[7, 8, 9, 9], [7, 8]], None), hidden)
    earlier = gather_kept(batch, torch.tensor([[True, False, True, True, True, False]]))
    fusion = Fusion(2, 2)
    with torch.no_grad():
        fusion.maps[1].weight.copy_(torch.eye(2))
    now = gather_kept(earlier, torch.tensor([[True, False, False, True]]))
    # (7, 7) and (5, 5) are gone already. The mean of (2, 4) and (4, 8) is (3, 6); the second document drops nothing.
    assert torch.equal(fusion(earlier, now, 1).hidden, torch.tensor([[4.0, 6.0], [9.0, 9.0]]))


def test_where_nothing_is_dropped_two_sums_that_differ_add_nothing(monkeypatch):
    # A GPU may add the same states in another order, so that two sums of them differ. Here they differ by 1.
    error = count()
    monkeypatch.setattr(
        "trbert.selection.fusion.document_sums", lambda batch, states: document_sums(batch, states) + next(error)
    )
    batch = start_batch(Tokens.from_lists([[7, 8], [9]], None), torch.tensor([[2.0], [4.0], [8.0]]))
    fusion = Fusion(1, 1)
    with torch.no_grad():
        fusion.maps[0].weight.fill_(1.0)
    # The first document drops 4: 2 + (6 - (2 + 1)) / 1 = 5. The second drops nothing, so the difference is not added.
    kept = gather_kept(batch, torch.tensor([[True, False, True]]))
    assert fusion(batch, kept, 0).hidden.flatten().tolist() == [5.0, 8.0]


def test_in_half_precision_the_mean_is_of_sums_in_float32():
    # bfloat16 has steps of 2 from 256 on: in it, 256 + 1 is 256, and neither sum would see the ones.
    batch = start_batch(
        Tokens.from_lists([[7, 8, 9, 9]], None), torch.tensor([[256.0], [1.0], [1.0], [1.0]]).bfloat16()
    )
    fusion = Fusion(1, 1).bfloat16()
    with torch.no_grad():
        fusion.maps[0].weight.fill_(100.0)
    # Two ones are dropped, their mean is 1: 256 + 100 · 1.
    kept = gather_kept(batch, torch.tensor([[True, True, False, False]]))
    assert fusion(batch, kept, 0).hidden.flatten().tolist() == [356.0, 1.0]


def test_several_samples_are_each_alone(make_batch):
    batch, fusion = make_batch(5, 9), far_from_zero(8)
    masks = torch.rand(3, 14, generator=torch.Generator().manual_seed(0)) < 0.5
    masks |= batch.protected
    together = fusion(batch, gather_kept(batch, masks), 0)
    alone = [fusion(batch, gather_kept(batch, mask[None]), 0).hidden for mask in masks]
    assert_close(together.hidden, torch.cat(alone))


def test_its_maps_get_the_gradient_of_what_they_add(make_batch):
    batch, fusion = make_batch(5, 9), far_from_zero(8)
    mask = batch.protected | (torch.arange(14) < 3)
    fusion(batch, gather_kept(batch, mask[None]), 0).hidden.sum().backward()
    means = torch.stack([batch.hidden[3:5].mean(0), batch.hidden[6:].mean(0)])
    assert_close(fusion.maps[0].weight.grad, means.sum(0).expand(8, -1))
    assert fusion.maps[1].weight.grad is None


@torch.no_grad()
def test_with_all_tokens_kept_it_changes_nothing(fusion, make_reducer, make_tokens):
    tokens = make_tokens(5, 9)
    plain, fused = (
        [reducer.run(FIRST, tokens, dial).batch.hidden for dial in (FIRST.keep_all, 0.3)]
        for reducer in (make_reducer(POINTS), make_reducer(POINTS, fusion))
    )
    assert torch.equal(plain[0], fused[0])
    assert not torch.allclose(plain[1], fused[1], atol=1e-2)


@torch.no_grad()
def test_each_point_of_a_pass_has_its_map(fusion, make_reducer, make_tokens):
    fusion.maps[0].weight.zero_()
    plain, fused = make_reducer(POINTS), make_reducer(POINTS, fusion)
    state = plain.enter(make_tokens(5, 9))
    some = (state.batch.protected | (torch.arange(14) % 2 == 0))[None]
    first = plain.advance(state, some)
    assert torch.equal(fused.advance(state, some).batch.hidden, first.batch.hidden)
    none = first.batch.protected[None]
    last = [reducer.advance(first, none).batch.hidden for reducer in (plain, fused)]
    assert not torch.allclose(*last, atol=1e-2)


@torch.no_grad()
def test_batch_mates_do_not_enter(fusion, make_reducer, make_tokens):
    reducer, tokens = make_reducer(POINTS, fusion), make_tokens(7, 12, 3)
    logits = reducer.outputs(reducer.run(FIRST, tokens, 0.3))
    for document in range(3):
        alone = reducer.run(FIRST, tokens.take(torch.tensor([document])), 0.3)
        assert_close(reducer.outputs(alone), logits[document : document + 1])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_runs_in_the_arithmetic_of_its_encoder(dtype, fusion, bert, make_reducer, make_tokens):
    reducer = make_reducer(POINTS, fusion.to(dtype), Encoder(bert.to(dtype)))
    hidden = reducer.run(FIRST, make_tokens(5, 9), 0.3).batch.hidden
    assert hidden.dtype == dtype
    assert hidden.isfinite().all()


def test_none_has_no_maps_and_gives_back_what_was_kept(make_batch):
    batch = make_batch(5)
    kept = gather_kept(batch, batch.protected[None])
    assert not list(Fusion.none().parameters())
    assert Fusion.none()(batch, kept, 3) is kept
