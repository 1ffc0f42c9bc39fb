"""Five whole searches find the figures that they found before.

What this is for: a change that moves code, and means to change no figure, is shown to change none. Every selector that
learns, the paper's preset and two rules are searched with on tiny rows. All columns of their `front.csv` are compared
with the files in `golden/`, but for the documents a second, which are the machine's. Numbers may differ in the sixth
digit, because processors of different makers add in different orders.

Those of `tr-bert`, `gumbel` and `saliency` were written by commit 23c871f, the last before the modules were moved into
folders and tasks, reducer and runners were taken apart. `policy` was written anew when its dials reached further down,
and `attention` when a joint stage that does harm on validation was undone. All were when the joint stage looked at
fewer dials. One kind of vector instructions and one thread keep processors nearly alike. A processor without AVX2
cannot do that, and skips.

Where figures are meant to move, write the files anew, and say in the commit why they moved:

    TRBERT_WRITE_GOLDEN=1 python -m pytest tests/tune/test_golden.py
    git diff tests/tune/golden
"""

import csv
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="figures of AVX2, which is not here"
    ),
]
ALIKE = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
QUICK = [
    "teacher.learning_rate=2e-3",
    "teacher.epochs=4",
    "teacher.probe_documents=0",
    "select.documents=320",
    "select.warm_start_documents=64",
    "joint.documents=320",
    "compute.dtype=float32",
    "compute.threads=1",
]
RUNS = {
    "policy": [],
    "tr-bert": ["select.penalty=0.3", "select.learning_rate=1e-2", "joint.learning_rate=5e-4"],
    "gumbel": ["selector=gumbel", "select.price=tokens", "select.keep_ratios=0.1,0.2", "select.points=0,2"],
    "attention": ["selector=attention"],
    "saliency": ["selector=saliency"],
}
MORE = {"policy": ["--num-trials", "2"], "tr-bert": ["--preset", "tr-bert"]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A csv file of 900 texts. A marker word decides the class; three in ten texts have the other class's as well."""
    path, draw = tmp_path_factory.mktemp("golden") / "rows.csv", random.Random(0)
    fillers, markers = [f"w{index}" for index in range(30)], ["alpha", "beta"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(900):
            words = [draw.choice(fillers) for _ in range(draw.randint(6, 18))]
            words.insert(draw.randrange(len(words)), markers[number % 2])
            if draw.random() < 0.3:
                words.insert(draw.randrange(len(words)), markers[(number + 1) % 2])
            writer.writerow([" ".join(words), "AB"[number % 2]])
    return path


@pytest.fixture(scope="module")
def place():
    """A folder for the five runs, their teacher's cache and Ray's sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def search(place, rows, tiny_model):
    """A function: the name of a run -> its folder, once it has been searched."""

    def run(name):
        words = ["--model", str(tiny_model), "--data", str(rows), "--max-length", "24", "--budget", "10h"]
        words += ["--runs", str(place), "--name", name, "--num-trials", "1", *MORE.get(name, [])]
        words += [word for pair in [*QUICK, *RUNS[name]] for word in ("--set", pair)]
        own = os.environ | ALIKE | {"TRBERT_CACHE": str(place / "cache"), "RAY_TMPDIR": str(place)}
        command = [sys.executable, str(ROOT / "tune" / "search.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=own, cwd=place)
        assert done.returncode == 0, done.stdout + done.stderr
        return place / name

    return run


def read(path):
    """Returns a table's rows, without what the machine's speed decides."""
    with path.open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "docs_per_second"} for row in csv.DictReader(file)]


def numbers(rows):
    """Returns the rows with numbers instead of the cells that are numbers; points and ratios have `;` between them."""
    return [{name: [number(part) for part in cell.split(";")] for name, cell in row.items()} for row in rows]


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


def close(found, expected):
    """Returns whether two cells are the same, but for the last digits, in which kinds of processors differ."""
    if isinstance(found, float) and isinstance(expected, float):
        return found == pytest.approx(expected, rel=1e-5)
    return found == expected


@pytest.mark.parametrize("name", RUNS)
def test_a_search_finds_the_figures_that_it_found_before(name, search, place):
    found = read(search(name) / "front.csv")
    # One teacher for all of them: the data and the seed are the same.
    assert len(list((place / "cache" / "teachers").iterdir())) == 1
    weights = {path.read_bytes() for path in place.glob("*/models/teacher/model.safetensors")}
    assert len(weights) == 1
    if os.environ.get("TRBERT_WRITE_GOLDEN"):
        with (GOLDEN / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, found[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
        pytest.skip("written, not compared")
    expected = read(GOLDEN / f"{name}.csv")
    assert list(found[0]) == list(expected[0])
    differ = [
        (own[name], old[name])
        for own, old in zip(numbers(found), numbers(expected), strict=True)
        for name in own
        if not all(map(close, own[name], old[name])) or len(own[name]) != len(old[name])
    ]
    assert not differ
