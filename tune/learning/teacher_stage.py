"""The first stage of learning: the unreduced model is fine-tuned, and becomes the teacher."""

import math
import time

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trbert.measure.evaluate import batches_by_length
from trbert.measure.halving import halved
from trbert.pretrained import output_layer
from trbert.selection.reduction import Reducer
from trbert.tasks import Task
from trbert.tasks.examples import Examples
from tune.budget import Clock
from tune.learning.steps import ALONE, Keeper, Learner, Progress, Team, autocast, check_finite, step_in_budget
from tune.settings import ComputeSettings, TeacherSettings

DECAY = 2.0
"""The price of a squared weight, for features of variance 1, in nats of an example's loss.

It keeps the weights small. A price of .03 gave a better head for the frozen encoder, and a worse teacher on sst2.
"""
MOST_ROWS = 50_000
"""The most rows of features. A head that reads tokens has a row for each token, and they must fit into memory."""
STEPS = 100
"""The most steps of L-BFGS."""

Features = Float[Tensor, "outputs dim"]
"""What the last linear map of a head reads: a row for each row of its outputs."""


def train_teacher(
    reducer: Reducer,
    train: Examples,
    settings: TeacherSettings,
    compute: ComputeSettings,
    seed: int,
    progress: Progress,
    keeper: Keeper | None = None,
    team: Team = ALONE,
    clock: Clock | None = None,
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
        clock: of the stage; the learning rate has fallen to 0 when its time is over. None has no limit. Processes that
            learn together have none, because their rates must be equal.
    """
    torch.manual_seed(seed + team.rank)
    model, device = reducer.encoder.plain, reducer.encoder.device
    if settings.probe_documents and (keeper is None or keeper.load() is None):
        fit_output_layer(reducer, train, settings.probe_documents, compute, seed, team)
    model.train()
    batch_size = train.count_of(settings.batch_size)
    steps = max(1, math.ceil(settings.epochs * len(train) / batch_size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01, fused=True)
    learner = Learner(optimizer, steps, warm_up=0.1, keeper=keeper, clock=clock)

    def loss(chosen: Tensor) -> Tensor:
        part = train.take(chosen).to(device)
        with autocast(device, compute.dtype):
            outputs = reducer.unreduced_outputs(part.tokens)
        return reducer.task.loss(outputs, part).sum()

    lengths = train.lengths
    try:
        for step, chosen in learner.batches(len(train), batch_size, seed):
            value = step_in_budget(optimizer, chosen, lengths, compute.tokens_of_pass, loss, team)
            progress({"step": float(step + 1), "steps": float(steps), "loss": value})
    finally:
        model.eval()  # also when the stage runs out of time


def fit_output_layer(
    reducer: Reducer, train: Examples, documents: int, compute: ComputeSettings, seed: int, team: Team = ALONE
) -> None:
    """Fits the last linear map of a new head to the targets, in place. No other weight changes.

    This is the linear probe of LP-FT (Kumar et al., ICLR 2022, arXiv 2202.10054). Fine-tuning from a random last map
    first moves the encoder's states in random directions. Nothing is done where the head has no last linear map that
    gives its outputs.

    Args:
        reducer: its plain model has a new head.
        train: the training examples.
        documents: about how many documents the map is fitted on. They are drawn with the seed.
        compute: how the machine is used.
        seed: the key of the draw.
        team: the processes that learn together. Each reads its share of the documents, and all find the same map.
    """
    layer = output_layer(reducer.encoder.plain)
    count = min(train.count_of(documents), len(train), max(1, MOST_ROWS * len(train) // train.num_outputs))
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: max(count, team.size)]
    if layer is None or len(chosen) < team.size:
        return
    own = train.take(team.share(chosen))
    order = list(batches_by_length(own.lengths, compute.tokens_of_pass))
    features = read_features(reducer, layer, own, order, compute.dtype)
    own = own.take(torch.cat(order)).to(reducer.encoder.device)
    if len(features) == own.num_outputs:
        fit(layer, features, own, reducer.task, team, reducer.task.unit(train))


@torch.no_grad()
def read_features(
    reducer: Reducer, layer: nn.Linear, examples: Examples, batches: list[Tensor], dtype: str
) -> Features:
    """Returns what a layer of the head reads in a pass in evaluation mode, in the order of the batches.

    Args:
        reducer: the model; no token is dropped.
        layer: the layer.
        examples: the examples.
        batches: the indices of the examples of each pass.
        dtype: arithmetic, as `compute.dtype`.
    """
    reducer.encoder.plain.eval()
    read: list[Tensor] = []

    def features_of(chosen: Tensor) -> Tensor:
        read.clear()  # of a pass that ran out of memory
        with autocast(reducer.encoder.device, dtype):
            reducer.unreduced_outputs(examples.take(chosen).to(reducer.encoder.device).tokens)
        return torch.cat([states.reshape(-1, layer.in_features) for states in read]).float()

    hook = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        return torch.cat([each for batch in batches for each in halved(features_of, batch)])
    finally:
        hook.remove()


def fit(
    layer: nn.Linear, features: Features, examples: Examples, task: Task, team: Team = ALONE, unit: float = 1.0
) -> None:
    """Gives a layer the weights with the least mean loss of the task plus DECAY / 2 · Σ (w · σ / u)², in place.

    σ is the standard deviation of the feature that the weight w is for, and u is the unit of the outputs. So the sizes
    of the features and of the numbers that are predicted do not matter to `DECAY`. L-BFGS finds the weights.

    Args:
        layer: the last linear map of a head. Its bias is where the search starts; its weights are not used.
        features: what it reads for the examples.
        examples: the examples, or this process's share of them.
        task: says the loss.
        team: the processes that have the other shares.
        unit: the size of the differences between outputs, as `Task.unit` says.

    Raises:
        Diverged: A feature is not finite. The layer is left as it was.
    """
    biases = [weight for name, weight in layer.named_parameters() if name == "bias"]
    wide = features.double()
    sums = team.sum(torch.cat([wide.sum(0), wide.square().sum(0), wide.new_tensor([len(wide), len(examples)])]))
    check_finite(float(sums.sum()), "what the last layer of a new head reads")
    rows, count = sums[-2:].tolist()
    mean, squares = (sums[:-2] / rows).view(2, -1)
    if not biases:  # then nothing could take the place of the mean
        mean = torch.zeros_like(mean)
    scale = (squares - mean.square()).clamp(min=0).sqrt()
    scale = scale.clamp(min=1e-3 * float(scale.max()) + 1e-12)  # what hardly varies is not blown up
    scaled = ((wide - mean) / scale).float()
    weight = nn.Parameter(torch.zeros_like(layer.weight))
    learned = [weight, *(nn.Parameter(bias.detach() / unit) for bias in biases)]
    optimizer = torch.optim.LBFGS(learned, max_iter=STEPS, line_search_fn="strong_wolfe")

    def objective() -> float:
        optimizer.zero_grad()
        loss = task.loss(unit * F.linear(scaled, *learned), examples).sum()
        loss.backward()
        total = team.add_up(learned, float(loss.detach()))
        for parameter in learned:
            if parameter.grad is not None:
                parameter.grad.div_(count)
        if weight.grad is not None:
            weight.grad.add_(weight.detach(), alpha=DECAY)
        return total / count + DECAY / 2 * float(weight.detach().square().sum())

    optimizer.step(objective)
    with torch.no_grad():
        found = unit * weight / scale
        layer.weight.copy_(found)
        for bias, fitted in zip(biases, learned[1:], strict=True):
            bias.copy_(unit * fitted - found @ mean)


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
