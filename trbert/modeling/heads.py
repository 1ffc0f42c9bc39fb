"""The reduced models that the Auto classes of transformers find: one for each kind of head."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import AutoConfig
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput

from trbert.errors import InputError
from trbert.modeling.config import TrbertConfig
from trbert.modeling.model import TrbertModel, padded
from trbert.packed.tokens import Tokens
from trbert.tasks import Task
from trbert.tasks.examples import Examples, exact
from trbert.wording import shown


class TrbertForSequenceClassification(TrbertModel):
    """A reduced model that gives each document a class. `AutoModelForSequenceClassification` finds it."""

    head = "AutoModelForSequenceClassification"

    def answer(self, outputs: Tensor, tokens: Tokens, real: Tensor, labels: Tensor | None) -> ModelOutput:
        """Returns the logits [docs, classes], and the loss; labels of one number each may be a column [docs, 1]."""
        if labels is not None and labels.shape == (len(tokens), 1):
            labels = labels[:, 0]
        return super().answer(outputs, tokens, real, labels)


class TrbertForTokenClassification(TrbertModel):
    """A reduced model that gives each token a class. `AutoModelForTokenClassification` finds it.

    A token that was dropped has the class that the head reads from the state with which it was dropped.
    """

    head = "AutoModelForTokenClassification"

    def answer(self, outputs: Tensor, tokens: Tokens, real: Tensor, labels: Tensor | None) -> TokenClassifierOutput:
        """Returns the logits [docs, width, classes], and the mean of −log p(label) over all labelled tokens.

        Labels are [docs, width], padded as the inputs are. A token that is labelled -100 does not count.

        Raises:
            InputError: The labels have another shape than the inputs.
        """
        loss = None
        if labels is not None:
            if labels.shape != real.shape:
                raise InputError(
                    f"labels must have the shape of input_ids {tuple(real.shape)}, and have {tuple(labels.shape)}: "
                    "pass one for each token, and -100 where a token has none"
                )
            loss = F.cross_entropy(outputs, labels[real])
        return TokenClassifierOutput(loss=loss, logits=padded(outputs, real))


class TrbertForQuestionAnswering(TrbertModel):
    """A reduced model that says at which token an answer starts and ends. `AutoModelForQuestionAnswering` finds it.

    A token that was dropped has the logits that the head reads from the state with which it was dropped.
    `trbert.answer` turns the logits into the text of an answer.
    """

    head = "AutoModelForQuestionAnswering"

    def forward(  # type: ignore[override]  # the names of its labels are those that this head has in transformers
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        return_dict: bool | None = True,
        **kwargs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """Returns the start logits and the end logits [docs, width], and the loss where both positions are given.

        At padding they are the least number of their type, so that the highest one is that of a token. The loss is the
        one of the plain model: the mean of −log p(start) and −log p(end) in each document. A document whose position is
        not below the width does not count.

        Raises:
            InputError: As the reduced model of any task does. Or one of the positions is given alone, or they are not
                one for each document.
        """
        positions = {"start_positions": start_positions, "end_positions": end_positions}
        given = [each for each in positions.values() if each is not None]
        if len(given) == 1 or not all(isinstance(each, Tensor) and each.numel() == len(input_ids) for each in given):
            raise InputError(
                "start_positions and end_positions must both be tensors with one token for each document, and are "
                f"{' and '.join(shown(each) for each in positions.values())}: pass both, or neither"
            )
        labels = torch.stack([each.flatten() for each in given], -1) if given else None
        if kwargs.get("labels") is not None:
            raise InputError(
                "labels must be start_positions and end_positions for this head, and were passed as labels: rename them"
            )
        kwargs.pop("labels", None)
        return super().forward(input_ids, attention_mask, token_type_ids, labels, return_dict, **kwargs)

    def answer(self, outputs: Tensor, tokens: Tokens, real: Tensor, labels: Tensor | None) -> ModelOutput:
        """Returns the start logits and the end logits, and the loss; `labels` are both positions, [docs, 2]."""
        logits = padded(outputs, real).masked_fill(~real[..., None], torch.finfo(outputs.dtype).min)
        starts, ends = logits.unbind(-1)
        loss, width = None, real.shape[1]
        if labels is not None:
            places = labels.clamp(0, width).unbind(-1)
            losses = [
                F.cross_entropy(own, place, ignore_index=width)
                for own, place in zip((starts, ends), places, strict=True)
            ]
            loss = (losses[0] + losses[1]) / 2
        return QuestionAnsweringModelOutput(loss=loss, start_logits=starts, end_logits=ends)


class TrbertForMultipleChoice(TrbertModel):
    """A reduced model that gives each option of a question a number. `AutoModelForMultipleChoice` finds it."""

    head = "AutoModelForMultipleChoice"

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        labels: Any = None,
        return_dict: bool | None = True,
        **kwargs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """Returns the logits [examples, choices], and the mean of −log p(label) where labels are given.

        The inputs are [examples, choices, width], as for the plain model. Labels are the index of the right choice of
        each example.

        Raises:
            InputError: The inputs have other dimensions, or labels are not one for each example. Or the model refuses
                the documents, as for any other task.
        """
        if isinstance(input_ids, Tensor) and input_ids.dim() != 3:
            raise InputError(
                "input_ids must have three dimensions, examples, their choices and their tokens, and have the shape "
                f"{tuple(input_ids.shape)}: for the choices of a single example pass input_ids[None]"
            )
        ids, mask, types = (
            value.flatten(0, 1) if isinstance(value, Tensor) and value.dim() == 3 else value
            for value in (input_ids, attention_mask, token_type_ids)
        )
        found: Any = super().forward(ids, mask, types, **kwargs)
        logits, loss = found.logits.view(input_ids.shape[:2]), None
        if labels is not None:
            if not isinstance(labels, Tensor) or labels.shape != logits.shape[:1]:
                raise InputError(
                    f"labels must be a tensor with one choice for each of the {len(logits)} examples, and is "
                    f"{shown(labels)}: pass the index of the right choice of each"
                )
            loss = F.cross_entropy(exact(logits), labels)
        answer = MultipleChoiceModelOutput(loss=loss, logits=logits)
        return answer.to_tuple() if return_dict is False else answer


@dataclass
class EmbeddingOutput(ModelOutput):
    """What a reduced model without a head returns. It has no states of the single tokens, since many were dropped.

    Attributes:
        loss: the mean of κ (1 − cosine) to the vectors that were given as labels; None without labels.
        sentence_embedding: the vector of each document, [docs, dim].
    """

    loss: Tensor | None = None
    sentence_embedding: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        if name in ("last_hidden_state", "pooler_output", "hidden_states", "attentions"):
            raise AttributeError(
                f"a reduced model has no {name}, because dropped tokens have no last state: use sentence_embedding, "
                "which is the pooled vector of each document"
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


class TrbertForEmbedding(TrbertModel):
    """A reduced model that gives each document a vector. `AutoModel` finds it.

    The vector is pooled from the kept tokens' states and perhaps scaled to length 1, as the plain model's own is.
    """

    head = "AutoModel"

    def answer(self, outputs: Tensor, tokens: Tokens, real: Tensor, labels: Tensor | None) -> EmbeddingOutput:
        """Returns the vector of each document, and the loss where labels are given: the vectors to come near to.

        Raises:
            InputError: The labels have another shape than the vectors.
        """
        loss = None
        if labels is not None:
            if labels.shape != outputs.shape:
                raise InputError(
                    f"labels must be a vector for each document, {list(outputs.shape)}, and have the shape "
                    f"{list(labels.shape)}: leave them out, or pass the vectors that the model is to come near to"
                )
            loss = self.task.loss(outputs, Examples.of_documents(tokens, labels)).mean()
        return EmbeddingOutput(loss=loss, sentence_embedding=outputs)


MODELS: dict[str, type[TrbertModel]] = {
    model.head: model
    for model in (
        TrbertForEmbedding,
        TrbertForMultipleChoice,
        TrbertForQuestionAnswering,
        TrbertForSequenceClassification,
        TrbertForTokenClassification,
    )
}
"""The classes of reduced models that an Auto class of transformers finds, by the name of the Auto class.

A new kind of head is one class with its `answer`, and one line here. A task whose head is not listed here has a plain
`TrbertModel`.
"""


def model_class(task: Task) -> type[TrbertModel]:
    """Returns the class that the reduced models of a task have."""
    return MODELS.get(task.head, TrbertModel)


AutoConfig.register(TrbertConfig.model_type, TrbertConfig, exist_ok=True)
for _head, _model in MODELS.items():
    getattr(transformers, _head).register(TrbertConfig, _model, exist_ok=True)
