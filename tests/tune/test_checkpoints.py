"""What a trial leaves while it learns: when, whole or not, and which of two is taken up."""

import shutil
from pathlib import Path

import pytest
import torch
from ray import train, tune

from trbert.console import disk_full
from trbert.errors import RunFolderError
from tune.checkpoints import (
    MANIFEST,
    STATE,
    StageState,
    StateFolder,
    StateKeeper,
    forget_elders,
    newest_state,
    report_to_train,
    report_to_tune,
    write_state,
)
from tune.learning.steps import Team

KEY = "of these data"
STATES = [{"step": step, "steps": 4, "weights": [torch.full((3,), float(step))]} for step in range(5)]


def leave(folder, number, step, stage="joint"):
    """A trial's checkpoint, as Ray Tune names it."""
    path = folder / f"checkpoint_{number:06d}"
    path.mkdir(parents=True)
    write_state(path, StageState(stage, STATES[step], KEY))
    return path


def newest(folder, number):
    return newest_state(tune.Checkpoint.from_directory(str(folder / f"checkpoint_{number:06d}")), KEY)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_of_as_one(tmp_path):
    (tmp_path / STATE).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as found:
        write_state(tmp_path, StageState("select", {"weights": torch.zeros(1_000_000)}, KEY))
    assert disk_full(found.value) is not None


def test_a_state_is_read_as_it_was_written(tmp_path):
    leave(tmp_path, 0, 3, "select")
    found = newest(tmp_path, 0)
    assert (found.stage, found.state["step"], found.state["steps"]) == ("select", 3, 4)
    assert torch.equal(found.state["weights"][0], STATES[3]["weights"][0])


def test_without_a_checkpoint_or_a_state_in_it_there_is_none(tmp_path):
    assert newest_state(None, KEY) is None
    (tmp_path / "checkpoint_000000").mkdir()
    assert newest(tmp_path, 0) is None


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", [STATE, MANIFEST])
def test_in_place_of_a_damaged_state_the_one_before_it_is_taken(tmp_path, name, damage):
    leave(tmp_path, 8, 0)
    leave(tmp_path, 9, 1)
    damage(leave(tmp_path, 10, 2) / name)
    assert newest(tmp_path, 10).state["step"] == 1
    shutil.rmtree(tmp_path / "checkpoint_000009")
    assert newest(tmp_path, 10).state["step"] == 0
    shutil.rmtree(tmp_path / "checkpoint_000008")
    assert newest(tmp_path, 10) is None


def test_a_state_of_other_data_is_refused(tmp_path):
    write_state(tmp_path, StageState("select", STATES[1], "of other data"))
    checkpoint = tune.Checkpoint.from_directory(str(tmp_path))
    with pytest.raises(RunFolderError, match=r"must be of the data, the model .* is of others: remove it"):
        newest_state(checkpoint, KEY)
    assert newest_state(checkpoint, "of other data").state["step"] == 1


def test_a_later_checkpoint_than_the_trials_own_is_not_taken(tmp_path):
    cut(leave(tmp_path, 0, 1) / STATE)
    leave(tmp_path, 1, 2)
    assert newest(tmp_path, 0) is None
    assert newest(tmp_path, 1).state["step"] == 2


def test_all_before_the_last_are_forgotten(tmp_path):
    paths = [leave(tmp_path, number, 0) for number in range(3)]
    (tmp_path / "result.json").write_text("{}")
    forget_elders(tune.Checkpoint.from_directory(str(paths[2])))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_000002", "result.json"]


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """What is reported to Ray Tune: metrics and the state in its checkpoint."""
    found = []

    def report(metrics, checkpoint):
        found.append((metrics, newest_state(checkpoint, KEY)))

    monkeypatch.setattr(tune, "report", report)
    return found


