"""The README says what holds: its Python runs, its commands are taken, its tables are the code's own."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from trbert.commands import cli
from trbert.modeling import assemble
from trbert.packed.families import FAMILIES
from trbert.selection.policy import Policy
from tune import pareto, search
from tune.planner import Cluster
from tune.results.front import Point, mark_front
from tune.results.table import write_front
from tune.settings import Settings, setting_names

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """The folder in which the README's reader stands: a run with a tiny model and its teacher, and a picked model."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=2,
    )
    teacher = BertForSequenceClassification(config).eval()
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "tokens", "padding"])}
    fast = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    fast.pre_tokenizer = Whitespace()
    fast.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    model = assemble(teacher, Policy(dim=16, num_points=2), points=(0, 2), dial=0.0, max_tokens=64)
    for folder, saved in (("models/teacher", teacher), ("models/1", model), ("../../picked", model)):
        saved.save_pretrained(tmp_path / "runs" / "search" / folder)
        tokenizer.save_pretrained(tmp_path / "runs" / "search" / folder)
    monkeypatch.chdir(tmp_path)


def test_the_python_blocks_run_one_after_the_other(run_folder, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert blocks
    names = {"__name__": "readme"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), names)
    assert names["logits"].shape == (2, 2)
    assert names["fast"].config.dial == -2.0
    assert names["loss"].isfinite()
    assert capsys.readouterr().out


HELP = {search: ["--help"], pareto: ["--help"], cli: ["bench", "--help"]}


def flags_of(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(HELP[command])
    return set(FLAG.findall(capsys.readouterr().out))


def test_every_flag_named_is_one_that_exists(capsys):
    # Less those of Ray's and Amazon's own commands, up to where one of ours begins.
    ours = re.sub(
        r"`ray [^`]*`|^ +(?:RAY_\w+=\w+ )?(?:ray|aws) (?:.|\\\n)*?(?= -- \\|(?<!\\)$)", "", README, flags=re.MULTILINE
    )
    assert set(FLAG.findall(ours)) - set().union(*(flags_of(command, capsys) for command in HELP)) == set()


@pytest.mark.parametrize("command", list(HELP), ids=["search", "pareto", "trbert"])
def test_every_flag_that_exists_is_named(command, capsys):
    assert flags_of(command, capsys) - set(FLAG.findall(README)) == set()


def commands(script):
    lines = re.findall(rf"^ {{4,8}}python {script} (.*?)(?:  #.*)?$", README.replace("\\\n", " "), re.MULTILINE)
    assert lines
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("words", commands("tune/search.py"), ids=" ".join)
def test_a_search_command_is_taken(words, tmp_path, monkeypatch, capsys):
    machines = ({"CPU": 8.0, "GPU": 1.0},) * 4  # of cluster.yaml
    monkeypatch.setattr("tune.planner.cluster_of", lambda address: Cluster(machines=machines, started=4))
    monkeypatch.chdir(tmp_path)
    assert search.main([*words, "--dry-run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", commands("tune/pareto.py"), ids=" ".join)
def test_a_picking_command_is_taken(words, run_folder, capsys):
    given = {"trial": "1", "selector": "policy", "points": (0, 2), "model": "models/1"}
    points = [
        Point(
            trial="teacher", selector="none", quality_validation=0.9, speed_up_validation=1.0, model="models/teacher"
        ),
        Point(
            **given, dial=-0.5, quality_validation=0.898, quality_test=0.89, speed_up_validation=4.0, kept=(0.3, 0.1)
        ),
    ]
    write_front(Path("runs/search/front.csv"), mark_front(points))
    words = [f"new/{word}" if before == "--out" else word for before, word in zip(["", *words], words, strict=False)]
    assert pareto.main(words) == 0, capsys.readouterr().err


def test_the_settings_table_is_the_codes_own():
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\S+) \| (.+) \|$", README, re.MULTILINE)
    assert len(rows) > 10
    assert [f"| `{name}` | {default} | {text} |" for name, default, text in rows] == [
        f"| `{name}` | {shown_default(name)} | {setting_names()[name].metadata['help']} |" for name, _, _ in rows
    ]


def shown_default(name):
    value = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, tuple):
        return ",".join(map(str, value))  # as --set takes it
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def test_every_setting_named_exists():
    groups = "|".join(field.name for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.type))
    assert set(re.findall(rf"`((?:{groups})\.\w+)`", README)) - set(setting_names()) == set()


def test_every_column_of_the_front_is_named():
    columns = {field.name for field in dataclasses.fields(Point)}
    assert columns - set(re.findall(r"`(\w+)`", README)) == set()


def test_the_families_are_the_codes_own():
    paragraph = re.search(r"By `model_type`: (.*?)\.", README, re.DOTALL)[1]
    assert re.findall(r"`([\w-]+)`", paragraph) == list(FAMILIES)


def test_what_it_links_to_is_there():
    links = re.findall(r"\]\(([^):]+)\)", README)
    missing = [link for link in links if not (Path(__file__).resolve().parents[1] / link).exists()]
    assert missing == []
