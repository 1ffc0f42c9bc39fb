"""Divides a time budget among the parts of a search, and counts the seconds that each of them has left."""

import math
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tune.settings import Settings, override

TEACHER_SHARE, TRIALS_SHARE, CLOSING_SHARE = 0.25, 0.5, 0.15
"""The fractions of the budget for the teacher, for the trials, and for measuring the front at the end."""
READING_SHARE = 0.1
"""The share of the budget in which the data and the model are read, before the teacher is trained."""
OUTPUTS_SHARE, RULES_SHARE, BASELINE_SHARE = 0.08, 0.06, 0.02
"""The most of the budget for the teacher's outputs on train, for the free rules, and for the linear model of tokens.

Unlabelled texts have as much as train: the teacher's outputs are all that is learned from them.
"""
PROBE_SHARE = 0.2
"""The most of the teacher's time for fitting the last layer of its new head."""
PROBE_PASS = 1 / 3
"""How many times as long as a training pass of a document it takes to read its features."""
LEAST_MEASURING_SHARE, MEASURING_SHARE = 0.1, 0.25
"""The least and the most of a trial's time for measuring its model on validation.

The least is for a small split, on which looking for the dials takes longer than measuring them.
"""
TESTING_SHARE = 0.6
"""The share of the time at the end for measuring trained models on test."""
LEAST_CLOSING_SHARE = 0.05
"""The share of the budget that the end has even if the trials took too long."""
DIAL_PASSES, FRONT_PASSES = 6.5, 5.0
"""How many times as long as one unreduced pass over a split it takes to measure a trial's model on validation along its
dial, as it was before its joint stage and as it is after it, and to measure the models of a front on test.
"""
FEWEST = 100
"""The fewest examples of a split that are used because of the budget, if the split has as many."""
JOINT_PER_SELECT = 4
"""The joint stage gets so many documents for each document of select, as long as the budget cuts select."""
WARM_PER_SELECT = 0.75
"""The warm start gets at least so many documents for each document of select, as long as the budget cuts select.

A short select stage needs its warm start most.
"""
MOST_CLOSING_S = 300.0
"""The most seconds kept for the end, unless measuring the front on test is known to take longer."""
MOST_ROUNDS = 6
"""The most trials that run one after the other if the number of trials is not given."""
SIDE_BY_SIDE = 1.6
"""How many times as long a trial takes beside other trials as alone, because cores share caches and memory.

Measured on two cores.
"""
SERIAL_SHARE = 1 / 3
"""The share of a training step that more threads make no faster: two threads are 1.5 times as fast as one.

This comes from one search on two cores (docs/results/search.md). A document of the teacher took 20 ms on two threads
there, and 30 ms on one thread of a trial. It is rough.
"""
ENOUGH_SELECT = 1000
"""The documents of select below which a search warns. Joint needs `JOINT_PER_SELECT` times as many.

On imdb a joint stage of 4,000 documents was as good at 3x as one of 8,000, and half a point worse at 5x
(docs/results/quality/tried.md). A search whose joint stages had 1,508 documents lost three points with all tokens kept.
"""
SHORTEST = 32
"""The fewest tokens of a document to which a warning advises."""
SLACK = 1.35
"""How many times as long as computed the stages of a trial may take: policies differ in what they keep."""


class StageTimeout(Exception):
    """Raised when a part of a search has used up its time. What it has done so far is kept."""


