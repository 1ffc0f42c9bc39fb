"""The picture of a run's front: what is drawn, in which size."""

import doctest
import os

import numpy as np
import pytest

from trbert.errors import InputError
from tune.results import picture as picture_module
from tune.results.front import mark_front
from tune.results.picture import draw


def picture(points, path):
    """What is drawn, caught on its way to the file."""
    from matplotlib.figure import Figure

    caught = []
    save = Figure.savefig

    def catch(self, *args, **kwargs):
        caught.append(self)
        save(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", catch)
        draw(points, path)
    return caught[0]


def test_the_picture_is_drawn_whole_in_the_size_of_a_page(tmp_path, small_front):
    figure = picture(small_front(), tmp_path / "front.png")
    content = (tmp_path / "front.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    assert (width, height) == (1200, 800)
    assert os.listdir(tmp_path) == ["front.png"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "teacher: 89.0 %",
        "front, as chosen on validation",
        "model 1: drops at layers 0, 2",
        "model 2: drops at layers 0, 2",
        "rule: first",
        "rule: random",
    ]
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1x", "2x", "4x", "8x"]


def test_the_picture_joins_the_trained_points_of_the_front_on_test_quality(tmp_path, small_front):
    (axes,) = picture(small_front(), tmp_path / "front.png").axes
    (line,) = [line for line in axes.lines if line.get_label().startswith("front")]
    np.testing.assert_allclose(line.get_xydata(), [[3.0, 88.6], [5.0, 88.0], [9.0, 84.0]])
    (first,) = [line for line in axes.lines if line.get_label() == "rule: first"]
    np.testing.assert_allclose(first.get_xydata(), [[2.0, 80.0], [6.0, 70.0]])


def test_rules_far_below_do_not_press_the_front_flat(tmp_path, at, unreduced, rule):
    points = mark_front([unreduced(0.9), at(0.89, 3.0), rule("random", 0.05, 4.0), rule("random", 0.1, 2.0)])
    (axes,) = picture(points, tmp_path / "front.png").axes
    assert axes.get_ylim()[0] > 70


@pytest.mark.parametrize("kind", ["unreduced", "trained", "rule"])
def test_a_picture_of_a_single_point_can_be_drawn(tmp_path, kind, at, unreduced, rule):
    point = {"unreduced": unreduced(0.9), "trained": at(0.9, 2.0), "rule": rule("first", 0.5, 2.0)}[kind]
    draw(mark_front([point]), tmp_path / "front.png")


def test_a_picture_of_nothing_is_refused(tmp_path, at):
    with pytest.raises(InputError, match="needs a point measured on test, and none of 1 is"):
        draw([at(0.9, 2.0, quality_test=None)], tmp_path / "front.png")


def test_the_examples_run():
    failed, tried = doctest.testmod(picture_module)
    assert failed == 0
    assert tried >= 3
