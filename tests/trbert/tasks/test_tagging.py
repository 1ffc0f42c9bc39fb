"""Tagging: what its numbers are, and what it says of the data."""

import json
import math

import pyarrow
import pyarrow.parquet
import pytest
import tokenizers
import torch
import transformers
from torch.testing import assert_close

from trbert.bench.speed import Documents
from trbert.data.readers import Format
from trbert.data.sources import read_source
from trbert.data.splits import load_splits
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.modeling import TrbertForTokenClassification, assemble, load
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import FirstSelector
from trbert.tasks import TASKS
from trbert.tasks.rows import Table
from trbert.tasks.words.tags import NO_TAG

TASK = TASKS["tagging"]
WORDS = [["a", "b", "c"], ["d"], ["c.c", "b", "a", "d"]]
BIO = [["B-X", "I-X", "O"], ["O"], ["O", "B-Y", "B-X", "O"]]
B_X, B_Y, I_X, O = range(4)  # noqa: E741  the tag's name


def rows_of(words, tags, split="train"):
    return TASK.read({"train": Table("a.jsonl", {"tokens": words, "tags": tags})}, TASK.columns()).rows[split]


@pytest.fixture
def examples(tokenizer):
    """Three examples of entities; the third has two documents."""
    return TASK.encode(rows_of(WORDS, BIO), tokenizer, 6).examples


@pytest.fixture
def parts(tokenizer):
    """The same words with tags that follow no scheme."""
    tags = [["N", "V", "N"], ["N"], ["V", "N", "N", "V"]]
    return TASK.encode(rows_of(WORDS, tags), tokenizer, 16).examples


def saying(examples, tags):
    """Returns outputs that are sure of these tags at the first token of each word, and of tag 0 elsewhere."""
    own = torch.cat([row[:length] for row, length in zip(examples.targets, examples.lengths, strict=True)])
    said = torch.zeros(examples.num_outputs, dtype=torch.long)
    said[own != NO_TAG] = torch.tensor([tag for each in tags for tag in each])
    return 20.0 * torch.nn.functional.one_hot(said, 4)


def test_targets_stand_at_the_first_token_of_each_word(examples):
    # A document has room for four tokens beside the special ones, and c.c is three tokens.
    assert examples.owner.tolist() == [0, 1, 2, 2]
    assert examples.tokens.lengths.tolist() == [5, 3, 6, 4]
    none = NO_TAG
    assert examples.targets.tolist() == [
        [none, B_X, I_X, O, *[none] * 6],
        [none, O, *[none] * 8],
        [none, O, none, none, B_Y, none, none, B_X, O, none],
    ]


def test_the_loss_is_the_mean_over_an_examples_words(examples):
    # Sure of one wrong word of three, and of one wrong of four.
    outputs = saying(examples, [[B_X, B_X, O], [O], [O, B_Y, B_X, B_X]])
    assert_close(TASK.loss(outputs, examples), torch.tensor([20 / 3, 0.0, 20 / 4]))


def test_the_prior_is_the_entropy_of_the_tags_of_words_of_examples_that_count_alike(examples):
    # O: (1/3 + 1 + 2/4) / 3 = 11/18; B-X: (1/3 + 1/4) / 3 = 7/36; I-X: 1/9; B-Y: 1/12.
    shares = (11 / 18, 7 / 36, 1 / 9, 1 / 12)
    assert TASK.prior(examples) == pytest.approx(-sum(share * math.log(share) for share in shares))


def test_tokens_that_are_not_the_first_of_a_word_are_not_looked_at(examples):
    outputs = saying(examples, [[B_X, I_X, O], [O], [O, B_Y, B_X, O]])
    other = outputs.clone()
    other[[0, 4, 10, 11]] = 7.0  # special tokens, and the later ones of c.c
    for one in (outputs, other):
        assert TASK.decode(one, examples) == [[B_X, I_X, O], [O], [O, B_Y, B_X, O]]
    assert torch.equal(TASK.loss(outputs, examples), TASK.loss(other, examples))
    teacher = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TASK.distil(outputs, teacher, examples, 2.0), TASK.distil(other, teacher, examples, 2.0))


