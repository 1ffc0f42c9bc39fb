"""The Hugging Face face: what a reduced model returns, and how it is saved."""

import json
import re
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers.modeling_outputs import SequenceClassifierOutput

import trbert
from tests.trbert.modeling.conftest import KEEP_ALL, LENGTHS, NAMES, POINTS, reduced, reducer_of, wide_policy
from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.measure import break_even
from trbert.measure.break_even import BreakEven, Conditions, save_break_even
from trbert.modeling import (
    MODELS,
    TrbertConfig,
    TrbertForSequenceClassification,
    TrbertForTokenClassification,
    assemble,
    load,
    model_class,
)
from trbert.packed.tokens import Tokens
from trbert.runners import runner_of
from trbert.selection.fusion import Fusion
from trbert.selection.policy import FEATURES, Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import FirstSelector, PolicySelector, selector_of
from trbert.tasks import TASKS


def padded(tokens, side="right", segments=True):
    """Returns the documents as a tokenizer would pad them."""
    width = int(tokens.lengths.max())
    place = torch.arange(width)
    mask = place < tokens.lengths[:, None] if side == "right" else place >= width - tokens.lengths[:, None]
    ids, types = torch.zeros(mask.shape, dtype=torch.long), torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = tokens.input_ids
    types[mask] = tokens.token_type_ids
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    return inputs | ({"token_type_ids": types} if segments else {})


@torch.no_grad()
def logits_of(model, tokens, **arguments):
    return model(**padded(tokens, **arguments)).logits


# What it computes.


@torch.no_grad()
def test_it_is_the_reduced_forward_pass(model, tokens):
    reducer = reducer_of(model.plain)
    run = reducer.run(PolicySelector(model.policy), tokens, 0.0)
    assert (run.kept[1] < run.kept[0]).any()
    assert (run.kept[0] < tokens.lengths).any()  # something is dropped at both points
    assert_close(logits_of(model, tokens), reducer.outputs(run))
    assert not torch.allclose(logits_of(model, tokens), reducer.unreduced_outputs(tokens), atol=1e-2)


def test_padding_may_be_on_either_side(model, tokens):
    assert_close(logits_of(model, tokens, side="left"), logits_of(model, tokens, side="right"))


def test_a_batch_without_a_mask_is_all_tokens(model, make_tokens):
    tokens = make_tokens(7, 7)
    inputs = padded(tokens)
    del inputs["attention_mask"]
    with torch.no_grad():
        assert_close(model(**inputs).logits, logits_of(model, tokens))


def test_a_documents_logits_depend_neither_on_batch_mates_nor_on_order(model, tokens):
    together = logits_of(model, tokens)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert_close(logits_of(model, tokens.take(order)), together[order])
    for document in range(len(tokens)):
        assert_close(logits_of(model, tokens.take(torch.tensor([document]))), together[document : document + 1])


@torch.no_grad()
def test_keeping_all_equals_the_plain_classifier(bert, tokens):
    plain = bert(**padded(tokens)).logits
    assert_close(logits_of(reduced(bert, dial=KEEP_ALL), tokens), plain)


def test_a_lower_dial_keeps_fewer_tokens(model, tokens):
    kept = [int(model.reducer.run(model.selector, tokens, dial).kept[-1].sum()) for dial in (-5.0, 0.0, 5.0, KEEP_ALL)]
    assert kept == sorted(set(kept))
    assert kept[-1] == sum(LENGTHS)
    found = []
    for dial in (-5.0, 5.0):
        model.config.dial = dial
        found.append(logits_of(model, tokens))
    assert not torch.allclose(*found, atol=1e-2)


def test_it_runs_in_half_precision(model, tokens):
    half = logits_of(model.to(torch.bfloat16), tokens)
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


# What it returns.


