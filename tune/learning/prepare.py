"""Makes what all trials share, once: the examples, the teacher, and the teacher's outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trbert.measure.latency import LatencyTable, measure_latency
from trbert.packed.declared import Declaration, declaration_of
from trbert.packed.heads import averages
from trbert.pretrained import extend_positions, shift_outputs
from trbert.tasks import Task
from trbert.tasks.examples import Examples, Outputs
from tune.budget import BASELINE_SHARE, Plan, fit_documents
from tune.learning.baselines import SECONDS, baselines, standing_of
from tune.learning.exit_maps import Maps, fit_exits
from tune.learning.inputs import Inputs, Keep, Say, check_unchanged, learned, read_inputs
from tune.learning.measuring import pass_seconds
from tune.learning.memory import Needs
from tune.learning.standing import LEAST_KNOWN, Standing, figures, remarks
from tune.learning.steps import autocast, fix_algorithms
from tune.learning.teacher_cache import teach, teacher_outputs
from tune.learning.teacher_stage import train_teacher, training_seconds
from tune.settings import ComputeSettings, Settings

PENALTY, PENALTY_SHARE = 1.0, 1 / 3
"""The price of an unreduced document if none is set: so many nats, or so much of what the teacher knows of a target.

The higher one is used, but no more than what the teacher knows. With a higher price than that, a policy does best to
drop everything. This happened on text pairs: the price was 1 nat, and the teacher knew 0.4 nats.

The share matters where the teacher knows more than 3 nats, such as the vector of a text (13) or the place of an answer
(4.6). At 1 nat a policy for either keeps nearly all tokens. At 16 nats one for vectors dropped nearly all
(docs/results/tasks/tried.md).
"""
BATCH_S, LEAST_TOKENS = 4.0, 2048
"""The most seconds that a batch of an evaluation is to take under a budget, and the tokens that it has anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that a trial starts from. It can be pickled; Ray shares its arrays between processes.

    Attributes:
        family: the declaration of the encoder's family; None if trbert describes the family. It is the first one here,
            because in a new process the family must be registered before `config` can be unpickled.
        task: what is predicted.
        training_seconds: the measured seconds of an unreduced training pass of one document, on a trial's threads.
        train: the training examples with the teacher's outputs, and after them the unlabelled ones. The teacher read
            them at its own `max_length`.
        validation: the examples on which points are chosen.
        test: the examples on which points are reported.
        weights: the teacher's state dict; its positions are extended if `positions` is set.
        config: the Hugging Face configuration for these weights.
        tokenizer: the teacher's tokenizer.
        teacher_validation: the teacher's quality on validation, a fraction; measured at the teacher's `max_length`.
        teacher_test: the teacher's quality on test, a fraction; measured at the teacher's `max_length`.
        teacher_answers: what the teacher says of each test example, as `Task.decode` returns it.
        labels: the names of the head's outputs, in their order; () if they have no names.
        exits: the maps of the exits for each layer; None if the head reads each document's first token alone.
        separator: the id of the token that ends the first part of a document; None if no part is protected.
        penalty: the price of an unreduced document if none is set, in nats; the search varies it around this value.
        tokens_per_batch: the most tokens of a pass: those of the settings, or fewer if memory is for no more.
        needs: the memory that a trial needs; None if it was not measured.
        latency: how long the layers take, if the price is "latency".
        fingerprint: of the data and of the model.
        standing: the figures of the teacher and of its baselines; None if they were not measured.
        pass_seconds: the measured seconds of an unreduced pass of one example in evaluation; 0 if it was not measured.
        cuts: what the budget left no time for, in words.
    """

    family: Declaration | None = None
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
    teacher_answers: list[Any]
    labels: tuple[str, ...]
    penalty: float
    fingerprint: str
    tokens_per_batch: int
    needs: Needs | None = None
    latency: LatencyTable | None = None
    standing: Standing | None = None
    separator: int | None = None
    exits: Maps | None = None
    pass_seconds: float = 0.0
    cuts: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether each token of a text is read by the head, and a question that is protected is asked of that text."""
        return self.separator is not None and self.task.reads == "tokens"

    @property
    def metric(self) -> str:
        """The name of the measure of quality."""
        return self.task.metric_of(self.train.names)

    def plain(self, device: torch.device) -> Any:
        """Returns a copy of the teacher, for a trial to train further."""
        return rebuilt(self.task, self.config, self.weights, device)

    @property
    def documents(self) -> dict[str, int]:
        """The number of documents of each split."""
        labelled, further = self.train.num_labelled, len(self.train) - self.train.num_labelled
        counts = {"train": labelled, "validation": len(self.validation), "test": len(self.test)}
        return counts | ({"unlabelled": further} if further else {})

    def watched(self, compute: ComputeSettings) -> ComputeSettings:
        """Returns the same settings, with batches for evaluation that take `BATCH_S` at most.

        Only between two batches can a measurement be stopped.
        """
        lengths = self.validation.lengths.double()
        if not self.pass_seconds:
            return compute
        most = max(LEAST_TOKENS, int(BATCH_S / self.pass_seconds * float(lengths.mean())))
        return replace(compute, tokens_per_batch=min(most, compute.tokens_of_pass))


