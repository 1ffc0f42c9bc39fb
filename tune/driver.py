"""The driver of a search: it prepares data and teacher, starts Ray, runs the trials, and collects the results."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
import ray
import torch
import transformers
from ray import tune

from trbert.errors import InputError
from trbert.measure.latency import LatencyTable, load_latency
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import free_selectors
from trbert.tasks.examples import Examples
from tune.budget import (
    FRONT_PASSES,
    LEAST_CLOSING_SHARE,
    LEAST_MEASURING_SHARE,
    RULES_SHARE,
    Clock,
    Plan,
    StageTimeout,
    after_preparing,
    fit_trial,
    make_plan,
    measuring_seconds,
    settle_trials,
    teacher_seconds,
    too_little,
)
from tune.checkpoints import StateFolder, StateKeeper
from tune.learning.inputs import Keep, Say, check_unchanged, read_inputs, trials_in_memory
from tune.learning.memory import let_go
from tune.learning.prepare import Prepared, prepare
from tune.learning.steps import Progress, fix_algorithms, pick_device
from tune.learning.teacher_stage import train_teacher
from tune.processes.planner import bundle, cluster_at_hand, gpus_each
from tune.processes.session import on_cluster, start_ray
from tune.processes.teams import TeamPlan, teach_together
from tune.progress import Console, SearchProgress
from tune.results.ending import ending, none_finished
from tune.results.front import Point
from tune.results.report import collect, finished
from tune.results.rules import FREE_DIALS, free_points
from tune.runs.folder import RunFolder
from tune.runs.places import below, states_name, trials_name
from tune.runs.record import SavedRun, write_run
from tune.settings import ComputeSettings, Search, Settings, TeacherSettings, override
from tune.space import first_guesses, point_choices, search_space, to_settings
from tune.suggestions import FreshSearch, known_trials
from tune.trial import run_trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What is made once for a search, and used by every trial and by the report.

    Attributes:
        prepared: what all trials share.
        free: the points of the free rules.
        cuts: what the budget left no time for, in words.
    """

    prepared: Prepared
    free: list[Point]
    cuts: tuple[str, ...] = ()


def run_search(
    folder: RunFolder, saved: SavedRun, plan: Plan, clock: Clock, *, cores: int, resumed: bool, verbose: bool
) -> str:
    """Runs or continues a search, writes its results, and returns the text to print at the end.

    Args:
        folder: of the run.
        saved: what the user asked for.
        plan: how the budget is spent.
        clock: counts the seconds of the budget, from the start of the command on.
        cores: the processors of this machine that Ray may use; a cluster counts its own.
        resumed: whether to continue the trials in `folder`.
        verbose: whether to show Ray's own log.
    """
    record = _Record(folder, saved, Clock() if saved.settings.compute.deterministic else clock)
    try:
        return _run_search(record, plan, cores=cores, resumed=resumed, verbose=verbose)
    except BaseException:
        if folder.settings.exists():
            record.write()  # a search that is continued has what is left of its time
        raise


class _Record:
    """What a running search knows of its run, in settings.json too.

    Args:
        folder: of the run.
        saved: what the user asked for, and what an earlier search of the run found.
        clock: counts the seconds of the budget.
    """

    def __init__(self, folder: RunFolder, saved: SavedRun, clock: Clock) -> None:
        self.folder, self.saved, self.clock = folder, saved, clock

    def write(self, **known: Any) -> None:
        """Adds what is known now, and the seconds that were used."""
        spent = self.clock.used() if math.isfinite(self.clock.seconds) else 0.0
        self.saved = replace(self.saved, spent=spent, **known)
        write_run(self.folder, self.saved)

    def keep(self, fingerprint: str, settings: Settings) -> None:
        """Adds the fingerprint; from then on the run is continued with the same data and the same model alone.

        Args:
            fingerprint: of the data and the model.
            settings: as the user gave them, with the task and the columns that were found.
        """
        if self.saved.fingerprint is None:
            self.write(fingerprint=fingerprint, settings=settings)


