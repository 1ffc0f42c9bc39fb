"""Settings: checked when made, changed by name, stored as JSON, and light to import."""

import dataclasses
import doctest
import json
import math
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from trbert.errors import InputError
from tune import settings as settings_module
from tune.settings import (
    PRESETS,
    Search,
    Settings,
    from_json,
    override,
    parse_duration,
    setting_names,
    to_json,
)

ROOT = Path(__file__).resolve().parents[2]

RULES = [
    (
        "select.latency_table",
        "latency.json",
        "select.latency_table must be unset unless select.price is 'latency', and is 'latency.json'",
    ),
    (
        "family",
        "FAMILY",
        "--family must be a module and a name in it, such as my_package.families:FAMILY or my_family.py:FAMILY, and is "
        "'FAMILY'",
    ),
    ("data.max_length", 2, "data.max_length must be more than 2 tokens, and is 2"),
    ("data.train_rows", 0, "data.train_rows must be a positive number or unset, and is 0"),
    ("data.validation_rows", 0, "data.validation_rows must be positive, and is 0"),
    ("data.test_rows", -1, "data.test_rows must be a positive number or unset, and is -1"),
    ("teacher.epochs", 0, "teacher.epochs must be positive, and is 0.0"),
    ("teacher.batch_size", 0, "teacher.batch_size must be positive, and is 0"),
    ("teacher.learning_rate", -1e-3, "teacher.learning_rate must be positive, and is -0.001"),
    ("teacher.max_length", 2, "teacher.max_length must be more than 2 tokens or unset, and is 2"),
    ("teacher.probe_documents", -1, "teacher.probe_documents must be 0 or more, and is -1"),
    ("select.penalty", -0.5, "select.penalty must be 0 or more, and is -0.5"),
    ("select.penalty", float("nan"), "select.penalty must be a finite number, and is nan"),
    ("select.points", (2, 0), "select.points must be rising layer indices from 0 (such as 0,2), and is (2, 0)"),
    ("select.points", (1, 1), "select.points must be rising layer indices from 0 (such as 0,2), and is (1, 1)"),
    ("select.points", (-1, 2), "select.points must be rising layer indices from 0 (such as 0,2), and is (-1, 2)"),
    ("select.points", -1, "select.points must be rising layer indices from 0 (such as 0,2), and is (-1,)"),
    ("select.keep_ratios", (0.5, 1.5), "select.keep_ratios must be fractions from 0 to 1, and is (0.5, 1.5)"),
    ("select.documents", 0, "select.documents must be positive, and is 0"),
    ("select.samples", 1, "select.samples must be at least 2, and is 1"),
    ("select.step_documents", 0, "select.step_documents must be positive, and is 0"),
    ("select.item_documents", -3, "select.item_documents must be positive or unset, and is -3"),
    ("select.learning_rate", 0, "select.learning_rate must be positive, and is 0.0"),
    ("select.tokens_per_decision", 0, "select.tokens_per_decision must be at least 1 or unset, and is 0"),
    ("select.temperature", 0, "select.temperature must be positive, and is 0.0"),
    ("select.guided_share", 1.1, "select.guided_share must be a fraction from 0 to 1, and is 1.1"),
    ("select.warm_start_documents", -1, "select.warm_start_documents must be 0 or more, and is -1"),
    ("joint.documents", -1, "joint.documents must be 0 or more, and is -1"),
    ("joint.samples", 1, "joint.samples must be at least 2, and is 1"),
    ("joint.batch_size", 0, "joint.batch_size must be positive, and is 0"),
    ("joint.learning_rate", 0, "joint.learning_rate must be positive, and is 0.0"),
    ("joint.policy_learning_rate", 0, "joint.policy_learning_rate must be positive, and is 0.0"),
    ("joint.temperature", 0, "joint.temperature must be positive, and is 0.0"),
    ("joint.distillation", 1.5, "joint.distillation must be a fraction from 0 to 1, and is 1.5"),
    ("joint.keep_all", -0.1, "joint.keep_all must be a fraction from 0 to 1, and is -0.1"),
    ("joint.fastest", 0.5, "joint.fastest must be more than 1, or 0, and is 0.5"),
    ("joint.fastest", 1, "joint.fastest must be more than 1, or 0, and is 1.0"),
    ("compute.threads", 0, "compute.threads must be positive or unset, and is 0"),
    (
        "compute.deterministic",
        True,
        "compute.dtype must be float32 or bfloat16 with --deterministic, and is 'auto'",
    ),
    ("compute.tokens_per_batch", 0, "compute.tokens_per_batch must be positive or unset, and is 0"),
    ("policy_width", 0, "policy_width must be positive, and is 0"),
    (
        "policy_features",
        ("document", "dial"),
        "policy_features must be names from 'document', 'neighbours' and 'question', and is ('document', 'dial')",
    ),
    ("positions", 0, "positions must be positive or unset, and is 0"),
]


