"""The points of a run: the front by its law, the pick, the free rules at equal cost."""

import dataclasses
import doctest
import random

import pytest

from trbert.errors import InputError
from tune.results import front as front_module
from tune.results.front import free_at_cost, has_model, least_drop, mark_front, pareto_front, pick


def some_points(seed, at):
    """Few distinct values, so that ties and duplicates abound."""
    draw_one = random.Random(seed)
    return [
        at(
            draw_one.randrange(8) / 8,
            1 + draw_one.randrange(8) / 2,
            trial=str(draw_one.randrange(4)),
            model=draw_one.choice(["", "models/1"]),
        )
        for _ in range(draw_one.randrange(1, 50))
    ]


def beats(a, b):
    better = (a.quality_validation > b.quality_validation) or (a.speed_up > b.speed_up)
    return better and a.quality_validation >= b.quality_validation and a.speed_up >= b.speed_up


def dominates(a, b):
    return a.trial != b.trial and beats(a, b)


def place(point):
    return point.quality_validation, point.speed_up


@pytest.mark.parametrize("seed", range(40))
def test_no_member_is_beaten_by_another_model_and_a_member_beats_or_equals_every_other_point(seed, at):
    points = some_points(seed, at)
    front = [points[index] for index in pareto_front(points)]
    assert not any(dominates(other, member) for member in front for other in points)
    places = [place(member) for member in front]
    assert len(set(places)) == len(places)
    for point in points:
        assert place(point) in places or any(beats(member, point) for member in front)
        # Of the points that no other model beats, some may be missing only because they are equal to others.
        others = [other for other in points if other.trial != point.trial]
        if place(point) not in places and not any(beats(other, point) for other in others):
            assert place(point) in map(place, others)


@pytest.mark.parametrize("seed", range(20))
def test_the_front_does_not_depend_on_the_order_of_points(seed, at):
    points = some_points(seed, at)
    front = [points[index] for index in pareto_front(points)]
    shuffled = random.Random(seed).sample(points, len(points))
    assert [shuffled[index] for index in pareto_front(shuffled)] == front


@pytest.mark.parametrize("seed", range(20))
def test_marking_the_front_again_changes_nothing(seed, at):
    once = mark_front(some_points(seed, at))
    assert mark_front(once) == once
    members = [point for point in once if point.on_front]
    assert mark_front(members) == tuple(members)


def test_the_front_by_hand_slowest_first(at):
    places = [(0.7, 3.0), (0.9, 1.0), (0.8, 4.0), (0.8, 2.0), (0.9, 0.98)]
    assert pareto_front([at(*place, trial=str(number)) for number, place in enumerate(places)]) == [1, 2]
    assert pareto_front([]) == []


def test_a_lucky_fast_dial_takes_no_slower_dial_of_its_own_model_off_the_front(at, unreduced):
    # With 50 rows of validation one row is 2 points. Model 1 happens to be best at 11x, and better than the teacher.
    own = [at(0.82, 2.0), at(0.84, 3.0), at(0.8, 5.0), at(0.82, 8.0), at(0.86, 11.0)]
    other = [at(0.8, 2.5, trial="2"), at(0.88, 1.5, trial="2"), at(0.78, 12.0, trial="2")]
    points = mark_front([unreduced(0.84), *own, *other])
    assert [point.on_front for point in points] == [False, *[True] * 5, False, True, True]
    # The pick is what it was: nothing slower is taken for its sake.
    assert pick(points, max_drop=0.0).speed_up == 11.0
    assert pick(points, min_speedup=2.0).speed_up == 11.0


def test_the_dials_of_a_rule_are_one_model_at_the_same_reduction_points_alone(rule):
    slow, fast = rule("first", 0.6, 2.0), rule("first", 0.7, 4.0)
    assert pareto_front([slow, fast]) == [0, 1]
    assert pareto_front([slow, dataclasses.replace(fast, points=(1, 3))]) == [1]
    assert pareto_front([slow, dataclasses.replace(fast, selector="random")]) == [1]