class Clock:
    """Counts the seconds of a search, or of a part of it.

    A clock that moves to another process goes on from the seconds that it had counted, because the clocks of two
    machines differ.

    Args:
        seconds: how long the part may take; without a limit by default.
        used: the seconds that were used before, by processes that have died.
    """

    def __init__(self, seconds: float = math.inf, used: float = 0.0) -> None:
        self.seconds, self._started = seconds, time.monotonic() - used

    def used(self) -> float:
        """Returns the seconds that were used so far."""
        return time.monotonic() - self._started

    def left(self) -> float:
        """Returns the seconds that are left; below 0 once that time is over."""
        return self.seconds - self.used()

    def part(self, seconds: float) -> "Clock":
        """Returns a new clock of a part that begins now; it ends after so many seconds, or when this one ends."""
        return Clock(min(seconds, self.left()))

    def check(self) -> None:
        """Returns if there is time left.

        Raises:
            StageTimeout: The time is over.
        """
        if self.left() < 0:
            raise StageTimeout

    def __getstate__(self) -> tuple[float, float]:
        return self.seconds, self.used()

    def __setstate__(self, state: tuple[float, float]) -> None:
        Clock.__init__(self, *state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the budget is spent.

    Attributes:
        seconds: the whole budget, in seconds.
        concurrent: the number of trials that run at the same time.
        trials: the number of all trials.
        trial_seconds: the time for one trial, in seconds.
        settled: whether the number of trials is final. If the user does not give it, it is 1 until the model is timed.
            Until then `concurrent` says for how many trials there is room.
        threads: the number of threads of each process of a trial.
        learners: the number of processes that share a joint stage, or the teacher's training.
        testing_seconds: the time that measuring the front on test takes, as far as that is known, in seconds.
        workers: the number of rollout workers of a trial.
        spread: whether the processes may be on several machines, of which each has its own memory.
    """

    seconds: float
    concurrent: int
    trials: int
    trial_seconds: float
    settled: bool = True
    threads: int = 1
    learners: int = 1
    testing_seconds: float = 0.0
    workers: int = 0
    spread: bool = False

    @property
    def teacher_seconds(self) -> float:
        """The time for the teacher's training, in seconds."""
        return TEACHER_SHARE * self.seconds

    @property
    def closing_seconds(self) -> float:
        """The time that is kept for the end, in seconds."""
        return min(CLOSING_SHARE * self.seconds, max(MOST_CLOSING_S, self.testing_seconds / TESTING_SHARE))

    @property
    def rounds(self) -> int:
        """How many trials run one after the other."""
        return math.ceil(self.trials / self.concurrent)

    @property
    def slowdown(self) -> float:
        """How many times as long a trial takes as one that has the machine to itself, with one thread."""
        return SIDE_BY_SIDE if self.concurrent > 1 else SERIAL_SHARE + (1 - SERIAL_SHARE) / self.threads

    @property
    def may_have_machine(self) -> bool:
        """Whether one trial may get all processors of a machine, once the model is timed.

        Learners have one processor each. A cluster may have many machines, of which one trial would use one.
        """
        return not self.settled and not self.spread and self.learners == 1


def make_plan(seconds: float, concurrent: int, num_trials: int | None, learners: int = 1, workers: int = 0) -> Plan:
    """Returns how the budget is spent; without a number of trials, `settle_trials` finds it once the model is timed.

    Args:
        seconds: the whole budget.
        concurrent: the number of trials for which there is room at the same time.
        num_trials: the number of trials wanted; as many as fit the budget if None.
        learners: the number of processes that share a joint stage, or the teacher's training.
        workers: the number of rollout workers of a trial.

    Example:
        >>> make_plan(600.0, concurrent=2, num_trials=4).trial_seconds
        150.0
    """
    plan = Plan(
        seconds=seconds,
        concurrent=concurrent if num_trials is None else min(concurrent, num_trials),
        trials=num_trials or 1,
        trial_seconds=TRIALS_SHARE * seconds,
        settled=num_trials is not None,
        learners=learners,
        workers=workers,
    )
    return replace(plan, trial_seconds=plan.trial_seconds / plan.rounds)


def teacher_seconds(plan: Plan, clock: Clock) -> float:
    """Returns the time for the teacher's training that begins now: its share, or less if reading took unusually long.

    Args:
        plan: how the budget is spent.
        clock: of the search.
    """
    return min(plan.teacher_seconds, TEACHER_SHARE / (1 - READING_SHARE) * max(0.0, clock.left()))


def after_preparing(plan: Plan, elapsed: float) -> Plan:
    """Returns the plan with the time that is left for each trial once data and teacher are prepared.

    The time left is the budget minus the seconds used, minus the time for the end. A trial gets at least a quarter of
    its planned time. So if preparing took far too long, the search takes longer than its budget.

    Example:
        >>> after_preparing(make_plan(600.0, concurrent=2, num_trials=4), elapsed=240.0).trial_seconds
        135.0
    """
    left = (plan.seconds - plan.closing_seconds - elapsed) / plan.rounds
    return replace(plan, trial_seconds=max(left, plan.trial_seconds / 4))


def settle_trials(plan: Plan, settings: Settings, seconds_a_document: float, evaluated: int, threads: int) -> Plan:
    """Returns the plan with as many trials as there is time for whole trainings, and with at least one.

    A whole training has all the documents that the settings ask for. One model that is trained whole has a better front
    than several that are not, because it covers all speed-ups. There are two ways to run trials: side by side, each
    with one thread, or one after the other, each with all threads. The way with more whole trainings is taken, and the
    second one if they are equal. There, one trial has all the time if it is too short for a whole training.

    On a cluster trials run side by side, and there is at least one round of them. A single trial would use one machine.

    Args:
        plan: how the budget is spent. Its `trial_seconds` are the time of all trials together.
        settings: of the run.
        seconds_a_document: the time of an unreduced training pass of one document, on one thread.
        evaluated: the number of documents on which each trial is evaluated.
        threads: the threads of each process of a trial that runs alone.

    Example:
        >>> plan = make_plan(600.0, concurrent=2, num_trials=None)
        >>> slow = settle_trials(plan, Settings(), 0.05, evaluated=300, threads=2)
        >>> slow.trials, slow.concurrent, slow.threads
        (1, 1, 2)
    """
    if plan.settled:
        return plan
    beside = replace(plan, settled=True)
    alone = beside if plan.spread else replace(beside, concurrent=1, threads=threads)

    def whole(way: Plan) -> int:
        """Returns how many whole trainings can run one after the other."""
        return min(MOST_ROUNDS, int(plan.trial_seconds // whole_seconds(settings, way, seconds_a_document, evaluated)))

    way = max((alone, beside), key=lambda each: each.concurrent * whole(each))
    rounds = max(1, whole(way))
    return replace(way, trials=rounds * way.concurrent, trial_seconds=plan.trial_seconds / rounds)


def fit_documents(plan: Plan, pass_seconds: float, threads: int, documents: Mapping[str, int]) -> dict[str, int]:
    """Returns how many examples of each split the budget can use, apart from the teacher's training.

    * train, and unlabelled: the teacher's outputs on them fit `OUTPUTS_SHARE`;
    * validation: measuring a model on them along its dial fits `MEASURING_SHARE` of a trial;
    * test: measuring the front on them fits `TESTING_SHARE` of the time for the end.

    Args:
        plan: how the budget is spent.
        pass_seconds: the time of an unreduced pass of one example in evaluation, on this process's threads.
        threads: the number of these threads. A trial has one, unless it may have the machine to itself.
        documents: how many there are.

    Example:
        >>> there = {"train": 3000, "validation": 300, "test": 4000}
        >>> fit_documents(make_plan(600.0, 1, 4), 0.01, 1, there)
        {'train': 3000, 'validation': 288, 'test': 1080}
    """
    aside = 1 + plan.workers if plan.may_have_machine else threads * plan.slowdown
    seconds = {
        "train": OUTPUTS_SHARE * plan.seconds,
        "unlabelled": OUTPUTS_SHARE * plan.seconds,
        "validation": MEASURING_SHARE * plan.trial_seconds / (DIAL_PASSES * aside),
        "test": TESTING_SHARE * CLOSING_SHARE * plan.seconds / FRONT_PASSES,
    }
    return {name: min(count, max(FEWEST, int(seconds[name] / pass_seconds))) for name, count in documents.items()}


def fit_teacher(settings: Settings, plan: Plan, seconds_a_document: float, documents: int) -> Settings:
    """Returns the settings with as many epochs of the teacher as fit its share of the budget.

    The pass that fits the last layer of the new head comes off that share. It takes at most `PROBE_SHARE` of it.

    Args:
        settings: of the run; they are never given more epochs or documents than they ask for.
        plan: how the budget is spent.
        seconds_a_document: the time of an unreduced training pass of one document.
        documents: the number of training documents.
    """
    affordable = plan.learners * plan.teacher_seconds / (1.25 * seconds_a_document)
    probe = min(settings.teacher.probe_documents, int(PROBE_SHARE * affordable / PROBE_PASS))
    epochs = (affordable - PROBE_PASS * min(probe, documents)) / documents
    return override(
        settings,
        {
            "teacher.probe_documents": probe,
            "teacher.epochs": min(settings.teacher.epochs, max(0.1, round(epochs, 2))),
        },
    )


def fit_trial(settings: Settings, plan: Plan, seconds_a_document: float, evaluated: int) -> Settings:
    """Returns the settings with as many documents of warm start, select and joint as fit the time of one trial.

    The time for measuring the model is set aside first. Then the three stages shrink together: for one document of
    select there are `WARM_PER_SELECT` documents of warm start and `JOINT_PER_SELECT` of joint. Time that is left once
    select has all the documents it asks for goes to joint.

    How long a document takes was measured on MiniLM with 209 tokens and two cores, in unreduced training passes:

    * warm start: 0.4;
    * select with 8 trajectories: 0.3 to 0.9, falling as the policy learns;
    * joint with 3 trajectories: 0.8 to 1.7, falling too;
    * evaluation in float32 along the whole dial: 1.2.

    Args:
        settings: of the run; no stage is given more documents than they ask for.
        plan: how the budget is spent.
        seconds_a_document: the time of an unreduced training pass of one document.
        evaluated: the number of documents on which each trial is evaluated.
    """
    select, joint = settings.select, settings.joint
    left = (plan.trial_seconds - measuring_seconds(settings, plan, seconds_a_document, evaluated)) / SLACK
    warm_share = _warm_share(settings)
    warm_each, select_each, joint_each = _seconds_each(settings, plan, seconds_a_document)

    def others(documents: int) -> tuple[int, int]:
        """Returns the documents of warm start and of joint for this many documents of select."""
        warm = min(select.warm_start_documents, int(warm_share * documents))
        return warm, min(joint.documents, JOINT_PER_SELECT * documents)

    def cost(documents: int) -> float:
        warm, joint_documents = others(documents)
        return documents * select_each + warm * warm_each + joint_documents * joint_each

    fewest = min(select.documents, max(select.step_documents, select.documents // 50))
    counts = range(fewest, select.documents + 1)
    documents = counts[max(0, bisect_right(counts, left, key=cost) - 1)]
    warm, least = others(documents)
    affordable = (left - documents * select_each - warm * warm_each) / joint_each
    return override(
        settings,
        {
            "select.documents": documents,
            "select.warm_start_documents": warm,
            "joint.documents": min(joint.documents, max(least, int(affordable))),
        },
    )


def _warm_share(settings: Settings) -> float:
    """Returns the documents of warm start for each document of select, as long as the budget cuts select."""
    return max(WARM_PER_SELECT, settings.select.warm_start_documents / settings.select.documents)


def _seconds_each(settings: Settings, plan: Plan, seconds_a_document: float) -> tuple[float, float, float]:
    """Returns the time of one document in warm start, in select and in joint, as `fit_trial` has it."""
    slow = plan.slowdown * seconds_a_document
    select, joint = 0.05 * settings.select.samples + 0.1, 0.2 * settings.joint.samples + 0.5
    return 0.45 * slow, select * slow, joint * slow / plan.learners


def whole_seconds(settings: Settings, plan: Plan, seconds_a_document: float, evaluated: int) -> float:
    """Returns the time of a trial with all the documents of these settings, measuring included.

    Args:
        settings: of the trial.
        plan: how the budget is spent.
        seconds_a_document: the time of an unreduced training pass of one document.
        evaluated: the number of documents on which each trial is evaluated.
    """
    counts = (settings.select.warm_start_documents, settings.select.documents, settings.joint.documents)
    each = _seconds_each(settings, plan, seconds_a_document)
    learning = math.fsum(count * seconds for count, seconds in zip(counts, each, strict=True))
    return SLACK * learning + measuring_seconds(settings, plan, seconds_a_document, evaluated)


def measuring_seconds(settings: Settings, plan: Plan, seconds_a_document: float, evaluated: int) -> float:
    """Returns the time for measuring a trial's model on validation along its whole dial.

    A trial with a joint stage measures its model twice: as it was before that stage, and as it is after it.

    Args:
        settings: of the trial.
        plan: how the budget is spent.
        seconds_a_document: the time of an unreduced training pass of one document.
        evaluated: the number of documents on which each trial is evaluated.
    """
    times = 2 if settings.joint.documents else 1
    return times * 1.2 * evaluated * seconds_a_document * plan.slowdown


def too_little(
    asked: Settings, fitted: Settings, plan: Plan, seconds_a_document: float, evaluated: int, mean_tokens: float
) -> str | None:
    """Returns a warning if select or joint see fewer documents than they need, with what helps; None if they do not.

    A stage needs the documents of `ENOUGH_SELECT`, or those that the user asks for if they are fewer. Of each second
    that is added to a budget, trials get the share `TRIALS_SHARE`.

    Args:
        asked: the settings of the run.
        fitted: what `fit_trial` made of them.
        plan: how the budget is spent.
        seconds_a_document: the time of an unreduced training pass of one document.
        evaluated: the number of documents on which each trial is evaluated.
        mean_tokens: the mean length of a training document.
    """
    select = min(asked.select.documents, ENOUGH_SELECT)
    needed = {
        "select.documents": select,
        "select.warm_start_documents": min(asked.select.warm_start_documents, int(_warm_share(asked) * select)),
        "joint.documents": min(asked.joint.documents, JOINT_PER_SELECT * ENOUGH_SELECT),
    }
    stages = {
        "select": (fitted.select.documents, select),
        "joint": (fitted.joint.documents, needed["joint.documents"]),
    }
    told = [
        f"the {name} stage sees {seen:,} of the {enough:,} documents that it needs"
        for name, (seen, enough) in stages.items()
        if seen < enough
    ]
    if not told:
        return None
    enough_s = whole_seconds(override(asked, needed), plan, seconds_a_document, evaluated)
    more = plan.rounds * max(0.0, enough_s - plan.trial_seconds) / TRIALS_SHARE
    remedy = f"--budget {math.ceil((plan.seconds + more) / 60)}m gives it more"
    tokens = 8 * int(mean_tokens * plan.trial_seconds / enough_s / 8)  # a document's time follows its length
    if SHORTEST <= tokens < mean_tokens:
        remedy += f", and so do shorter documents with --max-length {tokens}"
    return f"with a budget of {plan.seconds / 60:.3g}m {' and '.join(told)}: {remedy}"
