"""One contract over all selectors, and what each of them does."""

import itertools
import re
from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
import torch

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.packed import gather_kept
from trbert.policy import Policy
from trbert.reduction import advance, enter, reduced_forward
from trbert.selectors import (
    FREE_SELECTORS,
    AttentionSelector,
    CountSelector,
    FirstSelector,
    PolicySelector,
    RandomSelector,
    points_for,
    rank_in_document,
)

LENGTHS = (6, 17, 1, 11)
DIALS = {"policy": (-1.5, 0.0, 1.5)}
COUNT_DIALS = (0.1, 0.3, 1.0)


def policy_selector():
    torch.manual_seed(0)
    policy = Policy(32, 2)
    for head in policy.heads:
        torch.nn.init.normal_(head.linear_1.weight, std=0.3)
        torch.nn.init.normal_(head.linear_2.weight, std=0.3)
    return PolicySelector(policy)


# A new selector is one line here.
SELECTORS = [FirstSelector, RandomSelector, AttentionSelector, policy_selector]


@pytest.fixture(params=SELECTORS, ids=lambda make: make.__name__)
def selector(request):
    return request.param()


def dials(selector):
    return DIALS.get(selector.name, COUNT_DIALS)


def pair_tokens(make_tokens, *lengths):
    """Returns documents with a second, scattered protected part, as a question or a query would be."""
    tokens = make_tokens(*lengths)
    places = torch.arange(tokens.input_ids.numel())
    return replace(tokens, protected=tokens.protected | (places % 5 == 3))


@torch.no_grad()
def masks_of(encoder, selector, tokens, dial, points=(1, 3)):
    """Returns each point's batch and keep mask."""
    found, received = [], torch.zeros(tokens.input_ids.numel())
    batch = enter(encoder, tokens, points, received)
    for point in range(len(points)):
        mask = selector.keep_mask(batch, point, len(points), dial, received)
        found.append((batch, mask))
        received = torch.zeros(int(mask.sum()))
        batch = advance(encoder, batch, mask[None], point, points, received)
    return found


def test_protected_tokens_are_always_kept(selector, encoder, make_tokens):
    tokens = pair_tokens(make_tokens, *LENGTHS)
    for dial in dials(selector):
        for batch, mask in masks_of(encoder, selector, tokens, dial):
            assert mask[batch.protected].all()
            assert int(batch.protected.sum()) == int(tokens.protected.sum())


def test_a_documents_mask_does_not_depend_on_its_batch_mates(selector, encoder, make_tokens):
    tokens = make_tokens(*LENGTHS)
    for dial in dials(selector):
        together = masks_of(encoder, selector, tokens, dial)
        for document in range(len(tokens)):
            alone = masks_of(encoder, selector, tokens.take(torch.tensor([document])), dial)
            for (batch, mask), (own_batch, own_mask) in zip(together, alone, strict=True):
                place = batch.documents == document
                assert batch.positions[place].tolist() == own_batch.positions.tolist()
                assert mask[place].tolist() == own_mask.tolist()


def test_a_higher_dial_keeps_no_fewer_tokens(selector, encoder, make_tokens):
    tokens = make_tokens(*LENGTHS)
    masks = [masks_of(encoder, selector, tokens, dial, points=(2,))[0][1] for dial in dials(selector)]
    for less, more in itertools.pairwise(masks):
        assert (more | ~less).all()  # what the lower dial keeps, the higher one keeps as well
    assert masks[0].sum() < masks[-1].sum()


@torch.no_grad()
def test_what_is_dropped_is_gone(selector, encoder, make_tokens):
    tokens = make_tokens(*LENGTHS)
    dial = dials(selector)[1]
    reduced = reduced_forward(encoder, selector, tokens, (1, 3), dial)
    kept = [
        torch.bincount(batch.documents[mask], minlength=4) for batch, mask in masks_of(encoder, selector, tokens, dial)
    ]
    assert torch.equal(reduced.kept, torch.stack(kept))
    assert reduced.batch.hidden.shape[0] == int(reduced.kept[-1].sum()) < sum(LENGTHS)
    assert (reduced.kept[1] <= reduced.kept[0]).all()
    assert (reduced.kept[0] < tokens.lengths)[tokens.lengths > 1].all()


def test_the_same_tokens_are_chosen_every_time(selector, encoder, make_tokens):
    tokens, dial = make_tokens(*LENGTHS), dials(selector)[1]
    first, again = (masks_of(encoder, selector, tokens, dial) for _ in range(2))
    assert all(torch.equal(mask, other) for (_, mask), (_, other) in zip(first, again, strict=True))


@pytest.mark.parametrize("make", [FirstSelector, RandomSelector, AttentionSelector])
def test_a_count_selector_keeps_a_fraction_of_the_original_tokens(make, make_batch):
    lengths = torch.arange(1, 61)
    batch = make_batch(*lengths.tolist())
    received = torch.rand(batch.hidden.shape[0])
    for dial in ("0.02", "0.07", "0.1", "0.15", "0.3", "0.55", "0.6", "0.75", "1"):
        mask = make().keep_mask(batch, 0, 1, float(dial), received)
        exactly = [ceil(Fraction(dial) * n) for n in lengths.tolist()]
        assert torch.bincount(batch.documents[mask]).tolist() == exactly


