"""Documents of three texts and more, such as the triples of a knowledge graph: head, relation and tail."""

import re

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from trbert.bench.speed import Documents, _documents
from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.rows import Rows, Table

TASK = TASKS["classification"]
HEADS, RELATIONS, TAILS = ("a b", "c"), ("c", "d d"), ("d", "a b c")


def rows_of(*columns):
    labels = np.arange(len(columns[0])) % 2
    return Rows(columns, labels, labels)


def read(tokenizer, *columns, max_length=16):
    """Returns the ids and the types of each document."""
    tokens = TASK.encode(rows_of(*columns), tokenizer, max_length).examples.tokens
    sizes = tokens.lengths.tolist()
    return [[own.tolist() for own in values.split(sizes)] for values in (tokens.input_ids, tokens.token_type_ids)]


def test_a_table_of_triples_is_read():
    columns = TASK.columns("head,relation,tail", "true")
    table = Table("a.csv", {"head": HEADS, "relation": RELATIONS, "tail": TAILS, "true": ["yes", "no"]})
    rows = TASK.read({"train": table}, columns).rows["train"]
    assert rows.inputs == (HEADS, RELATIONS, TAILS)


def test_separators_stand_between_all_texts_and_those_after_the_first_are_one_segment(tokenizer):
    # [CLS] is 2, [SEP] is 3, and a to d are 4 to 7.
    ids, types = read(tokenizer, HEADS, RELATIONS, TAILS)
    assert ids == [[2, 4, 5, 3, 6, 3, 7, 3], [2, 6, 3, 7, 7, 3, 4, 5, 6, 3]]
    assert types == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]


def test_four_texts_are_joined_in_their_order(tokenizer):
    assert read(tokenizer, ("a",), ("b",), ("c",), ("d",))[0] == [[2, 4, 3, 5, 3, 6, 3, 7, 3]]


def test_the_longer_part_is_truncated_at_its_end(tokenizer):
    # At 8 tokens the second part, d d [SEP] a b c, loses two. At 9 a head of six words loses three.
    assert read(tokenizer, HEADS, RELATIONS, TAILS, max_length=8)[0][1] == [2, 6, 3, 7, 7, 3, 4, 3]
    assert read(tokenizer, ("a b c d a b",), ("c",), ("d",), max_length=9)[0] == [[2, 4, 5, 6, 3, 6, 3, 7, 3]]
    encoded = TASK.encode(rows_of(HEADS, RELATIONS, TAILS), tokenizer, 8)
    assert encoded.truncated == 1


def test_a_text_that_holds_the_separator_has_one_more(tokenizer):
    ids, types = read(tokenizer, ("a [SEP] b",), ("c[SEP]",), ("d",))
    assert ids == [[2, 4, 3, 5, 3, 6, 3, 3, 7, 3]]
    assert types == [[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]


def test_a_tokenizer_of_bytes_reads_no_blank_beside_the_separator():
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )
    a, b, c = (vocabulary[letter] for letter in "abc")
    tokens = TASK.encode(rows_of(("a",), ("b",), ("c",)), tokenizer, 16).examples.tokens
    assert tokens.input_ids.tolist() == [0, a, 1, 1, b, 1, c, 1]


def test_three_texts_without_a_separating_token_are_refused(tokenizer):
    tokenizer.sep_token = None
    told = (
        "the tokenizer must have a separating token to join the 3 columns of --text-column, and has none: name one "
        "column or two, or pass another --model"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        read(tokenizer, HEADS, RELATIONS, TAILS)
    assert read(tokenizer, HEADS, RELATIONS)[0][0] == [2, 4, 5, 3, 6, 3]


def test_a_bench_reads_the_documents_that_a_search_does(tokenizer):
    documents = _documents(TASK, tokenizer, (HEADS, RELATIONS, TAILS), 16, torch.device("cpu"))
    assert isinstance(documents, Documents)
    assert documents.lengths.tolist() == [8, 10]
    assert documents.input_ids[0].tolist() == [2, 4, 5, 3, 6, 3, 7, 3, 0, 0]
