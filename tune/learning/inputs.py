"""Reads everything that a search starts from, the data and the model, and checks that they fit together."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from trbert.checkpoint.tokenizer import check_vocabulary
from trbert.data.readers import Format
from trbert.data.splits import Splits, load_splits
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.limits import parse_size
from trbert.packed.declared import declare
from trbert.packed.heads import pooling_of
from trbert.pretrained import Pretrained, check_positions, load_pretrained, own_head
from trbert.rehearsal import rehearse
from trbert.selection.reduction import Reducer, check_points
from trbert.tasks import Task, task_of
from trbert.tasks.examples import Examples
from trbert.tasks.parts import first_alone, separator_of
from tune.budget import Plan
from tune.learning.memory import Footprint, Needs, fitting, fitting_budget, footprint, reserved, wide_budget
from tune.learning.steps import pick_device
from tune.learning.teacher_cache import hash_examples, hash_weights
from tune.preflight.machine import memory_available, memory_total
from tune.settings import Settings, override
from tune.space import point_choices

Say = Callable[[str], None]
Keep = Callable[[str, Settings], None]
"""Takes the fingerprint of the data and the model, and the settings with which a resumed search goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The data and the model of a search, read and checked. Nothing is trained yet.

    Attributes:
        task: what is predicted.
        splits: the rows of train, validation and test, and unlabelled ones, in the order of the examples.
        pretrained: the model that becomes the teacher.
        reducer: the model in stages.
        examples: the examples of each split, cut as the trained models read them.
        taught: the examples of each split, cut as the teacher reads them.
        longest: the most tokens of a document for the trained models.
        fingerprint: a digest of the examples, of the encoder's weights, and of the settings of the teacher. A resumed
            search must have the same one.
        asked: the settings of the run, as the user gave them, with the task and the columns that were found.
        settings: the same; but a pass has fewer tokens if memory is for no more.
        needs: the memory that a trial needs; None if it was not measured.
        separator: the id of the token that ends the first part of a document; None where no part is protected.
    """

    task: Task
    splits: Splits
    pretrained: Pretrained
    reducer: Reducer
    examples: dict[str, Examples]
    taught: dict[str, Examples]
    longest: int
    fingerprint: str
    asked: Settings
    settings: Settings
    needs: Needs | None
    separator: int | None


def read_inputs(settings: Settings, say: Say, plan: Plan | None = None) -> Inputs:
    """Returns the data and the model of a search.

    Whatever is wrong with them is found here, before anything is trained. A dry run calls this function, too. If no
    task is set, it is found here, once.

    Args:
        settings: of the run; `data`, `model`, `family`, `new_head`, `positions`, `teacher` and `seed` decide the
            result.
        say: is called with a line for each thing that was found.
        plan: says which processes will run at the same time on this machine; None measures and says no memory.

    Raises:
        InputError: The data, the device, the positions or the reduction points do not fit the model, or the model
            cannot be saved. Or the memory is too little for one trial. Or `family` cannot be imported, or is for
            another kind of model.
    """
    data = settings.data
    family = declare(settings.family) if settings.family else None
    splits = splits_of(settings)
    task = splits.task
    if settings.new_head and not task.has_head:
        raise InputError(
            f"--new-head must be left out for task {task.name}, which has no head, and is set: leave it out"
        )
    if settings.task is None:
        say(f"task: {task.name}, because {splits.why} (--task names another)")
        columns = {"text_column": splits.columns.inputs, "label_column": splits.columns.targets}
        named = {f"data.{name}": ",".join(own) for name, own in columns.items()}
        settings = override(settings, {"task": task.name, **named})
    asked = settings
    for note in splits.notes:
        say(note)
    say(f"quality: {task.metric_of(splits.train.names)}")
    torch.manual_seed(settings.seed)  # a new head is drawn at random
    pretrained = load_pretrained(settings.model, task, splits.labels, settings.new_head)
    if family is not None and family.model_type != (kind := pretrained.model.config.model_type):
        raise InputError(
            f"--family must describe the model that --model names, and {family.name} is for model_type "
            f"{family.model_type!r}, while that model has {kind!r}: leave it out, or name another family or model"
        )
    for note in pretrained.notes:
        say(note)
    if pretrained.fine_tuned:
        why = "was fine-tuned for these labels" if task.has_head else "needs no head"
        say(f"the model {why}, so it is the teacher as it is")
    rehearse(pretrained.model, pretrained.tokenizer, task)
    config = pretrained.model.config
    if splits.labels:  # the examples number the labels as the head does
        splits = splits.renumbered(np.array(pretrained.order), tuple(config.id2label.values()))
    reducer = Reducer(encoder=Encoder(pretrained.model.to(pick_device(settings.compute.device))), task=task)
    encoder = reducer.encoder
    if settings.positions is not None:
        check_positions(encoder.base.config, settings.positions)
    if settings.select.points is not None:
        check_points(settings.select.points, len(encoder.layers))
    elif settings.select.keep_ratios is not None:
        point_choices(len(encoder.layers), len(settings.select.keep_ratios))
    longest = min(data.max_length, settings.positions or encoder.max_tokens)
    teacher_longest = min(settings.teacher.max_length or data.max_length, encoder.max_tokens)
    if longest < data.max_length:
        say(f"documents are cut at {longest} tokens: the model has positions for no more")
    separator = separator_of(task, pretrained.tokenizer, data.protect)
    tokenised = partial(_tokenised, task, pretrained.tokenizer, protect=data.protect, say=say)
    found: dict[int, dict[str, Examples]] = {}
    for most in sorted({longest, teacher_longest}):  # rows for which the shorter documents have no room are in neither
        # Each length is tokenised by itself: of a pair the tokenizer cuts the longer text, not the end.
        splits, found[most] = tokenised(splits, most, whose="" if most == longest else " for the teacher")
    examples, taught = found[longest], found[teacher_longest]
    for part in taught.values():  # the positions for longer documents are added after the teacher has learned
        task.check_targets(part, config.num_labels)
        check_vocabulary(pretrained.model, pretrained.tokenizer, part.tokens.input_ids)
        encoder.check_tokens(part.tokens)
    fingerprint = _fingerprint(encoder, splits.labels, taught, settings)
    needs = None
    if plan is not None:
        size = footprint(reducer, learned(taught), learned(examples).lengths, settings.compute.dtype)
        settings, needs = _in_memory(size, encoder.device, settings, plan, say)
    return Inputs(
        task=task,
        splits=splits,
        pretrained=pretrained,
        reducer=reducer,
        examples=examples,
        taught=taught,
        longest=longest,
        fingerprint=fingerprint,
        asked=asked,
        settings=settings,
        needs=needs,
        separator=separator,
    )


def learned(examples: Mapping[str, Examples]) -> Examples:
    """Returns the examples from which select and joint learn: those of train, and after them the unlabelled ones."""
    further = examples.get("unlabelled")
    return examples["train"] if further is None else examples["train"].followed_by(further)


def check_unchanged(inputs: Inputs, fingerprint: str | None) -> None:
    """Checks that a resumed search reads what it read when it started.

    Args:
        inputs: what it reads now.
        fingerprint: of what it read at the start; None where the search had read nothing yet.

    Raises:
        InputError: The data or the model have changed.
    """
    if fingerprint is not None and inputs.fingerprint != fingerprint:
        raise InputError(
            "the data and the model of a resumed search must be those that it started with, and one of them has "
            "changed since: put the old files back, or start another search"
        )


def splits_of(settings: Settings) -> Splits:
    """Returns the rows of each split, as the run's `data` settings and its seed define them.

    If no task is set, the head of the model and the data say which it is.
    """
    data, unset = settings.data, settings.task is None
    return load_splits(
        data.source,
        task=None if settings.task is None else task_of(settings.task),
        head=own_head(settings.model) if unset and not settings.new_head else None,
        text_column=data.text_column,
        label_column=data.label_column,
        seed=settings.seed,
        train_rows=data.train_rows,
        validation_rows=data.validation_rows,
        test_rows=data.test_rows,
        format=Format(
            encoding=data.encoding,
            separator=data.separator,
            header=data.header,
            max_bytes=parse_size(data.max_size),
        ),
        label_map=data.label_map,
        drop_duplicates=data.drop_duplicates,
        skip_bad_rows=data.skip_bad_rows,
        unlabelled=data.unlabelled,
    )


def _tokenised(
    task: Task, tokenizer: Any, splits: Splits, max_length: int, *, protect: bool, say: Say, whose: str = ""
) -> tuple[Splits, dict[str, Examples]]:
    """Returns the rows that have a token, and the same rows as examples; reports how many were truncated."""
    rows_of = splits.rows
    encoded = {name: task.encode(rows, tokenizer, max_length) for name, rows in rows_of.items()}
    for name, each in encoded.items():
        tokens, left_out = each.examples.tokens, len(rows_of[name]) - len(each.kept) - each.skipped
        share = f" ({each.truncated / len(tokens):.0%})" if each.truncated else ""
        without = f", {left_out:,} rows without a token left out" if left_out else ""
        say(
            f"{name}{whose}: {len(tokens):,} documents, {float(tokens.lengths.double().mean()):.0f} tokens on average, "
            f"{each.truncated:,} truncated at {max_length}{share}{without}"
        )
        for note in each.notes:
            say(f"{name}{whose}: {note}")
    kept = {name: rows.take(encoded[name].kept) for name, rows in rows_of.items()}
    splits = splits.with_rows(kept)
    examples = {name: each.examples for name, each in encoded.items()}
    if not protect:
        examples = {name: replace(part, tokens=first_alone(part.tokens)) for name, part in examples.items()}
    return splits, examples


def _in_memory(
    found: Footprint, device: torch.device, settings: Settings, plan: Plan, say: Say
) -> tuple[Settings, Needs]:
    """Returns the settings with passes that fit into memory, and what a trial needs; reports both.

    Raises:
        InputError: Not even one trial fits into the memory that is free.
    """
    crew, wanted = ((0, 1), 1) if plan.spread else ((plan.workers, plan.learners), plan.concurrent)
    free, usable = _memory(device, found.parameters)
    asked = settings.compute.tokens_of_pass
    wide = asked
    if device.type == "cuda":
        wide = wide_budget(found, settings, (plan.workers, plan.learners), plan.concurrent, usable)
    budget = fitting_budget(found, settings, wide, crew, usable, free)
    if budget < asked:
        say(f"memory: a pass has at most {budget:,} tokens, and not {asked:,}, to fit in")
    if budget != asked:
        settings = override(settings, {"compute.tokens_per_batch": budget})
    needs = found.needs(settings, budget)
    trial = needs.of_trial(*crew)
    at_once = fitting(usable, trial, wanted)
    trials = f"{at_once} trials at once" if at_once > 1 else "the trial"
    if at_once > 1 and not plan.settled:
        trials += ", if there is time for so many"
    more = ", memory for no more at once" if at_once < wanted else ""
    say(f"memory: up to {at_once * trial / 1e9:.1f} GB for {trials}, of {free / 1e9:.1f} GB that are free{more}")
    return settings, needs


def _memory(device: torch.device, parameters: int) -> tuple[float, float]:
    """Returns the bytes of memory that are free, and how many of them trials should take."""
    if device.type == "cuda":
        free = float(sum(torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())))
        return free, free
    free = float(memory_available())
    return free, free - reserved(float(memory_total()), parameters)


def trials_in_memory(needs: Needs, device: torch.device, parameters: int, plan: Plan) -> int:
    """Returns how many trials can run at once with the memory that is free now: those planned, or fewer.

    Args:
        needs: what a trial needs.
        device: where it learns.
        parameters: the number of the encoder's weights, which the trials of a machine share.
        plan: says which processes run at the same time.
    """
    _, usable = _memory(device, parameters)
    return fitting(usable, needs.of_trial(plan.workers, plan.learners), plan.concurrent)


def _fingerprint(encoder: Encoder, labels: Sequence[str], taught: dict[str, Examples], settings: Settings) -> str:
    own = [
        labels,
        settings.task,
        settings.seed,
        settings.positions,
        asdict(settings.teacher),
        pooling_of(encoder.plain),
    ]
    digest = hashlib.sha256(json.dumps(own).encode())
    for part in taught.values():
        hash_examples(digest, part)
    hash_weights(digest, encoder.base)
    return digest.hexdigest()[:24]
