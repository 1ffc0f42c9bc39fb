"""Scores the spans of a question over all its windows: the logits of no answer, and the best span."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trbert.tasks.examples import Examples, Outputs, exact
from trbert.tasks.spans.passages import NOT_ALLOWED

LONGEST = 30
"""The most tokens of an answer that is given, as is usual."""


@dataclass(frozen=True, slots=True)
class Spans:
    """The best span of each question.

    Attributes:
        first: the index of its first token in the packed row.
        last: the index of its last token.
        score: the start logit of the first token plus the end logit of the last one.
        none: the same sum for no answer.
    """

    first: Int[Tensor, " examples"]
    last: Int[Tensor, " examples"]
    score: Float[Tensor, " examples"]
    none: Float[Tensor, " examples"]


def first_tokens(examples: Examples) -> Int[Tensor, " examples"]:
    """Returns the index of the first token of each example. The logits of no answer are put there."""
    lengths = examples.lengths
    return lengths.cumsum(0) - lengths


def with_no_answer(outputs: Outputs, examples: Examples) -> Outputs:
    """Returns the outputs with the logits of no answer at the first token of each example.

    The first token of each document stands for no answer in this document. No document has an answer where even the one
    that is least sure of having none is sure. So the logits of no answer are those of the document in which their sum
    is least, as in the usual post-processing of per-window models.
    """
    starts = examples.tokens.offsets[:-1]
    said = outputs[starts]
    with torch.no_grad():
        sums = said.sum(-1)
        least = sums.new_zeros(len(examples)).scatter_reduce(0, examples.owner, sums, "amin", include_self=False)
        numbers = torch.arange(len(sums), device=sums.device)
        numbers = numbers.where(sums == least[examples.owner], len(sums))
        chosen = numbers.new_zeros(len(examples)).scatter_reduce(0, examples.owner, numbers, "amin", include_self=False)
        chosen = chosen.clamp(max=len(sums) - 1)  # logits that are no numbers are equal to none
    return outputs.index_copy(0, first_tokens(examples), said[chosen])


@torch.no_grad()
def best_spans(outputs: Outputs, examples: Examples) -> Spans:
    """Returns the best span of each question: the one with the highest sum of its start logit and its end logit.

    It lies within one document, ends where it starts or later, and has at most `LONGEST` tokens. Of equal ones the
    first one with the fewest tokens is taken.
    """
    logits = with_no_answer(exact(outputs), examples)
    owner, slots = examples.output_owner, first_tokens(examples)
    allowed = examples.token_targets != NOT_ALLOWED
    allowed[slots] = False
    document = torch.arange(len(examples.tokens), device=owner.device).repeat_interleave(examples.tokens.lengths)
    starts, ends = logits.masked_fill(~allowed[:, None], -torch.inf).unbind(-1)
    best, length = starts + ends, torch.zeros_like(owner)
    for more in range(1, min(LONGEST, int(examples.tokens.lengths.max()))):
        sums = (starts[:-more] + ends[more:]).masked_fill(document[:-more] != document[more:], -torch.inf)
        better = sums > best[:-more]
        best[:-more] = sums.where(better, best[:-more])
        length[:-more] = length[:-more].masked_fill(better, more)
    score = best.new_zeros(len(examples)).scatter_reduce(0, owner, best, "amax", include_self=False)
    numbers = torch.arange(len(best), device=owner.device).where(best == score[owner], len(best))
    first = slots.scatter_reduce(0, owner, numbers, "amin", include_self=False).clamp(max=len(best) - 1)
    return Spans(first, first + length[first], score, logits[slots].sum(-1))
