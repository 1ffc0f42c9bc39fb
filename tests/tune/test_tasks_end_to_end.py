"""A search of each kind of task, whole, on a tiny set: search, pick, and load by the Auto class in a new process."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]

ENTITIES = {"alpha": "B-PER", "beta": "B-LOC"}


def write_tags(folder: Path) -> Path:
    """Writes 300 sentences of a word a line; the one marker word in each is an entity."""
    draw, lines = random.Random(0), ["-DOCSTART- O", ""]
    for number in range(300):
        words = [f"w{draw.randrange(30)}" for _ in range(draw.randint(6, 14))]
        words.insert(draw.randrange(len(words)), ("alpha", "beta")[number % 2])
        lines += [*(f"{word} {ENTITIES.get(word, 'O')}" for word in words), ""]
    (folder / "tags.conll").write_text("\n".join(lines))
    return folder / "tags.conll"


def write_lists(folder: Path) -> Path:
    """Writes 300 texts, each with a list of those marker words that it has: both, one, or none."""
    return write_texts(folder, lambda number: [name for bit, name in enumerate(("alpha", "beta")) if number >> bit & 1])


def write_numbers(folder: Path) -> Path:
    """Writes 300 texts, each with a number that says how often it has a marker word."""
    return write_texts(folder, lambda number: ["alpha"] * (number % 4), lambda markers: 7.5 + len(markers))


def write_choices(folder: Path) -> Path:
    """Writes 300 questions about a text, with four options. The one with the word alpha is right."""
    draw, lines = random.Random(0), []
    for number in range(300):
        words = [f"w{draw.randrange(30)}" for _ in range(draw.randint(4, 8))]
        options = ["alpha w1", *(f"beta w{draw.randrange(30)}" for _ in range(3))]
        draw.shuffle(options)
        answer = "ABCD"[options.index("alpha w1")]
        question = ("which one", "the word _ .")[number % 2]
        row = {"article": " ".join(words), "question": question, "options": options, "answer": answer}
        lines.append(json.dumps(row))
    (folder / "choices.jsonl").write_text("\n".join(lines))
    return folder / "choices.jsonl"


def write_texts(folder: Path, markers_of, label_of=list) -> Path:
    draw, lines = random.Random(0), []
    for number in range(300):
        markers = markers_of(number)
        words = [f"w{draw.randrange(30)}" for _ in range(draw.randint(6, 14))] + markers
        draw.shuffle(words)
        lines.append(json.dumps({"text": " ".join(words), "label": label_of(markers)}))
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return folder / "texts.jsonl"


def write_questions(folder: Path) -> Path:
    """Writes 300 questions in SQuAD's form: the answer is a marker word, and a context without one has none."""
    draw, paragraphs = random.Random(0), []
    for number in range(300):
        words = [f"w{draw.randrange(30)}" for _ in range(draw.randint(6, 14))]
        marker, place = ("alpha", "beta", "none")[number % 3], draw.randrange(len(words))
        if marker != "none":
            words.insert(place, marker)
        answers = [{"text": marker, "answer_start": len("".join(f"{word} " for word in words[:place]))}]
        asked = {"id": str(number), "question": "w1 w2", "answers": [] if marker == "none" else answers}
        paragraphs.append({"context": " ".join(words), "qas": [{**asked, "is_impossible": marker == "none"}]})
    (folder / "squad.json").write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": paragraphs}]}))
    return folder / "squad.json"


def write_pairs(folder: Path) -> Path:
    """Writes 200 queries with five documents each, of which one has a marker word and is relevant."""
    draw, lines = random.Random(0), []
    for number in range(200):
        right = draw.randrange(5)
        for place in range(5):
            words = [f"w{draw.randrange(30)}" for _ in range(draw.randint(4, 8))]
            words.insert(draw.randrange(len(words)), "alpha" if place == right else "beta")
            lines.append(json.dumps({"query": f"w1 q{number}", "document": " ".join(words), "label": place == right}))
    draw.shuffle(lines)  # the documents of a query need not be neighbours
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder / "pairs.jsonl"


def write_texts_alone(folder: Path) -> Path:
    """Writes 300 texts without any label."""
    draw = random.Random(0)
    texts = [" ".join(f"w{draw.randrange(30)}" for _ in range(draw.randint(6, 14))) for _ in range(300)]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder / "texts.jsonl"


TASKS = {
    "tagging": write_tags,
    "multi_label": write_lists,
    "regression": write_numbers,
    "question_answering": write_questions,
    "multiple_choice": write_choices,
    "reranking": write_pairs,
    "listwise_reranking": write_pairs,
    "embedding": write_texts_alone,
}
"""For each kind of task, what writes a tiny set for it."""

TOLD = ("tagging", "multi_label", "regression", "reranking", "question_answering", "multiple_choice")
"""The tasks that are not named, because the columns and the labels tell."""

