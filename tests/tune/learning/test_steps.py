"""One optimiser step: order of documents, memory, token budget, schedule, precision."""

import copy
import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from trbert.errors import Diverged, InputError, OutOfMemory
from tune.budget import Clock
from tune.learning import steps as learner
from tune.learning.steps import (
    ALONE,
    Learner,
    Team,
    accumulate_gradient,
    autocast,
    bfloat16_speed_up,
    has_fast_bfloat16,
    linear_schedule,
    pick_device,
    shuffled_batches,
    step_in_budget,
)

DOCUMENTS = 12


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


class Task:
    """A summed loss over documents; remembers what it was asked for, and runs out of memory above `room`."""

    def __init__(self, model, room=DOCUMENTS, fails_in="forward"):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(DOCUMENTS, 4, generator=generator)
        self.labels = torch.arange(DOCUMENTS) % 2
        self.model, self.room, self.fails_in = model, room, fails_in
        self.asked = []

    def __call__(self, documents):
        self.asked.append(documents.tolist())
        full = len(documents) > self.room
        if full and self.fails_in == "forward":
            raise torch.OutOfMemoryError("out of memory")
        logits = self.model(self.inputs[documents])
        if full:
            logits = _FailsBackward.apply(logits)
        return nn.functional.cross_entropy(logits, self.labels[documents], reduction="sum")


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("out of memory")


def gradients(model):
    return [parameter.grad for parameter in model.parameters()]


# Order.


def test_every_document_comes_once_an_epoch_in_an_order_of_its_own():
    batches = list(shuffled_batches(10, batch_size=4, steps=5, seed=3))  # 20 draws are two epochs
    assert [len(batch) for batch in batches] == [4] * 5
    seen = torch.cat(batches).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert seen[:10] != sorted(seen[:10])


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    def order(seed):
        return torch.cat(list(shuffled_batches(20, 5, 8, seed))).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_no_two_seeds_share_the_order_of_an_epoch():
    orders = {tuple(batch.tolist()) for seed in range(3) for batch in shuffled_batches(8, 8, steps=3, seed=seed)}
    assert len(orders) == 9


def test_the_order_does_not_depend_on_how_it_is_cut_nor_on_torchs_own_generator():
    torch.manual_seed(0)
    whole = torch.cat(list(shuffled_batches(20, 8, 5, seed=4)))
    torch.manual_seed(1)
    assert torch.equal(torch.cat(list(shuffled_batches(20, 5, 8, seed=4))), whole)


def test_a_batch_larger_than_the_data_repeats_it():
    (batch,) = shuffled_batches(3, batch_size=7, steps=1, seed=0)
    assert sorted(torch.bincount(batch).tolist()) == [2, 2, 3]


# Memory.


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
@pytest.mark.parametrize("room", [11, 5, 1])
def test_when_memory_runs_out_halves_give_the_same_gradient_and_nothing_twice(model, room, fails_in):
    whole = copy.deepcopy(model)
    documents = torch.randperm(DOCUMENTS, generator=torch.Generator().manual_seed(2))
    expected = accumulate_gradient(list(whole.parameters()), documents, Task(whole))
    task = Task(model, room, fails_in)
    value = accumulate_gradient(list(model.parameters()), documents, task)
    done = [asked for asked in task.asked if len(asked) <= room]
    assert [document for part in done for document in part] == documents.tolist()
    assert value == pytest.approx(expected)
    assert_close(gradients(model), gradients(whole))


def test_a_gradient_that_is_there_already_is_added_to(model):
    parameters, documents = list(model.parameters()), torch.arange(4)
    accumulate_gradient(parameters, documents, Task(model))
    once = [gradient.clone() for gradient in gradients(model)]
    accumulate_gradient(parameters, documents, Task(model))
    assert_close(gradients(model), [2 * gradient for gradient in once])