def rebuilt(task: Task, config: Any, weights: dict[str, NDArray[np.float32]], device: torch.device) -> Any:
    """Returns a new plain model with a copy of these weights, in evaluation mode."""
    model = task.auto_class.from_config(config, trust_remote_code=False)
    load_arrays(model, weights)
    return model.to(device).eval()


def prepare(
    settings: Settings,
    plan: Plan | None,
    say: Say,
    latency: LatencyTable | None = None,
    train: Callable[..., float | None] | None = None,
    fingerprint: str | None = None,
    keep: Keep | None = None,
    documents: Mapping[str, int] | None = None,
) -> Prepared:
    """Returns what all trials share. The teacher and its outputs come from the cache if they were made before.

    Args:
        settings: of the run; `data`, `model`, `positions`, `teacher` and `seed` decide the result.
        plan: limits the teacher's epochs and the documents of each split to their shares of the budget, and the tokens
            of a pass to what fits into memory; None limits nothing.
        say: is called with a line for each thing that is done.
        latency: the user's table of times. If it is None and the price is "latency", the layers are timed here, in the
            arithmetic and with the threads of evaluation.
        train: fine-tunes the teacher, in this process or in several; None does it here, and saves no states.
        fingerprint: of the data and the model that a resumed search started with; None checks nothing.
        keep: is called once the data and the model are read, before anything is learned: with their fingerprint, and
            with the settings that name the task and the columns which were found.
        documents: how many documents of each split a resumed search started with; None computes it from the plan.

    Raises:
        InputError: The data and the model do not fit together, or have changed since the search started. Or the
            memory is too little for one trial.
        OutOfMemory: There is too little memory for one document.
        Diverged: The teacher's loss, gradient or outputs are not finite.
    """
    fix_algorithms(settings.compute)
    if settings.compute.threads is not None:
        torch.set_num_threads(settings.compute.threads)
    inputs = read_inputs(settings, say, plan)
    check_unchanged(inputs, fingerprint)
    if keep is not None:
        keep(inputs.fingerprint, inputs.asked)
    compute, task, reducer = inputs.settings.compute, inputs.task, inputs.reducer
    seconds = 0.0
    if plan is not None:
        seconds = pass_seconds(reducer, inputs.taught["validation"], compute.evaluation)
        there = {name: len(part) for name, part in inputs.taught.items()}
        documents = documents or fit_documents(plan, seconds, torch.get_num_threads(), there)
    cuts = _teach(inputs, plan, say, train or _train_at_once, resumed=fingerprint is not None)
    learned_from = inputs.taught["train"]  # the teacher and the linear model learn from all of them
    inputs, fewer = _used(inputs, documents or {}, inputs.settings.seed)
    for told in fewer:
        say(f"the budget has time for {told}")
    outputs = _outputs(inputs, say)
    inputs = _settled(inputs, outputs)
    standing = _standing(inputs, outputs, learned_from, plan, say)
    pretrained = inputs.pretrained
    if inputs.settings.positions is not None:
        extend_positions(pretrained.model, inputs.settings.positions)
        # The tokenizer is saved beside the model. It cuts texts at this length if its user gives no other.
        pretrained.tokenizer.model_max_length = inputs.settings.positions
    train_on = learned(_judged(task, inputs.examples, outputs))
    if latency is None and inputs.settings.select.price == "latency":
        say("latency: timing the layers on documents of every length")
        with autocast(reducer.encoder.device, compute.evaluation):
            latency = measure_latency(reducer.encoder, longest=inputs.longest)
    exits = None
    if task.reads == "tokens" or averages(pretrained.model):
        exits = fit_exits(reducer, inputs.taught["train"], compute.tokens_of_pass)
    return Prepared(
        family=declaration_of(pretrained.model.config),
        task=task,
        training_seconds=training_seconds(reducer, train_on, compute.dtype, compute.threads or 1),
        train=train_on,
        validation=inputs.examples["validation"],
        test=inputs.examples["test"],
        weights=arrays_of(pretrained.model),
        config=pretrained.model.config,
        tokenizer=pretrained.tokenizer,
        teacher_validation=standing.validation,
        teacher_test=standing.test,
        teacher_answers=task.decode(outputs["test"], inputs.taught["test"]),
        labels=inputs.splits.labels,
        penalty=default_penalty(standing.known),
        fingerprint=inputs.fingerprint,
        tokens_per_batch=compute.tokens_of_pass,
        needs=inputs.needs,
        latency=latency,
        standing=standing,
        exits=exits,
        separator=inputs.separator,
        pass_seconds=seconds,
        cuts=(*cuts, *fewer),
    )


