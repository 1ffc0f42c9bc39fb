"""The two commands of the README, whole, on a tiny model: search, pick, load in a new process, resume after a kill."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tune.preflight.machine import processors

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tune" / script), *arguments]


def search_arguments(tiny_model, tiny_data, runs, trials) -> list[str]:
    quick = ["teacher.learning_rate=1e-3", "teacher.epochs=6", "select.documents=400", "joint.documents=800"]
    settings = [word for pair in quick for word in ("--set", pair)]
    where = ["--model", str(tiny_model), "--data", str(tiny_data), "--runs", str(runs), "--name", "tiny"]
    return [*where, "--num-trials", str(trials), "--budget", "3m", *settings]


@pytest.fixture(scope="module")
def run(tiny_model, tiny_data, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    words = command("search.py", *search_arguments(tiny_model, tiny_data, runs, 2))
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 2 of 2" in done.stdout
    return runs / "tiny"


def test_a_search_of_two_trials_writes_all_that_it_promises(run) -> None:
    from tune.results.table import read_front

    points = read_front(run / "front.csv")
    assert {point.trial for point in points} == {"teacher", "free", "1", "2"}
    assert {point.selector for point in points} == {"none", "first", "random", "attention", "policy"}
    saved = json.loads((run / "settings.json").read_text())
    assert {"settings", "search", "versions", "fitted"} <= set(saved)
    assert saved["versions"]["ray"].startswith("2.60")
    assert (run / "front.png").read_bytes().startswith(b"\x89PNG")
    for name in ("1", "2", "teacher"):
        held = {path.name for path in (run / "models" / name).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= held


def test_a_picked_model_gives_the_fronts_quality_again_in_a_new_process(run, tiny_data, tmp_path) -> None:
    from tune.results.table import read_front

    measured = [p for p in read_front(run / "front.csv") if p.selector == "policy" and p.quality_test is not None]
    assert all(p.speed_up_test is not None for p in measured)
    point = max(measured, key=lambda p: p.speed_up)
    picked = subprocess.run(
        command("pareto.py", str(run), "--min-speedup", "1.2", "--out", str(tmp_path / "picked")),
        capture_output=True,
        text=True,
    )
    assert picked.returncode == 0, picked.stderr
    script = f"""
import torch, transformers, trbert
from trbert.data.splits import load_splits
from trbert.tasks import task_of
path = {str(run / point.model)!r}
model = trbert.load(path, dial={point.dial})
tokenizer = transformers.AutoTokenizer.from_pretrained(path)
task = task_of(model.config.task)
test = load_splits({str(tiny_data)!r}, task=task, validation_rows=1000).test
longest = model.config.max_tokens
batch = tokenizer(list(test.inputs[0]), padding=True, truncation=True, max_length=longest, return_tensors="pt")
with torch.inference_mode():
    logits = model(**batch).logits
print((logits.argmax(-1) == torch.tensor(test.targets)).double().mean().item())
assert "ray" not in __import__("sys").modules
assert trbert.load({str(tmp_path / "picked")!r}).config.model_type == "trbert"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(point.quality_test, abs=1e-9)


def test_looking_at_the_results_starts_no_ray(run) -> None:
    script = f"import sys; from tune.pareto import main; main([{str(run)!r}]); assert 'ray' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "models/teacher" in done.stdout


