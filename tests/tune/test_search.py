"""The command line, up to where Ray starts: the plan, and one line for each mistake."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from trbert.errors import InputError
from tune import search
from tune.preflight.places import resolved
from tune.processes import planner
from tune.runs.record import existing_run
from tune.runs.versions import versions
from tune.search import main
from tune.settings import Search, Settings, override
from tune.space import search_space

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, own_environment):
    """An empty folder to run in, on a machine of two cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "_cores", lambda: 2)
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(autouse=True)
def inspected(monkeypatch):
    """Stands for the part of the driver that reads and checks; notes what it was called with."""
    calls = []
    monkeypatch.setattr("tune.driver.inspect_inputs", lambda *words, **options: calls.append((words, options)))
    return calls


@pytest.fixture
def searched(monkeypatch):
    """Stands for the driver: notes what it was called with, and runs nothing."""
    calls = []

    def stand_in(folder, saved, plan, clock, **arguments):
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


PLAN = f"""\
search    runs/search
model     minilm, data pages, at most 128 tokens
machine   this machine, 2 cores
trials    as many whole trainings as fit once the model is timed, at least 1, up to 2 at once, no rollout workers each
stages    teacher, if it must be trained, up to 150 s, select on up to {Settings().select.documents:,} documents, \
joint stage of up to {Settings().joint.documents:,} documents
"""


def test_a_dry_run_prints_the_plan_reads_what_a_search_reads_and_makes_nothing(capsys, folder, inspected):
    assert main(["--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(PLAN)
    assert out.endswith(
        "time      about 10 minutes (--budget 10m)\nnothing was trained: leave out --dry-run to start the search\n"
    )
    (((saved, plan), options),) = inspected
    assert (saved.settings.data.source, plan.trials, options) == ("pages", 1, {"cores": 2, "verbose": False})
    assert err == ""
    assert list(folder.iterdir()) == []


def test_the_plan_follows_what_was_asked_for(capsys):
    words = [
        "--num-trials",
        "6",
        "--num-rollout-workers",
        "1",
        "--budget",
        "1h",
        "--name",
        "mine",
        "--data",
        "rows.csv",
    ]
    assert main([*words, "--dry-run", "--set", "joint.documents=500", "--model", "here", "--max-length", "64"]) == 0
    out = capsys.readouterr().out
    assert "search    runs/mine\n" in out
    assert "model     here, data rows.csv, at most 64 tokens\n" in out
    # One trial of two processes at once: six waves of 1800 / 6 s.
    assert "trials    6, 1 at once, 1 rollout workers each, up to 300 s a trial\n" in out
    assert "joint stage of up to 500 documents" in out
    assert "about 60 minutes (--budget 1h)" in out


def space_line(capsys):
    """Returns what the plan says of the space."""
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("space")]
    return line.removeprefix("space").strip()


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "select.penalty=1"],
        ["--set", "select.points=0,2", "--set", "policy_width=16"],  # without points no free ratio either
        ["--set", "select.keep_ratios=0.1,0.1"],
        ["--set", "seed=3"],
        ["--preset", "tr-bert"],
        [],
    ],
    ids=" ".join,
)
def test_the_plan_says_what_varies(words, capsys):
    assert main(["--dry-run", *words]) == 0
    told, chosen = space_line(capsys), search._parser().parse_args(words)
    assert told == ", ".join(search_space(12, 0.5, search._fixed(chosen))) + "; quality against cost"


@pytest.mark.parametrize(
    "words", [["--budget", "5m"], ["--set", "seed=1"], ["--num-learners", "2"], ["--name", "other"], ["--data", "x"]]
)
def test_what_a_resumed_run_does_not_read_is_refused(words, capsys):
    assert main(["--resume", "run", *words]) == 2
    told = f"error: {words[0]} must not be given with --resume, which takes everything from the run: "
    assert capsys.readouterr().err == told + "leave it out, or start another search\n"


def test_where_all_is_fixed_the_plan_says_that_nothing_varies(capsys):
    values = {"select.points": "0,2", "select.keep_ratios": "0.1,0.1"}
    fixed = [f"{name}={values.get(name, 1)}" for name in search_space(12, 0.5)]
    assert main(["--dry-run", *(word for pair in fixed for word in ("--set", pair))]) == 0
    assert space_line(capsys) == "nothing, all is fixed; quality against cost"


