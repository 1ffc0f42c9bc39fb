"""The driver of a search: it prepares data and teacher, starts Ray, runs the trials, and collects the results."""

import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import optuna
import ray
import torch
import transformers
from ray import tune
from ray._private import ray_constants
from ray.exceptions import RayTaskError
from ray.util.queue import Queue

from trbert.console import end_on_sigterm
from trbert.errors import InputError, OutOfMemory, TrbertError
from trbert.measure.latency import LatencyTable, load_latency
from trbert.selection.selectors import free_selectors
from trbert.wording import pasted
from tune.budget import Plan, after_preparing, fit_trial, make_plan
from tune.checkpoints import StateFolder, StateKeeper
from tune.learning.inputs import Say, check_unchanged, read_inputs, trials_in_memory
from tune.learning.memory import REMEDY, let_go, memory_ended
from tune.learning.prepare import Prepared, prepare
from tune.learning.standing import Standing
from tune.learning.steps import pick_device
from tune.learning.teacher_stage import train_teacher
from tune.planner import bundle, cluster_at_hand, gpus_each
from tune.progress import Console, SearchProgress
from tune.results.front import NO_MODEL, Point, has_model
from tune.results.report import collect, finished
from tune.results.rules import free_points
from tune.results.table import table
from tune.runs.folder import RunFolder
from tune.runs.places import below, states_name, trials_name
from tune.runs.record import SavedRun, write_run
from tune.settings import Search, Settings, override
from tune.space import first_guesses, point_choices, search_space, to_settings
from tune.suggestions import FreshSearch, known_trials
from tune.teams import TeamPlan, teach_together
from tune.trial import run_trial

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What is made once for a search, and used by every trial and by the report.

    Attributes:
        prepared: what all trials share.
        free: the points of the free rules.
    """

    prepared: Prepared
    free: list[Point]


def run_search(folder: RunFolder, saved: SavedRun, plan: Plan, *, cores: int, resumed: bool, verbose: bool) -> str:
    """Runs or continues a search, writes its results, and returns the text to print at the end.

    Args:
        folder: of the run.
        saved: what the user asked for.
        plan: how the budget is spent.
        cores: the processors of this machine that Ray may use; a cluster counts its own.
        resumed: whether to continue the trials in `folder`.
        verbose: whether to show Ray's own log.
    """
    console, started = Console(), time.monotonic()
    _quieten(verbose)
    settings, search = saved.settings, saved.search
    latency = _given_latency(settings)
    _check_gpus(search)
    work = partial(make_shared, settings, plan, latency=latency, states=_states(folder, saved))
    work = partial(work, fingerprint=saved.fingerprint)

    def keep(fingerprint: str) -> None:
        if saved.fingerprint is None:  # from now on the run can be continued with the same data and model alone
            write_run(folder, replace(saved, fingerprint=fingerprint))

    if search.address or search.num_learners > 1:
        _start_ray(search.address or "local", cores, verbose)
        work = partial(work, team=_team(folder, saved, "teacher"))
        shared = _on_cluster(work, {"say": console.line, "keep": keep}, _gpus_each(search))
        if search.address is None:
            plan = _in_memory(plan, shared.prepared, saved, console, resumed=resumed)
    else:
        shared = work(say=console.line, keep=keep)
        fewer = _in_memory(plan, shared.prepared, saved, console, resumed=resumed)
        if fewer.concurrent < plan.concurrent:  # the trials of a resumed search are limited by processors alone
            cores = fewer.concurrent * search.processes
        plan = fewer
        _start_ray("local", cores, verbose)
    try:
        fitted = saved.fitted if resumed else None
        if fitted is None:
            plan = after_preparing(plan, time.monotonic() - started)
            settings = override(settings, {"compute.tokens_per_batch": shared.prepared.tokens_per_batch})
            fitted = _fit(settings, plan, shared.prepared, console)
            write_run(folder, replace(saved, fitted=fitted, fingerprint=shared.prepared.fingerprint))
        results = _run_trials(folder, saved, fitted, plan, shared.prepared, console, resumed=resumed, verbose=verbose)
    finally:
        console.end()
        ray.shutdown()
    done = len(finished(results))
    if done == 0:
        raise _none_finished(folder, plan.trials, [result.error for result in results if result.error is not None])
    console.line("measuring the front's models, one at a time")
    points = collect(folder, shared.prepared, fitted, shared.free, results, console.line)
    missing = f"{plan.trials - done} of {plan.trials} trials did not finish\n" if done < plan.trials else ""
    standing = shared.prepared.standing
    return f"\n{table(points, standing=standing)}\n\n{missing}{_paths(folder, points, standing)}"


def _in_memory(plan: Plan, prepared: Prepared, saved: SavedRun, console: Console, *, resumed: bool) -> Plan:
    """Returns the plan, with fewer trials at once on this machine if its memory is for no more."""
    let_go()
    if prepared.needs is None:
        return plan
    parameters = sum(array.size for array in prepared.weights.values())
    at_once = trials_in_memory(prepared.needs, pick_device(saved.settings.compute.device), parameters, plan)
    if at_once == plan.concurrent:
        return plan
    number = plan.trials if resumed else saved.search.num_trials
    fewer = make_plan(plan.seconds, at_once, number, plan.learners, plan.workers)
    console.line(f"trials: {fewer.trials}, {fewer.concurrent} at once: memory for no more at once")
    return fewer


def _none_finished(folder: RunFolder, trials: int, errors: list[Any]) -> Exception:
    """Returns the error for a search without a finished trial: the user's mistake if each of its trials made one."""
    causes: list[Any] = [error.cause or error if isinstance(error, RayTaskError) else error for error in errors]
    logs = f"the logs are in {folder.trials}"
    if causes and all(isinstance(cause, TrbertError) for cause in causes):
        return type(causes[0])(
            f"none of {trials} trials finished: {causes[0]}; then start again under another --name ({logs})"
        )
    if errors and (how := memory_ended(errors[0])) is not None:
        return OutOfMemory(f"none of {trials} trials finished: the first {how} ({REMEDY}); {logs}")
    why = (
        f" (the first error: {(str(errors[0]).strip().splitlines() or [type(errors[0]).__name__])[-1]})"
        if errors
        else ""
    )
    return RuntimeError(f"none of {trials} trials finished{why}: their logs are in {folder.trials}")


