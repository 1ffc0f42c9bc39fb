"""Reading the state dict of an original TR-BERT checkpoint, and its folder."""

import json
import re

import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.errors import InputError
from trbert.original import import_original, import_policy, original_points, read_original
from trbert.tasks import TASKS
from trbert.tasks.classification import Classification


@pytest.fixture
def config(config_of):
    return config_of("bert")


@pytest.fixture
def state(bert):
    heads = {}
    for point in (0, 1):
        for name, shape in (("1", (32, 32)), ("2", (1, 32))):
            heads[f"bert.encoder.linear_{name}.{point}.weight"] = torch.randn(shape)
            heads[f"bert.encoder.linear_{name}.{point}.bias"] = torch.randn(shape[0])
    return dict(bert.state_dict()) | heads


def test_every_weight_arrives(state, config):
    model = import_original(state, config)
    assert model.points == (1, 2)
    assert not model.plain.training
    for name, value in model.plain.state_dict().items():
        assert torch.equal(value, state[name])
    for point, head in enumerate(model.policy.heads):
        for linear in ("linear_1", "linear_2"):
            for part in ("weight", "bias"):
                stored = state[f"bert.encoder.{linear}.{point}.{part}"]
                assert torch.equal(getattr(getattr(head, linear), part), stored)


def test_names_of_tensorflow_and_later_buffers_are_understood(state, config):
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert_close(import_original(old, config).plain(ids).logits, import_original(state, config).plain(ids).logits)


@pytest.mark.parametrize(("layers", "points"), [(12, (1, 6)), (6, (1, 3)), (3, (1,)), (2, (1,)), (1, (0,))])
def test_the_points_are_layer_1_and_the_middle(layers, points):
    assert original_points(layers) == points


def test_heads_are_taken_by_number_wherever_they_lie():
    state = {}
    for point in range(11):
        for name, shape in (("1", (8, 4)), ("2", (1, 8))):
            state[f"distilbert.transformer.linear_{name}.{point}.weight"] = torch.full(shape, float(point))
            state[f"distilbert.transformer.linear_{name}.{point}.bias"] = torch.zeros(shape[0])
    policy = import_policy(state, 4, 11)
    assert [head.linear_1.weight[0, 0].item() for head in policy.heads] == list(range(11))


def refuses(message, call, *arguments):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call(*arguments)


def test_a_checkpoint_without_policy_heads_is_refused(bert, config):
    message = (
        "the checkpoint must hold a policy head '….linear_1.0.weight', and does not: "
        "pass the state dict of a model trained by the original TR-BERT code"
    )
    refuses(message, import_original, bert.state_dict(), config)


def test_a_checkpoint_with_part_of_a_head_is_refused(state, config):
    del state["bert.encoder.linear_2.1.bias"]
    message = (
        "the checkpoint must hold a policy head '….linear_2.1.bias', and does not: "
        "pass the state dict of a model trained by the original TR-BERT code"
    )
    refuses(message, import_original, state, config)


def test_a_head_of_another_width_is_refused(state, config):
    state["bert.encoder.linear_1.1.weight"] = torch.zeros(32, 16)
    message = "linear_1.1.weight must have the shape (32, 32), and has (32, 16): pass the checkpoint's own config"
    refuses(message, import_original, state, config)


def test_another_task_is_refused(state, config):
    state["qa_outputs.weight"] = state.pop("classifier.weight")
    refuses(
        "the checkpoint must hold 'classifier.weight', which a model of the task 'classification' has, and does not: "
        "name the task for which it was trained with --task, or copy the checkpoint again",
        import_original,
        state,
        config,
    )


def test_a_deeper_checkpoint_is_refused(state):
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, num_labels=3
    )
    config.max_position_embeddings = 40
    refuses(
        "a bert model of the task 'classification' has no 'bert.encoder.layer.3.attention.output.LayerNorm.bias', and "
        "the checkpoint has: pass the checkpoint's own config, or name its own task with --task",
        import_original,
        state,
        config,
    )


def test_another_number_of_labels_is_refused(state, config):
    config.num_labels = 2
    refuses(
        "classifier.weight must have the shape (2, 32), and has (3, 32): pass the checkpoint's own config",
        import_original,
        state,
        config,
    )


class Spans(Classification):
    """A task with the head of extractive question answering."""

    name, head, text_classes = "spans", "AutoModelForQuestionAnswering", False


class Options(Classification):
    """A task with the head of multiple choice, which has one output, whatever the number of labels is."""

    name, head, text_classes, least_outputs = "options", "AutoModelForMultipleChoice", False, 1


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize(("task", "outputs"), [(Spans(), 2), (Options(), 1)], ids=["spans", "options"])
def test_every_head_of_the_original_is_read(
    task, outputs, kind, config_of, with_heads, save_original, tmp_path, monkeypatch
):
    monkeypatch.setitem(TASKS, task.name, task)
    config = config_of(kind)
    config.num_labels = 2  # as the original leaves it
    plain = task.auto_class.from_config(config)
    state = with_heads(plain)
    if kind == "bert":
        state |= {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
    expected = {name: state[name] for name in plain.state_dict()}
    folder = save_original(tmp_path / "original", plain, state)
    path = folder / "config.json"
    own = f"AUTO{'DistilBert' if kind == 'distilbert' else 'QABert'}{task.head.removeprefix('AutoModel')}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [own]}))
    found = read_original(str(folder))
    assert (found.task.name, found.named, found.model.points) == (task.name, False, (1, 2))
    assert found.model.plain.config.num_labels == outputs
    assert found.model.plain.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.model.plain.state_dict().items())
