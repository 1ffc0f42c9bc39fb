"""The contract of a task, over every task: a new one is one line in CASES."""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.testing import assert_close

from tests.trbert.tasks.toys import MarkWords, worked_example
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.cost import CostModel
from trbert.packed.heads import plain_outputs
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.saliency import saliency
from trbert.selection.selectors import FirstSelector
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from trbert.tasks.parts import first_alone, separator_of
from trbert.tasks.rows import Table
from trbert.tasks.task import FIDELITY_FLOOR, Task


@dataclass(frozen=True)
class Case:
    """A task, and a table for it.

    Attributes:
        task: which.
        columns: of the texts and of the targets, as a user names them.
        values: the table's, five rows of texts of words a to d.
        outputs: columns that its head says.
        bad: a target that this head lacks.
        right: takes examples, and returns the outputs that are right; None where the loss's own gradient leads there.
        windows: whether a row that is longer than a document becomes several documents, and none is truncated.
        lengths: the tokens of each document.
        commonest: how right the commonest answer of train is of example 1, whose target is train's commonest.
        pools: whether it has no head, so that the outputs are pooled states. The teacher's outputs are then its
            targets, and the best fixed answer is a mean that equals none of them.
    """

    task: Task
    columns: tuple[str, str]
    values: dict[str, list[Any]]
    outputs: int
    bad: float
    right: Callable[[Examples], Tensor] | None = None
    windows: bool = False
    lengths: tuple[int, ...] = (5, 3, 7, 4, 4)
    commonest: float = 1.0
    pools: bool = False


TEXTS = ["a b c", "d", "c c b a d", "b a", "d c"]
PAIRS = [
    *(("a b", "c", 1), ("a b", "d d", 0), ("a b", "c a", 0)),
    *(("d", "c c b a d", 0), ("d", "b a", 1), ("d", "b", 0)),
    *(("c", "d d d", 0), ("c", "b", 0), ("c", "d a", 0), ("c", "a", 1)),
    *(("b", "a d c", 1), ("b", "d", 0)),
    *(("c d a", "a", 0), ("c d a", "b", 1), ("c d a", "c", 0), ("c d a", "a a", 0), ("c d a", "d", 0)),
]
"""Five queries, each with documents of which one is relevant."""
CASES = [
    Case(
        TASKS["classification"],
        ("text", "label"),
        {"text": TEXTS, "label": ["x", "y", "z", "x", "y"]},
        outputs=3,
        bad=3,
    ),
    Case(
        TASKS["multi_label"],
        ("text", "labels"),
        {"text": TEXTS, "labels": [["x"], ["x", "y", "z"], [], ["z", "y"], ["x", "z"]]},
        outputs=3,
        bad=3,
    ),
    Case(
        TASKS["regression"],
        ("text", "score"),
        {"text": TEXTS, "score": [-1.0, 2.5, "1.5", -2, 0.5]},
        outputs=1,
        bad=0,
        right=lambda examples: examples.targets[:, :1],
    ),
    Case(
        TASKS["multiple_choice"],
        ("passage,what,options", "right"),
        {
            "passage": TEXTS,
            "what": ["a", "b _", "c", "d", "_"],
            "options": [["a", "b"], ["c", "d"], ["a", "d"], ["b c", "c b"], ["d", "b"]],
            "right": ["A", "B", "B", "A", "B"],
        },
        outputs=1,
        bad=2,
        lengths=(8, 8, 6, 6, 10, 10, 8, 8, 6, 6),
    ),
    Case(
        TASKS["tagging"],
        ("tokens", "tags"),
        {
            "tokens": [text.split() for text in TEXTS],
            "tags": [["x", "y", "z"], ["y"], ["z", "z", "y", "x", "y"], ["x", "x"], ["y", "z"]],
        },
        outputs=3,
        bad=3,
        windows=True,
    ),
    *(
        Case(
            TASKS[name],
            ("query,document", "label"),
            {
                "query": [query for query, _, _ in PAIRS],
                "document": [document for _, document, _ in PAIRS],
                "label": [label for _, _, label in PAIRS],
            },
            outputs=1,
            bad=2,
            lengths=tuple(3 + len(query.split()) + len(document.split()) for query, document, _ in PAIRS),
            commonest=(1 + 1 / 2 + 1 / 3) / 3,  # one of three documents is relevant, and it may be in any place
        )
        for name in ("reranking", "listwise_reranking")
    ),
    Case(
        TASKS["question_answering"],
        ("question,context", "answers"),
        {
            "question": ["a", "b", "c", "d", "a"],
            "context": TEXTS,
            "answers": [{"text": ["b c"], "answer_start": [2]}, [], {"text": ["c", "c"]}, "b", ["c"]],
        },
        outputs=2,
        bad=4,
        windows=True,
        lengths=(7, 5, 9, 6, 6),
    ),
    Case(
        TASKS["embedding"],
        ("text", ""),
        {"text": TEXTS},
        outputs=32,
        bad=math.nan,
        right=lambda examples: examples.targets,
        pools=True,
    ),
    Case(
        MarkWords(),
        ("text", "marks"),
        {"text": TEXTS, "marks": [[0, 1, 2], [1], [2, 2, 1, 0, 1], [0, 0], [1, 2]]},
        outputs=3,
        bad=3,
    ),
]


