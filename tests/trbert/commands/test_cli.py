"""The command `trbert`: a bench from a saved model and a file, and its mistakes in one line."""

import csv
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

import trbert
from tests.trbert.packed.lvbert import FAMILY, small_model
from trbert.commands.cli import main
from trbert.data.readers import Format
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.break_even import Conditions, load_break_even
from trbert.measure.latency import load_latency
from trbert.modeling import assemble, load
from trbert.packed import declared
from trbert.packed.families import FAMILIES
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(50))]


@pytest.fixture
def saved(bert, make_reducer, tmp_path):
    """A reduced model with its tokenizer, and a csv file of documents."""
    policy = Policy(bert.config.hidden_size, 2, width=8)
    assemble(make_reducer((0, 2)), PolicySelector(policy), -0.5, max_tokens=16).save_pretrained(tmp_path / "model")
    vocabulary = tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    own = tokenizers.Tokenizer(vocabulary)
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(tmp_path / "model")
    with (tmp_path / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "other"])
        for row in range(60):
            writer.writerow(
                [" ".join(f"w{(row * 7 + word) % 50}" for word in range(3 + row % 9)), "ab"[row % 2], "w1 w2"]
            )
    return tmp_path


def words(saved, *more):
    data, out = str(saved / "data.csv"), str(saved / "out")
    return ["bench", str(saved / "model"), "--data", data, "--docs", "4", "--out", out, "--rounds", "1", *more]


def test_a_bench_writes_its_report_and_the_latency_table(saved, capsys):
    threads = torch.get_num_threads()
    try:
        assert main(words(saved, "--batch", "1", "4", "--dtype", "float32", "--threads", "1")) == 0
    finally:
        torch.set_num_threads(threads)
    told = capsys.readouterr().out
    report = json.loads((saved / "out" / "speed.json").read_text())
    assert (report["documents"], report["threads"]) == (4, 1)
    assert {(row["batch"], row["variant"]) for row in report["rows"]} == {
        *((1, name) for name in ("padded", "unpadded", "reduced -0.5")),
        *((4, name) for name in ("padded", "sorted", "unpadded", "reduced -0.5")),
    }
    assert (saved / "out" / "speed.md").read_text() in told
    assert (saved / "out" / "speed.png").read_bytes()[1:4] == b"PNG"
    latency = load_latency(saved / "out" / "latency.json")
    assert (latency.documents, latency.threads, latency.layers) == (4, 1, 4)


def test_a_bench_finds_out_where_reducing_pays_if_it_is_asked_to(saved, monkeypatch, capsys):
    monkeypatch.setattr("trbert.measure.break_even._ROUNDS", 1)
    monkeypatch.setattr("trbert.measure.break_even._STEP_TOKENS", 1)
    assert main(words(saved, "--batch", "2", "--dtype", "bfloat16", "float32", "--break-even")) == 0
    path = saved / "out" / "break_even.json"
    assert f"break-even {path}" in capsys.readouterr().out
    tables = load_break_even(path)
    assert [(each.conditions.dtype, each.conditions.dial) for each in tables] == [("bfloat16", -0.5), ("float32", -0.5)]
    assert tables[0].tokens == (32,)  # two documents of 16 tokens, which are the most that the model reads
    model = load(saved / "model", break_even=path)
    assert model.break_even == tables
    assert model.break_even[1].conditions == Conditions.now(model.reducer, model.selector, -0.5)


def test_an_earlier_report_is_not_replaced(saved, asked, capsys):
    (saved / "out").mkdir()
    (saved / "out" / "speed.md").write_text("an earlier report")
    assert main(words(saved)) == 2
    told = f"error: --out must be a new or an empty folder, and {saved / 'out'} is not empty: name another folder\n"
    assert capsys.readouterr().err == told
    assert (saved / "out" / "speed.md").read_text() == "an earlier report"
    assert not asked


