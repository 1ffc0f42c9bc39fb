"""What trials share: the rows, the teacher, what it says of them."""

import dataclasses
import math
import pickle
import re

import numpy as np
import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.selection.reduction import Reducer
from trbert.tasks.classification import Classification
from tune.budget import make_plan
from tune.learning import inputs, teacher_cache
from tune.learning import prepare as module
from tune.learning.baselines import baselines as answers
from tune.learning.inputs import read_inputs
from tune.learning.prepare import prepare
from tune.learning.standing import remarks
from tune.settings import override


def same_weights(first, second):
    return first.weights.keys() == second.weights.keys() and all(
        np.array_equal(first.weights[name], second.weights[name]) for name in first.weights
    )


# The teacher.


def test_a_fine_tuned_model_needs_no_teacher_stage(prepared, tiny_settings, cache, tmp_path, no_training):
    prepared.plain(torch.device("cpu")).save_pretrained(tmp_path / "fine-tuned")
    prepared.tokenizer.save_pretrained(tmp_path / "fine-tuned")
    told = []
    own = prepare(
        override(tiny_settings, {"model": str(tmp_path / "fine-tuned")}), None, told.append, train=no_training
    )
    assert same_weights(own, prepared)
    assert own.teacher_test == prepared.teacher_test
    assert not (cache / "teachers").exists()
    assert not any("training" in line for line in told)
    assert "the model was fine-tuned for these labels, so it is the teacher as it is" in told


def test_the_teachers_outputs_are_those_of_the_plain_model(prepared):
    train = prepared.train
    model = prepared.plain(torch.device("cpu"))
    tokens, width = train.tokens, int(train.tokens.lengths.max())
    mask = torch.arange(width) < tokens.lengths[:, None]
    ids = torch.zeros_like(mask, dtype=torch.long)
    ids[mask] = tokens.input_ids
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask.long()).logits
    assert_close(train.teacher, plain, rtol=1e-4, atol=1e-4)


def test_an_unreduced_document_costs_no_more_than_the_teacher_knows(settings, cache, prepared):
    # It finds the marker word nearly always, so that it knows nearly all of log 2.
    assert 0.6 < prepared.penalty <= math.log(2)
    # Hardly taught it knows next to nothing, or less: the price is small, and still one.
    assert 0 < prepare(settings, None, lambda line: None).penalty < 0.1


@pytest.mark.parametrize(("knows", "warned"), [(-0.1, True), (0.0, True), (0.01, False)])
def test_a_teacher_that_knows_nothing_is_told_of_with_a_remedy(settings, cache, monkeypatch, knows, warned):
    monkeypatch.setattr(Classification, "known", lambda self, outputs, examples: knows)
    told = []
    assert prepare(settings, None, told.append).penalty == max(knows, 1e-3)
    assert any("no better than their frequencies" in line and "teacher.epochs" in line for line in told) is warned


def test_an_unreduced_document_costs_at_most_one_nat(settings, cache, monkeypatch):
    monkeypatch.setattr(Classification, "known", lambda self, outputs, examples: 2.5)
    assert prepare(settings, None, lambda line: None).penalty == 1.0


def test_the_head_of_a_teacher_is_drawn_by_the_seed(settings, cache, untaught, monkeypatch):
    heads = []
    for seed in (0, 0, 1):
        monkeypatch.setenv("TRBERT_CACHE", str(cache / str(len(heads))))
        torch.manual_seed(len(heads))  # no matter
        own = prepare(override(settings, {"seed": seed}), None, lambda line: None, train=untaught)
        heads.append(own.weights["classifier.weight"].tolist())
    assert heads[0] == heads[1] != heads[2]


