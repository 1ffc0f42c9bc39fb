"""One contract over all selectors, and what each of them does."""

import itertools
import re
from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
import torch
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.cost import CostModel
from trbert.modeling import assemble, load
from trbert.packed.batch import gather_kept
from trbert.selection.policy import Policy
from trbert.selection.saliency import saliency
from trbert.selection.selectors import (
    SELECTORS,
    AttentionSelector,
    CountSelector,
    FirstSelector,
    GumbelSelector,
    PolicySelector,
    RandomSelector,
    SaliencySelector,
    Selector,
    free_selectors,
    points_for,
    rank_in_document,
    selector_class,
    selector_of,
)
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples

LENGTHS = (6, 17, 1, 11)
POINTS = (1, 2)
NO_HEADS = Policy(32, 0)


def wide_policy(dim=32, points=2, features=("document", "neighbours")):
    """A policy that sees documents and neighbours, with logits far from 0 on both sides."""
    torch.manual_seed(0)
    policy = Policy(dim, points, features=features)
    for name, parameter in policy.named_parameters():  # wider, "document" would move all of its logits to one side
        torch.nn.init.normal_(parameter, std=0.03 if "document" in name else 0.3)
    return policy


# Every selector; a new one is tested by having a name.
@pytest.fixture(params=SELECTORS)
def selector(request):
    return selector_of(request.param, wide_policy())


def dials_of(selector):
    """Returns three dials, cheapest first, the last of which keeps most."""
    return (-1.5, 0.0, 1.5) if selector.learns else (0.1, 0.3, 0.8)


def examples_of(tokens, labels=None):
    return Examples.of_documents(tokens, torch.arange(len(tokens)) % 3 if labels is None else labels)


def pair_tokens(make_tokens, *lengths):
    """Returns documents with a second, scattered protected part, as a question or a query would be."""
    tokens = make_tokens(*lengths)
    places = torch.arange(tokens.input_ids.numel())
    return replace(tokens, protected=tokens.protected | (places % 5 == 3))


class Watched(Selector):
    """Decides as another selector does, and remembers each point's batch and keep mask."""

    def __init__(self, selector):
        super().__init__(selector.policy)
        self.selector, self.needs, self.found = selector, selector.needs, []

    def check_dial(self, dial):
        self.selector.check_dial(dial)

    def keep_mask(self, batch, point, num_points, dials, evidence):
        mask = self.selector.keep_mask(batch, point, num_points, dials, evidence)
        self.found.append((batch, mask))
        return mask


def masks_of(reducer, selector, tokens, dial, labels=None):
    """Returns each point's batch and keep mask of a reduced forward pass."""
    watched = Watched(selector)
    with torch.no_grad():
        reducer.run(watched, tokens, dial, examples_of(tokens, labels))
    return watched.found


def kept_positions(found, document):
    """Returns the original positions of a document's tokens that are kept at each point."""
    return [batch.positions[mask & (batch.documents == document)].tolist() for batch, mask in found]


# The contract.


@pytest.fixture
def reducer(make_reducer):
    """The tiny BERT with two reduction points."""
    return make_reducer(POINTS)


def test_protected_tokens_are_always_kept(selector, reducer, make_tokens):
    tokens = pair_tokens(make_tokens, *LENGTHS)
    for dial in (*dials_of(selector), selector.dials[0]):
        for batch, mask in masks_of(reducer, selector, tokens, dial):
            assert mask[batch.protected].all()
            assert int(batch.protected.sum()) == int(tokens.protected.sum())


def test_a_documents_masks_do_not_depend_on_its_batch_mates_or_their_order(selector, reducer, make_tokens):
    tokens = make_tokens(*LENGTHS)
    labels = examples_of(tokens).targets
    for dial in dials_of(selector):
        together = masks_of(reducer, selector, tokens, dial)
        for chosen in ([0], [1], [2], [3], [3, 1, 0]):
            documents = torch.tensor(chosen)
            own = masks_of(reducer, selector, tokens.take(documents), dial, labels[documents])
            for place, document in enumerate(chosen):
                assert kept_positions(own, place) == kept_positions(together, document)


