"""The break-even table: its rule by hand, its file, that it is measured, and where it is not consulted."""

import doctest
import json
from dataclasses import replace

import pytest
from torch.testing import assert_close

from trbert.errors import InputError
from trbert.measure import break_even, timing
from trbert.measure.break_even import (
    BreakEven,
    Conditions,
    fitting_tables,
    load_break_even,
    measure_break_even,
    save_break_even,
)
from trbert.selection.policy import Policy
from trbert.selection.selectors import FirstSelector

RULE = FirstSelector(Policy(32, 0))
WHERE = Conditions(
    machine="A Processor",
    device="cpu",
    dtype="float32",
    threads=1,
    runner="eager",
    layers=4,
    width=32,
    points=(1, 3),
    selector="first",
    dial=0.3,
)
TABLE = BreakEven(conditions=WHERE, tokens=(64, 512, 128, 1024), documents=(1, 1, 8, 8), gains=(0.5, 1.5, 0.9, 3.0))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(break_even).attempted
    assert doctest.testmod(break_even).failed == 0


@pytest.mark.parametrize(
    ("tokens", "documents", "pays"),
    [
        (63, 1, False),  # with one document 64 and 512 tokens were measured
        (511, 1, True),  # as 512 in buckets
        (300, 1, False),
        (10_000, 1, True),
        (512, 7, True),  # 7 documents count as 1: 512 tokens pay
        (512, 8, False),  # 8 documents have their own row: 128 tokens do not pay, and 1,024 are more
        (1024, 8, True),
        (2000, 100, True),
        (100, 8, False),  # fewer than all that was measured with 8 documents
        (40, 1, False),
    ],
)
def test_the_next_smaller_size_that_was_measured_decides_by_hand(tokens, documents, pays):
    assert TABLE.pays(tokens, documents) is pays


def test_a_batch_smaller_than_all_that_was_measured_is_taken_not_to_pay():
    assert not replace(TABLE, documents=(2, 2, 8, 8), gains=(2.0,) * 4).pays(512, 1)


def test_saved_tables_come_back(tmp_path):
    tables = (TABLE, replace(TABLE, conditions=replace(WHERE, dtype="bfloat16", dial=0.1)))
    save_break_even(tables, tmp_path / "break_even.json")
    assert load_break_even(tmp_path / "break_even.json") == tables


@pytest.mark.parametrize("content", ["", "{}", "[]", "[3]", "[{}]", '[{"conditions": 1}]', "\udcff", "[" * 100_000])
def test_a_file_that_is_no_table_is_refused_with_a_remedy(content, tmp_path):
    path = tmp_path / "break_even.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=r"^break_even must be a JSON file .* '.*break_even\.json' is not one \("):
        load_break_even(path)
    with pytest.raises(InputError, match=r"gone\.json' is not one \(No such file or directory\): measure it again"):
        load_break_even(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gains": [1.0]}, "must be one for each size"),
        ({"tokens": [], "documents": [], "gains": []}, "must be one for each size"),
        ({"tokens": [0, 1, 1, 1]}, "must be whole numbers above 0"),
        ({"documents": [1, True, 8, 8]}, "must be whole numbers above 0"),
        ({"gains": [1.0, 1.0, 1.0, float("nan")]}, "gains must be finite numbers above 0"),
        ({"gains": [1.0, 1.0, 1.0, "3"]}, ""),
        ({"gains": 3}, "must hold conditions, tokens, documents and gains"),
        ({"colour": "red"}, "colour"),
        ({"conditions": {}}, "points is missing"),
    ],
)
def test_a_table_with_a_wrong_value_is_refused_in_a_line(change, why, tmp_path):
    path = tmp_path / "break_even.json"
    save_break_even([TABLE], path)
    (values,) = json.loads(path.read_text())
    path.write_text(json.dumps([values | change]))
    with pytest.raises(InputError) as raised:
        load_break_even(path)
    assert why in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("machine", 3, ""),
        ("threads", 0, "threads must be a whole number above 0"),
        ("layers", 2.5, ""),
        ("points", ["1"], ""),
        ("dial", float("inf"), "dial must be a finite number"),
        ("dial", None, ""),
    ],
)
def test_conditions_with_a_wrong_value_are_refused_in_a_line(name, value, why, tmp_path):
    path = tmp_path / "break_even.json"
    save_break_even([TABLE], path)
    (values,) = json.loads(path.read_text())
    path.write_text(json.dumps([values | {"conditions": values["conditions"] | {name: value}}]))
    with pytest.raises(InputError) as raised:
        load_break_even(path)
    assert why in str(raised.value)