def test_dials_of_one_model_at_one_place_are_one_row_of_the_front(at):
    assert len(pareto_front([at(0.8, 2.0, dial=1.0), at(0.8, 2.0, dial=1.5), at(0.8, 3.0)])) == 2


def test_a_free_rule_that_is_better_takes_a_trained_point_off_the_front(at, rule):
    trained, free = mark_front([at(0.8, 3.0), rule("first", 0.81, 3.0)])
    assert (trained.on_front, free.on_front) == (False, True)


@pytest.mark.parametrize("order", [1, -1])
def test_of_equal_points_the_saved_model_stays(order, unreduced, rule):
    points = [unreduced(0.8), rule("first", 0.8, 1.0)][::order]
    assert [point.trial for point in mark_front(points) if point.on_front] == ["teacher"]


def test_a_point_must_be_finite_and_its_speed_up_positive(at):
    with pytest.raises(InputError, match=r"^quality_validation must be a finite number, and is nan$"):
        at(float("nan"), 2.0)
    with pytest.raises(InputError, match=r"^kept must be a finite number, and is inf$"):
        at(0.5, 2.0, kept=(0.5, float("inf")))
    with pytest.raises(InputError, match=r"^drop_interval must have two ends or none, and has 1$"):
        at(0.5, 2.0, drop_interval=(0.5,))
    with pytest.raises(InputError, match=r"^speed_up_validation must be positive, and is 0\.0$"):
        at(0.5, 0.0)
    with pytest.raises(InputError, match=r"^speed_up_test must be positive, and is -1\.0$"):
        at(0.5, 2.0, speed_up_test=-1.0)


@pytest.mark.parametrize(
    ("bounds", "model", "dial"),
    [
        # .9 − .896 is .4 points plus a rounding error.
        ({"max_drop": 0.4}, "models/1", -0.5),
        ({"max_drop": 1.0}, "models/2", -1.5),
        ({"max_drop": 100.0}, "models/1", -3.0),
        ({"min_speedup": 1.0}, "models/1", -0.5),
        ({"min_speedup": 3.5}, "models/2", -1.5),
        ({"min_speedup": 2.0, "max_drop": 1.0}, "models/1", -0.5),
    ],
)
def test_a_drop_picks_the_fastest_and_a_speed_up_the_best(bounds, model, dial, small_front):
    chosen = pick(small_front(), **bounds)
    assert (chosen.model, chosen.dial) == (model, dial)


def test_a_pick_reads_validation_and_never_test(at, unreduced):
    lucky = at(0.85, 9.0, quality_test=0.99, drop=-9.0)
    sure = at(0.899, 2.0, quality_test=0.5, drop=40.0)
    assert pick(mark_front([unreduced(0.9), lucky, sure]), max_drop=0.5).speed_up == sure.speed_up


def test_a_speed_up_on_test_chooses_nothing_and_is_what_is_shown(at, unreduced):
    slow, fast = at(0.89, 2.0, speed_up_test=9.0), at(0.89, 3.0, trial="2", speed_up_test=1.5)
    points = mark_front([unreduced(0.9), slow, fast])
    assert [point.on_front for point in points] == [True, False, True]
    assert pick(points, min_speedup=2.5).speed_up == 1.5
    with pytest.raises(InputError, match=r"\(drop 1\.0, 3\.00x\)"):
        pick(points, max_drop=0.5, min_speedup=2.5)


def test_drops_are_from_the_best_unreduced_model_which_may_be_a_joint_one_with_all_tokens(at, unreduced):
    points = [unreduced(0.9), unreduced(0.92, trial="1"), at(0.91, 2.0), at(0.9, 3.0)]
    assert pick(mark_front(points), max_drop=1.0).speed_up == 2.0


