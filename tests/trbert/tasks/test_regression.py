"""A number for a text: what it reads of tables, its scale, its rank correlation."""

import math

import numpy as np
import pytest
import torch
import transformers

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from trbert.tasks.rows import Columns, Table

TASK = TASKS["regression"]
COLUMNS = Columns(("text",), "score")


def table(numbers, origin="a.csv"):
    return Table(origin, {"text": [f"a{row}" for row in range(len(numbers))], "score": numbers})


def examples_of(numbers, spread=1.0):
    targets = torch.tensor([[number, spread] for number in numbers], dtype=torch.float32)
    return Examples.of_documents(Tokens.from_lists([[7]] * len(targets), None), targets)


def test_numbers_and_texts_of_numbers_are_read_with_the_spread_of_train():
    reading = TASK.read({"train": table([1, "2.5", 4.0, " -3e0 "]), "test": table([7])}, COLUMNS)
    assert reading.labels == ()
    assert reading.rows["train"].targets[:, 0].tolist() == [1.0, 2.5, 4.0, -3.0]
    assert reading.rows["train"].targets[:, 1].tolist() == pytest.approx([np.std([1, 2.5, 4, -3])] * 4)
    assert reading.rows["test"].targets[0].tolist() == pytest.approx([7.0, np.std([1, 2.5, 4, -3])])


def test_what_a_token_changes_is_the_number_which_moves_at_the_teachers_own_answer_too():
    outputs = torch.tensor([[3.0], [-1.0]], requires_grad=True)
    examples = examples_of([3.0, 2.0], spread=0.5)
    assert TASK.sensed(outputs, examples).tolist() == [[6.0, -2.0]]
    (gradient,) = torch.autograd.grad(TASK.sensed(outputs, examples).sum(), outputs)
    assert gradient[:, 0].tolist() == [2.0, 2.0]
    assert TASK.loss(outputs, examples).tolist() == [0.0, 18.0]  # the first one's gradient is 0


def test_strata_are_groups_of_about_equal_size_in_rising_order():
    draw = np.random.default_rng(0)
    numbers = draw.permutation(np.arange(200) ** 2).tolist()
    strata = TASK.read({"train": table(numbers)}, COLUMNS).rows["train"].strata
    assert np.bincount(strata).tolist() == [20] * 10
    assert (np.diff(strata[np.argsort(numbers)]) >= 0).all()


def test_few_different_numbers_are_as_many_strata():
    assert TASK.read({"train": table([1, 2, 1, 2, 1])}, COLUMNS).rows["train"].strata.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("cell", ["good", None, float("nan"), "inf", True, [1.0], "1,5", 10**400, "1e39"])
def test_a_cell_that_is_no_number_is_refused_with_its_row(cell):
    with pytest.raises(InputError, match=r"^row 1 of a\.csv must have a number in column 'score', and has "):
        TASK.read({"train": table([1, cell, 2])}, COLUMNS)


@pytest.mark.parametrize(("numbers", "told"), [([3, 3.0], "3"), ([0.1, 0.1, 0.1], "0.1")])
def test_numbers_that_are_all_equal_are_refused(numbers, told):
    # By rounding, the standard deviation of three times 0.1 is 1.4e-17.
    with pytest.raises(InputError, match=rf"a\.csv must have different numbers in column 'score', and all are {told}:"):
        TASK.read({"train": table(numbers)}, COLUMNS)


def test_large_numbers_that_32_bits_do_not_hold_apart_are_refused_with_the_way_out():
    # At 1.7e9, numbers of 32 bits are 128 apart, and 1,700,000,000 is one of them.
    told = (
        r"^a\.csv must have numbers in column 'score' that 32 bits hold apart, and 1700000020\.0 is rounded to "
        r"1700000000\.0, beside a standard deviation of 8\.16: subtract a constant, such as 1700000010, from"
    )
    with pytest.raises(InputError, match=told):
        TASK.read({"train": table([1.7e9, 1.7e9 + 10, 1.7e9 + 20])}, COLUMNS)


@pytest.mark.parametrize("numbers", [[0.1, 0.1 + 1e-12, 3.7], [1.7e9, 1.7e9 + 1, 1.8e9]])
def test_numbers_that_differ_by_much_less_than_their_spread_may_be_rounded(numbers):
    assert len(TASK.read({"train": table(numbers)}, COLUMNS).rows["train"]) == 3


def test_the_spread_of_large_numbers_is_said():
    rows = TASK.read({"train": table([1e25, 3e25])}, COLUMNS).rows
    assert TASK.counts(rows, ())[0].endswith("2e+25 on average with a standard deviation of 1e+25")


@pytest.mark.parametrize("secret", [-1.0, "-1", None, float("nan"), ""])
def test_a_split_without_numbers_is_not_used(secret):
    reading = TASK.read({"train": table([1, 2.5]), "test": table([secret] * 3, "b.csv")}, COLUMNS)
    assert [*reading.rows] == ["train"]
    assert reading.notes[0].startswith("test is not used: its 3 labels are all ")


