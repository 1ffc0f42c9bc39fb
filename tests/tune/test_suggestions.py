"""Which configurations a search tries: Optuna's, less what is next to a trial that has lost."""

import math
import pickle
from types import SimpleNamespace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from ray.tune.search.optuna import OptunaSearch

from trbert.errors import RunFolderError
from tune.suggestions import FreshSearch, distance, known_trials

SPACE = {
    "penalty": FloatDistribution(0.1, 10.0, log=True),
    "points": CategoricalDistribution(["0,2", "1,3"]),
}
LOSER = {"penalty": 1.0, "points": "0,2"}
WINNER = {"penalty": 5.0, "points": "0,2"}


@pytest.fixture
def make(tmp_path):
    """A function: guesses, and what the search knows already -> a search, whose study lies in `study.log`."""

    def made(*guesses, seed=0, known=(), said=None, path=tmp_path / "study.log"):
        say = (lambda line: None) if said is None else said.append
        return FreshSearch(path, SPACE, guesses, seed=seed, say=say, known=known)

    return made


@pytest.fixture
def search(make):
    return make(LOSER, WINNER)


def result(*curve):
    quality, cost = curve[0]
    return {"quality": quality, "cost": cost, "curve": [list(point) for point in curve]}


def finish(search, loser, winner=((0.8, 0.5),)):
    """Finishes two trials with these points of quality and cost."""
    assert search.suggest("a") == LOSER
    assert search.suggest("b") == WINNER
    search.on_trial_complete("a", result(*loser))
    search.on_trial_complete("b", result(*winner))


def scripted(search, *configs):
    """Lets Optuna suggest these next, one after the other."""
    for config in configs:
        search._study.enqueue_trial(config)


def rejected(search):
    """Returns the configurations that Optuna suggested in vain."""
    return [trial.params for trial in trials_of(search) if trial.user_attrs.get("rejected")]


def trials_of(search):
    return search._study.get_trials()


def test_what_is_next_to_a_dominated_trial_is_asked_anew(search):
    finish(search, loser=[(0.7, 0.5)])
    next_to, elsewhere = {"penalty": 1.1, "points": "0,2"}, {"penalty": 3.0, "points": "0,2"}
    scripted(search, next_to, elsewhere)
    assert search.suggest("c") == elsewhere
    assert len(rejected(search)) == 1


@pytest.mark.parametrize("config", [{"penalty": 1.1, "points": "1,3"}, {"penalty": 2.0, "points": "0,2"}])
def test_other_points_or_another_penalty_are_tried(search, config):
    finish(search, loser=[(0.7, 0.5)])
    scripted(search, config)
    assert search.suggest("c") == config


def test_what_is_next_to_a_trial_on_the_front_is_tried(search):
    finish(search, loser=[(0.9, 0.5)])  # the winner is now the dominated one
    near_the_better = {"penalty": 1.1, "points": "0,2"}
    scripted(search, near_the_better)
    assert search.suggest("c") == near_the_better


def test_what_is_next_to_a_trial_that_is_ahead_at_any_dial_is_tried(search):
    finish(search, loser=[(0.7, 0.5), (0.69, 0.1)], winner=[(0.8, 0.5), (0.6, 0.1)])
    scripted(search, dict(LOSER))
    assert search.suggest("c") == LOSER


def test_a_trial_whose_every_point_is_dominated_lost(search):
    finish(search, loser=[(0.7, 0.5), (0.59, 0.1)], winner=[(0.8, 0.5), (0.6, 0.1)])
    elsewhere = {"penalty": 3.0, "points": "0,2"}
    scripted(search, dict(LOSER), elsewhere)
    assert search.suggest("c") == elsewhere
    assert len(rejected(search)) == 1


def test_two_equal_trials_do_not_dominate_each_other(search):
    finish(search, loser=[(0.8, 0.5)])
    scripted(search, dict(LOSER))
    assert search.suggest("c") == LOSER


def test_a_space_with_nothing_else_left_is_tried_again(search, monkeypatch):
    monkeypatch.setattr("tune.suggestions.TRIES", 3)
    finish(search, loser=[(0.7, 0.5)])
    scripted(search, LOSER, LOSER, LOSER)
    assert search.suggest("c") == LOSER


