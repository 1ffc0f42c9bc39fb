"""Captured spans: the same states on rows of fixed sizes, nothing that is stale, and few sizes."""

import copy
import pickle
import threading

import pytest
import torch
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.packed.batch import ReadsDevice, gather_kept
from trbert.runners import Graphed
from trbert.runners.spans import Spans

LENGTHS = (9, 14, 3, 1, 23)


def encoders(model):
    """Returns the model run eagerly, and the same model run by captured spans."""
    return Encoder(model), Encoder(model, Spans())


@torch.no_grad()
def test_the_states_are_the_eager_ones_for_every_family_also_where_samples_branch(
    family_config, build_model, make_tokens, captured
):
    eager, spans = encoders(build_model(family_config))
    tokens = make_tokens(*LENGTHS, config=family_config)
    masks = torch.rand(3, sum(LENGTHS), generator=torch.Generator().manual_seed(1)) < 0.5
    masks[:, tokens.offsets[:-1]] = True
    for _ in range(2):  # captured, and repeated
        rows = [encoder.run_layers(encoder.embed(tokens), 0, 1) for encoder in (eager, spans)]
        assert_close(rows[1].hidden, rows[0].hidden)
        expected, found = (
            encoder.run_layers(gather_kept(row, masks), 1, 4) for encoder, row in zip((eager, spans), rows, strict=True)
        )
        assert_close(found.hidden, expected.hidden)
        assert len(found) == 15
    grouped = eager.family.grouped is not None
    assert len(captured) == (0 if grouped else 2)  # groups of documents have other sizes each time


@torch.no_grad()
def test_what_a_row_before_has_left_is_never_read(bert, make_tokens):
    eager, spans = encoders(bert)
    large = spans.embed(make_tokens(*[30] * 4))
    spans.run_layers(large.with_hidden(torch.full_like(large.hidden, torch.nan)), 0, 2)
    for lengths in ((30, 30, 7), LENGTHS, (1,), (32, 32), (16,) * 4):  # the last two fill their row
        tokens = make_tokens(*lengths)
        batch = eager.embed(tokens)
        assert_close(spans.run_layers(batch, 0, 2).hidden, eager.run_layers(batch, 0, 2).hidden)


@torch.no_grad()
def test_states_are_not_changed_by_the_next_row(bert, make_tokens):
    _, spans = encoders(bert)
    first = spans.run_layers(spans.embed(make_tokens(*LENGTHS)), 0, 2).hidden
    before = first.clone()
    spans.run_layers(spans.embed(make_tokens(*LENGTHS, seed=5)), 0, 2)
    assert torch.equal(first, before)


@torch.no_grad()
def test_weights_that_were_replaced_drop_what_was_captured_and_changed_ones_are_read(bert, make_tokens, captured):
    eager, spans = encoders(bert)
    batch = eager.embed(make_tokens(*LENGTHS))

    def checked():
        found = spans.run_layers(batch, 0, 4).hidden
        assert_close(found, eager.run_layers(batch, 0, 4).hidden)
        return found

    before = checked()
    bert.bert.encoder.layer[2].output.dense.weight.mul_(2)
    assert not torch.allclose(checked(), before)
    assert len(captured) == 1
    for weight in bert.bert.encoder.layer[1].parameters():  # as `model.to` does
        weight.data = weight.data.clone()
    checked()
    assert len(captured) == 2
    assert len(spans.runner.captures) == 1
    bert.bert.encoder.layer[0] = copy.deepcopy(bert.bert.encoder.layer[0])
    eager, spans = Encoder(bert), Encoder(bert, spans.runner)  # an encoder lists the layers once
    checked()
    assert len(captured) == 3
    assert len(spans.runner.captures) == 1


def test_layers_run_eagerly_where_a_gradient_passes_through_them(bert, make_tokens):
    eager, spans = encoders(bert)
    batch = eager.embed(make_tokens(*LENGTHS))
    found = spans.run_layers(batch.with_hidden(batch.hidden.detach()), 0, 4).hidden  # the weights learn
    assert found.requires_grad
    assert len(spans.runner.captures) == 0
    bert.requires_grad_(False)
    states = batch.hidden.detach().requires_grad_()  # the states do, as those behind a gate
    gradients = []
    for encoder in (eager, spans):
        finished = encoder.run_layers(batch.with_hidden(states), 0, 4).hidden
        gradients.append(torch.autograd.grad(finished.square().sum(), states)[0])
    assert gradients[0].abs().min() > 0
    assert_close(gradients[1], gradients[0])
    assert len(spans.runner.captures) == 0
    with torch.no_grad():
        spans.run_layers(batch.with_hidden(states), 0, 4)
    assert not spans.run_layers(batch.with_hidden(states.detach()), 0, 4).hidden.requires_grad
    assert len(spans.runner.captures) == 1


