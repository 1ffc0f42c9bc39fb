"""One trial: a Tune function. The learner in its process, its rollout workers in its placement group."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from trbert.measure.evaluate import Evaluation
from trbert.tasks.examples import Examples
from tune.checkpoints import StageState, StateKeeper, newest_state, report_to_tune
from tune.learning.model import CurvePoint, Model, dial_curve
from tune.learning.prepare import Prepared
from tune.learning.steps import Progress, StageTimeout
from tune.pool import RolloutPool
from tune.settings import from_json, override, to_json
from tune.space import to_settings
from tune.teams import TeamPlan, join_together

RESULT = "trial.json"


def run_trial(
    config: dict[str, Any],
    *,
    prepared: Prepared,
    settings: dict[str, Any],
    num_rollout_workers: int,
    gpus_per_worker: float,
    deadline_s: float | None,
    team: TeamPlan | None = None,
) -> None:
    """Trains one model, measures it along its dial, and reports both with the model as checkpoint.

    Args:
        config: the sampled part of the settings.
        prepared: what all trials share.
        settings: the fixed part, as JSON.
        num_rollout_workers: actors that sample; 0 samples in this process.
        gpus_per_worker: of each actor.
        deadline_s: seconds after which learning stops and measuring starts; None for no limit.
        team: runs the joint stage in several processes; None in this one.
    """
    own = override(from_json(settings), to_settings(config))
    if own.compute.device == "auto":
        own = override(own, {"compute.device": "cuda" if gpus_per_worker else "cpu"})
    torch.set_num_threads(own.compute.threads or 1)
    started = time.monotonic()
    model = Model(prepared, own)
    train, validation = prepared.train.examples(), prepared.validation.examples()
    found = newest_state(tune.get_checkpoint())
    items: dict[str, float] = {}
    if found is None or found.stage == "select":
        until = started + 0.55 * deadline_s if deadline_s else None
        items = _select(model, train, prepared, found, until, num_rollout_workers, gpus_per_worker)
    until = started + deadline_s if deadline_s else None
    if team is None:
        keeper = StateKeeper("joint", found, report_to_tune)
        _timed(lambda told: model.join(train, told, keeper), _Teller("joint", until))
    else:
        left = until - time.monotonic() if until is not None else None
        team = replace(team, run=f"{team.run}-{tune.get_context().get_trial_id()}")
        join_together(model, ray.put(prepared), team, left, [TuneReportCallback()])
    model.encoder.model.eval()
    told = _Teller("measure")
    curve = dial_curve(model, validation, lambda share: told({"step": share, "steps": 1.0}))
    sampled = model.evaluate_sampled(validation)
    _report(model, prepared, curve, sampled, {"seconds": time.monotonic() - started, **items})


def _select(
    model: Model,
    train: Examples,
    prepared: Prepared,
    found: StageState | None,
    until: float | None,
    num_workers: int,
    gpus: float,
) -> dict[str, float]:
    """Runs the select stage, over a pool of actors where there are to be any, and returns what it did."""
    keeper, pool = StateKeeper("select", found, report_to_tune), None
    if num_workers and (found is None or found.state["step"] < found.state["steps"]):
        pool = RolloutPool(ray.put(prepared), model.settings, num_workers, gpus=gpus)
    teller = _Teller("select", until, pool)
    try:
        _timed(lambda told: model.select(train, pool or model.sampler(train), told, keeper), teller)
    finally:
        if pool is not None:
            pool.close()
    keeper.finish()
    return teller.items()


class _Teller:
    """Reports a stage's progress, at most every few seconds; raises once its time is over."""

    def __init__(self, stage: str, until: float | None = None, pool: RolloutPool | None = None) -> None:
        self.stage, self.until, self.pool, self.last = stage, until, pool, 0.0

    def __call__(self, step: dict[str, float]) -> None:
        now = time.monotonic()
        if now - self.last > 5:
            self.last = now
            share = step["step"] / step["steps"]
            tune.report({"stage": self.stage, "share": share, **_numbers(step), **self.items()})
        if self.until is not None and now > self.until:
            raise StageTimeout

    def items(self) -> dict[str, float]:
        """Returns what the pool has done, where there is one."""
        told = asdict(self.pool.statistics()) if self.pool else {}
        return {f"items_{name}": float(value) for name, value in told.items()}


def _numbers(step: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in step.items() if name in ("loss", "reward", "kept")}


def _timed(stage: Callable[[Progress], None], teller: _Teller) -> None:
    try:
        stage(teller)
    except StageTimeout:
        tune.report({"stage": teller.stage, "share": 1.0, "cut_short": True})


def _report(
    model: Model,
    prepared: Prepared,
    curve: list[CurvePoint],
    sampled: Evaluation,
    told: dict[str, float],
) -> None:
    at_default = next(point for point in curve if point.dial == model.selector.default_dial)
    with tempfile.TemporaryDirectory() as folder:
        model.deployable().save_pretrained(Path(folder) / "model")
        prepared.tokenizer.save_pretrained(Path(folder) / "model")
        result = {
            "settings": to_json(model.settings),
            "points": list(model.points),
            "dial": model.selector.default_dial,
            "curve": [asdict(point) for point in curve],
            "sampled": asdict(sampled),
        }
        (Path(folder) / RESULT).write_text(json.dumps(result), encoding="utf-8")
        tune.report(
            {
                "stage": "done",
                "share": 1.0,
                "finished": True,
                "quality": at_default.validation.quality,
                "cost": 1.0 / at_default.validation.speed_up,
                "curve": [[point.validation.quality, 1.0 / point.validation.speed_up] for point in curve],
                **told,
            },
            checkpoint=tune.Checkpoint.from_directory(folder),
        )
