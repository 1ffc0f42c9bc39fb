"""The command that searches for reduced models and writes their front: `python tune/search.py --help`."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trbert import __version__
from trbert.console import Parser, exit_code
from trbert.errors import InputError, TrbertError
from trbert.wording import pasted
from tune.budget import Clock, Plan, make_plan
from tune.preflight.checks import run_checks
from tune.preflight.machine import affine_processors, processors
from tune.preflight.places import resolved
from tune.runs.folder import (
    RunFolder,
    check_name,
    check_new,
    forget_run,
    free_name,
    held,
    make_free_run,
    make_run,
)
from tune.runs.places import kept_in_storage
from tune.runs.record import SavedRun, existing_run, new_id, write_run
from tune.runs.versions import versions
from tune.settings import DETERMINISTIC, PRESETS, Search, Settings, override, setting_names
from tune.space import varied

PAGES_SIZE = {"data.max_length": 128, "data.train_rows": 4000, "data.validation_rows": 300, "data.test_rows": 500}
"""Settings for the packaged pages: as many of the 8,743 pages as a search of ten minutes on two cores can use."""

SETTING_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--model": ("model", {}),
    "--task": ("task", {"metavar": "NAME"}),
    "--family": ("family", {"metavar": "MODULE:NAME"}),
    "--data": ("data.source", {"metavar": "NAME_OR_FILES"}),
    "--unlabelled": (
        "data.unlabelled",
        {"metavar": "NAMES_OR_FILES", "action": "extend", "type": lambda text: text.split(",")},
    ),
    "--text-column": ("data.text_column", {}),
    "--label-column": ("data.label_column", {}),
    "--label-map": ("data.label_map", {"metavar": "MAP"}),
    "--encoding": ("data.encoding", {}),
    "--separator": ("data.separator", {}),
    "--no-header": (
        "data.header",
        {"action": "store_const", "const": False, "help": "csv files have no row of column names"},
    ),
    "--max-data-size": ("data.max_size", {"metavar": "SIZE"}),
    "--drop-duplicates": ("data.drop_duplicates", {"action": "store_const", "const": True}),
    "--skip-bad-rows": ("data.skip_bad_rows", {"action": "store_const", "const": True}),
    "--no-protect": (
        "data.protect",
        {"action": "store_const", "const": False, "help": "tokens of the question or of the query may be dropped, too"},
    ),
    "--new-head": ("new_head", {"action": "store_const", "const": True}),
    "--max-length": ("data.max_length", {"type": int}),
    "--seed": ("seed", {"type": int}),
    "--deterministic": ("compute.deterministic", {"action": "store_const", "const": True}),
    "--price": ("select.price", {"choices": ("flops", "latency", "tokens")}),
    "--latency-table": ("select.latency_table", {"metavar": "FILE"}),
}
"""The options that stand for one setting: its name, and what argparse is told besides the setting's own help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, and returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _run(_parser().parse_args(words)), verbose="--verbose" in words)


def _parser() -> Parser:
    parser = Parser(
        prog="python tune/search.py",
        description="Searches for reduced models of an encoder, and writes their front of quality against cost.",
    )
    help_of = {name: field.metadata.get("help") for name, field in setting_names().items()}
    for option, (setting, words) in SETTING_OPTIONS.items():
        parser.add_argument(option, **{"help": help_of[setting], **words})
    parser.add_argument("--preset", choices=sorted(PRESETS), help="a set of settings: 'tr-bert' is the paper's recipe")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"set any setting by its name: {', '.join(sorted(help_of))}",
    )
    parser.add_argument(
        "--num-trials",
        type=int,
        help="models to train (default: as many as the budget can train with all their documents, at least one)",
    )
    parser.add_argument(
        "--num-rollout-workers",
        type=int,
        default=0,
        help="processes that sample for each trial, beside the trial's own (default: 0)",
    )
    parser.add_argument(
        "--num-learners",
        type=int,
        default=1,
        help="processes that share the teacher's training and each joint stage, through Ray Train (default: 1)",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=float,
        help="GPUs of each trial and of each of its workers, may be a fraction (default: an even share)",
    )
    parser.add_argument("--budget", default="10m", help="time for everything, such as 10m or 2h (default: %(default)s)")
    parser.add_argument(
        "--name", help="name of the run, whose results lie in RUNS/NAME (default: search, then search-2 and so on)"
    )
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: %(default)s)")
    parser.add_argument(
        "--address",
        help="address of a Ray cluster, 'auto' or 'local' (default: $RAY_ADDRESS, or this machine alone)",
    )
    parser.add_argument(
        "--storage",
        help="folder or s3:// URI that all machines of a cluster share, for the trials' checkpoints "
        "(default: the run folder)",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the search in this run folder; its files can run any code, so continue only runs that you made",
    )
    parser.add_argument(
        "--trust", action="store_true", help="with --resume: the run folder belongs to another user, whom you trust"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, check the data, the model and the machine, and stop"
    )
    parser.add_argument("--verbose", action="store_true", help="show tracebacks and Ray's own log")
    parser.add_version(__version__)
    return parser


