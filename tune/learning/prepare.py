"""What all trials share, made once: the tokens, the teacher, its logits, and what the free rules achieve."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from trbert.data.splits import Splits, load_splits
from trbert.encoder import Encoder
from trbert.errors import Diverged
from trbert.files import cache_folder, write_whole
from trbert.measure.cost import CostModel
from trbert.measure.evaluate import Evaluation, evaluate, unreduced_logits
from trbert.measure.latency import LatencyTable, measure_latency
from trbert.packed.tokens import Tokens
from trbert.pretrained import check_positions, extend_positions, load_classifier
from trbert.selection.reduction import check_points
from trbert.selection.selectors import FREE_SELECTORS, points_for
from trbert.shapes import DocIndex, Logits
from trbert.tasks.classification import accuracy, encode
from trbert.tasks.examples import Examples
from tune.budget import Plan, fit_teacher
from tune.learning.objectives import predictive_information
from tune.learning.steps import autocast, pick_device, uses_bfloat16
from tune.learning.teacher_stage import train_teacher, training_seconds
from tune.settings import ComputeSettings, Settings

Say = Callable[[str], None]

SAY_EVERY_S = 10.0
"""Seconds between two lines about the teacher."""
PENALTY = 1.0
"""Price of an unreduced document, in nats, where none is set; never more than the teacher knows, for then a policy does
best to drop everything, and did: at 1 nat on pairs of which its teacher knew .4."""
LEAST_PENALTY = 1e-3
FREE_DIALS = (0.04, 0.12, 0.35)
"""Kept fractions at which the free rules are evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedArrays:
    """A split as arrays, which Ray hands between processes without copying."""

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None
    protected: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    teacher_logits: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, examples: Examples) -> "PackedArrays":
        """Returns the arrays of a split."""
        tokens = examples.tokens
        return cls(
            input_ids=tokens.input_ids.numpy(),
            token_type_ids=None if tokens.token_type_ids is None else tokens.token_type_ids.numpy(),
            protected=tokens.protected.numpy(),
            offsets=tokens.offsets.numpy(),
            labels=examples.labels.numpy(),
            teacher_logits=None if examples.teacher_logits is None else examples.teacher_logits.numpy(),
        )

    def examples(self) -> Examples:
        """Returns the split as tensors of its own: Ray's arrays are read-only."""
        types = None if self.token_type_ids is None else torch.tensor(self.token_type_ids)
        tokens = Tokens(torch.tensor(self.input_ids), types, torch.tensor(self.protected), torch.tensor(self.offsets))
        teacher = None if self.teacher_logits is None else torch.tensor(self.teacher_logits)
        return Examples(tokens, torch.tensor(self.labels), teacher)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreePoint:
    """What a free rule achieves on the teacher at one dial."""

    selector: str
    dial: float
    points: tuple[int, ...]
    validation: Evaluation
    test: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything a trial starts from; pickles, its arrays shared.

    Attributes:
        training_seconds: measured, of one unreduced training pass of one document on a trial's threads.
        train: with the teacher's logits, which it gave to the documents cut to its own length.
        validation: points are chosen on it.
        test: points are reported on it.
        weights: the teacher's state dict, its positions extended where asked for.
        config: the Hugging Face configuration of these weights.
        tokenizer: its tokenizer.
        teacher_validation: the teacher's quality on validation, at the teacher's own length.
        teacher_test: the teacher's quality on test, likewise.
        label_names: classes in index order.
        penalty: price of an unreduced document, in nats, where none is set; what the search starts from.
        latency: how long layers take, where that is the price.
    """

    training_seconds: float
    train: PackedArrays
    validation: PackedArrays
    test: PackedArrays
    weights: dict[str, NDArray[np.float32]]
    config: Any
    tokenizer: Any
    teacher_validation: float
    teacher_test: float
    label_names: tuple[str, ...]
    penalty: float
    latency: LatencyTable | None = None

    def classifier(self, device: torch.device) -> Any:
        """Returns a copy of the teacher, to be trained on."""
        return rebuilt(self.config, self.weights, device)


def rebuilt(config: Any, weights: dict[str, NDArray[np.float32]], device: torch.device) -> Any:
    """Returns a classifier of its own with these weights."""
    model = AutoModelForSequenceClassification.from_config(config)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return model.to(device).eval()


def prepare(
    settings: Settings,
    plan: Plan | None,
    say: Say,
    latency: LatencyTable | None = None,
    train: Callable[..., None] = train_teacher,
) -> Prepared:
    """Returns tokens and teacher, from the cache where the same were made before.

    Args:
        settings: of the run; `data`, `model`, `positions`, `teacher` and `seed` decide the result.
        plan: cuts the teacher's epochs to its time; None cuts nothing.
        say: is told what is being done, one line each.
        latency: the user's table, where time is the price; measured here, in the arithmetic and on the threads of
            evaluation, when None.
        train: fine-tunes the teacher: here, or in several processes.

    Raises:
        InputError: The data, the device, the positions or the reduction points are not what the model takes.
        Diverged: The teacher's learning, or what it says, left the finite numbers.
    """
    data, compute, splits = settings.data, settings.compute, splits_of(settings)
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    for note in splits.notes:
        say(note)
    torch.manual_seed(settings.seed)  # draws the new head
    pretrained = load_classifier(settings.model, splits.label_names)
    device = pick_device(compute.device)
    encoder = Encoder(pretrained.model.to(device))
    if settings.positions is not None:  # checked now, not once the teacher has been trained
        check_positions(encoder.base.config, settings.positions)
    if settings.select.points is not None:
        check_points(settings.select.points, len(encoder.layers))
    longest = min(data.max_length, settings.positions or encoder.max_tokens)
    teacher_longest = min(settings.teacher.max_length or data.max_length, encoder.max_tokens)
    parts = taught = _tokenised(pretrained.tokenizer, splits, longest, say)
    if teacher_longest != longest:  # tokenised anew: of a pair the tokenizer cuts the longer text, not the end
        taught = _tokenised(pretrained.tokenizer, splits, teacher_longest, say, " for the teacher")
    if not pretrained.fine_tuned:
        _teach(encoder, taught["train"], settings, plan, say, train)
    logits = {name: _teacher_logits(encoder, part.tokens, name, compute) for name, part in taught.items()}
    on_validation, on_test = (accuracy(logits[name], taught[name].labels) for name in ("validation", "test"))
    say(f"teacher: {100 * on_validation:.1f} % on validation, {100 * on_test:.1f} % on test")
    if settings.positions is not None:
        extend_positions(pretrained.model, settings.positions)
        # It is saved beside the model, and cuts there where its user names no length.
        pretrained.tokenizer.model_max_length = settings.positions
    if latency is None and settings.select.price == "latency":
        say("latency: timing the layers on documents of every length")
        with autocast(device, compute.evaluation):
            latency = measure_latency(encoder, longest=longest)
    return Prepared(
        training_seconds=training_seconds(encoder, parts["train"], compute.dtype, compute.threads or 1),
        train=PackedArrays.of(replace(parts["train"], teacher_logits=logits["train"])),
        validation=PackedArrays.of(parts["validation"]),
        test=PackedArrays.of(parts["test"]),
        weights=arrays_of(pretrained.model),
        config=pretrained.model.config,
        tokenizer=pretrained.tokenizer,
        teacher_validation=on_validation,
        teacher_test=on_test,
        label_names=splits.label_names,
        penalty=_penalty(logits["train"], taught["train"].labels, say),
        latency=latency,
    )


def _penalty(logits: Logits, labels: DocIndex, say: Say) -> float:
    """Returns the task's own price of an unreduced document, from the teacher's word on its training documents."""
    knows = predictive_information(logits, labels)
    if knows < LEAST_PENALTY:
        say(
            "teacher: it knows no more of its training labels than how frequent they are, so that no selection can be "
            "told from another: see whether the labels are right, and teach it longer (--set teacher.epochs=N)"
        )
    return max(LEAST_PENALTY, min(PENALTY, knows))


def arrays_of(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Returns a model's state dict as arrays, which Ray hands between processes without copying."""
    return {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}


