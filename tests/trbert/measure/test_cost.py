"""FLOPs by hand, and against what torch counts on real forward passes."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from tests.trbert.tasks.toys import MarkWords
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel, speed_up
from trbert.selection.fusion import Fusion
from trbert.selection.policy import FEATURES, Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import (
    SELECTORS,
    AttentionSelector,
    FirstSelector,
    GumbelSelector,
    PolicySelector,
    selector_class,
)
from trbert.tasks import TASKS

LENGTHS = (7, 12, 3)
NO_HEADS = Policy(1, 0)


@torch.no_grad()
def counted(call):
    """Returns what torch counts; its counter knows the plain attention kernel only."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def reducer_of(plain, points=(), fusion=None, task=TASKS["classification"]):
    plain.requires_grad_(False)  # torch cannot count where a module is given a parameter that learns
    return Reducer(encoder=Encoder(plain), task=task, points=points, fusion=fusion or Fusion.none())


def apart(reducer, tokens):
    """Returns the documents in one batch, or one by one.

    They are apart where the head runs on padding, which no cost is charged for. They are also apart where the layers
    map a table once for a row, because each document is charged as if it were a row by itself.
    """
    late = getattr(reducer.encoder.plain.config, "classifier_pooling", None) == "late"
    if late or any(CostModel.of(reducer).layer_per_document):
        return [tokens.take(torch.tensor([document])) for document in range(len(tokens))]
    return [tokens]


def wide_policy(reducer, features):
    torch.manual_seed(0)
    policy = Policy(reducer.encoder.base.config.hidden_size, len(reducer.points), width=32, features=features)
    for head in policy.heads:
        for linear in (*head.features.values(), head.linear_1, head.linear_2):
            torch.nn.init.normal_(linear.weight, std=0.3)
    return policy


def reduced_flops(reducer, selector, tokens, dial):
    """Returns (what torch counts, what the cost model says) of a reduced pass, and the tokens kept at the end."""
    cost, real, said, left = CostModel.of(reducer, selector.policy), 0.0, 0.0, 0
    for part in apart(reducer, tokens):
        found = []
        real += counted(
            lambda part=part, found=found: reducer.outputs(found.append(reducer.run(selector, part, dial)) or found[0])
        )
        said += float(cost.reduced(part.lengths, found[0].kept, reducer.points, selector).sum())
        left += int(found[0].kept[-1].sum())
    return real, said, left


def test_the_unreduced_model_costs_what_torch_counts(family_config, build_model, make_tokens):
    reducer, tokens = reducer_of(build_model(family_config)), make_tokens(*LENGTHS, config=family_config)
    real = sum(counted(lambda part=part: reducer.unreduced_outputs(part)) for part in apart(reducer, tokens))
    assert float(CostModel.of(reducer).unreduced(tokens.lengths).sum()) == real > 0


def test_heads_that_are_wider_than_their_share_of_the_width_cost_what_torch_counts(config_of, build_model, make_tokens):
    config = config_of("eurobert bos")
    config.head_dim = 16  # four heads share a width of 32, so that 8 would be the usual width
    reducer, tokens = reducer_of(build_model(config)), make_tokens(*LENGTHS)
    cost = CostModel.of(reducer)
    assert cost.layer_per_pair == (4.0 * 4 * 16,) * 4
    assert float(cost.unreduced(tokens.lengths).sum()) == counted(lambda: reducer.unreduced_outputs(tokens))


@pytest.mark.parametrize(("points", "features"), [((0, 2), FEATURES), ((1, 3), ())])
def test_the_reduced_model_costs_what_torch_counts_policy_included(
    points, features, family_config, build_model, make_tokens
):
    reducer = reducer_of(build_model(family_config), points)
    tokens = make_tokens(*LENGTHS, config=family_config)
    selector = PolicySelector(wide_policy(reducer, features))
    real, said, left = reduced_flops(reducer, selector, tokens, 0.0)
    assert said == real > 0
    assert len(tokens) <= left < sum(LENGTHS)


@pytest.mark.parametrize("make", [PolicySelector, GumbelSelector])
@pytest.mark.parametrize("features", [(), ("document",), ("neighbours",), FEATURES])
def test_each_feature_costs_what_torch_counts(make, features, make_reducer, make_tokens):
    reducer = make_reducer((1, 3))
    selector = make(wide_policy(reducer, features))
    real, said, left = reduced_flops(reducer, selector, make_tokens(*LENGTHS), 0.0)
    assert said == real > 0
    assert len(LENGTHS) <= left < sum(LENGTHS)


def test_fusion_costs_what_torch_counts(make_reducer, make_tokens):
    first = FirstSelector(NO_HEADS)
    real, said, left = reduced_flops(make_reducer((1, 3), Fusion(32, 2)), first, make_tokens(*LENGTHS), 0.3)
    assert said == real
    assert left < sum(LENGTHS)
    plain = reduced_flops(make_reducer((1, 3)), first, make_tokens(*LENGTHS), 0.3)[1]
    assert said - plain == len(LENGTHS) * 2 * (2 * 32 * 32)


