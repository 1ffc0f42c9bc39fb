"""What a running search says of its trials: one line each, and what a lost one costs."""

from types import SimpleNamespace

import pytest

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


def test_a_trial_that_lost_its_machine_is_not_counted_as_done(progress):
    progress.on_trial_result(1, [], trial(1), {"stage": "select", "share": 0.5})
    progress.on_trial_recover(1, [], trial(1))
    progress.on_trial_result(1, [], trial(2), {"stage": "joint", "share": 0.25})
    assert progress.console.told == ["trial t1 lost its process: it goes on from its last state"]
    assert progress.console.live[-1] == "0 of 3 trials done   joint 25 %"
