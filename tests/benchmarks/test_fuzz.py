"""The fuzzer: its damage is determined by the seed, and it notices what a command must not do."""

import gzip
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import mutations
import sandbox

ROOT = Path(__file__).parents[2]
HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
TEXT = json.dumps(HEADER).encode()
TENSORS = len(TEXT).to_bytes(8, "little") + TEXT + bytes(8)
TABLE = io.BytesIO()
pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two", "three"], "label": ["A", "B", "A"]}), TABLE)
CONTENTS = {
    "bytes": b"some bytes to be damaged",
    "json": b'{"a": {"b": [1, 2, "three"]}, "model_type": "bert"}',
    "lines": b'{"text": "one", "label": "A"}\n{"text": "two", "label": "B"}\n',
    "csv": b"text,label\none,A\ntwo,B\n",
    "safetensors": TENSORS,
    "parquet": TABLE.getvalue(),
    "gzip": gzip.compress(b"text,label\none,A\n", mtime=0),
}


def damaged(kind, seed):
    return getattr(mutations, f"damage_{kind}")(Random(seed), CONTENTS[kind])


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_same_seed_gives_the_same_damage_and_another_seed_another(kind):
    found = [damaged(kind, seed) for seed in range(60)]
    assert found == [damaged(kind, seed) for seed in range(60)]
    assert len({content for content, _ in found}) > 30
    assert sum(content != CONTENTS[kind] for content, _ in found) > 50


@pytest.mark.parametrize("kind", CONTENTS)
def test_damage_is_said_in_one_line_that_can_be_printed(kind):
    for seed in range(100):
        _, said = damaged(kind, seed)
        assert said.isprintable()
        assert len(said) < 1000


def test_a_folder_is_damaged_within_the_folder_alone(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    for seed in range(60):
        folder = tmp_path / f"{seed}"
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_text("content")
        mutations.damage_folder(Random(seed), folder, outside)
    assert (outside / "secret.txt").read_text() == "secret"
    assert os.listdir(outside) == ["secret.txt"]
    assert sorted(os.listdir(tmp_path)) == sorted(["outside", *map(str, range(60))])


@pytest.fixture
def box(tmp_path):
    """Empty folders for a process."""
    (tmp_path / "seeds").mkdir()
    return sandbox.Box(path=tmp_path / "box", seeds=tmp_path / "seeds").make()


def refuses(words):
    print("error: a file must be whole, and is not: copy it again", file=sys.stderr)
    return 2


def exports(words):
    out = Path(words[words.index("--out") + 1])
    out.mkdir()
    (out / "config.json").write_text("{}")
    return 0


def escapes(words):
    print("\x1b[31mred")
    return 0


def two_lines(words):
    print("a warning\nerror: then this", file=sys.stderr)
    return 2


def leaks(words):
    print((Path(words[0]).parent.parent / "outside" / "secret.txt").read_text())
    return 0


def copies_a_secret(words):
    out = Path(words[words.index("--out") + 1])
    out.mkdir()
    (out / "copy").write_text((out.parent.parent / "outside" / "secret.txt").read_text())
    return 0


def copies_a_link(words):
    out = Path(words[words.index("--out") + 1])
    out.mkdir()
    (out / "link").symlink_to("/etc/passwd")
    return 0


def changes_its_input(words):
    Path(words[0]).write_text("changed")
    return 0


def fills_the_cache(words):
    (Path(os.environ["TRBERT_CACHE"]) / "file").write_text("left")
    return 0


def writes_outside(words):
    (Path(words[0]).parents[2] / "escaped").write_text("outside")
    return 0


def connects(words):
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except OSError:
        return 0
    return 0


def starts_a_program(words):
    subprocess.run(["true"], check=True)
    return 0


def unpickles_a_class(words):
    pickle.loads(b"cbuiltins\nlist\n.")
    return 0


def leaves_a_folder_and_an_error(words):
    exports(words)
    return refuses(words)


def prints_no_text(words):
    os.write(1, b"\xff")
    return 0


def takes_memory(words):
    content = bytearray(os.urandom(1)) * (1 << 27)
    return 0 if content else 2


def sleeps(words):
    signal.pause()
    return 0


def works_without_end(words):
    while True:
        pass


def dies(words):
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def raises(words):
    raise KeyError("a fault")


@pytest.mark.parametrize(
    ("command", "outcome", "why"),
    [
        (lambda words: 0, "accepted", ""),
        (refuses, "refused", ""),
        (exports, "accepted", ""),
        (lambda words: 1, "failed", "exit code 1"),
        (raises, "failed", "exit code 70"),
        (two_lines, "failed", "stderr is not one line of an error"),
        (lambda words: 2, "failed", "stderr is not one line of an error"),
        (escapes, "failed", r"printed a control character, '\x1b'"),
        (leaks, "failed", "printed what stands in another file"),
        (copies_a_secret, "failed", "copied what stands in another file"),
        (copies_a_link, "failed", "copied what is neither a file nor a folder"),
        (changes_its_input, "failed", "changed its input"),
        (fills_the_cache, "failed", "left behind"),
        (writes_outside, "failed", "open outside its folders"),
        (connects, "failed", "socket."),
        (starts_a_program, "failed", "subprocess.Popen"),
        (unpickles_a_class, "failed", "pickle.find_class"),
        (leaves_a_folder_and_an_error, "failed", "left a folder of --out and an error"),
        (prints_no_text, "failed", "printed bytes that are no UTF-8"),
        (takes_memory, "failed", "took too much memory"),
        (sleeps, "failed", "waited too long"),
        (works_without_end, "failed", "took too long"),
        (dies, "failed", "ended by SIGSEGV"),
    ],
)
def test_a_command_that_breaks_a_rule_has_failed(box, command, outcome, why):
    seconds, hang = 0.3 if command is works_without_end else 20.0, 0.3 if command is sleeps else 300.0
    limits = sandbox.Limits(seconds=seconds, hang=hang, megabytes=60)
    before = box.listing()
    (box.case / "input").write_text("good")
    words = (str(box.case / "input"), "--out", str(box.case / "out"))
    order = sandbox.Order(command=command, words=words, damage="none")
    _, found, told = sandbox.run_judged(order, box, before, limits)
    assert found == outcome, told
    assert told.startswith(why)
    assert (told == "") == (outcome != "failed")


def test_an_empty_box_is_as_it_was_made(box):
    before = box.listing("case", "home", "cache", "tmp", "cwd")
    deep = box.case / "/".join(["d"] * 300)
    os.makedirs(deep)
    (box.path / "home" / "file").write_text("left")
    box.empty()
    assert box.listing("case", "home", "cache", "tmp", "cwd") == before


@pytest.mark.slow
def test_damaged_files_are_refused_in_one_line(tmp_path):
    words = [sys.executable, "benchmarks/fuzz.py", "--cases", "210", "--seed", "7", "--out", str(tmp_path)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert "210 cases" in ended.stdout
    assert "| all |  | 210 |" in (tmp_path / "fuzz.md").read_text()
