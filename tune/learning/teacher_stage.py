"""The first stage of learning: the teacher. No Ray."""

import math
import time

import torch
from torch import Tensor, nn

from trbert.encoder import Encoder
from trbert.tasks.examples import Examples
from tune.learning.steps import ALONE, Keeper, Learner, Progress, Team, autocast, step_in_budget
from tune.settings import ComputeSettings, TeacherSettings


def train_teacher(
    encoder: Encoder,
    train: Examples,
    settings: TeacherSettings,
    compute: ComputeSettings,
    seed: int,
    progress: Progress,
    keeper: Keeper | None = None,
    team: Team = ALONE,
) -> None:
    """Fine-tunes the unreduced model on gold labels, packed, with dropout.

    Args:
        encoder: learns in place.
        train: the documents.
        settings: of the stage.
        compute: how the machine is used.
        seed: keys the order of documents and, with the process's rank, dropout.
        progress: told each step's loss.
        keeper: takes the stage's state now and then.
        team: the processes that learn together.
    """
    torch.manual_seed(seed + team.rank)
    encoder.model.train()
    steps = max(1, math.ceil(settings.epochs * len(train.tokens) / settings.batch_size))
    optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=settings.learning_rate, weight_decay=0.01, fused=True)
    learner = Learner(optimizer, steps, warm_up=0.1, keeper=keeper)
    device = encoder.device

    def loss(documents: Tensor) -> Tensor:
        part = train.take(documents, device)
        with autocast(device, compute.dtype):
            logits = encoder.unreduced_logits(part.tokens)
        return nn.functional.cross_entropy(logits.float(), part.labels, reduction="sum")

    lengths = train.tokens.lengths
    for step, documents in learner.batches(len(train.tokens), settings.batch_size, seed):
        value = step_in_budget(optimizer, documents, lengths, compute.tokens_per_batch, loss, team)
        progress({"step": float(step + 1), "steps": float(steps), "loss": value})
    encoder.model.eval()


def training_seconds(encoder: Encoder, train: Examples, dtype: str, threads: int, documents: int = 16) -> float:
    """Returns the measured seconds of one unreduced training pass of one document, on so many threads."""
    part = train.take(torch.arange(min(documents, len(train.tokens))), encoder.device)
    parameters = list(encoder.model.parameters())
    best, before = math.inf, torch.get_num_threads()
    torch.set_num_threads(threads)
    for _ in range(3):  # the first warms up
        started = time.perf_counter()
        with autocast(encoder.device, dtype):
            loss = nn.functional.cross_entropy(encoder.unreduced_logits(part.tokens).float(), part.labels)
        torch.autograd.grad(loss, parameters, allow_unused=True)
        best = min(best, time.perf_counter() - started)
    torch.set_num_threads(before)
    mean = float(train.tokens.lengths.double().mean()) * len(part.tokens) / float(part.tokens.lengths.sum())
    return best / len(part.tokens) * mean
