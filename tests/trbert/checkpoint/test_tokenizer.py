"""Tokenizers that lack something, or that do not fit the encoder."""

import copy
import json

import pytest
import tokenizers
import torch
import transformers

import trbert
from trbert.checkpoint import tokenizer as module
from trbert.checkpoint.tokenizer import check_vocabulary
from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint, InputError, TrbertError, UnsupportedModel
from trbert.modeling import assemble
from trbert.pretrained import load_pretrained
from trbert.rehearsal import rehearse
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", "more"]


def load(folder):
    return load_pretrained(str(folder), TASK, LABELS)


@pytest.fixture
def bare(folder):
    """The folder without its tokenizer."""
    for path in folder.glob("*token*"):
        path.unlink()
    return folder


@pytest.mark.parametrize(("own", "length"), [(None, 40), (1000, 40), (16, 16)])
def test_the_tokenizer_knows_the_length_of_the_encoder(folder, tokenizer, own, length):
    if own:
        tokenizer.model_max_length = own
    tokenizer.save_pretrained(folder)
    found = load(folder)
    assert found.tokenizer.model_max_length == length
    assert len(found.tokenizer("word " * 90, truncation=True)["input_ids"]) == length


def test_vocab_txt_alone_is_a_tokenizer(bare):
    (bare / "vocab.txt").write_text("\n".join(WORDS))
    found = load(bare)
    assert found.tokenizer("Word more")["input_ids"] == [2, 5, 6, 3]
    rehearse(found.model, found.tokenizer, TASK)


def test_vocab_txt_with_capitals_is_read_with_capitals(bare):
    (bare / "vocab.txt").write_text("\n".join([*WORDS, "Word"]))
    found = load(bare)
    assert found.tokenizer("Word word")["input_ids"] == [2, 7, 5, 3]
    assert any("texts are not made lower-case" in note for note in found.notes)


def test_a_sentencepiece_file_that_cannot_be_read_is_told_with_the_package(bare, monkeypatch):
    monkeypatch.setattr(module, "_installed", lambda name: name != "sentencepiece")
    config = json.loads((bare / "config.json").read_text()) | {"tokenizer_class": "AlbertTokenizer"}
    (bare / "config.json").write_text(json.dumps(config))
    (bare / "spiece.model").write_bytes(b"none")
    told = r"has its tokenizer in spiece\.model alone, which cannot be read without sentencepiece: pip install"
    with pytest.raises(UnsupportedModel, match=told):
        load(bare)


def test_a_tokenizer_of_its_own_code_is_told(bare):
    said = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (bare / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(UnsupportedModel, match=r"\(Own\) must be one of transformers, and is Python code of its own"):
        load(bare)


def test_a_tokenizer_without_special_tokens_is_told(folder, tokenizer):
    assert load(folder).notes == ()
    tokenizer.backend_tokenizer.post_processor = None
    content = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (note,) = load(folder).notes
    assert "puts no special token before a text, so that the first token of its first word is never dropped" in note


def test_a_missing_padding_token_is_replaced(folder):
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text())
    del said["pad_token"]
    path.write_text(json.dumps(said))
    found = load(folder)
    assert found.tokenizer.pad_token == "[PAD]"  # that of the config's id
    assert found.tokenizer(["word", "word word"], padding=True)["input_ids"] == [[3, 2, 0], [3, 2, 2]]
    assert any("no padding token of which the encoder has an embedding, so '[PAD]' is taken" in n for n in found.notes)


def test_a_padding_token_without_embedding_is_replaced(folder, tokenizer):
    tokenizer.add_tokens([f"<{index}>" for index in range(60)])
    tokenizer.add_special_tokens({"pad_token": "[PADDING]"})
    tokenizer.save_pretrained(folder)
    assert load(folder).tokenizer.pad_token == "[PAD]"


def test_another_padding_id_becomes_that_of_the_config(folder, tokenizer):
    tokenizer.pad_token = "[UNK]"
    tokenizer.save_pretrained(folder)
    assert load(folder).model.config.pad_token_id == 1


def test_a_padding_id_that_positions_are_counted_from_stays_and_is_told(config_of, build_model, tokenizer, tmp_path):
    build_model(config_of("roberta")).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load(tmp_path)
    assert found.model.config.pad_token_id == 1
    assert any("pads with '[PAD]' (id 0), and pad_token_id in config.json is 1" in note for note in found.notes)


