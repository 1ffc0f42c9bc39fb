"""The picture of a run's front: what is drawn, in which size."""

import doctest
import os

import numpy as np
import pytest

from trbert.errors import InputError
from trbert.wording import cell
from tune.results import picture as picture_module
from tune.results.front import mark_front
from tune.results.picture import draw


def picture(points, path, standing=None):
    """What is drawn, caught on its way to the file."""
    from matplotlib.figure import Figure

    caught = []
    save = Figure.savefig

    def catch(self, *args, **kwargs):
        caught.append(self)
        save(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", catch)
        draw(points, path, standing)
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
    # The front goes down to 88 %, the teacher's 89 % is the top: 8 points are shown, and .06 · 8 of margin.
    assert axes.get_ylim() == pytest.approx((81 - 0.48, 89 + 0.48))


@pytest.mark.parametrize("kind", ["unreduced", "trained", "rule"])
def test_a_picture_of_a_single_point_shows_it_with_room_about_it(tmp_path, kind, at, unreduced, rule):
    point = {"unreduced": unreduced(0.9), "trained": at(0.9, 2.0), "rule": rule("first", 0.5, 2.0)}[kind]
    (axes,) = picture(mark_front([point]), tmp_path / "front.png").axes
    at_x, at_y = {"unreduced": (1.0, 89.0), "trained": (2.0, 89.0), "rule": (2.0, 50.0)}[kind]
    drawn = [xy for each in axes.collections for xy in each.get_offsets().tolist()]
    drawn += [xy for line in axes.lines if line.get_label().startswith("rule") for xy in line.get_xydata().tolist()]
    assert drawn == [[at_x, pytest.approx(at_y)]]
    # From the point to twice its speed-up, a tenth more on each side; 4 points down, and .06 · 4 of margin.
    assert axes.get_xlim() == pytest.approx((at_x / 1.1, 2 * at_x * 1.1))
    assert axes.get_ylim() == pytest.approx((at_y - 4 - 0.24, at_y + 0.24))


def test_a_picture_of_nothing_is_refused(tmp_path, at):
    with pytest.raises(InputError, match="needs a point measured on test, and none of 1 is"):
        draw([at(0.9, 2.0, quality_test=None)], tmp_path / "front.png")


def test_the_examples_run():
    failed, tried = doctest.testmod(picture_module)
    assert failed == 0
    assert tried >= 3


def offsets(axes, label):
    """Where the points with a label are drawn."""
    (found,) = [each for each in axes.collections if str(each.get_label()).startswith(label)]
    return found.get_offsets().tolist()


def test_each_model_is_drawn_at_its_own_points_and_the_teacher_across(tmp_path, small_front):
    (axes,) = picture(small_front(), tmp_path / "front.png").axes
    assert offsets(axes, "model 1") == [[3.0, pytest.approx(88.6)], [9.0, pytest.approx(84.0)]]
    assert offsets(axes, "model 2") == [[5.0, pytest.approx(88.0)]]
    assert offsets(axes, "teacher") == [[1.0, pytest.approx(89.0)]]
    (across,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert across.get_ydata() == pytest.approx([89.0, 89.0])


def test_points_off_the_front_are_drawn_faintly_and_no_line_joins_them(tmp_path, at, unreduced):
    better = at(0.85, 2.5, trial="3")
    points = mark_front([unreduced(0.9), at(0.7, 2.0), at(0.8, 4.0), at(0.6, 3.0, trial="2"), better])
    (axes,) = picture(points, tmp_path / "front.png").axes
    faint = [each.get_offsets().tolist() for each in axes.collections if each.get_alpha() == 0.25]
    assert faint == [[[2.0, pytest.approx(69.0)]], [[3.0, pytest.approx(59.0)]]]
    # Model 1 has a point on the front and one off it. Only the first is drawn large, in the model's colour.
    assert offsets(axes, "model 1") == [[4.0, pytest.approx(79.0)]]
    (line,) = [line for line in axes.lines if line.get_label().startswith("front")]
    np.testing.assert_allclose(line.get_xydata(), [[2.5, 84.0], [4.0, 79.0]])


def test_lines_run_from_slow_to_fast_whatever_the_order_of_points(tmp_path, small_front):
    (axes,) = picture(small_front()[::-1], tmp_path / "front.png").axes
    (line,) = [line for line in axes.lines if line.get_label().startswith("front")]
    assert line.get_xdata().tolist() == [3.0, 5.0, 9.0]


def test_models_are_named_in_the_order_of_their_numbers(tmp_path, at, unreduced):
    points = mark_front([unreduced(0.9), at(0.8, 3.0, trial="10"), at(0.85, 2.0, trial="9"), at(0.7, 4.0, trial="2")])
    figure = picture(points, tmp_path / "front.png")
    labels = [text.get_text().partition(":")[0] for text in figure.legends[0].get_texts()]
    assert [label for label in labels if label.startswith("model")] == ["model 2", "model 9", "model 10"]


def test_a_rules_line_has_the_points_where_its_best_choice_was_measured(tmp_path, unreduced, rule):
    # At points 1, 3 it is better up to 4x; at points 0, 2 it is measured there too, and goes on to 8x.
    low = [rule("first", 0.5, 2.0), rule("first", 0.5, 3.0), rule("first", 0.5, 8.0)]
    high = [rule("first", 0.9, 2.0, points=(1, 3)), rule("first", 0.7, 4.0, points=(1, 3))]
    (axes,) = picture(mark_front([unreduced(0.95), *low, *high]), tmp_path / "front.png").axes
    (line,) = [line for line in axes.lines if line.get_label() == "rule: first"]
    np.testing.assert_allclose(line.get_xydata(), [[2.0, 90.0], [4.0, 70.0], [8.0, 50.0]])


@pytest.mark.parametrize(
    ("ahead", "title"),
    [(0.35, "Quality against cost"), (0.0, "No front: the teacher is not clearly better than the commonest answer")],
)
def test_the_title_says_where_the_teacher_knows_nothing(tmp_path, small_front, standing, ahead, title):
    figure = picture(small_front(), tmp_path / "front.png", standing(ahead=ahead))
    assert figure.axes[0].get_title(loc="left") == title


def test_a_run_without_baselines_has_the_usual_title(tmp_path, small_front):
    (axes,) = picture(small_front(), tmp_path / "front.png").axes
    assert axes.get_title(loc="left") == "Quality against cost"


@pytest.mark.parametrize("name", ["$", r"a$\frac{$b", "$x^2$ \x1b[31m\u202e", "n" * 1000])
def test_a_name_that_is_a_formula_or_worse_is_drawn_as_it_is(tmp_path, unreduced, rule, at, name):
    points = mark_front([unreduced(0.9), at(0.8, 3.0, trial=name), rule(name, 0.7, 2.0)])
    figure = picture(points, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert f"rule: {cell(name, 40)}" in labels
    assert all(label.isprintable() and len(label) < 250 for label in labels)
