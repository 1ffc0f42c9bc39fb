"""`trbert.answer` and the Auto class of question answering, on a tiny random model."""

import math

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from torch.testing import assert_close

import trbert
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.modeling import TrbertForQuestionAnswering, assemble
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import FirstSelector
from trbert.tasks import TASKS
from trbert.tasks.parts import separator_of
from trbert.tasks.rows import Rows

TASK = TASKS["question_answering"]
CONTEXT = "a b c d  b a d d c b"


@pytest.fixture
def plain(config_of):
    torch.manual_seed(0)
    config = config_of("bert")
    config.num_labels = 2
    plain = transformers.AutoModelForQuestionAnswering.from_config(config).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return plain


@pytest.fixture
def folder(plain, tokenizer, tmp_path):
    """A saved model of documents of 9 tokens, of which it keeps half, with its tokenizer."""
    reducer = Reducer(encoder=Encoder(plain), task=TASK, points=(1,), separator=separator_of(TASK, tokenizer))
    assemble(reducer, FirstSelector(Policy(32, 0)), 0.5, 9).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def model(folder):
    return trbert.load(folder)


@pytest.fixture
def padded(tokenizer):
    """A function: side of the padding -> two questions with their contexts, as a batch."""

    def padded(side="right"):
        return tokenizer(["a", "b"], ["b c d a", "d"], padding=True, padding_side=side, return_tensors="pt")

    return padded


def test_the_auto_class_of_question_answering_loads_it(folder):
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    assert type(model) is type(trbert.load(folder)) is TrbertForQuestionAnswering


@torch.no_grad()
def test_an_answer_is_what_the_task_decodes_over_all_windows(model, tokenizer):
    targets = np.full((1, 1, 2), -1)
    rows = Rows((("a",), (CONTEXT,)), targets, np.zeros(1, dtype=np.int64), ("no answer",))
    examples = TASK.encode(rows, tokenizer, 9).examples
    assert len(examples.tokens) == 3
    outputs = model.reducer.outputs(model.reducer.run(model.selector, examples.tokens, 0.5))
    found = trbert.answer(model, tokenizer, "a", CONTEXT)
    assert [found.text] == TASK.decode(outputs, examples)
    span = trbert.answer(model, tokenizer, "a", CONTEXT, may_be_none=False)
    assert span.text == CONTEXT[span.start : span.end] != ""


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_that_must_be_there_has_a_character_that_can_be_seen(seed, plain, tokenizer):
    tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "isolated")
    torch.manual_seed(seed)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reducer = Reducer(encoder=Encoder(plain), task=TASK, points=(1,), separator=separator_of(TASK, tokenizer))
    model = assemble(reducer, FirstSelector(Policy(32, 0)), 1.0, 9)
    context = "a" + " " * 20 + "b"
    found = trbert.answer(model, tokenizer, "a", context, may_be_none=False)
    assert found.text == context[found.start : found.end] in ("a", "b", context)


@torch.no_grad()
def test_a_model_that_protects_no_question_reads_none_as_protected(plain, tokenizer):
    reducer = Reducer(encoder=Encoder(plain), task=TASK, points=(1,))
    model = assemble(reducer, FirstSelector(Policy(32, 0)), 0.5, 9)
    seen, read = [], model.read
    model.read = lambda tokens: seen.append(tokens) or read(tokens)
    trbert.answer(model, tokenizer, "a b", "c d")
    assert seen[0].protected.int().tolist() == [1, 0, 0, 0, 0, 0, 0]


@torch.no_grad()
def test_the_score_is_the_probability_of_the_start_times_that_of_the_end(model, tokenizer):
    # One window: tokens 3 and 4 are the context, and token 0 stands for no answer.
    logits = model(**tokenizer("a", "b c", return_tensors="pt"))
    starts, ends = logits.start_logits[0], logits.end_logits[0]
    pairs = {(3, 3): "b", (3, 4): "b c", (4, 4): "c"}
    first, last = max(pairs, key=lambda pair: float(starts[pair[0]] + ends[pair[1]]))
    for may_be_none, places in ((True, [0, 3, 4]), (False, [3, 4])):
        if may_be_none and starts[0] + ends[0] > starts[first] + ends[last]:
            first, last = 0, 0
        found = trbert.answer(model, tokenizer, "a", "b c", may_be_none=may_be_none)
        assert found.text == ({(0, 0): ""} | pairs)[first, last]
        shares = starts[places].softmax(-1)[places.index(first)] * ends[places].softmax(-1)[places.index(last)]
        assert found.score == pytest.approx(float(shares), rel=1e-4)
        first, last = max(pairs, key=lambda pair: float(starts[pair[0]] + ends[pair[1]]))


