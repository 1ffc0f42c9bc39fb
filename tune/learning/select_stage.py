"""The second stage of learning, select: the encoder is frozen, and the policy learns which tokens to keep."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.dynamics import Dynamics
from envs.rollout import Draw, Rollout, sample_trajectories
from trbert.measure.evaluate import within_budget
from trbert.measure.halving import halved
from trbert.runners import Eager, Runner
from trbert.runners.spans import Spans
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.saliency import most_salient, saliency
from trbert.tasks.examples import Examples, Outputs
from tune.budget import Clock
from tune.learning.objectives import imitation_loss, leave_one_out_advantages, mean_advantages, policy_gradient_loss
from tune.learning.steps import (
    Keeper,
    Learner,
    Progress,
    accumulate_gradient,
    autocast,
    check_finite,
    shuffled_batches,
)
from tune.settings import ComputeSettings, SelectSettings

_IMITATION_RATE = 1e-2
"""The learning rate of the warm start. It is higher than that of the policy gradient, because nothing is sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutItem:
    """One item of work of a select step: some examples to sample. An item gives the same gradient in any process.

    Attributes:
        index: the place of the item in its step; gradients are summed in this order.
        version: the policy version, which is part of the key of the random numbers.
        examples: indices into the training split.
        guided: whether the last sample of each document keeps the most salient tokens.
    """

    index: int
    version: int
    examples: tuple[int, ...]
    guided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemGradient:
    """The result of an item.

    Attributes:
        index: the index of the item.
        gradient: of the policy's loss, summed over the item's examples; all parameters in one vector.
        reward: the mean reward, in nats.
        charge: the mean charge of a document, as a fraction of its unreduced price.
        kept: the fraction of the tokens that is left after the last point.
        seconds: the time that the item took.
    """

    index: int
    gradient: NDArray[np.float32]
    reward: float
    charge: float
    kept: float
    seconds: float


@runtime_checkable
class GradientSource(Protocol):
    """Computes the gradients of a step's items, here or on other machines."""

    def gradients(self, weights: NDArray[np.float32], items: Sequence[RolloutItem]) -> list[ItemGradient]:
        """Returns the items' gradients in item order, for the policy with these weights."""


class Sampler:
    """Samples the trajectories of an item with the frozen encoder, and computes the policy's gradient on them.

    A rollout actor does the same with Ray around it. Trials without actors call a sampler in their own process.

    Args:
        dynamics: the decision process.
        policy: a policy that takes the weights of each call.
        train: the training examples.
        settings: of the select stage.
        compute: how the machine is used.
        seed: the key of the draws.
        temperature: τ of relaxed decisions; None does not relax them.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        policy: Policy,
        train: Examples,
        settings: SelectSettings,
        compute: ComputeSettings,
        seed: int,
        temperature: float | None = None,
    ) -> None:
        self.dynamics, self.policy, self.train = dynamics, policy, train
        self.settings, self.compute, self.seed, self.temperature = settings, compute, seed, temperature

    def gradients(self, weights: NDArray[np.float32], items: Sequence[RolloutItem]) -> list[ItemGradient]:
        """Returns the items' gradients, computed in this process one after the other."""
        return [self.gradient(weights, item) for item in items]

    def gradient(self, weights: NDArray[np.float32], item: RolloutItem) -> ItemGradient:
        """Returns the gradient of one item for the policy with these weights."""
        started = time.perf_counter()
        load_flat(self.policy, weights)
        tokens = self.train.lengths * self.settings.samples
        parts: list[tuple[int, NDArray[np.float32], dict[str, float]]] = []
        for chosen in within_budget(torch.tensor(item.examples), tokens, self.compute.tokens_of_pass):
            parts += halved(partial(self._differentiate, item=item), chosen)
        sizes = [size for size, _, _ in parts]
        means = {name: float(np.average([told[name] for _, _, told in parts], weights=sizes)) for name in parts[0][2]}
        gradient: NDArray[np.float32] = np.sum([each for _, each, _ in parts], axis=0, dtype=np.float32)
        return ItemGradient(index=item.index, gradient=gradient, seconds=time.perf_counter() - started, **means)

    def _differentiate(self, chosen: Tensor, item: RolloutItem) -> tuple[int, NDArray[np.float32], dict[str, float]]:
        """Returns the number of these examples of an item, their summed gradient, and their mean figures."""
        part = self.train.take(chosen).to(self.dynamics.reducer.encoder.device)
        samples = self.settings.samples
        rollout, outputs = self._sample(part, self.train.documents(chosen), item)
        loss, reward = select_loss(self.dynamics, rollout, outputs, part, samples, self.settings)
        if rollout.counts is not None:
            loss = loss + self.dynamics.task.learning_loss(outputs, part.repeat(samples)).mean()
        gradient = torch.autograd.grad(loss * len(chosen), list(self.policy.parameters()))
        lengths, kept = rollout.state.batch.original_lengths, rollout.state.kept
        told = {
            "reward": reward,
            "charge": float(self.dynamics.charge(lengths, kept).mean()),
            "kept": float(kept[-1].sum() / lengths.sum()),
        }
        return len(chosen), torch.cat([g.flatten() for g in gradient]).float().cpu().numpy(), told

    def _sample(self, part: Examples, documents: Tensor, item: RolloutItem) -> tuple[Rollout, Outputs]:
        """Returns finished trajectories, and the outputs of the head."""
        reducer = self.dynamics.reducer
        device = reducer.encoder.device
        draw = Draw(seed=self.seed, version=item.version, documents=documents.to(device))
        dials = torch.zeros(self.settings.samples, len(documents), device=device)
        forced = None
        if item.guided:
            with autocast(device, self.compute.dtype):
                forced = self._salient_mask(part)
        with autocast(device, self.compute.dtype), _frozen(reducer):
            rollout = sample_trajectories(
                self.dynamics,
                self.policy,
                part.tokens,
                draw,
                dials,
                forced=forced,
                temperature=self.temperature,
                tokens_per_decision=self.settings.tokens_per_decision,
            )
            outputs = reducer.outputs(rollout.state)
        return rollout, outputs

    def _salient_mask(self, part: Examples) -> Tensor:
        """Returns the mask of the paper's guided sample: the k most salient tokens of each document.

        k is the number of tokens that the policy expects to keep at the first point, Σ p, rounded.
        """
        reducer = self.dynamics.reducer
        states, scores = saliency(reducer.encoder, reducer.task, part, reducer.points)
        with torch.no_grad():
            entering = states[0]
            dials = torch.zeros(1, len(part.tokens), device=reducer.encoder.device)
            expected = self.policy.logits(entering, 0, dials)[0].sigmoid()
            keep = expected.new_zeros(len(entering)).index_add(0, entering.documents, expected).round()
        return most_salient(entering, scores, keep)[0]


