"""`trbert import-checkpoint`: what it writes and says, and that a bad checkpoint is refused in one sentence."""

import json
import os
import pickle
import re
import subprocess
import sys
import time

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.testing import assert_close

import trbert
from trbert.commands import import_checkpoint
from trbert.commands.cli import main
from trbert.tasks import TASKS

WEIGHTS, HEAD = "pytorch_model.bin", "bert.encoder.linear_1.0.weight"


def with_heads():
    """Returns the names of the tasks that the original code may have trained."""
    return [name for name in TASKS if name != "embedding"]


@pytest.fixture
def original(bert, save_original, tmp_path):
    """The folder of a tiny checkpoint of three classes, as the original code writes it."""
    return save_original(tmp_path / "original", bert)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "reduced"


@pytest.fixture
def imports(original, out, capsys):
    """A function: more words, another folder -> what the command prints when it imports the checkpoint."""

    def imports(*more, folder=original):
        assert main(["import-checkpoint", str(folder), "--out", str(out), *more]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return imports


@pytest.fixture
def refused(original, out, tmp_path, capsys):
    """A function: more words, another folder -> the one sentence with which the command refuses.

    Nothing is written meanwhile.
    """

    def refused(*more, folder=original):
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert main(["import-checkpoint", str(folder), "--out", str(out), *more]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith("error: ")
        assert told.err.endswith("\n")
        assert told.err.count("\n") == 1
        return told.err.removeprefix("error: ").rstrip("\n")

    return refused


@pytest.fixture
def edit(original):
    """A function: entries -> nothing; writes them into config.json. What is ... is removed."""

    def edit(**entries):
        path = original / "config.json"
        found = json.loads(path.read_text()) | entries
        path.write_text(json.dumps({name: value for name, value in found.items() if value is not ...}))

    return edit


@pytest.fixture
def change(original):
    """A function: weights -> nothing; writes them into the checkpoint. What is None is removed."""

    def change(weights, **options):
        found = torch.load(original / WEIGHTS, weights_only=True) | weights
        kept = {name: value for name, value in found.items() if value is not None}
        torch.save(kept, original / WEIGHTS, **options)

    return change


# What it writes


def test_a_checkpoint_becomes_a_folder_as_a_search_writes_it(imports, original, out):
    told = imports()
    assert told.splitlines() == [
        "note      the outputs have no names: to name the classes, import it again with --labels a,b,c",
        "encoder   bert, 4 layers",
        "task      classification",
        "points    1, 2: tokens are dropped before these layers",
        "outputs   3 without names",
        "dial      0: a token goes on where its probability is one half or more, as in the original code",
        f"model     {out}",
        f"try it    trbert bench {out}",
    ]
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "SHA256SUMS"),
    }
    assert [path.name for path in out.parent.iterdir()] == ["reduced"]
    model = trbert.load(out, verify=True)
    assert (model.config.task, model.config.points, model.config.dial) == ("classification", (1, 2), 0.0)
    assert (model.config.selector, model.config.max_tokens) == ("policy", 40)
    card = (out / "README.md").read_text()
    assert "* points: 1, 2: tokens are dropped before these layers\n" in card
    assert "'original', a checkpoint of the original TR-BERT code" in card
    assert str(original.parent) not in card


def test_the_auto_classes_load_the_model_and_its_tokenizer(imports, out):
    imports()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    batch = tokenizer(["W5 w6 w7 nothing", "w8"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7, 1, 3], [2, 8, 3, 0, 0, 0]]
    assert tokenizer.model_max_length == 40
    with torch.no_grad():
        assert_close(model(**batch).logits, trbert.load(out)(**batch).logits)


def test_the_printed_command_benches_the_model(imports, out, monkeypatch):
    taken = []
    monkeypatch.setattr("trbert.commands.bench.run", taken.append)
    words = imports().splitlines()[-1].removeprefix("try it    trbert ").split()
    assert main(words) == 0
    assert taken[0].model == str(out)


