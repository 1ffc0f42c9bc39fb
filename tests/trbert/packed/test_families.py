"""One contract over all encoder families."""

import re

import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import InputError, UnsupportedModel
from trbert.modeling import TrbertConfig
from trbert.packed.batch import gather_kept
from trbert.packed.families import FAMILIES, family_of
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.tasks import TASKS

LENGTHS = (7, 12, 3, 23)  # beyond the local window of the tiny ModernBERT, and short of it
MEMBERS = (
    "albert, bert, camembert, deberta-v2, distilbert, electra, ernie, eurobert, modernbert, mpnet, nomic_bert, "
    "roberta, xlm-roberta"
)


# Where the laws hold: each attention of ours, in each arithmetic it is used in.
PLACES = [
    ("cpu", torch.float32),
    ("cpu", torch.bfloat16),
    *(pytest.param("cuda", d, marks=pytest.mark.gpu) for d in (torch.float32, torch.bfloat16, torch.float16)),
]


def assert_near(actual, expected):
    """Equal in float32; in half precision but for rounding, which the layers' large random weights carry along."""
    assert actual.dtype == expected.dtype
    if actual.dtype == torch.float32:
        assert_close(actual, expected)
    else:
        assert (actual - expected).float().norm() < 0.06 * expected.float().norm()


def reducer_of(model, points=()):
    """Returns a model that can drop tokens at these points."""
    return Reducer(encoder=Encoder(model), task=TASKS["classification"], points=points)


def padded(tokens, config):
    """Returns the documents as Hugging Face takes them."""
    width = int(tokens.lengths.max())
    mask = torch.arange(width) < tokens.lengths[:, None]
    ids = torch.full(mask.shape, config.pad_token_id)
    ids[mask] = tokens.input_ids
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if FAMILIES[config.model_type].embeds_segments:
        inputs["token_type_ids"] = torch.zeros_like(ids)
        inputs["token_type_ids"][mask] = tokens.token_type_ids
    return inputs


@pytest.mark.parametrize(("device", "dtype"), PLACES)
@torch.no_grad()
def test_keeping_all_equals_the_plain_encoder(device, dtype, family_config, build_model, make_tokens):
    model, tokens = build_model(family_config).to(device, dtype), make_tokens(*LENGTHS, config=family_config).to(device)
    inputs = {name: tensor.to(device) for name, tensor in padded(tokens.to("cpu"), family_config).items()}
    plain = model(**inputs).logits
    reducer = reducer_of(model)
    assert plain.std() > 0.1  # weights large enough to tell right from wrong
    assert_near(reducer.unreduced_outputs(tokens), plain)
    assert torch.equal(model(**inputs).logits, plain)  # the same model still serves padded calls


@torch.no_grad()
def test_a_family_without_segment_ids_in_its_input_reads_zeros(family_config, build_model, make_tokens):
    model, tokens = build_model(family_config), make_tokens(*LENGTHS)
    inputs = padded(tokens, family_config)
    inputs.pop("token_type_ids", None)
    plain = model(**inputs).logits
    bare = Tokens(tokens.input_ids, None, tokens.protected, tokens.offsets)
    assert_close(reducer_of(model).unreduced_outputs(bare), plain)


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 15, 20])
def test_a_row_run_in_pieces_gives_the_same_states_and_attention(
    most, family_config, build_model, make_tokens, monkeypatch
):
    encoder, tokens = Encoder(build_model(family_config)), make_tokens(*LENGTHS, config=family_config)
    batch, rows = encoder.embed(tokens), []
    whole = encoder.run_layers(batch, 0, 3, listens=True)
    run = encoder._run_layers
    monkeypatch.setattr(encoder, "_tokens_at_once", lambda: most)
    monkeypatch.setattr(
        encoder, "_run_layers", lambda piece, *rest: rows.append(len(piece.hidden)) or run(piece, *rest)
    )
    pieces = encoder.run_layers(batch, 0, 3, listens=True)
    assert_close(pieces.hidden, whole.hidden)
    assert_close(pieces.received, whole.received)
    assert whole.received.std() > 0.01
    assert rows == {1: [7, 12, 3, 23], 15: [7, 15, 23], 20: [19, 3, 23]}[most]


def test_a_row_that_is_trained_on_is_run_whole(bert, make_tokens):
    encoder = Encoder(bert)
    assert encoder._tokens_at_once() > 10**9
    with torch.inference_mode():
        assert encoder._tokens_at_once() < 10**6
    bert.requires_grad_(False)  # frozen, as rollouts have it: the policy's gradient alone is wanted
    assert encoder._tokens_at_once() < 10**6