def _run_search(record: _Record, plan: Plan, *, cores: int, resumed: bool, verbose: bool) -> str:
    console, folder, saved, clock = Console(), record.folder, record.saved, record.clock
    _quieten(verbose)
    settings, search = saved.settings, saved.search
    fix_algorithms(settings.compute)
    timed = not settings.compute.deterministic
    if resumed and saved.plan is not None:
        plan = replace(saved.plan, concurrent=min(saved.plan.concurrent, plan.concurrent))
    latency = _given_latency(settings)
    _check_gpus(search)
    work = partial(
        make_shared,
        settings,
        plan if timed else None,
        clock=clock,
        latency=latency,
        states=_states(folder, saved),
        fingerprint=saved.fingerprint,
        documents=saved.documents,
    )
    if search.address or search.num_learners > 1:
        start_ray(search.address or "local", cores, verbose)
        work = partial(work, team=_team(folder, saved, "teacher"))
        shared = on_cluster(work, {"say": console.line, "keep": record.keep}, _gpus_each(search))
        if search.address is None:
            plan = _in_memory(plan, shared.prepared, saved, console, resumed=resumed)
    else:
        shared = work(say=console.line, keep=record.keep)
        plan = _in_memory(plan, shared.prepared, saved, console, resumed=resumed)
        if resumed and plan.settled:  # the trials of a resumed search are limited by processors alone
            cores = plan.concurrent * plan.threads * search.processes
        start_ray("local", cores, verbose)
    prepared, saved = shared.prepared, record.saved
    settings = saved.settings
    plan = replace(plan, testing_seconds=FRONT_PASSES * prepared.pass_seconds * len(prepared.test))
    deadline = None
    try:
        fitted = saved.fitted if resumed else None
        if fitted is None and timed:
            plan = after_preparing(plan, clock.used())
            settings = override(settings, {"compute.tokens_per_batch": prepared.tokens_per_batch})
            plan = _settled(plan, settings, search, prepared, cores)
            fitted = _fit(settings, plan, prepared, console)
            deadline = _on_ray(Clock(plan.seconds - plan.closing_seconds, used=clock.used()))
            record.write(
                fitted=fitted,
                fingerprint=prepared.fingerprint,
                documents=prepared.documents,
                plan=plan,
            )
        fitted = fitted or settings
        options: dict[str, Any] = {"clock": deadline, "timed": timed, "resumed": resumed, "verbose": verbose}
        results = _run_trials(folder, saved, fitted, plan, prepared, console, **options)
    finally:
        console.end()
        ray.shutdown()
    done = len(finished(results))
    if done == 0:
        raise none_finished(folder, plan.trials, [result.error for result in results if result.error is not None])
    console.line("measuring the front's models, one at a time")
    least = plan.closing_seconds if resumed else LEAST_CLOSING_SHARE * plan.seconds
    end = Clock(max(clock.left(), least))
    points = collect(folder, prepared, fitted, shared.free, results, console.line, end)
    return ending(folder, results, points, prepared.standing, plan.trials, shared.cuts)


def _on_ray(clock: Clock) -> Any:
    """Returns a clock that the trials ask how much time is left, wherever they run."""
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Clock)
    return remote.remote(clock.seconds, clock.used())


def _in_memory(plan: Plan, prepared: Prepared, saved: SavedRun, console: Console, *, resumed: bool) -> Plan:
    """Returns the plan, with fewer trials at once on this machine if its memory is for no more."""
    let_go()
    if prepared.needs is None:
        return plan
    parameters = sum(array.size for array in prepared.weights.values())
    at_once = trials_in_memory(prepared.needs, pick_device(saved.settings.compute.device), parameters, plan)
    if at_once == plan.concurrent:
        return plan
    console.line(f"trials: {at_once} at once, because there is memory for no more")
    if resumed and saved.plan is not None:
        return replace(plan, concurrent=at_once)
    return make_plan(plan.seconds, at_once, saved.search.num_trials, plan.learners, plan.workers)


def _settled(plan: Plan, settings: Settings, search: Search, prepared: Prepared, cores: int) -> Plan:
    """Returns the plan with the number of trials, now that the model is timed; see `settle_trials`."""
    threads = 1
    on_processor = pick_device(settings.compute.device).type == "cpu"
    if plan.may_have_machine and on_processor and settings.compute.threads is None:
        threads = cores // search.processes
    documents = len(prepared.validation.tokens)
    return settle_trials(plan, settings, prepared.training_seconds, documents, threads)


def _fit(settings: Settings, plan: Plan, prepared: Prepared, console: Console) -> Settings:
    """Returns the settings of a trial, with as many documents as the budget allows, and with its threads."""
    seconds, documents = prepared.training_seconds, len(prepared.validation.tokens)
    fitted = fit_trial(settings, plan, seconds, documents)
    if plan.threads > 1:
        fitted = override(fitted, {"compute.threads": plan.threads})
    alone = f", on {plan.threads} threads" if plan.threads > 1 else ""
    console.line(
        f"each trial: warm start on {fitted.select.warm_start_documents:,} documents, select on "
        f"{fitted.select.documents:,}, joint on {fitted.joint.documents:,}, in about {plan.trial_seconds:.0f} s{alone}"
    )
    mean = float(prepared.train.tokens.lengths.double().mean())
    if (warning := too_little(settings, fitted, plan, seconds, documents, mean)) is not None:
        console.line(f"warning: {warning}")
    return fitted