@pytest.mark.parametrize(("name", "value", "told"), RULES, ids=[f"{name}={value}" for name, value, _ in RULES])
def test_a_value_that_breaks_its_rule_is_refused_in_these_words(name, value, told):
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        override(Settings(), {name: value})


JUST_ALLOWED = [
    ("data.max_length", 3),
    ("data.train_rows", 1),
    ("data.validation_rows", 1),
    ("data.test_rows", 1),
    ("teacher.epochs", 0.01),
    ("teacher.batch_size", 1),
    ("teacher.max_length", 3),
    ("teacher.probe_documents", 0),
    ("select.points", (0,)),
    ("select.penalty", 0.0),
    ("select.keep_ratios", (0.0, 1.0)),
    ("select.samples", 2),
    ("select.documents", 1),
    ("select.step_documents", 1),
    ("select.item_documents", 1),
    ("select.guided_share", 0.0),
    ("select.guided_share", 1.0),
    ("select.warm_start_documents", 0),
    ("joint.documents", 0),
    ("joint.samples", 2),
    ("joint.batch_size", 1),
    ("joint.distillation", 0.0),
    ("joint.distillation", 1.0),
    ("joint.keep_all", 0.0),
    ("joint.keep_all", 1.0),
    ("joint.fastest", 0.0),
    ("joint.fastest", 1.01),
    ("compute.threads", 1),
    ("compute.tokens_per_batch", 1),
    ("policy_width", 1),
    ("policy_features", ()),
    ("positions", 1),
]


@pytest.mark.parametrize(("name", "value"), JUST_ALLOWED, ids=[f"{name}={value}" for name, value in JUST_ALLOWED])
def test_a_value_at_the_edge_of_its_rule_is_taken(name, value):
    assert _value(override(Settings(), {name: value}), name) == value


@pytest.mark.parametrize("selector", ["first", "random", "attention", "saliency"])
def test_a_rule_must_have_thresholded_trajectories(selector):
    told = "joint.fastest must be more than 1 for a selector that draws no masks, and is 0.0"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        override(Settings(), {"selector": selector, "joint.fastest": 0.0})


@pytest.mark.parametrize("selector", ["policy", "gumbel"])
def test_a_selector_that_draws_needs_no_thresholded_trajectories(selector):
    assert override(Settings(), {"selector": selector, "joint.fastest": 0.0}).selector == selector


def test_an_item_has_more_documents_on_a_gpu_unless_it_is_set():
    assert [Settings().select.documents_of_item(device) for device in ("cpu", "cuda")] == [8, 64]
    select = override(Settings(), {"select.item_documents": 5}).select
    assert [select.documents_of_item(device) for device in ("cpu", "cuda")] == [5, 5]


