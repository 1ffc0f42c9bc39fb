"""Answers a question about a context with a reduced model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trbert.errors import InputError
from trbert.tasks.over_texts import count_tokens
from trbert.tasks.parts import first_alone
from trbert.tasks.rows import Rows
from trbert.tasks.spans.passages import NOT_ALLOWED
from trbert.tasks.spans.questions import NO_ANSWER, NO_PLACE
from trbert.tasks.spans.scores import best_spans, with_no_answer
from trbert.tasks.task import check_reduced
from trbert.tasks.texts import is_blank
from trbert.wording import cut, shown

if TYPE_CHECKING:
    from trbert.modeling import TrbertModel


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question.

    Attributes:
        text: the answer, as it stands in the context; "" where there is none.
        start: its first character in the context; 0 where there is none.
        end: the character after its last one; 0 where there is none.
        score: the probability of its start times that of its end.
    """

    text: str
    start: int
    end: int
    score: float


@torch.inference_mode()
def answer(model: "TrbertModel", tokenizer: Any, question: Any, context: Any, *, may_be_none: bool = True) -> Answer:
    """Returns the answer that a reduced model finds in a context, of any length.

    A context that is too long for one document is read in windows that overlap, and the best of their spans is taken.

    Args:
        model: a reduced model of the task question_answering, as `trbert.load` returns it.
        tokenizer: its tokenizer.
        question: the question, a string.
        context: the text to find the answer in, a string.
        may_be_none: whether to say that there is no answer where that is likelier. False always gives a span.

    Raises:
        InputError: The model is of another task, or no reduced one. A text is no string, or blank. Or the question is
            too long.
    """
    check_reduced(model, "question_answering")
    task: Any = model.task
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str):
            raise InputError(f"{name} must be a string, and is {shown(text)}: call it once for each question")
        if is_blank(text):
            raise InputError(f"{name} must have a character that can be seen, and is {cut(text)}: pass another one")
    length, most = count_tokens(tokenizer, [question])[0], task.most_of_question(tokenizer, model.config.max_tokens)
    if length > most:
        raise InputError(
            f"question must have at most {most} tokens, so that a document of {model.config.max_tokens} has room for "
            f"its context, and has {length}: shorten it"
        )
    none = np.full((1, 1, 2), NO_PLACE, dtype=np.int64)
    rows = Rows(((question,), (context,)), none, np.zeros(1, dtype=np.int64), (NO_ANSWER,))
    examples = task.encode(rows, tokenizer, model.config.max_tokens).examples.to(model.device)
    # A model of a search with --no-protect has no separator, and has learned to drop tokens of the question, too.
    tokens = examples.tokens if model.reducer.separator is not None else first_alone(examples.tokens)
    outputs = model.read(tokens).float()
    spans = best_spans(outputs, examples)
    logits = with_no_answer(outputs, examples)
    allowed = (examples.token_targets != NOT_ALLOWED)[:, None].expand(-1, 2).clone()
    allowed[0] &= may_be_none
    every = float(examples.log_sums(logits, allowed).sum())
    if may_be_none and float(spans.none) > float(spans.score):
        return Answer("", 0, 0, float(np.exp(float(spans.none) - every)))
    start, end = examples.references[0].span(int(spans.first), int(spans.last))
    return Answer(context[start:end], start, end, float(np.exp(float(spans.score) - every)))
