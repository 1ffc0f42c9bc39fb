"""Which configurations a search tries: Optuna's, less what is next to a trial that has lost."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from tune.suggestions import FreshSearch, distance

SPACE = {
    "penalty": FloatDistribution(0.1, 10.0, log=True),
    "points": CategoricalDistribution(["0,2", "1,3"]),
}
LOSER = {"penalty": 1.0, "points": "0,2"}
WINNER = {"penalty": 5.0, "points": "0,2"}


@pytest.fixture
def search():
    return FreshSearch(SPACE, [LOSER, WINNER], seed=0)


def result(*curve):
    quality, cost = curve[0]
    return {"quality": quality, "cost": cost, "curve": [list(point) for point in curve]}


def finish(search, loser, winner=((0.8, 0.5),)):
    """Finishes two trials with these points of quality and cost."""
    assert search.suggest("a") == LOSER
    assert search.suggest("b") == WINNER
    search.on_trial_complete("a", result(*loser))
    search.on_trial_complete("b", result(*winner))


def scripted(search, monkeypatch, *configs):
    """Lets Optuna suggest these, one after the other; returns what it is told has failed."""
    left, failed = list(configs), []
    monkeypatch.setattr(search._optuna, "suggest", lambda name: left.pop(0))
    tell = lambda name, result=None, error=False: failed.append(name) if error else None  # noqa: E731
    monkeypatch.setattr(search._optuna, "on_trial_complete", tell)
    return failed


def test_what_is_next_to_a_dominated_trial_is_asked_anew(search, monkeypatch):
    finish(search, loser=[(0.7, 0.5)])
    next_to, elsewhere = {"penalty": 1.1, "points": "0,2"}, {"penalty": 3.0, "points": "0,2"}
    failed = scripted(search, monkeypatch, next_to, elsewhere)
    assert search.suggest("c") == elsewhere
    assert failed == ["c/0"]


@pytest.mark.parametrize("config", [{"penalty": 1.1, "points": "1,3"}, {"penalty": 2.0, "points": "0,2"}])
def test_other_points_or_another_penalty_are_tried(search, monkeypatch, config):
    finish(search, loser=[(0.7, 0.5)])
    scripted(search, monkeypatch, config)
    assert search.suggest("c") == config


def test_what_is_next_to_a_trial_on_the_front_is_tried(search, monkeypatch):
    finish(search, loser=[(0.9, 0.5)])  # the winner is now the dominated one
    near_the_better = {"penalty": 1.1, "points": "0,2"}
    scripted(search, monkeypatch, near_the_better)
    assert search.suggest("c") == near_the_better


def test_what_is_next_to_a_trial_that_is_ahead_at_any_dial_is_tried(search, monkeypatch):
    finish(search, loser=[(0.7, 0.5), (0.69, 0.1)], winner=[(0.8, 0.5), (0.6, 0.1)])
    scripted(search, monkeypatch, dict(LOSER))
    assert search.suggest("c") == LOSER


def test_a_trial_whose_every_point_is_dominated_lost(search, monkeypatch):
    finish(search, loser=[(0.7, 0.5), (0.59, 0.1)], winner=[(0.8, 0.5), (0.6, 0.1)])
    elsewhere = {"penalty": 3.0, "points": "0,2"}
    failed = scripted(search, monkeypatch, dict(LOSER), elsewhere)
    assert search.suggest("c") == elsewhere
    assert failed == ["c/0"]


def test_two_equal_trials_do_not_dominate_each_other(search, monkeypatch):
    finish(search, loser=[(0.8, 0.5)])
    scripted(search, monkeypatch, dict(LOSER))
    assert search.suggest("c") == LOSER


def test_a_space_with_nothing_else_left_is_tried_again(search, monkeypatch):
    finish(search, loser=[(0.7, 0.5)])
    scripted(search, monkeypatch, *[dict(LOSER)] * 20)
    assert search.suggest("c") == LOSER


def test_a_trial_asked_for_twice_gets_the_same_configuration(search):
    assert search.suggest("a") == search.suggest("a")


def test_a_trial_that_failed_is_no_loser(search, monkeypatch):
    assert search.suggest("a") == LOSER
    search.on_trial_complete("a", None, error=True)
    scripted(search, monkeypatch, WINNER, dict(LOSER))
    assert search.suggest("b") == WINNER
    assert search.suggest("c") == LOSER


def test_a_restored_search_knows_who_lost(search, monkeypatch, tmp_path):
    finish(search, loser=[(0.7, 0.5)])
    search.save(str(tmp_path / "search"))
    other = FreshSearch(SPACE, [], seed=1)
    other.restore(str(tmp_path / "search"))
    failed = scripted(other, monkeypatch, dict(LOSER), dict(WINNER))
    assert other.suggest("c") == WINNER
    assert len(failed) == 1


def test_distance_is_a_share_of_the_range_in_log_where_the_range_is():
    assert distance(0.1, 1.0, FloatDistribution(0.1, 10.0, log=True)) == pytest.approx(0.5)
    assert distance(2.0, 3.0, FloatDistribution(0.0, 10.0)) == pytest.approx(0.1)
    assert distance("0,2", "1,3", SPACE["points"]) == 1.0


def test_what_is_tried_first_is_tried_as_it_is_even_next_to_a_loser(monkeypatch):
    near = {"penalty": 1.1, "points": "0,2"}
    search = FreshSearch(SPACE, [LOSER, WINNER, near], seed=0)
    finish(search, loser=[(0.7, 0.5)])
    failed = scripted(search, monkeypatch, near, dict(near), dict(WINNER))
    assert search.suggest("c") == near
    assert failed == []
    assert search.suggest("d") == WINNER  # the fourth is the sampler's own
    assert failed == ["d/0"]


def test_a_seed_decides_what_is_tried():
    def drawn(seed):
        return FreshSearch(SPACE, [], seed=seed).suggest("a")

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_the_sampler_is_asked_for_more_quality_and_less_cost(monkeypatch):
    asked = {}
    monkeypatch.setattr("tune.suggestions.OptunaSearch", lambda **options: asked.update(options))
    FreshSearch(SPACE, [LOSER], seed=5)
    assert dict(zip(asked["metric"], asked["mode"], strict=True)) == {"quality": "max", "cost": "min"}
    assert (asked["points_to_evaluate"], asked["seed"]) == ([LOSER], 5)


def test_the_sampler_is_told_which_trial_failed_and_what_the_others_came_to(search, monkeypatch):
    for trial in ("a", "b"):
        search.suggest(trial)
    told = []
    monkeypatch.setattr(search._optuna, "on_trial_complete", lambda *words: told.append(words))
    came_to = result((0.7, 0.5))
    search.on_trial_complete("a", None, error=True)
    search.on_trial_complete("b", came_to)
    assert told == [("a/0", None, True), ("b/0", came_to, False)]


def test_where_the_sampler_has_nothing_to_suggest_there_is_nothing(search, monkeypatch):
    scripted(search, monkeypatch, None)
    assert search.suggest("a") is None
