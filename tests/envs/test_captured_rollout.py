"""A rollout whose layers are captured, as on a GPU, is the one whose layers run one after the other."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch.testing import assert_close

from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.packed.tokens import Tokens
from trbert.runners.spans import Spans
from trbert.selection.fusion import Fusion
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "num_labels": 3,
    "initializer_range": 0.4,
    "pad_token_id": 1,
}
LOCAL = {"local_attention": 4, "global_attn_every_n_layers": 2, "bos_token_id": 2, "eos_token_id": 3}
CONFIGS = {
    "bert": transformers.BertConfig(**SHAPE),
    "roberta": transformers.RobertaConfig(**SHAPE),
    "modernbert": transformers.ModernBertConfig(**SHAPE, **LOCAL, cls_token_id=2, sep_token_id=3),
    "mpnet": transformers.MPNetConfig(**SHAPE),
}
AUTO = {
    "classification": transformers.AutoModelForSequenceClassification,
    "tagging": transformers.AutoModelForTokenClassification,
}


def with_weights(module, std):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return module


def both(family, points, task="classification"):
    """Returns the decision process of a model whose layers run eagerly, and that of the same model, captured."""
    torch.manual_seed(0)
    plain = AUTO[task].from_config(CONFIGS[family]).eval().requires_grad_(False)
    fusion = with_weights(Fusion(16, len(points)), 0.3).requires_grad_(False)
    reducer = Reducer(encoder=Encoder(plain), task=TASKS[task], points=points, fusion=fusion)
    eager = Dynamics(
        reducer,
        RewardTerms(penalty=2.0, keep_ratios=(0.5, 0.25)),
        CostModel.of(reducer, Policy(16, len(points), width=8)),
    )
    return eager, replace(eager, reducer=replace(reducer, encoder=Encoder(plain, Spans())))


@pytest.fixture
def seeing():
    """A policy that sees all it may, and is neither sure nor undecided."""
    return with_weights(Policy(16, 2, 8, ("document", "neighbours")), 0.3)


def rolled(dynamics, policy, tokens, version=2, samples=5, **how):
    draw = Draw(seed=7, version=version, documents=torch.arange(len(tokens)))
    dials = torch.linspace(-0.5, 0.5, samples)[:, None].repeat(1, len(tokens))
    rollout = sample_trajectories(dynamics, policy, tokens, draw, dials, **how)
    return rollout, dynamics.reducer.outputs(rollout.state)


def gradients(rollout, policy):
    advantages = torch.linspace(-1, 2, rollout.log_prob.numel()).view_as(rollout.log_prob)
    return torch.autograd.grad((rollout.log_prob * advantages).sum(), list(policy.parameters()), retain_graph=True)


def assert_same(eager, spans, policy, tokens, labels=None, **how):
    """Everything that learning reads of a rollout is the same: masks, outputs, rewards, charges and the gradient."""
    (expected, wanted), (found, outputs) = (rolled(each, policy, tokens, **how) for each in (eager, spans))
    assert all(torch.equal(one, other) for one, other in zip(found.masks, expected.masks, strict=True))
    assert torch.equal(found.state.kept, expected.state.kept)
    assert_close(outputs, wanted)
    for name in ("log_prob", "mean_log_prob"):
        assert_close(getattr(found, name), getattr(expected, name))
    for one, other in zip(gradients(found, policy), gradients(expected, policy), strict=True):
        assert_close(one, other)
    for lengths in (found.state.batch.lengths, *found.state.kept):  # nothing of what fills a row is a trajectory
        assert len(lengths) == 5 * len(tokens)
        assert lengths.min() >= 1
    if labels is not None:
        drawn = Examples.of_documents(tokens, labels).repeat(5)
        rewards = [each.reward(drawn, expected.state.kept, said) for each, said in ((eager, wanted), (spans, outputs))]
        assert_close(rewards[1], rewards[0])
        assert rewards[0].std() > 0.1
        charges = [each.charge(drawn.tokens.lengths, found.state.kept) for each in (eager, spans)]
        assert torch.equal(charges[0], charges[1])
    return found


@pytest.mark.parametrize("points", [(0, 2), (1, 3)])
@pytest.mark.parametrize("family", CONFIGS)
def test_it_is_the_eager_one_in_every_family(family, points, seeing, tokens, labels, captured):
    eager, spans = both(family, points)
    found = assert_same(eager, spans, seeing, tokens, labels)
    assert 5 * 5 < int(found.state.kept[-1].sum()) < 5 * 32 - 20  # it did drop some, and keep some
    assert_same(eager, spans, seeing, tokens, labels, version=3)
    assert_same(eager, spans, seeing, tokens, labels, tokens_per_decision=3)
    # Point 0 has no layers before it. MPNet has its documents in groups, whose sizes are others each time.
    assert len(captured) >= (0 if family == "mpnet" else 2 + (points[0] > 0))
    assert bool(captured) == (family != "mpnet")


@pytest.mark.parametrize("points", [(0, 2), (1, 3)])
def test_it_is_the_eager_one_where_the_head_reads_tokens(points, seeing, tokens):
    assert_same(*both("bert", points, "tagging"), seeing, tokens)


def test_it_is_the_eager_one_where_samples_are_forced_or_thresholded(dynamics, seeing, tokens, labels, captured):
    eager, spans = both("bert", (0, 2))
    forced = torch.rand(32, generator=torch.Generator().manual_seed(1)) < 0.4
    found = assert_same(eager, spans, seeing, tokens, labels, forced=forced)
    assert torch.equal(found.masks[0][-1], forced | dynamics.reset(tokens).batch.protected)
    assert_same(eager, spans, seeing, tokens, labels, deployed=torch.arange(5) >= 3)
    assert captured


@pytest.mark.parametrize("points", [(0, 2), (1, 3)])
def test_states_behind_relaxed_decisions_carry_a_gradient_and_so_are_not_captured(points, seeing, tokens, captured):
    eager, spans = both("bert", points)
    found = []
    for each in (eager, spans):
        rollout, outputs = rolled(each, seeing, tokens, temperature=0.7)
        loss = outputs.square().sum() + rollout.counts.square().sum()
        found.append((outputs, *torch.autograd.grad(loss, list(seeing.parameters()))))
    assert all(gradient.abs().max() > 0 for gradient in found[0][1:])
    for one, other in zip(*found, strict=True):
        assert_close(other, one)
    assert len(captured) == (points[0] > 0)  # the layers before the first decision


def test_rollouts_of_all_sizes_are_the_eager_ones(seeing, captured):
    eager, spans = both("bert", (1, 3))
    generator = torch.Generator().manual_seed(2)
    for version in range(12):
        docs = int(torch.randint(1, 9, (1,), generator=generator))
        lengths = torch.randint(1, 17, (docs,), generator=generator).tolist()
        rows = [torch.randint(2, 40, (length,), generator=generator).tolist() for length in lengths]
        assert_same(eager, spans, seeing, Tokens.from_lists(rows, None), version=version)
    assert len(spans.reducer.encoder.runner.captures) == len(captured)