def splits_of(settings: Settings) -> Splits:
    """Returns the rows that a run's `data` settings and seed name."""
    data = settings.data
    return load_splits(
        data.source,
        text_column=data.text_column,
        label_column=data.label_column,
        seed=settings.seed,
        train_rows=data.train_rows,
        validation_rows=data.validation_rows,
        test_rows=data.test_rows,
    )


def _tokenised(tokenizer: Any, splits: Splits, max_length: int, say: Say, whose: str = "") -> dict[str, Examples]:
    """Returns the rows of each split as examples, and says how many were truncated."""
    examples = {}
    for name, rows in {"train": splits.train, "validation": splits.validation, "test": splits.test}.items():
        tokens, truncated = encode(tokenizer, rows.texts, max_length, rows.second_texts)
        mean, many = float(tokens.lengths.double().mean()), f"{len(rows):,} documents"
        say(f"{name}{whose}: {many}, {mean:.0f} tokens on average, {truncated:,} truncated at {max_length}")
        examples[name] = Examples(tokens, torch.tensor(rows.labels))
    return examples


def free_points(prepared: Prepared, settings: Settings, points: tuple[int, ...]) -> list[FreePoint]:
    """Returns what the rules that need no training achieve on the teacher, along their dials."""
    device = pick_device(settings.compute.device)
    encoder = Encoder(prepared.classifier(device))
    cost = CostModel.of(encoder)
    found = []
    for selector in FREE_SELECTORS:
        at = points_for(selector, points)
        for dial in FREE_DIALS:
            results = []
            for arrays in (prepared.validation, prepared.test):
                part = arrays.examples()
                budget = settings.compute.tokens_per_batch
                with autocast(device, settings.compute.evaluation):
                    results.append(evaluate(encoder, cost, selector, part.tokens, part.labels, at, dial, budget))
            found.append(
                FreePoint(selector=selector.name, dial=dial, points=at, validation=results[0], test=results[1])
            )
    return found


