"""benchmarks/quality.py on the tiny encoder and rows: what its units train, measure and leave behind."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import quality

from tune.learning.prepare import prepare

pytestmark = pytest.mark.slow
OTHERS = ["early exit seed 0", "layers 2x seed 0", "layers 3x seed 0", "truncate 2x seed 0"]
UNITS = sorted(["gumbel seed 0", "policy seed 0", "policy seed 1", "teacher", *OTHERS])


@pytest.fixture(scope="module")
def asked(tiny_model):
    """One small data set, and the least training that reaches its speed-ups."""
    return quality.DataSet(
        folder="rows.csv",
        settings={
            "model": str(tiny_model),
            "data.validation_rows": 80,
            "data.test_rows": 80,
            "data.max_length": 20,
            "teacher.learning_rate": 3e-3,
        },
        recipe={
            "select.documents": 320,
            "select.learning_rate": 5e-3,
            "joint.documents": 64,
            "compute.dtype": "float32",
        },
        targets=(2.0, 3.0),
        must=((2.0, 5.0),),
        aim=((3.0, 5.0),),
        seeds=2,
        units=("policy", "gumbel", *quality.OTHERS),
    )


@pytest.fixture(scope="module")
def prepared_with():
    """The settings that something was prepared with."""
    return []


@pytest.fixture(scope="module")
def command(asked, prepared_with, tiny_data, tmp_path_factory):
    """A function: arguments -> the folder that the command wrote into, this set beside the real ones."""
    out = tmp_path_factory.mktemp("quality")

    def noted(settings, *arguments):
        prepared_with.append(settings)
        return prepare(settings, *arguments)

    def call(*arguments, known=asked):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(quality.SETS, "tiny", known)
            patch.setattr(quality, "TO_SPARE", 0.1)  # a token more or less is much of so few rows
            patch.setattr(quality, "prepare", noted)
            patch.setattr("sys.argv", ["quality.py", "--data", str(tiny_data.parent), "--out", str(out), *arguments])
            quality.main()
        return out

    return call


@pytest.fixture(scope="module")
def found(command):
    """What the units left, by name."""
    files = command("--only", "tiny/", "--threads", "1").glob("quality/tiny/*.json")
    units = [json.loads(path.read_text()) for path in files]
    return {unit["unit"].removeprefix("tiny/"): unit for unit in units}


def bits(point, count):
    return np.unpackbits(np.frombuffer(bytes.fromhex(point["correct"]), dtype=np.uint8))[:count]


def test_each_unit_leaves_one_file(found):
    assert sorted(found) == UNITS


@pytest.mark.parametrize("name", [name for name in UNITS if name != "teacher"])
def test_a_point_is_as_fast_as_asked_and_tells_which_documents_it_got_right(name, found):
    count = found["teacher"]["documents"]["test"]
    assert found[name]["points"]
    for point in found[name]["points"]:
        # Dials are chosen on validation, few rows here; test differs from it a little.
        assert point["target"] * 0.9 <= point["speed_up"] <= point["target"] * 1.5
        assert bits(point, count).mean() == pytest.approx(point["quality"])


@pytest.mark.parametrize("name", ["policy seed 0", "gumbel seed 0"])
def test_with_all_tokens_kept_a_model_costs_its_policy_more_and_knows_what_its_teacher_knew(name, found):
    unit = found[name]
    assert 0.7 < unit["keep_all"]["speed_up"] < 1
    assert unit["keep_all"]["kept"] == [1.0, 1.0]
    assert unit["keep_all"]["quality"] > 0.9
    assert unit["teacher"] == found["teacher"]["points"][0]["quality"] > 0.9


def test_seeds_share_a_teacher_and_differ_in_all_that_they_draw(found, prepared_with):
    assert [settings.seed for settings in prepared_with] == [0]
    first, second = found["policy seed 0"], found["policy seed 1"]
    assert first["teacher"] == second["teacher"]
    assert first["default"]["kept"] != second["default"]["kept"]


def test_a_truncated_teacher_reads_as_many_documents_as_teacher_and_joint_stage(found):
    unit, teacher = found["truncate 2x seed 0"], found["teacher"]
    settings = unit["settings"]
    assert unit["epochs"] == settings["teacher"]["epochs"] + 64 / teacher["documents"]["train"]
    assert 3 <= unit["points"][0]["tokens"] < 20


def test_what_is_done_is_not_run_again(found, command, capsys, monkeypatch):
    monkeypatch.setattr(quality, "run", lambda name, *_: pytest.fail(f"{name} was run again"))
    command("--only", "tiny/", "--threads", "1")
    command("--only", "tiny/", "--threads", "2")  # the machine's settings do not count
    command("--list")
    listed = [line for line in capsys.readouterr().out.splitlines() if "tiny/" in line]
    assert sorted(listed) == sorted(f"done  tiny/{name}" for name in UNITS)


def test_what_ran_with_other_settings_is_to_be_run_again(found, command, asked, capsys):
    command("--list", known=replace(asked, recipe={**asked.recipe, "joint.batch_size": 8}))
    listed = dict(line.split("tiny/")[::-1] for line in capsys.readouterr().out.splitlines() if "tiny/" in line)
    assert {name for name, state in listed.items() if "done" not in state} == {n for n in UNITS if " seed " in n} - {
        "truncate 2x seed 0"
    }


def test_the_report_sets_the_policy_beside_its_rivals(found, command):
    text = (command("--report") / "quality.md").read_text()
    assert "| tiny | must: ≤ 5 | 2x |" in text
    assert "* gumbel: " in text
    assert "* truncate (retrained): 2x " in text
