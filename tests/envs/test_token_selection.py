"""The Gymnasium environments: their contract, their bounds, and that they are the rollout's own dynamics."""

import copy
import dataclasses
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import BertConfig, DistilBertConfig, ElectraConfig, ModernBertConfig

import envs
from envs.rollout import Draw, sample_trajectories
from envs.token_selection import TokenSelectionEnv, TokenSelectionVectorEnv
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks.examples import Examples

ROOT = Path(__file__).resolve().parents[2]
ID = "trbert/TokenSelection-v0"
WIDEST = np.finfo(np.float32).max
SAMPLES = 3


@pytest.fixture
def env(dynamics, examples):
    return TokenSelectionEnv(dynamics, examples)


@pytest.fixture
def vector_env(dynamics, examples):
    return TokenSelectionVectorEnv(dynamics, examples, num_envs=2)


def with_encoder(dynamics, encoder):
    """Returns the dynamics of another encoder; the prices stay."""
    return dataclasses.replace(dynamics, reducer=dataclasses.replace(dynamics.reducer, encoder=encoder))


def recorded_actions(dynamics, tokens, rollout, samples, width):
    """Each point's masks as actions over original positions, [trajectories, width]; and each trajectory's reward."""
    docs = len(tokens)
    state = dynamics.reset(tokens)
    actions = []
    for point, masks in enumerate(rollout.masks):
        batch = state.batch
        action = np.zeros((samples * docs, width), dtype=np.int8)
        for row, mask in enumerate(masks):
            action[row * docs + batch.documents if point == 0 else batch.documents, batch.positions] = mask
        actions.append(action)
        state = dynamics.transition(state, masks)
    return actions


# The contract.


@pytest.mark.parametrize("points", [(0, 2), (1, 3)])
def test_gymnasiums_checker_has_nothing_to_warn_of(make_dynamics, examples, points):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID, dynamics=make_dynamics(points), examples=examples).unwrapped)
        # The checker can only ask about render modes what `make` has built.
        check_env(TokenSelectionEnv(make_dynamics(points), examples, max_length=15), skip_render_check=True)