def test_it_returns_what_hugging_face_models_return(model, tokens):
    output = model(**padded(tokens))
    assert isinstance(output, SequenceClassifierOutput)
    assert output.logits.shape == (len(LENGTHS), 3)
    assert output.loss is None
    assert output.logits.requires_grad


def test_labels_give_the_loss(model, tokens):
    labels = torch.tensor([0, 1, 2, 1, 0])
    output = model(**padded(tokens), labels=labels)
    assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    output.loss.backward()
    assert model.plain.classifier.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["classification", "regression", "reranking", "listwise_reranking"])
def test_labels_may_be_a_column_as_for_the_plain_model(name, config_of, tokens):
    plain = transformers.AutoModelForSequenceClassification.from_config(config_of("bert"))
    plain.classifier = torch.nn.Linear(32, 3 if name == "classification" else 1)
    plain.config.num_labels = plain.classifier.out_features
    reducer = Reducer(encoder=Encoder(plain), task=TASKS[name], points=(1,))
    model = assemble(reducer, FirstSelector(Policy(32, 0)), 0.5, 40)
    labels = torch.tensor([0, 1, 0, 0, 1])
    losses = [model(**padded(tokens), labels=each).loss for each in (labels, labels[:, None])]
    assert losses[0] == losses[1] > 0


@torch.no_grad()
def test_a_tuple_is_returned_where_it_was_asked_for(model, tokens):
    inputs = padded(tokens)
    (logits,) = model(**inputs, return_dict=False)
    loss, same = model(**inputs, labels=torch.tensor([0, 1, 2, 1, 0]), return_dict=False)
    assert torch.equal(logits, same)
    assert loss.dim() == 0
    assert torch.equal(model(**inputs, return_dict=None).logits, logits)  # unsaid, as transformers' models take it


def test_a_trainer_passes_it_no_count_of_labels(model):
    assert not model.accepts_loss_kwargs  # read before the signature, whose **kwargs would say otherwise


@pytest.mark.parametrize("given", [{"output_attentions": True}, {"position_ids": torch.zeros(1, 1)}])
def test_what_a_reduced_model_cannot_give_is_refused(model, tokens, given):
    (name,) = given
    told = (
        f"a reduced model takes input_ids, attention_mask, token_type_ids and labels, and was passed {name}: "
        "leave it out (states and attentions of dropped tokens do not exist)"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        model(**padded(tokens), **given)


@torch.no_grad()
def test_what_is_not_asked_for_may_be_said(model, tokens):
    answer = model(**padded(tokens), output_attentions=False, output_hidden_states=None)
    assert torch.equal(answer.logits, logits_of(model, tokens))


def test_a_document_of_padding_alone_is_refused(model, tokens):
    inputs = padded(tokens)
    inputs["attention_mask"][2] = 0
    with pytest.raises(InputError, match="document 2 of the batch has no token"):
        model(**inputs)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("input_ids", None, "the NoneType None"),
        ("input_ids", [[7, 8]], "the list [[7, 8]]"),
        ("attention_mask", [[1, 1]], "the list [[1, 1]]"),
        ("token_type_ids", [[0, 0]], "the list [[0, 0]]"),
        ("labels", [1], "the list [1]"),
    ],
)
def test_what_is_no_tensor_is_refused(model, name, value, told):
    given = {"input_ids": torch.tensor([[7, 8]])} | {name: value}
    remedy = "make it one" if name == "labels" else "pass what the tokenizer returns with return_tensors='pt'"
    told = f"{name} must be a tensor, and is {told}: {remedy}"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        model(**given)


def test_embeddings_in_place_of_ids_are_refused(model):
    with pytest.raises(InputError, match="and was passed inputs_embeds: leave it out"):
        model(inputs_embeds=torch.zeros(1, 2, 32))


@pytest.mark.parametrize("dial", ["a", None, float("nan"), [0.0]])
def test_a_dial_that_is_no_number_is_refused(model, tokens, dial):
    told = f"the dial of 'policy' must be a finite number, and is {dial!r}: its default is 0"
    model.config.dial = dial
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        logits_of(model, tokens)


