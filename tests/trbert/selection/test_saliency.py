"""The first-order estimate against losses that were really computed."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from trbert.selection.saliency import most_salient, saliency
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples

LENGTHS = (6, 9)
LABELS = torch.tensor([2, 0])
TASK = TASKS["classification"]


@torch.no_grad()
def states_at(encoder, tokens, layer):
    return encoder.run_layers(encoder.embed(tokens), 0, layer)


@pytest.mark.parametrize(("points", "reference"), [((0, 2), 3), ((1, 3), 4), ((1,), 3)])
@torch.no_grad()
def test_it_is_the_change_of_the_loss_when_a_token_moves_towards_its_old_state(points, reference, encoder, make_tokens):
    encoder.plain.double()
    tokens = make_tokens(*LENGTHS)
    with torch.enable_grad():
        states, scores = saliency(encoder, TASK, Examples.of_documents(tokens, LABELS), points)
    later = states_at(encoder, tokens, reference)
    for state, point in zip(states, points, strict=True):
        assert_close(state.hidden, states_at(encoder, tokens, point).hidden)
    assert scores.shape == (len(points), sum(LENGTHS))

    def loss(hidden):
        finished = encoder.run_layers(later.with_hidden(hidden), reference, 4)
        return cross_entropy(encoder.read_documents(finished), LABELS, reduction="sum")

    step = 1e-4  # of the way back to the state at the point: small enough that the change is first order
    for row, point in zip(scores, points, strict=True):
        way = states_at(encoder, tokens, point).hidden - later.hidden
        for token in range(sum(LENGTHS)):
            moved = torch.zeros_like(way)
            moved[token] = step * way[token]
            slope = (loss(later.hidden + moved) - loss(later.hidden - moved)) / (2 * step)
            assert_close(row[token], slope.abs().float(), rtol=1e-3, atol=1e-6)
    assert scores.std() > 1e-3


def test_the_models_own_gradients_stay_empty(encoder, make_tokens):
    _, scores = saliency(encoder, TASK, Examples.of_documents(make_tokens(*LENGTHS), LABELS), (1,))
    assert not scores.requires_grad
    assert all(parameter.grad is None for parameter in encoder.plain.parameters())


def test_a_documents_saliency_does_not_depend_on_its_batch_mates(encoder, make_tokens):
    examples = Examples.of_documents(make_tokens(*LENGTHS), LABELS)
    _, together = saliency(encoder, TASK, examples, (0, 2))
    for document, part in enumerate(together.split(list(LENGTHS), 1)):
        assert_close(saliency(encoder, TASK, examples.take(torch.tensor([document])), (0, 2))[1], part)


@torch.no_grad()
def test_a_head_that_reads_tokens_is_read_at_every_token(token_encoder, token_task, make_tokens):
    token_encoder.plain.double()
    tokens = make_tokens(*LENGTHS)
    examples = Examples.of_documents(tokens, LABELS, "tokens")
    _, scores = saliency(token_encoder, token_task, examples, (1,))
    before, later = (states_at(token_encoder, tokens, layer) for layer in (1, 3))

    def loss(hidden):
        finished = token_encoder.run_layers(later.with_hidden(hidden), 3, 4)
        return token_task.loss(token_encoder.read_tokens(finished.hidden), examples).sum()

    step = 1e-4
    for token in (0, 4, 5, 6, 14):
        moved = torch.zeros_like(later.hidden)
        moved[token] = step * (before.hidden - later.hidden)[token]
        slope = (loss(later.hidden + moved) - loss(later.hidden - moved)) / (2 * step)
        assert_close(scores[0, token], slope.abs().float(), rtol=1e-3, atol=1e-6)
    assert scores.std() > 1e-3


def test_the_most_salient_by_hand(make_batch):
    batch = make_batch(4, 3)
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0, 9.0, 0.5, 0.6], [9.0, 1.0, 3.0, 2.0, 0.0, 0.6, 0.5]])
    masks = most_salient(batch, scores, torch.tensor([2.1, 2.0]))
    # Three of the first document and two of the second, the first token among them.
    assert masks.tolist() == [
        [True, True, False, True, True, False, True],
        [True, False, True, True, True, True, False],
    ]


def test_protected_tokens_are_kept_however_few_are_wanted(make_batch):
    batch = make_batch(3)
    batch.protected[2] = True
    masks = most_salient(batch, torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([1.0]))
    assert masks.tolist() == [[True, False, True]]
