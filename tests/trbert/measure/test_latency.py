"""The latency table: its arithmetic by hand, its file, and that measuring fills it."""

import doctest
import itertools
import json
import os
from dataclasses import replace

import pytest
import torch

from trbert.errors import InputError
from trbert.measure import latency, timing
from trbert.measure.latency import LatencyTable, load_latency, measure_latency

TABLE = LatencyTable(
    tokens=(1, 2, 10), seconds=(1.0, 3.0, 7.0), documents=4, layers=4, device="cpu", dtype="float32", threads=2
)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(latency).attempted
    assert doctest.testmod(latency).failed == 0


def test_times_between_lengths_are_on_a_straight_line_and_beyond_them_go_on():
    times = TABLE.layer_seconds(torch.tensor([[0.0, 1.0, 1.5], [2.0, 6.0, 12.0]]))
    torch.testing.assert_close(times, torch.tensor([[0.0, 1.0, 2.0], [3.0, 5.0, 8.0]], dtype=torch.double))


def test_the_price_is_the_stages_share_of_the_documents_time_by_hand():
    # Points 0 and 3 of four layers: three layers on two tokens, one on one, of four on ten; then all on ten.
    kept = torch.tensor([[2.0, 10.0], [1.0, 10.0]])
    price = TABLE.price((0, 3), kept, torch.tensor([10, 10]))
    torch.testing.assert_close(price, torch.tensor([[3 * 3 / 28, 3 * 7 / 28], [1 / 28, 7 / 28]]))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"tokens": (2, 1, 10)}, "rising lengths"),
        ({"tokens": (1, 1, 10)}, "rising lengths"),
        ({"tokens": (1, 2)}, "one for each time"),
        ({"tokens": (1, 2, 10, 20)}, "one for each time"),
        ({"tokens": (0, 1, 2)}, "rising lengths"),
        ({"tokens": (1,), "seconds": (1.0,)}, "two or more"),
        ({"seconds": (1.0, 3.0, 2.0)}, "never fall"),
        ({"seconds": (0.0, 1.0, 2.0)}, "positive"),
    ],
)
def test_a_table_that_is_none_is_refused(changes, rule):
    with pytest.raises(InputError, match=rule):
        replace(TABLE, **changes)


def test_a_saved_table_comes_back(tmp_path):
    TABLE.save(tmp_path / "latency.json")
    assert load_latency(tmp_path / "latency.json") == TABLE


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"tokens": 3, "seconds": [1]}', '{"tokens": [1, 2], "seconds": ["a", 2]}', "\udcff"]
)
def test_a_file_that_is_no_table_is_refused_with_a_remedy(tmp_path, content):
    path = tmp_path / "latency.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=r"`trbert bench` wrote, and '.*latency\.json' is not one \("):
        load_latency(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"layers": 0}, "layers must be a whole number above 0, and is the int 0"),
        ({"layers": 2.5}, ""),
        ({"documents": True}, "documents must be a whole number above 0, and is the bool True"),
        ({"threads": None}, ""),
        ({"device": 3}, ""),
        ({"seconds": [float("nan"), float("nan")]}, "seconds must be positive, finite and never fall"),
        ({"seconds": [1.0, float("inf")]}, "seconds must be positive, finite and never fall"),
        ({"tokens": [1, float("inf")]}, "cannot convert float infinity to integer"),
        ({"tokens": list(range(1, 10_000))}, "..."),
    ],
)
def test_a_table_with_a_wrong_value_is_refused_in_a_line_with_what_to_do(tmp_path, change, why):
    path = tmp_path / "latency.json"
    TABLE.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokens": [1, 2], "seconds": [1.0, 2.0]} | change))
    with pytest.raises(InputError) as raised:
        load_latency(path)
    told = str(raised.value)
    assert why in told
    assert len(told) < 600
    assert "or leave it out, and this machine is measured" in told


def test_what_is_nested_too_deeply_too_large_or_a_pipe_is_no_table(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="it is nested too deeply"):
        load_latency(path)
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match="it has more than 1,000,000 bytes"):
        load_latency(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="it is a pipe"):
        load_latency(path)


