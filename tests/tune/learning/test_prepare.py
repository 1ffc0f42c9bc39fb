"""What trials share: made once, kept, and never trusted when damaged."""

import dataclasses
import math
import os
import pickle
import re

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from trbert.encoder import Encoder
from trbert.errors import Diverged, InputError
from trbert.tasks.examples import Examples
from tune.budget import make_plan
from tune.learning import prepare as module
from tune.learning.prepare import FREE_DIALS, PackedArrays, free_points, prepare
from tune.settings import override


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settings(tiny_settings):
    """As little teaching as there can be."""
    return override(tiny_settings, {"teacher.epochs": 0.1})


@pytest.fixture
def no_training(monkeypatch):
    """A teacher that is trained fails the test."""

    def refuse(*arguments):
        pytest.fail("a teacher was trained")

    return lambda: monkeypatch.setattr(module, "train_teacher", refuse)


def same_weights(first, second):
    return first.weights.keys() == second.weights.keys() and all(
        np.array_equal(first.weights[name], second.weights[name]) for name in first.weights
    )


def teachers(cache):
    return sorted((cache / "teachers").iterdir())


# The cache.


def test_a_second_run_takes_the_teacher_from_the_cache(settings, cache, no_training):
    first = prepare(settings, None, lambda line: None)
    assert len(teachers(cache)) == 1
    no_training()
    told = []
    second = prepare(settings, None, told.append)
    assert "teacher: kept from an earlier run" in told
    assert same_weights(first, second)
    assert np.array_equal(first.train.teacher_logits, second.train.teacher_logits)
    assert (first.teacher_validation, first.teacher_test) == (second.teacher_validation, second.teacher_test)


def damaged(path, how):
    whole, weights = path.read_bytes(), load_file(path)
    if how == "of another model":
        save_file({"weight": torch.zeros(2)}, path)
    elif how == "one weight missing":
        save_file(dict(list(weights.items())[1:]), path)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "no safetensors": b"{}" * 500}[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "no safetensors", "of another model", "one weight missing"])
def test_a_damaged_teacher_is_made_again(settings, cache, how):
    first = prepare(settings, None, lambda line: None)
    (path,) = teachers(cache)
    whole = path.read_bytes()
    damaged(path, how)
    told = []
    second = prepare(settings, None, told.append)
    assert any(line.startswith("teacher: training") for line in told)
    assert same_weights(first, second)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_damaged_logits_are_computed_again(settings, cache, no_training, damage):
    first = prepare(settings, None, lambda line: None)
    paths = sorted((cache / "logits").iterdir())
    assert len(paths) == 3  # of train, validation and test
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(damage)
    no_training()
    second = prepare(settings, None, lambda line: None)
    assert np.array_equal(first.train.teacher_logits, second.train.teacher_logits)
    assert [path.read_bytes() for path in paths] == whole


def test_a_run_stopped_while_it_keeps_its_teacher_leaves_nothing_behind(settings, cache, monkeypatch):
    def stopped(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)  # the content is written, and not yet in its place
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, None, lambda line: None)
    assert teachers(cache) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"teacher.learning_rate": 1e-3},
        {"data.max_length": 10},
        {"teacher.max_length": 10},
        {"data.train_rows": 100},
    ],
)
def test_other_settings_get_a_teacher_of_their_own(settings, cache, changes):
    prepare(settings, None, lambda line: None)
    prepare(override(settings, changes), None, lambda line: None)
    assert len(teachers(cache)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher.max_length": 20},
        {"teacher.max_length": 20, "data.max_length": 12},
        {"teacher.max_length": 20, "data.max_length": 40, "positions": 40},
    ],
)
def test_a_teacher_that_reads_as_much_is_the_same_teacher(settings, cache, no_training, changes):
    first = prepare(settings, None, lambda line: None)
    no_training()
    second = prepare(override(settings, changes), None, lambda line: None)
    assert np.array_equal(first.train.teacher_logits, second.train.teacher_logits)
    assert (first.teacher_validation, first.teacher_test) == (second.teacher_validation, second.teacher_test)