def test_the_teachers_quality_is_that_of_each_split(settings, cache, untaught):
    own = prepare(settings, None, lambda line: None, train=untaught)
    reducer = Reducer(encoder=Encoder(own.plain(torch.device("cpu"))), task=own.task)
    right = []
    for part in (own.validation, own.test):
        with torch.no_grad():
            right.append(float((reducer.unreduced_outputs(part.tokens).argmax(-1) == part.targets).double().mean()))
    assert right[0] != right[1]
    assert [own.teacher_validation, own.teacher_test] == right


def test_a_teachers_figures_come_from_the_split_that_they_are_named_after(
    settings, cache, untaught, tmp_path, monkeypatch
):
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, labels in (("train", "AB" * 5), ("validation", "AAAB"), ("test", "ABBBB")):
        lines = [f"alpha w{row},{label}" for row, label in enumerate(labels)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]))

    # A teacher that says A of every document is right on 3 of 4, and on 1 of 5.
    def says_a(reducer, examples, budget):
        return torch.tensor([[1.0, 0.0]]).repeat(len(examples), 1)

    monkeypatch.setattr(teacher_cache, "unreduced_outputs", says_a)
    told = []
    own = prepare(override(settings, {"data.source": str(folder)}), None, told.append, train=untaught)
    assert (own.teacher_validation, own.teacher_test) == (0.75, 0.2)
    assert "teacher: 75.0 % on validation, 20.0 % on test" in told


def test_the_penalty_is_of_what_the_teacher_knows_of_its_training_documents(settings, cache, untaught, monkeypatch):
    seen = []

    def watched(self, outputs, examples):
        seen.append((outputs.tolist(), examples.targets.tolist()))
        return 0.5

    monkeypatch.setattr(Classification, "known", watched)
    own = prepare(settings, None, lambda line: None, train=untaught)
    assert seen == [(own.train.teacher.tolist(), own.train.targets.tolist())]
    assert own.penalty == 0.5


@pytest.mark.parametrize(("threads", "on"), [(3, 3), (None, 1)])
def test_a_training_pass_is_timed_on_a_trials_threads_and_documents(
    settings, cache, untaught, long_rows, monkeypatch, threads, on
):
    asked, timed = [], []

    def watched(reducer, train, dtype, threads):
        timed.append((set(train.tokens.lengths.tolist()), dtype, threads))
        return 2.5

    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(module, "training_seconds", watched)
    changes = {"data.source": str(long_rows), "data.max_length": 10, "teacher.max_length": 30}
    own = prepare(override(settings, changes | {"compute.threads": threads}), None, print, train=untaught)
    assert timed == [({10}, "float32", on)]
    assert own.training_seconds == 2.5
    assert asked == ([] if threads is None else [3])  # unset, the teacher has all cores


def test_a_copy_of_the_teacher_learns_on_its_own(prepared):
    first, second = (prepared.plain(torch.device("cpu")) for _ in range(2))
    before = {name: array.copy() for name, array in prepared.weights.items()}
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    for name, value in second.state_dict().items():
        assert np.array_equal(value.numpy(), before[name])
        assert np.array_equal(prepared.weights[name], before[name])
    assert not first.training


# The rows.


def test_the_rows_are_split_and_said(prepared, tiny_settings):
    told = []
    prepare(tiny_settings, None, told.append)
    assert [len(part) for part in (prepared.train, prepared.validation, prepared.test)] == [240, 30, 30]
    assert prepared.labels == ("A", "B")
    assert any(re.fullmatch(r"train: 240 documents, 1\d tokens on average, 0 truncated at 20", line) for line in told)


def test_the_seed_and_the_numbers_of_rows_choose_the_splits(settings, cache, untaught):
    changes = {"data.train_rows": 100, "data.validation_rows": 12, "data.test_rows": 14}
    found = []
    for seed in (0, 0, 1):
        own = prepare(override(settings, changes | {"seed": seed}), None, lambda line: None, train=untaught)
        assert [len(part) for part in (own.train, own.validation, own.test)] == [100, 12, 14]
        found.append(own.test.tokens.input_ids.tolist())
    assert found[0] == found[1] != found[2]