def test_the_quality_of_entities_is_f1_over_all_of_a_split(examples):
    # True: X over two words, Y, X. Found: X over one word, Y, X, and X where there is none: 2 of 4 are right, of 3.
    decoded = [[B_X, O, O], [B_X], [O, B_Y, B_X, O]]
    assert TASK.metric_of(examples.names) == "entity F1"
    assert TASK.quality(decoded, examples) == pytest.approx(2 * 2 / (4 + 3))
    assert TASK.correct(decoded, examples) == [0.0, 0.0, 1.0]
    assert TASK.correct([[B_X, I_X, O], [O], [O, O, B_X, O]], examples) == [1.0, 1.0, pytest.approx(2 / 3)]
    # Beside it, which words have the right tag: 2 of 3, 0 of 1, 4 of 4.
    assert TASK.figures(decoded, examples) == {"accuracy": 6 / 8}


def test_an_entity_may_reach_from_one_window_into_the_next(tokenizer):
    examples = TASK.encode(rows_of([["a", "b", "c"]], [["O", "B-X", "I-X"]]), tokenizer, 4).examples
    assert len(examples.tokens) == 2
    assert TASK.quality([[2, 0, 1]], examples) == 1.0
    assert TASK.quality([[2, 0, 2]], examples) == 0.0


def test_the_quality_of_other_tags_is_the_share_of_right_words(parts):
    assert TASK.metric_of(parts.names) == "accuracy"
    decoded = [[0, 1, 0], [1], [0, 0, 0, 1]]
    assert TASK.quality(decoded, parts) == 6 / 8
    assert TASK.correct(decoded, parts) == [1.0, 0.0, 0.75]
    assert TASK.figures(decoded, parts) == {}


def test_the_commonest_tag_is_given_to_each_word(examples):
    assert TASK.commonest(examples, examples) == [[O] * 3, [O], [O] * 4]


def test_words_that_the_tokenizer_gives_no_token_for_are_counted_and_rows_without_any_left_out(tokenizer):
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Replace("d", "")
    encoded = TASK.encode(rows_of(WORDS, BIO), tokenizer, 16)
    assert encoded.kept.tolist() == [0, 2]
    assert encoded.notes == ("2 of 8 words left out, because the tokenizer gives no token for them",)
    assert [len(tags) for tags in TASK.commonest(encoded.examples, encoded.examples)] == [3, 3]


def test_long_rows_and_long_words_are_told(tokenizer):
    encoded = TASK.encode(rows_of(WORDS, BIO), tokenizer, 4)
    assert encoded.truncated == 1  # c.c has three tokens, and there is room for two
    assert encoded.notes == ("2 rows are longer than a document, and read as several, so that no word is cut off",)


def test_a_tokenizer_that_knows_no_word_is_refused(tokenizer):
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex("."), "")
    with pytest.raises(
        InputError, match=r"^tokenizer must give tokens for the words, and gives none for any of the 3 "
    ):
        TASK.encode(rows_of(WORDS, BIO), tokenizer, 16)


def test_one_column_of_words_is_named():
    assert TASK.columns() == TASK.columns("tokens", "tags")
    with pytest.raises(InputError, match=r"^--text-column must name one column for tagging, that of the words, and is"):
        TASK.columns("tokens,others", "tags")


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        (BIO, "the tags follow the scheme BIO, so that entities are counted, as seqeval does"),
        (
            [["N", "V", "N"], ["N"], ["V", "N", "N", "V"]],
            "the tags follow no entity scheme, so that words are counted",
        ),
    ],
    ids=["entities", "parts of speech"],
)
def test_what_the_quality_is_is_said(tags, told):
    rows = rows_of(WORDS, tags)
    assert TASK.counts({"train": rows, "test": rows}, rows.names)[-1] == told


