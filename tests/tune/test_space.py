"""What the search may vary."""

import doctest

import pytest
from optuna.distributions import CategoricalDistribution

from trbert.errors import InputError
from trbert.selection.reduction import check_points
from tune import space
from tune.learning.joint_stage import gold_share
from tune.settings import Settings, override, setting_names
from tune.space import first_guesses, point_choices, search_space, to_settings

DEPTHS = range(2, 25)


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(space)
    assert results.attempted >= 2
    assert results.failed == 0


@pytest.mark.parametrize("layers", [1, *DEPTHS])
def test_every_choice_of_points_fits_an_encoder_of_this_depth(layers):
    choices = point_choices(layers)
    assert len(set(choices)) == len(choices) > 0
    for choice in choices:
        check_points(to_settings({"select.points": choice})["select.points"], layers)


@pytest.mark.parametrize(
    ("layers", "points"), [(1, ["0"]), (4, ["0,1", "1,2", "0,2"]), (12, ["0,4", "1,6", "0,1", "0,6", "4,6,8", "0,8"])]
)
def test_points_lie_right_after_the_embeddings_where_the_paper_has_them_and_in_the_middle(layers, points):
    assert point_choices(layers) == points


@pytest.mark.parametrize(
    ("layers", "num_points", "points"),
    [(1, 1, ["0"]), (6, 2, ["0,2", "1,3", "0,1", "0,3", "0,4"]), (6, 3, ["2,3,4"]), (12, 3, ["4,6,8"])],
)
def test_where_the_number_of_points_is_given_only_such_are_tried(layers, num_points, points):
    assert point_choices(layers, num_points) == points
    assert list(search_space(layers, 1.0, (), num_points)["select.points"].choices) == points
    for pairs, asks in ((False, False), (True, False), (True, True)):
        guesses = first_guesses(layers, 1.0, 2000, (), num_points, pairs=pairs, asks=asks)
        assert {guess["select.points"] for guess in guesses} <= set(points)


@pytest.mark.parametrize(("layers", "num_points", "tried"), [(6, 1, "2 or 3"), (6, 4, "2 or 3"), (1, 2, "1")])
def test_a_number_of_points_that_no_candidate_has_is_refused(layers, num_points, tried):
    told = (
        f"select.keep_ratios must have one value for each reduction point, and has {num_points}; the search tries "
        f"{tried} points: give as many values, or set select.points too"
    )
    for asked in (search_space, first_guesses):
        more = (2000,) if asked is first_guesses else ()
        with pytest.raises(InputError, match=f"^{told}$"):
            asked(layers, 1.0, *more, (), num_points)


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
@pytest.mark.parametrize("layers", DEPTHS)
def test_the_first_guesses_lie_in_the_space(layers, penalty, pairs, asks):
    known = search_space(layers, penalty)
    for guess in first_guesses(layers, penalty, 2000, pairs=pairs, asks=asks):
        assert guess.keys() == known.keys()
        for name, value in guess.items():
            distribution = known[name]
            if isinstance(distribution, CategoricalDistribution):
                assert value in distribution.choices
            else:
                assert distribution.low <= value <= distribution.high
    guesses = first_guesses(layers, penalty, 2000, pairs=pairs, asks=asks)
    assert len({tuple(guess.values()) for guess in guesses}) == len(guesses)


def test_the_search_starts_from_the_tasks_own_penalty_and_looks_about_it():
    assert first_guesses(6, 0.14, 2000)[0]["select.penalty"] == 0.14
    small, large = (search_space(6, penalty)["select.penalty"] for penalty in (0.1, 1.0))
    assert (10 * small.low, 10 * small.high) == pytest.approx((large.low, large.high))
    assert large.low < 1.0 < large.high


def test_the_first_two_guesses_differ_in_penalty_and_all_of_them_in_points():
    guesses = first_guesses(6, 1.0, 2000)
    assert guesses[0]["select.penalty"] != guesses[1]["select.penalty"]
    assert {guess["select.points"] for guess in guesses} == {"0,2", "1,3"}


def test_a_search_over_text_pairs_starts_with_points_in_the_middle():
    assert [guess["select.points"] for guess in first_guesses(6, 1.0, 2000, pairs=True)] == [
        "2,3,4",
        "2,3,4",
        "1,3",
        "0,2",
    ]