def test_one_document_that_does_not_fit_is_an_error_and_adds_nothing(model):
    with pytest.raises(OutOfMemory, match="one document at a time"):
        accumulate_gradient(list(model.parameters()), torch.tensor([3]), Task(model, room=0))
    assert gradients(model) == [None] * 4


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_refused_and_leaves_the_weights(model, broken):
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def loss(documents):
        value = Task(model)(documents)
        if broken == "loss":
            return value * float("nan")
        return value + _NanBackward.apply(value)

    with pytest.raises(Diverged, match=rf"^a step's {broken}.* must be finite, and is nan: lower the learning rate"):
        step_in_budget(optimizer, torch.arange(4), LENGTHS, 1000, loss)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


class _NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return torch.zeros_like(values)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def test_other_errors_are_not_retried(model):
    def broken(documents):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        accumulate_gradient(list(model.parameters()), torch.arange(4), broken)


def test_a_parameter_that_the_loss_does_not_reach_gets_no_gradient(model):
    unused = nn.Parameter(torch.ones(2))
    accumulate_gradient([*model.parameters(), unused], torch.arange(4), Task(model))
    assert unused.grad is None


# One step.

LENGTHS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])


def after_a_step(model, tokens_per_batch, room=DOCUMENTS):
    model = copy.deepcopy(model)
    task, optimizer = Task(model, room), torch.optim.SGD(model.parameters(), lr=0.1)
    documents = torch.tensor([5, 0, 11, 2, 7, 1, 8])
    value = step_in_budget(optimizer, documents, LENGTHS, tokens_per_batch, task)
    return list(model.parameters()), value, task.asked


@pytest.mark.parametrize(("tokens_per_batch", "room"), [(1, 12), (9, 12), (17, 12), (17, 1), (1000, 3)])
def test_a_step_in_parts_equals_a_step_on_one_big_batch(model, tokens_per_batch, room):
    expected, value, (asked,) = after_a_step(model, 1000)
    assert len(asked) == 7
    parameters, in_parts, _ = after_a_step(model, tokens_per_batch, room)
    assert_close(parameters, expected)
    assert in_parts == pytest.approx(value)


def test_a_part_holds_as_many_documents_as_its_tokens_allow():
    # Lengths 9, 3, 8, 4, 6, 1, 5 in the order asked for: 9 | 3 | 8 | 4 | 6 + 1 | 5 would each break 9 with the next.
    _, _, asked = after_a_step(nn.Linear(4, 2), 9)
    assert asked == [[5], [0], [11], [2], [7, 1], [8]]
    _, _, asked = after_a_step(nn.Linear(4, 2), 12)
    assert asked == [[5, 0], [11, 2], [7, 1, 8]]


