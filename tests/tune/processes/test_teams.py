"""Several learners are one: the same weights, through a death, and stopped together."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
import transformers

from trbert.encoder import Encoder
from trbert.errors import Diverged
from trbert.selection.reduction import Reducer
from tune import checkpoints
from tune.budget import Clock, StageTimeout
from tune.learning.prepare import arrays_of
from tune.learning.select_stage import flatten
from tune.learning.steps import Team
from tune.learning.teacher_stage import train_teacher
from tune.processes import teams
from tune.processes.teams import JointStage, TeamPlan, _TeamProgress, join_together, learn_together, teach_together
from tune.settings import Settings, override

TWELVE_STEPS = {"joint.documents": 192, "joint.learning_rate": 1e-3}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DyingOnce(JointStage):
    """A joint stage that leaves a state every step, and whose second process dies once, after its fifth."""

    marker: str = ""

    def learn(self, team, progress, keeper):
        checkpoints.EVERY_S = 0.0

        def told(step):
            progress(step)
            if step["step"] == 5 and team.rank == 1 and not Path(self.marker).exists():
                Path(self.marker).touch()
                os._exit(1)

        JointStage.learn(self, team, told, keeper)


@pytest.fixture
def plan(tmp_path):
    return TeamPlan(size=2, gpus=False, storage=str(tmp_path), run="stage")


def vector(parameters):
    return torch.cat([p.detach().flatten() for p in parameters])


@pytest.fixture
def alone(make_model, train):
    """What one learner makes of it."""
    model = make_model(TWELVE_STEPS)
    before = vector(model.parameters)
    model.join(train, lambda step: None)
    learned = vector(model.parameters)
    assert (learned - before).abs().max() > 1e-3
    return learned


def close(found, expected):
    """Adam turns rounding of tiny gradients into whole steps here and there; all others agree to five digits."""
    apart = (found - expected).abs()
    return bool((apart < 1e-5).double().mean() > 0.99 and apart.max() < 2e-3)


@pytest.mark.ray
@pytest.mark.slow
def test_two_learners_learn_what_one_does(ray_local, prepared, make_model, plan, alone, tmp_path) -> None:
    model = make_model(TWELVE_STEPS)
    join_together(model, ray_local.put(prepared), plan, None, [])
    assert close(vector(model.parameters), alone)
    assert not (tmp_path / "stage").exists()  # its states are gone


@pytest.mark.ray
@pytest.mark.slow
def test_a_team_goes_on_from_its_last_state_when_one_dies(
    ray_local, prepared, make_model, plan, alone, tmp_path
) -> None:
    model = make_model(TWELVE_STEPS)
    stage = DyingOnce(
        prepared=ray_local.put(prepared),
        settings=model.settings,
        policy=arrays_of(model.policy),
        key="of these data",
        marker=str(tmp_path / "died"),
    )
    learn_together(stage, plan, model.parameters)
    assert (tmp_path / "died").exists()
    assert close(vector(model.parameters), alone)


@pytest.mark.ray
@pytest.mark.slow
def test_a_team_stops_together_when_its_time_is_over(ray_local, prepared, make_model, plan, alone) -> None:
    model = make_model(TWELVE_STEPS)
    before = vector(model.parameters)
    join_together(model, ray_local.put(prepared), plan, 0.0, [])
    learned = vector(model.parameters)
    assert (learned - before).abs().max() > 1e-5
    assert (learned - before).abs().max() < 0.5 * (alone - before).abs().max()


@pytest.mark.ray
@pytest.mark.slow
def test_two_learners_teach_what_one_does(ray_local, tiny_settings, prepared, train, plan) -> None:
    settings = override(tiny_settings, {"teacher.epochs": 0.5}).teacher
    config = transformers.BertConfig.from_dict(
        prepared.config.to_dict() | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    )
    learned = []
    for teach in (train_teacher, lambda *words: teach_together(plan, *words, key="of these data")):
        torch.manual_seed(3)
        plain = transformers.AutoModelForSequenceClassification.from_config(config)
        before = vector(plain.parameters())
        reducer = Reducer(encoder=Encoder(plain), task=prepared.task)
        teach(reducer, train, settings, tiny_settings.compute, 0, lambda step: None)
        learned.append(vector(plain.parameters()))
        assert not torch.equal(before, learned[-1])
        assert not plain.training
    assert close(learned[1], learned[0])


def test_a_team_shares_documents_out_and_leaves_none() -> None:
    documents = torch.arange(7)
    shares = [Team(rank, 3).share(documents) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert sorted(torch.cat(shares).tolist()) == list(range(7))


@pytest.mark.ray
@pytest.mark.slow
def test_what_travels_to_a_team_is_small(ray_local, prepared, make_model) -> None:
    import cloudpickle

    model = make_model()
    stage = JointStage(
        prepared=ray_local.put(prepared), settings=model.settings, policy=arrays_of(model.policy), key="of these data"
    )
    assert len(cloudpickle.dumps(stage)) < 10_000 + flatten(model.policy).nbytes
    assert all(isinstance(array, np.ndarray) for array in stage.policy.values())
    assert teams.FAILURES > 0


# A team's progress and end, without Ray.


def some_reference():
    return ray.ObjectRef(os.urandom(28), skip_adding_local_ref=True)


@pytest.fixture
def reports(monkeypatch):
    """What a team tells Ray Train, and a clock that the test moves."""
    found = []
    monkeypatch.setattr(teams.train, "report", found.append)
    return found


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tune.processes.teams.time.monotonic", lambda: now[0])
    return now


def step(number):
    return {"step": float(number), "steps": 8.0, "loss": 0.5}


def test_a_team_reports_every_ten_seconds(reports, clock) -> None:
    progress = _TeamProgress("joint", Team(), torch.device("cpu"), Clock(), None)
    for clock[0], number in ((1010.0, 1), (1011.0, 2), (1020.0, 3), (1022.0, 4)):
        progress(step(number))
    assert reports == [{"stage": "joint", "share": share, "loss": 0.5} for share in (2 / 8, 4 / 8)]


def test_a_team_stops_once_its_time_is_over(reports, clock) -> None:
    progress = _TeamProgress("joint", Team(), torch.device("cpu"), Clock(5.0), None)
    clock[0] = 1005.0
    progress(step(1))
    clock[0] = 1005.1
    with pytest.raises(StageTimeout):
        progress(step(2))


@pytest.mark.parametrize("late", [True, False])
def test_a_process_of_a_team_stops_when_the_first_does_whatever_its_own_clock_says(
    late, reports, clock, monkeypatch
) -> None:
    monkeypatch.setattr(Team, "agreed", lambda self, wanted, device: late)
    progress = _TeamProgress("joint", Team(1, 2), torch.device("cpu"), Clock(5.0), None)
    clock[0] += 0.0 if late else 100.0
    if late:
        with pytest.raises(StageTimeout):
            progress(step(1))
    else:
        progress(step(1))
    assert len(reports) == late


@pytest.mark.parametrize(("rank", "told"), [(0, [1.0]), (1, [])])
def test_the_first_process_of_a_team_alone_tells_of_each_step(rank, told, reports, clock, monkeypatch) -> None:
    monkeypatch.setattr(Team, "agreed", lambda self, wanted, device: wanted)
    found = []
    progress = _TeamProgress(
        "teacher", Team(rank, 2), torch.device("cpu"), Clock(), lambda done: found.append(done["step"])
    )
    progress(step(1))
    assert found == told


def test_a_team_without_documents_to_join_on_is_not_made(make_model, plan, monkeypatch) -> None:
    monkeypatch.setattr(teams, "learn_together", lambda *words, **others: pytest.fail("a team was made"))
    join_together(make_model({"joint.documents": 0}), some_reference(), plan, None, [])


def test_a_team_joins_with_the_models_own_policy_and_in_its_time(make_model, plan, monkeypatch) -> None:
    model, given = make_model({}), []
    monkeypatch.setattr(teams, "learn_together", lambda *words, **others: given.append((words, others)))
    join_together(model, some_reference(), plan, 7.0, ["a callback"])
    (((stage, own_plan, parameters, seconds), others),) = given
    assert (stage.name, stage.settings, own_plan, seconds) == ("joint", model.settings, plan, 7.0)
    assert others == {"callbacks": ["a callback"]}
    assert {name: array.tolist() for name, array in stage.policy.items()} == {
        name: value.tolist() for name, value in model.policy.state_dict().items()
    }
    assert all(one is other for one, other in zip(parameters, model.parameters, strict=True))


def test_a_process_of_a_team_starts_from_the_selected_policy_on_the_threads_that_are_set(
    prepared, make_model, monkeypatch
) -> None:
    threads, joined = [], []
    model = make_model({"compute.threads": 2})
    selected = {name: array + 1 for name, array in arrays_of(model.policy).items()}
    monkeypatch.setattr(teams.ray, "get", lambda reference: prepared)
    monkeypatch.setattr(teams.torch, "set_num_threads", threads.append)
    monkeypatch.setattr(teams.Model, "join", lambda self, *words: joined.append((arrays_of(self.policy), words)))
    stage = JointStage(prepared=some_reference(), settings=model.settings, policy=selected, key="of these data")
    team, progress, keeper = Team(1, 2), print, object.__new__(checkpoints.StateKeeper)
    stage.learn(team, progress, keeper)
    ((policy, words),) = joined
    assert policy.keys() == selected.keys()
    assert all((policy[name] == selected[name]).all() for name in selected)
    assert words == (prepared.train, progress, keeper, team)
    assert threads == [2]


def test_what_a_team_learned_is_copied_and_its_states_are_deleted(plan, tmp_path, monkeypatch) -> None:
    asked, folder = {}, tmp_path / "stage" / "checkpoint_000003"
    folder.mkdir(parents=True)
    # Two weights that learned, and a carried tensor after them.
    state = {"step": 4, "steps": 4, "weights": [torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([9.0])]}
    checkpoints.write_state(folder, checkpoints.StageState("joint", state, "of these data"))

    class Trainer:
        def __init__(self, learn, **words):
            asked.update(words)

        def fit(self):
            return SimpleNamespace(checkpoint=teams.train.Checkpoint.from_directory(str(folder)))

    monkeypatch.setattr(teams.train_torch, "TorchTrainer", Trainer)
    stage = JointStage(prepared=some_reference(), settings=Settings(), policy={}, key="of these data")
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    learn_together(stage, plan, parameters, seconds=5.0)
    assert [parameter.tolist() for parameter in parameters] == [[1.0, 2.0], [3.0]]
    assert not (tmp_path / "stage").exists()
    config = asked["train_loop_config"]
    assert (config["stage"], config["seconds"], config["told"]) == (stage, 5.0, None)
    assert (asked["scaling_config"].num_workers, asked["scaling_config"].use_gpu) == (2, False)
    assert asked["run_config"].checkpoint_config.num_to_keep == 2  # an older one, should the newest be damaged


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Diverging(JointStage):
    """A joint stage that gives numbers that are not finite; it notes each time that one of its processes learns."""

    marker: str = ""

    def learn(self, team, progress, keeper):
        with Path(self.marker).open("a") as file:
            file.write(f"{team.rank}")
        raise Diverged("it is nan: go slower")


@pytest.mark.ray
@pytest.mark.slow
def test_an_error_that_the_user_can_put_right_ends_a_team_and_leaves_nothing_behind(
    ray_local, prepared, make_model, plan, tmp_path
) -> None:
    model = make_model(TWELVE_STEPS)
    stage = Diverging(
        prepared=ray_local.put(prepared),
        settings=model.settings,
        policy=arrays_of(model.policy),
        key="of these data",
        marker=str(tmp_path / "marker"),
    )
    with pytest.raises(Diverged, match=r"^it is nan: go slower$"):
        learn_together(stage, plan, model.parameters)
    assert len((tmp_path / "marker").read_text()) <= 2  # no process learns again
    assert not (tmp_path / "stage").exists()