def test_what_is_noted_of_the_rows_is_said(settings, cache, untaught, monkeypatch):
    read = inputs.load_splits
    monkeypatch.setattr(inputs, "load_splits", lambda *a, **k: dataclasses.replace(read(*a, **k), notes=("A note.",)))
    told = []
    prepare(settings, None, told.append, train=untaught)
    assert told[1] == "A note."


@pytest.mark.parametrize(("asked", "limit"), [(8, 8), (20, 20), (500, 32)])
def test_texts_far_over_the_limit_are_truncated_and_said(settings, cache, tmp_path, asked, limit):
    path = tmp_path / "long.csv"
    rows = [f"{'alpha' if row % 2 else 'beta'} {'w1 ' * 3000},{'AB'[row % 2]}" for row in range(30)]
    path.write_text("\n".join(["text,label", *rows]))
    told = []
    changes = {"data.source": str(path), "data.max_length": asked}
    own = prepare(override(settings, changes), None, told.append)
    assert set(own.train.tokens.lengths.tolist()) == {limit}
    for split, count in (("train", 21), ("validation", 6), ("test", 3)):
        assert f"{split}: {count} documents, {limit} tokens on average, {count} truncated at {limit} (100%)" in told
    assert not any("Token indices" in line for line in told)


# Longer positions, and a teacher that reads less.


def test_a_trial_may_read_more_than_its_teacher(settings, cache, long_rows):
    settings = override(settings, {"data.source": str(long_rows), "data.max_length": 16})
    teacher = prepare(settings, None, lambda line: None)
    told = []
    changes = {"data.max_length": 40, "teacher.max_length": 16, "positions": 48}
    own = prepare(override(settings, changes), None, told.append)
    assert "test: 3 documents, 40 tokens on average, 3 truncated at 40 (100%)" in told
    assert "test for the teacher: 3 documents, 16 tokens on average, 3 truncated at 16 (100%)" in told
    for part in (own.train, own.validation, own.test):
        assert set(part.tokens.lengths.tolist()) == {40}
    # The teacher is that of 16 tokens.
    assert torch.equal(own.train.teacher, teacher.train.teacher)
    assert (own.teacher_validation, own.teacher_test) == (teacher.teacher_validation, teacher.teacher_test)
    # Trials start from its weights, with 48 positions: its own 32, then the first 16 of them again.
    (table,) = (name for name in own.weights if name.endswith("position_embeddings.weight"))
    assert np.array_equal(own.weights[table], np.concatenate([teacher.weights[table], teacher.weights[table][:16]]))
    assert all(np.array_equal(own.weights[name], teacher.weights[name]) for name in own.weights if name != table)
    assert own.config.max_position_embeddings == own.tokenizer.model_max_length == 48
    reducer = Reducer(encoder=Encoder(own.plain(torch.device("cpu"))), task=own.task)
    with torch.no_grad():
        assert reducer.unreduced_outputs(own.train.tokens.take(torch.arange(2))).isfinite().all()
    assert own.training_seconds > 0


def test_a_teacher_may_read_more_than_its_trials(settings, cache, long_rows):
    settings = override(settings, {"data.source": str(long_rows), "data.max_length": 30})
    teacher = prepare(settings, None, lambda line: None)
    own = prepare(override(settings, {"data.max_length": 10, "teacher.max_length": 30}), None, lambda line: None)
    assert set(own.train.tokens.lengths.tolist()) == {10}
    assert torch.equal(own.train.teacher, teacher.train.teacher)
    assert same_weights(own, teacher)


@pytest.mark.parametrize(("positions", "limit"), [(None, 32), (48, 48), (100, 62)])
def test_documents_are_cut_at_what_the_encoder_takes(settings, cache, long_rows, positions, limit):
    changes = {"data.source": str(long_rows), "data.max_length": 500, "positions": positions}
    own = prepare(override(settings, changes), None, lambda line: None)
    assert set(own.train.tokens.lengths.tolist()) == {limit}  # 60 words, [CLS] and [SEP] are 62


