"""The space of settings that the search varies, and the first configurations that it tries."""

from collections.abc import Collection
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from trbert.errors import InputError
from tune.settings import DISTILLATION


def search_space(
    num_layers: int, penalty: float, fixed: Collection[str] = (), num_points: int | None = None
) -> dict[str, Any]:
    """Returns Optuna's distributions by setting name, without the settings that the user fixed.

    The reduction points are one categorical choice (`point_choices`), and each choice is a text such as "0,2".

    Args:
        num_layers: the number of layers of the encoder.
        penalty: the task's own price of an unreduced document, in nats; the search looks around it.
        fixed: the names of the settings that the user fixed.
        num_points: the wanted number of reduction points; None allows any.

    Raises:
        InputError: No choice of reduction points has this number of points.
    """
    whole = {
        "select.penalty": FloatDistribution(0.3 * penalty, 8.0 * penalty, log=True),
        "select.points": CategoricalDistribution(point_choices(num_layers, num_points)),
        "select.keep_ratios": FloatDistribution(0.0, 0.2),
        "select.learning_rate": FloatDistribution(1e-3, 4e-2, log=True),
        "policy_width": CategoricalDistribution((16, 32, 64, 128)),
        "joint.learning_rate": FloatDistribution(3e-5, 3e-4, log=True),
        "joint.distillation": FloatDistribution(0.0, 1.0),
    }
    return {name: distribution for name, distribution in whole.items() if not _is_fixed(name, fixed)}


def varied(fixed: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the names of the settings that a search varies, without those that the user fixed."""
    return tuple(search_space(num_layers=2, penalty=1.0, fixed=fixed))


def point_choices(num_layers: int, num_points: int | None = None) -> list[str]:
    """Returns the choices for the reduction points that the search tries, such as "0,2".

    Of an encoder with L layers these are:

    * (0, L/3): the first point is right after the embeddings, so that no layer runs on all tokens;
    * (1, L/2): the paper's choice;
    * (0, 1) and (0, L/2), which lie between the two;
    * three points in the middle, for text pairs: a token must have seen the other text before it shows whether it
      matters;
    * (0, 2L/3), for the places of answers: the question's words say at once where they may be, and later layers know.

    Args:
        num_layers: L, the number of layers of the encoder.
        num_points: the wanted number of reduction points; None allows any.

    Raises:
        InputError: No choice has this number of points.

    Example:
        >>> point_choices(6)
        ['0,2', '1,3', '0,1', '0,3', '2,3,4', '0,4']
        >>> point_choices(6, num_points=3)
        ['2,3,4']
    """
    third, half = max(1, num_layers // 3), num_layers // 2
    several = [(0, third), (1, max(2, half)), (0, 1), (0, half), _middle(num_layers), _at_once_and_late(num_layers)]
    choices = [points for points in several if points[-1] < num_layers] if num_layers > 1 else [(0,)]
    fitting = [points for points in choices if num_points in (None, len(points))]
    if not fitting:
        counts = " or ".join(map(str, sorted({len(points) for points in choices})))
        raise InputError(
            f"select.keep_ratios must have one value for each reduction point, and has {num_points}; the search tries "
            f"{counts} points: give as many values, or set select.points too"
        )
    return list(dict.fromkeys(map(_coded, fitting)))


def _middle(num_layers: int) -> tuple[int, ...]:
    third = max(1, num_layers // 3)
    return tuple(sorted({third, num_layers // 2, 2 * third}))


def _at_once_and_late(num_layers: int) -> tuple[int, ...]:
    return 0, 2 * max(1, num_layers // 3)


def _coded(points: tuple[int, ...]) -> str:
    return ",".join(map(str, points))


def first_guesses(
    num_layers: int,
    penalty: float,
    documents: int,
    fixed: Collection[str] = (),
    num_points: int | None = None,
    *,
    pairs: bool = False,
    asks: bool = False,
) -> list[dict[str, Any]]:
    """Returns configurations that are known to do well. The search tries them before it asks Optuna.

    Args:
        num_layers: the number of layers of the encoder.
        penalty: the task's own price of an unreduced document, in nats.
        documents: the number of documents of the select stage. The policy's learning rate is inversely proportional to
            it, within bounds, as was best with 2,000 and with 6,000 documents.
        fixed: the names of the settings that the user fixed.
        num_points: the wanted number of reduction points; None allows any.
        pairs: whether a document is a pair of texts. Pairs do best with points in the middle (measured on one data
            set).
        asks: whether the head reads each token of a text of which a protected question is asked (measured on one data
            set, too; queries of reranking were no better off).

    Raises:
        InputError: No choice of reduction points has this number of points.
    """
    choices = point_choices(num_layers, num_points)
    early, paper = choices[0], choices[min(1, len(choices) - 1)]
    wanted = _coded(_at_once_and_late(num_layers) if asks else _middle(num_layers))
    likely = wanted if (pairs or asks) and wanted in choices else early
    rate = min(1e-2, max(1e-3, 20 / documents))
    joint = {"joint.learning_rate": 1e-4, "joint.distillation": DISTILLATION}
    common = {"select.keep_ratios": 0.0, "select.learning_rate": rate, "policy_width": 32, **joint}
    guesses = [
        {"select.penalty": penalty, "select.points": likely, **common},
        {"select.penalty": 0.4 * penalty, "select.points": likely, **common},
        {"select.penalty": penalty, "select.points": paper, **common},
        {"select.penalty": 2.5 * penalty, "select.points": early, **common},
    ]
    guesses = [{name: value for name, value in each.items() if not _is_fixed(name, fixed)} for each in guesses]
    return [each for index, each in enumerate(guesses) if each not in guesses[:index]]


def _is_fixed(name: str, fixed: Collection[str]) -> bool:
    # The search varies one ratio, and gives it to each point. So it cannot vary where the points are fixed.
    return name in fixed or (name == "select.keep_ratios" and "select.points" in fixed)


def to_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a sampled configuration as changes of settings: points as numbers, and a keep-ratio for each point.

    Example:
        >>> to_settings({"select.points": "0,2", "select.keep_ratios": 0.1})
        {'select.points': (0, 2), 'select.keep_ratios': (0.1, 0.1)}
    """
    changes = dict(config)
    free = changes.pop("select.keep_ratios", None)
    if "select.points" in changes:
        changes["select.points"] = tuple(int(point) for point in str(changes["select.points"]).split(","))
        if free is not None:
            changes["select.keep_ratios"] = (float(free),) * len(changes["select.points"])
    return changes
