"""REINFORCE in ten lines on `trbert/TokenSelection-v0`: keep the one token that matters, drop the rest.

A document has a first token, nine fillers and one marker. The marker stands at a random place. There are two kinds of
markers, and the kind is the class of the document. First a tiny BERT learns to read the marker, which takes seconds.
Then a policy learns which tokens the BERT needs. The policy is one linear map of a token's state. The reward is
log p(class) minus the fraction of tokens kept. These are the best rewards:

| kept | reward |
|---|---|
| all tokens | −1 |
| the first token, which always stays, and the marker | −2/11 |
| the first token, and markers of one kind only: without a marker the class is the other one | −1.5/11 |

    python examples/reinforce.py
"""

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli
from transformers import BertConfig, BertForSequenceClassification

import envs  # noqa: F401  (registers the environment)
from envs.dynamics import Dynamics, RewardTerms
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples

FIRST, MARKERS, FILLERS = 1, (2, 3), range(4, 30)
DOCUMENTS, LENGTH = 256, 11


def make_documents(generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.from_numpy(generator.integers(0, 2, DOCUMENTS))
    ids = generator.choice(FILLERS, (DOCUMENTS, LENGTH))
    ids[:, 0] = FIRST
    ids[np.arange(DOCUMENTS), generator.integers(1, LENGTH, DOCUMENTS)] = np.array(MARKERS)[labels]
    return torch.from_numpy(ids), labels


def trained_bert(ids: Tensor, labels: Tensor, steps: int = 150) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=30,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        num_labels=2,
        initializer_range=0.1,
    )
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        # Fillers are left out at random, so that the model also knows short documents.
        mask = (torch.rand(ids.shape) < torch.rand(())) | (ids < FILLERS[0])
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def mean_reward(env: gymnasium.Env, policy: torch.nn.Module, episodes: int = 100) -> float:
    """Returns the mean reward when tokens are kept where the policy's probability is at least one half."""
    rewards = []
    for document in range(episodes):
        observation, _ = env.reset(options={"document": document})
        keep = policy(torch.from_numpy(observation["hidden"]))[:, 0] >= 0
        rewards.append(env.step(keep.numpy().astype(np.int8))[1])
    return float(np.mean(rewards))


def learn(env: gymnasium.Env, policy: torch.nn.Module, episodes: int = 800) -> None:
    optimizer, baseline = torch.optim.Adam(policy.parameters(), lr=0.02), -1.0
    for _ in range(episodes):
        observation, _ = env.reset()
        choice = Bernoulli(logits=policy(torch.from_numpy(observation["hidden"]))[:, 0])
        action = choice.sample()
        free = torch.from_numpy(observation["present"] > observation["protected"])
        _, reward, *_ = env.step(action.numpy().astype(np.int8))
        loss = -(reward - baseline) * (choice.log_prob(action) * free).sum()
        baseline += 0.05 * (reward - baseline)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(seed: int = 0) -> tuple[float, float]:
    torch.manual_seed(seed)
    ids, labels = make_documents(np.random.default_rng(seed))
    reducer = Reducer(encoder=Encoder(trained_bert(ids, labels)), task=TASKS["classification"], points=(0,))
    terms = RewardTerms(penalty=1.0, keep_ratios=(0.0,), price="tokens")
    dynamics = Dynamics(reducer, terms, CostModel.of(reducer))
    examples = Examples.of_documents(Tokens.from_padded(ids), labels)
    env = gymnasium.make("trbert/TokenSelection-v0", dynamics=dynamics, examples=examples)
    env.reset(seed=seed)
    policy = torch.nn.Linear(32, 1)
    before = mean_reward(env, policy)
    learn(env, policy)
    after = mean_reward(env, policy)
    print(f"mean reward before {before:.3f}, after {after:.3f}")
    return before, after


if __name__ == "__main__":
    main()
