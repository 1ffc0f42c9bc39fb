"""A whole search of each task on tiny rows: its front, a pick, and the model in a new process."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tune.results.table import read_front

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUICK = ("teacher.learning_rate=1e-3", "teacher.epochs=8", "select.documents=200", "joint.documents=400")


def row_of_labels(words, number, draw):
    labels = [name for bit, name in enumerate(("alpha", "beta")) if number >> bit & 1]
    return words + labels, labels


def row_of_a_number(words, number, draw):
    return words + ["alpha"] * (number % 4), 7.5 + number % 4


TASKS = {"multi_label": (row_of_labels, "micro F1"), "regression": (row_of_a_number, "Spearman correlation")}
PIPED = {
    "multi_label": """
scores = {each["label"]: each["score"] for each in pipe("alpha w1 w2 w3", top_k=None)}
assert set(scores) == {"alpha", "beta"} and max(scores.values()) <= 1
assert model.config.problem_type == "multi_label_classification"
print(scores["alpha"] - scores["beta"])
""",
    "regression": """
print(pipe("alpha alpha alpha w1 w2 w3")[0]["score"] - pipe("w1 w2 w3 w4 w5")[0]["score"])
""",
}


@pytest.mark.parametrize("task", TASKS)
def test_a_search_ends_with_a_front_and_a_model_that_answers(task, tiny_model, tmp_path):
    make, metric = TASKS[task]
    draw, lines = random.Random(0), []
    for number in range(300):
        words, target = make([f"w{draw.randrange(10)}" for _ in range(draw.randint(4, 8))], number, draw)
        draw.shuffle(words)
        lines.append(json.dumps({"text": " ".join(words), "label": target}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    settings = [word for pair in QUICK for word in ("--set", pair)]
    where = ["--model", str(tiny_model), "--data", "rows.jsonl", "--name", "run", "--num-trials", "1", "--budget", "2m"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tune" / "search.py"), "--task", task, *where, *settings],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert metric in (tmp_path / "runs" / "run" / "models" / "1" / "README.md").read_text()
    points = read_front(tmp_path / "runs" / "run" / "front.csv")
    assert {point.trial for point in points} == {"teacher", "free", "1"}
    assert max(point.quality_validation for point in points if point.trial == "1") > 0.6
    script = f"""
import transformers, trbert
path = {str(tmp_path / "runs" / "run" / "models" / "1")!r}
model = trbert.load(path, dial=trbert.load(path).selector.keep_all)
tokenizer = transformers.AutoTokenizer.from_pretrained(path)
pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
{PIPED[task]}
"""
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert piped.returncode == 0, piped.stderr
    assert float(piped.stdout.split()[-1]) > 0
