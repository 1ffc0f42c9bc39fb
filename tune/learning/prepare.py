"""Makes what all trials share, once: the examples, the teacher, and the teacher's outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trbert.data.readers import Format
from trbert.data.splits import Splits, load_splits
from trbert.encoder import Encoder
from trbert.measure.latency import LatencyTable, measure_latency
from trbert.pretrained import check_positions, extend_positions, load_pretrained
from trbert.selection.reduction import Reducer, check_points
from trbert.tasks import Task, task_of
from trbert.tasks.examples import Examples
from tune.budget import Plan
from tune.learning.baselines import baselines, standing_of
from tune.learning.standing import LEAST_KNOWN, Standing, figures, remarks
from tune.learning.steps import autocast, pick_device
from tune.learning.teacher_cache import teach, teacher_outputs
from tune.learning.teacher_stage import train_teacher, training_seconds
from tune.settings import Settings
from tune.space import point_choices

Say = Callable[[str], None]

PENALTY = 1.0
"""The price of an unreduced document if none is set, in nats. What the teacher knows of a label is used if it is less.
It is at least `LEAST_KNOWN`, because a price must be positive.

With a higher price than that, a policy does best to drop everything. This happened on text pairs: the price was 1 nat,
and the teacher knew 0.4 nats.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that a trial starts from. It can be pickled; Ray shares its arrays between processes.

    Attributes:
        task: what is predicted.
        training_seconds: the measured seconds of an unreduced training pass of one document, on a trial's threads.
        train: the training examples with the teacher's outputs. The teacher read them at its own `max_length`.
        validation: the examples on which points are chosen.
        test: the examples on which points are reported.
        weights: the teacher's state dict; its positions are extended if `positions` is set.
        config: the Hugging Face configuration for these weights.
        tokenizer: the teacher's tokenizer.
        teacher_validation: the teacher's quality on validation, a fraction; measured at the teacher's `max_length`.
        teacher_test: the teacher's quality on test, a fraction; measured at the teacher's `max_length`.
        labels: the names of the head's outputs, in their order; () if they have no names.
        penalty: the price of an unreduced document if none is set, in nats; the search varies it around this value.
        latency: how long the layers take, if the price is "latency".
        standing: the figures of the teacher and of its baselines; None if they were not measured.
    """

    task: Task
    training_seconds: float
    train: Examples
    validation: Examples
    test: Examples
    weights: dict[str, NDArray[np.float32]]
    config: Any
    tokenizer: Any
    teacher_validation: float
    teacher_test: float
    labels: tuple[str, ...]
    penalty: float
    latency: LatencyTable | None = None
    standing: Standing | None = None

    def plain(self, device: torch.device) -> Any:
        """Returns a copy of the teacher, for a trial to train further."""
        return rebuilt(self.task, self.config, self.weights, device)


def rebuilt(task: Task, config: Any, weights: dict[str, NDArray[np.float32]], device: torch.device) -> Any:
    """Returns a new plain model with a copy of these weights, in evaluation mode."""
    model = task.auto_class.from_config(config)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return model.to(device).eval()


def prepare(
    settings: Settings,
    plan: Plan | None,
    say: Say,
    latency: LatencyTable | None = None,
    train: Callable[..., None] = train_teacher,
) -> Prepared:
    """Returns what all trials share. The teacher and its outputs come from the cache if they were made before.

    Args:
        settings: of the run; `data`, `model`, `positions`, `teacher` and `seed` decide the result.
        plan: limits the teacher's epochs to its share of the budget; None limits nothing.
        say: is called with a line for each thing that is done.
        latency: the user's table of times. If it is None and the price is "latency", the layers are timed here, in the
            arithmetic and with the threads of evaluation.
        train: fine-tunes the teacher, in this process or in several.

    Raises:
        InputError: The data, the device, the positions or the reduction points do not fit the model.
        Diverged: The teacher's loss, gradient or outputs are not finite.
    """
    data, compute, splits, task = settings.data, settings.compute, splits_of(settings), task_of(settings.task)
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    for note in splits.notes:
        say(note)
    torch.manual_seed(settings.seed)  # a new head is drawn at random
    pretrained = load_pretrained(settings.model, task, splits.labels)
    device = pick_device(compute.device)
    encoder = Encoder(pretrained.model.to(device))
    reducer = Reducer(encoder=encoder, task=task)
    if settings.positions is not None:  # checked before the teacher is trained, which takes long
        check_positions(encoder.base.config, settings.positions)
    if settings.select.points is not None:
        check_points(settings.select.points, len(encoder.layers))
    elif settings.select.keep_ratios is not None:
        point_choices(len(encoder.layers), len(settings.select.keep_ratios))
    longest = min(data.max_length, settings.positions or encoder.max_tokens)
    teacher_longest = min(settings.teacher.max_length or data.max_length, encoder.max_tokens)
    parts = taught = _tokenised(task, pretrained.tokenizer, splits, longest, say)
    if teacher_longest != longest:  # tokenised again: of a pair the tokenizer cuts the longer text, not the end
        taught = _tokenised(task, pretrained.tokenizer, splits, teacher_longest, say, " for the teacher")
    for part in parts.values():
        task.check_targets(part, pretrained.model.config.num_labels)
    if not pretrained.fine_tuned:
        teach(reducer, taught["train"], settings, plan, say, train)
    outputs = {name: teacher_outputs(reducer, part, name, compute) for name, part in taught.items()}
    quality = {name: task.quality(task.decode(outputs[name], part), part) for name, part in taught.items()}
    say(f"teacher: {100 * quality['validation']:.1f} % on validation, {100 * quality['test']:.1f} % on test")
    known = task.known(outputs["train"], taught["train"])
    answers = baselines(task, splits, taught, settings.seed)
    standing = standing_of(task, answers, taught, outputs, known=known, trained=not pretrained.fine_tuned)
    for line in (*figures(standing), *remarks(standing)):
        say(line)
    if settings.positions is not None:
        extend_positions(pretrained.model, settings.positions)
        # The tokenizer is saved beside the model. It cuts texts at this length if its user gives no other.
        pretrained.tokenizer.model_max_length = settings.positions
    if latency is None and settings.select.price == "latency":
        say("latency: timing the layers on documents of every length")
        with autocast(device, compute.evaluation):
            latency = measure_latency(encoder, longest=longest)
    return Prepared(
        task=task,
        training_seconds=training_seconds(reducer, parts["train"], compute.dtype, compute.threads or 1),
        train=parts["train"].with_teacher(outputs["train"]),
        validation=parts["validation"],
        test=parts["test"],
        weights=arrays_of(pretrained.model),
        config=pretrained.model.config,
        tokenizer=pretrained.tokenizer,
        teacher_validation=quality["validation"],
        teacher_test=quality["test"],
        labels=splits.labels,
        penalty=max(LEAST_KNOWN, min(PENALTY, known)),
        latency=latency,
        standing=standing,
    )


def arrays_of(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Returns a model's state dict as arrays; Ray passes arrays between processes without copying them."""
    return {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}


def splits_of(settings: Settings) -> Splits:
    """Returns the rows of each split, as the run's `data` settings and its seed define them."""
    data = settings.data
    return load_splits(
        data.source,
        task=task_of(settings.task),
        text_column=data.text_column,
        label_column=data.label_column,
        seed=settings.seed,
        train_rows=data.train_rows,
        validation_rows=data.validation_rows,
        test_rows=data.test_rows,
        format=Format(encoding=data.encoding, separator=data.separator, header=data.header),
        label_map=data.label_map,
        drop_duplicates=data.drop_duplicates,
    )


def _tokenised(
    task: Task, tokenizer: Any, splits: Splits, max_length: int, say: Say, whose: str = ""
) -> dict[str, Examples]:
    """Returns the rows of each split as examples, and reports how many were truncated."""
    found = {}
    for name, rows in {"train": splits.train, "validation": splits.validation, "test": splits.test}.items():
        examples, truncated = task.encode(rows, tokenizer, max_length)
        mean, many = float(examples.tokens.lengths.double().mean()), f"{len(examples.tokens):,} documents"
        say(f"{name}{whose}: {many}, {mean:.0f} tokens on average, {truncated:,} truncated at {max_length}")
        found[name] = examples
    return found
