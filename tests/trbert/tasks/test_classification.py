"""Classification: what it reads of tables, encoding, losses, what is known, quality."""

import doctest
import math
import re

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from torch.testing import assert_close

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks import TASKS, rows, task_of
from trbert.tasks.examples import Examples
from trbert.tasks.over_texts import encode_texts
from trbert.tasks.rows import Columns, Rows, Table
from trbert.tasks.task import FIDELITY_FLOOR

TASK = TASKS["classification"]


def test_texts_become_one_row_of_tokens(tokenizer):
    tokens, truncated, _ = encode_texts(tokenizer, (["a b", "c", "d x"],), 10)
    assert tokens.input_ids.tolist() == [2, 4, 5, 3, 2, 6, 3, 2, 7, 1, 3]
    assert tokens.protected.nonzero()[:, 0].tolist() == [0, 4, 7]
    assert tokens.lengths.tolist() == [4, 3, 4]
    assert truncated == 0


def test_long_texts_are_truncated_and_counted(tokenizer):
    tokens, truncated, _ = encode_texts(tokenizer, (["a b c d", "a b", "a b c"],), 4)
    assert tokens.input_ids.tolist() == [2, 4, 5, 3] * 3
    assert truncated == 2


def test_a_pair_is_the_tokenizers_own_and_its_first_token_alone_is_protected(tokenizer):
    tokens, truncated, _ = encode_texts(tokenizer, (["a b", "c"], ["c d a", "d"]), 10)
    assert tokens.input_ids.tolist() == [2, 4, 5, 3, 6, 7, 4, 3, 2, 6, 3, 7, 3]
    assert tokens.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1]
    assert tokens.protected.nonzero()[:, 0].tolist() == [0, 8]
    assert truncated == 0


def test_of_a_long_pair_the_longer_text_is_truncated(tokenizer):
    # Six tokens, three of them special: the one-word text stays, whichever it is.
    tokens, truncated, _ = encode_texts(tokenizer, (["a b c d", "a", "a b"], ["d", "d c b a", "d"]), 6)
    assert tokens.input_ids.tolist() == [2, 4, 5, 3, 7, 3, 2, 4, 3, 7, 6, 3, 2, 4, 5, 3, 7, 3]
    assert tokens.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert truncated == 2


def test_a_pair_has_no_segments_where_the_tokenizer_gives_none(tokenizer):
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert encode_texts(tokenizer, (["a"], ["b"]), 8)[0].token_type_ids is None


def test_an_empty_text_is_its_special_tokens(tokenizer):
    assert encode_texts(tokenizer, ([""],), 4)[0].input_ids.tolist() == [2, 3]


def test_a_length_without_room_for_text_is_refused(tokenizer):
    message = "max_length must be more than the 2 special tokens, and is 2"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        encode_texts(tokenizer, (["a"],), 2)
    with pytest.raises(InputError, match=r"^max_length must be more than the 3 special tokens, and is 3$"):
        encode_texts(tokenizer, (["a"], ["b"]), 3)


def test_no_text_is_refused(tokenizer):
    message = "texts must not be empty: pass at least one document"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        encode_texts(tokenizer, ([],), 8)


def test_rows_become_examples_of_one_document_each(tokenizer):
    rows = Rows((("a b", "c"), ("d", "a b c")), np.array([1, 0]), np.array([1, 0]))
    encoded = TASK.encode(rows, tokenizer, 6)
    examples = encoded.examples
    expected, _, _ = encode_texts(tokenizer, rows.inputs, 6)
    assert encoded.truncated == 1  # c and a b c are four words, and three special tokens
    assert encoded.kept.tolist() == [0, 1]
    assert examples.tokens.input_ids.tolist() == expected.input_ids.tolist()
    assert examples.targets.tolist() == [1, 0]
    assert examples.owner.tolist() == [0, 1]
    assert (examples.reads, examples.teacher) == ("documents", None)
    assert examples.tokens.protected.nonzero()[:, 0].tolist() == [0, 6]


