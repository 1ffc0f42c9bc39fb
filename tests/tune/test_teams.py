"""Several learners are one: the same weights, through a death, and stopped together."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from trbert.encoder import Encoder
from tune import checkpoints, teams
from tune.learning.select_stage import flatten
from tune.learning.steps import Team
from tune.learning.teacher_stage import train_teacher
from tune.settings import override
from tune.teams import JointStage, TeamPlan, join_together, learn_together, teach_together

pytestmark = [pytest.mark.ray, pytest.mark.slow]

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


def test_two_learners_learn_what_one_does(ray_local, prepared, make_model, plan, alone, tmp_path) -> None:
    model = make_model(TWELVE_STEPS)
    join_together(model, ray_local.put(prepared), plan, None, [])
    assert close(vector(model.parameters), alone)
    assert not (tmp_path / "stage").exists()  # its states are gone


def test_a_team_goes_on_from_its_last_state_when_one_dies(
    ray_local, prepared, make_model, plan, alone, tmp_path
) -> None:
    model = make_model(TWELVE_STEPS)
    stage = DyingOnce(
        prepared=ray_local.put(prepared),
        settings=model.settings,
        policy=flatten(model.policy),
        marker=str(tmp_path / "died"),
    )
    learn_together(stage, plan, model.parameters)
    assert (tmp_path / "died").exists()
    assert close(vector(model.parameters), alone)


def test_a_team_stops_together_when_its_time_is_over(ray_local, prepared, make_model, plan, alone) -> None:
    model = make_model(TWELVE_STEPS)
    before = vector(model.parameters)
    join_together(model, ray_local.put(prepared), plan, 0.0, [])
    learned = vector(model.parameters)
    assert (learned - before).abs().max() > 1e-5
    assert (learned - before).abs().max() < 0.5 * (alone - before).abs().max()


def test_two_learners_teach_what_one_does(ray_local, tiny_settings, prepared, train, plan) -> None:
    settings = override(tiny_settings, {"teacher.epochs": 0.5}).teacher
    config = transformers.BertConfig.from_dict(
        prepared.config.to_dict() | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    )
    learned = []
    for teach in (train_teacher, lambda *words: teach_together(plan, *words)):
        torch.manual_seed(3)
        encoder = Encoder(transformers.AutoModelForSequenceClassification.from_config(config))
        before = vector(encoder.model.parameters())
        teach(encoder, train, settings, tiny_settings.compute, 0, lambda step: None)
        learned.append(vector(encoder.model.parameters()))
        assert not torch.equal(before, learned[-1])
        assert not encoder.model.training
    assert close(learned[1], learned[0])


def test_a_team_shares_documents_out_and_leaves_none() -> None:
    documents = torch.arange(7)
    shares = [Team(rank, 3).share(documents) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert sorted(torch.cat(shares).tolist()) == list(range(7))


def test_what_travels_to_a_team_is_small(ray_local, prepared, make_model) -> None:
    import cloudpickle

    model = make_model()
    stage = JointStage(prepared=ray_local.put(prepared), settings=model.settings, policy=flatten(model.policy))
    assert len(cloudpickle.dumps(stage)) < 10_000 + flatten(model.policy).nbytes
    assert isinstance(stage.policy, np.ndarray)
    assert teams.FAILURES > 0