def test_the_words_of_each_tag_are_counted_and_words_that_nothing_begins():
    rows = rows_of(WORDS, [["I-X", "O", "O"], ["B-X"], ["O", "O", "O", "O"]])
    test = rows.take(torch.tensor([2]).numpy())
    assert TASK.counts({"train": rows, "test": test}, rows.names) == [
        "train: 3 rows of 8 words and 3 tags: 'O' 6, 'B-X' 1, 'I-X' 1",
        "train: one of the rows is 'a b c', with the tags 'I-X O O'",
        "test: no word of 2 of 3 tags: 'B-X', 'I-X'",
        "train: 1 words continue an entity that no tag begins, so that each begins one itself",
        "the tags follow the scheme BIO, so that entities are counted, as seqeval does",
    ]


# Data sets.


def test_lists_in_json_lines_are_a_data_set_and_equal_rows_are_found(tmp_path):
    lines = [{"words": words, "ner_tags": tags} for words, tags in zip(WORDS, BIO, strict=True)]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, [*lines, lines[1]])))
    splits = load_splits(str(tmp_path), task=TASK, text_column="words", label_column="ner_tags")
    assert splits.labels == ("B-X", "B-Y", "I-X", "O")
    assert "train: 1 of 4 rows repeat the text of another row: pass --drop-duplicates to leave them out" in splits.notes
    assert not any("more than one label" in note for note in splits.notes)
    assert (
        len(load_splits(str(tmp_path), task=TASK, text_column="words", label_column="ner_tags", train_rows=2).train)
        == 2
    )


def test_equal_words_with_other_tags_are_shown_as_a_text(tmp_path):
    lines = [{"tokens": ["a", "b"], "tags": tags} for tags in (["O", "O"], ["O", "B-X"])]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    notes = load_splits(str(tmp_path), task=TASK).notes
    assert "1 text stands with more than one label, such as 'a b': no model can be right on all these rows" in notes


def test_names_of_integers_are_read_from_the_features_of_a_parquet_file(tmp_path):
    names = {"names": ["O", "B-X", "I-X", "B-Y"], "_type": "ClassLabel"}
    features = {
        "tags": {"feature": names, "_type": "List"},
        "tokens": {"feature": {"dtype": "string"}, "_type": "List"},
    }
    table = pyarrow.table({"tokens": WORDS, "tags": [[1, 2, 0], [0], [0, 3, 1, 0]]})
    said = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(said), tmp_path / "train.parquet")
    source = read_source(str(tmp_path / "train.parquet"), TASK.columns(), Format())
    assert TASK.read(source.tables, TASK.columns()).labels == ("O", "B-X", "I-X", "B-Y")


# In use.


@pytest.fixture
def folder(tmp_path, config_of, tokenizer):
    """A saved tagger with its tokenizer, which drops half of the tokens before layer 1."""
    config = config_of("bert")
    config.id2label = {0: "O", 1: "B-X", 2: "I-X"}
    torch.manual_seed(0)
    plain = transformers.AutoModelForTokenClassification.from_config(config).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reducer = Reducer(encoder=Encoder(plain), task=TASK, points=(1,))
    assemble(reducer, FirstSelector(Policy(32, 0)), 0.5, 40).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_auto_class_of_taggers_loads_it(folder):
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    assert type(model) is type(load(folder)) is TrbertForTokenClassification


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_the_pipeline_of_transformers_gives_entities_with_each_strategy(strategy, folder, caplog):
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tagger = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer)
    found = tagger("a b c d d c b a", aggregation_strategy=strategy, ignore_labels=[])
    assert found
    assert "".join(each["word"] for each in found).replace(" ", "") == "abcddcba"
    with torch.no_grad():
        classes = model(**tokenizer("a b c d d c b a", return_tensors="pt")).logits[0, 1:-1].argmax(-1)
    if strategy == "none":
        assert [each["entity"] for each in found] == [model.config.id2label[int(one)] for one in classes]
    assert "not supported" not in caplog.text


def test_a_bench_reads_the_lists_of_words(tokenizer):
    (words,) = TASK.inputs(Table("a.jsonl", {"tokens": [*WORDS, []]}), TASK.columns(None, ""))
    documents = Documents(tokenizer, (words,), 6, torch.device("cpu"))
    assert documents.lengths.tolist() == [5, 3, 6]  # the last of them is truncated
