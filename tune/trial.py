"""One trial, as a Ray Tune function. It learns in its own process; its rollout actors are in its placement group."""

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
from tune.pool import RolloutPool
from tune.results.front import UNNUMBERED, Point
from tune.results.outcome import Outcome, write_outcome
from tune.settings import Settings, override
from tune.space import to_settings
from tune.teams import TeamPlan, join_together

SELECT_SHARE = 0.55
"""The share of a trial's time after which its select stage is stopped; the joint stage takes the rest."""


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

    A trial whose process died goes on with what its earlier processes left of its time.

    Args:
        config: the settings that the search chose for this trial.
        prepared: what all trials share.
        settings: the settings that all trials have in common.
        num_rollout_workers: the number of actors that sample; with 0 this process samples.
        gpus_per_worker: the GPUs of this process and of each actor.
        deadline_s: the seconds after which learning stops and measuring starts; None sets no limit.
        team: the processes that learn the joint stage; None learns it in this process.
        measuring_s: the seconds for measuring, after `deadline_s`.
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
    if team is None:
        keeper = StateKeeper("joint", found, report_to_tune, prepared.fingerprint, clock=whole)
        in_time = _timed(lambda progress: model.join(train, progress, keeper), _Teller("joint", learning))
    else:
        left = learning.left() if deadline_s else None
        team = replace(team, run=f"{team.run}-{tune.get_context().get_trial_id()}")
        in_time = join_together(model, ray.put(prepared), team, left, [TuneReportCallback()]) is None
    cut += [] if in_time else ["joint"]
    model.reducer.encoder.plain.eval()
    model.settle(validation)
    teller = _Teller("measure")
    along = measure_along_dial(model, validation, lambda share: teller({"step": share, "steps": 1.0}), whole)
    try:
        sampled = model.evaluate_sampled(validation, whole)
    except StageTimeout:
        sampled = None
        cut.append("measuring")
    _report(model, prepared, along, sampled, {"seconds": whole.used(), "cut": ", ".join(cut), **items})


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
    along: Sequence[tuple[float, Evaluation]],
    sampled: Evaluation | None,
    figures: Mapping[str, float | str],
) -> None:
    """Reports the model, its points and its figures to Ray. Optuna reads quality and cost at the default dial."""
    default = next(found for dial, found in along if dial == model.selector.default_dial)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_deployable(model, prepared.tokenizer, place / "model")
        points = tuple(_point(model, dial, found) for dial, found in along)
        outcome = Outcome(settings=model.settings, points=points, deployed=default, sampled=sampled)
        write_outcome(place, outcome)
        tune.report(
            {
                "stage": "done",
                "share": 1.0,
                "finished": True,
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