def test_on_a_cluster_the_plan_is_for_its_machines(capsys, folder, monkeypatch):
    machine = {"CPU": 8.0, "GPU": 1.0}
    monkeypatch.setattr(planner, "cluster_of", lambda address: planner.Cluster(machines=(machine,) * 3, started=1))
    assert main(["--address", "10.0.0.1:6379", "--num-rollout-workers", "3", "--dry-run", "--budget", "1h"]) == 0
    out = capsys.readouterr().out
    assert (
        "machine   Ray cluster at 10.0.0.1:6379: 3 machines with 24 CPUs, 3 GPUs, 2 of them started when trials wait "
        "for them; room for 6 trials, and no CPU for more\n"
    ) in out
    assert "6 at once, 3 rollout workers each" in out
    assert list(folder.iterdir()) == []


def test_what_the_cluster_can_never_run_is_refused_before_anything_starts(capsys, folder, searched, monkeypatch):
    machine = {"CPU": 2.0, "GPU": 0.0}
    monkeypatch.setattr(planner, "cluster_of", lambda address: planner.Cluster(machines=(machine,), started=1))
    assert main(["--address", "auto", "--num-rollout-workers", "2"]) == 2
    assert one_line(capsys).startswith("error: a trial needs 3 CPUs for its 3 processes, and can never have them")
    assert (list(folder.iterdir()), searched) == ([], [])


@pytest.mark.parametrize("words", [[], ["--preset", "tr-bert"], ["--data", "own.csv", "--set", "seed=3"]], ids=" ".join)
def test_the_plan_comes_before_torch_and_ray_are_loaded(words, folder):
    script = (
        f"import runpy, sys; sys.argv = ['search.py', '--dry-run', *{words}]\n"
        "sys.modules['tune.driver'] = None  # the plan is printed before it is imported\n"
        f"try: runpy.run_path({str(ROOT / 'tune' / 'search.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, *{'torch', 'ray', 'transformers', 'datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["time      about 10 minutes (--budget 10m)", "1"]


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
        (["--set", "select.penalty=high"], "select.penalty must be a number or none, and is 'high'"),
        (["--set", "select.price=euros"], "select.price must be 'flops' or 'latency' or 'tokens', and is 'euros'"),
        (
            ["--set", "select.points=two"],
            "select.points must be a whole number for each point (such as 0,2) or none, and is 'two'",
        ),
        (["--set", "select.points=2,0"], "select.points must be rising layer indices from 0 (such as 0,2), and is"),
        (["--set", "joint.fastest=inf"], "joint.fastest must be a finite number, and is inf"),
        (["--set", "teacher.epochs=nan"], "teacher.epochs must be a finite number, and is nan"),
        (["--budget", "soon"], "a budget must be a duration such as 90s, 10m or 1h30m, and is 'soon'"),
        (["--budget", "0m"], "a budget must be more than 0 seconds, and is '0m'"),
        (["--num-trials", "0"], "--num-trials must be 1 or more, and is 0"),
        (["--num-trials", "two"], "argument --num-trials: invalid int value: 'two': see python tune/search.py --help"),
        (["--num-rollout-workers", "-1"], "--num-rollout-workers must be 0 or more, and is -1"),
        (["--gpus-per-worker", "-0.5"], "--gpus-per-worker must be 0 or more, and is -0.5"),
        (
            ["--num-rollout-workers", "2"],
            "--num-rollout-workers needs 3 processors for each trial, and this machine has 2: use at most 1",
        ),
        (["--max-length", "1"], "data.max_length must be more than 2 tokens, and is 1"),
        (["--max-length", "0"], "data.max_length must be more than 2 tokens, and is 0"),
        (["--preset", "bert"], "argument --preset: invalid choice: 'bert'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate: see python tune/search.py --help"),
        (
            ["--resume", "nowhere"],
            "nowhere must be the folder of a run, with a settings.json, and is not one: check --resume",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_line_and_makes_nothing(capsys, folder, searched, words, told):
    assert main(words) == 2
    assert one_line(capsys).startswith(f"error: {told}")
    assert list(folder.iterdir()) == []
    assert searched == []


# What is read and handed on.


@pytest.mark.parametrize("words", [["--text-column", "question,1"], ["--set", "data.text_column=question,1"]])
def test_two_text_columns_are_one_setting(folder, searched, words):
    assert main(["--name", "mine", "--data", "a.csv", *words]) == 0
    saved = json.loads((folder / "runs" / "mine" / "settings.json").read_text())
    assert saved["settings"]["data"]["text_column"] == "question,1"


def test_a_lone_number_is_a_list_of_one(folder, searched):
    assert main(["--name", "mine", "--set", "select.points=0", "--set", "select.keep_ratios=0.1"]) == 0
    select = json.loads((folder / "runs" / "mine" / "settings.json").read_text())["settings"]["select"]
    assert (select["points"], select["keep_ratios"]) == ([0], [0.1])


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
    assert existing_run("runs/mine") == (where, told)
    assert told.fitted is None
    assert (plan.trials, plan.settled, arguments["resumed"], arguments["cores"]) == (1, False, False, 2)
    assert "the front" in capsys.readouterr().out


def test_the_embedded_pages_are_cut_to_what_ten_minutes_can_use(folder, searched):
    assert main([]) == 0
    assert main(["--data", "own.csv"]) == 0
    pages, own = (saved.settings.data for _, saved, _, _ in searched)
    assert (pages.source, pages.max_length, pages.train_rows) == ("pages", 128, 4000)
    assert (own.source, own.max_length, own.train_rows) == ("own.csv", 256, None)
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
    assert second[1] == first[1]
    assert (second[1].settings.seed, second[1].search.num_trials, second[1].search.budget) == (7, 3, "20m")
    assert second[2] == first[2]
    assert (first[3]["resumed"], second[3]["resumed"]) == (False, True)


SAVED = {"id": "run-1", "settings": {}, "search": {}, "versions": versions()}


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}}'])
def test_a_run_whose_settings_are_damaged_is_not_resumed(capsys, folder, searched, content):
    (folder / "run").mkdir()
    (folder / "run" / "settings.json").write_text(content)
    assert main(["--resume", "run"]) == 2
    assert "run/settings.json must hold the settings of a run, and does not (" in one_line(capsys)
    assert searched == []