def test_a_drop_is_from_a_trained_model_that_keeps_all_tokens_where_it_is_the_best(at, unreduced):
    # At its dial that keeps all tokens model 1 has 92 %, two points more than the teacher. From there the points
    # of 90.5 % and 88 % drop 1.5 and 4 points. From the teacher they would drop -0.5 and 2.
    whole = at(0.92, 0.98, dial=9.0, kept=(1.0, 1.0))
    points = mark_front([unreduced(0.9), whole, at(0.905, 2.0, kept=(0.5, 0.25)), at(0.88, 4.0, kept=(0.25, 0.1))])
    assert pick(points, max_drop=2.0).speed_up == 2.0
    # It is slower than the teacher, so that it is picked only if the user asks for such a model.
    with pytest.raises(InputError, match=r"models/1 at dial 0 \(drop 1\.5, 2\.00x\)"):
        pick(points, max_drop=1.0)
    assert pick(points, max_drop=1.0, min_speedup=0.9) == points[1]


def test_only_saved_models_on_the_front_are_picked(at, unreduced, rule):
    points = mark_front([unreduced(0.9), at(0.895, 3.0), at(0.89, 4.0), rule("first", 0.892, 5.0)])
    assert [point.on_front for point in points] == [True, True, False, True]
    assert pick(points, max_drop=5.0) == points[1]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (
            {"min_speedup": 20.0},
            "no trained model of the front is at least 20x faster on validation; the nearest: models/1 at dial -3 "
            "(drop 5.0, 9.00x): relax the bound, or use the unreduced model, models/teacher",
        ),
        (
            {"min_speedup": 6.0, "max_drop": 2.0},
            "no trained model of the front drops at most 2 points and is at least 6x faster on validation; the "
            "nearest: models/2 at dial -1.5 (drop 1.0, 5.00x) and models/1 at dial -3 (drop 5.0, 9.00x): relax the "
            "bound, or use the unreduced model, models/teacher",
        ),
        (
            {"max_drop": 0.0},
            "no trained model of the front drops at most 0 points on validation; the nearest: models/1 at dial -0.5 "
            "(drop 0.4, 3.00x): relax the bound, or use the unreduced model, models/teacher",
        ),
        ({}, "a pick needs a bound, and none is given: pass max_drop (points), min_speedup, or both"),
        ({"max_drop": -1.0}, "max_drop must be 0 or more percentage points, and is -1.0"),
        ({"max_drop": float("nan")}, "max_drop must be 0 or more percentage points, and is nan"),
        ({"min_speedup": 0.0}, "min_speedup must be a factor above 0, and is 0.0"),
    ],
)
def test_a_pick_that_is_none_names_the_nearest_there_is(bounds, message, small_front):
    with pytest.raises(InputError) as raised:
        pick(small_front(), **bounds)
    assert str(raised.value) == message


def test_a_drop_that_nothing_meets_names_the_least(at, unreduced):
    unsaved = dataclasses.replace(unreduced(0.92), model="")
    points = mark_front([unsaved, at(0.9, 2.0), at(0.8, 4.0)])
    with pytest.raises(InputError, match=r"the nearest: models/1 at dial 0 \(drop 2\.0, 2\.00x\)"):
        pick(points, max_drop=1.0)


def test_a_front_without_a_saved_model_says_so(rule):
    with pytest.raises(InputError, match="must hold an unreduced model, from which drops are measured, and hold none"):
        pick(mark_front([rule("first", 0.8, 2.0)]), max_drop=1.0)


NONE = "^no trained model of the front is faster than the unreduced one"


def test_a_front_without_a_trained_model_names_those_that_are_saved_and_what_helps(unreduced, rule, at):
    two = [at(0.7, 1.5), at(0.6, 1.4, trial="2", model="models/2"), at(0.6, 1.4, trial="10", model="models/10")]
    points = mark_front([unreduced(0.8), rule("first", 0.8, 2.0), *two])
    assert [point.on_front for point in points] == [False, True, False, False, False]
    assert not has_model(points)
    told = (
        NONE + r" \(models/1, models/2, models/10 are saved all the same\): search again with a larger --budget, or "
        "with more rows for training and validation$"
    )
    for bounds in ({"max_drop": 1.0}, {"min_speedup": 2.0}):
        with pytest.raises(InputError, match=told):
            pick(points, **bounds)


def test_a_trained_point_without_a_model_is_not_picked(unreduced, at):
    # A front.csv of somebody else may hold one. Its folder would be the run itself.
    points = mark_front([unreduced(0.8), at(0.7, 2.0, model="")])
    assert points[1].on_front
    assert not has_model(points)
    with pytest.raises(InputError, match=NONE + ": search again"):
        pick(points, max_drop=50.0)


