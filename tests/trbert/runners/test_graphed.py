"""How stages are captured on a GPU, seen with a stand-in for CUDA."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from trbert.runners import Graphed


@pytest.fixture
def cuda(monkeypatch):
    """A stand-in for CUDA, which notes on which device and stream work is done, and in which mode."""
    seen = SimpleNamespace(device=None, stream=None, made=[], works=[], replays=0, full=False)

    @contextmanager
    def within(name, value):
        before = getattr(seen, name)
        setattr(seen, name, value)
        yield
        setattr(seen, name, before)

    @contextmanager
    def graph(captured, pool, stream, capture_error_mode):
        assert (stream.device, capture_error_mode) == (seen.device, "thread_local")
        with within("stream", stream):
            yield
        if seen.full:
            raise torch.OutOfMemoryError

    def stream():
        seen.made.append(SimpleNamespace(device=seen.device))
        return seen.made[-1]

    def replay():
        seen.replays += 1

    monkeypatch.setattr(torch.cuda, "device", lambda device: within("device", device))
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=replay))
    seen.work = lambda: seen.works.append((seen.device, seen.stream, torch.is_inference_mode_enabled()))
    return seen


FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


def test_work_is_done_once_before_it_is_captured_and_then_repeated(cuda):
    runner = Graphed()
    for _ in range(3):
        runner.repeat("key", cuda.work, FIRST)
    assert [stream is not None for _, stream, _ in cuda.works] == [False, True]
    assert cuda.replays == 3


def test_it_is_captured_outside_inference_mode_so_that_what_pytorch_keeps_for_graphs_can_be_written_later(cuda):
    with torch.inference_mode():
        Graphed().repeat("key", cuda.work, FIRST)
    assert [inference for _, _, inference in cuda.works] == [False, False]


def test_each_runner_captures_on_one_stream_of_its_own_device(cuda):
    for device in (FIRST, SECOND):
        runner = Graphed()
        for key in range(3):
            runner.repeat(key, cuda.work, device)
        runner.forget()
        runner.repeat("again", cuda.work, device)
        assert {each for each, _, _ in cuda.works[-8:]} == {device}
    assert [stream.device for stream in cuda.made] == [FIRST, SECOND]
    runner.repeat("moved", cuda.work, FIRST)
    assert cuda.works[-1][1].device == FIRST


def test_without_memory_for_a_capture_the_work_is_done_as_it_is_with_a_warning(cuda):
    runner, cuda.full = Graphed(), True
    with pytest.warns(UserWarning, match="has too little: this stage runs without being captured"):
        runner.repeat("key", cuda.work, FIRST)
    runner.repeat("key", cuda.work, FIRST)
    assert (len(cuda.works), cuda.replays) == (4, 0)


def test_a_pass_on_another_stream_waits_for_the_last_one_on_the_device(monkeypatch):
    class Stream(str):
        def wait_stream(self, other):
            waits.append((str(self), str(other)))

    waits, runner = [], Graphed()
    for name in ("a", "a", "b", "a"):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device, name=name: Stream(name))
        with runner.turn(FIRST):
            pass
    assert waits == [("b", "a"), ("a", "b")]