def test_each_document_may_have_a_dial_of_its_own(selector, reducer, make_tokens):
    tokens = make_tokens(*LENGTHS)
    dials = (*dials_of(selector), selector.keep_all)
    alike = [masks_of(reducer, selector, tokens, dial) for dial in dials]
    for turn in range(4):
        order = [(document + turn) % 4 for document in range(4)]
        mixed = masks_of(reducer, selector, tokens, torch.tensor([dials[i] for i in order]))
        for document, i in enumerate(order):
            assert kept_positions(mixed, document) == kept_positions(alike[i], document)


def test_fewer_tokens_are_kept_along_the_falling_dial_and_the_same_ones(selector, make_reducer, make_tokens):
    # At one point: a later one sees states that already differ.
    tokens, reducer = make_tokens(*LENGTHS), make_reducer((2,))
    dials = (*dials_of(selector), selector.keep_all)
    masks = [masks_of(reducer, selector, tokens, dial)[0][1] for dial in dials]
    for less, more in itertools.pairwise(masks):
        assert (more | ~less).all()  # what the lower dial keeps, the higher one keeps as well
        assert less.sum() < more.sum()
    assert masks[-1].all()


@torch.no_grad()
def test_what_is_dropped_is_gone(selector, reducer, make_tokens):
    tokens = make_tokens(*LENGTHS)
    lefts = []
    for dial in dials_of(selector):
        found = masks_of(reducer, selector, tokens, dial)
        reduced = reducer.run(selector, tokens, dial, examples_of(tokens))
        kept = [torch.bincount(batch.documents[mask], minlength=4) for batch, mask in found]
        assert torch.equal(reduced.kept, torch.stack(kept))
        assert reduced.batch.hidden.shape[0] == int(reduced.kept[-1].sum()) < sum(LENGTHS)
        assert found[1][0].hidden.shape[0] == int(reduced.kept[0].sum())  # nor do the layers between see it
        assert (reduced.kept[1] <= reduced.kept[0]).all()
        lefts.append(reduced.kept.sum(1).tolist())
    assert lefts[1][0] < sum(LENGTHS)
    for less, more in itertools.pairwise(lefts):
        assert less[0] < more[0]
        assert less[1] < more[1]


@torch.no_grad()
def test_turned_up_it_keeps_all_and_is_the_plain_model(selector, reducer, make_tokens):
    tokens = make_tokens(*LENGTHS)
    reduced = reducer.run(selector, tokens, selector.keep_all, examples_of(tokens))
    assert reduced.kept.tolist() == [list(LENGTHS)] * 2
    assert_close(reducer.outputs(reduced), reducer.unreduced_outputs(tokens))


def test_the_same_tokens_are_chosen_every_time(selector, reducer, make_tokens):
    tokens, dial = make_tokens(*LENGTHS), dials_of(selector)[1]
    first, again = (masks_of(reducer, selector, tokens, dial) for _ in range(2))
    assert all(torch.equal(mask, other) for (_, mask), (_, other) in zip(first, again, strict=True))


@torch.no_grad()
def test_it_is_saved_and_loaded_with_the_model_it_reduces(selector, reducer, make_tokens, tmp_path):
    dial, heads = dials_of(selector)[1], 2 if selector.learns else 0
    selector = selector_of(selector.name, wide_policy(points=heads))
    assemble(reducer, selector, dial, 40).save_pretrained(tmp_path)
    own, tokens = load(tmp_path), make_tokens(12, 12)
    assert type(own.selector) is type(selector)
    assert own.config.dial == dial
    assert len(own.policy.heads) == heads
    inputs = {"input_ids": tokens.input_ids.view(2, 12), "token_type_ids": tokens.token_type_ids.view(2, 12)}
    if selector.needs == "saliency":
        message = (
            "the saliency rule needs the documents' labels, and there are none: use another selector, for this one "
            "serves as a reference only"
        )
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            own(**inputs)
        return
    reduced = reducer.run(selector, tokens, dial)
    assert int(reduced.kept[-1].sum()) < 24
    assert torch.equal(own(**inputs).logits, reducer.outputs(reduced))


