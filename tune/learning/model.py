"""One model in training: its select stage, its joint stage, and its measurement along the dial."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from envs.dynamics import Dynamics, RewardTerms
from envs.rollout import Draw, sample_trajectories
from trbert.dial import DialCurve
from trbert.disk.checksums import write_checksums
from trbert.encoder import Encoder
from trbert.measure.cost import CostModel
from trbert.measure.evaluate import Evaluation, evaluate_forward, unreduced_outputs
from trbert.modeling import TrbertModel, assemble
from trbert.original import original_points
from trbert.pretrained import shift_outputs
from trbert.selection.exits import Exits
from trbert.selection.fusion import Fusion
from trbert.selection.outputs import Reduced
from trbert.selection.policy import Policy, features_for
from trbert.selection.reduction import Reducer, check_points
from trbert.selection.selectors import points_for, selector_class, selector_of
from trbert.tasks.examples import Examples
from tune.budget import Clock, StageTimeout
from tune.learning.exit_maps import exits_at
from tune.learning.joint_stage import Joint, gold_share, train_jointly
from tune.learning.measuring import evaluate_in_time, watched
from tune.learning.prepare import Prepared
from tune.learning.select_stage import GradientSource, Sampler, frozen_runner, train_policy, warm_start
from tune.learning.steps import ALONE, Keeper, Progress, Team, autocast, pick_device
from tune.settings import Settings, override

SPEED_UPS = (12.0, 8.0, 5.0, 3.0, 2.0)
"""Speed-ups near which a trained model is measured; it is also measured at its default dial and with all tokens."""

TOGETHER = 8
"""The neighbouring tokens that share a decision in training, for the places of answers: on squad_v1 the policy earned
after 27 steps what it earned after 64 with one."""

_SCOUTED = 32
"""The number of documents on which the dials for these speed-ups are looked for."""


class Model:
    """A copy of the teacher with a policy, in training.

    Args:
        prepared: what all trials share.
        settings: of this model. If they set no penalty, `prepared.penalty` is used; if they do not say how many tokens
            share a decision, it is `TOGETHER` for the places of answers. `Model.settings` says so.

    Raises:
        InputError: The reduction points do not fit the encoder.
    """

    def __init__(self, prepared: Prepared, settings: Settings) -> None:
        penalty = prepared.penalty if settings.select.penalty is None else settings.select.penalty
        together = settings.select.tokens_per_decision or (TOGETHER if prepared.asks else 1)
        found = {"select.penalty": penalty, "select.tokens_per_decision": together}
        self.settings = settings = override(settings, found)
        self._evaluation = prepared.watched(settings.compute)
        self.fingerprint = prepared.fingerprint
        device = pick_device(settings.compute.device)
        plain = prepared.plain(device)
        layers = plain.config.num_hidden_layers
        points = settings.select.points or original_points(layers)
        check_points(points, layers)
        torch.manual_seed(settings.seed)
        kind, width = selector_class(settings.selector), plain.config.hidden_size
        features = features_for(settings.policy_features, prepared.separator is not None)
        policy = Policy(width, len(points) if kind.learns else 0, settings.policy_width, features)
        self.policy = policy.to(device)
        self.selector = selector_of(settings.selector, self.policy)
        points = points_for(self.selector, points)
        # Fusion learns in the joint stage only. Without that stage its maps would stay at zero.
        fused = len(points) if settings.fusion and settings.joint.documents else 0
        fusion = Fusion(width, fused).to(device)
        exits = Exits(width, 0)
        if settings.exits and prepared.exits is not None:
            exits = exits_at(points, prepared.exits).to(device)
        self.reducer = Reducer(
            encoder=Encoder(plain),
            task=prepared.task,
            points=points,
            fusion=fusion,
            exits=exits,
            separator=prepared.separator,
        )
        self.cost = CostModel.of(self.reducer, self.policy)
        # A rule learns from no reward. It may also have fewer points than there are ratios.
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
        """The parameters that the joint stage trains, in the order of its optimiser."""
        modules = (self.reducer.encoder.plain, self.policy, self.reducer.fusion, self.reducer.exits)
        return [parameter for module in modules for parameter in module.parameters()]

    def sampler(self, train: Examples) -> Sampler:
        """Returns a sampler of this model's trajectories that works in this process.

        It has the weights of the model, and a runner of its own.
        """
        settings, encoder = self.settings, self.reducer.encoder
        frozen = replace(self.reducer, encoder=Encoder(encoder.plain, frozen_runner(encoder.device)))
        return Sampler(
            replace(self.dynamics, reducer=frozen),
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

    def select(
        self,
        train: Examples,
        source: GradientSource,
        progress: Progress,
        keeper: Keeper | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Runs the select stage: the warm start, then the policy gradient. A rule learns nothing, and returns at once.

        Args:
            train: the training examples, for the warm start.
            source: computes the policy gradients.
            progress: is called with the means of each step.
            keeper: saves the stage's state from time to time; None saves nothing.
            clock: of the stage. It stops the warm start; `progress` stops the rest.

        Raises:
            StageTimeout: The time of the stage is over.
        """
        settings = self.settings
        if not self.selector.learns:
            return
        if keeper is None or keeper.load() is None:
            warm_start(self.policy, self.dynamics, train, settings.select, settings.compute, settings.seed, clock)
        train_policy(self.policy, source, train, settings.select, settings.seed, progress, keeper, clock)

    def join(
        self,
        train: Examples,
        progress: Progress,
        keeper: Keeper | None = None,
        team: Team = ALONE,
        clock: Clock | None = None,
    ) -> None:
        """Runs the joint stage; the arguments are those of `train_jointly`."""
        settings = self.settings
        passes = settings.joint.documents / len(train.tokens)
        joint = Joint(
            self.dynamics,
            self.selector,
            settings.select,
            settings.joint,
            settings.compute.dtype,
            self._temperature,
            gold_share(settings.joint.distillation, passes, train.labelled is not None),
        )
        train_jointly(joint, train, settings.compute, settings.seed, progress, keeper, team, clock)

    def settle(self, validation: Examples) -> None:
        """Sets the threshold of the head, if the task has one, to the best on validation with all tokens kept."""
        if self.reducer.task.has_threshold:
            with autocast(self.reducer.encoder.device, self._evaluation.evaluation):
                outputs = unreduced_outputs(self.reducer, validation, self._evaluation.tokens_of_pass)
            shift_outputs(self.reducer.encoder.plain, self.reducer.task.threshold(outputs, validation))

    def evaluate(self, split: Examples, dial: float, clock: Clock | None = None) -> Evaluation:
        """Returns the quality and the cost of the reduced model on a split at one dial.

        Raises:
            StageTimeout: The clock's time was over before that.
        """
        compute, clock = self._evaluation, clock or Clock()
        with autocast(self.reducer.encoder.device, compute.evaluation):
            return evaluate_in_time(self.reducer, self.cost, self.selector, split, dial, compute.tokens_of_pass, clock)

    def evaluate_sampled(self, split: Examples, clock: Clock | None = None) -> Evaluation:
        """Returns the quality and the cost of the model on a split with masks that are drawn, as in training.

        Compared with `evaluate` at dial 0, this shows what thresholding changes. Each document has one trajectory,
        keyed by the model's seed and the document's place in the split. A rule draws no masks: it is evaluated at its
        default dial.

        Raises:
            StageTimeout: The clock's time was over before that.
        """
        clock = clock or Clock()
        if not self.selector.learns:
            return self.evaluate(split, self.selector.default_dial, clock)
        compute, device = self._evaluation, self.reducer.encoder.device

        def forward(chosen: Tensor, part: Examples) -> Reduced:
            # No training step has version -1, so that no draw is used twice.
            draw = Draw(seed=self.settings.seed, version=-1, documents=split.documents(chosen).to(device))
            dials = torch.zeros(1, len(part.tokens), device=device)
            together = self.settings.select.tokens_per_decision
            finished = sample_trajectories(
                self.dynamics, self.policy, part.tokens, draw, dials, tokens_per_decision=together
            ).state
            return Reduced(self.reducer.outputs(finished), finished.kept)

        with autocast(device, compute.evaluation):
            in_time = watched(forward, clock)
            return evaluate_forward(self.reducer, self.cost, self.selector, split, in_time, compute.tokens_of_pass)

    def deployable(self, dial: float | None = None) -> TrbertModel:
        """Returns the Hugging Face model to save and to serve, at this dial; None is the selector's default dial."""
        longest = min(self.settings.data.max_length, self.reducer.encoder.max_tokens)
        return assemble(self.reducer, self.selector, self.selector.default_dial if dial is None else dial, longest)


