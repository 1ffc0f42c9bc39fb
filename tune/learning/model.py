"""One model in training: select, joint, and its curve along the dial. No Ray."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from trbert.dial import DialCurve
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.measure.evaluate import Evaluation, evaluate, evaluate_forward
from trbert.modeling import TrbertModel, assemble
from trbert.original import original_points
from trbert.selection.fusion import Fusion
from trbert.selection.policy import Policy
from trbert.selection.reduction import ReducedPass, Reducer, check_points
from trbert.selection.selectors import points_for, selector_class, selector_of
from trbert.tasks.examples import Examples
from tune.learning.joint_stage import Joint, train_jointly
from tune.learning.prepare import Prepared
from tune.learning.select_stage import GradientSource, Sampler, train_policy, warm_start
from tune.learning.steps import ALONE, Keeper, Progress, Team, autocast, pick_device
from tune.settings import Settings, override

SPEED_UPS = (12.0, 8.0, 5.0, 3.0, 2.0)
"""Near which a trained model is measured, beside its default dial and all tokens kept."""

_SCOUTED = 32


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
        plain = prepared.plain(device)
        layers = plain.config.num_hidden_layers
        points = settings.select.points or original_points(layers)
        check_points(points, layers)
        torch.manual_seed(settings.seed)
        kind, width = selector_class(settings.selector), plain.config.hidden_size
        policy = Policy(width, len(points) if kind.learns else 0, settings.policy_width, settings.policy_features)
        self.policy = policy.to(device)
        self.selector = selector_of(settings.selector, self.policy)
        points = points_for(self.selector, points)
        # Without a joint stage its maps would stay at zero.
        fused = len(points) if settings.fusion and settings.joint.documents else 0
        fusion = Fusion(width, fused).to(device)
        self.reducer = Reducer(encoder=Encoder(plain), task=prepared.task, points=points, fusion=fusion)
        self.cost = CostModel.of(self.reducer, self.policy)
        # A rule is paid nothing, and may stand at fewer points than there are ratios.
        ratios = settings.select.keep_ratios if kind.learns else None
        terms = RewardTerms(
            penalty=penalty,
            keep_ratios=ratios or (0.0,) * len(points),
            price=settings.select.price,
            latency=prepared.latency,
        )
        self.dynamics = Dynamics(self.reducer, terms, self.cost)

    @property
    def points(self) -> tuple[int, ...]:
        """The reduction points."""
        return self.reducer.points

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the joint stage learns, in its optimiser's order."""
        modules = (self.reducer.encoder.plain, self.policy, self.reducer.fusion)
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
        return self.settings.select.temperature if self.selector.relaxed else None

    def select(self, train: Examples, source: GradientSource, progress: Progress, keeper: Keeper | None = None) -> None:
        """Runs the select stage: a warm start where asked for, then policy gradient; a rule has nothing to learn."""
        settings = self.settings
        if not self.selector.learns:
            return
        if keeper is None or keeper.load() is None:
            warm_start(self.policy, self.dynamics, train, settings.select, settings.compute, settings.seed)
        train_policy(self.policy, source, len(train), settings.select, settings.seed, progress, keeper)

    def join(self, train: Examples, progress: Progress, keeper: Keeper | None = None, team: Team = ALONE) -> None:
        """Runs the joint stage."""
        settings = self.settings
        joint = Joint(
            self.dynamics, self.selector, settings.select, settings.joint, settings.compute.dtype, self._temperature
        )
        train_jointly(joint, train, settings.compute, settings.seed, progress, keeper, team)

    def evaluate(self, split: Examples, dial: float) -> Evaluation:
        """Returns how the reduced model does on a split at one dial."""
        compute = self.settings.compute
        with autocast(self.reducer.encoder.device, compute.evaluation):
            return evaluate(self.reducer, self.cost, self.selector, split, dial, compute.tokens_per_batch)

    def evaluate_sampled(self, split: Examples) -> Evaluation:
        """Returns how the model does on a split where masks are drawn, as in training: the gap to `evaluate` at dial 0.

        One trajectory a document, keyed by the model's seed and the document's place in the split. A rule draws none,
        and has no gap.
        """
        if not self.selector.learns:
            return self.evaluate(split, self.selector.default_dial)
        compute, device = self.settings.compute, self.reducer.encoder.device

        def forward(chosen: Tensor, part: Examples) -> ReducedPass:
            # Version -1 is no training step's, so that no draw is used twice.
            draw = Draw(seed=self.settings.seed, version=-1, documents=split.documents(chosen).to(device))
            dials = torch.zeros(1, len(part.tokens), device=device)
            return sample_trajectories(self.dynamics, self.policy, part.tokens, draw, dials).state

        with autocast(device, compute.evaluation):
            return evaluate_forward(self.reducer, self.cost, self.selector, split, forward, compute.tokens_per_batch)

    def deployable(self, dial: float | None = None) -> TrbertModel:
        """Returns the Hugging Face model that is saved and served."""
        longest = min(self.settings.data.max_length, self.reducer.encoder.max_tokens)
        return assemble(self.reducer, self.selector, self.selector.default_dial if dial is None else dial, longest)


def measure_along_dial(
    model: Model, validation: Examples, told: Callable[[float], None]
) -> list[tuple[float, Evaluation]]:
    """Returns the model's dials, cheapest first, and how it does at each of them.

    On validation: test is measured once, at the end, and only for the front.

    Args:
        model: trained.
        validation: what points are chosen on.
        told: called with the fraction done.
    """
    dials = spread_dials(model, validation)
    found = []
    for index, dial in enumerate(dials):
        found.append((dial, model.evaluate(validation, dial)))
        told((index + 1) / len(dials))
    return found


def spread_dials(model: Model, validation: Examples) -> list[float]:
    """Returns the dials to measure a model at, cheapest first: near `SPEED_UPS`, its default, and all tokens kept.

    How far a dial goes depends on how sure the policy has become, so that the dials are looked for, on a few
    documents. A speed-up out of reach is left out.
    """
    curve = scout(model, validation)
    reached = np.array([-np.log(speed_up) for speed_up in SPEED_UPS if curve.reaches(speed_up)])
    near = curve.dial_at(reached).round(3).tolist()
    return sorted({*near, model.selector.default_dial, model.selector.keep_all})


def scout(model: Model, validation: Examples) -> DialCurve:
    """Returns what each of the selector's dials costs, on a few examples from all over a split."""
    few = validation.spread(_SCOUTED)
    return DialCurve.measured(lambda dial: model.evaluate(few, dial).speed_up, model.selector.dials)
