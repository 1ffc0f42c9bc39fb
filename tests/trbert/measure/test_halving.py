"""Halving when memory runs out: which errors say so, and that the halves give what the whole would have given."""

import os
import pickle
import subprocess
import sys
import textwrap
import weakref

import numpy as np
import pytest
import torch

from trbert.errors import OutOfMemory
from trbert.measure.halving import halved, is_out_of_memory

LIMITED = """
import resource
import torch, transformers
from trbert.encoder import Encoder
from trbert.errors import OutOfMemory
from trbert.measure import halving
from trbert.measure.evaluate import forward_at, predict, unreduced_outputs
from trbert.packed.tokens import Tokens
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import selector_of
from trbert.tasks import task_of
from trbert.tasks.examples import Examples
from tune.learning.steps import step_in_budget

torch.set_num_threads(1)
torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=50, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256,
    max_position_embeddings=4096,
)
plain = transformers.BertForSequenceClassification(config).eval()
reducer = Reducer(encoder=Encoder(plain), task=task_of("classification"), points=(1,))
selector = selector_of("first", Policy(64, 0))
documents = torch.randint(5, 50, (48, 512)).tolist()
examples = Examples.of_documents(Tokens.from_lists(documents, None), torch.arange(48) % 2)
optimizer = torch.optim.SGD(plain.parameters(), lr=0.0)
attempts = []

def loss(chosen):
    attempts.append(len(chosen))
    part = examples.take(chosen)
    return reducer.task.loss(reducer.unreduced_outputs(part.tokens), part).sum()

def step(chosen):
    value = step_in_budget(optimizer, chosen, examples.lengths, 10**9, loss)
    return torch.cat([torch.tensor([value]), *(p.grad.flatten() for p in plain.parameters() if p.grad is not None)])

acts = {
    "train": lambda: step(torch.arange(48)),
    "outputs": lambda: unreduced_outputs(reducer, examples, 10**9),
    "predict": lambda: predict(reducer, forward_at(reducer, selector, 0.5), examples, 10**9).outputs,
}

def within(megabytes, act):
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 10**6, most))
    try:
        return act()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
"""


def run_limited(script):
    """Runs a script in a process of its own, whose memory it limits; returns what the process printed."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + textwrap.dedent(script)],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},  # what is let go is not kept for later tensors
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep no such limit")
def test_a_processor_without_memory_trains_and_evaluates_in_halves_with_the_same_result():
    out = run_limited("""
        seen = []
        first = halving.is_out_of_memory
        halving.is_out_of_memory = lambda error: seen.append(type(error)) or first(error)
        for name, act in acts.items():
            whole = act()
            assert not seen, (name, seen)
            for megabytes in (150, 75, 40) if name == "train" else (40, 20, 10):
                torch.testing.assert_close(within(megabytes, act), whole, rtol=1e-4, atol=1e-5)
                if seen:  # how much a process has free without asking the system differs
                    break
            print(name, "halved" if seen else "whole")
            seen.clear()
    """)
    assert out.splitlines() == ["train halved", "outputs halved", "predict halved"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep no such limit")
def test_a_document_that_does_not_fit_by_itself_names_the_settings_that_help():
    out = run_limited("""
        for name, act in {**acts, "train": lambda: step(torch.tensor([3]))}.items():
            try:
                within(0, act)
            except OutOfMemory as error:
                print(error)
    """)
    assert len(out.splitlines()) == 3
    for line in out.splitlines():
        assert "one document at a time" in line
        assert "allocate memory" in line
        assert "--max-length" in line


# What was seen when torch had no memory: on a processor, with a limited address space, in float32 and in bfloat16.

FULL = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 61440000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((1000,), np.dtype("float64")),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OutOfMemory("memory must be enough for one document at a time"),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("could not create a primitive descriptor for a matmul primitive"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    ValueError("DefaultCPUAllocator: can't allocate memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: f"{type(error).__name__} {str(error)[-40:]}")
def test_every_way_in_which_memory_runs_out_is_halved(error):
    assert is_out_of_memory(error)

    def act(documents):
        if len(documents) > 1:
            raise error
        return documents.tolist()

    assert list(halved(act, torch.arange(3))) == [[0], [1], [2]]


@pytest.mark.parametrize("error", OTHER, ids=lambda error: f"{type(error).__name__} {str(error)[:40]}")
def test_another_error_is_not_halved(error):
    assert not is_out_of_memory(error)
    asked = []

    def act(documents):
        asked.append(len(documents))
        raise error

    with pytest.raises(type(error)) as found:
        list(halved(act, torch.arange(4)))
    assert found.value is error
    assert asked == [4]


def test_the_error_of_one_document_says_what_helps_and_can_be_sent_to_another_process():
    def act(documents):
        raise MemoryError

    with pytest.raises(OutOfMemory) as found:
        list(halved(act, torch.arange(1)))
    assert str(found.value) == (
        "memory must be enough for one document at a time, and is not (MemoryError): cut the documents shorter "
        "(--max-length), sample fewer trajectories of each (--set select.samples=2 --set joint.fastest=0), use a "
        "smaller model, or free some memory"
    )
    again = pickle.loads(pickle.dumps(found.value))
    assert type(again) is OutOfMemory
    assert str(again) == str(found.value)


def test_documents_are_halved_until_they_fit_by_hand():
    asked = []

    def act(documents):
        asked.append(documents.tolist())
        if len(documents) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return documents.tolist()

    # Seven documents are cut into three and four, three into one and two, four into two and two.
    assert list(halved(act, torch.arange(7))) == [[0], [1, 2], [3, 4], [5, 6]]
    assert [len(each) for each in asked] == [7, 3, 1, 2, 4, 2, 2]


def test_halves_are_computed_once_the_memory_of_the_whole_is_let_go():
    held = []

    class Large:
        pass

    def act(documents):
        large = Large()
        held.append(weakref.ref(large))
        if len(documents) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return [each() for each in held[:-1]]

    assert list(halved(act, torch.arange(2))) == [[None], [None, None]]
