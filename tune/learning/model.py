"""One model, trained and measured: select, joint, and its curve along the dial. No Ray."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from trbert.dial import log_costs, some_of
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.measure.evaluate import Evaluation, evaluate, evaluate_forward
from trbert.modeling import TrbertForSequenceClassification, assemble
from trbert.original import original_points
from trbert.selection.fusion import Fusion
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reduced, check_points
from trbert.selection.selectors import LEARNED, points_for, selector_of
from trbert.tasks.examples import Examples
from tune.learning.joint_stage import Joint, train_jointly
from tune.learning.prepare import Prepared
from tune.learning.select_stage import GradientSource, Sampler, train_policy, warm_start
from tune.learning.steps import ALONE, Keeper, Progress, Team, autocast, pick_device
from tune.settings import Settings, override

SPEED_UPS = (12.0, 8.0, 5.0, 3.0, 2.0)
"""Near which a trained model is measured, beside its default dial and all tokens kept."""

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
        settings: of this model; where no penalty is set the model's own settings say the task's.

    Raises:
        InputError: The reduction points do not fit the encoder.
    """

    def __init__(self, prepared: Prepared, settings: Settings) -> None:
        penalty = prepared.penalty if settings.select.penalty is None else settings.select.penalty
        self.settings = settings = override(settings, {"select.penalty": penalty})
        device = pick_device(settings.compute.device)
        classifier = prepared.classifier(device)
        layers = classifier.config.num_hidden_layers
        points = settings.select.points or original_points(layers)
        check_points(points, layers)
        torch.manual_seed(settings.seed)
        width = classifier.config.hidden_size
        heads = len(points) if settings.selector in LEARNED else 0
        features = (*settings.policy_features, *(("dial",) if settings.select.dial_range else ()))
        policy = Policy(width, heads, settings.policy_width, features)
        self.policy = policy.to(device)
        self.selector = selector_of(settings.selector, self.policy)
        self.points = points_for(self.selector, points)
        # Without a joint stage its maps would stay at zero.
        fused = len(self.points) if settings.fusion and settings.joint.documents else 0
        self.encoder = Encoder(classifier, fusion=Fusion(width, fused).to(device))
        self.cost = CostModel.of(self.encoder, self.policy)
        # A rule is paid nothing, and may stand at fewer points than there are ratios.
        ratios = settings.select.keep_ratios if settings.selector in LEARNED else None
        terms = RewardTerms(
            penalty=penalty,
            keep_ratios=ratios or (0.0,) * len(self.points),
            price=settings.select.price,
            latency=prepared.latency,
        )
        self.dynamics = Dynamics(self.encoder, self.points, terms, self.cost)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the joint stage learns, in its optimiser's order."""
        modules = (self.encoder.model, self.policy, self.encoder.fusion)
        return [parameter for module in modules for parameter in module.parameters()]

    def sampler(self, train: Examples) -> Sampler:
        """Returns what samples this model's trajectories in this process."""
        settings = self.settings
        return Sampler(
            self.dynamics,
            self.policy,
            train,
            settings.select,
            settings.compute,
            settings.seed,
            self._temperature,
        )

    @property
    def _temperature(self) -> float | None:
        return self.settings.select.temperature if self.settings.selector == "gumbel" else None

    def select(self, train: Examples, source: GradientSource, progress: Progress, keeper: Keeper | None = None) -> None:
        """Runs the select stage: a warm start where asked for, then policy gradient; a rule has nothing to learn."""
        settings = self.settings
        if settings.selector not in LEARNED:
            return
        if keeper is None or keeper.load() is None:
            warm_start(self.policy, self.dynamics, train, settings.select, settings.compute, settings.seed)
        train_policy(self.policy, source, len(train.tokens), settings.select, settings.seed, progress, keeper)

    def join(self, train: Examples, progress: Progress, keeper: Keeper | None = None, team: Team = ALONE) -> None:
        """Runs the joint stage."""
        settings = self.settings
        joint = Joint(
            self.dynamics, self.selector, settings.select, settings.joint, settings.compute.dtype, self._temperature
        )
        train_jointly(joint, train, settings.compute, settings.seed, progress, keeper, team)

    def evaluate(self, split: Examples, dial: float) -> Evaluation:
        """Returns how the reduced model does on a split at one dial."""
        compute, budget = self.settings.compute, self.settings.compute.tokens_per_batch
        with autocast(self.encoder.device, compute.evaluation):
            return evaluate(
                self.encoder, self.cost, self.selector, split.tokens, split.labels, self.points, dial, budget
            )

    def evaluate_sampled(self, split: Examples) -> Evaluation:
        """Returns how the model does on a split where masks are drawn, as in training: the gap to `evaluate` at dial 0.

        One trajectory a document, keyed by the model's seed and the document's place in the split. A rule draws none,
        and has no gap.
        """
        if self.settings.selector not in LEARNED:
            return self.evaluate(split, self.selector.default_dial)
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
                self.encoder, self.cost, forward, split.tokens, split.labels, self.points, self.selector.name, budget
            )

    def deployable(self, dial: float | None = None) -> TrbertForSequenceClassification:
        """Returns the Hugging Face model that is saved and served."""
        longest = min(self.settings.data.max_length, self.encoder.max_tokens)
        dial = self.selector.default_dial if dial is None else dial
        name, fusion = self.selector.name, self.encoder.fusion
        return assemble(self.encoder.model, self.policy, self.points, dial, longest, name, fusion)


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
    """Returns the dials to measure a model at, cheapest first: near `SPEED_UPS`, its default, and all tokens kept.

    How far a dial goes depends on how sure the policy has become, so that the dials are looked for, on a few
    documents, and between those tried on a straight line in log speed-up. A speed-up out of reach is left out.
    """
    costs = scout(model, validation)
    wanted = [-math.log(speed_up) for speed_up in SPEED_UPS]
    reached = [each for each in wanted if costs[0] <= each <= costs[-1]]
    near = np.interp(reached, costs, model.selector.dials).round(3).tolist()
    return sorted({*near, model.selector.default_dial, model.selector.keep_all})


def scout(model: Model, validation: Examples) -> NDArray[np.float64]:
    """Returns log(1 / speed-up), rising, at each of the selector's dials, on a few documents from all over a split."""
    few = some_of(validation, _SCOUT_DOCUMENTS)
    return log_costs(lambda dial: model.evaluate(few, dial).speed_up, model.selector.dials)