def test_a_model_is_not_loaded_at_a_dial_that_it_does_not_take(saved):
    with pytest.raises(InputError, match=r"^the dial of 'policy' must be a finite number, and is nan: "):
        load(saved, dial=float("nan"))


def test_a_document_longer_than_the_model_is_refused(model, make_tokens):
    with pytest.raises(InputError, match="at most 40 tokens for this model, and one has 41: tokenise with truncation"):
        logits_of(model, make_tokens(41))


# How it is made, saved and loaded.


def test_assembling_shares_the_weights(bert):
    policy, fusion = wide_policy(32), Fusion(32, 2)
    model = assemble(reducer_of(bert, fusion=fusion), PolicySelector(policy), -0.5, max_tokens=24)
    assert model.plain is bert
    assert model.policy is policy
    assert model.fusion is model.reducer.fusion is fusion
    assert not model.training
    config = model.config
    assert (config.points, config.dial, config.max_tokens) == (POINTS, -0.5, 24)
    assert (config.policy_width, config.policy_features) == (8, ("document", "neighbours"))
    assert (config.selector, config.task, config.fusion) == ("policy", "classification", True)


def test_every_weight_is_held_once(model, saved):
    state = model.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    expected = {f"plain.{name}" for name in model.plain.state_dict()}
    assert state.keys() == expected | {f"policy.{name}" for name in model.policy.state_dict()}
    assert load_file(saved / "model.safetensors").keys() == state.keys()


def test_a_saved_model_gives_the_same_logits_however_it_is_loaded(model, saved, tokens):
    expected = logits_of(model, tokens)
    for own in (
        load(saved),
        trbert.load(str(saved)),
        transformers.AutoModelForSequenceClassification.from_pretrained(saved),
    ):
        assert isinstance(own, TrbertForSequenceClassification)
        assert not own.training
        assert torch.equal(logits_of(own, tokens), expected)


def test_every_family_is_saved_and_loaded(family_config, build_model, make_tokens, tmp_path):
    family_config.id2label = dict(NAMES)
    plain = build_model(family_config)
    model, tokens = reduced(plain), make_tokens(*LENGTHS, config=family_config)
    expected = logits_of(model, tokens, segments=False)
    model.save_pretrained(tmp_path)
    own = load(tmp_path)
    assert torch.equal(logits_of(own, tokens, segments=False), expected)
    assert own.config.id2label == NAMES
    assert type(own.plain) is type(plain)


def test_the_config_is_kept(model, saved):
    own = transformers.AutoConfig.from_pretrained(saved)
    assert isinstance(own, TrbertConfig)
    assert (own.points, own.policy_width, own.max_tokens, own.dial) == (POINTS, 8, 40, 0.0)
    assert (own.selector, own.policy_features) == ("policy", ("document", "neighbours"))
    assert (own.task, own.fusion) == ("classification", False)
    assert own.id2label == NAMES
    assert own.label2id == {"no": 0, "maybe": 1, "yes": 2}
    assert own.num_labels == 3
    assert own.encoder_config().to_dict() == load(saved).plain.config.to_dict()
    written = json.loads((saved / "config.json").read_text())
    assert (written["model_type"], written["task"]) == ("trbert", "classification")


def test_its_padding_id_is_the_encoders_unless_it_is_given():
    assert TrbertConfig(encoder={"model_type": "roberta", "pad_token_id": 7}).pad_token_id == 7
    assert TrbertConfig(encoder={"model_type": "roberta"}).pad_token_id == 1  # RoBERTa's default
    assert TrbertConfig(encoder={"model_type": "roberta"}, pad_token_id=3).pad_token_id == 3