@torch.no_grad()
def test_it_pays_for_its_heads_where_it_learns_and_for_the_attention_that_it_reads(selector, reducer):
    cost = CostModel.of(reducer, selector.policy)
    lengths, kept = torch.tensor([20]), torch.tensor([[10], [5]])
    extra = cost.reduced(lengths, kept, POINTS, selector) - cost.reduced(lengths, kept, POINTS, FirstSelector)
    # 32 wide, on 20 and then 10 tokens: the state's two maps, the neighbours' two of 32 to 32; the document's once a
    # point. Attention: the scores of layers 0 and 1, two FLOPs for each of 32 numbers and each pair of tokens.
    heads = (20 + 10) * (2 * 32 * 32 + 2 * 32 + 2 * 32 * 64) + 2 * (2 * 33 * 32)
    expected = {"policy": heads, "gumbel": heads, "attention": 2 * 32 * (20**2 + 10**2)}
    assert extra.tolist() == [expected.get(selector.name, 0)]


def test_its_own_dials_rise_and_hold_neither_end(selector):
    assert list(selector.dials) == sorted(set(selector.dials))
    assert selector.dials[0] < selector.default_dial < selector.dials[-1] < selector.keep_all


def test_the_dials_of_the_learned_selectors_and_of_the_rules():
    for learned in (PolicySelector, GumbelSelector):
        # From −5 to 6 in steps of a half are 23 dials, and at both ends stand four that are further apart.
        assert learned.dials[:4] == (-24.0, -16.0, -11.0, -8.0)
        assert (learned.dials[4], learned.dials[5], learned.dials[26]) == (-5.0, -4.5, 6.0)
        assert learned.dials[27:] == (8.0, 11.0, 16.0, 24.0)
        assert (learned.default_dial, learned.keep_all) == (0.0, 1000.0)
    for rule in (FirstSelector, RandomSelector, AttentionSelector, SaliencySelector):
        assert rule.dials == (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75)
        assert (rule.default_dial, rule.keep_all) == (0.1, 1.0)


def test_every_selector_is_made_by_its_name():
    policy = wide_policy()
    for name, made in SELECTORS.items():
        assert made.name == name
        assert selector_class(name) is made
        assert type(selector_of(name, policy)) is made
        assert selector_of(name, policy).policy is policy
    message = f"selector must be one of {', '.join(SELECTORS)}, and is 'entropy': 'policy' is the default"
    for refuse in (selector_class, lambda name: selector_of(name, policy)):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            refuse("entropy")


def test_what_each_selector_says_of_itself():
    told = {name: (made.learns, made.relaxed, made.needs, made.first_point) for name, made in SELECTORS.items()}
    assert (
        told
        | {
            "policy": (True, False, None, 0),
            "gumbel": (True, True, None, 0),
            "first": (False, False, None, 0),
            "random": (False, False, None, 0),
            "attention": (False, False, "attention", 1),
            "saliency": (False, False, "saliency", 0),
        }
        == told
    )


# A new selector is one class.


@pytest.fixture
def every_third():
    """A rule that a user has written: every third token, and at the dial 1 every one."""
    before = dict(SELECTORS)

    class EveryThird(Selector):
        name = "every third"
        dials = (0.0, 0.5)
        keep_all = 1.0
        default_dial = 0.25

        def keep_mask(self, batch, point, num_points, dials, evidence):
            return (batch.positions % 3 == 0) | batch.protected | (dials == 1.0)[batch.documents]

    yield EveryThird
    del SELECTORS["every third"]
    assert before == SELECTORS


