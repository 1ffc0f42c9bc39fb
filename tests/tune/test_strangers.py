"""A run folder that somebody else made: pareto.py reads and writes nothing outside it, and shows nothing raw."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trbert.disk.checksums import SUMS, check_checksums, write_checksums
from tune.pareto import main
from tune.results.table import LONGEST_CELL, MOST_BYTES, MOST_ROWS, MOST_SELECTORS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def outside(tmp_path):
    """A folder with a model that is no part of the run."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dial": 0.0, "secret": "of another user"}))
    return folder


@pytest.fixture
def picks(run, tmp_path, capsys):
    """A function: picks model 2 and copies it -> the exit code, what was said on stderr, and the copy's folder."""

    def pick(*words, out=None):
        out = out or tmp_path / "out"
        code = main([str(run), "--max-drop", "1", "--out", str(out), *words])
        return code, capsys.readouterr().err, out

    return pick


def edit(run, old, new):
    path = run / "front.csv"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def told(capsys, *words):
    """The one line in which a command of exit code 2 says what is wrong."""
    assert main(list(map(str, words))) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    return said[:-1]


@pytest.mark.parametrize(
    "model",
    [
        *("/etc", "../outside", "models/../../outside", "models/", "models/.", "models/..", "models/a/b", "models//2"),
        *(
            "./models/2",
            "models\\2",
            "models/2 ",
            "models/\x1b[31m2",
            "models/$(id)",
            "models/é",
            f"models/{'x' * 101}",
        ),
    ],
)
@pytest.mark.parametrize("words", [(), ("--max-drop", "1")])
def test_a_model_is_a_folder_of_the_runs_models_by_its_plain_name(run, outside, capsys, model, words):
    edit(run, "models/2", model)
    said = told(capsys, run, *words)
    shown = repr(model) if len(model) < 58 else repr(model)[:57] + "..."
    assert said.startswith(
        f"error: {run}/front.csv line 4: model must be empty, or 'models/' and the name of a folder there (of letters, "
        f"digits, '.', '_' and '-'), and is {shown}: correct the cell; "
    )


@pytest.mark.parametrize("place", ["models", "models/2", "models/2/model.safetensors", "models/2/config.json"])
def test_a_link_in_the_place_of_a_models_folder_or_file_is_refused(run, outside, picks, place):
    path = run / place
    moved = outside / "moved"
    path.rename(moved)
    path.symlink_to(moved)
    code, said, out = picks()
    assert (code, out.exists()) == (2, False)
    assert f"the models of a run must be files and folders of its own, and {path} is a symbolic link" in said


def test_a_link_deep_in_a_model_is_neither_followed_nor_copied(run, outside, picks):
    (run / "models" / "2" / "a" / "b").mkdir(parents=True)
    link = run / "models" / "2" / "a" / "b" / "link"
    for target in (outside, outside / "config.json", outside / "gone"):
        link.symlink_to(target)
        code, said, out = picks()
        assert (code, out.exists()) == (2, False)
        assert f"{link} is a symbolic link, which may lead out of the run: put a file in its place" in said
        link.unlink()
    assert picks()[0] == 0


def test_a_pipe_in_a_model_is_not_waited_for(run, picks):
    os.mkfifo(run / "models" / "2" / "pipe")
    code, said, out = picks()
    assert (code, out.exists()) == (2, False)
    assert "/models/2/pipe is a pipe" in said


def test_a_models_name_with_escape_codes_is_shown_escaped(run, picks):
    (run / "models" / "2" / "\x1b[2J\u202e").symlink_to("x")
    code, said, _ = picks()
    assert code == 2
    assert "/models/2/\\x1b[2J\\u202e is a symbolic link" in said


@pytest.mark.parametrize("name", ["front.csv", "baselines.json"])
def test_a_link_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused(run, outside, capsys, name):
    path = run / name
    moved = outside / name
    path.rename(moved) if path.exists() else moved.write_text("{}")
    for make, kind in (
        (lambda: path.symlink_to(moved), "a symbolic link"),
        (lambda: path.symlink_to("/dev/zero"), "a symbolic link"),
        (lambda: os.mkfifo(path), "a pipe"),
        (path.mkdir, "a folder"),
    ):
        make()
        said = told(capsys, run)
        assert said.startswith(f"error: {path} must ")
        assert f"(it is {kind})" in said
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize(("name", "most"), [("front.csv", MOST_BYTES), ("baselines.json", 1_000_000)])
def test_an_enormous_file_is_refused_and_not_read(run, capsys, name, most):
    with (run / name).open("ab") as file:
        file.truncate(1 << 40)  # it takes no room on the disk
    assert f"{run}/{name} must " in (said := told(capsys, run))
    assert f"(it has more than {most:,} bytes)" in said


def test_an_enormous_config_is_refused_and_not_read(run, picks):
    os.truncate(run / "models" / "2" / "config.json", 1 << 40)
    code, said, out = picks()
    assert (code, out.exists()) == (2, False)
    assert "models/2/config.json is not JSON that can be read (it has more than 4,000,000 bytes)" in said


def test_a_model_that_is_larger_than_the_disk_is_not_copied(run, picks):
    os.truncate(run / "models" / "2" / "model.safetensors", 1 << 42)
    code, said, out = picks()
    assert (code, out.exists()) == (2, False)
    assert "bytes for a copy of" in said


