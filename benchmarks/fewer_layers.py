"""Rivals that leave out layers instead of tokens, for benchmarks/quality.py: a smaller encoder, and early exit.

**A smaller encoder** is the teacher's first layers with its head. Of all choices of layers to leave out, the last ones
are hardly ever the worse (Sajjad et al., "On the effect of dropping layers of pre-trained transformer models", 2023).

**Early exit** has a head after each layer. A document leaves at the first one that is sure of it: the entropy of its
classes is below a threshold, which is the dial (DeeBERT, Xin et al., ACL 2020). The heads learn together, the later
ones with the greater weight (PABEE, Zhou et al., NeurIPS 2020).

Both learn like the joint stage of `tune.learning.joint_stage`: from as many documents, with its targets, its learning
rate and its batches.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.encoder import Encoder
from trbert.measure.cost import CostModel, speed_up
from trbert.measure.evaluate import batches_by_length
from trbert.packed.families import family_of
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.shapes import DocFloat
from trbert.tasks.examples import Examples, Outputs
from tune.learning.joint_stage import gold_share
from tune.learning.prepare import Prepared
from tune.learning.steps import Learner, autocast, pick_device, step_in_budget
from tune.settings import Settings

THRESHOLDS = 500
"""How many thresholds of the entropy are tried to meet a speed-up."""


class Shallow:
    """An encoder with a head after each of some of its layers. All of it learns.

    Args:
        prepared: what all models of a data set share; the encoder and the heads begin as the teacher's.
        settings: of the joint stage, and how the machine is used.
        depths: after how many layers the heads stand, rising. Later layers are never run.
    """

    def __init__(self, prepared: Prepared, settings: Settings, depths: tuple[int, ...]) -> None:
        self.prepared, self.settings, self.depths = prepared, settings, depths
        plain = prepared.plain(pick_device(settings.compute.device)).eval()
        self.encoder = Encoder(plain)
        self.heads = [Encoder(_with_own_head(plain)) for _ in depths]
        self.cost = CostModel.of(Reducer(encoder=self.encoder, task=prepared.task))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the layers that run, and of the heads."""
        modules = [self.encoder.base, *(head.plain for head in self.heads)]
        return list({id(each): each for module in modules for each in module.parameters()}.values())

    def outputs(self, tokens: Tokens) -> list[Outputs]:
        """Returns the outputs of each head."""
        batch, found, done = self.encoder.embed(tokens), [], 0
        for depth, head in zip(self.depths, self.heads, strict=True):
            batch, done = self.encoder.run_layers(batch, done, depth), depth
            found.append(head.read_documents(batch))
        return found

    def flops(self, examples: Examples) -> Float[Tensor, "depths docs"]:
        """Returns what it costs to leave at each head. Each head on the way there is paid for."""
        lengths, layers = examples.tokens.lengths, len(self.encoder.layers)
        whole = self.cost.unreduced(lengths)
        return torch.stack(
            [
                whole - self.cost.layers(depth, layers, lengths.double()) + before * self.cost.head_per_document
                for before, depth in enumerate(self.depths)
            ]
        )

    def learn(self, told: Callable[[dict[str, float]], None]) -> None:
        """Trains encoder and heads on the mean loss of the heads, each weighted by its depth.

        Args:
            told: is called with the loss of each step.
        """
        joint, compute = self.settings.joint, self.settings.compute
        train, task = self.prepared.train, self.prepared.task
        gold = gold_share(joint.distillation, joint.documents / len(train), train.labelled is not None)
        weights = torch.tensor(self.depths, dtype=torch.float32) / sum(self.depths)
        device = self.encoder.device

        def loss(chosen: Tensor) -> Tensor:
            part = train.take(chosen).to(device)
            with autocast(device, compute.dtype):
                found = self.outputs(part.tokens)
            own = [task.learning_loss(each, part, gold, joint.temperature).mean() for each in found]
            return len(chosen) * (weights.to(device) * torch.stack(own)).sum()

        optimizer = torch.optim.AdamW(self.parameters, lr=joint.learning_rate, weight_decay=0.01, fused=True)
        learner = Learner(optimizer, math.ceil(joint.documents / joint.batch_size), warm_up=0.1)
        for step, chosen in learner.batches(len(train), joint.batch_size, self.settings.seed + 1):
            value = step_in_budget(optimizer, chosen, train.lengths, compute.tokens_of_pass, loss)
            told({"step": float(step + 1), "steps": float(learner.steps), "loss": value})

    @torch.no_grad()
    def predict(self, examples: Examples) -> Float[Tensor, "depths docs classes"]:
        """Returns the outputs of all heads for a split."""
        compute, parts, order = self.settings.compute, [], []
        with autocast(self.encoder.device, compute.evaluation):
            for chosen in batches_by_length(examples.lengths, compute.tokens_of_pass):
                part = examples.take(chosen).to(self.encoder.device)
                parts.append(torch.stack(self.outputs(part.tokens)).float().cpu())
                order.append(chosen)
        return torch.cat(parts, 1)[:, torch.cat(order).argsort()]

    def exits(
        self, predicted: Float[Tensor, "depths docs classes"], examples: Examples, threshold: float
    ) -> tuple[Outputs, DocFloat]:
        """Returns the outputs with which the documents of a split leave at a threshold, and what each of them cost.

        Args:
            predicted: the outputs of all heads for the split.
            examples: the split.
            threshold: the entropy, in nats. At one below 0 every document leaves after the last layer.
        """
        sure = entropies(predicted) < threshold
        sure[-1] = True
        first, docs = sure.int().argmax(0), torch.arange(len(examples))
        return predicted[first, docs], self.flops(examples)[first, docs]

    def threshold(self, predicted: Float[Tensor, "depths docs classes"], examples: Examples, target: float) -> float:
        """Returns the least threshold with which a split is as much faster as the target; inf where none is."""
        whole = self.cost.unreduced(examples.tokens.lengths)
        tried = torch.quantile(entropies(predicted).flatten().double(), torch.linspace(0, 1, THRESHOLDS).double())
        for each in tried.tolist():
            if speed_up(whole, self.exits(predicted, examples, each)[1]) >= target:
                return float(each)
        return math.inf