def test_the_checker_warns_of_infinite_bounds(env):
    # So that the test above can fail.
    env.observation_space["hidden"].high[:] = np.inf
    with pytest.warns(UserWarning, match="infinity"):
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("mode", [None, "sync"])
def test_make_vec_makes_environments_whose_observations_lie_in_their_space(dynamics, examples, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vector = {"autoreset_mode": AutoresetMode.DISABLED} if mode else None
        made = gymnasium.make_vec(ID, 3, mode, vector, dynamics=dynamics, examples=examples)
        assert isinstance(made, TokenSelectionVectorEnv) == (mode is None)
        assert made.metadata["autoreset_mode"] is AutoresetMode.DISABLED
        observations, _ = made.reset(seed=4)
        for point in range(3):
            assert observations in made.observation_space
            assert observations["point"].tolist() == [point] * 3
            if point < 2:
                observations, _, terminated, truncated, _ = made.step(made.action_space.sample())
                assert terminated.tolist() == [point == 1] * 3
                assert not truncated.any()


def test_an_episode_has_one_step_for_each_point_and_its_reward_at_the_end(env):
    observation, info = env.reset(options={"document": 1})
    assert (observation["point"], info) == (0, {"document": 1})
    observation, reward, terminated, truncated, info = env.step(np.ones(12, dtype=np.int8))
    assert (observation["point"], reward, terminated, truncated, info) == (1, 0.0, False, False, {"document": 1})
    observation, reward, terminated, truncated, info = env.step(np.ones(12, dtype=np.int8))
    assert (observation["point"], terminated, truncated) == (2, True, False)
    assert reward < 0
    assert set(info) == {"document", "cost", "charge", "kept", "logits"}
    assert info["kept"].tolist() == [12, 12]
    assert info["logits"].shape == (3,)


def test_rows_stay_with_their_token_when_others_are_dropped(env, dynamics, tokens):
    before, _ = env.reset(options={"document": 0})  # 7 tokens, viewed in 12 rows
    assert before["present"].tolist() == [1] * 7 + [0] * 5
    assert before["protected"].tolist() == [1] + [0] * 11
    assert not before["hidden"][7:].any()
    action = np.zeros(12, dtype=np.int8)
    action[[2, 5, 9]] = 1  # row 9 is no token: ignored; row 0 is protected: kept
    after, *_ = env.step(action)
    assert after["present"].nonzero()[0].tolist() == [0, 2, 5]
    assert after["hidden"].any(1).nonzero()[0].tolist() == [0, 2, 5]
    mask = torch.tensor([[True, False, True, False, False, True, False]])
    expected = dynamics.transition(dynamics.reset(tokens.take(torch.tensor([0]))), mask).batch.hidden
    np.testing.assert_allclose(after["hidden"][[0, 2, 5]], expected.detach(), rtol=1e-5, atol=1e-5)


def test_a_dropped_token_never_comes_back(env):
    env.reset(options={"document": 0})
    env.step(np.eye(12, dtype=np.int8)[3])
    after, *_, info = env.step(np.ones(12, dtype=np.int8))
    assert after["present"].nonzero()[0].tolist() == [0, 3]
    assert info["kept"].tolist() == [2, 2]


def test_keeping_all_gives_the_plain_models_logits_and_the_whole_cost(env, encoder, dynamics, tokens):
    env.reset(options={"document": 1})
    env.step(np.ones(12))
    *_, info = env.step(np.ones(12))
    ids = tokens.take(torch.tensor([1])).input_ids[None]
    with torch.no_grad():
        plain = encoder.plain(input_ids=ids).logits[0]
    np.testing.assert_allclose(info["logits"], plain, rtol=1e-4, atol=1e-5)
    policy = 2 * 12 * dynamics.cost.policy_per_token / dynamics.cost.unreduced(torch.tensor([12])).item()
    assert info["cost"] == pytest.approx(1 + policy)


def test_the_charge_is_what_the_reward_subtracts_at_the_penalty(env, labels):
    env.reset(options={"document": 1})
    env.step(np.arange(12) < 10)
    _, reward, *_, info = env.step(np.arange(12) < 5)
    assert info["kept"].tolist() == [10, 5]
    log_likelihood = torch.tensor(info["logits"]).log_softmax(0)[labels[1]].clamp(min=-5)
    assert info["charge"] > 0.1
    assert reward == pytest.approx(float(log_likelihood) - 2.0 * info["charge"], abs=1e-5)  # the penalty is 2


def test_half_precision_states_are_observed_as_float32(dynamics, encoder, tokens, examples):
    half = with_encoder(dynamics, Encoder(copy.deepcopy(encoder.plain).to(torch.bfloat16)))
    env = TokenSelectionEnv(half, examples)
    observation, _ = env.reset(options={"document": 1})
    assert observation in env.observation_space
    states = half.reset(tokens.take(torch.tensor([1]))).batch.hidden
    assert states.dtype == torch.bfloat16
    np.testing.assert_array_equal(observation["hidden"], states.detach().float())


def test_observations_are_contiguous_float32(env):
    observation, _ = env.reset(seed=0)
    assert observation["hidden"].dtype == np.float32
    assert observation["hidden"].flags.c_contiguous


def test_the_seed_draws_the_documents(env, vector_env):
    def drawn(made, seed):
        first = made.reset(seed=seed)[1]["document"]
        return [np.array(first).tolist(), *(np.array(made.reset()[1]["document"]).tolist() for _ in range(8))]

    for made in (env, vector_env):
        assert drawn(made, 3) == drawn(made, 3)
        assert drawn(made, 3) != drawn(made, 4)
    assert {d for pair in drawn(vector_env, 3) for d in pair} <= set(range(5))


def test_every_document_is_drawn_in_the_long_run(env, vector_env):
    # Of 60 draws, a given one of five documents is missing with probability .8^60, 2 in a million.
    env.reset(seed=0)
    assert {int(env.reset()[1]["document"]) for _ in range(60)} == set(range(5))
    vector_env.reset(seed=0)
    assert {int(d) for _ in range(30) for d in vector_env.reset()[1]["document"]} == set(range(5))


def test_dropout_is_off_even_where_training_left_it_on(env, encoder):
    def reward():
        env.reset(options={"document": 1})
        env.step(np.ones(12))
        return env.step(np.ones(12))[1]

    expected = reward()
    encoder.plain.train()
    try:
        assert reward() == expected
    finally:
        encoder.plain.eval()


def test_no_gradient_is_recorded(env):
    env.reset(options={"document": 1})
    env.step(np.ones(12))
    assert not env._episodes.state.batch.hidden.requires_grad


def test_importing_envs_registers_without_loading_torch():
    script = f"import sys, envs, gymnasium; gymnasium.spec({ID!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert importlib.import_module(gymnasium.spec(ID).entry_point.split(":")[0]).__package__ == envs.__name__


# Replay: a rollout and the environments are one process.


@pytest.mark.parametrize("points", [(0, 2), (1, 3)])
@pytest.mark.parametrize("price", ["flops", "tokens"])
def test_recorded_masks_replayed_give_the_rollouts_reward_kept_counts_and_cost(
    make_dynamics, policy, tokens, examples, points, price
):
    dynamics = make_dynamics(points, price=price)
    docs = len(tokens)
    with torch.no_grad():
        draw = Draw(seed=5, version=0, documents=torch.arange(docs))
        rollout = sample_trajectories(dynamics, policy, tokens, draw, torch.zeros(SAMPLES, docs))
        state = rollout.state
        outputs = dynamics.reducer.outputs(state)
        rewards = dynamics.reward(examples.repeat(SAMPLES), state.kept, outputs).numpy()
        actions = recorded_actions(dynamics, tokens, rollout, SAMPLES, 12)
    lengths = state.batch.original_lengths
    cost = (dynamics.cost.reduced(lengths, state.kept, points) / dynamics.cost.unreduced(lengths)).numpy()
    # The masks drop something, and not the same for every sample: an environment that ignored them would be caught.
    assert state.kept[-1].sum() < 0.9 * lengths.sum()
    assert len(set(rewards.round(5).tolist())) > 2 * docs

    vector = TokenSelectionVectorEnv(dynamics, examples, num_envs=SAMPLES * docs)
    vector.reset(options={"documents": list(range(docs)) * SAMPLES})
    for action in actions:
        _, replayed, terminated, _, infos = vector.step(action)
    assert terminated.all()
    np.testing.assert_allclose(replayed, rewards, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(infos["kept"].T, state.kept)
    np.testing.assert_allclose(infos["cost"], cost, rtol=1e-6)

    single = TokenSelectionEnv(dynamics, examples)
    for trajectory in range(SAMPLES * docs):
        single.reset(options={"document": trajectory % docs})
        for action in actions:
            _, reward, terminated, _, info = single.step(action[trajectory])
        assert terminated
        assert reward == pytest.approx(rewards[trajectory], rel=1e-4, abs=1e-5)
        np.testing.assert_array_equal(info["kept"], state.kept[:, trajectory])
        assert info["cost"] == pytest.approx(cost[trajectory], rel=1e-6)


def test_the_vector_environment_is_the_single_one_stacked(dynamics, examples):
    made = {"dynamics": dynamics, "examples": examples}
    packed = gymnasium.make_vec(ID, 4, **made)
    looped = gymnasium.make_vec(ID, 4, "sync", {"autoreset_mode": AutoresetMode.DISABLED}, **made)
    assert packed.single_observation_space == looped.single_observation_space
    assert packed.observation_space == looped.observation_space
    assert packed.action_space == looped.action_space
    _, chosen = looped.reset(seed=0)
    packed.reset(options={"documents": chosen["document"]})
    generator = np.random.default_rng(0)
    for _ in range(2):
        action = generator.integers(0, 2, (4, 12), dtype=np.int8)
        got, expected = packed.step(action), looped.step(action)
        for name, values in expected[0].items():
            assert got[0][name].dtype == values.dtype
            np.testing.assert_allclose(got[0][name], values, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-4, atol=1e-5)
        assert got[4].keys() == expected[4].keys()
        for name, values in expected[4].items():
            np.testing.assert_allclose(got[4][name], values, rtol=1e-4, atol=1e-5)


# The bounds.


def small(config):
    common = {"vocab_size": 40, "num_attention_heads": 2, "num_hidden_layers": 4, "pad_token_id": 0}
    torch.manual_seed(0)
    return Encoder(Classifier.from_config(config(**common)).eval())


POST_NORM = {
    "bert": lambda **k: BertConfig(hidden_size=16, intermediate_size=32, **k),
    "distilbert": lambda **k: DistilBertConfig(
        dim=16, hidden_dim=32, n_layers=4, n_heads=2, vocab_size=40, pad_token_id=0
    ),
    "electra": lambda **k: ElectraConfig(hidden_size=16, embedding_size=16, intermediate_size=32, **k),
}
OTHERS = {
    "modernbert": lambda **k: ModernBertConfig(
        hidden_size=16, intermediate_size=32, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2, **k
    ),
    "electra, projected": lambda **k: ElectraConfig(hidden_size=16, embedding_size=8, intermediate_size=32, **k),
}


def space_of(dynamics, examples):
    """Returns the space of `hidden`."""
    first = dataclasses.replace(examples, targets=torch.zeros_like(examples.targets))  # a class that every model has
    return TokenSelectionEnv(dynamics, first).observation_space["hidden"]


@pytest.mark.parametrize("family", POST_NORM)
def test_bounds_follow_from_the_last_norm_before_each_point(dynamics, examples, family):
    encoder = small(POST_NORM[family])
    norms = [module for module in encoder.base.modules() if isinstance(module, torch.nn.LayerNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.fill_(2.0)
            norm.bias.fill_(-0.5)
        # 4 layers, points (0, 2): seen are the embeddings' norm and those that end layers 1 and 3, not 0 and 2.
        norms[0].weight[3] = -7.0
        for index, layer in enumerate(encoder.layers):
            last = [module for module in layer.modules() if isinstance(module, torch.nn.LayerNorm)][-1]
            last.weight[4 + index] = 10.0
    space = space_of(with_encoder(dynamics, encoder), examples)
    # √15 · 2 + ½, and √15 · 7 + ½ and √15 · 10 + ½ where a weight stands out; 1 % for rounding.
    expected = 15**0.5 * np.array([2, 2, 2, 7, 2, 10, 2, 10] + [2] * 8) + 0.5
    np.testing.assert_allclose(space.high, np.tile(1.01 * expected, (12, 1)), rtol=1e-5)
    np.testing.assert_array_equal(space.low, -space.high)


def norms_of(encoder):
    return [module for module in encoder.base.modules() if isinstance(module, torch.nn.LayerNorm)]


def test_a_norm_without_scale_and_shift_bounds_by_the_width_alone(dynamics, examples):
    encoder = small(POST_NORM["bert"])
    for norm in norms_of(encoder):
        norm.weight = norm.bias = None
    np.testing.assert_allclose(space_of(with_encoder(dynamics, encoder), examples).high, 1.01 * 15**0.5, rtol=1e-5)


def test_a_dimension_that_is_always_zero_still_has_an_interval(dynamics, examples):
    encoder = small(POST_NORM["bert"])
    with torch.no_grad():
        for norm in norms_of(encoder):
            norm.weight[3] = norm.bias[3] = 0.0
    space = space_of(with_encoder(dynamics, encoder), examples)
    assert (space.high[:, 3] > 0).all()
    assert (space.low < space.high).all()


def test_bounds_are_found_even_where_training_left_dropout_on(dynamics, examples, encoder):
    expected = space_of(dynamics, examples)
    assert expected.high.max() < WIDEST
    encoder.plain.train()
    try:
        assert space_of(dynamics, examples) == expected
    finally:
        encoder.plain.eval()


def test_a_one_hot_state_reaches_the_bound():
    # 16 numbers, one 1: mean 1/16, variance 15/256, so the largest becomes (15/16) / (√15/16) = √15.
    normed = torch.nn.LayerNorm(16, eps=0.0)(torch.eye(16)[:1])
    assert normed.abs().max().item() == pytest.approx(15**0.5, rel=1e-5)


@pytest.mark.parametrize("family", OTHERS)
def test_states_that_no_norm_ends_have_the_widest_finite_bound(dynamics, examples, family):
    first = dataclasses.replace(examples, targets=torch.zeros_like(examples.targets))
    env = TokenSelectionEnv(with_encoder(dynamics, small(OTHERS[family])), first)
    assert (env.observation_space["hidden"].high == WIDEST).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


def test_finding_the_bounds_leaves_no_hook_behind(env, encoder):
    assert not any(module._forward_hooks for module in encoder.plain.modules())


# Wrong inputs.


def running(env):
    env.reset(options={"document": 0})
    return env


def ended(env):
    running(env).step(np.ones(12))
    env.step(np.ones(12))
    return env


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda env: env.step(np.ones(12)), r"step .* came before the first reset: call reset\(\)"),
        (lambda env: ended(env).step(np.ones(12)), r"step .* came after the last reduction point: call reset\(\)"),
        (lambda env: running(env).step(np.ones(7)), r"action must have the shape \(12,\), and has \(7,\)"),
        (lambda env: running(env).step(np.full(12, 0.5)), r"action must be 0 \(drop\) or 1 \(keep\), .* \[0.5\]"),
        (lambda env: env.reset(options={"document": 5}), "document must be an index from 0 to 4, and is 5"),
        (lambda env: env.reset(options={"document": -1}), "document must be an index from 0 to 4, and is -1"),
        (lambda env: env.reset(options={"document": 1.5}), "document must be an index from 0 to 4, and is 1.5"),
        (lambda env: env.reset(options={"documents": [1]}), r"options may hold 'document' alone, .* \['documents'\]"),
    ],
)
def test_wrong_use_of_the_environment_is_answered_with_the_remedy(env, act, message):
    with pytest.raises(InputError, match=message):
        act(env)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda env: env.step(np.ones((2, 12))), "came before the first reset"),
        (lambda env: (env.reset(), env.step(np.ones((3, 12)))), r"shape \(2, 12\), and has \(3, 12\)"),
        (lambda env: env.reset(options={"documents": [0]}), r"documents must be 2 indices, .* is \[0\]"),
        (lambda env: env.reset(options={"documents": [0, 9]}), "document must be an index from 0 to 4, and is .*9"),
        (
            lambda env: env.reset(options={"reset_mask": np.array([True, False])}),
            r"reset_mask must name all 2 .* is \[True, False\]",
        ),
    ],
)
def test_wrong_use_of_the_vector_environment_is_answered_with_the_remedy(vector_env, act, message):
    with pytest.raises(InputError, match=message):
        act(vector_env)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"targets": torch.full((5,), 3)}, "labels must be from 0 to 2, and go from 3 to 3"),
        ({"targets": torch.tensor([0, 1, -1, 0, 1])}, "labels must be from 0 to 2, and go from -1 to 1"),
        ({"targets": torch.tensor([0, 1, 2, 0, 3])}, "labels must be from 0 to 2, and go from 0 to 3"),
        (
            {"targets": torch.tensor([0, 1, 2]), "owner": torch.tensor([0, 0, 1, 2, 2])},
            "examples must be one document each in this environment, and 3 have 5: sample them by envs.rollout instead",
        ),
    ],
)
@pytest.mark.parametrize("made", [TokenSelectionEnv, TokenSelectionVectorEnv])
def test_wrong_examples_are_answered_with_the_remedy(dynamics, examples, made, wrong, message):
    with pytest.raises(InputError, match=f"^{message}"):
        made(dynamics, dataclasses.replace(examples, **wrong))