@torch.inference_mode()
@pytest.mark.parametrize(
    ("intermediate", "tokens"),
    # 12 MiB hold 3,145,728 numbers. The widest state has 4 · 32 numbers at least, and a row has 512 tokens at least.
    [(48, 3_145_728 // 128), (1024, 3_145_728 // 1024), (100_000, 512)],
)
def test_a_row_is_as_long_as_the_widest_state_allows(intermediate, tokens, bert):
    bert.config.intermediate_size = intermediate
    assert Encoder(bert)._tokens_at_once() == tokens


def test_a_row_in_half_precision_may_be_twice_as_long(bert):
    encoder = Encoder(bert)
    with torch.inference_mode():
        full = encoder._tokens_at_once()
        with torch.autocast("cpu", torch.bfloat16):
            assert encoder._tokens_at_once() == 2 * full
        bert.bfloat16()
        assert encoder._tokens_at_once() == 2 * full


@pytest.mark.parametrize(("device", "dtype"), PLACES)
@torch.no_grad()
def test_a_documents_result_depends_neither_on_batch_mates_nor_on_order(
    device, dtype, family_config, build_model, make_tokens
):
    reducer = reducer_of(build_model(family_config).to(device, dtype), (1, 2))
    tokens = make_tokens(*LENGTHS, config=family_config).to(device)
    masks = torch.rand(2, tokens.input_ids.numel(), generator=torch.Generator().manual_seed(1)).to(device) < 0.6
    masks |= tokens.protected
    numbers = torch.arange(tokens.input_ids.numel(), device=device)

    def reduced(documents):
        documents = documents.to(device)
        part = tokens.take(documents)
        places = Tokens(numbers, None, tokens.protected, tokens.offsets).take(documents)
        first, second = masks[:, places.input_ids]
        state = reducer.advance(reducer.enter(part), first[None])
        return reducer.outputs(reducer.advance(state, second[first][None]))

    together = reduced(torch.tensor([0, 1, 2, 3]))
    order = torch.tensor([3, 1, 0, 2])
    assert_near(reduced(order), together[order])
    for document in range(len(tokens)):
        assert_near(reduced(torch.tensor([document])), together[document : document + 1])


def drop_inside(model, drops):
    """Makes Hugging Face's own forward drop: `drops[i]` lists the places, in layer i's input, that go on.

    The reference for real dropping: tables and masks that the model made for the whole document are cut to match.
    """
    layers = FAMILIES[model.config.model_type].layer_list(model.base_model)
    state = {"index": 0, "left": None}

    def cut(value):
        if isinstance(value, tuple):
            return tuple(cut(part) for part in value)
        if value is None:
            return None
        if value.dim() == 4:  # attention mask or bias [1, 1 or heads, queries, keys]
            return value[:, :, state["left"]][:, :, :, state["left"]]
        if value.shape[1] == value.shape[2]:  # relative positions [1, queries, keys]
            return value[:, state["left"]][:, :, state["left"]]
        return value[:, state["left"]]

    def before(_, args, kwargs):
        hidden, *others = args
        if state["index"] in drops:
            hidden = hidden[:, drops[state["index"]]]
            left = state["left"] if state["left"] is not None else torch.arange(int(1e6))
            state["left"] = left[drops[state["index"]]]
        state["index"] += 1
        if state["left"] is not None:
            others = [cut(value) for value in others]
            kwargs = {
                name: cut(value) if name in ("attention_mask", "position_embeddings", "relative_pos") else value
                for name, value in kwargs.items()
            }
        return (hidden, *others), kwargs

    for layer in set(layers):
        layer.register_forward_pre_hook(before, with_kwargs=True)


@torch.no_grad()
@pytest.mark.parametrize("points", [(0, 2), (1, 3)])
def test_dropping_equals_dropping_inside_hugging_faces_own_forward(points, family_config, build_model, make_tokens):
    if points[0] == 0 and getattr(family_config, "conv_kernel_size", 0):
        return  # its convolution reads what enters layer 0: the next test has it
    tokens = make_tokens(15, config=family_config)
    first = torch.tensor([0, 1, 3, 4, 6, 7, 9, 10, 13])
    second = torch.tensor([0, 2, 3, 5, 6, 8])  # places among the nine
    reference = build_model(family_config)
    inputs = padded(tokens, family_config)
    drop_inside(reference, {points[0]: first, points[1]: second})
    # An outright mask of ones would be cut to the document; none at all lets heads average over what is left.
    plain = reference(**{**inputs, "attention_mask": None}).logits
    reducer = reducer_of(build_model(family_config), points)
    masks = [torch.zeros(size, dtype=torch.bool).index_fill(0, kept, True) for size, kept in ((15, first), (9, second))]
    state = reducer.enter(tokens)
    for mask in masks:
        state = reducer.advance(state, mask[None])
    assert state.batch.positions.tolist() == first[second].tolist()
    assert_close(reducer.outputs(state), plain)


@torch.no_grad()
def test_a_token_that_layer_0_does_not_get_is_to_it_what_padding_is_to_the_plain_encoder(
    family_config, build_model, make_tokens
):
    tokens = make_tokens(15, 6, config=family_config)
    mask = torch.ones(21, dtype=torch.bool).index_fill(0, torch.tensor([1, 4, 5, 6, 9, 10, 12, 13, 17, 20]), False)
    inputs = padded(tokens, family_config)
    inputs["attention_mask"] = inputs["attention_mask"].masked_scatter(inputs["attention_mask"].bool(), mask.long())
    model = build_model(family_config)
    plain = model(**inputs).logits
    encoder = Encoder(model)
    batch = gather_kept(encoder.embed(tokens), mask[None])
    assert_close(encoder.read_documents(encoder.run_layers(batch, 0, 4)), plain)


@torch.no_grad()
def test_dropping_after_the_embeddings_equals_the_plain_encoder_on_the_kept_tokens(
    family_config, build_model, make_tokens
):
    if family_config.model_type == "modernbert":  # its plain window counts in places, not positions: make it wide
        family_config.local_attention = 80
    tokens = make_tokens(15, config=family_config)
    kept = torch.tensor([0, 2, 3, 7, 8, 11, 14])
    if FAMILIES[family_config.model_type].grouped is not None:  # its plain relative positions count in places: no gaps
        kept = torch.arange(4, 11)
    first = family_config.pad_token_id + 1 if FAMILIES[family_config.model_type].first_position_after_padding else 0
    inputs = {"input_ids": tokens.input_ids[kept][None], "position_ids": kept[None] + first}
    if FAMILIES[family_config.model_type].embeds_segments:
        inputs["token_type_ids"] = tokens.token_type_ids[kept][None]
    model = build_model(family_config)
    plain = model(**inputs).logits
    encoder = Encoder(model)
    mask = torch.zeros(1, 15, dtype=torch.bool).index_fill(1, kept, True)
    batch = gather_kept(encoder.embed(tokens), mask)
    assert_close(encoder.read_documents(encoder.run_layers(batch, 0, 4)), plain)


@torch.no_grad()
@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "camembert"])
def test_padding_ids_inside_a_text_neither_count_nor_move(name, config_of, build_model):
    config = config_of(name)
    model = build_model(config)
    pad = config.pad_token_id
    documents = [[7, pad, 9, 10, pad, 12], [8, 9, 10]]
    ids = torch.tensor([documents[0], [*documents[1], pad, pad, pad]])
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    plain = model(input_ids=ids, attention_mask=mask).logits
    assert_close(reducer_of(model).unreduced_outputs(Tokens.from_lists(documents, None)), plain)


