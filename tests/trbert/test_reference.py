"""The arithmetic of the original TR-BERT code, written as loops from its checkpoint's weights alone (law 4).

What it does at batch 1: layer i of 1 and L//2 first scores its input tokens, sigmoid(linear_2(gelu(linear_1 h))); a
token goes on where that is at least one half, the first always; the layers from there on see nothing else. A head that
reads tokens reads the last state of each, which for a dropped token is the one that entered the layer it did not enter.
"""

import copy
import math

import pytest
import torch
import transformers
from torch.testing import assert_close

import trbert
from trbert.commands.cli import main
from trbert.encoder import Encoder
from trbert.original import import_original
from trbert.packed.tokens import Tokens
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import PolicySelector
from trbert.tasks import TASKS

DIM, HEADS, LAYERS, EPS = 32, 4, 6, 1e-12
LENGTHS = (9, 17, 4)
CONFIG = transformers.BertConfig(
    vocab_size=60,
    hidden_size=DIM,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    intermediate_size=48,
    max_position_embeddings=40,
    num_labels=3,
)


# Where the original keeps what in a layer: query, key, value, output, norm, inner map, outer map, norm.
BERT = {
    "encoder": "bert.encoder",
    "tables": "bert.embeddings",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "first norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "second norm": "output.LayerNorm",
}
DISTILBERT = {
    "encoder": "distilbert.transformer",
    "tables": "distilbert.embeddings",
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attended": "attention.out_lin",
    "first norm": "sa_layer_norm",
    "inner": "ffn.lin1",
    "outer": "ffn.lin2",
    "second norm": "output_layer_norm",
}


@pytest.fixture(scope="module")
def checkpoint(build_model, with_heads):
    """A state dict with the original's names: a BERT classifier, and two heads beside its layers."""
    return with_heads(build_model(CONFIG))


def linear(weights, name, vector):
    return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]


def layer_norm(weights, name, vector):
    mean = sum(vector) / len(vector)
    variance = sum((x - mean) ** 2 for x in vector) / len(vector)
    return (vector - mean) / torch.sqrt(variance + EPS) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(vector):
    return torch.tensor([float(x) * 0.5 * (1 + math.erf(float(x) / math.sqrt(2))) for x in vector])


def layer(weights, parts, name, states):
    query, key, value = (
        [linear(weights, f"{name}.{parts[part]}", state) for state in states] for part in ("query", "key", "value")
    )
    width = DIM // HEADS
    results = []
    for i, state in enumerate(states):
        heads = []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            scores = [math.exp(float(query[i][part] @ k[part]) / math.sqrt(width)) for k in key]
            heads.append(sum(score / sum(scores) * v[part] for score, v in zip(scores, value, strict=True)))
        attended = linear(weights, f"{name}.{parts['attended']}", torch.cat(heads))
        attended = layer_norm(weights, f"{name}.{parts['first norm']}", attended + state)
        inner = gelu(linear(weights, f"{name}.{parts['inner']}", attended))
        outer = linear(weights, f"{name}.{parts['outer']}", inner)
        results.append(layer_norm(weights, f"{name}.{parts['second norm']}", outer + attended))
    return results


