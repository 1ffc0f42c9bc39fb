"""What people do with a saved model: a pipeline, torch's own quantisation, shards, compiling, tracing."""

import copy
import json
import logging
import re
import subprocess
import sys

import pytest
import tokenizers
import torch
import transformers
from torch.testing import assert_close

import trbert
from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint, InputError
from trbert.modeling import assemble, load
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(50))]
TEXTS = ["w1 w2 w3 w4 w5 w6", "w7", "", "w9 w10 w11 w12", "unknown", " ".join(f"w{number}" for number in range(30))]
POINTS = (0, 2)
KEEP_ALL = 1000.0


def reduced(plain, dial=0.0):
    """A reduced model whose heads drop about half of the tokens."""
    policy = Policy(plain.config.hidden_size, len(POINTS), width=8, features=("document", "neighbours"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for head in policy.heads:
            head.features["document"].weight.mul_(0.1)
    reducer = Reducer(encoder=Encoder(plain), task=TASKS["classification"], points=POINTS)
    return assemble(reducer, PolicySelector(policy), dial, max_tokens=40)


@pytest.fixture
def tokenizer():
    own = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=40,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture
def model(bert):
    bert.config.id2label = {0: "no", 1: "maybe", 2: "yes"}
    return reduced(bert)


@pytest.fixture
def saved(model, tokenizer, tmp_path):
    """The folder of a reduced model and its tokenizer."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def batch(tokenizer):
    return dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))


@torch.no_grad()
def logits_of(model, batch):
    return model(**batch).logits


# The pipeline of transformers.


@pytest.fixture
def heard(monkeypatch):
    """What transformers logs as a warning or worse, while the test runs."""
    told = []

    class Ear(logging.Handler):
        def emit(self, record):
            if record.levelno >= logging.WARNING:
                told.append(record.getMessage())

    ear, logger = Ear(), logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.WARNING)
    logger.addHandler(ear)
    yield told
    logger.removeHandler(ear)
    logger.setLevel(before)


def test_a_pipeline_serves_it_and_complains_of_nothing(saved, model, batch, heard):
    pipe = transformers.pipeline("text-classification", model=str(saved))
    expected = logits_of(model, batch).softmax(-1)
    answers = pipe(TEXTS)
    assert [answer["label"] for answer in answers] == [["no", "maybe", "yes"][row.argmax()] for row in expected]
    assert_close(torch.tensor([answer["score"] for answer in answers]), expected.amax(-1))
    scores = [{each["label"]: each["score"] for each in answer} for answer in pipe(TEXTS, top_k=None)]
    assert_close(torch.tensor([[each[name] for name in ("no", "maybe", "yes")] for each in scores]), expected)
    assert heard == []


def test_a_pipeline_takes_batches_generators_and_long_texts(saved):
    pipe = transformers.pipeline("text-classification", model=str(saved))
    one = pipe(TEXTS)
    for answers in (pipe(TEXTS, batch_size=3), list(pipe((text for text in TEXTS), batch_size=2))):
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in one]
        assert [answer["score"] for answer in answers] == pytest.approx([answer["score"] for answer in one], abs=1e-5)
    assert len(pipe("w1 " * 500, truncation=True)) == 1
    with pytest.raises(InputError, match=r"at most 40 tokens for this model, and one has 502: .* truncation=True"):
        pipe("w1 " * 500)


def test_a_pipeline_takes_pairs(saved, model, tokenizer):
    answer = transformers.pipeline("text-classification", model=str(saved))({"text": "w1 w2", "text_pair": "w3"})
    expected = logits_of(model, dict(tokenizer([("w1 w2", "w3")], return_tensors="pt"))).softmax(-1)
    assert answer["score"] == pytest.approx(float(expected.max()), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_pipeline_takes_an_arithmetic(saved, dtype):
    pipe = transformers.pipeline("text-classification", model=str(saved), dtype=dtype)
    assert pipe.model.plain.dtype == pipe.model.policy.heads[0].linear_1.weight.dtype == dtype
    assert all(0.3 < answer["score"] <= 1 for answer in pipe(TEXTS, batch_size=2))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_of_a_plain_model_may_be_named_and_changes_nothing(saved, model, batch, attention):
    own = transformers.AutoModelForSequenceClassification.from_pretrained(saved, attn_implementation=attention)
    assert torch.equal(logits_of(own, batch), logits_of(model, batch))


# Dynamic quantisation by torch itself.


def quantised(model):
    with pytest.warns(DeprecationWarning, match="torch.ao.quantization is deprecated"):
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


quantises = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@quantises
def test_every_family_may_be_quantised_by_torch(family_config, build_model, make_tokens):
    tokens = make_tokens(9, 14, 3, 20, 1)
    width = torch.arange(20) < tokens.lengths[:, None]
    batch = {"input_ids": torch.zeros(5, 20, dtype=torch.long).masked_scatter(width, tokens.input_ids)}
    batch["attention_mask"] = width.long()
    model = reduced(build_model(family_config), KEEP_ALL)
    small, expected = quantised(copy.deepcopy(model)), logits_of(model, batch)
    assert not isinstance(small.policy.heads[0].linear_1, torch.nn.Linear)
    found = logits_of(small, batch)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 0.25 * expected.abs().max()
    small.config.dial = 0.0  # tokens are dropped; near the threshold others than without quantisation
    assert logits_of(small, batch).isfinite().all()
    assert small.cost_model() == model.cost_model()


@quantises
def test_the_state_of_a_model_that_torch_quantised_is_saved_and_loaded(model, batch, tmp_path):
    small = quantised(copy.deepcopy(model))
    torch.save(small.state_dict(), tmp_path / "small.pt")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    again = quantised(model)
    again.load_state_dict(torch.load(tmp_path / "small.pt", weights_only=False))
    assert torch.equal(logits_of(again, batch), logits_of(small, batch))


@quantises
def test_a_model_that_torch_quantised_is_not_saved_as_a_model(model, tmp_path):
    told = (
        "a model in int8 cannot be saved, because its own weights are gone: load it with another runner, and save that"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        quantised(model).save_pretrained(tmp_path / "small")
    assert not (tmp_path / "small").exists()


# Shards.


@pytest.fixture
def shards(model, tmp_path):
    """The folder of the model, whose weights are in several files."""
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    return tmp_path / "shards"


def test_a_model_in_shards_is_loaded(model, shards, batch):
    assert torch.equal(logits_of(load(shards), batch), logits_of(model, batch))


def test_a_missing_shard_is_said(shards):
    gone = sorted(shards.glob("*.safetensors"))[1]
    gone.unlink()
    told = f"{shards} must hold {gone.name}, and does not: copy or save the model again"
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load(shards)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", r"is no JSON object \(.+\): copy it again"),
        ("{}", "must name the file of each weight, and does not: copy it again"),
        (
            '{"weight_map": {"plain.bert.pooler.dense.bias": 3}}',
            "must name the file of each weight, and does not: copy",
        ),
    ],
)
def test_a_damaged_index_of_shards_is_said(shards, content, told):
    index = shards / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(str(index))} {told}"):
        load(shards)


def test_shards_that_do_not_fit_the_config_are_said(shards):
    config = json.loads((shards / "config.json").read_text())
    (shards / "config.json").write_text(json.dumps(config | {"fusion": True}))
    with pytest.raises(
        DamagedCheckpoint, match=r"/model\.safetensors\.index\.json does not fit config\.json: fusion\."
    ):
        load(shards)


# Compiling, tracing, exporting.


class Logits(torch.nn.Module):
    """The model as tracers want it: tensors in, a tensor out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        """Returns the logits."""
        return self.model(input_ids, attention_mask).logits


REFUSED = (
    "a reduced model must not be traced or exported, because the text decides which tokens go on: use torch.compile or "
    'trbert.load(folder, runner="compiled"), or export the plain model within it, model.plain'
)


COMPILED = """
import sys, torch, trbert
compiled = torch.compile(trbert.load(sys.argv[1]), backend="eager")
for name in sys.argv[2:]:
    given = torch.load(name)
    with torch.no_grad():
        torch.save(compiled(**given).logits, name)
"""


@pytest.mark.slow
def test_a_model_that_torch_compiles_gives_the_same(saved, model, batch, tokenizer, tmp_path):
    # A process of its own, for the compiler cannot look through the type checks of the tests.
    batches = [batch, dict(tokenizer(TEXTS[:2], padding=True, return_tensors="pt"))]
    files = [tmp_path / "0.pt", tmp_path / "1.pt"]
    for given, file in zip(batches, files, strict=True):
        torch.save(given, file)
    subprocess.run([sys.executable, "-c", COMPILED, str(saved), *map(str, files)], check=True)
    for given, file in zip(batches, files, strict=True):
        assert_close(torch.load(file), logits_of(model, given))


def export_onnx(module, given):
    return torch.onnx.export(module, given, "never.onnx", dynamo=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("export", [torch.jit.trace, torch.export.export, export_onnx], ids=["trace", "export", "onnx"])
@torch.no_grad()
def test_a_reduced_model_is_neither_traced_nor_exported(model, batch, export):
    given = (batch["input_ids"], batch["attention_mask"])
    with pytest.raises(InputError, match=f"^{re.escape(REFUSED)}$"):
        export(Logits(model), given)


@torch.no_grad()
def test_the_plain_model_within_it_is_exported(saved, batch):
    plain, given = trbert.load(saved).plain, (batch["input_ids"], batch["attention_mask"])
    exported = torch.export.export(Logits(plain), given).module()
    assert_close(exported(*given), plain(*given).logits)


# What the config of the encoder said.


@pytest.mark.parametrize(
    "said", [{"output_attentions": True}, {"output_hidden_states": True}, {"return_dict": False}, {"torchscript": True}]
)
@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert cls"])
def test_what_an_encoders_config_asks_to_return_is_not_kept(name, said, config_of, build_model, batch, tmp_path):
    own = {key: value for key, value in batch.items() if key != "token_type_ids"}
    config = config_of(name)
    model = reduced(build_model(type(config).from_dict(config.to_dict() | said)))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(logits_of(loaded, own), logits_of(model, own))
    assert not said.keys() & json.loads((tmp_path / "config.json").read_text())["encoder"].keys()
    with torch.no_grad():
        assert loaded.plain(**own).keys() == {"logits"}
    loaded.plain.save_pretrained(tmp_path / "plain")