MEASURE = """
import sys, torch, transformers, trbert
from trbert.data.splits import load_splits
from trbert.packed.heads import plain_outputs
path, data, dial = sys.argv[1:]
model = trbert.load(path, dial=float(dial))
assert type(getattr(transformers, model.task.head).from_pretrained(path)) is type(model)
tokenizer = transformers.AutoTokenizer.from_pretrained(path)
task = model.task
examples = task.encode(load_splits(data, task=task).test, tokenizer, model.config.max_tokens).examples
own = examples.tokens
names = [name for name in ("input_ids", "token_type_ids") if getattr(own, name) is not None]
with torch.inference_mode():
    columns = zip(*(getattr(own, name).split(own.lengths.tolist()) for name in names))
    logits = [plain_outputs(model, {name: ids[None] for name, ids in zip(names, each)}) for each in columns]
outputs = torch.cat([each[0] if task.reads == "tokens" else each for each in logits])
if not task.has_head:  # the targets are the vectors of the teacher, which is saved beside the model
    teacher = transformers.AutoModel.from_pretrained(path + "/../teacher").eval()
    with torch.inference_mode():
        documents = own.input_ids.split(own.lengths.tolist())
        targets = torch.cat([plain_outputs(teacher, {"input_ids": document[None]}) for document in documents])
    examples = task.settled(examples, targets, examples, targets)
print(task.quality(task.decode(outputs, examples), examples))
pipe = None
if task.head == "AutoModelForSequenceClassification":
    pipe = transformers.pipeline("text-classification", model=path, tokenizer=tokenizer)
if task.head == "AutoModel":
    pipe = transformers.pipeline("feature-extraction", model=path, tokenizer=tokenizer)
if task.name == "multi_label":
    scores = {each["label"]: each["score"] for each in pipe("w1 w2 alpha", top_k=None)}
    assert scores.keys() == {"alpha", "beta"} and sum(scores.values()) != 1
if task.name == "regression":
    assert pipe("alpha w1 alpha alpha")[0]["score"] > 5
if task.name == "question_answering":
    found = trbert.answer(model, tokenizer, "w1 w2", "w3 w4 alpha w5 w6 w7 w8 w9")
    assert (found.text, found.start, found.end) == ("alpha", 6, 11) and found.score > 0.5
    assert trbert.answer(model, tokenizer, "w1 w2", "w3 w4 w5 w6 w7 w8 w9").text == ""
if task.name == "reranking":
    pairs = [{"text": "w1 q3", "text_pair": f"w1 w2 {word} w4"} for word in ("alpha", "beta")]
    scores = [each["score"] for each in pipe(pairs)]
    assert 0 <= scores[1] < scores[0] <= 1
if task.name == "embedding":
    assert torch.allclose(torch.tensor(pipe("w1 w2")), trbert.embed(model, tokenizer, ["w1 w2"]), atol=1e-5)
assert "ray" not in sys.modules
"""


@pytest.mark.parametrize("task", TASKS)
def test_a_search_ends_with_a_front_and_a_picked_model_gives_its_quality_again(task, tiny_model, tmp_path) -> None:
    from tune.results.table import read_front

    data = TASKS[task](tmp_path)
    words = ["--model", str(tiny_model), "--data", str(data), "--runs", str(tmp_path), "--name", "tiny"]
    words += [] if task in TOLD else ["--task", task]
    words += ["--num-trials", "1", "--budget", "3m"]
    quick = ["teacher.learning_rate=1e-3", "teacher.epochs=6", "select.documents=400", "joint.documents=800"]
    quick += ["data.validation_rows=30"]  # the more rows are for learning
    quick += ["teacher.probe_documents=0"]  # an encoder with random weights has no features to fit a head on
    # Without this penalty, all tokens are kept on so small a set.
    quick += ["select.penalty=8", "joint.documents=1600"] if task == "embedding" else []
    words += [word for pair in quick for word in ("--set", pair)]
    done = run("search.py", *words)
    assert "trial 1 of 1" in done
    assert (f"task: {task}, because " in done) == (task in TOLD)
    assert json.loads((tmp_path / "tiny" / "settings.json").read_text())["settings"]["task"] == task
    points = read_front(tmp_path / "tiny" / "front.csv")
    assert {point.trial for point in points} == {"teacher", "free", "1"}
    assert next(point for point in points if point.trial == "teacher").quality_test > 0.9
    if task == "embedding":  # the trained model at its own dial gives the vectors of the plain one
        kept = [point for point in points if point.trial == "1" and point.speed_up_validation > 1.2]
        assert max(point.quality_validation for point in kept) > 0.9
    measured = [point for point in points if point.trial == "1" and point.quality_test is not None]
    point = max(measured, key=lambda each: each.speed_up)
    again = run_words(sys.executable, "-c", MEASURE, str(tmp_path / "tiny" / point.model), str(data), str(point.dial))
    assert float(again.split()[-1]) == pytest.approx(point.quality_test, abs=1e-6)  # cosines are of float32
    assert point.model in run("pareto.py", str(tmp_path / "tiny"), "--all")


def run(script: str, *words: str) -> str:
    """Returns what a command of `tune` prints, after it has ended well."""
    return run_words(sys.executable, str(ROOT / "tune" / script), *words)


def run_words(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
