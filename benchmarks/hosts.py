"""A cluster of real hosts on one machine: their own network, processes, /tmp and /root, brought up by `ray up`.

Needs root, `apt-get install iproute2 openssh-server openssh-client rsync`, and the project's virtual environment with
the extra `cluster`, outside /tmp and /root, which every host has for itself.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT.parent / "shared" / "tools" / "hosts" / "hosts.sh"
VENV = Path(sys.prefix)
HEAD = 0
_NODES = """
import json, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
print(json.dumps([node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]))
"""


def missing() -> str | None:
    """Returns what this machine lacks for such hosts, or None."""
    if not SCRIPT.is_file():
        return f"{SCRIPT} is not there"
    if os.geteuid() != 0:
        return "making hosts needs root"
    lacking = [
        tool
        for tool in ("ip", "sshd", "ssh", "rsync")
        if not any((Path(folder) / tool).exists() for folder in (*os.get_exec_path(), "/usr/sbin"))
    ]
    if lacking:
        return f"there is no {lacking[0]}: apt-get install iproute2 openssh-server openssh-client rsync"
    if VENV.is_relative_to("/tmp") or VENV.is_relative_to("/root"):
        return f"the virtual environment {VENV} lies where every host has a folder of its own: make one elsewhere"
    if not (VENV / "bin" / "ray").exists():
        return f"{VENV} holds no ray"
    return None


@dataclass(frozen=True, slots=True)
class Hosts:
    """The machines: 0 the head, 1 … the workers.

    Attributes:
        number: how many.
    """

    number: int = 3

    def act(self, *words: str, seconds: float = 60.0) -> str:
        """Runs one of the script's commands: up, down, kill9 1, cut 1, mend 1, power 1, boot 1."""
        given = {**os.environ, "VENV": str(VENV), "N": str(self.number)}
        done = subprocess.run(
            ["bash", str(SCRIPT), *words], env=given, capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode:
            raise RuntimeError(f"hosts.sh {' '.join(words)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def up(self) -> None:
        """Boots all, what an earlier run may have left being powered off first."""
        self.act("down")
        links = ["ip", "-brief", "link"]
        for _ in range(50):  # the kernel takes a moment to forget a host's network
            if "rayh" not in subprocess.run(links, capture_output=True, text=True, check=True).stdout:
                break
            time.sleep(0.2)
        self.act("up")

    def ssh(self, host: int, command: str, seconds: float = 60.0) -> str:
        """Returns what a command prints on a host."""
        return self.act("ssh", str(host), command, seconds=seconds)

    @staticmethod
    def address(host: int) -> str:
        """Returns a host's address."""
        return f"10.77.0.{10 + host}"


class LocalCluster:
    """`cluster.local.yaml` on such hosts, overlaid only in addresses, key and environment.

    Args:
        hosts: that are up.
        folder: for what is ours, seen by all hosts: so neither below /tmp nor below /root.
    """

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.local.yaml").read_text())
        workers = [hosts.address(host) for host in range(1, hosts.number)]
        config["provider"] |= {"head_ip": hosts.address(HEAD), "worker_ips": workers}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "/tmp/test_hosts/id_ed25519"}
        config["min_workers"] = config["max_workers"] = len(workers)
        config["file_mounts"] = {"~/trbert": str(ROOT), "~/.ray/auth_token": str(self.home / ".ray" / "auth_token")}
        config["rsync_exclude"] = [*config["rsync_exclude"], ".venv", "runs"]
        # In place of an installation: hosts have no network but each other.
        config["setup_commands"] = [f"ln -sfn {VENV} ~/trbert/.venv"]
        self.file = folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(config))

    def ray(self, *words: str, seconds: float = 300.0) -> str:
        """Runs one of Ray's commands on this machine."""
        given = {
            **os.environ,
            "HOME": str(self.home),
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            [str(VENV / "bin" / "ray"), *words],
            env=given,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"ray {' '.join(words)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def up(self, seconds: float = 180.0) -> None:
        """Brings the cluster up, and waits for all of its workers."""
        self.ray("get-auth-token", "--generate")
        self.ray("up", "-y", "--no-config-cache", str(self.file))
        self.wait(lambda: self.alive() == self.hosts.number, seconds, "all hosts to join")

    def down(self) -> None:
        """Ends the cluster's processes."""
        self.ray("down", "-y", str(self.file))

    def alive(self) -> int:
        """Returns how many nodes Ray sees alive."""
        return len(self.nodes())

    def nodes(self) -> list[str]:
        """Returns the addresses of the nodes that Ray sees alive."""
        told = self.on_head(f".venv/bin/python -c {shlex.quote(_NODES)}")
        return list(json.loads(told.strip().splitlines()[-1]))

    def on_head(self, command: str, seconds: float = 120.0) -> str:
        """Returns what a command prints in the checkout on the head."""
        return self.hosts.ssh(HEAD, f"cd ~/trbert && RAY_AUTH_MODE=token {command}", seconds)

    def start(self, command: str, log: Path) -> None:
        """Starts a command in the checkout on the head, its output in a log that all hosts see."""
        inner = f"cd ~/trbert && RAY_AUTH_MODE=token exec {command} >> {log} 2>&1 < /dev/null"
        self.hosts.ssh(HEAD, f"setsid nohup sh -c {shlex.quote(inner)} > /dev/null 2>&1 & echo started")

    @staticmethod
    def wait(done: Callable[[], bool], seconds: float, what: str) -> float:
        """Waits until something holds, and returns the seconds that it took."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            try:
                if done():
                    return time.monotonic() - started
            except (RuntimeError, OSError, subprocess.TimeoutExpired):
                pass  # a host that is down answers nothing, and a log may not be there yet
            time.sleep(1.0)
        raise TimeoutError(f"waited {seconds:.0f} s for {what}")
