"""Embeddings: tables without labels, losses by hand, and saliency at a teacher whose loss is 0."""

import math
from array import array
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from trbert.data.readers import Format
from trbert.data.splits import load_inputs, load_splits
from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.selection.saliency import saliency
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from trbert.tasks.rows import Table

TASK = TASKS["embedding"]
DIAGONAL = 0.5**0.5


def examples(*targets):
    tokens = Tokens.from_lists([[1, 2]] * len(targets), None)
    return Examples.of_documents(tokens, torch.tensor(targets))


# Tables.


def test_a_file_needs_no_label_column_and_other_columns_are_not_read(tmp_path):
    rows = "\n".join(["text,label", *(f"text number {number},{number}" for number in range(20))])
    (tmp_path / "a.csv").write_text(rows)
    splits = load_splits(str(tmp_path / "a.csv"), task=TASK)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (14, 4, 2)
    assert splits.labels == ()
    assert not splits.train.targets.any()
    assert "14 texts without labels; the model's own vectors are to be kept" in splits.notes[-1]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_file_with_the_column_of_the_texts_alone_is_read(name, tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"body": [f"text number {number}, or so" for number in range(20)]})
    write = {"csv": rows.to_csv, "tsv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}
    write[name.partition(".")[2]](tmp_path / name)
    splits = load_splits(str(tmp_path / name), task=TASK, text_column="body")
    assert sorted(splits.train.inputs[0] + splits.validation.inputs[0] + splits.test.inputs[0]) == sorted(rows["body"])
    timed = load_inputs(str(tmp_path / name), task=TASK, text_column="body", format=Format(), rows=3)
    assert set(timed[0]) < set(rows["body"])


def test_a_row_without_a_text_is_left_out_and_said():
    reading = TASK.read({"train": Table("a.csv", {"text": ["a", " ", None, "b"]})}, TASK.columns())
    assert reading.rows["train"].inputs == (("a", "b"),)
    assert reading.notes == ("train: 2 empty texts left out",)


def test_a_value_that_is_no_text_is_refused_by_file_and_row():
    with pytest.raises(InputError, match=r"^row 1 of a\.csv must have a string in column 'text', and has the int 3: "):
        TASK.read({"train": Table("a.csv", {"text": ["a", 3]})}, TASK.columns())


def test_pairs_are_refused():
    told = r"^--text-column must name one column for task embedding, because each text gets .* is 'a,b': name one"
    with pytest.raises(InputError, match=told):
        TASK.columns("a,b")


def test_a_column_of_labels_is_refused():
    with pytest.raises(InputError, match=r"^--label-column must be left out for task embedding, .* is 'y': leave it"):
        TASK.columns("text", "y")


def test_a_map_of_labels_is_refused():
    with pytest.raises(InputError, match=r"^--label-map must be left out for task embedding, which reads no labels"):
        TASK.read({"train": Table("a.csv", {"text": ["a"]})}, TASK.columns(), {"a": "b"})


# Targets.


def test_the_teachers_vectors_become_the_targets():
    found = TASK.settled(examples(0.0, 0.0), torch.tensor([[3.0, 4.0], [0.0, 2.0]]), examples(0.0), torch.ones(1, 2))
    assert_close(found.targets, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    TASK.check_targets(found, 2)


def test_targets_may_be_unknown_yet():
    TASK.check_targets(examples(0.0, 0.0), 2)
    with pytest.raises(InputError, match="targets must be a vector of length 1 for each document"):
        TASK.check_targets(examples(0.0, 1.0), 2)
    unknown = TASK.loss(torch.tensor([[3.0, 4.0]], requires_grad=True), examples(0.0))
    assert unknown.tolist() == [20.0]  # as for a vector at a right angle; a pass that measures memory learns by it
    assert unknown.requires_grad


# Numbers by hand.


def test_a_cosine_that_is_lower_by_a_twentieth_costs_one_nat():
    sine = math.sqrt(1 - 0.95**2)
    told = TASK.loss(torch.tensor([[0.95, sine], [9.5, 10 * sine]]), examples([1.0, 0.0], [1.0, 0.0]))
    assert_close(told, torch.tensor([1.0, 1.0]))


def test_distillation_is_the_same_against_the_teachers_vectors():
    outputs, teacher = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    for temperature in (1.0, 3.0):
        told = TASK.distil(outputs, teacher, examples([0.0, 1.0]), temperature)
        assert_close(told, torch.tensor([20 * (1 - DIAGONAL)]))


def test_the_prior_is_the_loss_of_the_mean_direction():
    # The mean of two vectors at a right angle is the diagonal, half of it long.
    targets = examples([1.0, 0.0], [0.0, 1.0])
    assert TASK.prior(targets) == pytest.approx(20 * (1 - DIAGONAL))
    answers = TASK.commonest(targets, targets)
    assert np.frombuffer(answers[0], np.float32).tolist() == [0.5, 0.5]
    assert TASK.correct(answers, targets) == pytest.approx([DIAGONAL] * 2)
    assert TASK.known(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), targets) == pytest.approx(20 * (1 - DIAGONAL))


def test_the_teachers_own_quality_is_exactly_one():
    outputs = torch.randn(50, 384, generator=torch.Generator().manual_seed(0))
    own = TASK.settled(examples(*[0.0] * 50), outputs, examples(0.0), torch.ones(1, 2))
    assert set(TASK.correct(TASK.decode(outputs, own), own)) == {1.0}
    assert TASK.quality(TASK.decode(outputs, own), own) == 1.0
    assert TASK.quality(TASK.decode(outputs + 1e-2 * outputs.flip(0), own), own) < 1


def test_an_answer_is_a_vector_of_four_bytes_a_number_and_an_opposite_one_is_no_less_than_wrong():
    decoded = TASK.decode(torch.tensor([[-1.0, 0.0], [1.0, 1.0]], requires_grad=True), examples(0.0, 0.0))
    assert decoded == [array("f", [-1.0, 0.0]), array("f", [1.0, 1.0])]
    assert decoded[0].itemsize == 4
    assert TASK.correct(decoded, examples([1.0, 0.0], [1.0, 0.0])) == pytest.approx([0.0, DIAGONAL])


# Saliency.


def test_tokens_matter_to_a_teacher_whose_loss_is_zero(reducer, make_tokens):
    tokens = make_tokens(7, 12, 3)
    found = Examples.of_documents(tokens, torch.zeros(3))
    found = TASK.settled(found, reducer.unreduced_outputs(tokens).detach(), found, torch.zeros(1, 32))
    assert TASK.loss(reducer.unreduced_outputs(tokens), found).max() < 1e-4
    _, scores = saliency(reducer.encoder, TASK, found, reducer.points)
    assert (scores > 1e-2).all()
    # The opposite targets, which no document is near to, change nothing.
    assert torch.equal(saliency(reducer.encoder, TASK, replace(found, targets=-found.targets), (0, 2))[1], scores)


def test_a_token_that_moves_the_vector_more_is_sensed_more():
    outputs = torch.nn.functional.normalize(torch.randn(40, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    step = torch.randn(40, 32, generator=torch.Generator().manual_seed(2))
    step -= (step * outputs).sum(1, keepdim=True) * outputs  # at a right angle, so that the length stays
    sensed = [TASK.sensed(outputs + size * step, examples(*[0.0] * 40)) for size in (0.0, 1e-3, 2e-3)]
    moved = [(each - sensed[0]).square().sum(0).sqrt() for each in sensed[1:]]
    assert_close(moved[1], 2 * moved[0], rtol=1e-2, atol=1e-4)
    assert sensed[0].shape == (4, 40)
    # Four directions of 32 see about √(4/32) of a step, here times 20.
    assert float((moved[0] / (20e-3 * step.norm(dim=1))).mean()) == pytest.approx(8**-0.5, rel=0.15)
