"""The interface of a task: all that differs between classification and what will stand beside it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import transformers
from jaxtyping import Float
from torch import Tensor

from trbert.encoder import Reads
from trbert.packed.tokens import Tokens
from trbert.tasks.examples import Examples, Outputs
from trbert.tasks.rows import Columns, Reading, Rows, Table

FIDELITY_FLOOR = -5.0
"""Lowest fidelity of an example, in nats: one hopeless example must not outweigh a batch."""

PerExample = Float[Tensor, " examples"]


class Task(ABC):
    """What is to be predicted of an example, and how well it was.

    A task has no state, so that it pickles by its class. A model's config holds its name. Nothing else in the project
    asks which task it is; a new one is one file here, and one line in `TASKS`.

    Attributes:
        name: as settings and a model's config call it.
        head: name of the Hugging Face Auto class whose head it uses.
        reads: "documents": the head reads one state of each document. "tokens": it reads every original token's last
            state, that of a dropped token being the state in which it was dropped.
        metric: what quality is called, such as "accuracy".
    """

    name: ClassVar[str]
    head: ClassVar[str]
    reads: ClassVar[Reads] = "documents"
    metric: ClassVar[str]

    @property
    def auto_class(self) -> Any:
        """The Hugging Face Auto class that makes and loads plain models with this task's head."""
        return getattr(transformers, self.head)

    def columns(self, text_column: str, label_column: str) -> Columns:
        """Returns the columns that a table must hold, from what the user calls them.

        Raises:
            InputError: The names are none that this task can read.
        """
        return Columns.named(text_column, label_column)

    @abstractmethod
    def read(self, tables: Mapping[str, Table], columns: Columns) -> Reading:
        """Returns the rows of every split, targets as numbers.

        Args:
            tables: by split; "train" is among them, and says which labels there are.
            columns: which are read, as `columns` gave them.

        Raises:
            InputError: A row is not what it has to be; the message names the file and the row.
        """

    @abstractmethod
    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> tuple[Examples, int]:
        """Returns the rows as examples, and how many of their documents were truncated.

        Args:
            rows: as `read` gave them.
            tokenizer: a Hugging Face tokenizer.
            max_length: most tokens of a document, special tokens included.

        Raises:
            InputError: max_length leaves no room for a token beside the special ones, or there is no row.
        """

    def protect(self, tokens: Tokens) -> Tokens:
        """Returns the documents with this task's protected tokens marked, beside the first of each.

        `encode` and a deployed model both call it, so that training and serving protect the same tokens.
        """
        return tokens

    @abstractmethod
    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Raises InputError unless a head of so many outputs can be compared with the examples' targets."""

    @abstractmethod
    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns what the outputs lack of the targets, in nats, of each example."""

    @abstractmethod
    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns what the outputs lack of the teacher's, in nats, of each example."""

    def fidelity(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns −loss of each example, in nats, not below `FIDELITY_FLOOR`: what a trajectory is paid for."""
        return -self.loss(outputs, examples).clamp(max=-FIDELITY_FLOOR)

    @abstractmethod
    def prior(self, examples: Examples) -> float:
        """Returns the mean loss of who knows how frequent the targets are and reads nothing, in nats.

        What a model knows is measured against it (`known`), and so is the default penalty.
        """

    def known(self, outputs: Outputs, examples: Examples) -> float:
        """Returns the prior less the mean loss, in nats: what the outputs know of the targets beyond frequencies.

        The predictive V-information of Xu et al. (ICLR 2020, definition 2), whose model without input says frequencies.
        """
        return self.prior(examples) - float(self.loss(outputs.double(), examples).mean())

    @abstractmethod
    def decode(self, outputs: Outputs, examples: Examples) -> list[Any]:
        """Returns what a user reads of each example, such as its class index."""

    @abstractmethod
    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns how right each example is, from 0 to 1: what intervals are drawn from."""

    def quality(self, decoded: Sequence[Any], examples: Examples) -> float:
        """Returns the quality of a split, from 0 to 1: the mean of `correct`, unless the metric is no mean."""
        scores = self.correct(decoded, examples)
        return sum(scores) / len(scores)
