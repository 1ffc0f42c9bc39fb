"""For tests: a task whose head reads tokens, the worked example of CONTRIBUTING.md, and a tokenizer of four words."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tokenizers.processors import TemplateProcessing

from trbert.errors import InputError
from trbert.tasks.examples import Encoded, Examples
from trbert.tasks.over_texts import encode_texts
from trbert.tasks.rows import Reading, Rows
from trbert.tasks.task import Task

CONTRIBUTING = Path(__file__).resolve().parents[3] / "CONTRIBUTING.md"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


def word_tokenizer():
    """Words a to d, [CLS] before and [SEP] after; the second text of a pair is segment 1."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def worked_example():
    """Returns the task of the worked example, and its case in the contract as it is written there."""
    section = re.split(r"\n##", CONTRIBUTING.read_text().split("\n### A new task\n")[1])[0]
    code, case = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    module = sys.modules.setdefault("worked_example", types.ModuleType("worked_example"))  # so that it pickles
    if not hasattr(module, "Ordinal"):
        exec(code, vars(module))
    return module.Ordinal, case


class MarkWords(Task):
    """A mark for each word of a text: the head reads every token; targets are padded with -100, as special tokens."""

    name = "mark_words"
    head = "AutoModelForTokenClassification"
    reads = "tokens"
    metric = "share of marks"

    def read(self, tables, columns, renames=None):
        rows = {}
        for split, table in tables.items():
            marks = table.values[columns.target]
            targets = np.full((len(marks), max(map(len, marks))), -100, dtype=np.int64)
            for row, own in enumerate(marks):
                targets[row, : len(own)] = own
            texts = (tuple(table.values[columns.inputs[0]]),)
            rows[split] = Rows(texts, targets, np.zeros(len(marks), dtype=np.int64))
        return Reading(rows=rows, labels=("plain", "marked"), notes=())

    def encode(self, rows, tokenizer, max_length):
        tokens, truncated, kept = encode_texts(tokenizer, rows.inputs, max_length)
        targets = torch.full((len(rows), int(tokens.lengths.max())), -100)
        for row, (marks, length) in enumerate(zip(rows.targets, tokens.lengths.tolist(), strict=True)):
            targets[row, 1 : length - 1] = torch.tensor(marks[: length - 2])
        return Encoded(Examples.of_documents(tokens, targets, self.reads), truncated, kept)

    def check_targets(self, examples, num_outputs):
        marks = examples.targets[examples.targets != -100]
        if not 0 <= int(marks.min()) <= int(marks.max()) < num_outputs:
            raise InputError(f"marks must be from 0 to {num_outputs - 1}")

    def loss(self, outputs, examples):
        marks, weights = _marks(examples)
        losses = F.cross_entropy(outputs, marks, ignore_index=-100, reduction="none")
        return _by_example(weights * losses, examples)

    def distil(self, outputs, teacher_outputs, examples, temperature):
        _, weights = _marks(examples)
        shares = (teacher_outputs / temperature).softmax(-1)
        losses = -(temperature**2) * (shares * (outputs / temperature).log_softmax(-1)).sum(-1)
        return _by_example(weights * losses, examples)

    def prior(self, examples):
        marks, weights = _marks(examples)
        counted = marks != -100
        shares = torch.bincount(marks[counted], weights[counted].double()) / len(examples)
        return float(torch.special.entr(shares).sum())

    def decode(self, outputs, examples):
        return [own.tolist() for own in outputs.argmax(-1).split(examples.tokens.lengths.tolist())]

    def commonest(self, train, examples):
        mark = int(torch.bincount(train.targets[train.targets != -100]).argmax())
        return [[mark] * length for length in examples.tokens.lengths.tolist()]

    def correct(self, decoded, examples):
        shares = []
        for own, marks in zip(decoded, examples.targets.tolist(), strict=True):
            right = [float(one == mark) for one, mark in zip(own, marks, strict=False) if mark != -100]
            shares.append(sum(right) / len(right))
        return shares


def _marks(examples):
    """Returns each token's mark, and its share of what its example's mean is taken of."""
    lengths = examples.tokens.lengths
    places = torch.arange(examples.targets.shape[1])
    marks = examples.targets[places < lengths[:, None]]
    counts = (examples.targets != -100).sum(1).repeat_interleave(lengths)
    return marks, (marks != -100) / counts


def _by_example(values, examples):
    owner = examples.owner.repeat_interleave(examples.tokens.lengths)
    return values.new_zeros(len(examples)).index_add(0, owner, values)