def test_a_rival_is_timed_beside_it(saved, bert):
    bert.config.id2label, bert.config.label2id = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, {}
    bert.save_pretrained(saved / "small")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(saved / "model" / name, saved / "small" / name)
    assert main(words(saved, "--batch", "1", "2", "--dtype", "float32", "int8", "--against", str(saved / "small"))) == 0
    rows = json.loads((saved / "out" / "speed.json").read_text())["rows"]
    rivals = [row for row in rows if row["variant"] == "against small"]
    assert [(row["batch"], row["dtype"]) for row in rivals] == [
        (batch, dtype) for batch in (1, 2) for dtype in ("float32", "int8")
    ]
    # It is the same classifier, and runs as many FLOPs as that does sorted.
    own = [row for row in rows if row["variant"] == "sorted"]
    assert [row["flops_over_padded"] for row in rivals if row["batch"] == 2] == [
        row["flops_over_padded"] for row in own
    ]


def test_pairs_are_timed(saved, bert):
    bert.config.id2label, bert.config.label2id = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, {}
    bert.save_pretrained(saved / "small")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(saved / "model" / name, saved / "small" / name)
    options = ["--batch", "2", "--dtype", "float32", "--against", str(saved / "small")]
    lengths = []
    for columns in ("text", "text,other"):
        assert main(words(saved, *options, "--text-column", columns, "--out", str(saved / columns))) == 0
        report = json.loads((saved / columns / "speed.json").read_text())
        _, by_length, *_, rival = report["rows"]
        assert (by_length["variant"], rival["variant"]) == ("sorted", "against small")
        assert rival["flops_over_padded"] == by_length["flops_over_padded"]  # it reads the same pairs
        lengths.append(report["lengths"])
    # The second text and its [SEP], as far as the model's 16 tokens go.
    assert lengths[1] == [min(length + 3, 16) for length in lengths[0]]


def test_the_runners_that_were_asked_for_are_timed(saved):
    assert main(words(saved, "--batch", "2", "--dtype", "float32", "--runner", "eager", "graphed")) == 0
    rows = json.loads((saved / "out" / "speed.json").read_text())["rows"]
    assert [row["variant"] for row in rows][-4:] == [
        "unpadded",
        "reduced -0.5",
        "unpadded, graphed",
        "reduced -0.5, graphed",
    ]


def test_a_runner_that_a_bench_cannot_time_is_refused(saved, capsys):
    assert main(words(saved, "--runner", "int8")) == 2
    message = (
        "--runner must be among eager, compiled and graphed, and holds 'int8': name one of them; for int8 there is "
        "--dtype int8"
    )
    assert message in capsys.readouterr().err


def test_without_matplotlib_there_is_no_picture(saved, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(words(saved, "--batch", "2", "--dtype", "float32")) == 0
    assert "picture   none: pip install matplotlib" in capsys.readouterr().out
    assert not (saved / "out" / "speed.png").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--against", "gone"], "model 'gone' is no folder here"),
        (["--batch", "0"], "--batch must be 1 or more, and is 0"),
        (["--docs", "0"], "--docs must be 1 or more, and is 0"),
        (["--rounds", "-1"], "--rounds must be 1 or more, and is -1"),
        (
            ["--dtype", "float8"],
            "dtypes must be among float32, bfloat16, float16, int8, and hold 'float8': leave it out",
        ),
        (["--data", "gone.csv"], "gone.csv"),
        (["--dial", "0", "nan"], "the dial of 'policy' must be a finite number, and is nan: its default is 0"),
        (
            ["--against", "a/small", "b/small"],
            "--against must name each model once, and names 'small' twice: the last part of a name is its name in the "
            "report, so rename a folder or time the models one after the other",
        ),
        (["--device", "gpu"], "--device must be a device of this machine, and is 'gpu': use cpu"),
        (["--label-column", "label"], "unrecognized arguments: --label-column label"),
    ],
)
def test_a_mistake_is_told_in_one_line(saved, capsys, more, told):
    assert main(words(saved, *more)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (saved / "out").exists()


def test_a_model_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["bench", str(tmp_path / "gone")]) == 2
    assert "gone" in capsys.readouterr().err


def test_help_and_mistakes_load_no_torch():
    script = (
        "import sys; from trbert.commands.cli import main; "
        "print(main(['bench', 'x', '--batch', '0']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"


@pytest.fixture
def asked(monkeypatch):
    """What a bench is asked for; it measures nothing."""
    found = {}

    def stop(model, tokenizer, inputs, **options):
        found.update(options, inputs=inputs, device=model.device.type)
        raise InputError("nothing is measured")

    monkeypatch.setattr("trbert.bench.speed.bench", stop)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: found.update(threads=threads))
    return found


