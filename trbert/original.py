"""Reads checkpoints of the original TR-BERT code (thunlp/TR-BERT): their plain model and their policy heads."""

import copy
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trbert.checkpoint.config import name_outputs, read_config
from trbert.checkpoint.entries import SIZES
from trbert.checkpoint.head import unnamed
from trbert.checkpoint.place import Place, find_model
from trbert.checkpoint.quiet import quiet
from trbert.checkpoint.sizes import Held, check_stacks, without_memory
from trbert.checkpoint.tokenizer import fit_tokenizer, holds_tokenizer, load_tokenizer
from trbert.checkpoint.trained import may_have_learned
from trbert.checkpoint.weights import (
    PICKLED,
    SAFETENSORS,
    check_finite,
    check_sizes,
    find_weights,
    read_heads,
    read_state,
    unread,
)
from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound
from trbert.selection.policy import Policy
from trbert.tasks import TASKS, Task
from trbert.wording import cut, pasted

# For example "bert.encoder.linear_1.0.weight": the first linear layer of the head at reduction point 0.
_HEAD_NAME = re.compile(r"(?:^|.*\.)linear_([12])\.(\d{1,4})\.(weight|bias)$")

_HEADS = 2
"""The number of policy heads that the original code always saves."""

_OWN = "AUTO"
"""How the names of the original's own classes start in `architectures`, such as AUTOBertForSequenceClassification."""


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


@dataclass(frozen=True, slots=True)
class OriginalCheckpoint:
    """A checkpoint of the original code, as it was read from its folder.

    Attributes:
        model: the plain model and the policy.
        task: the task for which it was trained.
        tokenizer: its tokenizer.
        named: whether the outputs of its head have names.
        notes: sentences for the user on what was found and done.
    """

    model: OriginalModel
    task: Task
    tokenizer: Any
    named: bool
    notes: tuple[str, ...]


def read_original(folder: str, task: Task | None = None, labels: Sequence[str] | None = None) -> OriginalCheckpoint:
    """Returns what a folder of the original code holds: config.json, the weights, and the files of the tokenizer.

    Nothing in the folder is trusted. No code in it is run, and no memory is taken for a model before its sizes are
    compared with the weights.

    Args:
        folder: the folder, as `--output_dir` of the original code names it, or one of its checkpoint-N within.
        task: the task for which it was trained; None takes the one that config.json names in `architectures`.
        labels: the names of the head's outputs, in their order; None takes those of config.json. The original code
            saves none.

    Raises:
        ModelNotFound: There is no such folder.
        InputError: It is no checkpoint of the original code or of another task, or the labels do not fit its head.
        UnsupportedModel: Its encoder is of no family that is known here.
        DamagedCheckpoint: A file is missing or cut off, or the files do not fit together.
    """
    with quiet(), Place(folder, folder, local=True).read():
        place, found = _find(folder)
        weights, _ = find_weights(place)
        held = read_heads(place, weights)
        _check_heads(place, held)
        config, names, cleared = read_config(place)
        own = [each for each in config.architectures or () if each.startswith(_OWN)]
        unset, task = task is None, _task_of(place, own, task)
        named = _name_outputs(place, task, config, held, labels or names)
        if unset:  # several tasks have the same head, and its outputs are known only now
            alike = (each for each in TASKS.values() if each.head == task.head and may_have_learned(each, config))
            task = next(alike, task)
        task.check_config(config)
        check_sizes(place, _maker(task), config, held, fine_tuned=True, named=True)
        model = import_original(read_state(place, weights), config, task)
        check_finite(place, model.plain)
        check_finite(place, model.policy)
        tokenizer, read = load_tokenizer(place, config)
        fitted = fit_tokenizer(place, tokenizer, model.plain)
    notes = (*found, *cleared, *_decided_together(place, own), *read, *fitted)
    return OriginalCheckpoint(model, task, tokenizer, named, notes)