def _gpus_each(search: Search) -> float:
    """Returns the GPUs of each trial's learner and of each of its workers: what the user set, or else an even share."""
    if search.gpus_per_worker is not None:
        return search.gpus_per_worker
    return gpus_each(cluster_at_hand(), search.processes, search.num_learners)


def _team(folder: RunFolder, saved: SavedRun, stage: str) -> TeamPlan | None:
    """Returns the plan of a team for a stage, or None if the search has one learner only."""
    search = saved.search
    if search.num_learners == 1:
        return None
    gpus = cluster_at_hand().total("GPU") > 0
    storage = _storage(folder, search)
    return TeamPlan(size=search.num_learners, gpus=gpus, storage=storage, run=f"{saved.id}-{stage}")


def inspect_inputs(saved: SavedRun, plan: Plan, *, cores: int, verbose: bool) -> None:
    """Reads and checks the data and the model as a search does, prints what was found, and trains nothing.

    Args:
        saved: what the user asked for.
        plan: how the budget is spent.
        cores: the processors of this machine that Ray may use; a cluster counts its own.
        verbose: whether to show Ray's own log.
    """
    console = Console()
    _quieten(verbose)
    _given_latency(saved.settings)
    _check_gpus(saved.search)
    work = partial(_inspect, saved, plan)
    if saved.search.address is None:
        work(say=console.line)
        return
    start_ray(saved.search.address, cores, verbose)
    try:
        on_cluster(work, {"say": console.line}, _gpus_each(saved.search))
    finally:
        ray.shutdown()


def _given_latency(settings: Settings) -> LatencyTable | None:
    """Returns the user's table of times; None if there is none. Other machines of a cluster do not have the file."""
    file = settings.select.latency_table
    return None if file is None else load_latency(file)


def _check_gpus(search: Search) -> None:
    """Checks that this machine has the GPUs of a trial, for which Ray would otherwise wait without end.

    Raises:
        InputError: It has too few.
    """
    wanted = search.processes * (search.gpus_per_worker or 0.0)
    there = torch.cuda.device_count()
    if search.address is None and wanted > there:
        raise InputError(
            f"--gpus-per-worker needs {wanted:g} GPUs for each trial, and this machine has {there}: leave it out, or "
            "use a cluster with --address"
        )


def _inspect(saved: SavedRun, plan: Plan, say: Say) -> None:
    check_unchanged(read_inputs(saved.settings, say, plan), saved.fingerprint)


def _quieten(verbose: bool) -> None:
    if not verbose:
        transformers.utils.logging.disable_progress_bar()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # This logger prints a traceback whenever a trial loses a process. The console prints one line instead.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def make_shared(
    settings: Settings,
    plan: Plan | None,
    *,
    say: Say,
    keep: Keep,
    latency: LatencyTable | None,
    states: str,
    fingerprint: str | None,
    clock: Clock,
    documents: Mapping[str, int] | None = None,
    team: TeamPlan | None = None,
) -> Shared:
    """Prepares data and teacher, and measures the free rules.

    Args:
        settings: of the run.
        plan: limits the teacher, the documents and the free rules to their shares of the budget; None limits nothing.
        say: is called with a line for each thing that is done.
        keep: is called with what a resumed search must find again, before anything is learned.
        latency: the user's table of times, or None.
        states: the folder or URI for the teacher's states while it is trained.
        fingerprint: of the data and the model that a resumed search started with; None checks nothing.
        clock: counts the seconds of the budget.
        documents: how many documents of each split a resumed search started with.
        team: the processes that train the teacher; None trains it in this process.
    """
    folder = StateFolder(states)

    def train(*inputs: Any, key: str) -> float | None:
        seconds = None if plan is None else teacher_seconds(plan, clock)
        if team is None:
            return partial(_train_alone, folder, seconds, key=key)(*inputs)
        return partial(teach_together, team, key=key, seconds=seconds)(*inputs)

    prepared = prepare(settings, plan, say, latency, train, fingerprint, keep, documents)
    folder.delete()
    say(f"free rules: measuring {', '.join(rule.name for rule in free_selectors())} on the teacher")
    choice = to_settings({"select.points": point_choices(prepared.config.num_hidden_layers)[0]})
    part = clock if plan is None else clock.part(RULES_SHARE * plan.seconds)
    free = free_points(prepared, settings.compute, choice["select.points"], part)
    whole = len(FREE_DIALS) * len(free_selectors())
    fewer = [f"{len(free)} of {whole} points of the free rules"] if len(free) < whole else []
    return Shared(prepared=prepared, free=free, cuts=(*prepared.cuts, *fewer))