def test_the_loss_and_the_gradient_are_means_over_documents(model):
    task, documents = Task(model), torch.arange(6)
    expected = task(documents) / 6
    expected.backward()
    wanted = [p.detach() - 0.1 * p.grad for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert step_in_budget(optimizer, documents, LENGTHS, 1000, task) == pytest.approx(float(expected.detach()))
    assert_close([p.detach() for p in model.parameters()], wanted)


def test_a_long_gradient_is_cut_to_length_1():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    step_in_budget(
        torch.optim.SGD([weight], lr=1.0), torch.arange(2), LENGTHS, 1000, lambda part: 2 * (weight * weight).sum()
    )
    # The mean's gradient is (2, 4), of length √20.
    assert_close(weight.detach(), torch.tensor([1 - 2 / 20**0.5, 2 - 4 / 20**0.5]))


def test_the_gradient_of_the_step_before_is_forgotten(model):
    twice = copy.deepcopy(model)
    for each, count in ((model, 1), (twice, 2)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.0)
        for _ in range(count):
            step_in_budget(optimizer, torch.arange(4), LENGTHS, 1000, Task(each))
    assert_close(gradients(twice), gradients(model))


# One step of several processes.


def test_a_steps_documents_are_dealt_out_to_the_processes_by_hand():
    shares = [Team(rank, 3).share(torch.tensor([9, 8, 7, 6, 5, 4, 3])).tolist() for rank in range(3)]
    assert shares == [[9, 6, 3], [8, 5], [7, 4]]
    assert Team(2, 3).share(torch.tensor([9, 8])).tolist() == []
    assert ALONE.share(torch.tensor([9, 8])).tolist() == [9, 8]


def test_gradients_and_losses_of_the_processes_are_added_up_by_hand(monkeypatch):
    brought = []

    def all_reduce(flat):
        brought.append(flat.tolist())
        flat.add_(torch.tensor([10.0, 20.0, 30.0, 7.0]))  # what the other process brings

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    reached, unreached = nn.Parameter(torch.zeros(1, 2)), nn.Parameter(torch.zeros(1))
    reached.grad = torch.tensor([[1.0, 2.0]])
    assert Team(0, 2).add_up([reached, unreached], 5.0) == 12.0
    assert brought == [[1.0, 2.0, 0.0, 5.0]]  # a gradient that is missing here is 0
    assert reached.grad.tolist() == [[11.0, 22.0]]
    assert unreached.grad.tolist() == [30.0]


def test_a_process_alone_talks_to_nobody(monkeypatch):
    for name in ("all_reduce", "broadcast"):
        monkeypatch.setattr(torch.distributed, name, lambda *a, **k: pytest.fail("it talked"))
    weight = nn.Parameter(torch.zeros(1))
    assert ALONE.add_up([weight], 5.0) == 5.0
    assert weight.grad is None
    assert ALONE.agreed(True, torch.device("cpu")) is True
    assert ALONE.agreed(False, torch.device("cpu")) is False


@pytest.mark.parametrize("first", [True, False])
def test_a_team_does_what_its_first_process_wants(monkeypatch, first):
    def broadcast(word, src):
        assert src == 0
        word.fill_(float(first))

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    assert Team(1, 2).agreed(not first, torch.device("cpu")) is first


class Meeting:
    """Stands in for torch.distributed: processes, here threads, that bring a tensor each leave with the sum."""

    def __init__(self, size):
        self.barrier, self.brought = threading.Barrier(size, timeout=20), []

    def all_reduce(self, flat):
        self.brought.append(flat.clone())
        self.barrier.wait()
        flat.copy_(torch.stack(self.brought).sum(0))


@pytest.mark.parametrize(("size", "scale", "after"), [(2, 0.1, 0.8), (4, 0.1, 0.8), (2, 1.0, 0.0)])
def test_a_team_steps_along_the_mean_of_all_its_documents_by_hand(monkeypatch, size, scale, after):
    # The losses of documents 0, 1, 2 are scale · (1, 2, 3) · w, at w = 1: their mean is 2 · scale, and so is its
    # gradient, which is cut to length 1. Two processes hold 0, 2 and 1; of four processes one holds no document.
    monkeypatch.setattr(torch.distributed, "all_reduce", Meeting(size).all_reduce)

    def process(rank):
        weight = nn.Parameter(torch.ones(()))

        def loss(part):
            return (scale * (part + 1) * weight).sum()

        optimizer = torch.optim.SGD([weight], lr=1.0)
        return step_in_budget(optimizer, torch.arange(3), LENGTHS, 1000, loss, Team(rank, size)), float(weight.detach())

    with ThreadPoolExecutor(size) as processes:
        for mean, weight in processes.map(process, range(size)):
            assert mean == pytest.approx(2 * scale)
            assert weight == pytest.approx(after, abs=1e-5)


# Schedule.


def rates(steps, warm_up):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=8.0)
    schedule = linear_schedule(optimizer, steps, warm_up)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_learning_rate_rises_then_falls_to_0_by_hand():
    # Two of ten steps rise: 1/2, 2/2; then (10 − step)/8.
    assert rates(10, 0.2) == pytest.approx([4, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0])


