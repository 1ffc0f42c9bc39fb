"""Examples by hand: which documents, which targets and which rows of the outputs are an example's."""

import doctest
import itertools
import pickle
import re
from dataclasses import replace

import pytest
import torch

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks import examples as module
from trbert.tasks.examples import PADDING, Examples

# Example 0 owns documents 0 and 1, example 1 document 2, example 2 documents 3, 4 and 5.
DOCUMENTS = [[10, 11], [12], [20, 21, 22], [30], [31, 32], [33]]
OWNER = [0, 0, 1, 2, 2, 2]
TARGETS = [7, 8, 9]


@pytest.fixture
def three():
    """Three examples of two, one and three documents; the second tokens of documents 0 and 2 are protected, too."""
    tokens = Tokens.from_lists(DOCUMENTS, [[i % 2 for i in ids] for ids in DOCUMENTS])
    protected = tokens.protected.clone()
    protected[[1, 4]] = True
    tokens = Tokens(tokens.input_ids, tokens.token_type_ids, protected, tokens.offsets)
    return Examples(tokens, torch.tensor(TARGETS), torch.tensor(OWNER))


def reading_tokens(examples):
    return Examples(examples.tokens, examples.targets, examples.owner, "tokens")


def words_of(examples):
    """Returns each document's tokens."""
    offsets = examples.tokens.offsets.tolist()
    return [examples.tokens.input_ids[first:last].tolist() for first, last in itertools.pairwise(offsets)]


def assert_same(found, expected):
    assert words_of(found) == words_of(expected)
    assert torch.equal(found.tokens.token_type_ids, expected.tokens.token_type_ids)
    assert torch.equal(found.tokens.protected, expected.tokens.protected)
    assert torch.equal(found.targets, expected.targets)
    assert torch.equal(found.owner, expected.owner)
    assert found.reads == expected.reads
    assert (found.teacher is None) == (expected.teacher is None)
    if expected.teacher is not None:
        assert torch.equal(found.teacher, expected.teacher)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(module).attempted
    assert doctest.testmod(module).failed == 0


def test_examples_of_one_document_each_own_them_in_their_order():
    examples = Examples.of_documents(Tokens.from_lists([[5, 6], [7], [8]], None), torch.tensor([2, 0, 1]))
    assert examples.owner.tolist() == [0, 1, 2]
    assert len(examples) == 3
    assert (examples.reads, examples.teacher) == ("documents", None)
    assert Examples.of_documents(examples.tokens, examples.targets, "tokens").reads == "tokens"