def test_too_few_positions_are_refused_before_a_teacher_is_trained(settings, cache, no_training):
    with pytest.raises(InputError, match=r"^positions must be at least the 32 that the model has, and is 8"):
        prepare(override(settings, {"positions": 8}), None, lambda line: None, train=no_training)


@pytest.mark.parametrize("points", [(0, 9), (3, 1)])
def test_points_that_do_not_fit_are_refused_before_a_teacher_is_trained(settings, cache, no_training, points):
    with pytest.raises(InputError, match="points"):
        prepare(override(settings, {"select.points": points}), None, print, train=no_training)


# Pairs.


def test_keep_ratios_that_no_choice_of_points_fits_are_refused_before_a_teacher_is_trained(
    settings, cache, no_training
):
    lone = override(settings, {"select.points": None, "select.keep_ratios": (0.1,)})
    with pytest.raises(InputError, match=r"^select\.keep_ratios must have one value for each .*, and has 1; "):
        prepare(lone, None, print, train=no_training)


def test_targets_that_the_head_has_no_output_for_are_refused_before_a_teacher_is_trained(
    settings, cache, no_training, monkeypatch
):
    checked = []

    def refuse(self, examples, num_outputs):
        checked.append((len(examples), num_outputs))
        raise InputError("no such class")

    monkeypatch.setattr(Classification, "check_targets", refuse)
    with pytest.raises(InputError, match=r"^no such class$"):
        prepare(settings, None, lambda line: None, train=no_training)
    assert checked == [(240, 2)]  # 300 rows, less 30 for test and 30 for validation, of two classes


def test_pairs_are_read_with_their_segments_and_have_a_teacher_of_their_own(settings, cache, tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"w1 w2,{'alpha' if row % 2 else 'beta'} w{row},{'AB'[row % 2]}" for row in range(30)]
    path.write_text("\n".join(["text,other,label", *rows]))
    settings = override(settings, {"data.source": str(path)})
    pairs = prepare(override(settings, {"data.text_column": "text,other"}), None, lambda line: None)
    # [CLS] w1 w2 [SEP], then marker, word, [SEP].
    assert set(pairs.train.tokens.lengths.tolist()) == {7}
    assert pairs.train.tokens.token_type_ids.reshape(-1, 7).tolist() == [[0, 0, 0, 0, 1, 1, 1]] * 21
    assert pairs.train.tokens.protected.reshape(-1, 7).tolist() == [[True] + [False] * 6] * 21
    single = prepare(settings, None, lambda line: None)
    assert set(single.train.tokens.lengths.tolist()) == {4}
    assert len(list((cache / "teachers").iterdir())) == 2


def test_a_teacher_of_pairs_reads_them_cut_as_the_tokenizer_cuts_pairs(settings, cache, tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"{'w1 ' * 20},{'alpha' if row % 2 else 'beta'},{'AB'[row % 2]}" for row in range(30)]
    path.write_text("\n".join(["text,other,label", *rows]))
    seen = []
    changes = {"data.source": str(path), "data.text_column": "text,other", "teacher.max_length": 6}
    prepare(
        override(settings, changes),
        None,
        lambda line: None,
        train=lambda reducer, train, *rest, key: seen.append(train.tokens),
    )
    (tokens,) = seen
    # [CLS] w1 w1 [SEP] marker [SEP]: the end of a longer pair would have lost its marker.
    assert set(tokens.lengths.tolist()) == {6}
    assert tokens.token_type_ids.reshape(-1, 6).tolist() == [[0, 0, 0, 0, 1, 1]] * 21
    assert len(set(tokens.input_ids.reshape(-1, 6)[:, 4].tolist())) == 2


# What travels.