def test_rows_without_a_token_are_left_out_with_their_labels(tokenizer):
    # Without special tokens, a text of blanks has no token. In a pair, one of both texts is enough.
    tokenizer.backend_tokenizer.post_processor = None
    rows = Rows((("a b", " ", "", "c d a"),), np.array([1, 0, 0, 2]), np.array([1, 0, 0, 2]))
    encoded = TASK.encode(rows, tokenizer, 2)
    assert encoded.kept.tolist() == [0, 3]
    assert encoded.examples.targets.tolist() == [1, 2]
    assert encoded.examples.tokens.input_ids.tolist() == [4, 5, 6, 7]
    assert encoded.truncated == 1
    tokens, _, kept = encode_texts(tokenizer, ((" ", "a", " "), ("b", " ", "")), 4)
    assert (tokens.input_ids.tolist(), kept.tolist()) == ([5, 4], [0, 1])


def test_texts_without_any_token_are_refused(tokenizer):
    tokenizer.backend_tokenizer.post_processor = None
    told = (
        "tokenizer must give tokens for the texts, and gives none for any of the 2, such as ' ': "
        "pass a model whose tokenizer knows this language"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        encode_texts(tokenizer, ((" ", ""),), 4)


def of_labels(*labels):
    """Returns examples of one token each with these labels."""
    return Examples.of_documents(Tokens.from_lists([[5]] * len(labels), None), torch.tensor(labels))


def test_the_loss_is_the_labels_negative_log_probability_by_hand():
    # softmax(log 1, log 3) = (1/4, 3/4).
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    assert_close(TASK.loss(logits, of_labels(0, 1)), torch.tensor([math.log(4), math.log(4 / 3)]))


def test_fidelity_is_the_labels_log_probability_down_to_a_floor():
    # softmax(log 1, log 3) = (1/4, 3/4); a label at odds e^-20 would be worth -20 nats.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [0.0, -20.0]])
    expected = torch.tensor([math.log(0.25), math.log(0.75), -5.0])
    assert_close(TASK.fidelity(logits, of_labels(0, 1, 1)), expected)
    assert FIDELITY_FLOOR == -5.0


def test_losses_are_computed_in_float32_at_least():
    # At half precision the log of a sum of exponentials of 0 and 7 is 7.0; in truth it is 7 + log(1 + e^-7).
    half = torch.tensor([[0.0, 7.0]], dtype=torch.bfloat16)
    exact = math.log1p(math.exp(-7))
    examples = of_labels(1)
    assert_close(TASK.loss(half, examples), torch.tensor([exact]))
    assert TASK.loss(half.double(), examples).dtype == torch.float64
    assert TASK.distil(half, half, examples, 1.0).dtype == torch.float32


def test_accuracy_by_hand():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    examples = of_labels(1, 1, 1)
    assert TASK.decode(logits, examples) == [1, 0, 1]
    assert TASK.correct([1, 0, 1], examples) == [1.0, 0.0, 1.0]
    assert TASK.quality([1, 0, 1], examples) == pytest.approx(2 / 3)


def test_macro_f1_is_the_mean_over_the_classes_that_occur():
    examples = Examples.of_documents(Tokens.from_lists([[2]] * 4, None), torch.tensor([0, 0, 1, 4]))
    # Class 0: one of two found, and nothing else. Class 1: found, and given once too often. Class 2 is given to
    # nothing. Class 3 is given once, wrongly; class 4 is never given.
    assert TASK.figures([0, 1, 1, 3], examples) == {"macro F1": pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)}
    assert TASK.metric == "accuracy"


def test_what_a_model_knows_by_hand():
    # Labels 0, 0, 0, 1: H = ¾ log 4/3 + ¼ log 4. Said with ¾ and ¼ each time nothing is known beyond that.
    examples = of_labels(0, 0, 0, 1)
    frequencies = torch.tensor([0.75, 0.25]).log().expand(4, 2)
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert TASK.prior(examples) == pytest.approx(entropy, abs=1e-6)
    assert TASK.known(frequencies, examples) == pytest.approx(0.0, abs=1e-6)
    # Odds of 9 for the right class leave log 10/9 of H; odds of 9 for the wrong one make it negative.
    right = torch.tensor([[9.0, 1.0]] * 3 + [[1.0, 9.0]]).log()
    assert TASK.known(right, examples) == pytest.approx(entropy - math.log(10 / 9), abs=1e-6)
    assert TASK.known(right.flip(1), examples) == pytest.approx(entropy - math.log(10), abs=1e-6)


def test_a_class_that_nobody_has_makes_no_difference():
    logits = torch.tensor([[0.0, 0.0, -200.0], [0.0, 0.0, -200.0]])
    assert TASK.known(logits, of_labels(0, 1)) == pytest.approx(0.0)
    # Class 1 is the one without a row: its share of 0 adds nothing.
    assert TASK.prior(of_labels(0, 2)) == pytest.approx(math.log(2))


