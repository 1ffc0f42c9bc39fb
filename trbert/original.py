"""Checkpoints of the original TR-BERT code (thunlp/TR-BERT): their policy heads and classifier as ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trbert.errors import InputError
from trbert.selection.policy import Policy
from trbert.tasks import TASKS, Task

# As in "bert.encoder.linear_1.0.weight": layer 1 or 2 of the head, then which reduction point it decides at.
_HEAD_NAME = re.compile(r"(?:^|.*\.)linear_([12])\.(\d+)\.(weight|bias)$")


@dataclass(frozen=True, slots=True)
class OriginalModel:
    """What an original checkpoint holds.

    Attributes:
        plain: the Hugging Face model below the policy.
        policy: one head per reduction point; keeps a token where p ≥ ½, the selector's dial at 0.
        points: the reduction points that the original has wired in: layers 1 and L//2.
    """

    plain: Any
    policy: Policy
    points: tuple[int, ...]


def import_original(state: Mapping[str, Tensor], config: Any, task: Task = TASKS["classification"]) -> OriginalModel:
    """Returns the plain model and the policy of an original TR-BERT checkpoint.

    Args:
        state: the checkpoint's state dict, as `torch.load("pytorch_model.bin", weights_only=True)` gives it.
        config: the Hugging Face configuration beside it, with `num_labels`.
        task: what it was trained for.

    Raises:
        InputError: Policy heads are missing or of a wrong shape, or the rest does not fit the configuration.
    """
    plain = task.auto_class.from_config(config)
    wanted = plain.state_dict()
    rest = {_new_name(name): value for name, value in state.items() if not _HEAD_NAME.match(name)}
    # The original's transformers 2.5.1 kept no such buffers, later ones did; they are counted, not learned.
    rest = {name: value for name, value in rest.items() if not name.endswith(".position_ids")}
    if missing := sorted(wanted.keys() - rest.keys()):
        raise InputError(f"the checkpoint must hold {missing[0]!r}, and does not: pass a classifier of this config")
    if unknown := sorted(rest.keys() - wanted.keys()):
        raise InputError(f"a {config.model_type} classifier has no {unknown[0]!r}: pass the checkpoint's own config")
    for name, value in rest.items():
        _check_shape(name, value, tuple(wanted[name].shape))
    plain.load_state_dict(rest)
    points = original_points(config.num_hidden_layers)
    return OriginalModel(plain.eval(), import_policy(state, config.hidden_size, len(points)), points)


def import_policy(state: Mapping[str, Tensor], dim: int, num_points: int) -> Policy:
    """Returns the policy heads of an original checkpoint: `….linear_1.w.weight`, `….linear_2.w.bias` and so on.

    Args:
        state: the checkpoint's state dict.
        dim: width of a hidden state.
        num_points: how many heads to take, w = 0 the first; the original always stores two.

    Raises:
        InputError: A head is missing or of a wrong shape.
    """
    heads = {match.groups(): value for name, value in state.items() if (match := _HEAD_NAME.match(name))}
    first = heads.get(("1", "0", "weight"))
    width = first.shape[0] if first is not None and first.dim() == 2 else 32
    policy = Policy(dim, num_points, width)
    values = {}
    for name, own in policy.state_dict().items():
        _, point, linear, part = name.split(".")  # heads.0.linear_1.weight
        key = (linear.removeprefix("linear_"), point, part)
        stored = f"{linear}.{point}.{part}"
        if key not in heads:
            raise InputError(
                f"the checkpoint must hold a policy head '….{stored}', and does not: "
                "pass the state dict of a model trained by the original TR-BERT code"
            )
        _check_shape(stored, heads[key], tuple(own.shape))
        values[name] = heads[key]
    policy.load_state_dict(values)
    return policy


def original_points(num_layers: int) -> tuple[int, ...]:
    """Returns the layers on whose input the original drops tokens: 1 and L//2, one point where they coincide.

    Example:
        >>> original_points(12), original_points(3)
        ((1, 6), (1,))
    """
    return tuple(sorted({1, num_layers // 2} & set(range(num_layers))))


def _new_name(name: str) -> str:
    """Returns today's name: weights converted from TensorFlow called a LayerNorm's weight gamma, its bias beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise InputError(
            f"{name} must have the shape {shape}, and has {tuple(value.shape)}: pass the checkpoint's own config"
        )
