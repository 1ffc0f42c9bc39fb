"""Memory: what a trial needs, how many trials fit, and by which words a process is known to have died of it."""

import re
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError

from trbert.errors import InputError, OutOfMemory
from tune.budget import make_plan
from tune.learning import inputs as module
from tune.learning.inputs import read_inputs, trials_in_memory
from tune.learning.memory import (
    PROCESS_BYTES,
    RAY_BYTES,
    RAY_SHARE,
    Footprint,
    Needs,
    fitting,
    fitting_budget,
    footprint,
    memory_ended,
    wide_budget,
)
from tune.settings import Settings, override

GB = 1e9


@pytest.fixture
def found():
    """A model of two layers whose passes keep 1 MB of each token, and three documents of 100, 60 and 40 tokens."""
    return Footprint(parameters=1000, layers=2, token_bytes=1e6, lengths=torch.tensor([100, 60, 40]), documents=3)


def settings(**changes):
    values = {"joint.batch_size": 2, "joint.samples": 2, "joint.fastest": 16.0, "compute.tokens_per_batch": 1000}
    return override(Settings(), values | {name.replace("__", "."): value for name, value in changes.items()})


def test_what_a_trial_needs_by_hand(found):
    # The heaviest step has the two longest documents, each with two drawn trajectories and a thresholded one.
    needs = found.needs(settings(), 1000)
    assert needs.learner == PROCESS_BYTES + 16 * 1000 + 3 * 160 * 1e6
    # Without a backward pass, a pass keeps what one of two layers keeps, of all 200 tokens.
    assert needs.sampler == PROCESS_BYTES + 4 * 1000 + 200 * 0.5e6


def test_a_smaller_budget_of_tokens_needs_less_until_one_document_is_a_pass(found):
    def trained(budget):
        return (found.needs(settings(), budget).learner - PROCESS_BYTES - 16 * 1000) / 1e6

    assert [trained(budget) for budget in (480, 360, 1)] == [480, 360, 300]


def test_relaxed_decisions_learn_through_the_encoder_in_the_select_stage_too(found):
    changed = settings(selector="gumbel", select__samples=8, select__item_documents=3, joint__documents=0)
    expected = PROCESS_BYTES + 16 * 1000 + 8 * 200 * 1e6
    assert found.needs(changed, 10_000).learner == expected


def test_a_trial_is_all_of_its_processes():
    needs = Needs(learner=10.0, sampler=1.0)
    assert needs.of_trial(workers=0, learners=1) == 10
    assert needs.of_trial(workers=3, learners=1) == 13
    assert needs.of_trial(workers=3, learners=2) == 24  # the trial's own process only runs the encoder


@pytest.mark.parametrize(("usable", "trials"), [(100.0, 4), (25.0, 2), (9.0, 1)])
def test_as_many_trials_run_at_once_as_memory_holds(usable, trials):
    assert fitting(usable, 10.0, wanted=4) == trials


def test_passes_are_cut_until_one_trial_fits(found):
    one = PROCESS_BYTES + 16_000

    def budget(usable, free):
        return fitting_budget(found, settings(), 1000, (0, 1), one + usable * 1e6, one + free * 1e6)

    assert budget(480, 480) == 1000
    assert budget(400, 400) == 250
    assert budget(290, 310) == 250  # what is left for Ray is used before the search is refused
    with pytest.raises(
        InputError, match=r"^a trial needs at least 0\.8 GB of memory, and 0\.8 GB are free: .*--max-len"
    ):
        budget(299, 299)


@pytest.fixture
def selecting():
    """A model of one layer whose passes keep 10 kB of each token, and the settings of a search without a joint stage.

    A trial of one process needs 1.81 GB with passes of 131,072 tokens, 1.16 GB with half as many, then 0.83 and 0.66.
    """
    found = Footprint(parameters=0, layers=1, token_bytes=1e4, lengths=torch.full((1000,), 512), documents=1000)
    return found, override(Settings(), {"joint.documents": 0})


