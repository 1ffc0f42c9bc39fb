"""The arithmetic of the original TR-BERT code, written as loops from its checkpoint's weights alone (law 4).

What it does at batch 1: layer i of 1 and L//2 first scores its input tokens, sigmoid(linear_2(gelu(linear_1 h))); a
token goes on where that is at least one half, the first always; the layers from there on see nothing else.
"""

import math

import pytest
import torch
import transformers
from torch.testing import assert_close

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


@pytest.fixture(scope="module")
def checkpoint(build_model):
    """A state dict with the original's names: a BERT classifier, and two heads beside its layers."""
    state = dict(build_model(CONFIG).state_dict())
    generator = torch.Generator().manual_seed(10)
    for point in (0, 1):
        state |= {
            f"bert.encoder.linear_1.{point}.weight": 0.3 * torch.randn(32, DIM, generator=generator),
            f"bert.encoder.linear_1.{point}.bias": 0.3 * torch.randn(32, generator=generator),
            f"bert.encoder.linear_2.{point}.weight": 0.3 * torch.randn(1, 32, generator=generator),
            f"bert.encoder.linear_2.{point}.bias": 0.3 * torch.randn(1, generator=generator),
        }
    return state


def linear(weights, name, vector):
    return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]


def layer_norm(weights, name, vector):
    mean = sum(vector) / len(vector)
    variance = sum((x - mean) ** 2 for x in vector) / len(vector)
    return (vector - mean) / torch.sqrt(variance + EPS) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(vector):
    return torch.tensor([float(x) * 0.5 * (1 + math.erf(float(x) / math.sqrt(2))) for x in vector])


def layer(weights, name, states):
    query, key, value = (
        [linear(weights, f"{name}.attention.self.{part}", state) for state in states]
        for part in ("query", "key", "value")
    )
    width = DIM // HEADS
    results = []
    for i, state in enumerate(states):
        heads = []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            scores = [math.exp(float(query[i][part] @ k[part]) / math.sqrt(width)) for k in key]
            heads.append(sum(score / sum(scores) * v[part] for score, v in zip(scores, value, strict=True)))
        attended = linear(weights, f"{name}.attention.output.dense", torch.cat(heads))
        attended = layer_norm(weights, f"{name}.attention.output.LayerNorm", attended + state)
        inner = gelu(linear(weights, f"{name}.intermediate.dense", attended))
        results.append(
            layer_norm(weights, f"{name}.output.LayerNorm", linear(weights, f"{name}.output.dense", inner) + attended)
        )
    return results


def original_forward(weights, ids, types):
    """Returns the logits of one document, and the positions kept at each point."""
    tables = "bert.embeddings."
    states = [
        layer_norm(
            weights,
            f"{tables}LayerNorm",
            weights[f"{tables}word_embeddings.weight"][token]
            + weights[f"{tables}position_embeddings.weight"][place]
            + weights[f"{tables}token_type_embeddings.weight"][kind],
        )
        for place, (token, kind) in enumerate(zip(ids, types, strict=True))
    ]
    positions, kept, point = list(range(len(ids))), [], 0
    for index in range(LAYERS):
        if index in (1, LAYERS // 2):
            chosen = []
            for place, state in enumerate(states):
                inner = gelu(linear(weights, f"bert.encoder.linear_1.{point}", state))
                logit = float(linear(weights, f"bert.encoder.linear_2.{point}", inner))
                if place == 0 or 1 / (1 + math.exp(-logit)) >= 0.5:
                    chosen.append(place)
            states = [states[place] for place in chosen]
            positions = [positions[place] for place in chosen]
            kept.append(positions)
            point += 1
        states = layer(weights, f"bert.encoder.layer.{index}", states)
    pooled = torch.tanh(linear(weights, "bert.pooler.dense", states[0]))
    return linear(weights, "classifier", pooled), kept


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
