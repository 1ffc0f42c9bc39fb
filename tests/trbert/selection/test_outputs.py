"""The one way in: where reducing does not pay, the pass keeps all tokens and says so, whatever runs it."""

import pytest
import torch
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.runners import Eager, Graphed
from trbert.selection.exits import Exits
from trbert.selection.fusion import Fusion
from trbert.selection.outputs import reduced_outputs
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import FirstSelector
from trbert.tasks import TASKS

POINTS = (1, 3)
LENGTHS = (9, 14, 3, 1)
RULE = FirstSelector(Policy(32, 0))


def randomly(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(params=[Eager, Graphed])
def runner(request):
    """Both ways in which a pass runs: step by step, and by captured stages."""
    return request.param()


@pytest.fixture(params=["documents", "tokens"])
def reducer(request, runner, bert, token_encoder):
    """A model with fusion and exits whose maps are large, so that they show where they are applied."""
    plain, task = (bert, "classification") if request.param == "documents" else (token_encoder.plain, "tagging")
    return Reducer(
        encoder=Encoder(plain, runner),
        task=TASKS[task],
        points=POINTS,
        fusion=randomly(Fusion(32, 2)),
        exits=randomly(Exits(32, 2)) if request.param == "tokens" else Exits.none(),
    )


@torch.no_grad()
def test_where_it_does_not_pay_the_answer_is_the_unreduced_models(reducer, make_tokens):
    tokens, asked = make_tokens(*LENGTHS), []
    found = reduced_outputs(reducer, RULE, tokens, 0.3, pays=lambda *size: asked.append(size))
    assert asked == [(27, 4)]
    assert_close(found.outputs, reducer.unreduced_outputs(tokens))
    assert found.kept.tolist() == [list(LENGTHS)] * 2
    assert not found.reduces
    # It is what the dial that keeps all says, too.
    whole = reduced_outputs(reducer, RULE, tokens, RULE.keep_all)
    assert_close(found.outputs, whole.outputs)
    assert torch.equal(found.kept, whole.kept)


@torch.no_grad()
def test_where_it_pays_the_answer_is_the_same_as_without_a_table(reducer, make_tokens):
    tokens = make_tokens(*LENGTHS)
    found, plain = (reduced_outputs(reducer, RULE, tokens, 0.3, pays=pays) for pays in (lambda *size: True, None))
    assert torch.equal(found.outputs, plain.outputs)
    assert torch.equal(found.kept, plain.kept)
    assert (found.reduces, plain.reduces) == (True, True)
    assert int(found.kept[-1].sum()) < 20
    assert not torch.allclose(found.outputs, reducer.unreduced_outputs(tokens), atol=1e-2)


@torch.no_grad()
def test_passes_of_both_kinds_are_kept_captured_beside_each_other(bert, make_tokens, monkeypatch):
    made = []
    monkeypatch.setattr(Graphed, "_capture", lambda self, work, device: made.append(work) or work)
    reducer = Reducer(encoder=Encoder(bert, Graphed()), task=TASKS["classification"], points=POINTS)
    tokens = make_tokens(*LENGTHS)
    for pays in (True, False) * 3:
        reduced_outputs(reducer, RULE, tokens, 0.3, pays=lambda *size, pays=pays: pays)
    assert len(made) == 4  # two points and an end, and the pass without a point


@torch.no_grad()
def test_a_wrong_dial_is_refused_whether_reducing_pays_or_not(reducer, make_tokens):
    for pays in (None, lambda *size: False):
        with pytest.raises(InputError, match=r"^the dial of 'first' must be a fraction"):
            reduced_outputs(reducer, RULE, make_tokens(3), 2.0, pays=pays)