def test_the_dial_is_saved_and_may_be_replaced(model, tmp_path, tokens):
    model.config.dial = -2.5
    model.save_pretrained(tmp_path)
    expected = logits_of(model, tokens)
    own = load(tmp_path)
    assert own.config.dial == -2.5
    assert torch.equal(logits_of(own, tokens), expected)
    other = load(tmp_path, dial=KEEP_ALL)
    assert other.config.dial == KEEP_ALL
    assert_close(logits_of(other, tokens), model.reducer.unreduced_outputs(tokens))


def test_a_dial_of_zero_replaces_the_saved_one(bert, tmp_path, tokens):
    reduced(bert, dial=-2.5).save_pretrained(tmp_path)
    own = load(tmp_path, dial=0.0)
    assert own.config.dial == 0.0
    assert torch.equal(logits_of(own, tokens), logits_of(reduced(bert, dial=0.0), tokens))


@torch.no_grad()
def test_what_is_loaded_compiled_runs_every_span_compiled(model, saved, tokens, monkeypatch):
    made, runs = [], []

    def stand_in(function, **_):
        made.append(function)
        return lambda *given: runs.append(function) or function(*given)

    monkeypatch.setattr(torch, "compile", stand_in)
    own = load(saved, runner="compiled")
    for _ in range(2):
        assert torch.equal(logits_of(own, tokens), logits_of(model, tokens))
    # Points (0, 2): layers 0 and 1 are one span, layers 2 and 3 another. Each is compiled once; each pass runs both.
    assert len(made) == 2
    assert runs == made * 2
    assert logits_of(load(saved), tokens).shape == (len(LENGTHS), 3)
    assert len(runs) == 4  # a model loaded without runs none


def test_a_model_saved_twice_is_the_same(saved, tmp_path):
    load(saved).save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_its_cost_is_the_encoders_with_its_policy(model):
    cost = model.cost_model()
    lengths = torch.tensor([20])
    kept = torch.tensor([[10], [5]])
    whole = cost.reduced(lengths, kept, POINTS, model.selector)
    assert 0 < whole < cost.unreduced(lengths)
    # Its heads are 8 wide: 2·32·8 + 2·8 for a token's own state, 2·32·16 for its neighbours, 2·33·8 for its document.
    heads = (20 + 10) * (512 + 16 + 1024) + 2 * 528
    assert whole - cost.reduced(lengths, kept, POINTS, FirstSelector) == heads


@torch.no_grad()
@pytest.mark.parametrize("features", [(), ("neighbours",), FEATURES])
@pytest.mark.parametrize("selector", ["policy", "gumbel"])
def test_what_its_heads_see_and_how_they_learned_is_saved_with_it(features, selector, bert, tokens, tmp_path):
    torch.manual_seed(0)
    policy = Policy(32, 2, width=8, features=features)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = assemble(reducer_of(bert), selector_of(selector, policy), 0.5, 40)
    model.save_pretrained(tmp_path)
    own = load(tmp_path)
    assert (own.config.selector, own.config.policy_features) == (selector, features)
    assert own.selector.name == selector
    for dial in (0.5, -1.0):
        model.config.dial = own.config.dial = dial
        assert torch.equal(logits_of(own, tokens), logits_of(model, tokens))


@torch.no_grad()
def test_fusion_is_saved_and_enters_the_logits(bert, tokens, tmp_path):
    plain, policy, fusion = logits_of(reduced(bert), tokens), wide_policy(32), Fusion(32, 2)
    model = assemble(reducer_of(bert, fusion=fusion), PolicySelector(policy), 0.0, 40)
    assert torch.equal(logits_of(model, tokens), plain)  # its maps are zero
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert not torch.allclose(logits_of(model, tokens), plain, atol=1e-2)
    model.save_pretrained(tmp_path)
    own = load(tmp_path)
    assert own.config.fusion
    assert torch.equal(logits_of(own, tokens), logits_of(model, tokens))
    reducer = reducer_of(bert, fusion=fusion)
    assert_close(logits_of(own, tokens), reducer.outputs(reducer.run(PolicySelector(policy), tokens, 0.0)))
    assert own.cost_model().fusion_per_document == 2 * 32 * 32


