"""The rules that need nothing learned, on the teacher."""

import dataclasses

import pytest
import torch

from trbert.measure.evaluate import Evaluation
from trbert.selection.selectors import free_selectors
from tune.budget import Clock, StageTimeout
from tune.results import rules
from tune.results.rules import FREE_DIALS, free_points, rules_on_test
from tune.settings import override


def measured(prepared, settings, points):
    """Returns the rules' points, measured on validation and then on test."""
    return rules_on_test(free_points(prepared, settings.compute, points), prepared, settings.compute)[0]


def test_what_the_free_rules_achieve_is_the_models_own_measure_of_each_split(prepared, tiny_settings, make_model):
    splits = (prepared.validation, prepared.test)
    points = {(point.selector, point.dial): point for point in measured(prepared, tiny_settings, (0, 2))}
    for name in ("first", "attention"):
        model = make_model({"selector": name, "fusion": False})
        for dial in FREE_DIALS:
            on = [model.evaluate(split, dial) for split in splits]
            point = points[name, dial]
            assert point.points == model.points
            # The cost of a policy that is not there is not counted.
            assert [point.speed_up_validation, point.speed_up_test] == [each.speed_up for each in on]
            assert [point.quality_validation, point.quality_test] == [each.quality for each in on]
            assert point.kept == on[1].kept
            assert on[0].kept != on[1].kept


def test_the_free_rules_are_measured_along_their_dials(prepared, tiny_settings):
    points = measured(prepared, tiny_settings, (0, 2))
    assert [(point.selector, point.dial) for point in points] == [
        (rule.name, dial) for rule in free_selectors() for dial in FREE_DIALS
    ]
    for point in points:
        assert point.points[0] > 0 or point.selector != "attention"  # no layer before point 0 gives attention
        assert point.speed_up_validation > 1
        assert 0 <= point.quality_test <= 1
    assert points[0].speed_up_test > points[2].speed_up_test


def test_the_free_rules_figures_come_from_the_split_that_they_are_named_after(certain, tiny_settings):
    points = measured(certain, tiny_settings, (0, 2))
    assert len(points) == len(free_selectors()) * len(FREE_DIALS)
    for point in points:
        assert (point.quality_validation, point.quality_test) == (pytest.approx(0.75), pytest.approx(0.4))


@pytest.mark.parametrize(("evaluation", "dtype"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_the_free_rules_are_measured_in_the_arithmetic_of_evaluation(
    prepared, tiny_settings, monkeypatch, evaluation, dtype
):
    rounded = []

    def evaluated(*arguments):
        rounded.append(torch.is_autocast_enabled("cpu"))
        return Evaluation(quality=0.5, speed_up=2.0, kept=(0.5, 0.25), docs_per_second=1.0)

    monkeypatch.setattr(rules, "evaluate_in_time", evaluated)
    measured(prepared, override(tiny_settings, {"compute.evaluation": evaluation, "compute.dtype": dtype}), (0, 2))
    assert rounded == [evaluation == "bfloat16"] * (3 * len(FREE_DIALS) * 2)  # three rules on two splits


class Few(Clock):
    """A clock whose time is over after so many looks at it."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def check(self):
        self.looks -= 1
        if self.looks < 0:
            raise StageTimeout


def test_rules_for_which_there_is_no_time_are_left_out_and_every_rule_has_a_dial_before_the_second(
    prepared, tiny_settings, monkeypatch
):
    measure = rules.evaluate_in_time

    def once(*arguments):
        arguments[-1].check()
        return measure(*arguments[:-1], Clock())

    monkeypatch.setattr(rules, "evaluate_in_time", once)
    names = [rule.name for rule in free_selectors()]
    points = free_points(prepared, tiny_settings.compute, (0, 2), Few(4))
    assert {(p.selector, p.dial) for p in points} == {*((name, 0.12) for name in names), (names[0], 0.35)}
    assert all(point.quality_test is None for point in points)
    # On test those of the front come first.
    points[-1] = dataclasses.replace(points[-1], on_front=True)
    tested, answers = rules_on_test(points, prepared, tiny_settings.compute, Few(1))
    assert [point.quality_test is not None for point in tested] == [False, False, False, True]
    # What it says of the test rows is what it was measured by.
    assert [*answers] == [3]
    assert prepared.task.quality(answers[3], prepared.test) == tested[3].quality_test