def test_a_class_with_a_name_joins_the_selectors_and_no_other_does(every_third):
    assert SELECTORS["every third"] is every_third
    assert list(SELECTORS)[-1] == "every third"
    known = dict(SELECTORS)

    class Unnamed(every_third):
        pass

    assert known == SELECTORS
    assert Unnamed.name == "every third"  # the name is its parent's, and stays with it
    assert selector_class("every third") is every_third
    assert Watched not in SELECTORS.values()
    assert CountSelector not in SELECTORS.values()


@torch.no_grad()
def test_a_new_selector_decides_and_pays_for_no_heads(every_third, reducer, make_tokens):
    tokens = make_tokens(7, 4)
    reduced = reducer.run(every_third(NO_HEADS), tokens, 0.25)
    assert reduced.batch.positions.tolist() == [0, 3, 6, 0, 3]
    assert reduced.kept.tolist() == [[3, 2], [3, 2]]
    whole = reducer.run(every_third(NO_HEADS), tokens, 1.0)
    assert_close(reducer.outputs(whole), reducer.unreduced_outputs(tokens))
    cost = CostModel.of(reducer, wide_policy())  # heads that it does not use
    told = [cost.reduced(tokens.lengths, reduced.kept, POINTS, each) for each in (every_third, FirstSelector)]
    assert torch.equal(*told)
    assert [type(rule) for rule in free_selectors()][-1] is every_third


@torch.no_grad()
def test_a_new_selector_is_saved_and_loaded_with_its_model(every_third, reducer, make_tokens, tmp_path):
    assemble(reducer, every_third(NO_HEADS), 0.25, 40).save_pretrained(tmp_path)
    own, tokens = load(tmp_path), make_tokens(12)
    assert type(own.selector) is every_third
    assert not list(own.policy.parameters())
    logits = own(tokens.input_ids[None], token_type_ids=tokens.token_type_ids[None]).logits
    assert torch.equal(logits, reducer.outputs(reducer.run(every_third(NO_HEADS), tokens, 0.25)))
    assert not torch.allclose(logits, reducer.unreduced_outputs(tokens), atol=1e-2)


# What each of them does.


def one_dial(batch, value):
    return torch.full((len(batch),), value)


@pytest.mark.parametrize("make", [FirstSelector, RandomSelector, AttentionSelector, SaliencySelector])
def test_a_count_selector_keeps_a_fraction_of_the_original_tokens(make, make_batch):
    lengths = torch.arange(1, 61)
    batch = make_batch(*lengths.tolist())
    received = torch.rand(batch.hidden.shape[0])
    for dial in ("0.02", "0.07", "0.1", "0.15", "0.3", "0.55", "0.6", "0.75", "1"):
        mask = make(NO_HEADS).keep_mask(batch, 0, 1, one_dial(batch, float(dial)), received)
        exactly = [ceil(Fraction(dial) * n) for n in lengths.tolist()]
        assert torch.bincount(batch.documents[mask]).tolist() == exactly


@pytest.mark.parametrize(("dial", "factor"), [("0.25", "0.5"), ("0.04", "0.2"), ("0.09", "0.3"), ("0.49", "0.7")])
def test_the_kept_fraction_falls_by_the_same_factor_at_each_point(dial, factor, make_batch):
    lengths = [1, 2, 9, 10, 20, 50, 100]
    batch = make_batch(*lengths)
    first = RandomSelector(NO_HEADS).keep_mask(batch, 0, 2, one_dial(batch, float(dial)), None)
    assert torch.bincount(batch.documents[first]).tolist() == [ceil(Fraction(factor) * n) for n in lengths]
    batch = gather_kept(batch, first[None])
    second = RandomSelector(NO_HEADS).keep_mask(batch, 1, 2, one_dial(batch, float(dial)), None)
    assert torch.bincount(batch.documents[second]).tolist() == [ceil(Fraction(dial) * n) for n in lengths]


@pytest.mark.parametrize("dial", [float("nan"), float("inf")])
def test_a_dial_that_is_no_number_is_refused(selector, dial, reducer, make_tokens):
    with pytest.raises(InputError, match=rf"^the dial of '{selector.name}' must be .*, and is {dial!r}: its default"):
        reducer.run(selector, make_tokens(*LENGTHS), dial)


