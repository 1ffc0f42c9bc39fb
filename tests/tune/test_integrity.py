"""Searches that are killed, started twice, moved, given other data or a full disk: nothing is lost or mixed up."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tune.results.table import read_front

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUICK = {
    "teacher.learning_rate": "2e-3",
    "teacher.epochs": "4",
    "select.documents": "64",
    "select.warm_start_documents": "16",
    "joint.documents": "64",
    "compute.threads": "1",
    "compute.dtype": "float32",
}
LONG = {"teacher.epochs": "400"}
"""A teacher that learns for as long as a test needs to look at it."""


class Searches:
    """Searches of one test, each a process, with a cache of their own."""

    def __init__(self, place, model, data):
        self.place, self.model, self.data, self.started = place, model, data, []

    def words(self, *more, trials=1, **changes):
        """The command line of a new search."""
        given = QUICK | {name.replace("__", "."): value for name, value in changes.items()}
        words = ["--model", str(self.model), "--data", str(self.data), "--runs", str(self.place / "runs")]
        words += ["--budget", "1h", "--num-trials", str(trials), *map(str, more)]
        return words + [word for name, value in given.items() for word in ("--set", f"{name}={value}")]

    def start(self, *words, cwd=None, every=None, **environment):
        """Starts the command; its output is in a file, which `said` reads.

        Args:
            words: of the command.
            cwd: the working directory.
            every: the seconds between two states, instead of the usual ones.
        """
        log = self.place / f"log-{len(self.started)}"
        # Every report of progress is printed, so that a test sees in which stage a search is.
        script = "import sys; from tune import search, checkpoints, progress; progress.QUIET_S = 0.0\n"
        script += f"checkpoints.EVERY_S = {every}\n" if every is not None else ""
        script += "sys.exit(search.main(sys.argv[1:]))"
        own = {"TRBERT_CACHE": str(self.place / "cache"), "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(self.place)}
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", script, *map(str, words)],
                stdout=file,
                stderr=file,
                cwd=cwd or self.place,
                env=os.environ | own | environment,
                start_new_session=True,
            )
        process.said = log.read_text
        self.started.append(process)
        return process

    def run(self, *words, code=0, **options):
        """Runs the command to its end, and returns what it said."""
        process = self.start(*words, **options)
        assert process.wait(timeout=300) == code, process.said()
        return process.said()

    def end(self):
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(process, holds, seconds=120.0):
    """Waits until something holds, or the text has been said."""
    deadline = time.monotonic() + seconds
    while not (holds in process.said() if isinstance(holds, str) else holds()):
        assert process.poll() is None, process.said()
        assert time.monotonic() < deadline, process.said()
        time.sleep(0.1)


def kill(process):
    """Kills a search, and what it started, as a machine does that loses its power."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def searches(tiny_model, tiny_data):
    """Starts searches in a folder with a short name, because Ray's sockets lie there."""
    with tempfile.TemporaryDirectory(prefix="i", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Searches(Path(folder), tiny_model, Path(shutil.copy(tiny_data, folder)))
        yield made
        made.end()


def other_rows(path):
    """Writes rows with other words than the tiny ones, and the same labels."""
    draw = random.Random(7)
    rows = [f"{' '.join(draw.choices(['w1', 'w2', 'w3'], k=8))} {'alpha' if n % 2 else 'beta'}" for n in range(300)]
    path.write_text("text,label\n" + "".join(f"{row},{'AB'[n % 2]}\n" for n, row in enumerate(rows)))


def models_of(run):
    """Returns the trials of a front, each of whose models loads."""
    import trbert

    points = read_front(run / "front.csv")
    for name in {point.model for point in points if point.model and "teacher" not in point.model}:
        trbert.load(str(run / name))
    return {point.trial for point in points}


def in_teacher(searches, run, storage=None):
    """Returns whether a teacher's state lies in its place."""
    return lambda: bool(list((storage or run).glob("*-teacher-states/checkpoint_*/manifest.json")))


def test_a_new_search_of_an_old_name_takes_nothing_of_the_old_ones_teacher(searches):
    place, runs = searches.place, searches.place / "runs"
    named = ["--name", "mine", "--storage", place / "states"]
    first = searches.start(*searches.words(*named, **{"teacher.epochs": "400"}), every=0.0)
    until(first, in_teacher(searches, runs / "mine", place / "states"))
    kill(first)
    shutil.rmtree(runs)  # as `ray down` does; the storage remains
    other_rows(searches.data)
    said = searches.run(*searches.words(*named))
    assert "teacher: training for 4 epochs" in said
    assert models_of(runs / "mine") == {"teacher", "free", "1"}
    assert len(list((place / "cache" / "teachers").glob("*.cached"))) == 1
    # A search that cannot know the first one has the same teacher.
    searches.run(*searches.words("--name", "alone"), TRBERT_CACHE=str(place / "other"))
    taught = [(runs / name / "models" / "teacher" / "model.safetensors").read_bytes() for name in ("mine", "alone")]
    assert taught[0] == taught[1]


def test_a_search_killed_in_its_teacher_is_not_continued_with_other_data_and_is_with_its_own(searches):
    run, kept = searches.place / "runs" / "mine", searches.data.read_bytes()
    first = searches.start(*searches.words("--name", "mine", **{"teacher.epochs": "30"}), every=0.0)
    until(first, in_teacher(searches, run))
    kill(first)
    other_rows(searches.data)
    said = searches.run("--resume", run, code=2)
    assert "error: the data and the model of a resumed search must be those that it started with" in said
    assert "teacher: training" not in said
    searches.data.write_bytes(kept)
    searches.run("--resume", run)
    assert models_of(run) == {"teacher", "free", "1"}


@pytest.mark.parametrize("phase", ["select", "joint", "collecting"])
def test_a_search_killed_in_any_phase_ends_whole_once_it_is_resumed(searches, phase):
    run = searches.place / "runs" / "mine"
    longer = {f"{phase}.documents": "8000"} if phase != "collecting" else {}
    first = searches.start(*searches.words("--name", "mine", **longer))
    until(first, "measuring the front's models" if phase == "collecting" else f"trials done   {phase}")
    kill(first)
    searches.run("--resume", run)
    assert models_of(run) == {"teacher", "free", "1"}
    assert not [path.name for path in run.iterdir() if path.name.startswith(".") or path.name == "lock"]
    assert not [path.name for path in (run / "models").iterdir() if path.name.startswith(".")]


def test_a_run_is_of_one_search_at_a_time_and_two_without_a_name_are_two(searches):
    runs = searches.place / "runs"
    first = searches.start(*searches.words(**LONG))
    until(first, "teacher: training")
    second = searches.run("--resume", runs / "search", code=2)
    told = f"run folder {runs / 'search'} must be of one search at a time, and another search is using it (process "
    assert f"{told}{first.pid} on " in second
    assert ", since 20" in second
    other = searches.start(*searches.words(**LONG))
    until(other, "teacher: waiting for process")
    assert {path.name for path in runs.iterdir()} == {"search", "search-2"}
    assert f"teacher: waiting for process {first.pid} on " in other.said()
    kill(first)
    until(other, "teacher: training")  # what nobody makes any more, the other makes


def test_two_searches_of_one_teacher_train_it_once(searches):
    first = searches.start(*searches.words("--name", "one", **{"teacher.epochs": "20"}))
    until(first, "teacher: training")
    second = searches.start(*searches.words("--name", "two", **{"teacher.epochs": "20"}))
    assert (first.wait(timeout=300), second.wait(timeout=300)) == (0, 0), first.said() + second.said()
    said = second.said()
    assert "teacher: taken from the cache of an earlier run" in said
    assert "teacher: training" not in said
    runs = searches.place / "runs"
    taught = [(runs / name / "models" / "teacher" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert taught[0] == taught[1]


@pytest.mark.parametrize("storage", [False, True], ids=["alone", "storage"])
def test_a_moved_run_goes_on_where_it_is_from_relative_paths(searches, storage):
    place = searches.place
    (place / "deep").mkdir()
    words = searches.words("--name", "mine", *(["--storage", "states"] if storage else []), joint__documents="6000")
    relative = {str(searches.data): "rows.csv", str(place / "runs"): "runs"}
    first = searches.start(*[relative.get(word, word) for word in words], every=0.0)
    assert searches.data.name == "rows.csv"
    trials = place / "states" if storage else place / "runs" / "mine"
    until(first, lambda: bool(list(trials.glob("*trials/*/checkpoint_*/manifest.json"))))
    kill(first)
    shutil.move(place / "runs" / "mine", place / "deep" / "b")
    searches.run("--resume", "b", cwd=place / "deep")
    assert models_of(place / "deep" / "b") == {"teacher", "free", "1"}
    assert not (place / "runs" / "mine").exists()
    assert not (place / "deep" / "states").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A function: bytes -> a folder on a disk of this size. Root alone may make one."""
    made = []

    def make(size):
        folder = tmp_path / f"disk-{len(made)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip("needs the right to mount a disk")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Writes into a disk until nothing more fits; returns the file."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def settings_of(run):
    """Returns what a run's settings.json holds, but for the time that was spent."""
    return {name: value for name, value in json.loads((run / "settings.json").read_text()).items() if name != "spent"}


@pytest.mark.parametrize("what", ["runs", "cache", "storage"])
def test_a_full_disk_is_said_and_the_search_goes_on_once_there_is_space(searches, small_disk, what):
    place, disk = searches.place, small_disk(20_000_000)
    places = {"runs": place / "runs", "cache": place / "cache", "storage": place / "states"} | {what: disk / what}
    words = searches.words("--name", "mine", "--storage", places["storage"], **{"teacher.epochs": "30"})
    words[words.index("--runs") + 1] = str(places["runs"])
    environment = {"TRBERT_CACHE": str(places["cache"])}
    run = places["runs"] / "mine"
    first = searches.start(*words, every=0.0, **environment)
    until(first, "teacher: training")
    before = settings_of(run)
    filler = fill(disk)
    assert first.wait(timeout=300) == 1, first.said()
    assert "error: disk full while writing" in first.said()
    assert "Traceback" not in first.said()
    assert settings_of(run) == before
    filler.unlink()
    searches.run("--resume", run, **environment)
    assert models_of(run) == {"teacher", "free", "1"}


def test_what_is_damaged_is_said_by_name_or_made_anew(searches):
    runs, cache = searches.place / "runs", searches.place / "cache"
    searches.run(*searches.words("--name", "one"))
    for path in cache.glob("*/*.cached"):
        path.write_bytes(path.read_bytes()[:-10])
    (runs / "one" / "study.log").write_bytes(b"{rubbish\n")
    (runs / "one" / "front.csv").write_bytes(b"\xff\x00")
    said = searches.run("--resume", runs / "one")  # everything is there: it writes its results again
    assert "teacher: training" in said
    assert f"{runs / 'one' / 'study.log'} was cut off or damaged in line 1" in said
    assert models_of(runs / "one") == {"teacher", "free", "1"}
    (runs / "one" / "settings.json").write_text("{")
    told = f"error: {runs / 'one' / 'settings.json'} must hold the settings of a run, and does not ("
    assert told in searches.run("--resume", runs / "one", code=2)
    assert "teacher: taken from the cache" in searches.run(*searches.words("--name", "two"))