def test_the_teacher_is_never_picked(unreduced, rule):
    points = mark_front([unreduced(0.8), rule("first", 0.7, 2.0)])
    assert not has_model(points)
    for bounds in ({"max_drop": 20.0}, {"min_speedup": 0.5}):
        with pytest.raises(InputError, match=NONE + ": search again"):
            pick(points, **bounds)


def test_a_front_has_a_model_where_a_trained_one_on_it_is_no_slower_than_unreduced(unreduced, at):
    assert has_model(mark_front([unreduced(0.8), at(0.7, 2.0)]))
    assert not has_model(mark_front([unreduced(0.8), at(0.7, 0.9)]))
    slower = mark_front([unreduced(0.8), at(0.81, 0.9)])
    assert slower[1].on_front
    assert not has_model(slower)
    with pytest.raises(InputError, match=NONE):
        pick(slower, max_drop=1.0)
    assert pick(slower, min_speedup=0.9) == slower[1]


def test_the_least_drop_is_that_of_the_best_model_that_is_no_slower(unreduced, at):
    points = mark_front([unreduced(0.9), at(0.92, 0.98, kept=(1.0, 1.0)), at(0.905, 2.0), at(0.88, 4.0)])
    assert least_drop(points) == pytest.approx(1.5)
    assert pick(points, max_drop=1.5).speed_up == 2.0
    assert least_drop(mark_front([unreduced(0.9), at(0.95, 2.0)])) == 0.0


def test_a_free_rule_at_equal_cost_by_hand(at, rule):
    points = [rule("first", 0.8, 2.0), rule("first", 0.7, 6.0), rule("random", 0.1, 4.0), at(0.99, 4.0)]
    # A quarter of the way from 2x to 6x.
    assert free_at_cost(points, 3.0, "first") == pytest.approx(0.775)
    assert free_at_cost(points, 2.0, "first") == 0.8
    assert free_at_cost(points, 6.0, "first") == 0.7
    assert free_at_cost(points, 6.1, "first") is None
    assert free_at_cost(points, 1.9, "first") is None
    assert free_at_cost(points, 3.0, "attention") is None
    assert free_at_cost(points, 4.0, "random") == 0.1


def test_a_free_rule_has_a_line_for_each_choice_of_points_and_the_higher_counts(rule):
    low = [rule("first", 0.5, 2.0, points=(0, 2)), rule("first", 0.5, 8.0, points=(0, 2))]
    high = [rule("first", 0.9, 2.0, points=(1, 3)), rule("first", 0.7, 4.0, points=(1, 3))]
    assert free_at_cost(low + high, 3.0, "first") == pytest.approx(0.8)
    assert free_at_cost(low + high, 5.0, "first") == pytest.approx(0.5)


def test_the_examples_run():
    failed, tried = doctest.testmod(front_module)
    assert failed == 0
    assert tried >= 10


def test_a_point_keeps_all_only_where_none_of_its_points_drops(at):
    kept = [(1.0, 1.0), (1.0, 0.9), ()]
    assert [front_module.keeps_all(at(0.9, 1.0, kept=each)) for each in kept] == [True, False, False]


def test_of_two_qualities_at_one_cost_a_rule_has_the_better(rule):
    points = [rule("first", 0.6, 2.0), rule("first", 0.8, 2.0), rule("first", 0.7, 2.0), rule("first", 0.5, 6.0)]
    assert free_at_cost(points, 2.0, "first") == 0.8
    assert free_at_cost(points, 4.0, "first") == pytest.approx(0.65)


def test_a_rule_stands_at_its_cost_on_test(rule):
    slow, fast = rule("first", 0.8, 2.0), rule("first", 0.6, 4.0)
    slow, fast = (dataclasses.replace(each, speed_up_test=cost) for each, cost in ((slow, 3.0), (fast, 5.0)))
    assert free_at_cost([slow, fast], 4.0, "first") == pytest.approx(0.7)
    assert free_at_cost([slow, fast], 2.0, "first") is None
