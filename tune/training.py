"""One model, trained and measured: select, joint, and its curve along the dial. No Ray."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from trbert.cost import CostModel
from trbert.encoder import Encoder
from trbert.evaluate import Evaluation, evaluate, evaluate_forward
from trbert.modeling import TrbertForSequenceClassification, assemble
from trbert.original import original_points
from trbert.policy import Policy
from trbert.reduction import Reduced, check_points
from trbert.selectors import PolicySelector
from tune.learner import autocast, pick_device
from tune.prepare import Prepared
from tune.settings import Settings
from tune.stages import Examples, GradientSource, Progress, Sampler, train_jointly, train_policy, warm_start

KEEP_ALL = 1000.0
"""The dial at which a trained model keeps every token: no logit comes near."""

SPEED_UPS = (12.0, 8.0, 5.0, 3.0, 2.0)
"""Near which a trained model is measured, beside dial 0 and all tokens kept."""

_SCOUT_DIALS = tuple(dial / 2 for dial in range(-8, 13))
"""Half a nat apart: a policy trained for minutes only is unsure, and goes from 2x to 8x within two nats."""
_SCOUT_DOCUMENTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One dial setting of a trained model."""

    dial: float
    validation: Evaluation


class Model:
    """A teacher's copy with a policy, in training.

    Args:
        prepared: what all trials share.
        settings: of this model.

    Raises:
        InputError: The reduction points do not fit the encoder.
    """

    def __init__(self, prepared: Prepared, settings: Settings) -> None:
        self.settings = settings
        self.encoder = Encoder(prepared.classifier(pick_device(settings.compute.device)))
        layers = len(self.encoder.layers)
        self.points = settings.select.points or original_points(layers)
        check_points(self.points, layers)
        torch.manual_seed(settings.seed)
        width = self.encoder.base.config.hidden_size
        policy = Policy(width, len(self.points), settings.policy_width, settings.policy_context)
        self.policy = policy.to(self.encoder.device)
        self.cost = CostModel.of(self.encoder, self.policy)
        terms = RewardTerms(
            penalty=settings.select.penalty,
            keep_ratios=settings.select.keep_ratios or (0.0,) * len(self.points),
            price=settings.select.price,
            latency=prepared.latency,
        )
        self.dynamics = Dynamics(self.encoder, self.points, terms, self.cost)

    def sampler(self, train: Examples) -> Sampler:
        """Returns what samples this model's trajectories in this process."""
        settings = self.settings
        return Sampler(self.dynamics, self.policy, train, settings.select, settings.compute.dtype, settings.seed)

    def select(self, train: Examples, source: GradientSource, progress: Progress) -> None:
        """Runs the select stage: a warm start where asked for, then policy gradient."""
        settings = self.settings
        warm_start(self.policy, self.dynamics, train, settings.select, settings.compute, settings.seed)
        train_policy(self.policy, source, len(train.tokens), settings.select, settings.seed, progress)

    def join(self, train: Examples, progress: Progress) -> None:
        """Runs the joint stage."""
        settings = self.settings
        train_jointly(
            self.dynamics,
            self.policy,
            train,
            settings.select,
            settings.joint,
            settings.compute,
            settings.seed,
            progress,
        )

    def evaluate(self, split: Examples, dial: float) -> Evaluation:
        """Returns how the reduced model does on a split at one dial."""
        selector, compute = PolicySelector(self.policy), self.settings.compute
        budget = compute.tokens_per_batch
        with autocast(self.encoder.device, compute.evaluation):
            return evaluate(self.encoder, self.cost, selector, split.tokens, split.labels, self.points, dial, budget)

    def evaluate_sampled(self, split: Examples) -> Evaluation:
        """Returns how the model does on a split where masks are drawn, as in training: the gap to `evaluate` at dial 0.

        One trajectory a document, keyed by the model's seed and the document's place in the split.
        """
        compute, seed = self.settings.compute, self.settings.seed
        budget = compute.tokens_per_batch

        def forward(documents: Tensor) -> Reduced:
            device = self.encoder.device
            # Version -1 is no training step's, so that no draw is used twice.
            draw = Draw(seed=seed, version=-1, documents=documents.to(device))
            dials = torch.zeros(1, len(documents), device=device)
            tokens = split.tokens.take(documents).to(device)
            state = sample_trajectories(self.dynamics, self.policy, tokens, draw, dials).state
            return Reduced(state.batch, state.kept)

        with autocast(self.encoder.device, compute.evaluation):
            return evaluate_forward(
                self.encoder, self.cost, forward, split.tokens, split.labels, self.points, "policy", budget
            )

    def deployable(self, dial: float = 0.0) -> TrbertForSequenceClassification:
        """Returns the Hugging Face model that is saved and served."""
        longest = min(self.settings.data.max_length, self.encoder.max_tokens)
        return assemble(self.encoder.model, self.policy, self.points, dial, longest)


def dial_curve(model: Model, validation: Examples, told: Callable[[float], None]) -> list[CurvePoint]:
    """Returns the model along its dial, on validation: test is measured once, at the end, and only for the front.

    Args:
        model: trained.
        validation: what points are chosen on.
        told: called with the fraction done.
    """
    dials = spread_dials(model, validation)
    points = []
    for index, dial in enumerate(dials):
        points.append(CurvePoint(dial=dial, validation=model.evaluate(validation, dial)))
        told((index + 1) / len(dials))
    return points


def spread_dials(model: Model, validation: Examples) -> list[float]:
    """Returns the dials to measure a model at, cheapest first: near each of `SPEED_UPS`, 0, and all tokens kept.

    How far a dial goes depends on how sure the policy has become, so that the dials are looked for, on a few
    documents, and between those tried on a straight line in log speed-up. A speed-up out of reach is left out.
    """
    some = validation.take(torch.arange(min(_SCOUT_DOCUMENTS, len(validation.labels))), torch.device("cpu"))
    slowing = np.log([1 / model.evaluate(some, dial).speed_up for dial in _SCOUT_DIALS])
    slowing = np.maximum.accumulate(slowing)
    wanted = [-math.log(speed_up) for speed_up in SPEED_UPS]
    reached = [each for each in wanted if slowing[0] <= each <= slowing[-1]]
    near = np.interp(reached, slowing, _SCOUT_DIALS).round(2).tolist()
    return sorted({*near, 0.0, KEEP_ALL})