def distilled(outputs, teacher, temperature=1.0):
    """Returns what two classes' outputs lack of the teacher's, of one example."""
    return TASK.distil(outputs, teacher, of_labels(0), temperature).item()


def test_the_distillation_loss_by_hand():
    # Even odds against even odds: log 2.
    assert distilled(torch.zeros(1, 2), torch.zeros(1, 2)) == pytest.approx(math.log(2))
    # The teacher says (3/4, 1/4), the student (1/2, 1/2): log 2 again. The student (1/4, 3/4): ¾ log 4 + ¼ log 4/3.
    teacher = torch.tensor([[math.log(3), 0.0]])
    assert distilled(torch.zeros(1, 2), teacher) == pytest.approx(math.log(2))
    expected = 0.75 * math.log(4) + 0.25 * math.log(4 / 3)
    assert distilled(teacher.flip(1), teacher) == pytest.approx(expected)
    both = TASK.distil(torch.cat([torch.zeros(1, 2), teacher.flip(1)]), teacher.expand(2, 2), of_labels(0, 1), 1.0)
    assert both.tolist() == pytest.approx([math.log(2), expected])


def test_a_temperature_softens_both_sides_and_is_squared_outside():
    # At T = 2 the teacher's 2·log 3 is log 3: (3/4, 1/4). The student is even: 2² · log 2.
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    assert distilled(torch.zeros(1, 2), teacher, 2.0) == pytest.approx(4 * math.log(2))
    # The student's own 2·log 3 is log 3 too: 2² · (¾ log 4/3 + ¼ log 4).
    assert distilled(teacher, teacher, 2.0) == pytest.approx(4 * (0.75 * math.log(4 / 3) + 0.25 * math.log(4)))


