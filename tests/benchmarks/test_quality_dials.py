"""The dials at which quality is measured: chosen on validation, for their speed-up alone."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import quality

from trbert.dial import DialCurve

FEW, ALL = "a few documents", "all of validation"


@pytest.fixture(autouse=True)
def scouted(monkeypatch):
    """Measures a model's dials on the few documents, as `scout` does, whatever the model is."""

    def scout(model, _):
        return DialCurve.measured(lambda dial: model.evaluate(FEW, dial).speed_up, model.selector.dials)

    monkeypatch.setattr(quality, "scout", scout)


def model(slower=1.0, keep_all_costs=1.0):
    """A model whose speed-up is 4 at dial 0.5, 2 at 0.75 and 1 at 1, between them straight in log."""

    def evaluate(split, dial):
        speed_up = 2 ** (4 * (1 - dial)) if dial < 1 else 1 / keep_all_costs
        return SimpleNamespace(speed_up=speed_up if split is FEW else slower * speed_up)

    return SimpleNamespace(selector=SimpleNamespace(dials=(0.5, 0.75), keep_all=1.0), evaluate=evaluate)


def dial_of(speed_up):
    return 1 - math.log2(speed_up) / 4


def test_a_dial_is_two_percent_faster_than_its_target_and_a_target_out_of_reach_has_none():
    # 1.4x lies between the slowest dial and the one that keeps all; the fastest dial has 4x.
    found = dict(quality.dials_for(model(), ALL, (1.4, 3.0, 4.0, 5.0)))
    assert found == {1.4: pytest.approx(dial_of(1.02 * 1.4)), 3.0: pytest.approx(dial_of(1.02 * 3.0))}


def test_a_dial_that_is_too_slow_on_all_of_validation_is_corrected():
    # A tenth slower there than on the few: 3.06x is reached where the few have 3.4x.
    found = dict(quality.dials_for(model(slower=0.9), ALL, (3.0,)))
    assert found == {3.0: pytest.approx(dial_of(1.02 * 3.0 / 0.9))}


def test_a_dial_is_found_although_the_few_documents_are_far_from_the_rest():
    # Of the few two thirds are protected: 2.1x is all that they reach, by dropping everything else at a dial below -3.
    def evaluate(split, dial):
        most, everything = (2.1, -3.0) if split is FEW else (2.5, -1.0)
        share = min(1.0, max(0.0, (8.0 - dial) / (8.0 - everything)))
        return SimpleNamespace(speed_up=most**share)

    dials = (-24.0, -8.0, *(step / 2 for step in range(-10, 13)), 8.0, 24.0)
    short = SimpleNamespace(selector=SimpleNamespace(dials=dials, keep_all=1000.0), evaluate=evaluate)
    ((target, dial),) = quality.dials_for(short, ALL, (2.0,))
    assert 2.0 <= evaluate(ALL, dial).speed_up <= 1.05 * target


def test_keeping_all_tokens_counts_as_the_unreduced_model_however_much_the_policy_costs():
    curve = quality._whole_curve(model(keep_all_costs=1.1), ALL)
    assert curve.dials == (0.5, 0.75, 1.0)
    assert curve.log_costs == pytest.approx([-math.log(4), -math.log(2), 0.0])


def test_costs_do_not_fall_where_the_last_dial_is_dearer_than_the_unreduced_model():
    pays = SimpleNamespace(
        selector=SimpleNamespace(dials=(0.0, 9.0), keep_all=1000.0),
        evaluate=lambda _, dial: SimpleNamespace(speed_up=2.0 if dial < 9 else 0.9),
    )
    assert quality._whole_curve(pays, ALL).log_costs == pytest.approx([-math.log(2), -math.log(0.9), -math.log(0.9)])