Ordinal, its_case = worked_example()
CASES.append(eval(its_case))


@pytest.fixture(params=CASES, ids=lambda case: case.task.name)
def case(request):
    return request.param


@pytest.fixture
def task(case):
    return case.task


@pytest.fixture
def rows(case):
    """The rows that the task reads of its table."""
    return case.task.read({"train": Table("a.csv", case.values)}, case.task.columns(*case.columns)).rows["train"]


@pytest.fixture
def examples(case, rows, tokenizer):
    """The table's five examples, with a teacher's outputs as their targets where the task has no labels."""
    found = case.task.encode(rows, tokenizer, 16).examples
    if not case.pools:
        return found
    outputs = torch.randn(found.num_outputs, case.outputs, generator=torch.Generator().manual_seed(7))
    return case.task.settled(found, outputs, found, outputs)


@pytest.fixture
def draw(case, examples):
    """A function: seed -> random outputs of all examples."""

    def draw(seed):
        return torch.randn(examples.num_outputs, case.outputs, generator=torch.Generator().manual_seed(seed))

    return draw


def right_outputs(case, examples):
    """Returns outputs that are sure of the targets: far down the loss's own gradient, from outputs that know nothing.

    The softmax's gradient is below zero for what is right alone.
    """
    if case.right is not None:
        return case.right(examples)
    nothing = torch.zeros(examples.num_outputs, case.outputs, requires_grad=True)
    (gradient,) = torch.autograd.grad(case.task.loss(nothing, examples).sum(), nothing)
    return -100 * gradient


def test_every_task_is_under_contract():
    assert {case.task.name for case in CASES} >= set(TASKS)
    assert all(name == task.name for name, task in TASKS.items())


# Tables and texts.


def test_reading_gives_a_target_and_a_stratum_for_each_row(rows, case):
    assert len(rows) == 5
    assert all(len(column) == 5 for column in rows.inputs)
    assert rows.strata.shape == (5,)
    assert {len(column) for column in rows.inputs} == {5}
    assert len(rows.inputs) == len(case.task.columns(*case.columns).inputs)


def test_encoding_gives_each_row_its_documents_with_their_first_token_protected(task, rows, examples):
    assert len(examples) == 5
    assert examples.owner.unique_consecutive().tolist() == list(range(5))
    assert examples.owner.shape == (len(examples.tokens),)
    assert examples.tokens.protected[examples.tokens.offsets[:-1]].all()
    assert examples.reads == task.reads
    assert examples.teacher is None


def test_encoding_counts_the_documents_that_it_truncates_or_parts(case, task, rows, examples, tokenizer):
    assert examples.tokens.lengths.tolist() == list(case.lengths)
    longest = max(case.lengths)
    the_longest = case.lengths.count(longest)
    assert task.encode(rows, tokenizer, longest).truncated == 0
    encoded = task.encode(rows, tokenizer, longest - 1)
    more = len(encoded.examples.tokens) - len(examples.tokens)
    examples = encoded.examples
    assert (encoded.truncated, more) == ((0, the_longest) if case.windows else (the_longest, 0))
    assert int(examples.tokens.lengths.max()) == longest - 1
    assert task.loss(torch.zeros(examples.num_outputs, case.outputs), examples).shape == (5,)


def test_encoding_says_which_rows_it_keeps(task, rows, tokenizer):
    encoded = task.encode(rows, tokenizer, 16)
    assert encoded.kept.tolist() == list(range(5))
    assert len(encoded.examples) == 5