@pytest.mark.parametrize(
    ("saved", "why"),
    [
        ({"search": {"budget": "10m", "of_old": 1}}, "'of_old'"),
        ({"settings": {"select": {"dial_range": 2.0}}}, "there is no setting 'select.dial_range'"),
    ],
)
def test_a_run_that_another_version_wrote_is_not_resumed(capsys, folder, searched, saved, why):
    (folder / "run").mkdir()
    (folder / "run" / "settings.json").write_text(json.dumps(SAVED | saved))
    assert main(["--resume", "run"]) == 2
    told = one_line(capsys)
    assert told.startswith("error: run/settings.json holds what this version of trbert does not write (")
    assert why in told
    assert told.endswith("): start the search again under another --name")
    assert searched == []


def test_ctrl_c_says_how_to_go_on_and_keeps_the_run(capsys, folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tune.driver.run_search", interrupted)
    assert main(["--name", "mine"]) == 130
    assert one_line(capsys) == "interrupted: continue with python tune/search.py --resume runs/mine"
    assert (folder / "runs" / "mine" / "settings.json").is_file()


def test_a_full_disk_is_said(capsys, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("trbert.disk.files.write_whole", full)
    assert main(["--name", "mine"]) == 1
    assert (
        one_line(capsys)
        == "error: disk full while writing runs/mine/settings.json: free space, then resume or start again"
    )


# Mistakes in what the arguments name: found by the driver, before it starts Ray.


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))


ROWS = [f"alpha w{row},{'AB'[row % 2]}" for row in range(40)]