def test_a_link_of_the_users_own_to_a_table_is_followed(tmp_path):
    TABLE.save(tmp_path / "latency.json")
    (tmp_path / "link").symlink_to("latency.json")
    assert load_latency(tmp_path / "link") == TABLE


def test_a_field_too_many_is_refused(tmp_path):
    TABLE.save(tmp_path / "latency.json")
    values = json.loads((tmp_path / "latency.json").read_text()) | {"colour": "red"}
    (tmp_path / "latency.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="colour"):
        load_latency(tmp_path / "latency.json")


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json"):
        load_latency(tmp_path / "gone.json")


def test_measuring_times_every_length_up_to_the_longest(encoder):
    measured = measure_latency(encoder, documents=2, longest=20)
    assert measured.tokens == (1, 2, 4, 8, 16, 20)
    assert (measured.documents, measured.layers) == (2, len(encoder.layers))
    assert (measured.device, measured.dtype, measured.threads) == ("cpu", "float32", torch.get_num_threads())
    whole = measured.price((0,), torch.tensor([[20.0]]), torch.tensor([20]))
    torch.testing.assert_close(whole, torch.ones(1, 1))
    assert measure_latency(encoder, longest=1000).tokens[-1] == encoder.max_tokens


def test_measuring_says_in_what_arithmetic(encoder):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure_latency(encoder, documents=1, longest=2).dtype == "bfloat16"


def test_time_that_grows_faster_than_flops_costs_more(monkeypatch, encoder):
    """Each entry is its own length's time: a clock that jumps with the tokens shows in the table."""
    clock = [0.0]
    run_layers = type(encoder).run_layers

    def slow(self, batch, first, last, listens=False):
        clock[0] += float(len(batch.hidden)) * (last - first)
        return run_layers(self, batch, first, last, listens)

    monkeypatch.setattr(type(encoder), "run_layers", slow)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    measured = measure_latency(encoder, documents=3, longest=8)
    assert measured.seconds == tuple(float(length) for length in measured.tokens)


@pytest.fixture
def watched(monkeypatch, encoder):
    """A function: factors -> runs of layers that take `factor` seconds a token and layer, in turn; and their rows."""

    def watch(factors):
        clock, rows, turns, run_layers = [0.0], [], itertools.cycle(factors), type(encoder).run_layers

        def slow(self, batch, first, last, listens=False):
            rows.append(batch.lengths.tolist())
            clock[0] += next(turns) * len(batch.hidden) * (last - first)
            return run_layers(self, batch, first, last, listens)

        monkeypatch.setattr(type(encoder), "run_layers", slow)
        monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
        return rows

    return watch


def test_a_time_is_the_median_of_five_rounds_after_a_first_that_does_not_count(watched, encoder):
    # Of 9, 1, 2, 7, 3 the median is 3; the mean would be 4.4.
    watched((100.0, 9.0, 1.0, 2.0, 7.0, 3.0))
    assert measure_latency(encoder, documents=2, longest=2).seconds == (3.0, 6.0)


def test_documents_share_a_row_as_far_as_it_has_room(watched, encoder, monkeypatch):
    monkeypatch.setattr(latency, "_ROW_TOKENS", 16)
    rows = watched((1.0,))
    measured = measure_latency(encoder, documents=3, longest=20)
    # Two of 8 tokens fill 16; one of 20 is longer than that, and runs alone.
    assert [row for row, _ in itertools.groupby(rows)] == [[1] * 3, [2] * 3, [4] * 3, [8] * 2, [16], [20]]
    assert measured.seconds == (1.0, 2.0, 4.0, 8.0, 16.0, 20.0)  # of one document, whatever shared its row
    assert measured.documents == 3


def test_a_document_of_one_token_makes_no_table(encoder):
    told = "^documents must have 2 tokens or more for a latency table, and have at most 1$"
    with pytest.raises(InputError, match=told):
        measure_latency(encoder, longest=1)
