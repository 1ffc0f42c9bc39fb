"""Reads checkpoints of the original TR-BERT code (thunlp/TR-BERT): their plain model and their policy heads."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trbert.errors import InputError
from trbert.selection.policy import Policy
from trbert.tasks import TASKS, Task

# For example "bert.encoder.linear_1.0.weight": the first linear layer of the head at reduction point 0.
_HEAD_NAME = re.compile(r"(?:^|.*\.)linear_([12])\.(\d+)\.(weight|bias)$")


@dataclass(frozen=True, slots=True)
class OriginalModel:
    """What a checkpoint of the original code holds.

    Attributes:
        plain: the plain Hugging Face model.
        policy: the policy, with one head for each reduction point. With the dial at 0 it decides as the original does.
        points: the reduction points, which are fixed in the original code: layers 1 and L//2 of L.
    """

    plain: Any
    policy: Policy
    points: tuple[int, ...]


def import_original(state: Mapping[str, Tensor], config: Any, task: Task = TASKS["classification"]) -> OriginalModel:
    """Returns the plain model and the policy of an original TR-BERT checkpoint.

    Args:
        state: the state dict of the checkpoint, as `torch.load("pytorch_model.bin", weights_only=True)` returns it.
        config: the Hugging Face configuration of the checkpoint, with `num_labels`.
        task: the task for which it was trained.

    Raises:
        InputError: A policy head is missing or has a wrong shape, or another weight does not fit the configuration.
    """
    plain = task.auto_class.from_config(config, trust_remote_code=False)
    wanted = plain.state_dict()
    rest = {_new_name(name): value for name, value in state.items() if not _HEAD_NAME.match(name)}
    # Some versions of transformers save the position ids. They are not learned, so the checkpoint's are not needed.
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
    """Returns the policy heads of an original checkpoint.

    Their names end in `linear_1.w.weight`, `linear_1.w.bias`, `linear_2.w.weight` and `linear_2.w.bias`, where w is the
    number of the reduction point.

    Args:
        state: the state dict of the checkpoint.
        dim: the width of a hidden state.
        num_points: how many heads to read, from w = 0 on. The original always saves two.

    Raises:
        InputError: A head is missing or has a wrong shape.
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
    """Returns the layers on whose input the original drops tokens: 1 and L//2. There is one point where they are equal.

    Example:
        >>> original_points(12), original_points(3)
        ((1, 6), (1,))
    """
    return tuple(sorted({1, num_layers // 2} & set(range(num_layers))))


def _new_name(name: str) -> str:
    """Returns today's name of a weight. Checkpoints made from TensorFlow have gamma and beta for weight and bias."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise InputError(
            f"{name} must have the shape {shape}, and has {tuple(value.shape)}: pass the checkpoint's own config"
        )
