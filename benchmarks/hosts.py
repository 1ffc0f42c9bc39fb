"""Makes a cluster of hosts on one machine, which `ray up` treats as real ones.

Each host has its own network, processes, /tmp and /root. `make check-cluster` installs what this needs: packages of the
system, and the extra `cluster-test` in the project's virtual environment. The environment must lie outside /tmp and
/root, because each host has its own.
"""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import yaml

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "scripts" / "hosts"
SCRIPT, EC2_SCRIPT = TOOLS / "hosts.sh", TOOLS / "fake_ec2.py"
VENV = Path(sys.prefix)
HEAD = 0
EC2_NETWORK = {
    "NET": "172.31.0",
    "GW": "172.31.0.1",
    "PFX": "16",
    "BR": "br-ec2",
    "P": "ec2h",
    "S": "/tmp/fake_ec2",
}
AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-west-2",
    "AWS_ENDPOINT_URL": "http://172.31.0.1:5555",
}
EC2_SLOTS = 16
_NODES = """
import json, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
print(json.dumps([node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]))
"""


def missing() -> str | None:
    """Returns what this machine lacks to make hosts, or None."""
    if os.geteuid() != 0:
        return "making hosts needs root"
    lacking = [
        tool
        for tool in ("ip", "sshd", "ssh", "rsync")
        if not any((Path(folder) / tool).exists() for folder in (*os.get_exec_path(), "/usr/sbin"))
    ]
    if lacking:
        return f"there is no {lacking[0]} (packages iproute2, openssh-server, openssh-client, rsync)"
    if VENV.is_relative_to("/tmp") or VENV.is_relative_to("/root"):
        return f"the virtual environment {VENV} lies where every host has a folder of its own: make one elsewhere"
    if not (VENV / "bin" / "ray").exists():
        return f"{VENV} holds no ray"
    if importlib.util.find_spec("aiohttp_cors") is None:
        return f"{VENV} holds no dashboard of Ray (extra cluster)"
    return None


def missing_of_ec2() -> str | None:
    """Returns what this machine lacks for the stand-in for EC2, or None."""
    server = importlib.util.find_spec("flask") and importlib.util.find_spec("flask_cors")
    return missing() or (None if server else "moto's server is not installed (extra cluster-test)")


