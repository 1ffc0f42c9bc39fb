"""How well the words around a token match those of the question."""

import math

import pytest
import torch
from torch.testing import assert_close

from trbert.packed.batch import document_means, gather_kept, start_batch
from trbert.packed.tokens import Tokens
from trbert.selection.question import DOUBLINGS, Question, summed_around


def batch_of(lengths, asked, dim=16, seed=0):
    """Returns documents of random states whose first tokens are protected: so many as `asked` says."""
    torch.manual_seed(seed)
    tokens = Tokens.from_lists([[7] * length for length in lengths], None)
    places = torch.cat([torch.arange(length) for length in lengths])
    owners = torch.repeat_interleave(torch.tensor(asked), torch.tensor(lengths))
    tokens.protected.copy_(places < owners)
    return start_batch(tokens, torch.randn(sum(lengths), dim))


def said(question, batch):
    return question(batch, batch.hidden, document_means(batch, batch.hidden))


def by_loops(question, states, asked):
    """What `Question` says of one document, written with loops."""
    mean = sum(states) / len(states)
    compared = [question.directions @ (state - mean) for state in states]

    def cosine(a, b):
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    weights = [[math.exp(16 * cosine(one, other)) for other in compared] for one in compared]
    spread_over = [sum(row[asked:]) + math.exp(16 * 0.3) for row in weights]
    matched = [0.0] * asked
    for token in range(asked, len(states)):
        matched.append(sum(weights[word][token] / spread_over[word] for word in range(1, asked)))
    rows = []
    for reach in (1, 4, 16, 32):
        sums = [sum(matched[max(0, token - reach + 1) : token + reach]) for token in range(asked, len(states))]
        average = sum(sums) / len(sums)
        spread = math.sqrt(sum((each - average) ** 2 for each in sums) / len(sums)) + 1e-3
        rows.append([(each - average) / spread for each in sums])
    return torch.tensor(rows).T


def test_the_matches_are_those_of_a_loop_written_reference():
    lengths, asked = (40, 3, 90), (5, 2, 9)
    batch, question = batch_of(lengths, asked), Question(16)
    found = said(question, batch)
    assert found.shape == (133, len(DOUBLINGS))
    for part, own, states in zip(found.split(lengths), asked, batch.hidden.split(lengths), strict=True):
        assert_close(part[own:], by_loops(question, states, own), atol=2e-4, rtol=1e-3)


def test_words_of_the_question_are_found_and_so_are_the_words_around_them():
    batch = batch_of((60,), (6,))
    batch.hidden[40:44] = batch.hidden[2:6]  # the question again
    found = said(Question(16), batch)
    free = found[6:]
    assert set((free[:, 0].topk(4).indices + 6).tolist()) == {40, 41, 42, 43}
    assert 38 <= int(free[:, 1].argmax()) + 6 <= 45
    assert free[34, 2] > 0.8 > free[4, 2]  # tokens that match nothing themselves


def test_a_document_with_no_question_says_nothing():
    batch = batch_of((9, 1), (1, 1))  # the first token alone is protected
    assert torch.equal(said(Question(16), batch), torch.zeros(10, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_else_is_in_the_row_changes_nothing(dtype):
    lengths, asked = (33, 7, 64, 2), (4, 3, 10, 1)
    batch, question = batch_of(lengths, asked), Question(16)
    batch = batch.with_hidden(batch.hidden.to(dtype))
    together = said(question, batch).split(lengths)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    for row, (length, own) in enumerate(zip(lengths, asked, strict=True)):
        alone = batch_of((length,), (own,)).with_hidden(batch.hidden[starts[row] : starts[row + 1]])
        tight = 1e-5 if dtype == torch.float32 else 0.1
        assert_close(said(question, alone), together[row], atol=tight, rtol=tight)


def test_trajectories_of_one_document_do_not_see_one_another():
    batch, question = batch_of((30,), (4,)), Question(16)
    masks = torch.rand(3, 30, generator=torch.Generator().manual_seed(1)) < 0.5
    masks = masks | batch.protected
    together = gather_kept(batch, masks)
    alone = [gather_kept(batch, mask[None]) for mask in masks]
    expected = torch.cat([said(question, each) for each in alone])
    assert_close(said(question, together), expected, atol=1e-5, rtol=1e-5)


def test_windows_end_where_documents_end():
    batch = batch_of((3, 70), (1, 1))
    values = torch.arange(73.0)
    found = summed_around(batch, values)
    assert found[0].tolist() == [0, 3, 3, 3]
    assert found[3].tolist() == [3, 3 + 4 + 5 + 6, sum(range(3, 19)), sum(range(3, 35))]
    assert found[72, 3] == sum(range(41, 73))
    assert found[40, 2] == sum(range(25, 56))


def test_no_gradient_flows_and_directions_are_the_same_everywhere():
    batch = batch_of((9,), (3,))
    batch.hidden.requires_grad_()
    torch.manual_seed(5)
    question = Question(16)
    assert not said(question, batch).requires_grad
    assert not list(question.parameters())
    torch.manual_seed(6)
    assert torch.equal(question.directions, Question(16).directions)
    assert set(question.state_dict()) == {"directions"}
