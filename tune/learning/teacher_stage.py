"""The first stage of learning: the unreduced model is fine-tuned, and becomes the teacher."""

import math
import time

import torch
from torch import Tensor

from trbert.selection.reduction import Reducer
from trbert.tasks.examples import Examples
from tune.learning.probe import fit_output_layer
from tune.learning.steps import ALONE, Keeper, Learner, Progress, Team, autocast, step_in_budget
from tune.settings import ComputeSettings, TeacherSettings


def train_teacher(
    reducer: Reducer,
    train: Examples,
    settings: TeacherSettings,
    compute: ComputeSettings,
    seed: int,
    progress: Progress,
    keeper: Keeper | None = None,
    team: Team = ALONE,
) -> None:
    """Stage 1: fine-tunes the unreduced model on the targets, on packed documents, with dropout.

    The last layer of the head is fitted first, unless the stage goes on from a saved state.

    Args:
        reducer: its plain model learns in place.
        train: the training examples.
        settings: of the stage.
        compute: how the machine is used.
        seed: the key of the order of examples and, with the process's rank, of dropout.
        progress: is called with the loss of each step.
        keeper: saves the stage's state from time to time; None saves nothing.
        team: the processes that learn together.
    """
    torch.manual_seed(seed + team.rank)
    model, device = reducer.encoder.plain, reducer.encoder.device
    if settings.probe_documents and (keeper is None or keeper.load() is None):
        fit_output_layer(reducer, train, settings.probe_documents, compute, seed, team)
    model.train()
    batch_size = train.count_of(settings.batch_size)
    steps = max(1, math.ceil(settings.epochs * len(train) / batch_size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01, fused=True)
    learner = Learner(optimizer, steps, warm_up=0.1, keeper=keeper)

    def loss(chosen: Tensor) -> Tensor:
        part = train.take(chosen).to(device)
        with autocast(device, compute.dtype):
            outputs = reducer.unreduced_outputs(part.tokens)
        return reducer.task.loss(outputs, part).sum()

    lengths = train.lengths
    try:
        for step, chosen in learner.batches(len(train), batch_size, seed):
            value = step_in_budget(optimizer, chosen, lengths, compute.tokens_per_batch, loss, team)
            progress({"step": float(step + 1), "steps": float(steps), "loss": value})
    finally:
        model.eval()  # also when the stage runs out of time


def training_seconds(reducer: Reducer, train: Examples, dtype: str, threads: int, count: int = 16) -> float:
    """Returns the measured seconds of an unreduced training pass of one document of mean length.

    It is the fastest of three passes over the first examples, which have about `count` documents. These may be shorter
    or longer than those of the whole split, so the time is scaled by the mean lengths.

    Args:
        reducer: the model.
        train: the training examples.
        dtype: arithmetic, as `compute.dtype`.
        threads: the number of threads to time it with.
        count: about how many documents to time.
    """
    part = train.take(torch.arange(min(train.count_of(count), len(train)))).to(reducer.encoder.device)
    parameters = list(reducer.encoder.plain.parameters())
    best, before = math.inf, torch.get_num_threads()
    torch.set_num_threads(threads)
    for _ in range(3):  # the first pass is slower, because it warms up
        started = time.perf_counter()
        with autocast(reducer.encoder.device, dtype):
            loss = reducer.task.loss(reducer.unreduced_outputs(part.tokens), part).mean()
        torch.autograd.grad(loss, parameters, allow_unused=True)
        best = min(best, time.perf_counter() - started)
    torch.set_num_threads(before)
    mean = float(train.tokens.lengths.double().mean()) * len(part.tokens) / float(part.tokens.lengths.sum())
    return best / len(part.tokens) * mean