def test_tables_of_this_machine_model_and_runner_are_kept_whatever_their_dial(make_reducer):
    here = Conditions.now(make_reducer((1, 3)), RULE, 0.3)
    assert (here.device, here.dtype, here.runner, here.layers, here.width) == ("cpu", "float32", "eager", 4, 32)
    own = replace(TABLE, conditions=replace(here, dial=0.1, dtype="bfloat16", threads=7))
    others = [
        replace(TABLE, conditions=replace(here, **change))
        for change in (
            *({"machine": "Another"}, {"layers": 5}, {"width": 8}, {"points": (1, 2)}),
            *({"runner": "graphed"}, {"selector": "policy"}),
        )
    ]
    assert fitting_tables([*others, own], here) == (own,)
    for other in others:
        with pytest.raises(
            InputError, match=r"^break_even must be measured on this machine with this model and runner"
        ):
            fitting_tables([other], here)


@pytest.fixture
def quick(monkeypatch):
    """Times each size by one pass in one round."""
    monkeypatch.setattr(break_even, "_ROUNDS", 1)
    monkeypatch.setattr(break_even, "_STEP_TOKENS", 0)


@pytest.fixture
def clock(monkeypatch, quick):
    """A function: seconds of a layer and token, and of a row at a point -> a clock that runs by them alone."""

    def set_up(encoder, of_a_token, of_a_decision):
        now, run_layers, decide = [0.0], type(encoder).run_layers, FirstSelector.keep_mask

        def layers(self, batch, first, last, listens=False):
            now[0] += of_a_token * len(batch.hidden) * (last - first)
            return run_layers(self, batch, first, last, listens)

        def decides(self, *arguments):
            now[0] += of_a_decision
            return decide(self, *arguments)

        monkeypatch.setattr(type(encoder), "run_layers", layers)
        monkeypatch.setattr(FirstSelector, "keep_mask", decides)
        monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    return set_up


def test_a_gain_is_the_time_of_all_layers_on_all_tokens_over_the_time_of_the_reduced_pass_by_hand(
    clock, make_reducer, make_tokens
):
    reducer = make_reducer((1,))
    clock(reducer.encoder, 1.0, 30.0)
    table = measure_break_even(reducer, RULE, 0.5, make_tokens(9, 1, 30), tokens=(24, 4), documents=(1, 2))
    assert (table.tokens, table.documents) == ((4, 8, 24, 48), (1, 2, 1, 2))
    # Four layers on n tokens over: one on n, a decision of 30 seconds, three on n/2.
    expected = [4 * n / (n + 30 + 1.5 * n) for n in (4, 8, 24, 48)]
    assert table.gains == pytest.approx(expected)
    assert [table.pays(tokens, 1) for tokens in (4, 24)] == [False, True]
    assert table.conditions == Conditions.now(reducer, RULE, 0.5)


def test_batches_that_are_too_large_are_left_out_but_for_the_smallest(monkeypatch, quick, make_reducer, make_tokens):
    monkeypatch.setattr(break_even, "_ROW_TOKENS", 16)
    reducer = make_reducer((1,))
    table = measure_break_even(reducer, RULE, 0.5, make_tokens(9), tokens=(8, 12), documents=(1, 2))
    assert (table.tokens, table.documents) == ((8, 12, 16), (1, 1, 2))
    alone = measure_break_even(reducer, RULE, 0.5, make_tokens(9), tokens=(20,), documents=(1, 2))
    assert (alone.tokens, alone.documents) == ((20,), (1,))


def test_documents_are_cut_or_repeated_and_their_first_token_stays_alone(monkeypatch, quick, make_reducer, make_tokens):
    like, seen = make_tokens(5, 1, 3), []
    rows = [ids.tolist() for ids in like.input_ids.split([5, 1, 3])]

    def watched(reducer, selector, tokens, dial, pays=None):
        seen.append(tokens)

    monkeypatch.setattr(break_even, "reduced_outputs", watched)
    measure_break_even(make_reducer((1,)), RULE, 0.5, like, tokens=(4,), documents=(3,))
    assert seen[0].input_ids.tolist() == [*rows[0][:4], *rows[1] * 4, *rows[2], rows[2][1]]
    assert seen[0].offsets.tolist() == [0, 4, 8, 12]
    assert_close(seen[0].token_type_ids[:4], like.token_type_ids[:4])