@torch.no_grad()
def test_a_layer_that_attends_within_a_window_does_not_reach_beyond_it(config_of, build_model, make_tokens):
    # Half a window is 2. With layers 1 and 3 local, run layer 1 alone: token 0 hears of tokens 0 to 2.
    encoder = Encoder(build_model(config_of("modernbert cls")))
    batch = encoder.embed(make_tokens(9))
    before = encoder.run_layers(batch, 1, 2).hidden[0]
    near, far = batch.hidden.clone(), batch.hidden.clone()
    near[2] = near[2].flip(0)
    far[3:] = far[3:].flip(1)
    assert torch.equal(encoder.run_layers(batch.with_hidden(far), 1, 2).hidden[0], before)
    assert not torch.allclose(encoder.run_layers(batch.with_hidden(near), 1, 2).hidden[0], before)


@torch.no_grad()
def test_a_document_that_lost_all_its_tokens_takes_none_of_the_others(bert, make_tokens):
    encoder, tokens = Encoder(bert), make_tokens(4, 4, 1, 4)
    mask = torch.ones(1, 13, dtype=torch.bool)
    mask[0, 8] = False  # the only token of the third document
    # Twelve tokens are left. The head must not read them as three for each of the four documents.
    outputs = encoder.read_documents(gather_kept(encoder.embed(tokens), mask))
    others = torch.tensor([0, 1, 3])
    assert_close(outputs[others], encoder.read_documents(encoder.embed(tokens.take(others))))


def test_every_family_is_in_the_contract():
    assert ", ".join(sorted(FAMILIES)) == MEMBERS


@pytest.mark.parametrize(
    "config",
    [
        transformers.DebertaConfig(hidden_size=32, num_attention_heads=4),
        transformers.LayoutLMConfig(hidden_size=32, num_attention_heads=4),
    ],
    ids=lambda config: config.model_type,
)
def test_an_unknown_family_is_refused(config):
    message = (
        f"model_type must be one of {MEMBERS}, and is '{config.model_type}': "
        "pass an encoder of one of these families, or describe this one yourself, and name your description with "
        "--family (in Python: trbert.register_family)"
    )
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(message)}$"):
        family_of(config)