@torch.no_grad()
def test_a_model_that_is_sure_that_there_is_no_answer_gives_an_empty_text(plain, tokenizer):
    reducer = Reducer(encoder=Encoder(plain), task=TASK, points=(1,), separator=separator_of(TASK, tokenizer))
    model = assemble(reducer, FirstSelector(Policy(32, 0)), 1.0, 9)

    def sure(states, outputs):  # of the first token of a document, which packed rows hold several of
        return outputs.index_fill(-2, torch.arange(0, outputs.shape[-2], 9), 50.0)

    hook = plain.qa_outputs.register_forward_hook(lambda module, states, outputs: sure(states, outputs))
    found = trbert.answer(model, tokenizer, "a", "a b c d b")
    hook.remove()
    assert (found.text, found.start, found.end) == ("", 0, 0)
    assert found.score == pytest.approx(1.0)


@pytest.mark.parametrize(("question", "context"), [(" ", "a"), ("a", "")])
def test_a_blank_text_is_refused(question, context, model, tokenizer):
    with pytest.raises(InputError, match=r"^(question|context) must have a character that can be seen"):
        trbert.answer(model, tokenizer, question, context)


def test_a_question_that_is_too_long_is_refused(model, tokenizer):
    told = (
        "question must have at most 4 tokens, so that a document of 9 has room for its context, and has 5: shorten it"
    )
    with pytest.raises(InputError, match=f"^{told}$"):
        trbert.answer(model, tokenizer, "a b c d a", CONTEXT)
    assert trbert.answer(model, tokenizer, "a b c d", CONTEXT, may_be_none=False).text


@pytest.mark.parametrize(("question", "context"), [(None, "a"), ("a", ["a", "b"]), (["a"], "b")])
def test_what_is_no_text_is_refused(question, context, model, tokenizer):
    with pytest.raises(InputError, match=r"^(question|context) must be a string, and is the (NoneType|list) "):
        trbert.answer(model, tokenizer, question, context)


def test_a_model_of_another_task_is_refused(bert, tokenizer):
    reducer = Reducer(encoder=Encoder(bert), task=TASKS["classification"], points=(1,))
    model = assemble(reducer, FirstSelector(Policy(32, 0)), 1.0, 9)
    with pytest.raises(InputError, match="model must be of task question_answering, and is of task classification"):
        trbert.answer(model, tokenizer, "a", "b")


def test_a_plain_model_is_refused(bert, tokenizer):
    with pytest.raises(InputError, match=f"must be a reduced model .* is of class {type(bert).__name__}: make one"):
        trbert.answer(bert, tokenizer, "a", "b")


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_those_of_the_plain_model_and_least_at_padding(side, model, padded):
    model.config.dial = 1.0  # keeps all tokens
    batch = padded(side)
    real = batch["attention_mask"].bool()
    found = model(**batch)
    assert type(found) is transformers.modeling_outputs.QuestionAnsweringModelOutput
    for row in range(2):
        own = {name: values[row][real[row]][None] for name, values in batch.items()}
        alone = model.plain(**own)
        assert_close(found.start_logits[row][real[row]], alone.start_logits[0], rtol=1e-4, atol=1e-5)
        assert_close(found.end_logits[row][real[row]], alone.end_logits[0], rtol=1e-4, atol=1e-5)
    assert (found.start_logits[~real] == torch.finfo(torch.float32).min).all()
    assert found.loss is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_is_the_mean_of_both_ends_and_counts_no_position_beyond_the_width(side, model, padded):
    batch = padded(side)
    width = batch["input_ids"].shape[1]
    place = 4 if side == "right" else width - 2
    found = model(**batch, start_positions=torch.tensor([3, width]), end_positions=torch.tensor([[4], [place]]))
    start = F.cross_entropy(found.start_logits[:1], torch.tensor([3]))
    ends = F.cross_entropy(found.end_logits, torch.tensor([4, place]))
    assert_close(found.loss, (start + ends) / 2)
    found.loss.backward()
    assert math.isfinite(float(model.plain.qa_outputs.weight.grad.abs().sum()))


def test_one_position_alone_and_labels_are_refused(model, padded):
    batch = padded()
    with pytest.raises(InputError, match="start_positions and end_positions must both be tensors with one token for"):
        model(**batch, start_positions=torch.tensor([3, 3]))
    with pytest.raises(InputError, match="start_positions and end_positions must both be tensors with one token for"):
        model(**batch, start_positions=torch.tensor([3]), end_positions=torch.tensor([3]))
    with pytest.raises(InputError, match="labels must be start_positions and end_positions for this head"):
        model(**batch, labels=torch.tensor([3, 3]))