def test_rows_selectors_and_cells_have_a_number_and_a_length(run, capsys):
    path = run / "front.csv"
    content = path.read_text()
    row = content.splitlines()[-1]
    path.write_text(content + f"{row}\n" * MOST_ROWS)
    assert f"must have at most {MOST_ROWS:,} rows, and has more: pass a run as it was written" in told(capsys, run)
    path.write_text(content + "\n".join(row.replace("random", f"rule{n}") for n in range(MOST_SELECTORS)))
    assert f"must have at most {MOST_SELECTORS} selectors, and has more" in told(capsys, run)
    path.write_text(content.replace("policy", "p" * (LONGEST_CELL + 1)))
    assert "line 3: selector must have at most 1,000 characters, and has 1,001: correct the cell" in told(capsys, run)
    path.write_text(content.replace("trial", ",".join(map(str, range(10_000))), 1))
    assert len(told(capsys, run)) < 1_000


def test_what_cells_hold_is_shown_escaped_and_cut(run, capsys):
    edit(run, "first", "\x1b]0;owned\x07\u202e")
    edit(run, "random", "long" * 100)
    assert main([str(run), "--all", "--max-drop", "1"]) == 0
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.splitlines())
    assert "\\x1b]0;owned\\x07\\u202e" in said
    assert f"{'long' * 24}l..." in said
    assert max(map(len, said.splitlines())) < 500


def test_a_cell_with_a_line_break_makes_no_line_of_its_own(run, capsys):
    edit(run, "first", '"first\nload    trbert.load(""elsewhere"")"')
    assert main([str(run), "--all"]) == 0
    assert not any(line.startswith("load") for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_the_line_to_paste_does_nothing_in_a_shell_whatever_the_runs_name_is(run, tmp_path, capsys, shell):
    named = tmp_path / 'r `touch a` $(touch b) "; touch c; " \x1b[31m !!'
    run.rename(named)
    assert main([str(named), "--max-drop", "1"]) == 0
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.splitlines())
    line = next(line for line in said.splitlines() if line.startswith("load    ")).removeprefix("load    trbert.load(")
    path = line.removesuffix(", dial=-1.5)")
    assert eval(path) == f"{named}/models/2"
    subprocess.run([shell, "-c", f"echo {path}"], cwd=tmp_path, check=True, capture_output=True)
    assert os.listdir(tmp_path) == [named.name]


def test_the_line_that_says_how_to_resume_shows_no_control_character(tmp_path, capsys):
    named = tmp_path / "\x1b[31m\u202e"
    named.mkdir()
    assert told(capsys, named).endswith(f"--resume $'{tmp_path}/\\x1b[31m\\xe2\\x80\\xae'")


def test_out_is_not_written_through_a_link(run, outside, picks):
    before = sorted(os.listdir(outside))
    (run / "picked").symlink_to(outside)
    (outside / "empty").mkdir()
    (run / "empty").symlink_to(outside / "empty")
    (run / "broken").symlink_to(outside / "new")
    for name in ("picked", "empty", "broken"):
        code, said, _ = picks(out=run / name)
        assert (code, "exists already: pass --out with a new or empty folder" in said) == (2, True)
    code, said, _ = picks(out=run / "picked" / "deep" / "model")
    assert code == 2
    assert f"must not lie behind a symbolic link in the run, and {run}/picked is one: pass --out with a folder" in said
    assert sorted(os.listdir(outside)) == sorted([*before, "empty"])
    assert os.listdir(outside / "empty") == []


def test_a_link_of_the_users_own_on_the_way_to_out_is_followed(tmp_path, picks, outside):
    (tmp_path / "mine").symlink_to(outside)
    assert picks(out=tmp_path / "mine" / "model")[0] == 0
    assert (outside / "model" / "config.json").is_file()


def test_a_copy_has_the_modes_of_new_files_and_folders(run, picks):
    source = run / "models" / "2"
    (source / "sub").mkdir()
    (source / "sub" / "file").write_text("x")
    for path, mode in ((source, 0o700), (source / "sub", 0o2777), (source / "sub" / "file", 0o6755)):
        path.chmod(mode)
    (source / "model.safetensors").chmod(0o600)
    before = os.umask(0o027)
    try:
        code, _, out = picks()
    finally:
        os.umask(before)
    assert code == 0
    assert {stat.S_IMODE(path.stat().st_mode) & ~stat.S_ISGID for path in (out, out / "sub")} == {0o750}
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
    assert len(files) == 4


def test_a_copy_has_checksums_of_its_own_and_damage_is_not_copied(run, picks):
    source = run / "models" / "2"
    write_checksums(source)
    code, _, out = picks()
    assert code == 0
    check_checksums(out)
    assert (out / SUMS).read_bytes() != (source / SUMS).read_bytes()  # the dial is in config.json
    (source / "model.safetensors").write_bytes(b"weights of 3")
    code, said, second = picks(out=out.with_name("second"))
    assert (code, second.exists()) == (2, False)
    assert f"the files of {source} must be those that SHA256SUMS lists" in said


@pytest.mark.parametrize("depth", [100, 900, 940, 960, 980, 100_000])
def test_a_config_that_is_nested_too_deeply_is_told(run, picks, depth):
    (run / "models" / "2" / "config.json").write_text('{"a": ' * depth + "1" + "}" * depth)
    code, said, out = picks()
    assert code == (2 if said else 0)
    assert out.exists() == (code == 0)
    assert ("nested too deeply" in said) == (code == 2)
    if depth in (100, 100_000):
        assert code == (0 if depth == 100 else 2)


def test_a_wrong_file_is_told_with_escapes_in_the_traceback_too(run):
    edit(run, "0.896", "\x1b[2J")
    command = [sys.executable, str(ROOT / "tune" / "pareto.py"), str(run), "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert all(line.isprintable() for line in done.stderr.splitlines())