def save_deployable(model: Model, tokenizer: Any, folder: Path) -> None:
    """Saves a trained model at its default dial, with a tokenizer that cuts texts as they were cut in training."""
    deployable = model.deployable()
    deployable.save_pretrained(folder)
    save_tokenizer(tokenizer, deployable.config.max_tokens, folder)
    write_checksums(folder)


def save_tokenizer(tokenizer: Any, longest: int, folder: Path) -> None:
    """Saves a tokenizer whose own truncation cuts texts at so many tokens, or at the encoder's length if that is less.

    The figures of a model are for texts that were cut there.
    """
    saved = copy.deepcopy(tokenizer)
    saved.model_max_length = min(saved.model_max_length, longest)
    saved.save_pretrained(folder)


def measure_along_dial(
    model: Model, validation: Examples, told: Callable[[float], None], clock: Clock | None = None
) -> list[tuple[float, Evaluation]]:
    """Returns the dials of a model, cheapest first, each with its evaluation on validation.

    Test is not used here. It is measured once, at the end of a search, and only for the front.

    Args:
        model: the trained model.
        validation: the validation split, on which points are chosen.
        told: is called after each dial with the fraction of dials that are done.
        clock: leaves out the dials for which there is no time, except the default one; None leaves out none.
    """
    default = model.selector.default_dial
    found = {default: model.evaluate(validation, default)}
    try:
        dials = spread_dials(model, validation, clock)
        told(1 / len(dials))
        for dial in dials:
            if dial not in found:
                found[dial] = model.evaluate(validation, dial, clock)
                told(len(found) / len(dials))
    except StageTimeout:
        pass  # the model has the points that were measured
    return sorted(found.items())


def spread_dials(model: Model, validation: Examples, clock: Clock | None = None) -> list[float]:
    """Returns the dials to measure a model at, cheapest first: near `SPEED_UPS`, its default, and all tokens kept.

    The speed-up of a dial depends on how confident the policy has become. So the dials are looked for on a few
    documents. A speed-up that no dial reaches is left out.
    """
    curve = scout(model, validation, clock)
    reached = np.array([-np.log(speed_up) for speed_up in SPEED_UPS if curve.reaches(speed_up)])
    near = curve.dial_at(reached).round(3).tolist()
    return sorted({*near, model.selector.default_dial, model.selector.keep_all})


def scout(model: Model, validation: Examples, clock: Clock | None = None) -> DialCurve:
    """Returns what each of the selector's dials costs, on a few examples spread over the split."""
    few = validation.spread(_SCOUTED)
    return DialCurve.measured(lambda dial: model.evaluate(few, dial, clock).speed_up, model.selector.dials)
