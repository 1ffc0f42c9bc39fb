"""A search on this machine alone listens on loopback alone, in all processes of Ray, and leaves no token behind."""

import subprocess
import sys
from pathlib import Path

import pytest

LISTEN = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 address, and ::1, as /proc writes them on a little-endian machine."""

SCRIPT = f"""
import os, sys, time
from pathlib import Path
import ray
from tune.processes import session


def processes():
    parents = {{}}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = file.read_text().split(" (", 1)
        except OSError:
            continue
        parents[int(number)] = int(rest.rsplit(")", 1)[1].split()[1])
    mine = {{os.getpid()}}
    while more := {{child for child, parent in parents.items() if parent in mine}} - mine:
        mine |= more
    return mine


def sockets(process):
    for file in Path(f"/proc/{{process}}/fd").glob("*"):
        try:
            yield os.readlink(file)
        except OSError:
            continue


def told():
    return os.getpid()


session.start_ray("local", 2, verbose=False)
assert ray.get(ray.remote(told).remote()) != os.getpid()
until = time.monotonic() + 60
while True:
    lines, owner = [], {{socket: process for process in processes() for socket in sockets(process)}}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "{LISTEN}" and f"socket:[{{words[9]}}]" in owner:
                process = owner[f"socket:[{{words[9]}}]"]
                command = Path(f"/proc/{{process}}/cmdline").read_text().replace("\\0", " ").split()
                lines.append(" ".join([words[1].split(":")[0], *command[:3]]))
    if "RuntimeEnvAgent" in "".join(lines) or time.monotonic() > until:  # on a busy machine it begins late
        break
    time.sleep(0.5)
print("\\n".join(lines))
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the sockets from /proc")
def test_every_process_of_a_local_search_listens_on_loopback_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # The store of the cluster, the node's own server, its agent, and at least one worker. The agent of the dashboard
    # listens too where the extra `cluster` is installed.
    for part in ("gcs_server", "raylet/raylet", "ray::RuntimeEnvAgent", "ray::IDLE"):
        assert any(part in line for line in lines), (part, lines)
    assert [line for line in lines if line.split()[0] not in LOOPBACK] == []
    assert not (tmp_path / ".ray" / "auth_token").exists()