def test_a_trial_asked_for_twice_gets_the_same_configuration(search):
    assert search.suggest("a") == search.suggest("a")


def test_a_trial_that_failed_is_no_loser(search):
    assert search.suggest("a") == LOSER
    search.on_trial_complete("a", None, error=True)
    scripted(search, LOSER)
    assert search.suggest("b") == WINNER
    assert search.suggest("c") == LOSER


def test_distance_is_a_share_of_the_range_in_log_where_the_range_is():
    assert distance(0.1, 1.0, FloatDistribution(0.1, 10.0, log=True)) == pytest.approx(0.5)
    assert distance(2.0, 3.0, FloatDistribution(0.0, 10.0)) == pytest.approx(0.1)
    assert distance("0,2", "1,3", SPACE["points"]) == 1.0


def test_what_is_tried_first_is_tried_as_it_is_even_next_to_a_loser(make):
    near = {"penalty": 1.1, "points": "0,2"}
    search = make(LOSER, WINNER, near)
    finish(search, loser=[(0.7, 0.5)])
    assert search.suggest("c") == near
    scripted(search, near, WINNER)
    assert search.suggest("d") == WINNER  # the fourth is the sampler's own
    assert rejected(search) == [near]


def test_a_seed_decides_what_is_tried(make, tmp_path):
    def drawn(seed, name):
        return make(seed=seed, path=tmp_path / name).suggest("a")

    assert drawn(1, "one") == drawn(1, "two")
    assert drawn(1, "one") != drawn(2, "three")


def test_the_suggestions_are_those_of_rays_own_search_with_this_seed(make):
    names = {"metric": ["quality", "cost"], "mode": ["max", "min"]}
    other = OptunaSearch(space=SPACE, points_to_evaluate=[dict(LOSER)], seed=3, **names)
    search = make(LOSER, seed=3)
    for number in range(14):  # after ten, Optuna's sampler learns from what it was told
        name, came_to = str(number), {"quality": 0.5 + number % 3 / 10, "cost": 0.2 + number % 5 / 10}
        assert search.suggest(name) == other.suggest(name)
        search.on_trial_complete(name, came_to)
        other.on_trial_complete(name, came_to)


def test_the_sampler_is_told_which_trial_failed_and_what_the_others_came_to(search):
    for trial in ("a", "b"):
        search.suggest(trial)
    search.on_trial_complete("a", None, error=True)
    search.on_trial_complete("b", result((0.7, 0.5)))
    told = {trial.user_attrs["trial"]: (trial.state.name, trial.values) for trial in trials_of(search)}
    assert told == {"a": ("FAIL", None), "b": ("COMPLETE", [0.7, 0.5])}


@pytest.mark.parametrize("quality", [math.nan, math.inf, None, "0.7"])
def test_a_result_that_is_no_finite_number_is_a_failed_trial(search, quality):
    search.suggest("a")
    search.on_trial_complete("a", {"quality": quality, "cost": 0.5, "curve": [[0.7, 0.5]]})
    assert [trial.state.name for trial in trials_of(search)] == ["FAIL", "WAITING"]
    assert search.suggest("b") == WINNER


def test_no_more_trials_run_than_may(search):
    assert search.set_max_concurrency(1)
    assert search.suggest("a") == LOSER
    assert search.suggest("b") is None
    search.on_trial_complete("a", result((0.7, 0.5)))
    assert search.suggest("b") == WINNER


# The search goes on in another process.


def tune_trial(name, status="PENDING", config=None, **came_to):
    """What Ray Tune remembers of a trial."""
    last_result = came_to and result((came_to["quality"], came_to["cost"])) | {"config": config}
    done = status in ("TERMINATED", "ERROR")
    return SimpleNamespace(trial_id=name, status=status, last_result=last_result, is_finished=lambda: done)


def test_a_search_that_goes_on_knows_who_lost(make):
    finish(make(LOSER, WINNER), loser=[(0.7, 0.5)])
    search = make(LOSER, WINNER)
    scripted(search, LOSER, WINNER)
    assert search.suggest("c") == WINNER
    assert rejected(search) == [LOSER]