@pytest.mark.parametrize(("trials", "tokens"), [(5, 131072), (6, 65536), (9, 32768), (12, 32768), (13, 16384)])
def test_a_pass_on_a_gpu_is_as_wide_as_memory_for_all_trials_allows_by_hand(selecting, trials, tokens):
    assert wide_budget(*selecting, (0, 1), trials, 10 * GB) == tokens
    assert wide_budget(selecting[0], settings(), (0, 1), trials, 10 * GB) == 1000  # as it was set


@pytest.mark.parametrize(("device", "tokens"), [("cpu", None), ("cuda", 65536)])
def test_a_search_has_wider_passes_on_a_gpu_alone(selecting, device, tokens, monkeypatch):
    monkeypatch.setattr(module, "_memory", lambda *_: (4 * GB, 4 * GB))
    told, plan = [], make_plan(600.0, 3, 3)
    found, needs = module._in_memory(selecting[0], torch.device(device), selecting[1], plan, told.append)
    assert found.compute.tokens_per_batch == tokens
    assert needs == selecting[0].needs(found, found.compute.tokens_of_pass)
    assert told == [f"memory: up to {3 * needs.learner / 1e9:.1f} GB for 3 trials at once, of 4.0 GB that are free"]


# What a search and a dry run do with it.


@pytest.fixture
def memory(monkeypatch):
    """A function that sets the memory that is free on this machine, in bytes."""

    def set_to(free):
        monkeypatch.setattr(module, "memory_available", lambda: free)
        monkeypatch.setattr(module, "memory_total", lambda: 0)

    return set_to


@pytest.mark.parametrize(("free", "at_once"), [(100 * GB, 3), (1.4 * GB, 2), (0.9 * GB, 1)])
def test_the_plan_says_how_many_trials_memory_holds(tiny_settings, cache, memory, free, at_once):
    memory(free)
    told = []
    plan = make_plan(600.0, 3, None)
    inputs = read_inputs(tiny_settings, told.append, plan)
    (line,) = (line for line in told if line.startswith("memory: "))
    trials = f"{at_once} trials at once, if there is time for so many" if at_once > 1 else "the trial"
    more = "" if at_once == 3 else ", memory for no more at once"
    assert re.fullmatch(rf"memory: up to .* GB for {trials}, of {free / 1e9:.1f} GB that are free{more}", line)
    assert trials_in_memory(inputs.needs, torch.device("cpu"), 10_000, plan) == at_once
    assert inputs.settings == inputs.asked


def test_a_machine_of_a_cluster_needs_memory_for_one_trial_only(tiny_settings, cache, memory):
    memory(0.9 * GB)
    told = []
    read_inputs(tiny_settings, told.append, replace(make_plan(600.0, 3, None, learners=4, workers=5), spread=True))
    (line,) = (line for line in told if line.startswith("memory: "))
    assert line.endswith("for the trial, of 0.9 GB that are free")


def test_passes_are_cut_before_anything_is_trained_and_it_is_said(tiny_settings, cache, memory):
    told = []
    wide = override(tiny_settings, {"joint.batch_size": 200})
    needs = read_inputs(wide, told.append, make_plan(600.0, 1, 1)).needs
    memory(needs.learner - 1e6 + RAY_BYTES)
    cut = read_inputs(wide, told.append, make_plan(600.0, 1, 1))
    assert cut.settings.compute.tokens_per_batch < wide.compute.tokens_of_pass
    assert cut.needs.learner < needs.learner
    number = f"{cut.settings.compute.tokens_per_batch:,}"
    assert f"memory: a pass has at most {number} tokens, and not 16,384, to fit in" in told