def _fit(settings: Settings, plan: Plan, prepared: Prepared, console: Console) -> Settings:
    """Returns the settings of a trial, with as many documents as the budget allows."""
    fitted = fit_trial(settings, plan, prepared.training_seconds, len(prepared.validation.tokens))
    console.line(
        f"each trial: warm start on {fitted.select.warm_start_documents:,} documents, select on "
        f"{fitted.select.documents:,}, joint on {fitted.joint.documents:,}, in about {plan.trial_seconds:.0f} s"
    )
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
    _start_ray(saved.search.address, cores, verbose)
    try:
        _on_cluster(work, {"say": console.line}, _gpus_each(saved.search))
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
    plan: Plan,
    *,
    say: Say,
    keep: Say,
    latency: LatencyTable | None,
    states: str,
    fingerprint: str | None,
    team: TeamPlan | None = None,
) -> Shared:
    """Prepares data and teacher, and measures the free rules.

    Args:
        settings: of the run.
        plan: limits the teacher's epochs to its share of the budget.
        say: is called with a line for each thing that is done.
        keep: is called with the fingerprint of the data and the model, before anything is learned.
        latency: the user's table of times, or None.
        states: the folder or URI for the teacher's states while it is trained.
        fingerprint: of the data and the model that a resumed search started with; None checks nothing.
        team: the processes that train the teacher; None trains it in this process.
    """
    folder = StateFolder(states)
    train = partial(_train_alone, folder) if team is None else partial(teach_together, team)
    prepared = prepare(settings, plan, say, latency, train, fingerprint, keep)
    folder.delete()
    say(f"free rules: measuring {', '.join(rule.name for rule in free_selectors())} on the teacher")
    choice = to_settings({"select.points": point_choices(prepared.config.num_hidden_layers)[0]})
    return Shared(prepared=prepared, free=free_points(prepared, settings, choice["select.points"]))


def _train_alone(folder: StateFolder, *inputs: Any, key: str) -> None:
    """Trains the teacher in this process, from the last state in the folder on."""
    keeper = StateKeeper("teacher", folder.newest(key), folder.report, key)
    partial(train_teacher, keeper=keeper)(*inputs)


