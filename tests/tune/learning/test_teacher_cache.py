"""The teacher and what it says: made once, kept, and never trusted when damaged."""

import dataclasses
import os
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save, save_file

from trbert.disk.cache import Entry
from trbert.errors import Diverged
from trbert.tasks import TASKS
from trbert.tasks.examples import Examples
from tune.budget import make_plan
from tune.learning import teacher_cache
from tune.learning.prepare import prepare
from tune.learning.teacher_cache import teach, teacher_outputs
from tune.settings import override


def same_weights(first, second):
    return first.weights.keys() == second.weights.keys() and all(
        np.array_equal(first.weights[name], second.weights[name]) for name in first.weights
    )


def teachers(cache):
    return sorted((cache / "teachers").iterdir())


def test_a_second_run_takes_the_teacher_from_the_cache(settings, cache, no_training):
    first = prepare(settings, None, lambda line: None)
    assert len(teachers(cache)) == 1
    told = []
    second = prepare(settings, None, told.append, train=no_training)
    assert "teacher: taken from the cache of an earlier run" in told
    assert same_weights(first, second)
    assert torch.equal(first.train.teacher, second.train.teacher)
    assert (first.teacher_validation, first.teacher_test) == (second.teacher_validation, second.teacher_test)


def damaged(path, how):
    entry, whole = Entry("teachers", path.stem), path.read_bytes()
    weights = load(entry.read())
    if how == "of another model":
        entry.write(save({"weight": torch.zeros(2)}))
    elif how == "one weight missing":
        entry.write(save(dict(list(weights.items())[1:])))
    elif how == "no safetensors":
        entry.write(b"{}" * 500)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "one bit": whole[:-1] + b"\xff"}[how])


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "one bit", "no safetensors", "of another model", "one weight missing"]
)
def test_a_damaged_teacher_is_made_again(settings, cache, how):
    first = prepare(settings, None, lambda line: None)
    (path,) = teachers(cache)
    whole = path.read_bytes()
    damaged(path, how)
    told = []
    second = prepare(settings, None, told.append)
    assert any(line.startswith("teacher: training for") for line in told)
    assert same_weights(first, second)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_damaged_outputs_are_computed_again(settings, cache, no_training, damage):
    first = prepare(settings, None, lambda line: None)
    paths = sorted((cache / "outputs").iterdir())
    assert len(paths) == 3  # of train, validation and test
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(damage)
    second = prepare(settings, None, lambda line: None, train=no_training)
    assert torch.equal(first.train.teacher, second.train.teacher)
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
    second = prepare(override(settings, changes), None, lambda line: None, train=no_training)
    assert torch.equal(first.train.teacher, second.train.teacher)
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
    second = prepare(override(settings, {"data.test_rows": 10}), None, lambda line: None, train=no_training)
    assert len(second.test) == 10 < len(first.test)
    assert same_weights(first, second)
    assert len(list((cache / "outputs").iterdir())) == 4  # the new test rows' beside the three


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


def test_the_same_weights_in_another_folder_are_the_same_teacher(settings, cache, no_training, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "copy")
    first = prepare(settings, None, lambda line: None)
    copied = override(settings, {"model": str(tmp_path / "copy")})
    second = prepare(copied, None, lambda line: None, train=no_training)
    assert same_weights(first, second)
    assert len(teachers(cache)) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_to_learn_from_are_computed_as_training_is_and_others_as_evaluation(
    settings, cache, untaught, monkeypatch, dtype
):
    used, compute = [], teacher_cache.unreduced_outputs

    def watched(reducer, examples, budget):
        used.append((len(examples), torch.is_autocast_enabled("cpu")))
        return compute(reducer, examples, budget)

    monkeypatch.setattr(teacher_cache, "unreduced_outputs", watched)
    changes = {"compute.dtype": dtype, "compute.evaluation": {"float32": "bfloat16", "bfloat16": "float32"}[dtype]}
    trained = dtype == "bfloat16"
    prepare(override(settings, changes), None, lambda line: None, train=untaught)
    assert used == [(240, trained), (30, not trained), (30, not trained)]
    # In another arithmetic they are others: nothing is taken from the cache.
    prepare(override(settings, changes | {"compute.dtype": changes["compute.evaluation"]}), None, print, train=untaught)
    assert used[3:] == [(240, not trained)]


def test_what_a_teacher_says_must_be_finite_and_is_not_kept_else(settings, cache, monkeypatch):
    monkeypatch.setattr(
        teacher_cache,
        "unreduced_outputs",
        lambda _, examples, budget: torch.full((len(examples), 2), torch.nan),
    )
    with pytest.raises(Diverged, match="the teacher's outputs on train must be finite"):
        prepare(settings, None, print)
    assert not list(cache.glob("outputs/*"))