def test_a_machine_without_memory_for_one_trial_is_refused_before_anything_is_trained(tiny_settings, cache, memory):
    memory(0.3 * GB)
    with pytest.raises(InputError, match=r"a trial needs at least 0\.5 GB of memory, and 0\.3 GB are free"):
        read_inputs(tiny_settings, lambda line: None, make_plan(600.0, 1, 1))


def test_ray_keeps_a_share_of_the_machine_for_itself(memory, monkeypatch):
    memory(10 * GB)
    needs, plan = Needs(learner=2.0 * GB, sampler=1.0), make_plan(600.0, 9, 9)
    assert trials_in_memory(needs, torch.device("cpu"), 0, plan) == 4
    monkeypatch.setattr(module, "memory_total", lambda: 100 * GB)
    assert trials_in_memory(needs, torch.device("cpu"), 0, plan) == int(
        (10 * GB - RAY_BYTES - RAY_SHARE * 100 * GB) // (2 * GB)
    )


# The peak is VmHWM and not ru_maxrss: a process begins with the ru_maxrss of the one that started it.
MEASURED = """
from pathlib import Path
import torch, transformers
from trbert.encoder import Encoder
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.tasks import task_of
from trbert.tasks.examples import Examples
from tune.learning.memory import footprint

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

torch.set_num_threads(1)
config = transformers.BertConfig(vocab_size=50, hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
                                 intermediate_size=512)
plain = transformers.BertForSequenceClassification(config).eval()
reducer = Reducer(encoder=Encoder(plain), task=task_of("classification"))
examples = Examples.of_documents(Tokens.from_lists([[7] * 256] * 64, None), torch.arange(64) % 2)
found = footprint(reducer, examples, examples.lengths, "float32")
reducer.unreduced_outputs(examples.take(torch.arange(1)).tokens)
before = peak()
loss = reducer.task.loss(reducer.unreduced_outputs(examples.tokens), examples).sum()
torch.autograd.grad(loss, list(plain.parameters()), allow_unused=True)
print((peak() - before) / (64 * 256 * found.token_bytes))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak")
def test_what_is_measured_of_a_token_is_what_a_pass_takes_from_the_system():
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 0.6 < float(done.stdout) < 1.1


def test_the_measured_pass_leaves_the_model_and_the_random_numbers_alone(tiny_settings, cache):
    inputs = read_inputs(tiny_settings, lambda line: None)
    state = torch.get_rng_state()
    found = footprint(inputs.reducer, inputs.taught["train"], inputs.examples["train"].lengths, "float32")
    assert found.token_bytes > 0
    assert found.lengths[0] == inputs.examples["train"].lengths.max()
    assert torch.get_rng_state().equal(state)
    assert all(each.grad is None for each in inputs.reducer.encoder.plain.parameters())


def test_rounded_weights_do_not_count_as_memory_of_tokens(tiny_settings, cache):
    inputs = read_inputs(tiny_settings, lambda line: None)
    train = inputs.taught["train"]
    found = {dtype: footprint(inputs.reducer, train, train.lengths, dtype) for dtype in ("float32", "bfloat16")}
    assert found["bfloat16"].token_bytes < 1.1 * found["float32"].token_bytes


# How a process ended.

SIGKILLED = textwrap.dedent("""\
    The actor died unexpectedly before finishing this task.
    The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker
    unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was
    killed by the OOM killer due to high memory usage.""")


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (RuntimeError(SIGKILLED), "was killed, most likely because memory ran out"),
        (RuntimeError("The actor died because its node has died."), None),
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "was ended by Ray, because its"),
        (RayTaskError("train", "", MemoryError(), ip="10.0.0.7", pid=1), "failed because memory ran out"),
        (OutOfMemory("memory must be enough"), "failed because memory ran out"),
        (RayTaskError("train", "", ValueError("other"), ip="10.0.0.7", pid=1), None),
    ],
)
def test_how_memory_ended_a_process_is_told_from_the_error(error, how):
    found = memory_ended(error)
    assert found is None if how is None else found.startswith(how)
