"""A tokenizer of four words, for every task."""

import pytest

from tests.trbert.tasks.toys import word_tokenizer


@pytest.fixture
def tokenizer():
    """Words a to d, [CLS] before and [SEP] after; the second text of a pair is segment 1."""
    return word_tokenizer()