@pytest.mark.parametrize("made", [TokenSelectionEnv, TokenSelectionVectorEnv])
def test_too_few_rows_for_a_document_are_answered_with_the_remedy(dynamics, examples, made):
    assert made(dynamics, examples, max_length=12) is not None
    with pytest.raises(InputError, match="max_length must be at least the longest document's 12 tokens, and is 11"):
        made(dynamics, examples, max_length=11)


@pytest.mark.parametrize(
    ("documents", "labels", "message"),
    [
        ([[5, 6]] * 5, [0] * 4, "targets must be one for each of the 5 documents, and are 4"),
        ([], [], "tokens must hold at least one document"),
    ],
)
def test_examples_of_documents_without_targets_or_of_none_are_not_made(documents, labels, message):
    with pytest.raises(InputError, match=message):
        Examples.of_documents(Tokens.from_lists(documents, None), torch.tensor(labels, dtype=torch.long))


def test_a_vector_environment_has_at_least_one_document(dynamics, examples):
    with pytest.raises(InputError, match="num_envs must be at least 1, and is 0"):
        TokenSelectionVectorEnv(dynamics, examples, num_envs=0)


def test_a_refused_action_leaves_the_episode_where_it_was(env):
    running(env)
    with pytest.raises(InputError):
        env.step(np.ones(7))
    observation, *_ = env.step(np.ones(12))
    assert observation["point"] == 1


def test_a_whole_reset_mask_is_taken_and_the_callers_options_stay(vector_env):
    options = {"reset_mask": np.array([True, True]), "documents": [2, 0]}
    _, infos = vector_env.reset(options=options)
    assert infos["document"].tolist() == [2, 0]
    assert set(options) == {"reset_mask", "documents"}
