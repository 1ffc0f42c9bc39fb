"""The teacher and its outputs. They are made once for the same data and settings, and then read from a cache."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from trbert.disk.cache import Entry
from trbert.errors import Diverged
from trbert.measure.evaluate import unreduced_outputs
from trbert.packed.heads import pooling_of
from trbert.selection.reduction import Reducer
from trbert.tasks.examples import Examples, Outputs
from tune.budget import Plan, fit_teacher
from tune.learning.steps import autocast, uses_bfloat16
from tune.learning.teacher_stage import training_seconds
from tune.settings import ComputeSettings, Settings

SAY_EVERY_S = 10.0
"""Seconds between two progress lines while the teacher is trained."""
_EPOCHS, _TIMED_OUT = "trbert.epochs", "trbert.timed_out"
"""What is kept beside the weights of a teacher that learned for fewer epochs than the settings say."""


class _Told:
    """Reports the teacher's progress every few seconds. It can be pickled, so that other processes can report too.

    The time that is left is computed from the steps after the first one that it hears of.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.started = self.last = time.monotonic()
        self.first = math.inf

    def __call__(self, step: dict[str, float]) -> None:
        now = time.monotonic()
        if self.first > step["step"]:
            self.first, self.started, self.last = step["step"], now, now
        if now - self.last >= SAY_EVERY_S or step["step"] == step["steps"]:
            self.last = now
            left = (now - self.started) / max(1.0, step["step"] - self.first) * (step["steps"] - step["step"])
            self.say(
                f"teacher: step {step['step']:.0f} of {step['steps']:.0f}, loss {step['loss']:.3f}, {left:.0f} s left"
            )


def teach(
    reducer: Reducer,
    examples: Examples,
    settings: Settings,
    plan: Plan | None,
    say: Callable[[str], None],
    train: Callable[..., float | None],
    resumed: bool = False,
) -> float | None:
    """Turns a plain model into the teacher, in place. If the same teacher is in the cache, its weights are loaded.

    It returns the number of epochs that the teacher learned for, or None if these are as many as the settings say.

    Args:
        reducer: the model, with a new head.
        examples: the training examples, cut at the teacher's `max_length`.
        settings: of the run.
        plan: limits the epochs to the teacher's share of the budget; None limits nothing.
        say: is called with a line for each thing that is done.
        train: fine-tunes the model, in this process or in several. Its `key` is a digest of what the teacher learns
            from. It returns the fraction of its steps that it had time for, or None if it had time for all of them.
        resumed: whether a search is continued. Only then a teacher is taken from the cache that ran out of time.

    Raises:
        InputError: The folder of the cache cannot be used.
        Diverged: A loss or a gradient of the training is not finite.
    """
    encoder = reducer.encoder
    limit = None if plan is None else round(plan.teacher_seconds)
    recipe = {name: value for name, value in asdict(settings.teacher).items() if name != "max_length"}
    # A folder may hold other weights than before under its name, or the same weights under another name.
    is_folder = Path(settings.model).is_dir()
    name = None if is_folder else settings.model
    key = [settings.task, name, settings.seed, encoder.plain.config.num_labels, recipe, limit]
    if settings.compute.deterministic:
        key.append(asdict(settings.compute))
    digest = hashlib.sha256(json.dumps(key).encode())
    hash_examples(digest, examples)
    if is_folder:
        hash_weights(digest, encoder.plain)
    entry = Entry("teachers", digest.hexdigest()[:24])
    with entry.held(lambda holder: say(f"teacher: waiting for {holder}, which is making the same one")):
        wanted = settings.teacher.epochs
        state = _tensors(entry)
        epochs = float(state.pop(_EPOCHS, torch.tensor(wanted)))
        timed_out = bool(state.pop(_TIMED_OUT, False))
        if _shapes(state) == _shapes(encoder.plain.state_dict()) and (resumed or not timed_out):
            encoder.plain.load_state_dict(state)
            say("teacher: taken from the cache of an earlier run")
            return epochs if epochs < wanted else None
        if plan is not None:
            seconds = training_seconds(reducer, examples, settings.compute.dtype, torch.get_num_threads())
            settings = fit_teacher(settings, plan, seconds, len(examples.tokens))
        probe = min(settings.teacher.probe_documents, len(examples.tokens))
        first = f", once the last layer of its head is fitted on {probe:,} of them" if probe else ""
        say(f"teacher: training for {settings.teacher.epochs:g} epochs of {len(examples.tokens):,} documents{first}")
        told = _Told(say)
        share = train(reducer, examples, settings.teacher, settings.compute, settings.seed, told, key=entry.key)
        epochs = settings.teacher.epochs * (1.0 if share is None else share)
        if share is not None:
            say(f"teacher: its time is over after {epochs:.2g} of {wanted:g} epochs")
        cut = {_EPOCHS: torch.tensor(epochs, dtype=torch.float64), _TIMED_OUT: torch.tensor(share is not None)}
        _keep(entry, encoder.plain.state_dict() | (cut if epochs < wanted else {}))
        return epochs if epochs < wanted else None


def _tensors(entry: Entry) -> dict[str, Tensor]:
    """Returns the tensors of an entry; {} if there are none."""
    content = entry.read()
    try:
        return {} if content is None else load(content)
    except SafetensorError:
        return {}


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def teacher_outputs(reducer: Reducer, examples: Examples, split: str, compute: ComputeSettings) -> Outputs:
    """Returns the teacher's outputs on a split. They are computed once for the same weights and examples.

    The outputs on train and on unlabelled texts are computed in the arithmetic of training, because models learn from
    them. The others are computed in the arithmetic of evaluation, because they are reported.

    Args:
        reducer: the teacher.
        examples: the examples of the split.
        split: the name of the split.
        compute: how the machine is used.

    Raises:
        Diverged: An output is not finite.
    """
    plain, device = reducer.encoder.plain, reducer.encoder.device
    dtype = compute.dtype if split in ("train", "unlabelled") else compute.evaluation
    key = hashlib.sha256(f"{reducer.task.name} {pooling_of(plain)} bfloat16 {uses_bfloat16(device, dtype)}".encode())
    hash_examples(key, examples)
    hash_weights(key, plain)
    entry = Entry("outputs", key.hexdigest()[:24])
    if (kept := _tensors(entry).get("outputs")) is not None:
        return kept
    with autocast(device, dtype):
        outputs = unreduced_outputs(reducer, examples, compute.tokens_of_pass)
    if not outputs.isfinite().all():
        raise Diverged(
            f"the teacher's outputs on {split} must be finite, and some are not: check whether its weights are "
            "damaged, and compute in float32 (--set compute.dtype=float32 --set compute.evaluation=float32)"
        )
    _keep(entry, {"outputs": outputs})
    return outputs


def hash_weights(digest: Any, module: nn.Module) -> None:
    """Adds a module's weights to a digest."""
    _hash(digest, *module.state_dict().values())


def hash_examples(digest: Any, examples: Examples) -> None:
    """Adds the documents and the targets of examples to a digest."""
    tokens = examples.tokens
    types = () if tokens.token_type_ids is None else (tokens.token_type_ids,)
    _hash(digest, tokens.input_ids, tokens.protected, tokens.offsets, *types, examples.targets, examples.owner)


def _hash(digest: Any, *tensors: Tensor) -> None:
    for tensor in tensors:
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())


def _keep(entry: Entry, tensors: dict[str, Tensor]) -> None:
    """Writes tensors to the cache."""
    entry.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
