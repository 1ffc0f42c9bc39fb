"""Token selection as a Gymnasium `Env` and `VectorEnv`, so that any library for reinforcement learning can train it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.dynamics import Dynamics
from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import ReducedPass
from trbert.shapes import SampleMasks
from trbert.tasks.examples import Examples

Arrays = dict[str, Any]
"""Arrays by name: an observation or an info of one document, or of several documents, stacked."""

ROUNDING = 1.01
"""Factor on the bound of a norm's output, because rounding may exceed the exact bound; enough for half precision."""


class TokenSelectionEnv(gymnasium.Env[Arrays, NDArray[np.int8]]):
    """Token selection on one document: an episode has one step for each reduction point, and the last step is rewarded.

    Observation (a dict; row i of every array is token i of the *original* document, whatever has been dropped since):

    * `hidden` [max_length, dim]: the states of the remaining tokens; zeros for dropped tokens and beyond the end.
    * `present` [max_length]: 1 where a token remains.
    * `protected` [max_length]: 1 where a remaining token is kept whatever the action says.
    * `point`: the number of the next decision, from 0; the number of reduction points when the episode is over.

    Action: MultiBinary [max_length], 1 = keep. Entries of tokens that are not present are ignored.

    Reward: 0 until the last step, then fidelity − λ · charge, in nats (`Dynamics.reward`). For classification the
    fidelity is log p(label), but not below -5. An episode terminates after the last reduction point and is never
    truncated.

    Info: `document` is the index of the document. After the last step there are also:

    * `cost`: the FLOPs of the reduced pass, the policy included, over those of the unreduced pass.
    * `charge`: what the document is charged, as a fraction of its unreduced price.
    * `kept`: the number of tokens left after each point.
    * `logits`: the outputs of the head, if the head reads documents.

    The bounds of `hidden` are computed from the weights when the environment is made (`hidden_bound`). `reset` puts
    the encoder into evaluation mode.

    Args:
        dynamics: the decision process.
        examples: the documents with their targets, one document for each example.
        max_length: the number of rows of the observations, in tokens; the length of the longest document by default.

    Raises:
        InputError: An example has several documents, the model has no such target, or a document is longer than
            `max_length`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(self, dynamics: Dynamics, examples: Examples, max_length: int | None = None) -> None:
        self._episodes = _Episodes(dynamics, examples, max_length)
        self.observation_space, self.action_space = self._episodes.spaces()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, Arrays]:
        """Returns the observation at the first reduction point of a new episode.

        Args:
            seed: the seed of the generator that draws documents.
            options: {"document": index} chooses the document; without it a document is drawn.

        Raises:
            InputError: The document's index is out of range, or there is an option of another name.
        """
        super().reset(seed=seed)
        document = _option(options, "document", lambda: self.np_random.integers(len(self._episodes.examples)))
        observations, infos = self._episodes.reset([document])
        return _first(observations), _first(infos)

    def step(self, action: NDArray[Any]) -> tuple[Arrays, float, bool, bool, Arrays]:
        """Drops the tokens that the action does not keep, and runs to the next reduction point, or to the end.

        Raises:
            InputError: The action has a wrong shape, has values other than 0 and 1, or no episode is running.
        """
        observations, rewards, over, infos = self._episodes.step(action, (self._episodes.max_length,))
        return _first(observations), float(rewards[0]), over, False, _first(infos)


class TokenSelectionVectorEnv(VectorEnv[Arrays, NDArray[np.int8], NDArray[Any]]):
    """Token selection on `num_envs` documents at once, packed into one row of tokens at every step.

    Spaces, rewards and infos are those of `TokenSelectionEnv`, stacked. Every episode has one step for each reduction
    point. So all episodes start together with `reset`, and end together. There is no autoreset.

    Args:
        dynamics: the decision process.
        examples: the documents to draw from, with their targets, one document for each example.
        num_envs: the number of documents at once.
        max_length: the number of rows of the observations, in tokens; the length of the longest document by default.

    Raises:
        InputError: `TokenSelectionEnv` would raise one, or `num_envs` is less than 1.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": [],
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        dynamics: Dynamics,
        examples: Examples,
        num_envs: int = 1,
        max_length: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise InputError(f"num_envs must be at least 1, and is {num_envs}: pass the number of documents an episode")
        self.num_envs = num_envs
        self._episodes = _Episodes(dynamics, examples, max_length)
        self.single_observation_space, self.single_action_space = self._episodes.spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, Arrays]:
        """Returns the observations at the first reduction point of new episodes.

        Args:
            seed: the seed of the generator that draws documents.
            options: {"documents": [index, …]} chooses the document of each environment; without it they are drawn.
                A `reset_mask` is accepted if it is True for every environment.

        Raises:
            InputError: The number of documents is wrong, an index is out of range, the `reset_mask` leaves out an
                environment, or there is an option of another name.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        reset_mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, dtype=np.bool_)))
        if reset_mask.shape != (self.num_envs,) or not reset_mask.all():
            raise InputError(
                f"reset_mask must name all {self.num_envs} environments, for they run in lockstep, and is "
                f"{reset_mask.tolist()}: reset after the last step, when every episode is over"
            )
        documents = _option(
            options, "documents", lambda: self.np_random.integers(len(self._episodes.examples), size=self.num_envs)
        )
        if np.shape(documents) != (self.num_envs,):
            raise InputError(
                f"documents must be {self.num_envs} indices, one for each environment, and is {documents!r}: "
                'pass options={"documents": [...]} of that length'
            )
        observations, infos = self._episodes.reset(documents)
        return observations, _with_presence(infos)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Arrays, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Arrays]:
        """Drops the tokens that the actions do not keep, and runs to the next reduction point, or to the end.

        Raises:
            InputError: The actions have a wrong shape, have values other than 0 and 1, or no episode is running.
        """
        observations, rewards, over, infos = self._episodes.step(actions, (self.num_envs, self._episodes.max_length))
        terminated = np.full(self.num_envs, over)
        return observations, rewards, terminated, np.zeros(self.num_envs, dtype=np.bool_), _with_presence(infos)


class _Episodes:
    """Episodes of several documents that start and end together, as arrays; both environments are made of it."""

    def __init__(self, dynamics: Dynamics, examples: Examples, max_length: int | None) -> None:
        self.dynamics, self.examples = dynamics, examples
        if len(examples) != len(examples.tokens):
            raise InputError(
                f"examples must be one document each in this environment, and {len(examples)} have "
                f"{len(examples.tokens)}: sample them by envs.rollout instead"
            )
        dynamics.task.check_targets(examples, dynamics.reducer.encoder.plain.config.num_labels)
        longest = int(examples.tokens.lengths.max())
        self.max_length = longest if max_length is None else max_length
        if longest > self.max_length:
            raise InputError(
                f"max_length must be at least the longest document's {longest} tokens, and is {self.max_length}: "
                "leave it out, or truncate when tokenising"
            )
        self.documents = torch.zeros(0, dtype=torch.long)
        self.running = examples
        self.state: ReducedPass | None = None

    def spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        """Returns the observation space and the action space of one document."""
        first = self.examples.take(torch.zeros(1, dtype=torch.long, device=self.examples.owner.device))
        bound = hidden_bound(self.dynamics, first.tokens.to(self.dynamics.reducer.encoder.device))
        rows = np.tile(bound, (self.max_length, 1))
        observation = spaces.Dict(
            {
                "hidden": spaces.Box(-rows, rows, dtype=np.float32),
                "present": spaces.MultiBinary(self.max_length),
                "protected": spaces.MultiBinary(self.max_length),
                "point": spaces.Discrete(self.dynamics.num_points + 1),
            }
        )
        return observation, spaces.MultiBinary(self.max_length)

    @torch.inference_mode()
    def reset(self, documents: Sequence[Any] | NDArray[Any]) -> tuple[Arrays, Arrays]:
        """Returns the observations at the first reduction point, and infos with the documents' indices."""
        for document in documents:
            if not isinstance(document, (int, np.integer)) or not 0 <= document < len(self.examples):
                raise InputError(
                    f"document must be an index from 0 to {len(self.examples) - 1}, and is {document!r}: "
                    "pass one in this range, or none to draw"
                )
        encoder = self.dynamics.reducer.encoder
        encoder.plain.eval()  # training between two episodes may have left it in training mode
        self.documents = torch.as_tensor(np.asarray(documents), dtype=torch.long)
        self.running = self.examples.take(self.documents.to(self.examples.owner.device)).to(encoder.device)
        self.state = self.dynamics.reset(self.running.tokens)
        return observe(self.state, self.max_length), {"document": self.documents.numpy().copy()}

    @torch.inference_mode()
    def step(self, action: Any, shape: tuple[int, ...]) -> tuple[Arrays, NDArray[np.float64], bool, Arrays]:
        """Returns the next observations, the rewards, whether the episodes are over, and infos."""
        if self.state is None or self.state.point == self.dynamics.num_points:
            when = "before the first reset" if self.state is None else "after the last reduction point"
            raise InputError(f"step must follow a reset of a running episode, and came {when}: call reset()")
        state = self.dynamics.transition(self.state, read_action(action, shape, self.state))
        self.state = state
        over = state.point == self.dynamics.num_points
        infos: Arrays = {"document": self.documents.numpy().copy()}
        rewards = np.zeros(len(self.documents))
        if over:
            rewards, outcome = finish(self.dynamics, state, self.running)
            infos |= outcome
        return observe(state, self.max_length), rewards, over, infos