@dataclass(frozen=True, slots=True)
class Hosts:
    """The machines of a cluster. Host 0 is the head, and the others are workers.

    Attributes:
        number: how many hosts there are.
        network: variables that tell the script about their network; empty for the script's defaults.
    """

    number: int = 3
    network: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder in which the script keeps their keys and folders."""
        return Path(self.network.get("S", "/tmp/test_hosts"))

    def act(self, *words: str, seconds: float = 60.0) -> str:
        """Runs one of the script's commands: up, down, kill9 1, cut 1, mend 1, power 1, boot 1."""
        given = {**os.environ, **self.network, "VENV": str(VENV), "N": str(self.number)}
        done = subprocess.run(
            ["bash", str(SCRIPT), *words], env=given, capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode:
            raise RuntimeError(f"hosts.sh {' '.join(words)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def up(self, fresh: bool = True) -> None:
        """Boots all hosts.

        Args:
            fresh: first power off what an earlier run may have left, and delete its folders.
        """
        if fresh:
            self.act("down")
        self.forget_networks()
        self.act("up")

    def forget_networks(self) -> None:
        """Deletes the networks of hosts that are off, which the kernel keeps as long as a connection lingers."""
        prefix = self.network.get("P", "rayh")
        for host in range(EC2_SLOTS):
            for words in (["netns", "del", f"{prefix}{host}"], ["link", "del", f"{prefix}{host}-v"]):
                subprocess.run(["ip", *words], capture_output=True, check=False)  # most of them do not exist

    def power_off(self) -> None:
        """Powers off all hosts. Their folders stay."""
        for host in range(self.number):
            self.act("power", str(host))

    def ssh(self, host: int, command: str, seconds: float = 60.0) -> str:
        """Runs a command on a host, and returns what it prints."""
        return self.act("ssh", str(host), command, seconds=seconds)

    @staticmethod
    def address(host: int) -> str:
        """Returns a host's address on the script's own network."""
        return f"10.77.0.{10 + host}"


class Cluster:
    """A cluster that `ray up` makes of such hosts.

    Args:
        hosts: its machines.
        folder: for our own files. All hosts must see it, so it is neither below /tmp nor below /root.
        config: the configuration for `ray up`.
        given: environment variables for Ray's commands on this machine.
    """

    def __init__(self, hosts: Hosts, folder: Path, config: dict[str, Any], given: dict[str, str]) -> None:
        self.hosts, self.folder = hosts, folder
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        # Only what users edit is changed, and what would need the internet, which hosts do not reach.
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.folder / "id_ed25519")}
        config["file_mounts"] = {"~/trbert": str(ROOT), "~/.ray/auth_token": str(self.home / ".ray" / "auth_token")}
        config["rsync_exclude"] = [*config["rsync_exclude"], "/.venv", "/runs"]  # not tune/runs
        offline = [command for command in config["setup_commands"] if "install" not in command]
        config["setup_commands"] = [f"ln -sfn {VENV} ~/trbert/.venv", *offline]
        self.file = folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(config))
        self._given = {
            **os.environ,
            "HOME": str(self.home),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            **given,
        }

    def ray(self, *words: str, seconds: float = 300.0) -> str:
        """Runs one of Ray's commands on this machine."""
        done = subprocess.run(
            [str(VENV / "bin" / "ray"), *words],
            env=self._given,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"ray {' '.join(words)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def up(self) -> None:
        """Starts the cluster. Workers may join later."""
        self.ray("get-auth-token", "--generate")
        self.ray("up", "-y", "--no-config-cache", str(self.file))

    def down(self) -> None:
        """Stops the processes of the cluster."""
        self.ray("down", "-y", str(self.file))

    def nodes(self) -> list[str]:
        """Returns the addresses of the nodes that Ray lists as alive."""
        told = self.on_head(f".venv/bin/python -c {shlex.quote(_NODES)}")
        return list(json.loads(told.strip().splitlines()[-1]))

    def on_head(self, command: str, seconds: float = 120.0) -> str:
        """Runs a command in the checkout on the head, and returns what it prints."""
        return self.hosts.ssh(HEAD, f"cd ~/trbert && RAY_AUTH_MODE=token {command}", seconds)

    def start(self, command: str, log: Path) -> None:
        """Starts a command in the checkout on the head. Its output goes to a log that all hosts see."""
        inner = f"cd ~/trbert && RAY_AUTH_MODE=token exec {command} >> {log} 2>&1 < /dev/null"
        self.hosts.ssh(HEAD, f"setsid nohup sh -c {shlex.quote(inner)} > /dev/null 2>&1 & echo started")

    def search(self, asked: str) -> Path:
        """Starts a search that writes into our folder only, and returns its log."""
        log = self.folder / "search.log"
        where = f"--runs {self.folder}/runs --name run --storage {self.folder}/storage"
        self.start(f".venv/bin/python tune/search.py --address auto {asked} {where}", log)
        return log

    def resume(self, log: Path) -> None:
        """Resumes that search."""
        self.start(f".venv/bin/python tune/search.py --resume {self.folder}/runs/run", log)

    @staticmethod
    def wait(done: Callable[[], bool], seconds: float, what: str) -> float:
        """Waits until something holds, and returns the seconds that it took."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            try:
                if done():
                    return time.monotonic() - started
            except (RuntimeError, OSError, subprocess.TimeoutExpired):
                pass  # a host may be down, and a log may not exist yet
            time.sleep(1.0)
        raise TimeoutError(f"waited {seconds:.0f} s for {what}")


class LocalCluster(Cluster):
    """A cluster of `cluster.local.yaml`, on hosts that are up.

    Args:
        hosts: its machines.
        folder: for our own files.
    """

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.local.yaml").read_text())
        workers = [hosts.address(host) for host in range(1, hosts.number)]
        config["provider"] |= {"head_ip": hosts.address(HEAD), "worker_ips": workers}
        config["min_workers"] = config["max_workers"] = len(workers)
        super().__init__(hosts, folder, config, {"RAY_UP_enable_autoscaler_v2": "0"})

    def up(self, seconds: float = 180.0) -> None:
        """Starts the cluster, and waits until all hosts have joined."""
        super().up()
        self.wait(lambda: len(self.nodes()) == self.hosts.number, seconds, "all hosts to join")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance of EC2, as the stand-in lists it."""

    id: str
    state: str
    address: str
    type: str
    life: str
    role: str


class Ec2Cluster(Cluster):
    """A cluster of `cluster.yaml`, on a stand-in for EC2 that boots a host for each instance.

    Args:
        folder: for our own files.
    """

    def __init__(self, folder: Path) -> None:
        hosts = Hosts(EC2_SLOTS, EC2_NETWORK)
        shutil.rmtree(hosts.folder, ignore_errors=True)
        hosts.forget_networks()
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "ec2.log").open("w")
        self._ec2 = subprocess.Popen(
            [sys.executable, str(EC2_SCRIPT), "serve"],
            env={**os.environ, "VENV": str(VENV)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        for slot in range(EC2_SLOTS):  # on EC2, boto3 has this from the role of the instance
            home = hosts.folder / f"h{slot}" / "root"
            home.mkdir(parents=True)
            given = " ".join(f"{name}={value}" for name, value in AWS.items())
            (home / ".bashrc").write_text(
                f"export PATH={VENV / 'bin'}:$PATH RAY_USAGE_STATS_ENABLED=0 LANG=C.UTF-8 {given}\n"
            )
        client = boto3.client("ec2", **_boto(AWS))
        try:
            self.wait(lambda: _answers(client), 60, "the stand-in for EC2")
        except TimeoutError:
            self.off()
            raise
        image = client.describe_images()["Images"][0]["ImageId"]
        (network,) = client.describe_vpcs()["Vpcs"]
        group = client.create_security_group(GroupName="trbert", Description="trbert", VpcId=network["VpcId"])[
            "GroupId"
        ]
        client.create_key_pair(KeyName="trbert")
        config = yaml.safe_load(
            (ROOT / "cluster.yaml").read_text().replace("ami-EDIT", image).replace("sg-EDIT", group)
        )
        config["provider"]["use_internal_ips"] = True
        for node in config["available_node_types"].values():
            node["node_config"]["KeyName"] = "trbert"
        del config["docker"], config["head_setup_commands"], config["initialization_commands"]
        super().__init__(hosts, folder, config, AWS)

    def instances(self, role: str = "") -> list[Instance]:
        """Returns the instances that run or start; `role` picks those of one role."""
        lines = [line.split() for line in self._act("ls").splitlines()]
        names = ("id", "state", "address", "type", "life", "role")
        found = [Instance(**dict(zip(names, words, strict=True))) for words in lines]
        return [each for each in found if each.state in ("pending", "running") and role in each.role]

    def reclaim(self, number: int = 0) -> None:
        """Takes away a worker, as EC2 does with spot instances."""
        self._act("reclaim", str(number))

    def off(self) -> None:
        """Stops the stand-in and all of its hosts."""
        self._ec2.terminate()
        self._ec2.wait(60)
        self._log.close()

    def _act(self, *words: str) -> str:
        given = {**os.environ, "VENV": str(VENV)}
        command = [sys.executable, str(EC2_SCRIPT), *words]
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=True).stdout


def _answers(client: Any) -> bool:
    # Without the network of the stand-in, a request would go to another machine that has its address.
    told = subprocess.run(["ip", "-brief", "addr"], capture_output=True, text=True, check=True).stdout
    if EC2_NETWORK["GW"] not in told:
        return False
    try:
        return bool(client.describe_images()["Images"])
    except botocore.exceptions.BotoCoreError:
        return False


def _boto(aws: dict[str, str]) -> dict[str, str]:
    names = {
        "aws_access_key_id": "AWS_ACCESS_KEY_ID",
        "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "region_name": "AWS_DEFAULT_REGION",
        "endpoint_url": "AWS_ENDPOINT_URL",
    }
    return {name: aws[variable] for name, variable in names.items()}