def test_every_number_has_a_rule():
    # `seed` may be any; the data refuses a negative one. The others are texts, which the readers check.
    ruled = {name for name, _, _ in RULES}
    free = {"seed", "task", "data.label_map", "data.encoding", "data.separator"}
    free |= {"data.text_column", "data.label_column"}
    for name, field in setting_names().items():
        number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
        if number or (field.default is None and name not in free):
            assert name in ruled | free, f"{name} takes any value"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("seed", "abc", "a whole number"),
        ("seed", 1.5, "a whole number"),
        ("seed", True, "a whole number"),
        ("model", 3, "text"),
        ("select.penalty", "high", "a number or none"),
        ("select.penalty", True, "a number or none"),
        ("select.points", "2", "a whole number for each point (such as 0,2) or none"),
        ("select.points", True, "a whole number for each point (such as 0,2) or none"),
        ("select.keep_ratios", False, "a number for each point (such as 0,2) or none"),
        ("select.price", "euros", "'flops' or 'latency' or 'tokens'"),
        ("select.baseline", "median", "'leave-one-out' or 'mean'"),
        ("select.token_average", 1, "true or false"),
        ("select.reward_to_go", "yes", "true or false"),
        ("compute.dtype", "float16", "'auto' or 'float32' or 'bfloat16'"),
        ("joint.documents", None, "a whole number"),
        ("data.train_rows", "many", "a whole number or none"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_settings_whole_name(name, value, rule):
    with pytest.raises(InputError, match=f"^{re.escape(f'{name} must be {rule}, and is {value!r}')}$"):
        override(Settings(), {name: value})


@pytest.mark.parametrize("points", [(0, 1.5), 1.5])
def test_a_part_of_a_list_is_checked_too(points):
    with pytest.raises(InputError, match=r"^select.points must be a whole number, and is 1.5$"):
        override(Settings(), {"select.points": points})


FLOATS = [
    name for name, field in setting_names().items() if float in typing.get_args(field.type) or field.type is float
]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan], ids=str)
@pytest.mark.parametrize("name", [*FLOATS, "select.keep_ratios"])
def test_a_number_that_is_not_finite_is_refused(name, number):
    value = (0.1, number) if name == "select.keep_ratios" else number
    with pytest.raises(InputError, match=f"^{re.escape(f'{name} must be a finite number, and is {number!r}')}$"):
        override(Settings(), {name: value})
    with pytest.raises(InputError, match="must be a finite number"):
        from_json({name: value})


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(InputError, match=r"^there is no setting 'select.penlty': did you mean 'select.penalty'\?$"):
        override(Settings(), {"select.penlty": 1.0})


def test_a_name_that_resembles_none_is_answered_with_all():
    with pytest.raises(InputError, match=r"^there is no setting 'qqq': the settings are model, .*joint.keep_all"):
        override(Settings(), {"qqq": 1.0})


def test_a_group_of_settings_is_no_setting():
    with pytest.raises(InputError, match="there is no setting 'select'"):
        override(Settings(), {"select": {}})


def test_an_override_changes_what_it_names_and_nothing_else():
    before = Settings()
    after = override(before, {"select.penalty": 3, "select.points": [0, 2], "seed": 7, "data.train_rows": None})
    assert after.select.penalty == 3.0
    assert isinstance(after.select.penalty, float)
    assert after.select.points == (0, 2)
    assert before == Settings()
    changed = {name for name in setting_names() if _value(after, name) != _value(before, name)}
    assert changed == {"select.penalty", "select.points", "seed"}


def _value(settings, name):
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def test_settings_survive_json():
    settings = override(
        Settings(),
        {"select.points": (0, 3), "select.keep_ratios": (0.1, 0.0), "data.train_rows": 5, "joint.distillation": 1}
        | {"compute.dtype": "bfloat16", "select.token_average": True, "model": "ünï"},
    )
    assert from_json(json.loads(json.dumps(to_json(settings)))) == settings
    assert from_json(json.loads(json.dumps(to_json(Settings())))) == Settings()


def test_settings_that_hang_together_may_change_in_any_order():
    changes = {"select.latency_table": "latency.json", "select.price": "latency"}
    expected = override(Settings(), changes).select
    assert override(Settings(), dict(reversed(changes.items()))).select == expected
    assert (expected.latency_table, expected.price) == ("latency.json", "latency")


