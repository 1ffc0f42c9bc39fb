"""The file of a teacher's standing: read as it was written, and refused in one line."""

import json

import pytest

from trbert.errors import InputError
from tune.results.standing_file import read_standing, write_standing


@pytest.fixture
def path(tmp_path, standing):
    write_standing(tmp_path / "baselines.json", standing())
    return tmp_path / "baselines.json"


def test_what_is_written_is_read_again(path, standing):
    assert read_standing(path) == standing()


def test_a_run_without_the_file_has_no_standing(tmp_path):
    assert read_standing(tmp_path / "baselines.json") is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"test": "good"}, "test must be a number with a decimal point, and is the str 'good'"),
        ({"test": float("inf")}, "test must be a finite number"),
        ({"test_rows": 10**30}, "test_rows must be above 0 and below 2^63"),
        ({"test_rows": 3.5}, "test_rows must be a whole number, and is the float 3.5"),
        ({"trained": 1}, "trained must be true or false, and is the int 1"),
        ({"baselines": None}, "baselines must be a list"),
        ({"baselines": []}, "baselines must be commonest answer"),
        ({"baselines": ["first"]}, "a baseline must be a JSON object"),
        ({"baselines": [{"name": "x"}]}, "validation is missing"),
    ],
)
def test_wrong_figures_are_refused_in_one_line_that_names_the_file(path, change, why):
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as raised:
        read_standing(path)
    told = str(raised.value)
    assert told.startswith(f"{path} must hold the figures of a teacher and its baselines")
    assert f"({why}" in told
    assert told.endswith("remove the file, and the table is shown without them")
    assert "\n" not in told


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"{}"])
def test_a_file_of_something_else_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"baselines\.json must hold the figures of a teacher"):
        read_standing(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"baselines\.json must hold"):
        read_standing(path)