def test_tokens_without_embedding_are_named(folder, tokenizer):
    tokenizer.add_tokens([f"<{index}>" for index in range(60)])
    tokenizer.save_pretrained(folder)
    (note,) = load(folder).notes
    assert "has 64 tokens, and the encoder has embeddings of 60: texts with '<56>', '<57>', '<58>' and others" in note


@pytest.mark.parametrize("name", ["cls_token", "sep_token"])
def test_a_special_token_without_embedding_is_refused(name, folder, tokenizer):
    tokenizer.add_tokens([f"<{index}>" for index in range(60)])
    setattr(tokenizer, name, "<59>")
    around = "<59> $A" if name == "cls_token" else "[CLS] $A <59>"
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "<59>")]
    backend = tokenizer.backend_tokenizer
    backend.post_processor = tokenizers.processors.TemplateProcessing(single=around, special_tokens=special)
    tokenizer.save_pretrained(folder)
    told = "the tokens that the tokenizer of model .* puts around each text must have embeddings, and '<59>' has none"
    with pytest.raises(DamagedCheckpoint, match=told):
        load(folder)


def test_data_with_a_token_without_embedding_is_refused(bert, tokenizer):
    tokenizer.add_tokens([f"<{index}>" for index in range(60)])
    check_vocabulary(bert, tokenizer, torch.tensor([0, 59, 3]))
    told = (
        r"^the tokens of the data must be among the 60 of which the encoder has embeddings, and '<57>' is not: the "
        r"tokenizer has 64, so call model\.resize_token_embeddings\(len\(tokenizer\)\), and save"
    )
    for used in (torch.tensor([0, 61, 61]), [61, 2]):
        with pytest.raises(InputError, match=told):
            check_vocabulary(bert, tokenizer, used)


def test_the_copy_of_the_loaded_tokenizer_knows_the_length(folder, tmp_path):
    load(folder).tokenizer.save_pretrained(tmp_path / "copy")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "copy").model_max_length == 40


# Files that somebody else wrote.

ODD = {
    "tokenizer_class": ["NoSuchTokenizer", ["BertTokenizer"], 3, "../BertTokenizer", "os.system"],
    "auto_map": [3, "own.Own", ["own.Own"], {"AutoTokenizer": 3}, {"AutoTokenizer": "somebody/else--own.Own"}],
    "model_max_length": ["x", [1], -5, 0, 1e300],
    "pad_token": [3, ["[PAD]"], {"content": 3}, {"__type": "AddedToken"}],
    "added_tokens_decoder": [3, {"x": {}}, {"-1": {"content": "a"}}, {str(10**12): {"content": "a"}}],
    "extra_special_tokens": [3, {"a": 3}, [3]],
    "init_inputs": [[3, 4], 3],
    "chat_template": ["{{ 1 / 0 }}{% for", 3, [{"name": 3}]],
    "vocab_file": ["/etc/passwd", 3],
    "tokenizer_file": ["/etc/passwd", "../../other.json"],
    "fast_tokenizer_files": [["../tokenizer.4.0.0.json"], 3],
    "clean_up_tokenization_spaces": [[1]],
    "do_lower_case": ["x"],
    "padding_side": ["up", 3],
    "truncation_side": ["up"],
    "model_input_names": [3, ["nonsense"]],
    "backend": ["nonsense", 3],
    "from_slow": [True],
    "name_or_path": [3],
    "trust_remote_code": [True],
}


@pytest.mark.parametrize("name", list(ODD))
def test_an_odd_entry_is_without_effect_or_refused_and_nothing_is_fetched_or_run(folder, offline, name):
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text())
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    for value in ODD[name]:
        path.write_text(json.dumps(said | {name: value}))
        try:
            found = load(folder)
        except TrbertError:
            continue
        assert found.tokenizer("word")["input_ids"] == [3, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}},
        {"model": {"type": "WordPiece", "vocab": {"a": -1}, "unk_token": "?"}},
        {"model": {"type": "Unigram", "vocab": [], "unk_id": 10**9}},
        {"model": {"type": "WordLevel", "vocab": {"a": 4_294_967_295}, "unk_token": "a"}},
        {"added_tokens": [{"id": -1}]},
        {"added_tokens": 3},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"pre_tokenizer": {"type": "Nonsense"}},
        {"post_processor": {"type": "BertProcessing", "sep": ["x", 10**9], "cls": ["y", 10**9]}},
        {"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}},
        {"padding": {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0}},
        {"truncation": {"max_length": 0, "strategy": "LongestFirst", "stride": 10**9, "direction": "Right"}},
    ],
    ids=lambda value: str(value)[:50],
)
def test_an_odd_tokenizer_is_refused_or_reads_texts(folder, offline, changes):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    try:
        found = load(folder)
    except TrbertError:
        return
    assert len(found.tokenizer("word word", truncation=True)["input_ids"]) <= 40


