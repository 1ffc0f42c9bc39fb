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
    measuring_seconds,
    settle_trials,
    teacher_seconds,
    too_little,
)
from tune.settings import Settings, override


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(budget)
    assert results.attempted >= 2
    assert results.failed == 0


def test_without_a_number_of_trials_there_is_one_with_all_their_time_until_the_model_is_timed():
    plan = make_plan(600.0, concurrent=2, num_trials=None)
    assert plan == Plan(seconds=600.0, concurrent=2, trials=1, trial_seconds=300.0, settled=False)
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


PLAN = make_plan(600.0, concurrent=2, num_trials=4)


# How many trials there are. The settings ask for 1,000 documents of select with 8 samples, 0.5 passes each, and for
# 1,000 of joint with 2, 0.9 each. With the slack a whole training is 1.35 · 1,400 = 1,890 passes. 1,000 documents to
# evaluate, twice for 1.2 passes, make it 4,290. At 0.01 s a pass that is 42.9 s on one thread alone, 68.64 s beside
# another trial, and on two threads 2 / 3 of it, 28.6 s.
WHOLE = override(
    Settings(),
    {
        "select.documents": 1000,
        "select.samples": 8,
        "select.warm_start_documents": 0,
        "joint.documents": 1000,
        "joint.samples": 2,
    },
)


def settled(seconds, concurrent=2, threads=2, spread=False, seconds_a_document=0.01):
    """The plan for trials that have this time together."""
    plan = dataclasses.replace(make_plan(2 * seconds, concurrent, None), spread=spread)
    return settle_trials(plan, WHOLE, seconds_a_document, 1000, threads)


@pytest.mark.parametrize(
    ("seconds", "trials", "each"),
    [(20.0, 1, 20.0), (28.5, 1, 28.5), (57.0, 1, 57.0), (57.3, 2, 28.65), (86.0, 3, 86 / 3)],
)
def test_there_are_as_many_trials_as_whole_trainings_fit_and_at_least_one_which_has_all_threads(seconds, trials, each):
    plan = settled(seconds)
    assert (plan.trials, plan.concurrent, plan.threads) == (trials, 1, 2)
    assert plan.trial_seconds == pytest.approx(each)
    assert plan.settled


def test_trials_run_side_by_side_where_more_whole_ones_fit_in_that_way():
    # Without further threads: one alone in 42.9 s, two at once in 68.64 s; in 137.3 s three, or two rounds of two.
    assert settled(68.7, threads=1) == dataclasses.replace(
        make_plan(137.4, 2, None), trials=2, settled=True, trial_seconds=68.7
    )
    assert [settled(137.3, threads=1).trials, settled(137.2, threads=1).trials] == [4, 3]
    assert settled(68.6, threads=1).trials == 1  # not both fit, and one of them has the time to itself
    # Sixteen threads are 1 / (1 / 3 + 2 / 3 / 16), 2.67 times as fast as one: four in 68.7 s, against sixteen at once.
    assert (settled(68.7, 16, 16).trials, settled(68.7, 16, 16).threads) == (16, 1)


def test_a_long_budget_has_six_rounds_of_trials_at_most():
    plan = settled(36_000.0)
    assert (plan.trials, plan.concurrent, plan.trial_seconds) == (12, 2, 6000.0)


def test_on_a_cluster_there_is_at_least_one_round_of_trials_of_one_thread():
    plan = settled(20.0, concurrent=8, spread=True)
    assert (plan.trials, plan.concurrent, plan.threads, plan.trial_seconds) == (8, 8, 1, 20.0)


def test_a_number_of_trials_that_the_user_gives_is_kept():
    assert settle_trials(PLAN, WHOLE, 0.01, 1000, threads=2) == PLAN


def test_a_trial_on_two_threads_sees_half_as_many_documents_more_as_one_on_one_thread():
    # 135 / 1.35 = 100 s, less 16 documents of select; see test_joint_gets_what_its_learners_can_do.
    plan = dataclasses.replace(ALONE, threads=2)
    assert plan.slowdown == pytest.approx(2 / 3)
    assert fit_trial(SHORT_SELECT, plan, 0.01, evaluated=0).joint.documents == 16_657  # (100 − 0.0533) / 0.006


# What a search warns of. The stages need 1,000 documents of select and 4,000 of joint: 1.35 · (500 + 750 · 0.45 +
# 3,600) = 5,990.625 passes, and 2.4 · 100 for measuring: 6,230.625 passes. On two threads at 0.06 s they take
# 249.225 s.


def warned(settings, trials=1, **changes):
    plan = dataclasses.replace(make_plan(300.0, 1, trials), threads=2, **changes)
    fitted = fit_trial(settings, plan, 0.06, evaluated=100)
    return too_little(settings, fitted, plan, 0.06, 100, mean_tokens=128.0)


def test_a_search_whose_stages_see_too_little_says_what_would_give_them_more():
    # Trials have 150 of 300 s. The 99.225 s that lack are half of 198.45 s: 498.45 s, nine minutes. Documents of
    # 128 · 150 / 249.225 = 77.04 tokens would do.
    plan = dataclasses.replace(make_plan(300.0, 1, 1), threads=2)
    seen = fit_trial(Settings(), plan, 0.06, evaluated=100)
    assert warned(Settings()) == (
        f"with a budget of 5m the select stage sees {seen.select.documents:,} of the 1,000 documents that it needs and "
        f"the joint stage sees {seen.joint.documents:,} of the 4,000 documents that it needs: --budget 9m gives it "
        "more, and so do shorter documents with --max-length 72"
    )
    longer = dataclasses.replace(make_plan(540.0, 1, 1), threads=2)
    assert too_little(Settings(), fit_trial(Settings(), longer, 0.06, 100), longer, 0.06, 100, 128.0) is None