def test_the_same_texts_under_other_labels_get_a_teacher_of_their_own(settings, cache, tmp_path):
    texts = [f"{'alpha' if row % 2 else 'beta'} w{row}" for row in range(12)]
    for labels in ("AB", "BA"):
        for name in ("train", "validation", "test"):
            rows = [f"{text},{labels[row % 2]}" for row, text in enumerate(texts)]
            (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
        prepare(override(settings, {"data.source": str(tmp_path)}), None, lambda line: None)
    assert len(teachers(cache)) == 2


def test_a_teacher_whose_time_is_cut_is_another_and_seconds_count_whole(settings, cache):
    plan = make_plan(1000.0, concurrent=2, num_trials=2)
    part = plan.teacher_seconds / plan.seconds
    for seconds in (100.1, 100.4, 101.0):
        prepare(settings, dataclasses.replace(plan, seconds=seconds / part), lambda line: None)
    assert len(teachers(cache)) == 2  # of 100 seconds and of 101
    prepare(settings, None, lambda line: None)
    assert len(teachers(cache)) == 3


def test_the_rows_reported_on_are_no_matter_to_the_teacher(settings, cache, no_training):
    first = prepare(settings, None, lambda line: None)
    no_training()
    second = prepare(override(settings, {"data.test_rows": 10}), None, lambda line: None)
    assert len(second.test.labels) == 10 < len(first.test.labels)
    assert same_weights(first, second)
    assert len(list((cache / "logits").iterdir())) == 4  # the new test rows' beside the three


def test_a_folder_whose_weights_changed_gets_a_teacher_of_its_own(settings, cache, tiny_model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = override(settings, {"model": str(folder)})
    first = prepare(settings, None, lambda line: None)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    second = prepare(settings, None, lambda line: None)
    assert not same_weights(first, second)
    assert len(teachers(cache)) == 2


# The teacher.


def test_a_fine_tuned_model_needs_no_teacher_stage(prepared, tiny_settings, cache, tmp_path, no_training):
    prepared.classifier(torch.device("cpu")).save_pretrained(tmp_path / "fine-tuned")
    prepared.tokenizer.save_pretrained(tmp_path / "fine-tuned")
    no_training()
    told = []
    own = prepare(override(tiny_settings, {"model": str(tmp_path / "fine-tuned")}), None, told.append)
    assert same_weights(own, prepared)
    assert own.teacher_test == prepared.teacher_test
    assert not (cache / "teachers").exists()
    assert not any("training" in line for line in told)


def test_the_teachers_logits_are_those_of_the_plain_model(prepared):
    train = prepared.train.examples()
    model = prepared.classifier(torch.device("cpu"))
    tokens, width = train.tokens, int(train.tokens.lengths.max())
    mask = torch.arange(width) < tokens.lengths[:, None]
    ids = torch.zeros_like(mask, dtype=torch.long)
    ids[mask] = tokens.input_ids
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask.long()).logits
    assert_close(train.teacher_logits, plain, rtol=1e-4, atol=1e-4)


def test_an_unreduced_document_costs_no_more_than_the_teacher_knows(settings, cache, prepared):
    # It finds the marker word nearly always, so that it knows nearly all of log 2.
    assert 0.6 < prepared.penalty <= math.log(2)
    # Hardly taught it knows next to nothing, or less: the price is small, and still one.
    assert 0 < prepare(settings, None, lambda line: None).penalty < 0.1


@pytest.mark.parametrize(("knows", "warned"), [(-0.1, True), (0.0, True), (0.01, False)])
def test_a_teacher_that_knows_nothing_is_told_of_with_a_remedy(settings, cache, monkeypatch, knows, warned):
    monkeypatch.setattr(module, "predictive_information", lambda logits, labels: knows)
    told = []
    assert prepare(settings, None, told.append).penalty == max(knows, 1e-3)
    assert any("knows no more" in line and "teacher.epochs" in line for line in told) is warned


def test_an_unreduced_document_costs_at_most_one_nat(settings, cache, monkeypatch):
    monkeypatch.setattr(module, "predictive_information", lambda logits, labels: 2.5)
    assert prepare(settings, None, lambda line: None).penalty == 1.0


def untaught(encoder, *others):
    """Leaves the teacher as it is drawn."""


def test_the_head_of_a_teacher_is_drawn_by_the_seed(settings, cache, monkeypatch):
    heads = []
    for seed in (0, 0, 1):
        monkeypatch.setenv("TRBERT_CACHE", str(cache / str(len(heads))))
        torch.manual_seed(len(heads))  # no matter
        own = prepare(override(settings, {"seed": seed}), None, lambda line: None, train=untaught)
        heads.append(own.weights["classifier.weight"].tolist())
    assert heads[0] == heads[1] != heads[2]


def test_the_teachers_quality_is_that_of_each_split(settings, cache):
    own = prepare(settings, None, lambda line: None, train=untaught)
    encoder = Encoder(own.classifier(torch.device("cpu")))
    right = []
    for part in (own.validation.examples(), own.test.examples()):
        with torch.no_grad():
            right.append(float((encoder.unreduced_logits(part.tokens).argmax(-1) == part.labels).double().mean()))
    assert right[0] != right[1]
    assert [own.teacher_validation, own.teacher_test] == right


def test_the_penalty_is_of_what_the_teacher_knows_of_its_training_documents(settings, cache, monkeypatch):
    seen = []

    def watched(logits, labels):
        seen.append((logits.tolist(), labels.tolist()))
        return 0.5

    monkeypatch.setattr(module, "predictive_information", watched)
    own = prepare(settings, None, lambda line: None, train=untaught)
    assert seen == [(own.train.teacher_logits.tolist(), own.train.labels.tolist())]
    assert own.penalty == 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_to_learn_from_are_computed_as_training_is_and_others_as_evaluation(settings, cache, monkeypatch, dtype):
    used, compute = [], module.unreduced_logits

    def watched(encoder, tokens, budget):
        used.append((len(tokens), torch.is_autocast_enabled("cpu")))
        return compute(encoder, tokens, budget)

    monkeypatch.setattr(module, "unreduced_logits", watched)
    changes = {"compute.dtype": dtype, "compute.evaluation": {"float32": "bfloat16", "bfloat16": "float32"}[dtype]}
    trained = dtype == "bfloat16"
    prepare(override(settings, changes), None, lambda line: None, train=untaught)
    assert used == [(240, trained), (30, not trained), (30, not trained)]
    # In another arithmetic they are others: nothing is taken from the cache.
    prepare(override(settings, changes | {"compute.dtype": changes["compute.evaluation"]}), None, print, train=untaught)
    assert used[3:] == [(240, not trained)]


@pytest.mark.parametrize(("threads", "on"), [(3, 3), (None, 1)])
def test_a_training_pass_is_timed_on_a_trials_threads_and_documents(
    settings, cache, long_rows, monkeypatch, threads, on
):
    asked, timed = [], []

    def watched(encoder, train, dtype, threads):
        timed.append((set(train.tokens.lengths.tolist()), dtype, threads))
        return 2.5

    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(module, "training_seconds", watched)
    changes = {"data.source": str(long_rows), "data.max_length": 10, "teacher.max_length": 30}
    own = prepare(override(settings, changes | {"compute.threads": threads}), None, print, train=untaught)
    assert timed == [({10}, "float32", on)]
    assert own.training_seconds == 2.5
    assert asked == ([] if threads is None else [3])  # unset, the teacher has all cores


def test_how_far_the_teacher_is_is_said_every_ten_seconds_and_at_the_end_by_hand(settings, cache, monkeypatch):
    clock, told = [0.0], []

    def taught(encoder, examples, teacher, compute, seed, progress):
        for step, seconds in ((1, 4.0), (2, 10.0), (3, 12.0), (4, 19.9), (5, 20.0), (6, 21.0)):
            clock[0] = seconds
            progress({"step": float(step), "steps": 6.0, "loss": step / 4})

    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    prepare(settings, None, told.append, train=taught)
    # Two steps took 10 seconds, so that four take 20; five took 20, so that one takes 4.
    assert [line for line in told if " step " in line] == [
        "teacher: step 2 of 6, loss 0.500, 20 s left",
        "teacher: step 5 of 6, loss 1.250, 4 s left",
        "teacher: step 6 of 6, loss 1.500, 0 s left",
    ]


def test_a_copy_of_the_teacher_learns_on_its_own(prepared):
    first, second = (prepared.classifier(torch.device("cpu")) for _ in range(2))
    before = {name: array.copy() for name, array in prepared.weights.items()}
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    for name, value in second.state_dict().items():
        assert np.array_equal(value.numpy(), before[name])
        assert np.array_equal(prepared.weights[name], before[name])
    assert not first.training


def test_a_time_budget_cuts_the_teachers_epochs(settings, cache):
    told = []
    prepare(override(settings, {"teacher.epochs": 50.0}), make_plan(0.4, concurrent=2, num_trials=2), told.append)
    (line,) = (line for line in told if line.startswith("teacher: training"))
    assert 0.1 <= float(re.search(r"training, ([\d.]+) epochs", line)[1]) < 50


# The rows.


def test_the_rows_are_split_and_said(prepared, tiny_settings):
    told = []
    prepare(tiny_settings, None, told.append)
    assert [len(part.labels) for part in (prepared.train, prepared.validation, prepared.test)] == [240, 30, 30]
    assert prepared.label_names == ("A", "B")
    assert any(re.fullmatch(r"train: 240 documents, 1\d tokens on average, 0 truncated at 20", line) for line in told)


def test_the_seed_and_the_numbers_of_rows_choose_the_splits(settings, cache):
    changes = {"data.train_rows": 100, "data.validation_rows": 12, "data.test_rows": 14}
    found = []
    for seed in (0, 0, 1):
        own = prepare(override(settings, changes | {"seed": seed}), None, lambda line: None, train=untaught)
        assert [len(part.labels) for part in (own.train, own.validation, own.test)] == [100, 12, 14]
        found.append(own.test.input_ids.tolist())
    assert found[0] == found[1] != found[2]


def test_what_is_noted_of_the_rows_is_said(settings, cache, monkeypatch):
    read = module.load_splits
    monkeypatch.setattr(module, "load_splits", lambda *a, **k: dataclasses.replace(read(*a, **k), notes=("A note.",)))
    told = []
    prepare(settings, None, told.append, train=untaught)
    assert told[0] == "A note."


@pytest.mark.parametrize(("asked", "limit"), [(8, 8), (20, 20), (500, 32)])
def test_texts_far_over_the_limit_are_truncated_and_said(settings, cache, tmp_path, asked, limit):
    path = tmp_path / "long.csv"
    rows = [f"{'alpha' if row % 2 else 'beta'} {'w1 ' * 3000},{'AB'[row % 2]}" for row in range(30)]
    path.write_text("\n".join(["text,label", *rows]))
    told = []
    changes = {"data.source": str(path), "data.max_length": asked}
    own = prepare(override(settings, changes), None, told.append)
    assert set(np.diff(own.train.offsets)) == {limit}
    for split, count in (("train", 24), ("validation", 3), ("test", 3)):
        assert f"{split}: {count} documents, {limit} tokens on average, {count} truncated at {limit}" in told
    assert not any("Token indices" in line for line in told)


@pytest.fixture
def long_rows(tmp_path):
    """A csv file of 30 texts of 60 words."""
    path = tmp_path / "long.csv"
    rows = [f"{'alpha' if row % 2 else 'beta'} {f'w{row} ' * 59},{'AB'[row % 2]}" for row in range(30)]
    path.write_text("\n".join(["text,label", *rows]))
    return path


# Longer positions, and a teacher that reads less.


def test_a_trial_may_read_more_than_its_teacher(settings, cache, long_rows):
    settings = override(settings, {"data.source": str(long_rows), "data.max_length": 16})
    teacher = prepare(settings, None, lambda line: None)
    told = []
    changes = {"data.max_length": 40, "teacher.max_length": 16, "positions": 48}
    own = prepare(override(settings, changes), None, told.append)
    assert "test: 3 documents, 40 tokens on average, 3 truncated at 40" in told
    assert "test for the teacher: 3 documents, 16 tokens on average, 3 truncated at 16" in told
    for part in (own.train, own.validation, own.test):
        assert set(np.diff(part.offsets)) == {40}
    # The teacher is that of 16 tokens.
    assert np.array_equal(own.train.teacher_logits, teacher.train.teacher_logits)
    assert (own.teacher_validation, own.teacher_test) == (teacher.teacher_validation, teacher.teacher_test)
    # Trials start from its weights, with 48 positions: its own 32, then the first 16 of them again.
    (table,) = (name for name in own.weights if name.endswith("position_embeddings.weight"))
    assert np.array_equal(own.weights[table], np.concatenate([teacher.weights[table], teacher.weights[table][:16]]))
    assert all(np.array_equal(own.weights[name], teacher.weights[name]) for name in own.weights if name != table)
    assert own.config.max_position_embeddings == own.tokenizer.model_max_length == 48
    train = own.train.examples().tokens
    encoder = Encoder(own.classifier(torch.device("cpu")))
    with torch.no_grad():
        assert encoder.unreduced_logits(train.take(torch.arange(2))).isfinite().all()
    assert own.training_seconds > 0


def test_a_teacher_may_read_more_than_its_trials(settings, cache, long_rows):
    settings = override(settings, {"data.source": str(long_rows), "data.max_length": 30})
    teacher = prepare(settings, None, lambda line: None)
    own = prepare(override(settings, {"data.max_length": 10, "teacher.max_length": 30}), None, lambda line: None)
    assert set(np.diff(own.train.offsets)) == {10}
    assert np.array_equal(own.train.teacher_logits, teacher.train.teacher_logits)
    assert same_weights(own, teacher)


@pytest.mark.parametrize(("positions", "limit"), [(None, 32), (48, 48), (100, 62)])
def test_documents_are_cut_at_what_the_encoder_takes(settings, cache, long_rows, positions, limit):
    changes = {"data.source": str(long_rows), "data.max_length": 500, "positions": positions}
    own = prepare(override(settings, changes), None, lambda line: None)
    assert set(np.diff(own.train.offsets)) == {limit}  # 60 words, [CLS] and [SEP] are 62


def test_too_few_positions_are_refused_before_a_teacher_is_trained(settings, cache, no_training):
    no_training()
    with pytest.raises(InputError, match=r"^positions must be at least the 32 that the model has, and is 8"):
        prepare(override(settings, {"positions": 8}), None, lambda line: None)


# Pairs.


@pytest.mark.parametrize("points", [(0, 9), (3, 1)])
def test_points_that_do_not_fit_are_refused_before_a_teacher_is_trained(settings, cache, no_training, points):
    with pytest.raises(InputError, match="points"):
        prepare(override(settings, {"select.points": points}), None, print)


def test_what_a_teacher_says_must_be_finite_and_is_not_kept_else(settings, cache, monkeypatch):
    monkeypatch.setattr(
        "tune.learning.prepare.unreduced_logits",
        lambda _, tokens, budget: torch.full((len(tokens), 2), torch.nan),
    )
    with pytest.raises(Diverged, match="the teacher's logits on train must be finite"):
        prepare(settings, None, print)
    assert not list(cache.glob("logits/*"))


def test_pairs_are_read_with_their_segments_and_have_a_teacher_of_their_own(settings, cache, tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"w1 w2,{'alpha' if row % 2 else 'beta'} w{row},{'AB'[row % 2]}" for row in range(30)]
    path.write_text("\n".join(["text,other,label", *rows]))
    settings = override(settings, {"data.source": str(path)})
    pairs = prepare(override(settings, {"data.text_column": "text,other"}), None, lambda line: None)
    # [CLS] w1 w2 [SEP], then marker, word, [SEP].
    assert set(np.diff(pairs.train.offsets)) == {7}
    assert pairs.train.token_type_ids.reshape(-1, 7).tolist() == [[0, 0, 0, 0, 1, 1, 1]] * 24
    assert pairs.train.protected.reshape(-1, 7).tolist() == [[True] + [False] * 6] * 24
    single = prepare(settings, None, lambda line: None)
    assert set(np.diff(single.train.offsets)) == {4}
    assert len(teachers(cache)) == 2


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
        train=lambda encoder, train, *rest: seen.append(train.tokens),
    )
    (tokens,) = seen
    # [CLS] w1 w1 [SEP] marker [SEP]: the end of a longer pair would have lost its marker.
    assert set(tokens.lengths.tolist()) == {6}
    assert tokens.token_type_ids.reshape(-1, 6).tolist() == [[0, 0, 0, 0, 1, 1]] * 24
    assert len(set(tokens.input_ids.reshape(-1, 6)[:, 4].tolist())) == 2