def observe(state: ReducedPass, max_length: int) -> Arrays:
    """Returns the padded observations of a state: one entry for each document, one row for each original position."""
    batch = state.batch
    index = (batch.documents.cpu().numpy(), batch.positions.cpu().numpy())
    shape = (len(batch), max_length)
    hidden = np.zeros((*shape, batch.hidden.shape[1]), dtype=np.float32)
    hidden[index] = batch.hidden.float().cpu().numpy()
    present = np.zeros(shape, dtype=np.int8)
    present[index] = 1
    protected = np.zeros(shape, dtype=np.int8)
    protected[index] = batch.protected.cpu().numpy()
    return {"hidden": hidden, "present": present, "protected": protected, "point": np.full(len(batch), state.point)}


def read_action(action: Any, shape: tuple[int, ...], state: ReducedPass) -> SampleMasks:
    """Returns an action over original positions as a keep mask (True = keep) over the remaining tokens.

    Args:
        action: 0 or 1 for each row of the observation.
        shape: the shape that the action must have: [max_length], or [num_envs, max_length].
        state: the pass at the reduction point where the action is taken.

    Raises:
        InputError: The action has another shape, or values other than 0 and 1.
    """
    values = np.asarray(action)
    if values.shape != shape:
        raise InputError(f"action must have the shape {shape}, and has {values.shape}: one entry for each padded row")
    keep = values == 1
    if not (keep | (values == 0)).all():
        raise InputError(
            f"action must be 0 (drop) or 1 (keep), and has the values {np.unique(values)[:5].tolist()}: "
            "draw or threshold before passing it"
        )
    batch = state.batch
    rows = torch.from_numpy(keep.reshape(-1, shape[-1])).to(batch.hidden.device)
    return rows[batch.documents, batch.positions][None]