def test_where_a_question_is_asked_the_first_point_is_at_once_and_the_last_one_late():
    guesses = first_guesses(6, 1.0, 2000, pairs=True, asks=True)
    assert [guess["select.points"] for guess in guesses] == ["0,4", "0,4", "1,3", "0,2"]


@pytest.mark.parametrize(
    ("documents", "rate"), [(16, 1e-2), (2000, 1e-2), (6000, 20 / 6000), (20_000, 1e-3), (10**6, 1e-3)]
)
def test_a_longer_select_starts_from_smaller_steps(documents, rate):
    low, high = (getattr(search_space(6, 1.0)["select.learning_rate"], end) for end in ("low", "high"))
    assert low <= rate <= high
    assert {guess["select.learning_rate"] for guess in first_guesses(6, 1.0, documents)} == {rate}


def test_the_first_guesses_take_what_is_not_in_doubt_from_the_defaults():
    known = set(setting_names())
    for guess in first_guesses(6, 1.0, 2000):
        assert override(Settings(), to_settings(guess)) != Settings()
        assert guess["joint.distillation"] == gold_share(None, 1.0, unlabelled=False)
        for name in ("policy_width", "joint.learning_rate"):
            assert name in known
            assert override(Settings(), {name: guess[name]}) == Settings()


@pytest.mark.parametrize(
    ("fixed", "gone"),
    [
        (["select.penalty"], {"select.penalty"}),
        (["select.points"], {"select.points", "select.keep_ratios"}),
        (["select.keep_ratios"], {"select.keep_ratios"}),
        (["policy_width", "joint.distillation"], {"policy_width", "joint.distillation"}),
        (["seed", "data.max_length"], set()),
    ],
)
def test_what_was_fixed_does_not_vary(fixed, gone):
    left = search_space(6, 1.0).keys() - gone
    assert search_space(6, 1.0, fixed).keys() == left
    guesses = first_guesses(6, 1.0, 2000, fixed)
    assert all(guess.keys() == left for guess in guesses)
    assert all(guess not in guesses[:index] for index, guess in enumerate(guesses))  # none is tried twice


@pytest.mark.parametrize("layers", DEPTHS)
def test_a_sampled_configuration_becomes_settings(layers):
    for guess in first_guesses(layers, 1.0, 2000):
        changes = to_settings(guess)
        assert changes.keys() <= setting_names().keys()
        settings = override(Settings(), changes)
        assert settings.select.points == tuple(map(int, guess["select.points"].split(",")))
        assert settings.select.keep_ratios == (guess["select.keep_ratios"],) * len(settings.select.points)
        assert settings.select.penalty == guess["select.penalty"]
        assert settings.joint.learning_rate == guess["joint.learning_rate"]


@pytest.mark.parametrize("end", ["low", "high"])
def test_the_ends_of_the_space_are_valid_settings(end):
    config = {name: getattr(each, end) for name, each in search_space(6, 1.0).items() if hasattr(each, end)}
    settings = override(Settings(), to_settings(config | {"select.points": "0,2"}))
    assert settings.select.penalty == config["select.penalty"]


def test_a_configuration_is_not_changed_by_reading_it():
    config = {"select.points": "0,2", "select.keep_ratios": 0.1}
    to_settings(config)
    assert config == {"select.points": "0,2", "select.keep_ratios": 0.1}


def test_a_configuration_without_a_free_ratio_leaves_it_unset():
    assert to_settings({"select.points": "3", "seed": 1}) == {"select.points": (3,), "seed": 1}
    assert to_settings({"select.penalty": 1.0}) == {"select.penalty": 1.0}


def test_an_unknown_name_in_a_configuration_is_refused():
    with pytest.raises(InputError, match=r"there is no setting 'select\.penlaty'"):
        override(Settings(), to_settings({"select.points": "0,2", "select.penlaty": 1.0}))


def test_the_space_has_the_ranges_that_were_measured():
    known = search_space(6, 0.5)
    penalty, rate = known["select.penalty"], known["select.learning_rate"]
    assert (penalty.low, penalty.high, penalty.log) == (0.15, 4.0, True)  # 0.3 and 8 times the task's own
    assert (rate.low, rate.high, rate.log) == (1e-3, 4e-2, True)
    assert (known["select.keep_ratios"].low, known["select.keep_ratios"].high) == (0.0, 0.2)
    assert [guess["select.penalty"] for guess in first_guesses(6, 0.5, 2000)] == [0.5, 0.2, 0.5, 1.25]