def depth_of(cost: CostModel, examples: Examples, target: float) -> int:
    """Returns the most layers with which a model is as much faster as the target, to within 3 %: heads are not halved.

    Args:
        cost: of the whole model.
        examples: a split; its labels have no part in this.
        target: the speed-up in FLOPs. 0 layers are returned if one layer is too slow.
    """
    lengths, layers = examples.tokens.lengths, len(cost.layer_per_token)
    whole = cost.unreduced(lengths)

    def gain(depth: int) -> float:
        return speed_up(whole, whole - cost.layers(depth, layers, lengths.double()))

    return max((depth for depth in range(1, layers) if gain(depth) >= 0.97 * target), default=0)


def entropies(outputs: Float[Tensor, "*shape classes"]) -> Float[Tensor, "*shape"]:
    """Returns the entropy of the classes, in nats.

    Example:
        >>> [round(each, 4) for each in entropies(torch.tensor([[0.0, 0.0], [100.0, 0.0]])).tolist()]
        [0.6931, 0.0]
    """
    return torch.special.entr(outputs.double().softmax(-1)).sum(-1)


def _with_own_head(plain: Any) -> Any:
    """Returns a model with the same embeddings and layers, and a copy of what stands on them: pooler and head."""
    family, prefix = family_of(plain.config), plain.base_model_prefix
    base, model = copy.copy(plain.base_model), copy.copy(plain)
    base._modules = dict(base._modules)
    if family.pooler is not None and base._modules.get(family.pooler) is not None:
        base._modules[family.pooler] = copy.deepcopy(base._modules[family.pooler])
    model._modules = {
        name: base if name == prefix else copy.deepcopy(module) for name, module in plain._modules.items()
    }
    return model