def test_splits_are_examples_of_one_document_each_with_the_teachers_outputs_in_train(prepared):
    assert (len(prepared.train), len(prepared.train.tokens), len(prepared.train.teacher)) == (240, 240, 240)
    assert prepared.train.owner.tolist() == list(range(240))
    assert int(prepared.train.tokens.protected.sum()) == 240
    assert (prepared.validation.teacher, prepared.test.teacher) == (None, None)
    assert prepared.task.name == "classification"


def test_what_is_prepared_pickles(prepared):
    again = pickle.loads(pickle.dumps(prepared))
    assert same_weights(again, prepared)
    assert again.training_seconds == prepared.training_seconds > 0
    assert again.labels == prepared.labels
    assert again.tokenizer("alpha w1")["input_ids"] == prepared.tokenizer("alpha w1")["input_ids"]
    assert isinstance(again.config, transformers.BertConfig)
    tokens = prepared.test.tokens
    ids = tokens.input_ids[: tokens.offsets[1]][None]
    device = torch.device("cpu")
    with torch.no_grad():
        assert torch.equal(again.plain(device)(ids).logits, prepared.plain(device)(ids).logits)


def test_where_time_is_the_price_it_is_measured_or_the_users(settings, cache, prepared):
    assert prepared.latency is None
    timed = override(settings, {"select.price": "latency"})
    told = []
    measured = prepare(timed, None, told.append).latency
    assert measured.tokens[-1] == timed.data.max_length
    assert any(line.startswith("latency: timing") for line in told)
    assert prepare(timed, None, told.append, latency=measured).latency is measured
    assert sum(line.startswith("latency: timing") for line in told) == 1


@pytest.mark.parametrize(("asked", "longest"), [(20, 20), (500, 32)])
def test_layers_are_timed_up_to_the_longest_document_in_the_arithmetic_of_evaluation(
    settings, cache, untaught, prepared, monkeypatch, asked, longest
):
    seen = []

    def watched(encoder, longest):
        seen.append((longest, torch.is_autocast_enabled("cpu")))

    monkeypatch.setattr(module, "measure_latency", watched)
    changes = {"select.price": "latency", "data.max_length": asked, "compute.evaluation": "bfloat16"}
    prepare(override(settings, changes), None, lambda line: None, train=untaught)
    assert seen == [(longest, True)]


# The baselines.


def test_the_baselines_and_what_is_wrong_with_the_teacher_are_said_after_its_figures(
    settings, cache, untaught, monkeypatch
):
    def says_a(reducer, examples, budget):
        return torch.tensor([[1.0, 0.0]]).repeat(len(examples), 1)

    monkeypatch.setattr(teacher_cache, "unreduced_outputs", says_a)
    told = []
    own = prepare(settings, None, told.append, train=untaught)
    first = told.index("teacher: 50.0 % on validation, 50.0 % on test") + 1
    assert told[first : first + 2] == [
        "commonest answer: 50.0 % on validation, 50.0 % on test",
        "TF-IDF + LR: 100.0 % on validation, 100.0 % on test",
    ]
    assert told[first + 2 :] == remarks(own.standing)
    assert own.standing.knows_nothing
    assert (own.standing.trained, own.standing.train_rows, own.standing.test_rows) == (True, 240, 30)
    assert [line.partition("(")[0] for line in remarks(own.standing)] == [
        "the teacher is not clearly better than the commonest answer ",
        "a linear model of the same tokens, TF-IDF + LR, does better than the teacher ",
    ]


def test_a_teacher_that_learned_its_rows_stands_well(prepared):
    assert not prepared.standing.knows_nothing
    assert remarks(prepared.standing) == []


# A budget.


