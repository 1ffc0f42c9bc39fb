"""What a search reads before it trains: what is said, what is checked, and what a resumed search compares."""

from pathlib import Path

import pytest

from trbert.errors import InputError
from tune.learning.inputs import check_unchanged, read_inputs
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