def _run(options: argparse.Namespace) -> None:
    started = time.monotonic()
    _quiet(options.verbose)
    if options.resume:
        _check_resumed(options)
        folder, saved = existing_run(options.resume, options.trust)
    else:
        folder, saved = _new_run(options)
    search = saved.search
    clock = Clock(search.seconds, used=time.monotonic() - started + saved.spent)
    warnings = [*run_checks(saved.settings, search, folder), *_other_commit(saved)]
    plan, where = _plan(search, saved.settings.compute.deterministic)
    print(describe(plan, saved.settings, search, folder, where), flush=True)
    for warning in warnings:
        print(f"warning   {warning}", flush=True)
    if options.dry_run:
        from tune.driver import inspect_inputs  # imports Ray and torch, which takes seconds

        inspect_inputs(saved, plan, cores=_cores(), verbose=options.verbose)
        print("nothing was trained: leave out --dry-run to start the search", flush=True)
        return
    with _held(folder, saved, options) as folder:
        from tune.driver import run_search  # imports Ray and torch, which takes seconds; the plan is printed before

        resumed, verbose = bool(options.resume), options.verbose
        try:
            print(run_search(folder, saved, plan, clock, cores=_cores(), resumed=resumed, verbose=verbose))
        except KeyboardInterrupt:
            again = f"python tune/search.py --resume {pasted(folder.path)}"
            raise KeyboardInterrupt(f"continue with {again}") from None
        except TrbertError:
            # If its storage holds something of the run, its folder stays, because that says what belongs to it.
            if not options.resume and not kept_in_storage(search, saved.id):
                forget_run(folder)
            raise
    print(f"time      {time.monotonic() - started:.0f} s in all", flush=True)


def _new_run(options: argparse.Namespace) -> tuple[RunFolder, SavedRun]:
    """Returns the folder that a new run will have, and what the user asks for; nothing is made yet."""
    if options.name is not None:
        check_name(options.name)
    runs = Path(os.path.expanduser(options.runs))
    folder = RunFolder(runs / (options.name or free_name(runs, "search")))
    check_new(folder)
    settings, search = resolved(_settings(options), _search(options))
    return folder, SavedRun(id=new_id(folder.path.name), settings=settings, search=search)


def _other_commit(saved: SavedRun) -> list[str]:
    """Returns a warning if a resumed run was started with another commit of trbert."""
    there, here = saved.made_by.get("commit"), versions().get("commit")
    if there == here:
        return []
    return [f"the run was started with trbert's commit {there}, and this is {here}: its figures may not fit together"]


@contextlib.contextmanager
def _held(folder: RunFolder, saved: SavedRun, options: argparse.Namespace) -> Iterator[RunFolder]:
    """Makes the folder of a new run, and keeps other searches from it; yields the folder.

    It may have another name than the one that was planned, if another search has taken that name since.
    """
    if not options.resume and options.name is None:
        made = make_free_run(folder.path.parent, "search")
        if made != folder:
            print(f"search    {made.path}, because another search has taken {folder.path} just now", flush=True)
        folder = made
    elif not options.resume:
        make_run(folder)
    with held(folder):
        if not options.resume:
            check_new(folder)  # again, because another search may have had the folder until now
            write_run(folder, saved)
        yield folder


def _check_resumed(options: argparse.Namespace) -> None:
    """Raises InputError if an option is given that a resumed run does not read."""
    defaults = vars(_parser().parse_args([]))
    for name, value in vars(options).items():
        if name not in ("resume", "trust", "dry_run", "verbose") and value != defaults[name]:
            raise InputError(
                f"--{name.replace('_', '-')} must not be given with --resume, which takes everything from the run: "
                "leave it out, or start another search"
            )


def _settings(options: argparse.Namespace) -> Settings:
    changes: dict[str, Any] = dict(PRESETS[options.preset]) if options.preset else {}
    if options.data is None:
        changes |= PAGES_SIZE
    if options.deterministic:
        changes |= DETERMINISTIC
    given = vars(options)
    named = {setting: given[_variable(option)] for option, (setting, _) in SETTING_OPTIONS.items()}
    changes |= {name: value for name, value in named.items() if value is not None}
    known = setting_names()
    for pair in options.set:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set must be NAME=VALUE, and is {pair!r}: for example --set joint.documents=4000")
        kind = known[name].type if name in known else None
        words = kind is str or (kind == str | None and text.lower() != "none")  # a text with a comma is not a list
        changes[name] = text if words else _value(text)
    return override(Settings(), changes)


def _variable(option: str) -> str:
    """Returns the name under which argparse keeps an option."""
    return option.removeprefix("--").replace("-", "_")


def _fixed(options: argparse.Namespace) -> tuple[str, ...]:
    """Returns the names of the settings that a preset or --set fixes; the search does not vary them.

    With unlabelled texts, the teacher's outputs have all of the task loss unless the user says otherwise. On IMDB,
    labels made models worse.
    """
    given = (*PRESETS.get(options.preset, ()), *(pair.partition("=")[0] for pair in options.set))
    without = "joint.distillation" in given or not (options.unlabelled or "data.unlabelled" in given)
    return given if without else (*given, "joint.distillation")


