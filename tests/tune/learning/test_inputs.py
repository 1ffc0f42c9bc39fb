"""What a search reads before it trains: what is said, what is checked, and what a resumed search compares."""

import re
from pathlib import Path

import pytest

from trbert.errors import InputError
from tune.learning import inputs as module
from tune.learning.inputs import check_unchanged, read_inputs
from tune.learning.memory import PROCESS_BYTES, STATE_BYTES, training_bytes
from tune.settings import override


def silent(line):
    """Says nothing."""


def test_the_documents_and_the_truncated_share_of_each_split_are_said(tiny_settings, cache):
    told = []
    read_inputs(override(tiny_settings, {"data.max_length": 5}), told.append)
    assert "train: 240 documents, 5 tokens on average, 240 truncated at 5 (100%)" in told
    assert any(line.startswith("test: 30 documents, ") for line in told)


def test_what_is_read_is_what_trials_start_from(tiny_settings, cache, prepared):
    found = read_inputs(tiny_settings, silent)
    assert found.examples["train"].targets.equal(prepared.train.targets)
    assert found.examples["test"].tokens.input_ids.equal(prepared.test.tokens.input_ids)
    assert found.fingerprint == prepared.fingerprint


@pytest.mark.parametrize(("available", "warned"), [(10**12, False), (10**8, True)])
def test_memory_is_compared_with_what_the_trials_need(tiny_settings, cache, monkeypatch, available, warned):
    monkeypatch.setattr(module, "memory_available", lambda: available)
    told = []
    read_inputs(tiny_settings, told.append, at_once=3)
    (line,) = (line for line in told if re.match(r"memory: up to .* GB for 3 trials at once", line))
    assert f"of {available / 1e9:.1f} GB that are free" in line
    assert any("may be too little" in line and "joint.batch_size" in line for line in told) is warned


def test_the_memory_of_a_trial_by_hand(tiny_settings, cache):
    settings = override(tiny_settings, {"joint.samples": 2, "joint.batch_size": 4, "joint.fastest": 16.0})
    encoder = read_inputs(settings, silent).reducer.encoder
    parameters = sum(each.numel() for each in encoder.plain.parameters())
    states = STATE_BYTES * (4 * 20) * 3 * len(encoder.layers) * encoder.base.config.hidden_size
    assert training_bytes(encoder, settings, 20) == PROCESS_BYTES + 16 * parameters + states
    # A pass has no more tokens than the budget of a pass.
    fewer = override(settings, {"compute.tokens_per_batch": 40})
    assert training_bytes(encoder, fewer, 20) == PROCESS_BYTES + 16 * parameters + states / 2


# A resumed search.


def changed_data(settings, tmp_path, old, new):
    path = tmp_path / "other.csv"
    text = Path(settings.data.source).read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return override(settings, {"data.source": str(path)})


@pytest.mark.parametrize(("old", "new"), [(",A\n", ",AA\n"), ("w1 ", "w2 ")], ids=["labels", "texts"])
def test_other_data_under_the_same_name_are_told_from_the_first(tiny_settings, cache, tmp_path, old, new):
    before = read_inputs(tiny_settings, silent)
    check_unchanged(before, before.fingerprint)
    check_unchanged(before, None)
    after = read_inputs(changed_data(tiny_settings, tmp_path, old, new), silent)
    with pytest.raises(InputError, match=r"has changed since: put the old files back, or start another search"):
        check_unchanged(after, before.fingerprint)
