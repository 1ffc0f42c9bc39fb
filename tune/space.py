"""What the search may vary, and where it starts."""

from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution


def search_space(num_layers: int) -> dict[str, Any]:
    """Returns the space over dotted setting names, for an encoder of this depth.

    Reduction points are one categorical choice, coded as "0,2": right after the embeddings and a third in (no
    prefix to pay for), the paper's (1, L//2), and what lies between.
    """
    return {
        "select.penalty": FloatDistribution(0.3, 8.0, log=True),
        "select.points": CategoricalDistribution(point_choices(num_layers)),
        "select.free": FloatDistribution(0.0, 0.2),
        "select.learning_rate": FloatDistribution(5e-4, 8e-3, log=True),
        "joint.learning_rate": FloatDistribution(3e-5, 3e-4, log=True),
    }


def point_choices(num_layers: int) -> list[str]:
    """Returns the candidates for the reduction points.

    Example:
        >>> point_choices(6)
        ['0,2', '1,3', '0,1', '0,3']
    """
    third, half = max(1, num_layers // 3), max(1, num_layers // 2)
    pairs = [(0, third), (1, max(2, half)), (0, 1), (0, half)]
    valid = [pair for pair in pairs if pair[1] < num_layers] or [(0, num_layers - 1)] if num_layers > 1 else [(0,)]
    return list(dict.fromkeys(",".join(map(str, pair)) for pair in valid))


def first_guesses(num_layers: int) -> list[dict[str, Any]]:
    """Returns configurations that are known to do well, tried before the sampler's own: cheap, balanced, careful."""
    choices = point_choices(num_layers)
    early, paper = choices[0], choices[min(1, len(choices) - 1)]
    common = {"select.free": 0.0, "select.learning_rate": 4e-3, "joint.learning_rate": 1e-4}
    return [
        {"select.penalty": 2.0, "select.points": early, **common},
        {"select.penalty": 0.8, "select.points": early, **common},
        {"select.penalty": 1.5, "select.points": paper, **common},
        {"select.penalty": 5.0, "select.points": early, **common},
    ]


def to_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a sampled configuration as setting overrides: points decoded, one free ratio for every point.

    Example:
        >>> to_settings({"select.points": "0,2", "select.free": 0.1})
        {'select.points': (0, 2), 'select.keep_ratios': (0.1, 0.1)}
    """
    changes = dict(config)
    points = tuple(int(point) for point in str(changes.pop("select.points")).split(","))
    free = changes.pop("select.free", None)
    changes["select.points"] = points
    if free is not None:
        changes["select.keep_ratios"] = (float(free),) * len(points)
    return changes