def original_states(weights, ids, types):
    """Returns the last state of every token of a document, and the positions kept at each point."""
    parts = DISTILBERT if "distilbert.transformer.linear_1.0.weight" in weights else BERT
    tables, encoder = parts["tables"], parts["encoder"]
    layers = len({name.split(".")[3] for name in weights if name.startswith(f"{encoder}.layer.")})
    states = []
    for place, (token, kind) in enumerate(zip(ids, types, strict=True)):
        state = weights[f"{tables}.word_embeddings.weight"][token]
        state = state + weights[f"{tables}.position_embeddings.weight"][place]
        if parts is BERT:
            state = state + weights[f"{tables}.token_type_embeddings.weight"][kind]
        states.append(layer_norm(weights, f"{tables}.LayerNorm", state))
    last, positions, kept, point = list(states), list(range(len(ids))), [], 0
    for index in range(layers):
        if index in (1, layers // 2):
            chosen = []
            for place, state in enumerate(states):
                inner = gelu(linear(weights, f"{encoder}.linear_1.{point}", state))
                logit = float(linear(weights, f"{encoder}.linear_2.{point}", inner))
                if place == 0 or 1 / (1 + math.exp(-logit)) >= 0.5:
                    chosen.append(place)
            states = [states[place] for place in chosen]
            positions = [positions[place] for place in chosen]
            kept.append(positions)
            point += 1
        states = layer(weights, parts, f"{encoder}.layer.{index}", states)
        for place, state in zip(positions, states, strict=True):
            last[place] = state
    return last, kept


def original_forward(weights, ids, types):
    """Returns the logits of one document, and the positions kept at each point."""
    last, kept = original_states(weights, ids, types)
    if "pre_classifier.weight" in weights:
        return linear(weights, "classifier", torch.relu(linear(weights, "pre_classifier", last[0]))), kept
    return linear(weights, "classifier", torch.tanh(linear(weights, "bert.pooler.dense", last[0]))), kept


@pytest.fixture(scope="module")
def originals(checkpoint):
    """What the original says of three documents: ids, types, logits, kept positions."""
    generator = torch.Generator().manual_seed(0)
    documents = []
    for length in LENGTHS:
        ids = torch.randint(5, 60, (length,), generator=generator).tolist()
        types = [int(place > length // 2) for place in range(length)]
        documents.append((ids, types, *original_forward(checkpoint, ids, types)))
    # Every point has dropped tokens, and the last has left some beside the first.
    totals = [sum(LENGTHS), *(sum(len(kept[point]) for *_, kept in documents) for point in (0, 1))]
    assert totals[0] > totals[1] > totals[2] > len(LENGTHS)
    return documents


def imported(checkpoint):
    """Returns the checkpoint's model, and what decides by its heads."""
    model = import_original(checkpoint, CONFIG)
    reducer = Reducer(encoder=Encoder(model.plain), task=TASKS["classification"], points=model.points)
    return reducer, PolicySelector(model.policy)


def tokens_of(documents):
    return Tokens.from_lists([ids for ids, *_ in documents], [types for _, types, *_ in documents])


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3])
def test_reduced_logits_equal_the_originals(batch_size, checkpoint, originals):
    # At batch 3 the original's own answers would change: every document kept as many tokens as the longest.
    reducer, selector = imported(checkpoint)
    for start in range(0, len(originals), batch_size):
        documents = originals[start : start + batch_size]
        reduced = reducer.run(selector, tokens_of(documents), 0.0)
        assert_close(reducer.outputs(reduced), torch.stack([logits for *_, logits, _ in documents]))
        counts = [[len(positions) for positions in kept] for *_, kept in documents]
        assert reduced.kept.T.tolist() == counts


@torch.no_grad()
def test_masks_equal_the_originals(checkpoint, originals):
    reducer, selector = imported(checkpoint)
    state = reducer.enter(tokens_of(originals))
    for point in (0, 1):
        batch = state.batch
        mask = selector.keep_mask(batch, point, 2, torch.zeros(len(batch)), None)
        kept = [batch.positions[mask & (batch.documents == document)].tolist() for document in range(len(originals))]
        assert kept == [kept[point] for *_, kept in originals]
        state = reducer.advance(state, mask[None])


def documents_of(lengths, seed=0):
    """Returns random documents: the ids of each, and the types of its tokens."""
    generator = torch.Generator().manual_seed(seed)
    for length in lengths:
        yield (
            torch.randint(5, 60, (length,), generator=generator).tolist(),
            [int(i > length // 2) for i in range(length)],
        )


def reimported(folder, out, *more):
    """Returns the folder of the model that the command makes of a checkpoint."""
    assert main(["import-checkpoint", str(folder), "--out", str(out), *more]) == 0
    return out


SMALL = {"hidden_size": DIM, "num_attention_heads": HEADS, "intermediate_size": 48, "max_position_embeddings": 40}
SMALL_DISTIL = {"dim": DIM, "n_heads": HEADS, "hidden_dim": 48, "max_position_embeddings": 40}


def config_with(kind, layers):
    """Returns the configuration of a classifier with so many layers."""
    if kind == "bert":
        return transformers.BertConfig(vocab_size=60, num_hidden_layers=layers, num_labels=3, **SMALL)
    return transformers.DistilBertConfig(vocab_size=60, n_layers=layers, num_labels=3, **SMALL_DISTIL)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "layers", "points"),
    [
        ("bert", 6, (1, 3)),
        ("bert", 5, (1, 2)),
        ("bert", 3, (1,)),
        ("bert", 2, (1,)),
        ("bert", 1, (0,)),
        ("distilbert", 6, (1, 3)),
        ("distilbert", 3, (1,)),
    ],
)
def test_a_checkpoint_that_the_command_imported_answers_as_the_original(
    kind, layers, points, build_model, with_heads, save_original, tmp_path
):
    plain = build_model(config_with(kind, layers))
    weights = with_heads(plain)
    out = reimported(save_original(tmp_path / "original", plain, weights), tmp_path / "reduced")
    ours = trbert.load(out, verify=True)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert ours.config.points == points
    dropped = 0
    for ids, types in documents_of((17, 9, 2, 1)):
        logits, kept = original_forward(weights, ids, types)
        dropped += len(ids) - len(kept[-1])
        assert len(kept) == len(points)
        for model in (ours, theirs):
            given = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
            assert_close(model(**given).logits[0], logits, atol=1e-4, rtol=0)
    assert dropped > 5


@torch.no_grad()
def test_the_spans_of_question_answering_are_read_from_the_states_with_which_tokens_were_dropped(
    with_heads, save_original, tmp_path
):
    # The original's model for question answering has a pooler that its head does not read.
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIG)
    config.num_labels = 2
    plain = transformers.AutoModelForQuestionAnswering.from_config(config).eval()
    for parameter in plain.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    weights = with_heads(plain)
    folder = save_original(tmp_path / "original", plain, weights)
    path = folder / "config.json"
    path.write_text(path.read_text().replace("AUTOBertForSequenceClassification", "AUTOBertForQuestionAnswering"))
    ours = trbert.load(reimported(folder, tmp_path / "reduced", "--task", "question_answering"))
    assert ours.config.separator is None  # the original protects no question
    for ids, types in documents_of((17, 9)):
        last, kept = original_states(weights, ids, types)
        assert len(kept[0]) < len(ids)
        expected = torch.stack([linear(weights, "qa_outputs", state) for state in last])
        found = ours(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        assert_close(torch.stack([found.start_logits[0], found.end_logits[0]], -1), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_imported_checkpoint_of_multiple_choice_answers_as_the_original(
    build_model, with_heads, save_original, tmp_path
):
    plain = transformers.AutoModelForMultipleChoice.from_config(CONFIG).eval()
    plain.bert.load_state_dict(build_model(CONFIG).bert.state_dict())
    torch.nn.init.normal_(plain.classifier.weight)
    weights = with_heads(plain)
    folder = save_original(tmp_path / "original", plain, weights)
    path = folder / "config.json"
    path.write_text(path.read_text().replace("AUTOBertForSequenceClassification", "AUTOBertForMultipleChoice"))
    out = reimported(folder, tmp_path / "reduced", "--task", "multiple_choice")
    ours = trbert.load(out)
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(out).eval()
    options = list(documents_of((17, 17, 9)))
    ids = torch.tensor([[own + [0] * (17 - len(own)) for own, _ in options]])
    types = torch.tensor([[own + [0] * (17 - len(own)) for _, own in options]])
    mask = (torch.arange(17) < torch.tensor([17, 17, 9])[:, None]).long()[None]
    logits, kept = zip(*(original_forward(weights, *own) for own in options), strict=True)
    assert 3 < sum(len(own[-1]) for own in kept) < 43
    for model in (ours, theirs):
        found = model(input_ids=ids, token_type_ids=types, attention_mask=mask, labels=torch.tensor([2]))
        assert_close(found.logits, torch.cat(logits)[None], atol=1e-4, rtol=0)
        assert_close(found.loss, -torch.cat(logits).log_softmax(0)[2], atol=1e-4, rtol=0)