def test_a_search_whose_driver_was_killed_is_resumed_and_repeats_no_finished_trial(
    tiny_model, tiny_data, tmp_path
) -> None:
    words = command("search.py", *search_arguments(tiny_model, tiny_data, tmp_path, 4))
    log = tmp_path / "log"
    with log.open("w") as file:
        driver = subprocess.Popen(words, stdout=file, stderr=file, cwd=tmp_path)
    deadline = time.monotonic() + 400
    while "trial 1 of 4" not in log.read_text():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    time.sleep(4.0)  # Tune puts a finished trial on record within a second, and takes a moment to write
    os.kill(driver.pid, signal.SIGKILL)
    killed = time.time()
    driver.wait()
    written = {path: path.stat() for path in (tmp_path / "tiny" / "trials").glob("*/checkpoint_*/trial.json")}
    stamps = {path: told.st_mtime_ns for path, told in written.items() if told.st_mtime < killed - 4.0}
    assert stamps
    assert not (tmp_path / "tiny" / "front.csv").exists()
    done = subprocess.run(
        command("search.py", "--resume", str(tmp_path / "tiny")), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    from tune.results.table import read_front

    points = read_front(tmp_path / "tiny" / "front.csv")
    assert {point.trial for point in points} == {"teacher", "free", "1", "2", "3", "4"}
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_a_search_that_is_told_to_end_says_how_to_resume_and_ends_ray(
    tiny_model, tiny_data, tmp_path, sent, code
) -> None:
    words = command("search.py", *search_arguments(tiny_model, tiny_data, tmp_path, 2))
    log = tmp_path / "log"
    with log.open("w") as file:
        # As from a terminal: a shell's background jobs, and what they start, ignore Ctrl-C.
        at_terminal = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        driver = subprocess.Popen(words, stdout=file, stderr=file, cwd=tmp_path, preexec_fn=at_terminal)
    deadline = time.monotonic() + 200
    while "searching" not in log.read_text():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    time.sleep(3.0)
    rays = subprocess.run(["ps", "-o", "pid=", "--ppid", str(driver.pid)], capture_output=True, text=True)
    pids = [int(pid) for pid in rays.stdout.split()]
    assert pids
    driver.send_signal(sent)
    assert driver.wait(timeout=120) == code, log.read_text()
    said = log.read_text()
    assert said.splitlines()[-1].endswith(f": continue with python tune/search.py --resume {tmp_path / 'tiny'}")
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.2)


@pytest.fixture
def busy():
    """A busy process for each processor of this machine."""
    words = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(words) for _ in os.sched_getaffinity(0)]
    yield
    for process in processes:
        process.kill()
        process.wait()


SLOWED = """
import importlib.abc, importlib.util, sys, time

class Slow(importlib.abc.MetaPathFinder):  # as a large model on a slow machine: a millisecond a document and a call
    def find_spec(self, name, path, target=None):
        if name != "trbert.encoder":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        make = spec.loader.exec_module

        def slowed(module):
            make(module)
            run = module.Encoder.run_layers

            def slow(self, batch, *arguments, **options):
                time.sleep(0.001 * (len(batch.offsets) - 1))
                return run(self, batch, *arguments, **options)

            module.Encoder.run_layers = slow

        spec.loader.exec_module = slowed
        return spec

sys.meta_path.insert(0, Slow())
"""
SECONDS = 90


def test_a_search_keeps_its_budget_under_load_and_says_what_it_cut(tiny_model, tmp_path, busy, many_rows) -> None:
    from tune.results.table import read_front

    (tmp_path / "sitecustomize.py").write_text(SLOWED)  # each process of the search imports it
    words = ["--model", str(tiny_model), "--data", str(many_rows), "--runs", str(tmp_path), "--name", "tiny"]
    words += ["--budget", f"{SECONDS}s"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    own = os.environ | {"TRBERT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": path}
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import tune.trial"], check=True, env=own)
    start, started = time.monotonic() - started, time.monotonic()
    done = subprocess.run(command("search.py", *words), capture_output=True, text=True, timeout=600, env=own)
    taken = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    # No deadline stops a process that starts or ends. How long that takes is measured under the same load.
    assert taken < 1.1 * SECONDS + 2 * start, done.stdout
    cut = done.stdout.splitlines()[-2]
    assert cut.startswith("cut by the budget: "), done.stdout
    assert re.search(r"test on [\d,]+ of 3,000 rows", cut)
    points = read_front(tmp_path / "tiny" / "front.csv")
    assert {point.trial for point in points} >= {"teacher", "free", "1"}


@pytest.fixture
def many_rows(tmp_path):
    """A folder of 3,000 short texts of two classes to learn from, and 3,000 to test on."""
    folder, draw = tmp_path / "rows", random.Random(0)
    folder.mkdir()
    for split in ("train", "test"):
        lines = ["text,label"]
        for number in range(3000):
            words = [f"w{draw.randrange(30)}" for _ in range(10)]
            words.insert(draw.randrange(10), ("alpha", "beta")[number % 2])
            lines.append(f"{' '.join(words)},{'AB'[number % 2]}")
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return folder


def test_two_deterministic_searches_give_the_same_models_whatever_else_the_machine_does(
    tiny_model, tiny_data, tmp_path, request
) -> None:
    figures, weights = [], []
    for number, cores in enumerate((1, 2)):
        if number:
            request.getfixturevalue("busy")
        words = search_arguments(tiny_model, tiny_data, tmp_path / str(number), 2)
        words += ["--deterministic", "--set", "select.documents=160", "--set", "joint.documents=160"]
        script = (
            f"import sys; from tune import search; search._cores = lambda: {cores}; sys.exit(search.main({words!r}))"
        )
        own = os.environ | {"TRBERT_CACHE": str(tmp_path / f"cache-{number}")}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, env=own)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "cut by the budget" not in done.stdout
        run = tmp_path / str(number) / "tiny"
        with (run / "front.csv").open(newline="") as file:
            figures.append([{**row, "docs_per_second": ""} for row in csv.DictReader(file)])
        weights.append([(run / "models" / name / "model.safetensors").read_bytes() for name in ("teacher", "1", "2")])
    assert figures[0] == figures[1]
    assert weights[0] == weights[1]