def test_the_steps_that_rise_are_the_nearest_whole_number_by_hand():
    # .3 · 6 = 1.8 is two steps, .2 · 7 = 1.4 is one: 1/2, 2/2, (6 − step)/4; and (7 − step)/6, cut at 1.
    assert rates(6, 0.3) == pytest.approx([4, 8, 8, 6, 4, 2, 0])
    assert rates(7, 0.2) == pytest.approx([8, 8, 20 / 3, 16 / 3, 4, 8 / 3, 4 / 3, 0])


def test_without_warm_up_the_first_step_is_the_highest():
    # (4 − step)/3, cut at 1.
    assert rates(4, 0.0) == pytest.approx([8, 8, 16 / 3, 8 / 3, 0])


def test_the_learning_rate_falls_to_0_with_the_time_where_that_is_over_before_the_steps_by_hand():
    # Two of ten steps rise, and so do two tenths of the time, of which a fifth goes with each step: 1/2, then 1, and
    # (1 − step/5)/.8.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=8.0)
    left = 1.0
    schedule, found = linear_schedule(optimizer, 10, 0.2, lambda: left), []
    for step in range(6):
        found.append(optimizer.param_groups[0]["lr"])
        left = 1 - (step + 1) / 5
        optimizer.step()
        schedule.step()
    assert found == pytest.approx([4, 8, 6, 4, 2, 0], abs=1e-6)


def test_the_time_of_a_stage_begins_with_it_also_where_a_process_takes_up_its_state(monkeypatch):
    monkeypatch.setattr("tune.budget.time.monotonic", lambda: 1000.0)

    def rate_after_a_step(clock, drawer):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=8.0)
        learner = Learner(optimizer, 10, 0.0, drawer, clock=clock)
        next(learner.batches(4, 2, seed=0))
        optimizer.step()
        learner._schedule.step()
        return optimizer.param_groups[0]["lr"]

    drawer = Drawer()
    # 40 of 100 s are used when the stage begins, and 70 s when another process goes on: 30 of its 60 s are left.
    assert rate_after_a_step(Clock(100.0, used=40.0), drawer) == pytest.approx(8)
    assert rate_after_a_step(Clock(100.0, used=70.0), drawer) == pytest.approx(4)


def test_a_single_step_learns():
    assert rates(1, 0.1)[0] == 8


# What goes on after a death.


class Drawer:
    """Keeps every state, as a file holds it."""

    def __init__(self, state=None):
        self.state = state

    def load(self):
        return self.state

    def keep(self, state):
        buffer = io.BytesIO()
        torch.save(state(), buffer)
        buffer.seek(0)
        self.state = torch.load(buffer, weights_only=True)


def learn(model, keeper, dies_after=None, steps=6):
    """Takes steps whose losses have noise of their own, from the global generator, as dropout has."""
    task = Task(model)
    learner = Learner(torch.optim.AdamW(model.parameters(), lr=0.05), steps, 0.3, keeper)
    seen = []
    for step, documents in learner.batches(DOCUMENTS, 5, seed=2):
        if len(seen) == dies_after:
            return seen
        noise = 1 + torch.rand(())
        step_in_budget(learner.optimizer, documents, LENGTHS, 1000, lambda part, noise=noise: noise * task(part))
        seen.append((step, documents.tolist()))
    return seen


