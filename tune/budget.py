"""A time budget, shared out: how many trials, and how many documents each stage may see."""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace

from tune.settings import Settings, override

TEACHER_SHARE, TRIALS_SHARE, CLOSING_SHARE = 0.25, 0.5, 0.15
JOINT_PER_SELECT = 4
"""Documents of joint for one of select, before select has all that it asks for; more time is better spent on joint."""
WARM_PER_SELECT = 0.75
"""Documents of warm start for one of select, before it has all that it asks for: a short select needs it most."""
MOST_CLOSING_S = 300.0
"""The front's models are measured once, however long the search was."""
LEAST_TRIAL_S = 130.0
SIDE_BY_SIDE = 1.6
"""How much longer a trial takes beside others than alone: cores share caches and memory (measured on two)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the budget is spent.

    Attributes:
        seconds: the whole.
        concurrent: trials at once.
        trials: trials in all.
        trial_seconds: what one trial may take.
        learners: processes that share a joint stage, or the teacher's training.
    """

    seconds: float
    concurrent: int
    trials: int
    trial_seconds: float
    learners: int = 1

    @property
    def teacher_seconds(self) -> float:
        """What the teacher may take."""
        return TEACHER_SHARE * self.seconds


def make_plan(seconds: float, concurrent: int, num_trials: int | None, learners: int = 1) -> Plan:
    """Returns how many trials fit the budget, or how long each of the wanted number may take.

    Example:
        >>> make_plan(600.0, concurrent=2, num_trials=None).trials
        4
    """
    available = TRIALS_SHARE * seconds
    if num_trials is None:
        waves = max(1, int(available // max(LEAST_TRIAL_S, available / 6)))
        num_trials = waves * concurrent
    else:
        waves = math.ceil(num_trials / concurrent)
    return Plan(
        seconds=seconds,
        concurrent=concurrent,
        trials=num_trials,
        trial_seconds=available / waves,
        learners=learners,
    )


def after_preparing(plan: Plan, elapsed: float) -> Plan:
    """Returns the plan with what is really left for trials: the budget less the seconds used and some for the end.

    Preparing that took far too long leaves a trial a quarter of what it was promised; the budget then overruns.

    Example:
        >>> after_preparing(make_plan(600.0, concurrent=2, num_trials=4), elapsed=240.0).trial_seconds
        135.0
    """
    waves = math.ceil(plan.trials / plan.concurrent)
    closing = min(CLOSING_SHARE * plan.seconds, MOST_CLOSING_S)
    left = (plan.seconds - closing - elapsed) / waves
    return replace(plan, trial_seconds=max(left, plan.trial_seconds / 4))


def fit_teacher(settings: Settings, plan: Plan, seconds_a_document: float, documents: int) -> Settings:
    """Returns settings whose teacher stage fits its share of the budget."""
    affordable = plan.learners * plan.teacher_seconds / (1.25 * seconds_a_document * documents)
    return override(settings, {"teacher.epochs": round(min(settings.teacher.epochs, max(0.1, affordable)), 2)})


def fit_trial(settings: Settings, plan: Plan, seconds_a_document: float, evaluated: int) -> Settings:
    """Returns settings whose select and joint stages fit one trial's share of the budget.

    The shares of an unreduced training pass were measured on MiniLM, 209 tokens, two cores: a document of warm start
    0.4, of select with 8 trajectories 0.3 to 0.9 (most at first), of joint with 3 of them 0.8 to 1.7 (likewise), of
    evaluation in float32 along the dial 1.2. The evaluation of `evaluated` documents comes off first. The stages
    shrink together, `WARM_PER_SELECT` and `JOINT_PER_SELECT` documents of the others for one of select; what select
    leaves over is joint's.
    """
    select, joint = settings.select, settings.joint
    if plan.concurrent > 1:
        seconds_a_document *= SIDE_BY_SIDE
    select_each = (0.05 * select.samples + 0.1) * seconds_a_document
    warm_each = 0.45 * seconds_a_document
    joint_each = (0.2 * joint.samples + 0.5) * seconds_a_document / plan.learners
    left = (plan.trial_seconds - 1.2 * evaluated * seconds_a_document) / 1.35
    warm_share = max(WARM_PER_SELECT, select.warm_start_documents / select.documents)

    def others(documents: int) -> tuple[int, int]:
        """Returns the documents of warm start and of joint that go with so many of select."""
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