class _Told:
    """Says now and then how far the teacher is; pickles, to say it from another process."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.started = self.last = time.monotonic()

    def __call__(self, step: dict[str, float]) -> None:
        now = time.monotonic()
        if now - self.last >= SAY_EVERY_S or step["step"] == step["steps"]:
            self.last = now
            left = (now - self.started) / step["step"] * (step["steps"] - step["step"])
            self.say(
                f"teacher: step {step['step']:.0f} of {step['steps']:.0f}, loss {step['loss']:.3f}, {left:.0f} s left"
            )


def _teach(
    encoder: Encoder,
    examples: Examples,
    settings: Settings,
    plan: Plan | None,
    say: Say,
    train: Callable[..., None],
) -> None:
    limit = None if plan is None else round(plan.teacher_seconds)
    recipe = {name: value for name, value in asdict(settings.teacher).items() if name != "max_length"}
    key = [settings.model, settings.seed, encoder.model.config.num_labels, recipe, limit]
    digest = hashlib.sha256(json.dumps(key).encode())
    _hash_tokens(digest, examples.tokens)
    _hash(digest, examples.labels)
    if Path(settings.model).is_dir():
        _hash_weights(digest, encoder)  # a folder's content may change under its name
    path = cache_folder() / "teachers" / f"{digest.hexdigest()[:24]}.safetensors"
    if path.is_file() and _load_teacher(encoder, path):
        say("teacher: kept from an earlier run")
        return
    if plan is not None:
        seconds = training_seconds(encoder, examples, settings.compute.dtype, torch.get_num_threads())
        settings = fit_teacher(settings, plan, seconds, len(examples.tokens))
    say(f"teacher: training, {settings.teacher.epochs:g} epochs of {len(examples.tokens):,} documents")
    train(encoder, examples, settings.teacher, settings.compute, settings.seed, _Told(say))
    _keep(path, encoder.model.state_dict())


def _load_teacher(encoder: Encoder, path: Path) -> bool:
    try:
        state = load_file(path)
    except (SafetensorError, OSError):
        state = {}
    if _shapes(state) != _shapes(encoder.model.state_dict()):
        path.unlink()  # damaged, or of another version: made again, from weights that it never touched
        return False
    encoder.model.load_state_dict(state)
    return True


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _teacher_logits(encoder: Encoder, tokens: Tokens, split: str, compute: ComputeSettings) -> Logits:
    """Returns the teacher's logits of a split, computed once for the same weights and documents.

    Those of train are learned from, and computed as training is; the others are reported, as evaluation is.
    """
    dtype = compute.dtype if split == "train" else compute.evaluation
    key = hashlib.sha256(f"bfloat16 {uses_bfloat16(encoder.device, dtype)}".encode())
    _hash_tokens(key, tokens)
    _hash_weights(key, encoder)
    path = cache_folder() / "logits" / f"{key.hexdigest()[:24]}.safetensors"
    try:
        return load_file(path)["logits"]
    except (SafetensorError, OSError):
        with autocast(encoder.device, dtype):
            logits = unreduced_logits(encoder, tokens, compute.tokens_per_batch)
        if not logits.isfinite().all():
            raise Diverged(
                f"the teacher's logits on {split} must be finite, and some are not: see whether its weights are whole, "
                "and compute in float32 (--set compute.dtype=float32 --set compute.evaluation=float32)"
            ) from None
        _keep(path, {"logits": logits})
        return logits


def _hash_weights(digest: Any, encoder: Encoder) -> None:
    _hash(digest, *encoder.model.state_dict().values())


def _hash_tokens(digest: Any, tokens: Tokens) -> None:
    types = () if tokens.token_type_ids is None else (tokens.token_type_ids,)
    _hash(digest, tokens.input_ids, tokens.protected, tokens.offsets, *types)


def _hash(digest: Any, *tensors: Tensor) -> None:
    for tensor in tensors:
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())


def _keep(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors to the cache whole or not at all."""
    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
