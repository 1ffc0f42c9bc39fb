"""A model measured: masks thresholded as deployed, and masks drawn as in training."""

import dataclasses

import pytest
import torch

from trbert.errors import InputError
from trbert.latency import LatencyTable
from tune.settings import PRESETS, override
from tune.training import KEEP_ALL, SPEED_UPS, Model, spread_dials

QUICK = {"select.points": (0, 2)}


@pytest.fixture
def split(prepared):
    return prepared.validation.examples()


def make(prepared, settings, changes=None):
    return Model(prepared, override(settings, QUICK | (changes or {})))


def set_scale(model, weight, bias):
    with torch.no_grad():
        for head in model.policy.heads:
            head.linear_2.weight.mul_(weight)
            head.linear_2.bias.fill_(bias)


def untimed(evaluation):
    return dataclasses.replace(evaluation, docs_per_second=0.0)


def test_a_policy_that_is_sure_draws_what_it_would_deploy(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings)
    set_scale(model, 1e9, 0.0)
    drawn, deployed = model.evaluate_sampled(split), model.evaluate(split, 0.0)
    assert untimed(drawn) == untimed(deployed)
    assert 0 < deployed.kept[1] < deployed.kept[0] < 1


def test_a_policy_that_leans_one_way_draws_less_than_it_would_deploy(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings)
    set_scale(model, 0.0, 1.0)  # keeps with probability .73, and above one half everywhere
    drawn, deployed = model.evaluate_sampled(split), model.evaluate(split, 0.0)
    assert deployed.kept == (1.0, 1.0)
    protected = 2 / float(split.tokens.lengths.double().mean())
    for point, keep in enumerate((0.7311, 0.7311**2)):
        assert drawn.kept[point] == pytest.approx(protected + (1 - protected) * keep, abs=0.06)
    assert drawn.speed_up > 1


def test_drawn_masks_do_not_depend_on_the_batches(prepared, tiny_settings, split):
    small, large = (make(prepared, tiny_settings, {"compute.tokens_per_batch": most}) for most in (40, 4096))
    first, second = small.evaluate_sampled(split), large.evaluate_sampled(split)
    assert first.kept == second.kept
    assert first.quality == second.quality


def test_where_time_is_the_price_the_prepared_table_is_paid(prepared, tiny_settings):
    table = LatencyTable(
        tokens=(1, 2), seconds=(1.0, 2.0), documents=1, layers=4, device="cpu", dtype="float32", threads=1
    )
    timed = dataclasses.replace(prepared, latency=table)
    assert make(timed, tiny_settings, {"select.price": "latency"}).dynamics.terms.latency is table
    with pytest.raises(InputError, match="needs a latency table"):
        make(prepared, tiny_settings, {"select.price": "latency"})


def test_the_paper_s_recipe_has_heads_without_context(prepared, tiny_settings):
    assert make(prepared, tiny_settings).policy.context
    assert not make(prepared, tiny_settings, {"policy_context": False}).policy.context
    assert PRESETS["tr-bert"]["policy_context"] is False


def test_the_dials_measured_lie_near_the_speed_ups_wanted(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings)
    set_scale(model, 600.0, 0.0)  # logits a few units wide, as after training
    dials = spread_dials(model, split)
    assert dials == sorted(dials)
    assert {0.0, KEEP_ALL} <= set(dials)
    found = [model.evaluate(split, dial).speed_up for dial in dials if dial not in (0.0, KEEP_ALL)]
    fastest = model.evaluate(split, -4.0).speed_up
    wanted = [each for each in SPEED_UPS if each <= fastest]
    assert len(found) == len(wanted) >= 2
    for measured, speed_up in zip(found, wanted, strict=True):
        assert measured == pytest.approx(speed_up, rel=0.15)


@pytest.mark.parametrize("bias", [50.0, -50.0])
def test_speed_ups_out_of_reach_are_left_out(prepared, tiny_settings, split, bias):
    model = make(prepared, tiny_settings)
    set_scale(model, 0.0, bias)
    assert spread_dials(model, split) == [0.0, KEEP_ALL]