def test_a_bench_that_is_told_nothing_takes_the_models_own_dial_and_what_fits_a_cpu(saved, asked, monkeypatch):
    monkeypatch.chdir(saved)  # its report goes to the folder bench, which must be new
    assert main(["bench", str(saved / "model"), "--data", str(saved / "data.csv")]) == 2
    assert (asked["dials"], asked["batches"], asked["rounds"]) == ([-0.5], [1, 8, 32, 128], 5)
    assert (asked["dtypes"], asked["device"]) == (["float32", "bfloat16", "int8"], "cpu")
    assert (asked["runners"], asked["rivals"]) == (["eager"], {})
    assert "threads" not in asked


def test_a_bench_is_asked_for_what_the_command_says(saved, asked):
    assert main(words(saved, "--dial", "1.5", "-2", "--batch", "2", "--dtype", "int8", "--threads", "3")) == 2
    assert (asked["dials"], asked["batches"], asked["dtypes"]) == ([1.5, -2.0], [2], ["int8"])
    assert ([len(column) for column in asked["inputs"]], asked["rounds"], asked["threads"]) == ([4], 1, 3)
    assert main([*words(saved), "--rounds", "7"]) == 2
    assert asked["rounds"] == 7


def test_texts_without_labels_are_timed(saved, asked):
    with (saved / "data.csv").open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    (saved / "traffic.csv").write_text("text\n" + "\n".join(texts) + "\n")
    assert main([*words(saved), "--data", str(saved / "traffic.csv"), "--docs", "60"]) == 2
    assert [list(column) for column in asked["inputs"]] == [texts]


def test_fewer_documents_than_were_asked_for_are_said(saved, asked, capsys):
    assert main([*words(saved), "--docs", "61"]) == 2
    assert "documents 60: the data has no more, and --docs is 61\n" in capsys.readouterr().out
    assert main([*words(saved), "--docs", "60"]) == 2
    assert "documents" not in capsys.readouterr().out


def test_a_bench_reads_files_as_a_search_does(saved, monkeypatch):
    found = {}

    def stop(source, **options):
        found.update(options, source=source)
        raise InputError("nothing is read")

    monkeypatch.setattr("trbert.data.splits.load_inputs", stop)
    more = [
        "--encoding",
        "cp1252",
        "--separator",
        ";",
        "--no-header",
        "--text-column",
        "text,other",
        "--max-data-size",
        "9GB",
    ]
    assert main(words(saved, *more)) == 2
    assert found["format"] == Format(encoding="cp1252", separator=";", header=False, max_bytes=9 * 10**9)
    assert (found["source"], found["rows"], found["text_column"]) == (str(saved / "data.csv"), 4, "text,other")
    assert main(words(saved)) == 2
    assert found["format"] == Format()


def test_a_size_of_data_that_is_none_is_told_before_anything_is_read(saved, capsys):
    assert main(words(saved, "--max-data-size", "lots")) == 2
    assert "--max-data-size must be a size above 0, and is 'lots'" in capsys.readouterr().err


def test_a_file_without_rows_is_told(saved, asked, capsys):
    (saved / "none.csv").write_text("text\n")
    assert main([*words(saved), "--data", str(saved / "none.csv")]) == 2
    assert "none.csv must have at least one row, and is empty" in capsys.readouterr().err
    assert not asked


def test_a_report_that_cannot_be_written_is_told_before_anything_is_read(saved, capsys):
    (saved / "taken").write_text("a file")
    before = sorted(path.name for path in saved.iterdir())
    long = "File name too long"
    faults = {"taken/report": "taken is not a folder", "x" * 300: long, "new/" + "x" * 300: long}
    for out, fault in faults.items():
        words = ["bench", str(saved / "gone"), "--out", str(saved / out)]
        assert main(words) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: --out must be a folder that can be written, and ")
        assert fault in told
        assert told.endswith("): name another folder\n")
        assert sorted(path.name for path in saved.iterdir()) == before
    assert main(["bench", str(saved / "gone"), "--out", str(saved / "taken")]) == 2
    assert capsys.readouterr().err.endswith("taken is a file: name another folder\n")
    assert main(["bench", str(saved / "gone"), "--out", ""]) == 2
    assert capsys.readouterr().err == "error: --out must be a folder that can be written, and is '': name a folder\n"


