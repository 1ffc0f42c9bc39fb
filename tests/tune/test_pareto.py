"""The script: it shows a run's table, picks a model, copies it out."""

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trbert.errors import DamagedCheckpoint, InputError, RunFolderError
from tune import pareto
from tune.learning.standing import remarks
from tune.pareto import describe, export, main
from tune.results.front import mark_front, pick
from tune.results.measures import Measures, read_measures, write_measures
from tune.results.standing_file import write_standing
from tune.results.table import table, write_front

ROOT = Path(__file__).resolve().parents[2]


def test_an_exported_model_carries_its_dial_and_the_run_stays_as_it_was(run, tmp_path, small_front):
    point = pick(small_front(), max_drop=1.0)
    out = tmp_path / "new" / "picked"
    export(run, point, out)
    assert json.loads((out / "config.json").read_text()) == {"model_type": "trbert", "dial": -1.5}
    assert (out / "model.safetensors").read_bytes() == b"weights of 2"
    assert json.loads((run / "models" / "2" / "config.json").read_text())["dial"] == 0.0
    assert os.listdir(out.parent) == ["picked"]


def test_a_teacher_is_not_exported(run, tmp_path, small_front):
    with pytest.raises(InputError, match="a point must be a trained model to be exported, and is 'none' of 'teacher'"):
        export(run, small_front()[0], tmp_path / "out")


def test_an_export_takes_an_empty_folder_and_refuses_a_full_one(run, tmp_path, small_front):
    point = pick(small_front(), max_drop=1.0)
    out = tmp_path / "out"
    out.mkdir()
    export(run, point, out)
    for taken in (out, run / "front.csv"):
        with pytest.raises(RunFolderError, match="exists already: pass --out with a new or empty folder"):
            export(run, point, taken)
    with pytest.raises(RunFolderError, match="lies inside the model's own folder"):
        export(run, point, run / "models" / "2" / "sub" / "out")


