"""The reduced model as a Hugging Face model, for any head."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure.break_even import BreakEven, Conditions, measure_break_even
from trbert.measure.cost import CostModel
from trbert.modeling.config import TrbertConfig
from trbert.packed.tokens import Tokens
from trbert.runners import Eager, Graphed, Runner
from trbert.runners.int8 import is_quantised
from trbert.selection.exits import Exits
from trbert.selection.fusion import Fusion
from trbert.selection.outputs import Reduced, reduced_outputs
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer, check_points
from trbert.selection.selectors import Selector, selector_class, selector_of
from trbert.tasks import Task, task_of
from trbert.tasks.examples import Examples
from trbert.wording import shown


class TrbertModel(PreTrainedModel):
    """A Hugging Face model that drops tokens between its layers, for any task.

    It takes `input_ids`, `attention_mask` and, where the family has them, `token_type_ids`. They may be padded on
    either side; the model itself runs without padding. It returns logits as the plain model does, and with labels the
    mean of its task's loss. A document's logits do not depend on the other documents of its batch. `model.config.dial`
    moves between quality and cost.

    Attributes:
        head: the Auto class of transformers that finds this class, by its name; "" where none does.
        break_even: tables that say for which batches reducing pays on this machine. Where a batch is too small for it,
            the pass keeps all tokens. () reduces every batch. In training mode they are not read.
    """

    head: ClassVar[str] = ""
    config_class = TrbertConfig
    base_model_prefix = "plain"
    # Hugging Face's Trainer passes the number of labels of a step to every model that takes **kwargs, unless this is
    # False. This model takes **kwargs only to refuse them by name.
    accepts_loss_kwargs = False
    _supports_sdpa = True

    def __init__(self, config: TrbertConfig) -> None:
        super().__init__(config)
        auto = task_of(config.task).head
        if self.head not in ("", auto):
            raise InputError(
                f"the task of a {type(self).__name__} must have the head {self.head}, and is {config.task}, which has "
                f"{auto}: load the model with trbert.load or transformers.{auto}"
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
                texts are not what the tokenizer returns, or the model is in training mode. Or the selector needs
                labels.
        """
        if not tokens or not documents or not all(number >= 1 for number in (*tokens, *documents)):
            raise InputError(
                f"tokens and documents must be 1 or more, and are {list(tokens)} and {list(documents)}: pass the sizes "
                "that you expect"
            )
        if like is not None and self.training:
            raise InputError(
                "the model must be in evaluation mode, in which it will be used, so that its time can be measured, and "
                "is in training mode: call model.eval(), or leave out `like`"
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
        logits = outputs if self.task.reads == "documents" else padded(outputs, real)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _documents_of(inputs: Mapping[str, Any]) -> Tokens:
    """Returns the documents of what a tokenizer returned."""
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input_ids"), Tensor):
        raise InputError(
            f"like must be what the tokenizer returns with padding=True and return_tensors='pt', and is "
            f"{shown(inputs)}: pass texts like those that the model will read"
        )
    return Tokens.from_padded(inputs["input_ids"], inputs.get("attention_mask"), inputs.get("token_type_ids"))


def padded(outputs: Tensor, real: Tensor) -> Tensor:
    """Returns the outputs of the tokens of a packed row as [docs, width, classes], with zeros at padding."""
    return outputs.new_zeros(*real.shape, outputs.shape[-1]).masked_scatter(real[..., None], outputs)


def _is_exporting() -> bool:
    """Returns whether torch.export is running. PyTorch 2.6 cannot tell; there the export ends in its own error."""
    found = getattr(torch.compiler, "is_exporting", None)
    return bool(found is not None and found())
