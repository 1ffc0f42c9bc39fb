"""What a search for embeddings starts from: the model as it is, and its own vectors as targets."""

import json
import shutil

import pytest
import torch
from torch.testing import assert_close

from trbert.errors import InputError
from tune.learning.inputs import read_inputs
from tune.learning.prepare import prepare
from tune.learning.standing import remarks
from tune.settings import override


@pytest.fixture
def of_texts(settings, tiny_data):
    """Settings of a search for embeddings."""
    return override(settings, {"task": "embedding", "data.source": str(tiny_data)})


def with_pooling(settings, tiny_model, folder, **entries):
    """Returns the settings with the same model, whose config says how to pool."""
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))
    return override(settings, {"model": str(folder)})


def test_no_teacher_is_trained_and_its_vectors_are_the_targets(of_texts, cache, no_training):
    told = []
    found = prepare(of_texts, None, told.append, train=no_training)
    assert "the model needs no head, so it is the teacher as it is" in told
    assert_close(found.train.targets, torch.nn.functional.normalize(found.train.teacher, dim=1))
    for part in (found.train, found.validation, found.test):
        assert_close(part.targets.norm(dim=1), torch.ones(len(part)))
    assert (found.teacher_validation, found.teacher_test) == (1.0, 1.0)
    assert found.labels == ()


def test_a_teacher_is_ahead_of_one_vector_for_all_texts_and_nothing_is_said_against_it(of_texts, cache):
    standing = prepare(of_texts, None, lambda line: None).standing
    assert [each.name for each in standing.baselines] == ["commonest answer"]
    assert 0 < standing.baselines[0].test < 1
    assert not standing.trained
    assert remarks(standing) == []


def test_a_new_head_is_refused(of_texts, cache):
    told = r"^--new-head must be left out for task embedding, which has no head, and is set: leave it out$"
    with pytest.raises(InputError, match=told):
        read_inputs(override(of_texts, {"new_head": True}), lambda line: None)


def test_the_same_weights_pooled_in_another_way_give_other_vectors(of_texts, tiny_model, cache, tmp_path):
    found = []
    for number, pooling in enumerate(("mean", "first")):
        own = with_pooling(of_texts, tiny_model, tmp_path / str(number), pooling=pooling, normalised=False)
        found.append(prepare(own, None, lambda line: None))
    assert found[0].fingerprint != found[1].fingerprint
    assert not torch.allclose(found[0].train.targets, found[1].train.targets, atol=0.1)
