"""What a running search says of its trials: one line each, and what a lost one costs."""

import os
from types import SimpleNamespace

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, OutOfDiskError, RayTaskError

from tune.progress import Console, SearchProgress


class Lines(Console):
    """A console that remembers its lines."""

    def __init__(self):
        super().__init__()
        self.told, self.live = [], []

    def line(self, text):
        self.told.append(text)

    def progress(self, text):
        self.live.append(text)


@pytest.fixture
def progress():
    return SearchProgress(Lines(), 3)


def trial(number, **result):
    return SimpleNamespace(
        trial_id=f"t{number}", config={"select.penalty": 0.51234, "select.points": "0,2"}, last_result=result
    )


def test_the_live_line_names_each_running_trials_stage(progress):
    progress.on_trial_result(1, [], trial(1), {"stage": "select", "share": 0.5})
    progress.on_trial_result(1, [], trial(2), {"stage": "joint", "share": 0.25})
    assert progress.console.live[-1] == "0 of 3 trials done   select 50 %   joint 25 %"


def test_a_finished_trial_is_a_line(progress):
    progress.on_trial_result(1, [], trial(1), {"stage": "done", "share": 1.0})
    progress.on_trial_complete(1, [], trial(1, quality=0.714, cost=0.25, seconds=93.2))
    assert progress.console.told == [
        "trial 1 of 3: 71.4 % at 4.0x on validation, 93 s   (select.penalty 0.512, select.points 0,2)"
    ]
    progress.on_trial_result(1, [], trial(2), {"stage": "joint", "share": 0.25})
    assert progress.console.live[-1] == "1 of 3 trials done   joint 25 %"


def ended(number, folder, error):
    """A trial whose process ended with an error, as Tune leaves it."""
    (folder / "error.pkl").write_bytes(cloudpickle.dumps(error))
    found = trial(number)
    found.pickled_error_file, found.error_file = str(folder / "error.pkl"), str(folder / "error.txt")
    return found


def of_task(cause):
    """The error of a task as Tune is given it: of both classes."""
    error = RayTaskError("train", "Traceback (most recent call last):", cause, ip="10.0.0.7", pid=1)
    return error.as_instanceof_cause()


def test_a_trial_that_lost_its_machine_is_not_counted_as_done(progress, tmp_path):
    progress.on_trial_result(1, [], trial(1), {"stage": "select", "share": 0.5})
    progress.on_trial_recover(1, [], ended(1, tmp_path, ActorDiedError()))
    progress.on_trial_result(1, [], trial(2), {"stage": "joint", "share": 0.25})
    assert progress.console.told == ["trial t1 lost its process: it continues from its last state"]
    assert progress.console.live[-1] == "0 of 3 trials done   joint 25 %"


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            OSError(28, "No space left on device"),
            "failed on 10.0.0.7 because its disk or the storage is full (free some space)",
        ),
        (
            OutOfDiskError("The object cannot be created"),
            "failed on 10.0.0.7 because its disk or the storage is full (free some space)",
        ),
        (ValueError("the first line\nand the last"), "failed on 10.0.0.7 with ValueError: and the last"),
        (AssertionError(), "failed on 10.0.0.7 with AssertionError: "),
    ],
)
def test_a_trial_that_failed_says_where_and_why(progress, tmp_path, cause, said):
    progress.on_trial_recover(1, [], ended(1, tmp_path, of_task(cause)))
    progress.on_trial_error(1, [], ended(2, tmp_path, of_task(cause)))
    assert progress.console.told == [
        f"trial t1 {said}: it continues from its last state",
        f"trial 1 of 3 {said}: its error is in {tmp_path}/error.txt",
    ]


def died(text):
    error = ActorDiedError()
    error.error_msg = text
    return error


def test_a_trial_that_was_killed_says_what_helps_and_continues_only_once(progress, tmp_path):
    killed = ended(
        1, tmp_path, died("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR")
    )
    killed.max_failures, killed.run_metadata = 10, SimpleNamespace(num_failures=3)
    progress.on_trial_recover(1, [], killed)
    assert progress.console.told == [
        "trial t1 was killed, most likely because memory ran out (--set joint.batch_size=8, --set "
        "compute.tokens_per_batch=4096 or a shorter --max-length needs less memory): it continues from its last state"
    ]
    assert killed.max_failures == 3  # Tune's next failure is the fourth


def test_a_trial_whose_machine_is_gone_is_not_said_to_lack_memory(progress, tmp_path):
    lost = ended(1, tmp_path, died("The actor died because its node has died."))
    lost.max_failures = 10
    progress.on_trial_recover(1, [], lost)
    assert progress.console.told == ["trial t1 lost its process: it continues from its last state"]
    assert lost.max_failures == 10


def test_a_trial_without_an_error_of_its_own_only_failed(progress):
    found = trial(1)
    found.pickled_error_file, found.error_file = None, "somewhere/error.txt"
    progress.on_trial_error(1, [], found)
    assert progress.console.told == ["trial 1 of 3 failed: its error is in somewhere/error.txt"]


def test_a_trial_that_failed_is_no_longer_shown_as_running(progress, tmp_path):
    progress.on_trial_result(1, [], trial(1), {"stage": "select", "share": 0.5})
    progress.on_trial_error(1, [], ended(1, tmp_path, ActorDiedError()))
    progress.on_trial_result(1, [], trial(2), {"stage": "joint", "share": 0.25})
    assert progress.console.live[-1] == "1 of 3 trials done   joint 25 %"


# The console.

CLEAR = "\r\033[K"


@pytest.fixture
def terminal(monkeypatch):
    """The output is a terminal ten columns wide."""
    monkeypatch.setattr("tune.progress.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr("tune.progress.shutil.get_terminal_size", lambda: os.terminal_size((10, 24)))


def test_a_line_that_stays_pushes_the_live_line_down(terminal, capsys):
    console = Console()
    console.progress("live")
    console.line("stays")
    console.progress("next")
    assert capsys.readouterr().out == f"live{CLEAR}stays\nlive{CLEAR}next"


def test_the_live_line_leaves_the_last_column_free(terminal, capsys):
    Console().progress("0123456789abc")
    assert capsys.readouterr().out == "012345678"


def test_at_the_end_the_live_line_is_gone_for_good(terminal, capsys):
    console = Console()
    console.progress("live")
    console.end()
    console.line("the front")
    assert capsys.readouterr().out == f"live{CLEAR}the front\n"


def test_where_the_output_is_no_terminal_progress_is_printed_now_and_then(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tune.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tune.progress.QUIET_S", 20.0)
    console = Console()
    for now[0] in (1000.0, 1019.0, 1021.0, 1040.0, 1042.0):
        console.progress(f"at {now[0]:.0f}")
    console.line("stays")
    assert capsys.readouterr().out == "at 1000\nat 1021\nat 1042\nstays\n"
