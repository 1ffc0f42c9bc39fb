"""Tiny models with weights large enough that a wrong token, position or scale shows."""

import json

import pytest
import torch
import transformers

from trbert.encoder import Encoder
from trbert.packed.batch import start_batch
from trbert.packed.tokens import Tokens
from trbert.selection.fusion import Fusion
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS
from trbert.tasks.classification import Classification

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "num_labels": 3,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
# Half a window is 2, so that documents of more than 3 tokens reach beyond it.
LOCAL = {"local_attention": 4, "global_attn_every_n_layers": 2}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
# With 8 buckets, positions that differ by 4 or more share some.
BUCKETS = {"position_buckets": 8, "max_relative_positions": 30, "norm_rel_ebd": "layer_norm"}
DISTIL = {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48, "vocab_size": 60, "max_position_embeddings": 40}

# Every supported family; a new one is one line here.
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**SHAPE),
    "ernie": lambda: transformers.ErnieConfig(**SHAPE),
    "roberta": lambda: transformers.RobertaConfig(**SHAPE, type_vocab_size=2),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**SHAPE),
    "camembert": lambda: transformers.CamembertConfig(**SHAPE),
    "distilbert": lambda: transformers.DistilBertConfig(**DISTIL, num_labels=3),
    "electra": lambda: transformers.ElectraConfig(**SHAPE, embedding_size=16),
    "electra without projection": lambda: transformers.ElectraConfig(**SHAPE, embedding_size=32),
    "albert": lambda: transformers.AlbertConfig(**SHAPE, embedding_size=16, num_hidden_groups=2),
    "albert with inner layers": lambda: transformers.AlbertConfig(**SHAPE, embedding_size=16, inner_group_num=2),
    "mpnet": lambda: transformers.MPNetConfig(**SHAPE),
    "deberta-v2": lambda: transformers.DebertaV2Config(**SHAPE, **DISENTANGLED, type_vocab_size=2),
    # As DeBERTa-v3 and the larger DeBERTa-v2 have it, but for the sizes.
    "deberta-v2 with shared keys": lambda: transformers.DebertaV2Config(
        **SHAPE, **DISENTANGLED, **BUCKETS, share_att_key=True, position_biased_input=False
    ),
    "deberta-v2 with a convolution": lambda: transformers.DebertaV2Config(
        **SHAPE, **DISENTANGLED, **BUCKETS, conv_kernel_size=3, conv_act="gelu", embedding_size=16
    ),
    "nomic_bert": lambda: transformers.NomicBertConfig(**SHAPE),
    "eurobert late": lambda: transformers.EuroBertConfig(**SHAPE, num_key_value_heads=2, pad_token_id=0),
    "eurobert bos": lambda: transformers.EuroBertConfig(
        **SHAPE, num_key_value_heads=2, pad_token_id=0, classifier_pooling="bos"
    ),
    "modernbert cls": lambda: transformers.ModernBertConfig(**SHAPE, **SPECIAL, **LOCAL, classifier_pooling="cls"),
    "modernbert mean": lambda: transformers.ModernBertConfig(**SHAPE, **SPECIAL, **LOCAL, classifier_pooling="mean"),
}


def _build(config, seed=0, auto_class=transformers.AutoModelForSequenceClassification):
    model = auto_class.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() == 1 and name.endswith("weight"):  # a norm's scale
                value.copy_(1 + 0.3 * noise)
            else:
                value.copy_((0.2 if value.dim() == 2 else 0.1) * noise)
            if "embeddings.weight" in name or "embed_tokens" in name:
                value.mul_(3)
    return model


