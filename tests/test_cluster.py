"""cluster.yaml against Ray's own schema and our rules, without a cloud."""

import copy
import re
from pathlib import Path

import pytest
import yaml

jsonschema = pytest.importorskip("jsonschema")
util = pytest.importorskip("ray.autoscaler._private.util")

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
HEAD = CLUSTER["available_node_types"][CLUSTER["head_node_type"]]
WORKERS = [node for name, node in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]]


def validate(config):
    util.validate_config(util.prepare_config(copy.deepcopy(config)))


def pinned(name):
    return re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def test_ray_accepts_the_file():
    validate(CLUSTER)


@pytest.mark.parametrize("section", ["", "docker", "available_node_types.gpu_spot"])
def test_ray_refuses_a_misspelt_key(section):
    config = copy.deepcopy(CLUSTER)
    place = config
    for key in filter(None, section.split(".")):
        place = place[key]
    place["max_wrokers"] = 1
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        validate(config)


def test_the_head_is_on_demand_and_takes_no_trials():
    assert HEAD["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in HEAD["node_config"]


def test_workers_are_spot_before_on_demand_and_none_is_kept_idle():
    spot, on_demand = (CLUSTER["available_node_types"][name] for name in ("gpu_spot", "gpu_on_demand"))
    assert [spot, on_demand] == WORKERS
    for worker in WORKERS:
        assert worker["min_workers"] == 0
        assert worker["max_workers"] <= CLUSTER["max_workers"]
    # The autoscaler weighs them alike but for their priority.
    assert spot["node_config"] == on_demand["node_config"] | {"InstanceMarketOptions": {"MarketType": "spot"}}
    assert spot["priority"] > on_demand["priority"]
    assert CLUSTER["provider"]["cache_stopped_nodes"] is False
    assert len(CLUSTER["provider"]["availability_zone"].split(",")) >= 2


def test_nodes_run_the_pinned_ray_and_torch():
    images = [CLUSTER["docker"][key] for key in ("image", "head_image")]
    assert all(image.startswith(f"rayproject/ray:{pinned('ray')}-py311-") for image in images)
    assert any(f"torch=={pinned('torch')}" in command for command in CLUSTER["setup_commands"])
    assert all("-c constraints.txt" in command for command in CLUSTER["setup_commands"])


def test_the_dashboard_listens_on_the_head_alone():
    (start,) = [command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()


def test_every_node_starts_with_the_token_and_the_file_holds_none():
    for role in ("head", "worker"):
        (start,) = [command for command in CLUSTER[f"{role}_start_ray_commands"] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not re.search(r"AKIA|BEGIN .*KEY|RAY_AUTH_TOKEN=", (ROOT / "cluster.yaml").read_text())
