"""The reduced model as a Hugging Face model: config, model, Auto classes, save and load."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput

from trbert.checkpoint.contract import check_declared
from trbert.checkpoint.entries import check_entries, check_not_fetched, check_pooling
from trbert.checkpoint.headers import shards_of
from trbert.checkpoint.json_text import BrokenLimit, read_object
from trbert.checkpoint.place import check_is_whole_model
from trbert.checkpoint.quiet import quiet
from trbert.checkpoint.sizes import Held, check_numbers, check_stacks, misfits, without_memory
from trbert.disk.checksums import check_checksums
from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound, TrbertError
from trbert.measure.break_even import BreakEven, Conditions, fitting_tables, load_break_even, measure_break_even
from trbert.measure.cost import CostModel
from trbert.packed.families import FAMILIES
from trbert.packed.heads import plain_outputs
from trbert.packed.tokens import Tokens
from trbert.runners import Eager, Graphed, Runner, runner_of
from trbert.runners.int8 import is_quantised
from trbert.selection.exits import Exits
from trbert.selection.fusion import Fusion
from trbert.selection.outputs import Reduced, reduced_outputs
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer, check_points
from trbert.selection.selectors import Selector, selector_class, selector_of
from trbert.tasks import Task, task_of
from trbert.tasks.examples import Examples, exact
from trbert.wording import cell, cut, shown


class TrbertConfig(PreTrainedConfig):
    """The configuration of a reduced model.

    Args:
        encoder: the configuration of the plain Hugging Face model, as a dictionary.
        task: the name of the task.
        points: the reduction points, as rising layer indices.
        policy_width: the width of the inner layer of a policy head.
        selector: the name of the selector.
        policy_features: what the policy heads see beside a token's own state, as names.
        dial: the dial of the selector; lower is faster.
        max_tokens: the most tokens of a document in training; longer documents were truncated.
        fusion: whether the mean of the dropped tokens is added to the first token's state.
        exits: whether the states of dropped tokens are mapped before the head reads them.
        separator: the id of the token that ends the first part of a document, where the task protects a part such as
            the question; None protects none.
        **kwargs: Hugging Face's own arguments.
    """

    model_type = "trbert"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        task: str = "classification",
        points: Sequence[int] = (0,),
        policy_width: int = 32,
        selector: str = "policy",
        policy_features: Sequence[str] = (),
        dial: float = 0.0,
        max_tokens: int = 512,
        fusion: bool = False,
        exits: bool = False,
        separator: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.exits = exits
        self.separator = separator
        self.encoder = encoder or {"model_type": "bert"}
        self.task = task
        self.points = tuple(points)
        self.policy_width = policy_width
        self.selector = selector
        self.policy_features = tuple(policy_features)
        self.dial = dial
        self.max_tokens = max_tokens
        self.fusion = fusion
        own = self.encoder_config()
        for name in ("id2label", "label2id", "pad_token_id", "problem_type"):
            kwargs.setdefault(name, getattr(own, name))
        super().__init__(**kwargs)

    def encoder_config(self) -> PreTrainedConfig:
        """Returns the configuration of the plain model."""
        values = {name: value for name, value in self.encoder.items() if name not in ("model_type", *_NOT_SAVED)}
        return AutoConfig.for_model(self.encoder["model_type"], **values)


class TrbertModel(PreTrainedModel):
    """A Hugging Face model that drops tokens between its layers, for any task.

    It takes `input_ids`, `attention_mask` and, where the family has them, `token_type_ids`. They may be padded on
    either side; the model itself runs without padding. It returns logits as the plain model does, and with labels the
    mean of its task's loss. A document's logits do not depend on the other documents of its batch. `model.config.dial`
    moves between quality and cost.

    Attributes:
        break_even: tables that say for which batches reducing pays on this machine. Where a batch is too small for it,
            the pass keeps all tokens. () reduces every batch. In training mode they are not read.
    """

    config_class = TrbertConfig
    base_model_prefix = "plain"
    # Hugging Face's Trainer passes the number of labels of a step to every model that takes **kwargs, unless this is
    # False. This model takes **kwargs only to refuse them by name.
    accepts_loss_kwargs = False
    _supports_sdpa = True

    def __init__(self, config: TrbertConfig) -> None:
        super().__init__(config)
        own_class = model_class(task_of(config.task))
        if type(self) in MODELS.values() and type(self) is not own_class:
            auto = task_of(config.task).head
            raise InputError(
                f"the model's class must be {own_class.__name__}, since its task is {config.task}, and is "
                f"{type(self).__name__}: load it with trbert.load or transformers.{auto}"
            )
        self.plain = task_of(config.task).auto_class.from_config(config.encoder_config(), trust_remote_code=False)
        own = self.plain.config
        check_points(config.points, own.num_hidden_layers)
        heads = len(config.points) if selector_class(config.selector).learns else 0
        self.policy = Policy(own.hidden_size, heads, config.policy_width, config.policy_features)
        self.fusion = Fusion(own.hidden_size, len(config.points) if config.fusion else 0)
        self.exits = Exits(own.hidden_size, len(config.points) if config.exits else 0)
        self.runner: Runner = Eager()
        self.break_even: tuple[BreakEven, ...] = ()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: the modules initialise their own weights."""

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Saves the model. It takes the arguments of Hugging Face's own method.

        Raises:
            InputError: Some layers are in int8, which cannot be saved.
        """
        # The state of a module of torch.ao holds what is no tensor.
        if is_quantised(self) or not all(isinstance(value, Tensor) for value in self.state_dict().values()):
            raise InputError(
                "a model in int8 cannot be saved, because its own weights are gone: load it with another runner, and "
                "save that"
            )
        return super().save_pretrained(*args, **kwargs)

    @property
    def task(self) -> Task:
        """The task of the model."""
        return task_of(self.config.task)

    @property
    def reducer(self) -> Reducer:
        """The model in stages. It is made at each call, because modules may have been replaced since the last one."""
        return Reducer(
            encoder=Encoder(self.plain, self.runner),
            task=self.task,
            points=tuple(self.config.points),
            fusion=self.fusion,
            exits=self.exits,
            separator=self.config.separator,
        )

    @property
    def selector(self) -> Selector:
        """The selector, which decides which tokens go on."""
        return selector_of(self.config.selector, self.policy)

    def cost_model(self) -> CostModel:
        """Returns the cost model of this model."""
        return CostModel.of(self.reducer, self.policy)

    def run_with(self, runner: Runner) -> None:
        """Runs the layers by another runner from now on. Some runners replace layers, in place.

        Raises:
            InputError: The runner cannot run this model on its device.
        """
        runner.adopt(self.plain, Encoder(self.plain).layers)
        self.runner = runner

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        labels: Any = None,
        return_dict: bool | None = True,
        **kwargs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """Returns the logits of the reduced forward pass, and the loss where labels are given.

        The logits are [docs, classes] where the head reads documents. Where the head reads tokens they are
        [docs, width, classes], as for the padded model, with zeros at padding.

        Raises:
            InputError: There is no document, or one has no token or too many. Or an input has a wrong type or shape, or
                holds an id that the model does not know (told on a CPU only). Or the dial is no number. Or the caller
                passed an argument of the plain model that has no meaning for a reduced one. Or the model is being
                traced or exported.
        """
        if torch.jit.is_tracing() or _is_exporting():  # type: ignore[attr-defined]
            raise InputError(
                "a reduced model must not be traced or exported, because the text decides which tokens go on: use "
                'torch.compile or trbert.load(folder, runner="compiled"), or export the plain model within it, '
                "model.plain"
            )
        unknown = sorted(name for name, value in kwargs.items() if value is not None and value is not False)
        if unknown:
            raise InputError(
                f"a reduced model takes input_ids, attention_mask, token_type_ids and labels, and was passed "
                f"{', '.join(unknown)}: leave it out (states and attentions of dropped tokens do not exist)"
            )
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        for name, value in {**given, "labels": labels}.items():
            if not isinstance(value, Tensor) and (name == "input_ids" or value is not None):
                remedy = "pass what the tokenizer returns with return_tensors='pt'" if name in given else "make it one"
                raise InputError(f"{name} must be a tensor, and is {shown(value)}: {remedy}")
        self.selector.check_dial(self.config.dial)
        tokens = Tokens.from_padded(input_ids, attention_mask, token_type_ids)
        outputs = self.read(tokens)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        told = self.answer(outputs, tokens, real.bool().to(outputs.device), labels)
        return told.to_tuple() if return_dict is False else told

    @torch.inference_mode()
    def warm_up(self, tokens: Sequence[int], documents: Sequence[int], like: Mapping[str, Any] | None = None) -> None:
        """Runs batches of made-up documents, so that what a runner makes at the first use of a size is made.

        Where stages are captured they are run at many dials, because later stages have as many tokens as the decisions
        leave.

        With texts to measure on, it also finds out for which of these sizes reducing pays, as the model is now: on this
        machine, with this runner, arithmetic and dial. `break_even` then has the table. From then on the model keeps
        all tokens of a batch that is too small. So a document's answer depends on the size of its batch: in a small
        batch it is the unreduced model's answer, and in a large one the reduced model's.

        Args:
            tokens: numbers of tokens of a document.
            documents: numbers of documents of a batch. Each is run with each number of tokens.
            like: what the tokenizer returns for texts like those that the model will read, padded, on any device. How
                many tokens are kept depends on the text. None measures nothing.

        Raises:
            InputError: A number is not 1 or more, or a document has more tokens than the model has positions. Or the
                texts are not what the tokenizer returns. Or the selector needs labels.
        """
        if not tokens or not documents or not all(number >= 1 for number in (*tokens, *documents)):
            raise InputError(
                f"tokens and documents must be 1 or more, and are {list(tokens)} and {list(documents)}: pass the sizes "
                "that you expect"
            )
        rows, selector, reducer = self.plain.get_input_embeddings().num_embeddings, self.selector, self.reducer
        others = (*selector.dials, selector.keep_all)
        texts = None if like is None else _documents_of(like).to("cpu")
        # The largest batch first: when a larger one comes, a runner takes new memory, and captures all anew.
        for width, count in product(sorted(tokens, reverse=True), sorted(documents, reverse=True)):
            made_up = reducer.protect(Tokens.from_padded(torch.arange(width * count).view(count, width) % rows))
            for dial in (*(others if isinstance(self.runner, Graphed) else ()), self.config.dial):
                reduced_outputs(reducer, selector, made_up, dial)
            if self.break_even or texts is not None:
                reduced_outputs(reducer, selector, made_up, self.config.dial, pays=lambda tokens, documents: False)
        if texts is not None:
            self.break_even = (measure_break_even(reducer, selector, self.config.dial, texts, tokens, documents),)

    def reduced(self, tokens: Tokens) -> Reduced:
        """Returns the head's outputs for documents, how many tokens each point kept, and whether the pass reduced.

        Raises:
            InputError: As `read`.
        """
        reducer, selector, dial = self.reducer, self.selector, self.config.dial
        selector.check_dial(dial)
        pays = None
        if self.break_even and not self.training:
            here = Conditions.now(reducer, selector, dial)
            pays = next((table.pays for table in self.break_even if table.conditions == here), None)
        return reduced_outputs(reducer, selector, reducer.protect(tokens), dial, pays=pays)

    def read(self, tokens: Tokens) -> Tensor:
        """Returns the head's outputs for documents, a row for each document or for each token, by task.

        Raises:
            InputError: A document has too many tokens, or an id that the model does not know. Or the dial is no number.
        """
        return self.reduced(tokens).outputs

    def answer(self, outputs: Tensor, tokens: Tokens, real: Tensor, labels: Tensor | None) -> ModelOutput:
        """Returns what the plain model with this head returns.

        Args:
            outputs: of the head, on the documents or on the tokens of the packed row.
            tokens: the documents.
            real: [docs, width]; True at the tokens of the padded inputs, in the order of the packed row.
            labels: as the caller gave them, or None.
        """
        loss = None
        if labels is not None:
            loss = self.task.loss(outputs, Examples.of_documents(tokens, labels, self.task.reads)).mean()
        logits = outputs if self.task.reads == "documents" else _padded(outputs, real)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _documents_of(inputs: Mapping[str, Any]) -> Tokens:
    """Returns the documents of what a tokenizer returned."""
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input_ids"), Tensor):
        raise InputError(
            f"like must be what the tokenizer returns with padding=True and return_tensors='pt', and is "
            f"{shown(inputs)}: pass texts like those that the model will read"
        )
    return Tokens.from_padded(inputs["input_ids"], inputs.get("attention_mask"), inputs.get("token_type_ids"))


def _padded(outputs: Tensor, real: Tensor) -> Tensor:
    """Returns the outputs of the tokens of a packed row as [docs, width, classes], with zeros at padding."""
    return outputs.new_zeros(*real.shape, outputs.shape[-1]).masked_scatter(real[..., None], outputs)


def _is_exporting() -> bool:
    """Returns whether torch.export is running. PyTorch 2.6 cannot tell; there the export ends in its own error."""
    found = getattr(torch.compiler, "is_exporting", None)
    return bool(found is not None and found())


class TrbertForSequenceClassification(TrbertModel):
    """A reduced model that gives each document a class. `AutoModelForSequenceClassification` finds it."""

    def answer(self, outputs: Tensor, tokens: Tokens, real: Tensor, labels: Tensor | None) -> ModelOutput:
        """Returns the logits [docs, classes], and the loss; labels of one number each may be a column [docs, 1]."""
        if labels is not None and labels.shape == (len(tokens), 1):
            labels = labels[:, 0]
        return super().answer(outputs, tokens, real, labels)


class TrbertForTokenClassification(TrbertModel):
    """A reduced model that gives each token a class. `AutoModelForTokenClassification` finds it.

    A token that was dropped has the class that the head reads from the state with which it was dropped.
    """

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
        return TokenClassifierOutput(loss=loss, logits=_padded(outputs, real))


class TrbertForQuestionAnswering(TrbertModel):
    """A reduced model that says at which token an answer starts and ends. `AutoModelForQuestionAnswering` finds it.

    A token that was dropped has the logits that the head reads from the state with which it was dropped.
    `trbert.answer` turns the logits into the text of an answer.
    """

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
        logits = _padded(outputs, real).masked_fill(~real[..., None], torch.finfo(outputs.dtype).min)
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
    "AutoModel": TrbertForEmbedding,
    "AutoModelForMultipleChoice": TrbertForMultipleChoice,
    "AutoModelForQuestionAnswering": TrbertForQuestionAnswering,
    "AutoModelForSequenceClassification": TrbertForSequenceClassification,
    "AutoModelForTokenClassification": TrbertForTokenClassification,
}
"""The classes of reduced models that an Auto class of transformers finds, by the name of the Auto class.