@pytest.mark.parametrize("dies_after", [1, 3, 5])
def test_what_a_dead_process_left_goes_on_as_if_it_had_lived(model, dies_after):
    whole, first, second = (copy.deepcopy(model) for _ in range(3))
    torch.manual_seed(4)
    every = learn(whole, None)
    torch.manual_seed(4)
    drawer = Drawer()
    before = learn(first, drawer, dies_after)
    torch.manual_seed(99)  # another process
    after = learn(second, drawer)
    assert [step for step, _ in every] == list(range(6))
    assert before + after == every
    for one, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_steps_depend_on_beside_the_weights_is_taken_up_too():
    def make(drawer):
        carried = torch.zeros(2)
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        return Learner(optimizer, 3, 0.0, drawer, carried=[carried]), carried

    drawer = Drawer()
    dying, costs = make(drawer)
    for step, _ in dying.batches(4, 2, seed=0):
        costs.copy_(torch.tensor([3.0, 4.0]) if step == 0 else torch.tensor([9.0, 9.0]))
        if step == 1:
            break  # it dies within its second step, and what that step wrote is lost
        dying.optimizer.step()
    _, taken = make(drawer)
    assert taken.tolist() == [3.0, 4.0]


def test_a_finished_stage_takes_no_step_and_gives_its_weights(model):
    fresh, drawer = copy.deepcopy(model), Drawer()
    learn(model, drawer)
    assert learn(fresh, Drawer(drawer.state)) == []
    for one, other in zip(fresh.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


# Precision and device.


@pytest.mark.parametrize(
    ("dtype", "fast", "used"),
    [
        ("float32", True, torch.float32),
        ("float32", False, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_bfloat16_is_used_where_asked_for_or_where_it_is_fast(monkeypatch, dtype, fast, used):
    monkeypatch.setattr(learner, "has_fast_bfloat16", lambda device: fast)
    with autocast(torch.device("cpu"), dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == used
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.fixture
def a_fresh_look():
    has_fast_bfloat16.cache_clear()
    yield
    has_fast_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "times_as_fast", "fast"),
    [
        ({"amx_bf16": True}, 8.0, True),
        ({"avx512_bf16": True}, 3.0, True),
        ({"avx512_bf16": True}, 0.6, False),  # a virtual machine may hide the matrix units
        ({"avx512_bf16": True}, 1.1, False),
        ({"amx_bf16": False}, 8.0, False),
        ({}, 8.0, False),
    ],
)
def test_a_processor_is_fast_in_bfloat16_where_its_instructions_are_faster(
    monkeypatch, a_fresh_look, capabilities, times_as_fast, fast
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(learner, "bfloat16_speed_up", lambda: times_as_fast)
    assert has_fast_bfloat16(torch.device("cpu")) is fast


def test_timing_products_is_timing_both_dtypes_even_within_autocast(monkeypatch):
    used = []
    real = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *sides: used.append(real(*sides).dtype))
    before = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert bfloat16_speed_up() > 0
    assert {dtype: used.count(dtype) for dtype in used} == {torch.float32: 9, torch.bfloat16: 9}
    assert torch.equal(torch.get_rng_state(), before)  # a look at the machine must not change what a seed gives


@pytest.mark.parametrize(
    ("name", "gpu", "device"), [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu")]
)
def test_auto_is_the_gpu_where_there_is_one(monkeypatch, name, gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert pick_device(name) == torch.device(device)


def test_a_gpu_that_torch_does_not_find_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"compute.device is cuda:1, .* finds no GPU here: .*compute.device=cpu"):
        pick_device("cuda:1")


def test_a_stage_that_stops_within_its_first_step_has_told_its_state(model):
    kept = []

    class Keeper:
        def load(self):
            return None

        def keep(self, state):
            kept.append(state()["step"])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = Learner(optimizer, 2, warm_up=0.5, keeper=Keeper()).batches(DOCUMENTS, 4, seed=0)
    next(batches)
    assert kept == [0]
    # The first step is done once the second is asked for.
    optimizer.step()
    next(batches)
    assert kept == [0, 1]


@pytest.mark.parametrize("name", ["tpu", "mps", "", "GPU", "meta"])
def test_another_device_is_refused(name):
    told = f"compute.device must be 'auto', 'cpu' or 'cuda', and is {name!r}: leave it out for 'auto'"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        pick_device(name)
