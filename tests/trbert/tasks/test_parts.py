"""The parts of a document that is read as a pair of texts."""

import pytest
import torch

from trbert.errors import InputError
from trbert.packed.tokens import Tokens
from trbert.tasks import TASKS
from trbert.tasks.parts import first_alone, protect_part, separator_of, typed_separators

SEPARATOR = 2
ROW = Tokens.from_lists([[1, 7, 8, 2, 9, 2], [1, 7], [1, 2, 2, 7, 2]], None)
"""A pair; a document without a separator; a pair with an empty first text, as RoBERTa writes it."""


def marks(tokens):
    return [own.int().tolist() for own in tokens.protected.split(tokens.lengths.tolist())]


def test_the_first_part_ends_with_the_first_separator():
    found = protect_part(ROW, "first", SEPARATOR)
    assert marks(found) == [[1, 1, 1, 1, 0, 0], [1, 0], [1, 1, 0, 0, 0]]


def test_the_second_part_is_all_that_follows_the_first_separator():
    found = protect_part(ROW, "second", SEPARATOR)
    assert marks(found) == [[1, 0, 0, 0, 1, 1], [1, 0], [1, 0, 1, 1, 1]]


def test_separators_that_are_typed_into_the_first_text_end_no_part():
    # The second document has none after the typed one, as one that was cut off.
    tokens = Tokens.from_lists([[1, 7, 2, 8, 2, 9, 2], [1, 2, 7], [1, 7, 2, 2, 8, 2]], None)
    typed = torch.tensor([1, 1, 0])
    assert marks(protect_part(tokens, "first", SEPARATOR, typed)) == [
        [1, 1, 1, 1, 1, 0, 0],
        [1, 0, 0],
        [1, 1, 1, 0, 0, 0],
    ]
    assert marks(protect_part(tokens, "second", SEPARATOR, typed)) == [
        [1, 0, 0, 0, 0, 1, 1],
        [1, 0, 0],
        [1, 0, 0, 1, 1, 1],
    ]


def test_typed_separators_are_those_of_the_first_text(tokenizer):
    encoded = tokenizer(["a [SEP] b [SEP]", "a", ""], ["c", "c [SEP]", "[SEP]"])
    assert [typed_separators(encoded, number, 3) for number in range(3)] == [2, 0, 0]
    assert typed_separators(encoded, 0, None) == 0


def test_what_was_protected_stays_so_until_it_is_taken_back():
    found = protect_part(protect_part(ROW, "first", SEPARATOR), "second", SEPARATOR)
    assert marks(found) == [[1] * 6, [1, 0], [1] * 5]
    assert torch.equal(first_alone(found).protected, ROW.protected)


class Tokenizer:
    def __init__(self, separator):
        self.sep_token_id = separator


class Questions(type(TASKS["classification"])):
    name = "questions"
    protected_part = "first"


def test_a_task_with_a_part_takes_the_tokenizers_separator_unless_the_user_wants_no_protection():
    assert separator_of(Questions(), Tokenizer(5)) == 5
    assert separator_of(Questions(), Tokenizer(5), protect=False) is None
    assert separator_of(TASKS["classification"], Tokenizer(None)) is None
    with pytest.raises(InputError, match="must have a separating token, so that task questions can protect the first"):
        separator_of(Questions(), Tokenizer(None))


def test_without_a_separator_a_task_protects_the_first_tokens_alone():
    assert Questions().protect(ROW, None) is ROW
    assert marks(Questions().protect(ROW, SEPARATOR)) == marks(protect_part(ROW, "first", SEPARATOR))