@pytest.mark.parametrize(
    ("name", "rows", "told"),
    [
        ("gone.csv", None, "data 'gone.csv' must be a file or folder that exists, and is missing: pass a"),
        ("a.csv", ["body,label", *ROWS], "a.csv must have the column 'text', and has 'body', 'label'"),
        ("a.csv", ["text,class", *ROWS], "a.csv must have the column 'label', and has 'text', 'class'"),
        ("a.csv", ["text,label", *["alpha,A"] * 30], "a.csv must have rows of at least two classes, and all have 'A'"),
        ("a.csv", ["text,label"], "a.csv must have at least one row, and is empty"),
        ("a.csv", ["text,label", *[" ,A", " ,B"] * 9], "a.csv must have a text in column 'text'"),
        ("a.docx", ["text,label", *ROWS], "data file '{folder}/a.docx' must end in .parquet, .csv, .tsv, .txt, .jsonl"),
        ("no/such-data", None, "data 'no/such-data' is no file or folder here, and the hub is not reachable"),
    ],
    ids=["missing", "no text", "no label", "one class", "no rows", "empty texts", "suffix", "hub"],
)
def test_wrong_data_is_one_line_and_leaves_the_runs_name_free(capsys, folder, tiny_model, no_ray, name, rows, told):
    if rows is not None:
        (folder / name).write_text("\n".join(rows) + "\n")
    assert main(["--data", name, "--model", str(tiny_model), "--name", "mine"]) == 2
    assert one_line(capsys).startswith(f"error: {told.format(folder=folder)}")
    assert not (folder / "runs" / "mine").exists()


def test_labels_of_two_types_are_one_line(capsys, folder, tiny_model, no_ray):
    rows = [json.dumps({"text": "alpha", "label": label}) for label in ["A", "B", 3] * 9]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    assert main(["--data", "rows.jsonl", "--model", str(tiny_model)]) == 2
    assert "must be of one type, and are strings (row 0: 'A') and integers (row 2: 3)" in one_line(capsys)


def broken_model(name, tiny_model, folder):
    """Makes the named wrong model below the folder."""
    path = folder / name
    if name == "cut":
        shutil.copytree(tiny_model, path)
        whole = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    elif name == "empty":
        path.mkdir()
    elif name == "decoder":
        transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8).save_pretrained(path)
    elif name == "layoutlm":
        transformers.LayoutLMConfig().save_pretrained(path)
    elif name == "five":
        config = transformers.BertConfig.from_pretrained(tiny_model, num_labels=5)
        config.architectures = ["BertForSequenceClassification"]
        config.save_pretrained(path)  # without its weights


KNOWN = "model_type must be one of albert, bert, camembert, deberta-v2, distilbert"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no/such-model", "model 'no/such-model' is no folder here and could not be fetched from the hub (HF_HUB_OFF"),
        ("cut", "model folder {folder}/cut is not whole"),
        ("empty", "model folder {folder}/empty must hold config.json, and does not: pass a saved model"),
        ("decoder", "a gpt2 model must be an encoder, and is a decoder"),
        ("layoutlm", KNOWN),
        (
            "five",
            "model folder {folder}/five is not whole (it has no model.safetensors): copy or save it again",
        ),
    ],
)
def test_a_wrong_model_is_one_line_and_leaves_the_runs_name_free(
    capsys, folder, tiny_model, tiny_data, no_ray, name, told
):
    broken_model(name, tiny_model, folder)
    assert main(["--data", str(tiny_data), "--model", name, "--name", "mine"]) == 2
    assert one_line(capsys).startswith(f"error: {told.format(folder=folder)}")
    assert not (folder / "runs" / "mine").exists()


def test_a_mistake_in_a_resumed_run_does_not_remove_it(capsys, folder, no_ray, tiny_model):
    saved = SAVED | {"settings": {"model": str(tiny_model), "data": {"source": "gone.csv"}}}
    asked = {
        "num_trials": 1,
        "num_rollout_workers": 0,
        "num_learners": 1,
        "gpus_per_worker": None,
        "budget": "1m",
        "address": None,
    }
    (folder / "run").mkdir()
    (folder / "run" / "settings.json").write_text(
        json.dumps(saved | {"search": asked | {"storage": None, "fixed": []}})
    )
    assert main(["--resume", "run"]) == 2
    assert "gone.csv" in one_line(capsys)
    assert (folder / "run" / "settings.json").is_file()