@torch.no_grad()
def test_layers_run_eagerly_in_training_mode_and_where_attention_is_heard(bert, make_tokens):
    _, spans = encoders(bert)
    batch = spans.embed(make_tokens(*LENGTHS))
    spans.run_layers(batch, 0, 4, listens=True)
    bert.train()
    one, other = (spans.run_layers(batch, 0, 4).hidden for _ in range(2))
    assert not torch.equal(one, other)  # dropout draws anew
    assert len(spans.runner.captures) == 0


@torch.no_grad()
def test_under_autocast_it_runs_in_that_arithmetic_and_in_no_other_after_it(bert, make_tokens, captured):
    eager, spans = encoders(bert)
    batch = eager.embed(make_tokens(*LENGTHS))
    plain = eager.run_layers(batch, 0, 4).hidden
    for dtype in (torch.bfloat16, None, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            expected, found = (encoder.run_layers(batch, 0, 4).hidden for encoder in (eager, spans))
        assert_close(found, expected)
        assert torch.equal(expected, plain) == (dtype is None)
    assert len(captured) == 3


@torch.no_grad()
def test_layers_that_must_read_the_device_run_eagerly_from_then_on(bert, make_tokens, monkeypatch):
    eager, spans = encoders(bert)
    batch, tried = eager.embed(make_tokens(*LENGTHS)), []

    def refuse(self, work, device):
        tried.append(work)
        raise ReadsDevice

    monkeypatch.setattr(Graphed, "_capture", refuse)
    for _ in range(3):
        assert_close(spans.run_layers(batch, 0, 4).hidden, eager.run_layers(batch, 0, 4).hidden)
    assert len(tried) == 1


@pytest.mark.slow
@torch.no_grad()
def test_a_thousand_random_rows_have_few_sizes(bert, make_tokens, captured):
    eager, spans = encoders(bert)
    generator = torch.Generator().manual_seed(0)
    for number in range(1000):
        lengths = torch.randint(1, 41, (16,), generator=generator).tolist()
        tokens = make_tokens(*lengths, seed=number)
        masks = torch.rand(2, sum(lengths), generator=generator) < 0.1 + 0.8 * number / 1000
        masks[:, tokens.offsets[:-1]] = True
        batch = spans.run_layers(spans.embed(tokens), 0, 1)
        found = spans.run_layers(gather_kept(batch, masks), 1, 2).hidden
        if number % 100 == 0:
            expected = eager.run_layers(eager.embed(tokens), 0, 1)
            assert_close(found, eager.run_layers(gather_kept(expected, masks), 1, 2).hidden)
    # A first row has 192 to 512 tokens, a second one 64 to 1,024: buckets are multiples of 64 there.
    assert len(captured) <= 6 + 12
    rooms = [name[1] for name in spans.runner.captures._owners if name[0] == "states"]
    assert sorted(set(rooms)) == sorted(rooms)  # both spans use the same memory
    assert max(rooms) <= 1024


def test_a_copy_has_nothing_captured(bert, make_tokens):
    _, spans = encoders(bert)
    with torch.no_grad():
        spans.run_layers(spans.embed(make_tokens(*LENGTHS)), 0, 2)
    for twin in (copy.deepcopy(spans.runner), pickle.loads(pickle.dumps(spans.runner))):
        assert type(twin) is Spans
        assert len(twin.captures) == 0


@torch.no_grad()
def test_threads_wait_for_each_other(bert, make_tokens):
    eager, spans = encoders(bert)
    batches = [eager.embed(make_tokens(*lengths)) for lengths in [(9, 14), (3,), (20, 20, 20), (1, 2)]]
    expected = [eager.run_layers(batch, 0, 4).hidden for batch in batches]
    wrong = []

    def work(number):
        with torch.no_grad():
            for _ in range(20):
                if not torch.allclose(spans.run_layers(batches[number], 0, 4).hidden, expected[number], atol=1e-5):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# On a GPU. Half precision has the kernel for documents of various lengths, which a captured span needs.


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_the_states_are_the_eager_ones_and_the_memory_is_bounded(bert, make_tokens):
    eager, spans = encoders(bert.to("cuda"))
    used = []
    for seed in range(200):
        lengths = torch.randint(1, 41, (1 + seed % 30,), generator=torch.Generator().manual_seed(seed)).tolist()
        batch = eager.embed(make_tokens(*lengths, seed=seed).to("cuda"))
        with torch.autocast("cuda", torch.bfloat16):
            expected, found = (encoder.run_layers(batch, 0, 4).hidden for encoder in (eager, spans))
        assert_close(found, expected, rtol=0.05, atol=0.05)
        used.append(torch.cuda.memory_reserved())
    assert not spans.runner.captures.unfit
    assert len(spans.runner.captures) > 3
    assert used[-1] < 2 * used[100] + 2**28