def test_a_state_is_written_when_the_last_is_old_enough(reported, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tune.checkpoints.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tune.checkpoints.EVERY_S", 10.0)
    keeper = StateKeeper("joint", None, report_to_tune, KEY)
    for now[0], step in ((4.0, 0), (11.0, 1), (20.0, 2), (22.0, 3)):
        keeper.keep(lambda step=step: STATES[step])
    assert [(metrics, found.state["step"]) for metrics, found in reported] == [
        ({"stage": "joint", "share": 0.25}, 1),
        ({"stage": "joint", "share": 0.75}, 3),
    ]


def test_a_stage_that_ended_is_left_as_finished_at_whatever_step(reported):
    keeper = StateKeeper("select", None, report_to_tune, KEY)
    keeper.keep(lambda: STATES[2])
    assert reported == []
    keeper.finish()
    ((metrics, found),) = reported
    assert metrics == {"stage": "select", "share": 1.0}
    assert (found.stage, found.state["step"]) == ("select", 4)
    assert torch.equal(found.state["weights"][0], STATES[2]["weights"][0])


def test_a_stage_that_took_no_step_leaves_nothing(reported):
    StateKeeper("select", None, report_to_tune, KEY).finish()
    assert reported == []


def test_what_is_to_be_beside_a_state_is_saved_with_each(reported, monkeypatch):
    monkeypatch.setattr("tune.checkpoints.EVERY_S", -1.0)
    keeper = StateKeeper("joint", None, report_to_tune, KEY, beside={"selected": {"weight": torch.ones(2)}})
    keeper.keep(lambda: STATES[0])
    _, found = reported[-1]
    assert found.state["selected"]["weight"].tolist() == [1.0, 1.0]
    assert found.state["step"] == STATES[0]["step"]


def test_a_stage_takes_up_its_own_state_alone():
    found = StageState("joint", STATES[1], KEY)
    assert StateKeeper("joint", found, report_to_tune, KEY).load() is STATES[1]
    assert StateKeeper("select", found, report_to_tune, KEY).load() is None
    assert StateKeeper("joint", None, report_to_tune, KEY).load() is None


def test_of_a_team_the_first_process_writes_and_all_report_alike(tmp_path):
    told = []
    for rank in (0, 1):
        keeper = StateKeeper(
            "joint", None, lambda metrics, folder: told.append((metrics, folder is None)), KEY, Team(rank, 2)
        )
        keeper._state = lambda: STATES[2]
        keeper.finish()
    assert told == [({"stage": "joint", "share": 1.0}, False), ({"stage": "joint", "share": 1.0}, True)]


def test_the_other_processes_of_a_team_go_on_with_random_numbers_of_their_own():
    found = StageState("joint", STATES[1] | {"random": [torch.zeros(3, dtype=torch.uint8)]}, KEY)
    first, second = (StateKeeper("joint", found, report_to_tune, KEY, Team(rank, 2)).load() for rank in (0, 1))
    assert first == found.state
    assert torch.equal(second["random"][0], torch.get_rng_state())
    assert second["weights"] is found.state["weights"]


def test_a_folder_of_states_keeps_the_last_two_and_gives_the_newest_that_is_whole(tmp_path):
    folder = StateFolder(str(tmp_path / "states"))
    assert folder.newest(KEY) is None
    for step in range(4):
        write_state(tmp_path, StageState("teacher", STATES[step], KEY))
        folder.report({}, tmp_path)
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == ["checkpoint_000002", "checkpoint_000003"]
    again = StateFolder(str(tmp_path / "states"))
    assert again.newest(KEY).state["step"] == 3
    cut(tmp_path / "states" / "checkpoint_000003" / STATE)
    assert again.newest(KEY).state["step"] == 2
    again.delete()
    assert not (tmp_path / "states").exists()
    again.delete()


def test_a_team_writes_when_its_first_process_wants_to(tmp_path, monkeypatch):
    told = []
    keeper = StateKeeper("joint", None, lambda metrics, folder: told.append(metrics["share"]), KEY, Team(1, 2))
    for agreed in (False, True):
        monkeypatch.setattr(Team, "agreed", lambda self, wanted, device, agreed=agreed: agreed)
        monkeypatch.setattr("tune.checkpoints.EVERY_S", -1.0 if not agreed else 1e9)  # its own clock says otherwise
        keeper.keep(lambda: STATES[2])
    assert told == [0.5]


@pytest.mark.parametrize(("module", "report"), [(tune, report_to_tune), (train, report_to_train)])
def test_metrics_are_reported_with_the_folder_as_checkpoint_where_there_is_one(module, report, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(module, "report", lambda metrics, checkpoint: told.append((metrics, checkpoint)))
    report({"share": 0.5}, tmp_path)
    report({"share": 0.75}, None)
    (first, checkpoint), second = told
    assert first == {"share": 0.5}
    assert checkpoint.path == str(tmp_path)
    assert second == ({"share": 0.75}, None)


def test_a_team_agrees_on_its_own_device(monkeypatch):
    devices = []
    monkeypatch.setattr(Team, "agreed", lambda self, wanted, device: devices.append(device.type) or False)
    for device in (torch.device("meta"), None):
        StateKeeper("joint", None, report_to_tune, KEY, Team(0, 2), device).keep(lambda: STATES[0])
    assert devices == ["meta", "cpu"]