def frozen_runner(device: torch.device) -> Runner:
    """Returns the runner of an encoder that does not learn: on a GPU it captures the layers between two points."""
    return Spans() if device.type == "cuda" else Eager()


def select_loss(
    dynamics: Dynamics, rollout: Rollout, outputs: Outputs, part: Examples, samples: int, settings: SelectSettings
) -> tuple[Float[Tensor, ""], float]:
    """Returns the policy's loss on finished trajectories, a mean over samples and examples, and their mean reward.

    For drawn decisions it is the loss of the policy gradient. For relaxed decisions it is the price of the tokens that
    they keep. The caller then adds the task's loss. A gate is a factor of a kept token's state: it is 1, and it carries
    the gradient of the decision, so that the task's loss reaches the policy.

    Args:
        dynamics: the decision process.
        rollout: finished trajectories; only the first `samples` of each document count.
        outputs: what the head says about the trajectories.
        part: the examples whose trajectories these are.
        samples: how many trajectories of each document count.
        settings: of the select stage.
    """
    drawn, docs = part.repeat(samples), len(part.tokens)
    kept, outputs = rollout.state.kept[:, : samples * docs], outputs[: drawn.num_outputs]
    returns = dynamics.returns(drawn, kept, outputs.detach()).view(-1, samples, len(part))
    reward = float(returns[0].mean())
    if rollout.counts is not None:
        charges = dynamics.charges(drawn.tokens.lengths, rollout.counts[:, :samples].flatten(1))
        return (dynamics.terms.penalty * dynamics.of_examples(drawn, charges).sum(0)).mean(), reward
    advantage = leave_one_out_advantages if settings.baseline == "leave-one-out" else mean_advantages
    advantages = advantage(returns if settings.reward_to_go else returns[:1])[..., part.owner]
    lengths = part.tokens.lengths
    if settings.token_average:
        loss = policy_gradient_loss(rollout.mean_log_prob[:, :samples], advantages, torch.ones_like(lengths))
    else:
        loss = policy_gradient_loss(rollout.log_prob[:, :samples], advantages, lengths)
    return loss * (docs / len(part)), reward