def test_a_count_selector_takes_a_fraction_alone(reducer, make_tokens):
    for dial in (-0.1, 1.5):
        with pytest.raises(InputError, match=rf"must be a fraction of a document's tokens .*, and is {dial}: its"):
            reducer.run(FirstSelector(NO_HEADS), make_tokens(*LENGTHS), dial)
    for dial in (0.0, 1.0):
        reducer.run(FirstSelector(NO_HEADS), make_tokens(*LENGTHS), dial)


def test_the_first_tokens_are_the_first(make_batch):
    batch = make_batch(4, 6)
    mask = FirstSelector(NO_HEADS).keep_mask(batch, 0, 1, one_dial(batch, 0.5), None)
    assert mask.tolist() == [True] * 2 + [False] * 2 + [True] * 3 + [False] * 3


def test_random_places_differ_between_lengths_and_stay_the_same_at_every_point(make_batch):
    batch = make_batch(40, 41)
    mask = RandomSelector(NO_HEADS).keep_mask(batch, 0, 1, one_dial(batch, 0.5), None)
    assert mask[:40].tolist() != mask[40:80].tolist()
    nested = RandomSelector(NO_HEADS).keep_mask(batch, 0, 1, one_dial(batch, 0.25), None)
    assert (mask | ~nested).all()
    later = gather_kept(batch, mask[None])
    assert torch.equal(RandomSelector(NO_HEADS).keep_mask(later, 1, 2, one_dial(later, 0.25), None), nested[mask])


@pytest.mark.parametrize("make", [AttentionSelector, SaliencySelector])
def test_a_rule_on_evidence_keeps_what_has_most_of_it(make, make_batch):
    evidence = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.0, 0.2, 0.8])
    batch = make_batch(4, 3)
    mask = make(NO_HEADS).keep_mask(batch, 0, 1, one_dial(batch, 0.5), evidence)
    assert mask.tolist() == [True, True, False, False, True, False, True]


@pytest.mark.parametrize("make", [PolicySelector, GumbelSelector])
def test_a_policy_keeps_logits_from_minus_the_dial_on(make, make_batch):
    class Fixed(Policy):
        def logits(self, batch, point, dials):
            return torch.tensor([[-9.0, -1.0, -1.5, 0.0, -9.0, 2.0]]) + dials[:, batch.documents]

    batch, selector = make_batch(4, 2), make(Fixed(8, 1))
    T, F = True, False
    assert selector.keep_mask(batch, 0, 1, one_dial(batch, 0.0), None).tolist() == [T, F, F, T, T, T]
    assert selector.keep_mask(batch, 0, 1, one_dial(batch, 1.0), None).tolist() == [T, T, F, T, T, T]
    assert selector.keep_mask(batch, 0, 1, one_dial(batch, -3.0), None).tolist() == [T, F, F, F, T, F]
    assert selector.keep_mask(batch, 0, 1, torch.tensor([1.0, -3.0]), None).tolist() == [T, T, F, T, T, F]


@pytest.mark.parametrize("make", [PolicySelector, GumbelSelector])
def test_keeping_all_outweighs_a_logit_of_minus_500(make, make_batch):
    class Sure(Policy):
        def logits(self, batch, point, dials):
            return dials[:, batch.documents] - 500.0

    batch, selector = make_batch(4, 2), make(Sure(8, 1))
    assert selector.keep_mask(batch, 0, 1, one_dial(batch, selector.keep_all), None).all()
    assert selector.keep_mask(batch, 0, 1, one_dial(batch, 0.0), None).tolist() == batch.protected.tolist()


def test_attention_cannot_stand_before_the_first_layer(make_reducer, make_tokens):
    message = "the attention rule needs a layer before its first reduction point: use points >= 1"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        make_reducer((0, 2)).run(AttentionSelector(NO_HEADS), make_tokens(5), 0.5)