# What travels.


def test_arrays_and_examples_turn_into_each_other(prepared):
    examples = prepared.train.examples()
    again = PackedArrays.of(examples)
    for field in dataclasses.fields(PackedArrays):
        own, other = getattr(prepared.train, field.name), getattr(again, field.name)
        assert type(own) is type(other)
        assert own is None or (own.dtype == other.dtype and np.array_equal(own, other))
    assert len(examples.tokens) == len(examples.labels) == len(examples.teacher_logits) == 240
    assert int(examples.tokens.protected.sum()) == 240


def test_arrays_may_lack_segments_and_logits(prepared):
    for types in (None, torch.ones(int(prepared.test.offsets[-1]), dtype=torch.long)):
        tokens = dataclasses.replace(prepared.test.examples().tokens, token_type_ids=types)
        again = PackedArrays.of(Examples(tokens, torch.tensor(prepared.test.labels))).examples()
        assert again.tokens.token_type_ids is None if types is None else torch.equal(again.tokens.token_type_ids, types)
        assert again.teacher_logits is None


def test_examples_are_tensors_of_their_own(prepared):
    for array in (prepared.test.labels, prepared.test.input_ids):
        array.flags.writeable = False  # as Ray hands them out
    examples = prepared.test.examples()
    examples.labels.add_(1)
    assert np.array_equal(prepared.test.labels + 1, examples.labels)