def test_inputs_are_read_without_targets_and_without_empty_rows(case, task):
    columns = task.columns(case.columns[0], "")
    values = {name: [*case.values[name], " ", None] for name in columns.inputs}
    assert task.inputs(Table("a.csv", values), columns) == tuple(tuple(case.values[name]) for name in columns.inputs)


def test_serving_protects_the_same_tokens_as_encoding(task, examples, tokenizer):
    served = task.protect(first_alone(examples.tokens), separator_of(task, tokenizer))
    assert torch.equal(served.protected, examples.tokens.protected)


def test_targets_that_the_head_lacks_are_refused(case, task, examples):
    task.check_targets(examples, case.outputs)
    bad = examples.targets.clone()
    place = (bad != -100).nonzero()[-1]
    bad[tuple(place)] = case.bad
    with pytest.raises(InputError):
        task.check_targets(replace(examples, targets=bad), case.outputs)
    bad[tuple(place)] = -1
    with pytest.raises(InputError):
        task.check_targets(replace(examples, targets=bad), case.outputs)


# What outputs lack of the targets, and of a teacher.


def test_an_examples_losses_depend_on_no_other_example_nor_on_the_order(task, examples, draw):
    outputs, teacher = draw(0), draw(1)
    whole = {
        "loss": task.loss(outputs, examples),
        "distil": task.distil(outputs, teacher, examples, 2.0),
        "fidelity": task.fidelity(outputs, examples),
    }
    decoded, correct = task.decode(outputs, examples), task.correct(task.decode(outputs, examples), examples)
    for chosen in (torch.tensor([3, 0, 4]), torch.tensor([2]), torch.tensor([4, 3, 2, 1, 0])):
        part, index = examples.take(chosen), examples.output_rows(chosen)
        own = outputs[index]
        assert_close(task.loss(own, part), whole["loss"][chosen])
        assert_close(task.distil(own, teacher[index], part, 2.0), whole["distil"][chosen])
        assert_close(task.fidelity(own, part), whole["fidelity"][chosen])
        assert task.decode(own, part) == [decoded[number] for number in chosen]
        assert task.correct(task.decode(own, part), part) == [correct[number] for number in chosen]
    assert all(values.shape == (5,) for values in whole.values())
    assert len({*whole["loss"].tolist()}) == 5


def test_trajectories_of_several_samples_have_their_own_losses(task, examples, draw):
    # As the select stage asks: sample 0 of all examples, then sample 1 of all.
    first, second = draw(0), draw(1)
    both = task.loss(torch.cat([first, second]), examples.repeat(2))
    assert_close(both, torch.cat([task.loss(first, examples), task.loss(second, examples)]))


def test_the_loss_is_never_below_zero_and_near_it_for_right_outputs(case, task, examples, draw):
    assert (task.loss(draw(0), examples) > 0).all()
    assert (task.loss(right_outputs(case, examples), examples) < 1e-3).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_least_at_the_teachers_own_outputs(temperature, task, examples, draw):
    teacher = draw(0)
    own = teacher.clone().requires_grad_()
    least = task.distil(own, teacher, examples, temperature)
    (gradient,) = torch.autograd.grad(least.sum(), own)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)
    for seed in range(1, 6):
        assert (task.distil(draw(seed), teacher, examples, temperature) > least).all()


def test_distillation_asks_for_no_target(task, examples, draw):
    # Other targets, of the same examples where they are marked at all.
    other = examples.targets.flip(0).clamp(min=0)
    other[examples.targets == -100] = -100
    expected = task.distil(draw(0), draw(1), examples, 1.0)
    assert torch.equal(task.distil(draw(0), draw(1), replace(examples, targets=other), 1.0), expected)


def test_fidelity_is_minus_the_loss_down_to_the_floor(case, task, examples, draw):
    outputs = examples.targets + 0.1 * draw(0) if case.pools else draw(0)  # random vectors are all at the floor
    assert_close(task.fidelity(outputs, examples), -task.loss(outputs, examples))
    wrong = -100 * right_outputs(case, examples)
    assert (task.loss(wrong, examples) > -FIDELITY_FLOOR).all()
    assert task.fidelity(wrong, examples).tolist() == [FIDELITY_FLOOR] * 5