def test_a_folder_without_permission_to_write_is_told(saved, capsys, monkeypatch):
    def refused(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refused)
    assert main(words(saved)) == 2
    out = f"{saved / 'out'} cannot be (Permission denied)"
    told = f"error: --out must be a folder that can be written, and {out}: name another folder\n"
    assert capsys.readouterr().err == told


def test_a_dial_that_the_model_does_not_take_is_told_before_anything_is_measured(saved, asked):
    assert main(words(saved, "--dial", "0", "nan")) == 2
    assert not asked


def test_a_model_without_a_tokenizer_is_told(saved, asked, capsys):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (saved / "model" / name).unlink()
    assert main(words(saved)) == 2
    assert capsys.readouterr().err == (
        f"error: model folder {saved / 'model'} must hold a tokenizer (tokenizer.json or vocab.txt), and does not: "
        "save it there\n"
    )
    assert not asked


def test_a_device_that_is_not_there_is_told_and_verbose_shows_where(saved, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(words(saved, "--device", "cuda:1")) == 2
    told = "error: --device must be a device of this machine, and is 'cuda:1': use cpu\n"
    assert capsys.readouterr().err == told
    assert main(words(saved, "--device", "cuda:1", "--verbose")) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith(told)


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"trbert {importlib.metadata.version('trbert')}\n"
    assert trbert.__version__ == importlib.metadata.version("trbert")


WAYS = (["-m", "trbert"], ["tune/search.py"], ["tune/pareto.py"])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_each_command_tells_its_version(way):
    root = Path(trbert.__file__).parents[1]
    done = subprocess.run([sys.executable, *way, "--version"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"trbert {trbert.__version__}\n")


def test_data_that_needs_a_package_that_is_not_installed_names_it(saved, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(words(saved, "--data", "somebody/texts")) == 2
    assert capsys.readouterr().err == (
        "error: --data somebody/texts needs the package datasets, which is not installed: pip install datasets, or "
        "name a csv, jsonl or parquet file\n"
    )


def test_a_model_of_a_declared_family_is_timed_with_its_family_and_refused_without(saved, capsys, monkeypatch):
    monkeypatch.setattr(declared, "_DECLARED", {})
    monkeypatch.setitem(FAMILIES, FAMILY.model_type, FAMILY)
    reducer = Reducer(encoder=Encoder(small_model()), task=TASKS["classification"], points=(1, 2))
    assemble(reducer, PolicySelector(Policy(32, 2, 8)), 0.0, 16).save_pretrained(saved / "model")
    options = ("--batch", "4", "--dtype", "float32")
    assert main(words(saved, *options, "--family", "tests.trbert.packed.lvbert:FAMILY")) == 0
    report = json.loads((saved / "out" / "speed.json").read_text())
    assert "reduced +0" in {row["variant"] for row in report["rows"]}
    capsys.readouterr()
    FAMILIES.pop(FAMILY.model_type)
    options += ("--out", str(saved / "new"))
    assert main(words(saved, *options)) == 2
    assert "or pass --family to the command; if not, correct it" in capsys.readouterr().err
    assert main(words(saved, *options, "--family", "FAMILY")) == 2
    assert capsys.readouterr().err.startswith("error: --family must be a module and a name in it, such as ")
    monkeypatch.setitem(FAMILIES, FAMILY.model_type, FAMILY)  # so that it can be taken back


def test_pairs_whose_types_the_encoder_does_not_know_are_timed_without_them(saved, build_model, config_of, capsys):
    config = config_of("roberta")
    config.type_vocab_size = 1
    reducer = Reducer(encoder=Encoder(build_model(config)), task=TASKS["classification"], points=(1, 2))
    assemble(reducer, PolicySelector(Policy(32, 2, 8)), 0.0, 16).save_pretrained(saved / "model")
    path = saved / "model" / "tokenizer_config.json"  # as somebody may copy the original tokenizer beside the model
    names = ["input_ids", "token_type_ids", "attention_mask"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": names}))
    options = ("--batch", "4", "--dtype", "float32", "--text-column", "text,other")
    assert main(words(saved, *options)) == 0
    assert "it gives the second text of a pair the type 1, and the encoder knows" in capsys.readouterr().out
