"""What a search reads before it trains: what is said, what is checked, and what a resumed search compares."""

import json
from pathlib import Path

import pytest
import torch

from trbert.errors import InputError
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS
from tune.learning.inputs import check_unchanged, read_inputs
from tune.settings import override


def silent(line):
    """Says nothing."""


def test_the_documents_and_the_truncated_share_of_each_split_are_said(tiny_settings, cache):
    told = []
    read_inputs(override(tiny_settings, {"data.max_length": 5}), told.append)
    assert "train: 240 documents, 5 tokens on average, 240 truncated at 5 (100%)" in told
    assert any(line.startswith("test: 30 documents, ") for line in told)


def test_the_measure_of_quality_is_said(tiny_settings, queries, words, cache):
    for settings, metric in ((tiny_settings, "accuracy"), (queries, "MAP"), (words, "entity F1")):
        told = []
        read_inputs(settings, told.append)
        assert f"quality: {metric}" in told


def test_what_is_read_is_what_trials_start_from(tiny_settings, cache, prepared):
    found = read_inputs(tiny_settings, silent)
    assert found.examples["train"].targets.equal(prepared.train.targets)
    assert found.examples["test"].tokens.input_ids.equal(prepared.test.tokens.input_ids)
    assert found.fingerprint == prepared.fingerprint


# The parts of documents.


@pytest.fixture
def queries(tiny_settings, tmp_path):
    """Settings for fifty queries of one to five words, each with two documents."""
    rows = [
        {"query": " ".join([f"w{row // 2}"] * (1 + row // 2 % 5)), "document": f"alpha w{row % 2}", "label": row % 2}
        for row in range(100)
    ]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"data.text_column": "query,document", "data.label_column": "label"}
    return override(tiny_settings, {"data.source": str(tmp_path / "queries.jsonl"), "task": "reranking", **columns})


def test_a_tokenizer_without_a_separator_is_refused_unless_nothing_is_to_be_protected(queries, cache, monkeypatch):
    def load(*arguments):
        found = load_pretrained(*arguments)
        found.tokenizer.sep_token = None
        return found

    monkeypatch.setattr("tune.learning.inputs.load_pretrained", load)
    monkeypatch.setattr("tune.learning.inputs.rehearse", lambda *arguments: None)
    with pytest.raises(InputError, match="the tokenizer must have a separating token"):
        read_inputs(queries, silent)
    found = read_inputs(override(queries, {"data.protect": False}), silent)
    assert found.separator is None
    assert int(found.examples["train"].tokens.protected.sum()) == len(found.examples["train"].tokens)


@pytest.mark.parametrize("changes", [{"teacher.max_length": 8}, {"data.max_length": 8, "teacher.max_length": 16}])
def test_a_row_that_is_too_long_for_the_teacher_or_for_the_trained_models_is_left_out_of_both(changes, queries, cache):
    found = read_inputs(override(queries, {"data.skip_bad_rows": True, **changes}), silent)
    for split, examples in found.examples.items():
        assert len(examples) == len(found.taught[split])
        assert examples.targets.equal(found.taught[split].targets)
        assert all(len(query.split()) < 5 for query in getattr(found.splits, split).inputs[0])


# The task.


@pytest.fixture
def words(tiny_settings, tmp_path):
    """Settings for data of words and tags, of which nothing names the task."""
    rows = [{"tokens": [f"w{row % 30}", "alpha"], "ner_tags": ["O", "B-X"]} for row in range(40)]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return override(tiny_settings, {"data.source": str(tmp_path / "words.jsonl"), "task": None})


def test_a_task_that_is_not_set_is_found_once_and_told_with_the_remedy(words, cache):
    told = []
    found = read_inputs(words, told.append)
    assert told[0] == ("task: tagging, because words.jsonl has the columns 'tokens', 'ner_tags' (--task names another)")
    named = {"task": "tagging", "data.text_column": "tokens", "data.label_column": "ner_tags"}
    assert found.task.name == "tagging"
    assert found.asked == override(words, named)
    assert found.settings.task == "tagging"
    again = read_inputs(found.asked, told.append)
    assert sum(line.startswith("task:") for line in told) == 1
    assert (again.fingerprint, again.asked) == (found.fingerprint, found.asked)


def test_the_head_of_a_fine_tuned_model_and_the_data_must_agree(words, tiny_model, tmp_path, cache):
    torch.manual_seed(0)
    plain = load_pretrained(str(tiny_model), TASKS["regression"], ())
    plain.model.save_pretrained(tmp_path / "tuned")
    plain.tokenizer.save_pretrained(tmp_path / "tuned")
    tuned = override(words, {"model": str(tmp_path / "tuned")})
    with pytest.raises(
        InputError, match=r"its head \(BertForSequenceClassification\) is for .*, while words\.jsonl has"
    ):
        read_inputs(tuned, silent)
    assert read_inputs(override(tuned, {"new_head": True}), silent).task.name == "tagging"
    assert read_inputs(override(tuned, {"task": "tagging", "data.label_column": "ner_tags"}), silent)


# A resumed search.


def changed_data(settings, tmp_path, old, new):
    path = tmp_path / "other.csv"
    text = Path(settings.data.source).read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return override(settings, {"data.source": str(path)})


@pytest.mark.parametrize(("old", "new"), [(",A\n", ",AA\n"), ("w1 ", "w2 ")], ids=["labels", "texts"])
def test_other_data_under_the_same_name_are_told_from_the_first(tiny_settings, cache, tmp_path, old, new):
    before = read_inputs(tiny_settings, silent)
    check_unchanged(before, before.fingerprint)
    check_unchanged(before, None)
    after = read_inputs(changed_data(tiny_settings, tmp_path, old, new), silent)
    with pytest.raises(InputError, match=r"has changed since: put the old files back, or start another search"):
        check_unchanged(after, before.fingerprint)