@pytest.mark.slow
def test_the_command_runs_as_a_process_of_its_own(original, out):
    words = [sys.executable, "-m", "trbert", "import-checkpoint", str(original), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "encoder   bert, 4 layers" in done.stdout.splitlines()
    assert done.stderr == ""
    script = (
        f"import trbert, transformers; transformers.AutoModelForSequenceClassification.from_pretrained({str(out)!r})"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_help_and_wrong_options_load_no_torch(tmp_path):
    (tmp_path / "file").write_text("")
    script = (
        "import sys; from trbert.commands.cli import main; "
        f"print(main(['import-checkpoint', 'x', '--out', {str(tmp_path / 'file')!r}]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"


@pytest.mark.parametrize("way", ["zip", "safetensors", "shards"])
def test_weights_are_read_from_every_kind_of_file(way, imports, original, out):
    state = torch.load(original / WEIGHTS, weights_only=True)
    if way == "zip":
        torch.save(state, original / WEIGHTS)
    else:
        (original / WEIGHTS).unlink()
    if way == "safetensors":
        save_file(state, original / "model.safetensors")
    if way == "shards":
        names = sorted(state)
        files = {name: f"pytorch_model-{index % 2 + 1:05}-of-00002.bin" for index, name in enumerate(names)}
        for file in set(files.values()):
            torch.save({name: state[name] for name in names if files[name] == file}, original / file)
        (original / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": files}))
    imports()
    model = trbert.load(out)
    assert torch.equal(model.policy.heads[0].linear_1.weight, state[HEAD])
    assert torch.equal(model.plain.classifier.weight, state["classifier.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_arithmetic_become_float32(dtype, imports, original, out, change):
    state = torch.load(original / WEIGHTS, weights_only=True)
    change({name: value.to(dtype) for name, value in state.items() if value.is_floating_point()})
    imports()
    model = trbert.load(out)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert torch.equal(model.plain.classifier.weight, state["classifier.weight"].to(dtype).float())


def test_what_the_original_leaves_in_the_config_of_its_training_changes_nothing(imports, original, out, edit):
    imports()
    edit(temperature=4.0, top_k=7, max_length=99, output_hidden_states=True, finetuning_task="imdb")
    again = out.with_name("again")
    assert main(["import-checkpoint", str(original), "--out", str(again)]) == 0
    ids = torch.tensor([[2, 9, 8, 7, 6, 3]])
    with torch.no_grad():
        assert torch.equal(trbert.load(out)(ids).logits, trbert.load(again)(ids).logits)


def test_weights_that_the_original_saves_and_nothing_reads_are_left_out(imports, change):
    change({"bert.embeddings.position_ids": torch.arange(40)[None]})
    imports()


def test_a_run_of_the_original_names_its_newest_checkpoint(refused, original, tmp_path):
    (tmp_path / "run").mkdir()
    original.rename(tmp_path / "run" / "checkpoint-2000")
    assert refused(folder=tmp_path / "run") == (
        f"model folder {tmp_path / 'run'} must hold config.json, and does not: pass the model within it, "
        f"{tmp_path / 'run' / 'checkpoint-2000'}"
    )


# Labels


def names_in(out):
    return list(trbert.load(out).config.id2label.values())


def test_outputs_are_named_by_the_command(imports, out):
    told = imports("--labels", "bad, fair,good")
    assert "outputs   'bad', 'fair', 'good'\n" in told
    assert "note" not in told
    assert names_in(out) == ["bad", "fair", "good"]
    assert trbert.load(out).config.label2id == {"bad": 0, "fair": 1, "good": 2}


@pytest.mark.parametrize(("begin", "end"), [("", ""), ("", "\n"), ("", "\r\n"), ("\ufeff", "\n")])
def test_outputs_are_named_by_a_file(begin, end, imports, out, tmp_path):
    (tmp_path / "labels.txt").write_bytes(f"{begin}rec.autos\nsci, space\ntalk é{end}".encode())
    imports("--labels", str(tmp_path / "labels.txt"))
    assert names_in(out) == ["rec.autos", "sci, space", "talk é"]


def test_names_in_the_config_are_kept_and_the_command_replaces_them(imports, out, edit):
    edit(id2label={"0": "no", "1": "maybe", "2": "yes"}, label2id=...)
    assert "outputs   'no', 'maybe', 'yes'\n" in imports()
    assert names_in(out) == ["no", "maybe", "yes"]


@pytest.mark.parametrize("entries", [{}, {"num_labels": ...}, {"num_labels": ..., "id2label": ..., "label2id": ...}])
def test_the_head_says_how_many_outputs_there_are(entries, imports, out, edit):
    edit(**entries)  # the original leaves two names for any number of labels
    assert "outputs   3 without names\n" in imports()
    assert names_in(out) == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_a_number_of_labels_that_contradicts_the_head_is_refused(refused, edit, original):
    edit(num_labels=5)
    assert refused() == (
        f"num_labels in config.json of checkpoint {original} must be the number of outputs of its head, 3, and is 5: "
        "copy the config.json that was saved with these weights, or correct it"
    )


@pytest.mark.parametrize(("entries", "more"), [({"id2label": {"0": "no", "1": "yes"}}, ()), ({}, ("--labels", "a,b"))])
def test_names_that_are_too_few_for_the_head_are_refused(entries, more, refused, edit, original):
    edit(**entries)
    assert refused(*more) == (
        f"the names of the labels must be as many as the head of checkpoint {original} has outputs, 3, and are 2: name "
        "them in the order of the outputs, with --labels a,b,c or --labels FILE"
    )


def test_wrong_names_are_refused(refused, tmp_path):
    blank = "--labels must name each output, and holds a blank name: write a,b,c, or a name in each line"
    assert refused("--labels", "a,,c") == refused("--labels", "") == blank
    assert refused("--labels", "a,b,a") == "--labels must hold each name once, and holds 'a' twice: rename one of them"
    assert refused("--labels", "a,b," + "c" * 1001) == (
        "--labels must hold names of at most 1,000 characters, and holds one of 1,001: shorten it"
    )
    (tmp_path / "labels").write_bytes(b"\xff\xfe")
    assert refused("--labels", str(tmp_path / "labels")).startswith(
        f"--labels must be names, or a file of UTF-8 with one in each line, and {tmp_path / 'labels'} cannot be read ("
    )


# The task


def test_the_task_is_that_of_the_config_or_of_the_command(imports, refused, edit, original, out):
    edit(architectures=["BertForMaskedLM"])  # of the model that was fine-tuned
    assert refused() == (
        f"--task must name the task of checkpoint {original}, because `architectures` in its config.json does not, and "
        f"is not given: pass one of {', '.join(with_heads())}"
    )
    assert refused("--task", "dancing") == (
        f"task must be one of {', '.join(TASKS)}, and is 'dancing': leave it out, and it is found"
    )
    imports("--task", "classification")
    assert trbert.load(out).config.task == "classification"


@pytest.mark.parametrize("own", [["AUTOBertForSequenceClassification"], None])
def test_a_task_without_a_head_is_refused(own, refused, edit):
    edit(architectures=own)
    assert refused("--task", "embedding") == (
        "--task must be one that the original TR-BERT code trains, and is 'embedding', which has no head: name the "
        "task that the checkpoint was trained for"
    )


def test_a_head_with_one_output_is_one_for_a_number(imports, change, edit, original, out):
    state = torch.load(original / WEIGHTS, weights_only=True)
    edit(num_labels=1, id2label=..., label2id=...)
    change({name: state[name][:1] for name in ("classifier.weight", "classifier.bias")})
    assert "task      regression" in imports().splitlines()
    assert trbert.load(out).config.task == "regression"


def test_a_task_that_is_not_the_checkpoints_is_refused(refused, edit, original, token_task):
    assert refused("--task", token_task.name) == (
        f"--task must be the one for which checkpoint {original} was trained, and is 'token average', while "
        "config.json says in `architectures` that it is an 'AUTOBertForSequenceClassification': pass --task "
        "classification"
    )
    edit(architectures=["AUTOBertForTokenClassification"])
    assert refused("--task", "classification").endswith("pass --task tagging")
    edit(architectures=["AUTOBertForDancing"])
    assert refused() == (
        f"checkpoint {original} must be of one of the tasks {', '.join(with_heads())}, and config.json says in "
        "`architectures` that it is an 'AUTOBertForDancing': pass another checkpoint"
    )


def test_a_head_of_another_task_is_refused(refused, change):
    state = {"classifier.weight": None, "classifier.bias": None}
    change(state | {"qa_outputs.weight": torch.zeros(2, 32), "qa_outputs.bias": torch.zeros(2)})
    assert refused() == (
        "the checkpoint must hold 'classifier.weight', which a model of the task 'classification' has, and does not: "
        "name the task for which it was trained with --task, or copy the checkpoint again"
    )


def test_decisions_for_all_options_at_once_are_said_to_differ(imports, edit, original):
    edit(architectures=["AUTOMCBertForSequenceClassification"])
    assert imports().splitlines()[0] == (
        f"note      checkpoint {original} was trained by the original's variant for multiple choice "
        "(AUTOMCBertForSequenceClassification), which drops the same tokens of all options of a question: here each "
        "option decides for itself, so that answers differ"
    )


# The folders


def test_a_folder_that_is_none_is_refused(refused, original, tmp_path):
    dir_must = "DIR must be the folder of a checkpoint of the original TR-BERT code, and "
    assert refused(folder=tmp_path / "gone") == f"{dir_must}{tmp_path / 'gone'} does not exist: correct its name"
    assert refused(folder=original / WEIGHTS) == (
        f"{dir_must}{original / WEIGHTS} is no folder: pass {original}, with config.json and vocab.txt in it"
    )


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_missing_file_is_named_with_the_remedy(name, refused, original):
    (original / name).unlink()
    assert refused() == (
        f"checkpoint folder {original} must hold {name}, and does not: copy into it the {name} of the model that was "
        "fine-tuned"
    )


def test_missing_weights_are_refused(refused, original):
    (original / WEIGHTS).unlink()
    assert refused() == (f"model folder {original} is not whole (it has no model.safetensors): copy or save it again")


def test_a_plain_model_is_refused(refused, bert, save_original, tmp_path):
    folder = save_original(tmp_path / "my plain", bert, bert.state_dict())
    assert refused(folder=folder) == (
        f"checkpoint {folder} must hold the policy heads of the original TR-BERT code, such as "
        "'bert.encoder.linear_1.0.weight', and holds none: to reduce a plain model, run python tune/search.py --model "
        f"'{folder}'"
    )


def test_a_model_that_was_imported_before_is_refused(imports, refused, out, tmp_path):
    imports()
    out.rename(tmp_path / "mine")
    assert refused(folder=tmp_path / "mine") == (
        f"DIR must be the folder of a checkpoint of the original TR-BERT code, and {tmp_path / 'mine'} is a reduced "
        "model of trbert already: load it with trbert.load"
    )


def test_an_encoder_of_an_unknown_family_is_refused(refused, edit):
    edit(model_type="deberta")
    assert refused().startswith("model_type must be one of albert, bert,")


@pytest.mark.parametrize("way", ["a file", "full", "a link", "dangling"])
def test_a_folder_that_is_taken_is_refused_and_stays_as_it_is(way, refused, out, tmp_path):
    out.parent.mkdir()
    if way == "a file":
        out.write_text("mine")
    elif way == "full":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        out.symlink_to(tmp_path / "original" if way == "a link" else tmp_path / "gone")
    found = {"a file": "is a file", "full": "is not empty"}.get(way, "is a symbolic link")
    assert refused() == f"--out must be a new or an empty folder, and {out} {found}: name another folder"
    assert os.path.lexists(out)


def test_an_empty_folder_is_used(imports, out):
    out.mkdir(parents=True)
    imports()
    trbert.load(out, verify=True)


def test_a_folder_that_cannot_be_made_is_refused(original, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for name, why in ((str(tmp_path / "file" / "out"), "is not a folder"), (" ", "and is ' '")):
        assert main(["import-checkpoint", str(original), "--out", name]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: --out must be a folder that can be written, and ")
        assert why in told
    assert main(["import-checkpoint", str(original)]) == 2
    assert capsys.readouterr().err == (
        "error: the following arguments are required: --out: see trbert import-checkpoint --help\n"
    )


@pytest.mark.parametrize("step", ["copy_tree", "_card", "tempfile.TemporaryDirectory.__enter__"])
def test_an_import_that_ends_early_leaves_nothing(step, original, out, monkeypatch, capsys):
    def ends(*_, **__):
        raise KeyboardInterrupt

    owner, _, name = f"trbert.commands.import_checkpoint.{step}".rpartition(".")
    monkeypatch.setattr(f"{owner}.{name}", ends)
    assert main(["import-checkpoint", str(original), "--out", str(out)]) == 130
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_a_folder_that_is_filled_meanwhile_is_not_replaced(original, out, monkeypatch, capsys):
    card = import_checkpoint._card

    def filled(*given):
        out.mkdir(parents=True)
        (out / "theirs").write_text("theirs")
        return card(*given)

    monkeypatch.setattr(import_checkpoint, "_card", filled)
    assert main(["import-checkpoint", str(original), "--out", str(out)]) == 2
    assert "is not empty: name another folder" in capsys.readouterr().err
    assert [path.name for path in out.parent.rglob("*")] == ["reduced", "theirs"]


# Weights that nobody should trust


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({HEAD: torch.zeros(32, 16)}, "linear_1.0.weight must have the shape (32, 32), and has (32, 16): "),
        ({HEAD: torch.zeros(10**9, 0)}, "linear_1.0.weight must have the shape (32, 32), and has (1000000000, 0): "),
        ({HEAD: torch.zeros(32)}, "linear_1.0.weight must have the shape (32, 32), and has (32,): "),
        (
            {"bert.encoder.linear_2.1.weight": torch.zeros(2, 32)},
            "linear_2.1.weight must have the shape (1, 32), and has (2, 32): ",
        ),
        ({"bert.encoder.linear_2.1.bias": None}, "the checkpoint must hold a policy head '….linear_2.1.bias', and "),
        ({HEAD: None}, "the checkpoint must hold a policy head '….linear_1.0.weight', and does not: "),
        ({HEAD: torch.zeros(32, 32, dtype=torch.int64)}, "linear_1.0.weight must hold floating-point numbers, and is "),
        ({HEAD: torch.zeros(32, 32).to_sparse()}, "linear_1.0.weight must hold floating-point numbers, and is of "),
        (
            {"classifier.bias": torch.zeros(3, dtype=torch.complex64)},
            "classifier.bias must hold floating-point numbers, and is of torch.complex64: pass the checkpoint as ",
        ),
        ({"bert.encoder.layer.9.output.dense.weight": torch.zeros(2, 2)}, "a bert model of the task 'classification' "),
        ({"bert.pooler.dense.bias": None}, "the checkpoint must hold 'bert.pooler.dense.bias', which a model of "),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, told, refused, change):
    change(weights)
    assert refused().startswith(told)


def test_heads_of_more_points_are_refused(refused, change, original):
    change({"bert.encoder.linear_1.2.weight": torch.zeros(32, 32)})
    assert refused() == (
        f"checkpoint {original} must hold the 2 policy heads of the original TR-BERT code, and holds a head of number "
        "2, so that it drops tokens at layers that are not known: pass one that the unmodified code trained"
    )


@pytest.mark.parametrize("name", ["bert.encoder.layer.3.output.dense.bias", "bert.encoder.linear_2.1.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_finite_numbers_are_refused(name, value, refused, change, original):
    change({name: torch.full((1, 32) if "linear" in name else (32,), value)})
    assert re.match(
        f"the weights of model {re.escape(str(original))} must be finite numbers, and 32 of the 32 in ", refused()
    )


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"hidden_size": 10_000_000}, "hidden_size in config.json is 10000000, and the weights have 32"),
        ({"intermediate_size": 10_000_000}, "intermediate_size in config.json is 10000000, and the weights have 48"),
        ({"vocab_size": 10**9}, "vocab_size in config.json is 1000000000, and the weights have 60"),
        ({"num_hidden_layers": 1000}, "num_hidden_layers in config.json is 1000, and the weights have 4"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers in config.json of model "),
        ({"hidden_size": -3}, "hidden_size in config.json of model "),
        ({"num_attention_heads": 5}, "is not whole ("),
        ({"hidden_act": "dance"}, "is not whole ("),
        ({"layer_norm_eps": -1000.0}, "is not whole (its outputs are no finite numbers): copy or save it again"),
        ({"num_hidden_layers": 2}, "a bert model of the task 'classification' has no 'bert.encoder.layer.2."),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads in config.json of model "),
        ({"is_decoder": True}, "must be an encoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type in config.json of model "),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(entries, told, refused, edit):
    edit(**entries)
    began = time.monotonic()
    assert told in refused()
    assert time.monotonic() - began < 5  # no memory was taken for what the weights do not have


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((2_000_000, 32), "has 2000000 rows, and a head has from 1 to 1,000,000"),
        ((0, 32), "has 0 rows, and a head has from 1 to 1,000,000"),
        ((10**9, 0), "has the shape [1000000000, 0], and config.json says [2, 32]"),
        ((3,), "has the shape [3], and config.json says [2, 32]"),
    ],
)
def test_a_head_of_an_odd_shape_is_refused(shape, told, refused, change, edit):
    edit(num_labels=...)
    change({"classifier.weight": torch.zeros(shape, dtype=torch.float16)})
    assert f"its weight 'classifier.weight' {told}" in refused()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_is_cut_off_anywhere_is_refused(zipped, refused, original, change):
    change({}, _use_new_zipfile_serialization=zipped)
    whole = (original / WEIGHTS).read_bytes()
    for share in (0.0, 0.001, 0.02, 0.3, 0.7, 0.99, 1 - 1 / len(whole)):
        (original / WEIGHTS).write_bytes(whole[: int(share * len(whole))])
        told = refused()
        assert f"{WEIGHTS} of model {original}" in told or f"model folder {original} is not whole (" in told


def test_a_file_with_changed_bytes_is_read_or_refused_but_never_crashes(original, out, change, tmp_path, capsys):
    change({})
    whole, generator = (original / WEIGHTS).read_bytes(), torch.Generator().manual_seed(3)
    for turn in range(12):
        broken = bytearray(whole)
        for _ in range(40):  # near the end, too, where a zip file has its table
            place = int(torch.randint(len(whole), (1,), generator=generator))
            broken[place if turn % 2 else -1 - place % 4000] = int(torch.randint(256, (1,), generator=generator))
        (original / WEIGHTS).write_bytes(bytes(broken))
        assert main(["import-checkpoint", str(original), "--out", str(tmp_path / f"out{turn}")]) in (0, 2)
        assert capsys.readouterr().err.count("\n") <= 1


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_code_in_a_file_is_not_run(save, refused, original, tmp_path):
    save({HEAD: Payload(str(tmp_path / "was run"))}, original / WEIGHTS)
    assert "must hold tensors alone" in refused() or "is not whole" in refused()
    assert not (tmp_path / "was run").exists()


def test_a_file_without_weights_is_refused(refused, original):
    for content in ([torch.zeros(2)], {"state_dict": {HEAD: torch.zeros(32, 32)}}, {}):
        torch.save(content, original / WEIGHTS)
        assert "must hold" in refused()
    (original / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "is a pointer of Git LFS" in refused()


def test_a_link_to_a_file_is_followed_and_any_other_is_refused(imports, refused, original, out, tmp_path):
    weights = (original / WEIGHTS).rename(tmp_path / "weights")
    (original / WEIGHTS).symlink_to(tmp_path / "gone")
    assert "must be a file, or a symbolic link to one, and is not" in refused()
    (original / WEIGHTS).unlink()
    (original / WEIGHTS).symlink_to(tmp_path)
    assert "must be a file, or a symbolic link to one, and is not" in refused()
    (original / WEIGHTS).unlink()
    os.mkfifo(original / WEIGHTS)  # it would be waited for
    assert "must be a file, or a symbolic link to one, and is not" in refused()
    (original / WEIGHTS).unlink()
    (original / WEIGHTS).symlink_to(weights)
    imports()


def test_an_index_that_names_files_elsewhere_is_refused(refused, original):
    (original / WEIGHTS).rename(original.parent / "elsewhere.bin")
    (original / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {HEAD: "../elsewhere.bin"}}))
    assert "must name files that are beside it, and names '../elsewhere.bin'" in refused()


def test_a_config_that_is_no_json_is_refused(refused, original):
    for content in ("", "[1, 2]", "{" * 100_000, '{"model_type": NaN}', "\udcff"):
        (original / "config.json").write_bytes(content.encode(errors="surrogateescape"))
        assert "config.json" in refused()


def test_a_vocabulary_that_is_no_text_is_refused(refused, original):
    (original / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    assert str(original) in refused()