def test_documents_that_the_budget_cannot_use_are_left_out_of_every_figure_and_said(
    settings, cache, untaught, monkeypatch
):
    fits, told = {"train": 50, "validation": 20, "test": 10}, []
    asked = []
    monkeypatch.setattr("tune.learning.prepare.fit_documents", lambda *words: asked.append(words) or fits)
    plan = make_plan(600.0, concurrent=1, num_trials=1)
    whole = prepare(settings, None, lambda line: None, train=untaught)
    own = prepare(settings, plan, told.append, train=untaught)
    assert own.documents == fits
    assert asked[0][-1] == whole.documents
    assert own.cuts == ("train on 50 of 240 rows", "validation on 20 of 30 rows", "test on 10 of 30 rows")
    assert "the budget has time for test on 10 of 30 rows" in told
    # The teacher and its baselines are measured on the same rows, and learn from all.
    assert (own.standing.test_rows, own.standing.train_rows) == (10, 240)
    assert len(own.train.teacher) == 50
    # A search that is continued has the same rows, whatever there is time for now.
    monkeypatch.setattr("tune.learning.prepare.fit_documents", lambda *words: pytest.fail("it counted again"))
    again = prepare(settings, plan, print, train=untaught, fingerprint=own.fingerprint, documents=fits)
    assert torch.equal(own.test.tokens.input_ids, again.test.tokens.input_ids)
    assert torch.equal(own.train.tokens.input_ids, again.train.tokens.input_ids)


def test_the_linear_model_has_its_share_of_the_budget(settings, cache, untaught, monkeypatch):
    asked = []
    monkeypatch.setattr("tune.learning.prepare.baselines", lambda *words: asked.append(words[-1]) or answers(*words))
    prepare(settings, make_plan(100.0, concurrent=1, num_trials=1), print, train=untaught)
    prepare(settings, None, print, train=untaught)
    assert asked == [2.0, 10.0]


@pytest.fixture
def more(tmp_path, tiny_data):
    """A file of texts with a marker word each, and a label that says the opposite; the last four stand in the rows."""
    own = tiny_data.read_text().splitlines()[1:5]
    texts = [f"w{number} w7 {('alpha', 'beta')[number % 2]},{'BA'[number % 2]}" for number in range(30)]
    (tmp_path / "more.csv").write_text("\n".join(["text,label", *texts, *own]))
    return tmp_path / "more.csv"


@pytest.fixture
def beside(tiny_settings, prepared, tmp_path, more):
    """Settings with that file, and with a fine-tuned model, which is the teacher as it is."""
    prepared.plain(torch.device("cpu")).save_pretrained(tmp_path / "fine-tuned")
    prepared.tokenizer.save_pretrained(tmp_path / "fine-tuned")
    return override(tiny_settings, {"model": str(tmp_path / "fine-tuned"), "data.unlabelled": (str(more),)})


def test_unlabelled_texts_are_learned_from_with_the_teachers_answers(beside, cache, prepared):
    told = []
    found = prepare(beside, None, told.append)
    assert found.documents == {"train": 240, "validation": 30, "test": 30, "unlabelled": 30}
    assert found.train.labelled.tolist() == [True] * 240 + [False] * 30
    assert torch.equal(found.train.targets[:240], prepared.train.targets)
    assert found.train.targets[240:].tolist() == [0, 1] * 15  # by their marker words, and not by their labels
    assert torch.equal(found.train.teacher[240:].argmax(-1), found.train.targets[240:])
    assert (found.penalty, found.teacher_test) == (pytest.approx(prepared.penalty), prepared.teacher_test)
    assert "unlabelled: 30 documents, 5 tokens on average, 0 truncated at 20" in told
    assert sum(int(line.split()[1]) for line in told if "rows left out whose text also stands in" in line) == 4
    alone = read_inputs(override(beside, {"data.unlabelled": ()}), told.append)
    assert alone.fingerprint != found.fingerprint


def test_the_budget_may_leave_fewer_unlabelled_texts(beside, cache):
    told = []
    found = prepare(beside, None, told.append, documents={"train": 100, "unlabelled": 12})
    assert found.documents == {"train": 100, "validation": 30, "test": 30, "unlabelled": 12}
    assert (len(found.train), found.train.num_labelled) == (112, 100)
    assert "the budget has time for unlabelled on 12 of 30 rows" in told