def test_what_is_prepared_pickles(prepared):
    again = pickle.loads(pickle.dumps(prepared))
    assert same_weights(again, prepared)
    assert again.training_seconds == prepared.training_seconds > 0
    assert again.label_names == prepared.label_names
    assert again.tokenizer("alpha w1")["input_ids"] == prepared.tokenizer("alpha w1")["input_ids"]
    assert isinstance(again.config, transformers.BertConfig)
    tokens = prepared.test.examples().tokens
    ids = tokens.input_ids[: tokens.offsets[1]][None]
    device = torch.device("cpu")
    with torch.no_grad():
        assert torch.equal(again.classifier(device)(ids).logits, prepared.classifier(device)(ids).logits)


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
    settings, cache, prepared, monkeypatch, asked, longest
):
    seen = []

    def watched(encoder, longest):
        seen.append((longest, torch.is_autocast_enabled("cpu")))

    monkeypatch.setattr(module, "measure_latency", watched)
    changes = {"select.price": "latency", "data.max_length": asked, "compute.evaluation": "bfloat16"}
    prepare(override(settings, changes), None, lambda line: None, train=untaught)
    assert seen == [(longest, True)]


def test_what_the_free_rules_achieve_is_the_models_own_measure_of_each_split(prepared, tiny_settings, make_model):
    splits = (prepared.validation.examples(), prepared.test.examples())
    points = {(point.selector, point.dial): point for point in free_points(prepared, tiny_settings, (0, 2))}
    for name in ("first", "attention"):
        model = make_model({"selector": name})
        for dial in FREE_DIALS:
            on = [model.evaluate(split, dial) for split in splits]
            point = points[name, dial]
            assert point.points == model.points
            # The cost of a policy that is not there is not counted.
            assert [each.kept for each in (point.validation, point.test)] == [each.kept for each in on]
            assert [each.quality for each in (point.validation, point.test)] == [each.quality for each in on]
    assert points["first", 0.35].validation.kept != points["first", 0.35].test.kept


