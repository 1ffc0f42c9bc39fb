"""The check of a run: every part that is damaged is named, with what is lost."""

import json
import os

import pytest

from trbert.disk.checksums import SUMS, write_checksums
from tune.pareto import main
from tune.results.standing_file import write_standing


@pytest.fixture
def whole(run, standing):
    """A run whose files are all as a search writes them."""
    write_standing(run / "baselines.json", standing())
    (run / "settings.json").write_text(json.dumps({"settings": {}, "search": {}, "versions": {}}))
    for folder in (run / "models").iterdir():
        write_checksums(folder)
    return run


@pytest.fixture
def checked(whole, capsys):
    """A function: checks the run -> the exit code, the lines, and what stands on stderr."""

    def check():
        code = main([str(whole), "--check"])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return check


PARTS = ["front.csv", "settings.json", "baselines.json", "models/1", "models/2", "models/teacher"]


def test_a_run_that_is_whole_is_said_to_be_in_a_line_for_each_part(checked):
    assert checked() == (0, [f"whole    {name}" for name in PARTS], "")


def test_a_damaged_model_is_named_with_its_file_and_the_others_are_whole(whole, checked):
    (whole / "models" / "2" / "model.safetensors").write_bytes(b"weights of 3")
    code, lines, said = checked()
    assert code == 2
    assert [line.split()[0] for line in lines] == ["whole"] * 4 + ["damaged", "whole"]
    assert lines[4] == (
        f"damaged  models/2: the files of {whole}/models/2 must be those that SHA256SUMS lists, and some are not "
        "(changed: 'model.safetensors'): copy the model again, or save it again"
    )
    assert said == (
        f"error: {whole} must be as the search wrote it, and 1 of 6 of its parts are not (models/2): the models that "
        "are damaged must not be used, and the others can; copy what is damaged back, or search again\n"
    )


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("front.csv", "without front.csv there is no table and no pick, and the models can still be loaded;"),
        ("settings.json", "without settings.json the search cannot be resumed;"),
        ("baselines.json", "without baselines.json, once it is removed, the table has no baselines;"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b"null", b"[1]"])
def test_a_file_that_holds_something_else_is_named_with_what_is_lost(whole, checked, name, lost, content):
    (whole / name).write_bytes(content)
    code, lines, said = checked()
    assert code == 2
    assert [line for line in lines if line.startswith("damaged")] == [lines[PARTS.index(name)]]
    assert lines[PARTS.index(name)].startswith(f"damaged  {name}: {whole}/{name} must ")
    assert f"({name}): {lost} copy what is damaged back" in said


def test_what_is_missing_is_damaged_and_baselines_are_not_needed(whole, checked):
    for name in ("settings.json", "baselines.json"):
        (whole / name).unlink()
    (whole / "models" / "1" / SUMS).unlink()
    code, lines, said = checked()
    assert code == 2
    assert "(settings.json, models/1)" in said
    assert len(lines) == 5
    assert "models/1 must hold SHA256SUMS to be verified, and does not" in lines[2]


def test_without_models_each_one_of_the_table_is_lost(whole, checked):
    (whole / "models").rename(whole / "elsewhere")
    code, _, said = checked()
    assert code == 2
    assert "(models/1, models/2, models/teacher)" in said
    (whole / "models").symlink_to(whole / "elsewhere")
    code, lines, _ = checked()
    assert code == 2
    assert [f"and {whole}/models is a symbolic link" in line for line in lines] == [False] * 3 + [True] * 3


def test_a_model_that_no_row_names_is_checked_too_and_shown_escaped(whole, checked):
    (whole / "models" / "\x1b[2J").mkdir()
    os.mkfifo(whole / "models" / "pipe")
    (whole / "models" / ".4.left").mkdir()  # a copy that was broken off
    code, lines, said = checked()
    assert code == 2
    assert all(line.isprintable() for line in [*lines, said[:-1]])
    assert lines[3].startswith("damaged  models/\\x1b[2J: ")
    assert "models/pipe is a pipe" in lines[-2]
    assert len(lines) == 8


def test_a_check_goes_with_no_pick(whole, capsys):
    assert main([str(whole), "--check", "--max-drop", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: --check verifies the whole run, and goes with no other option")
    assert main([str(whole / "gone"), "--check"]) == 2
    assert "gone does not exist: pass one that tune/search.py wrote" in capsys.readouterr().err