def test_no_outputs_know_more_than_the_prior_and_outputs_of_nothing_know_nothing(case, task, examples, draw):
    prior = task.prior(examples)
    assert prior > 0
    for seed in range(3):
        assert task.known(draw(seed), examples) < prior
    assert task.known(right_outputs(case, examples), examples) == pytest.approx(prior, abs=1e-3)
    assert task.known(torch.zeros(examples.num_outputs, case.outputs), examples) <= 0
    assert task.prior(examples.repeat(3)) == pytest.approx(prior, rel=1e-6)


# What a user reads.


def test_quality_is_one_for_right_outputs_and_below_it_for_others(case, task, examples, draw):
    right = right_outputs(case, examples)
    assert task.correct(task.decode(right, examples), examples) == [1.0] * 5
    assert task.quality(task.decode(right, examples), examples) == 1.0
    assert task.quality(task.decode(-right, examples), examples) < 0.5
    for seed in range(3):
        decoded = task.decode(draw(seed), examples)
        assert len(decoded) == 5
        assert all(0 <= score <= 1 for score in task.correct(decoded, examples))
        assert 0 <= task.quality(decoded, examples) <= 1
    assert task.metric


def test_the_commonest_answer_of_train_is_one_for_each_example(case, task, examples):
    train = examples.take(torch.tensor([1, 1, 1, 0, 2]))
    answers = task.commonest(train, examples)
    assert len(answers) == 5
    correct = task.correct(answers, examples)
    assert correct[1] == pytest.approx(max(correct) if case.pools else case.commonest)
    assert 0 <= task.quality(answers, examples) < 1


def test_the_quality_of_a_resample_is_that_of_the_examples_it_holds(task, examples, draw):
    decoded = task.decode(draw(0), examples)
    times = np.array([[1.0, 1, 1, 1, 1], [0, 2, 1, 0, 2], [3, 0, 0, 1, 1]])
    weights = task.weights(decoded, examples)
    assert len(weights) == 5
    assert min(weights) >= 0
    for row, quality in zip(times, task.qualities(decoded, examples, [times[:1], times[1:]]), strict=True):
        held = torch.arange(5).repeat_interleave(torch.tensor(row).long())
        assert quality == pytest.approx(task.quality([decoded[each] for each in held], examples.take(held)))


def test_further_measures_are_one_for_right_outputs_and_no_higher_for_others(case, task, examples, draw):
    right = task.figures(task.decode(right_outputs(case, examples), examples), examples)
    assert [*right.values()] == pytest.approx([1.0] * len(right))
    for seed in range(3):
        own = task.figures(task.decode(draw(seed), examples), examples)
        assert own.keys() == right.keys()
        assert all(value <= 1 for value in own.values())


def test_text_classes_are_class_indices(task, rows):
    if task.text_classes:
        assert rows.targets.shape == (5,)
        assert rows.targets.min() >= 0


def test_a_plain_config_is_fit_for_a_task(case, task, config_of):
    config = config_of("bert")
    config.num_labels = case.outputs
    task.check_config(config)


def test_a_task_pickles(task, examples, draw):
    again, its_examples = pickle.loads(pickle.dumps((task, examples)))
    assert type(again) is type(task)
    assert torch.equal(again.loss(draw(0), its_examples), task.loss(draw(0), examples))


# Its head on a model that drops tokens.


@pytest.fixture
def reducer(case, config_of):
    """A tiny BERT with the task's head that may drop tokens before layers 1 and 3, in eval mode."""
    config = config_of("bert")
    config.num_labels = case.outputs
    if case.pools:
        config.pooling, config.normalised = "mean", False
    torch.manual_seed(0)
    plain = case.task.auto_class.from_config(config).eval()
    for parameter in plain.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return Reducer(encoder=Encoder(plain), task=case.task, points=(1, 3))


@pytest.fixture
def first():
    return FirstSelector(Policy(1, 0))


@torch.no_grad()
def test_a_pass_that_keeps_all_says_what_the_plain_model_says(task, examples, reducer, first):
    tokens, plain = examples.tokens, reducer.encoder.plain
    assert type(plain) is getattr(transformers, task.head)._model_mapping[type(plain.config)]
    found = []
    for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        types = {} if tokens.token_type_ids is None else {"token_type_ids": tokens.token_type_ids[None, start:end]}
        alone = plain_outputs(plain, {"input_ids": tokens.input_ids[None, start:end], **types})
        found.append(alone if task.reads == "documents" else alone[0])
    finished = reducer.run(first, tokens, first.keep_all)
    assert_close(reducer.outputs(finished), torch.cat(found))
    assert_close(reducer.unreduced_outputs(tokens), torch.cat(found))