@pytest.mark.parametrize(("dial", "factor"), [("0.25", "0.5"), ("0.04", "0.2"), ("0.09", "0.3"), ("0.49", "0.7")])
def test_the_kept_fraction_falls_by_the_same_factor_at_each_point(dial, factor, make_batch):
    lengths = [1, 2, 9, 10, 20, 50, 100]
    batch = make_batch(*lengths)
    first = RandomSelector().keep_mask(batch, 0, 2, float(dial), None)
    assert torch.bincount(batch.documents[first]).tolist() == [ceil(Fraction(factor) * n) for n in lengths]
    batch = gather_kept(batch, first[None])
    second = RandomSelector().keep_mask(batch, 1, 2, float(dial), None)
    assert torch.bincount(batch.documents[second]).tolist() == [ceil(Fraction(dial) * n) for n in lengths]


def test_the_first_tokens_are_the_first(make_batch):
    mask = FirstSelector().keep_mask(make_batch(4, 6), 0, 1, 0.5, None)
    assert mask.tolist() == [True] * 2 + [False] * 2 + [True] * 3 + [False] * 3


def test_random_places_differ_between_lengths_and_stay_the_same_at_every_point(make_batch):
    batch = make_batch(40, 41)
    mask = RandomSelector().keep_mask(batch, 0, 1, 0.5, None)
    assert mask[:40].tolist() != mask[40:80].tolist()
    nested = RandomSelector().keep_mask(batch, 0, 1, 0.25, None)
    assert (mask | ~nested).all()
    later = gather_kept(batch, mask[None])
    assert torch.equal(RandomSelector().keep_mask(later, 1, 2, 0.25, None), nested[mask])


def test_attention_keeps_what_received_most(make_batch):
    received = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.0, 0.2, 0.8])
    mask = AttentionSelector().keep_mask(make_batch(4, 3), 0, 1, 0.5, received)
    assert mask.tolist() == [True, True, False, False, True, False, True]


def test_the_policy_keeps_logits_from_minus_the_dial_on(make_batch):
    class Fixed(Policy):
        def logits(self, batch, point):
            return torch.tensor([-9.0, -1.0, -1.5, 0.0, -9.0, 2.0])

    batch, selector = make_batch(4, 2), PolicySelector(Fixed(8, 1))
    assert selector.keep_mask(batch, 0, 1, 0.0, None).tolist() == [True, False, False, True, True, True]
    assert selector.keep_mask(batch, 0, 1, 1.0, None).tolist() == [True, True, False, True, True, True]
    assert selector.keep_mask(batch, 0, 1, -3.0, None).tolist() == [True, False, False, False, True, False]


def test_attention_cannot_stand_before_the_first_layer(encoder, make_tokens):
    message = "the attention rule needs a layer before its first reduction point: use points >= 1"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        reduced_forward(encoder, AttentionSelector(), make_tokens(5), (0, 2), 0.5)


@torch.no_grad()
def test_attention_is_that_of_the_layer_before_each_point(build_model, config_of, make_tokens):
    # Hugging Face's own weights, one document: mean over heads and queries of layers 0 and 2.
    config, tokens = config_of("bert"), make_tokens(12)
    config._attn_implementation = "eager"
    inputs = {"input_ids": tokens.input_ids[None], "token_type_ids": tokens.token_type_ids[None]}
    weights = build_model(config)(**inputs, output_attentions=True).attentions
    encoder = Encoder(build_model(config_of("bert")))
    for points, layer in (((1,), 0), ((3,), 2)):
        received = weights[layer].mean((0, 1, 2))
        received[0] = torch.inf
        ((_, mask),) = masks_of(encoder, AttentionSelector(), tokens, 0.5, points)
        assert sorted(mask.nonzero()[:, 0].tolist()) == sorted(received.topk(6).indices.tolist())


@pytest.mark.parametrize(
    ("points", "moved"), [((0, 2), (1, 2)), ((0, 1), (1,)), ((1, 3), (1, 3)), ((0,), (1,)), ((2,), (2,))]
)
def test_a_rule_on_attention_stands_at_layer_1_at_the_earliest(points, moved):
    assert points_for(AttentionSelector(), points) == moved
    assert points_for(FirstSelector(), points) == points


def test_ranks_by_hand(make_batch):
    batch = make_batch(4, 1, 3)
    scores = torch.tensor([0.5, 2.0, -1.0, 2.0, 9.0, 0.0, 1.0, torch.inf])
    # Ties keep their order.
    assert rank_in_document(batch, scores).tolist() == [2, 0, 3, 1, 0, 2, 1, 0]


def test_the_free_selectors_are_all_but_the_policy():
    assert [selector.name for selector in FREE_SELECTORS] == ["first", "random", "attention"]
    assert all(isinstance(selector, CountSelector) for selector in FREE_SELECTORS)


def test_every_dial_of_a_rule_rises(selector):
    assert list(selector.dials) == sorted(set(selector.dials))


def test_more_protected_tokens_than_wanted_are_all_kept(make_batch):
    batch = make_batch(10)
    batch = replace(batch, protected=torch.arange(10) % 2 == 0)
    assert torch.equal(FirstSelector().keep_mask(batch, 0, 1, 0.1, None), batch.protected)