def test_how_far_the_teacher_is_is_said_every_ten_seconds_and_at_the_end_by_hand(settings, cache, monkeypatch):
    clock, told = [0.0], []

    def taught(reducer, examples, teacher, compute, seed, progress, key):
        for step, seconds in ((1, 4.0), (2, 10.0), (3, 12.0), (4, 19.9), (5, 20.0), (6, 21.0)):
            clock[0] = seconds
            progress({"step": float(step), "steps": 6.0, "loss": step / 4})

    monkeypatch.setattr(teacher_cache.time, "monotonic", lambda: clock[0])
    prepare(settings, None, told.append, train=taught)
    # The first step ended after 4 seconds. Three more took 15.9 seconds, so that two take 10.6.
    assert [line for line in told if " step " in line] == [
        "teacher: step 4 of 6, loss 1.000, 11 s left",
        "teacher: step 6 of 6, loss 1.500, 0 s left",
    ]


def test_a_time_budget_cuts_the_teachers_epochs(settings, cache):
    told = []
    prepare(override(settings, {"teacher.epochs": 50.0}), make_plan(0.4, concurrent=2, num_trials=2), told.append)
    (line,) = (line for line in told if line.startswith("teacher: training for"))
    assert 0.1 <= float(re.search(r"training for ([\d.]+) epochs", line)[1]) < 50


# Teachers of any examples.


def test_documents_of_other_examples_or_targets_get_a_teacher_of_their_own(model, train, settings, cache):
    # The same documents, as four examples of one, or as two of two.
    tokens = train.tokens.take(torch.arange(4))
    single = Examples.of_documents(tokens, torch.tensor([0, 1, 0, 1]))
    pairs = Examples(tokens, torch.tensor([0, 1]), owner=torch.tensor([0, 0, 1, 1]))
    other = dataclasses.replace(pairs, targets=torch.tensor([1, 1]))
    parted = dataclasses.replace(pairs, owner=torch.tensor([0, 1, 1, 1]))
    trained = []
    for examples in (single, pairs, other, parted, pairs):
        teach(model.reducer, examples, settings, None, lambda line: None, lambda *asked, key: trained.append(asked[1]))
    assert len(trained) == 4
    assert all(one is own for one, own in zip(trained, (single, pairs, other, parted), strict=True))
    assert len(list((cache / "teachers").iterdir())) == 4


def test_another_seed_gets_a_teacher_of_its_own_though_weights_and_examples_are_the_same(model, train, settings, cache):
    trained = []
    for seed in (1, 2, 1):
        seeded = override(settings, {"seed": seed})
        teach(model.reducer, train, seeded, None, lambda line: None, lambda *asked, key: trained.append(asked[4]))
    assert trained == [1, 2]  # the third is the first


def test_a_teachers_budget_is_for_documents_and_is_timed_with_the_threads_at_hand(
    model, train, settings, cache, monkeypatch
):
    timed, fitted = [], []

    def seconds(reducer, examples, dtype, threads):
        timed.append((dtype, threads))
        return 0.5

    def fit(settings, plan, seconds, documents):
        fitted.append((seconds, documents))
        return settings

    monkeypatch.setattr(teacher_cache, "training_seconds", seconds)
    monkeypatch.setattr(teacher_cache, "fit_teacher", fit)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    # Two examples of two documents each.
    pairs = Examples(train.tokens.take(torch.arange(4)), torch.tensor([0, 1]), owner=torch.tensor([0, 0, 1, 1]))
    plan = make_plan(100.0, concurrent=1, num_trials=1)
    teach(model.reducer, pairs, settings, plan, lambda line: None, lambda *asked, key: None)
    assert timed == [("float32", 3)]
    assert fitted == [(0.5, 4)]


def test_what_a_teacher_says_is_kept_for_each_task(model, train, settings, cache, monkeypatch):
    said, compute = [], teacher_cache.unreduced_outputs

    def watched(reducer, *asked):
        said.append(reducer.task.name)
        return compute(reducer, *asked)

    monkeypatch.setattr(teacher_cache, "unreduced_outputs", watched)
    few = train.take(torch.arange(4))
    for task in (model.reducer.task, TASKS["multiple_choice"], model.reducer.task):
        teacher_outputs(dataclasses.replace(model.reducer, task=task), few, "train", settings.compute)
    assert said == ["classification", "multiple_choice"]


def test_a_teacher_that_ran_out_of_time_is_taken_up_by_its_own_search_alone(model, train, settings, cache):
    trained, told = [], []

    def cut(*inputs, key):
        trained.append(key)
        return 0.25

    def once(resumed):
        asked = override(settings, {"teacher.epochs": 4.0})
        return teach(model.reducer, train, asked, None, told.append, cut, resumed)

    # 4 epochs are asked for; a quarter of the steps was taken.
    assert once(resumed=False) == 1.0
    assert told[-1] == "teacher: its time is over after 1 of 4 epochs"
    assert once(resumed=True) == 1.0
    assert told[-1] == "teacher: taken from the cache of an earlier run"
    assert len(trained) == 1
    assert once(resumed=False) == 1.0  # another search has its own time for it
    assert len(trained) == 2


def test_a_teacher_with_fewer_epochs_than_were_asked_for_is_told_of_from_the_cache_too(model, train, settings, cache):
    plan = make_plan(0.4, concurrent=1, num_trials=1)
    longer = override(settings, {"teacher.epochs": 50.0})
    first, again = (
        teach(model.reducer, train, longer, plan, lambda line: None, lambda *asked, key: None) for _ in "ab"
    )
    assert first is not None
    assert first < 50
    assert again == first