def test_each_of_several_trials_needs_its_documents():
    # 75 s each: 174.225 s lack twice, which are half of 696.9 s; and 128 · 75 / 249.225 are 38.5 tokens.
    told = warned(Settings(), trials=2)
    assert told.endswith(": --budget 17m gives it more, and so do shorter documents with --max-length 32")


def test_documents_are_never_advised_to_be_shorter_than_a_sentence():
    assert warned(Settings(), trials=3).endswith(": --budget 25m gives it more")  # 50 s: 3 · 398.45 s; 25.7 tokens


def test_a_stage_that_the_user_made_short_needs_no_more_than_that():
    assert warned(override(Settings(), {"select.documents": 300, "joint.documents": 1200})) is None
    assert warned(override(Settings(), {"select.documents": 300, "joint.documents": 0})) is None


def test_a_teacher_that_fits_is_left_alone():
    assert fit_teacher(Settings(), PLAN, seconds_a_document=1e-4, documents=1000) == Settings()


WITHOUT_PROBE = override(Settings(), {"teacher.probe_documents": 0})


def test_a_teachers_epochs_are_cut_to_its_share():
    # 150 s at 1.25 · 0.03 s a document, 2,000 documents an epoch: two epochs.
    fitted = fit_teacher(WITHOUT_PROBE, PLAN, seconds_a_document=0.03, documents=2000)
    assert fitted == override(WITHOUT_PROBE, {"teacher.epochs": 2.0})
    assert fit_teacher(WITHOUT_PROBE, PLAN, seconds_a_document=100.0, documents=2000).teacher.epochs == 0.1
    few = override(WITHOUT_PROBE, {"teacher.epochs": 0.004})  # rounded to hundredths it would be none
    assert fit_teacher(few, PLAN, seconds_a_document=0.03, documents=2000) == few


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
    # 1.6: the plan's two trials run side by side. Each is measured before its joint stage and after it.
    return (2 * 1.2 * evaluated + 1.35 * (select + joint)) * 1.6 * seconds_a_document


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
    three = make_plan(600.0, concurrent=2, num_trials=4, learners=3)
    assert three == dataclasses.replace(PLAN, learners=3)
    assert fit_teacher(WITHOUT_PROBE, three, seconds_a_document=0.06, documents=2000).teacher.epochs == 3.0
    assert fit_teacher(WITHOUT_PROBE, PLAN, seconds_a_document=0.06, documents=2000).teacher.epochs == 1.0


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
    # Twice 1.2 · 1,000 · 0.01 s are 24 s: (135 - 24) / 1.35 less 0.08 s is 82.142 s, at 0.009 s.
    assert fit_trial(SHORT_SELECT, ALONE, 0.01, evaluated=1000).joint.documents == 9_126
    # Without a joint stage the model is measured once.
    assert measuring_seconds(SHORT_SELECT, ALONE, 0.01, 1000) == pytest.approx(24.0)
    selected = override(SHORT_SELECT, {"joint.documents": 0})
    assert measuring_seconds(selected, ALONE, 0.01, 1000) == pytest.approx(12.0)


@pytest.mark.parametrize(("elapsed", "seconds"), [(400.0, 55.0), (435.0, 37.5), (436.0, 37.5)])
def test_a_trial_gets_a_quarter_of_its_promise_where_less_is_left_and_what_is_left_else(elapsed, seconds):
    # Two waves of 150 s were promised; 510 s less the elapsed ones are shared by two.
    plan = make_plan(600.0, concurrent=2, num_trials=4)
    assert after_preparing(plan, elapsed).trial_seconds == seconds


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
        # 8 % of 600 s; a quarter of 150 s for 6.5 passes, beside another trial; six tenths of 90 s for five passes.
        (0.02, 1, {"train": 2400, "validation": 180, "test": 540}),
        (0.02, 2, {"train": 2400, "validation": 100, "test": 540}),  # a trial has one thread: 90, and at least 100
        (0.0001, 1, THERE),
        (10.0, 1, {"train": 100, "validation": 100, "test": 100}),
    ],
)
def test_each_split_has_the_documents_that_the_budget_can_use(pass_seconds, threads, used):
    assert fit_documents(PLAN, pass_seconds, threads, THERE) == used


def test_validation_is_for_one_trial_with_the_whole_machine_until_the_number_of_trials_is_known():
    # A quarter of 300 s for 6.5 passes of 0.04 s, whatever the threads; a worker takes half of the processors.
    plan = make_plan(600.0, 2, None)
    assert fit_documents(plan, 0.04, 2, THERE)["validation"] == 288
    assert fit_documents(dataclasses.replace(plan, workers=1), 0.04, 2, THERE)["validation"] == 144
    # A trial of a cluster has one of the two threads, and others beside it.
    assert fit_documents(dataclasses.replace(plan, spread=True), 0.02, 2, THERE)["validation"] == 180


def test_unlabelled_texts_have_as_much_time_as_train():
    assert fit_documents(PLAN, 0.04, 1, {**THERE, "unlabelled": 20_000})["unlabelled"] == 1200


def test_the_teacher_has_its_share_or_less_where_reading_took_more_than_a_tenth_of_the_budget(now):
    clock = Clock(600.0)
    now[0] += 60.0
    assert teacher_seconds(PLAN, clock) == pytest.approx(150.0)
    now[0] += 270.0
    assert teacher_seconds(PLAN, clock) == pytest.approx(75.0)
    now[0] += 600.0
    assert teacher_seconds(PLAN, clock) == 0.0