def test_a_search_that_goes_on_draws_other_configurations(make):
    first = make(seed=1)
    drawn = [first.suggest(name)["penalty"] for name in "ab"]
    again = make(seed=1, known=[tune_trial("a"), tune_trial("b")])
    assert [again.suggest(name)["penalty"] for name in "ab"] == drawn  # the same trials
    assert not {again.suggest(name)["penalty"] for name in "cd"} & set(drawn)


def test_a_trial_that_ray_tune_goes_on_with_keeps_its_place(make):
    make(LOSER, WINNER).suggest("a")
    search = make(LOSER, WINNER, known=[tune_trial("a")])
    assert search.suggest("b") == WINNER
    search.on_trial_complete("a", result((0.7, 0.5)))
    assert [trial.state.name for trial in trials_of(search)] == ["COMPLETE", "FAIL", "RUNNING"]


def test_a_guess_of_a_trial_that_ray_tune_forgot_is_tried_again(make):
    make(LOSER, WINNER).suggest("a")  # the process ends before Tune has the trial on record
    search = make(LOSER, WINNER)
    search.set_max_concurrency(2)
    assert [search.suggest("b"), search.suggest("c")] == [LOSER, WINNER]
    assert search.suggest("d") is None


@pytest.mark.parametrize("lines", range(1, 25))
def test_wherever_the_process_ends_every_guess_is_tried_once(make, tmp_path, lines):
    first, path = make(LOSER, WINNER), tmp_path / "study.log"
    first.suggest("a")
    first.on_trial_complete("a", result((0.7, 0.5)))
    first.suggest("b")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    knows_a = [tune_trial("a")] if '"trial":"a"' in path.read_text() else []
    search = make(LOSER, WINNER, known=knows_a)
    tried = [LOSER] if knows_a else []
    while len(tried) < 2:
        tried.append(search.suggest(f"again-{len(tried)}"))
    assert tried == [LOSER, WINNER]


def test_a_result_that_ray_tune_has_and_the_study_lost_is_told_again(make):
    make(LOSER, WINNER).suggest("a")
    search = make(LOSER, WINNER, known=[tune_trial("a", "TERMINATED", quality=0.7, cost=0.5)])
    assert [trial.values for trial in trials_of(search) if trial.state.name == "COMPLETE"] == [[0.7, 0.5]]


def test_a_trial_of_which_the_study_lost_everything_is_written_down_again(make):
    ended = tune_trial("a", "TERMINATED", LOSER, quality=0.7, cost=0.5)
    search = make(LOSER, WINNER, known=[ended])
    assert trials_of(search)[0].params == LOSER
    assert search.suggest("b") == WINNER


def test_a_trial_that_failed_and_was_started_again_counts(make):
    make(LOSER).suggest("a")
    search = make(LOSER, known=[tune_trial("a", "ERROR")])
    search.on_trial_complete("a", None, error=True)
    search.on_trial_complete("a", result((0.7, 0.5)) | {"config": LOSER})
    assert [trial.state.name for trial in trials_of(search)] == ["FAIL", "COMPLETE"]
    search.on_trial_complete("a", result((0.9, 0.5)) | {"config": LOSER})
    assert len(trials_of(search)) == 2


def test_ray_tunes_pickles_hold_nothing_of_a_search(search):
    assert len(pickle.dumps(search)) < 200
    assert vars(pickle.loads(pickle.dumps(search))) == {}


def test_a_search_that_was_stopped_before_its_first_trial_has_none_on_record(tmp_path):
    assert known_trials(str(tmp_path)) == []
    (tmp_path / "tuner.pkl").write_bytes(b"")
    assert known_trials(str(tmp_path)) == []


def test_a_damaged_record_of_the_trials_is_said_by_name(tmp_path):
    (tmp_path / "tuner.pkl").write_bytes(b"")
    (tmp_path / "experiment_state-2026-01-01_00-00-00.json").write_text('{"trial_data": [[')
    told = (
        rf"^Ray Tune's record of the trials, the newest experiment_state file in {tmp_path}, is damaged \(.+\): remove"
    )
    with pytest.raises(RunFolderError, match=told):
        known_trials(str(tmp_path))
