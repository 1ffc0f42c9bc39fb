"""Rollout actors: any number of them gives the same run, and a lost one loses nothing."""

import contextlib
import dataclasses
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayActorError

from trbert.errors import OutOfMemory
from tune.budget import Clock, StageTimeout
from tune.learning.model import Model
from tune.learning.prepare import Prepared, prepare
from tune.learning.select_stage import ItemGradient, RolloutItem, flatten, train_policy
from tune.processes import pool as pool_module
from tune.processes.pool import PoolStatistics, RolloutActor, RolloutPool
from tune.settings import Settings, override

needs_ray = pytest.mark.ray


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
    pools = []

    def make(workers, **arguments):
        pools.append(RolloutPool(ray_local.put(prepared), settings, workers, cpus=0.5, **arguments))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def items_of(prepared, count=4):
    documents = torch.arange(8 * count) % len(prepared.train)
    return [RolloutItem(index=i, version=3, examples=tuple(d.tolist())) for i, d in enumerate(documents.split(8))]


@needs_ray
def test_none_one_and_two_workers_train_the_same_policy(settings, prepared, pool_of) -> None:
    torch.set_num_threads(1)
    train = prepared.train
    learned = []
    for workers in (0, 1, 2):
        model = Model(prepared, settings)
        source = pool_of(workers) if workers else model.sampler(train)
        train_policy(model.policy, source, train, settings.select, settings.seed, lambda step: None)
        learned.append(flatten(model.policy))
    untrained = flatten(Model(prepared, settings).policy)
    assert not np.array_equal(untrained, learned[0])
    assert np.array_equal(learned[0], learned[1])
    assert np.array_equal(learned[0], learned[2])


@needs_ray
def test_an_actor_that_dies_costs_a_repetition_and_nothing_else(settings, prepared, pool_of, ray_local) -> None:
    model, items = Model(prepared, settings), items_of(prepared)
    weights = flatten(model.policy)
    expected = model.sampler(prepared.train).gradients(weights, items)
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


class Killed(RolloutActor):
    """An actor that is killed by every item, as the kernel kills a process for which there is no memory."""

    def gradient(self, weights, item):
        os.kill(os.getpid(), signal.SIGKILL)


@needs_ray
def test_an_item_that_kills_every_actor_is_not_repeated_for_ever(settings, prepared, pool_of, monkeypatch) -> None:
    monkeypatch.setattr(pool_module, "REST_S", 0.1)
    monkeypatch.setattr(pool_module, "MOST_LOST", 2)
    pool = pool_of(1, actor=Killed)
    with pytest.raises(OutOfMemory) as found:
        pool.gradients(flatten(Model(prepared, settings).policy), items_of(prepared, 1))
    assert str(found.value) == (
        "a rollout worker must have enough memory for an item of work, and 2 workers ended over the same one, most "
        "likely because memory ran out: lower --set select.item_documents=4 or --set select.samples=4, cut the "
        "documents shorter with --max-length, or use fewer --num-rollout-workers"
    )


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


@needs_ray
def test_an_actor_that_answers_no_more_is_replaced_after_the_deadline(settings, prepared, pool_of, frozen) -> None:
    model, items = Model(prepared, settings), items_of(prepared, 2)
    weights = flatten(model.policy)
    pool = pool_of(1, deadline=20.0)
    pool.gradients(weights, items)
    frozen(pool._actors[0])
    found = pool.gradients(weights, items)
    assert pool.statistics().repeated == 1
    assert [each.index for each in found] == [0, 1]


@needs_ray
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


@needs_ray
def test_actors_that_stand_work_while_others_are_still_to_come(settings, prepared, pool_of) -> None:
    model, items = Model(prepared, settings), items_of(prepared)
    pool = pool_of(6)  # of half a processor each: two more than there is room for
    found = pool.gradients(flatten(model.policy), items)
    assert [each.index for each in found] == [0, 1, 2, 3]
    told = pool.statistics()
    assert 1 <= told.workers <= 4
    assert told.repeated == 0


@needs_ray
def test_an_error_in_an_actors_making_is_raised_at_once(settings, prepared, pool_of) -> None:
    pool = RolloutPool(ray.put(prepared), override(settings, {"select.points": (0, 9)}), 1, cpus=0.5)
    with pytest.raises(ray.exceptions.RayActorError, match="rising layer indices"):
        pool.gradients(flatten(Model(prepared, settings).policy), items_of(prepared))
    pool.close()


# The pool's books, over a Ray whose answers and clock are the test's.


