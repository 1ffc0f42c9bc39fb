"""One trial, as a Ray Tune function. It learns in its own process; its rollout actors are in its placement group."""

import copy
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from trbert.measure.evaluate import Evaluation
from trbert.tasks.examples import Examples
from tune.budget import Clock, StageTimeout
from tune.checkpoints import StageState, StateKeeper, newest_state, report_to_tune
from tune.learning.model import Model, measure_along_dial, save_deployable
from tune.learning.prepare import Prepared
from tune.learning.steps import Progress, fix_algorithms
from tune.processes.pool import RolloutPool
from tune.processes.teams import TeamPlan, join_together
from tune.results.front import UNNUMBERED, Point, highest, line_through
from tune.results.outcome import Outcome, write_outcome
from tune.settings import Settings, override
from tune.space import to_settings

SELECT_SHARE = 0.55
"""The share of a trial's time after which its select stage is stopped; the joint stage takes the rest."""
COMPARED = (2.0, 3.0, 5.0)
"""The speed-ups at which a model before its joint stage is compared with the one after it, beside all tokens kept."""

Along = Sequence[tuple[float, Evaluation]]
"""The dials of a model, each with its evaluation on validation."""


def run_trial(
    config: dict[str, Any],
    *,
    prepared: Prepared,
    settings: Settings,
    num_rollout_workers: int,
    gpus_per_worker: float,
    deadline_s: float | None,
    team: TeamPlan | None = None,
    measuring_s: float = 0.0,
    clock: Any = None,
) -> None:
    """Trains one model, measures it along its dial, and reports its figures to Ray, with the model as checkpoint.

    If the model is better on validation as it was before its joint stage, that one is reported. With few texts the
    joint stage can learn them by heart.

    A trial whose process died goes on with what its earlier processes left of its time.

    Args:
        config: the settings that the search chose for this trial.
        prepared: what all trials share.
        settings: the settings that all trials have in common.
        num_rollout_workers: the number of actors that sample; with 0 this process samples.
        gpus_per_worker: the GPUs of this process and of each actor.
        deadline_s: the seconds after which learning stops and measuring starts; None sets no limit.
        team: the processes that learn the joint stage; None learns it in this process.
        measuring_s: the seconds for measuring, which it has however long learning took.
        clock: the Ray actor with the `Clock` of the trials of a search; None sets no limit. If it has less left than
            this trial's time, the trial ends with it.
    """
    own = override(settings, to_settings(config))
    if own.compute.device == "auto":
        own = override(own, {"compute.device": "cuda" if gpus_per_worker else "cpu"})
    torch.set_num_threads(own.compute.threads or 1)
    fix_algorithms(own.compute)
    found = newest_state(tune.get_checkpoint(), prepared.fingerprint)
    whole = _whole(deadline_s, measuring_s, found, clock)
    learning = Clock(whole.seconds - measuring_s, used=whole.used())
    model = Model(prepared, own)
    train, validation = prepared.train, prepared.validation
    items: dict[str, float] = {}
    cut = []
    if found is None or found.stage == "select":
        selecting = Clock(SELECT_SHARE * learning.seconds, used=whole.used())
        in_time, items = _select(model, train, prepared, found, selecting, num_rollout_workers, gpus_per_worker)
        cut += [] if in_time else ["select"]
    selected = _selected(model, found)
    model.policy.load_state_dict(selected)
    if team is None:
        beside = {"selected": selected}
        keeper = StateKeeper("joint", found, report_to_tune, prepared.fingerprint, clock=whole, beside=beside)
        in_time = _timed(
            lambda progress: model.join(train, progress, keeper, clock=learning), _Teller("joint", learning)
        )
    else:
        left = learning.left() if deadline_s else None
        team = replace(team, run=f"{team.run}-{tune.get_context().get_trial_id()}")
        in_time = join_together(model, ray.put(prepared), team, left, [TuneReportCallback()]) is None
    cut += [] if in_time else ["joint"]
    joined = own.joint.documents > 0
    measuring = Clock(max(measuring_s, whole.left()))  # also if learning took too long: one point is no front
    along = _measured(model, validation, measuring, (0.0, 0.5 if joined else 1.0))
    undone = False
    if joined and measuring.left() > 0:
        before = Model(prepared, override(model.settings, {"joint.documents": 0}))
        before.policy.load_state_dict(selected)
        along_before = _measured(before, validation, measuring, (0.5, 0.5))
        if undone := better_without(along_before, along, model.selector.keep_all):
            model, along = before, along_before
    try:
        sampled = model.evaluate_sampled(validation, measuring)
    except StageTimeout:
        sampled = None
        cut.append("measuring")
    figures: dict[str, float | str] = {"seconds": whole.used(), "cut": ", ".join(cut), **items}
    _report(model, prepared, along, sampled, figures, undone=undone)


def _selected(model: Model, found: StageState | None) -> dict[str, Any]:
    """Returns the weights of the policy after the select stage, also if an earlier process began the joint stage."""
    if found is not None and found.stage == "joint":
        return dict(found.state["selected"])
    return copy.deepcopy(model.policy.state_dict())


def _measured(model: Model, validation: Examples, clock: Clock, part: tuple[float, float]) -> Along:
    """Returns a model's evaluations along its dial; `part` says where its progress begins, and how far it goes."""
    model.reducer.encoder.plain.eval()
    model.settle(validation)
    teller, (begun, size) = _Teller("measure"), part

    def told(share: float) -> None:
        teller({"step": begun + size * share, "steps": 1.0})

    return measure_along_dial(model, validation, told, clock)


