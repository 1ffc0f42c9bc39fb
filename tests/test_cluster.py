"""cluster.yaml and cluster.local.yaml against Ray's schema, Ray's own preparation, AWS's parameters, and our rules."""

import copy
import os
import re
import shutil
import subprocess
from pathlib import Path

import boto3
import botocore
import jsonschema
import moto
import pytest
import yaml
from ray.autoscaler._private import commands, util

from tune.processes import planner

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
LOCAL = yaml.safe_load((ROOT / "cluster.local.yaml").read_text())
HEAD = CLUSTER["available_node_types"][CLUSTER["head_node_type"]]
WORKERS = [node for name, node in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]]


def validate(config):
    util.validate_config(util.prepare_config(copy.deepcopy(config)))


def pinned(name):
    return re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def files_sent(config, target):
    """Returns the files of the project that `ray up` copies: rsync with the filters of its file."""
    words = [word for pattern in config["rsync_exclude"] for word in ("--exclude", pattern)]
    words += [word for name in config["rsync_filter"] for word in ("--filter", f"dir-merge,- {name}")]
    subprocess.run(["rsync", "-a", *words, f"{ROOT}/", f"{target}/"], check=True, capture_output=True)
    return {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}


@pytest.mark.skipif(shutil.which("rsync") is None, reason="Ray copies files with rsync")
@pytest.mark.parametrize("config", [CLUSTER, LOCAL], ids=["aws", "local"])
def test_the_machines_get_every_file_of_the_packages_and_no_run(config, tmp_path):
    found = files_sent(config, tmp_path / "there")
    for package in ("trbert", "envs", "tune"):
        wanted = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert wanted <= found
    assert not [name for name in found if name.startswith(("runs/", ".venv/", ".git/"))]


# The schema.


@pytest.mark.parametrize("config", [CLUSTER, LOCAL], ids=["aws", "local"])
def test_ray_accepts_the_file(config):
    validate(config)


@pytest.mark.parametrize("section", ["", "docker", "available_node_types.gpu_spot"])
def test_ray_refuses_a_misspelt_key(section):
    config = copy.deepcopy(CLUSTER)
    place = config
    for key in filter(None, section.split(".")):
        place = place[key]
    place["max_wrokers"] = 1
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        validate(config)


def test_ray_refuses_a_misspelt_key_of_ones_own_machines():
    config = copy.deepcopy(LOCAL)
    config["auth"]["ssh_usr"] = "me"
    with pytest.raises(jsonschema.ValidationError, match="ssh_usr"):
        validate(config)


# What `ray up` makes of it on an account of moto's, and what AWS says of the machines that it then asks for.


HOME_OFFICE = "198.51.100.7/32"