class FakeRay:
    """Actors that answer when the script says so.

    Each step of the script is called at one of the pool's looks at what has come in. It is given the calls that are
    open, the oldest first, and returns those that have come in.
    """

    def __init__(self):
        self.now, self.script, self.killed, self.calls, self.errors, self.started = 0.0, [], [], {}, {}, 0

    def remote(self, **options):
        return lambda actor: SimpleNamespace(remote=self._start)

    def _start(self, prepared_ref, settings):
        self.started += 1
        actor = SimpleNamespace(number=self.started)
        actor.ready = SimpleNamespace(remote=lambda: self._call(actor, None))
        actor.gradient = SimpleNamespace(remote=lambda weights, item: self._call(actor, item.index))
        return actor

    def _call(self, actor, index):
        ref = self.put(None)
        self.calls[ref] = Call(actor.number, index)
        return ref

    def put(self, value):
        return ray.ObjectRef(os.urandom(28), skip_adding_local_ref=True)

    def wait(self, refs, timeout):
        open_calls = [(ref, call) for ref, call in self.calls.items() if ref in refs]
        come_in = self.script.pop(0)(open_calls)
        return [ref for ref, _ in come_in], []

    def get(self, ref):
        if ref in self.errors:
            raise self.errors[ref]
        index = self.calls[ref].index
        if index is None:
            return None
        nothing = np.zeros(2, dtype=np.float32)
        return ItemGradient(index=index, gradient=nothing, reward=0.0, charge=0.0, kept=1.0, seconds=1.0)

    def kill(self, actor):
        self.killed.append(actor.number)

    def after(self, seconds, come_in=lambda calls: []):
        """A step of the script that takes time."""

        def step(calls):
            self.now += seconds
            return come_in(calls)

        return step

    def dies(self, index):
        """A step of the script in which the actor that has an item dies."""

        def step(calls):
            ((ref, call),) = of(index)(calls)
            self.errors[ref] = RayActorError()
            return [(ref, call)]

        return step


@dataclasses.dataclass(frozen=True)
class Call:
    """Who was asked, and for which item; None asks whether the actor stands."""

    actor: int
    index: int | None


def all_of_them(calls):
    return calls


def of(index):
    """A step of the script: what was asked for an item comes in, from whoever has it."""
    return lambda calls: [(ref, call) for ref, call in calls if call.index == index]


def first_of(index):
    return lambda calls: of(index)(calls)[:1]


def last_of(index):
    return lambda calls: of(index)(calls)[-1:]


@pytest.fixture
def fake(monkeypatch):
    """A Ray that does nothing by itself, in place of the pool's."""
    own = FakeRay()
    for name in ("remote", "put", "wait", "get", "kill"):
        monkeypatch.setattr(pool_module.ray, name, getattr(own, name))
    monkeypatch.setattr("tune.processes.pool.time.monotonic", lambda: own.now)
    return own


def make_pool(fake, workers, **options):
    return RolloutPool(fake.put(None), Settings(), workers, **options)


def take_step(pool, fake, count, *script):
    """Asks for so many items; returns the places of the results once the whole script was played."""
    fake.script = list(script)
    version = pool.statistics().asked
    items = [RolloutItem(index=index, version=version, examples=(index,)) for index in range(count)]
    found = pool.gradients(np.zeros(2, dtype=np.float32), items)
    assert fake.script == []
    return [each.index for each in found]


def books(pool):
    told = pool.statistics()
    return {"asked": told.asked, "done": told.done, "repeated": told.repeated, "ignored": told.ignored}


def test_results_return_in_the_order_of_items_and_each_is_counted_once(fake):
    pool = make_pool(fake, 2)
    assert pool.statistics() == PoolStatistics()  # none of its actors stands yet
    assert take_step(pool, fake, 3, all_of_them, of(1), of(2), of(0)) == [0, 1, 2]
    assert books(pool) == {"asked": 3, "done": 3, "repeated": 0, "ignored": 0}
    assert pool.statistics().workers == 2


@pytest.fixture
def used(fake):
    """A pool of two actors after a step of two items, each of a second."""
    pool = make_pool(fake, 2)
    assert take_step(pool, fake, 2, all_of_them, fake.after(1.0, all_of_them)) == [0, 1]
    return pool


def test_an_item_is_late_after_three_times_the_usual_seconds(used, fake):
    # Item 1 comes in after 2 s: three items took 1, 1 and 2 s, 4/3 s on average. Item 0 is late after 4 s.
    having = []

    def look(calls):
        having.append(len(of(0)(calls)))
        return []

    script = [fake.after(2.0, of(1)), fake.after(1.9), look, fake.after(0.2), look, last_of(0)]
    assert take_step(used, fake, 2, *script) == [0, 1]
    assert having == [1, 2]  # after 3.9 s, and after 4.1 s
    asked = [call for call in fake.calls.values() if call.index is not None]
    assert [call.index for call in asked] == [0, 1, 0, 1, 0]
    assert asked[2].actor != asked[4].actor
    assert books(used) == {"asked": 4, "done": 4, "repeated": 1, "ignored": 0}


