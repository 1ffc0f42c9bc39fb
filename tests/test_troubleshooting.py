"""Each message that docs/troubleshooting.md shows is what the product says."""

import re
from pathlib import Path

import pytest
import transformers

from trbert.checkpoint.tokenizer import check_vocabulary
from trbert.data.splits import load_splits
from trbert.errors import TrbertError
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS
from tune.learning.standing import COMMONEST, Baseline, Standing, remarks
from tune.preflight.address import check_answer
from tune.preflight.checks import check_cache, check_sockets
from tune.runs.folder import RunFolder
from tune.settings import Search, Settings

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^> (.+)$", PAGE, re.MULTILINE)
ROWS = "".join(f"sentence number {row},{'AB'[row % 2]}\n" for row in range(40))


def no_such_columns(folder, monkeypatch):
    (folder / "rows.csv").write_text("body,topic\n" + ROWS)
    load_splits(str(folder / "rows.csv"))


def another_encoding(folder, monkeypatch):
    (folder / "rows.csv").write_bytes(("text,label\n" + ROWS.replace("number", "Größe")).encode("cp1252"))
    load_splits(str(folder / "rows.csv"))


def equal_texts(folder, monkeypatch):
    (folder / "train.csv").write_text("text,label\n" + ROWS)
    (folder / "test.csv").write_text("text,label\n" + ROWS)
    return load_splits(str(folder)).notes


def two_spellings(folder, monkeypatch):
    (folder / "rows.csv").write_text("text,label\n" + ROWS + ROWS.replace("number", "no").replace("A", "a"))
    return load_splits(str(folder / "rows.csv")).notes


def other_labels(folder, monkeypatch):
    config = transformers.BertConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        id2label={0: "no", 1: "maybe", 2: "yes"},
        label2id={"no": 0, "maybe": 1, "yes": 2},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n")
    load_pretrained(str(folder), TASKS["classification"], ("A", "B"))


def added_tokens(folder, monkeypatch):
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n")
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.add_tokens(["<url>"])
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    check_vocabulary(transformers.BertModel(config), tokenizer, [2, 8, 3])


def an_ignorant_teacher(folder, monkeypatch):
    commonest = Baseline(name=COMMONEST, validation=0.5, test=0.5, rows=90, ahead=0.01, error=0.02)
    figures = {
        "validation": 0.51,
        "test": 0.51,
        "known": 0.01,
        "trained": True,
        "has_head": True,
        "train_rows": 90,
        "test_rows": 100,
        "interval": 0.2,
    }
    return remarks(Standing(**figures, baselines=(commonest,)))


def a_long_temporary_folder(folder, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "long" * 25)
    check_sockets(Settings(), Search(), RunFolder(folder / "run"))


def no_cache(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("TRBERT_CACHE", str(folder / "file" / "cache"))
    check_cache(Settings(), Search(), RunFolder(folder / "run"))


def no_cluster(folder, monkeypatch):
    check_answer("127.0.0.1:1")


MADE = (
    no_such_columns,
    another_encoding,
    equal_texts,
    two_spellings,
    other_labels,
    added_tokens,
    an_ignorant_teacher,
    a_long_temporary_folder,
    no_cache,
    no_cluster,
)


def test_the_page_shows_ten_messages():
    assert len(SHOWN) == len(MADE) == 10


@pytest.mark.parametrize(("shown", "make"), list(zip(SHOWN, MADE, strict=True)), ids=[each.__name__ for each in MADE])
def test_a_message_is_what_the_product_says(shown, make, tmp_path, monkeypatch):
    try:
        said = make(tmp_path, monkeypatch)
    except TrbertError as error:
        said = (str(error),)
    pattern = ".*".join(re.escape(part.strip()) for part in shown.split("…"))
    assert any(re.fullmatch(pattern, line.strip()) for line in said or ()), said