def train_policy(
    policy: Policy,
    source: GradientSource,
    train: Examples,
    settings: SelectSettings,
    seed: int,
    progress: Progress,
    keeper: Keeper | None = None,
    clock: Clock | None = None,
) -> None:
    """Stage 2: trains the policy by policy gradient, with the encoder frozen. Each step waits for all of its items.

    Args:
        policy: learns in place.
        source: computes the gradients; it is called once for each step.
        train: the training examples.
        settings: of the stage.
        seed: the key of the order of examples.
        progress: is called with the means of each step.
        keeper: saves the stage's state from time to time; None saves nothing.
        clock: of the stage; the learning rate has fallen to 0 when its time is over. None has no limit.

    Raises:
        Diverged: A gradient is not finite. The policy is left as it was before that step.
    """
    together = train.count_of(settings.step_documents)
    of_item = train.count_of(settings.documents_of_item(_device(policy).type))
    steps = max(1, math.ceil(train.count_of(settings.documents) / together))
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    learner = Learner(optimizer, steps, warm_up=0.02, keeper=keeper, clock=clock)
    for step, chosen in learner.batches(len(train), together, seed):
        items = [
            RolloutItem(index=i, version=step, examples=tuple(d.tolist()), guided=step < settings.guided_share * steps)
            for i, d in enumerate(chosen.split(of_item))
        ]
        results = source.gradients(flatten(policy), items)
        gradient: NDArray[np.float32] = np.sum([result.gradient for result in results], axis=0, dtype=np.float32)
        load_flat_gradient(policy, gradient / np.float32(len(chosen)))
        check_finite(float(nn.utils.clip_grad_norm_(policy.parameters(), 1.0)), "the policy's gradient norm")
        optimizer.step()
        means = {
            name: float(np.mean([getattr(result, name) for result in results]))
            for name in ("reward", "charge", "kept", "seconds")
        }
        progress({"step": float(step + 1), "steps": float(steps), **means})


def warm_start(
    policy: Policy,
    dynamics: Dynamics,
    train: Examples,
    settings: SelectSettings,
    compute: ComputeSettings,
    seed: int,
    clock: Clock | None = None,
) -> None:
    """Trains the policy to imitate saliency: at every point, to keep the most salient half of the original tokens.

    Raises:
        StageTimeout: The clock's time is over. The policy keeps what it has learned.
    """
    if settings.warm_start_documents == 0:
        return
    count, together = (
        min(train.count_of(settings.warm_start_documents), len(train)),
        train.count_of(settings.step_documents),
    )
    reducer, parameters = dynamics.reducer, list(policy.parameters())
    device = reducer.encoder.device
    optimizer = torch.optim.Adam(parameters, lr=_IMITATION_RATE)
    steps = math.ceil(count / together)

    def loss(chosen: Tensor) -> Tensor:
        """Returns the loss summed over tokens and points, so that the losses of a step's parts can be added."""
        part = train.take(chosen).to(device)
        with autocast(device, compute.dtype):
            states, scores = saliency(reducer.encoder, reducer.task, part, reducer.points)
            targets = most_salient(states[0], scores, 0.5 * part.tokens.lengths)
        weights = (~states[0].protected).float()
        dials = torch.zeros(1, len(part.tokens), device=device)
        losses = [
            imitation_loss(policy.logits(state, point, dials)[0], targets[point], weights)
            for point, state in enumerate(states)
        ]
        return torch.stack(losses).sum() * weights.sum()

    for chosen in shuffled_batches(len(train), together, steps, seed):
        optimizer.zero_grad()
        for part in within_budget(chosen, train.lengths, compute.tokens_of_pass):
            accumulate_gradient(parameters, part, loss)
        if clock is not None:
            clock.check()
        free = (~train.take(chosen).tokens.protected).sum().clamp(min=1).to(device)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(free)
        optimizer.step()


def flatten(policy: Policy) -> NDArray[np.float32]:
    """Returns the policy's weights as one vector."""
    return torch.cat([p.detach().flatten() for p in policy.parameters()]).float().cpu().numpy()


def load_flat(policy: Policy, weights: NDArray[np.float32]) -> None:
    """Sets the policy's weights from one vector."""
    # Arrays from Ray are read-only, and torch needs arrays that can be written.
    nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()).to(_device(policy)), policy.parameters())


def load_flat_gradient(policy: Policy, gradient: NDArray[np.float32]) -> None:
    """Sets the policy's gradient from one vector."""
    parts = torch.from_numpy(gradient).to(_device(policy)).split([p.numel() for p in policy.parameters()])
    for parameter, part in zip(policy.parameters(), parts, strict=True):
        parameter.grad = part.view_as(parameter).clone()


def _device(policy: Policy) -> torch.device:
    return next(policy.parameters()).device


@contextmanager
def _frozen(reducer: Reducer) -> Iterator[None]:
    """Makes a context in which the weights of encoder and fusion take no gradient; those of the policy still do."""
    own = (*reducer.encoder.plain.parameters(), *reducer.fusion.parameters(), *reducer.exits.parameters())
    parameters = [parameter for parameter in own if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