def _start_ray(address: str, cores: int, verbose: bool) -> None:
    options: dict[str, Any] = {}
    if address == "local":
        # Ray would keep the token with which its processes know each other in the home folder, readable by everybody.
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        _listen_on_loopback()
        options = {"num_cpus": cores, "include_dashboard": False}
    level = logging.INFO if verbose else logging.ERROR
    ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)
    end_on_sigterm()


def _listen_on_loopback() -> None:
    """Lets the processes of Ray that this one starts listen on 127.0.0.1 alone; else they listen on all addresses.

    Ray does so by default on macOS and Windows, where it makes no clusters. The argument `_node_ip_address` of
    `ray.init` does not help, because Ray replaces a loopback address in it.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes that Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = False
    if os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # for what the learners of a team send each other


def _on_cluster(work: Callable[..., Found], takers: dict[str, Say], gpus: float) -> Found:
    """Runs a function on a worker, because the head of a cluster offers no processors.

    Args:
        work: the function. Its arguments are functions that take a line, by the names of the takers.
        takers: are called here with the lines that the function gives to its arguments of the same names.
        gpus: the GPUs that the function needs.
    """
    lines = Queue(actor_options={"num_cpus": 0})
    # Whenever a machine is lost, Ray runs it again on another one.
    remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1)(_told)
    found_ref = remote.remote(work, list(takers), lines.put)
    try:
        while True:
            done, _ = ray.wait([found_ref], timeout=0.5)
            for name, line in lines.get_nowait_batch(lines.qsize()):
                takers[name](line)
            if done:
                found: Found = ray.get(found_ref)
                return found
    except RayTaskError as error:
        raise error.cause from None
    finally:
        lines.shutdown()


def _told(work: Callable[..., Found], names: Sequence[str], put: Callable[[tuple[str, str]], None]) -> Found:
    return work(**{name: partial(_put, put, name) for name in names})


def _put(put: Callable[[tuple[str, str]], None], name: str, line: str) -> None:
    put((name, line))


def _run_trials(
    folder: RunFolder,
    saved: SavedRun,
    fitted: Settings,
    plan: Plan,
    prepared: Prepared,
    console: Console,
    *,
    resumed: bool,
    verbose: bool,
) -> list[Any]:
    search = saved.search
    gpus = _gpus_each(search)
    trainable = tune.with_resources(
        tune.with_parameters(
            run_trial,
            prepared=prepared,
            settings=fitted,
            num_rollout_workers=search.num_rollout_workers,
            gpus_per_worker=gpus,
            deadline_s=1.3 * plan.trial_seconds,
            team=_team(folder, saved, "joint"),
        ),
        tune.PlacementGroupFactory([bundle(gpus)] * search.processes),
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
    console.line(f"searching: {plan.trials} trials")
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
    pairs = len(prepared.task.columns(fitted.data.text_column, fitted.data.label_column).inputs) == 2
    documents = fitted.select.documents
    guesses = first_guesses(num_layers, prepared.penalty, documents, fixed, num_points, pairs=pairs)
    first = guesses[: plan.trials]
    searcher = space and FreshSearch(folder.study, space, first, seed=fitted.seed, say=say, known=known)
    # If the user fixed everything, there is no searcher, and all trials have the same configuration.
    return tune.TuneConfig(
        search_alg=searcher or None, num_samples=plan.trials, max_concurrent_trials=plan.concurrent, reuse_actors=False
    )


def _paths(folder: RunFolder, points: Sequence[Point], standing: Standing | None) -> str:
    """Returns the lines that say where the results lie, and how a model is picked if there is one to pick."""
    nothing = standing is not None and standing.knows_nothing
    lines = [
        f"{'points' if nothing else 'front':10}{folder.front_table}",
        f"picture   {folder.front_picture}",
        f"models    {folder.models}",
    ]
    if not has_model(points):
        lines.append(f"pick one  {NO_MODEL}")
    elif not nothing:
        lines.append(f"pick one  python tune/pareto.py {pasted(folder.path)} --max-drop 0.5")
    return "\n".join(lines)
