"""For which tasks a checkpoint's own head may have been trained."""

import json

import pytest

from trbert.checkpoint.place import Place
from trbert.checkpoint.trained import trained_head
from trbert.errors import DamagedCheckpoint


@pytest.fixture
def head(tmp_path):
    """A function: entries of a config.json -> the head of that model and its tasks."""

    def head(**entries):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **entries}))
        found = trained_head(Place("mine", str(tmp_path), local=True))
        return None if found is None else (found.model, found.kind, {task.name for task in found.tasks})

    return head


@pytest.mark.parametrize("kinds", [None, [], ["BertModel"], ["BertForMaskedLM"], ["BertForPreTraining"]])
def test_a_model_that_was_only_pretrained_has_no_head(kinds, head):
    assert head(architectures=kinds) is None
    assert head() is None


def test_a_head_of_words_is_one_for_tagging(head):
    assert head(architectures=["BertForTokenClassification"]) == ("mine", "BertForTokenClassification", {"tagging"})


@pytest.mark.parametrize(
    ("entries", "tasks", "others"),
    [
        ({"num_labels": 3}, {"classification", "multi_label"}, {"regression"}),
        ({"num_labels": 1}, {"regression"}, {"classification", "multi_label"}),
        ({"num_labels": 1, "problem_type": "regression"}, {"regression"}, {"classification", "multi_label"}),
        (
            {"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"},
            {"multi_label"},
            {"classification", "regression"},
        ),
        (
            {"id2label": {"0": "a", "1": "b"}, "problem_type": "single_label_classification"},
            {"classification"},
            {"multi_label", "regression"},
        ),
    ],
)
def test_a_head_of_texts_says_its_task_by_its_type_of_problem_and_its_outputs(entries, tasks, others, head):
    found = head(architectures=["BertForSequenceClassification"], **entries)[-1]
    assert found >= tasks
    assert found.isdisjoint(others)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(DamagedCheckpoint, match=r"must hold config\.json|not whole"):
        trained_head(Place("mine", str(tmp_path), local=True))