@pytest.fixture(scope="module", autouse=True)
def one_thread(few_threads):
    """Tensors this small gain nothing from a second thread, and wait for it where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def build_model():
    """A function: configuration, seed and Auto class -> a Hugging Face model with random weights, in eval mode."""
    return _build


@pytest.fixture(params=list(CONFIGS))
def family_config(request):
    """Every supported encoder family, one after the other."""
    return CONFIGS[request.param]()


@pytest.fixture
def config_of():
    """A function: a name in CONFIGS -> a fresh tiny configuration."""
    return lambda name: CONFIGS[name]()


@pytest.fixture
def bert():
    """A tiny BERT classifier as Hugging Face made it."""
    return _build(CONFIGS["bert"]())


@pytest.fixture
def encoder(bert):
    """The tiny BERT classifier in stages."""
    return Encoder(bert)


@pytest.fixture
def make_reducer(encoder):
    """A function: points, fusion, another encoder, another task -> what drops tokens at these points."""

    def make(points=(), fusion=None, encoder=encoder, task=TASKS["classification"]):
        return Reducer(encoder=encoder, task=task, points=points, fusion=fusion or Fusion.none())

    return make


class TokenAverage(Classification):
    """A task whose head reads tokens: what it says of a document is the mean of what it says of its tokens."""

    name = "token average"
    head = "AutoModelForTokenClassification"
    reads = "tokens"

    def loss(self, outputs, examples):
        """Returns −log p(label) of the mean logits of each document."""
        tokens = examples.tokens
        documents = torch.arange(len(tokens)).repeat_interleave(tokens.lengths)
        sums = outputs.new_zeros(len(tokens), outputs.shape[1]).index_add(0, documents, outputs)
        return super().loss(sums / tokens.lengths[:, None], examples)


@pytest.fixture
def token_task(monkeypatch):
    """A task that reads tokens, known by its name while the test runs."""
    monkeypatch.setitem(TASKS, TokenAverage.name, TokenAverage())
    return TASKS[TokenAverage.name]


@pytest.fixture
def token_encoder():
    """A tiny BERT that says three numbers of each token, in stages."""
    model = transformers.AutoModelForTokenClassification.from_config(CONFIGS["bert"]()).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return Encoder(model)


@pytest.fixture
def make_tokens():
    """A function: lengths -> random documents of these lengths, none with a special id (0 to 4).

    Of two segments, unless `config` has one alone, as XLM-RoBERTa's and CamemBERT's do.
    """

    def make(*lengths, seed=0, config=None):
        generator = torch.Generator().manual_seed(seed)
        ids = [torch.randint(5, 60, (length,), generator=generator).tolist() for length in lengths]
        last = min(getattr(config, "type_vocab_size", 2) - 1, 1)
        types = [[last * (place > length // 2) for place in range(length)] for length in lengths]
        return Tokens.from_lists(ids, types)

    return make


@pytest.fixture
def make_batch(make_tokens):
    """A function: lengths -> a packed batch of random unit-scale states."""

    def make(*lengths, dim=8, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return start_batch(make_tokens(*lengths), torch.randn(sum(lengths), dim, generator=generator))

    return make


def _with_heads(model, seed=10):
    base = f"{model.base_model_prefix}.{'transformer' if model.config.model_type == 'distilbert' else 'encoder'}"
    state, generator = dict(model.state_dict()), torch.Generator().manual_seed(seed)
    for point in (0, 1):
        for name, shape in (("1", (32, model.config.hidden_size)), ("2", (1, 32))):
            state[f"{base}.linear_{name}.{point}.weight"] = 0.3 * torch.randn(shape, generator=generator)
            state[f"{base}.linear_{name}.{point}.bias"] = 0.3 * torch.randn(shape[:1], generator=generator)
    return state


@pytest.fixture(scope="session")
def with_heads():
    """A function: a plain model -> its state dict with the two policy heads that the original code saves beside."""
    return _with_heads


# What transformers 2.5.1 writes of every model, with which the original code comes.
OLD_ENTRIES = {
    **{"output_attentions": False, "output_hidden_states": False, "output_past": True, "torchscript": False},
    **{"use_bfloat16": False, "pruned_heads": {}, "is_decoder": False, "max_length": 20, "do_sample": False},
    **{"num_beams": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0, "bos_token_id": 0},
    **{"pad_token_id": 0, "eos_token_ids": 0, "length_penalty": 1.0, "num_return_sequences": 1},
    **{"finetuning_task": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
    **{"label2id": {"LABEL_0": 0, "LABEL_1": 1}},
}
OLD_SIZES = {
    "bert": (
        *("attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range"),
        *("intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads"),
        *("num_hidden_layers", "type_vocab_size", "vocab_size"),
    ),
    "distilbert": (
        *("activation", "attention_dropout", "dim", "dropout", "hidden_dim", "initializer_range"),
        *("max_position_embeddings", "n_heads", "n_layers", "qa_dropout", "seq_classif_dropout"),
        *("sinusoidal_pos_embds", "vocab_size"),
    ),
}
OLD_CLASSES = {"bert": "AUTOBertForSequenceClassification", "distilbert": "AUTODistilBertForSequenceClassification"}


def _save_original(folder, model, state=None):
    config, kind = model.config, model.config.model_type
    folder.mkdir(parents=True)
    # The file format of torch 1.4.
    state = _with_heads(model) if state is None else state
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    entries = OLD_ENTRIES | {name: getattr(config, name) for name in OLD_SIZES[kind]}
    entries |= {"architectures": [OLD_CLASSES[kind]], "num_labels": config.num_labels, "model_type": kind}
    (folder / "config.json").write_text(json.dumps(entries))
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    (folder / "vocab.txt").write_text("\n".join([*special, *(f"w{index}" for index in range(5, 60))]) + "\n")
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "max_len": 40, "init_inputs": []}))
    return folder


@pytest.fixture(scope="session")
def save_original():
    """A function: folder, a plain BERT or DistilBERT, its state dict -> the folder, as the original code writes it."""
    return _save_original