@pytest.mark.parametrize("labels", [(0, 3), (-1, 2)])
def test_labels_that_a_head_lacks_are_refused(labels):
    told = (
        f"labels must be from 0 to 2, and go from {labels[0]} to {labels[1]}: "
        "pass class indices as the model numbers them"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        TASK.check_targets(of_labels(*labels), 3)
    TASK.check_targets(of_labels(0, 2), 3)


def test_a_task_is_found_by_its_name():
    assert task_of("classification") is TASK
    told = f"task must be one of {', '.join(TASKS)}, and is 'nonsense': leave it out, and it is found"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        task_of("nonsense")


def test_the_commonest_class_of_train_is_answered():
    assert TASK.text_classes
    assert TASK.commonest(of_labels(2, 0, 2, 1), of_labels(0, 2)) == [2, 2]
    assert TASK.commonest(of_labels(1, 0), of_labels(1)) == [0]


@pytest.mark.parametrize(
    ("problem", "what"), [("multi_label_classification", "several labels"), ("regression", "a number")]
)
def test_a_model_of_another_problem_is_refused(problem, what):
    config = transformers.BertConfig(problem_type=problem, name_or_path="some/model")
    told = (
        f"model 'some/model' must give each text one label, and was trained to give it {what} "
        f"(problem_type {problem}): pass --new-head, or another model"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        TASK.check_config(config)
    TASK.check_config(transformers.BertConfig(problem_type="single_label_classification"))


# Tables. What is refused, and in which words, stands in tests/trbert/data/test_splits.py.

COLUMNS = Columns(("text", "other"), "kind")


def table_of(origin, *records, marks=None):
    """Returns a table of (text, other, kind), with the marks in_train where there are some."""
    values = dict(zip(("text", "other", "kind"), map(list, zip(*records, strict=True)), strict=True))
    return Table(origin, values if marks is None else values | {"in_train": marks})


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(rows).attempted
    assert doctest.testmod(rows).failed == 0


def test_columns_are_named_by_their_options():
    columns = TASK.columns("text,other", "kind")
    assert columns == COLUMNS
    assert columns.needed == (("--text-column", "text"), ("--text-column", "other"), ("--label-column", "kind"))
    assert columns.wanted == ("text", "other", "kind", "in_train")


def test_tables_become_rows_of_class_indices_by_hand():
    tables = {
        "train": table_of("train.csv", ("x", "1", 20.0), ("y", "2", 3), ("z", " ", 3), marks=[True] * 3),
        "validation": table_of("validation.csv", ("s", "5", -1), (None, "6", -1)),
        "test": table_of("test.csv", ("v", "3", 3), ("w", "4", 20), ("", "7", 20), marks=[False, True, True]),
    }
    # The second row of test stands in train; the third is blank before that. 3 is below 20, and 20.0 is 20.
    reading = TASK.read(tables, COLUMNS)
    assert reading.labels == ("3", "20")
    assert list(reading.rows) == ["train", "test"]
    train, test = reading.rows["train"], reading.rows["test"]
    assert (train.inputs, train.targets.tolist(), train.strata.tolist()) == ((("x", "y"), ("1", "2")), [1, 0], [1, 0])
    assert (test.inputs, test.targets.tolist(), test.strata.tolist()) == ((("v",), ("3",)), [0], [0])
    assert reading.notes == (
        "validation is not used: its 2 labels are all -1, which stands for secret ones",
        "train: 1 empty texts left out",
        "test: 1 empty texts left out",
        "test: 1 rows left out that are in train, too (in_train)",
    )
    assert tables["test"].values["kind"] == [3, 20, 20]  # the table stays as it was


def test_a_test_table_that_stands_in_train_altogether_is_refused():
    train = table_of("train.csv", ("x", "1", "a"), ("y", "2", "b"))
    test = table_of("test.csv", ("v", "3", "a"), ("w", "4", "b"), marks=[True, True])
    told = "test.csv must have rows that are not in train, and all 2 are marked in_train: remove the column or add rows"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        TASK.read({"train": train, "test": test}, COLUMNS)


@pytest.mark.parametrize(
    "marks", [[True, False], [True, None], [1, 0], [1.0, float("nan")], ["true", "false"], ["TRUE", ""], ["1", "0"]]
)
def test_a_mark_is_true_or_1_in_any_writing_and_an_empty_one_is_false(marks):
    train = table_of("train.csv", ("x", "1", "a"), ("y", "2", "b"))
    test = table_of("test.csv", ("v", "3", "a"), ("w", "4", "b"), marks=marks)
    assert TASK.read({"train": train, "test": test}, COLUMNS).rows["test"].inputs == (("w",), ("4",))


@pytest.mark.parametrize(("mark", "shown"), [("no", "the str 'no'"), (2, "the int 2"), ([True], "the list [True]")])
def test_another_mark_than_true_or_false_is_refused(mark, shown):
    train = table_of("train.csv", ("x", "1", "a"), ("y", "2", "b"))
    test = table_of("test.csv", ("v", "3", "a"), ("w", "4", "b"), marks=[True, mark])
    told = (
        f"row 1 of test.csv must have true or false in column 'in_train', and has {shown}: correct the row, or remove "
        "or rename the column"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        TASK.read({"train": train, "test": test}, COLUMNS)


def test_labels_of_the_same_value_are_in_the_order_of_their_texts():
    records = [(f"text {label}", "1", label) for label in ("2", "1", "01", "0001", "00001", "001")]
    reading = TASK.read({"train": table_of("train.csv", *records)}, COLUMNS)
    assert reading.labels == ("00001", "0001", "001", "01", "1", "2")


def test_labels_of_rows_that_are_left_out_are_not_looked_at():
    train = table_of("train.csv", ("x", "1", "a"), ("y", "2", "b"), (" ", "3", 7), ("z", "4", "a"))
    test = table_of("test.csv", ("v", "5", "b"), ("w", "6", None), marks=[False, True])
    reading = TASK.read({"train": train, "test": test}, COLUMNS)
    assert reading.rows["train"].targets.tolist() == [0, 1, 0]
    assert reading.rows["test"].targets.tolist() == [1]


def test_classes_of_the_same_size_are_counted_once():
    labels = tuple(f"c{row}" for row in range(9))
    ten = Rows((("x",) * 18,), np.arange(18) % 9, np.arange(18) % 9)
    told = TASK.counts({"train": ten, "validation": ten, "test": ten}, labels)
    assert told[0] == "train: 18 rows of 9 classes, 2 of each"


def test_a_tokenizer_that_fails_at_a_text_is_told():
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="gone"))
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    assert encode_texts(plain, (["a"],), 8)[0].input_ids.tolist() == [0]
    with pytest.raises(InputError, match=r"must read the texts of the data, and does not \(.*correct tokenizer\.json"):
        encode_texts(plain, (["a", "other"],), 8)