@pytest.mark.parametrize("name", ["x" * 300, "new/" + "x" * 300])
def test_an_export_to_a_name_that_is_too_long_says_so_and_leaves_nothing(run, small_front, tmp_path, name):
    before = sorted(path.name for path in tmp_path.iterdir())
    told = r"cannot be written \(File name too long\): pass --out with a folder that you may write to"
    with pytest.raises(RunFolderError, match=told):
        export(run, pick(small_front(), max_drop=1.0), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_export_below_a_file_says_so(run, small_front):
    with pytest.raises(
        RunFolderError, match=r"cannot be written \(.*\): pass --out with a folder that you may write to"
    ):
        export(run, pick(small_front(), max_drop=1.0), run / "front.csv" / "out")


def test_an_export_that_breaks_off_leaves_nothing(run, tmp_path, monkeypatch, small_front):
    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(pareto.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(run, pick(small_front(), max_drop=1.0), tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("config", [None, "{", "[]"])
def test_a_damaged_model_is_not_exported(run, tmp_path, config, small_front):
    path = run / "models" / "2" / "config.json"
    path.unlink() if config is None else path.write_text(config)
    with pytest.raises(DamagedCheckpoint, match=r"config\.json"):
        export(run, pick(small_front(), max_drop=1.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_trained_point_without_a_model_is_no_model_to_export(run, tmp_path, at):
    with pytest.raises(InputError, match="must be a trained model to be exported, and is 'policy' of '1'"):
        export(run, at(0.5, 2.0, model=""), tmp_path / "out")


def test_a_point_without_a_dial_leaves_the_models_own(run, tmp_path, at):
    export(run, at(0.5, 2.0, dial=None), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dial"] == 0.0


def test_a_free_rule_is_no_model_to_export(run, tmp_path, rule):
    with pytest.raises(InputError, match="must be a trained model to be exported, and is 'first' of 'free'"):
        export(run, rule("first", 0.5, 2.0), tmp_path / "out")


def test_the_command_shows_the_table(run, capsys, small_front):
    assert main([str(run)]) == 0
    assert capsys.readouterr() == (table(small_front()) + "\n", "")
    assert main([str(run), "--all"]) == 0
    assert capsys.readouterr().out == table(small_front(), every=True) + "\n"


def test_the_command_picks_and_says_how_to_load(run, capsys):
    assert main([str(run), "--max-drop", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"picked  {run}/models/2 at dial -1.5: 88.0% (drop 1.0 points) and 5.00x in FLOPs on test, "
        "89.0% and 5.00x in FLOPs on validation",
        f'load    trbert.load("{run}/models/2", dial=-1.5)',
    ]
    assert main([str(run), "--min-speedup", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f'load    trbert.load("{run}/models/1", dial=-0.5)'


def test_both_bounds_hold_at_once(run, capsys):
    # At most 1 point lost: 3x (drop .4) and 5x (drop 1) are left. Of those at least 2x faster the better is picked.
    assert main([str(run), "--max-drop", "1", "--min-speedup", "2"]) == 0
    assert f"picked  {run}/models/1 at dial -0.5: " in capsys.readouterr().out
    assert main([str(run), "--max-drop", "1", "--min-speedup", "4"]) == 0
    assert f"picked  {run}/models/2 at dial -1.5: " in capsys.readouterr().out
    assert main([str(run), "--max-drop", "0.5", "--min-speedup", "4"]) == 2
    told = capsys.readouterr().err
    assert (
        "drops at most 0.5 points and is at least 4x faster on validation; the nearest: models/1 at dial -0.5" in told
    )


def test_a_pick_tells_its_speed_where_it_was_measured_and_on_which_rows(at):
    point = at(0.9, 4.0, dial=-0.5, speed_up_test=3.5, drop=0.25, docs_per_second=321.4)
    assert describe(Path("run"), point).splitlines()[0] == (
        "picked  run/models/1 at dial -0.5: 89.0% (drop 0.2 points) and 3.50x in FLOPs on test, "
        "90.0% and 4.00x in FLOPs on validation, 321 docs/s"
    )
    without = at(0.9, 4.0, dial=-0.5, drop=None)
    assert describe(Path("run"), without).splitlines()[0] == (
        "picked  run/models/1 at dial -0.5: 89.0% and 4.00x in FLOPs on test, 90.0% and 4.00x in FLOPs on validation"
    )
    assert "(drop 0.0 points)" in describe(Path("run"), at(0.9, 4.0, drop=0.0))


def test_an_exported_dial_of_0_replaces_another_that_was_saved(run, tmp_path, at):
    (run / "models" / "1" / "config.json").write_text(json.dumps({"dial": -2.0}))
    export(run, at(0.9, 2.0, dial=0.0), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"dial": 0.0}


def test_out_without_a_pick_copies_and_shows_nothing(run, tmp_path, capsys):
    assert main([str(run), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out").exists()


def test_the_command_exports(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(run), "--max-drop", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [f"copied  to {out}", f'load    trbert.load("{out}")']
    assert json.loads((out / "config.json").read_text())["dial"] == -1.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "error: --out needs a pick: add --max-drop, --min-speedup, or both"),
        (["--max-drop", "few"], "error: argument --max-drop: invalid float value: 'few': see tune/pareto.py --help"),
        (["--max", "1"], "error: unrecognized arguments: --max 1: see tune/pareto.py --help"),
        (
            ["--min-speedup", "20"],
            "error: no trained model of the front is at least 20x faster on validation; the nearest",
        ),
    ],
)
def test_the_users_mistakes_are_one_line_and_exit_code_2(run, capsys, words, message):
    assert main([str(run), *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith(message)
    assert told.count("\n") == 1


def test_a_missing_run_is_one_line_and_exit_code_2_with_a_traceback_when_verbose(tmp_path, capsys):
    assert main([str(tmp_path / "gone")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: run folder ")
    assert told.count("\n") == 1
    assert main([str(tmp_path / "gone"), "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err


def script(*words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_the_script_runs_from_anywhere(run, tmp_path, small_front):
    done = script(str(ROOT / "tune" / "pareto.py"), str(run), "--max-drop", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(table(small_front()))
    missing = script(str(ROOT / "tune" / "pareto.py"), "gone", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.count("\n") == 1


def test_the_table_needs_neither_ray_nor_torch_nor_matplotlib(run, tmp_path):
    source = (
        "import sys; sys.modules.update(ray=None, torch=None, matplotlib=None, numpy=None); "
        f"from tune.pareto import main; sys.exit(main([{str(run)!r}]))"
    )
    done = script("-c", source, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_examples_run():
    failed, tried = doctest.testmod(pareto)
    assert failed == 0
    assert tried >= 8


def test_baselines_that_the_run_kept_are_shown(run, capsys, small_front, standing):
    write_standing(run / "baselines.json", standing())
    assert main([str(run), "--max-drop", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(table(small_front(), standing=standing()))
    assert "beware" not in shown


def test_a_pick_from_a_teacher_that_knows_nothing_is_allowed_and_said(run, capsys, standing):
    write_standing(run / "baselines.json", standing(ahead=0.0))
    assert main([str(run), "--max-drop", "1"]) == 0
    *_, load, beware = capsys.readouterr().out.splitlines()
    assert load.startswith("load    trbert.load(")
    assert beware == f"beware  {remarks(standing(ahead=0.0))[0]}"


def test_a_picks_intervals_and_further_measures_are_told_where_the_run_kept_them(run, capsys, tmp_path):
    kept = Measures(dial=-1.5, quality=(0.85, 0.9), drop=(-0.5, 2.5), figures={"macro F1": 0.875})
    write_measures(run / "models" / "2", [kept])
    assert main([str(run), "--max-drop", "1", "--out", str(tmp_path / "picked")]) == 0
    picked, test, copied, _ = capsys.readouterr().out.splitlines()[-4:]
    assert picked.startswith("picked ")
    assert test == "test    95 % interval 85.0 to 90.0 %, of the drop -0.5 to 2.5 points; macro F1 0.8750"
    assert copied.startswith("copied ")
    assert read_measures(tmp_path / "picked", -1.5) == kept


def test_baselines_that_are_none_are_one_line_and_exit_code_2(run, capsys):
    (run / "baselines.json").write_text("[]")
    assert main([str(run)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {run}/baselines.json must hold the figures of a teacher")
    assert told.count("\n") == 1


def test_a_pick_where_no_trained_model_is_left_is_one_line_and_exit_code_2(run, capsys, unreduced, rule, at):
    # The trained model is slower than a rule that is as good.
    write_front(run / "front.csv", mark_front([unreduced(0.9), rule("first", 0.8, 3.0), at(0.8, 2.0)]))
    assert main([str(run), "--max-drop", "0.5"]) == 2
    assert capsys.readouterr().err.startswith("error: no trained model of the front is faster than the unreduced one")


@pytest.mark.parametrize("name", ["it's", 'a "b"', "back\\slash", "ümlaut #1", "line\nbreak"])
@pytest.mark.parametrize("exported", [False, True])
def test_a_line_of_python_to_paste_holds_the_path_as_it_is(at, name, exported):
    run = Path("my runs") / name
    line = describe(run, at(0.9, 4.0, dial=-0.5), run if exported else None).rpartition("load    trbert.load")[2]
    found = eval(f"(lambda path, dial=None: path){line}")
    assert found == str(run if exported else run / "models/1")
