"""A time budget, shared out."""

import dataclasses
import doctest
import pickle

import pytest

from tune import budget
from tune.budget import (
    CLOSING_SHARE,
    JOINT_PER_SELECT,
    MOST_CLOSING_S,
    TEACHER_SHARE,
    TRIALS_SHARE,
    WARM_PER_SELECT,
    Clock,
    Plan,
    StageTimeout,
    after_preparing,
    fit_documents,
    fit_teacher,
    fit_trial,
    make_plan,
    teacher_seconds,
)
from tune.settings import Settings, override


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(budget)
    assert results.attempted >= 2
    assert results.failed == 0


def test_ten_minutes_on_two_cores_are_four_trials():
    # Half of 600 s: two waves of at least 130 s, two trials each.
    plan = make_plan(600.0, concurrent=2, num_trials=None)
    assert plan == Plan(seconds=600.0, concurrent=2, trials=4, trial_seconds=150.0)
    assert plan.teacher_seconds == pytest.approx(150)


def test_a_wanted_number_of_trials_shares_the_time():
    # Five trials, two at once, are three waves.
    plan = make_plan(600.0, concurrent=2, num_trials=5)
    assert (plan.trials, plan.trial_seconds) == (5, pytest.approx(TRIALS_SHARE * 600 / 3))
    assert make_plan(600.0, concurrent=8, num_trials=3).trial_seconds == pytest.approx(TRIALS_SHARE * 600)