def test_the_selectors_are_those_that_the_model_knows():
    from trbert.selection.selectors import SELECTORS

    assert set(SELECTORS) >= {"policy", "gumbel", "first", "random", "attention", "saliency"}
    for name in SELECTORS:
        assert override(Settings(), {"selector": name}).selector == name


def test_a_selector_of_ones_own_is_taken_and_held_to_the_rules_of_its_kind(monkeypatch):
    from trbert.selection.selectors import SELECTORS, FirstSelector

    monkeypatch.setattr("trbert.selection.selectors.SELECTORS", known := dict(SELECTORS))

    class Last(FirstSelector):
        name = "last"

    assert known["last"] is Last
    assert override(Settings(), {"selector": "last"}).selector == "last"
    # It is a rule, which draws nothing.
    with pytest.raises(InputError, match=r"^joint\.fastest must be more than 1 for a selector that draws no masks"):
        override(Settings(), {"selector": "last", "joint.fastest": 0.0})


def test_an_unknown_selector_is_refused_with_those_there_are():
    from trbert.selection.selectors import SELECTORS

    told = f"selector must be one of {', '.join(SELECTORS)}, and is 'entropy': 'policy' is the default"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        override(Settings(), {"selector": "entropy"})


def test_a_task_of_ones_own_is_taken_and_an_unknown_one_is_refused_with_those_there_are(monkeypatch):
    from trbert.tasks import TASKS

    told = f"task must be one of {', '.join(TASKS)}, and is 'ranking': leave it out, and it is found"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        override(Settings(), {"task": "ranking"})
    monkeypatch.setitem(TASKS, "ranking", TASKS["classification"])
    assert override(Settings(), {"task": "ranking"}).task == "ranking"


def test_the_default_selector_is_known():
    # It is taken unasked, so that a plan needs no torch.
    from trbert.selection.selectors import selector_class

    assert selector_class(Settings().selector).name == Settings().selector


def test_json_with_a_name_of_another_version_is_refused():
    values = to_json(Settings())
    values["joint"]["temperatures"] = 1.0
    with pytest.raises(
        InputError, match=r"there is no setting 'joint\.temperatures': did you mean 'joint\.temperature'"
    ):
        from_json(values)


def test_settings_cannot_be_changed_in_place():
    settings = Settings()
    for part in (settings, settings.data, settings.teacher, settings.select, settings.joint, settings.compute):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, getattr(part, name))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_says_something(name):
    assert override(Settings(), PRESETS[name]) != Settings()
    assert from_json(to_json(override(Settings(), PRESETS[name]))) == override(Settings(), PRESETS[name])


def test_the_papers_preset_is_the_papers_recipe():
    settings = override(Settings(), PRESETS["tr-bert"])
    assert (settings.select.baseline, settings.select.price) == ("mean", "tokens")
    assert settings.select.token_average
    assert settings.select.guided_share == 0.5
    assert settings.joint.distillation == 1.0  # soft labels only
    assert settings.joint.fastest == 0.0  # no thresholded trajectory
    assert settings.policy_features == ()  # a head sees its token alone
    assert not settings.select.reward_to_go
    assert settings.selector == "policy"


def test_the_papers_preset_has_the_papers_numbers_whatever_was_set_before():
    other = override(Settings(), {"select.points": (0, 2), "select.keep_ratios": (0.1, 0.1), "select.samples": 3})
    settings = override(other, PRESETS["tr-bert"])
    select, joint = settings.select, settings.joint
    assert (select.points, select.keep_ratios) == (None, None)
    assert (select.samples, joint.samples) == (8, 8)
    assert (select.step_documents, joint.batch_size) == (32, 32)
    assert (select.learning_rate, joint.learning_rate, joint.policy_learning_rate) == (3e-5, 3e-5, 3e-5)
    assert select.warm_start_documents == 0
    assert not settings.fusion