def import_original(state: Mapping[str, Tensor], config: Any, task: Task = TASKS["classification"]) -> OriginalModel:
    """Returns the plain model and the policy of an original TR-BERT checkpoint, in float32.

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
    # Some versions of transformers save the position ids. They are not learned, so the checkpoint's are not needed. The
    # original saves a pooler whether its head reads one or not.
    idle = {name for name in rest.keys() - wanted.keys() if name.endswith(".position_ids") or ".pooler." in name}
    rest = {name: value for name, value in rest.items() if name not in idle}
    if missing := sorted(wanted.keys() - rest.keys()):
        raise InputError(_lacks(missing[0], task))
    if unknown := sorted(rest.keys() - wanted.keys()):
        raise InputError(
            f"a {config.model_type} model of the task {task.name!r} has no {unknown[0]!r}, and the checkpoint has: "
            "pass the checkpoint's own config, or name its own task with --task"
        )
    for name, value in rest.items():
        _check_weight(name, value, tuple(wanted[name].shape))
    plain.load_state_dict(rest)
    points = original_points(config.num_hidden_layers)
    return OriginalModel(plain.float().eval(), import_policy(state, config.hidden_size, len(points)), points)


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
    # A width is taken from a weight of the right shape alone: memory is taken for it.
    width = first.shape[0] if first is not None and first.dim() == 2 and first.shape[1] == dim else 32
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
        _check_weight(stored, heads[key], tuple(own.shape))
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


def _find(folder: str) -> tuple[Place, tuple[str, ...]]:
    """Returns where a checkpoint is, and notes on how it was found."""
    if not os.path.exists(folder):
        raise ModelNotFound(
            f"DIR must be the folder of a checkpoint of the original TR-BERT code, and {folder} does not exist: "
            "correct its name"
        )
    if not os.path.isdir(folder):
        raise InputError(
            f"DIR must be the folder of a checkpoint of the original TR-BERT code, and {folder} is no folder: pass "
            f"{Path(folder).parent}, with config.json and vocab.txt in it"
        )
    place = Place(folder, folder, local=True)
    there = {"config.json": place.file("config.json"), "vocab.txt": holds_tokenizer(Path(folder))}
    lacking = next((name for name, found in there.items() if not found), None)
    if lacking and any(place.file(name) for name in (*PICKLED, *SAFETENSORS)):
        raise DamagedCheckpoint(
            f"checkpoint folder {folder} must hold {lacking}, and does not: copy into it the {lacking} of the model "
            "that was fine-tuned"
        )
    if place.json("config.json").get("model_type") == "trbert":
        raise InputError(
            f"DIR must be the folder of a checkpoint of the original TR-BERT code, and {folder} is a reduced model of "
            "trbert already: load it with trbert.load"
        )
    return find_model(folder)


def _check_heads(place: Place, held: Held) -> None:
    """Checks that there are the policy heads of the original code, so that the reduction points are known."""
    numbers = {int(match[2]) for name in held.shapes if (match := _HEAD_NAME.match(name))}
    if not numbers:
        raise InputError(
            f"checkpoint {place.name} must hold the policy heads of the original TR-BERT code, such as "
            "'bert.encoder.linear_1.0.weight', and holds none: to reduce a plain model, run python tune/search.py "
            f"--model {pasted(place.name)}"
        )
    if max(numbers) >= _HEADS:
        raise InputError(
            f"checkpoint {place.name} must hold the {_HEADS} policy heads of the original TR-BERT code, and holds a "
            f"head of number {max(numbers)}, so that it drops tokens at layers that are not known: pass one that the "
            "unmodified code trained"
        )


def _task_of(place: Place, own: Sequence[str], wanted: Task | None) -> Task:
    """Returns the task for which a checkpoint was trained.

    Args:
        place: where the checkpoint is.
        own: the original's own classes that config.json names.
        wanted: the task that the user names, or None.
    """
    heads = [name[name.index("For") :] for name in own if "For" in name]
    with_heads = [name for name, each in TASKS.items() if each.has_head]
    fitting = [each for each in TASKS.values() if each.head.removeprefix("AutoModel") in heads]
    if wanted is not None and not wanted.has_head:
        raise InputError(
            f"--task must be one that the original TR-BERT code trains, and is {wanted.name!r}, which has no head: "
            "name the task that the checkpoint was trained for"
        )
    if not own:
        if wanted is None:
            raise InputError(
                f"--task must name the task of checkpoint {place.name}, because `architectures` in its config.json "
                f"does not, and is not given: pass one of {', '.join(map(shlex.quote, with_heads))}"
            )
        return wanted
    if not fitting:
        raise InputError(
            f"checkpoint {place.name} must be of one of the tasks {', '.join(with_heads)}, and config.json says in "
            f"`architectures` that it is an {cut(own[0])}: pass another checkpoint"
        )
    if wanted is not None and wanted not in fitting:
        raise InputError(
            f"--task must be the one for which checkpoint {place.name} was trained, and is {wanted.name!r}, while "
            f"config.json says in `architectures` that it is an {cut(own[0])}: pass --task "
            f"{shlex.quote(fitting[0].name)}"
        )
    return wanted or fitting[0]


def _name_outputs(place: Place, task: Task, config: Any, held: Held, names: Sequence[str] | None) -> bool:
    """Makes a config describe the head that the files hold, in place. Returns whether its outputs have names.

    The original sets `num_labels` for a new head, but leaves the two names LABEL_0 and LABEL_1 as they were. So the
    number of outputs is read from the head.

    Args:
        place: where the checkpoint is.
        task: its task.
        config: its configuration.
        held: what its files hold.
        names: the names of the outputs; None where nobody named them.
    """
    said = place.json("config.json").get("num_labels")
    outputs, by_label = _outputs(place, task, config, held)
    if by_label and said is not None and said != outputs:
        raise InputError(
            f"num_labels in config.json of checkpoint {place.name} must be the number of outputs of its head, {outputs}"
            f", and is {said}: copy the config.json that was saved with these weights, or correct it"
        )
    config.num_labels = outputs
    if names is None or (unnamed(names) and len(names) != outputs):
        return False
    if len(names) != outputs:
        raise InputError(
            f"the names of the labels must be as many as the head of checkpoint {place.name} has outputs, {outputs}, "
            f"and are {len(names)}: name them in the order of the outputs, with --labels a,b,c or --labels FILE"
        )
    name_outputs(config, tuple(map(str, names)))
    return not unnamed(names)


def _outputs(place: Place, task: Task, config: Any, held: Held) -> tuple[int, bool]:
    """Returns how many outputs the head in the files has, and whether there is one for each label."""
    trial = copy.deepcopy(config)
    trial.num_labels = labels = 2
    try:
        check_stacks(place.json("config.json"), held)
        model = without_memory(_maker(task), trial)
    except Exception as error:  # transformers checks the values of a config with errors of many classes
        raise unread(place, error) from error
    inner = f"{model.base_model_prefix}."
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    name = [each for each in shapes if each.endswith(".weight") and not each.startswith(inner)][-1]
    found = held.shape_of(name, inner)
    if found is None:
        raise InputError(_lacks(name, task))
    if len(found) != len(shapes[name]) or found[1:] != shapes[name][1:]:
        return config.num_labels, False  # `check_sizes` says what is wrong
    most = SIZES["num_labels"][1]
    if not 0 < found[0] <= most:
        raise place.damaged(ValueError(f"its weight {name!r} has {found[0]} rows, and a head has from 1 to {most:,}"))
    return found[0], shapes[name][0] == labels


def _decided_together(place: Place, own: Sequence[str]) -> tuple[str, ...]:
    """Returns a note for a checkpoint whose decisions the import cannot repeat: one for all options of a question."""
    if not any(name.startswith(f"{_OWN}MC") for name in own):
        return ()
    return (
        f"checkpoint {place.name} was trained by the original's variant for multiple choice ({own[0]}), which drops "
        "the same tokens of all options of a question: here each option decides for itself, so that answers differ",
    )


def _maker(task: Task) -> Callable[[Any], Any]:
    """Returns a function that takes a config and returns the plain model of a task."""
    return partial(task.auto_class.from_config, trust_remote_code=False)


def _lacks(name: str, task: Task) -> str:
    return (
        f"the checkpoint must hold {name!r}, which a model of the task {task.name!r} has, and does not: name the task "
        "for which it was trained with --task, or copy the checkpoint again"
    )


def _new_name(name: str) -> str:
    """Returns today's name of a weight. Checkpoints made from TensorFlow have gamma and beta for weight and bias."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _check_weight(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Checks that a weight has this shape, and that it is a plain table of floating-point numbers."""
    if tuple(value.shape) != shape:
        raise InputError(
            f"{name} must have the shape {shape}, and has {tuple(value.shape)}: pass the checkpoint's own config"
        )
    if not value.is_floating_point() or value.layout != torch.strided:
        kind = value.dtype if value.layout == torch.strided else value.layout
        raise InputError(
            f"{name} must hold floating-point numbers, and is of {kind}: pass the checkpoint as the original TR-BERT "
            "code saved it"
        )
