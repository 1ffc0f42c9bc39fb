"""Rollout actors: any number of them gives the same run, and a lost one loses nothing."""

import contextlib
import os
import signal

import numpy as np
import pytest
import torch

from tune.learning.model import Model
from tune.learning.prepare import Prepared, prepare
from tune.learning.select_stage import RolloutItem, flatten, train_policy
from tune.settings import Settings, override

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def settings(tiny_model, tiny_data) -> Settings:
    return override(
        Settings(),
        {
            "model": str(tiny_model),
            "data.source": str(tiny_data),
            "teacher.epochs": 0.5,
            "select.points": (0, 2),
            "select.documents": 96,
            "select.item_documents": 8,
            "select.learning_rate": 1e-2,
            "compute.threads": 1,
        },
    )


@pytest.fixture(scope="module")
def prepared(settings) -> Prepared:
    return prepare(settings, None, lambda line: None)


@pytest.fixture
def pool_of(ray_local, settings, prepared):
    from tune.pool import RolloutPool

    pools = []

    def make(workers, **arguments):
        pools.append(RolloutPool(ray_local.put(prepared), settings, workers, cpus=0.5, **arguments))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def items_of(prepared, count=4):
    documents = torch.arange(8 * count) % len(prepared.train.labels)
    return [RolloutItem(index=i, version=3, documents=tuple(d.tolist())) for i, d in enumerate(documents.split(8))]


def test_none_one_and_two_workers_train_the_same_policy(settings, prepared, pool_of) -> None:
    torch.set_num_threads(1)
    train = prepared.train.examples()
    learned = []
    for workers in (0, 1, 2):
        model = Model(prepared, settings)
        source = pool_of(workers) if workers else model.sampler(train)
        train_policy(model.policy, source, len(train.tokens), settings.select, settings.seed, lambda step: None)
        learned.append(flatten(model.policy))
    untrained = flatten(Model(prepared, settings).policy)
    assert not np.array_equal(untrained, learned[0])
    assert np.array_equal(learned[0], learned[1])
    assert np.array_equal(learned[0], learned[2])


def test_an_actor_that_dies_costs_a_repetition_and_nothing_else(settings, prepared, pool_of, ray_local) -> None:
    model, items = Model(prepared, settings), items_of(prepared)
    weights = flatten(model.policy)
    expected = model.sampler(prepared.train.examples()).gradients(weights, items)
    pool = pool_of(2)
    pool.gradients(weights, items[:1])
    ray_local.kill(pool._actors[0], no_restart=False)
    ray_local.kill(pool._actors[1], no_restart=False)
    found = pool.gradients(weights, items)
    told = pool.statistics()
    assert told.repeated >= 1
    assert told.asked == told.done == 5
    assert [each.index for each in found] == [0, 1, 2, 3]
    for own, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(own.gradient, other.gradient, rtol=1e-4, atol=1e-6)


@pytest.fixture
def frozen(ray_local):
    """Stops a pool's actor as a network partition would: no error, no answer. Goes on at the end."""
    stopped = []

    def freeze(actor):
        stopped.append(ray_local.get(actor.__ray_call__.remote(lambda actor: os.getpid())))
        os.kill(stopped[-1], signal.SIGSTOP)
        return lambda: os.kill(stopped[-1], signal.SIGCONT)

    yield freeze
    for process in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def test_an_actor_that_answers_no_more_is_replaced_after_the_deadline(settings, prepared, pool_of, frozen) -> None:
    model, items = Model(prepared, settings), items_of(prepared, 2)
    weights = flatten(model.policy)
    pool = pool_of(1, deadline=20.0)
    pool.gradients(weights, items)
    frozen(pool._actors[0])
    found = pool.gradients(weights, items)
    assert pool.statistics().repeated == 1
    assert [each.index for each in found] == [0, 1]


def test_an_item_that_is_late_is_sampled_elsewhere_and_counted_once(settings, prepared, pool_of, frozen) -> None:
    model, items = Model(prepared, settings), items_of(prepared)
    weights = flatten(model.policy)
    pool = pool_of(3)  # one is late, one repeats its item, and one must not repeat it again
    while pool.statistics().workers < 3:
        pool.gradients(weights, items)
    thaw = frozen(pool._actors[1])
    before = pool.statistics()
    first = pool.gradients(weights, items)
    told = pool.statistics()
    assert (told.repeated, told.ignored) == (before.repeated + 1, before.ignored)
    thaw()
    while pool.statistics().ignored == before.ignored:
        second = pool.gradients(weights, items)
    told = pool.statistics()
    assert told.ignored == before.ignored + 1
    assert told.asked == told.done
    for own, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(own.gradient, other.gradient)


def test_actors_that_stand_work_while_others_are_still_to_come(settings, prepared, pool_of) -> None:
    model, items = Model(prepared, settings), items_of(prepared)
    pool = pool_of(6)  # of half a processor each: two more than there is room for
    found = pool.gradients(flatten(model.policy), items)
    assert [each.index for each in found] == [0, 1, 2, 3]
    told = pool.statistics()
    assert 1 <= told.workers <= 4
    assert told.repeated == 0


def test_an_error_in_an_actors_making_is_raised_at_once(settings, prepared, pool_of) -> None:
    import ray

    from tune.pool import RolloutPool

    pool = RolloutPool(ray.put(prepared), override(settings, {"select.points": (0, 9)}), 1, cpus=0.5)
    with pytest.raises(ray.exceptions.RayActorError, match="rising layer indices"):
        pool.gradients(flatten(Model(prepared, settings).policy), items_of(prepared))
    pool.close()
