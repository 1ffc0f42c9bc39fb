"""The command line, up to where Ray starts: the plan, and one line for each mistake."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from tune import search
from tune.search import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, own_environment):
    """An empty folder to run in, on a machine of two cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "_cores", lambda: 2)
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def searched(monkeypatch):
    """Stands for the driver: notes what it was called with, and runs nothing."""
    calls = []

    def stand_in(folder, saved, plan, **arguments):
        calls.append((folder, saved, plan, arguments))
        return "the front"

    monkeypatch.setattr("tune.driver.run_search", stand_in)
    return calls


def one_line(capsys):
    """Returns stderr's one line."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err.strip()


PLAN = """\
search    runs/search
model     minilm, data pages, at most 128 tokens
machine   this machine, 2 cores
trials    4, 2 at once, no rollout workers each, up to 165 s a trial
stages    teacher up to 150 s (kept for later runs), select on up to 2,000 documents, joint stage of up to 8,000 documents
"""


def test_a_dry_run_prints_the_plan_and_makes_nothing(capsys, folder):
    assert main(["--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(PLAN)
    assert out.endswith("time      about 10 minutes (--budget 10m)\n")
    assert err == ""
    assert list(folder.iterdir()) == []


def test_the_plan_follows_what_was_asked_for(capsys):
    words = ["--num-trials", "6", "--num-rollout-workers", "1", "--budget", "1h", "--name", "mine", "--data", "rows.csv"]
    assert main([*words, "--dry-run", "--set", "joint.documents=500", "--model", "here", "--max-length", "64"]) == 0
    out = capsys.readouterr().out
    assert "search    runs/mine\n" in out
    assert "model     here, data rows.csv, at most 64 tokens\n" in out
    # One trial of two processes at once: six waves of 1980 / 6 s.
    assert "trials    6, 1 at once, 1 rollout workers each, up to 330 s a trial\n" in out
    assert "joint stage of up to 500 documents" in out
    assert "about 60 minutes (--budget 1h)" in out


def test_the_plan_comes_before_torch_and_ray_are_loaded(folder):
    script = (
        "import sys; from tune.search import main; code = main(['--dry-run']); "
        "print(code, *{'torch', 'ray', 'transformers', 'datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"


def test_the_script_runs_from_any_folder(folder):
    words = [sys.executable, str(ROOT / "tune" / "search.py"), "--budget", "soon"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: a budget must be a duration such as 90s, 10m or 1h30m, and is 'soon'\n"
    assert list(folder.iterdir()) == []


# Mistakes in the arguments.


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "select.penalty"], "--set must be NAME=VALUE, and is 'select.penalty': for example"),
        (["--set", "select.penlty=1"], "there is no setting 'select.penlty': did you mean 'select.penalty'?"),
        (["--set", "select.penalty=-1"], "select.penalty must be 0 or more, and is -1.0"),
        (["--set", "select.penalty=high"], "select.penalty must be a number, and is 'high'"),
        (["--set", "select.price=euros"], "select.price must be 'flops' or 'tokens', and is 'euros'"),
        (["--set", "select.points=2"], "select.points must be a whole number for each point (such as 0,2) or none, and is 2"),
        (["--budget", "soon"], "a budget must be a duration such as 90s, 10m or 1h30m, and is 'soon'"),
        (["--budget", "0m"], "a budget must be more than nothing, and is '0m'"),
        (["--num-trials", "0"], "--num-trials must be 1 or more, and is 0"),
        (["--num-trials", "two"], "argument --num-trials: invalid int value: 'two': see python tune/search.py --help"),
        (["--num-rollout-workers", "-1"], "--num-rollout-workers must be 0 or more, and is -1"),
        (["--gpus-per-worker", "-0.5"], "--gpus-per-worker must be 0 or more, and is -0.5"),
        (["--num-rollout-workers", "2"], "--num-rollout-workers needs 3 processors a trial, and this machine has 2: use at most 1"),
        (["--max-length", "1"], "data.max_length must be more than 2 tokens, and is 1"),
        (["--preset", "bert"], "argument --preset: invalid choice: 'bert'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate: see python tune/search.py --help"),
        (["--resume", "nowhere"], "nowhere must be the folder of a run, with a settings.json, and is none: check --resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_line_and_makes_nothing(capsys, folder, searched, words, told):
    assert main(words) == 2
    assert one_line(capsys).startswith(f"error: {told}")
    assert list(folder.iterdir()) == []
    assert searched == []


# What is read and handed on.


def test_everything_that_was_asked_for_is_saved_and_searched(capsys, folder, searched):
    words = ["--name", "mine", "--preset", "tr-bert", "--seed", "7", "--text-column", "body", "--data", "a.csv"]
    more = ["--set", "select.points=0,2", "--set", "select.keep_ratios=0.1,0", "--set", "data.train_rows=none"]
    assert main([*words, *more, "--set", "select.token_average=false", "--set", "joint.learning_rate=1e-4"]) == 0
    saved = json.loads((folder / "runs" / "mine" / "settings.json").read_text())
    assert saved["settings"]["seed"] == 7
    assert saved["settings"]["data"]["text_column"] == "body"
    assert saved["settings"]["data"]["train_rows"] is None
    select = saved["settings"]["select"]
    assert (select["points"], select["keep_ratios"]) == ([0, 2], [0.1, 0.0])
    assert (select["price"], select["baseline"], select["token_average"]) == ("tokens", "mean", False)
    assert saved["settings"]["joint"]["learning_rate"] == 1e-4
    assert {"python", "torch", "ray"} <= saved["versions"].keys()
    assert {"select.points", "select.price", "joint.learning_rate"} <= set(saved["search"]["fixed"])
    ((where, told, plan, arguments),) = searched
    assert where.path == Path("runs/mine")
    assert json.loads(json.dumps(told)) == saved
    assert (plan.trials, arguments["resumed"], arguments["cores"]) == (4, False, 2)
    assert "the front" in capsys.readouterr().out


def test_the_embedded_pages_are_cut_to_what_ten_minutes_can_use(folder, searched):
    assert main([]) == 0
    assert main(["--data", "own.csv"]) == 0
    pages, own = (saved["settings"]["data"] for _, saved, _, _ in searched)
    assert (pages["source"], pages["max_length"], pages["train_rows"]) == ("pages", 128, 4000)
    assert (own["source"], own["max_length"], own["train_rows"]) == ("own.csv", 256, None)
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["search", "search-2"]


def test_a_run_that_exists_is_not_touched(capsys, folder, searched):
    assert main(["--name", "mine"]) == 0
    before = (folder / "runs" / "mine" / "settings.json").read_text()
    capsys.readouterr()
    assert main(["--name", "mine", "--seed", "3"]) == 2
    assert one_line(capsys) == (
        "error: run folder runs/mine must not exist yet, and does: choose another --name, "
        "or continue it with --resume runs/mine"
    )
    assert (folder / "runs" / "mine" / "settings.json").read_text() == before
    assert len(searched) == 1


def test_a_resumed_search_is_the_one_that_was_asked_for_then(capsys, folder, searched):
    assert main(["--name", "mine", "--seed", "7", "--num-trials", "3", "--budget", "20m"]) == 0
    assert main(["--resume", "runs/mine"]) == 0
    first, second = searched
    assert second[0] == first[0]
    assert second[1] == json.loads(json.dumps(first[1]))
    assert second[2] == first[2]
    assert (first[3]["resumed"], second[3]["resumed"]) == (False, True)


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}}', '{"settings": {"sed": 1}, "search": {}}'])
def test_a_run_whose_settings_are_damaged_is_not_resumed(capsys, folder, searched, content):
    (folder / "run").mkdir()
    (folder / "run" / "settings.json").write_text(content)
    assert main(["--resume", "run"]) == 2
    assert "run/settings.json cannot be read" in one_line(capsys)
    assert searched == []


def test_ctrl_c_says_how_to_go_on_and_keeps_the_run(capsys, folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tune.driver.run_search", interrupted)
    assert main(["--name", "mine"]) == 130
    assert one_line(capsys) == "interrupted: continue with python tune/search.py --resume runs/mine"
    assert (folder / "runs" / "mine" / "settings.json").is_file()


def test_a_full_disk_is_said(capsys, monkeypatch):
    def full(path, values):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(search, "write_json", full)
    assert main(["--name", "mine"]) == 1
    assert one_line(capsys) == "error: disk full while writing runs/mine/settings.json: free space and resume"


# Mistakes in what the arguments name: found by the driver, before it starts Ray.


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))


def csv(path, rows, header="text,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


TWO_CLASSES = [f"alpha w{row},{'AB'[row % 2]}" for row in range(40)]


def data_mistakes(folder):
    return {
        "missing file": ("gone.csv", "data 'gone.csv' must be a file or folder that exists, and is missing: pass"),
        "missing column": (
            csv(folder / "a.csv", TWO_CLASSES, "body,label"),
            "a.csv must have the column 'text', and has 'body', 'label'",
        ),
        "one class": (csv(folder / "b.csv", ["alpha,A"] * 30), "b.csv must have rows of at least two classes"),
        "no rows": (csv(folder / "c.csv", []), "c.csv must have at least one row, and is empty"),
        "empty texts": (csv(folder / "d.csv", [" ,A", " ,B"] * 9), "d.csv must have a text in column 'text'"),
        "no such suffix": (csv(folder / "e.txt", TWO_CLASSES), "data file"),
        "no name of the hub's": ("no/such-data", "data 'no/such-data' is no file or folder here"),
    }


@pytest.mark.parametrize("mistake", data_mistakes(Path(ROOT / "nowhere")) if False else [
    "missing file", "missing column", "one class", "no rows", "empty texts", "no such suffix", "no name of the hub's"
])
def test_wrong_data_is_one_line_and_leaves_the_runs_name_free(capsys, folder, tiny_model, no_ray, mistake):
    data, told = data_mistakes(folder)[mistake]
    assert main(["--data", data, "--model", str(tiny_model), "--name", "mine"]) == 2
    assert told in one_line(capsys)
    assert not (folder / "runs" / "mine").exists()


def test_labels_of_two_types_are_one_line(capsys, folder, tiny_model, no_ray):
    rows = [json.dumps({"text": "alpha", "label": label}) for label in ["A", "B", 3] * 9]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    assert main(["--data", "rows.jsonl", "--model", str(tiny_model)]) == 2
    assert "must be of one type, and are strings (row 0: 'A') and integers (row 2: 3)" in one_line(capsys)


def model_mistakes(folder, tiny_model):
    """Returns the name of a wrong model and what is said of it, by mistake."""

    def copied(name):
        (folder / name).mkdir()
        for path in tiny_model.iterdir():
            (folder / name / path.name).write_bytes(path.read_bytes())
        return folder / name

    cut = copied("cut")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "empty").mkdir()
    transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8).save_pretrained(folder / "gpt2")
    transformers.DebertaV2Config().save_pretrained(folder / "deberta")
    fine_tuned = transformers.BertConfig.from_pretrained(tiny_model, num_labels=5)
    fine_tuned.architectures = ["BertForSequenceClassification"]
    fine_tuned.save_pretrained(folder / "five")
    known = "albert, bert, camembert, distilbert"
    return {
        "unknown name": ("no/such-model", "model 'no/such-model' is no folder here and could not be fetched from the hub (HF_HUB_OFFLINE is set): pass --model"),
        "truncated weights": (str(cut), "cut is not whole"),
        "no config": (str(folder / "empty"), "empty must hold config.json, and does not"),
        "a decoder": (str(folder / "gpt2"), f"model_type must be one of {known}"),
        "a family without adapter": (str(folder / "deberta"), "and is 'deberta-v2'"),
        "other labels": (str(folder / "five"), "was fine-tuned for the labels"),
    }


@pytest.mark.parametrize(
    "mistake",
    ["unknown name", "truncated weights", "no config", "a decoder", "a family without adapter", "other labels"],
)
def test_a_wrong_model_is_one_line_and_leaves_the_runs_name_free(capsys, folder, tiny_model, tiny_data, no_ray, mistake):
    model, told = model_mistakes(folder, tiny_model)[mistake]
    assert main(["--data", str(tiny_data), "--model", model, "--name", "mine"]) == 2
    assert told in one_line(capsys)
    assert not (folder / "runs" / "mine").exists()


def test_a_mistake_in_a_resumed_run_does_not_remove_it(capsys, folder, no_ray, tiny_model):
    saved = {"settings": {"model": str(tiny_model), "data": {"source": "gone.csv"}}, "versions": {}}
    asked = {"num_trials": 1, "num_rollout_workers": 0, "gpus_per_worker": None, "budget": "1m", "address": None}
    (folder / "run").mkdir()
    (folder / "run" / "settings.json").write_text(json.dumps(saved | {"search": asked | {"storage": None, "fixed": []}}))
    assert main(["--resume", "run"]) == 2
    assert "gone.csv" in one_line(capsys)
    assert (folder / "run" / "settings.json").is_file()


def test_verbose_shows_the_traceback_too(capsys, tiny_model, no_ray):
    assert main(["--data", "gone.csv", "--model", str(tiny_model), "--verbose"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert re.search(r"^error: data 'gone.csv' must be a file", err, re.MULTILINE)
    assert torch.get_num_threads() >= 1