def _train_alone(
    folder: StateFolder,
    seconds: float | None,
    reducer: Reducer,
    train: Examples,
    settings: TeacherSettings,
    compute: ComputeSettings,
    seed: int,
    told: Progress,
    key: str,
) -> float | None:
    """Trains the teacher in this process, from the last state in the folder on.

    It returns the fraction of the steps that were taken in the given seconds, or None if all were.
    """
    found, share = folder.newest(key), 0.0
    clock = Clock(math.inf if seconds is None else seconds, used=0.0 if found is None else found.spent)
    keeper = StateKeeper("teacher", found, folder.report, key, clock=clock)

    def progress(step: dict[str, float]) -> None:
        nonlocal share
        told(step)
        share = step["step"] / step["steps"]
        if share < 1:
            clock.check()

    try:
        train_teacher(reducer, train, settings, compute, seed, progress, keeper, clock=clock)
    except StageTimeout:
        return share
    return None


def _run_trials(
    folder: RunFolder,
    saved: SavedRun,
    fitted: Settings,
    plan: Plan,
    prepared: Prepared,
    console: Console,
    *,
    clock: Any,
    timed: bool,
    resumed: bool,
    verbose: bool,
) -> list[Any]:
    search = saved.search
    gpus = _gpus_each(search)
    measuring = measuring_seconds(fitted, plan, prepared.training_seconds, len(prepared.validation.tokens))
    measuring = min(max(measuring, LEAST_MEASURING_SHARE * plan.trial_seconds), plan.trial_seconds / 2)
    trainable = tune.with_resources(
        tune.with_parameters(
            run_trial,
            prepared=prepared,
            settings=fitted,
            num_rollout_workers=search.num_rollout_workers,
            gpus_per_worker=gpus,
            deadline_s=plan.trial_seconds - measuring if timed else None,
            measuring_s=measuring if timed else 0.0,
            clock=clock,
            team=_team(folder, saved, "joint"),
        ),
        tune.PlacementGroupFactory([bundle(gpus, plan.threads)] * search.processes),
    )
    storage = _storage(folder, search)
    name = _trials_name(folder, saved)
    trials = below(storage, name)
    known = known_trials(trials) if resumed else []
    config = _tune_config(folder, search, fitted, plan, prepared, console.line, known)
    if known:
        tuner: Any = tune.Tuner.restore(trials, trainable=trainable, resume_unfinished=True, restart_errored=True)
        tuner._local_tuner._tune_config.search_alg = config.search_alg  # Ray's files hold nothing of it
    else:
        tuner = tune.Tuner(
            trainable,
            tune_config=config,
            run_config=tune.RunConfig(
                name=name,
                storage_path=storage,
                callbacks=[SearchProgress(console, plan.trials)],
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
                failure_config=tune.FailureConfig(max_failures=10 if search.address else 1),
                verbose=1 if verbose else 0,
            ),
        )
    if sum(trial.status == "TERMINATED" for trial in known) == plan.trials:
        console.line(f"searching: nothing is left, because {plan.trials} of {plan.trials} trials are finished")
    else:
        console.line(f"searching: {plan.trials} trial{'s' * (plan.trials != 1)}, {plan.concurrent} at once")
    results: Any = tuner.fit()
    return list(results)


def _states(folder: RunFolder, saved: SavedRun) -> str:
    """Returns the folder for the teacher's states while it is trained."""
    return below(_storage(folder, saved.search), states_name(saved.id))


def _trials_name(folder: RunFolder, saved: SavedRun) -> str:
    """Returns the name of the trials' folder; in a storage that several runs share it contains the run's id."""
    return trials_name(saved.id) if saved.search.storage else folder.trials.name


def _storage(folder: RunFolder, search: Search) -> str:
    """Returns the folder in which trials and learners keep their checkpoints."""
    return search.storage or os.path.abspath(folder.path)


def _tune_config(
    folder: RunFolder,
    search: Search,
    fitted: Settings,
    plan: Plan,
    prepared: Prepared,
    say: Say,
    known: Sequence[Any],
) -> tune.TuneConfig:
    fixed, num_layers = search.fixed, prepared.config.num_hidden_layers
    ratios = fitted.select.keep_ratios
    # If the user fixed the ratios but not the points, there must be as many points as ratios.
    num_points = len(ratios) if ratios and "select.points" not in fixed else None
    space = search_space(num_layers, prepared.penalty, fixed, num_points)
    pairs = len(prepared.task.columns(fitted.data.text_column, fitted.data.label_column).inputs) > 1
    documents = fitted.select.documents
    guesses = first_guesses(num_layers, prepared.penalty, documents, fixed, num_points, pairs=pairs, asks=prepared.asks)
    first = guesses[: plan.trials]
    searcher = space and FreshSearch(folder.study, space, first, seed=fitted.seed, say=say, known=known)
    # If the user fixed everything, there is no searcher, and all trials have the same configuration.
    return tune.TuneConfig(
        search_alg=searcher or None, num_samples=plan.trials, max_concurrent_trials=plan.concurrent, reuse_actors=False
    )
