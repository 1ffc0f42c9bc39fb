"""Question answering: the span of a context that answers a question, or that there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks.bad_rows import rows_with_room
from trbert.tasks.examples import Encoded, Examples, Outputs, exact
from trbert.tasks.over_texts import count_tokens
from trbert.tasks.rows import Columns, Reading, Rows, Table
from trbert.tasks.spans.answers import best, exact_match, f1
from trbert.tasks.spans.passages import ENDS, NOT_ALLOWED, STARTS, Passage, targets_of
from trbert.tasks.spans.questions import NO_PLACE, has_places, read_questions
from trbert.tasks.spans.scores import best_spans, first_tokens, with_no_answer
from trbert.tasks.spans.windows import LEAST_SHARE, Window, windows_of
from trbert.tasks.task import PerExample, Task
from trbert.tasks.texts import has_texts, is_missing, mostly
from trbert.wording import cut

JUDGED = 1000
"""About how many training questions say which answer without a model is the best one."""


class QuestionAnswering(Task):
    """Predicts which span of a context answers a question, or that none does. The question is never dropped.

    A question is an example. Its documents are windows of its context, each after the question. The head gives each
    token two logits: of starting the answer, and of ending it. One softmax over all windows turns them into
    probabilities (the shared normalisation of Clark & Gardner 2018, arXiv 1710.10723, section 3.2), so that the scores
    of windows can be compared.

    The targets of an example have an entry for each of its tokens, over all its documents: `STARTS` where a true answer
    starts, plus `ENDS` where one ends, and 0 at other tokens of the context. The first token of an example stands for
    no answer. Elsewhere and as padding the target is `NOT_ALLOWED`.
    """

    name = "question_answering"
    head = "AutoModelForQuestionAnswering"
    reads = "tokens"
    metric = "F1"
    text_column = "question,context"
    label_column = "answers"
    num_outputs = 2
    protected_part: ClassVar = "first"

    def columns(self, text_column: str | None = None, label_column: str | None = None) -> Columns:
        """Returns the columns of the questions, of their contexts, and of the answers.

        Raises:
            InputError: text_column does not name two columns.
        """
        columns = super().columns(text_column, label_column)
        if len(columns.inputs) != 2:
            raise InputError(
                f"--text-column must name the columns of the question and of its context, and is {text_column!r}: "
                f"write {self.text_column}"
            )
        return columns

    def sign(self, table: Table, columns: Columns) -> str:
        """Returns that the answers have places."""
        answers = [value for value in table.values[columns.target] if not is_missing(value) and value != []]
        placed = bool(answers) and has_texts(table, columns.inputs) and mostly(answers, has_places)
        return f"column {columns.target!r} of {table.origin} has answers with their places" if placed else ""

    def check_config(self, config: Any) -> None:
        """Checks that a fine-tuned model says where an answer starts and where it ends.

        Raises:
            InputError: It has another number of outputs.
        """
        if config.num_labels != self.num_outputs:
            raise InputError(
                f"model {config.name_or_path!r} must have two outputs for each token, that an answer starts there and "
                f"that it ends there, and has {config.num_labels}: pass --new-head, or another model"
            )

    def read(self, tables: Mapping[str, Table], columns: Columns, renames: Mapping[str, str] | None = None) -> Reading:
        """Returns the questions of every split with their contexts, and the places of their answers in these.

        Rows with a blank question or context are left out. In a split other than train, so are rows that are in train,
        too. A split other than train without any answers is not used.

        Raises:
            InputError: A row's answers are not of a known form, or one is not in the row's context. Or no question of
                train has an answer. Or labels are to be renamed.
        """
        if renames is not None:
            raise InputError("--label-map must rename labels, and answers are no labels: leave it out")
        return read_questions(tables, columns)

    def counts(self, rows: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
        """Returns how many questions have no answer, and how many contexts of a split stand in train, too."""
        found, of_train = [], set(rows["train"].inputs[1])
        for split, part in rows.items():
            contexts = set(part.inputs[1])
            none = int((part.targets[:, 0, 0] == NO_PLACE).sum())
            without = f", {none:,} of them without an answer" if part.names else ""
            found.append(f"{split}: {len(part):,} questions{without}, on {len(contexts):,} contexts")
            if split != "train" and (shared := len(contexts & of_train)):
                found.append(
                    f"{split}: {shared:,} of its {len(contexts):,} contexts stand in train, too, with other questions, "
                    "so that any quality on them may be too high: split by context to avoid it"
                )
        return found

    def most_of_question(self, tokenizer: Any, max_length: int) -> int:
        """Returns the most tokens of a question, so that enough of a document is left to its context.

        Args:
            tokenizer: a Hugging Face tokenizer.
            max_length: the most tokens of a document, with its special tokens.
        """
        return max_length - int(tokenizer.num_special_tokens_to_add(pair=True)) - max(1, max_length // LEAST_SHARE)

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Returns an example for each question: one document, or several where the context is too long for one.

        The first token of each document and the question are protected. A question is left out whose context has no
        token, or none of whose answers has one.

        Raises:
            InputError: As in `Task.encode`. Or a question leaves its context too little of a document.
        """
        if len(rows) == 0:
            raise InputError("rows must not be empty: pass at least one")
        lengths = np.array(count_tokens(tokenizer, rows.inputs[0]))
        room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
        most = self.most_of_question(tokenizer, max_length)
        rule = f"a question that leaves at least {room - most} of {max_length} tokens to its context"
        fitting, notes_of_long = rows_with_room(rows, lengths.tolist(), most, rule)
        questions, contexts = rows.take(fitting).inputs
        found = windows_of(tokenizer, questions, contexts, (room - lengths[fitting]).tolist(), max_length)
        kept: list[int] = []
        windows: list[Window] = []
        targets: list[Tensor] = []
        counts: list[int] = []
        passages: list[Passage] = []
        without = 0
        for row, context, own in zip(fitting.tolist(), contexts, found, strict=True):
            places = [(start, end) for start, end in rows.targets[row].tolist() if start != NO_PLACE]
            marked = targets_of(own, places)
            if marked is None or not any(window.places.any() for window in own):
                without += 1
                continue
            kept.append(row)
            windows += own
            targets.append(torch.from_numpy(marked))
            counts.append(len(own))
            answers = tuple(context[start:end] for start, end in places)
            passages.append(Passage(context, answers, np.concatenate([each.places for each in own])))
        if not kept:
            raise InputError(
                f"tokenizer must give tokens for the contexts, and gives none for any of the {len(rows)}, such as "
                f"{cut(contexts[0])}: pass a model whose tokenizer knows this language"
            )
        kinds = [each.kinds for each in windows if each.kinds is not None]
        tokens = Tokens.from_lists([each.ids for each in windows], kinds or None)
        examples = Examples(
            tokens=self.protect(tokens, tokenizer.sep_token_id, torch.tensor([each.typed for each in windows])),
            targets=pad_sequence(targets, batch_first=True, padding_value=NOT_ALLOWED),
            owner=torch.arange(len(kept)).repeat_interleave(torch.tensor(counts)),
            reads=self.reads,
            names=rows.names,
            references=tuple(passages),
        )
        notes = [*notes_of_long]
        if parted := sum(count > 1 for count in counts):
            notes.append(f"{parted:,} contexts are longer than a document, and read as several windows that overlap")
        if without:
            notes.append(
                f"{without:,} rows left out, because the tokenizer gives no token for their answer or their context"
            )
        return Encoded(examples, 0, np.array(kept, dtype=np.int64), tuple(notes), skipped=len(rows) - len(fitting))

    def check_targets(self, examples: Examples, num_outputs: int) -> None:
        """Checks that the head says where an answer starts and where it ends, and that targets mark no more than that.

        Raises:
            InputError: The head does not have two outputs, or a target is not from 0 to `STARTS` + `ENDS`.
        """
        if num_outputs != 2:
            raise InputError(
                "the head must have two outputs for each token, that an answer starts there and that it ends there, "
                f"and has {num_outputs}: pass --new-head, or another model"
            )
        marks = examples.targets[examples.targets != NOT_ALLOWED]
        if not 0 <= int(marks.min()) <= int(marks.max()) <= STARTS + ENDS:
            raise InputError(
                f"targets must be from 0 to {STARTS + ENDS}, and go from {int(marks.min())} to {int(marks.max())}: "
                "pass targets as encode returns them"
            )

    def loss(self, outputs: Outputs, examples: Examples) -> PerExample:
        """Returns −½ log p(start) − ½ log p(end). Each is the probability of all places where a true answer does so."""
        logits, targets = with_no_answer(exact(outputs), examples), examples.token_targets
        allowed = targets != NOT_ALLOWED
        true = torch.stack([allowed & ((targets & kind) > 0) for kind in (STARTS, ENDS)], -1)
        every = allowed[:, None].expand_as(true)
        return (examples.log_sums(logits, every) - examples.log_sums(logits, true)).mean(-1)

    def distil(self, outputs: Outputs, teacher_outputs: Outputs, examples: Examples, temperature: float) -> PerExample:
        """Returns T² · cross-entropy against the teacher's softened distributions of starts and of ends, their mean.

        Hinton et al. 2015, section 2. Both distributions are over the tokens of the context in all windows, and no
        answer.
        """
        allowed = (examples.token_targets != NOT_ALLOWED)[:, None].expand(-1, 2)
        owner = examples.output_owner

        def log_shares(said: Outputs) -> Outputs:
            logits = with_no_answer(exact(said), examples) / temperature
            return (logits - examples.log_sums(logits, allowed)[owner]).masked_fill(~allowed, 0.0)

        losses = -(log_shares(teacher_outputs).exp() * log_shares(outputs)).mean(-1)
        return temperature**2 * losses.new_zeros(len(examples)).index_add(0, owner, losses)

    def unlabelled(self, inputs: tuple[tuple[Any, ...], ...], train: Rows) -> Rows:
        """Returns questions without an answer. Until the teacher has judged them, there is none in their contexts."""
        return replace(super().unlabelled(inputs, train), targets=np.full((len(inputs[0]), 1, 2), NO_PLACE))

    def targets_of(self, outputs: Outputs, examples: Examples) -> Tensor:
        """Returns the span that is said of each question as its one answer, marked in the window where it stands."""
        spans, slots = best_spans(outputs, examples), first_tokens(examples)
        none = (spans.none > spans.score) & bool(examples.names)
        marks = torch.where(examples.token_targets == NOT_ALLOWED, NOT_ALLOWED, 0).to(examples.targets.dtype)
        for kind, places in ((STARTS, spans.first), (ENDS, spans.last)):
            marks[slots.where(none, places)] += kind
        return examples.with_token_targets(marks)

    def prior(self, examples: Examples) -> float:
        """Returns the mean loss, in nats, of a prediction that reads no text: to it all tokens are alike.

        So is no answer.
        """
        return float(
            self.loss(
                torch.zeros(examples.num_outputs, 2, dtype=torch.float64, device=examples.targets.device), examples
            ).mean()
        )

    def decode(self, outputs: Outputs, examples: Examples) -> list[str]:
        """Returns for each question the text that answers it; "" where there is no answer.

        That is the best span over all windows. Where questions without an answer are among the data, "" is said if its
        score is higher. Both are chosen as the usual post-processing of per-window models does.
        """
        spans = best_spans(outputs, examples)
        none = (spans.none > spans.score) & bool(examples.names)
        starts = examples.lengths.cumsum(0) - examples.lengths
        return [
            "" if empty else passage.context[slice(*passage.span(first, last))]
            for passage, empty, first, last in zip(
                examples.references,
                none.tolist(),
                (spans.first - starts).tolist(),
                (spans.last - starts).tolist(),
                strict=True,
            )
        ]

    def commonest(self, train: Examples, examples: Examples) -> list[str]:
        """Returns for each question the best of two answers that no model gives: "", or the context's first sentence.

        The better one on train is taken.
        """
        some = train.spread(JUDGED)
        sentences = self.quality([_first_sentence(passage.context) for passage in some.references], some)
        if self.quality([""] * len(some), some) > sentences:
            return [""] * len(examples)
        return [_first_sentence(passage.context) for passage in examples.references]

    def correct(self, decoded: Sequence[Any], examples: Examples) -> list[float]:
        """Returns for each question the F1 score of the words of the answer, against the true answer that fits best."""
        return [best(f1, said, passage.answers) for said, passage in zip(decoded, examples.references, strict=True)]

    def figures(self, decoded: Sequence[Any], examples: Examples) -> dict[str, float]:
        """Returns what is reported beside the quality, each from 0 to 1, by its name.

        That is the share of exact matches (EM); and where questions without an answer are among the data, the F1 score
        of those with one and of those without.
        """
        pairs = list(zip(decoded, examples.references, strict=True))
        exactly = [best(exact_match, said, passage.answers) for said, passage in pairs]
        found = {"EM": sum(exactly) / len(exactly)}
        if examples.names:
            scores = self.correct(decoded, examples)
            for name, wanted in (("F1 of answerable", True), ("F1 of unanswerable", False)):
                own = [score for score, (_, each) in zip(scores, pairs, strict=True) if bool(each.answers) is wanted]
                if own:
                    found[name] = sum(own) / len(own)
        return found


def _first_sentence(context: str) -> str:
    """Returns a text up to the first full stop that a blank follows."""
    return context.strip().split(". ")[0]