def test_a_reduced_pass_has_an_output_for_each_that_the_loss_wants_and_learns(case, task, examples, reducer, first):
    finished = reducer.run(first, examples.tokens, 0.3)
    assert int(finished.kept[-1].sum()) < examples.tokens.input_ids.numel()
    outputs = reducer.outputs(finished)
    assert outputs.shape == (examples.num_outputs, case.outputs)
    task.loss(outputs, examples).mean().backward()
    learned = [weight for weight in reducer.encoder.layers[0].parameters() if weight.grad is not None]
    assert any(bool((weight.grad != 0).any()) for weight in learned)


@torch.no_grad()
def test_an_examples_outputs_depend_on_no_other_example(examples, reducer, first):
    whole = reducer.outputs(reducer.run(first, examples.tokens, 0.3))
    for number in range(5):
        chosen = torch.tensor([number])
        alone = reducer.outputs(reducer.run(first, examples.take(chosen).tokens, 0.3))
        assert_close(alone, whole[examples.output_rows(chosen)])


def test_every_token_has_a_saliency_to_the_tasks_loss(task, examples, reducer):
    _, salient = saliency(reducer.encoder, task, examples, reducer.points)
    assert salient.shape == (2, examples.tokens.input_ids.numel())
    assert bool((salient != 0).any())


def test_a_head_is_paid_for_once(case, task, reducer):
    cost = CostModel.of(reducer)
    paid = (cost.head_per_document, cost.head_per_token, cost.head_per_original_token)
    assert sum(price > 0 for price in paid) == (0 if case.pools else 1)
    assert (cost.head_per_original_token > 0) == (task.reads == "tokens")


# Texts without labels.


@pytest.fixture
def judged(case, rows, tokenizer, draw):
    """A function: seed -> the table's rows without their labels, as a teacher with random outputs judges them."""

    def judged(seed):
        task = case.task
        if type(task).targets_of is Task.targets_of:
            pytest.skip("it does not learn from them")
        found = task.encode(task.unlabelled(rows.inputs, rows), tokenizer, 16).examples
        outputs = draw(seed)
        return found.judged(task.targets_of(outputs, found), outputs)

    return judged


def test_a_teacher_is_right_by_what_it_said_itself(task, judged):
    examples = judged(3)
    task.check_targets(examples, examples.teacher.shape[1])
    if examples.references:
        pytest.skip("answers are compared with what stands in the data, and there is none")
    scores = task.correct(task.decode(examples.teacher, examples), examples)
    assert scores == pytest.approx([1.0] * 5, abs=1e-6)


def test_a_label_that_is_there_says_nothing_of_a_text_without_one(task, rows, judged):
    examples = judged(3)
    assert examples.num_labelled == 0
    assert_close(examples.targets, task.targets_of(examples.teacher, examples), rtol=0, atol=0, equal_nan=True)
    agreement = task.distil(examples.teacher, examples.teacher, examples, 1.0)
    assert_close(task.fidelity(examples.teacher, examples), -agreement.clamp(max=-FIDELITY_FLOOR))


def test_labelled_examples_keep_their_loss_beside_those_without(task, examples, judged, draw):
    further, teacher = judged(3), draw(4)
    both = examples.with_teacher(teacher).followed_by(further)
    assert both.labelled.tolist() == [True] * 5 + [False] * 5
    outputs = draw(5)
    found = task.learning_loss(torch.cat([outputs, outputs]), both, 0.25)
    gold, soft = task.loss(outputs, examples), task.distil(outputs, teacher, examples, 1.0)
    assert_close(found[:5], 0.25 * gold + 0.75 * soft)
    assert_close(found[5:], task.distil(outputs, further.teacher, further, 1.0))
    again = pickle.loads(pickle.dumps(both)).take(torch.tensor([9, 0])).repeat(2).to("cpu")
    assert again.labelled.tolist() == [False, True, False, True]
    assert_close(again.teacher[: examples.take(torch.tensor([4])).num_outputs], further.take(torch.tensor([4])).teacher)