def test_minus_one_is_a_number_where_train_has_it():
    reading = TASK.read({"train": table([-1, 2.5]), "test": table([-1.0], "b.csv")}, COLUMNS)
    assert reading.rows["test"].targets[0, 0] == -1


def test_a_map_of_labels_is_refused():
    with pytest.raises(InputError, match="--label-map must be left out"):
        TASK.read({"train": table([1, 2])}, COLUMNS, {"1": "2"})


def test_the_loss_counts_errors_as_multiples_of_the_spread():
    assert TASK.loss(torch.tensor([[5.0], [1.0]]), examples_of([1.0, 1.0], spread=2.0)).tolist() == [2.0, 0.0]


def test_numbers_alone_have_a_spread_of_one():
    examples = Examples.of_documents(Tokens.from_lists([[7], [8]], None), torch.tensor([1.0, 2.0]))
    assert TASK.loss(torch.tensor([[3.0], [2.0]]), examples).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_what_a_settled_teacher_knows_is_the_mutual_information_of_gaussians(share):
    # R² of the teacher is 1 − share: it knows −½ log(share).
    draw = torch.Generator().manual_seed(0)
    outputs = math.sqrt(1 - share) * torch.randn(100_000, 1, generator=draw)
    numbers = outputs[:, 0] + math.sqrt(share) * torch.randn(100_000, generator=draw)
    examples = TASK.settled(examples_of(numbers.tolist(), 9.0), outputs, examples_of(numbers.tolist(), 9.0), outputs)
    assert float(examples.targets[:, 1].mean()) == pytest.approx(math.sqrt(share), rel=0.01)
    assert TASK.known(outputs, examples) == pytest.approx(-0.5 * math.log(share), abs=0.01)


def test_a_teacher_without_errors_has_a_small_spread_all_the_same():
    examples = examples_of([1.0, 2.0], spread=2.0)
    settled = TASK.settled(examples, torch.tensor([[9.0], [9.0]]), examples, torch.tensor([[1.0], [2.0]]))
    assert settled.targets[:, 1].tolist() == pytest.approx([0.02, 0.02])
    assert examples.targets[:, 1].tolist() == [2.0, 2.0]


def test_quality_is_the_correlation_of_ranks_and_equal_numbers_share_a_rank():
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(0)
    for _ in range(20):
        numbers, decoded = draw.integers(0, 6, 40).astype(float), draw.integers(0, 6, 40).astype(float)
        expected = stats.spearmanr(numbers, decoded).statistic
        assert TASK.quality(decoded.tolist(), examples_of(numbers.tolist())) == pytest.approx(max(0.0, expected))


def test_quality_depends_on_the_order_alone():
    examples = examples_of([1.0, 2.0, 3.0, 10.0])
    assert TASK.quality([0.1, 0.2, 0.3, 0.4], examples) == 1.0
    assert TASK.quality([4.0, 3.0, 2.0, 1.0], examples) == 0.0
    assert TASK.quality([1.0] * 4, examples) == 0.0


def test_r_squared_is_the_share_of_the_variance_that_is_explained():
    # The numbers' mean is 2, their squared distances from it are 1, 0 and 1, and the squared errors 1/4, 0 and 0.
    examples = examples_of([1.0, 2.0, 3.0])
    assert TASK.figures([1.5, 2.0, 3.0], examples) == {"R²": pytest.approx(1 - 1 / 8)}
    assert TASK.figures([2.0, 2.0, 2.0], examples) == {"R²": 0.0}
    assert TASK.figures([1.0, 2.0], examples_of([5.0, 5.0])) == {}


def test_a_new_head_starts_at_the_mean():
    assert TASK.start(examples_of([1.0, 2.0, 6.0])) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("outputs", "problem", "told"),
    [(2, None, "2 outputs"), (1, "multi_label_classification", "problem_type multi_label_classification")],
)
def test_a_model_of_another_problem_is_refused(outputs, problem, told):
    with pytest.raises(InputError, match=told):
        TASK.check_config(transformers.BertConfig(num_labels=outputs, problem_type=problem))


def test_targets_are_finite_and_have_a_spread_and_one_output():
    TASK.check_targets(examples_of([1.0]), 1)
    for examples, outputs in ((examples_of([1.0]), 2), (examples_of([math.inf]), 1), (examples_of([1.0], 0.0), 1)):
        with pytest.raises(InputError):
            TASK.check_targets(examples, outputs)


def test_what_is_said_of_the_rows():
    rows = TASK.read({"train": table([1, 2, 6])}, COLUMNS).rows
    assert TASK.counts(rows, ()) == [
        "train: 3 rows with numbers from 1 to 6, 3 on average with a standard deviation of 2.16"
    ]