@pytest.mark.parametrize("points", [(0, 2), (1,), (1, 2)])
def test_saliency_is_that_of_the_tokens_own_point_and_label(points, make_reducer, make_tokens):
    tokens, labels, reducer = make_tokens(14, 9), torch.tensor([2, 0]), make_reducer(points)
    _, scores = saliency(reducer.encoder, TASKS["classification"], examples_of(tokens, labels), points)
    found = masks_of(reducer, SaliencySelector(NO_HEADS), tokens, 0.25, labels)
    starts = tokens.offsets[:-1].tolist()
    left = [set(range(14)), set(range(9))]
    for point, (batch, mask) in enumerate(found):
        for document, (start, length) in enumerate(zip(starts, (14, 9), strict=True)):
            count = ceil(0.25 ** ((point + 1) / len(points)) * length - 1e-6)
            ranked = sorted(left[document] - {0}, key=lambda place, s=start, p=point: -float(scores[p, s + place]))
            left[document] = {0, *ranked[: count - 1]}
            kept = batch.positions[mask & (batch.documents == document)]
            assert set(kept.tolist()) == left[document]
    other = masks_of(reducer, SaliencySelector(NO_HEADS), tokens, 0.25, torch.tensor([0, 0]))
    assert kept_positions(other, 0) != kept_positions(found, 0)
    assert kept_positions(other, 1) == kept_positions(found, 1)


@torch.no_grad()
def test_attention_is_that_of_the_layer_before_each_point(build_model, config_of, make_reducer, make_tokens):
    # Hugging Face's own weights, one document: mean over heads and queries of layers 0 and 2.
    config, tokens = config_of("bert"), make_tokens(12)
    config._attn_implementation = "eager"
    inputs = {"input_ids": tokens.input_ids[None], "token_type_ids": tokens.token_type_ids[None]}
    weights = build_model(config)(**inputs, output_attentions=True).attentions
    encoder = Encoder(build_model(config_of("bert")))
    for points, layer in (((1,), 0), ((3,), 2)):
        received = weights[layer].mean((0, 1, 2))
        received[0] = torch.inf
        ((_, mask),) = masks_of(make_reducer(points, encoder=encoder), AttentionSelector(NO_HEADS), tokens, 0.5)
        assert sorted(mask.nonzero()[:, 0].tolist()) == sorted(received.topk(6).indices.tolist())


@pytest.mark.parametrize(
    ("points", "moved"), [((0, 2), (1, 2)), ((0, 1), (1,)), ((1, 3), (1, 3)), ((0,), (1,)), ((2,), (2,))]
)
def test_a_rule_on_attention_stands_at_layer_1_at_the_earliest(points, moved):
    assert points_for(AttentionSelector, points) == points_for(AttentionSelector(NO_HEADS), points) == moved
    assert points_for(FirstSelector, points) == points_for(FirstSelector(NO_HEADS), points) == points


def test_ranks_by_hand(make_batch):
    batch = make_batch(4, 1, 3)
    scores = torch.tensor([0.5, 2.0, -1.0, 2.0, 9.0, 0.0, 1.0, torch.inf])
    # Ties keep their order.
    assert rank_in_document(batch, scores).tolist() == [2, 0, 3, 1, 0, 2, 1, 0]


def test_the_free_selectors_are_those_that_a_user_could_have_today():
    rules = {name for name, made in SELECTORS.items() if not made.learns}
    assert rules >= {"first", "random", "attention", "saliency"}
    # Saliency reads the targets, which a user does not have.
    assert {selector.name for selector in free_selectors()} == rules - {"saliency"}
    assert not any(len(selector.policy.heads) for selector in free_selectors())


def test_more_protected_tokens_than_wanted_are_all_kept(make_batch):
    batch = make_batch(10)
    batch = replace(batch, protected=torch.arange(10) % 2 == 0)
    assert torch.equal(FirstSelector(NO_HEADS).keep_mask(batch, 0, 1, one_dial(batch, 0.1), None), batch.protected)