def test_a_latency_table_that_is_not_there_is_told_before_anything_is_done(capsys, folder, tiny_model, no_ray):
    words = ["--model", str(tiny_model), "--price", "latency", "--latency-table", "gone.json"]
    assert main(words) == 2
    assert "a latency table must be a JSON file that `trbert bench` wrote, and 'gone.json' is not one" in one_line(
        capsys
    )
    assert not (folder / "runs" / "search").exists()


def test_a_latency_table_needs_its_price(capsys, folder, no_ray):
    assert main(["--latency-table", "latency.json"]) == 2
    assert "select.latency_table must be unset unless select.price is 'latency'" in one_line(capsys)


def test_verbose_shows_the_traceback_too(capsys, tiny_model, no_ray):
    assert main(["--data", "gone.csv", "--model", str(tiny_model), "--verbose"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert re.search(r"^error: data 'gone.csv' must be a file", err, re.MULTILINE)


# Several learners, and what else is handed on.


def on_cluster(monkeypatch, *machines):
    cluster = planner.Cluster(machines=machines, started=len(machines))
    monkeypatch.setattr(planner, "cluster_of", lambda address: cluster)


def test_learners_take_processors_of_their_own_and_are_planned_with(capsys, searched, monkeypatch):
    # A trial and its two learners are three processes: seven cores hold two such trials.
    monkeypatch.setattr(search, "_cores", lambda: 7)
    assert main(["--num-learners", "2", "--data", "own.csv"]) == 0
    assert "2 at once, no rollout workers, 2 learners each" in capsys.readouterr().out
    ((_, saved, plan, _),) = searched
    assert (plan.concurrent, plan.learners) == (2, 2)
    assert saved.search.num_learners == 2


def test_on_a_cluster_learners_have_whole_gpus_and_the_others_what_was_asked_for(searched, monkeypatch):
    on_cluster(monkeypatch, {"CPU": 8.0, "GPU": 4.0})
    words = ["--address", "10.0.0.1:6379", "--num-learners", "2"]
    # Two GPUs a trial; with half a GPU for its own process beside them two and a half.
    for gpus, at_once in (("0", 2), ("0.5", 1)):
        assert main([*words, "--gpus-per-worker", gpus]) == 0
        _, saved, plan, _ = searched[-1]
        assert (plan.concurrent, plan.learners) == (at_once, 2)
        assert saved.search.gpus_per_worker == float(gpus)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num-learners", "0"], "--num-learners must be 1 or more, and is 0"),
        (
            ["--num-learners", "2"],
            "--num-learners needs 3 processors for each trial, and this machine has 2: use at most 1, or a cluster",
        ),
    ],
)
def test_learners_that_cannot_be_are_refused(capsys, folder, searched, words, told):
    assert main(words) == 2
    assert one_line(capsys).startswith(f"error: {told}")
    assert (list(folder.iterdir()), searched) == ([], [])


@pytest.mark.parametrize(
    ("cores", "words", "told"),
    [
        (
            1,
            ["--num-rollout-workers", "1"],
            "--num-rollout-workers needs 2 processors for each trial, and this machine "
            "has 1: use at most 0, or a cluster with --address",
        ),
        (
            1,
            ["--num-learners", "2"],
            "--num-learners needs 3 processors for each trial, and this machine has 1: use at "
            "most 1, or a cluster with --address",
        ),
        (
            4,
            ["--num-learners", "4"],
            "--num-learners needs 5 processors for each trial, and this machine has 4: use at "
            "most 3, or a cluster with --address",
        ),
    ],
)
def test_the_remedy_for_too_few_processors_helps(capsys, monkeypatch, cores, words, told):
    monkeypatch.setattr(search, "_cores", lambda: cores)
    assert main([*words, "--dry-run"]) == 2
    assert one_line(capsys) == f"error: {told}"
    assert main([words[0], told.split("at most ")[1][0], "--dry-run"]) == 0


