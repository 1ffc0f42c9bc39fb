"""The reduced forward pass: where it may drop, and that its stages are those of one pass."""

import re

import pytest
import torch
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.packed.batch import start_batch
from trbert.selection.fusion import Fusion
from trbert.selection.reduction import advance, check_points, enter, reduced_forward
from trbert.selection.selectors import FirstSelector


@pytest.mark.parametrize("points", [(0,), (3,), (0, 2), (0, 1, 2, 3)])
def test_rising_layers_of_the_model_are_points(points):
    check_points(points, 4)


@pytest.mark.parametrize("points", [(), (2, 1), (1, 1), (-1, 2), (0, 4)])
def test_other_points_are_refused(points):
    message = (
        f"points must be rising layer indices from 0 to 3, and are {points}: "
        "use for example (0, 2), to drop after the embeddings and before layer 2"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_points(points, 4)


@torch.no_grad()
@pytest.mark.parametrize("points", [(0,), (1, 2), (0, 1, 2, 3)])
def test_keeping_all_at_any_points_is_the_plain_pass(points, encoder, make_tokens):
    tokens = make_tokens(5, 9)
    plain = encoder.run_layers(encoder.embed(tokens), 0, 4)
    reduced = reduced_forward(encoder, FirstSelector(), tokens, points, 1.0)
    assert_close(reduced.batch.hidden, plain.hidden)
    assert reduced.kept.tolist() == [[5, 9]] * len(points)


@torch.no_grad()
def test_several_masks_advance_as_many_trajectories(encoder, make_tokens):
    tokens = make_tokens(5, 9)
    masks = torch.rand(3, 14, generator=torch.Generator().manual_seed(0)) < 0.5
    masks |= tokens.protected
    batch = enter(encoder, tokens, (1, 3))
    together = encoder.logits(advance(encoder, batch, masks, 1, (0, 1)))
    alone = [encoder.logits(advance(encoder, batch, mask[None], 1, (0, 1))) for mask in masks]
    assert_close(together, torch.cat(alone))


def test_gates_scale_the_states_that_are_kept(encoder, make_tokens):
    tokens = make_tokens(5, 9)
    mask = tokens.protected | (torch.arange(14) % 3 == 1)
    gates = torch.linspace(0.5, 2.0, int(mask.sum()), requires_grad=True)
    batch = enter(encoder, tokens, (1, 3))
    gated = encoder.logits(advance(encoder, batch, mask[None], 0, (1, 3), gates=gates))
    scaled = batch.hidden.clone()
    scaled[mask] *= gates.detach()[:, None]
    plain = encoder.logits(advance(encoder, batch.with_hidden(scaled), mask[None], 0, (1, 3)))
    assert_close(gated, plain)
    (gradient,) = torch.autograd.grad(gated.sum(), gates)
    assert gradient.abs().min() > 0
    alike = encoder.logits(advance(encoder, batch, mask[None], 0, (1, 3), gates=torch.ones(len(gates))))
    assert torch.equal(alike, encoder.logits(advance(encoder, batch, mask[None], 0, (1, 3))))


@torch.no_grad()
def test_gates_scale_what_fusion_has_left_of_each_kept_token_by_hand(bert, make_tokens):
    fusion = Fusion(32, 1)
    fusion.maps[0].weight.copy_(torch.eye(32))
    states = torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None].expand(4, 32)
    batch = start_batch(make_tokens(4), states)
    mask, gates = torch.tensor([[True, False, True, False]]), torch.tensor([2.0, 3.0])
    # A point after the last layer runs none. 2 and 8 are dropped, and their mean is 5: (1 + 5) · 2 and 4 · 3.
    gated = advance(Encoder(bert, fusion=fusion), batch, mask, 0, (4,), gates=gates)
    assert gated.hidden[:, 0].tolist() == [12.0, 12.0]
    assert gated.hidden.std(1).max() == 0


@torch.no_grad()
def test_gates_of_float32_leave_half_precision_states_in_theirs(bert, make_tokens):
    encoder = Encoder(bert.to(torch.bfloat16))
    batch = enter(encoder, make_tokens(5), (1, 3))
    gated = advance(encoder, batch, torch.ones(1, 5, dtype=torch.bool), 0, (1, 3), gates=torch.full((5,), 0.5))
    assert gated.hidden.dtype == torch.bfloat16