@torch.no_grad()
def test_a_rules_model_holds_no_policy(bert, tokens, tmp_path):
    rule, reducer = FirstSelector(Policy(32, 0)), reducer_of(bert)
    model = assemble(reducer, rule, 0.3, 40)
    model.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if name.startswith("policy")]
    own = load(tmp_path)
    assert not list(own.policy.parameters())
    assert_close(logits_of(own, tokens), reducer.outputs(reducer.run(rule, tokens, 0.3)))
    own.config.dial = own.selector.keep_all
    assert_close(logits_of(own, tokens), own.reducer.unreduced_outputs(tokens))


def test_a_selector_that_does_not_exist_is_said(bert, tmp_path):
    assemble(reducer_of(bert), FirstSelector(Policy(32, 0)), 0.3, 40).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"selector": "frist"}))
    told = (
        "selector must be one of policy, gumbel, first, random, attention, saliency, and is 'frist': "
        "'policy' is the default"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        load(tmp_path)


def test_points_that_do_not_fit_the_encoder_are_refused(bert):
    with pytest.raises(InputError, match="points must be rising layer indices from 0 to 3"):
        assemble(reducer_of(bert, (0, 4)), PolicySelector(wide_policy(32)), 0.0, 40)


# A model of another task.


@torch.no_grad()
def test_a_model_whose_head_reads_tokens_is_saved_and_loaded(token_task, token_encoder, tokens, tmp_path):
    rule = FirstSelector(Policy(32, 0))
    reducer = Reducer(encoder=token_encoder, task=token_task, points=POINTS)
    model = assemble(reducer, rule, 0.3, 40)
    assert type(model) is model_class(token_task) is TrbertForTokenClassification
    assert model_class(TASKS["classification"]) is TrbertForSequenceClassification
    model.save_pretrained(tmp_path)
    own = load(tmp_path)
    assert type(own) is TrbertForTokenClassification
    assert own.task is token_task
    assert own.config.task == "token average"
    logits, mask = logits_of(own, tokens), padded(tokens)["attention_mask"].bool()
    assert logits.shape == (*mask.shape, 3)  # of each original token, dropped ones included, as the padded model gives
    outputs = logits[mask]
    assert torch.equal(outputs, reducer.outputs(reducer.run(rule, tokens, 0.3)))
    assert not logits[~mask].any()


@pytest.fixture
def tagger(token_task, token_encoder):
    """A reduced model that gives each token one of three classes, and drops seven tokens of ten."""
    reducer = Reducer(encoder=token_encoder, task=token_task, points=POINTS)
    return assemble(reducer, FirstSelector(Policy(32, 0)), 0.3, 40)


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_of_tokens_give_the_usual_loss_on_whichever_side_the_padding_is(side, tagger, tokens):
    inputs = padded(tokens, side=side)
    real = inputs["attention_mask"].bool()
    labels = torch.randint(0, 3, real.shape, generator=torch.Generator().manual_seed(1))
    labels[:, ::3] = -100  # such as the later tokens of a word
    labels[~real] = -100
    output = tagger(**inputs, labels=labels)
    assert isinstance(output, transformers.modeling_outputs.TokenClassifierOutput)
    assert output.logits.shape == (*real.shape, 3)
    assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten()))
    output.loss.backward()
    assert tagger.plain.classifier.weight.grad.abs().sum() > 0


def test_labels_of_tokens_that_keep_all_give_the_loss_of_the_plain_model(tagger, tokens):
    inputs = padded(tokens)
    labels = inputs["input_ids"] % 3
    labels[inputs["attention_mask"] == 0] = -100
    tagger.config.dial = tagger.selector.keep_all
    plain = transformers.AutoModelForTokenClassification.from_config(tagger.plain.config).eval()
    plain.load_state_dict(tagger.plain.state_dict())
    assert_close(tagger(**inputs, labels=labels).loss, plain(**inputs, labels=labels).loss)