def test_the_plan_is_for_the_processors_that_the_process_may_use(capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(search, "processors", lambda: 1)
    assert main(["--dry-run"]) == 0
    assert "machine   this machine, 1 core\n" in capsys.readouterr().out


@pytest.mark.parametrize(("quota", "threads"), [(2, "2"), (8, None)])
def test_the_teacher_has_as_many_threads_as_a_containers_quota_allows(monkeypatch, quota, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(search, "affine_processors", lambda: 8)
    monkeypatch.setattr(search, "processors", lambda: quota)
    assert main(["--dry-run"]) == 0
    assert os.environ.get("OMP_NUM_THREADS") == threads


def test_a_check_that_fails_makes_nothing_in_a_dry_run_and_in_a_search(capsys, folder, searched):
    (folder / "file").write_text("")
    for words in (["--storage", "file/states"], ["--runs", "file"], ["--name", "a/b"], ["--name", ""]):
        for more in ([], ["--dry-run"]):
            assert main([*words, *more]) == 2
            assert one_line(capsys).startswith(f"error: {'run folder' if words[0] == '--runs' else words[0]} ")
    assert ([path.name for path in folder.iterdir()], searched) == (["file"], [])


def test_a_warning_stands_below_the_plan(capsys, monkeypatch):
    monkeypatch.setattr(search, "run_checks", lambda *_: ["the disk is nearly full"])
    assert main(["--dry-run"]) == 0
    assert capsys.readouterr().out.endswith(
        "(--budget 10m)\nwarning   the disk is nearly full\n"
        "nothing was trained: leave out --dry-run to start the search\n"
    )


def test_a_name_that_is_taken_is_told_by_a_dry_run_too(capsys, searched):
    assert main(["--name", "mine"]) == 0
    capsys.readouterr()
    assert main(["--name", "mine", "--dry-run"]) == 2
    assert one_line(capsys).startswith("error: run folder runs/mine must not exist yet, and does: ")


def test_a_run_is_saved_with_absolute_paths_so_that_it_is_the_same_from_any_folder(
    folder, searched, monkeypatch, tiny_model
):
    shutil.copytree(tiny_model, folder / "enc")
    (folder / "rows.csv").write_text("text,label\n")
    assert main(["--name", "mine", "--model", "enc", "--data", "train=rows.csv", "--storage", "states"]) == 0
    other = folder / "other"
    other.mkdir()
    (other / "rows.csv").write_text("text,label\nother,data\n")
    monkeypatch.chdir(other)
    assert main(["--resume", "../runs/mine"]) == 0
    for _, saved, _, _ in searched:
        assert saved.settings.model == str(folder / "enc")
        assert saved.settings.data.source == f"train={folder}/rows.csv"
        assert saved.search.storage == str(folder / "states")


def test_two_searches_at_once_have_two_names(capsys, folder, monkeypatch):
    """The second search starts while the first one runs; its plan was made before the first took the name."""
    found = []

    def both(where, *_, **__):
        found.append(where.path.name)
        if len(found) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(search, "free_name", lambda *_: "search")
                patch.setattr(search, "check_new", lambda folder: None)
                assert main([]) == 0
            assert main(["--resume", "runs/search"]) == 2
        return "the front"

    monkeypatch.setattr("tune.driver.run_search", both)
    assert main([]) == 0
    assert found == ["search", "search-2"]
    out, err = capsys.readouterr()
    assert "search    runs/search-2, because another search has taken runs/search just now\n" in out
    assert err.startswith("error: run folder runs/search must be of one search at a time, and another search is using")


def test_a_hint_to_resume_can_be_pasted_whatever_the_name_is(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tune.driver.run_search", interrupted)
    assert main(["--name", "a b"]) == 130
    assert one_line(capsys) == "interrupted: continue with python tune/search.py --resume 'runs/a b'"


def test_an_address_of_this_machine_alone_overrules_the_shells(capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert main(["--dry-run"]) == 2
    assert one_line(capsys).startswith("error: RAY_ADDRESS http://127.0.0.1:8265 must be of a running Ray cluster")
    assert main(["--dry-run", "--address", "local"]) == 0


def test_columns_storage_and_switches_are_handed_on(folder, searched):
    words = ["--data", "a.csv", "--label-column", "stars", "--storage", "shared", "--verbose"]
    assert main([*words, "--set", "select.token_average=true"]) == 0
    ((_, saved, _, arguments),) = searched
    assert saved.settings.data.label_column == "stars"
    assert saved.settings.select.token_average is True
    assert saved.search.storage == str(folder / "shared")
    assert arguments["verbose"] is True


def test_the_address_is_the_shells_where_none_is_given(searched, monkeypatch):
    on_cluster(monkeypatch, {"CPU": 8.0, "GPU": 0.0})
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    assert main([]) == 0
    assert main(["--address", "auto"]) == 0
    assert [saved.search.address for _, saved, *_ in searched] == ["10.0.0.9:6379", "auto"]


def test_a_mistake_leaves_the_run_where_others_may_have_written_to_its_storage(capsys, folder, monkeypatch):
    def mistaken(run, saved, *_, **__):
        if saved.search.storage and run.path.name == "shared":
            (folder / "states" / f"{saved.id}-teacher-states").mkdir(parents=True)
        raise InputError("the data is none: pass another")

    monkeypatch.setattr("tune.driver.run_search", mistaken)
    assert main(["--name", "shared", "--storage", "states"]) == 2
    assert main(["--name", "nothing", "--storage", "states"]) == 2
    assert main(["--name", "own"]) == 2
    assert [path.name for path in (folder / "runs").iterdir()] == ["shared"]


def test_what_ray_reads_from_the_environment_is_set_and_the_users_own_choices_stay(monkeypatch):
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "0")
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "7")
    for name in ("TQDM_DISABLE", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["--dry-run", "--verbose"]) == 0
    assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"  # Ctrl-C must reach the search
    assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == "7"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "TQDM_DISABLE" not in os.environ
    assert main(["--dry-run"]) == 0
    assert os.environ["TQDM_DISABLE"] == "1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", ""], "--model must be a name or a folder, and is ''"),
        (["--data", " "], "--data must be a name, a folder or files, and is ' '"),
        (["--storage", ""], "--storage must be a folder or a URI, and is ''"),
    ],
)
def test_an_option_that_is_empty_is_told_and_not_taken_for_the_working_folder(capsys, folder, searched, words, told):
    assert main(words) == 2
    assert one_line(capsys) == f"error: {told}"
    assert list(folder.iterdir()) == []