def test_an_item_is_not_late_within_a_second_however_short_items_are(fake):
    pool = make_pool(fake, 2)
    take_step(pool, fake, 2, all_of_them, fake.after(0.01, all_of_them))
    take_step(pool, fake, 2, of(1), fake.after(0.9), of(0))
    assert books(pool)["repeated"] == 0
    take_step(pool, fake, 2, of(1), fake.after(1.1), last_of(0))
    assert books(pool)["repeated"] == 1


def test_a_late_item_is_repeated_once_and_in_its_own_step_alone(fake):
    pool = make_pool(fake, 3)
    take_step(pool, fake, 3, all_of_them, fake.after(1.0, all_of_them))
    # Of three actors one has the item, a second repeats it, and the third stays idle.
    take_step(pool, fake, 1, fake.after(3.5), fake.after(3.5), last_of(0))
    assert books(pool)["repeated"] == 1
    # The first has it still. In the next step nobody is given it, however many are idle.
    take_step(pool, fake, 1, lambda calls: of(0)(calls)[1:2])
    assert len(fake.calls) == 3 + 3 + 2 + 1
    assert books(pool) == {"asked": 5, "done": 5, "repeated": 1, "ignored": 0}


def test_a_late_result_of_an_earlier_step_is_not_counted(used, fake):
    assert take_step(used, fake, 2, of(1), fake.after(3.5), last_of(0)) == [0, 1]
    # The first actor's item 0 of that step comes in now, before item 0 of this one.
    assert take_step(used, fake, 1, first_of(0), of(0)) == [0]
    assert books(used) == {"asked": 5, "done": 5, "repeated": 1, "ignored": 1}


def test_the_second_result_of_an_item_is_not_counted(used, fake):
    # Two actors have item 0, and both results come in at one look.
    assert take_step(used, fake, 2, of(1), fake.after(3.5), of(0)) == [0, 1]
    assert books(used) == {"asked": 4, "done": 4, "repeated": 1, "ignored": 1}


def test_an_actor_that_dies_rests_for_a_second_and_its_item_goes_to_another(fake):
    pool = make_pool(fake, 2)
    assert take_step(pool, fake, 2, all_of_them, fake.dies(0), of(1), of(0)) == [0, 1]
    assert books(pool) == {"asked": 2, "done": 2, "repeated": 1, "ignored": 0}
    assert pool.statistics().workers == 1
    assert fake.killed == []
    # Once it has rested it is asked whether it stands again, and works.
    fake.now += 0.9
    take_step(pool, fake, 1, of(0))
    assert pool.statistics().workers == 1
    assert sum(call.index is None for call in fake.calls.values()) == 2
    fake.now += 0.2
    take_step(pool, fake, 1, of(None), of(0))
    assert pool.statistics().workers == 2


def test_an_item_whose_actor_dies_is_not_repeated_while_another_has_it(used, fake):
    script = [of(1), fake.after(3.5), lambda calls: fake.dies(0)(first_of(0)(calls)), of(0)]
    assert take_step(used, fake, 2, *script) == [0, 1]
    assert books(used) == {"asked": 4, "done": 4, "repeated": 1, "ignored": 0}


def test_an_actor_that_answers_no_more_is_replaced_and_its_item_repeated(fake):
    pool = make_pool(fake, 1, deadline=20.0)
    killed = []

    def look(calls):
        killed.extend(fake.killed)
        return []

    script = [all_of_them, fake.after(20.0), look, fake.after(0.5), of(None), of(0)]
    assert take_step(pool, fake, 1, *script) == [0]
    assert killed == []  # after 20 s, and not later than after 20.5 s
    assert books(pool) == {"asked": 1, "done": 1, "repeated": 1, "ignored": 0}
    assert fake.killed == [1]
    assert pool.statistics().waiting_s == 20.5
    pool.close()
    assert fake.killed == [1, 2]


class Unmade(RayActorError):
    actor_init_failed = True


def test_an_error_in_the_making_of_an_actor_is_raised(fake):
    pool = make_pool(fake, 1)
    (ref,) = fake.calls
    fake.errors[ref] = Unmade()
    with pytest.raises(RayActorError):
        take_step(pool, fake, 1, all_of_them)


def test_a_step_does_not_outlive_the_time_of_its_stage(fake):
    pool = make_pool(fake, 2, clock=Clock(30.0))
    with pytest.raises(StageTimeout):
        take_step(pool, fake, 2, all_of_them, fake.after(10.0, of(0)), fake.after(25.0), fake.after(1000.0))
    assert fake.now == 35.0  # it looked once more, and did not wait on