def test_a_search_whose_learners_are_two_processes_leaves_the_same_things(tiny_model, tiny_data, tmp_path) -> None:
    from tune.results.table import read_front

    words = [*search_arguments(tiny_model, tiny_data, tmp_path, 1), "--num-learners", "2"]
    # Three processes a trial, on a machine that may have two cores only.
    script = f"import sys; from tune import search; search._cores = lambda: 3; sys.exit(search.main({words!r}))"
    own = os.environ | {"TRBERT_CACHE": str(tmp_path / "cache")}  # the teacher is theirs too
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, env=own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no rollout workers, 2 learners each" in done.stdout
    assert "teacher: step" in done.stdout
    points = read_front(tmp_path / "tiny" / "front.csv")
    assert {point.trial for point in points} == {"teacher", "free", "1"}
    assert next(point for point in points if point.trial == "teacher").quality_test > 0.9
    left = {path.name for path in (tmp_path / "tiny").iterdir()}
    whole = {"settings.json", "front.csv", "front.png", "baselines.json", "models", "trials", "study.log"}
    assert left == whole  # and no learner's states


def test_a_search_whose_budget_holds_no_whole_training_trains_one_model_on_all_cores(
    tiny_model, tiny_data, tmp_path
) -> None:
    words = search_arguments(tiny_model, tiny_data, tmp_path, 1)
    place = words.index("--num-trials")
    words = [*words[:place], *words[place + 2 :], "--set", "joint.documents=100000000", "--budget", "90s"]
    done = subprocess.run(command("search.py", *words), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trials    as many whole trainings as fit once the model is timed, at least 1, up to " in done.stdout
    assert "searching: 1 trial, 1 at once" in done.stdout
    saved = json.loads((tmp_path / "tiny" / "settings.json").read_text())
    assert (saved["plan"]["trials"], saved["plan"]["settled"]) == (1, True)
    assert saved["plan"]["threads"] == processors()


def test_a_search_with_texts_without_labels_learns_from_them_and_is_resumed(tiny_model, tiny_data, tmp_path) -> None:
    lines = [f"w{number} w{number % 7} {('alpha', 'beta')[number % 2]}" for number in range(30)]
    (tmp_path / "more.txt").write_text("\n".join(lines))
    words = search_arguments(tiny_model, tiny_data, tmp_path / "runs", 1)
    more = ["--unlabelled", "more.txt", "--set", "joint.documents=64", "--set", "select.documents=32"]
    first = subprocess.run(
        command("search.py", *words, *more), capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert first.returncode == 0, first.stdout + first.stderr
    assert "unlabelled: 30 documents, 5 tokens on average" in first.stdout
    assert f"data {tiny_data}, unlabelled {tmp_path / 'more.txt'}" in first.stdout
    saved = json.loads((tmp_path / "runs" / "tiny" / "settings.json").read_text())
    assert saved["settings"]["data"]["unlabelled"] == [str(tmp_path / "more.txt")]
    assert saved["documents"]["unlabelled"] == 30
    assert "joint.distillation" in saved["search"]["fixed"]
    again = command("search.py", "--resume", str(tmp_path / "runs" / "tiny"))
    resumed = subprocess.run(again, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    (tmp_path / "more.txt").write_text("\n".join(lines[1:]))
    changed = subprocess.run(again, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert changed.returncode == 2
    assert "the data and the model of a resumed search must be those that it started with" in changed.stderr
