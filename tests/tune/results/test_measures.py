"""The file of a model's further measures: read as it was written, and refused in one line."""

import doctest
import json

import pytest

from trbert.errors import InputError
from tune.results import measures as module
from tune.results.measures import Measures, in_words, read_measures, write_measures

FAST = Measures(dial=-0.5, quality=(0.1 + 0.2, 0.5), drop=(-1 / 3, 2.0), figures={"macro F1": 2 / 3, "R²": -0.25})
WHOLE = Measures(dial=None, quality=(0.5, 0.75), drop=None, figures={})


@pytest.fixture
def folder(tmp_path):
    write_measures(tmp_path, [FAST, WHOLE])
    return tmp_path


def test_what_is_written_is_read_again_at_each_dial(folder):
    assert read_measures(folder, -0.5) == FAST
    assert read_measures(folder, None) == WHOLE
    assert read_measures(folder, 0.5) is None


def test_a_model_without_the_file_has_none(tmp_path):
    assert read_measures(tmp_path, -0.5) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"quality": [0.5]}, "ValueError"),
        ({"quality": ["a", "b"]}, "it has the str 'a' in place of a number"),
        ({"drop": [0.0, float("nan")]}, "it has the float nan in place of a number"),
        ({"figures": [1.0]}, "AttributeError"),
        ({"figures": {"macro F1": True}}, "it has the bool True in place of a number"),
        ({"dial": "fast"}, "it has the str 'fast' in place of a number"),
    ],
)
def test_wrong_measures_are_refused_in_one_line_that_names_the_file(folder, change, why):
    path = folder / "measures.json"
    path.write_text(json.dumps([json.loads(path.read_text())[0] | change]))
    with pytest.raises(InputError) as raised:
        read_measures(folder, -0.5)
    told = str(raised.value)
    assert told.startswith(f"{path} must hold what was measured of the model")
    assert told.endswith("copy it back, or search again")
    assert "\n" not in told
    assert why in told or type(raised.value.__cause__).__name__ == why


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b"[1]", b"[{}]", b"7", b"\xff\xfe", b"[" * 100_000])
def test_a_file_of_something_else_is_refused(folder, content):
    path = folder / "measures.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"measures\.json must hold what was measured"):
        read_measures(folder, -0.5)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"measures\.json must hold"):
        read_measures(folder, -0.5)


def test_names_from_a_file_cannot_move_the_cursor():
    assert "\x1b" not in in_words(Measures(dial=None, quality=(0.0, 1.0), drop=None, figures={"\x1b[2J": 0.5}))


def test_the_examples_run():
    failed, tried = doctest.testmod(module)
    assert failed == 0
    assert tried >= 2