def test_this_machine_may_be_named_in_the_environment_too(searched, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert main([]) == 0
    ((_, saved, *_),) = searched
    assert saved.search.address is None


def test_the_folder_of_all_runs_may_lie_in_the_home_folder(folder, searched, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert main(["--runs=~/runs", "--name", "mine"]) == 0
    assert main(["--runs=~/runs"]) == 0
    home = folder / "home" / "runs"
    assert [run.path for run, *_ in searched] == [home / "mine", home / "search"]


def test_the_plan_says_minutes_as_one_says_them(capsys):
    for budget, told in (("20s", "about 1 minute "), ("1m", "about 1 minute "), ("90s", "about 2 minutes ")):
        assert main(["--dry-run", "--budget", budget]) == 0
        assert f"time      {told}(--budget {budget})" in capsys.readouterr().out


def test_unlabelled_texts_are_named_with_commas_or_one_by_one_and_decide_the_distillation():
    options = search._parser().parse_args(["--unlabelled", "a.csv,b/", "--unlabelled", "c.txt"])
    assert search._settings(options).data.unlabelled == ("a.csv", "b/", "c.txt")
    assert search._fixed(options) == ("joint.distillation",)
    options = search._parser().parse_args(["--set", "data.unlabelled=a.csv,b.csv", "--set", "joint.distillation=0.5"])
    assert search._settings(options).data.unlabelled == ("a.csv", "b.csv")
    assert search._fixed(options) == ("data.unlabelled", "joint.distillation")
    assert search._fixed(search._parser().parse_args([])) == ()


def test_a_file_of_unlabelled_texts_is_found_again_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.txt").write_text("a text")
    settings, _ = resolved(override(Settings(), {"data.unlabelled": ("more.txt", "imdb")}), Search())
    assert settings.data.unlabelled == (str(tmp_path / "more.txt"), "imdb")