def better_without(before: Along, after: Along, keep_all: float) -> bool:
    """Returns whether a model is better on validation as it was before its joint stage than as it is after it.

    Compared is the mean of its quality with all tokens kept and at those speed-ups of `COMPARED` that both reach, on
    straight lines between the measured dials. A model that was not measured with all tokens kept, for want of time, is
    not compared.

    Args:
        before: the model's dials before the joint stage, each with its evaluation.
        after: the same after that stage.
        keep_all: the dial that keeps all tokens.
    """
    whole = [dict(each).get(keep_all) for each in (before, after)]
    if None in whole:
        return False
    lines = [line_through((found.speed_up, found.quality) for _, found in each) for each in (before, after)]
    qualities = [[found.quality for found in whole if found is not None]]
    for speed_up in COMPARED:
        both = [found for line in lines if (found := highest((line,), speed_up)) is not None]
        qualities += [both] if len(both) == len(lines) else []
    return sum(each[0] for each in qualities) > sum(each[1] for each in qualities)


def _whole(deadline_s: float | None, measuring_s: float, found: StageState | None, clock: Any) -> Clock:
    """Returns the clock of a trial, from which the seconds of its earlier processes are taken off."""
    seconds = math.inf if deadline_s is None else deadline_s + measuring_s
    whole = Clock(seconds, used=0.0 if found is None else found.spent)
    if clock is None:
        return whole
    left = float(ray.get(clock.left.remote()))
    return Clock(min(seconds, whole.used() + left), used=whole.used())


def _select(
    model: Model,
    train: Examples,
    prepared: Prepared,
    found: StageState | None,
    clock: Clock,
    num_workers: int,
    gpus: float,
) -> tuple[bool, dict[str, float]]:
    """Runs the select stage, with a pool of actors if there are workers.

    It returns whether the stage ended in time, and the pool's figures.
    """
    keeper, pool = StateKeeper("select", found, report_to_tune, prepared.fingerprint, clock=clock), None
    if num_workers and (found is None or found.state["step"] < found.state["steps"]):
        pool = RolloutPool(ray.put(prepared), model.settings, num_workers, gpus=gpus, clock=clock)
    teller = _Teller("select", clock, pool)
    try:
        source = pool or model.sampler(train)
        in_time = _timed(lambda progress: model.select(train, source, progress, keeper, clock), teller)
    finally:
        if pool is not None:
            pool.close()
    keeper.finish()
    return in_time, teller.items()


class _Teller:
    """Reports a stage's progress, at most every 5 seconds; raises `StageTimeout` once its time is over.

    Args:
        stage: the name of the stage.
        clock: counts its time; None sets no limit.
        pool: the pool whose figures are reported too.
    """

    def __init__(self, stage: str, clock: Clock | None = None, pool: RolloutPool | None = None) -> None:
        self.stage, self.clock, self.pool, self.last = stage, clock or Clock(), pool, 0.0

    def __call__(self, step: dict[str, float]) -> None:
        now = time.monotonic()
        if now - self.last > 5:
            self.last = now
            share = step["step"] / step["steps"]
            tune.report({"stage": self.stage, "share": share, **_numbers(step), **self.items()})
        if step["step"] < step["steps"]:  # a stage that has taken its last step is not cut
            self.clock.check()

    def items(self) -> dict[str, float]:
        """Returns the figures of the pool by name; {} if there is no pool."""
        statistics = asdict(self.pool.statistics()) if self.pool else {}
        return {f"items_{name}": float(value) for name, value in statistics.items()}


def _numbers(step: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in step.items() if name in ("loss", "reward", "kept")}


def _timed(stage: Callable[[Progress], None], teller: _Teller) -> bool:
    """Runs a stage, and returns whether it ended in time."""
    try:
        stage(teller)
    except StageTimeout:
        tune.report({"stage": teller.stage, "share": 1.0, "cut_short": True})
        return False
    return True


def _report(
    model: Model,
    prepared: Prepared,
    along: Along,
    sampled: Evaluation | None,
    figures: Mapping[str, float | str],
    *,
    undone: bool,
) -> None:
    """Reports the model, its points and its figures to Ray. Optuna reads quality and cost at the default dial."""
    default = next(found for dial, found in along if dial == model.selector.default_dial)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_deployable(model, prepared.tokenizer, place / "model")
        points = tuple(_point(model, dial, found) for dial, found in along)
        outcome = Outcome(settings=model.settings, points=points, deployed=default, sampled=sampled, undone=undone)
        write_outcome(place, outcome)
        tune.report(
            {
                "stage": "done",
                "share": 1.0,
                "finished": True,
                "undone": undone,
                "quality": default.quality,
                "cost": 1.0 / default.speed_up,
                "curve": [[found.quality, 1.0 / found.speed_up] for _, found in along],
                **figures,
            },
            checkpoint=tune.Checkpoint.from_directory(folder),
        )


def _point(model: Model, dial: float, found: Evaluation) -> Point:
    """Returns a model at one dial as a row of its run's front; the trial's number is not known yet."""
    select = model.settings.select
    return Point(
        trial=UNNUMBERED,
        selector=model.selector.name,
        dial=dial,
        points=model.points,
        penalty=select.penalty,
        keep_ratios=tuple(select.keep_ratios or ()),
        quality_validation=found.quality,
        speed_up_validation=found.speed_up,
        kept=found.kept,
    )