def test_labels_of_tokens_have_the_shape_of_the_inputs(tagger, tokens):
    with pytest.raises(InputError, match=r"^labels must have the shape of input_ids \(5, 20\), and have \(5,\): pass"):
        tagger(**padded(tokens), labels=torch.zeros(5, dtype=torch.long))


def test_every_listed_head_is_found_by_its_auto_class():
    for head, own in MODELS.items():
        assert getattr(transformers, head)._model_mapping[TrbertConfig] is own
        assert getattr(trbert, own.__name__) is own


@pytest.mark.parametrize("head", [each for each in MODELS if each != TASKS["classification"].head])
def test_an_auto_class_with_another_head_is_refused_with_the_right_one(head, saved):
    told = r"which has AutoModelForSequenceClassification: .* or transformers\.AutoModelForSequenceClassification$"
    with pytest.raises(InputError, match=told):
        getattr(transformers, head).from_pretrained(saved)


@torch.no_grad()
def test_what_its_task_protects_is_kept_when_it_is_served(model, tokens, monkeypatch):
    def with_the_last(tokens):
        return replace(tokens, protected=tokens.protected.index_fill(0, tokens.offsets[1:] - 1, True))

    nothing = -1000.0  # no token goes on but the protected ones
    model.config.dial = nothing
    first_alone = logits_of(model, tokens)
    monkeypatch.setattr(type(model.task), "protect", lambda self, tokens, separator: with_the_last(tokens))
    run = model.reducer.run(model.selector, with_the_last(tokens), nothing)
    assert run.kept.tolist() == [[2, 2, 2, 2, 1]] * 2  # the last document is one token long
    assert_close(logits_of(model, tokens), model.reducer.outputs(run))
    assert not torch.allclose(logits_of(model, tokens), first_alone, atol=1e-2)


@torch.no_grad()
def test_a_model_that_was_warmed_up_captures_nothing_more_for_these_sizes(make_reducer, monkeypatch):
    model = assemble(make_reducer((1, 3)), PolicySelector(Policy(32, 2)), 0.0, 40)
    model.run_with(runner_of("graphed"))
    ids = torch.randint(5, 60, (3, 17), generator=torch.Generator().manual_seed(0))
    before = model(ids).logits
    model.warm_up(tokens=(17, 40), documents=(1, 3))
    made = []
    monkeypatch.setattr(type(model.runner), "_capture", lambda self, work, device: made.append(work) or work)
    assert_close(model(ids).logits, before)
    assert made == []
    message = "tokens and documents must be 1 or more, and are [17, 0] and [1]: pass the sizes that you expect"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        model.warm_up(tokens=(17, 0), documents=(1,))