def test_a_reduced_model_is_refused_with_the_plain_one_that_it_was_made_of():
    message = (
        "a model to reduce must be a plain encoder, and is a reduced model already: pass the model that it was made "
        "of, such as models/teacher in the folder of its run"
    )
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(message)}$"):
        family_of(TrbertConfig())


@pytest.mark.parametrize("config", [transformers.GPT2Config(), transformers.LlamaConfig()], ids=lambda c: c.model_type)
def test_a_family_of_decoders_is_no_unknown_one(config):
    told = (
        f"a {config.model_type} model must be an encoder, and is a decoder, in which a token sees those before it "
        f"alone: pass an encoder of one of the families {MEMBERS}"
    )
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(told)}$"):
        family_of(config)


def test_a_decoder_is_refused(config_of, build_model):
    config = config_of("bert")
    config.is_decoder = True
    message = "a bert model must be an encoder, and its config has is_decoder=True: pass an encoder"
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(message)}$"):
        Encoder(build_model(config))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("name", ["nomic_bert", "eurobert late", "modernbert cls"])
def test_rotary_positions_that_depend_on_the_longest_document_are_refused(name, kind, config_of):
    config = config_of(name)
    entries = config.rope_parameters
    (entries.get("full_attention") or entries)["rope_type"] = kind
    message = (
        f"the rope_type of a {config.model_type} model must not depend on the longest document of a batch, and is "
        f"'{kind}': set it to 'default' in config.json if no document has more tokens than the model was trained with, "
        "or pass another encoder"
    )
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(message)}$"):
        family_of(config)


@pytest.mark.parametrize("summary", ["mean", "last", "cls_index"])
def test_a_head_that_would_read_padding_is_refused(summary, config_of, build_model):
    config = config_of("electra")
    config.summary_type = summary
    Encoder(build_model(config))  # its head for labels reads the first token alone
    message = (
        f"summary_type of a model that compares options must be 'first', and is '{summary}': this head would read the "
        "padding of a batch; set it in config.json before the head is trained, or pass another encoder"
    )
    model = build_model(config, 0, transformers.AutoModelForMultipleChoice)
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(message)}$"):
        Encoder(model)


@torch.no_grad()
@pytest.mark.parametrize(("name", "limit"), [("bert", 40), ("distilbert", 40), ("roberta", 38)])
def test_a_document_longer_than_the_positions_is_refused(name, limit, config_of, build_model, make_tokens):
    encoder = Encoder(build_model(config_of(name)))
    assert encoder.max_tokens == limit
    assert encoder.embed(make_tokens(limit, 2)).hidden.shape == (limit + 2, 32)
    message = (
        f"a document may have at most {limit} tokens for this model, and one has {limit + 1}: "
        "tokenise with truncation=True"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        encoder.embed(make_tokens(3, limit + 1))


# What a task reads that is no one state of each document.


@torch.no_grad()
def test_a_head_that_reads_tokens_says_of_each_what_hugging_faces_own_says(family_config, make_tokens):
    torch.manual_seed(0)
    model = transformers.AutoModelForTokenClassification.from_config(family_config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens = make_tokens(*LENGTHS, config=family_config)
    inputs = padded(tokens, family_config)
    plain = model(**inputs).logits[inputs["attention_mask"].bool()]
    encoder = Encoder(model)
    finished = encoder.run_layers(encoder.embed(tokens), 0, 4)
    assert plain.std() > 0.1
    assert_close(encoder.read(finished, "tokens"), plain)
    some = torch.tensor([2, 9, 20])  # each token is read by itself
    assert_close(encoder.read_tokens(finished.hidden[some]), plain[some])


@torch.no_grad()
def test_attention_is_heard_in_the_last_layer_alone_and_only_where_it_was_asked_for(bert, make_tokens):
    encoder = Encoder(bert)
    batch = encoder.embed(make_tokens(5, 9))
    assert encoder.run_layers(batch, 0, 3).received is None
    third = encoder.run_layers(encoder.run_layers(batch, 0, 2), 2, 3, listens=True)
    assert_close(encoder.run_layers(batch, 0, 3, listens=True).received, third.received)
    second = encoder.run_layers(batch, 0, 2, listens=True)
    assert not torch.allclose(second.received, third.received, atol=1e-2)
    assert encoder.run_layers(second, 2, 3).received is None  # what was heard before is not what was heard here
    assert encoder.run_layers(batch, 0, 0, listens=True).received is None  # no layer, nothing to hear