@pytest.mark.parametrize("targets", [[0, 1], [0, 1, 2, 0]])
def test_as_many_targets_as_documents_are_needed(targets):
    told = (
        f"targets must be one for each of the 3 documents, and are {len(targets)}: pass the targets of the same split"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        Examples.of_documents(Tokens.from_lists([[5, 6], [7], [8]], None), torch.tensor(targets))


def test_no_document_is_refused():
    told = "tokens must hold at least one document, and hold none: pass a non-empty split"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        Examples.of_documents(Tokens.from_lists([], None), torch.tensor([], dtype=torch.long))


def test_an_example_counts_however_many_documents_it_has(three):
    assert len(three) == 3
    assert three.lengths.tolist() == [3, 3, 4]  # 2 + 1, 3, 1 + 2 + 1
    assert three.num_outputs == 6
    assert reading_tokens(three).num_outputs == 10


def test_values_of_documents_add_up_to_those_of_their_examples(three):
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert three.per_example(values).tolist() == [3.0, 4.0, 56.0]
    rows = three.per_example(torch.stack([values, -values]))
    assert rows.tolist() == [[3.0, 4.0, 56.0], [-3.0, -4.0, -56.0]]


def test_values_of_documents_pass_gradients(three):
    values = torch.ones(6, requires_grad=True)
    (three.per_example(values) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad.tolist() == [1.0, 1.0, 10.0, 100.0, 100.0, 100.0]


def test_the_documents_of_chosen_examples_lie_together_in_the_given_order(three):
    assert three.documents(torch.tensor([2, 0])).tolist() == [3, 4, 5, 0, 1]
    assert three.documents(torch.tensor([1])).tolist() == [2]
    assert three.documents(torch.tensor([0, 0])).tolist() == [0, 1, 0, 1]


def test_rows_of_the_outputs_are_documents_or_tokens_as_the_head_reads(three):
    chosen = torch.tensor([2, 0])
    assert three.output_rows(chosen).tolist() == [3, 4, 5, 0, 1]
    # Document 3 is token 6, document 4 tokens 7 and 8, document 5 token 9; then documents 0 and 1.
    assert reading_tokens(three).output_rows(chosen).tolist() == [6, 7, 8, 9, 0, 1, 2]


def test_examples_are_taken_whole_and_in_the_given_order(three):
    taken = three.take(torch.tensor([2, 0]))
    assert words_of(taken) == [[30], [31, 32], [33], [10, 11], [12]]
    assert taken.targets.tolist() == [9, 7]
    assert taken.owner.tolist() == [0, 0, 0, 1, 1]
    assert taken.lengths.tolist() == [4, 3]
    assert taken.tokens.token_type_ids.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert taken.tokens.protected.tolist() == [True, True, False, True, True, True, True]  # the first of each, and 11
    assert three.take(torch.tensor([1])).tokens.protected.tolist() == [True, True, False]
    assert (taken.reads, taken.teacher) == ("documents", None)
    assert reading_tokens(three).take(torch.tensor([1])).reads == "tokens"


def test_an_example_can_be_taken_twice(three):
    taken = three.take(torch.tensor([1, 0, 1]))
    assert words_of(taken) == [[20, 21, 22], [10, 11], [12], [20, 21, 22]]
    assert taken.owner.tolist() == [0, 1, 1, 2]
    assert taken.targets.tolist() == [8, 7, 8]


def test_what_is_taken_can_be_taken_from_again(three):
    twice = three.take(torch.tensor([2, 0, 1])).take(torch.tensor([1, 0]))
    assert_same(twice, three.take(torch.tensor([0, 2])))


def test_targets_of_several_numbers_are_taken_as_rows(three):
    many = Examples(three.tokens, torch.tensor([[1, 2], [3, 4], [5, 6]]), three.owner)
    assert many.take(torch.tensor([2, 0])).targets.tolist() == [[5, 6], [1, 2]]


def test_a_teachers_rows_are_taken_along(three):
    of_documents = three.with_teacher(torch.arange(12.0).view(6, 2))
    assert three.teacher is None
    assert of_documents.take(torch.tensor([1, 0])).teacher.tolist() == [[4.0, 5.0], [0.0, 1.0], [2.0, 3.0]]
    of_tokens = reading_tokens(three).with_teacher(torch.arange(10.0)[:, None])
    assert of_tokens.take(torch.tensor([2, 0])).teacher[:, 0].tolist() == [6.0, 7.0, 8.0, 9.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("reads", ["documents", "tokens"])
def test_all_examples_are_repeated_one_after_the_other(three, reads):
    examples = three if reads == "documents" else reading_tokens(three)
    examples = examples.with_teacher(torch.arange(float(examples.num_outputs))[:, None])
    twice = examples.repeat(2)
    assert words_of(twice) == DOCUMENTS * 2
    assert twice.targets.tolist() == TARGETS * 2
    assert twice.owner.tolist() == [*OWNER, *(number + 3 for number in OWNER)]
    assert twice.teacher[:, 0].tolist() == [*range(examples.num_outputs)] * 2
    assert_same(examples.repeat(1), examples)


def test_a_few_examples_come_from_all_over_the_split_by_hand():
    lengths = [1 + number % 5 for number in range(240)]
    tokens = Tokens.from_lists([[number] * length for number, length in enumerate(lengths)], None)
    numbered = Examples.of_documents(tokens, torch.arange(240))  # targets that tell which examples were taken
    few = numbered.spread(8)
    assert few.targets.tolist() == [0, 30, 60, 90, 120, 150, 180, 210]
    assert few.tokens.lengths.tolist() == lengths[::30]
    assert numbered.spread(100).targets.tolist() == list(range(0, 240, 2))  # about so many
    assert len(numbered.spread(1000)) == 240


def test_a_few_examples_keep_all_their_documents(three):
    # Two documents are one of three examples: the first. Three are two, so that each is taken, for 3 // 2 = 1.
    assert words_of(three.spread(2)) == [[10, 11], [12]]
    assert words_of(three.spread(3)) == DOCUMENTS


def test_so_many_documents_are_so_many_examples(three):
    assert [three.count_of(documents) for documents in (1, 2, 3, 6, 60)] == [1, 1, 2, 3, 30]


def test_examples_pickle(three):
    examples = reading_tokens(three).with_teacher(torch.arange(20.0).view(10, 2))
    assert_same(pickle.loads(pickle.dumps(examples)), examples)


def test_examples_move_to_a_device_whole(three):
    examples = three.with_teacher(torch.zeros(6, 2))
    moved = examples.to("meta")
    assert {each.device.type for each in (moved.tokens.input_ids, moved.targets, moved.owner, moved.teacher)} == {
        "meta"
    }
    assert moved.reads == examples.reads
    assert three.to("cpu").teacher is None
    assert reading_tokens(three).to("cpu").reads == "tokens"


def test_examples_follow_others_with_their_own_documents_targets_and_marks():
    ones = Examples(
        Tokens.from_lists([[7], [8, 9], [7]], None), torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1, 1])
    )
    others = Examples(Tokens.from_lists([[5, 6]], None), torch.tensor([[5, 6, 7]]), torch.tensor([0]))
    both = ones.with_teacher(torch.zeros(3, 2)).followed_by(others.judged(others.targets, torch.ones(1, 2)))
    assert both.tokens.input_ids.tolist() == [7, 8, 9, 7, 5, 6]
    assert both.tokens.offsets.tolist() == [0, 1, 3, 4, 6]
    assert both.tokens.protected.tolist() == [True, True, False, True, True, False]
    assert both.owner.tolist() == [0, 1, 1, 2]
    assert both.targets.tolist() == [[1, 2, PADDING], [3, 4, PADDING], [5, 6, 7]]
    assert both.teacher.tolist() == [[0, 0]] * 3 + [[1, 1]]
    assert (both.labelled.tolist(), both.num_labelled) == ([True, True, False], 2)
    assert ones.followed_by(ones).labelled is None


def test_marks_of_labels_go_wherever_their_examples_go():
    tokens = Tokens.from_lists([[7], [8], [9]], None)
    examples = Examples.of_documents(tokens, torch.tensor([0, 1, 0]))
    marked = replace(examples, labelled=torch.tensor([True, False, False]))
    assert marked.take(torch.tensor([2, 0])).labelled.tolist() == [False, True]
    assert marked.repeat(2).labelled.tolist() == [True, False, False] * 2
    assert marked.spread(3).to("cpu").labelled.tolist() == [True, False, False]
    assert pickle.loads(pickle.dumps(marked)).labelled.tolist() == [True, False, False]
    assert examples.num_labelled == 3