def test_a_rule_without_policy_costs_what_torch_counts(make_reducer, make_tokens):
    real, said, _ = reduced_flops(make_reducer((1, 3)), FirstSelector(NO_HEADS), make_tokens(*LENGTHS), 0.3)
    assert said == real


@pytest.mark.parametrize("name", ["bert", "eurobert bos"])
def test_reading_attention_costs_what_torch_counts(name, config_of, build_model, make_tokens):
    reducer = reducer_of(build_model(config_of(name)), (1, 3))
    real, said, _ = reduced_flops(reducer, AttentionSelector(NO_HEADS), make_tokens(*LENGTHS), 0.3)
    assert said == real


@pytest.fixture
def marking(config_of):
    """A tiny BERT whose head says 3 numbers of each token, and that drops tokens before layers 1 and 3."""
    return reducer_of(MarkWords().auto_class.from_config(config_of("bert")).eval(), (1, 3), task=MarkWords())


def test_a_head_that_reads_tokens_costs_what_torch_counts(marking, make_tokens):
    tokens = make_tokens(*LENGTHS)
    real = counted(lambda: marking.unreduced_outputs(tokens))
    assert float(CostModel.of(marking).unreduced(tokens.lengths).sum()) == real > 0
    # Every original token's last state is read, dropped or not.
    real, said, left = reduced_flops(marking, FirstSelector(NO_HEADS), tokens, 0.3)
    assert said == real > 0
    assert left < sum(LENGTHS)


def test_a_head_that_reads_tokens_by_hand(marking):
    cost = CostModel.of(marking)
    assert (cost.head_per_document, cost.head_per_token) == (0, 0)
    assert cost.head_per_original_token == 2 * 32 * 3  # no pooler


def test_a_bert_layer_costs_24_n_d2_and_4_n2_d(config_of, build_model):
    config = config_of("bert")
    config.intermediate_size = 4 * 32
    cost = CostModel.of(reducer_of(build_model(config)))
    n, d = torch.tensor([1.0, 10.0, 37.0]), 32
    assert torch.equal(cost.layers(0, 1, n), 24 * n * d**2 + 4 * n**2 * d)
    assert torch.equal(cost.layers(1, 4, n), 3 * cost.layers(0, 1, n))
    assert torch.equal(cost.layers(2, 2, n), torch.zeros(3))
    assert cost.embedding_per_token == 0
    assert cost.head_per_document == 2 * d * d + 2 * d * 3  # pooler, then three classes


@pytest.mark.parametrize(
    ("features", "per_token", "per_document"),
    [
        ((), 0, 0),
        (("document",), 0, 2 * 33 * 8),  # mean state and length
        (("neighbours",), 2 * 32 * 16, 0),  # one map for those before, one for those after
        (("document", "neighbours"), 2 * 32 * 16, 2 * 33 * 8),
        (("question",), 2 * 32 * 63 + 2 * 4 * 8, 0),  # 63 directions, four windows
    ],
)
def test_a_head_of_width_8_by_hand(features, per_token, per_document, make_reducer):
    cost = CostModel.of(make_reducer(), Policy(32, 2, width=8, features=features))
    assert cost.policy_per_pair == (8 * 64 if "question" in features else 0)  # four products of vectors of 64
    assert cost.policy_per_token == 2 * 32 * 8 + 2 * 8 + per_token
    assert cost.policy_per_document == per_document


def test_a_rules_policy_of_no_heads_costs_nothing(make_reducer):
    assert CostModel.of(make_reducer(), Policy(32, 0)) == CostModel.of(make_reducer())


@pytest.fixture
def small():
    """Three layers of 10 per token and 1, 2, 3 per pair; the rest round."""
    return CostModel(
        embedding_per_token=2.0,
        layer_per_token=(10.0, 10.0, 10.0),
        layer_per_pair=(1.0, 2.0, 3.0),
        head_per_document=100.0,
        policy_per_token=5.0,
        policy_per_document=11.0,
        head_per_token=7.0,
    )


def test_an_unreduced_document_by_hand(small):
    # 4 tokens: (2 + 7) · 4 + 100 + 30 · 4 + 6 · 16; 1 token: 9 + 100 + 30 + 6.
    assert small.unreduced(torch.tensor([4, 1])).tolist() == [352, 145]


@pytest.mark.parametrize(
    ("selector", "extra"),
    [
        ("first", 0),
        ("random", 0),
        ("saliency", 0),  # a reference: what finds it is not charged
        ("policy", 5 * 4 + 5 * 2 + 2 * 11),  # a head at both points, on 4 and then on 2 tokens
        ("gumbel", 5 * 4 + 5 * 2 + 2 * 11),
        ("attention", 1 / 2 * 16 + 2 / 2 * 4),  # the scores of layer 0 on 4 tokens, of layer 1 on 2
    ],
)
def test_a_reduced_document_by_hand(small, selector, extra):
    # 4 tokens through layer 0, 2 through layer 1, 1 through layer 2: (10·4 + 16) + (10·2 + 2·4) + (10 + 3).
    expected = 2 * 4 + 100 + 7 * 1 + 56 + 28 + 13 + extra
    own = selector_class(selector)
    for given in (own, own(Policy(32, 2) if own.learns else NO_HEADS)):  # the class says as much as its instance
        assert small.reduced(torch.tensor([4]), torch.tensor([[2], [1]]), (1, 2), given).tolist() == [expected]
    if selector == "policy":
        assert small.reduced(torch.tensor([4]), torch.tensor([[2], [1]]), (1, 2)).tolist() == [expected]