@pytest.mark.parametrize("seconds", [30.0, 300.0, 600.0, 3600.0, 7200.0, 86400.0])
@pytest.mark.parametrize("concurrent", [1, 2, 3, 16])
@pytest.mark.parametrize("num_trials", [None, 1, 7, 40])
def test_a_plan_never_exceeds_its_budget(seconds, concurrent, num_trials):
    plan = make_plan(seconds, concurrent, num_trials)
    waves = -(-plan.trials // concurrent)
    assert plan.trials >= 1
    assert plan.teacher_seconds + waves * plan.trial_seconds <= (TEACHER_SHARE + TRIALS_SHARE) * seconds + 1e-6
    assert TEACHER_SHARE + TRIALS_SHARE + CLOSING_SHARE < 1  # reading and encoding the rows take time too


def test_more_time_gives_longer_trials_not_only_more():
    assert make_plan(7200.0, 2, None).trials == 12  # six waves at most
    assert make_plan(7200.0, 2, None).trial_seconds == pytest.approx(TRIALS_SHARE * 7200 / 6)


def test_what_preparing_left_over_is_the_trials():
    plan = make_plan(600.0, concurrent=2, num_trials=4)
    # 90 of 600 s are for the end: (510 − 240) / 2 waves; preparing that cost little leaves more.
    assert after_preparing(plan, elapsed=240.0).trial_seconds == pytest.approx(135)
    assert after_preparing(plan, elapsed=20.0).trial_seconds == pytest.approx(245)
    assert after_preparing(plan, elapsed=20.0).trials == 4


def test_the_end_takes_no_longer_because_the_search_did():
    plan = make_plan(7200.0, concurrent=2, num_trials=4)
    assert after_preparing(plan, elapsed=900.0).trial_seconds == pytest.approx((7200 - MOST_CLOSING_S - 900) / 2)


@pytest.mark.parametrize("elapsed", [520.0, 5000.0])
def test_preparing_that_took_far_too_long_leaves_a_trial_a_quarter(elapsed):
    plan = make_plan(600.0, concurrent=2, num_trials=4)
    assert after_preparing(plan, elapsed).trial_seconds == plan.trial_seconds / 4


PLAN = make_plan(600.0, concurrent=2, num_trials=None)


def test_a_teacher_that_fits_is_left_alone():
    assert fit_teacher(Settings(), PLAN, seconds_a_document=1e-4, documents=1000) == Settings()


WHOLE = override(Settings(), {"teacher.probe_documents": 0})


def test_a_teachers_epochs_are_cut_to_its_share():
    # 150 s at 1.25 · 0.03 s a document, 2,000 documents an epoch: two epochs.
    fitted = fit_teacher(WHOLE, PLAN, seconds_a_document=0.03, documents=2000)
    assert fitted == override(WHOLE, {"teacher.epochs": 2.0})
    assert fit_teacher(WHOLE, PLAN, seconds_a_document=100.0, documents=2000).teacher.epochs == 0.1


@pytest.mark.parametrize(
    ("asked", "seconds", "documents", "probe", "epochs"),
    [
        # The share is 4,000 documents of training. A third of 1,500 is 500: 3,500 of 2,000 are left.
        (1500, 0.03, 2000, 1500, 1.75),
        # There are only 1,000 documents to read, which cost 333: 3,667 of 1,000.
        (1500, 0.03, 1000, 1500, 3.67),
        # The share is 400 documents. A fifth of it reads 240 documents, and four fifths are left.
        (1500, 0.3, 2000, 240, 0.16),
        (1500, 100.0, 2000, 0, 0.1),
    ],
)
def test_the_fit_of_a_new_head_comes_off_the_teachers_share(asked, seconds, documents, probe, epochs):
    settings = override(Settings(), {"teacher.probe_documents": asked})
    fitted = fit_teacher(settings, PLAN, seconds, documents).teacher
    assert (fitted.probe_documents, fitted.epochs) == (probe, epochs)


def trial_seconds(settings, seconds_a_document, evaluated):
    """What fit_trial's own account of a trial comes to."""
    select = settings.select.documents * (0.05 * settings.select.samples + 0.1)
    select += 0.45 * settings.select.warm_start_documents
    joint = settings.joint.documents * (0.2 * settings.joint.samples + 0.5)
    # 1.6: the plan's two trials run side by side.
    return (1.2 * evaluated + 1.35 * (select + joint)) * 1.6 * seconds_a_document


def test_a_trial_that_fits_is_left_alone():
    assert fit_trial(Settings(), PLAN, seconds_a_document=1e-4, evaluated=1000) == Settings()


def test_a_long_warm_start_that_was_asked_for_shrinks_with_the_rest():
    wanted = override(Settings(), {"select.warm_start_documents": 12_000})
    fitted = fit_trial(wanted, PLAN, 0.02, evaluated=300)
    assert fitted.select.warm_start_documents == pytest.approx(2 * fitted.select.documents, rel=0.01)
    assert 0.95 * PLAN.trial_seconds < trial_seconds(fitted, 0.02, 300) <= PLAN.trial_seconds


@pytest.mark.parametrize("seconds_a_document", [0.0005, 0.001, 0.002])
def test_time_that_select_leaves_over_is_joints(seconds_a_document):
    wanted = override(Settings(), {"joint.documents": 10**6})
    fitted = fit_trial(wanted, PLAN, seconds_a_document, evaluated=300)
    assert fitted.select == wanted.select
    assert fitted.joint.documents > JOINT_PER_SELECT * wanted.select.documents
    assert 0.99 * PLAN.trial_seconds < trial_seconds(fitted, seconds_a_document, 300) <= PLAN.trial_seconds


def test_a_short_trial_is_the_same_however_many_documents_joint_may_have():
    few, many = (override(Settings(), {"joint.documents": count}) for count in (8000, 64000))
    fitted = fit_trial(many, PLAN, 0.03, evaluated=300)
    assert fitted == fit_trial(few, PLAN, 0.03, evaluated=300)


@pytest.mark.parametrize("seconds_a_document", [0.007, 0.01, 0.02, 0.03, 0.04])
def test_the_stages_of_a_trial_shrink_alike_until_it_fits(seconds_a_document):
    wanted = override(Settings(), {"joint.documents": JOINT_PER_SELECT * Settings().select.documents})
    assert trial_seconds(wanted, seconds_a_document, 300) > PLAN.trial_seconds
    fitted = fit_trial(wanted, PLAN, seconds_a_document, evaluated=300)
    spent = trial_seconds(fitted, seconds_a_document, 300)
    assert 0.95 * PLAN.trial_seconds < spent <= PLAN.trial_seconds
    select_share = fitted.select.documents / wanted.select.documents
    assert select_share == pytest.approx(fitted.joint.documents / wanted.joint.documents, rel=0.02)
    share = fitted.select.warm_start_documents / fitted.select.documents
    if fitted.select.warm_start_documents < wanted.select.warm_start_documents:
        assert share == pytest.approx(WARM_PER_SELECT, rel=0.01)
    else:
        assert share < WARM_PER_SELECT
    cut = ("select.documents", "select.warm_start_documents", "joint.documents")
    same = dict(
        zip(cut, (wanted.select.documents, wanted.select.warm_start_documents, wanted.joint.documents), strict=True)
    )
    assert override(fitted, same) == wanted


def test_a_trial_without_time_still_takes_one_step_of_select():
    fitted = fit_trial(Settings(), PLAN, seconds_a_document=10.0, evaluated=10_000)
    assert fitted.select.documents == max(Settings().select.step_documents, 0.02 * Settings().select.documents)
    assert fitted.joint.documents == 0.02 * JOINT_PER_SELECT * Settings().select.documents


# Several learners, and trials side by side.


def test_learners_share_the_teachers_training_so_that_more_epochs_fit():
    # 150 s of three learners, at 1.25 · 0.06 s a document, 2,000 documents an epoch: 450 / 150 = 3 epochs.
    three = make_plan(600.0, concurrent=2, num_trials=None, learners=3)
    assert three == dataclasses.replace(PLAN, learners=3)
    assert fit_teacher(WHOLE, three, seconds_a_document=0.06, documents=2000).teacher.epochs == 3.0
    assert fit_teacher(WHOLE, PLAN, seconds_a_document=0.06, documents=2000).teacher.epochs == 1.0


SHORT_SELECT = override(
    Settings(),
    {
        "select.documents": 16,
        "select.step_documents": 16,
        "select.samples": 8,
        "select.warm_start_documents": 0,
        "joint.documents": 10**6,
        "joint.samples": 2,
    },
)
ALONE = Plan(seconds=600.0, concurrent=1, trials=1, trial_seconds=135.0)


# At 0.01 s a document: 135 / 1.35 = 100 s, less 16 · 0.005 s of select, are 99.92 s. A document of joint takes 0.009 s
# alone, and half of it for two learners. Beside others it takes 1.6 times as long, and so does select: 99.872 / 0.0144.
@pytest.mark.parametrize(
    ("changes", "documents"),
    [({}, 11_102), ({"learners": 2}, 22_204), ({"concurrent": 2}, 6_935), ({"concurrent": 2, "learners": 2}, 13_871)],
)
def test_joint_gets_what_its_learners_can_do_alone_or_beside_other_trials(changes, documents):
    plan = dataclasses.replace(ALONE, **changes)
    assert fit_trial(SHORT_SELECT, plan, 0.01, evaluated=0).joint.documents == documents


def test_evaluation_comes_off_a_trials_time_first():
    # 1.2 · 1,000 · 0.01 s are 12 s: (135 - 12) / 1.35 less 0.08 s is 91.031 s, at 0.009 s.
    assert fit_trial(SHORT_SELECT, ALONE, 0.01, evaluated=1000).joint.documents == 10_114


@pytest.mark.parametrize(("elapsed", "seconds"), [(400.0, 55.0), (435.0, 37.5), (436.0, 37.5)])
def test_a_trial_gets_a_quarter_of_its_promise_where_less_is_left_and_what_is_left_else(elapsed, seconds):
    # Two waves of 150 s were promised; 510 s less the elapsed ones are shared by two.
    plan = make_plan(600.0, concurrent=2, num_trials=4)
    assert after_preparing(plan, elapsed).trial_seconds == seconds


def test_a_budget_too_short_for_a_trial_is_one_wave_of_shorter_ones():
    # Half of 100 s is less than the 130 s that a trial is to have at least.
    plan = make_plan(100.0, concurrent=2, num_trials=None)
    assert (plan.trials, plan.trial_seconds) == (2, 50.0)


def test_no_more_trials_run_at_once_than_there_are():
    plan = make_plan(600.0, concurrent=8, num_trials=2)
    assert (plan.trials, plan.concurrent) == (2, 2)
    alone = make_plan(600.0, concurrent=8, num_trials=1)
    # A trial that has the machine to itself is not slowed down by others.
    assert fit_trial(Settings(), alone, 0.03, 300) == fit_trial(Settings(), make_plan(600.0, 1, 1), 0.03, 300)


# The clock.


@pytest.fixture
def now(monkeypatch):
    """A clock of the machine that stands still unless the test moves it."""
    found = [1000.0]
    monkeypatch.setattr("tune.budget.time.monotonic", lambda: found[0])
    return found


def test_a_clock_counts_what_is_used_and_what_is_left_and_stops_when_nothing_is(now):
    clock = Clock(60.0, used=15.0)  # an earlier process used 15 s
    now[0] += 40.0
    assert (clock.used(), clock.left()) == (55.0, 5.0)
    clock.check()
    now[0] += 5.1
    with pytest.raises(StageTimeout):
        clock.check()


def test_a_part_of_a_clock_begins_now_and_ends_with_the_whole_at_the_latest(now):
    clock = Clock(60.0)
    now[0] += 40.0
    assert clock.part(5.0).left() == 5.0
    assert clock.part(50.0).left() == pytest.approx(20.0)
    assert Clock().part(50.0).left() == 50.0


def test_a_clock_goes_on_in_another_process_from_the_seconds_it_had_counted(now):
    clock = Clock(60.0)
    now[0] += 40.0
    pickled = pickle.dumps(clock)
    now[0] = 7.0  # another machine's clock shows something else
    assert pickle.loads(pickled).left() == 20.0


def test_the_end_has_the_time_that_measuring_on_test_is_known_to_take_within_its_share():
    plan = make_plan(36_000.0, concurrent=1, num_trials=1)
    assert plan.closing_seconds == MOST_CLOSING_S
    assert dataclasses.replace(plan, testing_seconds=600.0).closing_seconds == pytest.approx(1000.0)
    assert dataclasses.replace(plan, testing_seconds=60_000.0).closing_seconds == CLOSING_SHARE * 36_000


THERE = {"train": 3000, "validation": 1000, "test": 4043}


@pytest.mark.parametrize(
    ("pass_seconds", "threads", "used"),
    [
        # 8 % of 600 s; a quarter of 150 s for four passes, beside another trial; six tenths of 90 s for five passes.
        (0.04, 1, {"train": 1200, "validation": 146, "test": 270}),
        (0.04, 2, {"train": 1200, "validation": 100, "test": 270}),  # a trial has one thread: 73, and at least 100
        (0.0001, 1, THERE),
        (10.0, 1, {"train": 100, "validation": 100, "test": 100}),
    ],
)
def test_each_split_has_the_documents_that_the_budget_can_use(pass_seconds, threads, used):
    assert fit_documents(PLAN, pass_seconds, threads, THERE) == used


def test_the_teacher_has_its_share_or_less_where_reading_took_more_than_a_tenth_of_the_budget(now):
    clock = Clock(600.0)
    now[0] += 60.0
    assert teacher_seconds(PLAN, clock) == pytest.approx(150.0)
    now[0] += 270.0
    assert teacher_seconds(PLAN, clock) == pytest.approx(75.0)
    now[0] += 600.0
    assert teacher_seconds(PLAN, clock) == 0.0