def test_other_files_of_a_tokenizer_are_not_read(folder):
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"fast_tokenizer_files": ["../tokenizer.1.json"]}))
    with pytest.raises(DamagedCheckpoint, match=r"fast_tokenizer_files in tokenizer_config\.json .* must be unset"):
        load(folder)


def test_a_tokenizer_that_is_too_large_is_refused(folder, monkeypatch):
    monkeypatch.setattr(module, "TOKENIZER_SIZE", 100)
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.json of model .* must have at most 0 MB, and has"):
        load(folder)


def test_a_tokenizer_that_panics_is_refused_and_an_interrupt_is_not(folder, monkeypatch):
    class PanicException(BaseException):
        """What pyo3 raises where Rust panicked."""

    for raised, told in ((PanicException, DamagedCheckpoint), (KeyboardInterrupt, KeyboardInterrupt)):

        def load_it(*_, raised=raised, **__):
            raise raised("index out of bounds")

        monkeypatch.setattr(module.AutoTokenizer, "from_pretrained", load_it)
        with pytest.raises(told, match="index out of bounds"):
            load(folder)


# A tokenizer that gives types, and an encoder that knows one alone, as RoBERTa does.


@pytest.fixture
def typed(config_of, build_model, tokenizer, tmp_path):
    """A function: a configuration, the types it knows -> a model whose tokenizer gives the second text type 1."""

    def typed(name, types=1):
        config = config_of(name)
        config.type_vocab_size = types
        build_model(config).save_pretrained(tmp_path / "typed")
        pair = transformers.PreTrainedTokenizerFast(
            tokenizer_object=copy.deepcopy(tokenizer.backend_tokenizer),
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"},
        )
        pair.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=[("[CLS]", 3)]
        )
        pair.save_pretrained(tmp_path / "typed")
        assert pair("word", "word")["token_type_ids"] == [0, 0, 1]
        return tmp_path / "typed"

    return typed


def told_types(notes):
    return [note for note in notes if "type 0 alone" in note]


@torch.no_grad()
@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "camembert"])
def test_types_that_the_encoder_does_not_know_are_left_out_and_that_is_said_once(typed, name, tmp_path):
    folder = typed(name)
    found = load_pretrained(str(folder), TASK, LABELS, new_head=True)
    assert told_types(found.notes) == [
        f"tokenizer of model {folder}: it gives the second text of a pair the type 1, and the encoder knows type 0 "
        "alone, so the types are left out, and all tokens have type 0"
    ]
    rehearse(found.model, found.tokenizer, TASK)
    found.tokenizer.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    for own in (found.tokenizer, again):  # with the types, the plain model would fail: its table has one row
        inputs = own("word", "word word", return_tensors="pt")
        assert "token_type_ids" not in inputs
        assert torch.isfinite(found.model(**inputs).logits).all()


@torch.no_grad()
def test_a_reduced_model_reads_pairs_with_and_without_such_types_alike(typed, tmp_path):
    folder = typed("roberta")
    original = transformers.AutoTokenizer.from_pretrained(folder)
    found = load_pretrained(str(folder), TASK, LABELS, new_head=True)
    reducer = Reducer(encoder=Encoder(found.model), task=TASK, points=(1, 2))
    assemble(reducer, PolicySelector(Policy(32, 2, 8)), 0.0, 38).save_pretrained(tmp_path / "reduced")
    model = trbert.load(tmp_path / "reduced")
    with_types = original("word", "word word", return_tensors="pt")
    assert with_types["token_type_ids"].max() == 1
    without = found.tokenizer("word", "word word", return_tensors="pt")
    assert torch.equal(model(**with_types).logits, model(**without).logits)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_types_that_the_encoder_knows_stay(typed, name):
    found = load_pretrained(str(typed(name, types=2)), TASK, LABELS, new_head=True)
    assert told_types(found.notes) == []
    assert found.tokenizer("word", "word")["token_type_ids"] == [0, 0, 1]