def inputs_of(docs, width, seed=0):
    """Returns documents as a tokenizer returns them."""
    ids = torch.randint(5, 60, (docs, width), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def table_of(model, pays):
    """Returns a table by which reducing a batch of 3 documents or more pays, or no batch."""
    here = Conditions.now(model.reducer, model.selector, model.config.dial)
    return BreakEven(conditions=here, tokens=(1, 1), documents=(1, 3), gains=(0.5, 2.0 if pays else 0.5))


@pytest.mark.parametrize("runner", ["eager", "graphed"])
@torch.no_grad()
def test_a_batch_that_is_too_small_for_reducing_to_pay_keeps_all_tokens_and_says_so(runner, model):
    model.run_with(runner_of(runner))
    small, large = inputs_of(2, 17), inputs_of(3, 17, seed=1)
    unreduced = [model.reducer.unreduced_outputs(Tokens.from_padded(**each)) for each in (small, large)]
    reduced = [model(**each).logits for each in (small, large)]
    model.break_even = (table_of(model, True),)
    assert_close(model(**small).logits, unreduced[0])
    assert_close(model(**large).logits, reduced[1])
    assert not torch.allclose(reduced[1], unreduced[1], atol=1e-2)
    told = [model.reduced(Tokens.from_padded(**each)) for each in (small, large)]
    assert [each.reduces for each in told] == [False, True]
    assert told[0].kept.tolist() == [[17, 17]] * 2
    assert int(told[1].kept[-1].max()) < 17


@pytest.mark.parametrize("change", ["dial", "dtype", "runner", "threads", "training", "none"])
@torch.no_grad()
def test_a_table_of_other_conditions_is_not_consulted_and_neither_is_any_in_training(change, model):
    inputs = Tokens.from_padded(**inputs_of(2, 17))
    table = table_of(model, False)
    model.break_even = (table,)
    assert not model.reduced(inputs).reduces
    if change in ("dtype", "threads"):
        wrong = replace(table.conditions, **{change: {"dtype": "bfloat16", "threads": 99}[change]})
        model.break_even = (replace(table, conditions=wrong),)
    elif change == "dial":
        model.config.dial = -1.0
    elif change == "runner":
        model.run_with(runner_of("graphed"))
    elif change == "training":
        model.train()
    else:
        model.break_even = ()
    assert model.reduced(inputs).reduces


@pytest.mark.parametrize("runner", ["eager", "graphed"])
def test_warming_up_on_texts_finds_out_where_reducing_pays(runner, model, monkeypatch, tmp_path):
    for name in ("_ROUNDS", "_STEP_TOKENS"):
        monkeypatch.setattr(break_even, name, 1)
    monkeypatch.setattr(PolicySelector, "dials", (0.0,))
    model.run_with(runner_of(runner))
    model.warm_up(tokens=(4, 17), documents=(2,), like=inputs_of(3, 9))
    (table,) = model.break_even
    assert (table.tokens, table.documents) == ((8, 34), (2, 2))
    assert table.conditions == Conditions.now(model.reducer, model.selector, 0.0)
    save_break_even(model.break_even, tmp_path / "break_even.json")
    model.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model", runner=runner, break_even=tmp_path / "break_even.json")
    assert loaded.break_even == model.break_even


def test_a_model_in_training_mode_is_warmed_up_and_not_measured(model):
    model.train()
    with pytest.raises(
        InputError, match=r"^the model must be in evaluation mode, in which it will be used, .* call model.eval"
    ):
        model.warm_up(tokens=(4,), documents=(1,), like=inputs_of(3, 9))
    model.warm_up(tokens=(4,), documents=(1,))
    assert model.break_even == ()


@torch.no_grad()
def test_warming_up_a_model_with_a_table_captures_its_unreduced_passes_too(model, monkeypatch):
    model.run_with(runner_of("graphed"))
    monkeypatch.setattr(PolicySelector, "dials", (0.0,))
    model.break_even = (table_of(model, False),)
    model.warm_up(tokens=(17,), documents=(2,))
    monkeypatch.setattr(type(model.runner), "_capture", None)  # whatever is to be captured now fails
    assert not model.reduced(Tokens.from_padded(**inputs_of(2, 17))).reduces


def test_a_table_of_another_model_and_texts_that_are_none_are_refused(model, saved, tmp_path):
    table = table_of(model, True)
    other = replace(table, conditions=replace(table.conditions, points=(1, 2)))
    save_break_even([other], tmp_path / "other.json")
    with pytest.raises(InputError, match=r"^break_even must be measured on this machine with this model and runner \("):
        load(saved, break_even=tmp_path / "other.json")
    with pytest.raises(InputError, match=r"^break_even must be a JSON file"):
        load(saved, break_even=saved / "config.json")
    with pytest.raises(InputError, match=r"^like must be what the tokenizer returns"):
        model.warm_up(tokens=(4,), documents=(1,), like={"input_ids": [5]})
    assert model.break_even == ()