def _value(text: str) -> Any:
    """Returns the value of a setting that was typed as text: a number, a list, true, false, none, or a text."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _search(options: argparse.Namespace) -> Search:
    address = options.address or os.environ.get("RAY_ADDRESS") or None
    return Search(
        num_trials=options.num_trials,
        num_rollout_workers=options.num_rollout_workers,
        num_learners=options.num_learners,
        gpus_per_worker=options.gpus_per_worker,
        budget=options.budget,
        address=None if address == "local" else address,
        storage=options.storage,
        fixed=_fixed(options),
    )


def _plan(search: Search, deterministic: bool = False) -> tuple[Plan, str]:
    """Returns how the budget is spent, and a description of the machines it is spent on.

    Args:
        search: what the user asked for.
        deterministic: whether trials run one after the other. The next one depends on those that have finished.

    Raises:
        InputError: The machines can never hold a trial, or no cluster answers at the address.
    """
    seconds, learners, processes = search.seconds, search.num_learners, search.processes
    trials = (search.num_trials or 1) if deterministic else search.num_trials  # no time may decide their number
    if search.address is None:
        cores, each = _cores(), processes + (learners if learners > 1 else 0)
        if each > cores:
            which, most = "--num-learners", max(1, cores - processes)
            if learners == 1:
                which, most = "--num-rollout-workers", cores - 1
            raise InputError(
                f"{which} needs {each} processors for each trial, and this machine has {cores}: "
                f"use at most {most}, or a cluster with --address"
            )
        where = f"this machine, {cores} core{'s' * (cores != 1)}"
        at_once = 1 if deterministic else cores // each
        return make_plan(seconds, at_once, trials, learners, search.num_rollout_workers), where
    # This imports Ray, which takes seconds; other plans do not need it.
    from tune.processes.planner import cluster_of, trials_at_once

    cluster = cluster_of(search.address)
    fit = trials_at_once(cluster, processes, search.gpus_per_worker, learners)
    where = f"Ray cluster at {search.address}: {cluster}; room for {fit.trials} trials, and no {fit.limit} for more"
    plan = make_plan(seconds, 1 if deterministic else fit.trials, trials, learners, search.num_rollout_workers)
    return replace(plan, spread=True), where


def _cores() -> int:
    return processors()


def describe(plan: Plan, settings: Settings, search: Search, folder: RunFolder, where: str) -> str:
    """Returns the text of the plan, which is printed before anything starts.

    Args:
        plan: how the budget is spent.
        settings: of the run.
        search: what else the user asked for.
        folder: of the run.
        where: a description of the machines.
    """
    workers = search.num_rollout_workers
    fixed = settings.compute.deterministic
    upto = "" if fixed else "up to "
    each = "" if fixed or not plan.settled else f", up to {plan.trial_seconds:.0f} s a trial"
    room = "as many whole trainings as fit once the model is timed, at least 1, up to"
    number = f"{plan.trials}," if plan.settled else room
    taught = f"{settings.teacher.epochs:g} epochs" if fixed else f"up to {plan.teacher_seconds:.0f} s"
    joint = f"joint stage of {upto}{settings.joint.documents:,} documents"
    whole = f"about {_minutes(plan.seconds)} (--budget {search.budget})"
    more = f", unlabelled {','.join(settings.data.unlabelled)}" if settings.data.unlabelled else ""
    together = f", {search.num_learners} learners" if search.num_learners > 1 else ""
    return "\n".join(
        [
            f"search    {folder.path}",
            f"model     {settings.model}, data {settings.data.source}{more}, at most {settings.data.max_length} tokens",
            f"machine   {where}",
            f"trials    {number} {plan.concurrent} at once, {workers or 'no'} rollout workers{together} each{each}",
            f"stages    teacher, if it must be trained, {taught}, select on {upto}"
            f"{settings.select.documents:,} documents, {joint}",
            f"space     {', '.join(varied(search.fixed)) or 'nothing, all is fixed'}; quality against cost",
            f"time      {'as long as it takes (--deterministic)' if fixed else whole}",
        ]
    )


def _minutes(seconds: float) -> str:
    """Returns the seconds as whole minutes, in words."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes != 1)}"


def _quiet(verbose: bool) -> None:
    """Sets the environment variables that Ray and transformers read when they are imported (docs/clusters.md)."""
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if processors() < affine_processors():  # OpenMP does not know the quota of a container
        os.environ.setdefault("OMP_NUM_THREADS", str(processors()))
    # oneDNN makes new matrix kernels for every new row length. A thousand kept kernels would take gigabytes.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    # Ray would let its workers wait for every other process of the machine, and trials would outlast their time.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Tune saves its state every second. So a search that is resumed after a kill repeats no finished trial.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    # Ctrl-C must raise KeyboardInterrupt here. Tune's own handler would return as if the search had finished.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Only the last report of a trial has the metrics. Tune would refuse the progress reports before it.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    if not verbose:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("RAY_LOG_TO_STDERR", "0")


if __name__ == "__main__":
    sys.exit(main())