def make_group(ec2):
    """Runs the commands at the top of cluster.yaml, with an address for EDIT."""
    text = (ROOT / "cluster.yaml").read_text().replace("\\\n#", "")
    commands = re.findall(r"^# +aws ec2 (\S+) (.*)$", text, re.MULTILINE)
    assert [command for command, _ in commands] == ["create-security-group", *["authorize-security-group-ingress"] * 2]
    given = [dict(re.findall(r"--([\w-]+)[ =](\S+)", options)) for _, options in commands]
    assert {options["region"] for options in given} == {CLUSTER["provider"]["region"]}
    create, inside, ssh = given
    group = ec2.create_security_group(GroupName=create["group-name"], Description=create["description"])["GroupId"]
    assert {inside["group-id"], inside["source-group"], ssh["group-id"], ssh["cidr"]} == {"sg-EDIT", "EDIT/32"}
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": inside["protocol"], "UserIdGroupPairs": [{"GroupId": group}]},
            {
                "IpProtocol": ssh["protocol"],
                "FromPort": int(ssh["port"]),
                "ToPort": int(ssh["port"]),
                "IpRanges": [{"CidrIp": HOME_OFFICE}],
            },
        ],
    )


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """EC2 and IAM as moto plays them, with an image; nothing leaves this machine."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a token of this test")
    given = {"HOME": str(home), "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    before = dict(os.environ)
    os.environ |= given
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        ec2 = boto3.client("ec2", region_name=CLUSTER["provider"]["region"])
        make_group(ec2)
        yield ec2
    os.environ.clear()
    os.environ.update(before)


def bootstrap(account, monkeypatch, changes=lambda config: None):
    """Returns the configuration as `ray up` completes it."""
    image = account.describe_images()["Images"][0]["ImageId"]
    (group,) = account.describe_security_groups(GroupNames=["trbert"])["SecurityGroups"]
    text = (ROOT / "cluster.yaml").read_text().replace("ami-EDIT", image).replace("sg-EDIT", group["GroupId"])
    config = yaml.safe_load(text)
    changes(config)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return commands._bootstrap_config(util.prepare_config(config), no_config_cache=True)


def asked_for(account, config):
    """Asks for one machine of each type, as a dry run, and returns what AWS says of it."""
    told = {}
    for name, each in config["available_node_types"].items():
        node = dict(each["node_config"])
        subnet = node.pop("SubnetIds")[0]
        try:
            account.run_instances(DryRun=True, MinCount=1, MaxCount=1, SubnetId=subnet, **node)
        except botocore.exceptions.ClientError as error:
            told[name] = error.response["Error"]["Code"]
    return told


@pytest.mark.slow
def test_ray_completes_the_file_and_aws_would_start_its_machines(account, monkeypatch, tmp_path):
    config = bootstrap(account, monkeypatch)
    assert asked_for(account, config) == dict.fromkeys(config["available_node_types"], "DryRunOperation")
    # The security group: each other, and SSH from one's own addresses.
    ((group,),) = {tuple(each["node_config"]["SecurityGroupIds"]) for each in config["available_node_types"].values()}
    (described,) = account.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    for rule in described["IpPermissions"]:
        from_outside = [*rule["IpRanges"], *rule["Ipv6Ranges"]]
        assert not from_outside or (rule["FromPort"], rule["ToPort"]) == (22, 22)
        assert all(each == {"CidrIp": HOME_OFFICE} for each in from_outside)
        assert all(each["GroupId"] == group for each in rule["UserIdGroupPairs"])
    assert {each["GroupName"] for each in account.describe_security_groups()["SecurityGroups"]} == {"default", "trbert"}
    # On the head this is the file that the planner reads.
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(planner, "AUTOSCALER_FILE", tmp_path / "config.yaml")
    monkeypatch.setattr(planner.ray, "nodes", lambda: [])
    assert planner.cluster_at_hand().machines == ({"CPU": 8.0, "GPU": 1.0},) * CLUSTER["max_workers"]


def misspell_image(config):
    config["available_node_types"]["gpu_spot"]["node_config"]["ImagId"] = "ami-1"


def misspell_market(config):
    config["available_node_types"]["gpu_spot"]["node_config"]["InstanceMarketOptions"] = {"MarketTyp": "spot"}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [misspell_image, misspell_market])
def test_a_mistake_that_only_aws_knows_of_is_found_by_a_dry_run(account, monkeypatch, mistake):
    config = bootstrap(account, monkeypatch, mistake)
    with pytest.raises(botocore.exceptions.ParamValidationError, match=r"ImagId|MarketTyp"):
        asked_for(account, config)


@pytest.mark.slow
def test_a_zone_of_another_region_is_found_by_rays_own_preparation(account, monkeypatch):
    def move(config):
        config["provider"]["availability_zone"] = "eu-west-1a"

    with pytest.raises(BaseException, match=r"eu-west-1a|No usable subnets"):
        bootstrap(account, monkeypatch, move)


@pytest.mark.slow
def test_a_file_whose_security_group_was_not_edited_is_refused_before_a_machine_starts(account, monkeypatch, capfd):
    def forget(config):
        for node in config["available_node_types"].values():
            node["node_config"]["SecurityGroupIds"] = ["sg-EDIT"]

    with pytest.raises(AssertionError):  # Ray has printed why
        bootstrap(account, monkeypatch, forget)
    assert "Failed to detect a security group" in capfd.readouterr().err


@pytest.mark.slow
def test_machines_give_credentials_for_a_token_alone_and_their_disks_are_encrypted(account, monkeypatch):
    config = bootstrap(account, monkeypatch)
    for node in config["available_node_types"].values():
        started = account.run_instances(
            MinCount=1, MaxCount=1, **{k: v for k, v in node["node_config"].items() if k != "SubnetIds"}
        )["Instances"][0]
        try:
            assert started["MetadataOptions"]["HttpTokens"] == "required"
            attached = [{"Name": "attachment.instance-id", "Values": [started["InstanceId"]]}]
            volumes = account.describe_volumes(Filters=attached)["Volumes"]
            assert volumes
            assert all(volume["Encrypted"] for volume in volumes)
        finally:
            account.terminate_instances(InstanceIds=[started["InstanceId"]])


# Our rules.


def test_every_machine_asks_for_tokens_for_its_metadata_encrypts_its_disks_and_has_a_group_of_the_users():
    for node in [HEAD, *WORKERS]:
        config = node["node_config"]
        assert config["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert all(disk["Ebs"]["Encrypted"] is True for disk in config["BlockDeviceMappings"])
        assert config["SecurityGroupIds"] == ["sg-EDIT"]


@pytest.mark.parametrize("config", [CLUSTER, LOCAL], ids=["aws", "local"])
def test_the_token_is_made_private_on_a_node_before_anything_else_is_done_there(config):
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"


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
    installing = [command for command in CLUSTER["setup_commands"] if "install" in command]
    assert all("-c constraints.txt" in command for command in installing)


@pytest.mark.parametrize("config", [CLUSTER, LOCAL], ids=["aws", "local"])
def test_the_dashboard_listens_on_the_head_alone(config):
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in yaml.safe_dump(config)


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml"])
def test_every_node_starts_with_the_token_and_the_file_holds_none(name):
    text = (ROOT / name).read_text()
    config = yaml.safe_load(text)
    for role in ("head", "worker"):
        (start,) = [command for command in config[f"{role}_start_ray_commands"] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not re.search(r"AKIA|BEGIN .*KEY|RAY_AUTH_TOKEN=", text)


def test_both_files_start_the_head_with_the_same_health_checks():
    def checks(config):
        return set(re.findall(r"RAY_health\w+=\d+", " ".join(config["head_start_ray_commands"])))

    assert len(checks(CLUSTER)) == 3
    assert checks(CLUSTER) == checks(LOCAL)
