"""The interface of a task: all that differs between classification and other kinds of tasks."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import transformers
from jaxtyping import Float, Int, Int64
from torch import Tensor

from trbert.encoder import Reads
from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks.examples import Encoded, Examples, Outputs
from trbert.tasks.parts import Part, protect_part
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.texts import check_texts, written_rows

FIDELITY_FLOOR = -5.0
"""The lowest fidelity of an example, in nats. Without it, one hopeless example could outweigh a whole batch."""

PerExample = Float[Tensor, " examples"]
Times = Float[np.ndarray, "_ examples"]
"""How often each of some resamples of a split holds each of its examples."""


class Task(ABC):
    """Says what is to be predicted of an example, and how well it was predicted.

    A task has no state, so that it is pickled by its class. A model's config holds its name. Nothing else in the
    project asks which task it is. A new task is one file in this folder, and one line in `TASKS`.

    Attributes:
        name: its name in settings and in a model's config.
        head: the name of the Hugging Face Auto class whose head it uses.
        reads: "documents" where the head reads one state of each document. "tokens" where it reads the last state of
            every original token. For a dropped token, that is the state with which it was dropped.
        metric: the name of its measure of quality, such as "accuracy".
        problem_type: what a new head's config says in `problem_type`, for transformers' pipelines; None says nothing.
        has_threshold: whether answers depend on a threshold, which is chosen on validation.
        text_column: the name of the column of the texts where the user names none.
        label_column: the name of the column of the targets where the user names none; "" for a task without targets.
        known_columns: pairs of a `text_column` and a `label_column` by which data of this task are recognised where the
            user names no task; the first pair whose columns are all there is taken. () is the pair of the two above.
        has_flags: whether each label may have a column of its own.
        text_classes: whether the target of each row is a class index that a linear classifier of tokens can learn.
        num_outputs: the number of outputs of a new head where the outputs have no names.
        protected_part: the part of each document whose tokens are never dropped, such as the question; None where
            there is no such part.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    reads: ClassVar[Reads] = "documents"
    metric: ClassVar[str]
    text_column: ClassVar[str] = "text"
    label_column: ClassVar[str] = "label"
    known_columns: ClassVar[tuple[tuple[str, str], ...]] = ()
    has_flags: ClassVar[bool] = False
    text_classes: ClassVar[bool] = False
    problem_type: ClassVar[str | None] = None
    has_threshold: ClassVar[bool] = False
    num_outputs: ClassVar[int] = 1
    protected_part: ClassVar[Part | None] = None

    @property
    def auto_class(self) -> Any:
        """The Hugging Face Auto class that makes and loads plain models with this task's head."""
        return getattr(transformers, self.head)

    @property
    def has_head(self) -> bool:
        """Whether there is a head on the encoder, which must be trained. If not, the outputs are pooled states."""
        return self.head != "AutoModel"

    def metric_of(self, names: Sequence[str]) -> str:
        """Returns the name of the measure of quality: `metric`, unless the names of the targets decide.

        Args:
            names: those of the examples; () where the quality does not depend on them.
        """
        return self.metric

    def columns(self, text_column: str | None = None, label_column: str | None = None) -> Columns:
        """Returns the columns that a table must have.

        Args:
            text_column: the user's setting: the names of the columns of the texts. None takes the task's own name.
            label_column: the user's setting: the name of the column of the targets. None takes the task's own name, and
                "" reads no targets.

        Raises:
            InputError: This task cannot read these columns.
        """
        columns = Columns.named(
            self.text_column if text_column is None else text_column,
            self.label_column if label_column is None else label_column,
        )
        if columns.flags and not self.has_flags:
            raise InputError(
                f"--label-column must name one column for task {self.name}, and is {label_column!r}: name one, or "
                "leave out --task"
            )
        return columns

    def sign(self, table: Table, columns: Columns) -> str:
        """Returns what in the values of a table says that it is for this task, in words; "" where nothing does.

        It is asked where the user names no task.

        Args:
            table: the training table.
            columns: its columns, as the method `columns` returned them. All of them are there.
        """
        return ""

    def check_config(self, config: Any) -> None:  # noqa: B027  most tasks have nothing to check
        """Checks that a fine-tuned model's head was trained for this task.

        Args:
            config: the model's Hugging Face configuration.

        Raises:
            InputError: It was trained for another one.
        """

    @abstractmethod
    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the rows of every split, with the targets as numbers.

        Args:
            tables: the table of each split. One of them is "train"; it says which labels there are.
            columns: the columns to read, as the method `columns` returned them.
            renames: new names for labels; None renames nothing.

        Raises:
            InputError: A row is wrong. The message names the file and the row.
        """

    def written(self, table: Table, columns: Columns) -> list[int]:
        """Returns the indices of the rows that have something in each input column. The targets are not looked at.

        Raises:
            InputError: No row has.
        """
        return written_rows(table, columns.inputs)

    def check_inputs(self, table: Table, columns: Columns, row: int) -> None:
        """Checks that what a row has in the input columns can be read, such as texts.

        Raises:
            InputError: It cannot. The message names the file and the row.
        """
        check_texts(table, columns.inputs, row)

    def inputs(self, table: Table, columns: Columns) -> tuple[tuple[Any, ...], ...]:
        """Returns the input columns of a table without the rows that lack a text. The targets are not looked at.

        Raises:
            InputError: A value is no text, or no row has a text.
        """
        rows = self.written(table, columns)
        for row in rows:
            self.check_inputs(table, columns, row)
        return table.inputs(columns, rows)

    @property
    def learns_unlabelled(self) -> bool:
        """Whether a model can learn this task from the teacher's answers alone."""
        return type(self).targets_of is not Task.targets_of

    def unlabelled(self, inputs: tuple[tuple[Any, ...], ...], train: Rows) -> Rows:
        """Returns rows without labels, which the teacher will judge.

        Until then, each of them has the targets of train's first row, so that they have the right shape.

        Args:
            inputs: the input columns, as the method `inputs` returns them.
            train: the rows of train.
        """
        return replace(train.take(np.zeros(len(inputs[0]), dtype=np.int64)), inputs=inputs, places=())

    def targets_of(self, outputs: Outputs, examples: Examples) -> Tensor:
        """Returns the teacher's answers as targets: those that an example without a label would have if they were true.

        Only a task with this method learns from unlabelled texts.

        Args:
            outputs: the teacher's outputs for the examples.
            examples: the examples; their targets have the right shape, and stand for nothing.
        """
        raise NotImplementedError

    def learned_from(self, train: Rows) -> tuple[Rows, list[str]]:
        """Returns the rows of train as they are learned from, and sentences for the user on what was changed.

        It is called after rows of train were held out. So what it leaves out is still measured on.
        """
        return train, []

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns sentences for the user that say how many rows there are, and what that means for the results.

        Args:
            rows: the rows of train, validation and test, as they are learned from and reported on.
            labels: the names of the head's outputs.
        """
        return []

    def renumbered(self, rows: Rows, order: Int64[np.ndarray, " classes"], labels: Sequence[str]) -> Rows:
        """Returns the rows with their targets numbered as the head's outputs are.

        Args:
            rows: rows that `read` returned.
            order: for each label of the data, the index of the head's output that stands for it.
            labels: the names of the head's outputs.
        """
        return rows.renumbered(order, tuple(labels))

    def texts(self, inputs: Sequence[Sequence[Any]], tokenizer: Any) -> tuple[tuple[Any, ...], ...]:
        """Returns the texts of the documents as a tokenizer takes them: one list, or two for pairs of texts.

        Args:
            inputs: the input columns, as the method `inputs` or rows have them.
            tokenizer: a Hugging Face tokenizer.

        Raises:
            InputError: The tokenizer cannot read these columns.
        """
        return tuple(tuple(column) for column in inputs)

    @abstractmethod
    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Returns the rows as examples. A row for which the tokenizer gives no token is left out.

        Args:
            rows: rows that `read` returned.
            tokenizer: a Hugging Face tokenizer.
            max_length: the most tokens of a document, with its special tokens.

        Raises:
            InputError: max_length leaves no room for a token beside the special ones, or there is no row with a token.
        """

    def protect(self, tokens: Tokens, separator: int | None, typed: Int[Tensor, " docs"] | None = None) -> Tokens:
        """Returns the documents with the tokens of `protected_part` protected, as well as the first of each document.

        `encode` and a deployed model both call this method, so that training and use protect the same tokens. Only
        `encode` knows which separators stand in a text itself.

        Args:
            tokens: the documents.
            separator: the id of the token that ends the first part of a document. None protects no part: a user may
                want that, and a model's config then says so.
            typed: how many separators the first text of each document holds itself; None for 0 each.
        """
        if self.protected_part is None or separator is None:
            return tokens
        return protect_part(tokens, self.protected_part, separator, typed)

    @abstractmethod
    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that the targets fit a head with so many outputs.

        Raises:
            InputError: They do not.
        """

    @abstractmethod
    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns the loss of each example against its target, in nats."""

    @abstractmethod
    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns the loss of each example against the teacher's outputs, in nats.

        Args:
            outputs: the outputs of the model that learns.
            teacher_outputs: the outputs of the teacher for the same examples.
            examples: the examples.
            temperature: makes both distributions softer where it is above 1.
        """

    def learning_loss(
        self, outputs: Outputs, examples: Examples, gold: float = 1.0, temperature: float = 1.0
    ) -> PerExample:
        """Returns the loss from which a model learns, in nats: against the targets, and against the teacher's outputs.

        For an example with a label it is gold · `loss` + (1 − gold) · `distil`. For one without, it is `distil`.

        Args:
            outputs: the outputs of the model that learns.
            examples: the examples, with the teacher's outputs unless the targets have all of the loss.
            gold: the share of the targets.
            temperature: that of `distil`.
        """
        if examples.teacher is None or (gold == 1 and examples.labelled is None):
            return self.loss(outputs, examples)
        soft = self.distil(outputs, examples.teacher, examples, temperature)
        if gold == 0:
            return soft
        mixed = gold * self.loss(outputs, examples) + (1 - gold) * soft
        return mixed if examples.labelled is None else mixed.where(examples.labelled, soft)

    def fidelity(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns the fidelity of each example, in nats: −loss, but not below `FIDELITY_FLOOR`.

        A trajectory is paid for it. For an example without a label, the loss is that against the teacher's outputs.
        """
        return -self.learning_loss(outputs, examples).clamp(max=-FIDELITY_FLOOR)

    def sensed(self, outputs: Outputs, examples: Examples) -> Float[Tensor, "kinds examples"]:
        """Returns for each example the numbers that a token which matters changes; saliency is measured by them.

        It is the loss. A task whose targets are the teacher's own outputs needs others: at the teacher, its loss is
        least, so that to first order no token would change it.
        """
        return self.loss(outputs, examples)[None]

    @abstractmethod
    def prior(self, examples: Examples) -> float:
        """Returns the mean loss, in nats, of a prediction that knows how frequent each target is and reads no text.

        The knowledge of a model (`known`) and the default penalty are measured against it.
        """

    def known(self, outputs: Outputs, examples: Examples) -> float:
        """Returns the prior minus the mean loss, in nats: how much the model knows beyond the targets' frequencies.

        This is the predictive V-information of Xu et al. (ICLR 2020, definition 2). Their model
        that sees no input is here the one that predicts the frequencies of the targets.
        """
        return self.prior(examples) - float(self.loss(outputs.double(), examples).mean())

    def start(self, train: Examples) -> float:
        """Returns what the outputs of a new head are to be on average before it learns; it is added to its bias."""
        return 0.0

    def unit(self, train: Examples) -> float:
        """Returns the size of the differences between outputs: that of a logit, or the standard deviation of numbers.

        A new head is fitted in this unit, so that it is the same one whatever the numbers are measured in.
        """
        return 1.0

    def settled(self, examples: Examples, outputs: Outputs, validation: Examples, on_validation: Tensor) -> Examples:
        """Returns the examples with what their targets say of the teacher; the same ones where they say nothing.

        Args:
            examples: the examples of a split.
            outputs: the teacher's outputs for them.
            validation: the validation examples.
            on_validation: the teacher's outputs on validation.
        """
        return examples

    def threshold(self, outputs: Outputs, examples: Examples) -> float:
        """Returns the number above which an output means yes, so that the quality on these examples is highest.

        It is subtracted from the bias of the head, so that a deployed model's threshold is 0. Only a task whose
        `has_threshold` is set is asked.

        Args:
            outputs: the head's outputs for these examples.
            examples: the validation examples, with all their tokens.
        """
        return 0.0

    @abstractmethod
    def decode(self, outputs: Outputs, examples: Examples) -> list[Any]:
        """Returns for each example what a user reads, such as its class index."""

    @abstractmethod
    def commonest(self, train: Examples, examples: Examples) -> list[Any]:
        """Returns for each example the answer that is the most frequent one in train, as `decode` would give it.

        Args:
            train: the training examples.
            examples: the examples to answer.
        """

    @abstractmethod
    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns how right each example is, from 0 to 1."""

    def weights(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns how much each example counts in the quality.

        It is 1, unless the metric counts parts of an example, such as its words.
        """
        return [1.0] * len(examples)

    def qualities(
        self, decoded: Sequence[Any], examples: Examples, times: Iterable[Times]
    ) -> Float[np.ndarray, " resamples"]:
        """Returns the quality of each resample of a split, from 0 to 1.

        It is the mean of `correct` with the weights of `weights`. A task whose metric is no such mean says itself what
        it is. A resample in which nothing counts has the quality 1, because nothing in it is wrong.

        Args:
            decoded: the answers for the examples of the split.
            examples: the split.
            times: how often each resample holds each example, in blocks of resamples.
        """
        counts = np.array(self.weights(decoded, examples), dtype=np.float64)
        right = counts * np.array(self.correct(decoded, examples), dtype=np.float64)
        return np.concatenate([_means(each @ right, each @ counts) for each in times])

    def quality(self, decoded: Sequence[Any], examples: Examples) -> float:
        """Returns the quality of a split, from 0 to 1: that of the resample which holds each example once."""
        return float(self.qualities(decoded, examples, [np.ones((1, len(examples)))])[0])

    def figures(self, decoded: Sequence[Any], examples: Examples) -> dict[str, float]:
        """Returns further measures of a split beside its quality, by their names; none unless a task has some.

        A measure that has no value for this split is left out.
        """
        return {}


def check_reduced(model: object, name: str) -> None:
    """Checks that a model is a reduced model of a task, such as "embedding".

    Raises:
        InputError: It is another object, such as a plain model, or a reduced model of another task.
    """
    task = getattr(model, "task", None)
    if not isinstance(task, Task):
        raise InputError(
            f"model must be a reduced model of task {name}, as trbert.load returns it, and is of class "
            f"{type(model).__name__}: make one with tune/search.py --task {name}"
        )
    if task.name != name:
        raise InputError(
            f"model must be of task {name}, and is of task {task.name}: load one that was searched with --task {name}"
        )


def _means(sums: Float[np.ndarray, " block"], counts: Float[np.ndarray, " block"]) -> Float[np.ndarray, " block"]:
    """Returns sums / counts, and 1 where the count is 0."""
    return np.divide(sums, counts, out=np.ones_like(sums), where=counts > 0)