def finish(dynamics: Dynamics, state: ReducedPass, examples: Examples) -> tuple[NDArray[np.float64], Arrays]:
    """Returns the rewards and the infos of finished episodes, one entry for each document."""
    lengths, kept = state.batch.original_lengths, state.kept
    outputs = dynamics.reducer.outputs(state).float()
    rewards = dynamics.reward(examples, kept, outputs)
    cost = dynamics.cost.reduced(lengths, kept, dynamics.points) / dynamics.cost.unreduced(lengths)
    infos = {
        "cost": cost.cpu().numpy(),
        "charge": dynamics.charge(lengths, kept).cpu().numpy(),
        "kept": kept.T.contiguous().cpu().numpy(),
    }
    if dynamics.task.reads == "documents":
        infos["logits"] = outputs.cpu().numpy()
    return rewards.double().cpu().numpy(), infos


@torch.inference_mode()
def hidden_bound(dynamics: Dynamics, document: Tokens) -> NDArray[np.float32]:
    """Returns a bound on |hidden| for each dimension, valid at every reduction point and at the end.

    If the states are the output of a LayerNorm, then |x| ≤ √(d−1)·|γ| + |β|, because none of d numbers with mean 0 and
    mean square 1 exceeds √(d−1). A document is run to see which norm that is. If the states are not the output of a
    norm, they have no useful bound, and the largest float32 is returned. This happens in families that normalise
    before their layers (ModernBERT, EuroBERT), and at point 0 if a projection follows the embeddings (ELECTRA, ALBERT).

    Args:
        dynamics: the decision process.
        document: any one document, on the encoder's device.
    """
    encoder = dynamics.reducer.encoder
    encoder.plain.eval()  # dropout would change the norm's output before it becomes the states
    last_output: dict[nn.LayerNorm, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda norm, _, output: last_output.update({norm: output}))
        for module in encoder.base.modules()
        if isinstance(module, nn.LayerNorm)
    ]
    try:
        state = dynamics.reset(document)
        bounds = [_bound_of_norm(state.batch.hidden, last_output)]
        while state.point < dynamics.num_points:
            everything = torch.ones(1, len(state.batch.hidden), dtype=torch.bool, device=encoder.device)
            state = dynamics.transition(state, everything)
            bounds.append(_bound_of_norm(state.batch.hidden, last_output))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(bounds).amax(0).cpu().numpy()


def _bound_of_norm(hidden: Tensor, last_output: Mapping[nn.LayerNorm, Tensor]) -> Tensor:
    for norm, output in last_output.items():
        if output.shape[1:] == hidden.shape and torch.equal(output[0], hidden):
            width = hidden.shape[1]
            scale = hidden.new_ones(width) if norm.weight is None else norm.weight
            shift = hidden.new_zeros(width) if norm.bias is None else norm.bias
            bound: Tensor = ROUNDING * ((width - 1) ** 0.5 * scale.abs() + shift.abs())
            return bound.float().clamp(min=torch.finfo(torch.float32).tiny)  # a Box needs bounds that differ
    return torch.full((hidden.shape[1],), torch.finfo(torch.float32).max, device=hidden.device)


def _option(options: Mapping[str, Any] | None, name: str, draw: Callable[[], Any]) -> Any:
    options = options or {}
    unknown = sorted(set(options) - {name})
    if unknown:
        raise InputError(f"options may hold {name!r} alone, and hold {unknown}: rename or remove them")
    return options[name] if name in options else draw()


def _first(arrays: Arrays) -> Arrays:
    return {name: values[0] for name, values in arrays.items()}


def _with_presence(infos: Arrays) -> Arrays:
    """Returns the infos with Gymnasium's masks: for each key, the environments that have it, here all of them."""
    return infos | {f"_{name}": np.ones(len(values), dtype=np.bool_) for name, values in infos.items()}