def test_every_setting_has_a_help_text_of_its_own():
    texts = {name: field.metadata.get("help", "") for name, field in setting_names().items()}
    assert [name for name, text in texts.items() if len(text) < 5] == []
    assert all(text == text.strip() and not text.endswith(".") for text in texts.values())


def test_settings_load_neither_torch_nor_ray():
    script = (
        "import sys, tune.settings, tune.budget, tune.runs; tune.settings.Settings(); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint({"torch", "ray", "transformers", "numpy", "optuna"})


def test_a_list_of_numbers_may_be_a_single_one():
    settings = override(Settings(), {"select.points": 0, "select.keep_ratios": 1})
    assert (settings.select.points, settings.select.keep_ratios) == ((0,), (1.0,))
    assert isinstance(settings.select.keep_ratios[0], float)


def test_a_list_of_names_may_be_a_single_one():
    assert override(Settings(), {"policy_features": "document"}).policy_features == ("document",)
    with pytest.raises(InputError, match=re.escape("policy_features must be names (such as a,b), and is 3")):
        override(Settings(), {"policy_features": 3})


@pytest.mark.parametrize("ratios", [(0.1,), (0.1, 0.1, 0.1)])
def test_ratios_are_one_for_each_point_where_both_are_set(ratios):
    told = f"select.keep_ratios must be one for each of the select.points (0, 2), and is {ratios}"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        override(Settings(), {"select.points": (0, 2), "select.keep_ratios": ratios})
    assert override(Settings(), {"select.keep_ratios": ratios}).select.points is None


def test_relaxed_decisions_are_not_guided():
    with pytest.raises(InputError, match=re.escape("select.guided_share must be 0 with selector 'gumbel', and is 0.5")):
        override(Settings(), {"selector": "gumbel", "select.guided_share": 0.5})


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(settings_module)
    assert results.attempted >= 2
    assert results.failed == 0


# What is asked for beside the settings.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1h2m3s", 3723), ("0.5h", 1800), (" 5m ", 300)],
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "ten minutes", "10 m", "5m1h", "-5m", "1e3s", "inf", "h"])
def test_what_is_no_duration_is_refused(text):
    told = f"a budget must be a duration such as 90s, 10m or 1h30m, and is {text!r}"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "0h0m", "0.0m"])
def test_a_budget_of_nothing_is_refused(text):
    with pytest.raises(InputError, match=f"^a budget must be more than 0 seconds, and is {text!r}$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num_trials", 0, "--num-trials must be 1 or more, and is 0"),
        ("num_learners", 0, "--num-learners must be 1 or more, and is 0"),
        ("num_rollout_workers", -1, "--num-rollout-workers must be 0 or more, and is -1"),
        ("gpus_per_worker", -0.25, "--gpus-per-worker must be 0 or more, and is -0.25"),
        ("budget", "soon", "a budget must be a duration such as 90s, 10m or 1h30m, and is 'soon'"),
        ("budget", "0m", "a budget must be more than 0 seconds, and is '0m'"),
    ],
)
def test_a_search_that_cannot_be_is_refused_where_it_is_defined(name, value, told):
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        Search(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_trials", 1),
        ("num_trials", None),
        ("num_learners", 1),
        ("num_rollout_workers", 0),
        ("gpus_per_worker", 0.0),
        ("gpus_per_worker", None),
        ("budget", "1s"),
    ],
)
def test_a_search_at_the_edge_of_its_rules_is_taken(name, value):
    assert getattr(Search(**{name: value}), name) == value


def test_a_search_knows_its_seconds_and_the_processes_of_a_trial():
    search = Search(budget="1h30m", num_rollout_workers=3)
    assert search.seconds == 5400.0
    assert search.processes == 4  # its own, and three that sample
    assert (Search().seconds, Search().processes) == (600.0, 1)


def test_a_size_of_data_is_a_size():
    assert override(Settings(), {"data.max_size": "500MB"}).data.max_size == "500MB"
    with pytest.raises(InputError, match="--max-data-size must be a size above 0, and is 'lots'"):
        override(Settings(), {"data.max_size": "lots"})