A new kind of head is one class with its `answer`, and one line here. A task whose head is not listed here has a plain
`TrbertModel`.
"""


def model_class(task: Task) -> type[TrbertModel]:
    """Returns the class that the reduced models of a task have."""
    return MODELS.get(task.head, TrbertModel)


_NOT_SAVED = (
    *("_attn_implementation", "attn_implementation", "transformers_version", "dtype"),
    *("output_attentions", "output_hidden_states", "return_dict", "torchscript"),
)
"""Settings of an encoder that a reduced model does not keep: how it was run, and in which form it returned what."""


def assemble(reducer: Reducer, selector: Selector, dial: float, max_tokens: int) -> TrbertModel:
    """Returns a trained model as a Hugging Face model. The weights are shared, not copied.

    Args:
        reducer: the trained model.
        selector: the selector, with its policy. The policy has no heads where the selector does not learn.
        dial: the dial of the selector.
        max_tokens: the most tokens of a document in training; longer documents were truncated.
    """
    plain = reducer.encoder.plain
    encoder = {**plain.config.to_diff_dict(), "model_type": plain.config.model_type}
    for name in _NOT_SAVED:
        encoder.pop(name, None)
    encoder["id2label"] = {int(k): v for k, v in plain.config.id2label.items()}
    encoder["label2id"] = dict(plain.config.label2id)
    config = TrbertConfig(
        encoder=encoder,
        task=reducer.task.name,
        points=reducer.points,
        policy_width=selector.policy.width,
        selector=selector.name,
        policy_features=selector.policy.features,
        dial=dial,
        max_tokens=max_tokens,
        fusion=len(reducer.fusion.maps) > 0,
        exits=len(reducer.exits.maps) > 0,
        separator=reducer.separator,
    )
    with torch.device("meta"):
        model = model_class(reducer.task)(config)
    model.plain, model.policy = plain, selector.policy
    model.fusion, model.exits = reducer.fusion, reducer.exits
    return model.eval()


def load(
    path: str | Path,
    dial: float | None = None,
    runner: str = "eager",
    verify: bool = False,
    break_even: str | Path | None = None,
) -> TrbertModel:
    """Returns a saved reduced model, ready to use.

    Args:
        path: the folder of the model, with `config.json` and `model.safetensors`. Where the model was saved in shards,
            it holds them and `model.safetensors.index.json` instead.
        dial: the dial to use; None uses the saved one.
        runner: the way to run the layers. "eager" calls them one after the other. "compiled" runs them through
            `torch.compile` where no gradient is wanted. The first use takes seconds to compile, and on a CPU it needs a
            C++ compiler. "graphed" captures the stages of a pass, as CUDA graphs on a GPU, and repeats them. "int8"
            runs the matrix products in int8, on a CPU only. Such a model can neither learn nor be saved.
        verify: whether to compare all files with the checksums in `SHA256SUMS`, which a search writes beside a model.
            This reads every file once more. It tells damage, such as from a copy or a disk; it does not tell tampering,
            because whoever changes a model can write its checksums anew.
        break_even: the `break_even.json` that `trbert bench --break-even` wrote on this machine. The model then keeps
            all tokens of a batch that is too small for reducing to pay. So a document's answer depends on the size of
            its batch. None reduces every batch.

    Raises:
        InputError: The folder holds another kind of model, there is no such runner, or the runner cannot run here. Or
            `break_even` is no such file, or was measured elsewhere or with another model or runner.
        UnsupportedModel: A family that was registered does not fit the model.
        ModelNotFound: There is no such folder.
        DamagedCheckpoint: The files of the model are missing or cut off, or do not fit together. Or `verify` is set,
            and they are not those that `SHA256SUMS` lists, or there is no such list.
    """
    way = runner_of(runner)
    tables = () if break_even is None else load_break_even(break_even)
    folder = Path(path)
    if not folder.is_dir():
        raise ModelNotFound(f"path must be a folder with a saved model, and is {str(path)!r}, which does not exist")
    if verify:
        check_checksums(folder)
    try:
        model = _load(folder, dial)
    except TrbertError:
        raise
    except OSError as error:  # a file or the folder may not be read
        raise _not_whole(folder, error) from error
    model.run_with(way)
    if tables:
        model.break_even = fitting_tables(tables, Conditions.now(model.reducer, model.selector, model.config.dial))
    return model


def _load(folder: Path, dial: float | None) -> TrbertModel:
    task, entries = _check_config(folder)
    weights, files = _check_weights(folder)
    config = _check_sizes(folder, task, entries, weights, files)
    try:
        with quiet():  # what transformers would report is refused below
            loaded: Any = model_class(task).from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # for a config that was written by hand, transformers raises errors of almost any class
        raise _not_whole(folder, error) from error
    model: TrbertModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    wrong = sorted(
        {*report["missing_keys"], *report["unexpected_keys"], *(key for key, *_ in report["mismatched_keys"])}
    )
    if wrong:
        raise _misfit(weights, wrong)
    model.config.dial = model.config.dial if dial is None else dial
    model.selector.check_dial(model.config.dial)
    check_declared(model.eval().plain, task.reads, str(folder))
    try:
        try_out(model)
    except TrbertError:
        raise
    except Exception as error:  # for a config that was written by hand, as above
        raise _not_whole(folder, error) from error
    return model


def try_out(model: TrbertModel) -> None:
    """Runs a model on a few tokens, to find what is wrong with values of its config that are used here alone.

    Raises:
        Exception: It cannot run.
    """
    encoder = Encoder(model.plain)
    rows = model.plain.get_input_embeddings().num_embeddings
    ids = torch.arange(min(4, rows, encoder.max_tokens), device=encoder.device)[None]
    runs: Any = model.plain if model.selector.needs == "saliency" else model  # that rule needs labels to run
    with torch.no_grad():
        plain_outputs(runs, {"input_ids": ids})


def _check_weights(folder: Path) -> tuple[Path, tuple[Path, ...]]:
    """Checks that a folder holds the file of the weights, or all of its shards.

    Returns the file, or the index of the shards, and all the files that hold weights.
    """
    check_is_whole_model(folder)
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        _check_file(whole)
        return whole, (whole,)
    try:
        shards = tuple(folder / name for name in shards_of(index))
    except ValueError as error:
        raise _not_json(folder, error) from error
    for shard in shards:
        _check_file(shard)
    return index, shards


def _check_sizes(
    folder: Path, task: Task, entries: dict[str, Any], weights: Path, files: tuple[Path, ...]
) -> TrbertConfig:
    """Checks that the weights have the sizes that the config declares, before memory is taken. Returns the config."""
    try:
        held = Held.by(files)
        config = TrbertConfig.from_dict(entries)
        check_points(config.points, config.encoder_config().num_hidden_layers)
        check_stacks(config.encoder, held)
        model = without_memory(model_class(task), config)
        found = list(misfits(model, held))
        if not found:
            check_numbers(model, held)
    except Exception as error:  # for a config that was written by hand, transformers raises errors of almost any class
        raise _not_whole(folder, error) from error
    if why := next((each.why for each in found if each.why), None):
        raise _not_whole(folder, ValueError(why))
    if found:
        raise _misfit(weights, sorted(each.name for each in found))
    return config


def _not_whole(folder: Path, error: Exception) -> DamagedCheckpoint:
    reason = " ".join(str(error).split())
    if isinstance(error, KeyError):
        reason = f"transformers does not know {reason}, which its config.json names"
    return DamagedCheckpoint(f"{folder} does not hold a whole model ({reason}): copy or save it again")


def _misfit(weights: Path, names: Sequence[str]) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"{weights} does not fit config.json: {', '.join(map(cell, names[:3]))}"
        f"{' and more' if len(names) > 3 else ''}: copy or save it again"
    )


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DamagedCheckpoint(f"{path.parent} must hold {path.name}, and does not: copy or save the model again")


def _not_json(folder: Path, error: Exception) -> DamagedCheckpoint:
    remedy = "correct it, or copy or save it again" if isinstance(error, BrokenLimit) else "copy it again"
    return DamagedCheckpoint(f"{folder}/{error}: {remedy}")


MOST_POINTS = 1000
"""The most reduction points of a model. There are never more than it has layers."""

_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "encoder": (
        f"an object whose model_type is one of {', '.join(sorted(FAMILIES))}",
        lambda value: isinstance(value, dict) and value.get("model_type") in tuple(FAMILIES),
    ),
    "points": (
        "a list of layer indices",
        lambda value: isinstance(value, list) and all(type(each) is int for each in value),
    ),
    "policy_width": ("a whole number above 0", lambda value: type(value) is int and value > 0),
    "policy_features": ("a list of names", lambda value: isinstance(value, list)),
    "dial": ("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value)),
    "max_tokens": ("a whole number above 0", lambda value: type(value) is int and value > 0),
    "fusion": ("true or false", lambda value: isinstance(value, bool)),
    "exits": ("true or false", lambda value: isinstance(value, bool)),
    "separator": ("a token id or null", lambda value: value is None or (type(value) is int and value >= 0)),
}
"""What `config.json` must hold: in words, and as a check. It may have been written by hand."""


def _check_config(folder: Path) -> tuple[Task, dict[str, Any]]:
    """Checks that a folder holds the config of a reduced model that this version can read.

    Returns the task of the model, and the content of the config.
    """
    _check_file(folder / "config.json")
    try:
        config = read_object(folder / "config.json")
    except ValueError as error:
        raise _not_json(folder, error) from error
    if (kind := config.get("model_type")) != TrbertConfig.model_type:
        raise InputError(
            f"model_type in {folder}/config.json must be 'trbert', and is {kind!r}: "
            "load a plain model with transformers, or reduce it with tune/search.py --model"
        )
    if "task" not in config:
        raise InputError(
            f"{folder}/config.json must name the model's task, and does not, because an older version of trbert saved "
            "it: search again with this version, or load the model with the older one"
        )
    kind = config["encoder"].get("model_type") if isinstance(config.get("encoder"), dict) else None
    if isinstance(kind, str) and kind not in FAMILIES:
        raise DamagedCheckpoint(
            f"model_type of the encoder in {folder}/config.json must be one of {', '.join(sorted(FAMILIES))}, and is "
            f"{cut(kind)}: if it was made with a family of your own, call trbert.register_family(FAMILY) first, or "
            "pass --family to the command; if not, correct it, or copy or save it again"
        )
    for name, (words, holds) in _RULES.items():
        if not holds(config.get(name)):
            has = f"is {shown(config[name])}" if name in config else "is missing"
            raise DamagedCheckpoint(
                f"{name} in {folder}/config.json must be {words}, and {has}: correct it, or copy or save it again"
            )
    if len(config["points"]) > MOST_POINTS:
        raise DamagedCheckpoint(
            f"points in {folder}/config.json must be at most {MOST_POINTS}, and are {len(config['points'])}: correct "
            "it, or copy or save it again"
        )
    for where, entries in {"config.json": config, "`encoder` in config.json": config["encoder"]}.items():
        check_entries(f"{where} of model {folder}", entries)
        check_not_fetched(f"{where} of model {folder}", entries)
    # What somebody wrote there need not be text.
    selector_class(str(config.get("selector")))
    task = task_of(str(config["task"]))
    if not task.has_head:
        check_pooling(f"`encoder` in config.json of model {folder}", config["encoder"])
    return task, config


AutoConfig.register(TrbertConfig.model_type, TrbertConfig, exist_ok=True)
for _head, _model in MODELS.items():
    getattr(transformers, _head).register(TrbertConfig, _model, exist_ok=True)