def test_the_free_rules_are_measured_along_their_dials(prepared, tiny_settings):
    points = free_points(prepared, tiny_settings, (0, 2))
    assert [(point.selector, point.dial) for point in points] == [
        (name, dial) for name in ("first", "random", "attention") for dial in FREE_DIALS
    ]
    for point in points:
        assert point.points[0] > 0 or point.selector != "attention"  # no layer before point 0 gives attention
        assert point.validation.speed_up > 1
        assert 0 <= point.test.quality <= 1
    assert points[0].test.speed_up > points[2].test.speed_up


def test_the_free_rules_figures_come_from_the_split_that_they_are_named_after(certain, tiny_settings):
    points = free_points(certain, tiny_settings, (0, 2))
    assert len(points) == 3 * len(FREE_DIALS)
    for point in points:
        assert (point.validation.quality, point.test.quality) == (pytest.approx(0.75), pytest.approx(0.4))


def test_a_teachers_figures_come_from_the_split_that_they_are_named_after(settings, cache, tmp_path, monkeypatch):
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, labels in (("train", "AB" * 5), ("validation", "AAAB"), ("test", "ABBBB")):
        lines = [f"alpha w{row},{label}" for row, label in enumerate(labels)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    # A teacher that says A of every document is right on 3 of 4, and on 1 of 5.
    says_a = lambda encoder, tokens, budget: torch.tensor([[1.0, 0.0]]).repeat(len(tokens), 1)  # noqa: E731
    monkeypatch.setattr(module, "unreduced_logits", says_a)
    told = []
    untaught = {"train": lambda *arguments: None}
    own = prepare(override(settings, {"data.source": str(folder)}), None, told.append, **untaught)
    assert (own.teacher_validation, own.teacher_test) == (0.75, 0.2)
    assert "teacher: 75.0 % on validation, 20.0 % on test" in told