def test_a_head_that_reads_original_tokens_and_fusion_by_hand(small):
    tokens_read = replace(small, head_per_document=0.0, head_per_token=0.0, head_per_original_token=9.0)
    # 4 tokens: (2 + 9) · 4 + 30 · 4 + 6 · 16.
    assert tokens_read.unreduced(torch.tensor([4])).tolist() == [260]
    # 2 and then 1 of them left: the head still reads 4. The layers as above.
    kept = torch.tensor([[2], [1]])
    assert tokens_read.reduced(torch.tensor([4]), kept, (1, 2), FirstSelector).tolist() == [11 * 4 + 56 + 28 + 13]
    fused = replace(tokens_read, fusion_per_document=50.0)
    assert fused.reduced(torch.tensor([4]), kept, (1, 2), FirstSelector).tolist() == [11 * 4 + 97 + 2 * 50]


def test_a_policy_that_compares_pairs_by_hand(small):
    counts = torch.tensor([4]), torch.tensor([[2], [1]]), (1, 2)
    compares = replace(small, policy_per_pair=0.5)
    assert compares.reduced(*counts) == small.reduced(*counts) + 0.5 * (4**2 + 2**2)
    assert compares.reduced(*counts, FirstSelector) == small.reduced(*counts, FirstSelector)


def test_every_selectors_extra_cost_is_known(small):
    costs = {
        name: float(small.reduced(torch.tensor([4]), torch.tensor([[2], [1]]), (1, 2), one))
        for name, one in SELECTORS.items()
    }
    free = {name for name, each in costs.items() if each == min(costs.values())}
    assert free == {name for name, one in SELECTORS.items() if not one.learns and one.needs != "attention"}


def test_keeping_all_without_policy_costs_the_plain_model(small):
    lengths = torch.tensor([4, 9])
    assert torch.equal(small.reduced(lengths, lengths.expand(2, 2), (0, 2), FirstSelector), small.unreduced(lengths))


def test_the_price_of_a_stage_by_hand(small):
    # From point 1 one layer, from point 2 the last; m need not be whole. The whole document costs 352.
    price = small.price((1, 2), torch.tensor([[2.0], [0.5]]), torch.tensor([4]))
    assert_close(price, torch.tensor([[(20 + 8) / 352], [(5 + 0.75) / 352]]))
    assert price.dtype == torch.float32


def test_the_stages_of_a_document_that_keeps_all_are_its_whole_price_but_for_the_ends(small):
    lengths = torch.tensor([4, 9])
    price = small.price((0, 2), lengths.expand(2, 2).float(), lengths).sum(0)
    ends = 9 * lengths + 100
    assert_close(price, (1 - ends / small.unreduced(lengths)).float())


def test_what_a_layer_maps_once_for_a_row_by_hand(small):
    mapped = replace(small, layer_per_document=(50.0, 60.0, 70.0))
    lengths, kept = torch.tensor([4]), torch.tensor([[2], [1]])
    # Each layer runs once on the document, however many of its tokens are left.
    assert float(mapped.unreduced(lengths) - small.unreduced(lengths)) == 180
    reduced = [float(each.reduced(lengths, kept, (1, 2), FirstSelector)) for each in (mapped, small)]
    assert reduced[0] - reduced[1] == 180


def test_a_deberta_layer_by_hand(config_of, build_model):
    cost = CostModel.of(reducer_of(build_model(config_of("deberta-v2 with a convolution"))))
    d, rows = 32, 16  # 8 buckets in both directions
    linear = 2 * (4 * d * d + 2 * d * 48)
    assert cost.layer_per_token[1:] == (linear + 2 * 2 * rows * d,) * 3  # products with mapped queries and with keys
    assert cost.layer_per_token[0] == cost.layer_per_token[1] + 2 * 3 * d * d  # a kernel of 3
    assert cost.layer_per_document == (2 * rows * 2 * d * d,) * 4
    shared = CostModel.of(reducer_of(build_model(config_of("deberta-v2 with shared keys"))))
    assert shared.layer_per_token == (cost.layer_per_token[1],) * 4
    assert shared.layer_per_document == cost.layer_per_document


def test_speed_up_is_a_ratio_of_sums():
    # The mean of the ratios would be (10 + 2) / 2 = 6.
    assert speed_up(torch.tensor([10.0, 1000.0]), torch.tensor([1.0, 500.0])) == pytest.approx(1010 / 501)