def default_penalty(known: float) -> float:
    """Returns the price of an unreduced document if none is set, in nats; it is positive.

    Args:
        known: what the teacher knows of a target, in nats, as `Task.known` says.

    Example:
        >>> [default_penalty(known) for known in (-1.0, 0.5, 2.0, 12.0)]
        [0.001, 0.5, 1.0, 4.0]
    """
    return max(LEAST_KNOWN, min(known, max(PENALTY, PENALTY_SHARE * known)))


def _teach(
    inputs: Inputs, plan: Plan | None, say: Say, train: Callable[..., float | None], *, resumed: bool
) -> list[str]:
    """Turns the model into the teacher, in place, unless it is one; returns in words what the budget left out."""
    settings, pretrained, examples = inputs.settings, inputs.pretrained, inputs.taught["train"]
    if pretrained.fine_tuned:
        return []
    shift_outputs(pretrained.model, -inputs.task.start(examples))
    epochs = teach(inputs.reducer, examples, settings, plan, say, train, resumed)
    return [] if epochs is None else [f"teacher after {epochs:.2g} of {settings.teacher.epochs:g} epochs"]


def _outputs(inputs: Inputs, say: Say) -> dict[str, Outputs]:
    """Returns the teacher's outputs on each split. If the task has a threshold, the best one goes into the head."""
    task, taught = inputs.task, inputs.taught
    outputs = {
        name: teacher_outputs(inputs.reducer, part, name, inputs.settings.compute) for name, part in taught.items()
    }
    if task.has_threshold:  # that of a fine-tuned model, too: trained models are measured with the best one
        threshold = task.threshold(outputs["validation"], taught["validation"])
        shift_outputs(inputs.pretrained.model, threshold)
        say(
            f"teacher: on validation a threshold of {threshold:.2f} is the best, so its head's bias is moved by as much"
        )
        outputs = {name: found - threshold for name, found in outputs.items()}
    return outputs


def _settled(inputs: Inputs, outputs: Mapping[str, Outputs]) -> Inputs:
    """Returns the inputs whose examples know what the task learns of the teacher's outputs on validation."""
    settle = partial(inputs.task.settled, validation=inputs.taught["validation"], on_validation=outputs["validation"])
    return replace(
        inputs,
        examples={name: settle(part, outputs[name]) for name, part in inputs.examples.items()},
        taught={name: settle(part, outputs[name]) for name, part in inputs.taught.items()},
    )


def _standing(
    inputs: Inputs, outputs: Mapping[str, Outputs], learned_from: Examples, plan: Plan | None, say: Say
) -> Standing:
    """Returns the figures of the teacher and of the baselines, and says them.

    Args:
        inputs: the data.
        outputs: the teacher's outputs on each split.
        learned_from: the examples that the teacher and the linear model learn from.
        plan: limits the time of the linear model; None leaves its usual limit.
        say: is called with each line.
    """
    task, taught = inputs.task, inputs.taught
    seconds = SECONDS if plan is None else BASELINE_SHARE * plan.seconds
    answers = baselines(task, taught, learned_from, inputs.settings.seed, seconds)
    known = task.known(outputs["train"], taught["train"])
    found = standing_of(task, answers, taught, outputs, known=known, trained=not inputs.pretrained.fine_tuned)
    found = replace(found, train_rows=len(learned_from))
    say(f"teacher: {100 * found.validation:.1f} % on validation, {100 * found.test:.1f} % on test")
    for line in (*figures(found), *remarks(found)):
        say(line)
    return found


def _judged(task: Task, examples: Mapping[str, Examples], outputs: Mapping[str, Outputs]) -> dict[str, Examples]:
    """Returns the examples of train with the teacher's outputs, and the unlabelled ones with its answers as well."""
    found = {"train": examples["train"].with_teacher(outputs["train"])}
    if (further := examples.get("unlabelled")) is not None:
        said = outputs["unlabelled"]
        found["unlabelled"] = further.judged(task.targets_of(said, further), said)
    return found


def _used(inputs: Inputs, documents: Mapping[str, int], seed: int) -> tuple[Inputs, list[str]]:
    """Returns the inputs with so many documents of each split, drawn with the seed, and what was left out in words."""
    rows = inputs.splits.rows
    examples, taught, cuts = dict(inputs.examples), dict(inputs.taught), []
    for name, part in inputs.examples.items():
        most = documents.get(name, len(part))
        if most < len(part):
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(part), generator=generator)[:most].sort().values
            examples[name], taught[name] = part.take(chosen), taught[name].take(chosen)
            rows[name] = rows[name].take(chosen.numpy())
            cuts.append(f"{name} on {most:,} of {len(part):,} rows")
    splits = inputs.splits.with_rows(rows)
    return replace(inputs, splits=splits, examples=examples, taught=taught), cuts


def _train_at_once(*inputs: Any, key: str) -> None:
    """Trains the teacher in this process, without saving states, so that it needs no key."""
    train_teacher(*inputs)


def arrays_of(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Returns a model's state dict as arrays; Ray passes arrays between processes without copying them."""
    return {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}


def load_arrays(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Sets a model's state dict from copies of such arrays, in place."""
    model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
