"""Optuna's record of a search: what a kill, a full disk or a stranger may have left in it."""

import json
import os
import re
import subprocess
import sys

import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from trbert.errors import RunFolderError
from tune.runs.study import open_study

SPACE = {"penalty": FloatDistribution(0.1, 10.0)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.log"


@pytest.fixture
def opened(path):
    """A function: opens the study; what it says is in its attribute `said`."""

    def open_it():
        return open_study(path, SPACE, 0, open_it.said.append)

    open_it.said = []
    return open_it


@pytest.fixture
def written(path, opened):
    """The file, with a finished trial and one that runs."""
    study, _ = opened()
    done = study.ask(fixed_distributions=SPACE)
    done.set_user_attr("trial", "a")
    done.set_user_attr("curve", [[0.7, 0.5]])
    study.tell(done, [0.7, 0.5])
    study.ask(fixed_distributions=SPACE).set_user_attr("trial", "b")
    return path


def states(study):
    return [trial.state for trial in study.get_trials()]


def test_a_study_is_read_again_and_says_nothing(written, opened):
    study, _ = opened()
    assert states(study) == [TrialState.COMPLETE, TrialState.RUNNING]
    assert opened.said == []
    assert [path.name for path in written.parent.iterdir()] == ["study.log"]


def test_optunas_own_tools_open_the_file(written):
    import optuna

    storage = JournalStorage(JournalFileBackend(str(written)))
    (summary,) = optuna.get_all_study_summaries(storage)
    assert (summary.study_name, summary.n_trials) == ("trbert", 2)


def test_the_file_holds_json_alone(written):
    assert all(isinstance(json.loads(line), dict) for line in written.read_text().splitlines())


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_a_kill_cut_off_is_removed_and_said(written, opened, cut):
    content = written.read_bytes()
    lines = content.count(b"\n")
    written.write_bytes(content[:-cut])
    study, _ = opened()
    told = f"{written} was cut off or damaged in line {lines}: the search goes on with the {lines - 1} lines before it"
    assert opened.said == [told]
    study.tell(study.ask(fixed_distributions=SPACE), [0.5, 0.5])
    assert len(opened()[0].get_trials()) == 3  # what was appended does not stick to the rest of a line
    assert opened.said == [told]


@pytest.mark.parametrize(
    "rubbish",
    [b"\x00" * 50 + b"\n", b"[]\n", b"[" * 100_000 + b"\n", b"\xff\n"],
    ids=["zeros", "a list", "deep", "no text"],
)
def test_damaged_lines_and_what_follows_them_are_removed_and_said(written, opened, rubbish):
    content = written.read_bytes()
    written.write_bytes(content + rubbish + content[:100])
    study, _ = opened()
    assert states(study) == [TrialState.COMPLETE, TrialState.RUNNING]
    assert len(opened.said) == 1
    assert written.read_bytes().startswith(content)
    assert rubbish not in written.read_bytes()


def test_wherever_the_file_was_cut_the_study_opens(written, opened):
    content = written.read_bytes()
    for end in range(0, len(content), 37):
        written.write_bytes(content[:end])
        opened()


def changed(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


FOREIGN = {
    "other directions": ('"directions":[2,1]', '"directions":[1,1]'),
    "one direction": ('"directions":[2,1]', '"directions":[2]'),
    "a name of another type": ('"user_attr":{"trial":"a"}', '"user_attr":{"trial":["a"]}'),
    "a curve of another type": ("[[0.7,0.5]]", '[[0.7,"0.5"]]'),
    "a curve that is not finite": ("[[0.7,0.5]]", "[[NaN,0.5]]"),
    "a curve of three": ("[[0.7,0.5]]", "[[0.7,0.5,0.1]]"),
    "no curve": ("[[0.7,0.5]]", "7"),
    "values that are not finite": ('"values":[0.7,0.5]', '"values":[0.7,Infinity]'),
    "one value": ('"values":[0.7,0.5]', '"values":[0.7]'),
    "another space": ('\\"high\\": 10.0', '\\"high\\": 99.0'),
    "another parameter": ('"param_name":"penalty"', '"param_name":"os.system"'),
    "an unknown distribution": ("FloatDistribution", "os.system"),
    "an unknown operation": ('"op_code":4', '"op_code":99'),
    "an operation of another type": ('"op_code":4', '"op_code":{}'),
    "a mark of another type": ('"user_attr":{"trial":"b"}', '"user_attr":{"interrupted":"yes"}'),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_a_search_does_not_write_is_refused_by_name(written, opened, kind):
    changed(written, *FOREIGN[kind])
    told = (
        rf"^{written} must be Optuna's record of this search, and is not \(.+\): move it away and resume again; then "
    )
    with pytest.raises(RunFolderError, match=told):
        opened()


def test_a_wrong_attribute_is_named_with_its_trial(written, opened):
    changed(written, "[[0.7,0.5]]", "7")
    told = "trial 0: a list of qualities and costs as 'curve' must stand in it, and 7 does"
    with pytest.raises(RunFolderError, match=re.escape(told)):
        opened()


def test_another_lines_fields_that_are_missing_are_refused(written, opened):
    lines = written.read_text().splitlines()
    for number, line in enumerate(lines):
        for field in json.loads(line):
            rest = {name: value for name, value in json.loads(line).items() if name != field}
            written.write_text("\n".join([*lines[:number], json.dumps(rest), *lines[number + 1 :], ""]))
            try:
                opened()
            except RunFolderError as error:
                assert str(written) in str(error)  # noqa: PT017


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_refused_and_not_followed(path, opened, tmp_path, kind):
    other = tmp_path / "other"
    other.write_text("precious\n")
    {"link": lambda: path.symlink_to(other), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(RunFolderError, match=rf"^{path} must be a file of this search, and is .+: remove it$"):
        opened()
    assert other.read_text() == "precious\n"


@pytest.mark.slow
def test_a_process_that_was_killed_while_it_wrote_keeps_nobody_waiting(path, opened):
    script = f"""
import os, signal
from pathlib import Path
from optuna.distributions import FloatDistribution
from tune.runs import study as module
study, storage = module.open_study(Path({str(path)!r}), {{"penalty": FloatDistribution(0.1, 10.0)}}, 0, print)
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
study.ask()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    assert path.with_name("study.log.lock").exists()
    study, _ = opened()
    study.ask(fixed_distributions=SPACE)  # Optuna would wait for half a minute
    assert [each.name for each in path.parent.iterdir()] == ["study.log"]
